//! SQL Server's CDC functions over a tracked table: every change of a closed interval of LSNs, or the net change of each row.
//!
//! An LSN is a tracking version (see [`super::lsn`]); `__$operation` is 1 delete, 2 insert, 3 and 4 an update's row before and after
//! it, 5 insert or update.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, ident, lit, when,
};

use super::images::{Images, existed, exists, last_version};
use super::lsn::{encode, lsn_of};
use super::mask_functions::update_mask;
use super::relations::version_of;
use crate::change::{Bound, BoundKind, ChangeBounds, ChangeRange, Hex};
use crate::error::{Error, Result};
use crate::source::{ChangeSource, DeltaTracking, Tracked, TrackedTable, VersionBounds};
use crate::sql::functions::as_bound;

pub(super) const START_LSN: &str = "__$start_lsn";
const SEQUENCE: &str = "__$seqval";
const OPERATION: &str = "__$operation";
const UPDATE_MASK: &str = "__$update_mask";

/// Which rows a call asks for, by the third argument's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowFilter {
    /// `fn_cdc_get_all_changes(…, 'all')`.
    All,
    /// `fn_cdc_get_all_changes(…, 'all update old')`.
    AllUpdateOld,
    /// `fn_cdc_get_net_changes(…, 'all')`.
    Net,
    /// `fn_cdc_get_net_changes(…, 'all with mask')`.
    NetWithMask,
    /// `fn_cdc_get_net_changes(…, 'all with merge')`.
    NetWithMerge,
}

impl RowFilter {
    /// The filter of a call.
    ///
    /// # Errors
    /// For a text that is none, naming those there are.
    pub(super) fn parse(net: bool, text: &str) -> Result<Self> {
        let known: &[(&str, Self)] = match net {
            false => &[("all", Self::All), ("all update old", Self::AllUpdateOld)],
            true => &[
                ("all", Self::Net),
                ("all with mask", Self::NetWithMask),
                ("all with merge", Self::NetWithMerge),
            ],
        };
        let found = known
            .iter()
            .find(|(name, _)| text.eq_ignore_ascii_case(name));
        found.map(|(_, filter)| *filter).ok_or_else(|| {
            let names: Vec<String> = known.iter().map(|(name, _)| format!("'{name}'")).collect();
            let function = function_name(net);
            Error::invalid(format!(
                "{function}: the row filter is {}, not '{text}'",
                names.join(" or ")
            ))
        })
    }

    fn is_net(self) -> bool {
        matches!(self, Self::Net | Self::NetWithMask | Self::NetWithMerge)
    }
}

fn function_name(net: bool) -> &'static str {
    match net {
        true => "fn_cdc_get_net_changes",
        false => "fn_cdc_get_all_changes",
    }
}

/// A call of one of the two functions.
#[derive(Debug, Clone)]
pub(super) struct Capture {
    /// The first version, inclusive; absent where it comes as a filter.
    pub from: Option<i64>,
    /// The last version, inclusive; absent where it comes as a filter.
    pub to: Option<i64>,
    pub filter: RowFilter,
}

/// The versions of a call whose bounds are known.
#[derive(Debug, Clone, Copy)]
struct Interval {
    from: i64,
    to: i64,
}

/// The first version whose changes can be read; nothing has changed in version 0.
pub(super) fn first_version(bounds: VersionBounds) -> i64 {
    match bounds.min_valid {
        0 => 0,
        version => version + 1,
    }
}

impl Capture {
    /// Refuses an interval that cannot be read whole.
    ///
    /// # Errors
    /// [`Error::ChangesExpired`] when it begins too early, [`Error::InvalidRange`] otherwise; SQL Server says "an insufficient number
    /// of arguments were supplied" in each of these cases.
    pub(super) async fn check(&self, tracking: &DeltaTracking) -> Result<()> {
        match (self.from, self.to) {
            (Some(from), Some(to)) => self.check_interval(Interval { from, to }, tracking).await,
            _ => Ok(()),
        }
    }

    /// The function that is called.
    pub(super) fn function(&self) -> &'static str {
        function_name(self.filter.is_net())
    }

    async fn check_interval(&self, interval: Interval, tracking: &DeltaTracking) -> Result<()> {
        let (table, bounds) = (tracking.name(), tracking.bounds().await?);
        let shown = |version: i64| Hex(&encode(version)).to_string();
        let (from, to) = (shown(interval.from), shown(interval.to));
        let function = self.function();
        let (first, last) = (first_version(bounds), bounds.current);
        let valid = format!("{} to {}", shown(first), shown(last));
        if interval.to > last {
            return Err(Error::InvalidRange(format!(
                "{function}: to_lsn {to} is after the newest LSN {} of {table}; the valid interval is {valid}, and fn_cdc_get_max_lsn('{table}') gives \
                 its end",
                shown(last)
            )));
        }
        if interval.from > interval.to {
            let hint = match interval.from == interval.to + 1 && interval.to == last {
                true => format!(
                    "nothing has changed since {to}: ask only when fn_cdc_get_max_lsn('{table}') is at least from_lsn"
                ),
                false => {
                    format!("the interval is closed, from <= to; the valid interval is {valid}")
                }
            };
            return Err(Error::InvalidRange(format!(
                "{function}: from_lsn {from} is after to_lsn {to}; {hint}"
            )));
        }
        if interval.from < first {
            return Err(Error::ChangesExpired {
                table: table.into(),
                requested: (interval.from - 1).to_string(),
                oldest: bounds.min_valid.to_string(),
                current: last,
                reason: format!(
                    "from_lsn {from} is before the oldest LSN that is kept; the valid interval is {valid}, and fn_cdc_get_min_lsn('{table}') gives \
                     its beginning"
                ),
            });
        }
        Ok(())
    }

    /// The interval as a range.
    pub(super) async fn range(
        &self,
        tracking: &DeltaTracking,
        filters: &[Expr],
    ) -> Result<ChangeRange> {
        let (mut from, mut to) = (self.from, self.to);
        for (kind, _, value) in filters.iter().filter_map(as_bound) {
            let (argument, bound) = match kind {
                BoundKind::Until => ("to_lsn", &mut to),
                _ => ("from_lsn", &mut from),
            };
            let Expr::Literal(value, _) = value else {
                return Err(Error::invalid(format!(
                    "{}: {argument} must be a constant or a parameter with a value, not {value}",
                    self.function()
                )));
            };
            *bound = Some(version_of(self.function(), argument, &value)?);
        }
        let (Some(from), Some(to)) = (from, to) else {
            return Err(Error::internal("a bound of CDC's has not reached the scan"));
        };
        self.check_interval(Interval { from, to }, tracking).await?;
        let bounds = ChangeBounds {
            since: match from {
                0 => Bound::Beginning,
                from => Bound::Version(from - 1),
            },
            until: Some(Bound::Version(to)),
        };
        Tracked(tracking.clone()).resolve(&bounds).await
    }

    /// CDC's columns, then the table's.
    pub(super) fn schema(&self, own: &Schema) -> SchemaRef {
        let binary = |name: &str| Field::new(name, DataType::Binary, true);
        let mut fields: Vec<Field> = vec![binary(START_LSN)];
        if !self.filter.is_net() {
            fields.push(binary(SEQUENCE));
        }
        fields.push(Field::new(OPERATION, DataType::Int32, true));
        fields.push(binary(UPDATE_MASK));
        let own = own.fields().iter();
        let own = own.map(|field| field.as_ref().clone().with_nullable(true));
        Arc::new(Schema::new(
            fields.into_iter().chain(own).collect::<Vec<_>>(),
        ))
    }

    /// The rows, over the changes of a Delta feed.
    pub(super) fn plan(
        &self,
        changes: LogicalPlan,
        images: Images<'_>,
        own: &SchemaRef,
    ) -> Result<LogicalPlan> {
        let is_net = self.filter.is_net();
        let fields = own.fields().iter();
        let values = fields.filter(|field| !images.keys.contains(field.name()));
        let images = Images {
            by_version: !is_net,
            values: values.cloned().collect(),
            contexts: false,
            ..images
        };
        // compared once: the filter and the mask both ask
        let names = (0..images.values.len()).map(|index| format!("__alluvial_differs_{index}"));
        let names: Vec<String> = names.collect();
        let differs: Vec<Expr> = names.iter().map(ident).collect();
        let is_update = || existed().and(exists());
        let any = differs.iter().cloned().reduce(Expr::or);
        let any = any.unwrap_or_else(|| lit(false));
        let has_changed = is_update().and(any).or(existed().not_eq(exists()));
        let rows = images
            .with_differences(changes, &names)?
            .filter(has_changed)?;
        let mask = match self.filter {
            RowFilter::Net | RowFilter::NetWithMerge => lit(ScalarValue::Binary(None)),
            _ => mask(&images, own, differs, is_update()),
        };
        let head = |operation: Expr| {
            let mut head = vec![lsn_of(last_version()).alias(START_LSN)];
            if !is_net {
                head.push(ident(SEQUENCE));
            }
            head.extend([operation.alias(OPERATION), mask.clone().alias(UPDATE_MASK)]);
            head
        };
        let rows = match is_net {
            true => rows,
            false => self.numbered(rows, &images)?,
        };
        let merges = self.filter == RowFilter::NetWithMerge;
        let (insert, update) = if merges { (5, 5) } else { (2, 4) };
        let operation = when(exists().is_not_true(), lit(1_i32))
            .when(is_update(), lit(update))
            .otherwise(lit(insert))?;
        let last = images.image(own, false);
        let first = images.image(own, true);
        // of a row that has gone there is only the first image
        let gone = exists().is_not_true();
        let now = last.into_iter().zip(&first).zip(own.fields()).map(
            |((last, first), field)| -> Result<Expr> {
                let (last, first) = (last.unalias(), first.clone().unalias());
                Ok(when(gone.clone(), first)
                    .otherwise(last)?
                    .alias(field.name()))
            },
        );
        let now = now.collect::<Result<Vec<_>>>()?;
        let columns: Vec<Expr> = head(operation).into_iter().chain(now).collect();
        let after = rows.clone().project(columns)?;
        if self.filter != RowFilter::AllUpdateOld {
            return Ok(after.build()?);
        }
        let columns: Vec<Expr> = head(lit(3_i32)).into_iter().chain(first).collect();
        let before = rows.filter(is_update())?.project(columns)?;
        Ok(after.union(before.build()?)?.build()?)
    }

    /// Numbers the changes of a version in the order of their keys.
    fn numbered(
        &self,
        rows: LogicalPlanBuilder,
        images: &Images<'_>,
    ) -> Result<LogicalPlanBuilder> {
        let all: Vec<Expr> = rows
            .schema()
            .fields()
            .iter()
            .map(|field| ident(field.name()))
            .collect();
        let by_key = images.keys.iter().map(|key| ident(key).sort(true, true));
        let number = row_number()
            .partition_by(vec![last_version()])
            .order_by(by_key.collect())
            .build()?
            .alias("__number");
        let numbered = rows.window(vec![number])?;
        let sequence = lsn_of(datafusion::logical_expr::cast(
            ident("__number"),
            DataType::Int64,
        ));
        let columns = all.into_iter().chain([sequence.alias(SEQUENCE)]);
        Ok(numbered.project(columns.collect::<Vec<_>>())?)
    }
}

/// Which columns an update has changed; an insert and a delete change all of them.
fn mask(images: &Images<'_>, own: &SchemaRef, differs: Vec<Expr>, is_update: Expr) -> Expr {
    let position = |field: &FieldRef| {
        let mut values = images.values.iter();
        values.position(|value| value.name() == field.name())
    };
    let changed = own.fields().iter().map(|field| {
        let differs = match position(field) {
            Some(index) => differs[index].clone(),
            None => lit(false),
        };
        is_update.clone().is_not_true().or(differs)
    });
    let ids = (1..=own.fields().len() as u32).collect();
    Expr::ScalarFunction(ScalarFunction::new_udf(
        Arc::new(update_mask(ids, own.fields().len())),
        changed.collect(),
    ))
}

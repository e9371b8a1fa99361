//! Net changes by one aggregate function, where version, ordinal and type of a change tell its place among those of its key.
//!
//! ```text
//! Projection         the columns of the source, in their order
//!   Unnest           a row of the list, column by column
//!     Unnest         none, one or two rows of a key
//!       Aggregate    by key: the list of net rows
//! ```
//!
//! A key is not unique in the result, which the optimizer would go on to believe behind the unnest: see [`one_group`].
//!
//! Filters on keys are pushed below the aggregate, others are not.

use arrow::datatypes::Schema;
use datafusion::common::{Column, NullHandling, UnnestOptions};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};

use super::function::{NetColumns, net_rows as net_rows_of};
use super::group::one_group;
use super::{is_metadata, plain, values};
use crate::change::{CHANGE_ORDINAL, CHANGE_TYPE, COMMIT_TIMESTAMP, COMMIT_VERSION};
use crate::error::Result;

const ROWS: &str = "__alluvial_net";
const GROUP: &str = "__alluvial_group";

/// The net rows of each key.
pub(super) fn net_rows(
    changes: LogicalPlan,
    schema: &Schema,
    keys: &[String],
) -> Result<LogicalPlanBuilder> {
    let mut groups: Vec<Expr> = keys.iter().map(ident).collect();
    groups.push(one_group(ident(COMMIT_VERSION)).alias(GROUP));
    let rows = rows_of_key(schema, keys).alias(ROWS);
    let by_key = plain(changes)?.aggregate(groups, vec![rows])?;
    let options = UnnestOptions::new().with_null_handling(NullHandling::Drop);
    let unnested = by_key
        .unnest_column_with_options(Column::from_name(ROWS), options.clone())?
        .unnest_column_with_options(Column::from_name(ROWS), options)?;
    let columns = schema.fields().iter().map(|field| {
        let name = field.name();
        let column = match keys.contains(name) {
            true => ident(name),
            false => ident(format!("{ROWS}.{name}")),
        };
        column.alias(name)
    });
    Ok(unnested.project(columns.collect::<Vec<_>>())?)
}

fn rows_of_key(schema: &Schema, keys: &[String]) -> Expr {
    let values = values(schema, keys).into_iter().map(str::to_owned);
    let (metadata, own): (Vec<String>, Vec<String>) = values.partition(|name| is_metadata(name));
    // a source that numbers its changes within a version knows their order better than their types tell
    let numbered = schema.field_with_name(CHANGE_ORDINAL).is_ok();
    let ordinal = match numbered {
        true => ident(CHANGE_ORDINAL),
        false => lit(0_i64),
    };
    let mut arguments = vec![
        ident(CHANGE_TYPE),
        ident(COMMIT_VERSION),
        ordinal,
        ident(COMMIT_TIMESTAMP),
    ];
    arguments.extend(own.iter().chain(&metadata).map(ident));
    let columns = NetColumns {
        own,
        metadata,
        // such a source has no preimages, and says of a row that has gone what its delete says
        deleted_as_last: numbered,
    };
    net_rows_of(columns, arguments)
}

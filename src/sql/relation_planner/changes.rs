//! `table_changes(…)` and its kin: arguments ─> a [`Request`] and its source ─> what is [`Known`] of it ─> plan.

mod request;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::TableReference;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ident, lit};
use datafusion::sql::sqlparser::ast;
use url::Url;

use self::request::Request;
use super::ChangesRelationPlanner;
use super::tables::{delta_table, table_name};
use crate::change::{
    CHANGE_TYPE, ChangeBounds, ChangeType, NetNature, net_changes, with_metadata, without_metadata,
};
use crate::delta::DeltaTable;
use crate::error::{Error, Result};
use crate::source::{ChangeSource, DeltaFeed, Derivation};
use crate::sql::arguments::{Arguments, Spelling, as_typed};
use crate::sql::blocking::block_on;
use crate::sql::changes_table::{ChangesTable, open_bounds};
use crate::sql::source_table::SourceTable;

impl ChangesRelationPlanner {
    /// Plans a call.
    pub(super) fn changes(
        &self,
        arguments: &Arguments,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<LogicalPlan> {
        let request = Request::try_new(arguments, context)?;
        let (name, source) = self.source(&arguments.table, &request, context)?;
        let known = Known::of(&source, &request)
            .map_err(|error| as_typed(error, request.kinds.iter().copied()))?;
        request.check_key(&name, &known.schema)?;
        plan(request, &name, source, known)
    }

    /// The source whose changes are wanted, and what messages call it.
    fn source(
        &self,
        table: &ast::Expr,
        request: &Request,
        context: &dyn RelationPlannerContext,
    ) -> Result<(String, Arc<dyn ChangeSource>)> {
        if request.spelling == Spelling::ByPath {
            let location = location(table)?;
            let table = DeltaTable::new(&location, &location, HashMap::new())?;
            return Ok((location, feed(table, request)?));
        }
        let name = table_name(table, context)?;
        let provider = self.provider(&name, context)?;
        let source = match SourceTable::of(provider.as_ref()) {
            Some(table) => {
                request.check_source(&name, &table)?;
                table.source()
            }
            None => feed(delta_table(&name, &provider)?, request)?,
        };
        Ok((name.to_string(), source))
    }
}

/// The changes of a Delta table, with all that is wanted of them.
fn feed(table: DeltaTable, request: &Request) -> Result<Arc<dyn ChangeSource>> {
    let mut feed = DeltaFeed::new(table);
    if request.full {
        feed = feed.with_contexts();
    }
    if request.derive {
        let keys = match &request.key {
            Some(key) => key.clone(),
            None => {
                let asked = feed.clone();
                block_on(move || {
                    let feed = asked.clone();
                    async move { feed.primary_key().await }
                })?
            }
        };
        feed = feed.deriving(Derivation { keys });
    }
    Ok(Arc::new(feed))
}

/// The location given; credentials for it come from the environment.
fn location(argument: &ast::Expr) -> Result<String> {
    let text = match argument {
        ast::Expr::Value(value) => value.clone().value.into_string(),
        _ => None,
    };
    let text = text.ok_or_else(|| {
        Error::invalid(format!(
            "{argument} is no location; give a folder or a URL as text, as in {}",
            Spelling::ByPath.usage()
        ))
    })?;
    if may_hold_secrets(&text) {
        return Err(Error::invalid(
            "table_changes_by_path takes a location without a password or a query; credentials come from the environment, or from the OPTIONS \
             of CREATE EXTERNAL TABLE … STORED AS DELTA",
        ));
    }
    match text.split_once("://") {
        Some((scheme, _)) if !is_known_scheme(scheme) => Err(Error::invalid(format!(
            "{text}: nothing is read from {scheme}:// here; give a folder, or a URL of s3, az, abfss, gs or file"
        ))),
        _ => Ok(text),
    }
}

/// Whether a location says more than a place, or is so misspelled that nobody can tell.
fn may_hold_secrets(location: &str) -> bool {
    let begins_as_url = location.split_once('/').is_some_and(|(head, rest)| {
        head.ends_with(':') || (!head.is_empty() && rest.starts_with('/'))
    });
    match Url::parse(location) {
        Ok(url) if url.scheme() == "file" || location.contains("://") => {
            url.password().is_some() || url.query().is_some() || url.fragment().is_some()
        }
        Ok(_) => location.contains(['@', '?']),
        Err(_) => begins_as_url && location.contains(['@', '?']),
    }
}

fn is_known_scheme(scheme: &str) -> bool {
    const SCHEMES: [&str; 10] = [
        "s3", "s3a", "az", "azure", "adl", "abfs", "abfss", "gs", "file", "memory",
    ];
    SCHEMES
        .iter()
        .any(|known| known.eq_ignore_ascii_case(scheme))
}

/// What is known of a source when its changes are planned.
struct Known {
    schema: SchemaRef,
    /// The declared primary key.
    key: Vec<String>,
    nature: NetNature,
}

impl Known {
    /// Asks the source. The bounds are checked now even if nothing should be read later.
    fn of(source: &Arc<dyn ChangeSource>, request: &Request) -> Result<Self> {
        let bounds = request.late.is_none().then(|| request.bounds.clone());
        let (asked, net) = (Arc::clone(source), request.net);
        block_on(move || Self::ask(Arc::clone(&asked), bounds.clone(), net))
    }

    /// Refuses a key that some changes do not carry: nobody could tell whose changes they are.
    fn check_carried(&self, table: &str, key: &[String]) -> Result<()> {
        let is_missing =
            |name: &&String| self.nature.absent.contains(name) && !self.key.contains(name);
        match key.iter().find(is_missing) {
            Some(name) => Err(Error::invalid(format!(
                "net changes of {table} cannot be told by {name:?}: some of its changes, such as deletes, may not carry that column; leave \
                 key out, which takes the key that {table} was declared with"
            ))),
            None => Ok(()),
        }
    }

    /// `bounds` are absent where they are parameters.
    async fn ask(
        source: Arc<dyn ChangeSource>,
        bounds: Option<ChangeBounds>,
        net: bool,
    ) -> Result<Self> {
        let source = source.at_once().unwrap_or(source);
        let range = match &bounds {
            Some(bounds) => Some(source.resolve(bounds).await?),
            None => None,
        };
        let absent = match range {
            _ if !net => vec![],
            Some(range) => source.absent_columns(range).await?,
            // bounds that are parameters may take in everything
            None => {
                let all = source.resolve(&open_bounds()).await?;
                source.absent_columns(all).await?
            }
        };
        Ok(Self {
            schema: source.schema(range.map(|range| range.until())).await?,
            key: source.primary_key().await?,
            nature: NetNature {
                sequence: source.sequence().map(str::to_owned),
                absent,
            },
        })
    }
}

fn plan(
    request: Request,
    name: &str,
    source: Arc<dyn ChangeSource>,
    known: Known,
) -> Result<LogicalPlan> {
    let spelling = request.spelling;
    let table = ChangesTable::new(source, Arc::clone(&known.schema), request.bounds);
    let table = provider_as_source(Arc::new(table));
    let relation = TableReference::bare(Spelling::TableChanges.name());
    let mut changes = LogicalPlanBuilder::scan(relation, table, None)?;
    for filter in request.late.into_iter().chain(is_one_of(spelling.kinds())) {
        changes = changes.filter(filter)?;
    }
    let mut plan = changes.build()?;
    if request.net {
        if let Some(key) = &request.key {
            known.check_carried(name, key)?;
        }
        let key = request.key.unwrap_or(known.key);
        if key.is_empty() && spelling == Spelling::Default {
            return Err(Error::invalid(format!(
                "{spelling} of {name} needs a PRIMARY KEY: it returns the net change of each row; declare one with ALTER TABLE {name} \
                 ADD PRIMARY KEY (…), or read all changes with table_changes('{name}', since_version)"
            )));
        }
        plan = net_changes(plan, name, &known.schema, &key, &known.nature)?;
    }
    plan = match request.full {
        true => with_metadata(plan)?,
        false => without_metadata(plan)?,
    };
    if spelling == Spelling::TableChanges {
        return Ok(plan);
    }
    let named = LogicalPlanBuilder::from(plan).alias(spelling.name())?;
    Ok(named.build()?)
}

/// Whether a change is of one of these kinds; no condition, if there are none.
fn is_one_of(kinds: &[ChangeType]) -> Option<Expr> {
    let kinds: Vec<Expr> = kinds.iter().map(|kind| lit(kind.as_str())).collect();
    (!kinds.is_empty()).then(|| ident(CHANGE_TYPE).in_list(kinds, false))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::Value;

    use super::*;

    #[test]
    fn locations_hold_no_secrets() {
        let of = |text: &str| {
            let text = Value::SingleQuotedString(text.into());
            location(&ast::Expr::value(text)).map_err(|error| error.to_string())
        };
        for good in [
            "/w/t",
            "w/t",
            "/w/me@home//t?",
            "file:/w/me@home/t",
            "s3://bucket/t",
            "abfss://c@account.dfs.core.windows.net/t",
        ] {
            assert_eq!(of(good).as_deref(), Ok(good));
        }
        for bad in [
            "https://a.blob.core.windows.net/c/t?sig=hush",
            "https://a.blob.core.windows.net:99999/c/t?sig=hush",
            "s3://key:hush@bucket/t",
            "S3://key:hush@bu cket/t",
            "s3//key:hush@bucket/t?sig=hush",
            "s3:/key:hush@bucket/t",
        ] {
            let error = of(bad).unwrap_err();
            assert!(!error.contains("hush"), "{error}");
        }
        assert!(location(&ast::Expr::value(Value::Null)).is_err());
        let error = of("http://host/t").unwrap_err();
        assert!(error.contains("s3, az, abfss, gs or file"), "{error}");
    }
}

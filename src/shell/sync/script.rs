//! The scripts of `alluvial sync`: SYNC statements, and others that set the session up for them.
//!
//! A script is read and checked as a whole before its first statement runs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use datafusion::error::Result as DataFusionResult;
use datafusion::prelude::SessionContext;
use futures::StreamExt;

use crate::shell::{Failure, read_script};
use crate::sql::{SessionContextExt, parse_sync, split_statements};
use crate::sync::Sync;

/// The statements of all scripts, sorted by what they are for.
#[derive(Debug, Default)]
pub(super) struct Script {
    setup: Vec<Placed<String>>,
    syncs: Vec<Placed<Sync>>,
}

/// A statement, and the script and the line it stands on.
#[derive(Debug)]
struct Placed<T> {
    place: String,
    statement: T,
}

impl Script {
    /// Reads all `files`; `ctx` completes the names of their tables.
    pub(super) fn read(files: &[PathBuf], ctx: &SessionContext) -> Result<Self, Failure> {
        let mut script = Self::default();
        for file in files {
            script.read_file(file)?;
        }
        if script.syncs.is_empty() {
            let names: Vec<_> = files
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            return Err(Failure::new(format!(
                "there is no SYNC statement in {}; write at least one, such as SYNC INTO customers_copy FROM customers",
                names.join(", ")
            )));
        }
        script.check_names(ctx)?;
        Ok(script)
    }

    /// The syncs in the order of the scripts.
    pub(super) fn syncs(&self) -> impl Iterator<Item = &Sync> {
        self.syncs.iter().map(|sync| &sync.statement)
    }

    /// Runs the other statements, in order and up to the first error; what they return is discarded.
    pub(super) async fn set_up(&self, ctx: &SessionContext) -> Result<(), Failure> {
        for Placed { place, statement } in &self.setup {
            let outcome = Box::pin(run_to_end(ctx, statement)).await;
            outcome.map_err(|error| Failure::from(error).at(place.clone()))?;
        }
        Ok(())
    }

    fn read_file(&mut self, file: &Path) -> Result<(), Failure> {
        let (name, text) = read_script(file)?;
        let statements = split_statements(&text)
            .map_err(|error| Failure::new(error.to_string()).at(name.clone()))?;
        for statement in statements {
            let place = format!("{name}:{}", statement.line);
            let added = self.add(statement.text, &place);
            added.map_err(|failure| failure.at(place))?;
        }
        Ok(())
    }

    fn add(&mut self, text: &str, place: &str) -> Result<(), Failure> {
        if text.starts_with('\\') {
            return Err(Failure::new(format!(
                "{text} is a command of the shell; `alluvial sync` runs SQL statements only, so leave it out"
            )));
        }
        let place = place.to_owned();
        match parse_sync(text)? {
            Some(sync) if sync.is_dry_run() => {
                return Err(Failure::new(format!(
                    "the sync of {} is a DRY RUN, which `alluvial sync` has no use for; leave DRY RUN out, or run the statement in the shell with `alluvial -c`",
                    sync.target()
                )));
            }
            Some(statement) => self.syncs.push(Placed { place, statement }),
            None => self.setup.push(Placed {
                place,
                statement: text.to_owned(),
            }),
        }
        Ok(())
    }

    /// Refuses two syncs that would share one position.
    fn check_names(&self, ctx: &SessionContext) -> Result<(), Failure> {
        let state = ctx.state();
        let defaults = &state.config_options().catalog;
        let mut places = HashMap::new();
        for Placed { place, statement } in &self.syncs {
            let target = statement.target().clone();
            let target = target.resolve(&defaults.default_catalog, &defaults.default_schema);
            if let Some(first) = places.insert((target, statement.name()), place) {
                let message = format!(
                    "{first} has a sync of {} by the name {:?}, too; give one of them a name of its own",
                    statement.target(),
                    statement.name()
                );
                return Err(Failure::new(message).at(place.clone()));
            }
        }
        Ok(())
    }
}

async fn run_to_end(ctx: &SessionContext, sql: &str) -> DataFusionResult<()> {
    let mut rows = ctx.alluvial_sql(sql).await?.execute_stream().await?;
    while rows.next().await.transpose()?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(place: &str, target: &str, name: &str) -> Placed<Sync> {
        let sync = Sync::builder().target(target).source("crm").name(name);
        Placed {
            place: place.to_owned(),
            statement: sync.build().unwrap(),
        }
    }

    #[test]
    fn a_name_is_taken_once_for_each_target() {
        let check = |second: Placed<Sync>, expected: Option<&str>| {
            let script = Script {
                setup: vec![],
                syncs: vec![placed("a.sql:1", "customers", "crm"), second],
            };
            let outcome = script.check_names(&SessionContext::new());
            assert_eq!(
                outcome.err().map(|error| error.to_string()).as_deref(),
                expected
            );
        };
        check(placed("b.sql:2", "orders", "crm"), None);
        check(placed("b.sql:2", "customers", "shop"), None);
        check(
            placed("b.sql:2", "public.customers", "crm"),
            Some(
                "b.sql:2: a.sql:1 has a sync of public.customers by the name \"crm\", too; give one of them a name of its own",
            ),
        );
    }

    #[test]
    fn a_script_without_syncs_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.sql");
        let check = |text: &str, expected: &str| {
            std::fs::write(&file, text).unwrap();
            let error =
                Script::read(std::slice::from_ref(&file), &SessionContext::new()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        };
        check("SELECT 1;", "there is no SYNC statement in");
        check(
            "\\timing on",
            "a.sql:1: \\timing on is a command of the shell",
        );
        check("SELECT 'x", "a.sql: the string that starts at line 1");
    }
}

//! INSERT, INSERT OVERWRITE and TRUNCATE: the executor without a join.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::SessionState;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::reset_plan_states;

use super::commit_exec::{CommitExec, CommitPlan, Removal, Replan};
use super::key_check::KeyCheck;
use super::row_format::RowFormat;
use super::row_rules::RowRules;
use super::write_exec::WriteSpec;
use crate::delta::DeltaTable;
use crate::delta::actions::Action;
use crate::delta::computed::Computed;
use crate::delta::data_file::WriteTarget;
use crate::delta::features::check_writable;
use crate::delta::own_reads::OwnReads;
use crate::delta::scan_source::versions_read;
use crate::delta::snapshot::Snapshot;
use crate::delta::tracking::forget_changes;
use crate::delta::transaction::{Operation, ReadSet};
use crate::error::{Error, Result};

/// What happens to the rows that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InsertMode {
    /// They stay.
    Append,
    /// They are replaced.
    Overwrite,
    /// They are removed, and nothing is inserted.
    Truncate,
}

/// Plans the insertion of `input`, whose columns are the table's; `own`: what the statement reads of the table, where that is known.
pub(crate) async fn plan_insert(
    table: &DeltaTable,
    own: Option<&OwnReads>,
    state: &SessionState,
    input: Arc<dyn ExecutionPlan>,
    mode: InsertMode,
) -> Result<Arc<dyn ExecutionPlan>> {
    let read = own_version(table, own, &input).await?;
    let reads_itself = read.is_some();
    let base = match read {
        Some(read) => read,
        None => table.snapshot().await?,
    };
    let statement = InsertStatement {
        table: table.clone(),
        session: Arc::new(state.clone()),
        input,
        mode,
        reads_itself,
    };
    let (rows, plan) = statement.plan(base)?;
    // rows that were made of a version cannot be had anew
    let again = (!reads_itself).then(|| Arc::new(statement) as Arc<dyn Replan>);
    Ok(Arc::new(CommitExec::new(rows, plan, again)?))
}

/// How rows in the table's columns are appended to `base`, on which they depend.
pub(crate) fn plan_append(
    base: Arc<Snapshot>,
    operation: Operation,
    session: Arc<SessionState>,
) -> Result<CommitPlan> {
    let target = write_target(&base, false)?;
    let rules = RowRules::try_new(&target, &session)?;
    Ok(CommitPlan {
        base: Some(base),
        write: WriteSpec {
            target,
            format: RowFormat::Inserts,
            rules,
            change_rows: false,
            unique_matches: true,
        },
        scanned: Arc::default(),
        removal: Removal::Marked,
        key_check: None,
        prelude: vec![],
        operation,
        reads: ReadSet::Table,
        outline: None,
        session,
    })
}

/// The version that a statement reads of its own target, by `own` and by its `plan`; absent when it reads none.
///
/// # Errors
/// [`Error::Conflict`] when a commit got in between two scans of the target, so that two versions are read.
pub(super) async fn own_version(
    table: &DeltaTable,
    own: Option<&OwnReads>,
    plan: &Arc<dyn ExecutionPlan>,
) -> Result<Option<Arc<Snapshot>>> {
    let pinned = own.and_then(OwnReads::pinned);
    let mut read = versions_read(plan, table.location());
    read.extend(pinned.iter().map(|pinned| pinned.version()));
    match (read.first(), read.last()) {
        (None, _) | (_, None) => Ok(None),
        (Some(first), Some(last)) if first == last => match pinned {
            Some(pinned) => Ok(Some(pinned)),
            None => table.snapshot_at(*last).await.map(Some),
        },
        (_, Some(last)) => Err(Error::Conflict {
            version: *last,
            operation: "a commit".into(),
            detail: "it came between two reads of the table by this statement".into(),
        }),
    }
}

/// Plans the removal of every row.
pub(crate) async fn plan_truncate(
    table: &DeltaTable,
    state: &SessionState,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = Arc::clone(table.snapshot().await?.layout().schema());
    plan_insert(
        table,
        None,
        state,
        Arc::new(EmptyExec::new(schema)),
        InsertMode::Truncate,
    )
    .await
}

/// Refuses what may not be written, and says how the rest is.
pub(crate) fn write_target(snapshot: &Snapshot, removes_rows: bool) -> Result<WriteTarget> {
    let name = snapshot.table().name();
    check_writable(name, snapshot.protocol(), snapshot.layout())?;
    if removes_rows && snapshot.properties().append_only {
        return Err(Error::UnsupportedFeature {
            table: name.into(),
            needs:
                "is append-only (delta.appendOnly = true): its rows may not be updated or deleted"
                    .into(),
        });
    }
    Ok(WriteTarget::from(snapshot))
}

/// Whether rows of the table need their keys looked at: where changes are tracked, unless the table numbers the rows itself.
///
/// # Errors
/// [`Error::Invalid`] when a key column gets its values after the keys have been looked at.
pub(super) fn checks_keys(snapshot: &Snapshot) -> Result<bool> {
    Ok(snapshot.properties().tracking.is_some() && has_keys_to_check(snapshot)?)
}

/// Whether the table, tracked or not, takes the keys of its rows from statements.
///
/// # Errors
/// [`Error::Invalid`] when a key column gets its values after the keys would have to be looked at.
pub(crate) fn has_keys_to_check(snapshot: &Snapshot) -> Result<bool> {
    let (layout, properties) = (snapshot.layout(), snapshot.properties());
    let mut computed_keys = vec![];
    for (index, computed) in layout.computed() {
        let name = layout.schema().field(*index).name();
        match computed {
            _ if !properties.primary_key.contains(name) => {}
            Computed::Default(_) => {}
            Computed::Identity(identity) if !identity.allow_explicit => return Ok(false),
            Computed::Identity(_) => {
                computed_keys.push((name, "an identity column that takes values"))
            }
            Computed::Generated(_) => computed_keys.push((name, "a generated column")),
        }
    }
    let Some((name, kind)) = computed_keys.first() else {
        return Ok(true);
    };
    let table = snapshot.table().name();
    let fix = match properties.tracking {
        Some(_) => format!("switch tracking off with ALTER TABLE {table} DISABLE CHANGE_TRACKING"),
        None => "to track it, make it with a primary key whose values are given".into(),
    };
    Err(Error::invalid(format!(
        "the key column {name:?} of {table} is {kind}, which a table with change tracking cannot have as a key: its rows cannot be told apart before they are written; {fix}"
    )))
}

#[derive(Debug)]
struct InsertStatement {
    table: DeltaTable,
    session: Arc<SessionState>,
    input: Arc<dyn ExecutionPlan>,
    mode: InsertMode,
    /// Whether the rows depend on those of the table.
    reads_itself: bool,
}

impl InsertStatement {
    /// The rows, and how to commit them to `base`.
    fn plan(&self, base: Arc<Snapshot>) -> Result<(Arc<dyn ExecutionPlan>, CommitPlan)> {
        let mut plan = self.commit_plan(Arc::clone(&base))?;
        let rows = Arc::clone(&self.input);
        if self.mode == InsertMode::Truncate {
            if base.properties().tracking.is_some() {
                let mut metadata = base.metadata().clone();
                forget_changes(&mut metadata);
                plan.prelude.push(Action::Metadata(metadata));
            }
            return Ok((rows, plan));
        }
        if !checks_keys(&base)? {
            return Ok((rows, plan));
        }
        let keys = base.properties().primary_key.clone();
        let (rows, check) = KeyCheck::new(rows, keys, self.mode == InsertMode::Append)?;
        // a row of the same key that another writer adds meanwhile has to be found
        plan.reads = ReadSet::Table;
        plan.key_check = Some(check);
        Ok((rows, plan))
    }

    fn commit_plan(&self, snapshot: Arc<Snapshot>) -> Result<CommitPlan> {
        let append = self.mode == InsertMode::Append;
        write_target(&snapshot, !append)?;
        self.check_schema(&snapshot)?;
        let operation = match self.mode {
            InsertMode::Append => Operation::new("WRITE").with_parameter("mode", "Append"),
            InsertMode::Overwrite => Operation::new("WRITE").with_parameter("mode", "Overwrite"),
            InsertMode::Truncate => Operation::new("TRUNCATE"),
        };
        Ok(CommitPlan {
            removal: if append {
                Removal::Marked
            } else {
                Removal::All
            },
            reads: if append && !self.reads_itself {
                ReadSet::Nothing
            } else {
                ReadSet::Table
            },
            ..plan_append(snapshot, operation, Arc::clone(&self.session))?
        })
    }

    fn check_schema(&self, snapshot: &Snapshot) -> Result<()> {
        let (have, want) = (self.input.schema(), snapshot.layout().schema());
        let same = have.fields().len() == want.fields().len()
            && have
                .fields()
                .iter()
                .zip(want.fields())
                .all(|(have, want)| have.data_type() == want.data_type());
        if same {
            Ok(())
        } else {
            Err(schema_changed(&self.table))
        }
    }
}

#[async_trait]
impl Replan for InsertStatement {
    async fn replan(&self) -> Result<Option<(Arc<dyn ExecutionPlan>, CommitPlan)>> {
        let again = Self {
            input: reset_plan_states(Arc::clone(&self.input))?,
            table: self.table.clone(),
            session: Arc::clone(&self.session),
            mode: self.mode,
            reads_itself: self.reads_itself,
        };
        let newest = self.table.snapshot().await?;
        again.plan(newest).map(Some)
    }
}

/// The schema under which a statement was planned is no longer the table's.
pub(crate) fn schema_changed(table: &DeltaTable) -> Error {
    Error::invalid(format!(
        "the schema of {} was changed while the statement was being planned; nothing was written, run the statement again",
        table.name()
    ))
}

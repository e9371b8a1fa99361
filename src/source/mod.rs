//! Where changes come from. Every source answers the same question: what changed after one version, up to another?
//!
//! ```text
//!  ChangeBounds ── resolve() ──> ChangeRange ── changes() ──> ExecutionPlan of the change relation
//!                                 a version ──── rows() ─────> the same for its rows, as inserts
//! ```
//!
//! Who follows a source keeps its identity and the fingerprint of the version reached: a source that was recreated, or restored
//! and written on, has the same version numbers and another history.

#[cfg(test)]
mod conformance;
mod delta_feed;
mod files;
mod sequence_exec;
mod tracked;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;

pub(crate) use delta_feed::{DeltaFeed, Derivation, FeedLog};
pub(crate) use files::{ChangeFiles, KnownFile, Location, rejected_schema};
pub(crate) use tracked::{
    DeltaTracking, DumpCounts, RowTable, Snapshots, Tracked, TrackedTable, VersionBounds,
    VersionedTable,
};

use crate::change::{ChangeBounds, ChangeRange, VersionClock};
use crate::delta::DeltaTable;
use crate::delta::create::TableDefinition;
use crate::error::Result;

/// Name of the metric that counts rows which a read has set aside; its label [`SCAN`] tells the scans of one statement apart.
pub(crate) const REJECTED_ROWS: &str = "rejected_rows";
/// Name of that label.
pub(crate) const SCAN: &str = "scan";

/// Something whose changes can be asked for by version.
#[async_trait]
pub(crate) trait ChangeSource: Debug + Send + Sync {
    /// What messages call it.
    fn name(&self) -> &str;

    /// Where it is, without secrets.
    fn location(&self) -> String;

    /// The newest version.
    async fn current_version(&self) -> Result<i64>;

    /// Tells it from every other source, one that was made anew in its place included.
    async fn identity(&self) -> Result<String>;

    /// Tells the history up to `version` from another one; `None` where nobody knows any more.
    async fn fingerprint(&self, version: i64) -> Result<Option<i64>>;

    /// When a version was committed, in microseconds since the epoch, where that is known.
    async fn commit_time(&self, version: i64) -> Result<Option<i64>>;

    /// What a copy of it has to be created as.
    async fn definition(&self, version: i64) -> Result<TableDefinition>;

    /// Refuses a source whose coming changes could not be read.
    async fn check_followable(&self) -> Result<()>;

    /// The same source as it stands when it is first asked something, for the questions of one statement; `None` where asking again
    /// costs nothing.
    fn at_once(&self) -> Option<Arc<dyn ChangeSource>> {
        None
    }

    /// Checks bounds against the versions there are.
    async fn resolve(&self, bounds: &ChangeBounds) -> Result<ChangeRange>;

    /// The change relation's schema as of a version, the newest one if absent.
    async fn schema(&self, version: Option<i64>) -> Result<SchemaRef>;

    /// The columns of the declared primary key; empty where there is none.
    async fn primary_key(&self) -> Result<Vec<String>>;

    /// The column that orders the changes of a key, where it is not the order in which they came.
    fn sequence(&self) -> Option<&str> {
        None
    }

    /// Whether two changes of a key that differ and have the same sequence are an error; otherwise the later one counts.
    fn refuses_ties(&self) -> bool {
        false
    }

    /// Whether rows that cannot be understood are set aside and counted in the metric [`REJECTED_ROWS`].
    fn sets_rows_aside(&self) -> bool {
        false
    }

    /// The columns that some rows of a range do not carry: of these `_changed_columns` names those that the row has, and for the
    /// others NULL says nothing.
    async fn absent_columns(&self, _: ChangeRange) -> Result<Vec<String>> {
        Ok(vec![])
    }

    /// Whether anything has changed in a range; `true` where that is not cheap to know.
    async fn has_changes(&self, range: ChangeRange) -> Result<bool> {
        Ok(!range.is_empty())
    }

    /// Plans the read of a range. Everything that can be known to be missing is found out here, before the first row.
    async fn changes(
        &self,
        range: ChangeRange,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>>;

    /// Whether it has rows beside its changes.
    fn has_rows(&self) -> bool {
        true
    }

    /// Plans the read of a version's rows as inserts of that version, in the schema of a change read.
    async fn rows(&self, version: i64, read: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>>;
}

/// How many rows a plan that has run has set aside. It may have read a source several times; each of these scans has set the same
/// rows aside, or, if it was ended early, fewer.
pub(crate) fn rejected_rows(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let mut scans = HashMap::new();
    add_rejected(plan, &mut scans);
    scans.into_values().max().unwrap_or(0)
}

fn add_rejected(plan: &Arc<dyn ExecutionPlan>, scans: &mut HashMap<String, u64>) {
    for metric in plan.metrics().iter().flat_map(|metrics| metrics.iter()) {
        let scan = metric.labels().iter().find(|label| label.name() == SCAN);
        if let Some(scan) = scan.filter(|_| metric.value().name() == REJECTED_ROWS) {
            *scans.entry(scan.value().to_owned()).or_default() += metric.value().as_usize() as u64;
        }
    }
    for child in plan.children() {
        add_rejected(child, scans);
    }
}

/// The source at a location that [`ChangeSource::location`] has given, with credentials from the environment.
///
/// # Errors
/// When there can be no source.
pub(crate) fn open_source(name: &str, location: &str) -> Result<Arc<dyn ChangeSource>> {
    let table = DeltaTable::new(name, location, HashMap::new())?;
    Ok(Arc::new(DeltaFeed::pinned(table)))
}

/// How the rows of a range are to be read.
pub(crate) struct ChangeRead<'a> {
    pub state: &'a dyn Session,
    /// Indices into [`ChangeSource::schema`] at the range's upper bound.
    pub projection: Option<&'a Vec<usize>>,
    /// Filters that may prune; they are evaluated again above.
    pub filters: &'a [Expr],
    pub limit: Option<usize>,
}

/// What a source knows of its versions once timestamps have been looked up.
struct Clock<'a> {
    table: &'a str,
    current: i64,
    earliest: i64,
    instants: HashMap<i64, i64>,
}

impl<'a> Clock<'a> {
    /// Nothing is known but the newest version.
    fn new(table: &'a str, current: i64) -> Self {
        Self {
            table,
            current,
            earliest: -1,
            instants: HashMap::new(),
        }
    }
}

impl VersionClock for Clock<'_> {
    fn table(&self) -> &str {
        self.table
    }

    fn current(&self) -> i64 {
        self.current
    }

    fn at_or_before(&self, micros: i64) -> i64 {
        self.instants.get(&micros).copied().unwrap_or(-1)
    }

    fn earliest(&self) -> i64 {
        self.earliest
    }
}

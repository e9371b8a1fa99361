//! `change_versions('t')` of a Delta table: every version that is left of its log, what it did to rows, and whether its changes can
//! be read.
//!
//! ```text
//!  commit files ── read many at a time ─┬─> FeedState      was the feed on?
//!                                       ├─> CommitChanges  which files tell the changes?
//!                                       ├─> Presence       are they there, where they may not be?
//!                                       └─> RowCounts      the operation's metrics, else what the actions say
//! ```
//!
//! The list begins at the oldest version whose commit is left; the rows of such a version may need an older checkpoint, which may be
//! gone. A version is readable when its changes by themselves are: a range needs all of its versions to be so, and their schemas to
//! agree. What is said of a version does not depend on which others are listed.

mod commit_changes;
mod feed_state;
mod presence;
mod row_counts;
mod version_row;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{ScalarValue, project_schema};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt, TryStreamExt, future, stream};

use self::feed_state::FeedState;
use self::presence::Presence;
use self::version_row::{READABLE, REASON, VERSION, VersionRow, columns, rows_batch};
use super::DeltaFeed;
use crate::delta::log::{Commit, CommitFile, list_commits, stream_commits};
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::source::ChangeRead;
use crate::source::tracked::StreamExec;

/// So many commits become one batch.
const BATCH_COMMITS: usize = 64;

impl DeltaFeed {
    /// The columns of [`Self::versions`].
    pub(crate) fn versions_schema() -> SchemaRef {
        columns()
    }

    /// The lowest and the highest version that a filter on the list lets through, where that is all it asks.
    pub(crate) fn listed_by(filter: &Expr) -> Option<(i64, i64)> {
        let Expr::BinaryExpr(binary) = filter else {
            return None;
        };
        let (column, operator, literal) = match (binary.left.as_ref(), binary.right.as_ref()) {
            (Expr::Column(column), Expr::Literal(literal, _)) => (column, binary.op, literal),
            (Expr::Literal(literal, _), Expr::Column(column)) => {
                (column, binary.op.swap()?, literal)
            }
            _ => return None,
        };
        let ScalarValue::Int64(Some(version)) = literal else {
            return None;
        };
        if column.name != VERSION {
            return None;
        }
        match operator {
            Operator::Eq => Some((*version, *version)),
            Operator::GtEq => Some((*version, i64::MAX)),
            Operator::LtEq => Some((i64::MIN, *version)),
            Operator::Gt => Some((version.checked_add(1)?, i64::MAX)),
            Operator::Lt => Some((i64::MIN, version.checked_sub(1)?)),
            _ => None,
        }
    }

    /// Plans the list of versions, oldest first. Filters that [`Self::listed_by`] understands hold for all rows of it, others are
    /// left to whoever reads it, who then sets no limit.
    pub(crate) async fn versions(&self, read: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let current = self.current().await?;
        let (mut low, mut high) = (0, current.version());
        for (from, to) in read.filters.iter().filter_map(Self::listed_by) {
            (low, high) = (low.max(from), high.min(to));
        }
        let mut files = match low <= high {
            true => list_commits(current.table(), low).await?,
            false => vec![],
        };
        files.retain(|file| file.version <= current.version());
        let listed = files.partition_point(|file| file.version <= high);
        let listing = Arc::new(Listing {
            listed: listed.min(read.limit.unwrap_or(usize::MAX)),
            files,
            projection: read.projection.cloned(),
            current,
        });
        Ok(plan(listing)?)
    }
}

/// What is listed.
struct Listing {
    current: Arc<Snapshot>,
    /// The commits from the first listed one up to the current version.
    files: Vec<CommitFile>,
    /// How many of them are listed.
    listed: usize,
    projection: Option<Vec<usize>>,
}

fn plan(listing: Arc<Listing>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let schema = project_schema(&columns(), listing.projection.as_ref())?;
    let (name, versions) = (listing.current.table().name(), listing.listed);
    let shown = format!("change_versions({name}), versions={versions}");
    let returned = Arc::clone(&schema);
    let plan = StreamExec::new(Arc::clone(&schema), shown, move |_| {
        let rows = batches(Arc::clone(&listing));
        let rows = RecordBatchStreamAdapter::new(Arc::clone(&returned), rows);
        Ok(Box::pin(rows))
    });
    Ok(Arc::new(match schema.index_of(VERSION) {
        Ok(version) => plan.sorted_by(version),
        Err(_) => plan,
    }))
}

fn batches(listing: Arc<Listing>) -> impl Stream<Item = DataFusionResult<RecordBatch>> + Send {
    let listed = &listing.files[..listing.listed];
    let first = listed.first().map_or(0, |file| file.version);
    let last = listed.last().map_or(-1, |file| file.version);
    let commits = stream_commits(&listing.current, first, last)
        .try_filter_map(future::ok)
        .try_chunks(BATCH_COMMITS)
        .map_err(|failed| failed.1)
        .boxed();
    let start = (Lister::new(listing), commits);
    stream::try_unfold(start, |(mut lister, mut commits)| async move {
        let Some(next) = commits.try_next().await? else {
            return Ok(None);
        };
        let batch = lister.batch(next).await?;
        Ok::<_, Error>(Some((batch, (lister, commits))))
    })
    .map_err(DataFusionError::from)
}

/// Goes through the commits in order.
struct Lister {
    listing: Arc<Listing>,
    state: FeedState,
    /// Found out when the first row is asked whether it is readable.
    presence: Option<Presence>,
}

impl Lister {
    fn new(listing: Arc<Listing>) -> Self {
        Self {
            state: FeedState::new(Arc::clone(&listing.current)),
            listing,
            presence: None,
        }
    }

    async fn batch(&mut self, commits: Vec<Commit>) -> Result<RecordBatch> {
        let mut rows = Vec::with_capacity(commits.len());
        for commit in commits {
            let feed = self.state.after(&commit).await?;
            rows.push(VersionRow::new(commit, feed));
        }
        let gone = match self.tells_readable() {
            true => self.gone(&rows).await?,
            false => HashMap::new(),
        };
        let batch = rows_batch(&rows, &gone)?;
        Ok(match &self.listing.projection {
            Some(projection) => batch.project(projection)?,
            None => batch,
        })
    }

    /// Whether anybody wants to know if the files are there, which costs a look at each.
    fn tells_readable(&self) -> bool {
        let schema = columns();
        let tells = |index: usize| matches!(schema.field(index).name().as_str(), READABLE | REASON);
        let projection = self.listing.projection.as_ref();
        projection.is_none_or(|projection| projection.iter().any(|index| tells(*index)))
    }

    /// What is missing of the rows' files, by row.
    async fn gone(&mut self, rows: &[VersionRow]) -> Result<HashMap<usize, String>> {
        let presence = match self.presence.take() {
            Some(presence) => presence,
            None => Presence::new(&self.listing.current, &self.listing.files).await?,
        };
        let doubtful = rows.iter().enumerate();
        let doubtful = doubtful.filter(|(_, row)| presence.is_doubtful(row.version, row.timestamp));
        let files = doubtful.flat_map(|(index, row)| {
            let files = row.changes.needed_files().into_iter();
            files.map(move |file| (index, file))
        });
        let files = files.collect();
        let gone = presence.missing(files).await?;
        self.presence = Some(presence);
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{ident, lit};

    use super::*;

    fn check(filter: &Expr, expected: Option<(i64, i64)>) {
        assert_eq!(DeltaFeed::listed_by(filter), expected, "{filter}");
    }

    #[test]
    fn filters_on_the_version_bound_the_list() {
        let version = || ident(VERSION);
        check(&version().eq(lit(4_i64)), Some((4, 4)));
        check(&version().gt(lit(4_i64)), Some((5, i64::MAX)));
        check(&version().gt_eq(lit(4_i64)), Some((4, i64::MAX)));
        check(&version().lt(lit(4_i64)), Some((i64::MIN, 3)));
        check(&lit(4_i64).gt_eq(version()), Some((i64::MIN, 4)));
        check(&version().gt(lit(i64::MAX)), None);
        check(&version().not_eq(lit(4_i64)), None);
        check(&ident("inserts").eq(lit(4_i64)), None);
        check(&version().eq(lit(ScalarValue::Int64(None))), None);
    }
}

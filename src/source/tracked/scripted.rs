//! A tracked table that is a script, for tests: it stands for a remote system, which is sent SQL and answers with a stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use datafusion::sql::unparser::dialect::PostgreSqlDialect;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::pushdown::{Pushdown, pushed_down};
use super::stream_exec::StreamExec;
use super::{TrackedTable, VersionBounds};
use crate::change::{ChangeRange, ChangeType, change_schema};
use crate::error::Result;
use crate::source::ChangeRead;

/// What happened to a row: the columns `id`, the key, and `name`.
pub(crate) type ScriptedChange = (ChangeType, i64, Option<&'static str>);

/// When version 0 was committed; each version after it takes a second.
const BEGINNING: i64 = 1_700_000_000_000_000;
const SECOND: i64 = 1_000_000;

/// A table whose history is given.
#[derive(Debug)]
pub(crate) struct ScriptedTable {
    /// What happened in version 1, 2, 3, …
    versions: Vec<Vec<ScriptedChange>>,
    min_valid: i64,
    pushed: Mutex<Vec<Pushdown>>,
}

impl ScriptedTable {
    /// What happened in version 1, 2, 3, …, of which that up to `min_valid` is no longer kept.
    pub(crate) fn new(versions: Vec<Vec<ScriptedChange>>, min_valid: i64) -> Self {
        Self {
            versions,
            min_valid,
            pushed: Mutex::default(),
        }
    }

    fn current(&self) -> i64 {
        self.versions.len() as i64
    }

    /// The changes of some versions, each with its version.
    fn between(&self, since: i64, until: i64) -> Vec<(i64, ScriptedChange)> {
        let versions = (1..).zip(&self.versions);
        let versions = versions.filter(|(version, _)| since < *version && *version <= until);
        versions
            .flat_map(|(version, changes)| changes.iter().map(move |change| (version, *change)))
            .collect()
    }

    /// Plans that the system is asked for these changes.
    fn ask(
        &self,
        changes: &[(i64, ScriptedChange)],
        read: &ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let held = held(changes)?;
        let asked = pushed_down(&held.schema(), read, &PostgreSqlDialect {}, |_| true)?;
        self.pushed.lock().unwrap().push(asked.clone());
        let columns = asked.columns.iter();
        let columns = columns.map(|name| held.schema().index_of(name));
        let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
        let schema = Arc::new(held.schema().project(&columns)?);
        let shown = format!("scripted, {asked:?}");
        let answered = Arc::clone(&schema);
        let open = move |_: Arc<TaskContext>| -> Result<SendableRecordBatchStream> {
            let batches = answer(held.clone(), asked.clone(), columns.clone());
            let batches = stream::once(batches).map_ok(in_turn).try_flatten();
            let answered = Arc::clone(&answered);
            Ok(Box::pin(RecordBatchStreamAdapter::new(answered, batches)))
        };
        Ok(Arc::new(StreamExec::new(schema, shown, open)))
    }
}

fn in_turn(batches: Vec<RecordBatch>) -> impl Stream<Item = DataFusionResult<RecordBatch>> {
    stream::iter(batches).map(Ok)
}

/// What the system answers: it understands the SQL, and does what it says.
async fn answer(
    held: RecordBatch,
    asked: Pushdown,
    columns: Vec<usize>,
) -> DataFusionResult<Vec<RecordBatch>> {
    let mut frame = SessionContext::new().read_batch(held)?;
    if let Some(predicate) = &asked.predicate {
        let predicate = frame.parse_sql_expr(predicate)?;
        frame = frame.filter(predicate)?;
    }
    let batches = frame.limit(0, asked.limit)?.collect().await?;
    let projected = batches.iter().map(|batch| Ok(batch.project(&columns)?));
    projected.collect()
}

/// The columns of the table.
fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
    ]))
}

/// Changes as the system holds them.
fn held(changes: &[(i64, ScriptedChange)]) -> Result<RecordBatch> {
    let ids = changes.iter().map(|(_, (_, id, _))| *id);
    let names = changes.iter().map(|(_, (_, _, name))| *name);
    let types = changes.iter().map(|(_, (kind, _, _))| kind.as_str());
    let versions = changes.iter().map(|(version, _)| *version);
    let times = versions.clone().map(time_of);
    let times = TimestampMicrosecondArray::from_iter_values(times);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids)),
        Arc::new(names.collect::<StringArray>()),
        Arc::new(StringArray::from_iter_values(types)),
        Arc::new(Int64Array::from_iter_values(versions)),
        Arc::new(times.with_timezone("UTC")),
    ];
    let schema = change_schema("scripted", &columns())?;
    Ok(RecordBatch::try_new(schema, arrays)?)
}

fn time_of(version: i64) -> i64 {
    BEGINNING + version * SECOND
}

#[async_trait]
impl TrackedTable for ScriptedTable {
    fn name(&self) -> &str {
        "scripted"
    }

    fn location(&self) -> String {
        "script".into()
    }

    async fn identity(&self) -> Result<String> {
        Ok("scripted".into())
    }

    async fn bounds(&self) -> Result<VersionBounds> {
        Ok(VersionBounds {
            current: self.current(),
            min_valid: self.min_valid,
            reaches_creation: self.min_valid == 0,
        })
    }

    async fn version_at(&self, micros: i64) -> Result<i64> {
        let version = (micros - BEGINNING).div_euclid(SECOND);
        Ok(version.clamp(-1, self.current()))
    }

    async fn commit_time(&self, version: i64) -> Result<Option<i64>> {
        Ok(Some(time_of(version)))
    }

    async fn columns(&self, _: Option<i64>) -> Result<SchemaRef> {
        Ok(columns())
    }

    async fn primary_key(&self) -> Result<Vec<String>> {
        Ok(vec!["id".into()])
    }

    async fn changes(
        &self,
        range: ChangeRange,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.ask(&self.between(range.since(), range.until()), &read)
    }

    async fn rows(&self, version: i64, read: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let mut rows = BTreeMap::new();
        for (_, (kind, id, name)) in self.between(0, version) {
            match kind {
                ChangeType::Delete | ChangeType::UpdatePreimage => rows.remove(&id),
                _ => rows.insert(id, name),
            };
        }
        let rows = rows.into_iter();
        let rows = rows.map(|(id, name)| (version, (ChangeType::Insert, id, name)));
        self.ask(&rows.collect::<Vec<_>>(), &read)
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::logical_expr::{Expr, col, lit};
    use datafusion::physical_plan::collect;

    use super::*;
    use crate::change::{Bound, ChangeBounds};
    use crate::source::{ChangeSource, Tracked};

    fn source(min_valid: i64) -> Tracked<ScriptedTable> {
        let versions = vec![
            vec![
                (ChangeType::Insert, 1, Some("a")),
                (ChangeType::Insert, 2, None),
            ],
            vec![
                (ChangeType::UpdatePreimage, 1, Some("a")),
                (ChangeType::UpdatePostimage, 1, Some("A")),
            ],
            vec![(ChangeType::Delete, 2, None)],
        ];
        Tracked(ScriptedTable::new(versions, min_valid))
    }

    async fn range(
        source: &Tracked<ScriptedTable>,
        since: Bound,
        until: Option<Bound>,
    ) -> Result<ChangeRange> {
        source.resolve(&ChangeBounds { since, until }).await
    }

    async fn check(min_valid: i64, since: Bound, until: Option<i64>, expected: (i64, i64)) {
        let range = range(&source(min_valid), since, until.map(Bound::Version)).await;
        let range = range.unwrap();
        assert_eq!((range.since(), range.until()), expected);
    }

    async fn refused(min_valid: i64, since: Bound, until: Option<i64>, expected: &str) {
        let range = range(&source(min_valid), since, until.map(Bound::Version)).await;
        let error = range.unwrap_err().to_string();
        assert!(error.contains(expected), "{error} lacks {expected:?}");
    }

    #[tokio::test]
    async fn bounds_of_a_whole_history() {
        check(0, Bound::Version(3), None, (3, 3)).await;
        check(0, Bound::Version(0), Some(2), (0, 2)).await;
        check(0, Bound::Beginning, None, (-1, 3)).await;
        check(0, Bound::Earliest, None, (-1, 3)).await;
        check(0, Bound::Timestamp(time_of(1)), None, (1, 3)).await;
        check(0, Bound::Timestamp(time_of(2) - 1), None, (1, 3)).await;
        check(0, Bound::Timestamp(time_of(0) - 1), None, (-1, 3)).await;
        check(0, Bound::Timestamp(time_of(9)), None, (3, 3)).await;
        let expected = "since_version 4 is after the current version 3 of scripted";
        refused(0, Bound::Version(4), None, expected).await;
        refused(0, Bound::Version(1), Some(1), "since_version => 0").await;
    }

    #[tokio::test]
    async fn bounds_of_a_history_that_has_expired_in_part() {
        check(2, Bound::Version(2), None, (2, 3)).await;
        check(2, Bound::Earliest, None, (2, 3)).await;
        check(2, Bound::Timestamp(time_of(2)), None, (2, 3)).await;
        let expected = "CHANGES_EXPIRED: changes of scripted after version 1 were asked for";
        refused(2, Bound::Version(1), None, expected).await;
        refused(2, Bound::Timestamp(time_of(1)), None, expected).await;
        let expected = "after version NULL were asked for, but the minimum valid version is 2";
        refused(2, Bound::Beginning, None, expected).await;
    }

    /// Reads everything; the answer as a table, and what was asked.
    async fn read(
        projection: Vec<usize>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> (String, Pushdown) {
        let source = source(0);
        let range = range(&source, Bound::Beginning, None).await.unwrap();
        let state = SessionContext::new().state();
        let read = ChangeRead {
            state: &state,
            projection: Some(&projection),
            filters,
            limit,
        };
        let plan = source.changes(range, read).await.unwrap();
        let batches = collect(plan, state.task_ctx()).await.unwrap();
        let table = pretty_format_batches(&batches).unwrap().to_string();
        let asked = source.0.pushed.lock().unwrap().pop();
        (table, asked.unwrap())
    }

    #[tokio::test]
    async fn filters_and_projection_arrive_as_sql() {
        let filters = [
            col("id").gt(lit(1_i64)),
            col("_change_type").eq(lit("delete")),
        ];
        let (table, asked) = read(vec![3, 0], &filters, Some(5)).await;
        let expected = Pushdown {
            columns: vec!["_commit_version".into(), "id".into()],
            predicate: Some(r#"("id" > 1) AND ("_change_type" = 'delete')"#.into()),
            limit: None,
        };
        assert_eq!(asked, expected);
        let rows: Vec<&str> = table.lines().skip(3).collect();
        assert_eq!(rows[0], "| 3               | 2  |");
        assert_eq!(rows.len(), 2, "{table}");
    }

    #[tokio::test]
    async fn a_limit_arrives_where_nothing_is_filtered() {
        let (table, asked) = read(vec![1], &[], Some(1)).await;
        assert_eq!((asked.predicate, asked.limit), (None, Some(1)));
        assert_eq!(table.lines().count(), 5, "{table}");
    }
}

//! Full dumps as tables: the rows of the newest one, and the dumps with what each has changed (`change_versions('t')`).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{CreateExternalTable, Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::factory::primary_key;
use super::source_table::{SourceProvider, SourceRows};
use crate::error::{Error, Result};
use crate::source::{ChangeRead, ChangeSource, DumpCounts, Snapshots, Tracked, TrackedTable};

/// What `STORED AS` calls tables of full dumps.
pub(super) const SNAPSHOTS: &str = "SNAPSHOTS";
/// What stands before their options on the way through DataFusion.
pub(super) const OPTION_PREFIX: &str = "snapshots.";

/// Opens the dumps at a location: a folder, `s3://`, `az://`, `abfss://`, `https://` of an Azure container, `gs://`, `sftp://`.
#[derive(Debug)]
pub(crate) struct SnapshotsFactory;

#[async_trait]
impl TableProviderFactory for SnapshotsFactory {
    async fn create(
        &self,
        _: &dyn Session,
        statement: &CreateExternalTable,
    ) -> DataFusionResult<Arc<dyn TableProvider>> {
        let name = statement.name.table();
        let [location] = statement.locations.as_slice() else {
            return Err(Error::invalid(format!(
                "{name} has one LOCATION, {} were given; use a folder above them, and a * for what differs",
                statement.locations.len()
            ))
            .into());
        };
        if !statement.order_exprs.is_empty() || !statement.column_defaults.is_empty() {
            return Err(Error::invalid(format!(
                "{name}: WITH ORDER and DEFAULT mean nothing for dumps; leave them out"
            ))
            .into());
        }
        let mut options = own_options(&statement.options);
        if let Some(key) = primary_key(statement) {
            options.entry("key".into()).or_insert(key);
        }
        let declared = Arc::new(statement.schema.as_arrow().clone());
        let snapshots = Snapshots::try_new(name, location, &options, declared)?;
        Ok(Arc::new(
            SourceProvider::try_new(Arc::new(snapshots)).await?,
        ))
    }
}

/// Options without what DataFusion, or we, have put before them.
fn own_options(options: &HashMap<String, String>) -> HashMap<String, String> {
    let own = options.iter().map(|(key, value)| {
        let name = key
            .strip_prefix("format.")
            .or_else(|| key.strip_prefix(OPTION_PREFIX));
        (name.unwrap_or(key).to_owned(), value.clone())
    });
    own.collect()
}

/// The table shows the rows of the newest dump.
#[async_trait]
impl SourceRows for Snapshots {
    fn kind(&self) -> &'static str {
        SNAPSHOTS
    }

    fn source(&self) -> Arc<dyn ChangeSource> {
        Arc::new(Tracked(self.clone()))
    }

    fn pinned_source(&self) -> Arc<dyn ChangeSource> {
        Arc::new(Tracked(self.pinned()))
    }

    fn versions(&self) -> Arc<dyn TableProvider> {
        Arc::new(DumpsTable {
            snapshots: self.clone(),
        })
    }

    async fn columns(&self) -> Result<SchemaRef> {
        TrackedTable::columns(self, None).await
    }

    async fn rows(
        &self,
        columns: &SchemaRef,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.newest(columns, &read).await
    }
}

/// The versions and their dumps.
#[derive(Debug)]
struct DumpsTable {
    snapshots: Snapshots,
}

/// These columns are counted by reading the dumps.
const COUNTED: Range<usize> = 7..11;

impl DumpsTable {
    fn columns() -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let number = |name: &str, nullable: bool| Field::new(name, DataType::Int64, nullable);
        Arc::new(Schema::new(vec![
            number("version", false),
            Field::new("timestamp", time, false),
            Field::new("readable", DataType::Boolean, false),
            Field::new("reason", DataType::Utf8, true),
            Field::new("dump", DataType::Utf8, false),
            number("files", false),
            number("size_bytes", false),
            number("rows", true),
            number("inserts", true),
            number("updates", true),
            number("deletes", true),
        ]))
    }

    async fn rows(&self, state: &dyn Session, is_counted: bool) -> Result<RecordBatch> {
        let snapshots = self.snapshots.pinned();
        let dumps = snapshots.dumps().await?;
        let dumps = dumps.all();
        let counts = match is_counted {
            true => snapshots.counts(state).await?,
            false => vec![DumpCounts::default(); dumps.len()],
        };
        let counted = |value: &dyn Fn(&DumpCounts) -> Option<i64>| -> ArrayRef {
            Arc::new(Int64Array::from_iter(counts.iter().map(value)))
        };
        let numbers = |number: &mut dyn Iterator<Item = i64>| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(number))
        };
        let missing = dumps.iter().map(|dump| dump.missing());
        let reasons = missing
            .clone()
            .map(|file| file.map(|file| format!("the file {file} has been removed since")));
        let times = dumps.iter().map(|dump| dump.time());
        let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
        let columns: Vec<ArrayRef> = vec![
            numbers(&mut (1_i64..).take(dumps.len())),
            Arc::new(times),
            Arc::new(BooleanArray::from_iter(
                missing.map(|file| Some(file.is_none())),
            )),
            Arc::new(StringArray::from_iter(reasons)),
            Arc::new(StringArray::from_iter_values(
                dumps.iter().map(|dump| dump.name()),
            )),
            numbers(&mut dumps.iter().map(|dump| dump.files() as i64)),
            numbers(&mut dumps.iter().map(|dump| dump.size().cast_signed())),
            counted(&|counts| counts.rows),
            counted(&|counts| counts.inserts),
            counted(&|counts| counts.updates),
            counted(&|counts| counts.deletes),
        ];
        Ok(RecordBatch::try_new(Self::columns(), columns)?)
    }
}

#[async_trait]
impl TableProvider for DumpsTable {
    fn schema(&self) -> SchemaRef {
        Self::columns()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let is_counted =
            projection.is_none_or(|wanted| wanted.iter().any(|index| COUNTED.contains(index)));
        let rows = self.rows(state, is_counted).await?;
        Ok(MemorySourceConfig::try_new_exec(
            &[vec![rows]],
            Self::columns(),
            projection.cloned(),
        )?)
    }
}

//! Our scan of a table's Parquet files: DataFusion's own Parquet nodes, given what only Delta knows.
//!
//! ```text
//!  ProjectionExec          physical to logical names, only with column mapping
//!    DataSourceExec        DeltaSource, which delegates to a FileScanConfig
//!      ParquetSource       data columns ++ partition columns ++ constants ++ row number
//! ```
//!
//! Deletion vectors become row selections of each file, partition values and other per-file constants become partition
//! columns, and the log's statistics prune files, at planning by the filters and at run time by dynamic filters.

mod columns;
mod files;
mod pruning;
mod statistics;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::config::TableParquetOptions;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

pub(super) use self::columns::Columns;
pub(crate) use self::files::{RowMask, ScanFile};
pub(crate) use self::pruning::FileFilter;
pub(super) use self::pruning::FilePruning;
pub(super) use self::statistics::LogStatistics;
pub(crate) use self::statistics::guessed_row_bytes;
use super::file_readers::FileReaders;
use super::lane::Lane;
use super::layout::TableLayout;
use super::relabel::relabel;
use super::scan_source::{Anyway, DeltaSource, EmptyScan, RuntimePruning, ScannedVersion, Wanted};
use super::snapshot::Snapshot;
use super::table::DeltaTable;
use crate::error::Result;

/// A scan of some files of a table.
///
/// Its schema is the table's logical columns, then `file_columns` (columns that only the files have), then `constants`, then
/// the row number if asked for.
#[derive(Debug, Clone)]
pub(crate) struct DeltaScan {
    pub table: DeltaTable,
    pub layout: Arc<TableLayout>,
    /// The version whose rows these are; absent for a scan of changes.
    pub version: Option<i64>,
    pub files: Vec<ScanFile>,
    pub file_columns: Vec<FieldRef>,
    pub constants: Vec<FieldRef>,
    /// Name of the Int64 column with the row's position in its file, if wanted.
    pub row_number: Option<String>,
    /// Prunes files once the other side of a join is known.
    pub runtime_pruning: Option<Arc<dyn RuntimePruning>>,
    /// What of the rows it would prune is wanted all the same.
    pub wanted_anyway: Option<Expr>,
}

impl DeltaScan {
    /// A scan of the rows that are live in `snapshot`.
    pub(crate) async fn of_snapshot(snapshot: &Snapshot) -> Result<Self> {
        let adds = snapshot.files().await?;
        let files = adds.iter().cloned().map(ScanFile::live).collect();
        let scan = Self::new(snapshot.table(), snapshot.layout(), files);
        Ok(Self {
            version: Some(snapshot.version()),
            ..scan
        })
    }

    /// A scan of `files` with the columns of `layout`.
    pub(crate) fn new(table: &DeltaTable, layout: &Arc<TableLayout>, files: Vec<ScanFile>) -> Self {
        Self {
            table: table.clone(),
            layout: Arc::clone(layout),
            version: None,
            files,
            file_columns: vec![],
            constants: vec![],
            row_number: None,
            runtime_pruning: None,
            wanted_anyway: None,
        }
    }

    /// The scan of no file.
    pub(crate) fn without_files(&self) -> Self {
        Self {
            table: self.table.clone(),
            layout: Arc::clone(&self.layout),
            version: self.version,
            files: vec![],
            file_columns: self.file_columns.clone(),
            constants: self.constants.clone(),
            row_number: self.row_number.clone(),
            runtime_pruning: self.runtime_pruning.clone(),
            wanted_anyway: self.wanted_anyway.clone(),
        }
    }

    /// The schema of the scan, before any projection.
    pub(crate) fn schema(&self) -> SchemaRef {
        let row_number = self
            .row_number
            .iter()
            .map(|name| Arc::new(Field::new(name, DataType::Int64, true)));
        let fields = self.layout.schema().fields().iter().cloned();
        let fields = fields
            .chain(self.file_columns.iter().cloned())
            .chain(self.constants.iter().cloned())
            .chain(row_number);
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Plans the scan. `projection` indexes [`Self::schema`]; `filters`, over the same columns, prune and need not be exact.
    pub(crate) async fn plan(
        mut self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = Columns::new(&self);
        let predicate = columns.predicate(state, filters)?;
        let total = self.files.len();
        if let Some(predicate) = &predicate {
            self.prune(&columns.pruning(predicate))?;
        }
        let output = self.output(projection);
        if self.files.is_empty() {
            let read = ScannedVersion {
                location: self.table.location().clone(),
                version: self.version,
            };
            return Ok(Arc::new(EmptyScan::new(
                Arc::new(self.schema().project(&output)?),
                read,
            )));
        }
        let files = self.partitioned_files().await?;
        let table_statistics = self.table_statistics(&columns, &files);
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let config = self
            .config_builder(state, &columns, predicate, &output)?
            .with_file_groups(groups)
            .with_statistics(table_statistics)
            .with_limit(limit)
            .build();
        self.register_store(state);
        let read = ScannedVersion {
            location: self.table.location().clone(),
            version: self.version,
        };
        let wanted = self.wanted(state, &columns)?;
        let statistics = LogStatistics::new(&self);
        let source = DeltaSource::new(config, statistics, self.table.name(), total, read, wanted);
        self.rename(DataSourceExec::from_data_source(source), &output)
    }

    /// What is known only when the scan is read; nothing where a row that is wanted anyway cannot be told.
    fn wanted(&self, state: &dyn Session, columns: &Columns) -> Result<Option<Wanted>> {
        let Some(pruning) = self.runtime_pruning.clone() else {
            return Ok(None);
        };
        let anyway = match &self.wanted_anyway {
            None => None,
            Some(rows) => match columns.predicate(state, std::slice::from_ref(rows))? {
                Some(expression) => Some(Anyway {
                    files: Arc::new(columns.pruning(&expression)),
                    expression,
                }),
                None => return Ok(None),
            },
        };
        Ok(Some(Wanted { pruning, anyway }))
    }

    /// The scan as one of the lanes of a larger one, which brings the files.
    pub(crate) fn into_lane(
        self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
    ) -> Result<Lane> {
        let columns = Columns::new(&self);
        let predicate = columns.predicate(state, filters)?;
        let output = self.output(projection);
        // the optimizer offers the source the same filters
        let config = self.config_builder(state, &columns, None, &output)?;
        self.register_store(state);
        Ok(Lane {
            config: config.build(),
            columns: Arc::new(columns),
            predicate,
            scan: Arc::new(self),
        })
    }

    /// What is wanted of [`Self::schema`].
    pub(crate) fn output(&self, projection: Option<&Vec<usize>>) -> Vec<usize> {
        projection
            .cloned()
            .unwrap_or_else(|| (0..self.schema().fields().len()).collect())
    }

    fn register_store(&self, state: &dyn Session) {
        state
            .runtime_env()
            .register_object_store(self.table.store_url().as_ref(), self.table.store());
    }

    /// The scan without its files.
    fn config_builder(
        &self,
        state: &dyn Session,
        columns: &Columns,
        predicate: Option<Arc<dyn PhysicalExpr>>,
        output: &[usize],
    ) -> Result<FileScanConfigBuilder> {
        let mut options = TableParquetOptions {
            global: state.config_options().execution.parquet.clone(),
            ..Default::default()
        };
        // Spark's INT96 timestamps reach further than 64-bit nanoseconds
        options.global.coerce_int96 = Some("us".into());
        let mut source =
            ParquetSource::new(columns.table_schema.clone()).with_table_parquet_options(options);
        source = source.with_parquet_file_reader_factory(Arc::new(self.readers()));
        if let Some(predicate) = predicate {
            source = source.with_predicate(predicate);
        }
        let inner: Vec<usize> = output.iter().map(|index| columns.inner[*index]).collect();
        Ok(
            FileScanConfigBuilder::new(self.table.store_url().clone(), Arc::new(source))
                .with_projection_indices(Some(inner))?,
        )
    }

    /// What opens the scan's files.
    pub(super) fn readers(&self) -> FileReaders {
        let readers = FileReaders::new(self.table.store());
        match self.layout.is_mapped_by_id() {
            true => readers.by_field_ids(self.layout.physical()),
            false => readers,
        }
    }

    /// Gives mapped columns their logical names back.
    pub(crate) fn rename(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        output: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !self.layout.is_mapped() {
            return Ok(plan);
        }
        let schema = self.schema();
        let expressions = output.iter().enumerate().map(|(position, index)| {
            let physical = plan.schema().field(position).clone();
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(physical.name(), position));
            let logical = schema.field(*index);
            (
                relabel(column, physical.data_type(), logical.data_type()),
                logical.name().clone(),
            )
        });
        let expressions: Vec<_> = expressions.collect();
        Ok(Arc::new(ProjectionExec::try_new(expressions, plan)?))
    }
}

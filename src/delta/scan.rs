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

mod log_statistics;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue, Statistics};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::RowNumber;
use parquet::arrow::arrow_reader::RowSelection;
use roaring::RoaringTreemap;

pub(super) use self::log_statistics::LogStatistics;
use super::actions::Add;
use super::data_file::count_rows;
use super::deletion_vector::{self, row_selection};
use super::file_readers::{FileReaders, UpcomingFile};
use super::lane::Lane;
use super::layout::TableLayout;
use super::relabel::relabel;
use super::scan_source::{Anyway, DeltaSource, EmptyScan, RuntimePruning, ScannedVersion, Wanted};
use super::snapshot::Snapshot;
use super::stats::{file_statistics, live_records, num_records, partition_value};
use super::table::DeltaTable;
use super::transaction::ReadRows;
use crate::error::Result;

/// How many files are looked into at once.
const CONCURRENT_READS: usize = 64;

/// Of how many files statistics are looked at together.
const PRUNED_AT_ONCE: usize = 1024;

/// What a row takes in a compressed file, where nobody knows.
const GUESSED_ROW_BYTES: u64 = 32;

/// Which rows of a file are read.
#[derive(Debug, Clone)]
pub(crate) enum RowMask {
    /// All that the file's own deletion vector leaves; it is read when the file has not been pruned.
    Live,
    /// All but these.
    Except(RoaringTreemap),
    /// Only these.
    Only(RoaringTreemap),
}

/// One file of a scan.
#[derive(Debug, Clone)]
pub(crate) struct ScanFile {
    pub add: Arc<Add>,
    pub rows: RowMask,
    /// The value of each of the scan's constant columns in this file.
    pub constants: Vec<ScalarValue>,
}

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

    /// What the log says of a file with these constants, by the columns of the Parquet source.
    pub(super) fn statistics_of(&self, add: &Add, constants: &[ScalarValue]) -> Result<Statistics> {
        let mut statistics = file_statistics(self.table.name(), add, &self.layout)?;
        let data_columns = self.layout.data_columns().count();
        for _ in 0..self.file_columns.len() {
            statistics.column_statistics.insert(
                data_columns,
                datafusion::common::ColumnStatistics::new_unknown(),
            );
        }
        for value in constants {
            statistics
                .column_statistics
                .push(constant_statistics(value));
        }
        Ok(statistics)
    }

    /// Drops the files that are ruled out by their statistics, which are made for some files at a time.
    fn prune(&mut self, pruning: &FilePruning) -> Result<()> {
        if !pruning.asks_anything() {
            return Ok(());
        }
        let mut kept = Vec::with_capacity(self.files.len());
        for files in self.files.chunks(PRUNED_AT_ONCE) {
            let of_file = |file: &ScanFile| self.statistics_of(&file.add, &file.constants);
            let statistics = files.iter().map(|file| of_file(file).map(Arc::new));
            kept.extend(pruning.prune(statistics.collect::<Result<_>>()?));
        }
        let mut kept = kept.into_iter();
        self.files.retain(|_| kept.next().unwrap_or(true));
        Ok(())
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

    /// The files as DataFusion reads them, each with what [`LogStatistics`] makes statistics of.
    async fn partitioned_files(&self) -> Result<Vec<PartitionedFile>> {
        let selections = self.selections().await?;
        let mut files = Vec::with_capacity(self.files.len());
        for (file, selection) in self.files.iter().zip(selections) {
            let mut partitioned = self.partitioned_file(file, selection)?;
            partitioned.extensions.insert_arc(Arc::clone(&file.add));
            files.push(partitioned);
        }
        Ok(files)
    }

    /// A file as DataFusion reads it, with what must be fetched for that.
    pub(super) async fn describe(
        &self,
        file: &ScanFile,
    ) -> Result<(PartitionedFile, UpcomingFile)> {
        let selection = selection(&self.table, &file.add, file.rows.clone()).await?;
        let upcoming = UpcomingFile {
            location: self.table.locate(&file.add.path)?,
            size: u64::try_from(file.add.size).unwrap_or(0),
        };
        Ok((self.partitioned_file(file, selection)?, upcoming))
    }

    /// What opens the scan's files.
    pub(super) fn readers(&self) -> FileReaders {
        let readers = FileReaders::new(self.table.store());
        match self.layout.is_mapped_by_id() {
            true => readers.by_field_ids(self.layout.physical()),
            false => readers,
        }
    }

    fn partitioned_file(
        &self,
        file: &ScanFile,
        selection: Option<RowSelection>,
    ) -> Result<PartitionedFile> {
        let partitions = self.layout.partition_columns();
        let mut values = Vec::with_capacity(partitions.len() + file.constants.len());
        for index in partitions {
            let (table, layout) = (self.table.name(), &self.layout);
            values.push(partition_value(table, layout, *index, &file.add)?);
        }
        values.extend(file.constants.iter().cloned());
        let size = u64::try_from(file.add.size).unwrap_or(0);
        let location = self.table.locate(&file.add.path)?;
        let mut partitioned =
            PartitionedFile::new(String::new(), size).with_partition_values(values);
        partitioned.object_meta.location = location.path.clone();
        if location.store.is_some() {
            partitioned = partitioned.with_extension(location);
        }
        if let Some(selection) = selection {
            partitioned = partitioned.with_extension(ParquetRowSelection::new(selection));
        }
        Ok(partitioned)
    }

    /// The rows that are read of each file, where not all are; what must be fetched for that is fetched many at a time.
    async fn selections(&self) -> Result<Vec<Option<RowSelection>>> {
        let wanted: Vec<(Arc<Add>, RowMask)> = self
            .files
            .iter()
            .map(|file| (Arc::clone(&file.add), file.rows.clone()))
            .collect();
        futures::stream::iter(wanted)
            .map(|(add, rows)| {
                let table = self.table.clone();
                async move { selection(&table, &add, rows).await }
            })
            .buffered(CONCURRENT_READS)
            .try_collect()
            .await
    }

    /// Row count and bytes of the whole scan; the count is exact where the log gives it for every file, and a guess by size
    /// otherwise: without any a join would take a small source for the larger side.
    fn table_statistics(&self, columns: &Columns, files: &[PartitionedFile]) -> Statistics {
        let schema = columns.table_schema.table_schema();
        let mut statistics = Statistics::new_unknown(schema);
        let rows: Option<u64> = self.files.iter().map(ScanFile::row_count).sum();
        if let Some(rows) = rows.and_then(|rows| usize::try_from(rows).ok()) {
            statistics.num_rows = Precision::Exact(rows);
        } else {
            let guess = |file: &ScanFile| {
                let size = u64::try_from(file.add.size).unwrap_or(0);
                file.row_count().unwrap_or(1 + size / GUESSED_ROW_BYTES)
            };
            let rows: u64 = self.files.iter().map(guess).sum();
            statistics.num_rows = Precision::Inexact(usize::try_from(rows).unwrap_or(usize::MAX));
        }
        // in memory rows are larger than in files: joins must not be planned by the compressed size
        let on_disk: u64 = files.iter().map(|file| file.object_meta.size).sum();
        let bytes = on_disk.max(rows.unwrap_or(0).saturating_mul(row_bytes(schema)));
        statistics.total_byte_size =
            Precision::Inexact(usize::try_from(bytes).unwrap_or(usize::MAX));
        statistics
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
            let column: Arc<dyn PhysicalExpr> =
                Arc::new(PhysicalColumn::new(physical.name(), position));
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

impl ScanFile {
    /// A file as it stands in the table.
    pub(crate) fn live(add: Arc<Add>) -> Self {
        Self {
            add,
            rows: RowMask::Live,
            constants: vec![],
        }
    }

    pub(crate) fn row_count(&self) -> Option<u64> {
        match &self.rows {
            RowMask::Live => live_records(&self.add),
            RowMask::Except(bitmap) => num_records(&self.add)?.checked_sub(bitmap.len()),
            RowMask::Only(bitmap) => Some(bitmap.len()),
        }
    }
}

/// The rows of a file that are read; `None` for all of them.
async fn selection(table: &DeltaTable, add: &Add, rows: RowMask) -> Result<Option<RowSelection>> {
    let (bitmap, marked) = match (rows, &add.deletion_vector) {
        (RowMask::Live, None) => return Ok(None),
        (RowMask::Live, Some(vector)) => (deletion_vector::read(table, vector).await?, false),
        (RowMask::Except(bitmap), _) => (bitmap, false),
        (RowMask::Only(bitmap), _) => (bitmap, true),
    };
    let rows = match num_records(add) {
        Some(rows) => rows,
        None => count_rows(table, add).await?,
    };
    Ok(Some(row_selection(&bitmap, rows, marked)))
}

/// Where each column of the scan lies in the Parquet source's schema.
#[derive(Debug)]
pub(super) struct Columns {
    table_schema: TableSchema,
    /// For each column of the scan, its index in `table_schema`.
    inner: Vec<usize>,
    logical: SchemaRef,
}

impl Columns {
    fn new(scan: &DeltaScan) -> Self {
        let layout = &scan.layout;
        let data: Vec<usize> = layout.data_columns().collect();
        let file_fields = data
            .iter()
            .map(|index| read_field(&layout.physical()[*index]))
            .chain(scan.file_columns.iter().cloned());
        let file_schema = Arc::new(Schema::new(file_fields.collect::<Vec<_>>()));
        let partitions = layout
            .partition_columns()
            .iter()
            .map(|index| read_field(&layout.physical()[*index]));
        let partitions: Vec<FieldRef> = partitions.chain(scan.constants.iter().cloned()).collect();
        let mut builder = TableSchema::builder(file_schema).with_table_partition_cols(partitions);
        if let Some(name) = &scan.row_number {
            builder = builder.with_virtual_columns(vec![Arc::new(
                Field::new(name, DataType::Int64, true).with_extension_type(RowNumber),
            )]);
        }
        let before_partitions = data.len() + scan.file_columns.len();
        let position = |index: usize| match data.iter().position(|column| *column == index) {
            Some(position) => position,
            None => {
                before_partitions
                    + layout
                        .partition_columns()
                        .iter()
                        .position(|column| *column == index)
                        .unwrap_or_default()
            }
        };
        let mut inner: Vec<usize> = (0..layout.schema().fields().len()).map(position).collect();
        inner.extend(data.len()..before_partitions);
        let constants = before_partitions + layout.partition_columns().len();
        inner.extend(
            constants..constants + scan.constants.len() + usize::from(scan.row_number.is_some()),
        );
        Self {
            table_schema: builder.build(),
            inner,
            logical: scan.schema(),
        }
    }

    /// Which of the files with these statistics may have rows that the predicate lets through.
    pub(super) fn may_match(
        &self,
        statistics: Vec<Arc<Statistics>>,
        predicate: &Arc<dyn PhysicalExpr>,
    ) -> Vec<bool> {
        self.pruning(predicate).prune(statistics)
    }

    /// The predicate ready to rule files out.
    fn pruning(&self, predicate: &Arc<dyn PhysicalExpr>) -> FilePruning {
        let schema = Arc::clone(self.table_schema.schema_without_virtual_columns());
        let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&schema));
        FilePruning {
            predicate: builder.try_build(Arc::clone(predicate)).ok(),
            schema,
        }
    }

    /// The filters as one predicate over the Parquet source's schema; those on nested mapped columns are left to the plan above.
    fn predicate(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let schema = self.table_schema.schema_without_virtual_columns();
        let rewritten = filters.iter().filter_map(|filter| self.rewrite(filter));
        let Some(filter) = conjunction(rewritten) else {
            return Ok(None);
        };
        let df_schema = DFSchema::try_from(Arc::clone(schema))?;
        Ok(state.create_physical_expr(filter, &df_schema).ok())
    }

    /// The filter with the names that the source has for its columns; `None` where it may not prune.
    ///
    /// Bounds of floats leave NaN out, which sorts after every number here: no filter on a float may prune.
    fn rewrite(&self, filter: &Expr) -> Option<Expr> {
        let schema = self.table_schema.schema_without_virtual_columns();
        let renamed = filter.clone().transform(|node| match node {
            Expr::Column(column) => {
                let logical = self.logical.index_of(&column.name)?;
                let inner = self.inner[logical];
                if inner >= schema.fields().len()
                    || schema.field(inner).data_type().is_floating()
                    || schema.field(inner).data_type() != self.logical.field(logical).data_type()
                {
                    return datafusion::common::plan_err!("not a filter for the source");
                }
                Ok(Transformed::yes(Expr::Column(Column::new_unqualified(
                    schema.field(inner).name(),
                ))))
            }
            other => Ok(Transformed::no(other)),
        });
        renamed.ok().map(|renamed| renamed.data)
    }
}

/// Rules files out by their statistics.
#[derive(Debug)]
pub(super) struct FilePruning {
    /// Absent where statistics cannot answer.
    predicate: Option<PruningPredicate>,
    schema: SchemaRef,
}

impl FilePruning {
    /// Whether there is anything that statistics could answer.
    fn asks_anything(&self) -> bool {
        let predicate = self.predicate.as_ref();
        predicate.is_some_and(|predicate| !predicate.always_true())
    }

    /// Whether a file with these statistics may have rows that the predicate lets through.
    pub(super) fn may_match(&self, statistics: &Arc<Statistics>) -> bool {
        self.prune(vec![Arc::clone(statistics)]) != [false]
    }

    fn prune(&self, statistics: Vec<Arc<Statistics>>) -> Vec<bool> {
        let all = vec![true; statistics.len()];
        let Some(predicate) = &self.predicate else {
            return all;
        };
        let statistics = PrunableStatistics::new(statistics, Arc::clone(&self.schema));
        predicate.prune(&statistics).unwrap_or(all)
    }
}

/// Tells by what the log says of a file whether a scan may read rows of it.
#[derive(Debug)]
pub(crate) struct FileFilter {
    scan: DeltaScan,
    filters: Option<FilePruning>,
}

impl FileFilter {
    /// The files of `scan` that `filters` and its pruning at run time leave, whichever it has.
    pub(crate) fn try_new(scan: DeltaScan, state: &dyn Session, filters: &[Expr]) -> Result<Self> {
        let columns = Columns::new(&scan);
        let predicate = columns.predicate(state, filters)?;
        Ok(Self {
            filters: predicate.map(|predicate| columns.pruning(&predicate)),
            scan,
        })
    }
}

impl ReadRows for FileFilter {
    fn may_match(&self, add: &Add) -> bool {
        let nothing = |field: &FieldRef| ScalarValue::try_new_null(field.data_type()).ok();
        let constants: Vec<_> = self.scan.constants.iter().filter_map(nothing).collect();
        let Ok(statistics) = self.scan.statistics_of(add, &constants) else {
            return true;
        };
        let statistics = Arc::new(statistics);
        let pruning = self.scan.runtime_pruning.as_ref();
        if !pruning.is_none_or(|pruning| pruning.may_match(&statistics)) {
            return false;
        }
        let filters = self.filters.as_ref();
        filters.is_none_or(|filters| filters.may_match(&statistics))
    }
}

/// The field as it is read: without field ids, which only writers need.
fn read_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(
        field.name(),
        field.data_type().clone(),
        field.is_nullable(),
    ))
}

/// A guess at the bytes of a row in memory.
fn row_bytes(schema: &Schema) -> u64 {
    const VARIABLE_WIDTH: usize = 32;
    let widths = schema.fields().iter().map(|field| {
        field
            .data_type()
            .primitive_width()
            .unwrap_or(VARIABLE_WIDTH)
    });
    widths.sum::<usize>() as u64
}

fn constant_statistics(value: &ScalarValue) -> datafusion::common::ColumnStatistics {
    let mut statistics = datafusion::common::ColumnStatistics::new_unknown();
    if !value.is_null() {
        statistics.null_count = Precision::Exact(0);
        statistics.min_value = Precision::Exact(value.clone());
        statistics.max_value = Precision::Exact(value.clone());
    }
    statistics
}

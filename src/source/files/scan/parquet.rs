//! Parquet files by DataFusion's own reader: those whose columns are what the source holds together, others shape by shape.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use chrono::DateTime;
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, ScalarValue, Statistics};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use object_store::ObjectMeta;
use parquet::arrow::RowNumber;

use super::{Columns, FileScan, ScannedFile, in_path};
use crate::error::Result;
use crate::source::ChangeRead;
use crate::source::files::discovery::below;
use crate::source::files::ledger::FileVersion;
use crate::source::files::location::Location;
use crate::source::files::mark_exec::MarkExec;
use crate::source::files::named_readers::NamedReaders;
use crate::source::files::shape::Shape;

const VERSION: &str = "__alluvial_version";
const ROW: &str = "__alluvial_row";
/// What a row takes in a compressed file, where nobody knows.
const GUESSED_ROW_BYTES: u64 = 32;

impl FileScan<'_> {
    /// Plans the read of Parquet files.
    pub(super) fn parquet(
        &self,
        read: &ChangeRead<'_>,
        columns: &Columns,
    ) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
        let mut fitting = Vec::new();
        let mut others: Vec<(Arc<Shape>, Vec<ScannedFile>)> = Vec::new();
        let mut known: HashMap<*const Shape, bool> = HashMap::new();
        for file in &self.files {
            let shape = &file.shape;
            let fits = match known.get(&Arc::as_ptr(shape)) {
                Some(fits) => *fits,
                None => self.fits(shape, &columns.read)?,
            };
            known.insert(Arc::as_ptr(shape), fits);
            if fits {
                fitting.push(file.clone());
            } else if let Some((_, files)) = others.iter_mut().find(|(other, _)| other == shape) {
                files.push(file.clone());
            } else {
                others.push((Arc::clone(shape), vec![file.clone()]));
            }
        }
        let mut plans = Vec::new();
        if !fitting.is_empty() {
            let read_as = self.read_schema(columns, false).fields().to_vec();
            plans.push(self.parquet_files(read, columns, fitting, read_as, None)?);
        }
        for (shape, files) in others {
            let own = shape.schema()?;
            let of_file = |held: &FieldRef| match shape.find(held.name()) {
                Some(column) if !column.in_path => own
                    .field_with_name(&column.name)
                    .map(|field| Arc::new(field.clone())),
                // absent: whatever it is read as is NULL
                _ => Ok(Arc::clone(held)),
            };
            let read_as = columns.read.iter().map(|held| of_file(&self.held[*held]));
            let read_as = read_as.collect::<Result<Vec<FieldRef>, _>>()?;
            plans.push(self.parquet_files(read, columns, files, read_as, Some(&shape))?);
        }
        Ok(plans)
    }

    /// Whether the Parquet reader gives the columns of such files as the source holds them.
    pub(super) fn fits(&self, shape: &Shape, columns: &[usize]) -> Result<bool> {
        let own = shape.schema()?;
        let marker = self.marker();
        let read = columns.iter().map(|held| &self.held[*held]);
        Ok(read
            .chain([&marker])
            .all(|held| match shape.find(held.name()) {
                Some(column) if !column.in_path => {
                    let data_type = own.field_with_name(&column.name).map(Field::data_type);
                    column.name == *held.name()
                        && data_type.is_ok_and(|found| widens(found, held.data_type()))
                }
                _ => true,
            }))
    }

    /// Reads files whose columns are `read_as`; of one `shape` where those are not what the source holds.
    fn parquet_files(
        &self,
        read: &ChangeRead<'_>,
        columns: &Columns,
        files: Vec<ScannedFile>,
        read_as: Vec<FieldRef>,
        shape: Option<&Arc<Shape>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let marked = self.marked_files(&files)?;
        let has_marker = marked.iter().any(|file| file.has_marker);
        let mut fields = read_as;
        if has_marker {
            let name = shape.and_then(|shape| self.marker_of(shape));
            let name = name.unwrap_or(&self.options.marker);
            fields.push(Arc::new(Field::new(name, DataType::Utf8, true)));
        }
        // what stands in the path of any file is not in its rows, which the reader would take for NULL
        let in_path = in_path(&files);
        let of_rows = |filter: &&Expr| {
            let mut columns = filter.column_refs().into_iter();
            shape.is_none() && columns.all(|column| !in_path.contains(column.name.as_str()))
        };
        let filters: Vec<Expr> = read.filters.iter().filter(of_rows).cloned().collect();
        let readers = Arc::new(NamedReaders::new(self.store(&files)));
        let opened = readers.opened();
        let schema = Arc::new(Schema::new(fields));
        let input = self.data_source(read, &files, schema, &filters, readers)?;
        let fitted = shape.map(|_| self.read_schema(columns, has_marker));
        let by_version = marked.into_iter().map(|file| (file.version, file));
        Ok(Arc::new(MarkExec::new(
            input,
            Arc::new(self.marking(columns, has_marker)),
            Arc::new(by_version.collect()),
            fitted,
            self.wanted,
            opened,
        )))
    }

    /// DataFusion's Parquet scan: the file's columns, the version, the row's number.
    fn data_source(
        &self,
        read: &ChangeRead<'_>,
        files: &[ScannedFile],
        schema: SchemaRef,
        filters: &[Expr],
        readers: Arc<NamedReaders>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let width = schema.fields().len();
        let row = Field::new(ROW, DataType::Int64, true).with_extension_type(RowNumber);
        let table = TableSchema::builder(Arc::clone(&schema))
            .with_table_partition_cols(vec![Arc::new(Field::new(VERSION, DataType::Int64, false))])
            .with_virtual_columns(vec![Arc::new(row)])
            .build();
        let options = TableParquetOptions {
            global: read.state.config_options().execution.parquet.clone(),
            ..Default::default()
        };
        let mut source = ParquetSource::new(table.clone())
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(readers);
        if let Some(predicate) = predicate(read.state, filters, &schema)? {
            source = source.with_predicate(predicate);
        }
        let url = store_url(self.location)?;
        let runtime = read.state.runtime_env();
        runtime.register_object_store(url.as_ref(), self.location.store());
        let groups = FileGroup::new(files.iter().map(|file| self.partitioned(file)).collect());
        let rows: u64 = files
            .iter()
            .map(|file| 1 + file.file.size / GUESSED_ROW_BYTES)
            .sum();
        let bytes: u64 = files.iter().map(|file| file.file.size).sum();
        let size = |number: u64| Precision::Inexact(usize::try_from(number).unwrap_or(usize::MAX));
        let statistics = Statistics {
            num_rows: size(rows),
            total_byte_size: size(bytes),
            ..Statistics::new_unknown(table.table_schema())
        };
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups.split_files(read.state.config().target_partitions()))
            .with_statistics(statistics)
            .with_projection_indices(Some((0..width + 2).collect()))?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn partitioned(&self, file: &ScannedFile) -> PartitionedFile {
        let FileVersion {
            path,
            size,
            modified,
            e_tag,
            version,
            ..
        } = &file.file;
        let meta = ObjectMeta {
            location: below(self.location.prefix(), path),
            last_modified: DateTime::from_timestamp_micros(*modified).unwrap_or_default(),
            size: *size,
            e_tag: e_tag.as_deref().map(str::to_owned),
            version: None,
        };
        PartitionedFile::new_from_meta(meta)
            .with_partition_values(vec![ScalarValue::Int64(Some(*version))])
    }
}

/// The filters that can be evaluated on the file's columns alone. Bounds of floats leave NaN out: none on one may prune.
fn predicate(
    state: &dyn Session,
    filters: &[Expr],
    schema: &SchemaRef,
) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let is_of_file = |filter: &&Expr| {
        filter.column_refs().iter().all(|column| {
            schema
                .field_with_name(&column.name)
                .is_ok_and(|field| !field.data_type().is_floating())
        })
    };
    let Some(filter) = conjunction(filters.iter().filter(is_of_file).cloned()) else {
        return Ok(None);
    };
    let df_schema = DFSchema::try_from(Arc::clone(schema))?;
    Ok(state.create_physical_expr(filter, &df_schema).ok())
}

/// Whether every value of one type is a value of the other, and the Parquet reader casts it so.
fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32,
    };
    if from == to {
        return true;
    }
    match (from, to) {
        (DataType::Utf8, DataType::Utf8View)
        | (DataType::Binary, DataType::BinaryView)
        | (Int8 | UInt8, Int16 | Int32 | Int64)
        | (Int16 | UInt16, Int32 | Int64)
        | (Int32 | UInt32, Int64)
        | (Float32, Float64) => true,
        (Decimal128(precision, scale), Decimal128(wider, same)) => {
            scale == same && precision <= wider
        }
        _ => false,
    }
}

/// The URL under which DataFusion's runtime knows the store: one for each location.
fn store_url(location: &Location) -> Result<ObjectStoreUrl> {
    let host: String = location
        .shown()
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(ObjectStoreUrl::parse(format!("change-files://{host}"))?)
}

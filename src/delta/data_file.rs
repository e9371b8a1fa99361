//! Writing data and change files, and the footer of a file where the log says too little.
//!
//! The Parquet itself, with statistics, is written by deltalake's `DeltaWriter`; what is here turns a table's layout and
//! properties into its configuration and its results into our actions.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use delta_kernel::table_properties::DataSkippingNumIndexedCols;
use deltalake::DeltaTableError;
use deltalake::datafile::writer::{DeltaWriter, WriterConfig};
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;

use super::actions::{Add, AddCdcFile, encode_path};
use super::layout::TableLayout;
use super::properties::TableProperties;
use super::relabel::relabel_array;
use super::snapshot::Snapshot;
use super::stats::without_rounded;
use super::table::DeltaTable;
use super::unnamed_files::UnnamedFiles;
use crate::change::CHANGE_TYPE;
use crate::error::{Error, Result};

/// Where change files go (*Change Data Files*).
const CHANGE_DATA_FOLDER: &str = "_change_data";

/// What a writer must know of the table it writes to; a table that is being created has no snapshot yet.
#[derive(Debug, Clone)]
pub(crate) struct WriteTarget {
    pub table: DeltaTable,
    pub layout: Arc<TableLayout>,
    pub properties: TableProperties,
}

impl From<&Snapshot> for WriteTarget {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            table: snapshot.table().clone(),
            layout: Arc::clone(snapshot.layout()),
            properties: snapshot.properties().clone(),
        }
    }
}

/// Writes rows, in the table's logical schema, to new data files.
pub(crate) struct DataFileWriter {
    writer: DeltaWriter,
    schema: SchemaRef,
    layout: Arc<TableLayout>,
}

impl DataFileWriter {
    /// A writer for new files of the table, whose rows have these columns after the table's; `files` are to know the files.
    pub(crate) fn new(target: &WriteTarget, more: Vec<FieldRef>, files: &UnnamedFiles) -> Self {
        let schema = physical_schema(&target.layout, more);
        Self {
            writer: DeltaWriter::new(files.store(), writer_config(target, &schema)),
            schema,
            layout: Arc::clone(&target.layout),
        }
    }

    /// Appends rows; partitioned tables are split by partition.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = to_physical(batch, &self.schema)?;
        self.writer.write(&rows).await.map_err(write_error)
    }

    /// Finishes the files; none is written for no rows.
    pub(crate) async fn close(self) -> Result<Vec<Add>> {
        let written = self
            .writer
            .close()
            .await
            .map_err(write_error)?
            .into_iter()
            .map(add_action);
        let exact = |add: Add| match add
            .stats
            .as_deref()
            .and_then(|stats| without_rounded(stats, &self.layout))
        {
            Some(stats) => Add {
                stats: Some(stats),
                ..add
            },
            None => add,
        };
        Ok(written.map(exact).collect())
    }
}

/// Writes change rows, in the table's logical schema followed by `_change_type`, to new change files.
pub(crate) struct ChangeFileWriter {
    writer: DeltaWriter,
    schema: SchemaRef,
}

impl ChangeFileWriter {
    /// A writer for new change files of the table; `files` are to know the files.
    pub(crate) fn new(target: &WriteTarget, files: &UnnamedFiles) -> Self {
        let change_type = Arc::new(Field::new(CHANGE_TYPE, DataType::Utf8, true));
        let schema = physical_schema(&target.layout, vec![change_type]);
        let store: Arc<dyn ObjectStore> =
            Arc::new(PrefixStore::new(files.store(), CHANGE_DATA_FOLDER));
        Self {
            writer: DeltaWriter::new(store, writer_config(target, &schema)),
            schema,
        }
    }

    /// Appends change rows.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = to_physical(batch, &self.schema)?;
        self.writer.write(&rows).await.map_err(write_error)
    }

    /// Finishes the files.
    pub(crate) async fn close(self) -> Result<Vec<AddCdcFile>> {
        let written = self.writer.close().await.map_err(write_error)?.into_iter();
        Ok(written.map(|add| cdc_action(add_action(add))).collect())
    }
}

/// How many rows a file holds, by its footer: for files whose statistics do not say.
pub(crate) async fn count_rows(table: &DeltaTable, add: &Add) -> Result<u64> {
    const TRAILER: u64 = 8;
    let damaged = |detail: String| Error::DamagedLog {
        table: table.name().into(),
        detail: format!("{}: {detail}", add.path),
    };
    let location = table.locate(&add.path)?;
    let (store, path) = (location.store_of(table), location.path);
    let size = u64::try_from(add.size)
        .ok()
        .filter(|size| *size > TRAILER)
        .ok_or_else(|| damaged(format!("its size is {}", add.size)))?;
    let trailer = store.get_range(&path, size - TRAILER..size).await?;
    let length = trailer
        .first_chunk::<4>()
        .map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)));
    let start = (size - TRAILER)
        .checked_sub(length)
        .ok_or_else(|| damaged("its footer is longer than the file".into()))?;
    let footer = store.get_range(&path, start..size - TRAILER).await?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer)
        .map_err(|error| damaged(error.to_string()))?;
    u64::try_from(metadata.file_metadata().num_rows()).map_err(Error::internal)
}

/// The store's own error, out of the Parquet writer's that deltalake makes of it.
fn write_error(error: DeltaTableError) -> Error {
    let DeltaTableError::Parquet {
        source: ParquetError::External(cause),
    } = error
    else {
        return error.into();
    };
    let cause = match cause.downcast::<io::Error>() {
        Ok(error)
            if error
                .get_ref()
                .is_some_and(|inner| inner.is::<object_store::Error>()) =>
        {
            match error.into_inner() {
                Some(inner) => inner,
                None => return Error::internal("a file could not be written"),
            }
        }
        Ok(error) => return (*error).into(),
        Err(cause) => cause,
    };
    match cause.downcast::<object_store::Error>() {
        Ok(error) => (*error).into(),
        Err(cause) => DeltaTableError::Parquet {
            source: ParquetError::External(cause),
        }
        .into(),
    }
}

fn physical_schema(layout: &TableLayout, more: Vec<FieldRef>) -> SchemaRef {
    // nullability is a promise of the table, checked before rows come here
    let columns = layout
        .physical()
        .iter()
        .map(|field| Arc::new(field.as_ref().clone()));
    Arc::new(Schema::new(columns.chain(more).collect::<Vec<_>>()))
}

fn writer_config(target: &WriteTarget, schema: &SchemaRef) -> WriterConfig {
    let (properties, layout) = (&target.properties, &target.layout);
    let partitions = layout
        .partition_columns()
        .iter()
        .map(|index| layout.physical_name(*index).to_owned())
        .collect();
    let indexed = match properties.indexed_columns {
        count if count < 0 => DataSkippingNumIndexedCols::AllColumns,
        count => DataSkippingNumIndexedCols::NumColumns(u64::try_from(count).unwrap_or(0)),
    };
    let file_bytes = NonZeroU64::new(properties.target_file_bytes);
    WriterConfig::new(
        Arc::clone(schema),
        partitions,
        None,
        file_bytes,
        None,
        indexed,
        properties.stats_columns.clone(),
    )
}

/// The same columns by their physical names and types.
fn to_physical(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            let array: ArrayRef = if column.data_type() == field.data_type() {
                Arc::clone(column)
            } else {
                relabel_array(column, field.data_type())?
            };
            Ok(array)
        });
    Ok(RecordBatch::try_new(
        Arc::clone(schema),
        columns.collect::<Result<_>>()?,
    )?)
}

fn add_action(add: deltalake::kernel::Add) -> Add {
    Add {
        path: encode_path(&add.path),
        partition_values: add.partition_values,
        size: add.size,
        modification_time: add.modification_time,
        data_change: true,
        stats: add.stats,
        ..Add::default()
    }
}

fn cdc_action(add: Add) -> AddCdcFile {
    AddCdcFile {
        path: format!("{CHANGE_DATA_FOLDER}/{}", add.path),
        partition_values: add.partition_values,
        size: add.size,
        data_change: false,
        tags: None,
    }
}

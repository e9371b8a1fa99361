//! Finds out which columns a new file has, once for all readers.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::async_reader::MetadataFetch;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use percent_encoding::percent_decode_str;

use super::discovery::below;
use super::ledger::{FileVersion, Ledger};
use super::location::Location;
use super::options::{FileFormat, FileOptions, OnInvalid};
use super::reader::{CsvFormat, TextFormat, inspect, inspect_names};
use super::shape::Shape;
use super::stored::stored_bytes;
use crate::change::refuse_reserved_columns;
use crate::error::{Error, Result};

/// Bytes at the end of a Parquet file that hold the metadata of most.
const FOOTER_BYTES: usize = 64 * 1024;
/// What a folder of a NULL is called (Hive).
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// Reads the columns of files.
#[derive(Debug)]
pub(super) struct Inspector<'a> {
    pub name: &'a str,
    pub location: &'a Location,
    pub options: &'a FileOptions,
}

/// The names of columns that need no type of a new file, in lower case.
pub(super) type KnownColumns = HashSet<String>;

impl Inspector<'_> {
    /// The columns whose types the ledger has; none before the first file. What is declared does not count: another reader may
    /// declare nothing.
    pub(super) fn known_columns(&self, ledger: &Ledger) -> KnownColumns {
        let mut known = KnownColumns::new();
        for shape in ledger.shapes(ledger.versions()) {
            self.learn(&mut known, shape);
        }
        known
    }

    /// Adds the columns of a shape.
    pub(super) fn learn(&self, known: &mut KnownColumns, shape: &Shape) {
        known.extend(
            shape
                .columns
                .iter()
                .map(|column| column.name.to_lowercase()),
        );
        if !known.is_empty() {
            known.insert(self.options.marker.to_lowercase());
        }
    }

    /// The columns of a file. Those of a format without types that are `known` are not looked at any further.
    ///
    /// # Errors
    /// When the file cannot be read as what it should be, naming it; never under `on_invalid 'quarantine'`, where such a file has
    /// no columns and no rows.
    pub(super) async fn shape(
        &self,
        file: &FileVersion,
        known: &KnownColumns,
    ) -> Result<Arc<Shape>> {
        let in_path = folder_values(&file.path).map(|(name, _)| name);
        let schema = match self.schema(file, known).await {
            Ok(schema) => schema,
            Err(Unread::Content(error)) if self.options.on_invalid == OnInvalid::Quarantine => {
                return Ok(Arc::new(Shape::unreadable(error.to_string())));
            }
            Err(Unread::Content(error) | Unread::Store(error)) => return Err(error),
        };
        refuse_reserved_columns(&format!("{} (file {})", self.name, file.path), &schema)?;
        let mut shape = Shape::new(&schema, in_path);
        let typed = matches!(&self.options.format, FileFormat::Parquet);
        for column in &mut shape.columns {
            if !typed && !column.in_path && known.contains(&column.name.to_lowercase()) {
                column.data_type = None;
            }
        }
        Ok(Arc::new(shape))
    }

    async fn schema(&self, file: &FileVersion, known: &KnownColumns) -> Result<SchemaRef, Unread> {
        if file.size == 0 {
            return Ok(Arc::new(Schema::empty()));
        }
        match &self.options.format {
            FileFormat::Parquet => self.parquet_schema(file).await,
            FileFormat::Text(format) => self.text_schema(file, format, known).await,
        }
    }

    async fn parquet_schema(&self, file: &FileVersion) -> Result<SchemaRef, Unread> {
        let path = below(self.location.prefix(), &file.path);
        let footer = Footer {
            store: self.location.store(),
            path,
        };
        let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
        let metadata = reader.load_and_finish(footer, file.size).await;
        let schema = metadata.and_then(|metadata| {
            let metadata = metadata.file_metadata();
            parquet_to_arrow_schema(metadata.schema_descr(), metadata.key_value_metadata())
        });
        let schema = schema.map_err(|error| self.unreadable(file, error))?;
        Ok(Arc::new(schema))
    }

    fn refused(&self, file: &FileVersion, error: object_store::Error) -> Unread {
        let doing = format!("read {}", file.path);
        Unread::Store(self.location.explain(&doing, error))
    }

    fn unreadable(&self, file: &FileVersion, error: ParquetError) -> Unread {
        if let ParquetError::External(inner) = error {
            return match inner.downcast::<object_store::Error>() {
                Ok(error) => self.refused(file, *error),
                Err(other) => Unread::Content(Error::invalid(format!("{}: {other}", file.path))),
            };
        }
        Unread::Content(Error::invalid(format!(
            "{} of {} is no whole Parquet file ({error}); put it there again in one piece, under a name that begins with '_' or '.' until it \
             is complete, or set such files aside with on_invalid 'quarantine'",
            file.path, self.name
        )))
    }

    async fn text_schema(
        &self,
        file: &FileVersion,
        format: &TextFormat,
        known: &KnownColumns,
    ) -> Result<SchemaRef, Unread> {
        let content = |error| match error {
            Error::ObjectStore(error) => self.refused(file, error),
            error => Unread::Content(error),
        };
        let compression = self.options.compression;
        let bytes = || async {
            let path = below(self.location.prefix(), &file.path);
            let found = self.location.store().get(&path).await;
            found
                .map(stored_bytes)
                .map_err(|error| self.refused(file, error))
        };
        let rows = self.options.infer_rows;
        if let TextFormat::Csv(csv @ CsvFormat { header: true, .. }) = format
            && !known.is_empty()
        {
            let names = inspect_names(csv, compression, &file.path, bytes().await?).await;
            let names = names.map_err(content)?;
            if names
                .iter()
                .all(|name| known.contains(&name.to_lowercase()))
            {
                let columns = names.into_iter();
                let columns = columns.map(|name| Field::new(name, DataType::Utf8, true));
                return Ok(Arc::new(Schema::new(columns.collect::<Vec<_>>())));
            }
        }
        let schema = inspect(format, compression, &file.path, bytes().await?, rows).await;
        schema.map_err(content)
    }
}

/// Why the columns of a file are not known.
enum Unread {
    /// It is not what it should be, and never will be.
    Content(Error),
    /// It could not be had.
    Store(Error),
}

/// The end of a Parquet file.
struct Footer {
    store: Arc<dyn ObjectStore>,
    path: Path,
}

impl MetadataFetch for Footer {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        let read = async move {
            let bytes = self.store.get_range(&self.path, range).await;
            bytes.map_err(|error| ParquetError::External(Box::new(error)))
        };
        read.boxed()
    }
}

/// The columns that stand in a path (`name=value/`), decoded; `None` for NULL.
pub(super) fn folder_values(path: &str) -> impl Iterator<Item = (String, Option<String>)> {
    let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
    folders.split('/').filter_map(|folder| {
        let (name, value) = folder.split_once('=')?;
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let value = (value != NULL_PARTITION).then(|| decode(value));
        (!name.is_empty()).then(|| (decode(name), value))
    })
}

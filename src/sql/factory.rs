//! `CREATE EXTERNAL TABLE … STORED AS DELTA | CHANGE_FILES LOCATION '…'`.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::Constraint;
use datafusion::error::Result;
use datafusion::logical_expr::CreateExternalTable;

use super::change_files_table::ChangeFilesTable;
use super::delta_table::DeltaTableProvider;
use crate::delta::DeltaTable;
use crate::error::Error;
use crate::source::ChangeFiles;

/// Opens the Delta table at a location: a folder, `s3://`, `abfss://`, `az://`, `gs://`; OPTIONS are object_store's.
#[derive(Debug)]
pub struct DeltaTableFactory;

#[async_trait]
impl TableProviderFactory for DeltaTableFactory {
    async fn create(
        &self,
        _: &dyn Session,
        statement: &CreateExternalTable,
    ) -> Result<Arc<dyn TableProvider>> {
        let [location] = statement.locations.as_slice() else {
            return Err(Error::invalid(format!(
                "a Delta table has one LOCATION, {} were given",
                statement.locations.len()
            ))
            .into());
        };
        if !statement.schema.fields().is_empty() || !statement.table_partition_cols.is_empty() {
            return Err(Error::invalid("a Delta table knows its own columns and partitions: leave them out of CREATE EXTERNAL TABLE … STORED AS DELTA").into());
        }
        let table = DeltaTable::new(
            statement.name.table(),
            location,
            storage_options(&statement.options),
        )?;
        Ok(Arc::new(DeltaTableProvider::try_new(table).await?))
    }
}

/// Opens the files with change markers at a location: a folder, `s3://`, `az://`, `abfss://`, `https://` of an Azure container,
/// `gs://`, `sftp://`.
#[derive(Debug)]
pub(crate) struct ChangeFilesFactory;

#[async_trait]
impl TableProviderFactory for ChangeFilesFactory {
    async fn create(
        &self,
        _: &dyn Session,
        statement: &CreateExternalTable,
    ) -> Result<Arc<dyn TableProvider>> {
        let [location] = statement.locations.as_slice() else {
            return Err(Error::invalid(format!(
                "a table of change files has one LOCATION, {} were given; use a folder above them, and a pattern",
                statement.locations.len()
            ))
            .into());
        };
        let declared = Arc::new(statement.schema.as_arrow().clone());
        let name = statement.name.table();
        let mut options = storage_options(&statement.options);
        if let Some(key) = primary_key(statement) {
            options.entry("key".into()).or_insert(key);
        }
        if !statement.order_exprs.is_empty() || !statement.column_defaults.is_empty() {
            return Err(Error::invalid(format!(
                "{name}: WITH ORDER and DEFAULT mean nothing for files with change markers; leave them out"
            ))
            .into());
        }
        let files = ChangeFiles::try_new(name, location, &options, declared)?;
        Ok(Arc::new(ChangeFilesTable::try_new(files).await?))
    }
}

/// The columns of the declared primary key, as the option `key` has them.
pub(super) fn primary_key(statement: &CreateExternalTable) -> Option<String> {
    let mut constraints = statement.constraints.iter();
    let key = constraints.find_map(|constraint| match constraint {
        Constraint::PrimaryKey(columns) => Some(columns),
        Constraint::Unique(_) => None,
    })?;
    let fields = statement.schema.fields();
    let names = key.iter().map(|index| fields[*index].name().as_str());
    Some(names.collect::<Vec<_>>().join(", "))
}

/// What `STORED AS` calls tables of files with change markers.
pub(super) const CHANGE_FILES: &str = "CHANGE_FILES";
/// What stands before their options on the way through DataFusion.
pub(super) const OPTION_PREFIX: &str = "change_files.";

/// DataFusion puts `format.` before options without a prefix; stores know them without.
fn storage_options(options: &HashMap<String, String>) -> HashMap<String, String> {
    options
        .iter()
        .map(|(key, value)| {
            (
                key.strip_prefix("format.")
                    .or_else(|| key.strip_prefix(OPTION_PREFIX))
                    .unwrap_or(key)
                    .to_owned(),
                value.clone(),
            )
        })
        .collect()
}

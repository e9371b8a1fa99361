//! The warehouse: a folder whose sub-folders are Delta tables.
//!
//! A folder with a `_delta_log` directly under the warehouse is a table of the schema `public`; any other sub-folder is a schema,
//! and the tables in it are its tables. Folders are looked at anew at each look-up, so tables made by others appear by themselves.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::TableType;

use super::delta_table::DeltaTableProvider;
use super::source_table::SourceTable;
use crate::delta::DeltaTable;
use crate::delta::tracking::TrackingOptions;
use crate::error::Error;

/// The schema of the tables that lie directly in the warehouse.
pub(crate) const DEFAULT_SCHEMA: &str = "public";
const LOG_FOLDER: &str = "_delta_log";
/// What is remembered of the warehouse itself, where no table can be.
const HIDDEN_FOLDER: &str = ".alluvial";
const TRACKING_DEFAULTS: &str = ".alluvial/change_tracking.json";

/// A catalog over a warehouse folder.
#[derive(Debug)]
pub struct WarehouseCatalog {
    root: PathBuf,
    schemas: Mutex<HashMap<String, Arc<WarehouseSchema>>>,
}

impl WarehouseCatalog {
    /// The catalog of the folder `root`, which is made when the first table is.
    ///
    /// # Errors
    /// When `root` is a file.
    pub fn try_new(root: impl Into<PathBuf>) -> crate::Result<Self> {
        let root = std::path::absolute(root.into())?;
        if root.is_file() {
            return Err(Error::invalid(format!(
                "the warehouse {} is a file; give a folder",
                root.display()
            )));
        }
        Ok(Self {
            root,
            schemas: Mutex::new(HashMap::new()),
        })
    }

    /// How tables are tracked unless they say otherwise; `None` where nobody has said.
    ///
    /// # Errors
    /// When the file that remembers it cannot be read.
    pub(crate) fn tracking_defaults(&self) -> crate::Result<Option<TrackingOptions>> {
        let file = self.root.join(TRACKING_DEFAULTS);
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                Error::invalid(format!(
                    "{} is damaged ({error}); remove it, and say again how tables are to be tracked with ALTER DATABASE … SET CHANGE_TRACKING",
                    file.display()
                ))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Remembers how tables are tracked unless they say otherwise.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_tracking_defaults(
        &self,
        options: Option<&TrackingOptions>,
    ) -> crate::Result<()> {
        let file = self.root.join(TRACKING_DEFAULTS);
        let Some(options) = options else {
            return match fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            };
        };
        let folder = self.root.join(HIDDEN_FOLDER);
        fs::create_dir_all(&folder)?;
        // renamed when it is whole
        let part = folder.join(format!("{}.part", uuid::Uuid::new_v4()));
        fs::write(&part, serde_json::to_vec_pretty(options)?)?;
        Ok(fs::rename(part, file)?)
    }

    fn folder(&self, schema: &str) -> PathBuf {
        if schema == DEFAULT_SCHEMA {
            self.root.clone()
        } else {
            self.root.join(schema)
        }
    }

    fn is_schema(&self, name: &str) -> bool {
        name == DEFAULT_SCHEMA
            || (is_safe(name) && self.folder(name).is_dir() && !is_table(&self.folder(name)))
    }
}

impl CatalogProvider for WarehouseCatalog {
    fn schema_names(&self) -> Vec<String> {
        let mut names = vec![DEFAULT_SCHEMA.to_owned()];
        names.extend(
            sub_folders(&self.root)
                .into_iter()
                .filter(|name| name != DEFAULT_SCHEMA && self.is_schema(name)),
        );
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if !self.is_schema(name) {
            return None;
        }
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        let schema = schemas
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(WarehouseSchema::new(self.folder(name))));
        Some(Arc::clone(schema) as Arc<dyn SchemaProvider>)
    }

    fn register_schema(
        &self,
        name: &str,
        _: Arc<dyn SchemaProvider>,
    ) -> Result<Option<Arc<dyn SchemaProvider>>> {
        check_name("schema", name)?;
        if is_table(&self.root.join(name)) {
            return Err(
                Error::invalid(format!("{name} is a table; give the schema another name")).into(),
            );
        }
        fs::create_dir_all(self.root.join(name)).map_err(Error::from)?;
        Ok(None)
    }

    fn deregister_schema(
        &self,
        name: &str,
        cascade: bool,
    ) -> Result<Option<Arc<dyn SchemaProvider>>> {
        let Some(schema) = self.schema(name) else {
            return Ok(None);
        };
        let tables = schema.table_names();
        if name == DEFAULT_SCHEMA {
            return Err(Error::invalid(format!(
                "the schema {DEFAULT_SCHEMA} is the warehouse itself and cannot be dropped"
            ))
            .into());
        }
        if !cascade && !tables.is_empty() {
            return Err(Error::invalid(format!(
                "schema {name} has tables ({}); drop them first or use DROP SCHEMA {name} CASCADE",
                tables.join(", ")
            ))
            .into());
        }
        for table in tables {
            schema.deregister_table(&table)?;
        }
        // other things in the folder are not ours: it stays if it is not empty
        let _ = fs::remove_dir(self.root.join(name));
        self.schemas
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        Ok(Some(schema))
    }
}

/// The tables of one folder, and views and external tables that live as long as the session.
#[derive(Debug)]
pub(crate) struct WarehouseSchema {
    folder: PathBuf,
    opened: Mutex<HashMap<String, DeltaTable>>,
    registered: RwLock<HashMap<String, Arc<dyn TableProvider>>>,
}

impl WarehouseSchema {
    fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            opened: Mutex::default(),
            registered: RwLock::default(),
        }
    }

    /// Where a table of that name is or would be.
    ///
    /// # Errors
    /// When the name would leave the warehouse.
    pub(crate) fn table_folder(&self, name: &str) -> crate::Result<PathBuf> {
        check_name("table", name)?;
        Ok(self.folder.join(name))
    }

    /// A handle on the table, the same one each time while the folder is there.
    pub(crate) fn delta_table(&self, name: &str) -> crate::Result<DeltaTable> {
        let folder = self.table_folder(name)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = opened.get(name) {
            return Ok(table.clone());
        }
        let table = DeltaTable::new(name, &folder.to_string_lossy(), HashMap::new())?;
        opened.insert(name.to_owned(), table.clone());
        Ok(table)
    }

    /// A handle on the Delta table of that name, without a look at its log; `None` where there is no table.
    ///
    /// # Errors
    /// When something else has that name.
    pub(crate) fn find(&self, name: &str) -> crate::Result<Option<DeltaTable>> {
        if let Some(provider) = self.registered(name) {
            return delta_table_of(name, provider.as_ref()).map(Some);
        }
        if is_table(&self.table_folder(name)?) {
            return self.delta_table(name).map(Some);
        }
        self.forget(name);
        Ok(None)
    }

    /// Forgets what was read of a table that is gone or made anew.
    pub(crate) fn forget(&self, name: &str) {
        self.opened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    /// A view or an external table of that name.
    pub(crate) fn registered(&self, name: &str) -> Option<Arc<dyn TableProvider>> {
        self.registered
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }
}

#[async_trait]
impl SchemaProvider for WarehouseSchema {
    fn table_names(&self) -> Vec<String> {
        let mut names: Vec<String> = sub_folders(&self.folder)
            .into_iter()
            .filter(|name| is_table(&self.folder.join(name)))
            .collect();
        names.extend(
            self.registered
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .keys()
                .cloned(),
        );
        names.sort();
        names.dedup();
        names
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        if let Some(table) = self.registered(name) {
            return match SourceTable::of(table.as_ref()) {
                // it may have got columns
                Some(source) => Ok(Some(source.refreshed().await?)),
                None => Ok(Some(table)),
            };
        }
        if !is_table(&self.table_folder(name)?) {
            self.forget(name);
            return Ok(None);
        }
        let table = self.delta_table(name)?;
        Ok(Some(Arc::new(DeltaTableProvider::try_new(table).await?)))
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        // told without opening the table, so that a damaged one does not hide the others from SHOW TABLES
        match self.registered(name) {
            Some(table) => Ok(Some(table.table_type())),
            None => Ok(is_table(&self.table_folder(name)?).then_some(TableType::Base)),
        }
    }

    fn register_table(
        &self,
        name: String,
        table: Arc<dyn TableProvider>,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        let folder = self.table_folder(&name)?;
        if is_table(&folder) {
            return Err(Error::TableExists(name).into());
        }
        if table.is::<MemTable>() {
            let message = format!(
                "CREATE TABLE {name} through ctx.sql() would be a table in memory, lost with the session; use ctx.alluvial_sql() for a Delta table in the warehouse"
            );
            return Err(Error::invalid(message).into());
        }
        Ok(self
            .registered
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, table))
    }

    fn deregister_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = self
            .registered
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name)
        {
            return Ok(Some(table));
        }
        let folder = self.table_folder(name)?;
        self.forget(name);
        if is_table(&folder) {
            drop_folder(&folder)?;
        }
        Ok(None)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.registered(name).is_some()
            || self
                .table_folder(name)
                .is_ok_and(|folder| is_table(&folder))
    }
}

/// The Delta table behind a provider.
///
/// # Errors
/// When it is none.
pub(crate) fn delta_table_of(
    name: &str,
    provider: &dyn TableProvider,
) -> crate::Result<DeltaTable> {
    match provider.downcast_ref::<DeltaTableProvider>() {
        Some(provider) => Ok(provider.table().clone()),
        None => Err(Error::invalid(format!("{name} is not a Delta table"))),
    }
}

/// Renames the folder before it is emptied, so that a half-dropped table is no table.
fn drop_folder(folder: &Path) -> crate::Result<()> {
    let hidden = folder.with_file_name(format!(".dropped-{}", uuid::Uuid::new_v4()));
    fs::rename(folder, &hidden)?;
    Ok(fs::remove_dir_all(&hidden)?)
}

fn is_table(folder: &Path) -> bool {
    folder.join(LOG_FOLDER).is_dir()
}

fn sub_folders(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = folders.filter(|name| is_safe(name)).collect();
    names.sort();
    names
}

/// One ordinary path component that is neither hidden nor Delta's own.
fn is_safe(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single = matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name);
    single
        && !name.starts_with('.')
        && name != LOG_FOLDER
        && !name.contains(['/', '\\', '\0'])
        && !has_escape(name)
}

/// Whether the name holds a percent sign and two hexadecimal digits, which a reader of URLs would take for a character.
fn has_escape(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.windows(3).any(|three| {
        three[0] == b'%' && three[1].is_ascii_hexdigit() && three[2].is_ascii_hexdigit()
    })
}

fn check_name(what: &str, name: &str) -> crate::Result<()> {
    if is_safe(name) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name:?} cannot be the name of a {what}: it would leave the warehouse, be hidden in it or be misread; use a name without '/', '\\', a leading '.' and escapes such as %20"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_the_warehouse() {
        for name in ["orders", "Größe", "two words", "a%b", "x..y"] {
            assert!(is_safe(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "../x",
            "/etc",
            "a%20b",
            "a/b",
            "a\\b",
            ".hidden",
            "_delta_log",
            "x/",
        ] {
            assert!(!is_safe(name), "{name}");
        }
    }
}

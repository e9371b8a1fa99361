//! `CREATE EXTERNAL TABLE … STORED AS VERSIONED`.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::Constraints;
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::CreateExternalTable;
use url::Url;

use super::super::source_table::SourceProvider;
use super::given::{Format, Given};
use super::place::{DeltaAt, Files, NamedTable};
use crate::delta::DeltaTable;
use crate::error::{Error, Result};
use crate::source::{Location, RowTable, VersionedTable};

/// Opens a table with a version column: files at a location, a Delta table there, or a table of the session.
#[derive(Debug)]
pub(crate) struct VersionedFactory;

#[async_trait]
impl TableProviderFactory for VersionedFactory {
    async fn create(
        &self,
        state: &dyn Session,
        statement: &CreateExternalTable,
    ) -> DataFusionResult<Arc<dyn TableProvider>> {
        let state = state.as_any().downcast_ref::<SessionState>();
        let state = state.ok_or_else(|| {
            Error::invalid("tables STORED AS VERSIONED need DataFusion's own SessionState, and this session is another implementation")
        })?;
        Ok(Arc::new(create(state, statement).await?))
    }
}

async fn create(state: &SessionState, statement: &CreateExternalTable) -> Result<SourceProvider> {
    let mut given = Given::try_new(statement)?;
    let options = std::mem::take(&mut given.versioned);
    let place = match given.table.take() {
        Some(table) => named(state, statement, &given, &table)?,
        None => stored(state, statement, given).await?,
    };
    let name = statement.name.table();
    let Place {
        table,
        location,
        identity,
    } = place;
    let table = VersionedTable::try_new(name, location, identity, table, &options, state).await?;
    SourceProvider::try_new(Arc::new(table)).await
}

/// Where the rows are, and what tells that place from others.
struct Place {
    table: Arc<dyn RowTable>,
    location: String,
    identity: String,
}

/// A table of the session.
fn named(
    state: &SessionState,
    statement: &CreateExternalTable,
    given: &Given,
    table: &str,
) -> Result<Place> {
    let name = statement.name.table();
    given.nothing_else(name)?;
    refuse_columns(statement, "a table of the session")?;
    if statement
        .locations
        .iter()
        .any(|location| !location.trim().is_empty())
    {
        return Err(Error::invalid(format!(
            "{name} has both the option table and a LOCATION; leave one of them out"
        )));
    }
    let table = NamedTable::new(table, state);
    let full_name = table.full_name();
    Ok(Place {
        location: format!("table {full_name}"),
        identity: format!("table:{full_name}"),
        table: Arc::new(table),
    })
}

/// Files or a Delta table at a location.
async fn stored(
    state: &SessionState,
    statement: &CreateExternalTable,
    given: Given,
) -> Result<Place> {
    let name = statement.name.table();
    let location = match statement.locations.as_slice() {
        [location] if !location.trim().is_empty() => location.trim(),
        [_] => {
            return Err(Error::invalid(format!(
                "{name} needs a LOCATION, or the option table, which names a table of the session"
            )));
        }
        several => {
            return Err(Error::invalid(format!(
                "a table STORED AS VERSIONED has one LOCATION, {} were given; use a folder above them",
                several.len()
            )));
        }
    };
    let format = given.format(name, location)?;
    let (store, of_format) = given.split(name, location, format, state)?;
    if format == Format::Delta {
        refuse_columns(statement, "a Delta table")?;
        let table = DeltaTable::new(name, location, store)?;
        let mut shown = table.location().clone();
        shown.set_query(None);
        return Ok(Place {
            location: shown.into(),
            identity: table.snapshot().await?.metadata().id.clone(),
            table: Arc::new(DeltaAt(table)),
        });
    }
    if state.get_file_format_factory(format.file_type()).is_none() {
        return Err(Error::invalid(format!(
            "{name}: DataFusion has been built without the format {}; store the rows in another one, such as Parquet",
            format.file_type()
        )));
    }
    let (listed, shown) = listed(state, location, &store)?;
    let files = CreateExternalTable {
        locations: vec![listed],
        file_type: format.file_type().into(),
        options: of_format,
        constraints: Constraints::default(),
        // which may have secrets in it
        definition: None,
        ..statement.clone()
    };
    let files = ListingTableFactory::new().create(state, &files).await?;
    Ok(Place {
        table: Arc::new(Files::new(files, state)),
        location: shown.clone(),
        identity: shown,
    })
}

fn refuse_columns(statement: &CreateExternalTable, what: &str) -> Result<()> {
    if statement.schema.fields().is_empty() && statement.table_partition_cols.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{}: {what} knows its own columns and partitions; leave them out",
        statement.name.table()
    )))
}

/// The location under which DataFusion finds the files, its store made known, and the same without secrets.
fn listed(
    state: &SessionState,
    location: &str,
    options: &HashMap<String, String>,
) -> Result<(String, String)> {
    if !location.contains("://") {
        let path = std::path::absolute(location)?
            .to_string_lossy()
            .into_owned();
        return Ok((location.to_owned(), path));
    }
    if location.to_ascii_lowercase().starts_with("file://") {
        return Ok((location.to_owned(), location.to_owned()));
    }
    let place = Location::try_new(location, options)?;
    let store_url = store_url(&place)?;
    let runtime = state.runtime_env();
    runtime.register_object_store(store_url.as_ref(), place.store());
    let is_file = place
        .prefix()
        .filename()
        .is_some_and(|name| name.contains('.'));
    let (url, prefix): (&Url, &str) = (store_url.as_ref(), place.prefix().as_ref());
    let mut url = url.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.clear();
        segments.extend(prefix.split('/'));
        if !is_file {
            segments.push("");
        }
    }
    Ok((url.into(), place.shown().to_owned()))
}

/// The URL under which DataFusion's runtime knows the store: one for each location, so that credentials are not mixed up.
fn store_url(place: &Location) -> Result<ObjectStoreUrl> {
    let host: String = place
        .shown()
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(ObjectStoreUrl::parse(format!("versioned://{host}"))?)
}

//! What the Delta kernel knows of a version: its files, after a replay of the log since the last checkpoint.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, MapArray, RecordBatch, StructArray};
use arrow::datatypes::{Int32Type, Int64Type};
use delta_kernel::engine::arrow_data::EngineDataArrowExt;
use delta_kernel::{Engine, Snapshot as KernelSnapshot};

use crate::delta::actions::{Add, DeletionVectorDescriptor, Metadata, Protocol};
use crate::delta::engine::engine;
use crate::delta::replay::{LogState, commit_file};
use crate::delta::table::DeltaTable;
use crate::error::{Error, Result};

/// A version, or the newest one, of a log about which nothing is known.
pub(super) async fn load(table: &DeltaTable, version: Option<u64>) -> Result<Arc<KernelSnapshot>> {
    let mut built = build(table, version).await?;
    if built.is_err() {
        if !table.exists().await? {
            return Err(Error::TableNotFound {
                table: table.name().into(),
                hint: format!(": there is no Delta table at {}", table.location()),
            });
        }
        // it may have been created since
        built = build(table, version).await?;
    }
    Ok(built?)
}

async fn build(
    table: &DeltaTable,
    version: Option<u64>,
) -> Result<delta_kernel::DeltaResult<Arc<KernelSnapshot>>> {
    let (root, engine) = (table.location().clone(), engine(table));
    blocking(move || {
        let builder = KernelSnapshot::builder_for(root);
        let builder = match version {
            Some(version) => builder.at_version(version),
            None => builder,
        };
        Ok(builder.build(engine.as_ref()))
    })
    .await
}

/// A version that is known to be there, read on from an earlier one where that helps.
pub(super) async fn at_version(
    table: &DeltaTable,
    version: i64,
    earlier: Option<Arc<KernelSnapshot>>,
) -> Result<Arc<KernelSnapshot>> {
    let version = u64::try_from(version).map_err(Error::internal)?;
    let (root, engine) = (table.location().clone(), engine(table));
    blocking(move || {
        let newer = earlier.map(|earlier| {
            let builder = KernelSnapshot::builder_from(earlier).at_version(version);
            builder.build(engine.as_ref())
        });
        if let Some(Ok(newer)) = newer {
            return Ok(newer);
        }
        let builder = KernelSnapshot::builder_for(root).at_version(version);
        Ok(builder.build(engine.as_ref())?)
    })
    .await
}

/// What is in force at the kernel's version.
pub(super) async fn state(table: &DeltaTable, kernel: &KernelSnapshot) -> Result<LogState> {
    let configuration = kernel.table_configuration();
    let metadata: Metadata =
        serde_json::from_value(serde_json::to_value(configuration.metadata())?)?;
    let protocol: Protocol =
        serde_json::from_value(serde_json::to_value(configuration.protocol())?)?;
    let version = i64::try_from(kernel.version()).map_err(Error::internal)?;
    Ok(LogState {
        version,
        metadata,
        protocol,
        commit: commit_file(table, version).await?,
    })
}

/// Runs the kernel's blocking code off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::internal)?
}

/// The active files.
pub(super) fn list_files(
    kernel: Arc<KernelSnapshot>,
    engine: &dyn Engine,
) -> Result<Vec<Arc<Add>>> {
    let scan = kernel.scan_builder().without_row_transforms().build()?;
    let mut files = Vec::new();
    for batch in scan.scan_metadata(engine)? {
        let selected = batch?.scan_files.apply_selection_vector()?;
        append_files(&selected.try_into_record_batch()?, &mut files)?;
    }
    Ok(files)
}

/// Reads the kernel's scan rows (`scan_row_schema`) as `add` actions.
fn append_files(batch: &RecordBatch, files: &mut Vec<Arc<Add>>) -> Result<()> {
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .ok_or_else(|| Error::internal(format!("the kernel's scan rows lack {name}")))
    };
    let (paths, stats) = (
        column("path")?.as_string::<i32>(),
        column("stats")?.as_string::<i32>(),
    );
    let sizes = column("size")?.as_primitive::<Int64Type>();
    let times = column("modificationTime")?.as_primitive::<Int64Type>();
    let vectors = column("deletionVector")?.as_struct();
    let constants = column("fileConstantValues")?.as_struct();
    for row in 0..batch.num_rows() {
        files.push(Arc::new(Add {
            path: paths.value(row).into(),
            partition_values: map_value(constants, "partitionValues", row).unwrap_or_default(),
            size: sizes.value(row),
            modification_time: if times.is_valid(row) {
                times.value(row)
            } else {
                0
            },
            data_change: true,
            stats: stats.is_valid(row).then(|| stats.value(row).into()),
            tags: map_value(constants, "tags", row).filter(|tags| !tags.is_empty()),
            deletion_vector: descriptor(vectors, row),
            base_row_id: long_value(constants, "baseRowId", row),
            default_row_commit_version: long_value(constants, "defaultRowCommitVersion", row),
            clustering_provider: text_value(constants, "clusteringProvider", row),
        }));
    }
    Ok(())
}

fn descriptor(vectors: &StructArray, row: usize) -> Option<DeletionVectorDescriptor> {
    let int_value = |name: &str| {
        let values = vectors.column_by_name(name)?.as_primitive::<Int32Type>();
        values.is_valid(row).then(|| values.value(row))
    };
    if vectors.is_null(row) {
        return None;
    }
    Some(DeletionVectorDescriptor {
        storage_type: text_value(vectors, "storageType", row)?,
        path_or_inline_dv: text_value(vectors, "pathOrInlineDv", row)?,
        offset: int_value("offset"),
        size_in_bytes: int_value("sizeInBytes")?,
        cardinality: long_value(vectors, "cardinality", row)?,
    })
}

fn text_value(parent: &StructArray, name: &str, row: usize) -> Option<String> {
    let values = parent.column_by_name(name)?.as_string_opt::<i32>()?;
    (parent.is_valid(row) && values.is_valid(row)).then(|| values.value(row).into())
}

fn long_value(parent: &StructArray, name: &str, row: usize) -> Option<i64> {
    let values = parent
        .column_by_name(name)?
        .as_primitive_opt::<Int64Type>()?;
    (parent.is_valid(row) && values.is_valid(row)).then(|| values.value(row))
}

fn map_value(
    parent: &StructArray,
    name: &str,
    row: usize,
) -> Option<HashMap<String, Option<String>>> {
    let maps: &MapArray = parent.column_by_name(name)?.as_map_opt()?;
    if parent.is_null(row) || maps.is_null(row) {
        return None;
    }
    let entries = maps.value(row);
    let (keys, values) = (
        entries.column(0).as_string_opt::<i32>()?,
        entries.column(1).as_string_opt::<i32>()?,
    );
    Some(
        (0..entries.len())
            .map(|i| {
                (
                    keys.value(i).to_owned(),
                    values.is_valid(i).then(|| values.value(i).to_owned()),
                )
            })
            .collect(),
    )
}

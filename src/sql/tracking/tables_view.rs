//! `change_tracking_tables`: the tracked tables of the default catalog, as SQL Server's `sys.change_tracking_tables` has them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::TableReference;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::delta::DeltaTable;
use crate::delta::tracking::ChangeTracking;
use crate::error::Result;
use crate::source::{DeltaTracking, TrackedTable, VersionBounds};
use crate::sql::lookup::Lookup;

/// The tracked tables.
pub(super) struct TrackingTables {
    lookup: Lookup,
}

impl TrackingTables {
    /// Those that are found so.
    pub(super) fn new(lookup: Lookup) -> Self {
        Self { lookup }
    }
}

impl std::fmt::Debug for TrackingTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TrackingTables")
    }
}

struct Row {
    name: TableReference,
    tracking: ChangeTracking,
    bounds: VersionBounds,
}

async fn row(name: TableReference, table: DeltaTable) -> Result<Row> {
    let tracked = DeltaTracking::new(table);
    Ok(Row {
        name,
        tracking: tracked.tracking().await?.1,
        bounds: tracked.bounds().await?,
    })
}

fn columns() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    let flag = |name: &str| Field::new(name, DataType::Boolean, false);
    Arc::new(Schema::new(vec![
        text("object_id", false),
        flag("is_track_columns_updated_on"),
        number("min_valid_version"),
        number("begin_version"),
        number("cleanup_version"),
        text("table_schema", true),
        text("table_name", false),
        number("current_version"),
        text("change_retention", true),
        flag("auto_cleanup"),
    ]))
}

/// The version up to which changes are gone; SQL Server's begin version is the one that tracking began with.
fn batch(rows: &[Row]) -> Result<RecordBatch> {
    let numbers = |value: &dyn Fn(&Row) -> i64| -> ArrayRef {
        Arc::new(
            rows.iter()
                .map(|row| Some(value(row)))
                .collect::<Int64Array>(),
        )
    };
    let texts = |value: &dyn Fn(&Row) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<StringArray>())
    };
    let flags = |value: &dyn Fn(&Row) -> bool| -> ArrayRef {
        Arc::new(
            rows.iter()
                .map(|row| Some(value(row)))
                .collect::<BooleanArray>(),
        )
    };
    let begin = |row: &Row| row.tracking.min_valid_version - row.tracking.begin_version;
    let retention = |row: &Row| {
        let retention = row.tracking.retention.as_deref()?;
        Some(retention.trim_start_matches("interval ").to_owned())
    };
    let columns_of: Vec<ArrayRef> = vec![
        texts(&|row| Some(row.name.to_string())),
        flags(&|row| row.tracking.columns_updated),
        numbers(&|row| row.bounds.min_valid),
        numbers(&begin),
        numbers(&|row| row.bounds.min_valid),
        texts(&|row| row.name.schema().map(str::to_owned)),
        texts(&|row| Some(row.name.table().to_owned())),
        numbers(&|row| row.bounds.current),
        texts(&retention),
        flags(&|row| row.tracking.auto_cleanup),
    ];
    Ok(RecordBatch::try_new(columns(), columns_of)?)
}

#[async_trait]
impl TableProvider for TrackingTables {
    fn schema(&self) -> SchemaRef {
        columns()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let mut rows = Vec::new();
        for (name, table) in self.lookup.tracked_tables(None).await? {
            rows.push(row(name, table).await?);
        }
        Ok(MemorySourceConfig::try_new_exec(
            &[vec![batch(&rows)?]],
            columns(),
            projection.cloned(),
        )?)
    }
}

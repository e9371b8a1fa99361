//! How far a target is behind its source.

use std::time::Duration;

use arrow::array::{Array, ArrowPrimitiveType, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use datafusion::error::Result;
use datafusion::prelude::SessionContext;
use tokio::time::timeout;

use crate::sql::SessionContextExt;
use crate::sync::Sync;

/// A source that does not answer for so long has an unknown lag.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `SHOW SYNCS` says of a sync, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Lag {
    /// The version of the source that the target equals.
    pub(super) position: Option<i64>,
    pub(super) versions: Option<i64>,
    pub(super) seconds: Option<f64>,
}

impl Lag {
    /// Asks the target; what cannot be had is unknown.
    pub(super) async fn measure(sync: &Sync, ctx: &SessionContext) -> Self {
        let sql = format!("SHOW SYNCS IN {}", sync.target().to_quoted_string());
        let Ok(Ok(batches)) = timeout(PATIENCE, query(ctx, &sql)).await else {
            return Self::default();
        };
        let mut found = batches
            .iter()
            .filter_map(|batch| Self::find(batch, sync.name()));
        found.next().unwrap_or_default()
    }

    fn find(batch: &RecordBatch, name: &str) -> Option<Self> {
        let names = batch.column_by_name("name")?.as_string_opt::<i32>()?;
        let row = names.iter().position(|known| known == Some(name))?;
        Some(Self {
            position: value::<Int64Type>(batch, "position", row),
            versions: value::<Int64Type>(batch, "lag_versions", row),
            seconds: value::<Float64Type>(batch, "lag_seconds", row),
        })
    }
}

async fn query(ctx: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>> {
    ctx.alluvial_sql(sql).await?.collect().await
}

fn value<T: ArrowPrimitiveType>(
    batch: &RecordBatch,
    column: &str,
    row: usize,
) -> Option<T::Native> {
    let values = batch.column_by_name(column)?.as_primitive_opt::<T>()?;
    values.is_valid(row).then(|| values.value(row))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

    #[test]
    fn a_sync_is_found_by_its_name() {
        let names: ArrayRef = Arc::new(StringArray::from(vec!["crm", "shop"]));
        let positions: ArrayRef = Arc::new(Int64Array::from(vec![Some(52), None]));
        let versions: ArrayRef = Arc::new(Int64Array::from(vec![Some(3), None]));
        let seconds: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.5), None]));
        let batch = RecordBatch::try_from_iter([
            ("name", names),
            ("position", positions),
            ("lag_versions", versions),
            ("lag_seconds", seconds),
        ])
        .unwrap();
        let crm = Lag {
            position: Some(52),
            versions: Some(3),
            seconds: Some(1.5),
        };
        assert_eq!(Lag::find(&batch, "crm"), Some(crm));
        assert_eq!(Lag::find(&batch, "shop"), Some(Lag::default()));
        assert_eq!(Lag::find(&batch, "web"), None);
    }
}

//! How a sync gets at what its statement names. The SQL layer, which knows names, implements it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::TableReference;
use datafusion::logical_expr::LogicalPlan;

use super::spec::SourceSpec;
use crate::delta::DeltaTable;
use crate::error::Result;
use crate::source::ChangeSource;

/// Looks up what a sync names.
#[async_trait]
pub(crate) trait SyncSession {
    /// The Delta table of that name, or the place where one would be created.
    async fn sync_target(&self, name: &TableReference) -> Result<DeltaTable>;

    /// The source, a query over changes being one like any other.
    async fn sync_source(&self, source: &SourceSpec) -> Result<Arc<dyn ChangeSource>>;

    /// The rows of any table or query.
    async fn source_rows(&self, source: &SourceSpec) -> Result<LogicalPlan>;
}

//! Where changes come from. Every source answers the same question: what changed after one version, up to another?
//!
//! ```text
//!  ChangeBounds ── resolve() ──> ChangeRange ── changes() ──> ExecutionPlan of the change relation
//! ```

mod delta_feed;

use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;

pub(crate) use delta_feed::DeltaFeed;

use crate::change::{ChangeBounds, ChangeRange};
use crate::error::Result;

/// Something whose changes can be asked for by version.
#[async_trait]
pub(crate) trait ChangeSource: Debug + Send + Sync {
    /// Checks bounds against the versions there are.
    async fn resolve(&self, bounds: &ChangeBounds) -> Result<ChangeRange>;

    /// The change relation's schema as of a version, the newest one if absent.
    async fn schema(&self, version: Option<i64>) -> Result<SchemaRef>;

    /// The columns of the declared primary key; empty where there is none.
    async fn primary_key(&self) -> Result<Vec<String>>;

    /// Plans the read of a range. Everything that can be known to be missing is found out here, before the first row.
    async fn changes(
        &self,
        range: ChangeRange,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>>;
}

/// How the rows of a range are to be read.
pub(crate) struct ChangeRead<'a> {
    pub state: &'a dyn Session,
    /// Indices into [`ChangeSource::schema`] at the range's upper bound.
    pub projection: Option<&'a Vec<usize>>,
    /// Filters that may prune; they are evaluated again above.
    pub filters: &'a [Expr],
    pub limit: Option<usize>,
}

//! What files with change markers answer as a source of changes.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, SchemaRef};
use async_trait::async_trait;
use datafusion::physical_plan::ExecutionPlan;

use super::ChangeFiles;
use super::ledger::FileVersion;
use super::mark_exec::Wanted;
use super::options::OnTie;
use super::shape::Shape;
use crate::change::{Bound, ChangeBounds, ChangeRange};
use crate::delta::create::TableDefinition;
use crate::error::{Error, Result};
use crate::source::{ChangeRead, ChangeSource, Clock};

#[async_trait]
impl ChangeSource for ChangeFiles {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn location(&self) -> String {
        self.shared.location.shown().to_owned()
    }

    async fn current_version(&self) -> Result<i64> {
        Ok(self.current().await?.ledger.versions())
    }

    async fn identity(&self) -> Result<String> {
        let found = self.current().await?;
        if let Some(id) = found.ledger.id() {
            return Ok(id.to_owned());
        }
        // without a file there is no ledger yet, and whoever follows needs to know whether this one lasts
        let folder = &self.shared.folder;
        folder.append(found.ledger.as_ref().clone(), vec![]).await?;
        let ledger = folder.refresh(None).await?;
        let id = ledger.id().map(str::to_owned);
        id.ok_or_else(|| Error::internal("a ledger that was written has no identity"))
    }

    async fn fingerprint(&self, version: i64) -> Result<Option<i64>> {
        let found = self.found_with(version).await?;
        let files = found.ledger.files(&self.shared.folder, version, version);
        Ok(files.await?.first().map(FileVersion::fingerprint))
    }

    async fn commit_time(&self, version: i64) -> Result<Option<i64>> {
        let found = self.found_with(version).await?;
        let files = found.ledger.files(&self.shared.folder, version, version);
        Ok(files.await?.first().map(|file| file.time))
    }

    async fn definition(&self, version: i64) -> Result<TableDefinition> {
        let found = self.found_with(version).await?;
        Ok(TableDefinition {
            columns: self.held(&found.ledger, version)?,
            partition_columns: vec![],
            primary_key: self.shared.options.key.clone(),
            properties: HashMap::new(),
            comment: None,
        })
    }

    async fn check_followable(&self) -> Result<()> {
        Ok(())
    }

    async fn resolve(&self, bounds: &ChangeBounds) -> Result<ChangeRange> {
        let found = self.current().await?;
        let mut clock = Clock::new(&self.shared.name, found.ledger.versions());
        for bound in [Some(&bounds.since), bounds.until.as_ref()]
            .into_iter()
            .flatten()
        {
            match bound {
                Bound::Timestamp(micros) => {
                    let at = found
                        .ledger
                        .version_at(&self.shared.folder, *micros)
                        .await?;
                    clock.instants.insert(*micros, at);
                }
                Bound::Earliest => clock.earliest = self.earliest(&found).await?,
                Bound::Version(_) | Bound::Beginning => {}
            }
        }
        bounds.resolve(&clock)
    }

    async fn schema(&self, version: Option<i64>) -> Result<SchemaRef> {
        let found = match version {
            Some(version) => self.found_with(version).await?,
            None => self.current().await?,
        };
        let version = version.unwrap_or(found.ledger.versions());
        self.change_schema(self.held(&found.ledger, version)?)
    }

    async fn primary_key(&self) -> Result<Vec<String>> {
        Ok(self.shared.options.key.clone())
    }

    fn sequence(&self) -> Option<&str> {
        self.shared.options.sequence.as_deref()
    }

    fn refuses_ties(&self) -> bool {
        self.shared.options.on_tie == OnTie::Error
    }

    fn sets_rows_aside(&self) -> bool {
        self.shared.options.sets_aside()
    }

    async fn absent_columns(&self, range: ChangeRange) -> Result<Vec<String>> {
        let found = self.found_with(range.until()).await?;
        let held = self.held(&found.ledger, range.until())?;
        let files = found
            .ledger
            .files(&self.shared.folder, range.first(), range.until());
        let mut shapes: Vec<u32> = files.await?.iter().map(|file| file.shape).collect();
        shapes.sort_unstable();
        shapes.dedup();
        let shapes = shapes
            .into_iter()
            .map(|number| Ok(self.named(found.ledger.shape(number)?)));
        let shapes = shapes.collect::<Result<Vec<Shape>>>()?;
        let is_absent = |field: &&FieldRef| {
            let mut with_rows = shapes.iter().filter(|shape| shape.has_rows());
            with_rows.any(|shape| shape.find(field.name()).is_none())
        };
        Ok(held
            .iter()
            .filter(is_absent)
            .map(|field| field.name().clone())
            .collect())
    }

    async fn changes(
        &self,
        range: ChangeRange,
        read: ChangeRead<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let found = self.found_with(range.until()).await?;
        let files = self.files(&found, &range).await?;
        self.scan(&found.ledger, range.until(), files, &read, Wanted::Changes)
    }

    fn has_rows(&self) -> bool {
        false
    }

    async fn rows(&self, _: i64, _: ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        Err(Error::internal(
            "files have changes, and no rows beside them",
        ))
    }
}

//! OPTIMIZE and REORG … APPLY (PURGE): the same rows in other files.
//!
//! ```text
//!  files of the chosen partitions ─┬ small ones, in bins of the target size ──────── one file each ─┐
//!                                  ├ ZORDER BY: all of a partition, sorted ── files of target size ─┼─> one commit
//!                                  └ PURGE: those with deletion vectors, in bins ─── one file each ─┘   dataChange = false
//! ```
//!
//! No row changes, so the change feed has nothing of it, append-only tables allow it, and writers that add rows or change those of
//! other files do not get in its way. Where a file was changed that it has copied, it begins anew.

mod bins;
mod filter;
mod report;

use std::collections::HashMap;
use std::sync::Arc;

use chrono::Utc;
use datafusion::execution::SessionState;
use datafusion::prelude::SessionConfig;
use futures::{StreamExt, TryStreamExt, stream};

use self::bins::{by_partition, has_many_deleted, pack};
use self::filter::chosen_files;
pub(crate) use self::report::Optimized;
use super::insert::write_target;
use super::rewrite::{SortKey, copy_rows};
use super::zorder::ZRanges;
use crate::delta::DeltaTable;
use crate::delta::actions::{Action, Add};
use crate::delta::data_file::WriteTarget;
use crate::delta::layout::TableLayout;
use crate::delta::scan::ScanFile;
use crate::delta::snapshot::Snapshot;
use crate::delta::stats::{live_records, num_records};
use crate::delta::transaction::{CommitOutcome, Operation, ReadSet, Transaction, after_commit};
use crate::delta::unnamed_files::{UnnamedFiles, remove_all};
use crate::error::{Error, Result};

/// How often the files are chosen again after another writer has changed one of them.
const MAX_REPLANS: u32 = 5;
/// The tag of a file with the columns that its partition was ordered by.
const ZORDER_TAG: &str = "alluvial.zOrderBy";
/// A bin becomes one file even where its rows take more room than they did: another codec may have packed them tighter.
const ROOM_TO_GROW: u64 = 4;

/// What is done to the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rewrite {
    /// Small files, and those with many deleted rows, are put together.
    Compact,
    /// All rows are ordered by the named columns.
    ZOrder(Vec<String>),
    /// Deleted rows are removed from the files that have any.
    Purge,
}

/// One statement.
#[derive(Debug)]
pub(crate) struct Optimize {
    pub table: DeltaTable,
    pub session: Arc<SessionState>,
    pub rewrite: Rewrite,
    /// Which partitions, as SQL; all of them if absent.
    pub predicate: Option<String>,
}

enum Attempt {
    Done(Optimized),
    Lost(Error),
}

impl Optimize {
    /// Rewrites and commits.
    ///
    /// # Errors
    /// When the table may not be written or the columns or the predicate do not fit it, and [`Error::Conflict`] when other writers
    /// have changed the files again and again.
    pub(crate) async fn run(&self) -> Result<Optimized> {
        let mut replans = 0;
        loop {
            match Box::pin(self.attempt()).await? {
                Attempt::Done(optimized) => return Ok(optimized),
                Attempt::Lost(conflict) if replans == MAX_REPLANS => return Err(conflict),
                Attempt::Lost(_) => replans += 1,
            }
        }
    }

    async fn attempt(&self) -> Result<Attempt> {
        let base = self.table.snapshot().await?;
        let target = write_target(&base, false)?;
        let columns = self.columns(&base)?;
        let bins = self.bins(&base, &columns).await?;
        if bins.is_empty() {
            return Ok(Attempt::Done(Optimized::default()));
        }
        let written = UnnamedFiles::new(self.table.store());
        let adds = self.copy(&target, &columns, &bins, &written).await;
        let adds = match adds.and_then(|adds| self.checked(&bins, adds)) {
            Ok(adds) => adds,
            Err(error) => {
                written.remove().await;
                return Err(error);
            }
        };
        let removed: Vec<Arc<Add>> = bins.into_iter().flatten().collect();
        let optimized = Optimized::new(&removed, &adds);
        let transaction = self.transaction(base, &removed, adds)?;
        // from here on nobody knows whether a commit names them
        let paths = written.keep();
        match transaction.commit().await {
            Ok(CommitOutcome::Committed(version)) => {
                after_commit(&self.table, version).await;
                Ok(Attempt::Done(Optimized {
                    version: Some(version),
                    ..optimized
                }))
            }
            Ok(CommitOutcome::Conflict(conflict)) => {
                remove_all(self.table.store().as_ref(), paths).await;
                Ok(Attempt::Lost(conflict))
            }
            Ok(CommitOutcome::Failed(error)) => {
                remove_all(self.table.store().as_ref(), paths).await;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The positions of the columns to order by.
    fn columns(&self, base: &Snapshot) -> Result<Vec<usize>> {
        let Rewrite::ZOrder(names) = &self.rewrite else {
            return Ok(vec![]);
        };
        let table = base.table().name();
        let mut features = base.protocol().writer_features.iter().flatten();
        if features.any(|feature| feature == "clustering") {
            return Err(Error::invalid(format!(
                "ZORDER BY: {table} is a clustered table, whose rows have an order of their own; OPTIMIZE without ZORDER BY puts its small files together"
            )));
        }
        let mut columns = Vec::with_capacity(names.len());
        for name in names {
            let column = z_column(table, base.layout(), name)?;
            if columns.contains(&column) {
                return Err(Error::invalid(format!("ZORDER BY names {name:?} twice")));
            }
            columns.push(column);
        }
        Ok(columns)
    }

    /// The files that are rewritten, those together that become one file or are ordered together.
    async fn bins(&self, base: &Snapshot, columns: &[usize]) -> Result<Vec<Vec<Arc<Add>>>> {
        let files = base.files().await?.as_ref().clone();
        let files = match &self.predicate {
            Some(predicate) => chosen_files(base, &self.session, predicate, files).await?,
            None => files,
        };
        let target_bytes = base.properties().target_file_bytes;
        let is_small = |file: &Add| u64::try_from(file.size).unwrap_or(0) < target_bytes;
        let packed = |files: Vec<Arc<Add>>| pack(files, target_bytes);
        let partitions = by_partition(files).into_iter();
        Ok(match &self.rewrite {
            Rewrite::Compact => partitions
                .map(|mut files| {
                    files.retain(|file| is_small(file) || has_many_deleted(file));
                    files
                })
                .flat_map(packed)
                .filter(|bin| bin.len() > 1 || bin.iter().any(|file| has_many_deleted(file)))
                .collect(),
            Rewrite::Purge => partitions
                .map(|mut files| {
                    files.retain(|file| file.deletion_vector.is_some());
                    files
                })
                .flat_map(packed)
                .collect(),
            Rewrite::ZOrder(_) => {
                let tag = z_tag(base.layout(), columns)?;
                partitions
                    .filter(|files| !files.iter().all(|file| is_ordered(file, &tag)))
                    .collect()
            }
        })
    }

    /// Writes the rows of the bins to new files.
    async fn copy(
        &self,
        target: &WriteTarget,
        columns: &[usize],
        bins: &[Vec<Arc<Add>>],
        written: &UnnamedFiles,
    ) -> Result<Vec<Add>> {
        let copied: Vec<Vec<Add>> = if columns.is_empty() {
            // one writer for each bin, several bins at once
            let parallel = self.session.config().target_partitions();
            let session = self.session_with(|config| {
                config.options_mut().execution.target_partitions = 1;
            });
            let mut target = target.clone();
            let bytes = &mut target.properties.target_file_bytes;
            *bytes = bytes.saturating_mul(ROOM_TO_GROW);
            let copies: Vec<_> = bins
                .iter()
                .map(|bin| copy_rows(&target, &session, scanned(bin), None, written))
                .collect();
            let copies = stream::iter(copies).buffered(parallel);
            copies.try_collect().await?
        } else {
            let mut copied = Vec::with_capacity(bins.len());
            for bin in bins {
                copied.push(Box::pin(self.order(target, columns, bin, written)).await?);
            }
            copied
        };
        let adds = copied.into_iter().flatten().map(|add| Add {
            data_change: false,
            ..add
        });
        Ok(adds.collect())
    }

    /// Writes the rows of a partition in their new order.
    async fn order(
        &self,
        target: &WriteTarget,
        columns: &[usize],
        files: &[Arc<Add>],
        written: &UnnamedFiles,
    ) -> Result<Vec<Add>> {
        let ranges = ZRanges::of(target, &self.session, scanned(files), columns).await?;
        let session = self.session_with(|config| config.set_extension(Arc::new(ranges)));
        let key = Some(SortKey::ZOrder(columns.to_vec()));
        let mut adds = copy_rows(target, &session, scanned(files), key, written).await?;
        let tag = z_tag(&target.layout, columns)?;
        for add in &mut adds {
            let tags = add.tags.get_or_insert_default();
            tags.insert(ZORDER_TAG.into(), Some(tag.clone()));
        }
        Ok(adds)
    }

    fn session_with(&self, change: impl FnOnce(&mut SessionConfig)) -> Arc<SessionState> {
        let mut session = self.session.as_ref().clone();
        change(session.config_mut());
        Arc::new(session)
    }

    /// Makes sure that no row was lost or came twice, as far as the log counts them.
    fn checked(&self, bins: &[Vec<Arc<Add>>], adds: Vec<Add>) -> Result<Vec<Add>> {
        let expected: Option<u64> = bins.iter().flatten().map(|file| live_records(file)).sum();
        let copied: Option<u64> = adds.iter().map(num_records).sum();
        match (expected, copied) {
            (Some(expected), Some(copied)) if expected != copied => Err(Error::DamagedLog {
                table: self.table.name().into(),
                detail: format!(
                    "it counts {expected} rows in the files that were to be rewritten, which have {copied}; nothing was written"
                ),
            }),
            _ => Ok(adds),
        }
    }

    fn transaction(
        &self,
        base: Arc<Snapshot>,
        removed: &[Arc<Add>],
        adds: Vec<Add>,
    ) -> Result<Transaction> {
        let mut operation = self.operation()?;
        report::record(&mut operation, removed, &adds);
        let now = Utc::now().timestamp_millis();
        let removes = removed
            .iter()
            .map(|file| Action::Remove(file.to_remove(now, false)));
        Ok(Transaction {
            table: self.table.clone(),
            base: Some(base),
            operation,
            actions: removes.chain(adds.into_iter().map(Action::Add)).collect(),
            reads: ReadSet::Nothing,
            touched: HashMap::new(),
        })
    }

    /// What the commit says of itself, in delta-spark's words.
    fn operation(&self) -> Result<Operation> {
        let predicate = serde_json::to_string(self.predicate.as_slice())?;
        let names: &[String] = match &self.rewrite {
            Rewrite::Compact => &[],
            Rewrite::ZOrder(names) => names,
            Rewrite::Purge => {
                return Ok(Operation::new("REORG")
                    .with_parameter("predicate", predicate)
                    .with_parameter("applyPurge", true));
            }
        };
        Ok(Operation::new("OPTIMIZE")
            .with_parameter("predicate", predicate)
            .with_parameter("zOrderBy", serde_json::to_string(names)?)
            .with_parameter("auto", false))
    }
}

fn scanned(files: &[Arc<Add>]) -> Vec<ScanFile> {
    files.iter().cloned().map(ScanFile::live).collect()
}

/// The position of a column that rows can be ordered by.
fn z_column(table: &str, layout: &TableLayout, name: &str) -> Result<usize> {
    let fields = layout.schema().fields();
    let Some((index, field)) = layout.schema().column_with_name(name) else {
        let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        return Err(Error::invalid(format!(
            "ZORDER BY: {table} has no column {name:?}; its columns are {}",
            names.join(", ")
        )));
    };
    if layout.is_partition(index) {
        return Err(Error::invalid(format!(
            "ZORDER BY: {table} is partitioned by {name:?}, so that rows that differ in it are in different files anyway; name other columns"
        )));
    }
    if field.data_type().is_nested() {
        return Err(Error::invalid(format!(
            "ZORDER BY: {name:?} of {table} is {}, which has no order; name columns of a plain type",
            field.data_type()
        )));
    }
    Ok(index)
}

/// The tag of files that are ordered by these columns.
fn z_tag(layout: &TableLayout, columns: &[usize]) -> Result<String> {
    let names: Vec<&str> = columns
        .iter()
        .map(|index| layout.physical_name(*index))
        .collect();
    Ok(serde_json::to_string(&names)?)
}

/// Whether the file has come out of the same ordering and still is worth what it was.
fn is_ordered(file: &Add, tag: &str) -> bool {
    let found = file.tags.as_ref().and_then(|tags| tags.get(ZORDER_TAG));
    found.and_then(Option::as_deref) == Some(tag) && !has_many_deleted(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tag: Option<&str>) -> Add {
        Add {
            tags: tag.map(|tag| [(ZORDER_TAG.to_owned(), Some(tag.to_owned()))].into()),
            ..Add::default()
        }
    }

    #[test]
    fn only_the_same_order_is_an_order() {
        let tag = r#"["a","b"]"#;
        assert!(is_ordered(&file(Some(tag)), tag));
        assert!(!is_ordered(&file(Some(r#"["b","a"]"#)), tag));
        assert!(!is_ordered(&file(None), tag));
    }
}

//! Which files of a scan are read at all, by what the log says of them.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::{ScalarValue, Statistics};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};

use super::{Columns, DeltaScan, ScanFile};
use crate::delta::actions::Add;
use crate::delta::transaction::ReadRows;
use crate::error::Result;

/// Of how many files statistics are looked at together.
const PRUNED_AT_ONCE: usize = 1024;

/// Rules files out by their statistics.
#[derive(Debug)]
pub(crate) struct FilePruning {
    /// Absent where statistics cannot answer.
    predicate: Option<PruningPredicate>,
    schema: SchemaRef,
}

impl FilePruning {
    /// Rules files out by a predicate over the columns of `schema`.
    pub(super) fn new(predicate: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Self {
        let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema));
        Self {
            predicate: builder.try_build(Arc::clone(predicate)).ok(),
            schema: Arc::clone(schema),
        }
    }

    /// Whether there is anything that statistics could answer.
    fn asks_anything(&self) -> bool {
        let predicate = self.predicate.as_ref();
        predicate.is_some_and(|predicate| !predicate.always_true())
    }

    /// Whether a file with these statistics may have rows that the predicate lets through.
    pub(crate) fn may_match(&self, statistics: &Arc<Statistics>) -> bool {
        self.prune(vec![Arc::clone(statistics)]) != [false]
    }

    /// Which of the files with these statistics may have such rows.
    pub(super) fn prune(&self, statistics: Vec<Arc<Statistics>>) -> Vec<bool> {
        let all = vec![true; statistics.len()];
        let Some(predicate) = &self.predicate else {
            return all;
        };
        let statistics = PrunableStatistics::new(statistics, Arc::clone(&self.schema));
        predicate.prune(&statistics).unwrap_or(all)
    }
}

impl DeltaScan {
    /// Drops the files that are ruled out by their statistics, which are made for some files at a time.
    pub(super) fn prune(&mut self, pruning: &FilePruning) -> Result<()> {
        if !pruning.asks_anything() {
            return Ok(());
        }
        let mut kept = Vec::with_capacity(self.files.len());
        for files in self.files.chunks(PRUNED_AT_ONCE) {
            let of_file = |file: &ScanFile| self.statistics_of(&file.add, &file.constants);
            let statistics = files.iter().map(|file| of_file(file).map(Arc::new));
            kept.extend(pruning.prune(statistics.collect::<Result<_>>()?));
        }
        let mut kept = kept.into_iter();
        self.files.retain(|_| kept.next().unwrap_or(true));
        Ok(())
    }
}

/// Tells by what the log says of a file whether a scan may read rows of it.
#[derive(Debug)]
pub(crate) struct FileFilter {
    scan: DeltaScan,
    filters: Option<FilePruning>,
}

impl FileFilter {
    /// The files of `scan` that `filters` and its pruning at run time leave, whichever it has.
    pub(crate) fn try_new(scan: DeltaScan, state: &dyn Session, filters: &[Expr]) -> Result<Self> {
        let columns = Columns::new(&scan);
        let predicate = columns.predicate(state, filters)?;
        Ok(Self {
            filters: predicate.map(|predicate| columns.pruning(&predicate)),
            scan,
        })
    }
}

impl ReadRows for FileFilter {
    fn may_match(&self, add: &Add) -> bool {
        let nothing = |field: &FieldRef| ScalarValue::try_new_null(field.data_type()).ok();
        let constants: Vec<_> = self.scan.constants.iter().filter_map(nothing).collect();
        let Ok(statistics) = self.scan.statistics_of(add, &constants) else {
            return true;
        };
        let statistics = Arc::new(statistics);
        let pruning = self.scan.runtime_pruning.as_ref();
        if !pruning.is_none_or(|pruning| pruning.may_match(&statistics)) {
            return false;
        }
        let filters = self.filters.as_ref();
        filters.is_none_or(|filters| filters.may_match(&statistics))
    }
}

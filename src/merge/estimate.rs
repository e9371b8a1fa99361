//! What a statement is expected to do, for EXPLAIN.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use datafusion::common::JoinType;

use crate::delta::actions::Add;
use crate::delta::stats::live_records;

/// What a MERGE is expected to do.
#[derive(Debug, Clone)]
pub(crate) struct Estimate {
    /// How the source is joined with the target.
    pub join: JoinType,
    /// The target's columns whose keys prune it.
    pub keys: Vec<String>,
    /// How many files the target has.
    pub files: usize,
    /// Rows that may be written, at most; absent where the source says nothing of itself.
    pub rows: Option<u64>,
    /// What a row of the target takes in its files, in bytes; absent for an empty table.
    pub row_bytes: Option<u64>,
}

impl Estimate {
    /// What the target's files say.
    pub(crate) fn of_files(join: JoinType, files: &[Arc<Add>]) -> Self {
        let rows: u64 = files.iter().filter_map(|file| live_records(file)).sum();
        let bytes: i64 = files.iter().map(|file| file.size).sum();
        Self {
            join,
            keys: vec![],
            files: files.len(),
            rows: None,
            row_bytes: u64::try_from(bytes).unwrap_or(0).checked_div(rows),
        }
    }
}

impl Display for Estimate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "join={}, files={}", self.join, self.files)?;
        if !self.keys.is_empty() {
            write!(f, ", pruned_by=[{}]", self.keys.join(", "))?;
        }
        if let Some(rows) = self.rows {
            write!(f, ", rows<={rows}")?;
            if let Some(bytes) = self.row_bytes {
                write!(f, ", bytes<={}", rows.saturating_mul(bytes))?;
            }
        }
        Ok(())
    }
}

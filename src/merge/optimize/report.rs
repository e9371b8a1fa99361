//! What OPTIMIZE and REORG say of what they did.

use std::sync::Arc;

use crate::delta::actions::Add;
use crate::delta::stats::num_records;
use crate::delta::transaction::Operation;

/// What a statement did; nothing but zeros where there was nothing to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Optimized {
    pub files_added: i64,
    pub files_removed: i64,
    pub bytes_added: i64,
    pub bytes_removed: i64,
    pub deletion_vectors_removed: i64,
    /// Rows that were copied.
    pub rows: i64,
    /// Absent when there was nothing to commit.
    pub version: Option<i64>,
}

impl Optimized {
    /// What became of these files.
    pub(super) fn new(removed: &[Arc<Add>], added: &[Add]) -> Self {
        let rows: u64 = added.iter().filter_map(num_records).sum();
        Self {
            files_added: count(added.len()),
            files_removed: count(removed.len()),
            bytes_added: added.iter().map(|file| file.size).sum(),
            bytes_removed: removed.iter().map(|file| file.size).sum(),
            deletion_vectors_removed: count(vectors(removed)),
            rows: i64::try_from(rows).unwrap_or(i64::MAX),
            version: None,
        }
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn vectors(files: &[Arc<Add>]) -> usize {
    let with_vector = |file: &&Arc<Add>| file.deletion_vector.is_some();
    files.iter().filter(with_vector).count()
}

/// The metrics by delta-spark's names.
pub(super) fn record(operation: &mut Operation, removed: &[Arc<Add>], added: &[Add]) {
    let bytes_removed: i64 = removed.iter().map(|file| file.size).sum();
    let mut sizes: Vec<i64> = added.iter().map(|file| file.size).collect();
    sizes.sort_unstable();
    let last = sizes.len().saturating_sub(1);
    let quarter = |number: usize| sizes.get((sizes.len() * number / 4).min(last)).copied();
    operation.metric("numAddedFiles", added.len());
    operation.metric("numRemovedFiles", removed.len());
    operation.metric("numAddedBytes", sizes.iter().sum::<i64>());
    operation.metric("numRemovedBytes", bytes_removed);
    operation.metric("numDeletionVectorsRemoved", vectors(removed));
    let names = [
        "minFileSize",
        "p25FileSize",
        "p50FileSize",
        "p75FileSize",
        "maxFileSize",
    ];
    for (number, name) in names.into_iter().enumerate() {
        operation.metric(name, quarter(number).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sizes: &[i64], expected: [&str; 5]) {
        let added: Vec<Add> = sizes
            .iter()
            .map(|size| Add {
                size: *size,
                ..Add::default()
            })
            .collect();
        let mut operation = Operation::new("OPTIMIZE");
        record(&mut operation, &[], &added);
        let names = ["min", "p25", "p50", "p75", "max"];
        let found = names.map(|name| operation.metrics[&format!("{name}FileSize")].clone());
        assert_eq!(found, expected, "{sizes:?}");
    }

    #[test]
    fn sizes_by_quarter() {
        check(&[], ["0"; 5]);
        check(&[7], ["7"; 5]);
        check(&[4, 2, 3, 1, 5], ["1", "2", "3", "4", "5"]);
    }
}

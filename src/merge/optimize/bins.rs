//! Which files OPTIMIZE puts together.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::delta::actions::Add;
use crate::delta::stats::num_records;

/// Above this share of deleted rows a file is worth copying for its own sake (delta-spark's
/// `optimize.maxDeletedRowsRatio`).
const MAX_DELETED_SHARE: f64 = 0.05;
/// So many bins are looked at for one that a file fits into.
const OPEN_BINS: usize = 32;

/// The files of each partition, the oldest first.
pub(super) fn by_partition(files: Vec<Arc<Add>>) -> Vec<Vec<Arc<Add>>> {
    let mut partitions: BTreeMap<Vec<(String, String)>, Vec<Arc<Add>>> = BTreeMap::new();
    for file in files {
        // the empty string and NULL are the same value
        let values = file.partition_values.iter();
        let values = values.filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        let mut key: Vec<_> = values.filter(|(_, value)| !value.is_empty()).collect();
        key.sort();
        partitions.entry(key).or_default().push(file);
    }
    for files in partitions.values_mut() {
        files.sort_by(|a, b| (a.modification_time, &a.path).cmp(&(b.modification_time, &b.path)));
    }
    partitions.into_values().collect()
}

/// Puts files of one partition into bins whose live rows take up to `target_bytes`: each into the first one it fits into.
pub(super) fn pack(files: Vec<Arc<Add>>, target_bytes: u64) -> Vec<Vec<Arc<Add>>> {
    let mut open: VecDeque<(u64, Vec<Arc<Add>>)> = VecDeque::new();
    let mut full = Vec::new();
    for file in files {
        let bytes = live_bytes(&file);
        let fits = |filled: u64| filled.saturating_add(bytes) <= target_bytes;
        match open.iter_mut().find(|(filled, _)| fits(*filled)) {
            Some((filled, bin)) => {
                *filled += bytes;
                bin.push(file);
            }
            None => {
                open.push_back((bytes, vec![file]));
                if open.len() > OPEN_BINS {
                    full.extend(open.pop_front().map(|(_, bin)| bin));
                }
            }
        }
    }
    full.extend(open.into_iter().map(|(_, bin)| bin));
    full
}

/// Whether so many rows of the file are deleted that it should be copied without them.
pub(super) fn has_many_deleted(file: &Add) -> bool {
    deleted_share(file) > MAX_DELETED_SHARE
}

/// The share of the file's rows that are in its deletion vector; all of them where the log does not say how many there are.
fn deleted_share(file: &Add) -> f64 {
    match (&file.deletion_vector, num_records(file)) {
        (None, _) => 0.0,
        (Some(vector), Some(rows)) if rows > 0 => vector.cardinality as f64 / rows as f64,
        (Some(_), _) => 1.0,
    }
}

/// About how many bytes the live rows of a file take.
fn live_bytes(file: &Add) -> u64 {
    let live = (1.0 - deleted_share(file)).clamp(0.0, 1.0);
    (file.size.max(0) as f64 * live) as u64
}

#[cfg(test)]
mod tests {
    use crate::delta::actions::DeletionVectorDescriptor;

    use super::*;

    fn file(path: &str, size: i64, deleted: i64) -> Add {
        Add {
            path: path.into(),
            size,
            stats: Some(r#"{"numRecords":100}"#.into()),
            deletion_vector: (deleted > 0).then(|| DeletionVectorDescriptor {
                storage_type: "i".into(),
                path_or_inline_dv: String::new(),
                offset: None,
                size_in_bytes: 1,
                cardinality: deleted,
            }),
            ..Add::default()
        }
    }

    fn names(bins: &[Vec<Arc<Add>>]) -> Vec<String> {
        let name = |bin: &Vec<Arc<Add>>| {
            bin.iter()
                .map(|file| file.path.as_str())
                .collect::<String>()
        };
        bins.iter().map(name).collect()
    }

    fn check(files: &[(&str, i64, i64)], expected: &[&str]) {
        let files = files
            .iter()
            .map(|(path, size, deleted)| Arc::new(file(path, *size, *deleted)));
        assert_eq!(names(&pack(files.collect(), 100)), expected);
    }

    #[test]
    fn files_go_into_the_first_bin_with_room() {
        check(&[], &[]);
        check(&[("a", 10, 0), ("b", 20, 0)], &["ab"]);
        check(
            &[("a", 60, 0), ("b", 60, 0), ("c", 40, 0), ("d", 40, 0)],
            &["ac", "bd"],
        );
        check(&[("a", 100, 0), ("b", 1, 0)], &["a", "b"]);
        // what is deleted takes no room
        check(&[("a", 100, 50), ("b", 50, 0), ("c", 1, 0)], &["ab", "c"]);
    }

    #[test]
    fn far_more_bins_than_are_looked_at_lose_no_file() {
        let files = (0..200).map(|n| Arc::new(file(&n.to_string(), 51, 0)));
        let bins = pack(files.collect(), 100);
        assert_eq!((bins.len(), bins.concat().len()), (200, 200));
    }

    #[test]
    fn few_deleted_rows_are_left_alone() {
        for (deleted, expected) in [(0, false), (5, false), (6, true), (100, true)] {
            assert_eq!(
                has_many_deleted(&file("a", 1, deleted)),
                expected,
                "{deleted}"
            );
        }
        let silent = Add {
            stats: None,
            ..file("a", 1, 1)
        };
        assert!(has_many_deleted(&silent));
    }

    #[test]
    fn partitions_stay_apart() {
        let of = |path: &str, value: Option<&str>| {
            Arc::new(Add {
                partition_values: [("p".to_owned(), value.map(str::to_owned))].into(),
                ..file(path, 1, 0)
            })
        };
        let files = vec![
            of("b", Some("x")),
            of("c", None),
            of("a", Some("x")),
            of("d", Some("")),
        ];
        assert_eq!(names(&by_partition(files)), ["cd", "ab"]);
    }
}

//! What a statement is expected to write, for EXPLAIN: nothing of it is computed unless it is shown.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::common::stats::Precision;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use super::commit_exec::CommitPlan;
use super::gather_exec::GatherExec;
use super::row_format::RowFormat;
use super::unique_exec::UniqueKeysExec;
use super::write_exec::RowWriteExec;
use crate::delta::scan::guessed_row_bytes;
use crate::delta::scan_source::{FilesLeft, files_left};
use crate::delta::stats::live_records;

/// What a value of no fixed width is taken for, in bytes.
const GUESSED_VALUE_BYTES: usize = 16;

/// What only the planner of a MERGE knows of it.
#[derive(Debug, Clone)]
pub(crate) struct MergeOutline {
    /// How the source is joined with the target.
    pub join: JoinType,
    /// The target's columns whose keys prune it.
    pub keys: Vec<String>,
    /// How many rows of the source a clause may apply to.
    pub source_rows: Precision<usize>,
    /// Whether a clause may apply to rows of the target that no row of the source matches.
    pub by_source: bool,
    /// Whether rows of the target are updated or deleted.
    pub marks_rows: bool,
}

/// What a statement is expected to write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Estimate {
    rows: Option<Figure>,
    bytes: Option<Figure>,
    data_files: Option<Figure>,
    deletion_vectors: Option<Figure>,
    rewritten_files: Option<Figure>,
}

impl Estimate {
    /// What `plan` is expected to write of its `input`.
    pub(super) fn of(plan: &CommitPlan, input: &Arc<dyn ExecutionPlan>) -> Self {
        let input = rows_of(input);
        let target = &plan.write.target;
        let marks_rows = match &plan.outline {
            Some(outline) => outline.marks_rows,
            None => plan.write.format != RowFormat::Inserts,
        };
        let (row_bytes, bytes_are_known) = match row_bytes(plan) {
            Some(bytes) => (bytes, true),
            None => (
                guessed_row_bytes(target.layout.schema(), GUESSED_VALUE_BYTES),
                false,
            ),
        };
        let of_target = files_left(input, target.table.location());
        Facts {
            rows: rows(plan, input, &of_target),
            row_bytes,
            bytes_are_known,
            writes_rows: plan.write.format.has_new_values(),
            marked: marks_rows.then_some(of_target),
            deletion_vectors: target.properties.deletion_vectors,
            target_file_bytes: target.properties.target_file_bytes,
            partitioned: !target.layout.partition_columns().is_empty(),
        }
        .estimate()
    }
}

impl Display for Estimate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let figures = [
            ("rows", self.rows),
            ("bytes", self.bytes),
            ("data_files", self.data_files),
            ("deletion_vectors", self.deletion_vectors),
            ("rewritten_files", self.rewritten_files),
        ];
        for (name, figure) in figures {
            if let Some(figure) = figure {
                write!(f, ", {name}{figure}")?;
            }
        }
        Ok(())
    }
}

/// A number, and how well it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    AtMost(u64),
    About(u64),
    AtLeast(u64),
}

impl Display for Figure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(number) => write!(f, "<={number}"),
            Self::About(number) => write!(f, "~{number}"),
            Self::AtLeast(number) => write!(f, ">={number}"),
        }
    }
}

/// What an estimate is made of.
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// The rows that are written or marked.
    rows: Precision<usize>,
    row_bytes: u64,
    /// Whether the width of a row is that of the table's files, and not a guess.
    bytes_are_known: bool,
    writes_rows: bool,
    /// The files of the target that may have rows to be marked.
    marked: Option<FilesLeft>,
    deletion_vectors: bool,
    target_file_bytes: u64,
    partitioned: bool,
}

impl Facts {
    fn estimate(&self) -> Estimate {
        let rows = match self.rows {
            Precision::Exact(rows) => Figure::AtMost(rows as u64),
            Precision::Inexact(rows) => Figure::About(rows as u64),
            Precision::Absent => return self.marking(None),
        };
        let (Figure::AtMost(count) | Figure::About(count) | Figure::AtLeast(count)) = rows;
        let copied = self.marked.filter(|_| !self.deletion_vectors);
        let written = match self.writes_rows {
            true => count.saturating_mul(self.row_bytes),
            false => 0,
        };
        let bytes = written.saturating_add(copied.map_or(0, |copied| copied.bytes));
        let no_data = count == 0 || (!self.writes_rows && copied.is_none());
        let bytes_figure = match rows {
            Figure::AtMost(_) if self.bytes_are_known => Figure::AtMost(bytes),
            _ => Figure::About(bytes),
        };
        Estimate {
            rows: Some(rows),
            bytes: (!no_data).then_some(bytes_figure),
            data_files: (!no_data).then(|| self.data_files(bytes)),
            ..self.marking(Some(rows))
        }
    }

    /// Files by the bytes that go into them: rows that are written need one at least.
    fn data_files(&self, bytes: u64) -> Figure {
        let files = bytes.div_ceil(self.target_file_bytes.max(1)).max(1);
        match self.partitioned {
            true => Figure::AtLeast(files),
            false => Figure::About(files),
        }
    }

    /// The files of the target that do not stay as they are: at most one for each row.
    fn marking(&self, rows: Option<Figure>) -> Estimate {
        let Some(marked) = self.marked else {
            return Estimate::default();
        };
        let files = match rows {
            Some(Figure::AtMost(rows)) => marked.files.min(rows),
            _ => marked.files,
        };
        let files = Some(Figure::AtMost(files));
        match self.deletion_vectors {
            true => Estimate {
                deletion_vectors: files,
                ..Estimate::default()
            },
            false => Estimate {
                rewritten_files: files,
                ..Estimate::default()
            },
        }
    }
}

/// How many rows a statement writes or marks, with what the scans of the target have left of it.
fn rows(
    plan: &CommitPlan,
    input: &Arc<dyn ExecutionPlan>,
    of_target: &FilesLeft,
) -> Precision<usize> {
    let in_target = match of_target.rows {
        Some(rows) => Precision::Exact(rows),
        None => Precision::Absent,
    };
    match (&plan.outline, plan.write.format) {
        (Some(outline), _) if outline.by_source => outline.source_rows.add(&in_target),
        (Some(outline), _) => outline.source_rows,
        // how many of them a condition selects is not known
        (None, RowFormat::Actions { .. }) => in_target,
        (None, RowFormat::Inserts) => StatisticsContext::new()
            .compute(input.as_ref(), &StatisticsArgs::new())
            .map_or(Precision::Absent, |statistics| statistics.num_rows),
    }
}

/// The rows as the statement's own plan brings them, below what only passes them on.
fn rows_of(plan: &Arc<dyn ExecutionPlan>) -> &Arc<dyn ExecutionPlan> {
    let passes_on = plan.downcast_ref::<CoalescePartitionsExec>().is_some()
        || plan.downcast_ref::<RowWriteExec>().is_some()
        || plan.downcast_ref::<GatherExec>().is_some()
        || plan.downcast_ref::<UniqueKeysExec>().is_some();
    match plan.children().first() {
        Some(below) if passes_on => rows_of(below),
        _ => plan,
    }
}

/// What a row of the target takes in its files, in bytes; `None` where the statement has listed none.
fn row_bytes(plan: &CommitPlan) -> Option<u64> {
    let counted = plan.scanned.iter().filter_map(|file| {
        let bytes = u64::try_from(file.size).ok()?;
        Some((live_records(file)?, bytes))
    });
    let (rows, bytes) = counted.fold((0_u64, 0_u64), |(rows, bytes), (more, size)| {
        (rows.saturating_add(more), bytes.saturating_add(size))
    });
    bytes.checked_div(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(facts: Facts, expected: &str) {
        assert_eq!(facts.estimate().to_string(), expected, "{facts:?}");
    }

    #[test]
    fn files_are_counted_by_bytes() {
        let insert = Facts {
            rows: Precision::Exact(1000),
            row_bytes: 10,
            bytes_are_known: true,
            writes_rows: true,
            marked: None,
            deletion_vectors: true,
            target_file_bytes: 4096,
            partitioned: false,
        };
        check(insert, ", rows<=1000, bytes<=10000, data_files~3");
        let nothing = Facts {
            rows: Precision::Exact(0),
            ..insert
        };
        check(nothing, ", rows<=0");
        let unknown = Facts {
            rows: Precision::Absent,
            ..insert
        };
        check(unknown, "");
        let one = Facts {
            rows: Precision::Inexact(1),
            partitioned: true,
            ..insert
        };
        check(one, ", rows~1, bytes~10, data_files>=1");
        let files = FilesLeft {
            files: 5,
            bytes: 100_000,
            rows: Some(10_000),
        };
        let update = Facts {
            rows: Precision::Exact(2),
            marked: Some(files),
            ..insert
        };
        check(
            update,
            ", rows<=2, bytes<=20, data_files~1, deletion_vectors<=2",
        );
        let delete = Facts {
            writes_rows: false,
            ..update
        };
        check(delete, ", rows<=2, deletion_vectors<=2");
        let copied = Facts {
            deletion_vectors: false,
            ..delete
        };
        check(
            copied,
            ", rows<=2, bytes<=100000, data_files~25, rewritten_files<=2",
        );
        let stream = Facts {
            rows: Precision::Absent,
            ..update
        };
        check(stream, ", deletion_vectors<=5");
    }
}

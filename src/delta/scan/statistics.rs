//! What the log says of a scan's files, for those who are about to read them.
//!
//! As DataFusion's statistics it takes many times the room that it has in the log. So a plan has the log's own text only, which it
//! shares with the snapshot, and statistics are made of it for the files of a partition when that is opened.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileGroup;

use super::{Columns, DeltaScan, ScanFile};
use crate::delta::actions::Add;
use crate::delta::stats::{file_statistics, for_reader};
use crate::error::Result;

/// What a row takes in a compressed file, where nobody knows.
const GUESSED_ROW_BYTES: u64 = 32;
/// What a value of no fixed width is taken for in memory, in bytes.
const VARIABLE_WIDTH: usize = 32;

/// Makes the statistics of the files of a scan, each of which has its [`Add`] among its extensions.
#[derive(Debug)]
pub(crate) struct LogStatistics {
    /// Without its files.
    scan: DeltaScan,
}

impl LogStatistics {
    /// Statistics of the files of `scan`.
    pub(super) fn new(scan: &DeltaScan) -> Self {
        Self {
            scan: scan.without_files(),
        }
    }

    /// What is known of a file, by the columns of the Parquet source, as far as its reader may rely on it.
    pub(crate) fn of(&self, file: &PartitionedFile) -> Option<Arc<Statistics>> {
        if let Some(known) = &file.statistics {
            return Some(Arc::clone(known));
        }
        let (scan, add) = (&self.scan, file.extension::<Add>()?);
        let partitions = scan.layout.partition_columns().len();
        let constants = file.partition_values.get(partitions..)?;
        let statistics = scan.statistics_of(add, constants).ok()?;
        let data_columns = scan.layout.data_columns().count() + scan.file_columns.len();
        Some(Arc::new(for_reader(statistics, data_columns)))
    }

    /// The files with their statistics.
    pub(crate) fn added_to(&self, files: &FileGroup) -> FileGroup {
        let described = files.iter().map(|file| PartitionedFile {
            statistics: self.of(file),
            ..file.clone()
        });
        described.collect()
    }
}

impl DeltaScan {
    /// What the log says of a file with these constants, by the columns of the Parquet source.
    pub(crate) fn statistics_of(&self, add: &Add, constants: &[ScalarValue]) -> Result<Statistics> {
        let mut statistics = file_statistics(self.table.name(), add, &self.layout)?;
        let data_columns = self.layout.data_columns().count();
        for _ in 0..self.file_columns.len() {
            statistics
                .column_statistics
                .insert(data_columns, ColumnStatistics::new_unknown());
        }
        for value in constants {
            statistics
                .column_statistics
                .push(constant_statistics(value));
        }
        Ok(statistics)
    }

    /// Row count and bytes of the whole scan; the count is exact where the log gives it for every file, and a guess by size
    /// otherwise: without any a join would take a small source for the larger side.
    pub(super) fn table_statistics(
        &self,
        columns: &Columns,
        files: &[PartitionedFile],
    ) -> Statistics {
        let schema = columns.table_schema.table_schema();
        let mut statistics = Statistics::new_unknown(schema);
        let rows: Option<u64> = self.files.iter().map(ScanFile::row_count).sum();
        if let Some(rows) = rows.and_then(|rows| usize::try_from(rows).ok()) {
            statistics.num_rows = Precision::Exact(rows);
        } else {
            let guess = |file: &ScanFile| {
                let size = u64::try_from(file.add.size).unwrap_or(0);
                file.row_count().unwrap_or(1 + size / GUESSED_ROW_BYTES)
            };
            let rows: u64 = self.files.iter().map(guess).sum();
            statistics.num_rows = Precision::Inexact(usize::try_from(rows).unwrap_or(usize::MAX));
        }
        // in memory rows are larger than in files: joins must not be planned by the compressed size
        let on_disk: u64 = files.iter().map(|file| file.object_meta.size).sum();
        let bytes = on_disk.max(
            rows.unwrap_or(0)
                .saturating_mul(guessed_row_bytes(schema, VARIABLE_WIDTH)),
        );
        statistics.total_byte_size =
            Precision::Inexact(usize::try_from(bytes).unwrap_or(usize::MAX));
        statistics
    }
}

/// A guess at the bytes of a row, of which values of no fixed width take so many.
pub(crate) fn guessed_row_bytes(schema: &Schema, variable_width: usize) -> u64 {
    let widths = schema.fields().iter().map(|field| {
        field
            .data_type()
            .primitive_width()
            .unwrap_or(variable_width)
    });
    widths.sum::<usize>() as u64
}

fn constant_statistics(value: &ScalarValue) -> ColumnStatistics {
    let mut statistics = ColumnStatistics::new_unknown();
    if !value.is_null() {
        statistics.null_count = Precision::Exact(0);
        statistics.min_value = Precision::Exact(value.clone());
        statistics.max_value = Precision::Exact(value.clone());
    }
    statistics
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::datatypes::{DataType, Field};

    use super::*;
    use crate::delta::DeltaTable;
    use crate::delta::actions::Metadata;
    use crate::delta::layout::TableLayout;

    const SCHEMA: &str = r#"{"type":"struct","fields":[
        {"name":"p","type":"string","nullable":true,"metadata":{}},
        {"name":"id","type":"long","nullable":true,"metadata":{}},
        {"name":"t","type":"string","nullable":true,"metadata":{}}]}"#;
    const STATS: &str =
        r#"{"numRecords":2,"minValues":{"id":1,"t":"a"},"maxValues":{"id":7,"t":"b"}}"#;

    /// A table with the partition column `p`, and a constant beside it.
    fn statistics() -> LogStatistics {
        let metadata = Metadata {
            schema_string: SCHEMA.into(),
            partition_columns: vec!["p".into()],
            ..Metadata::default()
        };
        let table = DeltaTable::new("t", "/w/t", HashMap::new()).unwrap();
        let layout = Arc::new(TableLayout::try_new("t", &metadata).unwrap());
        let mut scan = DeltaScan::new(&table, &layout, vec![]);
        scan.constants = vec![Arc::new(Field::new("n", DataType::Int64, true))];
        LogStatistics::new(&scan)
    }

    #[test]
    fn statistics_are_made_of_the_text_in_the_log() {
        let add = Add {
            stats: Some(STATS.into()),
            partition_values: [("p".to_owned(), Some("x".to_owned()))].into(),
            ..Add::default()
        };
        let values = vec![ScalarValue::from("x"), ScalarValue::from(5_i64)];
        let mut file = PartitionedFile::new("a", 1).with_partition_values(values);
        assert!(statistics().of(&file).is_none());
        file.extensions.insert_arc(Arc::new(add));
        let found = statistics().of(&file).unwrap();
        let columns = found.column_statistics.iter();
        let bounds = columns.map(|column| format!("{:?} {:?}", column.min_value, column.max_value));
        // readers may not take bounds of texts for values: the log cuts them
        let expected = [
            r#"Exact(Int64(1)) Exact(Int64(7))"#,
            r#"Inexact(Utf8("a")) Inexact(Utf8("b"))"#,
            r#"Exact(Utf8("x")) Exact(Utf8("x"))"#,
            r#"Exact(Int64(5)) Exact(Int64(5))"#,
        ];
        assert_eq!(bounds.collect::<Vec<_>>(), expected);
    }
}

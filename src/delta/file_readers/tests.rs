use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY, ParquetRecordBatchStreamBuilder};
use parquet::file::metadata::PageIndexPolicy;

use super::*;

fn path(index: usize) -> Path {
    Path::from(format!("{index}.parquet"))
}

fn file(index: usize, size: usize) -> PartitionedFile {
    PartitionedFile::new(path(index).to_string(), size as u64)
}

fn upcoming(sizes: &[usize]) -> Vec<UpcomingFile> {
    let files = sizes.iter().enumerate().map(|(index, size)| UpcomingFile {
        location: DataFileLocation {
            store: None,
            path: path(index),
        },
        size: *size as u64,
    });
    files.collect()
}

/// A store with files of these sizes; the bytes of file `i` are `i`.
async fn store(sizes: &[usize]) -> Arc<InMemory> {
    let store = InMemory::new();
    for (index, size) in sizes.iter().enumerate() {
        let bytes = vec![index as u8; *size];
        store.put(&path(index), bytes.into()).await.unwrap();
    }
    Arc::new(store)
}

fn readers(store: &Arc<InMemory>, sizes: &[usize]) -> FileReaders {
    let store: Arc<dyn ObjectStore> = Arc::<InMemory>::clone(store);
    FileReaders::new(store).reading_ahead(upcoming(sizes), 1)
}

fn open(readers: &FileReaders, file: PartitionedFile) -> Box<dyn AsyncFileReader + Send> {
    let metrics = ExecutionPlanMetricsSet::new();
    readers.create_reader(0, file, None, &metrics).unwrap()
}

fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// Lets the tasks that are ready run: a store in memory has its answer at once.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn empty(store: &InMemory, files: usize) {
    for index in 0..files {
        store.delete(&path(index)).await.unwrap();
    }
}

fn is_not_found(error: &ParquetError) -> bool {
    error
        .source()
        .and_then(|source| source.downcast_ref::<object_store::Error>())
        .is_some_and(|error| matches!(error, object_store::Error::NotFound { .. }))
}

/// Asks for the files in this order when the store has been emptied after the first: which of them had been fetched.
async fn check(sizes: &[usize], order: &[usize], expected: &[bool]) {
    let store = store(sizes).await;
    let readers = readers(&store, sizes);
    let mut reader = open(&readers, file(order[0], sizes[order[0]]));
    settle().await;
    empty(&store, sizes.len()).await;
    let mut found = Vec::new();
    for (turn, index) in order.iter().enumerate() {
        if turn > 0 {
            reader = open(&readers, file(*index, sizes[*index]));
        }
        let range = 1..sizes[*index] as u64;
        let read = reader.get_byte_ranges(vec![0..1, range.clone()]).await;
        match &read {
            Ok(bytes) => {
                assert_eq!(bytes[0].as_ref(), [*index as u8]);
                assert_eq!(bytes[1], vec![*index as u8; sizes[*index] - 1]);
                assert_eq!(reader.get_bytes(range).await.unwrap(), bytes[1]);
            }
            Err(error) => assert!(is_not_found(error), "{error}"),
        }
        found.push(read.is_ok());
    }
    assert_eq!(found, expected, "{sizes:?} in the order {order:?}");
}

#[tokio::test]
async fn small_files_are_fetched_before_they_are_asked_for() {
    const LARGE: usize = 1024 * 1024 + 1;
    check(&[5, 6, 7], &[0, 1, 2], &[true; 3]).await;
    check(&[5, LARGE, 7], &[0, 1, 2], &[true, false, true]).await;
    // what is passed over is forgotten
    check(&[5, 6, 7], &[0, 2, 1], &[true, true, false]).await;
    check(&[5, 6, 7], &[1, 0, 2], &[true, false, true]).await;
    // no more than so many files, or bytes, are held at once
    let many: Vec<usize> = vec![3; 66];
    let order: Vec<usize> = (0..66).collect();
    let mut expected = vec![true; 66];
    expected[65] = false;
    check(&many, &order, &expected).await;
    let full: Vec<usize> = vec![LARGE - 1; 34];
    let mut expected = vec![true; 34];
    expected[33] = false;
    check(&full, &order[..34], &expected).await;
}

#[tokio::test]
async fn a_file_may_have_two_readers_at_once() {
    let sizes = [5, 6];
    let store = store(&sizes).await;
    let readers = readers(&store, &sizes);
    let mut first = open(&readers, file(0, 5));
    assert_eq!(first.get_bytes(0..1).await.unwrap().as_ref(), [0_u8]);
    settle().await;
    empty(&store, 2).await;
    let mut second = open(&readers, file(0, 5));
    drop(first);
    assert_eq!(second.get_bytes(0..1).await.unwrap().as_ref(), [0_u8]);
    drop(second);
    let error = open(&readers, file(0, 5)).get_bytes(0..1).await;
    assert!(is_not_found(&error.unwrap_err()));
    let mut next = open(&readers, file(1, 6));
    assert!(next.get_bytes(0..1).await.is_ok());
    assert!(next.get_bytes(0..7).await.is_err());
}

#[tokio::test]
async fn a_file_that_is_not_there_says_so() {
    let store = store(&[]).await;
    for readers in [readers(&store, &[]), readers(&store, &[1000])] {
        let mut reader = open(&readers, file(0, 1000));
        assert!(is_not_found(&reader.get_bytes(0..10).await.unwrap_err()));
        assert!(is_not_found(&reader.get_metadata(None).await.unwrap_err()));
    }
}

#[tokio::test]
async fn metadata_is_that_of_the_file() {
    let values = Int32Array::from_iter_values(0..1000);
    let batch = RecordBatch::try_from_iter([("a", Arc::new(values) as ArrayRef)]).unwrap();
    let bytes = parquet(&batch);
    let size = bytes.len();
    let store = store(&[]).await;
    store.put(&path(0), bytes.into()).await.unwrap();
    for readers in [readers(&store, &[]), readers(&store, &[size])] {
        let mut reader = open(&readers, file(0, size));
        let plain = reader.get_metadata(None).await.unwrap();
        assert_eq!(plain.file_metadata().num_rows(), 1000);
        assert!(plain.offset_index().is_none());
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let indexed = reader.get_metadata(Some(&options)).await.unwrap();
        assert!(indexed.offset_index().is_some());
    }
}

#[tokio::test]
async fn columns_have_the_names_of_the_table() {
    let with_id = |name: &str, id: i32| {
        let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]);
        Arc::new(Field::new(name, DataType::Int32, false).with_metadata(id))
    };
    let schema = Arc::new(Schema::new(vec![with_id("a", 2), with_id("x", 1)]));
    let values = |value: i32| -> ArrayRef { Arc::new(Int32Array::from(vec![value])) };
    let batch = RecordBatch::try_new(schema, vec![values(2), values(1)]).unwrap();
    let bytes = parquet(&batch);
    let size = bytes.len();
    let store = store(&[]).await;
    store.put(&path(0), bytes.into()).await.unwrap();
    for sizes in [vec![], vec![size]] {
        let readers = readers(&store, &sizes).by_field_ids(&[with_id("a", 1), with_id("b", 2)]);
        let reader = open(&readers, file(0, size));
        let reader: Box<dyn AsyncFileReader> = reader;
        let stream = ParquetRecordBatchStreamBuilder::new(reader).await.unwrap();
        let names: Vec<&String> = stream.schema().fields().iter().map(|f| f.name()).collect();
        assert_eq!(names, ["b", "a"]);
        let read = stream.build().unwrap().try_next().await.unwrap().unwrap();
        let a = read.column_by_name("a").unwrap();
        assert_eq!(a.as_primitive::<Int32Type>().value(0), 1);
    }
}

#[tokio::test]
async fn a_scan_that_ends_early_leaves_nothing_running() {
    let never = ThrottleConfig {
        wait_get_per_call: Duration::from_secs(3600),
        ..ThrottleConfig::default()
    };
    let store: Arc<dyn ObjectStore> = Arc::new(ThrottledStore::new(InMemory::new(), never));
    let readers = FileReaders::new(Arc::clone(&store)).reading_ahead(upcoming(&[5; 10]), 1);
    let reader = open(&readers, file(0, 5));
    settle().await;
    assert!(Arc::strong_count(&store) > 10);
    drop((readers, reader));
    settle().await;
    assert_eq!(Arc::strong_count(&store), 1);
}

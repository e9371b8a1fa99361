//! What is read of whole files.

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use arrow_avro::writer::AvroWriter;

use super::test_support::{
    STEPS, bytes, check, check_columns, check_error, columns, first_text, read, spec,
};
use super::*;

fn csv() -> TextFormat {
    TextFormat::Csv(CsvFormat::default())
}

fn csv_with(change: impl FnOnce(&mut CsvFormat)) -> TextFormat {
    let mut csv = CsvFormat::default();
    change(&mut csv);
    TextFormat::Csv(csv)
}

const ID_NAME: &[(&str, DataType)] = &[("id", DataType::Int64), ("name", DataType::Utf8)];

#[tokio::test]
async fn csv_rows_are_read() {
    let given = spec(csv(), ID_NAME);
    let expected = ["1: 1|a", "2: 2|~", "3: ~|c", "4: 4|d"];
    check(&given, b"id,name\n1,a\n2,\n,c\n4,d\n", &expected).await;
    check(
        &given,
        b"\xef\xbb\xbfid,name\r\n1,a\r\n2,\r\n,c\r\n4,d",
        &expected,
    )
    .await;
    check(&given, b"\n\nname,id\na,1\n\n\n,2\nc,\nd,4\n\n", &expected).await;
    check(&given, b"ID,Name\n1,a\n2,\n,c\n4,d\n", &expected).await;
    check(
        &given,
        b"id,name\n1,\"a\n\"\"b\"\n2,\xe2\x82\xac\n",
        &["1: 1|a\n\"b", "2: 2|€"],
    )
    .await;
    check(&given, b"id\n1\n2\n", &["1: 1|~", "2: 2|~"]).await;
    check(&given, b"", &[]).await;
    check(&given, b"id,name\n", &[]).await;
    check(&given, b"id,name", &[]).await;
}

#[tokio::test]
async fn csv_is_written_in_many_ways() {
    let format = csv_with(|csv| {
        csv.delimiter = b';';
        csv.quote = None;
        csv.comment = Some(b'#');
        csv.null_value = Some("NULL".to_owned());
    });
    let content = b"#x\nid;name\n#y\n1;\"a\nNULL;NULL\n#z";
    check(&spec(format, ID_NAME), content, &["1: 1|\"a", "2: ~|~"]).await;
    let format = csv_with(|csv| {
        csv.quote = Some(b'\'');
        csv.escape = Some(b'\\');
        csv.encoding = encoding_rs::WINDOWS_1252;
    });
    check(
        &spec(format, ID_NAME),
        b"id,name\n1,'a\\'\xe9'\n",
        &["1: 1|a'é"],
    )
    .await;
    let format = csv_with(|csv| csv.header = false);
    check(
        &spec(format.clone(), ID_NAME),
        b"1,a\n2,b\n",
        &["1: 1|a", "2: 2|b"],
    )
    .await;
    let numbered = [("column_2", DataType::Int64)];
    let mut numbered = spec(format, &numbered);
    numbered.all = columns(&[("column_1", DataType::Utf8), ("column_2", DataType::Int64)]);
    check(&numbered, b"a,1\n", &["1: 1"]).await;
}

#[tokio::test]
async fn csv_columns_can_be_left_out() {
    let mut none = spec(csv(), &[]);
    none.all = columns(ID_NAME);
    check(&none, b"id,name\n1,a\n2,b\n", &["1: ", "2: "]).await;
    let mut one = spec(csv(), &[("name", DataType::Utf8)]);
    one.all = columns(ID_NAME);
    check(&one, b"id,name\n1,a\nx,b\n", &["1: a", "2: b"]).await;
}

#[tokio::test]
async fn bad_csv_rows_are_set_aside() {
    let given = spec(csv(), ID_NAME);
    check(
        &given,
        b"id,name\n1,a\n\"x\",b\n3,c,d\n4\n5,\"e\n\"\n6,\xff\n7,g\n",
        &[
            "1: 1|a",
            "2! line 3: column \"id\" has the value \"x\", which is not Int64 <\"x\",b>",
            "3! line 4: 3 fields where the header has 2 <3,c,d>",
            "4! line 5: 1 field where the header has 2 <4>",
            "5: 5|e\n",
            "6! line 8: column \"name\" has the value \"\u{fffd}\", which is not UTF-8 <6,\u{fffd}>",
            "7: 7|g",
        ],
    )
    .await;
    check(
        &given,
        b"id,name\r\n1,a\r\n\r\n2,\"b\r\n3,c\r\n",
        &[
            "1: 1|a",
            "2! line 4: a quote that begins in this row is never closed <2,\"b\r\n3,c>",
        ],
    )
    .await;
    let price = [("price", DataType::Decimal128(6, 2))];
    check(
        &spec(csv(), &price),
        b"price\n1.20\n1.234\n",
        &[
            "1: 1.20",
            "2! line 3: column \"price\" has the value \"1.234\", which is not Decimal128(6, 2) <1.234>",
        ],
    )
    .await;
    // each byte on its own is no character, both together are one
    check(
        &spec(csv(), &[("a", DataType::Utf8), ("b", DataType::Utf8)]),
        b"a,b\n\xc3,\xa9\n1,2\n",
        &[
            "1! line 2: column \"a\" has the value \"\u{fffd}\", which is not UTF-8 <\u{fffd},\u{fffd}>",
            "2: 1|2",
        ],
    )
    .await;
}

#[tokio::test]
async fn bad_csv_ends_the_read() {
    let given = spec(csv(), ID_NAME);
    check_error(
        &given,
        b"id,name\n1,a\n\n2.5,b\n",
        "f line 4: column \"id\" has the value \"2.5\", which is not Int64; correct the file, or set such rows aside with on_invalid",
    )
    .await;
    check_error(
        &given,
        b"id,name\n1,\"a\n\"\n2\n",
        "f line 4: 1 field where the header has 2",
    )
    .await;
    check_error(&given, b"id,id\n", "\"id\" twice").await;
    check_error(&given, b"id,\n", "column 2 of f has no name").await;
    check_error(&given, b"id,extra\n", "\"extra\"").await;
    check_error(&given, b"id,ID\n", "but for case").await;
    check_error(&given, b"id,\"name\n", "the header of f cannot be read").await;
}

#[tokio::test]
async fn rows_come_before_the_error() {
    let mut given = spec(csv(), ID_NAME);
    given.quarantine = false;
    let mut items = read_file(
        Arc::new(given),
        "f".to_owned(),
        bytes(b"id,name\n1,a\nx,b\n", 5),
    );
    assert!(matches!(items.next().await, Some(Ok(Item::Rows(rows))) if rows.first_row == 1));
    assert!(matches!(items.next().await, Some(Err(_))));
    assert!(items.next().await.is_none());
}

#[tokio::test]
async fn the_text_of_rows_is_kept() {
    let mut csv = spec(csv(), ID_NAME);
    csv.raw = true;
    check(
        &csv,
        b"id,name\r\n1,\"a\"\r\n\r\nx,b\r\n3,c",
        &[
            "1: 1|a <1,\"a\">",
            "2! line 4: column \"id\" has the value \"x\", which is not Int64 <x,b>",
            "3: 3|c <3,c>",
        ],
    )
    .await;
    let long = format!("id,name\n1,{}\n", "é".repeat(RAW_BYTES));
    let found = read(&csv, long.as_bytes(), 1000).await.unwrap();
    let raw = found[0].split('<').next_back().unwrap();
    assert!(raw.len() <= RAW_BYTES + 1 && raw.starts_with("1,é"));
    let mut json = spec(TextFormat::Json, ID_NAME);
    json.raw = true;
    let content = b"\n {\"id\": 1, \"name\": \"a\"}\n{\n";
    check(
        &json,
        content,
        &[
            "1: 1|a <{\"id\": 1, \"name\": \"a\"}>",
            "2! line 3: this is no JSON object (EOF while parsing an object at column 1) <{>",
        ],
    )
    .await;
}

#[tokio::test]
async fn json_rows_are_read() {
    let given = spec(TextFormat::Json, ID_NAME);
    let content = b"\xef\xbb\xbf{\"id\":1,\"name\":\"a\"}\n\n{\"name\":\"b\"}\r\n{\"id\":3,\"name\":null}\n{\"id\":\"4\",\"name\":5}\n{\"id\":5.0,\"id\":6}";
    check(
        &given,
        content,
        &["1: 1|a", "2: ~|b", "3: 3|~", "4: 4|5", "5: 6|~"],
    )
    .await;
    check(&given, b"", &[]).await;
    check(
        &given,
        b"{\"ID\":1}\n{\"ID\":2,\"Name\":\"x\"}\n",
        &["1: 1|~", "2: 2|x"],
    )
    .await;
    let inner = Fields::from(vec![Field::new("x", DataType::Int64, true)]);
    let item = Arc::new(Field::new_list_field(DataType::Int64, true));
    let nested = [("s", DataType::Struct(inner)), ("l", DataType::List(item))];
    let nested = spec(TextFormat::Json, &nested);
    let content = b"{\"s\":{\"x\":1},\"l\":[1,2]}\n";
    check(&nested, content, &["1: {x: 1}|[1, 2]"]).await;
}

#[tokio::test]
async fn bad_json_rows_are_set_aside() {
    let given = spec(TextFormat::Json, ID_NAME);
    check(
        &given,
        b"{\"id\":1}\n{\"id\":1.5}\nx\n[1]\n{\"id\":5} {\"id\":6}\n{\"id\":\n6}\n{\"id\":\"a\"}\n{\"id\":9,\"new\":1}\n{\"id\":10}\n",
        &[
            "1: 1|~",
            "2! line 2: column \"id\" has the value \"1.5\", which is not Int64 <{\"id\":1.5}>",
            "3! line 3: this is no JSON object (expected value at column 1) <x>",
            "4! line 4: this is no JSON object (invalid type: sequence, expected a JSON object at column 0) <[1]>",
            "5! line 5: this is no JSON object (trailing characters at column 10) <{\"id\":5} {\"id\":6}>",
            "6! line 6: this is no JSON object (EOF while parsing a value at column 6) <{\"id\":>",
            "7! line 7: this is no JSON object (invalid type: integer `6`, expected a JSON object at column 1) <6}>",
            "8! line 8: column \"id\" has the value \"a\", which is not Int64 <{\"id\":\"a\"}>",
            "9! line 9: the member \"new\" is no column: it first appears too late in the file to be found; declare it in CREATE EXTERNAL TABLE or raise infer_rows <{\"id\":9,\"new\":1}>",
            "10: 10|~",
        ],
    )
    .await;
    check_error(
        &given,
        b"{\"id\":1}\n\n{\"id\":true}\n",
        "f line 3: column \"id\" has the value \"true\"",
    )
    .await;
    let inner = Fields::from(vec![Field::new("x", DataType::Int64, true)]);
    let nested = [("s", DataType::Struct(inner))];
    check_error(
        &spec(TextFormat::Json, &nested),
        b"{\"s\":{\"x\":1.5}}\n",
        "column \"s\" has the value",
    )
    .await;
}

fn avro_file(batches: &[RecordBatch]) -> Vec<u8> {
    let schema = batches[0].schema().as_ref().clone();
    let mut writer = AvroWriter::new(Vec::new(), schema).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    writer.into_inner()
}

fn scores(values: &[f64]) -> RecordBatch {
    let names: Vec<String> = values.iter().map(|value| format!("n{value}")).collect();
    let schema = columns(&[("Name", DataType::Utf8), ("score", DataType::Float64)]);
    let names = Arc::new(StringArray::from(names));
    let scores = Arc::new(Float64Array::from(values.to_vec()));
    RecordBatch::try_new(schema, vec![names, scores]).unwrap()
}

#[tokio::test]
async fn avro_rows_are_read() {
    let content = avro_file(&[scores(&[1.0, 2.0]), scores(&[3.5]), scores(&[4.0])]);
    let wanted = [
        ("score", DataType::Int64),
        ("name", DataType::Utf8),
        ("none", DataType::Date32),
    ];
    let mut given = spec(TextFormat::Avro, &wanted);
    let bad = "3! column \"score\" has the value \"3.5\", which is not Int64 <{\"Name\":\"n3.5\",\"score\":3.5}>";
    let expected = ["1: 1|n1|~", "2: 2|n2|~", bad, "4: 4|n4|~"];
    check(&given, &content, &expected).await;
    check_error(
        &given,
        &content,
        "f row 3: column \"score\" has the value \"3.5\"",
    )
    .await;
    check(&given, b"", &[]).await;
    let content = avro_file(&[scores(&[1.0, 2.0]), scores(&[4.0])]);
    for cut in [1, 20, content.len() - 1] {
        check_error(&given, &content[..cut], "f is cut off").await;
    }
    check_error(
        &given,
        b"id,name\n1,a\n",
        "f is no Avro object container file",
    )
    .await;
    let mut damaged = content.clone();
    *damaged.last_mut().unwrap() ^= 1;
    check_error(&given, &damaged, "f is damaged").await;
    given.raw = true;
    let found = read(&given, &content, 100).await.unwrap();
    assert_eq!(found[0], "1: 1|n1|~ <{\"Name\":\"n1\",\"score\":1.0}>");
}

#[tokio::test]
async fn columns_are_found_out() {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let content = b"i,f,b,d,t,z,s,n\n1,1.5,true,2024-01-31,2024-01-31T10:00:00.123456789,2024-01-31T10:00:00Z,a,\n,2,,,,,,\nx\n";
    let expected = [
        ("i", DataType::Int64),
        ("f", DataType::Float64),
        ("b", DataType::Boolean),
        ("d", DataType::Date32),
        ("t", time),
        ("z", zoned),
        ("s", DataType::Utf8),
        ("n", DataType::Utf8),
    ];
    check_columns(&csv(), content, 100, &expected).await;
    check_columns(
        &csv(),
        b"a,b\n1,2\n",
        0,
        &[("a", DataType::Utf8), ("b", DataType::Utf8)],
    )
    .await;
    check_columns(&csv(), b"a\n1\nx\n", 1, &[("a", DataType::Int64)]).await;
    check_columns(&csv(), b"", 10, &[]).await;
    let numbered = csv_with(|csv| csv.header = false);
    let expected = [("column_1", DataType::Int64), ("column_2", DataType::Utf8)];
    check_columns(&numbered, b"1,a\n2,b\n", 10, &expected).await;
    let inner = Fields::from(vec![
        Field::new("x", DataType::Utf8, true),
        Field::new("y", DataType::Int64, true),
    ]);
    let item = Arc::new(Field::new_list_field(DataType::Float64, true));
    let expected = [
        ("z", DataType::Float64),
        ("s", DataType::Struct(inner)),
        ("a", DataType::List(item)),
        ("n", DataType::Utf8),
    ];
    let content = b"{\"z\":1,\"s\":{\"y\":1}}\nbroken\n{\"a\":[1,2.5],\"z\":1.5,\"s\":{\"x\":null},\"n\":null}\n";
    check_columns(&TextFormat::Json, content, 10, &expected).await;
    check_columns(&TextFormat::Json, b"", 10, &[]).await;
}

#[tokio::test]
async fn columns_of_avro_are_in_its_header() {
    let content = avro_file(&[scores(&[1.0])]);
    for step in STEPS {
        let format = TextFormat::Avro;
        let found = inspect(&format, Compression::Auto, "f", bytes(&content, step), 10).await;
        let found = found.unwrap();
        let names: Vec<&str> = found
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        assert_eq!(names, ["Name", "score"]);
        assert_eq!(found.field(1).data_type(), &DataType::Float64);
    }
}

#[tokio::test]
async fn names_are_found_out() {
    let csv = CsvFormat::default();
    for step in STEPS {
        let content = bytes(b"\xef\xbb\xbfa,\"b c\"\r\n1,2\r\n", step);
        let names = inspect_names(&csv, Compression::Auto, "f", content)
            .await
            .unwrap();
        assert_eq!(names, ["a", "b c"]);
    }
}

#[tokio::test]
async fn many_rows_keep_their_numbers() {
    let mut content = b"id,name\n".to_vec();
    for id in 1..=50_000 {
        let id = if id % 9973 == 0 {
            format!("x{id}")
        } else {
            id.to_string()
        };
        content.extend_from_slice(format!("{id},n{id}\n").as_bytes());
    }
    let mut given = spec(csv(), ID_NAME);
    given.batch_size = 8192;
    let mut items = read_file(Arc::new(given), "f".to_owned(), bytes(&content, 65_536));
    let (mut next, mut rejected) = (1, 0);
    while let Some(item) = items.next().await {
        match item.unwrap() {
            Item::Rows(rows) => {
                assert_eq!(rows.first_row, next);
                let ids = rows
                    .batch
                    .column(0)
                    .as_any()
                    .downcast_ref::<Int64Array>()
                    .unwrap();
                assert_eq!(ids.value(0).cast_unsigned(), next);
                let names = rows.batch.project(&[1]).unwrap();
                assert_eq!(first_text(&names), format!("n{next}"));
                next += rows.batch.num_rows() as u64;
            }
            Item::Rejected(row) => {
                assert_eq!(row.row, next);
                assert!(row.reason.starts_with(&format!("line {}: ", next + 1)));
                (next, rejected) = (next + 1, rejected + 1);
            }
        }
    }
    assert_eq!((next, rejected), (50_001, 5));
}

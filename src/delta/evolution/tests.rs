use arrow::datatypes::TimeUnit;

use super::super::create::TableDefinition;
use super::super::layout::TableLayout;
use super::*;

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn structure(fields: Vec<Field>) -> DataType {
    DataType::Struct(fields.into())
}

fn list(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", element, true)))
}

fn metadata(columns: Vec<Field>) -> Metadata {
    let definition = TableDefinition {
        columns: columns.into_iter().map(Arc::new).collect(),
        ..TableDefinition::default()
    };
    definition.actions("t", None).unwrap().0
}

/// The columns after `wanted` has been added to `present`; nothing where nothing changes.
fn check(present: Vec<Field>, wanted: Vec<Field>, expected: Option<Vec<Field>>) {
    let evolved = evolve("t", &metadata(present), &Schema::new(wanted)).unwrap();
    let found = evolved.map(|metadata| {
        let layout = TableLayout::try_new("t", &metadata).unwrap();
        layout.schema().as_ref().clone()
    });
    assert_eq!(found, expected.map(Schema::new));
}

fn refused(present: Vec<Field>, wanted: Vec<Field>, part: &str) {
    let evolved = evolve("t", &metadata(present), &Schema::new(wanted));
    let error = evolved.unwrap_err().to_string();
    assert!(error.contains(part), "{error} lacks {part:?}");
}

#[test]
fn columns_and_fields_are_added_at_the_end() {
    let (id, text) = (|| field("id", DataType::Int64), DataType::Utf8);
    check(vec![id()], vec![id()], None);
    check(vec![id()], vec![field("id", DataType::Utf8)], None);
    check(
        vec![id()],
        vec![
            field("v", DataType::LargeUtf8),
            Field::new("id", DataType::Int8, false),
        ],
        Some(vec![id(), field("v", text.clone())]),
    );
    let point = |names: &[&str]| {
        let fields = names.iter().map(|name| field(name, DataType::Float64));
        structure(fields.collect())
    };
    check(
        vec![
            field("p", point(&["x"])),
            field("q", list(point(&["x"]))),
            id(),
        ],
        vec![
            field("q", list(point(&["y"]))),
            field("p", point(&["y", "x"])),
        ],
        Some(vec![
            field("p", point(&["x", "y"])),
            field("q", list(point(&["x", "y"]))),
            id(),
        ]),
    );
}

#[test]
fn new_columns_of_mapped_tables_get_ids() {
    let mut mapped = metadata(vec![field("id", DataType::Int64)]);
    let settings = [("delta.columnMapping.mode", "name"), (MAX_COLUMN_ID, "4")];
    let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
    mapped.configuration.extend(settings);
    let wanted = Schema::new(vec![field(
        "s",
        structure(vec![field("a", DataType::Int32)]),
    )]);
    let evolved = evolve("t", &mapped, &wanted).unwrap().unwrap();
    assert_eq!(evolved.configuration[MAX_COLUMN_ID], "6");
    let schema: StructType = serde_json::from_str(&evolved.schema_string).unwrap();
    let added = schema.field("s").unwrap();
    assert_eq!(
        (added.column_mapping_id(), highest_id(&schema)),
        (Some(5), 6)
    );
    assert!(
        added
            .metadata
            .contains_key("delta.columnMapping.physicalName")
    );
}

#[test]
fn what_cannot_be_added_is_refused() {
    let id = || vec![field("id", DataType::Int64)];
    refused(
        id(),
        vec![field("ID", DataType::Int64)],
        "do not differ by case",
    );
    refused(
        id(),
        vec![field("n", DataType::Null)],
        "CAST the NULL to a type",
    );
    refused(
        id(),
        vec![field("t", DataType::Time64(TimeUnit::Microsecond))],
        "CAST it to STRING",
    );
    let map = |names: &[&str]| {
        let fields = names.iter().map(|name| field(name, DataType::Int32));
        let pair = vec![
            Field::new("key", DataType::Utf8, false),
            field("value", structure(fields.collect())),
        ];
        let entries = Field::new("key_value", structure(pair), false);
        vec![field("m", DataType::Map(Arc::new(entries), false))]
    };
    refused(
        map(&["a"]),
        map(&["a", "b"]),
        "not added to structs in maps",
    );
    check(map(&["a"]), map(&["a"]), None);
}

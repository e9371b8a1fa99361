//! Columns whose values a writer computes: generated, identity and default columns (Delta protocol, *Generated Columns*,
//! *Identity Columns*, *Default Columns*).
//!
//! How a column is computed stands in its field's metadata. What is written back is written into the schema string as it is, so
//! that nothing else of it changes.

use delta_kernel::schema::{MetadataValue, StructField, StructType};
use serde_json::{Map, Value};

use super::actions::{Metadata, Protocol};
use super::layout::TableLayout;
use crate::error::{Error, Result};

const GENERATION_EXPRESSION: &str = "delta.generationExpression";
const CURRENT_DEFAULT: &str = "CURRENT_DEFAULT";
const START: &str = "delta.identity.start";
const STEP: &str = "delta.identity.step";
const HIGH_WATER_MARK: &str = "delta.identity.highWaterMark";
const ALLOW_EXPLICIT: &str = "delta.identity.allowExplicitInsert";

/// How a column gets its value; expressions are SQL as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Computed {
    /// From other columns of the row, always.
    Generated(String),
    /// A number that no other row has.
    Identity(Identity),
    /// Where a statement gives none.
    Default(String),
}

/// How an identity column counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub start: i64,
    /// 0 only where the log does not say.
    pub step: i64,
    /// The last value that was generated.
    pub high_water_mark: Option<i64>,
    /// Whether a statement may give values of its own.
    pub allow_explicit: bool,
}

impl Computed {
    /// How the column is computed; `None` for one that is just stored.
    pub(crate) fn of(field: &StructField) -> Option<Self> {
        let metadata = field.metadata();
        if let Some(text) = metadata.get(GENERATION_EXPRESSION) {
            return Some(Self::Generated(text.to_string()));
        }
        if let Some(start) = metadata.get(START) {
            return Some(Self::Identity(Identity {
                start: number(start).unwrap_or(0),
                step: metadata.get(STEP).and_then(number).unwrap_or(0),
                high_water_mark: metadata.get(HIGH_WATER_MARK).and_then(number),
                allow_explicit: metadata.get(ALLOW_EXPLICIT).is_some_and(is_true),
            }));
        }
        let default = metadata.get(CURRENT_DEFAULT)?;
        Some(Self::Default(default.to_string()))
    }

    /// Whether an update that does not assign the column computes it again.
    pub(crate) fn is_recomputed(&self) -> bool {
        matches!(self, Self::Generated(_))
    }

    /// The writer feature that the column needs, and the oldest writer version that has it without listing it.
    pub(super) fn feature(&self) -> (&'static str, Option<i32>) {
        match self {
            Self::Generated(_) => ("generatedColumns", Some(4)),
            Self::Identity(_) => ("identityColumns", Some(6)),
            Self::Default(_) => ("allowColumnDefaults", None),
        }
    }

    /// Whether writers of a table with this protocol compute the column.
    pub(super) fn is_supported(&self, protocol: &Protocol) -> bool {
        let (feature, since) = self.feature();
        let is_listed = |features: &Vec<String>| features.iter().any(|name| name == feature);
        match protocol.min_writer_version {
            7.. => protocol.writer_features.as_ref().is_some_and(is_listed),
            version => since.is_some_and(|since| version >= since),
        }
    }

    fn write(&self, metadata: &mut Map<String, Value>) {
        match self {
            Self::Generated(text) => {
                metadata.insert(GENERATION_EXPRESSION.into(), text.as_str().into());
            }
            Self::Default(text) => {
                metadata.insert(CURRENT_DEFAULT.into(), text.as_str().into());
            }
            Self::Identity(identity) => {
                metadata.insert(START.into(), identity.start.into());
                metadata.insert(STEP.into(), identity.step.into());
                metadata.insert(ALLOW_EXPLICIT.into(), identity.allow_explicit.into());
            }
        }
    }
}

/// The computed columns of a schema, by position.
pub(super) fn computed_columns(schema: &StructType) -> Vec<(usize, Computed)> {
    let columns = schema.fields().enumerate();
    columns
        .filter_map(|(index, field)| Some((index, Computed::of(field)?)))
        .collect()
}

/// Refuses an UPDATE of identity columns, which keep the values that they got.
///
/// # Errors
/// [`Error::Invalid`], naming the column.
pub(crate) fn refuse_assignments(layout: &TableLayout, assigned: &[usize]) -> Result<()> {
    let identities = layout.computed().iter();
    let assigned = identities
        .filter(|(_, computed)| matches!(computed, Computed::Identity(_)))
        .find(|(index, _)| assigned.contains(index));
    match assigned {
        None => Ok(()),
        Some((index, _)) => Err(Error::invalid(format!(
            "column {:?} is an identity column, whose values are never changed; leave it out of SET",
            layout.schema().field(*index).name()
        ))),
    }
}

/// Declares how columns of a new table are computed, by their names.
pub(crate) fn declare_computed(
    metadata: &mut Metadata,
    columns: &[(String, Computed)],
) -> Result<()> {
    metadata.schema_string = edit_fields(&metadata.schema_string, |_, name, field| {
        if let Some((_, computed)) = columns.iter().find(|(column, _)| column == name) {
            computed.write(field);
        }
    })?;
    Ok(())
}

/// Gives a column another default value, or none.
pub(crate) fn set_default(metadata: &mut Metadata, column: &str, text: Option<&str>) -> Result<()> {
    metadata.schema_string = edit_fields(&metadata.schema_string, |_, name, field| {
        if name != column {
            return;
        }
        match text {
            Some(text) => Computed::Default(text.to_owned()).write(field),
            None => {
                field.remove(CURRENT_DEFAULT);
            }
        }
    })?;
    Ok(())
}

/// The metadata after identity columns, by position, have counted up to these values; several writers may have counted one.
pub(crate) fn with_high_water_marks(
    metadata: &Metadata,
    marks: &[(usize, i64)],
) -> Result<Metadata> {
    let schema_string = edit_fields(&metadata.schema_string, |index, _, field| {
        let used = marks.iter().filter(|(column, _)| *column == index);
        let known = field.get(HIGH_WATER_MARK).and_then(Value::as_i64);
        let values = used.map(|(_, value)| *value).chain(known);
        let counts_down = field.get(STEP).and_then(Value::as_i64).unwrap_or(1) < 0;
        let last = if counts_down {
            values.min()
        } else {
            values.max()
        };
        if let Some(last) = last {
            field.insert(HIGH_WATER_MARK.into(), last.into());
        }
    })?;
    Ok(Metadata {
        schema_string,
        ..metadata.clone()
    })
}

/// The schema string with the metadata of its fields changed; `edit` gets a field's position, its name and its metadata.
fn edit_fields(
    schema: &str,
    mut edit: impl FnMut(usize, &str, &mut Map<String, Value>),
) -> Result<String> {
    let known: Value = serde_json::from_str(schema)?;
    let mut edited = known.clone();
    let fields = edited.get_mut("fields").and_then(Value::as_array_mut);
    for (index, field) in fields.into_iter().flatten().enumerate() {
        let name = field["name"].as_str().unwrap_or_default().to_owned();
        let metadata = field.as_object_mut().map(|field| {
            let metadata = field.entry("metadata");
            metadata.or_insert_with(|| Value::Object(Map::new()))
        });
        if let Some(metadata) = metadata.and_then(Value::as_object_mut) {
            edit(index, &name, metadata);
        }
    }
    if edited == known {
        return Ok(schema.to_owned());
    }
    Ok(serde_json::to_string(&edited)?)
}

fn number(value: &MetadataValue) -> Option<i64> {
    match value {
        MetadataValue::Number(number) => Some(*number),
        MetadataValue::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn is_true(value: &MetadataValue) -> bool {
    match value {
        MetadataValue::Boolean(flag) => *flag,
        MetadataValue::String(text) => text.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(fields: &str) -> Metadata {
        let schema = format!(r#"{{"type":"struct","fields":[{fields}]}}"#);
        let action = serde_json::json!({
            "id": "x", "format": {"provider": "parquet", "options": {}}, "schemaString": schema,
            "partitionColumns": [], "configuration": {},
        });
        serde_json::from_value(action).unwrap()
    }

    fn field(metadata: &str) -> String {
        format!(r#"{{"name":"c","type":"long","nullable":true,"metadata":{{{metadata}}}}}"#)
    }

    fn check(found: &str, expected: Option<Computed>) {
        let layout = TableLayout::try_new("t", &metadata(&field(found))).unwrap();
        let computed = layout.computed().first().map(|(_, computed)| computed);
        assert_eq!(computed.cloned(), expected, "{found}");
    }

    #[test]
    fn columns_as_spark_declares_them() {
        check("", None);
        check(
            r#""delta.generationExpression":"a + 1""#,
            Some(Computed::Generated("a + 1".into())),
        );
        check(
            r#""CURRENT_DEFAULT":"'x'""#,
            Some(Computed::Default("'x'".into())),
        );
        check(
            r#""delta.identity.start":10,"delta.identity.step":5,"delta.identity.highWaterMark":15,"delta.identity.allowExplicitInsert":false"#,
            Some(Computed::Identity(Identity {
                start: 10,
                step: 5,
                high_water_mark: Some(15),
                allow_explicit: false,
            })),
        );
    }

    fn check_marks(found: &str, marks: &[i64], expected: Option<i64>) {
        let marks: Vec<(usize, i64)> = marks.iter().map(|mark| (0, *mark)).collect();
        let marked = with_high_water_marks(&metadata(&field(found)), &marks).unwrap();
        let layout = TableLayout::try_new("t", &marked).unwrap();
        let mark = layout.computed().iter().find_map(|(_, found)| match found {
            Computed::Identity(identity) => identity.high_water_mark,
            _ => None,
        });
        assert_eq!(mark, expected, "{found}");
    }

    #[test]
    fn marks_only_ever_go_on() {
        let up = r#""delta.identity.start":1,"delta.identity.step":2"#;
        check_marks(up, &[], None);
        check_marks(up, &[5, 3], Some(5));
        check_marks(
            &format!(r#"{up},"delta.identity.highWaterMark":9"#),
            &[5],
            Some(9),
        );
        let down = r#""delta.identity.start":1,"delta.identity.step":-1"#;
        check_marks(down, &[-5, -3], Some(-5));
    }

    #[test]
    fn the_rest_of_a_schema_stays_as_it_is() {
        let schema = |metadata: &Metadata| -> Value {
            serde_json::from_str(&metadata.schema_string).unwrap()
        };
        let kept = schema(&metadata(&field(r#""comment":"kept""#)));
        let mut changed = metadata(&field(r#""comment":"kept","CURRENT_DEFAULT":"1""#));
        set_default(&mut changed, "c", None).unwrap();
        assert_eq!(schema(&changed), kept);
        set_default(&mut changed, "other", Some("1")).unwrap();
        assert_eq!(schema(&changed), kept);
    }

    #[test]
    fn features_by_protocol() {
        let generated = Computed::Generated("a".into());
        let protocol = |version, features: &[&str]| Protocol {
            min_reader_version: 1,
            min_writer_version: version,
            writer_features: Some(features.iter().map(ToString::to_string).collect()),
            ..Protocol::default()
        };
        for (version, features, expected) in [
            (2, &[][..], false),
            (4, &[][..], true),
            (7, &[][..], false),
            (7, &["generatedColumns"][..], true),
        ] {
            let protocol = protocol(version, features);
            assert_eq!(generated.is_supported(&protocol), expected, "{protocol:?}");
        }
    }
}

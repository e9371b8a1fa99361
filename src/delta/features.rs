//! Which table features we honour when reading and when writing (Delta protocol, *Table Features*).
//!
//! A reader must refuse a reader feature it does not know, a writer any writer feature. What is in a list here is honoured by
//! the code; what is only harmless while unused (a variant column, say) is refused when a column uses it.

use arrow::datatypes::{DataType as ArrowType, Field};
use delta_kernel::schema::{DataType, StructField, StructType};

use super::actions::{Metadata, Protocol};
use super::computed::{Computed, computed_columns};
use super::layout::TableLayout;
use super::properties::{ENABLE_CHANGE_DATA_FEED, ENABLE_DELETION_VECTORS};
use super::row_tracking::ENABLE_ROW_TRACKING;
use crate::error::{Error, Result};

const READABLE: [&str; 11] = [
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    "typeWidening",
    "typeWidening-preview",
    "variantType",
    "variantType-preview",
    "variantShredding-preview",
    "variantShredding",
];

const WRITABLE: [&str; 19] = [
    "appendOnly",
    "invariants",
    "checkConstraints",
    "changeDataFeed",
    "generatedColumns",
    "identityColumns",
    "allowColumnDefaults",
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    "inCommitTimestamp",
    "domainMetadata",
    "clustering",
    "rowTracking",
    "typeWidening",
    "typeWidening-preview",
    "checkpointProtection",
];

/// Refuses a table that we would misread.
pub(crate) fn check_readable(table: &str, protocol: &Protocol) -> Result<()> {
    refuse(
        table,
        "reader",
        protocol.reader_features.as_deref(),
        &READABLE,
    )?;
    if protocol.min_reader_version > 3 {
        return unsupported(
            table,
            format!(
                "needs reader version {}, and this build knows up to 3",
                protocol.min_reader_version
            ),
        );
    }
    Ok(())
}

/// Refuses a table that we would write wrongly.
pub(crate) fn check_writable(table: &str, protocol: &Protocol, layout: &TableLayout) -> Result<()> {
    check_readable(table, protocol)?;
    refuse(
        table,
        "writer",
        protocol.writer_features.as_deref(),
        &WRITABLE,
    )?;
    if protocol.min_writer_version > 7 {
        return unsupported(
            table,
            format!(
                "needs writer version {}, and this build knows up to 7",
                protocol.min_writer_version
            ),
        );
    }
    for field in layout.kernel_schema().fields() {
        check_column(table, field)?;
    }
    for (index, computed) in layout.computed() {
        let field = layout.schema().field(*index);
        check_computed(table, field, computed, protocol)?;
    }
    Ok(())
}

/// Refuses a computed column that other writers would take for an ordinary one, or that cannot be computed.
fn check_computed(
    table: &str,
    field: &Field,
    computed: &Computed,
    protocol: &Protocol,
) -> Result<()> {
    let problem = match computed {
        Computed::Identity(identity) if identity.step == 0 => {
            "counts in steps of 0, or does not say in which".to_owned()
        }
        Computed::Identity(_) if *field.data_type() != ArrowType::Int64 => {
            format!("is an identity column of type {}", field.data_type())
        }
        _ if !computed.is_supported(protocol) => {
            let (feature, _) = computed.feature();
            format!("needs the writer feature {feature}, which the protocol of the table lacks")
        }
        _ => return Ok(()),
    };
    unsupported(
        table,
        format!("has a column {:?} that {problem}", field.name()),
    )
}

fn check_column(table: &str, field: &StructField) -> Result<()> {
    if contains_variant(field.data_type()) {
        return unsupported(
            table,
            format!(
                "has a variant column {:?}, which this build does not write",
                field.name()
            ),
        );
    }
    Ok(())
}

fn contains_variant(data_type: &DataType) -> bool {
    match data_type {
        DataType::Variant(_) => true,
        DataType::Struct(fields) => fields
            .fields()
            .any(|field| contains_variant(field.data_type())),
        DataType::Array(array) => contains_variant(array.element_type()),
        DataType::Map(map) => {
            contains_variant(map.key_type()) || contains_variant(map.value_type())
        }
        DataType::Primitive(_) => false,
    }
}

fn refuse(table: &str, side: &str, listed: Option<&[String]>, known: &[&str]) -> Result<()> {
    let unknown: Vec<&str> = listed
        .unwrap_or_default()
        .iter()
        .map(String::as_str)
        .filter(|name| !known.contains(name))
        .collect();
    if unknown.is_empty() {
        Ok(())
    } else {
        unsupported(
            table,
            format!(
                "needs the {side} feature(s) {}, which this build does not have",
                unknown.join(", ")
            ),
        )
    }
}

fn unsupported<T>(table: &str, needs: String) -> Result<T> {
    Err(Error::UnsupportedFeature {
        table: table.into(),
        needs,
    })
}

/// The protocol that a table of ours needs: every feature that its schema and properties use, and no other.
pub(crate) fn protocol_for(schema: &StructType, metadata: &Metadata) -> Protocol {
    let on = |key: &str| {
        metadata
            .configuration
            .get(key)
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    };
    let mut protocol = Protocol {
        min_reader_version: 1,
        min_writer_version: 2,
        ..Protocol::default()
    };
    let mut both = Vec::new();
    let mut writer = Vec::new();
    if on(ENABLE_DELETION_VECTORS) {
        both.push("deletionVectors");
    }
    if schema.fields().any(|field| contains_ntz(field.data_type())) {
        both.push("timestampNtz");
    }
    if metadata
        .configuration
        .contains_key("delta.columnMapping.mode")
    {
        both.push("columnMapping");
    }
    if metadata
        .configuration
        .get("delta.checkpointPolicy")
        .is_some_and(|policy| policy == "v2")
    {
        both.push("v2Checkpoint");
    }
    if on(ENABLE_CHANGE_DATA_FEED) {
        writer.push("changeDataFeed");
    }
    if on("delta.enableInCommitTimestamps") {
        writer.push("inCommitTimestamp");
    }
    if on(ENABLE_ROW_TRACKING) {
        writer.extend(["domainMetadata", "rowTracking"]);
    }
    if metadata
        .configuration
        .keys()
        .any(|key| key.starts_with(super::properties::CONSTRAINT_PREFIX))
    {
        writer.push("checkConstraints");
    }
    for (_, computed) in computed_columns(schema) {
        let (feature, _) = computed.feature();
        if !writer.contains(&feature) {
            writer.push(feature);
        }
    }
    if !both.is_empty() {
        protocol.min_reader_version = 3;
        protocol.reader_features = Some(both.iter().map(ToString::to_string).collect());
    }
    if !both.is_empty() || !writer.is_empty() {
        protocol.min_writer_version = 7;
        let all = ["appendOnly", "invariants"]
            .iter()
            .chain(&both)
            .chain(&writer);
        protocol.writer_features = Some(all.map(ToString::to_string).collect());
    }
    protocol
}

/// `protocol` with what `needed` asks for added; nothing is ever taken away. `None` when nothing is missing.
pub(crate) fn upgrade(protocol: &Protocol, needed: &Protocol) -> Option<Protocol> {
    let mut upgraded = protocol.clone();
    upgraded.min_reader_version = upgraded.min_reader_version.max(needed.min_reader_version);
    upgraded.min_writer_version = upgraded.min_writer_version.max(needed.min_writer_version);
    if upgraded.min_writer_version >= 7 {
        let implied = legacy_writer_features(protocol.min_writer_version);
        upgraded.writer_features = Some(union(
            protocol.writer_features.as_deref(),
            needed.writer_features.as_deref(),
            implied,
        ));
    }
    if upgraded.min_reader_version >= 3 {
        let implied: &[&str] = if protocol.min_reader_version == 2 {
            &["columnMapping"]
        } else {
            &[]
        };
        upgraded.reader_features = Some(union(
            protocol.reader_features.as_deref(),
            needed.reader_features.as_deref(),
            implied,
        ));
    }
    (upgraded != *protocol).then_some(upgraded)
}

/// The features that a legacy writer version implies and that must be listed once the version is 7 (*Table Features*).
fn legacy_writer_features(version: i32) -> &'static [&'static str] {
    const ALL: [&str; 7] = [
        "appendOnly",
        "invariants",
        "checkConstraints",
        "changeDataFeed",
        "generatedColumns",
        "columnMapping",
        "identityColumns",
    ];
    match version {
        2 => &ALL[..2],
        3 => &ALL[..3],
        4 => &ALL[..5],
        5 => &ALL[..6],
        6 => &ALL,
        _ => &[],
    }
}

fn union(present: Option<&[String]>, added: Option<&[String]>, implied: &[&str]) -> Vec<String> {
    let mut features: Vec<String> = present.unwrap_or_default().to_vec();
    let more = implied
        .iter()
        .map(ToString::to_string)
        .chain(added.unwrap_or_default().iter().cloned());
    for feature in more {
        if !features.contains(&feature) {
            features.push(feature);
        }
    }
    features
}

fn contains_ntz(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) => fields.fields().any(|field| contains_ntz(field.data_type())),
        DataType::Array(array) => contains_ntz(array.element_type()),
        DataType::Map(map) => contains_ntz(map.key_type()) || contains_ntz(map.value_type()),
        other => *other == DataType::TIMESTAMP_NTZ,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn unknown_features_are_refused_by_name() {
        let protocol = Protocol {
            min_reader_version: 3,
            min_writer_version: 7,
            reader_features: features(&["teleportation"]),
            writer_features: None,
        };
        let error = check_readable("t", &protocol).unwrap_err().to_string();
        assert!(error.contains("reader feature(s) teleportation"), "{error}");
    }

    #[test]
    fn an_upgrade_keeps_what_the_legacy_version_implied() {
        let legacy = Protocol {
            min_reader_version: 1,
            min_writer_version: 4,
            ..Protocol::default()
        };
        let needed = Protocol {
            min_reader_version: 3,
            min_writer_version: 7,
            reader_features: features(&["deletionVectors"]),
            writer_features: features(&["appendOnly", "deletionVectors"]),
        };
        let upgraded = upgrade(&legacy, &needed).unwrap();
        assert_eq!(
            upgraded.writer_features,
            features(&[
                "appendOnly",
                "invariants",
                "checkConstraints",
                "changeDataFeed",
                "generatedColumns",
                "deletionVectors"
            ])
        );
        assert_eq!(upgrade(&upgraded, &needed), None);
    }
}

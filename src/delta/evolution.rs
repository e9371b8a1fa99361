//! Columns that a table gets in the commit of a statement that writes them (`WITH SCHEMA EVOLUTION`).
//!
//! Columns come last, and so do fields of structs, also of those in arrays. They are NULL in the rows that are there. Types of what is
//! there stay as they are.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use delta_kernel::engine::arrow_conversion::TryIntoKernel;
use delta_kernel::schema::{
    ArrayType, DataType as KernelType, MapType, MetadataValue, StructField, StructType,
};
use uuid::Uuid;

use super::actions::{Action, Metadata};
use super::alter::wanted_protocol;
use super::create::delta_field;
use super::features::{check_writable, upgrade};
use super::snapshot::Snapshot;
use crate::change::refuse_reserved_columns;
use crate::error::{Error, Result};

const MAX_COLUMN_ID: &str = "delta.columnMapping.maxColumnId";

/// The version as it would be with all of the wanted columns, and the actions that make it so; `None` where it has them.
///
/// # Errors
/// As [`evolve`], and when the table may not be written, or the change feed has a column of that name.
pub(crate) fn evolved(
    snapshot: &Arc<Snapshot>,
    wanted: &Schema,
) -> Result<Option<(Arc<Snapshot>, Vec<Action>)>> {
    let table = snapshot.table().name();
    let Some(metadata) = evolve(table, snapshot.metadata(), wanted)? else {
        return Ok(None);
    };
    let (present, layout) = (snapshot.protocol(), snapshot.layout());
    check_writable(table, present, layout)?;
    let mut actions = Vec::new();
    let mut protocol = present.clone();
    let needed = wanted_protocol(&metadata)?;
    // what the table could do without before is none of our business
    if needed != wanted_protocol(snapshot.metadata())?
        && let Some(upgraded) = upgrade(present, &needed)
    {
        actions.push(Action::Protocol(upgraded.clone()));
        protocol = upgraded;
    }
    actions.push(Action::Metadata(metadata.clone()));
    let evolved = snapshot.with_metadata(metadata, protocol)?;
    if evolved.properties().change_data_feed {
        refuse_reserved_columns(table, evolved.layout().schema())?;
    }
    Ok(Some((evolved, actions)))
}

/// The metadata with the columns and fields that `wanted` has more; `None` when nothing is missing.
///
/// # Errors
/// When a name differs from one that is there by its case only, a type is not Delta's, or a field would come into a struct in a map.
pub(crate) fn evolve(
    table: &str,
    metadata: &Metadata,
    wanted: &Schema,
) -> Result<Option<Metadata>> {
    let present: StructType = serde_json::from_str(&metadata.schema_string)?;
    let mut addition = Addition {
        table,
        ids: ColumnIds::of(metadata, &present),
    };
    let Some(schema) = addition.add_to_struct(&present, wanted.fields())? else {
        return Ok(None);
    };
    let mut metadata = metadata.clone();
    metadata.schema_string = serde_json::to_string(&schema)?;
    if let Some(ids) = addition.ids {
        let highest = ids.highest.to_string();
        metadata.configuration.insert(MAX_COLUMN_ID.into(), highest);
    }
    Ok(Some(metadata))
}

/// Adds what is missing; each method answers `None` where nothing is.
struct Addition<'a> {
    table: &'a str,
    /// Only with column mapping.
    ids: Option<ColumnIds>,
}

impl Addition<'_> {
    fn add_to_struct(
        &mut self,
        present: &StructType,
        wanted: &Fields,
    ) -> Result<Option<StructType>> {
        let mut fields = Vec::new();
        let mut changed = false;
        for field in present.fields() {
            let mut field = field.clone();
            if let Some((_, wanted)) = wanted.find(field.name())
                && let Some(data_type) =
                    self.add_to_type(field.name(), &field.data_type, wanted.data_type())?
            {
                field.data_type = data_type;
                changed = true;
            }
            fields.push(field);
        }
        for field in wanted {
            if present.field(field.name()).is_some() {
                continue;
            }
            self.check_case(present, field)?;
            fields.push(self.new_field(field)?);
            changed = true;
        }
        Ok(changed.then(|| StructType::try_new(fields)).transpose()?)
    }

    fn add_to_type(
        &mut self,
        name: &str,
        present: &KernelType,
        wanted: &DataType,
    ) -> Result<Option<KernelType>> {
        Ok(match (present, wanted) {
            (KernelType::Struct(present), DataType::Struct(wanted)) => {
                let fields = self.add_to_struct(present, wanted)?;
                fields.map(|fields| KernelType::Struct(Box::new(fields)))
            }
            (
                KernelType::Array(present),
                DataType::List(wanted)
                | DataType::LargeList(wanted)
                | DataType::ListView(wanted)
                | DataType::FixedSizeList(wanted, _),
            ) => {
                let element = self.add_to_type(name, present.element_type(), wanted.data_type())?;
                element.map(|element| {
                    let array = ArrayType::new(element, present.contains_null());
                    KernelType::Array(Box::new(array))
                })
            }
            (KernelType::Map(present), DataType::Map(entries, _)) => {
                self.check_map(name, present, entries)?;
                None
            }
            _ => None,
        })
    }

    /// Files from before cannot be read where a struct in a map has got a field.
    fn check_map(&mut self, name: &str, present: &MapType, entries: &FieldRef) -> Result<()> {
        let DataType::Struct(pair) = entries.data_type() else {
            return Ok(());
        };
        let types = [present.key_type(), present.value_type()];
        for (present, wanted) in types.into_iter().zip(pair) {
            if self
                .add_to_type(name, present, wanted.data_type())?
                .is_some()
            {
                return Err(Error::invalid(format!(
                    "column {name:?} of {} is a map, and the structs in the source's map have more fields; fields are not added to structs \
                     in maps, so leave the column out with EXCEPT ({name}), or CAST it to the target's type in USING (SELECT …)",
                    self.table
                )));
            }
        }
        Ok(())
    }

    fn check_case(&self, present: &StructType, wanted: &Field) -> Result<()> {
        let mut fields = present.fields();
        let same = |field: &&StructField| field.name().eq_ignore_ascii_case(wanted.name());
        match fields.find(same) {
            None => Ok(()),
            Some(field) => Err(Error::invalid(format!(
                "{} has the column {:?} and the source {:?}; Delta's column names do not differ by case, so rename it in USING (SELECT …)",
                self.table,
                field.name(),
                wanted.name()
            ))),
        }
    }

    fn new_field(&mut self, field: &FieldRef) -> Result<StructField> {
        let field = delta_field(self.table, &loosened(field))?;
        let schema: StructType = (&Schema::new(vec![field.as_ref().clone()])).try_into_kernel()?;
        let added = schema.into_fields().next();
        let added = added.ok_or_else(|| Error::internal("a schema has lost its field"))?;
        match &mut self.ids {
            Some(ids) => ids.field(added),
            None => Ok(added),
        }
    }
}

/// The field, and all in it, nullable.
fn loosened(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(loosened).collect()),
        DataType::List(element) => DataType::List(loosened(element)),
        other => other.clone(),
    };
    Arc::new(Field::new(field.name(), data_type, true))
}

/// Ids and physical names of new columns (*Column Mapping*).
struct ColumnIds {
    highest: i64,
}

impl ColumnIds {
    fn of(metadata: &Metadata, present: &StructType) -> Option<Self> {
        let mode = metadata.configuration.get("delta.columnMapping.mode");
        if !mode.is_some_and(|mode| mode == "name" || mode == "id") {
            return None;
        }
        let known = metadata.configuration.get(MAX_COLUMN_ID);
        let known = known.and_then(|id| id.parse::<i64>().ok());
        Some(Self {
            highest: known.unwrap_or(0).max(highest_id(present)),
        })
    }

    fn field(&mut self, mut field: StructField) -> Result<StructField> {
        self.highest += 1;
        let mapping = [
            (
                "delta.columnMapping.id",
                MetadataValue::Number(self.highest),
            ),
            (
                "delta.columnMapping.physicalName",
                MetadataValue::String(format!("col-{}", Uuid::new_v4())),
            ),
        ];
        field.data_type = self.inside(field.data_type)?;
        field.metadata = HashMap::from(mapping.map(|(key, value)| (key.to_owned(), value)));
        Ok(field)
    }

    fn inside(&mut self, data_type: KernelType) -> Result<KernelType> {
        Ok(match data_type {
            KernelType::Struct(fields) => {
                let fields = fields.into_fields().map(|field| self.field(field));
                let fields = fields.collect::<Result<Vec<_>>>()?;
                KernelType::Struct(Box::new(StructType::try_new(fields)?))
            }
            KernelType::Array(array) => {
                let element = self.inside(array.element_type)?;
                KernelType::Array(Box::new(ArrayType::new(element, array.contains_null)))
            }
            KernelType::Map(map) => {
                let (key, value) = (self.inside(map.key_type)?, self.inside(map.value_type)?);
                KernelType::Map(Box::new(MapType::new(key, value, map.value_contains_null)))
            }
            plain => plain,
        })
    }
}

/// The highest id of a field, at any depth.
fn highest_id(fields: &StructType) -> i64 {
    let ids = fields.fields().map(|field| {
        let own = field.column_mapping_id().unwrap_or(0);
        own.max(highest_id_in(field.data_type()))
    });
    ids.max().unwrap_or(0)
}

fn highest_id_in(data_type: &KernelType) -> i64 {
    match data_type {
        KernelType::Struct(fields) => highest_id(fields),
        KernelType::Array(array) => highest_id_in(array.element_type()),
        KernelType::Map(map) => highest_id_in(map.key_type()).max(highest_id_in(map.value_type())),
        KernelType::Primitive(_) | KernelType::Variant(_) => 0,
    }
}

#[cfg(test)]
mod tests;

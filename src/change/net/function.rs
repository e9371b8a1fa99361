//! The aggregate function of net changes: of the changes of a key, in whatever order they come, the list of its net rows.
//!
//! Its arguments are type, version, ordinal and timestamp of a change, the source's own columns, and what else is told of a change;
//! its value a list of structs: version, timestamp and type, and the other columns.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::{internal_err, not_impl_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, GroupsAccumulator, Signature, Volatility,
};

use super::accumulator::NetAccumulator;
use super::result::NetResult;
use crate::change::{CHANGE_TYPE, COMMIT_TIMESTAMP, COMMIT_VERSION};

/// The columns of a row that are not those of the source.
const ROW_COLUMNS: [&str; 3] = [COMMIT_VERSION, COMMIT_TIMESTAMP, CHANGE_TYPE];
/// The timestamp among them, which is kept with the images.
const TIMESTAMP: usize = 1;

/// What the net rows of a key are made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct NetColumns {
    /// Names of the source's own columns, without the key.
    pub own: Vec<String>,
    /// Names of the columns that tell of a change; those of the last change count.
    pub metadata: Vec<String>,
    /// Whether a row that has gone is told by its last image, where there are no others.
    pub deleted_as_last: bool,
}

/// The net rows of a key: `arguments` as the module says.
pub(super) fn net_rows(columns: NetColumns, arguments: Vec<Expr>) -> Expr {
    AggregateUDF::from(NetRows::new(columns)).call(arguments)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NetRows {
    signature: Signature,
    columns: NetColumns,
}

impl NetRows {
    fn new(columns: NetColumns) -> Self {
        Self {
            signature: Signature::variadic_any(Volatility::Immutable),
            columns,
        }
    }
}

impl AggregateUDFImpl for NetRows {
    fn name(&self) -> &'static str {
        "net_rows"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let [_, version, _, timestamp, values @ ..] = arguments else {
            return internal_err!("net_rows takes the columns of a change");
        };
        let names = ROW_COLUMNS.iter().copied();
        let own = self.columns.own.iter().map(String::as_str);
        let metadata = self.columns.metadata.iter().map(String::as_str);
        let text = DataType::Utf8;
        let types = [version, timestamp, &text].into_iter();
        let fields = names
            .chain(own)
            .chain(metadata)
            .zip(types.chain(values))
            .map(|(name, data_type)| Field::new(name, data_type.clone(), true));
        let row = DataType::Struct(fields.collect());
        Ok(DataType::new_list(row, true))
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("net_rows without groups")
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |name: &str, data_type: DataType| {
            let name = format_state_name(arguments.name, name);
            Arc::new(Field::new(name, data_type, true))
        };
        let mut fields = vec![field("upsert", DataType::Boolean)];
        for change in ["first", "last"] {
            fields.push(field(change, DataType::Int8));
            for (index, column) in arguments.input_fields.iter().enumerate().skip(1) {
                let name = format!("{change} {index}");
                fields.push(field(&name, column.data_type().clone()));
            }
        }
        Ok(fields)
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        arguments: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let DataType::List(row) = arguments.return_type() else {
            return internal_err!("net_rows returns a list");
        };
        let DataType::Struct(fields) = row.data_type() else {
            return internal_err!("net_rows returns a list of structs");
        };
        let result = NetResult {
            row: Arc::clone(row),
            own: self.columns.own.len(),
            deleted_as_last: self.columns.deleted_as_last,
        };
        let images = image_types(fields);
        Ok(Box::new(NetAccumulator::new(result, images)))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// The types of the columns that are kept of a change: its timestamp, and those of the source.
fn image_types(row: &Fields) -> Vec<DataType> {
    let kept = row.iter().enumerate();
    let kept = kept.filter(|(index, _)| *index == TIMESTAMP || *index >= ROW_COLUMNS.len());
    kept.map(|(_, field)| field.data_type().clone()).collect()
}

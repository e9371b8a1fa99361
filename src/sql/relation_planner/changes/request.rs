//! What a call asks for, once its arguments have values.

use arrow::datatypes::Schema;
use datafusion::common::{DFSchema, ScalarValue, TableReference};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::planner::RelationPlannerContext;

use crate::change::{BoundKind, COMMIT_VERSION, ChangeBounds, change_columns};
use crate::error::{Error, Result};
use crate::sql::arguments::{Arguments, Spelling, bound_of, constant, merge_bounds, refuse_column};
use crate::sql::changes_table::open_bounds;
use crate::sql::factory::CHANGE_FILES;
use crate::sql::functions::bound;
use crate::sql::snapshots_table::SNAPSHOTS;
use crate::sql::source_table::SourceTable;

/// A call with values.
#[derive(Debug)]
pub(super) struct Request {
    pub spelling: Spelling,
    /// The bounds, as far as they are constants.
    pub bounds: ChangeBounds,
    /// What was given as a bound.
    pub kinds: Vec<BoundKind>,
    /// The bounds that are parameters, as a filter.
    pub late: Option<Expr>,
    pub net: bool,
    /// Whether all that is known of the changes is wanted.
    pub full: bool,
    pub derive: bool,
    /// The key given, which may be none of the table's.
    pub key: Option<Vec<String>>,
}

impl Request {
    /// Evaluates the arguments of a call.
    ///
    /// # Errors
    /// For values that are not constant, or of the wrong kind.
    pub(super) fn try_new(
        arguments: &Arguments,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<Self> {
        let spelling = arguments.spelling;
        let mut bounds = open_bounds();
        let mut late: Option<Expr> = None;
        for (kind, unit, value) in &arguments.bounds {
            refuse_column(None, value)?;
            let value = context.sql_to_expr(value.clone(), &DFSchema::empty())?;
            match constant(value.clone(), context.context_provider().options())? {
                Some(value) => merge_bounds(&mut bounds, *kind, bound_of(&value, *unit)?)?,
                None => {
                    let filter = bound(COMMIT_VERSION, *kind, *unit, value);
                    late = Some(match late {
                        Some(other) => other.and(filter),
                        None => filter,
                    });
                }
            }
        }
        let net = is_true("net", option(arguments, "net", context)?)?;
        let key = option(arguments, "key", context)?;
        let request = Self {
            spelling,
            bounds,
            kinds: arguments.bounds.iter().map(|(kind, ..)| *kind).collect(),
            late,
            net: net || spelling.is_net(),
            full: is_full(option(arguments, "metadata", context)?)?,
            derive: is_true("derive", option(arguments, "derive", context)?)?,
            key: key.map(key_columns).transpose()?,
        };
        if request.key.is_some() && !request.net && !request.derive {
            return Err(Error::invalid(format!(
                "key names the columns that tell rows apart for net changes and for derive => true; {spelling} was asked for neither"
            )));
        }
        Ok(request)
    }

    /// Refuses a key that names what is no column of the table.
    pub(super) fn check_key(&self, table: &str, schema: &Schema) -> Result<()> {
        let is_column = |name: &String| {
            let is_change = change_columns().iter().any(|ours| ours.name() == name);
            !is_change && schema.index_of(name).is_ok()
        };
        let mut key = self.key.iter().flatten();
        match key.find(|name| !is_column(name)) {
            Some(unknown) => Err(Error::invalid(format!(
                "the key column {unknown:?} is not in {table}"
            ))),
            None => Ok(()),
        }
    }

    /// Refuses what a source that is no Delta table cannot tell.
    pub(super) fn check_source(
        &self,
        name: &TableReference,
        table: &SourceTable<'_>,
    ) -> Result<()> {
        let kind = match table {
            SourceTable::ChangeFiles(_) => CHANGE_FILES,
            SourceTable::Other(table) => table.kind(),
        };
        if self.derive {
            return Err(Error::invalid(format!(
                "{name} is STORED AS {kind}, of which all changes are known: derive => true is for Delta tables whose change data feed was \
                 off; leave it out"
            )));
        }
        let spelling = self.spelling;
        let missing = match spelling {
            _ if kind == SNAPSHOTS => return Ok(()),
            Spelling::Deletions => "hold no rows as they were before",
            Spelling::AppendOnly => "do not tell new rows from updated ones",
            _ => return Ok(()),
        };
        Err(Error::invalid(format!(
            "{spelling}: the changes of {name}, which is STORED AS {kind}, {missing}; read its upserts and deletes with \
             table_changes('{name}', since_version)"
        )))
    }
}

/// The value of an option.
fn option(
    arguments: &Arguments,
    name: &str,
    context: &mut dyn RelationPlannerContext,
) -> Result<Option<ScalarValue>> {
    let Some(value) = arguments.options.get(name) else {
        return Ok(None);
    };
    refuse_column(Some(name), value)?;
    let value = context.sql_to_expr(value.clone(), &DFSchema::empty())?;
    match constant(value, context.context_provider().options())? {
        Some(value) => Ok(Some(value)),
        None => Err(Error::invalid(format!(
            "{name} must be a constant, not a parameter"
        ))),
    }
}

/// The columns in `key => 'a, b'`.
fn key_columns(value: ScalarValue) -> Result<Vec<String>> {
    let Some(names) = value.try_as_str().flatten() else {
        return Err(Error::invalid(format!(
            "key => {value}: expected the names of the key's columns, as in key => 'a, b'"
        )));
    };
    let mut columns: Vec<String> = Vec::new();
    for name in names.split(',').map(str::trim) {
        if columns.iter().any(|column| column == name) {
            return Err(Error::invalid(format!(
                "key => '{names}' names the column {name:?} twice"
            )));
        }
        columns.push(name.to_owned());
    }
    Ok(columns)
}

fn is_true(option: &str, value: Option<ScalarValue>) -> Result<bool> {
    match value {
        None => Ok(false),
        Some(ScalarValue::Boolean(Some(value))) => Ok(value),
        Some(other) => Err(Error::invalid(format!(
            "{option} => {other}: expected true or false"
        ))),
    }
}

fn is_full(value: Option<ScalarValue>) -> Result<bool> {
    let Some(value) = value else {
        return Ok(false);
    };
    let given = match value.try_as_str().flatten() {
        Some(text) if text.eq_ignore_ascii_case("full") => return Ok(true),
        Some(text) => format!("'{text}'"),
        None => value.to_string(),
    };
    Err(Error::invalid(format!(
        "metadata => {given}: metadata takes 'full', which adds the columns that not every source has; leave it out otherwise"
    )))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn flags_are_true_or_false() {
        assert!(is_true("derive", Some(ScalarValue::from(true))).unwrap());
        assert!(!is_true("derive", None).unwrap());
        let error = is_true("derive", Some(ScalarValue::from("yes"))).unwrap_err();
        assert_eq!(error.to_string(), "derive => yes: expected true or false");
        assert_eq!(key_columns(ScalarValue::from("a, b")).unwrap(), ["a", "b"]);
        let error = key_columns(ScalarValue::from("a, a")).unwrap_err();
        assert!(error.to_string().contains("\"a\" twice"), "{error}");
        let error = is_full(Some(ScalarValue::from("none"))).unwrap_err();
        assert!(error.to_string().contains("metadata => 'none'"), "{error}");
    }

    #[test]
    fn a_key_is_made_of_the_tables_columns() {
        let columns = [Field::new("id", DataType::Int32, true)];
        let changes = change_columns();
        let changes = changes.iter().map(|field| field.as_ref().clone());
        let schema = Schema::new(columns.into_iter().chain(changes).collect::<Vec<_>>());
        let check = |key: &[&str], expected: bool| {
            let request = Request {
                spelling: Spelling::TableChanges,
                bounds: open_bounds(),
                kinds: vec![],
                late: None,
                net: true,
                full: false,
                derive: false,
                key: Some(key.iter().map(ToString::to_string).collect()),
            };
            assert_eq!(request.check_key("t", &schema).is_ok(), expected, "{key:?}");
        };
        check(&["id"], true);
        check(&["id", "other"], false);
        check(&["_commit_version"], false);
    }
}

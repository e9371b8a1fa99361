//! What `OPTIONS (…)` says of a table with a version column.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable};

use super::column::VersionColumn;
use super::plan::Rows;
use crate::change::refuse_reserved_columns;
use crate::error::{Error, Result};

/// The options `version`, `key` and `deleted`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VersionedOptions {
    /// The column that only grows.
    version: String,
    /// The columns that tell rows apart.
    pub key: Vec<String>,
    /// SQL over the table's columns, which holds for rows that are deleted.
    deleted: Option<String>,
}

impl VersionedOptions {
    /// The names of the options.
    pub(super) const KNOWN: [&str; 3] = ["version", "key", "deleted"];

    /// Reads the options of `table`; their names may be in any case.
    ///
    /// # Errors
    /// When an option is not known, is missing or is empty.
    pub(super) fn try_new(table: &str, options: &HashMap<String, String>) -> Result<Self> {
        let mut given = BTreeMap::new();
        for (name, value) in options {
            let known = Self::KNOWN
                .iter()
                .find(|known| known.eq_ignore_ascii_case(name.trim()));
            let Some(known) = known else {
                return Err(Error::invalid(format!(
                    "unknown option {name:?} of {table}; known options: {}",
                    Self::KNOWN.join(", ")
                )));
            };
            if given.insert(*known, value.trim()).is_some() {
                return Err(Error::invalid(format!(
                    "the option {known} of {table} is given twice; leave one of them out"
                )));
            }
        }
        let version = given.remove("version").ok_or_else(|| {
            Error::invalid(format!(
                "{table} needs the option version, the column that grows with every change of a row, as in version 'updated_at'"
            ))
        })?;
        let key = given.remove("key").ok_or_else(|| {
            Error::invalid(format!(
                "{table} needs the option key, the columns that tell its rows apart, as in key 'id'"
            ))
        })?;
        let key = key.split(',').map(|name| unquoted(name).to_owned());
        Ok(Self {
            version: unquoted(version).to_owned(),
            key: key.collect(),
            deleted: given.remove("deleted").map(str::to_owned),
        })
    }

    /// The condition `deleted`, parsed by `state` for a table with the columns of `schema`.
    ///
    /// # Errors
    /// When it is no condition on a row.
    pub(super) fn condition(
        &self,
        table: &str,
        schema: &SchemaRef,
        state: &SessionState,
    ) -> Result<Option<Expr>> {
        let Some(sql) = &self.deleted else {
            return Ok(None);
        };
        let columns = DFSchema::try_from(Arc::clone(schema))?;
        let condition = state
            .create_logical_expr(sql, &columns)
            .map_err(|error| self.refused(table, &error.strip_backtrace()))?;
        let is_no_value = |node: &Expr| {
            Ok(matches!(
                node,
                Expr::AggregateFunction(_)
                    | Expr::WindowFunction(_)
                    | Expr::ScalarSubquery(_)
                    | Expr::Exists(_)
                    | Expr::InSubquery(_)
                    | Expr::SetComparison(_)
                    | Expr::Placeholder(_)
            ))
        };
        if condition.exists(is_no_value)? || condition.is_volatile() {
            return Err(self.refused(table, "it depends on more than the row"));
        }
        Ok(Some(condition))
    }

    /// The rows of `table`, which messages call `name`; those for which `deleted` holds are deleted.
    ///
    /// # Errors
    /// When the options do not fit its columns.
    pub(super) fn rows(
        &self,
        name: &str,
        table: Arc<dyn TableProvider>,
        deleted: Option<Expr>,
    ) -> Result<Rows> {
        let schema = table.schema();
        refuse_reserved_columns(name, &schema)?;
        check_column(name, "version", &self.version, &schema)?;
        for (index, key) in self.key.iter().enumerate() {
            check_column(name, "key", key, &schema)?;
            if self.key[..index].contains(key) {
                return Err(Error::invalid(format!(
                    "the option key of {name} has the column {key:?} twice; name it once"
                )));
            }
        }
        if let Some(condition) = &deleted {
            let columns = DFSchema::try_from(Arc::clone(&schema))?;
            match condition.get_type(&columns) {
                Ok(DataType::Boolean) => {}
                Ok(other) => {
                    let reason = format!("it is {other}, not true or false");
                    return Err(self.refused(name, &reason));
                }
                Err(error) => return Err(self.refused(name, &error.strip_backtrace())),
            }
        }
        Ok(Rows {
            name: name.to_owned(),
            version: VersionColumn::try_new(name, schema.field_with_name(&self.version)?)?,
            table,
            deleted,
        })
    }

    fn refused(&self, table: &str, reason: &str) -> Error {
        Error::invalid(format!(
            "the option deleted of {table} is {:?}: {reason}; give a condition on a row, such as deleted 'is_deleted = true'",
            self.deleted.as_deref().unwrap_or_default()
        ))
    }
}

fn check_column(table: &str, option: &str, column: &str, schema: &Schema) -> Result<()> {
    if schema.field_with_name(column).is_ok() {
        return Ok(());
    }
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    Err(Error::invalid(format!(
        "the option {option} of {table} names the column {column:?}, which is not there; its columns are {}",
        names.join(", ")
    )))
}

/// A name without the quotes that SQL would need.
fn unquoted(name: &str) -> &str {
    let name = name.trim();
    name.strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<VersionedOptions> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        VersionedOptions::try_new("s", &options.collect())
    }

    #[test]
    fn options_are_read_in_any_case() {
        let options = read(&[("VERSION", "at"), ("Key", " a, \"B c\" ")]).unwrap();
        assert_eq!(options.version, "at");
        assert_eq!(options.key, ["a", "B c"]);
        assert_eq!(options.deleted, None);
    }

    #[test]
    fn slips_are_refused() {
        let check = |options: &[(&str, &str)], part: &str| {
            let error = read(options).unwrap_err().to_string();
            assert!(error.contains(part), "{error} lacks {part:?}");
        };
        check(&[("key", "id")], "needs the option version");
        check(&[("version", "at")], "needs the option key");
        check(
            &[("version", "at"), ("key", "id"), ("delete", "x")],
            "unknown option \"delete\" of s; known options: version, key, deleted",
        );
        check(
            &[("version", "at"), ("Version", "at"), ("key", "id")],
            "given twice",
        );
    }
}

//! The conditions of a statement as its commit records them, in delta-spark's form: SQL texts in JSON (*Commit Provenance*).

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::sql::unparser::Unparser;
use datafusion::sql::unparser::dialect::Dialect;
use serde::Serialize;

use super::clause::{Clause, ClauseAction, ClauseKind, Clauses};
use super::subquery::has_subquery;
use crate::delta::transaction::Operation;
use crate::error::Result;

/// Longer conditions are cut: everybody who opens the table reads them.
const LONGEST_TEXT: usize = 2000;

/// What a MERGE says of itself; `schema` has the columns of both sides.
pub(super) fn merge_operation(
    on: &Expr,
    clauses: &Clauses,
    schema: &DFSchema,
) -> Result<Operation> {
    let of_kind = |kind: ClauseKind| {
        let clauses = clauses.iter().map(|(_, clause)| clause);
        let clauses = clauses.filter(|clause| clause.kind == kind);
        let predicates = clauses.map(|clause| ClausePredicate::new(clause, schema));
        serde_json::to_string(&predicates.collect::<Vec<_>>())
    };
    Ok(Operation::new("MERGE")
        .with_parameter("predicate", json_array(Some(text(on, schema)))?)
        .with_parameter("matchedPredicates", of_kind(ClauseKind::Matched)?)
        .with_parameter(
            "notMatchedPredicates",
            of_kind(ClauseKind::NotMatchedByTarget)?,
        )
        .with_parameter(
            "notMatchedBySourcePredicates",
            of_kind(ClauseKind::NotMatchedBySource)?,
        ))
}

/// What an UPDATE or DELETE says of itself, whose rows are those of `input`.
pub(super) fn dml_operation(name: &str, input: &LogicalPlan) -> Result<Operation> {
    // as delta-spark has it: a deletion of all rows has a condition, an update of all rows has none
    let everywhere = (name == "DELETE").then(|| "true".to_owned());
    let predicate = json_array(condition(input).or(everywhere))?;
    Ok(Operation::new(name).with_parameter("predicate", predicate))
}

/// The condition of an UPDATE or DELETE; that of a single table without its name.
fn condition(input: &LogicalPlan) -> Option<String> {
    match input {
        LogicalPlan::Projection(projection) => condition(&projection.input),
        LogicalPlan::Filter(filter) => {
            let schema = filter.input.schema();
            let condition = plain(&filter.predicate, schema);
            let (first, _) = schema.iter().next()?;
            let of_one_table = schema.iter().all(|(relation, _)| relation == first);
            Some(rendered(&match of_one_table {
                true => unqualified(condition),
                false => condition,
            }))
        }
        _ => None,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClausePredicate {
    #[serde(skip_serializing_if = "Option::is_none")]
    predicate: Option<String>,
    action_type: &'static str,
}

impl ClausePredicate {
    fn new(clause: &Clause, schema: &DFSchema) -> Self {
        let condition = clause.condition.as_ref();
        Self {
            predicate: condition.map(|condition| text(condition, schema)),
            action_type: match clause.action {
                ClauseAction::Update(_) => "update",
                ClauseAction::Insert(_) => "insert",
                ClauseAction::Delete => "delete",
            },
        }
    }
}

fn json_array(text: Option<String>) -> Result<String> {
    Ok(serde_json::to_string(text.as_slice())?)
}

fn text(expression: &Expr, schema: &DFSchema) -> String {
    rendered(&plain(expression, schema))
}

/// The expression without names for its parts, and without casts that only say that numbers or texts of two types are compared.
fn plain(expression: &Expr, schema: &DFSchema) -> Expr {
    let named = expression.clone().unalias_nested().data;
    let cast = named.clone().transform_up(|node| match node {
        Expr::Cast(cast) if is_widening(&cast.expr, cast.field.data_type(), schema) => {
            Ok(Transformed::yes(*cast.expr))
        }
        node => Ok(Transformed::no(node)),
    });
    cast.map_or(named, |cast| cast.data)
}

fn is_widening(value: &Expr, to: &DataType, schema: &DFSchema) -> bool {
    let Expr::Column(_) = value else {
        return false;
    };
    value.get_type(schema).is_ok_and(|from| {
        let are_integers = from.is_integer() && to.is_integer();
        (are_integers && from.primitive_width() <= to.primitive_width())
            || (from.is_string() && to.is_string())
    })
}

fn unqualified(expression: Expr) -> Expr {
    let whole = expression.clone();
    let bare = expression.transform_up(|node| match node {
        Expr::Column(column) => Ok(Transformed::yes(Expr::Column(Column::new_unqualified(
            column.name,
        )))),
        node => Ok(Transformed::no(node)),
    });
    bare.map_or(whole, |bare| bare.data)
}

/// The expression as SQL; one with a sub-query, whose plan may have no SQL, as DataFusion shows it.
fn rendered(expression: &Expr) -> String {
    let sql = match has_subquery(expression) {
        true => None,
        false => Unparser::new(&CommitDialect).expr_to_sql(expression).ok(),
    };
    let mut text = sql.map_or_else(|| expression.to_string(), |sql| sql.to_string());
    if let Some((end, _)) = text.char_indices().nth(LONGEST_TEXT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Quotes what is no plain name. DataFusion's default dialect compiles a regular expression to find that out, for every name.
struct CommitDialect;

impl Dialect for CommitDialect {
    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        let is_plain = |character: char| {
            character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_'
        };
        let starts_as_number = identifier.starts_with(|first: char| first.is_ascii_digit());
        let plain = !identifier.is_empty() && !starts_as_number && identifier.chars().all(is_plain);
        (!plain).then_some('"')
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema};
    use datafusion::logical_expr::logical_plan::table_scan;
    use datafusion::logical_expr::{Filter, cast, col, exists, lit};

    use super::*;

    fn scan(name: &str) -> LogicalPlan {
        let fields = vec![
            Field::new("id", DataType::Int32, false),
            Field::new("Last Name", DataType::Utf8, true),
        ];
        let scan = table_scan(Some(name), &Schema::new(fields), None).unwrap();
        scan.build().unwrap()
    }

    #[test]
    fn conditions_are_sql_in_a_json_array() {
        let check = |condition: Option<Expr>, name: &str, expected: &str| {
            let rows = scan("t");
            let rows = match condition {
                Some(condition) => {
                    let filter = Filter::try_new(condition, Arc::new(rows));
                    LogicalPlan::Filter(filter.unwrap())
                }
                None => rows,
            };
            let operation = dml_operation(name, &rows).unwrap();
            assert_eq!(operation.parameters["predicate"], expected);
        };
        let id = || cast(col("t.id"), DataType::Int64);
        let name = || col(Column::new(Some("t"), "Last Name"));
        check(Some(id().eq(lit(5_i64))), "DELETE", r#"["(id = 5)"]"#);
        check(
            Some(cast(col("t.id"), DataType::Utf8).eq(lit("5"))),
            "UPDATE",
            r#"["(CAST(id AS VARCHAR) = '5')"]"#,
        );
        check(
            Some(name().is_null()),
            "UPDATE",
            r#"["\"Last Name\" IS NULL"]"#,
        );
        check(None, "UPDATE", "[]");
        check(None, "DELETE", r#"["true"]"#);
        let many = (0..1000).map(lit).collect();
        let rows = scan("t");
        let long = text(&col("t.id").in_list(many, false), rows.schema());
        assert_eq!(long.chars().count(), LONGEST_TEXT + 1);
        let sub_query = exists(Arc::new(scan("s")));
        assert!(text(&sub_query, rows.schema()).contains("EXISTS"));
    }
}

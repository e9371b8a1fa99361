//! Expressions of the transaction log, which are in Spark's SQL, as DataFusion's.
//!
//! Generation expressions and default values decide what is stored, so an expression is taken only if every part of it means the
//! same here and there: columns are found whatever their case, functions that have another name or count otherwise are rewritten,
//! and what is not known to be the same is an error. Instants are read in UTC.

mod casts;
mod functions;

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::RecordBatchOptions;
use arrow::datatypes::{DataType, FieldRef, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable, cast};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DateTimeField, Expr as Sql, ExprWithAlias, Ident, UnaryOperator,
    Value, visit_expressions_mut,
};
use datafusion::sql::sqlparser::dialect::SparkSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

use self::casts::refuse_other_casts;
use self::functions::{check_position, translate_call};
use crate::delta::computed::Computed;
use crate::delta::layout::TableLayout;
use crate::error::{Error, Result};

/// Plans an expression over the columns of `schema` that gives values of `data_type`.
///
/// # Errors
/// [`Error::Invalid`] with the reason when it does not parse, or when a part of it may mean something else in Spark.
pub(crate) fn plan_expression(
    text: &str,
    schema: &DFSchema,
    data_type: &DataType,
    state: &SessionState,
) -> Result<Expr> {
    let planned = cast(untyped(text, schema, state)?, data_type.clone());
    let typed = simplifier(schema, state).coerce(planned, schema)?;
    refuse_other_casts(&typed, schema)?;
    Ok(typed)
}

/// The type that a generation expression has by itself.
///
/// # Errors
/// As [`plan_expression`], and when it has another value each time.
pub(crate) fn generation_type(
    text: &str,
    schema: &DFSchema,
    state: &SessionState,
) -> Result<DataType> {
    let planned = untyped(text, schema, state)?;
    let typed = simplifier(schema, state).coerce(planned, schema)?;
    refuse_other_casts(&typed, schema)?;
    if typed.is_volatile() {
        return Err(Error::invalid("it has another value each time"));
    }
    Ok(typed.get_type(schema)?)
}

/// The default value of the column at `index`, in its type; `None` if it has none.
///
/// # Errors
/// As [`plan_expression`].
pub(crate) fn default_value(
    layout: &TableLayout,
    index: usize,
    state: &SessionState,
) -> Result<Option<Expr>> {
    let mut computed = layout.computed().iter();
    let default = computed.find_map(|(column, computed)| match computed {
        Computed::Default(text) if *column == index => Some(text),
        _ => None,
    });
    let data_type = layout.schema().field(index).data_type();
    default
        .map(|text| plan_expression(text, &DFSchema::empty(), data_type, state))
        .transpose()
}

/// Evaluates a default value once.
///
/// # Errors
/// When it needs a column, or has no value of the type.
pub(crate) fn check_default(text: &str, data_type: &DataType, state: &SessionState) -> Result<()> {
    let schema = DFSchema::empty();
    let value = plan_expression(text, &schema, data_type, state)?;
    let one_row = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &one_row)?;
    evaluable(value, &schema, state)?.evaluate(&row)?;
    Ok(())
}

/// The expression ready to be evaluated; the time of day is that of this call.
pub(super) fn evaluable(
    expression: Expr,
    schema: &DFSchema,
    state: &SessionState,
) -> Result<Arc<dyn PhysicalExpr>> {
    let simple = simplifier(schema, state).simplify(expression)?;
    Ok(state.create_physical_expr(simple, schema)?)
}

fn simplifier(schema: &DFSchema, state: &SessionState) -> ExprSimplifier {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(Arc::clone(state.config_options()))
        .with_current_time();
    ExprSimplifier::new(context.build())
}

fn untyped(text: &str, schema: &DFSchema, state: &SessionState) -> Result<Expr> {
    if text.contains('\\') {
        // in Spark it begins an escape, here it does not
        return Err(unknown("a backslash"));
    }
    let mut expression = parse(text)?;
    let translated = visit_expressions_mut(&mut expression, |node| match translate(node, schema) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    if let ControlFlow::Break(error) = translated {
        return Err(error);
    }
    let expression = ExprWithAlias {
        expr: expression,
        alias: None,
    };
    Ok(state.create_logical_expr_from_sql_expr(expression, schema)?)
}

/// Parses one expression.
fn parse(text: &str) -> Result<Sql> {
    let syntax = |error| Error::invalid(format!("syntax error: {error}"));
    let dialect = SparkSqlDialect;
    let parser = Parser::new(&dialect).try_with_sql(text);
    let mut parser = parser.map_err(syntax)?;
    let expression = parser.parse_expr().map_err(syntax)?;
    match parser.peek_token().token {
        Token::EOF => Ok(expression),
        other => Err(Error::invalid(format!("{other} was not expected"))),
    }
}

/// Rewrites one node, whose own parts have been rewritten.
fn translate(node: &mut Sql, schema: &DFSchema) -> Result<()> {
    let is_the_same = is_the_same(node);
    let replacement = match node {
        Sql::Identifier(name) => {
            resolve(std::slice::from_mut(name), schema)?;
            None
        }
        Sql::CompoundIdentifier(names) => {
            resolve(names, schema)?;
            None
        }
        Sql::Value(value) => literal(&value.value)?,
        Sql::BinaryOp {
            left,
            op: BinaryOperator::Spaceship,
            right,
        } => Some(Sql::IsNotDistinctFrom(left.clone(), right.clone())),
        Sql::Function(call) => translate_call(call)?,
        Sql::Substring {
            substring_from: Some(from),
            ..
        } => {
            check_position(from)?;
            None
        }
        _ if is_the_same => None,
        other => return Err(unknown(other)),
    };
    if let Some(replacement) = replacement {
        *node = replacement;
    }
    Ok(())
}

/// Whether the node itself means the same in Spark, whatever its parts are.
fn is_the_same(node: &Sql) -> bool {
    use BinaryOperator as Binary;
    use DateTimeField as Field;
    match node {
        // `/` divides whole numbers to fractions in Spark, and decimals to other scales
        Sql::BinaryOp { op, .. } => matches!(
            op,
            Binary::Plus
                | Binary::Minus
                | Binary::Multiply
                | Binary::Modulo
                | Binary::StringConcat
                | Binary::Eq
                | Binary::NotEq
                | Binary::Lt
                | Binary::LtEq
                | Binary::Gt
                | Binary::GtEq
                | Binary::And
                | Binary::Or
        ),
        Sql::UnaryOp { op, .. } => matches!(
            op,
            UnaryOperator::Plus | UnaryOperator::Minus | UnaryOperator::Not
        ),
        Sql::Extract { field, .. } => matches!(
            field,
            Field::Year
                | Field::Quarter
                | Field::Month
                | Field::Week(None)
                | Field::Day
                | Field::Hour
                | Field::Minute
        ),
        Sql::Cast { kind, format, .. } => {
            matches!(kind, CastKind::Cast | CastKind::DoubleColon) && format.is_none()
        }
        Sql::Like { any, .. } => !any,
        Sql::IsNull(_)
        | Sql::IsNotNull(_)
        | Sql::IsTrue(_)
        | Sql::IsNotTrue(_)
        | Sql::IsFalse(_)
        | Sql::IsNotFalse(_)
        | Sql::IsDistinctFrom(..)
        | Sql::IsNotDistinctFrom(..)
        | Sql::InList { .. }
        | Sql::Between { .. }
        | Sql::Ceil { .. }
        | Sql::Floor { .. }
        | Sql::Trim { .. }
        | Sql::TypedString(_)
        | Sql::Case { .. }
        | Sql::Nested(_) => true,
        _ => false,
    }
}

/// Writes names as the table has them, since case does not count in Spark.
fn resolve(names: &mut [Ident], schema: &DFSchema) -> Result<()> {
    let mut fields: Vec<&FieldRef> = schema.fields().iter().collect();
    for name in names {
        let found = fields
            .iter()
            .find(|field| field.name().eq_ignore_ascii_case(&name.value));
        let field = *found
            .ok_or_else(|| Error::invalid(format!("there is no column {:?} for it", name.value)))?;
        *name = Ident::with_quote('`', field.name().as_str());
        fields = match field.data_type() {
            DataType::Struct(inner) => inner.iter().collect(),
            _ => vec![],
        };
    }
    Ok(())
}

/// A number with a point is an exact decimal in Spark.
fn literal(value: &Value) -> Result<Option<Sql>> {
    const DIGITS: usize = 38;
    match value {
        Value::Null | Value::Boolean(_) => Ok(None),
        // two quotes are one quote here, and nothing there
        Value::SingleQuotedString(text) | Value::DoubleQuotedString(text)
            if !text.contains(['\'', '"']) =>
        {
            Ok(None)
        }
        Value::Number(number, _) => {
            let Some((whole, fraction)) = number.split_once('.') else {
                return Ok(None);
            };
            let digits = whole.len() + fraction.len();
            if !fraction.bytes().all(|byte| byte.is_ascii_digit()) || digits > DIGITS {
                return Ok(None);
            }
            let scale = fraction.len();
            parse(&format!(
                "CAST('{whole}.{fraction}' AS DECIMAL({digits}, {scale}))"
            ))
            .map(Some)
        }
        other => Err(unknown(other)),
    }
}

/// What is not known to be the same.
fn unknown(part: impl std::fmt::Display) -> Error {
    Error::invalid(format!(
        "{part} is not known here to mean what it does in Spark"
    ))
}

#[cfg(test)]
mod tests;

//! The part of a read that a remote system can do itself, as SQL.
//!
//! Whatever goes along only spares rows that nobody needs: filters are evaluated again above, so that one which is left out costs
//! time and one that the system understands otherwise costs rows. So a condition goes along only where its text means the same in
//! every system ([`is_plain`]) and the source says that its system keeps every row that we would keep.
#![cfg_attr(
    not(test),
    expect(dead_code, reason = "remote systems, which need it, come later")
)]

use arrow::datatypes::{DataType, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::sql::unparser::Unparser;
use datafusion::sql::unparser::dialect::Dialect;

use crate::change::unqualified;
use crate::error::Result;
use crate::source::ChangeRead;

/// Characters that quote names, or that systems escape in different ways. The unparser does not escape what looks escaped already.
const QUOTES: [char; 6] = ['\'', '"', '`', '[', ']', '\\'];

/// What a system is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pushdown {
    /// The columns, in the order of the answer; none where rows are only counted.
    pub columns: Vec<String>,
    /// A condition over columns without a qualifier.
    pub predicate: Option<String>,
    /// So many rows are enough.
    pub limit: Option<usize>,
}

/// What goes along with a read of columns of `schema`, the source's whole change schema.
///
/// `can_push` says of a condition, a part of a filter that others are joined to by AND, whether the system keeps every row that it
/// is true for here. It has to say no where the system may keep fewer: where text is compared regardless of case, `name <> 'a'`
/// drops `A`; where LIKE knows other patterns; where it does not have the column.
///
/// The limit goes along only where there is no filter at all: rows that come back may fail one above, and would be missing below
/// the limit.
///
/// # Errors
/// When the projection is not one of `schema`.
pub(crate) fn pushed_down(
    schema: &Schema,
    read: &ChangeRead<'_>,
    dialect: &dyn Dialect,
    can_push: impl Fn(&Expr) -> bool,
) -> Result<Pushdown> {
    let projected = match read.projection {
        Some(indices) => schema.project(indices)?,
        None => schema.clone(),
    };
    let columns = projected.fields().iter();
    let unparser = Unparser::new(dialect);
    let mut conditions = Vec::new();
    for condition in read.filters.iter().flat_map(split_conjunction) {
        let condition = unqualified(condition)?;
        if is_plain(&condition, schema)
            && can_push(&condition)
            && let Ok(sql) = unparser.expr_to_sql(&condition)
        {
            conditions.push(sql.to_string());
        }
    }
    Ok(Pushdown {
        columns: columns.map(|field| field.name().clone()).collect(),
        predicate: (!conditions.is_empty()).then(|| conditions.join(" AND ")),
        limit: read.limit.filter(|_| read.filters.is_empty()),
    })
}

/// Whether a condition is made of comparisons of columns with constants, and of AND, OR and NOT, so that neither the order in which
/// operators bind nor what functions, casts and arithmetic do elsewhere can change its meaning.
fn is_plain(condition: &Expr, schema: &Schema) -> bool {
    let plain = |part: &Expr| is_plain(part, schema);
    let value = |part: &Expr| is_value(part, schema);
    match condition {
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::And | Operator::Or => plain(&binary.left) && plain(&binary.right),
            Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom => value(&binary.left) && value(&binary.right),
            _ => false,
        },
        Expr::Not(inner) => plain(inner),
        Expr::Column(_) => value(condition),
        Expr::IsNull(inner)
        | Expr::IsNotNull(inner)
        | Expr::IsTrue(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsFalse(inner)
        | Expr::IsNotFalse(inner) => value(inner),
        Expr::Between(between) => {
            value(&between.expr) && value(&between.low) && value(&between.high)
        }
        Expr::InList(list) => value(&list.expr) && list.list.iter().all(value),
        Expr::Like(like) => like.escape_char.is_none() && value(&like.expr) && value(&like.pattern),
        _ => false,
    }
}

/// Whether it is a column or a constant whose text is the same everywhere.
fn is_value(part: &Expr, schema: &Schema) -> bool {
    match part {
        Expr::Column(column) => {
            schema.field_with_name(&column.name).is_ok() && !column.name.contains(QUOTES)
        }
        Expr::Literal(value, _) => is_exact(value),
        _ => false,
    }
}

fn is_exact(value: &ScalarValue) -> bool {
    if let Some(text) = value.try_as_str() {
        return text.is_none_or(|text| !text.contains(QUOTES));
    }
    match value {
        // digits without an exponent; a system that reads them as a decimal has no more room
        ScalarValue::Float64(Some(number)) => {
            *number == 0.0 || (1e-9..1e15).contains(&number.abs())
        }
        other => {
            let data_type = other.data_type();
            data_type.is_integer()
                || data_type.is_decimal()
                || data_type.is_binary()
                || matches!(
                    data_type,
                    DataType::Null
                        | DataType::Boolean
                        | DataType::Date32
                        | DataType::Timestamp(_, _)
                )
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;
    use datafusion::logical_expr::{cast, col, ident, in_list, lit};
    use datafusion::prelude::SessionContext;
    use datafusion::sql::unparser::dialect::PostgreSqlDialect;

    use super::*;

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
            Field::new("price", DataType::Float64, true),
            Field::new("is_new", DataType::Boolean, true),
            Field::new("a\"b", DataType::Int64, true),
        ])
    }

    fn pushed(projection: Option<Vec<usize>>, filters: &[Expr], limit: Option<usize>) -> Pushdown {
        let state = SessionContext::new().state();
        let read = ChangeRead {
            state: &state,
            projection: projection.as_ref(),
            filters,
            limit,
        };
        let can_push = |condition: &Expr| *condition != col("id").eq(lit(13_i64));
        pushed_down(&schema(), &read, &PostgreSqlDialect {}, can_push).unwrap()
    }

    fn check(filter: Expr, expected: Option<&str>) {
        let filters = [filter];
        let pushed = pushed(None, &filters, None);
        assert_eq!(pushed.predicate.as_deref(), expected, "{}", filters[0]);
    }

    #[test]
    fn conditions_become_sql() {
        check(col("id").gt(lit(5_i64)), Some(r#"("id" > 5)"#));
        check(col("t.id").gt(lit(-5_i64)), Some(r#"("id" > -5)"#));
        check(col("name").eq(lit("ä b")), Some(r#"("name" = 'ä b')"#));
        check(col("price").lt(lit(0.5)), Some(r#"("price" < 0.5)"#));
        check(
            col("id").eq(lit(1_i64)).or(col("name").is_null()),
            Some(r#"(("id" = 1) OR "name" IS NULL)"#),
        );
        check(
            col("id").between(lit(1_i64), lit(3_i64)),
            Some(r#"("id" BETWEEN 1 AND 3)"#),
        );
        check(
            in_list(col("id"), vec![lit(1_i64), lit(2_i64)], true),
            Some(r#""id" NOT IN (1, 2)"#),
        );
        check(col("name").like(lit("a%")), Some(r#""name" LIKE 'a%'"#));
        check(
            Expr::Not(Box::new(col("is_new"))).and(col("is_new").is_not_true()),
            Some(r#"NOT "is_new" AND "is_new" IS NOT TRUE"#),
        );
    }

    #[test]
    fn what_could_mean_something_else_stays_here() {
        // a quote that looks escaped would not be
        check(col("name").eq(lit("a''b")), None);
        check(col("name").eq(lit(r"\' OR 1 = 1 --")), None);
        check(ident("a\"b").eq(lit(1_i64)), None);
        check(col("name").is_null().is_null(), None);
        check(Expr::Negative(Box::new(lit(-5_i64))).eq(col("id")), None);
        check((col("id") / lit(2_i64)).eq(lit(1_i64)), None);
        check(cast(col("id"), DataType::Utf8).eq(lit("1")), None);
        check(col("price").eq(lit(f64::NAN)), None);
        check(col("price").eq(lit(1e300)), None);
        check(col("price").eq(lit(0.1_f32)), None);
        check(col("elsewhere").eq(lit(1_i64)), None);
        // the source says that its system cannot
        check(col("id").eq(lit(13_i64)), None);
    }

    #[test]
    fn what_cannot_be_said_is_left_out_of_the_rest() {
        let known = col("id").gt(lit(1_i64));
        let unknown = (col("id") + lit(1_i64)).gt(lit(1_i64));
        check(known.clone().and(unknown.clone()), Some(r#"("id" > 1)"#));
        check(known.clone().or(unknown.clone()), None);
        let filters = [known, unknown, col("name").is_not_null()];
        let pushed = pushed(None, &filters, None);
        let expected = r#"("id" > 1) AND "name" IS NOT NULL"#;
        assert_eq!(pushed.predicate.as_deref(), Some(expected));
    }

    #[test]
    fn columns_are_named_and_limits_go_without_filters() {
        let check = |projection: Option<Vec<usize>>, filters: &[Expr], columns: &[&str], limit| {
            let pushed = pushed(projection, filters, Some(7));
            assert_eq!(pushed.columns, columns);
            assert_eq!(pushed.limit, limit);
        };
        let filter = [col("id").gt(lit(5_i64))];
        check(
            None,
            &[],
            &["id", "name", "price", "is_new", "a\"b"],
            Some(7),
        );
        check(Some(vec![1, 0]), &[], &["name", "id"], Some(7));
        check(Some(vec![]), &filter, &[], None);
    }
}

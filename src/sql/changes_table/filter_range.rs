//! The range that conditions on `_commit_version` and `_commit_timestamp` leave of the changes of a source.
//!
//! Every condition is evaluated again above the read, so a range that is wider than it need be only costs time; what is never
//! read, though, need not be there any more. A bound that lies beyond what there is leaves what there is, or nothing.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Between, Expr, Operator};

use crate::change::{Bound, COMMIT_TIMESTAMP, COMMIT_VERSION, ChangeBounds, ChangeRange};
use crate::error::Result;
use crate::source::ChangeSource;
use crate::sql::arguments::micros;

/// What conditions leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sql) struct FilterRange {
    /// The first and the last version.
    versions: (i64, i64),
    /// Commits after this time, in microseconds since the epoch.
    after: Option<i64>,
    /// Commits at or before this time.
    until: Option<i64>,
}

/// What is left of a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    /// What is read: it ends where the bounds given do, or now, so that its columns are not those of an older version.
    pub range: ChangeRange,
    /// The last version that conditions let through.
    pub until: i64,
}

const ALL: FilterRange = FilterRange {
    versions: (i64::MIN, i64::MAX),
    after: None,
    until: None,
};

impl FilterRange {
    /// What these conditions leave, all of which hold.
    pub(in crate::sql) fn of(filters: &[Expr]) -> Self {
        filters
            .iter()
            .flat_map(split_conjunction)
            .map(condition)
            .fold(ALL, Self::and)
    }

    /// Whether something bounds it above.
    pub(in crate::sql) fn is_bounded_above(&self) -> bool {
        self.versions.1 != i64::MAX || self.until.is_some()
    }

    /// The versions of `source` that are left inside of `given`; `None` if there are none.
    pub(super) async fn resolve(
        &self,
        source: &dyn ChangeSource,
        given: &ChangeBounds,
    ) -> Result<Option<Left>> {
        let (mut since, mut until) = (self.versions.0.saturating_sub(1), self.versions.1);
        let mut last = source.current_version().await?;
        if given.since != Bound::Beginning || given.until.is_some() {
            let range = source.resolve(given).await?;
            (since, last) = (since.max(range.since()), last.min(range.until()));
        }
        until = until.min(last);
        if let Some(micros) = self.after {
            since = since.max(version_at(source, micros).await?);
        }
        if let Some(micros) = self.until {
            until = until.min(version_at(source, micros).await?);
        }
        if until < 0 || since >= until {
            return Ok(None);
        }
        let bounds = ChangeBounds {
            since: match since {
                ..0 => Bound::Beginning,
                version => Bound::Version(version),
            },
            until: Some(Bound::Version(last)),
        };
        let range = source.resolve(&bounds).await?;
        Ok(Some(Left { range, until }))
    }

    fn and(self, other: Self) -> Self {
        Self {
            versions: (
                self.versions.0.max(other.versions.0),
                self.versions.1.min(other.versions.1),
            ),
            after: self.after.max(other.after),
            until: match (self.until, other.until) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            },
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            versions: (
                self.versions.0.min(other.versions.0),
                self.versions.1.max(other.versions.1),
            ),
            after: self.after.min(other.after),
            until: match (self.until, other.until) {
                (Some(one), Some(other)) => Some(one.max(other)),
                _ => None,
            },
        }
    }
}

/// The newest version at a time; -1 for none.
async fn version_at(source: &dyn ChangeSource, micros: i64) -> Result<i64> {
    let after = ChangeBounds {
        since: Bound::Timestamp(micros),
        until: None,
    };
    Ok(source.resolve(&after).await?.since())
}

fn condition(filter: &Expr) -> FilterRange {
    match filter {
        Expr::BinaryExpr(binary) if binary.op == Operator::Or => {
            condition(&binary.left).or(condition(&binary.right))
        }
        Expr::BinaryExpr(binary) if binary.op == Operator::And => {
            condition(&binary.left).and(condition(&binary.right))
        }
        Expr::BinaryExpr(binary) => match binary.op.swap() {
            Some(swapped) if is_literal(&binary.left) => {
                comparison(&binary.right, swapped, &binary.left)
            }
            _ => comparison(&binary.left, binary.op, &binary.right),
        },
        Expr::Between(Between {
            expr,
            negated: false,
            low,
            high,
        }) => comparison(expr, Operator::GtEq, low).and(comparison(expr, Operator::LtEq, high)),
        Expr::InList(list) if !list.negated => {
            let values = list.list.iter();
            let ranges = values.map(|value| comparison(&list.expr, Operator::Eq, value));
            ranges.reduce(FilterRange::or).unwrap_or(ALL)
        }
        _ => ALL,
    }
}

fn is_literal(expression: &Expr) -> bool {
    matches!(expression, Expr::Literal(..))
}

fn comparison(column: &Expr, operator: Operator, value: &Expr) -> FilterRange {
    let (Some(column), Expr::Literal(value, _)) = (column_name(column), value) else {
        return ALL;
    };
    match (column, value) {
        (COMMIT_VERSION, ScalarValue::Int64(Some(version))) => of_version(operator, *version),
        (COMMIT_TIMESTAMP, value) => match micros(value) {
            Some(micros) => of_time(operator, micros),
            None => ALL,
        },
        _ => ALL,
    }
}

/// The column, be it as another type that holds every time just as well.
fn column_name(expression: &Expr) -> Option<&str> {
    use arrow::datatypes::DataType::Timestamp;
    use arrow::datatypes::TimeUnit::{Microsecond, Nanosecond};
    match expression {
        Expr::Column(column) => Some(column.name.as_str()),
        Expr::Cast(cast) => match cast.field.data_type() {
            Timestamp(Microsecond | Nanosecond, _) => {
                column_name(&cast.expr).filter(|name| *name == COMMIT_TIMESTAMP)
            }
            _ => None,
        },
        _ => None,
    }
}

fn of_version(operator: Operator, version: i64) -> FilterRange {
    let versions = match operator {
        Operator::Gt => (version.saturating_add(1), i64::MAX),
        Operator::GtEq => (version, i64::MAX),
        Operator::Lt => (i64::MIN, version.saturating_sub(1)),
        Operator::LtEq => (i64::MIN, version),
        Operator::Eq => (version, version),
        _ => return ALL,
    };
    FilterRange { versions, ..ALL }
}

/// A time of nanoseconds has lost what is below a microsecond: upper bounds take that microsecond in.
fn of_time(operator: Operator, micros: i64) -> FilterRange {
    let (after, until) = match operator {
        Operator::Gt => (Some(micros), None),
        Operator::GtEq => (Some(micros.saturating_sub(1)), None),
        Operator::Lt | Operator::LtEq => (None, Some(micros)),
        Operator::Eq => (Some(micros.saturating_sub(1)), Some(micros)),
        _ => return ALL,
    };
    FilterRange {
        after,
        until,
        ..ALL
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{ident, lit};

    use super::*;

    fn check(filters: &[Expr], versions: (i64, i64), after: Option<i64>, until: Option<i64>) {
        let expected = FilterRange {
            versions,
            after,
            until,
        };
        assert_eq!(FilterRange::of(filters), expected, "{filters:?}");
    }

    fn version() -> Expr {
        ident(COMMIT_VERSION)
    }

    fn time() -> Expr {
        ident(COMMIT_TIMESTAMP)
    }

    fn at(micros: i64) -> Expr {
        lit(ScalarValue::TimestampMicrosecond(
            Some(micros),
            Some("UTC".into()),
        ))
    }

    #[test]
    fn conditions_on_versions_are_a_range() {
        let (min, max) = (i64::MIN, i64::MAX);
        check(&[], (min, max), None, None);
        check(&[version().gt(lit(5_i64))], (6, max), None, None);
        check(&[lit(5_i64).gt(version())], (min, 4), None, None);
        check(
            &[version().gt_eq(lit(2_i64)), version().lt_eq(lit(4_i64))],
            (2, 4),
            None,
            None,
        );
        check(
            &[version().between(lit(2_i64), lit(4_i64))],
            (2, 4),
            None,
            None,
        );
        check(&[version().eq(lit(3_i64))], (3, 3), None, None);
        check(
            &[version().in_list(vec![lit(7_i64), lit(3_i64)], false)],
            (3, 7),
            None,
            None,
        );
        check(
            &[version().in_list(vec![lit(7_i64)], true)],
            (min, max),
            None,
            None,
        );
        check(
            &[version().eq(lit(3_i64)).or(version().eq(lit(9_i64)))],
            (3, 9),
            None,
            None,
        );
        check(
            &[version().gt(lit(3_i64)).or(ident("id").eq(lit(9_i64)))],
            (min, max),
            None,
            None,
        );
        check(
            &[version().gt(lit(3_i64)).and(ident("id").eq(lit(9_i64)))],
            (4, max),
            None,
            None,
        );
        check(&[ident("id").gt(lit(3_i64))], (min, max), None, None);
    }

    #[test]
    fn a_range_may_have_an_end() {
        let check = |filter: Expr, expected: bool| {
            let is_bounded = FilterRange::of(std::slice::from_ref(&filter)).is_bounded_above();
            assert_eq!(is_bounded, expected, "{filter}");
        };
        check(version().gt(lit(5_i64)), false);
        check(version().lt_eq(lit(5_i64)), true);
        check(time().gt(at(10)).and(time().lt(at(20))), true);
        check(
            version().lt_eq(lit(5_i64)).or(ident("id").eq(lit(1_i64))),
            false,
        );
    }

    #[test]
    fn conditions_on_times_are_a_range() {
        let all = (i64::MIN, i64::MAX);
        check(&[time().gt(at(10))], all, Some(10), None);
        check(
            &[time().gt_eq(at(10)), time().lt(at(20))],
            all,
            Some(9),
            Some(20),
        );
        check(
            &[time().lt_eq(at(20)), time().lt_eq(at(15))],
            all,
            None,
            Some(15),
        );
        check(
            &[time().gt(at(10)).or(time().gt(at(5)))],
            all,
            Some(5),
            None,
        );
        check(
            &[time().gt(at(10)).or(version().gt(lit(5_i64)))],
            all,
            None,
            None,
        );
    }
}

//! The ways to ask for changes by a call, and what differs between them.
//!
//! | call | lower bound by position | rows |
//! |---|---|---|
//! | `table_changes('t', 41)` | exclusive | every change |
//! | `table_changes_by_path('s3://…/t', 41)` | exclusive | every change |
//! | `net_changes('t', 41)` | exclusive | the net change of each key |
//! | `table_insertions('t', 42, 50)` (DuckLake) | inclusive | rows as changes left them |
//! | `table_deletions('t', 42, 50)` (DuckLake) | inclusive | rows as they were before |
//! | `t CHANGES(INFORMATION => DEFAULT) AT(…)` (Snowflake) | exclusive | the net change of each key |
//! | `t CHANGES(INFORMATION => APPEND_ONLY) AT(…)` (Snowflake) | exclusive | rows that are new, whatever became of them |
//!
//! Snowflake's clause is planned as a call whose bounds have names; see [`point_argument`].

use std::fmt::{self, Display, Formatter};

use crate::change::{BoundKind, ChangeType};
use crate::error::{Error, Result};

/// A way to ask for changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// `table_changes`.
    TableChanges,
    /// `table_changes_by_path`: of a Delta table, by its location.
    ByPath,
    /// `net_changes`.
    NetChanges,
    /// `table_insertions`.
    Insertions,
    /// `table_deletions`.
    Deletions,
    /// `CHANGES(INFORMATION => DEFAULT)`.
    Default,
    /// `CHANGES(INFORMATION => APPEND_ONLY)`.
    AppendOnly,
}

impl Spelling {
    const ALL: [Self; 7] = [
        Self::TableChanges,
        Self::ByPath,
        Self::NetChanges,
        Self::Insertions,
        Self::Deletions,
        Self::Default,
        Self::AppendOnly,
    ];

    /// The functions that are called by their names; the others stand for clauses.
    pub(crate) fn functions() -> impl Iterator<Item = &'static str> {
        let spellings = Self::ALL.into_iter();
        spellings
            .filter(|spelling| !matches!(spelling, Self::Default | Self::AppendOnly))
            .map(Self::name)
    }

    /// The spelling whose function has that name.
    pub(crate) fn of(function: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|spelling| spelling.name().eq_ignore_ascii_case(function))
    }

    /// What Snowflake's `CHANGES(INFORMATION => …)` asks for.
    ///
    /// # Errors
    /// For anything else than DEFAULT and APPEND_ONLY.
    pub(crate) fn of_information(information: &str) -> Result<Self> {
        match information.to_uppercase().as_str() {
            "DEFAULT" => Ok(Self::Default),
            "APPEND_ONLY" => Ok(Self::AppendOnly),
            _ => Err(Error::invalid(format!(
                "CHANGES(INFORMATION => {information}): expected DEFAULT, the net changes, or APPEND_ONLY, the rows that were inserted"
            ))),
        }
    }

    /// The function's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TableChanges => "table_changes",
            Self::ByPath => "table_changes_by_path",
            Self::NetChanges => "net_changes",
            Self::Insertions => "table_insertions",
            Self::Deletions => "table_deletions",
            Self::Default => "changes_default",
            Self::AppendOnly => "changes_append_only",
        }
    }

    /// How it is written.
    pub(crate) fn usage(self) -> String {
        match self {
            Self::ByPath => "table_changes_by_path('s3://bucket/table', since_version)".into(),
            Self::Insertions | Self::Deletions => {
                format!("{self}('table', starting_version, ending_version)")
            }
            Self::Default | Self::AppendOnly => format!("table {self} AT(VERSION => 41)"),
            Self::TableChanges | Self::NetChanges => format!("{self}('table', since_version)"),
        }
    }

    /// What it takes by position.
    pub(crate) fn positions(self) -> &'static str {
        match self {
            Self::ByPath => "a location, since_version and until_version",
            Self::Insertions | Self::Deletions => "a table, starting_version and ending_version",
            _ => "a table, since_version and until_version",
        }
    }

    /// What the lower bound by position is.
    pub(crate) fn lower(self) -> BoundKind {
        match self {
            Self::Insertions | Self::Deletions => BoundKind::Starting,
            _ => BoundKind::Since,
        }
    }

    /// What a lower bound is, for who has left it out.
    pub(crate) fn lower_bound(self) -> String {
        let what = match self.lower() {
            BoundKind::Starting => "the first version",
            _ => "the version applied last",
        };
        let call = match self {
            Self::ByPath => "table_changes_by_path('s3://bucket/table', 41)".into(),
            _ => format!("{self}('t', 41)"),
        };
        format!("{what}, as in {call}, or NULL for everything since the creation")
    }

    /// The options that it has, beside bounds.
    pub(crate) fn options(self) -> &'static [&'static str] {
        match self {
            Self::TableChanges | Self::ByPath => &["net", "metadata", "key", "derive"],
            Self::NetChanges | Self::Insertions | Self::Deletions => &["metadata", "key", "derive"],
            Self::Default | Self::AppendOnly => &[],
        }
    }

    /// Whether it asks for net changes in any case.
    pub(crate) fn is_net(self) -> bool {
        matches!(self, Self::NetChanges | Self::Default)
    }

    /// The kinds of changes that it returns; all, if empty. An `upsert` has left a row like any other update or insert.
    pub(crate) fn kinds(self) -> &'static [ChangeType] {
        match self {
            Self::Insertions => &[
                ChangeType::Insert,
                ChangeType::UpdatePostimage,
                ChangeType::Upsert,
            ],
            Self::Deletions => &[ChangeType::Delete, ChangeType::UpdatePreimage],
            Self::AppendOnly => &[ChangeType::Insert],
            _ => &[],
        }
    }
}

impl Display for Spelling {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "CHANGES(INFORMATION => DEFAULT)",
            Self::AppendOnly => "CHANGES(INFORMATION => APPEND_ONLY)",
            function => function.name(),
        })
    }
}

/// The argument that a point of Snowflake's clause is: `AT` is the state that changes start from, so that its own changes are not
/// among them; `BEFORE` is the state before; `END` is the last state.
///
/// # Errors
/// For points that only Snowflake has.
pub(crate) fn point_argument(clause: &str, unit: &str) -> Result<&'static str> {
    let (clause, unit) = (clause.to_uppercase(), unit.to_uppercase());
    let instead = match (clause.as_str(), unit.as_str()) {
        ("AT", "VERSION") => return Ok("since_version"),
        ("AT", "TIMESTAMP") => return Ok("since_timestamp"),
        ("BEFORE", "VERSION") => return Ok("starting_version"),
        ("BEFORE", "TIMESTAMP") => return Ok("starting_timestamp"),
        ("END", "VERSION") => return Ok("until_version"),
        ("END", "TIMESTAMP") => return Ok("until_timestamp"),
        ("AT" | "BEFORE" | "END", "OFFSET") => {
            "give the time, as in TIMESTAMP => now() - INTERVAL '60 seconds'"
        }
        ("AT" | "BEFORE" | "END", "STATEMENT") => {
            "statements are not numbered here: give VERSION => n, which DESCRIBE HISTORY lists, or TIMESTAMP => '…'"
        }
        ("AT" | "BEFORE" | "END", "STREAM") => {
            "there are no streams here: give the VERSION => n that has been applied last, or let SYNC remember it"
        }
        ("AT" | "BEFORE" | "END", _) => "give VERSION => n or TIMESTAMP => '…'",
        _ => {
            return Err(Error::invalid(format!(
                "the CHANGES clause goes on with AT(…) or BEFORE(…) and may end with END(…); {clause} is none of them"
            )));
        }
    };
    Err(Error::invalid(format!(
        "CHANGES(…) {clause}({unit} => …) is not understood here; {instead}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_known_by_name() {
        for spelling in Spelling::ALL {
            assert_eq!(
                Spelling::of(&spelling.name().to_uppercase()),
                Some(spelling)
            );
        }
        assert_eq!(Spelling::of("table_change"), None);
        let of = |text| Spelling::of_information(text).map_err(|error| error.to_string());
        assert_eq!(of("append_only"), Ok(Spelling::AppendOnly));
        assert!(of("ALL").is_err_and(|error| error.contains("INFORMATION => ALL")));
    }

    #[test]
    fn points_are_bounds() {
        let check = |clause: &str, unit: &str, expected: std::result::Result<&str, &str>| match (
            point_argument(clause, unit),
            expected,
        ) {
            (Ok(argument), Ok(expected)) => assert_eq!(argument, expected),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{error} lacks {part:?}")
            }
            (got, expected) => panic!("{clause} {unit}: got {got:?}, expected {expected:?}"),
        };
        check("at", "version", Ok("since_version"));
        check("BEFORE", "TIMESTAMP", Ok("starting_timestamp"));
        check("END", "VERSION", Ok("until_version"));
        check(
            "AT",
            "OFFSET",
            Err("AT(OFFSET => …) is not understood here; give the time"),
        );
        check("AT", "STREAM", Err("SYNC"));
        check("BEFORE", "STATEMENT", Err("DESCRIBE HISTORY"));
        check("END", "WHEN", Err("give VERSION => n"));
        check("UNTIL", "VERSION", Err("UNTIL is none of them"));
    }
}

//! What is to be kept equal to what: a [`Sync`], built from Rust or parsed from SQL.

use datafusion::common::TableReference;

use crate::error::{Error, Result};

/// Which of the source's columns an option is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Columns {
    /// Every column.
    #[default]
    All,
    /// These.
    Only(Vec<String>),
    /// Every column but these.
    Except(Vec<String>),
}

impl Columns {
    /// Whether `name` is one of them.
    pub(crate) fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|only| only == name),
            Self::Except(names) => !names.iter().any(|except| except == name),
        }
    }

    /// The names that were given.
    pub(crate) fn names(&self) -> &[String] {
        match self {
            Self::All => &[],
            Self::Only(names) | Self::Except(names) => names,
        }
    }
}

impl std::fmt::Display for Columns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Only(names) => write!(f, "({})", names.join(", ")),
            Self::Except(names) => write!(f, "* EXCEPT ({})", names.join(", ")),
        }
    }
}

/// How a target keeps the past of its rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Storage {
    /// Not at all: one row per key, the latest (slowly changing dimension, type 1).
    #[default]
    ScdType1,
    /// As rows valid from `__START_AT` up to, but without, `__END_AT` (slowly changing dimension, type 2). A change of none but
    /// the columns that are not tracked is made in place.
    ScdType2 {
        /// The columns whose changes begin a new row.
        track_history: Columns,
    },
}

/// What to do when the changes since the recorded position can no longer be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExpired {
    /// Fail and say why.
    #[default]
    Error,
    /// Compare source and target in full, write the rows that differ, and go on from there.
    Resnapshot,
}

/// Where changes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceSpec {
    Table(TableReference),
    Query(String),
}

impl std::fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Table(name) => write!(f, "{name}"),
            Self::Query(_) => f.write_str("query"),
        }
    }
}

/// Which statement it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Statement {
    /// `SYNC`: follows its source by a recorded position.
    #[default]
    Sync,
    /// `APPLY CHANGES`: applies what the source returns, once.
    ApplyChanges,
}

/// A target that is kept equal to a source, and how: the `SYNC` statement.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use alluvial::sql::{SessionBuilder, SessionContextExt};
/// use alluvial::sync::{Sync, SyncMode};
///
/// let folder = std::env::temp_dir().join(format!("alluvial-sync-{}", std::process::id()));
/// let ctx = SessionBuilder::new().with_warehouse(folder.clone()).build()?;
/// ctx.alluvial_sql("CREATE TABLE orders (id BIGINT PRIMARY KEY, amount DOUBLE)").await?;
/// ctx.alluvial_sql("INSERT INTO orders VALUES (1, 9.5), (2, 3.0)").await?.collect().await?;
///
/// let sync = Sync::builder().target("orders_copy").source("orders").keys(["id"]).build()?;
/// let report = sync.run(&ctx).await?;
/// assert_eq!((report.mode, report.rows_inserted), (SyncMode::Full, 2));
///
/// ctx.alluvial_sql("DELETE FROM orders WHERE id = 2").await?.collect().await?;
/// let report = sync.run(&ctx).await?;
/// assert_eq!((report.mode, report.rows_deleted), (SyncMode::Incremental, 1));
/// # std::fs::remove_dir_all(folder)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Sync {
    pub(crate) statement: Statement,
    pub(crate) target: TableReference,
    pub(crate) source: SourceSpec,
    /// Empty for the source's primary key.
    pub(crate) keys: Vec<String>,
    pub(crate) sequence_by: Option<String>,
    pub(crate) columns: Columns,
    pub(crate) delete_when: Option<String>,
    pub(crate) truncate_when: Option<String>,
    pub(crate) ignore_null_updates: Option<Columns>,
    pub(crate) storage: Storage,
    pub(crate) schema_evolution: bool,
    pub(crate) on_expired: OnExpired,
    /// Whether rows are looked for that the source has lost without a change.
    pub(crate) detect_deletes: bool,
    pub(crate) name: String,
    /// Whether the name was given.
    pub(crate) is_named: bool,
    pub(crate) dry_run: bool,
    /// Whether the report counts rows that the source has set aside.
    pub(crate) counts_rejected: bool,
}

impl Sync {
    /// Begins a new one; target and source have to be given.
    pub fn builder() -> SyncBuilder {
        SyncBuilder::default()
    }

    /// Its name, under which the target remembers the position: given, or the source's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The table that is kept equal to the source.
    pub fn target(&self) -> &TableReference {
        &self.target
    }

    /// The source's name; `query` for a query.
    pub fn source(&self) -> String {
        self.source.to_string()
    }

    /// Whether it only says what it would do.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// What beside the columns decides which rows the target holds, with these keys: a position is worth nothing to a statement
    /// that differs in it.
    pub(crate) fn essence(&self, keys: &[String]) -> String {
        let mut text = match &self.source {
            // one query is not another, unless whoever wrote them has given them one name
            SourceSpec::Query(sql) if !self.is_named => format!("FROM ({sql}) "),
            _ => String::new(),
        };
        text.push_str(&format!("KEYS ({})", keys.join(", ")));
        let expressions = [
            ("SEQUENCE BY", &self.sequence_by),
            ("APPLY AS DELETE WHEN", &self.delete_when),
        ];
        for (clause, expression) in expressions {
            if let Some(expression) = expression {
                text.push_str(&format!(" {clause} {expression}"));
            }
        }
        if let Some(columns) = &self.ignore_null_updates {
            text.push_str(&format!(" IGNORE NULL UPDATES ON {columns}"));
        }
        if let Storage::ScdType2 { track_history } = &self.storage {
            text.push_str(" STORED AS SCD TYPE 2");
            if *track_history != Columns::All {
                text.push_str(&format!(" TRACK HISTORY ON {track_history}"));
            }
        }
        text
    }

    /// The statement's first word or words, for messages.
    pub(crate) fn verb(&self) -> &'static str {
        match self.statement {
            Statement::Sync => "SYNC",
            Statement::ApplyChanges => "APPLY CHANGES",
        }
    }
}

/// Collects what a [`Sync`] is made of. Expressions are SQL over the source's columns.
#[derive(Debug, Clone, Default)]
pub struct SyncBuilder {
    statement: Statement,
    target: Option<TableReference>,
    source: Option<SourceSpec>,
    keys: Vec<String>,
    sequence_by: Option<String>,
    columns: Columns,
    delete_when: Option<String>,
    truncate_when: Option<String>,
    ignore_null_updates: Option<Columns>,
    storage: Storage,
    schema_evolution: bool,
    on_expired: OnExpired,
    detect_deletes: bool,
    name: Option<String>,
    dry_run: bool,
}

impl SyncBuilder {
    /// The table to keep equal to the source; created by the first run if there is none.
    #[must_use]
    pub fn target(mut self, name: impl Into<TableReference>) -> Self {
        self.target = Some(name.into());
        self
    }

    /// The table whose changes are followed.
    #[must_use]
    pub fn source(mut self, name: impl Into<TableReference>) -> Self {
        self.source = Some(SourceSpec::Table(name.into()));
        self
    }

    /// A query over `table_changes(…)` of one table, whose changes are followed.
    #[must_use]
    pub fn source_query(mut self, sql: impl Into<String>) -> Self {
        self.source = Some(SourceSpec::Query(sql.into()));
        self
    }

    /// The columns that tell rows apart; without them the source's primary key.
    #[must_use]
    pub fn keys<I: IntoIterator<Item: Into<String>>>(mut self, columns: I) -> Self {
        self.keys = columns.into_iter().map(Into::into).collect();
        self
    }

    /// What orders the changes of a key; a change older than what the target holds is ignored.
    #[must_use]
    pub fn sequence_by(mut self, expression: impl Into<String>) -> Self {
        self.sequence_by = Some(expression.into());
        self
    }

    /// The columns that are kept in the target.
    #[must_use]
    pub fn columns(mut self, columns: Columns) -> Self {
        self.columns = columns;
        self
    }

    /// Rows of the source for which this holds are deletes.
    #[must_use]
    pub fn apply_as_delete_when(mut self, condition: impl Into<String>) -> Self {
        self.delete_when = Some(condition.into());
        self
    }

    /// Rows of the source for which this holds empty the target of everything older (`APPLY CHANGES` only).
    #[must_use]
    pub(crate) fn apply_as_truncate_when(mut self, condition: impl Into<String>) -> Self {
        self.truncate_when = Some(condition.into());
        self
    }

    /// A NULL in these columns of a change leaves the target's value.
    #[must_use]
    pub fn ignore_null_updates(mut self, columns: Columns) -> Self {
        self.ignore_null_updates = Some(columns);
        self
    }

    /// How the target keeps the past of its rows.
    #[must_use]
    pub fn stored_as(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// Columns that the source gets later are added to the target.
    #[must_use]
    pub fn with_schema_evolution(mut self) -> Self {
        self.schema_evolution = true;
        self
    }

    /// What to do when the changes since the recorded position can no longer be had.
    #[must_use]
    pub fn on_expired(mut self, action: OnExpired) -> Self {
        self.on_expired = action;
        self
    }

    /// Each run also deletes the rows whose keys the source no longer has, whether or not a change says so: the keys of both
    /// tables are compared, and no other column is read. For sources whose changes do not show all deletes, and for targets that
    /// others write.
    #[must_use]
    pub fn detect_deletes(mut self) -> Self {
        self.detect_deletes = true;
        self
    }

    /// The name under which the target remembers the position; the source's name without it.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Nothing is written; the report says what would be.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Makes it `APPLY CHANGES`.
    #[must_use]
    pub(crate) fn statement(mut self, statement: Statement) -> Self {
        self.statement = statement;
        self
    }

    /// Checks what can be checked without looking at a table.
    ///
    /// # Errors
    /// When target or source is missing, a name is empty, or options contradict each other.
    pub fn build(self) -> Result<Sync> {
        self.check_detect_deletes()?;
        let missing = |what: &str| Error::invalid(format!("a sync needs a {what}"));
        let source = self.source.ok_or_else(|| missing("source"))?;
        let target = self.target.ok_or_else(|| missing("target"))?;
        let is_named = self.name.is_some();
        let name = self.name.unwrap_or_else(|| source.to_string());
        if name.trim().is_empty() {
            return Err(Error::invalid("the name of a sync cannot be empty"));
        }
        if let Some(key) = first_repeated(&self.keys) {
            return Err(Error::invalid(format!("KEYS has the column {key:?} twice")));
        }
        if self.truncate_when.is_some() && self.storage != Storage::ScdType1 {
            return Err(Error::invalid(
                "APPLY AS TRUNCATE WHEN is for SCD TYPE 1: a history is not emptied",
            ));
        }
        if self.statement == Statement::ApplyChanges && self.sequence_by.is_none() {
            return Err(Error::invalid(
                "APPLY CHANGES needs SEQUENCE BY, which says which of two changes of a key is the later one",
            ));
        }
        Ok(Sync {
            statement: self.statement,
            target,
            source,
            keys: self.keys,
            sequence_by: self.sequence_by,
            columns: self.columns,
            delete_when: self.delete_when,
            truncate_when: self.truncate_when,
            ignore_null_updates: self.ignore_null_updates,
            storage: self.storage,
            schema_evolution: self.schema_evolution,
            on_expired: self.on_expired,
            detect_deletes: self.detect_deletes,
            name,
            is_named,
            dry_run: self.dry_run,
            counts_rejected: false,
        })
    }

    /// Refuses DETECT DELETES where nobody knows what is gone, or when it left.
    fn check_detect_deletes(&self) -> Result<()> {
        let mistake = if !self.detect_deletes {
            return Ok(());
        } else if self.statement == Statement::ApplyChanges {
            "DETECT DELETES belongs to SYNC INTO; APPLY CHANGES applies what its source returns, once, and has nothing to compare the target with"
        } else if self.storage != Storage::ScdType1 {
            "DETECT DELETES is for SCD TYPE 1: nobody knows when a row left that the source has no longer, and a history says when; leave one of \
             the two out"
        } else if self.sequence_by.is_some() {
            "DETECT DELETES does not go with SEQUENCE BY: nobody knows at which of its values a row left that the source has no longer, so a late \
             change could not be told from a new one; leave one of the two out"
        } else if matches!(self.source, Some(SourceSpec::Query(_))) {
            "DETECT DELETES needs a table as its source, whose keys it compares: a query over changes sees deletes itself, and does not say \
             which rows there are; name the table, or leave DETECT DELETES out"
        } else {
            return Ok(());
        };
        Err(Error::invalid(mistake))
    }
}

fn first_repeated(names: &[String]) -> Option<&String> {
    names
        .iter()
        .enumerate()
        .find(|(index, name)| names[..*index].contains(name))
        .map(|(_, name)| name)
}

//! One table and some statements on it, each compared with the model.

use std::fmt::Write;

use datafusion::prelude::SessionContext;
use libtest_mimic::Failed;
use tempfile::TempDir;

use super::Theme;
use super::generate::Generator;
use super::mapping::map_columns;
use super::model::{Effect, Model, Refused};
use super::statement::Statement;
use super::table::{Column, Table, create_sql, insert_sql};
use super::value::{Row, Value, text_of};
use crate::canonical::{self, CHANGE_TYPE};
use crate::random::Random;
use crate::tables::{check_feed, check_same, execute, open, rows_in};
use crate::{Answer, run_statement};

const STATEMENTS: usize = 5;
/// The table that sub-queries read.
const OTHER: &str = "other";

/// The table, what it must be, and what has been said so far.
struct Case {
    warehouse: TempDir,
    session: SessionContext,
    statements: Vec<String>,
    table: Table,
    model: Model,
}

/// Runs the case of a seed; a failure shows the seed and the statements.
pub(super) async fn check(theme: &Theme, seed: u64) -> Result<(), Failed> {
    let mut random = Random::new(seed);
    let mut case = Case::new(theme, &mut random)?;
    let outcome = case.run(theme, &mut random).await;
    outcome.map_err(|failed| {
        let message = failed.message().unwrap_or_default();
        format!("seed {seed}: {message}\n\n{}", case.script()).into()
    })
}

impl Case {
    fn new(theme: &Theme, random: &mut Random) -> Result<Self, Failed> {
        let warehouse = TempDir::new()?;
        Ok(Self {
            session: open(warehouse.path())?,
            warehouse,
            statements: vec![],
            table: Table::random(theme, random),
            model: Model::default(),
        })
    }

    /// The statements so far, as a script.
    fn script(&self) -> String {
        self.statements.iter().fold(String::new(), |mut text, sql| {
            let _ = writeln!(text, "{sql};");
            text
        })
    }

    async fn run(&mut self, theme: &Theme, random: &mut Random) -> Result<(), Failed> {
        self.create(theme, random).await?;
        let other = self.create_other(random).await?;
        for _ in 0..1 + random.below(3) {
            let rows = self.table.rows(random);
            self.check(&Statement::Insert(rows)).await?;
        }
        for step in 0..STATEMENTS {
            let generator = Generator {
                theme,
                table: &self.table,
                other: &other,
            };
            let statement = generator.statement(random, &self.model, step);
            self.check(&statement).await?;
        }
        self.check_at_the_end().await
    }

    async fn create(&mut self, theme: &Theme, random: &mut Random) -> Result<(), Failed> {
        self.execute(self.table.create_sql()).await?;
        // tables with both are refused
        if self.table.partitions.is_empty() && random.percent(theme.mapped_percent) {
            self.statements
                .push("-- from here on, columns are mapped by name".to_owned());
            map_columns(&self.warehouse.path().join("t"))?;
            self.session = open(self.warehouse.path())?;
        }
        let partitions = 1 + random.below(4);
        self.execute(format!(
            "SET datafusion.execution.target_partitions = {partitions}"
        ))
        .await?;
        if random.percent(40) {
            let rows = random.pick(&[1, 2, 7]);
            self.execute(format!("SET datafusion.execution.batch_size = {rows}"))
                .await?;
        }
        Ok(())
    }

    /// Makes the table `other`, whose column `k` has the type of the target's.
    async fn create_other(&mut self, random: &mut Random) -> Result<Row, Failed> {
        let key: Column = self.table.columns[0];
        let count = 1 + random.index(3);
        let values: Row = (0..count)
            .map(|_| key.value(random, 0, self.table.keys))
            .collect();
        let rows: Vec<Row> = values.iter().map(|value| vec![value.clone()]).collect();
        self.execute(create_sql(OTHER, &[key])).await?;
        self.execute(insert_sql(OTHER, &[key], &rows)).await?;
        Ok(values)
    }

    /// Runs a statement that has to succeed.
    async fn execute(&mut self, sql: String) -> Result<Answer, Failed> {
        self.statements.push(sql.clone());
        execute(&self.session, &sql).await
    }

    /// Runs a statement on the table, and makes sure that it has done what it does to the model.
    async fn check(&mut self, statement: &Statement) -> Result<(), Failed> {
        if let Statement::Merge(merge) = statement {
            for sql in &merge.source.setup {
                self.execute(sql.clone()).await?;
            }
        }
        let sql = statement.sql(&self.table);
        self.statements.push(sql.clone());
        let expected = self.model.effect(statement, &self.table);
        match (expected, run_statement(&self.session, &sql).await) {
            (Ok(effect), Ok(answer)) => self.check_effect(statement, effect, &answer).await,
            (Err(Refused(word)), Err(error)) if error.to_string().contains(word) => {
                self.check_version(&[self.model.version()])?;
                self.check_rows(self.model.rows()).await
            }
            (Err(Refused(word)), Ok(_)) => {
                Err(format!("the last statement should have failed with {word}").into())
            }
            (_, Err(error)) => {
                let error = error.strip_backtrace();
                Err(format!("the last statement failed: {error}").into())
            }
        }
    }

    async fn check_effect(
        &mut self,
        statement: &Statement,
        effect: Effect,
        answer: &Answer,
    ) -> Result<(), Failed> {
        let before = self.model.version();
        let version = if matches!(statement, Statement::Rearrange(_)) {
            self.check_version(&[before, before + 1])?
        } else {
            check_same("the count", &[effect.count], &[count(answer)?])?;
            self.check_version(&[before + u64::from(effect.count > 0)])?
        };
        self.check_rows(&effect.rows).await?;
        if self.table.has_feed && version > before {
            self.check_changes(&effect, before, version).await?;
        }
        self.model.commit(effect, version);
        Ok(())
    }

    /// The version that the table has, which must be one of these.
    fn check_version(&self, expected: &[u64]) -> Result<u64, Failed> {
        let log = self.warehouse.path().join("t/_delta_log");
        let mut version = self.model.version();
        while log.join(format!("{:020}.json", version + 1)).exists() {
            version += 1;
        }
        if expected.contains(&version) {
            return Ok(version);
        }
        Err(format!("the version is {version}, not one of {expected:?}").into())
    }

    async fn check_rows(&self, expected: &[Row]) -> Result<(), Failed> {
        let mut expected: Vec<String> = expected.iter().map(|row| text_of(row)).collect();
        expected.sort();
        let found = rows_in(&self.session, "SELECT * FROM t", &self.names()).await?;
        check_same("the table", &expected, &found)
    }

    async fn check_changes(
        &self,
        effect: &Effect,
        before: u64,
        version: u64,
    ) -> Result<(), Failed> {
        let changes = effect.changes.iter();
        let mut expected: Vec<String> = changes
            .map(|(kind, row)| {
                let kind = Value::Text((*kind).to_owned());
                let row: Row = row.iter().cloned().chain([kind]).collect();
                text_of(&row)
            })
            .collect();
        expected.sort();
        let mut columns = self.names();
        columns.push(CHANGE_TYPE);
        let query = format!("SELECT * FROM table_changes('t', {before}, {version})");
        let found = rows_in(&self.session, &query, &columns).await?;
        check_same(&query, &expected, &found)
    }

    /// A new session, which knows nothing but the files, reads the same rows, and the feed adds up to them.
    async fn check_at_the_end(&mut self) -> Result<(), Failed> {
        self.session = open(self.warehouse.path())?;
        self.check_rows(self.model.rows()).await?;
        if self.table.has_feed {
            check_feed(&self.session, "t").await?;
        }
        Ok(())
    }

    fn names(&self) -> Vec<&'static str> {
        let columns = self.table.columns.iter();
        columns.map(|column| column.name).collect()
    }
}

/// How many rows a statement says that it has changed.
fn count(answer: &Answer) -> Result<u64, Failed> {
    let counts = canonical::rows(answer, &["count".to_owned()])?;
    let [count] = counts.as_slice() else {
        return Err(format!("{counts:?} is not one count").into());
    };
    Ok(count.trim_matches(['[', ']']).parse()?)
}

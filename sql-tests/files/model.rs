//! Random files against a model that goes through the rows of all of them in order.
//!
//! ```text
//!  files ── some new, some replaced by what they had and more ── read, read by ranges, state, net, SYNC = model
//!                                                                 SYNC of a second target at the end = model
//! ```
//!
//! Which version a file has is learned from the ledger; that each has exactly one is part of the check.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use libtest_mimic::{Failed, Trial};
use serde_json::{Map, Value, json};

use super::landing::{Landing, rows_in_order};
use crate::RUNTIME;
use crate::patience;
use crate::random::{Random, seeds};
use crate::tables::{check_same, rows, rows_of, sync};

const ROUNDS: usize = 5;
const MARKER: &str = "_change_request_type";
/// `ALLUVIAL_TEST_SEEDS`, as `7` or `1..500`, replaces them.
const SEEDS: [u64; 20] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
];

/// What orders the changes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Their place; columns may be absent.
    Rows,
    /// A sequence that has come late, and ties; all columns are there.
    Late,
    /// A sequence that only rises; columns may be absent.
    Rising,
}

#[derive(Debug, Clone)]
struct Row {
    id: i64,
    sequence: i64,
    name: Option<&'static str>,
    amount: Option<i64>,
    marker: &'static str,
}

/// A file: its columns, and its rows, of which it shows those columns.
#[derive(Debug, Clone)]
struct File {
    has_name: bool,
    has_amount: bool,
    has_marker: bool,
    rows: Vec<Row>,
}

/// A row at its place.
#[derive(Debug, Clone, Copy)]
struct Event<'a> {
    version: usize,
    ordinal: usize,
    file: &'a File,
    row: &'a Row,
}

/// A file that has a version, until it is replaced.
#[derive(Debug)]
struct Version {
    name: String,
    file: Option<File>,
}

/// What there is, and what it should amount to.
struct Model {
    order: Order,
    is_json: bool,
    landing: Landing,
    files: BTreeMap<String, File>,
    /// Those that nobody has seen as they are now.
    unseen: BTreeSet<String>,
    versions: Vec<Version>,
    last_sequence: i64,
    /// What has been done, for whoever wants to repeat it.
    transcript: String,
}

pub(crate) fn trials() -> Vec<Trial> {
    let orders = [
        ("by-row", Order::Rows),
        ("by-late-sequence", Order::Late),
        ("by-rising-sequence", Order::Rising),
    ];
    let trial = |(name, order): (&str, Order)| {
        patience::test(format!("files::model-{name}"), move || {
            RUNTIME.block_on(check_seeds(order))
        })
    };
    orders.into_iter().map(trial).collect()
}

async fn check_seeds(order: Order) -> Result<(), Failed> {
    for seed in seeds(&SEEDS)? {
        let mut model = Model::new(order, seed % 2 == 0)?;
        let outcome = model.check(&mut Random::new(seed)).await;
        outcome.map_err(|failed| {
            let message = failed.message().unwrap_or_default();
            format!("seed {seed}: {message}\n\n{}", model.transcript)
        })?;
    }
    Ok(())
}

impl Row {
    fn is_delete(&self) -> bool {
        self.marker.trim().eq_ignore_ascii_case("d")
    }
}

impl Event<'_> {
    fn is_delete(&self) -> bool {
        self.file.has_marker && self.row.is_delete()
    }

    fn change_type(&self) -> &'static str {
        if self.is_delete() { "delete" } else { "upsert" }
    }

    fn name(&self) -> Option<&'static str> {
        self.row.name.filter(|_| self.file.has_name)
    }

    fn amount(&self) -> Option<i64> {
        self.row.amount.filter(|_| self.file.has_amount)
    }
}

impl Model {
    fn new(order: Order, is_json: bool) -> Result<Self, Failed> {
        Ok(Self {
            order,
            is_json,
            landing: Landing::new()?,
            files: BTreeMap::new(),
            unseen: BTreeSet::new(),
            versions: vec![],
            last_sequence: 0,
            transcript: String::new(),
        })
    }

    fn has_sequence(&self) -> bool {
        self.order != Order::Rows
    }

    async fn check(&mut self, random: &mut Random) -> Result<(), Failed> {
        self.create().await?;
        for _ in 0..ROUNDS {
            for _ in 0..1 + random.below(3) {
                self.write(random)?;
            }
            if random.percent(40) {
                self.check_sync("target").await?;
            }
            if random.percent(50) {
                self.check_changes().await?;
            }
            if random.percent(50) {
                self.check_state().await?;
            }
            if random.percent(60) {
                self.check_range(random).await?;
            }
        }
        self.check_changes().await?;
        self.check_state().await?;
        self.check_range(random).await?;
        self.check_sync("target").await?;
        self.check_sync("second").await
    }

    async fn create(&mut self) -> Result<(), Failed> {
        let format = if self.is_json { "json" } else { "csv" };
        let (sequence, ordered) = if self.has_sequence() {
            ("seq BIGINT, ", ", sequence 'seq', on_tie 'last'")
        } else {
            ("", "")
        };
        let sql = self.landing.create_table(
            &format!("landed (id BIGINT, {sequence}name VARCHAR, amount BIGINT)"),
            "drop",
            &format!("format '{format}'{ordered}, on_missing 'skip'"),
        );
        writeln!(self.transcript, "{sql};")?;
        self.landing.run(&sql).await
    }

    /// Lets a file land: a new one, or one that has what it had, and more.
    fn write(&mut self, random: &mut Random) -> Result<(), Failed> {
        let names: Vec<String> = self.files.keys().cloned().collect();
        let name = if !names.is_empty() && random.percent(25) {
            names[random.index(names.len())].clone()
        } else {
            let ending = if self.is_json { "json" } else { "csv" };
            format!("{:02}-{}.{ending}", random.below(100), names.len())
        };
        let may_lack = self.order != Order::Late;
        let mut file = self.files.remove(&name).unwrap_or_else(|| File {
            has_name: !(may_lack && random.percent(30)),
            has_amount: !(may_lack && random.percent(30)),
            has_marker: random.percent(80),
            rows: vec![],
        });
        for _ in 0..1 + random.below(5) {
            file.rows.push(self.row(random));
        }
        let text = self.text(&file);
        writeln!(self.transcript, "\\! cat > drop/{name} << 'END'\n{text}END")?;
        self.landing.put(&name, text)?;
        self.files.insert(name.clone(), file);
        self.unseen.insert(name);
        Ok(())
    }

    fn row(&mut self, random: &mut Random) -> Row {
        self.last_sequence += 1;
        Row {
            id: 1 + random.index(8) as i64,
            sequence: match self.order {
                Order::Late => 1 + random.index(12) as i64,
                Order::Rows | Order::Rising => self.last_sequence,
            },
            name: random.pick(&[None, Some("a"), Some("b"), Some("c")]),
            amount: random.pick(&[None, Some(0), Some(1), Some(2)]),
            marker: random.pick(&["u", "U", " u ", "u", "d", "D", " d "]),
        }
    }

    /// The values of a row under the names of its columns, as its file has them.
    fn values(&self, file: &File, row: &Row) -> Vec<(&'static str, Value)> {
        let mut values = vec![("id", json!(row.id))];
        if self.has_sequence() {
            values.push(("seq", json!(row.sequence)));
        }
        if file.has_name {
            values.push(("name", json!(row.name)));
        }
        if file.has_amount {
            values.push(("amount", json!(row.amount)));
        }
        if file.has_marker {
            values.push((MARKER, json!(row.marker)));
        }
        values
    }

    fn text(&self, file: &File) -> String {
        let mut lines: Vec<String> = Vec::new();
        for row in &file.rows {
            let values = self.values(file, row);
            if self.is_json {
                let members = values.into_iter();
                let members = members.map(|(name, value)| (name.to_owned(), value));
                lines.push(Value::Object(members.collect::<Map<_, _>>()).to_string());
                continue;
            }
            if lines.is_empty() {
                let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
                lines.push(names.join(","));
            }
            let values = values.into_iter().map(|(_, value)| match value {
                Value::Null => String::new(),
                Value::String(text) => text,
                other => other.to_string(),
            });
            lines.push(values.collect::<Vec<_>>().join(","));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// Learns which versions there are: those that were known, and one for each file that nobody had seen.
    async fn look(&mut self) -> Result<(), Failed> {
        let sql = "SELECT version AS a, file AS b FROM change_versions('landed') ORDER BY version";
        for (index, row) in rows_in_order(&self.landing.session, sql)
            .await?
            .iter()
            .enumerate()
        {
            let (version, name): (usize, String) = serde_json::from_str(row)?;
            if version != index + 1 {
                return Err(format!("version {version} follows version {index}").into());
            }
            match self.versions.get(index) {
                Some(known) if known.name == name => {}
                Some(known) => return Err(format!("{row} was {known:?}").into()),
                None => self.learn(name)?,
            }
        }
        if self.unseen.is_empty() {
            return Ok(());
        }
        Err(format!("these have no version: {:?}", self.unseen).into())
    }

    fn learn(&mut self, name: String) -> Result<(), Failed> {
        if !self.unseen.remove(&name) {
            return Err(format!("{name} has got another version, and is what it was").into());
        }
        for version in &mut self.versions {
            if version.name == name {
                version.file = None;
            }
        }
        let file = self.files.get(&name).cloned();
        self.versions.push(Version { name, file });
        Ok(())
    }

    /// The rows of the versions after `since` up to `until` that can still be read.
    fn events(&self, since: usize, until: usize) -> Vec<Event<'_>> {
        let mut events = Vec::new();
        for version in since + 1..=until {
            if let Some(file) = &self.versions[version - 1].file {
                let rows = file.rows.iter().zip(1..);
                events.extend(rows.map(|(row, ordinal)| Event {
                    version,
                    ordinal,
                    file,
                    row,
                }));
            }
        }
        events
    }

    /// The events of each key, in the order that counts.
    fn by_key(&self, since: usize, until: usize) -> BTreeMap<i64, Vec<Event<'_>>> {
        let mut events = self.events(since, until);
        if self.has_sequence() {
            // stable: of the same sequence the later row counts
            events.sort_by_key(|event| event.row.sequence);
        }
        let mut by_key: BTreeMap<i64, Vec<Event<'_>>> = BTreeMap::new();
        for event in events {
            by_key.entry(event.row.id).or_default().push(event);
        }
        by_key
    }

    fn row_text(
        &self,
        id: i64,
        sequence: i64,
        name: Option<&str>,
        amount: Option<i64>,
    ) -> Vec<Value> {
        let mut values = vec![json!(amount), json!(id), json!(name)];
        if self.has_sequence() {
            values.push(json!(sequence));
        }
        values
    }

    /// The rows that are there after all versions. A column that a change does not carry keeps its value; NULL does not.
    fn state(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for (id, events) in self.by_key(0, self.versions.len()) {
            let mut state: Option<(i64, Option<&str>, Option<i64>)> = None;
            for event in events {
                let (_, name, amount) = state.unwrap_or_default();
                state = (!event.is_delete()).then(|| {
                    let name = if event.file.has_name {
                        event.name()
                    } else {
                        name
                    };
                    let amount = if event.file.has_amount {
                        event.amount()
                    } else {
                        amount
                    };
                    (event.row.sequence, name, amount)
                });
            }
            if let Some((sequence, name, amount)) = state {
                rows.push(Value::from(self.row_text(id, sequence, name, amount)).to_string());
            }
        }
        rows.sort();
        rows
    }

    /// The rows of a read: ordinal, the row, type, version.
    fn changes(&self, since: usize, until: usize) -> Vec<String> {
        let events = self.events(since, until).into_iter();
        let text = |event: Event<'_>| {
            let row = event.row;
            let mut values = vec![json!(event.ordinal)];
            values.extend(self.row_text(row.id, row.sequence, event.name(), event.amount()));
            values.extend([json!(event.change_type()), json!(event.version)]);
            Value::from(values).to_string()
        };
        let mut rows: Vec<String> = events.map(text).collect();
        rows.sort();
        rows
    }

    fn select(&self, bounds: &str) -> String {
        let sequence = if self.has_sequence() { "seq, " } else { "" };
        format!(
            "SELECT id, {sequence}name, amount, _change_ordinal, _change_type, _commit_version \
             FROM table_changes('landed', {bounds}, metadata => 'full')"
        )
    }

    /// Runs a query, then learns what it may have found.
    async fn query(&mut self, sql: &str) -> Result<Vec<String>, Failed> {
        writeln!(self.transcript, "{sql};")?;
        let found = rows(&self.landing.session, sql).await?;
        self.look().await?;
        Ok(found)
    }

    async fn check_changes(&mut self) -> Result<(), Failed> {
        let found = self.query(&self.select("0")).await?;
        check_same("all changes", &self.changes(0, self.versions.len()), &found)
    }

    async fn check_state(&mut self) -> Result<(), Failed> {
        let found = self.query("SELECT * FROM landed").await?;
        check_same("the state", &self.state(), &found)
    }

    /// A range, as it is and net.
    async fn check_range(&mut self, random: &mut Random) -> Result<(), Failed> {
        self.look().await?;
        let since = random.index(self.versions.len());
        let until = since + 1 + random.index(self.versions.len() - since);
        let found = self
            .query(&self.select(&format!("{since}, {until}")))
            .await?;
        let what = format!("the changes after {since} up to {until}");
        check_same(&what, &self.changes(since, until), &found)?;
        let net = format!(
            "SELECT id, _change_type, _commit_version FROM table_changes('landed', {since}, {until}, net => true)"
        );
        let found = self.query(&net).await?;
        let last = self.by_key(since, until).into_iter();
        let last = last.filter_map(|(id, events)| Some((id, *events.last()?)));
        let last =
            last.map(|(id, event)| json!([id, event.change_type(), event.version]).to_string());
        let mut expected: Vec<String> = last.collect();
        expected.sort();
        check_same(&format!("the net of {what}"), &expected, &found)
    }

    async fn check_sync(&mut self, target: &str) -> Result<(), Failed> {
        let sql = format!("SYNC INTO {target} FROM landed");
        writeln!(self.transcript, "{sql};")?;
        sync(&self.landing.session, &sql).await?;
        self.look().await?;
        let found = rows_of(&self.landing.session, target).await?;
        check_same(target, &self.state(), &found)
    }
}

//! The suite itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;

use super::change::{Change, ExpectedVersion, changes_of, described, values};
use crate::change::{
    Bound, CHANGE_TYPE, COMMIT_VERSION, ChangeBounds, ChangeRange, ChangeType, change_columns,
    metadata_columns,
};
use crate::error::Result;
use crate::source::{ChangeRead, ChangeSource};

/// An hour, in microseconds.
const HOUR: i64 = 3_600_000_000;

/// Runs the suite. `expected` are all versions whose changes can be read, the current one among them; versions in which nothing has
/// happened may be left out, but for that one.
pub(super) async fn check(source: Arc<dyn ChangeSource>, expected: &[ExpectedVersion]) {
    let suite = Suite::new(source, expected).await;
    suite.bounds().await;
    suite.beginning().await;
    suite.times().await;
    suite.schemas().await;
    suite.ranges().await;
    suite.projections().await;
    suite.filters().await;
    suite.rows().await;
    suite.identity().await;
}

/// How a range is read.
#[derive(Default)]
struct Asked<'a> {
    projection: Option<&'a Vec<usize>>,
    filters: &'a [Expr],
    limit: Option<usize>,
}

struct Suite {
    source: Arc<dyn ChangeSource>,
    state: SessionState,
    /// In order.
    versions: Vec<i64>,
    /// In order.
    changes: Vec<Change>,
    /// The lowest version that changes can be read since; at most 0 where that is everything.
    earliest: i64,
    current: i64,
}

impl Suite {
    async fn new(source: Arc<dyn ChangeSource>, expected: &[ExpectedVersion]) -> Self {
        let bounds = ChangeBounds {
            since: Bound::Earliest,
            until: None,
        };
        let earliest = source.resolve(&bounds).await.unwrap().since();
        let current = source.current_version().await.unwrap();
        let versions: Vec<i64> = expected.iter().map(|one| one.version).collect();
        assert!(versions.is_sorted() && versions.first() > Some(&earliest));
        assert_eq!(versions.last(), Some(&current), "the current version");
        let changes = expected.iter().flat_map(|one| one.changes.iter().cloned());
        let mut changes: Vec<Change> = changes.collect();
        changes.sort();
        Self {
            source,
            state: SessionContext::new().state(),
            versions,
            changes,
            earliest,
            current,
        }
    }

    async fn range(&self, since: Bound, until: Option<Bound>) -> Result<ChangeRange> {
        self.source.resolve(&ChangeBounds { since, until }).await
    }

    /// Everything that can be read.
    async fn whole(&self) -> ChangeRange {
        self.range(Bound::Earliest, None).await.unwrap()
    }

    /// What has happened in some versions.
    fn between(&self, since: i64, until: i64) -> Vec<Change> {
        let within = |change: &&Change| since < change.version && change.version <= until;
        self.changes.iter().filter(within).cloned().collect()
    }

    async fn plan(&self, range: ChangeRange, asked: Asked<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let read = ChangeRead {
            state: &self.state,
            projection: asked.projection,
            filters: asked.filters,
            limit: asked.limit,
        };
        self.source.changes(range, read).await
    }

    async fn run(&self, plan: Arc<dyn ExecutionPlan>) -> Vec<RecordBatch> {
        let promised = described(&plan.schema());
        let batches = collect(plan, self.state.task_ctx()).await.unwrap();
        for batch in &batches {
            assert_eq!(described(&batch.schema()), promised);
        }
        batches
    }

    async fn read(&self, range: ChangeRange, asked: Asked<'_>) -> Vec<RecordBatch> {
        self.run(self.plan(range, asked).await.unwrap()).await
    }

    async fn changes(&self, range: ChangeRange) -> Vec<Change> {
        changes_of(&self.read(range, Asked::default()).await)
    }

    /// The range is refused before the first row.
    async fn refused(&self, since: Bound, until: Option<Bound>, parts: &[&str]) {
        let asked = format!("{since:?} to {until:?}");
        let planned = match self.range(since, until).await {
            Ok(range) => self.plan(range, Asked::default()).await,
            Err(error) => Err(error),
        };
        let Err(error) = planned else {
            panic!("{asked} is read");
        };
        let error = error.to_string();
        for part in parts {
            assert!(error.contains(part), "{asked}: {error} lacks {part:?}");
        }
    }

    async fn bounds(&self) {
        let current = self.current;
        let caught_up = self.range(Bound::Version(current), None).await.unwrap();
        assert!(caught_up.is_empty());
        assert!(self.changes(caught_up).await.is_empty());
        assert!(!self.source.has_changes(caught_up).await.unwrap());

        let next = Bound::Version(current + 1);
        let known = format!("after the current version {current} of");
        self.refused(
            next.clone(),
            None,
            &["VERSION_NOT_FOUND: since_version", &known],
        )
        .await;
        self.refused(
            Bound::Version(current),
            Some(next),
            &["VERSION_NOT_FOUND: until_version", &known],
        )
        .await;
        for until in [current, current - 1] {
            let offer = format!("since_version => {}", until - 1);
            let until = Some(Bound::Version(until));
            self.refused(Bound::Version(current), until, &[&offer])
                .await;
        }

        let whole = self.whole().await;
        assert_eq!(whole.until(), current);
        assert_eq!(self.changes(whole).await, self.changes);
        let until = Some(Bound::Version(current));
        let same = self.range(Bound::Earliest, until).await.unwrap();
        assert_eq!(self.changes(same).await, self.changes);
    }

    /// Since NULL, and since before what is kept.
    async fn beginning(&self) {
        if self.earliest > 0 {
            let expired = ["CHANGES_EXPIRED: changes of"];
            self.refused(Bound::Beginning, None, &expired).await;
            let before = Bound::Version(self.earliest - 1);
            self.refused(before, None, &expired).await;
            return;
        }
        let range = self.range(Bound::Beginning, None).await.unwrap();
        assert!(range.from_creation());
        assert_eq!(self.changes(range).await, self.changes);
    }

    async fn times(&self) {
        let mut times = Vec::new();
        for version in &self.versions {
            let time = self.source.commit_time(*version).await.unwrap();
            times.extend(time.map(|time| (time, *version)));
        }
        assert!(times.is_sorted(), "{times:?}");
        for (time, version) in &times {
            // of versions with the same time nobody can tell which is meant
            if times.iter().filter(|(other, _)| other == time).count() > 1 {
                continue;
            }
            let bound = Bound::Timestamp(*time);
            let since = self.range(bound.clone(), None).await.unwrap();
            assert_eq!(since.since(), *version, "since {time}");
            let until = self.range(Bound::Earliest, Some(bound)).await.unwrap();
            assert_eq!(until.until(), *version, "until {time}");
        }
        let (Some((first, version)), Some((last, _))) = (times.first(), times.last()) else {
            return;
        };
        let after = Bound::Timestamp(last + HOUR);
        let after = self.range(after, None).await.unwrap();
        assert_eq!(after.since(), self.current);
        if self.earliest <= 0 {
            let before = Bound::Timestamp(first - 1);
            let before = self.range(before, None).await.unwrap();
            assert!(before.since() < *version, "since before {first}");
        }
    }

    async fn schemas(&self) {
        let versions = self.versions.iter().map(|version| Some(*version));
        for version in versions.chain([None]) {
            let schema = self.source.schema(version).await.unwrap();
            let own = schema.index_of(CHANGE_TYPE).unwrap();
            let (own, ours) = schema.fields().split_at(own);
            assert!(!own.is_empty() && own.iter().all(|field| field.is_nullable()));
            let (ours, metadata) = ours.split_at(3);
            assert_eq!(ours, change_columns());
            let known = metadata_columns();
            assert!(metadata.iter().all(|field| known.contains(field)));
            if version == Some(self.current) {
                let copy = self.source.definition(self.current).await.unwrap();
                let copied = copy.columns.iter().map(|field| field.name());
                assert!(copied.eq(own.iter().map(|field| field.name())));
            }
        }
    }

    /// The changes of (a, b] and of (b, c] together are those of (a, c], for every a, b and c: each of them is what is expected.
    async fn ranges(&self) {
        let mut points = vec![self.earliest];
        points.extend(&self.versions);
        for (index, since) in points.iter().enumerate() {
            for until in &points[index + 1..] {
                let bounds = (Bound::Version(*since), Some(Bound::Version(*until)));
                let range = self.range(bounds.0, bounds.1).await.unwrap();
                assert_eq!((range.since(), range.until()), (*since, *until));
                let expected = self.between(*since, *until);
                // the second time as well
                for _ in 0..2 {
                    let found = self.changes(range).await;
                    assert_eq!(found, expected, "{since} to {until}");
                }
                // it may be cautious, but not forget anything
                let has_changes = self.source.has_changes(range).await.unwrap();
                assert!(has_changes || expected.is_empty(), "{since} to {until}");
            }
        }
    }

    async fn projections(&self) {
        let range = self.whole().await;
        let schema = self.source.schema(Some(range.until())).await.unwrap();
        let whole = self.read(range, Asked::default()).await;
        let columns = 0..schema.fields().len();
        let mut projections: Vec<Vec<usize>> = columns.clone().map(|index| vec![index]).collect();
        projections.push(vec![]);
        projections.push(columns.rev().collect());
        for projection in &projections {
            let asked = Asked {
                projection: Some(projection),
                ..Asked::default()
            };
            let plan = self.plan(range, asked).await.unwrap();
            let expected = described(&schema.project(projection).unwrap());
            assert_eq!(described(&plan.schema()), expected);
            let found = self.run(plan).await;
            let all: Vec<usize> = (0..projection.len()).collect();
            assert_eq!(values(&found, &all), values(&whole, projection));
        }
    }

    async fn filters(&self) {
        for version in &self.versions {
            let of = || col(COMMIT_VERSION);
            self.filtered(of().gt(lit(*version)), |change| change.version > *version)
                .await;
            self.filtered(of().lt_eq(lit(*version)), |change| {
                change.version <= *version
            })
            .await;
            self.filtered(of().eq(lit(*version)), |change| change.version == *version)
                .await;
        }
        for kind in [ChangeType::Delete, ChangeType::Insert] {
            let filter = col(CHANGE_TYPE).eq(lit(kind.as_str()));
            self.filtered(filter, |change| change.kind == kind.as_str())
                .await;
        }
        let asked = Asked {
            limit: Some(1),
            ..Asked::default()
        };
        let limited = changes_of(&self.read(self.whole().await, asked).await);
        assert!(!limited.is_empty() || self.changes.is_empty());
        assert!(limited.iter().all(|change| self.changes.contains(change)));
    }

    /// A filter may leave rows in that it is false for, but it leaves out no other.
    async fn filtered(&self, filter: Expr, keeps: impl Fn(&Change) -> bool) {
        let filters = [filter];
        let asked = Asked {
            filters: &filters,
            ..Asked::default()
        };
        let mut found = changes_of(&self.read(self.whole().await, asked).await);
        found.retain(&keeps);
        let mut expected = self.changes.clone();
        expected.retain(keeps);
        assert_eq!(found, expected, "{}", filters[0]);
    }

    /// The rows of a version are what its changes, and all before, have left.
    async fn rows(&self) {
        let keys = self.source.primary_key().await.unwrap();
        if !self.source.has_rows() || self.earliest > 0 || keys.is_empty() {
            return;
        }
        for version in &self.versions {
            let read = ChangeRead {
                state: &self.state,
                projection: None,
                filters: &[],
                limit: None,
            };
            let plan = self.source.rows(*version, read).await.unwrap();
            let found = changes_of(&self.run(plan).await);
            assert_eq!(found, self.replayed(*version, &keys), "rows of {version}");
        }
    }

    /// The rows that are there at a version, as inserts of it.
    fn replayed(&self, version: i64, keys: &[String]) -> Vec<Change> {
        let mut rows = BTreeMap::new();
        for version in self.versions.iter().filter(|known| **known <= version) {
            let changes = self.between(version - 1, *version);
            for change in changes.iter().filter(|change| change.removes()) {
                rows.remove(&change.key(keys));
            }
            for change in changes.iter().filter(|change| !change.removes()) {
                rows.insert(change.key(keys), change.row.clone());
            }
        }
        let rows = rows.into_values().map(|row| Change {
            version,
            kind: ChangeType::Insert.as_str().into(),
            row,
        });
        let mut rows: Vec<Change> = rows.collect();
        rows.sort();
        rows
    }

    async fn identity(&self) {
        let identity = self.source.identity().await.unwrap();
        assert_eq!(self.source.identity().await.unwrap(), identity);
        for version in &self.versions {
            let fingerprint = self.source.fingerprint(*version).await.unwrap();
            let again = self.source.fingerprint(*version).await.unwrap();
            assert_eq!(again, fingerprint, "fingerprint of {version}");
        }
        self.source.check_followable().await.unwrap();
        assert!(!self.source.name().is_empty() && !self.source.location().is_empty());
    }
}

//! Decides what a run has to do, and plans it. Nothing is written here.
//!
//! ```text
//!  no record of the sync ──────────────────────────────> full: create, fill or compare
//!  recorded, and the source is the one it was ─ no newer version ─> up to date, but for rows that DETECT DELETES finds
//!                                             └ newer versions ───> incremental
//!  recorded, but there is no way on ─ ON EXPIRED ERROR ─────> POSITION_LOST
//!                                   └ ON EXPIRED RESNAPSHOT ─> full: compare
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::Utc;
use datafusion::common::ScalarValue;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;

use super::apply::{Fill, apply_changes, compare, existing, fill};
use super::columns::SourceNature;
use super::detect::{check_detectable, lost_events};
use super::position::{Position, Registration};
use super::relation::{Read, scan_source};
use super::remembering::Remembering;
use super::report::SyncMode;
use super::session::SyncSession;
use super::setup::{Setup, Target};
use super::spec::{OnExpired, SourceSpec, Statement, Storage, Sync};
use super::step::{Progress, Step, Work};
use crate::change::{Bound, CHANGED_COLUMNS, ChangeBounds, ChangeRange};
use crate::delta::snapshot::Snapshot;
use crate::error::{Error, Result};
use crate::source::ChangeSource;

/// A range without a change moves the position only when it has so many versions: syncs that follow each other round a ring
/// would otherwise keep each other busy for ever.
const MAX_VERSIONS_BEHIND: i64 = 100;
/// Or when the position is as old as this, lest the source forget the way from it.
const MAX_AGE_MILLIS: i64 = 24 * 3600 * 1000;

/// Plans one attempt.
pub(super) struct Planner<'a, S> {
    pub sync: &'a Sync,
    pub session: &'a S,
    pub state: Arc<SessionState>,
    /// Whether the source is known to have rows with equal keys.
    pub repeated_keys: bool,
}

/// Why there is no way on from a position.
struct Lost {
    position: String,
    reason: String,
    /// Whether the source is another one now.
    replaced: bool,
    /// Whether the statement has asked for a comparison in such a case.
    compare: bool,
}

enum Way {
    On(Box<Step>),
    Lost(Lost),
}

impl<S: SyncSession> Planner<'_, S> {
    /// Plans what is to be done now.
    pub(super) async fn step(&self) -> Result<Step> {
        let table = self.session.sync_target(&self.sync.target).await?;
        let base = match table.snapshot().await {
            Ok(base) => Some(base),
            Err(Error::TableNotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let target = Target { table, base };
        match self.sync.statement {
            Statement::Sync => self.sync(target).await,
            Statement::ApplyChanges => self.apply(target).await,
        }
    }

    async fn sync(&self, target: Target) -> Result<Step> {
        let source = self.session.sync_source(&self.sync.source).await?;
        if self.sync.detect_deletes {
            check_detectable(self.sync, &target, source.as_ref()).await?;
        }
        let Some(sequence) = source
            .sequence()
            .filter(|_| self.sync.sequence_by.is_none())
        else {
            return self.sync_with(target, source).await;
        };
        // what the source says of itself holds unless the statement says otherwise
        let sync = Sync {
            sequence_by: Some(format!("\"{}\"", sequence.replace('"', "\"\""))),
            ..self.sync.clone()
        };
        let planner = Planner {
            sync: &sync,
            session: self.session,
            state: Arc::clone(&self.state),
            repeated_keys: self.repeated_keys,
        };
        planner.sync_with(target, source).await
    }

    async fn sync_with(&self, target: Target, source: Arc<dyn ChangeSource>) -> Result<Step> {
        if source.location() == target.table.location().as_str() {
            return Err(Error::invalid(format!(
                "{} is source and target at once; a table cannot be kept equal to itself",
                self.sync.target
            )));
        }
        let Some((registration, base)) = self.registration(&target)? else {
            return self.begin(&target, &source).await;
        };
        match self.follow(&target, &registration, &base, &source).await? {
            Way::On(step) => Ok(*step),
            Way::Lost(lost) if self.sync.on_expired == OnExpired::Error && !lost.compare => {
                Err(Error::PositionLost {
                    sync: self.sync.name.clone(),
                    target: self.sync.target.to_string(),
                    position: format!("version {} of {}", lost.position, source.name()),
                    reason: lost.reason,
                })
            }
            Way::Lost(lost) => self.begin_anew(&target, registration, &source, &lost).await,
        }
    }

    fn registration(&self, target: &Target) -> Result<Option<(Registration, Arc<Snapshot>)>> {
        let Some(base) = &target.base else {
            return Ok(None);
        };
        let found = Registration::find(base.metadata(), &self.sync.name)?;
        Ok(found.map(|registration| (registration, Arc::clone(base))))
    }

    async fn follow(
        &self,
        target: &Target,
        registration: &Registration,
        base: &Arc<Snapshot>,
        source: &Arc<dyn ChangeSource>,
    ) -> Result<Way> {
        let identity = source.identity().await?;
        let position = registration.position(&self.sync.name, base).await?;
        let shown = position.map_or("unknown".into(), |at| at.version.to_string());
        let lost = |reason: String, replaced: bool| {
            Ok(Way::Lost(Lost {
                position: shown.clone(),
                reason,
                replaced,
                compare: false,
            }))
        };
        if identity != registration.identity {
            if registration.location != source.location() {
                return Err(self.other_source(registration, source.as_ref()));
            }
            return lost(
                format!("{} has been dropped and recreated since", source.name()),
                true,
            );
        }
        self.check_statement(registration, source).await?;
        let Some(position) = position else {
            return lost(
                "the target no longer records how far it has got (delta.setTransactionRetentionDuration lets it forget)".into(),
                false,
            );
        };
        let bounds = ChangeBounds {
            since: Bound::Version(position.version),
            until: None,
        };
        let range = match source.resolve(&bounds).await {
            Ok(range) => range,
            // where the newest rows have been deleted nobody knows what else has changed: DETECT DELETES compares all
            Err(Error::VersionNotFound { current, .. })
                if self.sync.detect_deletes && !source.has_rows() && current >= 0 =>
            {
                return Ok(Way::Lost(Lost {
                    position: shown.clone(),
                    reason: format!("{} is at version {current} only", source.name()),
                    replaced: false,
                    compare: true,
                }));
            }
            Err(error @ Error::ChangesExpired { .. }) => return lost(error.to_string(), false),
            Err(Error::VersionNotFound { current, .. }) => {
                let cause = match source.has_rows() {
                    true => "it has been restored to an older state",
                    false => {
                        "it has been restored to an older state, or its newest rows have been deleted, which DETECT DELETES finds unless it is empty now"
                    }
                };
                return lost(
                    format!("{} is at version {current} only: {cause}", source.name()),
                    true,
                );
            }
            Err(error) => return Err(error),
        };
        if let (Some(applied), Some(found)) = (
            position.fingerprint,
            source.fingerprint(position.version).await?,
        ) && applied != found
        {
            return lost(
                format!(
                    "version {} of {} is not the one that was applied: it has been restored to an older state and written on, or its files have been written again",
                    position.version,
                    source.name()
                ),
                true,
            );
        }
        if range.is_empty() && !self.sync.detect_deletes {
            return Ok(Way::On(Box::new(self.up_to_date(target, &range))));
        }
        let step = self
            .incremental(target, registration, position, source, range)
            .await;
        match step {
            Ok(step) => Ok(Way::On(Box::new(step))),
            Err(
                error @ (Error::ChangesExpired { .. }
                | Error::ChangesNotEnabled { .. }
                | Error::IncompatibleSchema { .. }
                | Error::SequencesLost { .. }),
            ) => lost(error.to_string(), false),
            Err(error) => Err(error),
        }
    }

    async fn new_registration(&self, source: &Arc<dyn ChangeSource>) -> Result<Registration> {
        let keys = self.keys(source.as_ref()).await?;
        Registration::new(self.sync, self.sync.essence(&keys), source.as_ref()).await
    }

    /// Refuses to go on from the position of another statement.
    async fn check_statement(
        &self,
        registration: &Registration,
        source: &Arc<dyn ChangeSource>,
    ) -> Result<()> {
        let keys = self.keys(source.as_ref()).await?;
        let essence = self.sync.essence(&keys);
        if essence == registration.statement {
            return self.check_columns(registration);
        }
        Err(Error::invalid(format!(
            "the sync {:?} into {} was begun with\n  {}\nand this statement says\n  {essence}\nwhich would have made other rows of the changes that \
             are applied already; give it a name of its own with AS '…', or begin anew after DROP SYNC '{}' ON {}",
            self.sync.name,
            self.sync.target,
            registration.statement,
            self.sync.name,
            self.sync.target
        )))
    }

    /// A column that has not been kept so far is not in the rows that are there, and one that is kept no longer goes stale.
    fn check_columns(&self, registration: &Registration) -> Result<()> {
        let columns = &self.sync.columns;
        let (kept, left_out) = (&registration.columns, &registration.left_out);
        let stale = kept.iter().find(|name| !columns.contains(name));
        let missing = left_out.iter().find(|name| columns.contains(name));
        let (name, was) = match (stale, missing) {
            (Some(name), _) => (name, "kept"),
            (None, Some(name)) => (name, "left out"),
            (None, None) => return Ok(()),
        };
        Err(Error::invalid(format!(
            "the column {name:?} has been {was} since the sync {:?} into {} began, and COLUMNS says otherwise now; give this one a name of its \
             own with AS '…', or begin anew after DROP SYNC '{}' ON {}",
            self.sync.name, self.sync.target, self.sync.name, self.sync.target
        )))
    }

    fn other_source(&self, registration: &Registration, source: &dyn ChangeSource) -> Error {
        Error::invalid(format!(
            "the sync {:?} into {} follows {} at {}, not {} at {}; give this one a name of its own with AS '…', or end that one with \
             DROP SYNC '{}' ON {}",
            self.sync.name,
            self.sync.target,
            registration.source,
            registration.location,
            source.name(),
            source.location(),
            self.sync.name,
            self.sync.target
        ))
    }

    fn up_to_date(&self, target: &Target, range: &ChangeRange) -> Step {
        Step {
            mode: SyncMode::UpToDate,
            from: Some(range.since()),
            to: Some(range.until()),
            target_version: target.version(),
            evolution: None,
            counts_ignored: false,
            work: None,
        }
    }

    async fn incremental(
        &self,
        target: &Target,
        registration: &Registration,
        position: Position,
        source: &Arc<dyn ChangeSource>,
        range: ChangeRange,
    ) -> Result<Step> {
        let read = Read::Changes(range);
        let (input, relation) = scan_source(source, read, range.until()).await?;
        let keys = self.keys(source.as_ref()).await?;
        let nature = nature(source.as_ref(), range).await?;
        let mut setup = Setup::try_new(self.sync, &self.state, target, input, keys, &nature)?;
        if self.sync.detect_deletes {
            let base = existing(target)?;
            let lost = lost_events(&setup.layout, base, source, range.until()).await?;
            setup = setup.with_lost(lost, range.is_empty())?;
        }
        let remembering = Remembering::load(&setup, target, false).await?;
        let mut work = apply_changes(&setup, target, remembering, None, None).await?;
        let mut step = self.up_to_date(target, &range);
        if range.is_empty() || !relation.found().load(Ordering::Relaxed) {
            let age = Utc::now().timestamp_millis() - position.recorded.unwrap_or(0);
            let is_near = range.until() - range.since() < MAX_VERSIONS_BEHIND;
            if range.is_empty() || (is_near && age < MAX_AGE_MILLIS) {
                // without progress nothing is committed unless a row has been lost
                step.work = self.sync.detect_deletes.then_some(work);
                return Ok(step);
            }
            work.remember = None;
        }
        step.mode = SyncMode::Incremental;
        step.evolution = setup.evolution(target)?;
        let registration = registration.clone();
        let work = self.with_progress(work, registration, source, range.until());
        step.work = Some(work.await?);
        Ok(step)
    }

    /// The first run.
    async fn begin(&self, target: &Target, source: &Arc<dyn ChangeSource>) -> Result<Step> {
        if self.sync.on_expired == OnExpired::Error {
            source.check_followable().await?;
        }
        let registration = self.new_registration(source).await?;
        self.full(target, registration, source).await
    }

    async fn begin_anew(
        &self,
        target: &Target,
        registration: Registration,
        source: &Arc<dyn ChangeSource>,
        lost: &Lost,
    ) -> Result<Step> {
        let others = target.other_syncs(&self.sync.name);
        if !others.is_empty() {
            return Err(Error::invalid(format!(
                "{} is also written by the sync(s) {}, so a full comparison cannot tell which rows {} no longer has; \
                 DROP SYNC '{}' ON {} and sync anew, or rebuild the target",
                self.sync.target,
                others.join(", "),
                source.name(),
                self.sync.name,
                self.sync.target
            )));
        }
        if lost.replaced
            && self.sync.sequence_by.is_none()
            && self.sync.storage != Storage::ScdType1
        {
            return Err(Error::invalid(format!(
                "the history in {} is ordered by the versions of a {} that is no more: {}. Those of the new one would come before them; drop {} \
                 and sync anew, or keep it and sync into another table",
                self.sync.target,
                source.name(),
                lost.reason,
                self.sync.target
            )));
        }
        if !source.has_rows() {
            let all = ChangeBounds {
                since: Bound::Beginning,
                until: None,
            };
            if source.resolve(&all).await?.since() >= 0 {
                return Err(Error::invalid(format!(
                    "the query reads the changes of {} from a version on, which is not enough to compare {} with; let it read \
                     table_changes('{}', NULL), or DROP SYNC '{}' ON {} and sync anew",
                    source.name(),
                    self.sync.target,
                    source.name(),
                    self.sync.name,
                    self.sync.target
                )));
            }
        }
        let registration = if lost.replaced {
            self.new_registration(source).await?
        } else {
            registration
        };
        let mut step = self.full(target, registration, source).await?;
        step.from = lost.position.parse().ok();
        Ok(step)
    }

    /// Makes the target equal to the source as a whole.
    async fn full(
        &self,
        target: &Target,
        registration: Registration,
        source: &Arc<dyn ChangeSource>,
    ) -> Result<Step> {
        let all = if source.has_rows() {
            // its rows are enough, whatever has become of its history
            ChangeBounds::since(source.current_version().await?)
        } else {
            ChangeBounds {
                since: Bound::Beginning,
                until: None,
            }
        };
        let range = source.resolve(&all).await?;
        let version = range.until();
        let read = if source.has_rows() {
            Read::Rows(version)
        } else {
            Read::Changes(range)
        };
        let (input, _) = scan_source(source, read, version).await?;
        let keys = self.keys(source.as_ref()).await?;
        let nature = nature(source.as_ref(), range).await?;
        let setup = Setup::try_new(self.sync, &self.state, target, input, keys, &nature)?;
        let property = registration.property(&self.sync.name)?;
        let alone = target.other_syncs(&self.sync.name).is_empty();
        let work = if target.is_empty().await? {
            let declared = source.primary_key().await?;
            let fill_with = Fill {
                copy: source.definition(version).await?,
                property: Some(property),
                // an event log has many rows of a key, as SEQUENCE BY says
                repeated_keys: self.repeated_keys
                    || !source.has_rows()
                    || (self.sync.sequence_by.is_some() && declared != setup.keys),
                truncated: None,
            };
            let remembering = Remembering::load(&setup, target, alone).await?;
            fill(&setup, target, remembering, fill_with).await?
        } else if alone && (source.has_rows() || range.since() < 0) {
            compare(&setup, target, version, property).await?
        } else {
            // which of the rows are whose, or have gone before the first change, nobody knows: none is deleted, and what is late
            // stays late
            let remembering = Remembering::load(&setup, target, false).await?;
            apply_changes(&setup, target, remembering, None, Some(property)).await?
        };
        Ok(Step {
            mode: SyncMode::Full,
            from: None,
            to: Some(version),
            target_version: target.version(),
            evolution: setup.evolution(target)?,
            counts_ignored: !source.has_rows() && matches!(self.sync.source, SourceSpec::Table(_)),
            work: Some(
                self.with_progress(work, registration, source, version)
                    .await?,
            ),
        })
    }

    /// `APPLY CHANGES`: no position, and nothing to follow.
    async fn apply(&self, target: Target) -> Result<Step> {
        let input = self.session.source_rows(&self.sync.source).await?;
        if self.sync.keys.is_empty() {
            return Err(Error::invalid(
                "APPLY CHANGES needs KEYS (…), the columns that tell rows apart",
            ));
        }
        let source = self.session.sync_source(&self.sync.source).await.ok();
        let carried = input.schema().field_with_unqualified_name(CHANGED_COLUMNS);
        let nature = SourceNature {
            // which of them are absent in which row, that column says
            absent: match carried {
                Ok(_) => column_names(&input),
                Err(_) => vec![],
            },
            refuses_ties: source.is_some_and(|source| source.refuses_ties()),
        };
        let setup = Setup::try_new(
            self.sync,
            &self.state,
            &target,
            input,
            self.sync.keys.clone(),
            &nature,
        )?;
        let remembering = Remembering::load(&setup, &target, false).await?;
        let known = remembering.truncated().cloned();
        // one that comes before another that is known has nothing left to do
        let is_news = |new: &ScalarValue| known.as_ref().is_none_or(|known| new > known);
        let truncated = setup.truncated().await?.filter(is_news);
        let latest = truncated.as_ref().or(known.as_ref());
        let after = setup.after(latest)?;
        let work = if target.is_empty().await? {
            let fill_with = Fill {
                copy: setup.plain_definition(),
                property: None,
                repeated_keys: true,
                truncated,
            };
            fill(&after, &target, remembering, fill_with).await?
        } else {
            apply_changes(&after, &target, remembering, truncated, None).await?
        };
        Ok(Step {
            mode: SyncMode::Incremental,
            from: None,
            to: None,
            target_version: target.version(),
            evolution: setup.evolution(&target)?,
            counts_ignored: false,
            work: Some(work),
        })
    }

    /// With the position that is reached. Its fingerprint is taken before a row is read: if the source becomes another one
    /// meanwhile, the next run will see it.
    async fn with_progress(
        &self,
        work: Work,
        registration: Registration,
        source: &Arc<dyn ChangeSource>,
        version: i64,
    ) -> Result<Work> {
        Ok(Work {
            progress: Some(Progress {
                name: self.sync.name.clone(),
                registration,
                version,
                fingerprint: source.fingerprint(version).await?,
            }),
            ..work
        })
    }

    async fn keys(&self, source: &dyn ChangeSource) -> Result<Vec<String>> {
        if !self.sync.keys.is_empty() {
            return Ok(self.sync.keys.clone());
        }
        let declared = source.primary_key().await?;
        if declared.is_empty() {
            return Err(Error::invalid(format!(
                "{} has no primary key, so the statement must name the columns that tell rows apart: KEYS (…)",
                source.name()
            )));
        }
        Ok(declared)
    }
}

async fn nature(source: &dyn ChangeSource, range: ChangeRange) -> Result<SourceNature> {
    Ok(SourceNature {
        absent: source.absent_columns(range).await?,
        refuses_ties: source.refuses_ties(),
    })
}

fn column_names(plan: &LogicalPlan) -> Vec<String> {
    let fields = plan.schema().fields().iter();
    fields.map(|field| field.name().clone()).collect()
}

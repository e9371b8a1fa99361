//! The bounds of a change read: what the user asks for ([`ChangeBounds`]) and what it means ([`ChangeRange`]).
//!
//! The lower bound is exclusive, the upper inclusive: `since < version <= until`. A [`ChangeRange`] can only be made by
//! [`ChangeBounds::resolve`], which knows the current version, so whoever holds one need not check again.

use crate::error::{Error, Result};

/// One end of a range as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// A version.
    Version(i64),
    /// A point in time, in microseconds since the epoch, UTC.
    Timestamp(i64),
    /// Before the first version.
    Beginning,
    /// From the oldest version that can still be read whole.
    Earliest,
}

/// Which end of the range a value belongs to, and whether it is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoundKind {
    /// `since_…`: exclusive lower bound.
    Since,
    /// `starting_…`: inclusive lower bound.
    Starting,
    /// `until_…` or `ending_…`: inclusive upper bound.
    Until,
    /// `before_…`: exclusive upper bound.
    Before,
}

impl BoundKind {
    /// Whether it is an upper bound.
    pub(crate) fn is_upper(self) -> bool {
        matches!(self, Self::Until | Self::Before)
    }
}

/// The bounds of a change read as the user wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeBounds {
    /// The exclusive lower bound.
    pub since: Bound,
    /// The inclusive upper bound; the current version where absent.
    pub until: Option<Bound>,
}

/// A checked range of versions: `since < version <= until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeRange {
    since: i64,
    until: i64,
    from_creation: bool,
}

impl ChangeRange {
    /// The exclusive lower bound; -1 stands for "before the first version".
    pub fn since(&self) -> i64 {
        self.since
    }

    /// The inclusive upper bound.
    pub fn until(&self) -> i64 {
        self.until
    }

    /// The first version that is read.
    pub fn first(&self) -> i64 {
        self.since + 1
    }

    /// Whether nothing can have changed: the consumer is caught up.
    pub fn is_empty(&self) -> bool {
        self.since >= self.until
    }

    /// The same versions, counted from another one; before version 0 nothing is counted.
    pub(crate) fn shifted(&self, by: i64) -> Self {
        Self {
            since: self.since.max(0) + by,
            until: self.until + by,
            from_creation: false,
        }
    }

    /// Whether everything since the table's creation was asked for (`since_version => NULL`).
    pub fn from_creation(&self) -> bool {
        self.from_creation
    }
}

/// What a source knows about its versions; timestamps are looked up by it.
pub trait VersionClock {
    /// The table as the user named it.
    fn table(&self) -> &str;
    /// The newest version.
    fn current(&self) -> i64;
    /// The newest version whose commit time is at or before `micros`; -1 when all are later.
    fn at_or_before(&self, micros: i64) -> i64;
    /// The lowest exclusive bound from which everything can still be read.
    fn earliest(&self) -> i64;
}

impl ChangeBounds {
    /// Everything after a version.
    pub(crate) fn since(version: i64) -> Self {
        Self {
            since: Bound::Version(version),
            until: None,
        }
    }

    /// Checks the bounds against the source and turns them into versions.
    ///
    /// # Errors
    /// [`Error::VersionNotFound`] when a bound lies past the current version, [`Error::InvalidRange`] when an explicit upper
    /// bound is not above the lower one.
    pub fn resolve(&self, clock: &dyn VersionClock) -> Result<ChangeRange> {
        let current = clock.current();
        if let (Bound::Timestamp(since), Some(Bound::Timestamp(until))) = (&self.since, &self.until)
            && until <= since
        {
            return Err(Error::InvalidRange(
                "the upper timestamp must be later than the lower one (since < commit time <= until)".into(),
            ));
        }
        let since = match self.since {
            Bound::Beginning => -1,
            Bound::Earliest => clock.earliest(),
            Bound::Version(version) => check_since(clock, version)?,
            Bound::Timestamp(micros) => clock.at_or_before(micros),
        };
        let until = match self.until {
            None => current,
            Some(Bound::Timestamp(micros)) => check_until_time(clock, since, micros)?,
            Some(Bound::Version(version)) => check_until(clock, since, version)?,
            Some(Bound::Beginning | Bound::Earliest) => {
                return Err(Error::InvalidRange("until_version must be a version or a timestamp; leave it out to read up to the current version".into()));
            }
        };
        Ok(ChangeRange {
            since,
            until,
            from_creation: self.since == Bound::Beginning,
        })
    }
}

fn check_since(clock: &dyn VersionClock, version: i64) -> Result<i64> {
    if version < -1 {
        return Err(Error::InvalidRange(format!(
            "since_version {version} is not a version of {}; versions start at 0, and NULL means from before the first",
            clock.table()
        )));
    }
    if version > clock.current() {
        return Err(Error::VersionNotFound {
            table: clock.table().into(),
            what: "since_version",
            requested: version.to_string(),
            current: clock.current(),
            hint: "if the table was restored or recreated, re-initialise the consumer with a full copy",
        });
    }
    Ok(version)
}

/// A time at which nothing newer than `since` had been committed.
fn check_until_time(clock: &dyn VersionClock, since: i64, micros: i64) -> Result<i64> {
    let until = clock.at_or_before(micros);
    if until < since {
        let at = if until < 0 {
            "before the first version".into()
        } else {
            format!("at version {until}")
        };
        return Err(Error::InvalidRange(format!(
            "until_timestamp lies {at}, which is not above since_version {since} (since < version <= until); \
             give a later timestamp"
        )));
    }
    Ok(until)
}

fn check_until(clock: &dyn VersionClock, since: i64, until: i64) -> Result<i64> {
    if until < 0 {
        return Err(Error::InvalidRange(format!(
            "until_version {until} is not a version of {}; versions start at 0",
            clock.table()
        )));
    }
    if until <= since {
        return Err(Error::InvalidRange(format!(
            "until_version {until} must be above since_version {since}, because the lower bound is exclusive (since < version <= until); \
             to read version {until} alone use since_version => {}",
            until - 1
        )));
    }
    if until > clock.current() {
        return Err(Error::VersionNotFound {
            table: clock.table().into(),
            what: "until_version",
            requested: until.to_string(),
            current: clock.current(),
            hint: "leave until_version out to read up to the current version",
        });
    }
    Ok(until)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clock;
    impl VersionClock for Clock {
        fn table(&self) -> &str {
            "orders"
        }
        fn current(&self) -> i64 {
            5
        }
        fn at_or_before(&self, micros: i64) -> i64 {
            (micros / 10).min(5)
        }
        fn earliest(&self) -> i64 {
            2
        }
    }

    fn check(since: Bound, until: Option<Bound>, expected: std::result::Result<(i64, i64), &str>) {
        let got = ChangeBounds { since, until }.resolve(&Clock);
        match (got, expected) {
            (Ok(range), Ok(bounds)) => assert_eq!((range.since(), range.until()), bounds),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{error} lacks {part:?}")
            }
            (got, expected) => panic!("got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn bounds_follow_the_contract() {
        check(Bound::Version(3), None, Ok((3, 5)));
        check(Bound::Version(5), None, Ok((5, 5)));
        check(Bound::Beginning, None, Ok((-1, 5)));
        check(Bound::Earliest, Some(Bound::Version(4)), Ok((2, 4)));
        check(Bound::Timestamp(31), Some(Bound::Timestamp(40)), Ok((3, 4)));
        check(
            Bound::Version(7),
            None,
            Err("VERSION_NOT_FOUND: since_version 7 is after the current version 5 of orders"),
        );
        check(
            Bound::Version(-2),
            None,
            Err("since_version -2 is not a version"),
        );
        check(
            Bound::Version(3),
            Some(Bound::Version(i64::MIN)),
            Err("until_version -9223372036854775808 is not a version"),
        );
        check(
            Bound::Version(3),
            Some(Bound::Timestamp(-1)),
            Err("until_timestamp lies at version 0"),
        );
        check(
            Bound::Version(3),
            Some(Bound::Version(3)),
            Err("since_version => 2"),
        );
        check(
            Bound::Version(3),
            Some(Bound::Version(9)),
            Err("until_version 9 is after the current version 5"),
        );
    }
}

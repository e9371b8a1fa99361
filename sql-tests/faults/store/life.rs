//! One life of a host: its operations are counted, and something becomes of one of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::path::Path;
use object_store::{Error, Result};
use tokio::sync::Notify;

/// What goes wrong in a process, counted from when it is armed; operations and writes are numbered from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It is killed before this operation does anything.
    KilledBefore(usize),
    /// It is killed before this write does anything.
    KilledBeforeWrite(usize),
    /// It is killed once this write has been done, and before it is told so.
    KilledAfterWrite(usize),
    /// It stops before this operation, until it is told to go on.
    StoppedBefore(usize),
    /// It stops before its first commit, until it is told to go on.
    StoppedBeforeCommit,
    /// It may not write its first commit, and is told so.
    CommitDenied,
    /// This write is done, but its answer and those of so many operations after it are lost; then the store is back.
    Outage {
        /// The write.
        write: usize,
        /// How many operations after it fail.
        lost: usize,
    },
    /// Something happens to one operation of a kind, numbered among its like, and to no other.
    Once {
        /// The kind.
        kind: Kind,
        /// Which of them.
        number: usize,
        /// What happens.
        trouble: Trouble,
    },
}

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file appears: a put, the end of an upload, a copy.
    Put,
    Get,
    List,
    Delete,
    /// What nobody sees: the beginning or a part of an upload.
    Part,
}

/// What happens to one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It has no effect.
    Refused,
    /// It has its effect, but the answer is lost; that of a get breaks off in the middle.
    Unanswered,
    /// A put is sent twice, and the second answer counts.
    Repeated,
    /// It waits until the process is told to go on.
    Stopped,
    /// A put waits like that, and is done then even if nobody waits for its answer any more.
    Late,
}

/// How many operations there have been, and how many of them were of a kind.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Operations {
    pub all: usize,
    /// Puts and deletes.
    pub writes: usize,
    pub puts: usize,
    pub gets: usize,
    pub lists: usize,
}

/// One life of a host.
#[derive(Debug)]
pub(crate) struct Process {
    state: Mutex<State>,
    stopped: Notify,
    goes_on: Notify,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    done: Operations,
    /// The number of the operation that the fault hit.
    hit: Option<usize>,
    /// What has been put, or was to be put, in order.
    puts: Vec<Path>,
}

/// What becomes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Works,
    WorksUnanswered,
    WorksTwice,
    WorksLate,
    Waits,
    Fails,
    Denied,
}

impl Process {
    /// One to which nothing happens until it is armed.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(Fault::None)),
            stopped: Notify::new(),
            goes_on: Notify::new(),
        })
    }

    /// Counts anew, and lets `fault` happen.
    pub(crate) fn arm(&self, fault: Fault) {
        *lock(&self.state) = State::new(fault);
    }

    /// What has been counted.
    pub(crate) fn operations(&self) -> Operations {
        lock(&self.state).done
    }

    /// What has been put, or was to be put, in order.
    pub(crate) fn puts(&self) -> Vec<Path> {
        lock(&self.state).puts.clone()
    }

    /// Whether a commit has been put, or was to be put.
    pub(crate) fn has_tried_to_commit(&self) -> bool {
        lock(&self.state).puts.iter().any(is_commit)
    }

    /// Whether the fault has happened.
    pub(crate) fn was_hit(&self) -> bool {
        lock(&self.state).hit.is_some()
    }

    /// Says that there is nothing more to come, in case it should have stopped later.
    pub(crate) fn end(&self) {
        self.stopped.notify_one();
    }

    /// Waits until it has stopped, or ended.
    pub(crate) async fn wait_for_stop(&self) {
        self.stopped.notified().await;
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.goes_on.notify_one();
    }

    /// Says that it has stopped, and waits until it is told to go on.
    pub(super) async fn stop(&self) {
        self.stopped.notify_one();
        self.goes_on.notified().await;
    }

    /// Counts an operation, and says what becomes of it.
    pub(super) fn admit(&self, kind: Kind, location: Option<&Path>) -> Fate {
        let mut state = lock(&self.state);
        state.done.count(kind);
        if kind == Kind::Put {
            state.puts.extend(location.cloned());
        }
        let operation = state.done.all;
        if let Some(hit) = state.hit {
            return state.fault.aftermath(operation - hit);
        }
        let is_commit = kind == Kind::Put && location.is_some_and(is_commit);
        let fate = state.fault.fate(kind, state.done, is_commit);
        if fate != Fate::Works {
            state.hit = Some(operation);
        }
        fate
    }

    /// Does an operation as it was decided; what can be done only once is done once.
    pub(super) async fn meet<T>(
        &self,
        fate: Fate,
        operation: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match fate {
            Fate::Works | Fate::WorksTwice => return operation.await,
            Fate::Waits | Fate::WorksLate => {
                self.stop().await;
                return operation.await;
            }
            Fate::WorksUnanswered => {
                let _ = operation.await;
            }
            Fate::Fails => {}
            Fate::Denied => return Err(denied()),
        }
        Err(no_answer())
    }

    /// Counts an operation, and does what becomes of it.
    pub(super) async fn perform<T>(
        &self,
        kind: Kind,
        location: Option<&Path>,
        operation: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let fate = self.admit(kind, location);
        self.meet(fate, operation).await
    }
}

impl State {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            done: Operations::default(),
            hit: None,
            puts: Vec::new(),
        }
    }
}

impl Fault {
    /// What becomes of the last of the operations that were counted, if none was hit before.
    fn fate(self, kind: Kind, done: Operations, is_commit: bool) -> Fate {
        let write = kind.is_write().then_some(done.writes);
        match self {
            Self::KilledBefore(number) if done.all == number => Fate::Fails,
            Self::StoppedBefore(number) if done.all == number => Fate::Waits,
            Self::StoppedBeforeCommit if is_commit => Fate::Waits,
            Self::CommitDenied if is_commit => Fate::Denied,
            Self::KilledBeforeWrite(number) if write == Some(number) => Fate::Fails,
            Self::KilledAfterWrite(number) if write == Some(number) => Fate::WorksUnanswered,
            Self::Outage { write: number, .. } if write == Some(number) => Fate::WorksUnanswered,
            Self::Once {
                kind: wanted,
                number,
                trouble,
            } if wanted == kind && done.of(kind) == number => trouble.fate(),
            _ => Fate::Works,
        }
    }

    /// What becomes of the operation that comes so many after the one that was hit.
    fn aftermath(self, distance: usize) -> Fate {
        match self {
            Self::KilledBefore(_) | Self::KilledBeforeWrite(_) | Self::KilledAfterWrite(_) => {
                Fate::Fails
            }
            Self::Outage { lost, .. } if distance <= lost => Fate::Fails,
            _ => Fate::Works,
        }
    }
}

impl Kind {
    fn is_write(self) -> bool {
        matches!(self, Self::Put | Self::Delete)
    }
}

impl Trouble {
    fn fate(self) -> Fate {
        match self {
            Self::Refused => Fate::Fails,
            Self::Unanswered => Fate::WorksUnanswered,
            Self::Repeated => Fate::WorksTwice,
            Self::Stopped => Fate::Waits,
            Self::Late => Fate::WorksLate,
        }
    }
}

impl Operations {
    fn count(&mut self, kind: Kind) {
        self.all += 1;
        self.writes += usize::from(kind.is_write());
        match kind {
            Kind::Put => self.puts += 1,
            Kind::Get => self.gets += 1,
            Kind::List => self.lists += 1,
            Kind::Delete | Kind::Part => {}
        }
    }

    /// How many of a kind there have been.
    pub(crate) fn of(self, kind: Kind) -> usize {
        match kind {
            Kind::Put => self.puts,
            Kind::Get => self.gets,
            Kind::List => self.lists,
            Kind::Delete => self.writes - self.puts,
            Kind::Part => self.all - self.writes - self.gets - self.lists,
        }
    }
}

/// Whether a file is a commit of a Delta table.
fn is_commit(path: &Path) -> bool {
    let Some((folder, name)) = path.as_ref().rsplit_once('/') else {
        return false;
    };
    let digits = name.strip_suffix(".json").unwrap_or_default();
    folder.ends_with("_delta_log")
        && digits.len() == 20
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a client hears when it hears nothing.
pub(super) fn no_answer() -> Error {
    Error::Generic {
        store: "fault",
        source: "no answer".into(),
    }
}

/// What a client hears that may not write.
fn denied() -> Error {
    Error::PermissionDenied {
        path: "_delta_log".into(),
        source: "denied".into(),
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

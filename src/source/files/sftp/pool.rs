//! Connections that are shared: opened as they are needed, up to a number, and thrown away when they break.
//!
//! Invariant: nobody holds anything that others wait for while he may not be polled himself. Whoever reads several streams polls one
//! of them at a time, so a future that was handed a lock in one of the others would keep it from all. Connections are therefore opened
//! by tasks, and whoever needs one waits for the end of the task, not for a lock.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::Error;
use tokio::sync::watch;

use super::connection::Connection;
use super::failure::{Failure, STORE};
use super::options::SftpOptions;
use super::retry::{Attempts, Turn};
use crate::source::files::io_runtime::io_runtime;

/// The connections to one server.
pub(super) struct Pool {
    options: SftpOptions,
    slots: Vec<Arc<Slot>>,
    /// Whether there has ever been a connection: before that, a failure is more likely a mistake in the options than an outage.
    has_connected: AtomicBool,
}

/// What a slot holds.
#[derive(Default)]
enum State {
    #[default]
    Empty,
    /// A task opens a connection; the channel closes when it has ended.
    Connecting(watch::Receiver<()>),
    Connected(Arc<Connection>),
}

/// How to get at the connection of a slot.
enum Way {
    Connected(Arc<Connection>),
    /// Somebody else is at it: look again when the channel is closed.
    Wait(watch::Receiver<()>),
    /// Connect, and keep this until the slot says how it went.
    Connect(watch::Sender<()>),
}

/// The place of one connection.
#[derive(Default)]
struct Slot {
    users: AtomicUsize,
    /// The server would not have one more connection; used only while no other slot is left.
    is_refused: AtomicBool,
    state: Mutex<State>,
}

/// The use of a connection, which others may use at the same time.
pub(super) struct Lease {
    connection: Arc<Connection>,
    _user: User,
}

/// Counts as a user of a slot while it lives.
struct User(Arc<Slot>);

impl Pool {
    /// A pool without connections yet.
    pub(super) fn new(options: SftpOptions) -> Self {
        let slots = options.connections.max(1);
        Self {
            options,
            slots: (0..slots).map(|_| Arc::default()).collect(),
            has_connected: AtomicBool::new(false),
        }
    }

    /// Sends a request that may be sent again, until there is an answer. `request` is told whether an earlier answer was lost.
    pub(super) async fn run<T, F, Answer>(&self, request: F) -> Result<T, Failure>
    where
        F: Fn(Lease, Turn) -> Answer,
        Answer: Future<Output = Result<T, Failure>>,
    {
        let attempts = Attempts::default();
        let mut turn = Turn::First;
        loop {
            let lost = match self.lease().await {
                Ok(lease) => match request(lease, turn).await {
                    Err(Failure::Lost(error)) => {
                        turn = Turn::Repeated;
                        error
                    }
                    answer => return answer,
                },
                Err(Failure::Lost(error)) => error,
                Err(failure) => return Err(failure),
            };
            attempts.wait(lost).await?;
        }
    }

    /// A connection that works, of those with the fewest users. One attempt to connect.
    pub(super) async fn lease(&self) -> Result<Lease, Failure> {
        let Some(slot) = self.slots.iter().min_by_key(|slot| slot.rank()) else {
            return Err(Failure::fatal("no connections are allowed"));
        };
        let user = User::of(slot);
        match self.connection_of(slot).await {
            Ok(connection) => Ok(Lease {
                connection,
                _user: user,
            }),
            Err(failure) => self.lease_beside(slot).await.ok_or(failure),
        }
    }

    async fn connection_of(&self, slot: &Arc<Slot>) -> Result<Arc<Connection>, Failure> {
        loop {
            match slot.way() {
                Way::Connected(connection) => {
                    // whoever opened it may be gone
                    self.has_connected.store(true, Ordering::Relaxed);
                    return Ok(connection);
                }
                // an error says that the channel is closed, which is what is waited for
                Way::Wait(mut ended) => drop(ended.changed().await),
                Way::Connect(end) => return self.connect(slot, end).await,
            }
        }
    }

    async fn connect(
        &self,
        slot: &Arc<Slot>,
        end: watch::Sender<()>,
    ) -> Result<Arc<Connection>, Failure> {
        let runtime = io_runtime().map_err(|error| Failure::fatal(error.to_string()))?;
        let (options, place) = (self.options.clone(), Arc::clone(slot));
        let task = runtime.spawn(async move {
            let established = Connection::establish(&options).await.map(Arc::new);
            *place.state() = match &established {
                Ok(connection) => State::Connected(Arc::clone(connection)),
                Err(_) => State::Empty,
            };
            drop(end);
            established
        });
        let established = task
            .await
            .map_err(|error| Failure::fatal(error.to_string()))?;
        let connection = established.map_err(|failure| self.judged(failure))?;
        self.has_connected.store(true, Ordering::Relaxed);
        for slot in &self.slots {
            slot.is_refused.store(false, Ordering::Relaxed);
        }
        Ok(connection)
    }

    /// A connection of another slot, where a further one could not be had.
    async fn lease_beside(&self, refused: &Arc<Slot>) -> Option<Lease> {
        for slot in &self.slots {
            if Arc::ptr_eq(slot, refused) {
                continue;
            }
            if let Some(connection) = slot.connection().await {
                refused.is_refused.store(true, Ordering::Relaxed);
                return Some(Lease {
                    connection,
                    _user: User::of(slot),
                });
            }
        }
        None
    }

    /// A failure to connect that is not worth another attempt where none ever succeeded.
    fn judged(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Lost(error) if !self.has_connected.load(Ordering::Relaxed) => {
                Failure::Fatal(Error::Generic {
                    store: STORE,
                    source: Box::new(error),
                })
            }
            other => other,
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "sftp://{}@{}",
            self.options.user,
            self.options.address()
        )
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pool")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn way(&self) -> Way {
        let mut state = self.state();
        match &*state {
            State::Connected(connection) if connection.is_alive() => {
                Way::Connected(Arc::clone(connection))
            }
            // a closed channel without a result is that of a task that went away with its runtime
            State::Connecting(ended) if ended.has_changed().is_ok() => Way::Wait(ended.clone()),
            State::Empty | State::Connecting(_) | State::Connected(_) => {
                let (end, ended) = watch::channel(());
                *state = State::Connecting(ended);
                Way::Connect(end)
            }
        }
    }

    /// The connection that is there, or will be in a moment.
    async fn connection(&self) -> Option<Arc<Connection>> {
        let opening = match &*self.state() {
            State::Connecting(ended) => Some(ended.clone()),
            State::Empty | State::Connected(_) => None,
        };
        if let Some(mut ended) = opening {
            drop(ended.changed().await);
        }
        match &*self.state() {
            State::Connected(connection) if connection.is_alive() => Some(Arc::clone(connection)),
            State::Empty | State::Connecting(_) | State::Connected(_) => None,
        }
    }

    fn rank(&self) -> (bool, usize) {
        (
            self.is_refused.load(Ordering::Relaxed),
            self.users.load(Ordering::Relaxed),
        )
    }
}

impl User {
    fn of(slot: &Arc<Slot>) -> Self {
        slot.users.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(slot))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use url::Url;

    use super::*;

    fn pool() -> Pool {
        let url = Url::parse("sftp://ann:hunter2@h:2222/").unwrap();
        Pool::new(SftpOptions::try_new(&url, &HashMap::new()).unwrap())
    }

    #[test]
    fn names_hold_no_secret() {
        let pool = pool();
        assert_eq!(pool.to_string(), "sftp://ann@h:2222");
        assert!(!format!("{pool:?}").contains("hunter2"));
    }

    #[test]
    fn the_least_used_slot_comes_first_and_a_refused_one_last() {
        let pool = pool();
        let next = || {
            let least = pool.slots.iter().min_by_key(|slot| slot.rank()).unwrap();
            pool.slots.iter().position(|slot| Arc::ptr_eq(slot, least))
        };
        assert_eq!(next(), Some(0));
        let user = User::of(&pool.slots[0]);
        assert_eq!(next(), Some(1));
        pool.slots[1].is_refused.store(true, Ordering::Relaxed);
        assert_eq!(next(), Some(2));
        drop(user);
        assert_eq!(next(), Some(0));
    }
}

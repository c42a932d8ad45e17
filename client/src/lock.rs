//! Locks: one at a time, with a token that tells the later from the earlier.
//!
//! A lock is a [line](mod@crate::line) in which the first holds it. It is held for as long as its lease lives: the client keeps that alive in
//! the background, and [`LockGuard::lost`] returns when it can no longer be counted on. That is all that any lock can promise from afar: a
//! holder that stood still for a while may act for a moment after the lock has gone to another. Where that matters, send
//! [`LockGuard::token`] along with everything that is done under the lock, and let the other side turn down what comes with a lower one
//! than it has seen.

use crate::client::Client;
use crate::error::Error;
use crate::lease::{LeaseLoss, RevokedLease};
use crate::line::{self, Ahead, LineError, Place};
use bytes::Bytes;
use std::time::Duration;

/// How long a lock outlives its holder when nothing else is said.
pub const LOCK_TTL_DEFAULT: Duration = Duration::from_secs(10);

/// A lock to take.
///
/// ```no_run
/// # async fn example(client: raftkv_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use raftkv_client::Lock;
/// let guard = client.lock(Lock::new("backup")).await?;
/// tokio::select! {
///     loss = guard.lost() => eprintln!("somebody else may hold it now: {loss}"),
///     () = make_a_backup(guard.token()) => { guard.unlock().await?; }
/// }
/// # Ok(())
/// # }
/// # async fn make_a_backup(token: u64) {}
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    name: Bytes,
    value: Bytes,
    ttl: Duration,
}

impl Lock {
    /// The lock of this name: its keys begin with `NAME/@`. Not empty.
    pub fn new(name: impl Into<Bytes>) -> Lock {
        Lock { name: name.into(), value: Bytes::new(), ttl: LOCK_TTL_DEFAULT }
    }

    /// How long the lock outlives a holder that has gone without unlocking. Default [`LOCK_TTL_DEFAULT`]. A shorter time frees it sooner,
    /// and is lost to a shorter disturbance.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Lock {
        self.ttl = ttl;
        self
    }

    /// What the key of the lock holds, for whoever looks at who has it.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Lock {
        self.value = value.into();
        self
    }
}

/// Why a lock was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// The lease of the place in line was lost while waiting. Take it again.
    #[error("the place in line was lost: {0}")]
    Lost(LeaseLoss),
    /// A request failed, in a way that waiting does not mend.
    #[error(transparent)]
    Request(#[from] Error),
}

impl From<LineError> for LockError {
    fn from(error: LineError) -> LockError {
        match error {
            LineError::Lost(loss) => LockError::Lost(loss),
            LineError::Request(error) => LockError::Request(error),
        }
    }
}

/// A lock that is held, until this is unlocked, or lost. Dropped, it stays taken for its time to live.
#[derive(Debug)]
pub struct LockGuard {
    place: Place,
}

impl Client {
    /// Takes a lock, and waits for it as long as it takes. If the future is dropped before, the place in line stays for the lock's time to
    /// live; [`Client::lock_unless`] leaves it at once.
    ///
    /// # Errors
    /// [`LockError::Lost`] when the cluster could not be reached for the lock's time to live; [`LockError::Request`] for what waiting does
    /// not mend.
    pub async fn lock(&self, lock: Lock) -> Result<LockGuard, LockError> {
        let taken = self.lock_unless(lock, std::future::pending::<()>()).await?;
        Ok(taken.expect("what never returns does not give up"))
    }

    /// Takes a lock, unless `given_up` returns before it is free: then the place in line is left, and there is no lock.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::LockError> {
    /// use raftkv_client::Lock;
    /// use std::time::Duration;
    /// let patience = tokio::time::sleep(Duration::from_secs(30));
    /// match client.lock_unless(Lock::new("backup"), patience).await? {
    ///     Some(guard) => println!("it is ours, with token {}", guard.token()),
    ///     None => println!("somebody has it for longer than half a minute"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::lock`].
    pub async fn lock_unless(&self, lock: Lock, given_up: impl Future) -> Result<Option<LockGuard>, LockError> {
        let place = line::be_served(self, (&lock.name, &lock.value, lock.ttl), given_up).await?;
        Ok(place.map(|place| LockGuard { place }))
    }

    /// Takes a lock if nobody else has it or waits for it.
    ///
    /// # Errors
    /// As [`Client::lock`].
    pub async fn try_lock(&self, lock: Lock) -> Result<Option<LockGuard>, LockError> {
        if line::first(self, &line::prefix_of(&lock.name)?).await?.is_some() {
            return Ok(None);
        }
        let place = line::enter(self, &lock.name, &lock.value, lock.ttl).await?;
        match place.ahead().await {
            Ok(Ahead::Nobody) => Ok(Some(LockGuard { place })),
            Ok(Ahead::PlaceGone) => Err(LockError::Lost(place.why_gone().await)),
            Ok(Ahead::Somebody(_)) => {
                place.leave().await;
                Ok(None)
            }
            Err(error) => {
                place.leave().await;
                Err(error.into())
            }
        }
    }
}

impl LockGuard {
    /// The fencing token: greater than that of everybody who held the lock before.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.place.create_revision
    }

    /// The key that stands for holding it: it exists, created at the revision [`LockGuard::token`], for as long as the lock is held. A
    /// transaction that compares this does its work only under the lock.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client, guard: raftkv_client::LockGuard) -> Result<(), raftkv_client::Error> {
    /// use raftkv_client::{Compare, Operation, Transaction};
    /// let held = Compare::create_revision(guard.key().clone()).equals(guard.token());
    /// let outcome = client.transaction(Transaction::new().when(held).then(Operation::put(("state", "done")))).await?;
    /// assert!(outcome.succeeded, "the lock was lost before");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.place.key
    }

    /// Whether it can no longer be counted on, going by its lease: whether its key is still there only [`lost`](Self::lost) finds out.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.place.lease.is_lost()
    }

    /// Returns when it can no longer be counted on: its lease was not kept alive or has ended, or somebody deleted or overwrote its key.
    pub async fn lost(&self) -> LeaseLoss {
        self.place.lost().await
    }

    /// Frees it for the next.
    ///
    /// # Errors
    /// As [`Client::revoke_lease`]; it becomes free by itself after its time to live.
    pub async fn unlock(self) -> Result<RevokedLease, Error> {
        self.place.lease.revoke().await
    }
}

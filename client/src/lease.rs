//! Leases: what keys live by.
//!
//! A lease ends when it is not kept alive for its time to live, or when it is revoked; then its keys are deleted. [`Client::grant_lease`]
//! makes one and keeps it alive in the background, as long as its handle, [`Lease`], is there. The single steps are there too:
//! [`Client::create_lease`], [`Client::keep_lease_alive`], [`Client::revoke_lease`], [`Client::show_lease`], [`Client::list_leases`].
//!
//! # When a lease can be counted on
//!
//! The cluster counts a lease's time from the moment at which it takes the keep-alive; the client from the moment at which it sent it,
//! which is earlier. So the client lets go first: from then on [`Lease::is_lost`] says so, for good, whatever a later answer might have
//! said. The client counts by its own monotonic clock. What that leaves open: a machine that is suspended, or a process that is stopped,
//! learns of the loss only when it goes on, so it may act for a moment after others have taken its place. Whoever must exclude that sends
//! the fencing token of a [lock](crate::LockGuard) along with what it does.
//!
//! Absent: nothing ends a lease when its handle is dropped. It ends by itself, after its time to live; [`Lease::revoke`] ends it at once.

use crate::client::{Client, Deadline, nonsense};
use crate::error::{Error, Human};
use crate::policy::Purpose;
use crate::request::milliseconds;
use crate::value::header;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use transport::proto::client as wire;
use transport::{Request, Response};

/// The shortest time to live that nodes take.
pub const LEASE_TTL_MIN: Duration = Duration::from_secs(1);
/// The longest: 285 years, as with etcd.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(9_000_000_000);

/// Keep-alives in one time to live: two may be lost.
const KEEP_ALIVES: u32 = 3;
/// The pause after a keep-alive that failed, as a part of the time to live.
const RETRY_PART: u32 = 20;
/// A timer that is late by this much was not late by chance: nothing ran here meanwhile.
const STANDSTILL_MIN: Duration = Duration::from_secs(1);

/// A lease to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewLease {
    id: u64,
    ttl: Duration,
}

impl NewLease {
    /// One that lives so long without a keep-alive, in whole milliseconds, [`LEASE_TTL_MIN`] to [`LEASE_TTL_MAX`]. It gets the next number that is free.
    #[must_use]
    pub fn new(ttl: Duration) -> NewLease {
        NewLease { id: 0, ttl }
    }

    /// With this number, which no other lease has: 1 to 9,223,372,036,854,775,807.
    #[must_use]
    pub fn with_id(mut self, id: u64) -> NewLease {
        self.id = id;
        self
    }
}

/// A lease that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantedLease {
    /// Its number.
    pub id: u64,
    /// How long it lives without a keep-alive.
    pub ttl: Duration,
}

/// A lease that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevokedLease {
    /// The store's revision after it.
    pub revision: u64,
    /// Keys deleted with it.
    pub deleted: u64,
}

/// What the cluster knows of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its number.
    pub id: u64,
    /// How long it lives without a keep-alive.
    pub ttl: Duration,
    /// What is left of that, by the cluster's time.
    pub remaining: Duration,
    /// Keys that live by it.
    pub key_count: u64,
    /// Made by a put for its key alone.
    pub of_one_key: bool,
}

/// One page of a list of leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseList {
    /// By number.
    pub leases: Vec<LeaseInfo>,
    /// There are more: ask again for those after the last one's number.
    pub more: bool,
}

impl From<wire::Lease> for LeaseInfo {
    fn from(lease: wire::Lease) -> LeaseInfo {
        let wire::Lease { id, ttl_ms, remaining_ms, key_count, of_one_key } = lease;
        let (ttl, remaining) = (Duration::from_millis(ttl_ms), Duration::from_millis(remaining_ms));
        LeaseInfo { id, ttl, remaining, key_count, of_one_key }
    }
}

/// Why a lease can no longer be counted on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseLoss {
    /// It was not kept alive in time: the cluster may have ended it.
    #[error("the lease was not kept alive within {}: {cause}", Human(*ttl))]
    NotKeptAlive {
        /// Its time to live.
        ttl: Duration,
        /// How the last keep-alive ended.
        cause: String,
    },
    /// It was not kept alive in time, because nothing ran here: this process was stopped, or its machine was suspended or had no time for it. The
    /// cluster may have been well.
    #[error("this process, or its machine, stood still for {} s, and so did not keep the lease alive within {}", standstill.as_secs(), Human(*ttl))]
    StoodStill {
        /// Its time to live.
        ttl: Duration,
        /// How long nothing ran.
        standstill: Duration,
    },
    /// The cluster has ended it: somebody has revoked it, or it was not kept alive by the cluster's time.
    #[error("the cluster has ended the lease: {cause}")]
    Ended {
        /// What the cluster said.
        cause: String,
    },
    /// Somebody has deleted the key of the lock or election that lived by it, or put another value there without the lease. Also told where
    /// the key is gone and the cluster does not answer whether the lease is.
    #[error("the key {} was deleted or overwritten", key.escape_ascii())]
    KeyGone {
        /// The key.
        key: Bytes,
    },
}

/// A lease that is kept alive for as long as this is there. See the module for what can be counted on.
///
/// ```no_run
/// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
/// use raftkv_client::Put;
/// use std::time::Duration;
/// let lease = client.grant_lease(Duration::from_secs(10)).await?;
/// client.put(Put::new("services/web/7", "10.0.0.7:80").lease(lease.id())).await?;
/// tokio::select! {
///     loss = lease.lost() => println!("others do not see us any more: {loss}"),
///     _ = tokio::signal::ctrl_c() => { lease.revoke().await?; }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Lease {
    client: Client,
    granted: GrantedLease,
    state: watch::Receiver<State>,
    keeper: JoinHandle<()>,
}

#[derive(Debug, Clone)]
enum State {
    Held(Held),
    Lost(LeaseLoss),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    /// Until this moment, if nothing happens.
    until: Instant,
    /// By this moment, `until` at the latest, whoever keeps it alive does the next thing. If that does not happen, nothing runs.
    acts_by: Instant,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Lease {
    /// Its number: what [`Put::lease`](crate::Put::lease) takes.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.granted.id
    }

    /// How long it lives without a keep-alive.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.granted.ttl
    }

    /// Until when it can be counted on if no further keep-alive succeeds; `None` once it is lost.
    #[must_use]
    pub fn held_until(&self) -> Option<std::time::Instant> {
        match &*self.state.borrow() {
            State::Held(held) if Instant::now() < held.until => Some(held.until.into_std()),
            State::Held(_) | State::Lost(_) => None,
        }
    }

    /// Whether it can no longer be counted on.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.held_until().is_none()
    }

    /// Returns when it can no longer be counted on, and never before.
    pub async fn lost(&self) -> LeaseLoss {
        let mut state = self.state.clone();
        loop {
            let held = match &*state.borrow_and_update() {
                State::Lost(loss) => return loss.clone(),
                State::Held(held) => *held,
            };
            // The moment counts even if the task that keeps the lease alive does not get to say so.
            tokio::select! {
                changed = state.changed() => if changed.is_err() {
                    return not_kept_alive(self.granted.ttl, "nothing keeps it alive any more");
                },
                () = tokio::time::sleep_until(held.until) => {
                    let passed = matches!(&*state.borrow(), State::Held(now) if *now == held);
                    if passed {
                        return too_late(self.granted.ttl, held.acts_by, "no answer to the keep-alive");
                    }
                }
            }
        }
    }

    /// Ends it, and deletes the keys that live by it.
    ///
    /// # Errors
    /// As [`Client::revoke_lease`]. It is not kept alive any more in any case.
    pub async fn revoke(self) -> Result<RevokedLease, Error> {
        self.keeper.abort();
        self.client.revoke_lease(self.granted.id).await
    }
}

fn not_kept_alive(ttl: Duration, cause: impl Into<String>) -> LeaseLoss {
    LeaseLoss::NotKeptAlive { ttl, cause: cause.into() }
}

/// Why it was not kept alive in time, where something was to be done by `acts_by`: for this reason, unless nothing ran here.
fn too_late(ttl: Duration, acts_by: Instant, otherwise: impl Into<String>) -> LeaseLoss {
    match Instant::now().saturating_duration_since(acts_by) {
        standstill if standstill >= STANDSTILL_MIN => LeaseLoss::StoodStill { ttl, standstill },
        _ => not_kept_alive(ttl, otherwise),
    }
}

impl Client {
    /// Makes a lease and keeps it alive, a third of its time to live after each keep-alive, until the handle is dropped.
    ///
    /// # Errors
    /// As [`Client::create_lease`].
    pub async fn grant_lease(&self, ttl: Duration) -> Result<Lease, Error> {
        let sent = Instant::now();
        let granted = self.create_lease(NewLease::new(ttl)).await?;
        Ok(self.hold(granted, sent))
    }

    /// Keeps a lease alive that was made before, from a first keep-alive on, until the handle is dropped.
    ///
    /// # Errors
    /// As [`Client::keep_lease_alive`].
    pub async fn hold_lease(&self, id: u64) -> Result<Lease, Error> {
        let sent = Instant::now();
        let ttl = self.keep_lease_alive(id).await?;
        Ok(self.hold(GrantedLease { id, ttl }, sent))
    }

    fn hold(&self, granted: GrantedLease, sent: Instant) -> Lease {
        let (told, state) = watch::channel(State::Held(Held::from(sent, granted.ttl)));
        let keeper = tokio::spawn(keep_alive(self.clone(), granted, sent, told));
        Lease { client: self.clone(), granted, state, keeper }
    }

    /// Makes a lease that nothing keeps alive.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
    /// use raftkv_client::{NewLease, Put};
    /// use std::time::Duration;
    /// let lease = client.create_lease(NewLease::new(Duration::from_secs(3600))).await?;
    /// client.put(Put::new("invitation/7", "ann").lease(lease.id)).await?;
    /// let (info, keys) = client.show_lease(lease.id, true).await?;
    /// println!("{keys:?} go in {:?}", info.remaining);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::LeaseExists`] when the number is taken, [`Error::TooMany`] when there are as many leases as there may be,
    /// [`Error::Invalid`] for a time to live out of bounds; otherwise as [`Client::put`].
    pub async fn create_lease(&self, lease: NewLease) -> Result<GrantedLease, Error> {
        let NewLease { id, ttl } = lease;
        let request = wire::LeaseGrantRequest { id, ttl_ms: milliseconds(ttl), session: None };
        let (address, response) = self.write(Request::LeaseGrant(request)).await?;
        let Response::LeaseGrant(reply) = response else { return Err(nonsense(Purpose::Write, &address)) };
        Ok(GrantedLease { id: reply.id, ttl: Duration::from_millis(reply.ttl_ms) })
    }

    /// Lets a lease live for its whole time again. Returns that time.
    ///
    /// # Errors
    /// [`Error::LeaseUnknown`] when there is none. A keep-alive that comes twice does no harm, so it is tried again until the deadline.
    pub async fn keep_lease_alive(&self, id: u64) -> Result<Duration, Error> {
        self.keep_lease_alive_until(id, Deadline::after(self.timeout())).await
    }

    async fn keep_lease_alive_until(&self, id: u64, deadline: Deadline) -> Result<Duration, Error> {
        let request = Request::LeaseKeepAlive(wire::LeaseKeepAliveRequest { id });
        let (address, response) = self.call_until(Purpose::RepeatableWrite, request, deadline).await?;
        let Response::LeaseKeepAlive(reply) = response else { return Err(nonsense(Purpose::Write, &address)) };
        Ok(Duration::from_millis(reply.ttl_ms))
    }

    /// Ends a lease and deletes the keys that live by it, at one revision.
    ///
    /// # Errors
    /// [`Error::LeaseUnknown`] when there is none; otherwise as [`Client::put`].
    pub async fn revoke_lease(&self, id: u64) -> Result<RevokedLease, Error> {
        let request = Request::LeaseRevoke(wire::LeaseRevokeRequest { id, session: None });
        let (address, response) = self.write(request).await?;
        let Response::LeaseRevoke(reply) = response else { return Err(nonsense(Purpose::Write, &address)) };
        Ok(RevokedLease { revision: header(reply.header).0, deleted: reply.deleted })
    }

    /// What the cluster knows of a lease, and, if asked for, the keys that live by it.
    ///
    /// # Errors
    /// [`Error::LeaseUnknown`] when there is none, or when no node answers in time.
    pub async fn show_lease(&self, id: u64, keys: bool) -> Result<(LeaseInfo, Vec<Bytes>), Error> {
        let request = Request::LeaseShow(wire::LeaseShowRequest { id, keys });
        let (address, response) = self.call(Purpose::Read, request).await?;
        let Response::LeaseShow(wire::LeaseShowReply { lease: Some(lease), keys, .. }) = response else {
            return Err(nonsense(Purpose::Read, &address));
        };
        Ok((lease.into(), keys))
    }

    /// Leases with numbers greater than `after`, as many as fit in one answer.
    ///
    /// # Errors
    /// When no node answers in time.
    pub async fn list_leases(&self, after: u64) -> Result<LeaseList, Error> {
        let request = Request::LeaseList(wire::LeaseListRequest { after, limit: 0 });
        let (address, response) = self.call(Purpose::Read, request).await?;
        let Response::LeaseList(reply) = response else { return Err(nonsense(Purpose::Read, &address)) };
        let leases: Vec<LeaseInfo> = reply.leases.into_iter().map(LeaseInfo::from).collect();
        Ok(LeaseList { more: reply.more && !leases.is_empty(), leases })
    }
}

impl Held {
    /// With a keep-alive that was sent at this moment and answered.
    fn from(sent: Instant, ttl: Duration) -> Held {
        Held { until: sent + ttl, acts_by: sent + ttl / KEEP_ALIVES }
    }
}

/// Keeps a lease alive until it is lost. Ended from outside when nobody wants it any more.
async fn keep_alive(client: Client, granted: GrantedLease, sent: Instant, told: watch::Sender<State>) {
    let GrantedLease { id, mut ttl } = granted;
    let mut held = Held::from(sent, ttl);
    let mut failure = None;
    loop {
        tokio::time::sleep_until(held.acts_by).await;
        let sent = Instant::now();
        if sent >= held.until {
            let cause = failure.map_or_else(|| "no keep-alive was sent".to_owned(), |error: Error| error.to_string());
            return lose(&told, too_late(ttl, held.acts_by, cause));
        }
        // The answer comes by then, or not in time.
        held.acts_by = held.until;
        announce(&told, held);
        match client.keep_lease_alive_until(id, Deadline::after(held.until - sent)).await {
            Ok(granted) => {
                let extended = Held::from(sent, granted);
                if !extend(&told, held.until, extended) {
                    // Somebody may have been told that it is lost, and nothing takes that back.
                    return lose(&told, too_late(ttl, held.until, "the answer to the keep-alive came too late"));
                }
                (ttl, held, failure) = (granted, extended, None);
            }
            Err(Error::LeaseUnknown { cause, .. }) => return lose(&told, LeaseLoss::Ended { cause }),
            Err(error) if Instant::now() >= held.until => {
                return lose(&told, too_late(ttl, held.until, error.to_string()));
            }
            Err(error) => {
                tracing::debug!(lease = id, %error, "keep-alive failed; it is tried again");
                failure = Some(error);
                held.acts_by = held.until.min(Instant::now() + ttl / RETRY_PART);
                announce(&told, held);
            }
        }
    }
}

/// Tells by when the next thing is done; the end stays.
fn announce(told: &watch::Sender<State>, held: Held) {
    told.send_replace(State::Held(held));
}

/// Moves the end, unless it has passed: whoever looks at the state sees either the old end before it has passed, or the new one.
fn extend(told: &watch::Sender<State>, until: Instant, to: Held) -> bool {
    told.send_if_modified(|state| {
        let in_time = Instant::now() < until;
        if in_time {
            *state = State::Held(to);
        }
        in_time
    })
}

fn lose(told: &watch::Sender<State>, loss: LeaseLoss) {
    told.send_replace(State::Lost(loss));
}

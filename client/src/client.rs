//! The client itself: one request from the call to its answer, over as many attempts as the policy allows.

use crate::builder::Builder;
use crate::directory::{Address, Directory};
use crate::endpoint::{Connected, Endpoint};
use crate::error::{Error, Part};
use crate::policy::{self, Failure, Purpose, judge};
use crate::request::{Delete, Excess, Get, Level, Put, Scan};
use crate::route::Route;
use crate::scan::ScanStream;
use crate::value::{DeleteOutcome, Found, PutOutcome, header};
use crate::watch::{Watch, WatchStream};
use crate::watch_task::watch_failure;
use crate::writing::SharedSession;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;
use tokio::time::Instant;
use transport::proto::client as wire;
use transport::{CallError, Credentials, Request, Response, ScanError};

/// How long a client lives before it asks for the members the first time: a program that makes one request need not.
const LEARN_AFTER: Duration = Duration::from_secs(1);
/// How often it asks afterwards.
const LEARN_EVERY: Duration = Duration::from_secs(30);

/// A client of one cluster. Cheap to clone; clones share connections and what they know.
///
/// Every method may be called from many tasks at the same time. Dropping a future gives up waiting for the answer; a write that was
/// already sent may still be applied.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    credentials: Credentials,
    timeout: Duration,
    connections: usize,
    directory: RwLock<Directory>,
    endpoints: RwLock<HashMap<Address, Arc<Endpoint>>>,
    learning: AtomicBool,
    /// What makes writes repeatable, unless the caller does without.
    session: Option<Arc<SharedSession>>,
}

/// Longer than anybody waits.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Until when a request may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    /// How long that is from the beginning, for messages.
    whole: Duration,
}

impl Deadline {
    /// So long from this moment on; no longer than a century, which no clock overflows.
    pub(crate) fn after(whole: Duration) -> Deadline {
        Deadline { at: Instant::now() + whole.min(CENTURY), whole }
    }

    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.at
    }

    fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

/// What one attempt does.
pub(crate) enum Work {
    /// One request, one answer.
    Call(Request),
    /// Open a scan and read its first reply.
    Scan(wire::ScanRequest),
    /// Open a watch and read its first reply.
    Watch(wire::WatchRequest),
}

/// What it brings.
#[expect(
    clippy::large_enum_variant,
    reason = "the large variant is the usual one, and a box would be one more allocation a call"
)]
pub(crate) enum Done {
    Call(Response),
    Scan(Box<OpenScan>),
    Watch(Box<OpenWatch>),
}

/// A scan that a node has begun to answer.
pub(crate) struct OpenScan {
    pub(crate) first: wire::ScanReply,
    pub(crate) stream: transport::ScanStream,
    pub(crate) address: Address,
    /// Dropping the last handle would close the connection under the stream.
    pub(crate) _connected: Arc<Connected>,
}

/// A watch that a node has begun.
pub(crate) struct OpenWatch {
    pub(crate) first: wire::WatchReply,
    pub(crate) stream: transport::WatchStream,
    pub(crate) address: Address,
    /// Dropping the last handle would close the connection under the stream.
    pub(crate) _connected: Arc<Connected>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("directory", &*self.directory()).field("timeout", &self.shared.timeout).finish()
    }
}

impl Client {
    /// Begins a new client.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(
        endpoints: Vec<Address>,
        credentials: Credentials,
        timeout: Duration,
        connections: usize,
        session: bool,
    ) -> Client {
        let shared = Shared {
            credentials,
            timeout,
            connections,
            directory: RwLock::new(Directory::new(endpoints)),
            endpoints: RwLock::default(),
            learning: AtomicBool::new(false),
            session: session.then(Arc::default),
        };
        Client { shared: Arc::new(shared) }
    }

    /// Writes one key. When it returns, the write is durable on a majority of the nodes.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
    /// use raftkv_client::{Error, Put};
    /// client.put(("color", "green")).await?;
    /// match client.put(Put::new("lock", "me").if_absent()).await {
    ///     Ok(_) => println!("it is mine"),
    ///     Err(Error::PreconditionFailed { existing, .. }) => println!("somebody was faster: {existing:?}"),
    ///     Err(other) => return Err(other),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] when its condition does not hold; [`Error::OutcomeUnknown`] when it may or may not have been applied;
    /// after any other, it was certainly not applied.
    pub async fn put(&self, put: impl Into<Put>) -> Result<PutOutcome, Error> {
        let (address, response) = self.write(Request::Put(put.into().into_wire())).await?;
        let Response::Put(reply) = response else { return Err(nonsense(Purpose::Write, &address)) };
        let previous = reply.previous.map(Into::into);
        if !reply.succeeded {
            return Err(Error::PreconditionFailed { endpoint: address.to_string(), existing: previous.map(Box::new) });
        }
        let (revision, index) = header(reply.header);
        Ok(PutOutcome { revision, index, previous })
    }

    /// Reads one key.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
    /// use raftkv_client::{Get, Level};
    /// let found = client.get("color").await?;
    /// println!("{:?} at revision {}", found.kv.map(|kv| kv.value), found.revision);
    /// let nearby = client.get(Get::new("color").level(Level::Stale { age_max: None })).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When no node answers in time, or the revision asked for is not kept or still to come. A key that does not exist is no error.
    pub async fn get(&self, get: impl Into<Get>) -> Result<Found, Error> {
        let get = get.into();
        let purpose = read_purpose(get.read_level());
        let (address, response) = self.call(purpose, Request::Get(get.into_wire())).await?;
        let Response::Get(reply) = response else { return Err(nonsense(purpose, &address)) };
        Ok(Found { revision: header(reply.header).0, kv: reply.kv.map(Into::into), endpoint: address })
    }

    /// Deletes one key or a range, all at one revision.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
    /// use raftkv_client::{Delete, Range};
    /// let outcome = client.delete(Delete::range(Range::prefix("session/"))).await?;
    /// println!("{} sessions deleted", outcome.deleted);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::put`], and [`Error::RangeTooLarge`] when the range holds more than one delete may delete: a single key never does.
    /// Deleting nothing is no error.
    pub async fn delete(&self, delete: Delete) -> Result<DeleteOutcome, Error> {
        let (address, response) = self.write(Request::Delete(delete.into_wire())).await?;
        let Response::Delete(reply) = response else { return Err(nonsense(Purpose::Write, &address)) };
        let (revision, index) = header(reply.header);
        let previous = reply.previous.into_iter().map(Into::into).collect();
        Ok(DeleteOutcome { revision, index, deleted: reply.deleted, previous, endpoint: address })
    }

    /// Lets go of everything that only revisions before `revision` need, and returns the oldest revision that can be read afterwards. Its space comes back in
    /// the background, at each node's own pace. A second one with the same revision does no harm.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
    /// let now = client.put(("color", "green")).await?.revision;
    /// let oldest = client.compact(now).await?;
    /// assert!(oldest >= now);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::CompactedRevision`] when more than that was let go of already, [`Error::FutureRevision`] when there is no such revision yet.
    pub async fn compact(&self, revision: u64) -> Result<u64, Error> {
        let request = Request::Compact(wire::CompactRequest { revision });
        // A second one changes nothing.
        let (address, response) = match self.call(Purpose::RepeatableWrite, request).await {
            Ok(answered) => answered,
            // An earlier attempt did it, or somebody else: what was asked for holds.
            Err(Error::CompactedRevision { compacted: Some(compacted), .. }) if compacted == revision => {
                return Ok(revision);
            }
            Err(error) => return Err(error),
        };
        let Response::Compact(reply) = response else { return Err(nonsense(Purpose::RepeatableWrite, &address)) };
        Ok(reply.compacted)
    }

    /// Begins to read a range. Pairs come as they are asked for, so a range of any size takes little memory here.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
    /// use raftkv_client::{Range, Scan};
    /// let mut scan = client.scan(Scan::new(Range::prefix("service/"))).await?;
    /// while let Some(kv) = scan.next().await? {
    ///     println!("{:?} = {:?}", kv.key, kv.value);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When no node begins to answer in time, or the revision asked for is not kept or still to come.
    pub async fn scan(&self, scan: Scan) -> Result<ScanStream, Error> {
        ScanStream::open(self.clone(), scan).await
    }

    /// Begins to watch keys. When it returns, the watch has begun: it hands out every change from [`WatchStream::first_revision`] on, in order, in batches that
    /// never split a revision, and goes on by itself when connections or nodes fail.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
    /// use raftkv_client::{Range, Watch, WatchEvent};
    /// let mut watch = client.watch(Watch::range(Range::prefix("service/"))).await?;
    /// loop {
    ///     let batch = watch.next().await?;
    ///     for event in batch.events {
    ///         match event {
    ///             WatchEvent::Put { kv, .. } => println!("{:?} is {:?}", kv.key, kv.value),
    ///             WatchEvent::Delete { key, .. } => println!("{key:?} is gone"),
    ///         }
    ///     }
    ///     // Another watch could go on from here: .from_revision(batch.revision + 1)
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// When no node begins it in time, or the revision asked for is compacted.
    pub async fn watch(&self, watch: Watch) -> Result<WatchStream, Error> {
        WatchStream::open(self.clone(), watch).await
    }

    /// How long a request may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// One request with one answer, to its end.
    pub(crate) async fn call(&self, purpose: Purpose, request: Request) -> Result<(Address, Response), Error> {
        self.call_until(purpose, request, Deadline::after(self.shared.timeout)).await
    }

    /// The same with a deadline of its own.
    pub(crate) async fn call_until(
        &self,
        purpose: Purpose,
        request: Request,
        deadline: Deadline,
    ) -> Result<(Address, Response), Error> {
        let (address, done) = self.run(purpose, &Work::Call(request), deadline).await?;
        match done {
            Done::Call(response) => Ok((address, response)),
            Done::Scan(_) | Done::Watch(_) => unreachable!("a call brings a response"),
        }
    }

    pub(crate) fn session(&self) -> Option<&Arc<SharedSession>> {
        self.shared.session.as_ref()
    }

    /// Attempts until success, the deadline, or an error that trying again does not mend.
    pub(crate) async fn run(
        &self,
        purpose: Purpose,
        work: &Work,
        deadline: Deadline,
    ) -> Result<(Address, Done), Error> {
        let mut route = Route::new(purpose);
        loop {
            if deadline.is_over() {
                return Err(route.give_up(&self.directory(), deadline.whole));
            }
            let next = route.next(&self.directory(), std::time::Instant::now());
            let Some(address) = next else {
                let pause = route.end_round(rand::random())?;
                tracing::debug!(round = route.round(), pause_ms = pause.as_millis(), "no node took the request yet");
                tokio::time::sleep(pause.min(deadline.remaining())).await;
                continue;
            };
            let endpoint = self.endpoint(&address);
            match self.attempt(&endpoint, purpose, work, route.round(), deadline).await {
                Ok(done) => {
                    self.settle(purpose, &address);
                    return Ok((address, done));
                }
                Err(failure) => {
                    tracing::debug!(endpoint = %address, ?failure, "attempt failed");
                    let verdict = judge(purpose, &address, failure);
                    route.failed(&mut self.directory_mut(), &address, verdict, std::time::Instant::now())?;
                }
            }
        }
    }

    /// One attempt at one node. A connection that had ended unnoticed is replaced once: nothing was sent on it.
    pub(crate) async fn attempt(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
        work: &Work,
        round: u32,
        deadline: Deadline,
    ) -> Result<Done, Failure> {
        let mut redialled = false;
        loop {
            let dial_timeout = policy::dial_timeout(round, deadline.remaining());
            let dialled = endpoint.connection(&self.shared.credentials, dial_timeout).await;
            let connected = dialled.map_err(Failure::Connect)?;
            self.start_learning();
            let patience = policy::attempt_timeout(purpose, deadline.remaining());
            let outcome = match work {
                Work::Call(request) => call(&connected, request, patience).await.map(Done::Call),
                Work::Scan(request) => open_scan(&connected, endpoint.address(), request, patience).await,
                Work::Watch(request) => open_watch(&connected, endpoint.address(), request, patience).await,
            };
            match outcome {
                // The connection is well, and busy: another one would only add to that.
                Err(failure @ Failure::NotSent(_)) if !connected.connection.is_closed() => return Err(failure),
                Err(Failure::NotSent(_)) if !redialled => {
                    endpoint.discard(&connected);
                    redialled = true;
                }
                Err(failure @ (Failure::NotSent(_) | Failure::Lost(_) | Failure::Silent(_))) => {
                    endpoint.discard(&connected);
                    return Err(failure);
                }
                other => return other,
            }
        }
    }

    /// Notes a success, which is usually nothing new.
    fn settle(&self, purpose: Purpose, address: &Address) {
        if !self.directory().is_settled(purpose, address) {
            self.directory_mut().answered(purpose, address, std::time::Instant::now());
        }
    }

    pub(crate) fn endpoint(&self, address: &Address) -> Arc<Endpoint> {
        let known = &self.shared.endpoints;
        if let Some(endpoint) = known.read().unwrap_or_else(PoisonError::into_inner).get(address) {
            return endpoint.clone();
        }
        let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
        let connections = self.shared.connections;
        known.entry(address.clone()).or_insert_with(|| Arc::new(Endpoint::new(address.clone(), connections))).clone()
    }

    pub(crate) fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.shared.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn directory_mut(&self) -> RwLockWriteGuard<'_, Directory> {
        self.shared.directory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a members list, and lets go of the connections to nodes that are on none.
    pub(crate) fn learn<'a>(&self, client_addresses: impl IntoIterator<Item = &'a str>) {
        let mut directory = self.directory_mut();
        directory.learn(client_addresses);
        let mut endpoints = self.shared.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|address, _| directory.all().any(|known| known == address));
    }

    /// Asks this node last for a while: it did not answer.
    pub(crate) fn avoid(&self, address: &Address) {
        self.directory_mut().silent(address, std::time::Instant::now());
    }

    fn start_learning(&self) {
        if !self.shared.learning.load(Ordering::Relaxed) && !self.shared.learning.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep_learning(Learner { shared: Arc::downgrade(&self.shared) }));
        }
    }
}

/// Whoever keeps the members known. It goes with its task, which may end before the client: with the runtime that it runs on. Then the next
/// request begins anew.
struct Learner {
    shared: Weak<Shared>,
}

impl Drop for Learner {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.learning.store(false, Ordering::Relaxed);
        }
    }
}

/// Keeps the members known for as long as the client lives, so that the endpoints given at the start need not.
async fn keep_learning(learner: Learner) {
    let mut pause = LEARN_AFTER;
    loop {
        tokio::time::sleep(pause).await;
        let Some(shared) = learner.shared.upgrade() else { return };
        // A failure leaves what is known as it is; the next round asks again. `status` hands the members to `learn`.
        if let Err(error) = (Client { shared }).status().await {
            tracing::debug!(%error, "the members could not be asked for");
        }
        pause = LEARN_EVERY;
    }
}

async fn call(connected: &Connected, request: &Request, patience: Duration) -> Result<Response, Failure> {
    if let Some(excess) = connected.limits.excess(request) {
        return Err(Failure::Excess(excess));
    }
    match connected.connection.call_within(request.clone(), patience).await {
        Ok(Response::Error(error)) => Err(Failure::Node(error)),
        Ok(response) => Ok(response),
        Err(CallError::NotSent { cause }) => Err(Failure::NotSent(cause)),
        Err(CallError::OutcomeUnknown { cause }) => Err(Failure::Lost(cause)),
        Err(CallError::NoAnswer { after }) => Err(Failure::Silent(after)),
        Err(CallError::TooLarge { bytes, limit }) => {
            Err(Failure::Excess(Excess { part: Part::Request, bytes: bytes as u64, limit: limit as u64 }))
        }
    }
}

async fn open_scan(
    connected: &Arc<Connected>,
    address: &Address,
    request: &wire::ScanRequest,
    patience: Duration,
) -> Result<Done, Failure> {
    let silent = |_| Failure::Silent(patience);
    // A scan is a read: that it may have been sent does no harm, so a connection that had ended is worth a second dial.
    let opened = tokio::time::timeout(patience, connected.connection.scan(request)).await.map_err(silent)?;
    let mut stream = opened.map_err(|error| scan_failure(error, Failure::NotSent))?;
    let first = loop {
        let reply = tokio::time::timeout(patience, stream.next()).await.map_err(silent)?;
        let reply = reply.map_err(|error| scan_failure(error, Failure::Lost))?.ok_or(Failure::Nonsense)?;
        // Without a header it only says that the node is at it.
        if reply.header.is_some() {
            break reply;
        }
    };
    let connected = connected.clone();
    Ok(Done::Scan(Box::new(OpenScan { first, stream, address: address.clone(), _connected: connected })))
}

async fn open_watch(
    connected: &Arc<Connected>,
    address: &Address,
    request: &wire::WatchRequest,
    patience: Duration,
) -> Result<Done, Failure> {
    let opening = async {
        // As for a scan: that it may have been sent does no harm.
        let opened = connected.connection.watch(request).await;
        let mut stream = opened.map_err(|error| watch_failure(error, Failure::NotSent))?;
        let first = stream.next(patience).await.map_err(|error| watch_failure(error, Failure::Lost))?;
        let connected = connected.clone();
        Ok(Done::Watch(Box::new(OpenWatch { first, stream, address: address.clone(), _connected: connected })))
    };
    tokio::time::timeout(patience, opening).await.unwrap_or(Err(Failure::Silent(patience)))
}

pub(crate) fn scan_failure(error: ScanError, broken: impl FnOnce(String) -> Failure) -> Failure {
    match error {
        ScanError::Node(error) => Failure::Node(error),
        ScanError::Broken { cause } => broken(cause),
    }
}

/// Where a read of this level goes.
pub(crate) fn read_purpose(level: Level) -> Purpose {
    match level {
        Level::Linearizable => Purpose::Read,
        Level::Lease => Purpose::LeaseRead,
        Level::Stale { .. } => Purpose::StaleRead,
    }
}

/// An answer of the wrong kind, as an error.
pub(crate) fn nonsense(purpose: Purpose, address: &Address) -> Error {
    match judge(purpose, address, Failure::Nonsense) {
        policy::Verdict::Fail(error) | policy::Verdict::Retry { error, .. } => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_as_long_as_can_be_said_waits() {
        let deadline = Deadline::after(Duration::MAX);
        assert!(!deadline.is_over() && deadline.remaining() > CENTURY / 2);
    }
}

//! Writes: in a session where there is one, so that they can be repeated, and once otherwise.
//!
//! [`session`](crate::session) gives the numbers; here is what waits: for room in the window, and for the one who opens the session. All
//! clones of a client share one session. It is opened by the first write, and again when the cluster has forgotten it.

use crate::client::{Client, Deadline, nonsense};
use crate::directory::Address;
use crate::error::{Error, Human};
use crate::policy::Purpose;
use crate::session::{Number, Sessions, Standing, WINDOW};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use transport::proto::client as wire;
use transport::{Request, Response};

/// How often one write goes on in a new session: a cluster that forgets each of them at once has something wrong.
const RENEWALS_MAX: u32 = 3;
/// How long closing a session may hold up a program that ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The session that all clones of a client share.
pub(crate) struct SharedSession {
    state: Mutex<State>,
    /// Held by the one who opens a session.
    opening: tokio::sync::Mutex<()>,
}

struct State {
    sessions: Sessions,
    /// As many permits as there is room in the window of the open session. Closed with it.
    room: Arc<Semaphore>,
}

/// A number that is taken, and given back when this is dropped: with an answer, or because nobody waits for one any more.
struct Ticket {
    shared: Arc<SharedSession>,
    number: Number,
    room: Arc<Semaphore>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let more = self.shared.lock().sessions.release(self.number);
        self.room.add_permits(more);
    }
}

impl Default for SharedSession {
    fn default() -> SharedSession {
        let state = State { sessions: Sessions::new(WINDOW), room: Arc::new(Semaphore::new(0)) };
        SharedSession { state: Mutex::new(state), opening: tokio::sync::Mutex::default() }
    }
}

impl SharedSession {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of a caller runs under the lock, so a panic in between is one of this file's assertions, and shows itself anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a number if the session that `room` belongs to is still open. The caller has a permit of that room, so there is one to take.
    fn take(self: &Arc<Self>, room: &Arc<Semaphore>) -> Option<(Ticket, wire::SessionCall)> {
        let mut state = self.lock();
        if !Arc::ptr_eq(&state.room, room) || state.sessions.current().is_none() {
            return None;
        }
        let number = state.sessions.take(std::time::Instant::now());
        let call = state.sessions.call(number).expect("the number is of the session that is open");
        Some((Ticket { shared: self.clone(), number, room: room.clone() }, call))
    }

    fn opened(&self, reply: &wire::SessionOpenReply, asked: std::time::Instant) {
        let mut state = self.lock();
        state.sessions.opened(reply.session, Duration::from_millis(reply.ttl_ms), asked);
        let before = std::mem::replace(&mut state.room, Arc::new(Semaphore::new(WINDOW)));
        before.close();
    }

    fn refused(&self, refusal: &Error) {
        let mut state = self.lock();
        state.sessions.refused(refusal, std::time::Instant::now());
        state.room.close();
    }

    /// Whoever waits for room in this session looks anew.
    fn forget(&self, session: u64) {
        let mut state = self.lock();
        if state.sessions.current() == Some(session) {
            state.sessions.forget(session);
            state.room.close();
        }
    }
}

impl Client {
    /// A write to its end: under a number of the session, again and again until there is an answer; without one, once.
    pub(crate) async fn write(&self, request: Request) -> Result<(Address, Response), Error> {
        let deadline = Deadline::after(self.timeout());
        let mut renewals = 0;
        loop {
            let Some((ticket, call)) = self.number(deadline).await? else {
                return self.call_until(Purpose::Write, request, deadline).await;
            };
            let numbered = in_session(request.clone(), call);
            match self.call_until(Purpose::RepeatableWrite, numbered, deadline).await {
                // None of its attempts may have arrived before: the route would have said that the outcome is unknown.
                Err(error @ Error::SessionUnknown { .. }) => {
                    tracing::debug!(session = call.session, "the cluster has forgotten the session");
                    ticket.shared.forget(ticket.number.session());
                    renewals += 1;
                    if renewals > RENEWALS_MAX {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// A number for a write; none if it has to go without.
    async fn number(&self, deadline: Deadline) -> Result<Option<(Ticket, wire::SessionCall)>, Error> {
        let Some(shared) = self.session() else { return Ok(None) };
        loop {
            let (standing, room) = {
                let state = shared.lock();
                (state.sessions.standing(std::time::Instant::now()), state.room.clone())
            };
            match standing {
                Standing::Without => return Ok(None),
                Standing::ToOpen => self.open_session(shared, deadline).await?,
                Standing::Ready | Standing::Full => {
                    let permit = tokio::time::timeout_at(deadline.at, room.acquire()).await;
                    // Closed: the session has been replaced meanwhile.
                    let Ok(permit) = permit.map_err(|_| self.crowded())? else { continue };
                    if let Some(taken) = shared.take(&room) {
                        permit.forget();
                        return Ok(Some(taken));
                    }
                }
            }
        }
    }

    /// Opens a session, or finds that somebody else has, or that there is none to be had.
    async fn open_session(&self, shared: &SharedSession, deadline: Deadline) -> Result<(), Error> {
        let opening = tokio::time::timeout_at(deadline.at, shared.opening.lock()).await;
        let _opening = opening.map_err(|_| self.crowded())?;
        if shared.lock().sessions.standing(std::time::Instant::now()) != Standing::ToOpen {
            return Ok(());
        }
        let asked = std::time::Instant::now();
        let request = Request::SessionOpen(wire::SessionOpenRequest { ttl_ms: 0 });
        let refusal = match self.call_until(Purpose::OpenSession, request, deadline).await {
            Ok((_, Response::SessionOpen(reply))) if reply.session > 0 => {
                tracing::debug!(session = reply.session, ttl_ms = reply.ttl_ms, "session opened");
                shared.opened(&reply, asked);
                return Ok(());
            }
            Ok((address, _)) => nonsense(Purpose::OpenSession, &address),
            Err(error) if error.is_permission() => return Err(error),
            Err(error) => error,
        };
        if deadline.is_over() {
            return Err(not_sent(refusal));
        }
        tracing::debug!(%refusal, "no session; writes go without one for a while");
        shared.refused(&refusal);
        Ok(())
    }

    fn crowded(&self) -> Error {
        let cause =
            format!("nothing could be sent within {}: earlier writes have no answer yet", Human(self.timeout()));
        Error::Unavailable { endpoint: self.directory().configured()[0].to_string(), cause }
    }

    /// Ends the session at the cluster, so that it need not be kept until it ends by itself. For programs that run for a moment; the client
    /// can be used on, and opens another one with its next write. Takes a second at most, and does not fail: the cluster ends sessions by
    /// itself.
    ///
    /// Writes under way on clones of this client end with [`Error::OutcomeUnknown`] if their answers are lost.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
    /// client.put(("color", "green")).await?;
    /// client.close_session().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close_session(&self) {
        let Some(shared) = self.session() else { return };
        let Some(session) = shared.lock().sessions.current() else { return };
        shared.forget(session);
        let request = Request::SessionClose(wire::SessionCloseRequest { session });
        let deadline = Deadline::after(CLOSE_TIMEOUT.min(self.timeout()));
        if let Err(error) = self.call_until(Purpose::RepeatableWrite, request, deadline).await {
            tracing::debug!(%error, session, "the session was left to end by itself");
        }
    }
}

/// Why there is no session, told to the caller of a write: that was not sent at all.
fn not_sent(error: Error) -> Error {
    if let Error::OutcomeUnknown { endpoint, cause } = error {
        let cause = format!("no session could be opened: {cause}");
        return Error::Unavailable { endpoint, cause };
    }
    error
}

/// The request under its number.
fn in_session(mut request: Request, call: wire::SessionCall) -> Request {
    let session = request.session_mut().expect("only writes that a session can number are sent in one");
    *session = Some(call);
    request
}

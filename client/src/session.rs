//! Which number a write carries, so that it can be sent twice and is carried out once.
//!
//! A session is a row of the replicated state. Each write in it has a number of its own, and the state keeps the answer to each number
//! until the client says that it does not want it any more. So a client whose answer was lost sends the same write under the same number
//! again, to whoever leads by then, and gets the first answer.
//!
//! # Rules
//!
//! - A number is given to one write, and stays taken until that write's caller has an answer or has stopped waiting for one. A caller that
//!   stops waiting (the future dropped, or "outcome unknown" returned) gives the number back like any other: nobody will ask for that
//!   answer, so nothing keeps the later ones.
//! - With each write travels `oldest`, the lowest number that is still taken. What lies below may be forgotten, and is refused if it
//!   arrives late: a write that was given up can no longer happen once a later one has told so.
//! - From `oldest` to the newest number there are never more than the window has room for ([`WINDOW`]), so the state keeps no more answers
//!   than that. One write that hangs therefore holds back others once the window is full, until its own deadline.
//! - A session that the cluster does not know (any more) is dropped, and with it every number of it. Whether the write that found out may
//!   go again in another session is not decided here but where its attempts are counted ([`route`](crate::route)): only if none of them may
//!   have arrived.
//! - A cluster that has no sessions (older software, an older format, or as many as there may be) is asked again after a pause. Until then
//!   writes go without a number, and are then as careful as a write without a session has to be.
//! - A session that was not used for half of its time to live is replaced before the next write, because the cluster may have ended it: a
//!   first attempt that finds that out and whose answer is lost would leave a doubt for nothing.
//!
//! All of it is pure: no I/O and no waiting, and the time comes in as an argument. Absent: opening and closing, which whoever sends does.

use std::collections::VecDeque;
use std::time::{Duration, Instant};
use transport::proto::client as wire;

/// Writes of one session from the oldest that is unanswered to the newest. The cluster has to keep as many answers for each session.
pub const WINDOW: usize = 1024;

/// How long writes go without a session after a node that does not know what a session is.
const PAUSE_UNSUPPORTED: Duration = Duration::from_secs(30);
/// The same after a cluster that has as many as it may have.
const PAUSE_TOO_MANY: Duration = Duration::from_secs(10);
/// The same after anything else: the cluster has yet to raise its format, or cannot at this moment.
const PAUSE_OTHERWISE: Duration = Duration::from_secs(1);

/// The number of one write. Given back with [`Sessions::release`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a number that is not given back keeps every later answer at the cluster"]
pub struct Number {
    session: u64,
    sequence: u64,
}

impl Number {
    /// The session that it belongs to.
    #[must_use]
    pub fn session(self) -> u64 {
        self.session
    }
}

/// What a write that is about to be sent has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Take a number.
    Ready,
    /// Wait until a number is given back.
    Full,
    /// Open a session first.
    ToOpen,
    /// Go without a number.
    Without,
}

/// What one client knows of its session. See the module.
#[derive(Debug)]
pub struct Sessions {
    window: usize,
    open: Option<Open>,
    /// Not to be asked for before this moment.
    without_until: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    id: u64,
    /// How long the cluster keeps it without a write, if it said so.
    ttl: Option<Duration>,
    /// When a number was taken last, or, before that, when it was opened.
    used: Instant,
    /// The lowest number that is taken, or the next one.
    oldest: u64,
    /// From `oldest` on: whether the number is still taken. The first always is.
    taken: VecDeque<bool>,
}

impl Sessions {
    /// No session yet. `window` is how many numbers there may be from the oldest that is taken to the newest.
    ///
    /// # Panics
    /// If there is no room for any.
    #[must_use]
    pub fn new(window: usize) -> Sessions {
        assert!(window > 0, "a window of zero lets nothing through");
        Sessions { window, open: None, without_until: None }
    }

    /// What the next write has to do.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        match &self.open {
            Some(open) if open.is_stale(now) => Standing::ToOpen,
            Some(open) if open.taken.len() < self.window => Standing::Ready,
            Some(_) => Standing::Full,
            None if self.without_until.is_some_and(|until| now < until) => Standing::Without,
            None => Standing::ToOpen,
        }
    }

    /// The cluster has opened this session, and was asked for it at `now`. A time to live of zero was not told. Numbers of an earlier
    /// session become meaningless.
    ///
    /// # Panics
    /// If its number is zero, which stands for none.
    pub fn opened(&mut self, id: u64, ttl: Duration, now: Instant) {
        assert!(id > 0, "a session has a number above zero");
        self.without_until = None;
        let ttl = (!ttl.is_zero()).then_some(ttl);
        self.open = Some(Open { id, ttl, used: now, oldest: 1, taken: VecDeque::new() });
    }

    /// There is none to be had at this moment; the one before, if any, was to be replaced.
    pub fn refused(&mut self, refusal: &crate::Error, now: Instant) {
        let pause = if matches!(refusal, crate::Error::Unsupported { .. }) {
            PAUSE_UNSUPPORTED
        } else if matches!(refusal, crate::Error::TooMany { .. }) {
            PAUSE_TOO_MANY
        } else {
            PAUSE_OTHERWISE
        };
        self.open = None;
        self.without_until = Some(now + pause);
    }

    /// Takes the next number.
    ///
    /// # Panics
    /// Unless the standing is [`Standing::Ready`].
    pub fn take(&mut self, now: Instant) -> Number {
        let window = self.window;
        let open = self.open.as_mut().expect("a number is taken only while a session is open");
        open.used = now;
        assert!(open.taken.len() < window, "{} numbers are taken, and there is room for {window}", open.taken.len());
        let sequence = open.oldest + open.taken.len() as u64;
        open.taken.push_back(true);
        Number { session: open.id, sequence }
    }

    /// What a write with this number carries; nothing if its session has been dropped.
    #[must_use]
    pub fn call(&self, number: Number) -> Option<wire::SessionCall> {
        let open = self.open.as_ref().filter(|open| open.id == number.session)?;
        Some(wire::SessionCall { session: open.id, sequence: number.sequence, oldest: open.oldest })
    }

    /// Gives a number back. Says for how many more there is room now.
    ///
    /// # Panics
    /// If it was given back before.
    pub fn release(&mut self, number: Number) -> usize {
        let Some(open) = self.open.as_mut().filter(|open| open.id == number.session) else { return 0 };
        let place = number.sequence.checked_sub(open.oldest).and_then(|place| usize::try_from(place).ok());
        let taken = place.and_then(|place| open.taken.get_mut(place)).filter(|taken| **taken);
        *taken.unwrap_or_else(|| panic!("number {} was given back before", number.sequence)) = false;
        let before = open.taken.len();
        while open.taken.front() == Some(&false) {
            open.taken.pop_front();
            open.oldest += 1;
        }
        before - open.taken.len()
    }

    /// The cluster does not know this session.
    pub fn forget(&mut self, session: u64) {
        self.open.take_if(|open| open.id == session);
    }

    /// The session that is open.
    #[must_use]
    pub fn current(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.id)
    }
}

impl Open {
    /// The cluster's time is never ahead of ours by more than clocks drift, and stands still at times: half of the time to live is safe.
    fn is_stale(&self, now: Instant) -> bool {
        self.ttl.is_some_and(|ttl| now.saturating_duration_since(self.used) > ttl / 2)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::Error;

    const TTL: Duration = Duration::from_secs(60);

    fn take(sessions: &mut Sessions) -> Number {
        sessions.take(Instant::now())
    }

    fn open(window: usize) -> Sessions {
        let mut sessions = Sessions::new(window);
        sessions.opened(5, TTL, Instant::now());
        sessions
    }

    fn travels(sessions: &Sessions, number: Number) -> (u64, u64, u64) {
        let call = sessions.call(number).unwrap();
        (call.session, call.sequence, call.oldest)
    }

    #[test]
    fn each_write_has_a_number_of_its_own_and_tells_the_oldest() {
        let mut sessions = open(8);
        let (first, second) = (take(&mut sessions), take(&mut sessions));
        assert_eq!(travels(&sessions, first), (5, 1, 1));
        assert_eq!(travels(&sessions, second), (5, 2, 1));
        assert_eq!(sessions.release(first), 1);
        assert_eq!(travels(&sessions, second), (5, 2, 2));
    }

    #[test]
    fn an_answer_in_the_middle_keeps_the_oldest_where_it_is() {
        let mut sessions = open(8);
        let numbers: Vec<Number> = (0..4).map(|_| take(&mut sessions)).collect();
        assert_eq!(sessions.release(numbers[1]), 0);
        assert_eq!(sessions.release(numbers[2]), 0);
        assert_eq!(travels(&sessions, numbers[3]).2, 1);
        assert_eq!(sessions.release(numbers[0]), 3, "all three at once");
        assert_eq!(travels(&sessions, numbers[3]).2, 4);
    }

    #[test]
    fn a_full_window_waits_for_its_oldest() {
        let now = Instant::now();
        let mut sessions = open(2);
        let (first, second) = (take(&mut sessions), take(&mut sessions));
        assert_eq!(sessions.standing(now), Standing::Full);
        let _ = sessions.release(second);
        assert_eq!(sessions.standing(now), Standing::Full, "the first still keeps both answers");
        let _ = sessions.release(first);
        assert_eq!(sessions.standing(now), Standing::Ready);
    }

    #[test]
    fn numbers_of_a_session_that_was_dropped_mean_nothing() {
        let now = Instant::now();
        let mut sessions = open(8);
        let old = take(&mut sessions);
        sessions.forget(5);
        assert_eq!(sessions.standing(now), Standing::ToOpen);
        sessions.opened(6, TTL, now);
        let new = take(&mut sessions);
        assert_eq!(sessions.call(old), None);
        assert_eq!(sessions.release(old), 0);
        sessions.forget(5);
        assert_eq!(travels(&sessions, new), (6, 1, 1), "a late word about the old one does not end the new one");
    }

    #[test]
    fn a_cluster_without_sessions_is_asked_again_later() {
        let now = Instant::now();
        let mut sessions = Sessions::new(8);
        assert_eq!(sessions.standing(now), Standing::ToOpen);
        let cause = || (String::from("n1:1"), String::from("because"));
        let refusals = [
            (|(endpoint, cause)| Error::Unsupported { endpoint, cause }) as fn((String, String)) -> Error,
            |(endpoint, cause)| Error::TooMany { endpoint, cause },
            |(endpoint, cause)| Error::Unavailable { endpoint, cause },
        ];
        for (refusal, pause) in refusals.into_iter().zip([PAUSE_UNSUPPORTED, PAUSE_TOO_MANY, PAUSE_OTHERWISE]) {
            sessions.refused(&refusal(cause()), now);
            assert_eq!(sessions.standing(now), Standing::Without);
            assert_eq!(sessions.standing(now + pause), Standing::ToOpen);
        }
    }

    #[test]
    fn a_session_that_was_idle_for_long_is_replaced_before_the_next_write() {
        let now = Instant::now();
        let mut sessions = Sessions::new(8);
        sessions.opened(5, TTL, now);
        let later = now + TTL / 2;
        assert_eq!(sessions.standing(later), Standing::Ready);
        let _ = sessions.take(later);
        assert_eq!(sessions.standing(later + TTL / 2), Standing::Ready, "a write uses it");
        assert_eq!(sessions.standing(later + TTL), Standing::ToOpen);
        sessions.refused(&Error::Unavailable { endpoint: "n1:1".into(), cause: "no leader".into() }, later + TTL);
        assert_eq!(sessions.standing(later + TTL), Standing::Without, "it is not asked for again at once");
        sessions.opened(6, Duration::ZERO, now);
        assert_eq!(sessions.standing(now + TTL * 1000), Standing::Ready, "nothing is known of how long it lives");
    }

    #[test]
    #[should_panic(expected = "given back before")]
    fn a_number_is_given_back_once() {
        let mut sessions = open(8);
        let number = take(&mut sessions);
        let _ = sessions.release(number);
        let _ = sessions.release(number);
    }
}

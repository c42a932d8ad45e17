//! Linearizable reads without writing to the log: ReadIndex (Raft §8, thesis §6.4).
//!
//! A read may be served from the state machine once everything up to its *read index* is applied. The read index is the
//! leader's commit index at a moment after the read came in, and it counts only if the leader was still the leader at a
//! moment after that. The leader finds out by asking: it sends a *round* number with its appends, peers echo it, and a
//! quorum of echoes confirms the round and every read gathered before it began.
//!
//! One round is under way at a time; reads that come meanwhile gather for the next. Rounds are numbered by the leader and
//! start at zero in each term, so an echo belongs to the leader's term and to nothing else: no caller's context takes part,
//! and a duplicated or late echo can only confirm a round that was asked about before the echo was sent.
//!
//! A follower does the same with requests instead of rounds: one request to the leader is under way, later reads gather for
//! the next. Requests are numbered from a random start, so that an answer to a former life of this node answers nothing.
//!
//! Every read ends: with an index, or refused when role or leader change, or refused after an election timeout.
//!
//! Absent: reads from the leader's lease, which need no round: see `lease.rs`.

use crate::{Actions, random::Random};
use crate::{Body, Instant, LogIndex, LogRange, Message, NodeId, ReadReady, Send, Term};
use alloc::vec::Vec;

/// Who waits for a read index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// The caller, with its token.
    Local(u64),
    /// A follower, with its request.
    Peer(NodeId, u64),
}

/// The confirmation under way: a round of the leader or a request of a follower.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Confirmation {
    /// The number of the round or of the request.
    pub(crate) number: u64,
    pub(crate) started_at: Instant,
    pub(crate) sent_at: Instant,
    /// On the leader: what the reads get once the round is confirmed.
    index: LogIndex,
}

/// Reads that wait for an index: see the module.
#[derive(Debug, Clone)]
pub(crate) struct Reads {
    gathering: Vec<Asker>,
    confirming: Vec<Asker>,
    confirmation: Option<Confirmation>,
    /// When the oldest read that gathers came in.
    gathering_since: Option<Instant>,
    /// The newest request this node has made as a follower.
    request: u64,
}

impl Reads {
    pub(crate) fn new(random: &mut Random) -> Reads {
        // Half of the numbers are left for counting up.
        let request = random.next() >> 1;
        Reads { gathering: Vec::new(), confirming: Vec::new(), confirmation: None, gathering_since: None, request }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.gathering.len() + self.confirming.len()
    }

    /// The confirmation under way.
    pub(crate) fn confirmation(&self) -> Option<Confirmation> {
        self.confirmation
    }

    /// Whether the next confirmation should begin.
    pub(crate) fn wants_confirmation(&self) -> bool {
        self.confirmation.is_none() && !self.gathering.is_empty()
    }

    /// When the oldest read that gathers came in.
    pub(crate) fn gathering_since(&self) -> Option<Instant> {
        self.gathering_since
    }

    /// A read of the caller's.
    pub(crate) fn gather(&mut self, token: u64, now: Instant) {
        self.gathering_since.get_or_insert(now);
        self.gathering.push(Asker::Local(token));
    }

    /// A read of a follower's. It repeats requests that are not answered; one answer is enough.
    pub(crate) fn gather_from(&mut self, peer: NodeId, request: u64, now: Instant) {
        let asker = Asker::Peer(peer, request);
        if self.confirming.contains(&asker) {
            return;
        }
        self.gathering_since.get_or_insert(now);
        let earlier = self.gathering.iter_mut().find(|other| matches!(other, Asker::Peer(id, _) if *id == peer));
        match earlier {
            Some(Asker::Peer(_, earlier)) => *earlier = request,
            Some(Asker::Local(_)) | None => self.gathering.push(asker),
        }
    }

    /// The leader starts to confirm round `number` for everything gathered, which will get `index`.
    pub(crate) fn start_round(&mut self, number: u64, index: LogIndex, now: Instant) {
        assert!(self.confirmation.is_none(), "round {number} started while one is under way");
        core::mem::swap(&mut self.gathering, &mut self.confirming);
        self.gathering_since = None;
        self.confirmation = Some(Confirmation { number, started_at: now, sent_at: now, index });
    }

    /// A follower starts a request for everything gathered.
    pub(crate) fn start_request(&mut self, now: Instant) -> u64 {
        self.request += 1;
        self.start_round(self.request, LogIndex::ZERO, now);
        self.request
    }

    /// The request under way goes out again.
    pub(crate) fn repeated(&mut self, now: Instant) {
        if let Some(confirmation) = &mut self.confirmation {
            confirmation.sent_at = now;
        }
    }

    /// The leader's round is confirmed: everything that waited for it gets its index.
    pub(crate) fn confirmed(&mut self, term: Term, actions: &mut Actions) {
        let confirmation = self.confirmation.take().expect("only a round under way is confirmed");
        for asker in self.confirming.drain(..) {
            answer(asker, Some(confirmation.index), term, actions);
        }
    }

    /// The leader answered `request`. Says whether that is the request under way.
    pub(crate) fn answered(
        &mut self,
        request: u64,
        index: Option<LogIndex>,
        term: Term,
        actions: &mut Actions,
    ) -> bool {
        if self.confirmation.is_none_or(|confirmation| confirmation.number != request) {
            return false;
        }
        self.confirmation = None;
        for asker in self.confirming.drain(..) {
            answer(asker, index, term, actions);
        }
        true
    }

    /// Nothing that waits will get an index.
    pub(crate) fn refuse_all(&mut self, term: Term, actions: &mut Actions) {
        self.confirmation = None;
        self.gathering_since = None;
        for asker in self.confirming.drain(..).chain(self.gathering.drain(..)) {
            answer(asker, None, term, actions);
        }
    }
}

fn answer(asker: Asker, index: Option<LogIndex>, term: Term, actions: &mut Actions) {
    match (asker, index) {
        (Asker::Local(token), Some(index)) => actions.reads.push(ReadReady { token, index }),
        (Asker::Local(token), None) => actions.reads_refused.push(token),
        (Asker::Peer(to, request), index) => {
            let message = Message { term, body: Body::ReadIndexReply { request, index } };
            actions.send.push(Send { to, message, entries: LogRange::EMPTY });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads() -> Reads {
        Reads::new(&mut Random::new(1))
    }

    #[test]
    fn reads_that_come_during_a_round_wait_for_the_next() {
        let (mut reads, mut actions) = (reads(), Actions::default());
        reads.gather(1, Instant::ORIGIN);
        reads.start_round(1, LogIndex(5), Instant::ORIGIN);
        reads.gather(2, Instant::ORIGIN);
        assert!(!reads.wants_confirmation());
        reads.confirmed(Term(1), &mut actions);
        assert_eq!(actions.reads, [ReadReady { token: 1, index: LogIndex(5) }]);
        assert!(reads.wants_confirmation());
        assert_eq!(reads.len(), 1);
    }

    #[test]
    fn repeated_request_is_answered_once() {
        let (mut reads, mut actions) = (reads(), Actions::default());
        reads.gather_from(NodeId(2), 7, Instant::ORIGIN);
        reads.gather_from(NodeId(2), 7, Instant::ORIGIN);
        reads.start_round(1, LogIndex(5), Instant::ORIGIN);
        reads.gather_from(NodeId(2), 7, Instant::ORIGIN);
        reads.confirmed(Term(3), &mut actions);
        assert_eq!(actions.send.len(), 1);
        assert_eq!(reads.len(), 0);
    }

    /// Scenario 38.
    #[test]
    fn answer_to_another_request_answers_nothing() {
        let (mut reads, mut actions) = (reads(), Actions::default());
        reads.gather(1, Instant::ORIGIN);
        let request = reads.start_request(Instant::ORIGIN);
        assert!(!reads.answered(request - 1, Some(LogIndex(1)), Term(1), &mut actions));
        assert!(actions.reads.is_empty());
        assert!(reads.answered(request, Some(LogIndex(9)), Term(1), &mut actions));
        assert!(!reads.answered(request, Some(LogIndex(9)), Term(1), &mut actions));
        assert_eq!(actions.reads, [ReadReady { token: 1, index: LogIndex(9) }]);
    }

    #[test]
    fn two_lives_number_their_requests_differently() {
        let one = Reads::new(&mut Random::new(1)).start_request(Instant::ORIGIN);
        let other = Reads::new(&mut Random::new(2)).start_request(Instant::ORIGIN);
        assert!(one.abs_diff(other) > 1 << 32, "{one} and {other}");
    }

    #[test]
    fn refusal_reaches_everybody() {
        let (mut reads, mut actions) = (reads(), Actions::default());
        reads.gather(1, Instant::ORIGIN);
        reads.start_round(1, LogIndex(5), Instant::ORIGIN);
        reads.gather(2, Instant::ORIGIN);
        reads.gather_from(NodeId(3), 4, Instant::ORIGIN);
        reads.refuse_all(Term(2), &mut actions);
        assert_eq!(actions.reads_refused, [1, 2]);
        assert_eq!(actions.send[0].message.body, Body::ReadIndexReply { request: 4, index: None });
        assert_eq!(reads.len(), 0);
    }
}

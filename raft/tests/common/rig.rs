//! One node, stepped by hand: what it is told and what it asks for, a line each.

use raftkv_raft::{
    Actions, AppendOutcome, Body, Config, Entry, EntryKind, Event, HardState, Instant, LogIndex, LogMark, LogPosition,
    LogRange, Membership, Message, Node, NodeId, Restored, Role, Term,
};
use std::time::Duration;

pub const TIMEOUT: Duration = Duration::from_millis(100);
pub const HEARTBEAT: Duration = Duration::from_millis(10);

pub fn position(index: u64, term: u64) -> LogPosition {
    LogPosition { term: Term(term), index: LogIndex(index) }
}

/// Entries from `first` on, with these terms.
pub fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
    let numbered = terms.iter().zip(first..);
    numbered
        .map(|(term, index)| Entry {
            term: Term(*term),
            index: LogIndex(index),
            kind: EntryKind::Command,
            payload: format!("{index} of {term}").into(),
        })
        .collect()
}

/// A node on its own: see the module.
pub struct Rig {
    pub node: Node,
    pub actions: Actions,
    pub now: Instant,
    newest: (Option<LogMark>, u64),
}

impl Rig {
    /// Node 1 of `size`, never run before.
    pub fn new(size: u64) -> Rig {
        Rig::restored(size, HardState::default(), &[], 0)
    }

    /// Node 1 of `size` with a log of these terms, of which the first `applied` are applied.
    pub fn restored(size: u64, hard_state: HardState, terms: &[u64], applied: u64) -> Rig {
        let mut term_runs: Vec<(LogIndex, Term)> = Vec::new();
        for (term, index) in terms.iter().zip(1..) {
            if term_runs.last().is_none_or(|run| run.1 != Term(*term)) {
                term_runs.push((LogIndex(index), Term(*term)));
            }
        }
        let restored = Restored {
            hard_state,
            log_last: LogIndex(terms.len() as u64),
            term_runs,
            applied: LogIndex(applied),
            ..Restored::new(Membership::new((1..=size).map(NodeId)))
        };
        Rig::with(super::small_config(NodeId(1)), restored)
    }

    pub fn with(config: Config, restored: Restored) -> Rig {
        let now = Instant::ORIGIN;
        Rig { node: Node::new(config, restored, now, 1), actions: Actions::default(), now, newest: (None, 0) }
    }

    /// A follower in `term` with a log of these terms, whose leader is node 2.
    pub fn follower(term: u64, terms: &[u64]) -> Rig {
        let mut rig = Rig::restored(3, HardState { term: Term(term), vote: None }, terms, 0);
        rig.append(2, term, position(0, 0), &[], 0);
        rig
    }

    /// A leader of `size` nodes whose empty entry is durable at home, not yet elsewhere; and its term.
    pub fn leader(size: u64, terms: &[u64]) -> (Rig, u64) {
        let term = terms.last().copied().unwrap_or(0);
        let mut rig = Rig::restored(size, HardState { term: Term(term), vote: None }, terms, 0);
        rig.campaign();
        let term = rig.term();
        for voter in 2..=size / 2 + 1 {
            rig.receive(voter, term, Body::VoteReply { granted: true });
        }
        assert_eq!(rig.role(), Role::Leader);
        rig.durable();
        (rig, term)
    }

    /// Lets the election timeout pass and wins the pre-vote; the candidacy is durable.
    pub fn campaign(&mut self) {
        self.time_out();
        if self.role() == Role::PreCandidate {
            let term = self.term() + 1;
            for voter in 2..=7 {
                self.receive(voter, term, Body::PreVoteReply { granted: true });
                if self.role() == Role::Candidate {
                    break;
                }
            }
        }
        self.durable();
    }

    /// Wakes the node after two election timeouts without a word.
    pub fn time_out(&mut self) {
        self.wait(TIMEOUT * 2);
    }

    pub fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.step(Event::Wake);
    }

    pub fn step(&mut self, event: Event) -> &Actions {
        self.node.step(self.now, event, &mut self.actions);
        if let Some(persist) = self.actions.persist {
            self.newest = (persist.mark.or(self.newest.0), persist.hard_state_sequence);
        }
        &self.actions
    }

    /// Everything asked for so far is durable.
    pub fn durable(&mut self) -> &Actions {
        let (mark, hard_state_sequence) = self.newest;
        self.step(Event::Durable { mark, hard_state_sequence })
    }

    pub fn newest_mark(&self) -> Option<LogMark> {
        self.newest.0
    }

    pub fn receive(&mut self, from: u64, term: u64, body: Body) -> &Actions {
        self.step(Event::Receive { from: NodeId(from), message: Message { term: Term(term), body } })
    }

    pub fn append(&mut self, from: u64, term: u64, previous: LogPosition, terms: &[u64], commit: u64) -> &Actions {
        let entries = entries(previous.index.0 + 1, terms);
        self.receive(from, term, Body::Append { previous, commit: LogIndex(commit), read_round: 0, entries })
    }

    pub fn acknowledge(&mut self, from: u64, match_index: u64, read_round: u64) -> &Actions {
        let outcome = AppendOutcome::Durable { match_index: LogIndex(match_index) };
        let term = self.term();
        self.receive(from, term, Body::AppendReply { outcome, read_round, repair: None })
    }

    pub fn propose(&mut self, payload: &'static str) -> &Actions {
        self.step(Event::Propose { payload: payload.into() })
    }

    pub fn role(&self) -> Role {
        self.node.status().role
    }

    pub fn term(&self) -> u64 {
        self.node.status().term.0
    }

    pub fn commit(&self) -> u64 {
        self.node.status().commit.0
    }

    /// The terms in the log.
    pub fn terms(&self) -> Vec<u64> {
        let log = self.node.log();
        (log.first_index().0..=log.last_index().0).map(|index| log.term(LogIndex(index)).unwrap().0).collect()
    }

    /// What the last step sent to a node.
    pub fn sent_to(&self, to: u64) -> Vec<&Body> {
        self.actions.send.iter().filter(|send| send.to == NodeId(to)).map(|send| &send.message.body).collect()
    }

    /// The ranges of entries the last step sent to a node.
    pub fn ranges_to(&self, to: u64) -> Vec<LogRange> {
        let sends = self.actions.send.iter().filter(|send| send.to == NodeId(to) && !send.entries.is_empty());
        sends.map(|send| send.entries).collect()
    }

    /// The acknowledgement the last step sent to a node, if it did.
    pub fn acknowledged_to(&self, to: u64) -> Option<u64> {
        self.sent_to(to).into_iter().rev().find_map(|body| match body {
            Body::AppendReply { outcome: AppendOutcome::Durable { match_index }, .. } => Some(match_index.0),
            _ => None,
        })
    }
}

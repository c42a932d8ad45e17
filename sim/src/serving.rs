//! Clients and nodes: requests, answers and what becomes of them in between.

use crate::clients::{Reply, Step, address_of};
use crate::engine::SimEngine;
use crate::node::{Pending, StateJob, Word};
use crate::schedule::Time;
use crate::workload::{Ask, is_read_transaction};
use crate::world::{AtClient, AtNode, Happening, InProcess, World};
use client::Error;
use client::policy::{Failure, Purpose, dial_timeout};
use raftkv::driver::{Input, ReadRefusal, ReadWaiter, WriteRequest};
use raftkv::requests::{
    Question, QuestionError, ReadLevel, Refused, RequestLimits, ScanReplies, Write, check_state, get_reply,
    read_failed, read_refused, write_refused, write_reply,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::state::StateReader;
use transport::proto::client as wire;
use transport::{ConnectError, Request, Response};

/// How long a read waits for its thread.
const READ_TIME: (Duration, Duration) = (Duration::from_micros(2), Duration::from_millis(2));

/// Limits on requests, larger than anything the workload asks for.
pub(crate) const LIMITS: RequestLimits = RequestLimits {
    key_bytes_max: 1024,
    value_bytes_max: 64 << 10,
    transaction_operations_max: 1024,
    leases_max: 10_000,
    lease_keys_max: 1_000,
    sessions_max: 1_000,
    session_answers_max: 1_000,
};

/// What came of reads, by number of the request.
pub(crate) type ReadMeanwhile = Arc<Mutex<Vec<(u64, Reply)>>>;

impl World {
    pub(crate) fn at_client(&mut self, client: usize, what: AtClient) {
        match what {
            AtClient::Begin => self.begin_operation(client),
            AtClient::GoOn => self.go_on(client),
            AtClient::Failed { attempt, failure } => {
                if self.clients[client].attempts == attempt && self.clients[client].current.is_some() {
                    if matches!(failure, Failure::Silent(_)) {
                        self.counters.count("client: an attempt was silent");
                        self.connections.retain(|(of, _), _| *of != client);
                    }
                    self.attempt_failed(client, failure);
                }
            }
            AtClient::Answered { attempt, node, reply } => {
                if self.clients[client].attempts == attempt && self.clients[client].current.is_some() {
                    self.attempt_answered(client, node, reply);
                }
            }
        }
    }

    fn begin_operation(&mut self, client: usize) {
        let now = self.schedule.now();
        let state = &mut self.clients[client];
        if state.stopped {
            return;
        }
        let ask = state.draw(now);
        let operation = self.checks.invoked(client, now, &ask);
        self.trace.line(now, format_args!("client {client}: {operation:?}: {ask:?}"));
        state.begin(now, ask, self.settings.client_timeout);
        self.operations.insert(client, operation);
        self.go_on(client);
    }

    fn go_on(&mut self, client: usize) {
        let now = self.schedule.now();
        if self.clients[client].current.is_none() {
            return;
        }
        match self.clients[client].step(now, self.settings.client_timeout) {
            Step::Pause(pause) => self.schedule.after(pause, Happening::Client { client, what: AtClient::GoOn }),
            Step::Over(error) => self.operation_failed(client, &error),
            Step::Send { node, patience } => self.attempt(client, node, patience),
        }
    }

    /// One attempt at one node, over the connection there is or a new one.
    fn attempt(&mut self, client: usize, node: usize, patience: Duration) {
        let now = self.schedule.now();
        let state = &self.clients[client];
        let attempt = state.attempts;
        let current = state.current.as_ref().expect("an operation is under way");
        let remaining = current.deadline.since(now);
        let dial_timeout = dial_timeout(current.route.round(), remaining);
        if current.attempts > 1 && current.ask.purpose() == Purpose::RepeatableWrite {
            self.counters.count("client: a write sent again");
        }
        let ask = current.ask.clone();
        let life = self.nodes[node].life;
        let connected = self.connections.get(&(client, node)) == Some(&life);
        let address = address_of(node);
        let fail = |world: &mut World, after: Duration, failure: Failure| {
            world.schedule.after(after, Happening::Client { client, what: AtClient::Failed { attempt, failure } });
        };
        let Some(delay) = self.network.client_delay(client, node) else {
            // A connection that works no more swallows the request; a new one does not come about.
            return if connected {
                fail(self, patience, Failure::Silent(patience));
            } else {
                fail(self, dial_timeout, Failure::Connect(ConnectError::TimedOut { address, after: dial_timeout }));
            };
        };
        let down = self.nodes[node].process.is_none();
        if down && self.random.chance(500) {
            let reason = "nobody listens".to_owned();
            return fail(self, delay * 2, Failure::Connect(ConnectError::Unreachable { address, reason }));
        } else if down {
            return fail(self, dial_timeout, Failure::Connect(ConnectError::TimedOut { address, after: dial_timeout }));
        }
        // A dial is three more journeys.
        let delay = if connected { delay } else { delay * 4 };
        self.connections.insert((client, node), life);
        self.schedule.after(delay, Happening::Node { node, what: AtNode::Ask { client, attempt, ask } });
        fail(self, patience, Failure::Silent(patience));
    }

    /// A request arrives at a node: what the production service does with it.
    pub(crate) fn asked(&mut self, node: usize, client: usize, attempt: u64, ask: Ask) {
        if self.network.is_client_cut(client, node) {
            return;
        }
        let (id, now) = (self.nodes[node].id, self.schedule.now());
        let local = self.nodes[node].clock.read(now);
        let Some(process) = &mut self.nodes[node].process else { return };
        let view = process.view.clone();
        process.request_number += 1;
        let number = process.request_number;
        let answers = process.answers.clone();
        let level = level_of(&ask);
        if level == ReadLevel::Lease && self.settings.raft.lease_reads && process.role == raft::Role::Leader {
            self.counters.count("client: lease read at a leader");
        }
        process.requests.insert(number, Pending { client, attempt, ask: ask.clone() });
        let write = if let Ask::Call(request) = &ask { command_of(request) } else { None };
        let input = match write {
            Some(write) => {
                let Write { command, asked } =
                    write.unwrap_or_else(|error| panic!("node {id} refuses a good request: {error:?}"));
                let waiter = Box::new(move |result: Result<_, _>| {
                    answers.put((
                        number,
                        Word::Answer(match result {
                            Ok(outcome) => write_reply(outcome, asked),
                            Err(refusal) => Response::Error(*write_refused(&refusal, &view.members)),
                        }),
                    ));
                });
                Input::Write(WriteRequest { command, waiter })
            }
            None => {
                let waiter: ReadWaiter = Box::new(move |allowed| {
                    answers.put((
                        number,
                        match allowed {
                            Ok(()) => Word::MayRead,
                            Err(refusal) => Word::Answer(Response::Error(*read_refused(refusal, &view.members))),
                        },
                    ));
                });
                match level {
                    ReadLevel::Linearizable => Input::Read(waiter),
                    ReadLevel::Lease => Input::LeaseRead(waiter),
                    ReadLevel::Stale { age_max } => {
                        let age = process.host.age(local);
                        let is_too_old = age_max.is_some_and(|age_max| age.is_none_or(|age| age > age_max));
                        if is_too_old {
                            self.counters.count("client: stale read refused, the state is too old");
                            waiter(Err(ReadRefusal::TooOld { age }));
                            return self.forward_answers(node);
                        }
                        self.counters.count("client: stale read");
                        let delay = self.random.latency(READ_TIME.0, READ_TIME.1);
                        return self.later_at_its_speed(node, delay, InProcess::Serve(vec![waiter]));
                    }
                }
            }
        };
        self.push(node, input);
    }

    /// A read thread takes the reads whose index is applied.
    pub(crate) fn serve(&mut self, node: usize, reads: Vec<ReadWaiter>) {
        for waiter in reads {
            waiter(Ok(()));
        }
        self.forward_answers(node);
    }

    /// Sends what waiters have said since the last time.
    pub(crate) fn forward_answers(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        for (number, word) in process.answers.take() {
            let Some(process) = &mut self.nodes[node].process else { return };
            match word {
                Word::Answer(response) => self.send_answer(node, number, Reply::Call(response)),
                Word::MayRead => {
                    let is_applying =
                        process.state_busy && matches!(process.state_jobs.front(), Some(StateJob::Apply(_)));
                    if process.role != raft::Role::Leader {
                        self.counters.count("client: read served by a follower");
                    }
                    if is_applying && self.random.chance(500) {
                        process.reading.push(number);
                        continue;
                    }
                    let reply = read(&process.machine.reader(), &process.requests[&number].ask);
                    self.send_answer(node, number, reply);
                }
            }
        }
    }

    /// Lets the reads that are under way look at the state once the next run is written, before it is announced. Their replies come to where this points.
    pub(crate) fn read_meanwhile(&mut self, node: usize) -> ReadMeanwhile {
        let replies = ReadMeanwhile::default();
        let Some(process) = &mut self.nodes[node].process else { return replies };
        let asks: Vec<(u64, Ask)> =
            process.reading.drain(..).map(|number| (number, process.requests[&number].ask.clone())).collect();
        if !asks.is_empty() {
            let (reader, replies) = (process.machine.reader(), replies.clone());
            let engine = reader.engine().clone();
            engine.meanwhile(Box::new(move || {
                let read = asks.iter().map(|(number, ask)| (*number, read(&reader, ask)));
                replies.lock().unwrap_or_else(PoisonError::into_inner).extend(read);
            }));
        }
        replies
    }

    /// Sends the replies of such reads.
    pub(crate) fn answer_reads(&mut self, node: usize, replies: &ReadMeanwhile) {
        for (number, reply) in std::mem::take(&mut *replies.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.counters.count("client: read between a write and the word of it");
            self.send_answer(node, number, reply);
        }
    }

    fn send_answer(&mut self, node: usize, number: u64, reply: Reply) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let Pending { client, attempt, .. } = process.requests.remove(&number).expect("a request is answered once");
        if let Some(delay) = self.network.client_delay(client, node) {
            let delay = delay * self.nodes[node].slowness;
            let what = AtClient::Answered { attempt, node, reply };
            self.schedule.after(delay, Happening::Client { client, what });
        }
    }

    fn attempt_failed(&mut self, client: usize, failure: Failure) {
        let now = self.schedule.now();
        self.say(format_args!("client {client}: attempt failed: {failure:?}"));
        if let Failure::Node(error) = &failure
            && error.code() == wire::ErrorCode::NoSpace
        {
            self.counters.count("space: a write refused for want of room");
            self.room_wanted = true;
        }
        if let Failure::Node(error) = &failure
            && error.code() == wire::ErrorCode::NotLeader
        {
            let known = error.leader.is_some();
            self.counters.count("client: write refused for want of a leader");
            if known {
                self.counters.count("client: redirected to the leader");
            }
        }
        match self.clients[client].failed(now, failure) {
            Some(error) => self.operation_failed(client, &error),
            None => self.go_on(client),
        }
    }

    fn attempt_answered(&mut self, client: usize, node: usize, reply: Reply) {
        if self.network.is_client_cut(client, node) {
            return;
        }
        if let Reply::Call(Response::Error(error)) = reply {
            return self.attempt_failed(client, Failure::Node(error));
        }
        let now = self.schedule.now();
        let current = self.clients[client].answered(now);
        let operation = self.operations.remove(&client).expect("an operation is under way");
        self.trace.line(now, format_args!("client {client}: {operation:?}: answered by node {}: {reply:?}", node + 1));
        self.trace.note(now, 3, client as u64);
        self.checks.answered(operation, now, &reply);
        self.operations_done += 1;
        self.learn(client, &current.ask, &reply, current.invoked);
        self.clients[client].over(None, now);
        if self.room_wanted && matches!(current.ask, Ask::Call(Request::Put(_))) {
            self.room_wanted = false;
            self.counters.count("space: there was room again");
        }
        if current.ask.purpose().is_write() {
            self.acknowledged_since = self.acknowledged_since.max(Some(current.invoked));
        }
        self.operation_over(client);
    }

    /// What the client now knows of keys, for conditions to come; and what there is to count.
    fn learn(&mut self, client: usize, ask: &Ask, reply: &Reply, invoked: Time) {
        if let Reply::Call(response) = reply
            && let Some(header) = crate::workload::header_of(response)
        {
            self.clients[client].workload.saw_revision(header.revision);
        }
        if let (Ask::Call(Request::SessionOpen(_)), Reply::Call(Response::SessionOpen(reply))) = (ask, reply) {
            self.counters.count("client: session opened");
            self.clients[client].session_opened(reply, invoked);
        }
        let workload = &mut self.clients[client].workload;
        let mut see = |kv: &wire::KeyValue| workload.saw(&kv.key, kv.mod_revision, &kv.value);
        match (ask, reply) {
            (Ask::Call(Request::Put(put)), Reply::Call(Response::Put(reply))) => {
                if reply.succeeded {
                    let revision = reply.header.map_or(0, |header| header.revision);
                    workload.saw(&put.key, revision, &put.value);
                } else {
                    self.counters.count("client: condition failed");
                }
            }
            (_, Reply::Call(Response::Get(reply))) => reply.kv.iter().for_each(&mut see),
            (_, Reply::Call(Response::LeaseGrant(reply))) => workload.has_lease(reply.id),
            (Ask::Call(request), Reply::Call(Response::Transaction(_))) if is_read_transaction(request) => {
                self.counters.count("client: transaction that only reads");
            }
            (_, Reply::Call(Response::Transaction(_))) => self.counters.count("client: transaction"),
            (_, Reply::Call(Response::Compact(_))) => self.counters.count("client: compaction"),
            (_, Reply::Scan(replies)) => {
                replies.iter().flat_map(|reply| &reply.kvs).for_each(&mut see);
                self.counters.count("client: scan");
            }
            (_, Reply::Call(Response::Delete(reply))) if reply.deleted > 1 => {
                self.counters.count("client: range deleted");
            }
            (_, Reply::Call(_)) => {}
        }
    }

    fn operation_failed(&mut self, client: usize, error: &Error) {
        let now = self.schedule.now();
        let operation = self.operations.remove(&client).expect("an operation is under way");
        self.trace.line(now, format_args!("client {client}: {operation:?}: failed: {error}"));
        if !error.is_certainly_not_applied() {
            self.counters.count("client: outcome unknown");
        }
        self.checks.failed(operation, now, error);
        self.clients[client].over(Some(error), now);
        self.operation_over(client);
    }

    fn operation_over(&mut self, client: usize) {
        let state = &mut self.clients[client];
        let pause = if state.random.chance(300) {
            Duration::ZERO
        } else {
            state.random.latency(Duration::ZERO, self.settings.think_time_max)
        };
        self.schedule.after(pause, Happening::Client { client, what: AtClient::Begin });
    }
}

/// What goes through the log for a request; nothing if it only reads.
fn command_of(request: &Request) -> Option<Result<Write, Refused>> {
    match request {
        Request::Put(put) => Some(LIMITS.put(put)),
        Request::Delete(delete) => Some(LIMITS.delete(delete)),
        Request::Transaction(transaction) => LIMITS.transaction_write(transaction).transpose(),
        Request::LeaseGrant(grant) => Some(LIMITS.lease_grant(grant)),
        Request::LeaseKeepAlive(keep_alive) => Some(LIMITS.lease_keep_alive(*keep_alive)),
        Request::LeaseRevoke(revoke) => Some(LIMITS.lease_revoke(revoke)),
        Request::SessionOpen(open) => Some(LIMITS.session_open(*open)),
        Request::SessionClose(close) => Some(LIMITS.session_close(*close)),
        Request::Compact(compact) => Some(LIMITS.compact(*compact)),
        Request::Get(_)
        | Request::Status(_)
        | Request::MemberChange(_)
        | Request::NodeConfig(_)
        | Request::LeaderTransfer(_)
        | Request::LeaseShow(_)
        | Request::LeaseList(_) => None,
    }
}

/// How fresh a read is to be.
fn level_of(ask: &Ask) -> ReadLevel {
    let freshness = ask.freshness().unwrap_or_default();
    ReadLevel::of(freshness.level, freshness.age_ms_max)
        .unwrap_or_else(|error| panic!("a good read is refused: {error:?}"))
}

/// Serves a read from the state as it is.
fn read(reader: &StateReader<SimEngine>, ask: &Ask) -> Reply {
    let revision_min = ask.freshness().expect("only reads wait to read").revision_min;
    if let Err(refused) = check_state(level_of(ask), revision_min, reader.revision()) {
        return Reply::Call(Response::Error(*refused));
    }
    if let Ask::Call(Request::Transaction(request)) = ask {
        return Reply::Call(match Question::Transaction(request.clone()).answer(&LIMITS, reader) {
            Ok(response) => response,
            Err(QuestionError::Refused(refused)) => Response::Error(*refused),
            Err(QuestionError::Read(cause)) => Response::Error(*read_failed(&cause)),
        });
    }
    if let Ask::Scan(scan) = ask {
        let range = scan.range.clone().unwrap_or_default();
        let read = ScanReplies::new(reader, &range, scan).and_then(Iterator::collect);
        return match read {
            Ok(replies) => Reply::Scan(replies),
            Err(cause) => Reply::Call(Response::Error(*read_failed(&cause))),
        };
    }
    let Ask::Call(Request::Get(get)) = ask else { unreachable!("only reads wait to read: {ask:?}") };
    Reply::Call(match get_reply(reader, get) {
        Ok(reply) => Response::Get(reply),
        Err(cause) => Response::Error(*read_failed(&cause)),
    })
}

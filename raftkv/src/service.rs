//! What a node does for its clients.
//!
//! Writes go to the driver with a waiter that answers the client. Linearizable reads ask the driver for a read index first and
//! are served by the read threads once that is applied; stale reads go to the read threads at once. Nothing here blocks, and no
//! request costs a task, except scans and watches, which stream.

use crate::clock::Freshness;
use crate::config::{ClusterConfig, MemberConfig};
use crate::driver::{Input, ReadRefusal, ReadWaiter, WriteOutcome, WriteRefusal, WriteRequest};
use crate::failure::{FailureReporter, FatalError};
use crate::inbox::Inbox;
use crate::members::Members;
use crate::operator;
use crate::provision::joining_files;
use crate::requests::{
    self, Question, QuestionError, ReadLevel, Refused, RequestLimits, Write, check_asked, check_state, error,
    get_reply, read_refused, write_refused, write_reply,
};
use crate::scans::{ScanJob, run_scan};
use crate::shared_state::SharedState;
use crate::status::StatusReporter;
use crate::watch::{self, WatchHub, WatchJob};
use crossbeam_channel::Sender;
use std::sync::Arc;
use storage::state::ReadError;
use tokio::sync::Semaphore;
use transport::proto::client as wire;
use transport::{ClientService, Identity, Request, Responder, Response, ScanResponder, WatchResponder};
use wire::ErrorCode;

/// See the module.
pub(crate) struct Service {
    /// To the driver.
    pub(crate) inbox: Inbox,
    /// To the read threads.
    pub(crate) reads: Sender<Vec<ReadWaiter>>,
    /// What reads see.
    pub(crate) shared: Arc<SharedState>,
    /// How old the state is at most.
    pub(crate) freshness: Arc<Freshness>,
    /// Places for scans.
    pub(crate) scans: Arc<Semaphore>,
    /// Who watches.
    pub(crate) watches: Arc<WatchHub>,
    /// The members.
    pub(crate) members: Arc<Members>,
    /// What the node says of itself.
    pub(crate) reporter: Arc<StatusReporter>,
    /// Where damage found by a read is reported.
    pub(crate) failures: FailureReporter,
    /// Limits, for `Hello` and for requests.
    pub(crate) limits: RequestLimits,
    /// What all nodes have in common.
    pub(crate) cluster: ClusterConfig,
    /// Where scans and watches run.
    pub(crate) runtime: tokio::runtime::Handle,
}

impl ClientService for Service {
    fn hello(&self, _client: &Identity) -> wire::HelloReply {
        let own = self.reporter.own();
        wire::HelloReply {
            cluster: self.reporter.cluster().to_owned(),
            node: own.id,
            name: own.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            key_bytes_max: self.limits.key_bytes_max,
            value_bytes_max: self.limits.value_bytes_max,
        }
    }

    fn call(&self, _client: &Identity, request: Request, responder: Responder) {
        let limits = &self.limits;
        match request {
            Request::Put(request) => self.write(limits.put(&request), responder),
            Request::Delete(request) => self.write(limits.delete(&request), responder),
            Request::Transaction(request) => match limits.transaction_write(&request) {
                Ok(None) => self.ask(Question::Transaction(request), responder),
                Ok(Some(write)) => self.write(Ok(write), responder),
                Err(error) => self.write(Err(error), responder),
            },
            Request::LeaseGrant(request) => self.write(limits.lease_grant(&request), responder),
            Request::LeaseKeepAlive(request) => self.write(limits.lease_keep_alive(request), responder),
            Request::LeaseRevoke(request) => self.write(limits.lease_revoke(&request), responder),
            Request::LeaseShow(request) => self.ask(Question::LeaseShow(request), responder),
            Request::LeaseList(request) => self.ask(Question::LeaseList(request), responder),
            Request::SessionOpen(request) => self.write(limits.session_open(request), responder),
            Request::SessionClose(request) => self.write(limits.session_close(request), responder),
            Request::Compact(request) => self.write(limits.compact(request), responder),
            Request::Get(request) => self.get(request, responder),
            Request::MemberChange(request) => match operator::change_input(request, self.members.clone(), responder) {
                Ok(input) => self.inbox.push(input),
                Err(refused) => {
                    let (error, responder) = *refused;
                    responder.answer(Response::Error(*error));
                }
            },
            Request::LeaderTransfer(request) => {
                self.inbox.push(operator::transfer_input(&request, self.members.clone(), responder));
            }
            Request::NodeConfig(request) => responder.answer(self.node_config(request.node)),
            Request::Status(_) => {
                let members = self.members.clone();
                self.reporter.report(Box::new(move |status| {
                    responder.answer(Response::Status(
                        status.into_reply(members.view().members.values().cloned().collect()),
                    ));
                }));
            }
        }
    }

    fn scan(&self, _client: &Identity, request: wire::ScanRequest, responder: ScanResponder) {
        let range = request.range.clone().unwrap_or_default();
        let checked = self.check_range(&range).and_then(|()| check_asked(request.revision));
        let (level, revision_min) = (ReadLevel::of(request.level(), request.age_ms_max), request.revision_min);
        let job = ScanJob {
            range,
            request,
            shared: self.shared.clone(),
            failures: self.failures.clone(),
            places: self.scans.clone(),
        };
        let allowed = checked.and(level).map(|level| self.wait_to_read(level, revision_min));
        self.runtime.spawn(async move {
            let allowed = match allowed {
                Ok(wait) => wait.await,
                Err(refused) => Err(refused),
            };
            match allowed {
                Ok(()) => run_scan(job, responder).await,
                // A client that is gone does not need the error.
                Err(error) => drop(responder.send_error(*error).await),
            }
        });
    }

    fn watch(&self, _client: &Identity, request: wire::WatchRequest, responder: WatchResponder) {
        let checked = self.check_range(request.range.as_ref().unwrap_or(&wire::KeyRange::default()));
        let (filter, progress_interval) = match checked.and_then(|()| watch::watch_filter(&request)) {
            Ok(asked) => asked,
            Err(refused) => {
                self.runtime.spawn(watch::refuse(responder, refused));
                return;
            }
        };
        let job = WatchJob {
            hub: self.watches.clone(),
            shared: self.shared.clone(),
            freshness: self.freshness.clone(),
            failures: self.failures.clone(),
            filter,
            from: request.from_revision,
            progress_interval,
        };
        // Behind everything acknowledged by now. A watch that says where it begins needs no leader for that.
        let allowed = request.from_revision.is_none().then(|| self.wait_to_read(ReadLevel::Linearizable, None));
        self.runtime.spawn(async move {
            let allowed = match allowed {
                Some(wait) => wait.await,
                None => Ok(()),
            };
            match allowed {
                Ok(()) => job.run(responder).await,
                Err(refused) => watch::refuse(responder, refused).await,
            }
        });
    }
}

impl Service {
    /// What a member starts with that was added: its configuration names the members as they are at this moment.
    fn node_config(&self, node: u64) -> Response {
        let view = self.members.view();
        let members: Vec<MemberConfig> = view
            .members
            .values()
            .map(|member| MemberConfig {
                id: member.id,
                name: member.name.clone(),
                peer: member.peer_address.clone(),
                client: member.client_address.clone(),
            })
            .collect();
        match joining_files(&self.cluster, &members, node) {
            Ok(files) => Response::NodeConfig(wire::NodeConfigReply {
                cluster: self.cluster.id.clone(),
                files: files.into_iter().map(|(path, text)| wire::NodeFile { path, text }).collect(),
            }),
            Err(cause) => Response::error(ErrorCode::Invalid, format!("{cause:#}")),
        }
    }

    fn check_range(&self, range: &wire::KeyRange) -> Result<(), Refused> {
        self.limits.check_key(&range.start, true)?;
        range.end.as_ref().map_or(Ok(()), |end| self.limits.check_key(end, true))
    }

    /// Waits until the state is as fresh as asked for.
    fn wait_to_read(
        &self,
        level: ReadLevel,
        revision_min: Option<u64>,
    ) -> impl Future<Output = Result<(), Refused>> + Send + use<> {
        let (ready, wait) = tokio::sync::oneshot::channel();
        let (shared, members) = (self.shared.clone(), self.members.clone());
        self.read(
            level,
            Box::new(move |allowed| {
                let allowed = allowed
                    .map_err(|refusal| read_refused(refusal, &members.view().members))
                    .and_then(|()| check_state(level, revision_min, shared.reader().revision()));
                // A client that is gone by now has nobody who waits.
                let _ = ready.send(allowed);
            }),
        );
        async move {
            let stopping = |_| Err(error(ErrorCode::Unavailable, "the node is stopping; try another one"));
            wait.await.unwrap_or_else(stopping)
        }
    }

    fn write(&self, write: Result<Write, Refused>, responder: Responder) {
        let Write { command, asked } = match write {
            Ok(write) => write,
            Err(error) => return responder.answer(Response::Error(*error)),
        };
        let members = self.members.clone();
        let waiter = Box::new(move |result: Result<WriteOutcome, WriteRefusal>| {
            responder.answer(match result {
                Ok(outcome) => write_reply(outcome, asked),
                Err(refusal) => Response::Error(*write_refused(&refusal, &members.view().members)),
            });
        });
        self.inbox.push(Input::Write(WriteRequest { command, waiter }));
    }

    fn ask(&self, question: Question, responder: Responder) {
        let level = match question.level() {
            Ok(level) => level,
            Err(error) => return responder.answer(Response::Error(*error)),
        };
        let (shared, failures, members) = (self.shared.clone(), self.failures.clone(), self.members.clone());
        let limits = self.limits;
        self.read(
            level,
            Box::new(move |allowed| {
                responder.answer(match allowed {
                    Ok(()) => match question.answer(&limits, &shared.reader()) {
                        Ok(response) => response,
                        Err(QuestionError::Refused(error)) => Response::Error(*error),
                        Err(QuestionError::Read(cause)) => Response::Error(*read_failed(cause, &failures)),
                    },
                    Err(refusal) => Response::Error(*read_refused(refusal, &members.view().members)),
                });
            }),
        );
    }

    fn get(&self, request: wire::GetRequest, responder: Responder) {
        let level = self
            .limits
            .check_key(&request.key, false)
            .and_then(|()| check_asked(request.revision))
            .and_then(|()| ReadLevel::of(request.level(), request.age_ms_max));
        let level = match level {
            Ok(level) => level,
            Err(error) => return responder.answer(Response::Error(*error)),
        };
        let (shared, failures, members) = (self.shared.clone(), self.failures.clone(), self.members.clone());
        self.read(
            level,
            Box::new(move |allowed| {
                let reader = shared.reader();
                let answer = allowed
                    .map_err(|refusal| read_refused(refusal, &members.view().members))
                    .and_then(|()| check_state(level, request.revision_min, reader.revision()))
                    .and_then(|()| get_reply(&reader, &request).map_err(|cause| read_failed(cause, &failures)));
                responder.answer(answer.map_or_else(|refused| Response::Error(*refused), Response::Get));
            }),
        );
    }

    /// Calls `waiter` on a read thread once the state is as fresh as asked for.
    fn read(&self, level: ReadLevel, waiter: ReadWaiter) {
        match level {
            ReadLevel::Linearizable => self.inbox.push(Input::Read(waiter)),
            ReadLevel::Lease => self.inbox.push(Input::LeaseRead(waiter)),
            ReadLevel::Stale { age_max } => {
                let age = self.freshness.age();
                if age_max.is_some_and(|age_max| age.is_none_or(|age| age > age_max)) {
                    return waiter(Err(ReadRefusal::TooOld { age }));
                }
                // The read threads end only when the node stops; then the waiter's responder answers for itself.
                let _ = self.reads.send(vec![waiter]);
            }
        }
    }
}

/// A read that the state machine could not answer. Damage stops the node: it must not go on as if it knew its state.
pub(crate) fn read_failed(cause: ReadError, failures: &FailureReporter) -> Refused {
    let refused = requests::read_failed(&cause);
    match cause {
        ReadError::Corrupt(row) => failures.report(FatalError::State(row.into())),
        ReadError::Engine(engine) if engine.is_corruption() => failures.report(FatalError::State(engine.into())),
        ReadError::Compacted { .. } | ReadError::Future { .. } | ReadError::TooLarge(_) | ReadError::Engine(_) => {}
    }
    refused
}

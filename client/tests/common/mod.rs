//! Nodes that do as a test says, over real QUIC with real certificates on loopback.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::large_enum_variant,
    reason = "each test uses part of this, and a test that cannot go on fails"
)]

use client::Client;
use raft::NodeId;
use raftkv_client as client;
use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use transport::proto::client as wire;
use transport::{
    Authority, ClientLimits, ClientListener, ClientService, ClusterId, Credentials, Identity, LEAF_VALIDITY, Request,
    Responder, Response, ScanResponder, Validity,
};
use wire::ErrorCode;

/// Longer than anything here takes on a machine with two busy cores.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// For tests whose subject is that nothing comes.
pub const SHORT: Duration = Duration::from_millis(700);

/// What a scripted node does with a request.
pub enum Answer {
    Error(ErrorCode),
    /// "Not the leader", with the leader's client address.
    Redirect(String),
    /// Take the request and say that its outcome is not known.
    Drop,
    /// Take the request and never answer.
    Keep,
    /// Answer with this.
    Reply(Response),
}

/// What a scripted node does when a session is asked for; that is no part of the script.
#[derive(Clone, Copy, Default)]
pub enum Opening {
    /// Opens one, numbered from 1 on.
    #[default]
    Granted,
    /// Says no.
    Refused(ErrorCode),
}

/// Decides about requests for which the script has no answer.
pub type Decide = Box<dyn Fn(&Request) -> Response + Send + Sync>;

/// A node that plays a script: one answer a request, success when it is through.
#[derive(Default)]
pub struct Script {
    pub answers: Mutex<VecDeque<Answer>>,
    pub kept: Mutex<Vec<Responder>>,
    pub seen: Mutex<Vec<Request>>,
    pub scans: Mutex<Vec<wire::ScanRequest>>,
    /// Pairs after which a scan breaks off.
    pub scan_breaks_after: Option<usize>,
    /// Tells a scan to break off: a reset takes along what the client has not read yet.
    pub break_now: Arc<tokio::sync::Notify>,
    pub status: Mutex<wire::StatusReply>,
    pub value_bytes_max: u64,
    pub opening: Mutex<Opening>,
    /// Times that a session was asked for.
    pub openings: AtomicU64,
    /// Sessions that were closed.
    pub closed: Mutex<Vec<u64>>,
    pub decide: Option<Decide>,
}

impl ClientService for Script {
    fn hello(&self, _client: &Identity) -> wire::HelloReply {
        wire::HelloReply { key_bytes_max: 4096, value_bytes_max: self.value_bytes_max, ..wire::HelloReply::default() }
    }

    fn call(&self, _client: &Identity, request: Request, responder: Responder) {
        if let Request::Status(_) = request {
            return responder.answer(Response::Status(self.status.lock().unwrap().clone()));
        }
        if let Request::SessionOpen(_) = request {
            let session = self.openings.fetch_add(1, Ordering::SeqCst) + 1;
            return responder.answer(match *self.opening.lock().unwrap() {
                Opening::Granted => {
                    Response::SessionOpen(wire::SessionOpenReply { header: Some(header()), session, ttl_ms: 60_000 })
                }
                Opening::Refused(code) => Response::error(code, "no session, as the script says"),
            });
        }
        if let Request::SessionClose(close) = request {
            self.closed.lock().unwrap().push(close.session);
            return responder.answer(Response::SessionClose(wire::SessionCloseReply { header: Some(header()) }));
        }
        self.seen.lock().unwrap().push(request.clone());
        match self.answers.lock().unwrap().pop_front() {
            None => responder.answer(match &self.decide {
                Some(decide) => decide(&request),
                None => success(request),
            }),
            Some(Answer::Reply(response)) => responder.answer(response),
            Some(Answer::Error(code)) => responder.answer(Response::error(code, "as the script says")),
            Some(Answer::Redirect(client_address)) => {
                let leader = Some(wire::Member { client_address, ..wire::Member::default() });
                let code = ErrorCode::NotLeader.into();
                responder.answer(Response::Error(wire::Error {
                    code,
                    message: "not the leader".into(),
                    leader,
                    limit: 0,
                    keys_limit: None,
                    compacted: None,
                }));
            }
            Some(Answer::Drop) => drop(responder),
            Some(Answer::Keep) => self.kept.lock().unwrap().push(responder),
        }
    }

    fn scan(&self, _client: &Identity, request: wire::ScanRequest, mut responder: ScanResponder) {
        self.scans.lock().unwrap().push(request.clone());
        let (breaks_after, break_now) = (self.scan_breaks_after, self.break_now.clone());
        tokio::spawn(async move {
            let range = request.range.unwrap_or_default();
            let keys = ["a", "b", "c", "d"].into_iter().filter(|key| key.as_bytes() >= range.start.as_ref());
            for key in keys.take(breaks_after.unwrap_or(usize::MAX)) {
                let kvs = vec![wire::KeyValue { key: key.into(), value: key.into(), ..wire::KeyValue::default() }];
                let reply = wire::ScanReply { header: Some(header()), kvs, ..wire::ScanReply::default() };
                if responder.send(reply).await.is_err() {
                    return;
                }
            }
            if breaks_after.is_some() {
                return break_now.notified().await;
            }
            let last = wire::ScanReply { header: Some(header()), last: true, ..wire::ScanReply::default() };
            // Fails when the client has gone, and then nobody waits for it.
            let _told = responder.send(last).await;
        });
    }

    /// Says over and over that something was deleted, so whoever waits for that looks again. What watches themselves do has a test file of its own.
    fn watch(&self, _client: &Identity, _request: wire::WatchRequest, mut responder: transport::WatchResponder) {
        tokio::spawn(async move {
            let mut revision = header().revision;
            let mut sent = responder.send(responder.reply(revision, [].iter(), false)).await;
            while sent.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                revision += 1;
                let kv = wire::KeyValue { mod_revision: revision, ..wire::KeyValue::default() };
                let event = wire::WatchEvent { deleted: true, kv: Some(kv), previous: None };
                let event = transport::EncodedWatchEvent::new(event);
                sent = responder.send(responder.reply(revision, [event].iter(), false)).await;
            }
        });
    }
}

impl Script {
    pub fn of(answers: impl IntoIterator<Item = Answer>) -> Script {
        Script { answers: Mutex::new(answers.into_iter().collect()), ..Script::default() }
    }

    /// The numbers under which writes came: session, number, and the lowest that is still wanted.
    pub fn numbers(&self) -> Vec<(u64, u64, u64)> {
        let seen = self.seen.lock().unwrap();
        let calls = seen.iter().filter_map(Request::session);
        calls.map(|call| (call.session, call.sequence, call.oldest)).collect()
    }

    pub fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

pub fn header() -> wire::Header {
    wire::Header { revision: 7, index: 9 }
}

pub fn success(request: Request) -> Response {
    let header = Some(header());
    match request {
        Request::Put(_) => Response::Put(wire::PutReply { header, succeeded: true, previous: None }),
        Request::Delete(_) => Response::Delete(wire::DeleteReply { header, deleted: 1, previous: Vec::new() }),
        Request::Get(get) => {
            let kv = wire::KeyValue { value: get.key.clone(), key: get.key, ..wire::KeyValue::default() };
            Response::Get(wire::GetReply { header, kv: Some(kv) })
        }
        Request::Status(_) => unreachable!("a status is answered before"),
        Request::LeaseGrant(grant) => {
            let id = if grant.id == 0 { 70 } else { grant.id };
            Response::LeaseGrant(wire::LeaseGrantReply { header, id, ttl_ms: grant.ttl_ms })
        }
        Request::LeaseRevoke(_) => Response::LeaseRevoke(wire::LeaseRevokeReply { header, deleted: 1 }),
        Request::LeaseShow(show) => {
            let lease = Some(wire::Lease { id: show.id, ..wire::Lease::default() });
            Response::LeaseShow(wire::LeaseShowReply { header, lease, keys: Vec::new() })
        }
        Request::Transaction(_) => Response::Transaction(wire::TransactionReply {
            header,
            outcome: Some(wire::TransactionOutcome { succeeded: true, operations: Vec::new() }),
        }),
        Request::MemberChange(_)
        | Request::NodeConfig(_)
        | Request::LeaderTransfer(_)
        | Request::LeaseKeepAlive(_)
        | Request::LeaseList(_)
        | Request::SessionOpen(_)
        | Request::SessionClose(_)
        | Request::Compact(_) => unreachable!("no test here asks for that"),
    }
}

pub struct Cluster {
    pub authority: Authority,
    listeners: Vec<ClientListener>,
}

impl Cluster {
    pub fn new(name: &str) -> Cluster {
        Cluster { authority: Authority::create(ClusterId::new(name).unwrap()).unwrap(), listeners: Vec::new() }
    }

    pub fn start(&mut self, script: Script) -> (String, Arc<Script>) {
        let id = self.listeners.len() as u64 + 1;
        let issued = self.authority.issue_node(NodeId(id), Validity::lasting(LEAF_VALIDITY)).unwrap();
        let credentials = credentials(&self.authority, &issued);
        let script = Arc::new(script);
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = ClientListener::start(bind, &credentials, ClientLimits::default(), script.clone()).unwrap();
        let address = listener.local_address().unwrap().to_string();
        self.listeners.push(listener);
        (address, script)
    }

    pub fn client(&self, endpoints: &[&str], timeout: Duration) -> Client {
        self.builder(endpoints, timeout).build().unwrap()
    }

    pub fn builder(&self, endpoints: &[&str], timeout: Duration) -> client::Builder {
        let issued = self.authority.issue_client("test", Validity::lasting(LEAF_VALIDITY)).unwrap();
        let credentials = credentials(&self.authority, &issued);
        Client::builder().endpoints(endpoints.iter().copied()).credentials(credentials).timeout(timeout)
    }
}

pub fn credentials(authority: &Authority, issued: &transport::IssuedCertificate) -> Credentials {
    Credentials::from_pem(authority.certificate_pem(), &issued.certificate_pem, &issued.key_pem).unwrap()
}

/// An address where nobody answers, held so that nobody else gets it.
pub fn silent_address() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

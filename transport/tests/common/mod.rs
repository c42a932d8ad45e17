//! What the tests share: a cluster's certificates, a service that answers, waiting for conditions.
#![allow(dead_code, reason = "each test program uses a part of it")]

use raft::NodeId;
use raftkv_transport::proto::client as wire;
use raftkv_transport::{
    AnswerClosed, Authority, ClientLimits, ClientListener, ClientService, ClusterId, Credentials, EncodedWatchEvent,
    Identity, LEAF_VALIDITY, Request, Responder, Response, ScanResponder, Validity, WatchResponder,
};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a machine with two busy cores.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn authority(cluster: &str) -> Authority {
    Authority::create(ClusterId::new(cluster).expect("a good name")).expect("keys can be made")
}

pub(crate) fn node(authority: &Authority, id: u64) -> Credentials {
    let issued = authority.issue_node(NodeId(id), Validity::lasting(LEAF_VALIDITY)).expect("it can be issued");
    Credentials::from_pem(authority.certificate_pem(), &issued.certificate_pem, &issued.key_pem).expect("a good pair")
}

pub(crate) fn client(authority: &Authority, name: &str) -> Credentials {
    let issued = authority.issue_client(name, Validity::lasting(LEAF_VALIDITY)).expect("it can be issued");
    Credentials::from_pem(authority.certificate_pem(), &issued.certificate_pem, &issued.key_pem).expect("a good pair")
}

/// Waits for a condition with a deadline.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Answers puts with the length of the value as revision, gets with the key as value; keeps or drops what a test asks for by key.
#[derive(Default)]
pub(crate) struct Service {
    pub(crate) kept: Mutex<Vec<Responder>>,
    /// Watches that somebody reads.
    pub(crate) watching: Arc<AtomicUsize>,
    /// How each scan and each watch has ended.
    pub(crate) ended: Arc<Mutex<Vec<Result<(), AnswerClosed>>>>,
}

impl ClientService for Service {
    fn hello(&self, client: &Identity) -> wire::HelloReply {
        wire::HelloReply { name: client.to_string(), node: 1, ..wire::HelloReply::default() }
    }

    fn call(&self, _client: &Identity, request: Request, responder: Responder) {
        match request {
            Request::Put(put) if put.key == "keep" => self.kept.lock().expect("no panics").push(responder),
            Request::Put(put) if put.key == "drop" => drop(responder),
            Request::Put(put) => {
                let header = wire::Header { revision: put.value.len() as u64, index: 0 };
                responder.answer(Response::Put(wire::PutReply {
                    header: Some(header),
                    succeeded: true,
                    previous: None,
                }));
            }
            Request::Get(get) if get.key == "keep" => self.kept.lock().expect("no panics").push(responder),
            Request::Get(get) if get.key == "drop" => drop(responder),
            Request::Get(get) => {
                let kv = wire::KeyValue { value: get.key.clone(), key: get.key, ..wire::KeyValue::default() };
                responder.answer(Response::Get(wire::GetReply { header: None, kv: Some(kv) }));
            }
            Request::Delete(_) => responder.answer(Response::Delete(wire::DeleteReply::default())),
            Request::Status(_) => responder.answer(Response::Status(wire::StatusReply::default())),
            Request::MemberChange(_) => responder.answer(Response::MemberChange(wire::MemberChangeReply::default())),
            Request::NodeConfig(_) => responder.answer(Response::NodeConfig(wire::NodeConfigReply::default())),
            Request::LeaderTransfer(_) => {
                responder.answer(Response::LeaderTransfer(wire::LeaderTransferReply::default()));
            }
            Request::Transaction(_) => responder.answer(Response::Transaction(wire::TransactionReply::default())),
            Request::LeaseGrant(_) => responder.answer(Response::LeaseGrant(wire::LeaseGrantReply::default())),
            Request::LeaseKeepAlive(_) => {
                responder.answer(Response::LeaseKeepAlive(wire::LeaseKeepAliveReply::default()))
            }
            Request::LeaseRevoke(_) => responder.answer(Response::LeaseRevoke(wire::LeaseRevokeReply::default())),
            Request::LeaseShow(_) => responder.answer(Response::LeaseShow(wire::LeaseShowReply::default())),
            Request::LeaseList(_) => responder.answer(Response::LeaseList(wire::LeaseListReply::default())),
            Request::SessionOpen(_) => responder.answer(Response::SessionOpen(wire::SessionOpenReply::default())),
            Request::SessionClose(_) => responder.answer(Response::SessionClose(wire::SessionCloseReply::default())),
            Request::Compact(_) => responder.answer(Response::Compact(wire::CompactReply::default())),
        }
    }

    fn scan(&self, _client: &Identity, request: wire::ScanRequest, responder: ScanResponder) {
        let ended = self.ended.clone();
        tokio::spawn(async move {
            let outcome = serve_scan(request, responder).await;
            ended.lock().expect("nobody panics with it").push(outcome);
        });
    }

    fn watch(&self, _client: &Identity, request: wire::WatchRequest, responder: WatchResponder) {
        let (watching, ended) = (self.watching.clone(), self.ended.clone());
        watching.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let closed = responder.closed();
            // Ends when the client reads no more.
            let outcome = serve_watch(request, responder).await;
            if !matches!(outcome, Err(AnswerClosed::NotTaken { .. })) {
                closed.await;
            }
            watching.fetch_sub(1, Ordering::SeqCst);
            ended.lock().expect("nobody panics with it").push(outcome);
        });
    }
}

/// Answers a scan with as many pieces of 100,000 bytes as its limit says, or refuses it if it only counts.
async fn serve_scan(request: wire::ScanRequest, mut responder: ScanResponder) -> Result<(), AnswerClosed> {
    if request.count_only {
        let error = wire::Error {
            code: wire::ErrorCode::Compacted.into(),
            message: "gone".to_owned(),
            ..wire::Error::default()
        };
        return responder.send_error(error).await;
    }
    let value = bytes::Bytes::from(vec![7u8; 100_000]);
    for number in 1..=request.limit {
        let kv = wire::KeyValue { value: value.clone(), version: number, ..wire::KeyValue::default() };
        let last = number == request.limit;
        responder.send(wire::ScanReply { kvs: vec![kv], last, ..wire::ScanReply::default() }).await?;
    }
    Ok(())
}

/// Answers a watch: refuses it if it wants no puts, else sends a reply for each revision from the one asked for on, with one event of the
/// key asked for and 100,000 bytes of value, for as long as anybody reads; only the first one if it wants no deletes.
async fn serve_watch(request: wire::WatchRequest, mut responder: WatchResponder) -> Result<(), AnswerClosed> {
    if request.no_puts {
        let error = wire::Error { code: wire::ErrorCode::Compacted.into(), ..wire::Error::default() };
        return responder.send_error(error).await;
    }
    let key = request.range.unwrap_or_default().start;
    for revision in request.from_revision.unwrap_or(1).. {
        let kv = wire::KeyValue { key: key.clone(), value: vec![7u8; 100_000].into(), ..wire::KeyValue::default() };
        let event = wire::WatchEvent { deleted: false, previous: Some(kv.clone()), kv: Some(kv) };
        let encoded = EncodedWatchEvent::new(event);
        let reply = responder.reply(revision, [&encoded].into_iter(), request.previous);
        responder.send(reply).await?;
        if request.no_deletes {
            responder.closed().await;
        }
    }
    Ok(())
}

pub(crate) fn listener(credentials: &Credentials, limits: ClientLimits) -> (ClientListener, String, Arc<Service>) {
    let service = Arc::new(Service::default());
    let listener = ClientListener::start(loopback(), credentials, limits, service.clone()).expect("a port is free");
    let address = listener.local_address().expect("it is bound").to_string();
    (listener, address, service)
}

pub(crate) fn put(key: &'static str, value_bytes: usize) -> Request {
    let value = bytes::Bytes::from(vec![1u8; value_bytes]);
    Request::Put(wire::PutRequest { key: key.into(), value, ..wire::PutRequest::default() })
}

pub(crate) fn get(key: &'static str) -> Request {
    Request::Get(wire::GetRequest { key: key.into(), ..wire::GetRequest::default() })
}

/// A certificate with any identity at all, signed by this authority.
pub(crate) fn issue_raw(authority: &Authority, uri: &str) -> (String, String) {
    let authority_key = rcgen::KeyPair::from_pem(&authority.key_pem()).expect("a good key");
    let issuer =
        rcgen::Issuer::from_ca_cert_pem(authority.certificate_pem(), authority_key).expect("a good certificate");
    let key = rcgen::KeyPair::generate().expect("keys can be made");
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri.to_owned().try_into().expect("ASCII"))];
    (params.signed_by(&key, &issuer).expect("it can be signed").pem(), key.serialize_pem())
}

/// A certificate with this identity, signed by nobody but itself.
pub(crate) fn self_signed(uri: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("keys can be made");
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri.to_owned().try_into().expect("ASCII"))];
    (params.self_signed(&key).expect("it can be signed").pem(), key.serialize_pem())
}

/// Log lines of this test program. Whoever holds it is the only test that runs among those that capture.
pub(crate) struct Logs {
    from: std::sync::atomic::AtomicUsize,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.lock().expect("no panics").push(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Logs {
    pub(crate) async fn capture() -> Logs {
        let alone = ALONE.lock().await;
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            tracing_subscriber::fmt()
                .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
                .with_ansi(false)
                .with_writer(|| Lines)
                .init();
        });
        let logs = Logs { from: std::sync::atomic::AtomicUsize::new(0), _alone: alone };
        logs.clear();
        logs
    }

    /// Looks only at lines from here on.
    pub(crate) fn clear(&self) {
        self.from.store(LINES.lock().expect("no panics").len(), std::sync::atomic::Ordering::Relaxed);
    }

    /// Waits for one line that contains all of these.
    pub(crate) async fn wait_for(&self, parts: &[&str]) {
        let from = self.from.load(std::sync::atomic::Ordering::Relaxed);
        until(&format!("a log line with {parts:?}"), || {
            let lines = LINES.lock().expect("no panics");
            lines[from..].iter().any(|line| parts.iter().all(|part| line.contains(part)))
        })
        .await;
    }
}

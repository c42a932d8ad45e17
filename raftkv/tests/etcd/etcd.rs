//! A real etcd of one member, asked over gRPC.

use super::answer::{Answer, Coming, Done, Event, Found, Kind, Pair};
use super::messages as wire;
use super::operation::{Compare, Delete, Operation, Put, Range, Read, Relation, Step, Target, Transaction, Watch};
use super::{DEADLINE, Ended};
use bytes::Bytes;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

/// `etcd` on the PATH, if there is one.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|program| program.is_file())
}

pub struct Etcd {
    _process: Ended,
    channel: Channel,
}

impl Etcd {
    pub async fn start(program: &Path, folder: &Path) -> Etcd {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap().port();
        let (client, peer) = (free(), free());
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let log = std::fs::File::create(folder.join("etcd.log")).unwrap();
        let child = Command::new(program)
            .arg("--name=e1")
            .arg(format!("--data-dir={}", folder.join("etcd").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=e1={peer}"))
            .args(["--logger=zap", "--log-level=warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let process = Ended(child);
        let deadline = Instant::now() + DEADLINE;
        let endpoint = Endpoint::from_shared(client).unwrap();
        loop {
            if let Ok(channel) = endpoint.connect().await {
                let etcd = Etcd { _process: process, channel };
                etcd.wait_for_leader(deadline).await;
                return etcd;
            }
            assert!(Instant::now() < deadline, "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wait_for_leader(&self, deadline: Instant) {
        loop {
            let status: Result<wire::StatusResponse, _> =
                self.call("/etcdserverpb.Maintenance/Status", wire::StatusRequest {}).await;
            match status {
                Ok(status) if status.leader != 0 => return,
                Ok(_) | Err(_) => assert!(Instant::now() < deadline, "etcd has no leader"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn version(&self) -> String {
        let status: Result<wire::StatusResponse, _> =
            self.call("/etcdserverpb.Maintenance/Status", wire::StatusRequest {}).await;
        status.unwrap().version
    }

    /// Does it. `newest` is the newest revision.
    pub async fn run(&self, operation: &Operation, newest: u64) -> Answer {
        match self.attempt(operation, newest).await {
            Ok(answer) => answer,
            Err(status) => Answer::Error(kind(&status)),
        }
    }

    async fn attempt(&self, operation: &Operation, newest: u64) -> Result<Answer, tonic::Status> {
        Ok(match operation {
            Operation::Put(request) => {
                let answer: wire::PutResponse = self.call("/etcdserverpb.KV/Put", put(request)).await?;
                done(answer.header.clone(), put_done(answer))
            }
            Operation::Delete(request) => {
                let answer: wire::DeleteRangeResponse =
                    self.call("/etcdserverpb.KV/DeleteRange", delete(request)).await?;
                done(answer.header.clone(), delete_done(answer))
            }
            Operation::Read(request) => {
                let answer: wire::RangeResponse = self.call("/etcdserverpb.KV/Range", read(request)).await?;
                done(answer.header.clone(), Done::Read(found(answer)))
            }
            Operation::Transaction(request) => {
                let answer: wire::TxnResponse = self.call("/etcdserverpb.KV/Txn", transaction(request)).await?;
                done(answer.header.clone(), transaction_done(answer))
            }
            Operation::Compact(revision) => {
                let request = wire::CompactionRequest { revision: signed(*revision) };
                let _: wire::CompactionResponse = self.call("/etcdserverpb.KV/Compact", request).await?;
                Answer::Compacted
            }
            Operation::Grant { id, seconds } => {
                let request = wire::LeaseGrantRequest { ttl: signed(*seconds), id: signed(*id) };
                let answer: wire::LeaseGrantResponse = self.call("/etcdserverpb.Lease/LeaseGrant", request).await?;
                Answer::Granted(unsigned(answer.ttl))
            }
            Operation::KeepAlive(id) => self.keep_alive(*id).await?,
            Operation::Revoke(id) => {
                let request = wire::LeaseRevokeRequest { id: signed(*id) };
                let answer: wire::LeaseRevokeResponse = self.call("/etcdserverpb.Lease/LeaseRevoke", request).await?;
                Answer::Revoked { revision: revision(answer.header) }
            }
            Operation::Show(id) => {
                let request = wire::LeaseTimeToLiveRequest { id: signed(*id), keys: true };
                let answer: wire::LeaseTimeToLiveResponse =
                    self.call("/etcdserverpb.Lease/LeaseTimeToLive", request).await?;
                if answer.ttl < 0 {
                    return Ok(Answer::Error(Kind::LeaseUnknown));
                }
                let mut keys = answer.keys;
                keys.sort();
                let (granted, remaining) = (unsigned(answer.granted_ttl), unsigned(answer.ttl));
                Answer::Lease { granted_seconds: granted, remaining_seconds: remaining, keys }
            }
            Operation::Leases => {
                let answer: wire::LeaseLeasesResponse =
                    self.call("/etcdserverpb.Lease/LeaseLeases", wire::LeaseLeasesRequest {}).await?;
                let mut leases: Vec<u64> = answer.leases.iter().map(|lease| unsigned(lease.id)).collect();
                leases.sort_unstable();
                Answer::Leases(leases)
            }
            Operation::Watch(request) => self.watch(request, newest).await?,
            Operation::Open(_) | Operation::Close(_) => unreachable!("no single request"),
        })
    }

    /// Renewals are a stream: one is asked for on a stream of its own.
    async fn keep_alive(&self, id: u64) -> Result<Answer, tonic::Status> {
        let request = tokio_stream::iter([wire::LeaseKeepAliveRequest { id: signed(id) }]);
        let mut answers = self.stream("/etcdserverpb.Lease/LeaseKeepAlive", request).await?;
        let answer: wire::LeaseKeepAliveResponse = answers.next().await.expect("there is an answer")?;
        assert_eq!(unsigned(answer.id), id);
        Ok(if answer.ttl == 0 { Answer::Error(Kind::LeaseUnknown) } else { Answer::KeptAlive(unsigned(answer.ttl)) })
    }

    /// All events are watched and then sifted here, because each revision has one: so the end is known.
    async fn watch(&self, watch: &Watch, newest: u64) -> Result<Answer, tonic::Status> {
        let all = wire::WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: signed(watch.from),
            filters: Vec::new(),
            prev_kv: true,
        };
        // The sending half keeps the stream open.
        let (_requests, mut answers) = self.begin_watch(all).await?;
        let mut events = Vec::new();
        while events.last().is_none_or(|last: &Event| last.pair.mod_revision < newest) {
            match watched(answers.next().await)? {
                Ok(more) => events.extend(more),
                Err(kind) => return Ok(Answer::Error(kind)),
            }
        }
        events.retain(|event| {
            let range = &watch.range;
            let key = &event.pair.key;
            let inside = *key >= range.start && range.end.as_ref().is_none_or(|end| key < end);
            inside && !(if event.deleted { watch.no_deletes } else { watch.no_puts })
        });
        for event in &mut events {
            event.previous = event.previous.take().filter(|_| watch.previous);
        }
        Ok(Answer::Events(events))
    }

    /// Begins a watch that goes on; here etcd does the sifting.
    pub async fn open(&self, watch: &Watch) -> Coming {
        let (key, range_end) = bounds(&watch.range);
        // Neither puts, nor deletes.
        let filters = [watch.no_puts.then_some(0), watch.no_deletes.then_some(1)];
        let (requests, mut answers) = self
            .begin_watch(wire::WatchCreateRequest {
                key,
                range_end,
                start_revision: signed(watch.from),
                filters: filters.into_iter().flatten().collect(),
                prev_kv: watch.previous,
            })
            .await
            .unwrap();
        let (events, coming) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            // The sending half keeps the stream open.
            let _requests = requests;
            loop {
                let answer = tokio::select! {
                    () = events.closed() => return,
                    answer = answers.next() => watched(answer).unwrap(),
                };
                let has_ended = answer.is_err();
                // Fails when nobody waits for it any more.
                let _ = events.send(answer);
                if has_ended {
                    return;
                }
            }
        });
        coming
    }

    /// Creates a watch and waits until etcd says that it is there.
    async fn begin_watch(&self, create: wire::WatchCreateRequest) -> Result<(Requests, Watched), tonic::Status> {
        let (requests, outgoing) = tokio::sync::mpsc::channel(1);
        requests.send(wire::WatchRequest { create: Some(create) }).await.expect("the receiver is here");
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let mut answers: Watched = self.stream("/etcdserverpb.Watch/Watch", outgoing).await?;
        let first = tokio::time::timeout(DEADLINE, answers.next()).await;
        let first = first.expect("etcd answers").expect("the stream goes on")?;
        assert!(first.created && first.events.is_empty(), "no watch was created: {first:?}");
        Ok((requests, answers))
    }

    async fn stream<Q, A>(
        &self,
        name: &'static str,
        requests: impl tokio_stream::Stream<Item = Q> + Send + 'static,
    ) -> Result<tonic::Streaming<A>, tonic::Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc().await?;
        let path = Uri::from_static(name).into_parts().path_and_query.expect("a method's name is a path");
        let answers = grpc.streaming(tonic::Request::new(requests), path, ProstCodec::<Q, A>::default()).await;
        Ok(answers?.into_inner())
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, tonic::Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }

    async fn call<Q, A>(&self, name: &'static str, request: Q) -> Result<A, tonic::Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc().await?;
        let path = Uri::from_static(name).into_parts().path_and_query.expect("a method's name is a path");
        let answer = grpc.unary(tonic::Request::new(request), path, ProstCodec::<Q, A>::default()).await;
        Ok(answer?.into_inner())
    }
}

type Requests = tokio::sync::mpsc::Sender<wire::WatchRequest>;
type Watched = tonic::Streaming<wire::WatchResponse>;

/// The events of an answer, or why the watch has ended.
fn watched(
    answer: Option<Result<wire::WatchResponse, tonic::Status>>,
) -> Result<Result<Vec<Event>, Kind>, tonic::Status> {
    let answer = answer.expect("the stream goes on")?;
    if answer.canceled {
        assert!(answer.compact_revision > 0, "etcd ended the watch: {answer:?}");
        return Ok(Err(Kind::Compacted));
    }
    Ok(Ok(answer.events.into_iter().map(event).collect()))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("small numbers")
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).expect("numbers of etcd are not negative")
}

fn revision(header: Option<wire::Header>) -> u64 {
    unsigned(header.expect("etcd answers with a header").revision)
}

fn done(header: Option<wire::Header>, done: Done) -> Answer {
    Answer::Done { revision: revision(header), done }
}

fn kind(status: &tonic::Status) -> Kind {
    let message = status.message();
    let known = [
        ("required revision has been compacted", Kind::Compacted),
        ("required revision is a future revision", Kind::FutureRevision),
        ("requested lease not found", Kind::LeaseUnknown),
        ("lease already exists", Kind::LeaseExists),
        ("key not found", Kind::KeyUnknown),
        ("duplicate key given in txn request", Kind::DuplicateKey),
        ("too large lease TTL", Kind::Invalid),
        ("value is provided", Kind::Invalid),
        ("lease is provided", Kind::Invalid),
    ];
    known.iter().find(|(words, _)| message.contains(words)).unwrap_or_else(|| panic!("etcd says: {status:?}")).1
}

fn pair(kv: wire::KeyValue) -> Pair {
    Pair {
        key: kv.key,
        value: kv.value,
        create_revision: unsigned(kv.create_revision),
        mod_revision: unsigned(kv.mod_revision),
        version: unsigned(kv.version),
        lease: unsigned(kv.lease),
    }
}

fn put_done(answer: wire::PutResponse) -> Done {
    Done::Put { previous: answer.prev_kv.map(pair) }
}

fn delete_done(answer: wire::DeleteRangeResponse) -> Done {
    Done::Deleted { count: unsigned(answer.deleted), previous: answer.prev_kvs.into_iter().map(pair).collect() }
}

fn found(answer: wire::RangeResponse) -> Found {
    Found { pairs: answer.kvs.into_iter().map(pair).collect(), count: unsigned(answer.count), more: answer.more }
}

fn transaction_done(answer: wire::TxnResponse) -> Done {
    use wire::response_op::Response;
    let steps = answer.responses.into_iter().map(|step| match step.response.expect("each step has an answer") {
        Response::Range(answer) => Done::Read(found(answer)),
        Response::Put(answer) => put_done(answer),
        Response::DeleteRange(answer) => delete_done(answer),
        Response::Txn(answer) => transaction_done(answer),
    });
    Done::Transaction { succeeded: answer.succeeded, steps: steps.collect() }
}

fn event(event: wire::Event) -> Event {
    let pair = pair(event.kv.expect("an event has a pair"));
    Event { deleted: event.kind == 1, pair, previous: event.prev_kv.map(self::pair) }
}

/// etcd's end of a range: empty for one key, a zero byte for "to the last".
fn bounds(range: &Range) -> (Bytes, Bytes) {
    let is_single = range
        .end
        .as_ref()
        .is_some_and(|end| end.split_last().is_some_and(|(last, before)| *last == 0 && before == &range.start[..]));
    let end = match &range.end {
        None => Bytes::from_static(b"\0"),
        Some(_) if is_single => Bytes::new(),
        Some(end) => end.clone(),
    };
    (range.start.clone(), end)
}

fn put(put: &Put) -> wire::PutRequest {
    wire::PutRequest {
        key: put.key.clone(),
        value: put.value.clone().unwrap_or_default(),
        lease: signed(put.lease.unwrap_or(0)),
        prev_kv: put.previous,
        ignore_value: put.value.is_none(),
        ignore_lease: put.lease.is_none(),
    }
}

fn delete(delete: &Delete) -> wire::DeleteRangeRequest {
    let (key, range_end) = bounds(&delete.range);
    wire::DeleteRangeRequest { key, range_end, prev_kv: delete.previous }
}

fn read(read: &Read) -> wire::RangeRequest {
    let (key, range_end) = bounds(&read.range);
    let number = |number: Option<u64>| signed(number.unwrap_or(0));
    wire::RangeRequest {
        key,
        range_end,
        limit: signed(read.limit),
        revision: number(read.revision),
        sort_order: if read.descending { 2 } else { 1 },
        sort_target: read.sort_by,
        keys_only: read.keys_only,
        count_only: read.count_only,
        min_mod_revision: number(read.mod_min),
        max_mod_revision: number(read.mod_max),
        min_create_revision: number(read.create_min),
        max_create_revision: number(read.create_max),
    }
}

fn compare(compare: &Compare) -> wire::Compare {
    use wire::compare::TargetUnion;
    let (key, range_end) = bounds(&compare.range);
    let (target, union) = match &compare.target {
        Target::Version(number) => (0, TargetUnion::Version(signed(*number))),
        Target::CreateRevision(number) => (1, TargetUnion::CreateRevision(signed(*number))),
        Target::ModRevision(number) => (2, TargetUnion::ModRevision(signed(*number))),
        Target::Value(value) => (3, TargetUnion::Value(value.clone())),
        Target::Lease(number) => (4, TargetUnion::Lease(signed(*number))),
    };
    let result = match compare.relation {
        Relation::Equal => 0,
        Relation::Greater => 1,
        Relation::Less => 2,
        Relation::NotEqual => 3,
    };
    wire::Compare { result, target, key, range_end, target_union: Some(union) }
}

fn transaction(transaction: &Transaction) -> wire::TxnRequest {
    wire::TxnRequest {
        compare: transaction.compares.iter().map(compare).collect(),
        success: transaction.success.iter().map(step).collect(),
        failure: transaction.failure.iter().map(step).collect(),
    }
}

fn step(step: &Step) -> wire::RequestOp {
    use wire::request_op::Request;
    let request = match step {
        Step::Put(request) => Request::Put(put(request)),
        Step::Delete(request) => Request::DeleteRange(delete(request)),
        Step::Read(request) => Request::Range(read(request)),
        Step::Transaction(request) => Request::Txn(transaction(request)),
    };
    wire::RequestOp { request: Some(request) }
}

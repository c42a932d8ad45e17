//! A node: what `raftkv start` runs, and what a program embeds.
//!
//! ```text
//!              clients                                   peers
//!                 │                                        │
//!          ┌──────▼──────┐   Input   ┌────────────┐  ┌─────▼─────┐
//!          │   service   ├──────────▶│            │◀─┤           │
//!          └──────▲──────┘           │   driver   │  │   links   │
//!                 │                  │            ├─▶│           │
//!                 │                  └─┬────┬───┬─┘  └───────────┘
//!                 │             persist│    │   │apply
//!          ┌──────┴──────┐   ┌─────────▼─┐  │  ┌▼────────────┐
//!          │read threads │◀──┤log thread │  │  │apply thread │──bell──▶ watches
//!          └─────────────┘   └───────────┘  │  └─────────────┘
//!                 ▲                         │
//!                 └────────── serve ────────┘
//! ```
//!
//! Beside them the space thread tells the driver how large the state is, and the reclaim thread gives back what compaction has made dead.
//!
//! Each box that is a thread owns what it works on; they speak through channels. The driver never waits for any of them.

use crate::amnesia::{DamageNote, Loss};
use crate::apply_thread::{ApplyThread, StateJob, run_loader};
use crate::apply_worker::ApplyWorker;
use crate::clock::{Clock, Freshness};
use crate::config::Config;
use crate::directory::MemberDirectory;
use crate::driver::{Driver, DriverConfig, Input, ReadWaiter, RestoredDisk, TransferRefusal};
use crate::error::StartError;
use crate::failure::{FailureReporter, FatalError};
use crate::host::ThreadHost;
use crate::http::{self, StatusSource};
use crate::inbox::{Inbox, Mail};
use crate::leaving::LinkedMembers;
use crate::log_thread::{self, LogJob};
use crate::members::Members;
use crate::observer::Observer;
use crate::premises::{Recovered, open_data_directory};
use crate::scans::SCANS_MAX;
use crate::service::Service;
use crate::snapshots::{LocalSnapshots, SnapshotFetcher};
use crate::space;
use crate::status::{NodeStatus, StatusReporter};
use crate::watch::{WatchBell, WatchHub, run_gatherer};
use crossbeam_channel::{Receiver, Sender, unbounded};
use raft::{Changed, Node, NodeId, Role};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use storage::identity::DataDirectory;
use storage::wal::LogStore;
use storage::wal::disk::RealDisk;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use transport::{
    ClientLimits, ClientListener, CredentialPaths, Credentials, FetchConfig, Inbound, InboundHandler, PeerConfig,
    PeerLimits, PeerLinks, SnapshotClient,
};

/// Threads that serve reads: a read may wait for the disk, so there are more of them than one.
const READ_THREADS: usize = 3;
/// Inputs the driver takes in before it sets off what was gathered.
const DRAIN_MAX: usize = 4096;
/// A snapshot larger than this is not fetched.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 42;
/// A transfer of a snapshot that stands still for this long is given up, and tried again.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);

/// A running node. Dropping it leaves its threads to end by themselves; [`Server::stop`] ends it in order.
pub struct Server {
    election_timeout: Duration,
    inbox: Inbox,
    role: watch::Receiver<Option<Changed>>,
    failures: mpsc::UnboundedReceiver<FatalError>,
    threads: Vec<JoinHandle<()>>,
    links: Arc<PeerLinks>,
    listener: ClientListener,
    http: Option<oneshot::Sender<()>>,
    /// Ends the space and the reclaim thread when it is dropped.
    space: Sender<Infallible>,
    reporter: Arc<StatusReporter>,
    members: Arc<Members>,
    /// Released last.
    directory: Arc<DataDirectory>,
}

impl Server {
    /// Recovers the node's storage, binds its ports and begins to take part. When it returns, clients and peers can connect;
    /// there need not be a leader yet.
    ///
    /// # Errors
    /// See [`StartError`]: each names the cause and the next step, and [`StartError::exit_status`] the exit code.
    pub async fn start(config: Config, observer: Box<dyn Observer>) -> Result<Server, StartError> {
        let credentials = load_credentials(&config)?;
        let (config, recovered) =
            tokio::task::spawn_blocking(move || open_data_directory(&config).map(|recovered| (config, recovered)))
                .await
                .expect("recovery does not panic, and the runtime does not stop meanwhile")?;
        let clock = Clock::start();
        let (failures, failed) = FailureReporter::new();
        let (inbox, mail) = Inbox::new();
        let parts = Parts::new(&config, &recovered, clock, inbox.clone(), failures.clone());

        // Ports before threads: a port that is taken is found before anything runs.
        let snapshots = LocalSnapshots::new(recovered.shared.clone(), &recovered.outgoing)
            .map_err(|source| StartError::Directory { path: recovered.outgoing.clone(), source })?;
        let links = Arc::new(start_links(&config, &credentials, &parts, inbox.clone(), snapshots)?);
        let listener = start_listener(&config, &credentials, &parts)?;
        let http = start_http(&config, parts.reporter.clone()).await?;

        let Recovered { directory, log, state, shared, store, restored, intent, repair, peers, outgoing: _ } =
            recovered;
        let to_reclaim = shared.clone();
        let (role, role_changes) = watch::channel(None);
        let (logs, log_jobs) = unbounded::<LogJob>();
        let (states, state_jobs) = unbounded::<StateJob>();
        let (loads, load_jobs) = unbounded();
        let host = ThreadHost {
            log: logs,
            state: states,
            loads,
            reads: parts.reads.clone(),
            shared,
            links: links.clone(),
            inbox: inbox.clone(),
            snapshots: SnapshotFetcher {
                runtime: tokio::runtime::Handle::current(),
                client: snapshot_client(&config, &credentials),
                links: links.clone(),
                store,
                cluster: config.cluster.id.clone(),
                inbox: inbox.clone(),
            },
            intent,
            repair,
            failures: failures.clone(),
            observer,
            freshness: parts.freshness.clone(),
            role,
            announced: None,
            linked: Arc::new(Mutex::new(LinkedMembers::new(parts.members.view().peers.clone()))),
            members: parts.members.clone(),
        };
        let applied = restored.applied;
        let node = Node::new(config.raft(), restored, clock.now(), rand::random());
        let driver_config = DriverConfig {
            log_retained_bytes: config.storage.log_retained_mib << 20,
            election_timeout: config.raft().election_timeout,
            format_max: config.node.format_max,
            founding: MemberDirectory::founding(&config),
            space: config.cluster.space_limits(),
        };
        let on_disk = RestoredDisk { applied, log_bytes: log.bytes(), facts: state.facts() };
        let driver = Driver::new(node, host, driver_config, on_disk, clock.now());

        let mut threads = Vec::new();
        let mut spawn = |name, body: Box<dyn FnOnce() + Send>| -> Result<(), StartError> {
            threads.push(failures.spawn(name, body).map_err(StartError::Thread)?);
            Ok(())
        };
        let reader = log.reader();
        let (watches, rings) = WatchBell::new(parts.watches.clone());
        let (hub, reporter) = (parts.watches.clone(), failures.clone());
        spawn("watches", Box::new(move || run_gatherer(&hub, &rings, &reporter)))?;
        let apply = ApplyThread {
            state,
            worker: ApplyWorker::new(reader.clone()),
            driver: inbox.clone(),
            failures: failures.clone(),
            watches,
            members: parts.members.clone(),
            peers,
        };
        spawn("apply", Box::new(move || apply.run(&state_jobs)))?;
        let (to_driver, reporter) = (inbox.clone(), failures.clone());
        spawn("log", Box::new(move || log_thread::run(log, &log_jobs, &to_driver, &reporter)))?;
        let (space, space_stop) = unbounded();
        let (turn, quota_bytes) = (space::turn_of(config.node.id), config.cluster.space_limits().quota_bytes);
        let (to_sample, reclaim_stop) = (to_reclaim.clone(), space_stop.clone());
        let (to_driver, reporter) = (inbox.clone(), failures.clone());
        spawn("space", Box::new(move || space::run(&to_sample, quota_bytes, &space_stop, &to_driver, &reporter)))?;
        let reporter = failures.clone();
        spawn("reclaim", Box::new(move || space::reclaim(&to_reclaim, turn, &reclaim_stop, &reporter)))?;
        let (to_driver, reporter) = (inbox.clone(), failures.clone());
        spawn("loader", Box::new(move || run_loader(&reader, &load_jobs, &to_driver, &reporter)))?;
        for _ in 0..READ_THREADS {
            let jobs = parts.read_jobs.clone();
            // Not joined: they end with the last client's connection, which holds on to them.
            failures.spawn("reads", move || serve_reads(&jobs)).map_err(StartError::Thread)?;
        }
        spawn("driver", Box::new(move || drive(driver, &mail, clock)))?;
        tracing::info!(
            node = config.node.id,
            name = config.own_member().name,
            clients = %config.listen_client(),
            peers = %config.listen_peer(),
            "serving"
        );
        Ok(Server {
            election_timeout: config.raft().election_timeout,
            inbox,
            role: role_changes,
            failures: failed,
            threads,
            links,
            listener,
            http,
            space,
            reporter: parts.reporter,
            members: parts.members,
            directory,
        })
    }

    /// Waits until the node cannot go on, and says why. The process should end then.
    pub async fn failed(&mut self) -> FatalError {
        match self.failures.recv().await {
            Some(failure) => failure,
            // Every thread has ended without a word, which only happens when the node is stopped.
            None => std::future::pending().await,
        }
    }

    /// Remembers, for the next start, that the disk was found damaged, if that is what `failure` says and the node has peers to repair it.
    /// Says whether a new start will do.
    pub fn remember(&self, failure: &FatalError) -> bool {
        let Some(loss) = Loss::behind_failure(failure).filter(|_| self.members.have_other_voters()) else {
            return false;
        };
        let noted =
            RealDisk::create(self.directory.path()).and_then(|disk| DamageNote::new(Arc::new(disk)).write(loss));
        match noted {
            Ok(()) => tracing::error!("the next start sets aside what is damaged, and the other nodes repair this one"),
            Err(ref error) => {
                tracing::error!(%error, "cannot remember the damage: remove nothing, and start the node again")
            }
        }
        noted.is_ok()
    }

    /// How the node is. `None` while it stops.
    pub async fn status(&self) -> Option<NodeStatus> {
        ask_status(&self.reporter).await
    }

    /// Stops in order: hands leadership over, refuses new work, finishes what is under way, flushes.
    ///
    /// # Errors
    /// When a thread failed before or meanwhile. What was acknowledged is on disk all the same.
    pub async fn stop(mut self) -> Result<(), FatalError> {
        self.hand_over().await;
        if let Some(http) = self.http.take() {
            // The page may have failed by itself.
            let _ = http.send(());
        }
        self.inbox.stop();
        drop(self.space);
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A panic was reported by the thread's guard.
                let _ = thread.join();
            }
        });
        joined.await.expect("joining threads does not panic");
        self.listener.close().await;
        match Arc::try_unwrap(self.links) {
            Ok(links) => links.close().await,
            Err(shared) => drop(shared),
        }
        drop(self.directory);
        self.failures.try_recv().map_or(Ok(()), Err)
    }

    /// Hands leadership over if this node leads, and waits for it, for as long as the core tries.
    async fn hand_over(&mut self) {
        let leads = self.role.borrow().is_some_and(|changed| changed.role == Role::Leader);
        if !leads {
            return;
        }
        tracing::info!("handing leadership over");
        let (answer, outcome) = oneshot::channel();
        let waiter = Box::new(move |outcome| {
            // Waited for below, but not for ever.
            let _ = answer.send(outcome);
        });
        self.inbox.push(Input::TransferLeadership { target: None, waiter });
        match tokio::time::timeout(2 * self.election_timeout, outcome).await {
            Ok(Ok(Ok(leader))) => tracing::info!(%leader, "leadership is handed over"),
            // Nobody is left behind.
            Ok(Ok(Err(TransferRefusal::NobodyElse))) => {}
            Ok(Ok(Err(refusal))) => {
                tracing::warn!(%refusal, "leadership was not handed over; the others elect a leader by themselves");
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("nobody took leadership over in time; the others elect a leader by themselves");
            }
        }
    }
}

/// What service, threads and page share.
struct Parts {
    reads: Sender<Vec<ReadWaiter>>,
    read_jobs: Receiver<Vec<ReadWaiter>>,
    freshness: Arc<Freshness>,
    members: Arc<Members>,
    reporter: Arc<StatusReporter>,
    watches: Arc<WatchHub>,
    service: Arc<Service>,
}

impl Parts {
    fn new(config: &Config, recovered: &Recovered, clock: Clock, inbox: Inbox, failures: FailureReporter) -> Parts {
        let (reads, read_jobs) = unbounded();
        let freshness = Arc::new(Freshness::new(clock));
        // As applied: the driver says more as soon as it is there.
        let membership = &recovered.restored.membership;
        let members = Arc::new(Members::new(NodeId(config.node.id), MemberDirectory::founding(config), membership));
        let reporter = Arc::new(StatusReporter::new(
            config.cluster.id.clone(),
            config.own_member().clone(),
            members.clone(),
            inbox.clone(),
            reads.clone(),
            recovered.shared.clone(),
        ));
        let watches = Arc::new(WatchHub::new(recovered.shared.clone()));
        let service = Arc::new(Service {
            inbox,
            reads: reads.clone(),
            shared: recovered.shared.clone(),
            freshness: freshness.clone(),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
            watches: watches.clone(),
            members: members.clone(),
            reporter: reporter.clone(),
            failures,
            limits: config.requests(),
            cluster: config.cluster.clone(),
            runtime: tokio::runtime::Handle::current(),
        });
        Parts { reads, read_jobs, freshness, members, reporter, watches, service }
    }
}

fn load_credentials(config: &Config) -> Result<Credentials, StartError> {
    let paths = CredentialPaths {
        authority: config.tls.ca.clone(),
        certificate: config.tls.cert.clone(),
        key: config.tls.key.clone(),
    };
    let credentials = Credentials::load(&paths)?;
    let found = credentials.identity().to_string();
    let expected = format!("raftkv://{}/node/{}", config.cluster.id, config.node.id);
    if found == expected {
        Ok(credentials)
    } else {
        Err(StartError::OtherIdentity { path: config.tls.cert.clone(), found, expected })
    }
}

fn agent() -> String {
    format!("raftkv {}", env!("CARGO_PKG_VERSION"))
}

fn peer_limits(config: &Config) -> PeerLimits {
    let defaults = PeerLimits::default();
    // An append holds at least one entry, and an entry at least one put, which may name a value twice.
    let largest = bytes(2 * config.cluster.value_bytes_max + 4 * config.cluster.key_bytes_max) + (2 << 20);
    PeerLimits {
        frame_bytes_max: defaults.frame_bytes_max.max(largest),
        inbound_bytes_max: defaults.inbound_bytes_max.max(2 * largest),
        ..defaults
    }
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).expect("limits of keys and values are at most 30 MiB, checked")
}

fn start_links(
    config: &Config,
    credentials: &Credentials,
    parts: &Parts,
    inbox: Inbox,
    snapshots: LocalSnapshots,
) -> Result<PeerLinks, StartError> {
    let handler: InboundHandler = Arc::new(move |inbound| match inbound {
        Inbound::Message { from, message, permit } => inbox.push(Input::Message { from, message, permit }),
        Inbound::Format { peer, format_max } => inbox.push(Input::PeerFormat { peer, format_max }),
        Inbound::Connected(_) => {}
        Inbound::Disconnected(peer) => inbox.push(Input::Unreachable { peer }),
    });
    let peers = PeerConfig {
        bind: config.listen_peer(),
        peers: parts.members.view().peers.clone(),
        address: config.own_member().peer.clone(),
        settings_digest: config.cluster_digest(),
        format_max: config.node.format_max,
        agent: agent(),
        credentials: credentials.clone(),
        limits: peer_limits(config),
        snapshots: Some(Arc::new(snapshots)),
    };
    PeerLinks::start(peers, handler).map_err(|error| StartError::Listen {
        address: config.listen_peer(),
        what: "node.listen_peer, UDP",
        cause: cause_of(&error),
    })
}

/// Without the address and the advice, which are said around it.
fn cause_of(error: &transport::StartError) -> String {
    match error {
        transport::StartError::Bind { cause, .. } => cause.to_string(),
        transport::StartError::NotANode { .. } => error.to_string(),
    }
}

fn start_listener(config: &Config, credentials: &Credentials, parts: &Parts) -> Result<ClientListener, StartError> {
    let limits = ClientLimits {
        key_bytes_max: bytes(config.cluster.key_bytes_max),
        value_bytes_max: bytes(config.cluster.value_bytes_max),
        ..ClientLimits::default()
    };
    ClientListener::start(config.listen_client(), credentials, limits, parts.service.clone()).map_err(|error| {
        StartError::Listen { address: config.listen_client(), what: "node.listen_client, UDP", cause: cause_of(&error) }
    })
}

async fn start_http(config: &Config, reporter: Arc<StatusReporter>) -> Result<Option<oneshot::Sender<()>>, StartError> {
    let Some(address) = config.node.listen_http else { return Ok(None) };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| StartError::Listen {
        address,
        what: "node.listen_http, TCP",
        cause: error.to_string(),
    })?;
    let source: StatusSource = Arc::new(move || {
        let reporter = reporter.clone();
        Box::pin(async move { ask_status(&reporter).await })
    });
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(http::serve(listener, source, async {
        // A server that is dropped stops its page too.
        let _ = stopped.await;
    }));
    Ok(Some(stop))
}

async fn ask_status(reporter: &Arc<StatusReporter>) -> Option<NodeStatus> {
    let (answer, status) = oneshot::channel();
    reporter.report(Box::new(move |status| {
        // Whoever asked may have gone.
        let _ = answer.send(status);
    }));
    status.await.ok()
}

fn snapshot_client(config: &Config, credentials: &Credentials) -> SnapshotClient {
    SnapshotClient::new(FetchConfig {
        credentials: credentials.clone(),
        settings_digest: config.cluster_digest(),
        format_max: config.node.format_max,
        agent: agent(),
        bytes_max: SNAPSHOT_BYTES_MAX,
        bytes_per_second: None,
        timeout: SNAPSHOT_TIMEOUT,
    })
}

fn serve_reads(jobs: &Receiver<Vec<ReadWaiter>>) {
    for job in jobs {
        for waiter in job {
            waiter(Ok(()));
        }
    }
}

/// The driver's loop: takes in all that has come, then sets off what was gathered.
fn drive(mut driver: Driver<ThreadHost>, mail: &Receiver<Mail>, clock: Clock) {
    loop {
        let wait = driver.next_deadline().since(clock.now());
        let mut next = mail.recv_timeout(wait).ok();
        let mut taken = 0;
        while let Some(item) = next {
            match item {
                Mail::Input(input) => driver.handle(clock.now(), input),
                Mail::Stop => {
                    driver.flush(clock.now());
                    return driver.close();
                }
            }
            taken += 1;
            next = if taken < DRAIN_MAX { mail.try_recv().ok() } else { None };
        }
        driver.flush(clock.now());
    }
}

//! Snapshots between nodes: giving them out and fetching them.
//!
//! A snapshot is a RocksDB checkpoint, made when a peer asks for one and removed when its transfer ends. The fetching side
//! receives it beside the state in use, opens it to see what it holds, and only then tells the driver.

use crate::driver::Input;
use crate::inbox::Inbox;
use crate::shared_state::SharedState;
use raft::{FetchSnapshot, LogPosition, NodeId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::state::StateStore;
use transport::{OpenSnapshot, SnapshotSource, describe_directory};
use transport::{PeerLinks, SnapshotClient};

/// Snapshots given out at a time; more peers than this ask again later.
const OPEN_MAX: usize = 2;

/// How long a node waits before it asks again for a snapshot that it did not get.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Gives out checkpoints of the state in use.
pub(crate) struct LocalSnapshots {
    state: Arc<SharedState>,
    folder: PathBuf,
    open: Mutex<BTreeMap<u64, (NodeId, PathBuf)>>,
    number: AtomicU64,
}

impl LocalSnapshots {
    /// Keeps its checkpoints in `folder`, which is emptied: what is in there was left by a former life.
    pub(crate) fn new(state: Arc<SharedState>, folder: &Path) -> std::io::Result<LocalSnapshots> {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        std::fs::create_dir_all(folder)?;
        let open = Mutex::new(BTreeMap::new());
        Ok(LocalSnapshots { state, folder: folder.to_owned(), open, number: AtomicU64::new(1) })
    }
}

impl SnapshotSource for LocalSnapshots {
    fn open(&self, peer: NodeId, at_least: LogPosition) -> Result<OpenSnapshot, String> {
        let checkpoint = self.number.fetch_add(1, Ordering::Relaxed);
        let directory = self.folder.join(format!("{checkpoint:06}"));
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            // A peer that asks again has given up what it asked for before: its old connection only has not timed out yet.
            let given_up: Vec<u64> =
                open.iter().filter(|(_, (of, _))| *of == peer).map(|(number, _)| *number).collect();
            for number in given_up {
                if let Some((_, directory)) = open.remove(&number) {
                    remove(&directory);
                }
            }
            if open.len() >= OPEN_MAX {
                return Err(format!("{OPEN_MAX} snapshots are being sent already"));
            }
            open.insert(checkpoint, (peer, directory.clone()));
        }
        let made = self.state.reader().checkpoint(&directory).map_err(|error| error.to_string()).and_then(|position| {
            if position < at_least {
                return Err(format!("the state is at {position}, not yet at {at_least}"));
            }
            let files = describe_directory(&directory).map_err(|error| error.to_string())?;
            Ok(OpenSnapshot { position, checkpoint, directory, files })
        });
        match made {
            Ok(snapshot) => {
                tracing::info!(%peer, position = %snapshot.position, files = snapshot.files.len(), "sending a snapshot");
                Ok(snapshot)
            }
            Err(reason) => {
                tracing::warn!(%peer, %reason, "cannot give a snapshot");
                self.release(checkpoint);
                Err(reason)
            }
        }
    }

    fn release(&self, checkpoint: u64) {
        let released = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&checkpoint);
        if let Some((_, directory)) = released {
            remove(&directory);
        }
    }
}

fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        // Removed at the next start at the latest.
        tracing::warn!(directory = %directory.display(), %error, "cannot remove a snapshot that was sent");
    }
}

/// Fetches snapshots in the background.
pub(crate) struct SnapshotFetcher {
    /// Where its tasks run.
    pub(crate) runtime: tokio::runtime::Handle,
    /// Asks other nodes.
    pub(crate) client: SnapshotClient,
    /// Know where peers are, those too that this node has only heard of by being connected to.
    pub(crate) links: Arc<PeerLinks>,
    /// Where a snapshot is received.
    pub(crate) store: Arc<Mutex<StateStore>>,
    /// The cluster's name.
    pub(crate) cluster: String,
    /// The driver.
    pub(crate) inbox: Inbox,
}

impl SnapshotFetcher {
    /// Starts fetching; the driver hears how it ended.
    pub(crate) fn fetch(&self, fetch: FetchSnapshot) {
        let (client, store, inbox, cluster) =
            (self.client.clone(), self.store.clone(), self.inbox.clone(), self.cluster.clone());
        let address = self.links.address_of(fetch.from);
        self.runtime.spawn(async move {
            let received = match address {
                Some(address) => receive(&client, &store, cluster, fetch, &address).await,
                None => Err(anyhow::anyhow!("node {} is no member and not connected", fetch.from)),
            };
            match received {
                Ok(input) => inbox.push(input),
                Err(error) => {
                    tracing::warn!("the snapshot was not fetched: {error:#}");
                    // The leader offers again with every heartbeat; whatever is wrong needs a moment longer than that.
                    tokio::time::sleep(RETRY_AFTER).await;
                    inbox.push(Input::SnapshotFailed);
                }
            }
        });
    }
}

async fn receive(
    client: &SnapshotClient,
    store: &Arc<Mutex<StateStore>>,
    cluster: String,
    fetch: FetchSnapshot,
    address: &str,
) -> anyhow::Result<Input> {
    let incoming = store.clone();
    let directory = tokio::task::spawn_blocking(move || {
        let store = incoming.lock().unwrap_or_else(PoisonError::into_inner);
        match store.resume_incoming()? {
            Some(directory) => Ok(directory),
            None => store.prepare_incoming(),
        }
    })
    .await??;
    let fetched = client.fetch(fetch.from, address, fetch.at_least, &directory).await?;
    tracing::info!(
        position = %fetched.position,
        received_bytes = fetched.bytes_received,
        resumed_bytes = fetched.bytes_resumed,
        "a snapshot has arrived"
    );
    let incoming = store.clone();
    let verified = tokio::task::spawn_blocking(move || {
        let store = incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let verified = store.verify_incoming(&cluster);
        if verified.is_err() {
            // Not to be gone on with: every file is what the sender has, and together they are no state.
            store.prepare_incoming()?;
        }
        verified
    })
    .await??;
    anyhow::ensure!(
        verified.position == fetched.position,
        "the snapshot holds {}, its sender said {}",
        verified.position,
        fetched.position
    );
    Ok(Input::SnapshotFetched { position: verified.position, membership: verified.membership })
}

//! The fetching side of a snapshot transfer.
//!
//! Files are written into a directory that the caller has set aside. A fetch that breaks leaves what it has; the next one into the same directory
//! keeps every file whose length and checksum are right and goes on with the others where they end. If a file that was
//! continued turns out wrong, it is fetched once more from its beginning, since its start may be of another snapshot; wrong then,
//! the fetch fails. Nothing is reported as fetched before every file has been verified and fsync'ed, and the directory too.

use crate::convert;
use crate::dial;
use crate::error::ConnectError;
use crate::frame::{FrameError, FrameReader, put_frame};
use crate::peer::kind;
use crate::peer_outgoing::greet;
use crate::proto::peer as wire;
use crate::quic;
use crate::snapshot::{MANIFEST_BYTES_MAX, PIECE_BYTES, SNAPSHOT_FILES_MAX, checksum, is_file_name};
use crate::tls::{Credentials, Protocol};
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use quinn::{Connection, Endpoint};
use raft::{LogPosition, NodeId};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How to fetch.
#[derive(Debug, Clone)]
pub struct FetchConfig {
    /// Who we are.
    pub credentials: Credentials,
    /// As in [`PeerConfig`](crate::PeerConfig).
    pub settings_digest: u64,
    /// The newest format of log and state that this node knows: told to the peers.
    pub format_max: u32,
    /// Software and version, for the other side's log.
    pub agent: String,
    /// All files together may have this many bytes.
    pub bytes_max: u64,
    /// Bytes per second at most; `None`: as fast as it goes.
    pub bytes_per_second: Option<u64>,
    /// For dialling, for the manifest, and between any two pieces of a file.
    pub timeout: Duration,
}

/// A snapshot that is complete, verified and durable in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedSnapshot {
    /// The last entry it holds.
    pub position: LogPosition,
    /// Names of its files.
    pub files: Vec<String>,
    /// Bytes that were there from an earlier attempt.
    pub bytes_resumed: u64,
    /// Bytes that came over the wire.
    pub bytes_received: u64,
}

/// Why a snapshot was not fetched. What has arrived stays in the directory.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The other side has no snapshot for us.
    #[error("node {peer} gives no snapshot: {reason}")]
    Refused {
        /// Whom we asked.
        peer: NodeId,
        /// What it said.
        reason: String,
    },
    /// It is older than asked for.
    #[error("node {peer} offers a snapshot up to {offered}, but {wanted} is needed")]
    TooOld {
        /// Whom we asked.
        peer: NodeId,
        /// What it has.
        offered: LogPosition,
        /// What we need.
        wanted: LogPosition,
    },
    /// Larger than allowed.
    #[error("the snapshot has {bytes} bytes in {files} files, the limits are {bytes_max} and {SNAPSHOT_FILES_MAX}")]
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// Its files.
        files: usize,
        /// Bytes allowed.
        bytes_max: u64,
    },
    /// The other side broke the protocol.
    #[error("node {peer} sent something that makes no sense: {detail}")]
    Malformed {
        /// Whom we asked.
        peer: NodeId,
        /// What it was.
        detail: String,
    },
    /// The connection broke, or nothing came for too long.
    #[error("the transfer from node {peer} broke off: {detail}")]
    Broken {
        /// Whom we asked.
        peer: NodeId,
        /// The cause.
        detail: String,
    },
    /// A file arrived whole and wrong.
    #[error("{}: arrived with checksum {found:08x}, but {expected:08x} is right", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// CRC-32C of what arrived.
        found: u32,
        /// CRC-32C in the manifest.
        expected: u32,
    },
    /// The disk.
    #[error("{}: {cause}", path.display())]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
}

/// Fetches snapshots.
#[derive(Debug, Clone)]
pub struct SnapshotClient {
    config: FetchConfig,
}

impl SnapshotClient {
    /// A client with these settings. Each fetch makes a connection of its own.
    #[must_use]
    pub fn new(config: FetchConfig) -> SnapshotClient {
        SnapshotClient { config }
    }

    /// Fetches a snapshot at least as new as `at_least` from node `peer` into `directory`, which must exist. Files there that are not part
    /// of the snapshot are removed.
    ///
    /// # Errors
    /// See [`FetchError`]; a later call with the same directory goes on where this one ended.
    pub async fn fetch(
        &self,
        peer: NodeId,
        address: &str,
        at_least: LogPosition,
        directory: &Path,
    ) -> Result<FetchedSnapshot, FetchError> {
        let (endpoint, connection) = self.connect(peer, address).await?;
        let mut transfer = Transfer {
            config: &self.config,
            peer,
            connection: &connection,
            directory: directory.to_owned(),
            pace: Pace::new(self.config.bytes_per_second),
            resumed: 0,
            received: 0,
        };
        let outcome = transfer.run(at_least).await;
        connection.close(0u32.into(), b"done");
        drop(connection);
        // Gives the close a moment to leave, so that the sender releases its files at once.
        let _told = tokio::time::timeout(Duration::from_millis(200), endpoint.wait_idle()).await;
        outcome
    }

    async fn connect(&self, peer: NodeId, address: &str) -> Result<(Endpoint, Connection), FetchError> {
        let identity = self.config.credentials.identity();
        let hello = wire::Hello {
            cluster: identity.cluster.as_str().to_owned(),
            node: identity.node_id().map_or(0, |id| id.0),
            settings_digest: self.config.settings_digest,
            format_max: self.config.format_max,
            address: String::new(),
            agent: self.config.agent.clone(),
        };
        let mut last = None;
        for remote in dial::resolve(address).await? {
            let endpoint = quic::dialler(remote).map_err(|cause| ConnectError::socket(address, &cause))?;
            let config = quic::dial_config(Protocol::Peer, &self.config.credentials);
            let attempt = tokio::time::timeout(self.config.timeout, async {
                let connection = dial::handshake(&endpoint, config, address, remote).await?;
                greet(&connection, &hello, address, peer).await?;
                Ok(connection)
            });
            match attempt.await {
                Ok(Ok(connection)) => return Ok((endpoint, connection)),
                Ok(Err(error)) => last = Some(error),
                Err(_) => {
                    let after = self.config.timeout;
                    last = Some(ConnectError::TimedOut { address: address.to_owned(), after });
                }
            }
        }
        Err(last.expect("resolve returns at least one address").into())
    }
}

struct Transfer<'a> {
    config: &'a FetchConfig,
    peer: NodeId,
    connection: &'a Connection,
    directory: PathBuf,
    pace: Pace,
    resumed: u64,
    received: u64,
}

impl Transfer<'_> {
    async fn run(&mut self, at_least: LogPosition) -> Result<FetchedSnapshot, FetchError> {
        let manifest = self.manifest(at_least).await?;
        let position = convert::position(manifest.position, "position").map_err(|cause| self.malformed(cause))?;
        if position < at_least {
            return Err(FetchError::TooOld { peer: self.peer, offered: position, wanted: at_least });
        }
        self.check(&manifest)?;
        let keep: BTreeSet<String> = manifest.files.iter().map(|file| file.name.clone()).collect();
        let directory = self.directory.clone();
        let names = keep.clone();
        self.on_disk(move || remove_others(&directory, &names)).await?;
        for file in &manifest.files {
            self.file(manifest.checkpoint, file).await?;
        }
        let directory = self.directory.clone();
        self.on_disk(move || sync_directory(&directory)).await?;
        Ok(FetchedSnapshot {
            position,
            files: keep.into_iter().collect(),
            bytes_resumed: self.resumed,
            bytes_received: self.received,
        })
    }

    async fn manifest(&self, at_least: LogPosition) -> Result<wire::SnapshotManifest, FetchError> {
        let request = wire::SnapshotRequest { at_least: Some(convert::position_to_wire(at_least)) };
        let mut reader = self.ask(kind::SNAPSHOT_REQUEST, &request).await?;
        let frame = self.in_time(reader.next(MANIFEST_BYTES_MAX)).await?.map_err(|cause| self.broken(cause))?;
        match frame {
            Some(frame) if frame.kind == kind::SNAPSHOT_MANIFEST => {
                wire::SnapshotManifest::decode(frame.body).map_err(|cause| self.malformed(cause))
            }
            Some(frame) if frame.kind == kind::SNAPSHOT_REFUSED => {
                let refused = wire::SnapshotRefused::decode(frame.body).map_err(|cause| self.malformed(cause))?;
                Err(FetchError::Refused { peer: self.peer, reason: refused.message })
            }
            Some(frame) => Err(self.malformed(format!("frame kind {} for a manifest", frame.kind))),
            None => Err(self.malformed("no manifest")),
        }
    }

    fn check(&self, manifest: &wire::SnapshotManifest) -> Result<(), FetchError> {
        let mut names = BTreeSet::new();
        let mut bytes: u64 = 0;
        for file in &manifest.files {
            if !is_file_name(&file.name) || !names.insert(file.name.as_str()) {
                return Err(self.malformed(format!("{:?} is no name for a file, or is there twice", file.name)));
            }
            bytes = bytes.saturating_add(file.bytes);
        }
        let files = manifest.files.len();
        if bytes > self.config.bytes_max || files > SNAPSHOT_FILES_MAX {
            return Err(FetchError::TooLarge { bytes, files, bytes_max: self.config.bytes_max });
        }
        Ok(())
    }

    async fn file(&mut self, checkpoint: u64, wanted: &wire::SnapshotFile) -> Result<(), FetchError> {
        let path = self.directory.join(&wanted.name);
        let opened = path.clone();
        let length = wanted.bytes;
        let found = self.on_disk(move || measure(&opened, length)).await?;
        let (mut there, mut crc) = found.unwrap_or((0, 0));
        if found == Some((wanted.bytes, wanted.crc32c)) {
            self.resumed += there;
            // It may have been written by an attempt that ended before its fsync.
            return self.on_disk(move || sync_file(&path)).await;
        }
        if there == wanted.bytes {
            (there, crc) = (0, 0);
        }
        let continued = there > 0;
        let found = self.receive(checkpoint, wanted, &path, there, crc).await?;
        if found == wanted.crc32c {
            self.resumed += there;
            return Ok(());
        }
        let found = if continued { self.receive(checkpoint, wanted, &path, 0, 0).await? } else { found };
        if found == wanted.crc32c {
            return Ok(());
        }
        let remove = path.clone();
        self.on_disk(move || std::fs::remove_file(&remove).map_err(at(&remove))).await?;
        Err(FetchError::Corrupt { path, found, expected: wanted.crc32c })
    }

    /// Fetches the rest of one file and fsyncs it. Returns the checksum of the whole.
    async fn receive(
        &mut self,
        checkpoint: u64,
        wanted: &wire::SnapshotFile,
        path: &Path,
        offset: u64,
        mut crc: u32,
    ) -> Result<u32, FetchError> {
        let request = wire::SnapshotFileRequest { checkpoint, name: wanted.name.clone(), offset };
        let mut reader = self.ask(kind::SNAPSHOT_FILE_REQUEST, &request).await?;
        let opened = path.to_owned();
        let mut file = self.on_disk(move || open_at(&opened, offset)).await?;
        let mut left = wanted.bytes - offset;
        while left > 0 {
            let mut pieces: Vec<Bytes> = Vec::new();
            let mut gathered = 0;
            while gathered < PIECE_BYTES && left > 0 && (pieces.is_empty() || reader.has_buffered()) {
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                let piece = self.in_time(reader.piece(most)).await?.map_err(|cause| self.broken(cause))?;
                let piece = piece.ok_or_else(|| self.broken(format!("{} ended early", wanted.name)))?;
                crc = crc32c::crc32c_append(crc, &piece);
                left -= piece.len() as u64;
                gathered += piece.len();
                pieces.push(piece);
            }
            self.received += gathered as u64;
            let named = path.to_owned();
            file = self.on_disk(move || append(file, &pieces, &named)).await?;
            self.pace.after(gathered as u64).await;
        }
        let named = path.to_owned();
        self.on_disk(move || file.sync_all().map_err(at(&named))).await?;
        Ok(crc)
    }

    async fn ask(&self, kind: u8, request: &impl prost::Message) -> Result<FrameReader, FetchError> {
        let (mut send, receive) = self.connection.open_bi().await.map_err(|cause| self.broken(cause))?;
        let mut out = BytesMut::new();
        put_frame(&mut out, kind, 0, request);
        send.write_chunk(out.freeze()).await.map_err(|cause| self.broken(cause))?;
        send.finish().map_err(|cause| self.broken(cause))?;
        Ok(FrameReader::new(receive))
    }

    async fn in_time<T>(
        &self,
        future: impl Future<Output = Result<T, FrameError>>,
    ) -> Result<Result<T, FrameError>, FetchError> {
        tokio::time::timeout(self.config.timeout, future)
            .await
            .map_err(|_| self.broken(format!("nothing came for {} ms", self.config.timeout.as_millis())))
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
    ) -> Result<T, FetchError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(outcome) => outcome,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    fn malformed(&self, detail: impl ToString) -> FetchError {
        FetchError::Malformed { peer: self.peer, detail: detail.to_string() }
    }

    fn broken(&self, detail: impl ToString) -> FetchError {
        FetchError::Broken { peer: self.peer, detail: detail.to_string() }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FetchError {
    let path = path.to_owned();
    move |cause| FetchError::Disk { path, cause }
}

fn remove_others(directory: &Path, keep: &BTreeSet<String>) -> Result<(), FetchError> {
    for entry in std::fs::read_dir(directory).map_err(at(directory))? {
        let entry = entry.map_err(at(directory))?;
        if !entry.file_name().to_str().is_some_and(|name| keep.contains(name)) {
            std::fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
        }
    }
    Ok(())
}

/// Length and checksum of what an earlier attempt left; a file that is longer than it should be counts as none.
fn measure(path: &Path, bytes_max: u64) -> Result<Option<(u64, u32)>, FetchError> {
    match File::open(path) {
        Ok(mut file) => {
            let (bytes, crc) = checksum(&mut file).map_err(at(path))?;
            Ok((bytes <= bytes_max).then_some((bytes, crc)))
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(at(path)(cause)),
    }
}

fn open_at(path: &Path, offset: u64) -> Result<File, FetchError> {
    use std::io::{Seek, SeekFrom};
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(at(path))?;
    file.set_len(offset).map_err(at(path))?;
    file.seek(SeekFrom::Start(offset)).map_err(at(path))?;
    Ok(file)
}

fn append(mut file: File, pieces: &[Bytes], path: &Path) -> Result<File, FetchError> {
    for piece in pieces {
        file.write_all(piece).map_err(at(path))?;
    }
    Ok(file)
}

fn sync_file(path: &Path) -> Result<(), FetchError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(at(path))
}

fn sync_directory(path: &Path) -> Result<(), FetchError> {
    sync_file(path)
}

/// Holds a transfer to a rate by waiting after each piece; QUIC's flow control then holds the sender.
struct Pace {
    bytes_per_second: Option<u64>,
    started: Instant,
    bytes: u64,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Pace {
        Pace { bytes_per_second, started: Instant::now(), bytes: 0 }
    }

    async fn after(&mut self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        self.bytes += bytes;
        let due = Duration::from_secs_f64(self.bytes as f64 / rate.max(1) as f64);
        tokio::time::sleep_until((self.started + due).into()).await;
    }
}

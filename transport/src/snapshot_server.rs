//! The sending side of a snapshot transfer: what one peer has open on one connection.

use crate::convert;
use crate::error::{Refusal, RefusalCode};
use crate::frame::{FrameReader, put_frame};
use crate::peer::kind;
use crate::proto::peer as wire;
use crate::snapshot::{FILE_NAME_BYTES_MAX, OpenSnapshot, PIECE_BYTES, SnapshotSource, manifest_to_wire};
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use quinn::{Connection, RecvStream, SendStream};
use raft::NodeId;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::warn;

/// Requests are short: a position, or a name and an offset.
const REQUEST_BYTES_MAX: usize = 256 + FILE_NAME_BYTES_MAX;

pub(crate) struct SnapshotSession {
    peer: NodeId,
    source: Option<Arc<dyn SnapshotSource>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Arc<OpenSnapshot>>,
    opening: bool,
    ended: bool,
}

/// Why a stream was given up.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("the request is malformed: {0}")]
    Malformed(String),
    #[error("{0}")]
    Refused(String),
    #[error("{path}: {cause}")]
    File { path: PathBuf, cause: io::Error },
    #[error("the stream broke: {0}")]
    Stream(#[from] quinn::WriteError),
}

impl SnapshotSession {
    pub(crate) fn new(peer: NodeId, source: Option<Arc<dyn SnapshotSource>>) -> SnapshotSession {
        SnapshotSession { peer, source, state: Mutex::default() }
    }

    /// Serves one stream: a request for the manifest or for a file.
    pub(crate) async fn serve(self: Arc<Self>, connection: Connection, mut send: SendStream, receive: RecvStream) {
        let outcome = self.answer(&mut send, receive).await;
        let refusal = match outcome {
            Ok(()) => return,
            Err(ServeError::Stream(_)) => return,
            Err(ServeError::Malformed(detail)) => {
                Refusal::new(RefusalCode::Protocol, detail.as_str()).close(&connection);
                detail
            }
            Err(error @ (ServeError::Refused(_) | ServeError::File { .. })) => {
                let message = error.to_string();
                let mut out = BytesMut::new();
                put_frame(&mut out, kind::SNAPSHOT_REFUSED, 0, &wire::SnapshotRefused { message: message.clone() });
                // After a file's stream was broken off this fails, and so it does when the other side is gone: nobody is left to tell.
                if send.write_chunk(out.freeze()).await.is_err() || send.finish().is_err() {
                    warn!(peer = %self.peer, cause = message, "snapshot request not served");
                    return;
                }
                message
            }
        };
        warn!(peer = %self.peer, cause = refusal, "snapshot request not served");
    }

    async fn answer(self: &Arc<Self>, send: &mut SendStream, receive: RecvStream) -> Result<(), ServeError> {
        let malformed = |detail: String| ServeError::Malformed(detail);
        let frame = FrameReader::new(receive).next(REQUEST_BYTES_MAX).await.map_err(|e| malformed(e.to_string()))?;
        let frame = frame.ok_or_else(|| malformed("an empty request".to_owned()))?;
        match frame.kind {
            kind::SNAPSHOT_REQUEST => {
                let request =
                    wire::SnapshotRequest::decode(frame.body).map_err(|cause| malformed(cause.to_string()))?;
                let at_least =
                    convert::position(request.at_least, "at_least").map_err(|cause| malformed(cause.to_string()))?;
                let snapshot = self.open(at_least).await?;
                let mut out = BytesMut::new();
                put_frame(&mut out, kind::SNAPSHOT_MANIFEST, 0, &manifest_to_wire(&snapshot));
                send.write_chunk(out.freeze()).await?;
            }
            kind::SNAPSHOT_FILE_REQUEST => {
                let request =
                    wire::SnapshotFileRequest::decode(frame.body).map_err(|cause| malformed(cause.to_string()))?;
                if let Err(error) = self.send_file(send, request).await {
                    // The stream carries the file's bytes and nothing else, so a failure can only break it off.
                    let _reset = send.reset(1u32.into());
                    return Err(error);
                }
            }
            other => return Err(malformed(format!("frame kind {other} on a stream for snapshots"))),
        }
        // Fails only for a stream that is closed already.
        let _finished = send.finish();
        Ok(())
    }

    async fn open(self: &Arc<Self>, at_least: raft::LogPosition) -> Result<Arc<OpenSnapshot>, ServeError> {
        let refused = |text: &str| ServeError::Refused(text.to_owned());
        let source = self.source.clone().ok_or_else(|| refused("this node gives out no snapshots"))?;
        {
            let mut state = self.lock();
            if state.opening || state.open.is_some() {
                return Err(refused("this connection has a snapshot open already"));
            }
            state.opening = true;
        }
        let session = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let opened = source.open(session.peer, at_least);
            let mut state = session.lock();
            state.opening = false;
            let opened = Arc::new(opened?);
            if state.ended {
                source.release(opened.checkpoint);
                return Err("the connection ended".to_owned());
            }
            state.open = Some(opened.clone());
            Ok(opened)
        });
        task.await.map_err(|_| refused("opening the snapshot failed"))?.map_err(ServeError::Refused)
    }

    async fn send_file(&self, send: &mut SendStream, request: wire::SnapshotFileRequest) -> Result<(), ServeError> {
        let snapshot = self.lock().open.clone();
        let snapshot = snapshot
            .filter(|snapshot| snapshot.checkpoint == request.checkpoint)
            .ok_or_else(|| ServeError::Refused(format!("checkpoint {} is not open", request.checkpoint)))?;
        // The name is looked up, never used as it came: only listed files can be read.
        let file = snapshot.files.iter().find(|file| file.name == request.name);
        let file = file.ok_or_else(|| ServeError::Refused(format!("no file {:?}", request.name)))?;
        let path = snapshot.directory.join(&file.name);
        let mut left = file.bytes.saturating_sub(request.offset);
        let mut reader = Some(FileAt { path, offset: request.offset, file: None });
        while left > 0 {
            let mut current = reader.take().expect("put back at the end of each round");
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let task = tokio::task::spawn_blocking(move || {
                let piece = current.read(wanted);
                (current, piece)
            });
            let (current, piece) = task.await.map_err(|_| ServeError::Refused("reading failed".to_owned()))?;
            let piece = piece.map_err(|cause| ServeError::File { path: current.path.clone(), cause })?;
            left -= piece.len() as u64;
            send.write_chunk(piece).await?;
            reader = Some(current);
        }
        Ok(())
    }

    /// The connection is over.
    pub(crate) fn end(&self) {
        let open = {
            let mut state = self.lock();
            state.ended = true;
            state.open.take()
        };
        if let (Some(open), Some(source)) = (open, self.source.clone()) {
            tokio::task::spawn_blocking(move || source.release(open.checkpoint));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct FileAt {
    path: PathBuf,
    offset: u64,
    file: Option<std::fs::File>,
}

impl FileAt {
    fn read(&mut self, bytes: usize) -> io::Result<Bytes> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = std::fs::File::open(&self.path)?;
                file.seek(SeekFrom::Start(self.offset))?;
                none.insert(file)
            }
        };
        let mut buffer = vec![0; bytes];
        file.read_exact(&mut buffer)?;
        Ok(Bytes::from(buffer))
    }
}

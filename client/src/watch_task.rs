//! The task behind a watch: it reads what a node sends, hands it on, and takes the watch up again.
//!
//! Its position is the first revision that has not come as a whole. A reply moves it, and only a whole reply does, so a stream may break anywhere. Which
//! failures end a watch is decided where all failures are, in `policy.rs`; what a later moment may mend is tried again without end, because
//! a watch that gives up is a watch that missed something.
//!
//! A program that does not take its events must not fill the window of the connection, which requests and other watches share: after a while the task
//! lets go of its stream, and begins a new one when there is room again.

use crate::client::{Client, Deadline, Done, OpenWatch, Work, nonsense};
use crate::error::Error;
use crate::policy::{Failure, Purpose, Verdict, judge, pause};
use crate::position::WatchPosition;
use crate::watch::{Watch, WatchBatch};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use transport::WatchError;
use transport::proto::client as wire;

/// How long a stream is kept for a program that does not take what came on it.
const UNTAKEN_MAX: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct WatchTask {
    client: Client,
    watch: Watch,
    position: WatchPosition,
    open: Option<OpenWatch>,
    /// How often the watch was taken up again without a reply since.
    fruitless: u32,
    batches: mpsc::Sender<Result<WatchBatch, Error>>,
}

/// Why the task ends.
enum End {
    /// Nobody takes events any more.
    Dropped,
    /// The watch cannot go on.
    Failed(Error),
}

impl WatchTask {
    /// A watch that a node has begun, from revision `next` on.
    pub(crate) fn new(
        client: Client,
        watch: Watch,
        next: u64,
        open: OpenWatch,
        batches: mpsc::Sender<Result<WatchBatch, Error>>,
    ) -> WatchTask {
        WatchTask { client, watch, position: WatchPosition::new(next), open: Some(open), fruitless: 0, batches }
    }

    /// Runs until the watch ends.
    pub(crate) async fn run(mut self) {
        loop {
            match self.advance().await {
                Ok(()) => {}
                Err(End::Dropped) => return,
                Err(End::Failed(error)) => {
                    // Fails when nobody takes events any more.
                    let _told = self.batches.send(Err(error)).await;
                    return;
                }
            }
        }
    }

    /// Receives one reply and hands it on, or takes the watch up again.
    async fn advance(&mut self) -> Result<(), End> {
        let Some(open) = &mut self.open else { return self.resume().await };
        let failure = match open.stream.next(self.watch.silence_max()).await {
            Ok(reply) => match self.position.take(reply) {
                Some(batch) => {
                    self.fruitless = 0;
                    let is_of_use = !batch.events.is_empty() || self.watch.progress;
                    return if is_of_use { self.hand_on(batch).await } else { Ok(()) };
                }
                None => Failure::Nonsense,
            },
            Err(error) => watch_failure(error, Failure::Lost),
        };
        let address = self.open.take().expect("it was read from").address;
        let error = match judge(Purpose::Read, &address, failure) {
            Verdict::Fail(error) => return Err(End::Failed(error)),
            Verdict::Retry { error, .. } => error,
        };
        tracing::debug!(endpoint = %address, %error, next = self.position.next(), "the watch goes on anew");
        self.client.avoid(&address);
        Ok(())
    }

    async fn hand_on(&mut self, batch: WatchBatch) -> Result<(), End> {
        let room = match timeout(UNTAKEN_MAX, self.batches.reserve()).await {
            Ok(room) => room,
            Err(_) => {
                tracing::debug!(
                    next = self.position.next(),
                    "nobody takes the events of this watch: its stream is let go"
                );
                self.open = None;
                self.batches.reserve().await
            }
        };
        room.map_err(|_| End::Dropped)?.send(Ok(batch));
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), End> {
        if let Some(round) = self.fruitless.checked_sub(1) {
            // A node that begins watches and breaks them off must not be asked without a pause.
            tokio::time::sleep(pause(round, rand::random())).await;
        }
        self.fruitless = self.fruitless.saturating_add(1);
        match begin(&self.client, self.watch.resumed_at(self.position.next())).await {
            Ok(open) => {
                self.open = Some(open);
                Ok(())
            }
            Err(error @ (Error::Unavailable { .. } | Error::TimedOut { .. })) => {
                tracing::debug!(%error, next = self.position.next(), "the watch waits for a node");
                Ok(())
            }
            Err(error) => Err(End::Failed(error)),
        }
    }
}

/// Begins a watch at a node and reads its first reply.
pub(crate) async fn begin(client: &Client, request: wire::WatchRequest) -> Result<OpenWatch, Error> {
    match client.run(Purpose::Read, &Work::Watch(request), Deadline::after(client.timeout())).await? {
        (_, Done::Watch(open)) => Ok(*open),
        (address, Done::Call(_) | Done::Scan(_)) => Err(nonsense(Purpose::Read, &address)),
    }
}

pub(crate) fn watch_failure(error: WatchError, broken: impl FnOnce(String) -> Failure) -> Failure {
    match error {
        WatchError::Node(error) => Failure::Node(error),
        WatchError::Broken { cause } => broken(cause),
        WatchError::Silent { after } => Failure::Silent(after),
    }
}

//! Waiting for what others do to keys: by a watch, and by a pause where something has to be tried again.

use crate::client::Client;
use crate::error::Error;
use crate::request::Get;
use crate::value::KeyValue;
use crate::watch::{Watch, WatchEvent};
use bytes::Bytes;
use std::time::Duration;

/// The first pause between two attempts.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The pauses between two attempts: doubling, each between half and the whole, so that those who wait for the same do not come together.
pub(crate) struct Pauses {
    whole: Duration,
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses { whole: PAUSE_FIRST }
    }
}

impl Pauses {
    /// Waits for one pause.
    pub(crate) async fn pause(&mut self) {
        let jitter: f64 = rand::random();
        tokio::time::sleep(self.whole.mul_f64(0.5 + jitter / 2.0)).await;
        self.whole = (self.whole * 2).min(PAUSE_MAX);
    }
}

/// Returns when what a key holds is no longer what it should be, or it holds nothing; at once if it is so already.
///
/// # Errors
/// When the watch cannot begin or the key cannot be read: it may be called again.
pub(crate) async fn wait_for_change(
    client: &Client,
    key: &Bytes,
    is_right: impl Fn(&KeyValue) -> bool,
) -> Result<(), Error> {
    let is_wrong = |event: &WatchEvent| match event {
        WatchEvent::Put { kv, .. } => !is_right(kv),
        WatchEvent::Delete { .. } => true,
    };
    loop {
        // The watch comes first: what changes before the read is seen by the read, and what changes after it by the watch.
        let mut changes = client.watch(Watch::key(key.clone())).await?;
        let found = client.get(Get::new(key.clone())).await?;
        if !found.kv.as_ref().is_some_and(&is_right) {
            return Ok(());
        }
        loop {
            match changes.next().await {
                Ok(batch) if batch.events.iter().any(is_wrong) => return Ok(()),
                Ok(_) => {}
                // What happened meanwhile can no longer be told, but what there is now can.
                Err(Error::CompactedRevision { .. }) => break,
                Err(error) => return Err(error),
            }
        }
    }
}

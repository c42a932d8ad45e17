//! Waiting for what others do to keys.
//!
//! The one place that knows how: by reading again and again, at an interval that grows to half a second. Each read is linearizable, so
//! nothing is missed that lasts; what comes and goes between two reads is not seen, and none of the callers needs it to be.

use crate::client::Client;
use crate::error::Error;
use crate::request::Get;
use bytes::Bytes;
use std::time::Duration;

/// The first pause between two reads.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The pauses between two reads: doubling, each between half and the whole, so that those who wait for the same do not come together.
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

/// Returns when the key that was created at `create_revision` is deleted; at once if it is already, or if another has been created in its
/// place.
///
/// # Errors
/// When a read fails: it may be called again.
pub(crate) async fn wait_for_deletion(client: &Client, key: &Bytes, create_revision: u64) -> Result<(), Error> {
    let mut pauses = Pauses::default();
    loop {
        let found = client.get(Get::new(key.clone())).await?;
        if found.kv.is_none_or(|kv| kv.create_revision != create_revision) {
            return Ok(());
        }
        pauses.pause().await;
    }
}

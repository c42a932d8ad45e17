//! The connections to one node.
//!
//! A fixed number of slots, used in turn. A slot dials when it is first used, and again after its connection has ended. However many
//! requests want a slot, one dials and the others wait for how that ends: a node that is down costs each of them one dial's time, not one dial
//! each.

use crate::directory::Address;
use crate::request::Limits;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use transport::{ClientConnection, ConnectError, Credentials};

/// A connection that is through its Hello, and what the node said there.
pub(crate) struct Connected {
    pub(crate) connection: ClientConnection,
    pub(crate) limits: Limits,
}

pub(crate) struct Endpoint {
    address: Address,
    slots: Box<[Slot]>,
    turn: AtomicUsize,
}

#[derive(Default)]
struct Slot {
    current: Mutex<Option<Arc<Connected>>>,
    /// Held by the one who dials.
    dialling: tokio::sync::Mutex<()>,
    /// Dials that failed.
    failures: AtomicU64,
    /// How the last of them failed.
    failure: Mutex<Option<ConnectError>>,
}

impl Endpoint {
    pub(crate) fn new(address: Address, connections: usize) -> Endpoint {
        assert!(connections > 0, "the builder refuses to build without connections");
        let slots = (0..connections).map(|_| Slot::default()).collect();
        Endpoint { address, slots, turn: AtomicUsize::new(0) }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// A connection, by a dial if there is none.
    pub(crate) async fn connection(
        &self,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<Arc<Connected>, ConnectError> {
        let turn = if self.slots.len() == 1 { 0 } else { self.turn.fetch_add(1, Ordering::Relaxed) % self.slots.len() };
        let slot = &self.slots[turn];
        if let Some(connected) = lock(&slot.current).clone() {
            return Ok(connected);
        }
        let failures_before = slot.failures.load(Ordering::Acquire);
        let timed_out = || ConnectError::TimedOut { address: self.address.to_string(), after: timeout };
        let _dialling = tokio::time::timeout(timeout, slot.dialling.lock()).await.map_err(|_| timed_out())?;
        if let Some(connected) = lock(&slot.current).clone() {
            return Ok(connected);
        }
        if slot.failures.load(Ordering::Acquire) != failures_before
            && let Some(failure) = lock(&slot.failure).clone()
        {
            return Err(failure);
        }
        match ClientConnection::connect(&self.address, credentials, timeout).await {
            Ok((connection, hello)) => {
                tracing::debug!(
                    endpoint = %self.address, node = hello.node, name = hello.name, version = hello.version, "connected"
                );
                let limits = Limits { key_bytes_max: hello.key_bytes_max, value_bytes_max: hello.value_bytes_max };
                let connected = Arc::new(Connected { connection, limits });
                *lock(&slot.current) = Some(connected.clone());
                Ok(connected)
            }
            Err(error) => {
                tracing::debug!(endpoint = %self.address, %error, "no connection");
                *lock(&slot.failure) = Some(error.clone());
                slot.failures.fetch_add(1, Ordering::Release);
                Err(error)
            }
        }
    }

    /// Lets go of a connection that has ended or does not answer. Requests under way on it keep it until they are done.
    pub(crate) fn discard(&self, connected: &Arc<Connected>) {
        for slot in &self.slots {
            let mut current = lock(&slot.current);
            if current.as_ref().is_some_and(|known| Arc::ptr_eq(known, connected)) {
                *current = None;
            }
        }
    }
}

/// What the mutexes here guard is replaced whole, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

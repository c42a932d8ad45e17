//! The connections of a shell: a client is made for the first command that needs it, and kept for those that come after.
//!
//! One client for each set of settings, so a line with another `--timeout` or `--context` has one of its own, and the next line with the same
//! finds it there. So many are kept at most; the oldest goes first.

use crate::arguments::Globals;
use crate::failure::Failure;
use client::Client;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Clients kept at the same time.
const CLIENTS_MAX: usize = 8;

/// The clients of a session.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// The oldest first.
    clients: Mutex<Vec<(Settings, Client)>>,
}

/// All that a client is made of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    endpoints: Vec<String>,
    credentials: [Option<PathBuf>; 3],
    timeout: Duration,
    connections: usize,
}

impl Settings {
    pub(crate) fn of(globals: &Globals, connections: usize) -> Settings {
        Settings {
            endpoints: globals.endpoints.clone(),
            credentials: [globals.ca.clone(), globals.cert.clone(), globals.key.clone()],
            timeout: globals.timeout,
            connections,
        }
    }
}

impl Session {
    /// The client with these settings, made with `build` if there is none yet.
    pub(crate) fn client(
        &self,
        settings: Settings,
        build: impl FnOnce() -> Result<Client, Failure>,
    ) -> Result<Client, Failure> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients.iter().find(|(known, _)| *known == settings) {
            return Ok(client.clone());
        }
        let client = build()?;
        if clients.len() >= CLIENTS_MAX {
            clients.remove(0);
        }
        clients.push((settings, client.clone()));
        Ok(client)
    }
}

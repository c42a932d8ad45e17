//! The server of raftkv as a library: embed a node, watch what happens to it, stop it in order.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use raftkv::{Config, NoObserver, Server};
//!
//! let config = Config::load("n1/raftkv.toml".as_ref())?;
//! let server = Server::start(config, Box::new(NoObserver)).await?;
//! // … serve …
//! server.stop().await?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod amnesia;
mod apply_thread;
pub mod apply_worker;
mod clock;
pub mod config;
pub mod directory;
pub mod driver;
mod error;
pub mod exit;
mod failure;
mod host;
pub mod http;
mod inbox;
mod leaving;
mod log_thread;
pub mod log_worker;
pub mod marker;
pub mod members;
mod observer;
mod operator;
pub mod peers;
pub mod ports;
mod premises;
pub mod provision;
pub mod recovery;
pub mod requests;
mod scans;
mod server;
mod service;
mod shared_state;
mod snapshots;
mod space;
mod state;
pub mod status;
pub mod watch;

pub use config::{Config, ConfigError};
pub use error::StartError;
pub use failure::FatalError;
pub use observer::{NoObserver, Observer};
pub use server::Server;
pub use state::InstallError;

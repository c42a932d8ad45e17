//! The deterministic simulator: whole cluster lives in one thread, from one seed, in virtual time.
//!
//! # The idea
//!
//! A run is one thread, one seed and a queue of what is due. It holds a cluster of three or five nodes and a handful of clients. The nodes
//! are the production code: the core, the driver, the log with its segments and its recovery, the state machine on its memory engine, the
//! reconciling of log and state after a crash, the checking of requests and the making of answers. The clients are the production
//! library's directory, routes and retry policy. Only what is around that is not real: disks, network, clocks, and the threads
//! between which a node's work is divided, whose every job ends at a moment of simulated time that the seed decides.
//!
//! So a fault can come at any moment, and a failure can be repeated: the same seed gives the same run, to the last message.
//!
//! # What is where
//!
//! - `settings` and `faults` draw from the seed what a run is like; `world` runs it; `check` holds it against what must be true.
//! - `disk`, `network`, `clock` are what fails.
//! - `campaign` runs many seeds, `counters` says what they have met.
//!
//! # Caveats
//!
//! Threads of a node do not run at the same time, but for reads of a run that is written and not announced yet (`engine`): what else goes wrong between two
//! threads on one piece of memory is not found here. The engine in memory stands for RocksDB and its directory switch; snapshots travel as a whole, not in files and pieces; TLS and QUIC are absent.
//! Tests with real processes are there for these.

#![forbid(unsafe_code)]

pub mod campaign;
mod check;
mod checks;
mod clients;
pub mod clock;
pub mod counters;
mod damage;
pub mod disk;
mod engine;
pub mod faults;
mod host;
mod injection;
mod lives;
pub mod network;
mod node;
mod operator;
mod premises;
pub mod random;
pub mod schedule;
mod serving;
pub mod settings;
mod space;
pub mod trace;
mod turns;
mod upgrade;
mod watching;
mod work;
pub mod workload;
mod world;

pub use world::{Report, run};

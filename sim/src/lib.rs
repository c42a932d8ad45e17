//! The deterministic simulator: whole cluster lives in one thread, from one seed, in virtual time.

#![forbid(unsafe_code)]

mod check;
mod checks;
mod clients;
pub mod clock;
pub mod counters;
pub mod faults;
mod host;
mod injection;
mod lives;
pub mod network;
mod node;
mod placeholder_disk;
pub mod random;
pub mod schedule;
mod serving;
pub mod settings;
pub mod trace;
mod turns;
mod work;
pub mod workload;
mod world;

pub use world::{Report, run};

//! The deterministic simulator: whole cluster lives in one thread, from one seed, in virtual time.

#![forbid(unsafe_code)]

pub mod clock;
mod host;
pub mod random;
pub mod schedule;

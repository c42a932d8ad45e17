//! Everything raftkv keeps on disk: the data directory and its identity, the format of log payloads, and the MVCC state machine
//! on RocksDB.

#![forbid(unsafe_code)]

pub mod command;
pub mod identity;
pub mod state;

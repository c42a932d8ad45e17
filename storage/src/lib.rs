//! Everything raftkv keeps on disk: the data directory and its identity, the log, the format of its payloads, and the MVCC state
//! machine on RocksDB.

#![forbid(unsafe_code)]

pub mod command;
pub mod identity;
pub mod state;
pub mod wal;

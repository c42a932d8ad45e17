//! One file for each command.

pub(crate) mod bench;
pub(crate) mod compact;
pub(crate) mod completions;
pub(crate) mod context;
pub(crate) mod del;
pub(crate) mod elect;
pub(crate) mod export;
pub(crate) mod get;
pub(crate) mod import;
pub(crate) mod leader;
pub(crate) mod lease;
pub(crate) mod lock;
pub(crate) mod man;
pub(crate) mod member;
pub(crate) mod put;
pub(crate) mod scan;
pub(crate) mod shell;
pub(crate) mod status;
pub(crate) mod txn;
pub(crate) mod version;
pub(crate) mod watch;

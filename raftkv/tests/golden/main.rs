//! The command line word for word: what every command prints, and the exit code it ends with, against clusters of real processes.
//!
//! A test runs some commands and writes down what a person would have seen; that transcript is compared with the one kept in `snapshots/`:
//!
//! ```text
//! $ raftkv-cli get missing
//! ! error: key not found: missing (endpoint N1)
//! !   try: raftkv-cli scan --keys-only, to see which keys exist
//! exit 3
//! ```
//!
//! Lines of standard input begin with `<`, those of standard error with `!`. An exit code is written where it is not zero. What differs from run to run is replaced by words in
//! capitals ([`transcript`]); everything else is compared, blanks included.
//!
//! **To accept a change**, look at the difference that the failed test shows, and if it is what you meant, run the tests again with
//! `INSTA_UPDATE=always`; then the change is in the diff of the commit, for whoever reads it. A failed test leaves a file `*.snap.new`
//! beside the old one, which is not for the repository. A new command has no transcript and no page of help yet: the tests fail until it has
//! both ([`help`]).

#[path = "../common/mod.rs"]
mod common;

mod cluster;
mod contexts;
mod coordination;
mod data;
mod exit_codes;
mod help;
mod running;
mod shell;
mod terminal;
mod transcript;

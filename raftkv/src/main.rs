//! The binary `raftkv`: the server, and what an operator does beside it.

mod commands;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A replicated key-value store for the few keys that everything else depends on.
#[derive(Parser)]
#[command(name = "raftkv", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Provision a new cluster offline: its CA, an admin certificate and one ready-to-copy directory per node
    Init(commands::init::Arguments),
    /// Run one node
    Start(commands::start::Arguments),
    /// Run a whole cluster of real processes on this machine, for a look around; Ctrl-C ends it
    Demo(commands::demo::Arguments),
    /// Look into a node's data directory while it does not run; changes nothing
    Inspect(commands::inspect::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Init(arguments) => commands::init::run(&arguments),
        Command::Start(arguments) => commands::start::run(&arguments),
        Command::Demo(arguments) => commands::demo::run(&arguments),
        Command::Inspect(arguments) => commands::inspect::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => commands::report(&error),
    }
}

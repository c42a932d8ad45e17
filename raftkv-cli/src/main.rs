//! `raftkv-cli`: raftkv from the command line.
//!
//! Data goes to standard output, everything else to standard error. What a command comes to is its exit code: [`failure::Code`] is the
//! table. Each command has one file under `commands/`. `shell` runs the same commands, through [`run`], over and over.

mod arguments;
mod commands;
mod connect;
mod contexts;
mod environment_file;
mod failure;
mod interrupt;
mod output;
mod record;
mod sent_signals;
mod session;
mod settings;
mod source;
mod steps;
mod supervise;
mod transaction;

use arguments::{Arguments, Command, Globals};
use failure::Failure;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Usage errors end here, with 2.
    let Arguments { globals, command } =
        Arguments::parse_line(std::env::args_os()).unwrap_or_else(|error| error.exit());
    if globals.verbose {
        log_to_stderr();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => return report(&Failure::other(format!("no threads to run on: {cause}"))),
    };
    let outcome = runtime.block_on(run(command, globals));
    // A thread may be reading standard input for ever.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

/// Carries out one command, with what the context adds to its settings.
async fn run(command: Command, globals: Globals) -> Result<(), Failure> {
    settings::check_given(&globals)?;
    // These need no cluster, and are what mends a file of contexts that cannot be read.
    let is_local = matches!(command, Command::Context(_) | Command::Completions(_) | Command::Man(_));
    let globals = &if is_local { globals } else { settings::complete(globals)? };
    match command {
        Command::Put(arguments) => commands::put::run(arguments, globals).await,
        Command::Get(arguments) => commands::get::run(arguments, globals).await,
        Command::Del(arguments) => commands::del::run(arguments, globals).await,
        Command::Scan(arguments) => commands::scan::run(arguments, globals).await,
        Command::Txn(arguments) => commands::txn::run(arguments, globals).await,
        Command::Lease(command) => commands::lease::run(command, globals).await,
        Command::Lock(arguments) => commands::lock::run(arguments, globals).await,
        Command::Elect(arguments) => commands::elect::run(arguments, globals).await,
        Command::Watch(arguments) => commands::watch::run(arguments, globals).await,
        Command::Status(arguments) => commands::status::run(&arguments, globals).await,
        Command::Leader(command) => commands::leader::run(command, globals).await,
        Command::Member(command) => commands::member::run(command, globals).await,
        Command::Compact(arguments) => commands::compact::run(arguments, globals).await,
        Command::Import(arguments) => commands::import::run(arguments, globals).await,
        Command::Export(arguments) => commands::export::run(arguments, globals).await,
        Command::Bench(command) => commands::bench::run(command, globals).await,
        Command::Context(command) => commands::context::run(command, globals),
        Command::Shell(arguments) => commands::shell::run(arguments, globals).await,
        Command::Completions(arguments) => commands::completions::run(&arguments),
        Command::Man(arguments) => commands::man::run(&arguments),
        Command::Version => commands::version::run(globals).await,
    }
}

fn report(failure: &Failure) -> ExitCode {
    if !failure.code.is_quiet() {
        // Where standard error is closed there is nobody to tell; the exit code remains.
        let _told = writeln!(std::io::stderr(), "{failure}");
    }
    ExitCode::from(failure.code.number())
}

fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,raftkv_client=debug,raftkv_transport=debug"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

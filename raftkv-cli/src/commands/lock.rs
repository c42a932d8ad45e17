//! `lock`: hold a lock, for as long as a command runs or until Ctrl-C.

use crate::arguments::{self, Globals};
use crate::connect;
use crate::failure::{Code, Failure, quoted};
use crate::interrupt::{self, tell};
use crate::output::{Format, Output};
use crate::record;
use crate::source::bytes_of;
use crate::supervise::{self, Ended};
use clap::Args;
use client::{Client, Error, Lock, LockError, LockGuard};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

/// Hold a lock while a command runs, or until Ctrl-C
///
/// Waits until the lock is free. With a command, runs it with RAFTKV_LOCK_KEY and RAFTKV_FENCING_TOKEN in its environment, frees the lock
/// when it ends, and ends with its exit code. If the lock is lost meanwhile, because the cluster could not be reached or this program stood
/// still for the time of --ttl, the command and what it has started get SIGTERM, and SIGKILL after --grace, and this ends with 5, or with 3 if the cluster had ended it.
///
/// Without a command, prints the fencing token and holds the lock until Ctrl-C.
///
/// As with a shell, the exit code is 127 if there is no such command, and 126 if it cannot be run. What somebody sends to this program of SIGINT, SIGQUIT, SIGTERM
/// and SIGHUP is passed on to the command and what it has started.
///
/// If this program is killed with SIGKILL, the lock is free after --ttl, and the command gets SIGTERM. What it has started does not, and nobody
/// waits until they have ended: they may run on beside the next holder's.
///
/// A lock from afar cannot stop a machine that stands still and then goes on. Where that matters, send the fencing token along with what is
/// done under the lock: each holder has a greater one than those before, so the other side can turn down what is late.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli lock backup -- ./backup.sh
  raftkv-cli lock backup --try -- ./backup.sh
  raftkv-cli lock migrations --ttl 30s -- sh -c './migrate --fencing-token $RAFTKV_FENCING_TOKEN'")]
pub(crate) struct LockArguments {
    /// The name of the lock; its keys begin with NAME/@
    #[arg(value_name = "NAME", value_parser = arguments::name())]
    pub(crate) name: OsString,
    /// How long the lock outlives this program if that is killed, like 10s
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = arguments::ttl)]
    pub(crate) ttl: Duration,
    /// Do not wait: end with 4 if somebody has it
    #[arg(long = "try", conflicts_with = "wait")]
    pub(crate) only_try: bool,
    /// How long to wait at most, like 1m; then end with 4. Without it, as long as it takes
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    pub(crate) wait: Option<Duration>,
    /// How long a command may take to end once the lock is lost
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = arguments::duration)]
    pub(crate) grace: Duration,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

pub(crate) async fn run(arguments: LockArguments, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let lock = Lock::new(bytes_of(arguments.name.clone())).ttl(arguments.ttl).value(holder());
    let guard = take(&client, lock, &arguments, globals).await;
    let guard = match guard {
        Ok(guard) => guard,
        Err(failure) => {
            client.close_session().await;
            return Err(failure);
        }
    };
    let what = format!("lock {}", quoted(&arguments.name));
    let outcome = if arguments.command.is_empty() {
        hold(&guard, &what, globals).await
    } else {
        let environment = [
            ("RAFTKV_LOCK_KEY", OsString::from_vec(guard.key().to_vec())),
            ("RAFTKV_FENCING_TOKEN", guard.token().to_string().into()),
        ];
        match supervise::run(&arguments.command, &environment, guard.lost(), arguments.grace).await {
            Ok(Ended::ByItself(0)) => Ok(()),
            Ok(Ended::ByItself(code)) => Err(Failure::of_command(code)),
            Ok(Ended::Lost(loss)) => Err(Failure::of_lost_place(&what, &loss, connect::asked(globals))),
            Err(failure) => Err(failure),
        }
    };
    if !guard.is_lost() {
        match guard.unlock().await {
            // That it has ended already is what is wanted.
            Ok(_) | Err(Error::LeaseUnknown { .. }) => {}
            Err(error) => {
                tell(&format!("the lock could not be freed, and ends by itself within {:?}: {error}", arguments.ttl));
            }
        }
    }
    client.close_session().await;
    outcome
}

/// Who holds the lock, for whoever looks at its key.
fn holder() -> String {
    format!("process {}", std::process::id())
}

async fn take(client: &Client, lock: Lock, arguments: &LockArguments, globals: &Globals) -> Result<LockGuard, Failure> {
    let name = quoted(&arguments.name);
    let failed = |error| failure(error, globals);
    let taken = |next: &str| {
        Failure::new(Code::PreconditionFailed, format!("somebody has the lock {name}"))
            .at(connect::asked(globals))
            .with_next(next.to_owned())
    };
    if arguments.only_try {
        let guard = client.try_lock(lock).await.map_err(failed)?;
        return guard.ok_or_else(|| taken("without --try, to wait for it"));
    }
    let mut impatient = false;
    let given_up = async {
        tokio::select! {
            () = patience(arguments.wait) => {
                impatient = true;
                Ok(())
            }
            interrupted = interrupt::interrupted() => interrupted,
        }
    };
    let guard = client.lock_unless(lock, given_up).await.map_err(failed)?;
    guard.ok_or_else(|| {
        if impatient {
            let cause = format!("the lock {name} was not free, or not to be had, within the time of --wait");
            Failure::new(Code::PreconditionFailed, cause)
                .at(connect::asked(globals))
                .with_next("a longer --wait, or none, to wait as long as it takes; --try, to try once".to_owned())
        } else {
            Failure::new(Code::Interrupted, "interrupted before the lock was free")
        }
    })
}

async fn patience(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn failure(error: LockError, globals: &Globals) -> Failure {
    match error {
        LockError::Request(error) => error.into(),
        LockError::Lost(loss) => Failure::of_lost_place("the place in line", &loss, connect::asked(globals)),
    }
}

async fn hold(guard: &LockGuard, what: &str, globals: &Globals) -> Result<(), Failure> {
    let mut output = Output::standard();
    output.write(|out| print(out, guard.key(), guard.token(), globals.output))?;
    output.finish()?;
    tell("the lock is held; Ctrl-C frees it");
    tokio::select! {
        loss = guard.lost() => Err(Failure::of_lost_place(what, &loss, connect::asked(globals))),
        ended = interrupt::interrupted() => ended,
    }
}

fn print(out: &mut dyn Write, key: &[u8], token: u64, format: Option<Format>) -> io::Result<()> {
    match format {
        Some(Format::Json) => {
            let (name, key) = record::key_field(key);
            writeln!(out, "{}", json!({ name: key, "token": token }))
        }
        Some(Format::Table | Format::Plain) | None => writeln!(out, "{token}"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn prints_the_token_alone_or_with_its_key() {
        let mut out = Vec::new();
        print(&mut out, b"backup/@0007", 12, None).unwrap();
        print(&mut out, b"backup/@0007", 12, Some(Format::Json)).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "12\n{\"key\":\"backup/@0007\",\"token\":12}\n");
    }
}

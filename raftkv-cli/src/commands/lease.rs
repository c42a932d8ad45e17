//! `lease`: what keys live by.

use crate::arguments::{self, Globals};
use crate::connect;
use crate::failure::Failure;
use crate::interrupt;
use crate::output::{Format, Output, printable, table, write_table};
use crate::record;
use bytes::Bytes;
use clap::Subcommand;
use client::{Client, LeaseInfo, NewLease};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::Duration;

/// Columns of a key on a terminal.
const SHOWN_MAX: usize = 72;

/// What to do about leases.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Make a lease, and print its number
    ///
    /// It lives for TTL from then on, and for TTL from each keep-alive on. When it ends, the keys put with --lease are deleted.
    #[command(after_help = "Examples:
  lease=$(raftkv-cli lease grant 60s)
  raftkv-cli put services/web 10.0.0.7:80 --lease \"$lease\"
  raftkv-cli lease keep-alive \"$lease\"")]
    Grant {
        /// How long it lives without a keep-alive, like 60s
        #[arg(value_name = "TTL", value_parser = arguments::ttl)]
        ttl: Duration,
        /// The number that it gets, from 1 to 9223372036854775807; without it, the next that is free. Ends with 4 if it is taken
        #[arg(long, value_parser = arguments::lease_id)]
        id: Option<u64>,
    },
    /// End a lease, and delete the keys that live by it; prints how many
    ///
    /// Ends with 3 if there is no such lease.
    Revoke {
        /// Its number
        #[arg(value_parser = arguments::lease_id)]
        id: u64,
    },
    /// Keep a lease alive until Ctrl-C, or until it is lost
    ///
    /// Ends with 3 if there is no such lease, or if the cluster has ended it meanwhile, and with 5 if the cluster could not be reached for
    /// its time to live, or this program stood still for so long.
    KeepAlive {
        /// Its number
        #[arg(value_parser = arguments::lease_id)]
        id: u64,
        /// Once, and print how long it lives from then on
        #[arg(long)]
        once: bool,
    },
    /// Show what is left of a lease, and which keys live by it
    ///
    /// Ends with 3 if there is no such lease.
    Show {
        /// Its number
        #[arg(value_parser = arguments::lease_id)]
        id: u64,
    },
    /// Show every lease
    List,
}

pub(crate) async fn run(command: LeaseCommand, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    match command {
        LeaseCommand::Grant { ttl, id } => grant(&client, ttl, id, globals).await,
        LeaseCommand::Revoke { id } => revoke(&client, id, globals).await,
        LeaseCommand::KeepAlive { id, once: true } => {
            let ttl = client.keep_lease_alive(id).await?;
            say(
                globals,
                &humantime::format_duration(ttl).to_string(),
                || json!({ "id": id, "ttl_ms": milliseconds(ttl) }),
            )
        }
        LeaseCommand::KeepAlive { id, once: false } => keep_alive(&client, id, globals).await,
        LeaseCommand::Show { id } => show(&client, id, globals).await,
        LeaseCommand::List => list(&client, globals).await,
    }
}

async fn grant(client: &Client, ttl: Duration, id: Option<u64>, globals: &Globals) -> Result<(), Failure> {
    let lease = NewLease::new(ttl);
    let lease = id.map_or(lease, |id| lease.with_id(id));
    let granted = client.create_lease(lease).await;
    client.close_session().await;
    let granted = granted?;
    say(globals, &granted.id.to_string(), || json!({ "id": granted.id, "ttl_ms": milliseconds(granted.ttl) }))
}

async fn revoke(client: &Client, id: u64, globals: &Globals) -> Result<(), Failure> {
    let revoked = client.revoke_lease(id).await;
    client.close_session().await;
    let revoked = revoked?;
    say(
        globals,
        &revoked.deleted.to_string(),
        || json!({ "id": id, "deleted": revoked.deleted, "revision": revoked.revision }),
    )
}

async fn keep_alive(client: &Client, id: u64, globals: &Globals) -> Result<(), Failure> {
    let lease = client.hold_lease(id).await?;
    interrupt::tell(&format!(
        "lease {id} is kept alive, for {} each time; Ctrl-C ends that",
        humantime::format_duration(lease.ttl())
    ));
    tokio::select! {
        loss = lease.lost() => Err(Failure::of_loss(&format!("lease {id}"), &loss, connect::asked(globals))),
        ended = interrupt::interrupted() => ended,
    }
}

async fn show(client: &Client, id: u64, globals: &Globals) -> Result<(), Failure> {
    let (lease, keys) = client.show_lease(id, true).await?;
    let mut output = Output::standard();
    output.write(|out| print_one(out, &lease, &keys, globals.output.unwrap_or(Format::Table)))?;
    output.finish()
}

async fn list(client: &Client, globals: &Globals) -> Result<(), Failure> {
    let mut output = Output::standard();
    let format = globals.output.unwrap_or(if output.is_terminal() { Format::Table } else { Format::Plain });
    let mut after = 0;
    let mut headed = false;
    loop {
        let page = client.list_leases(after).await?;
        // A table's columns are as wide as a page needs; the header comes once.
        output.write(|out| print_list(out, &page.leases, format, !headed))?;
        headed = true;
        match page.leases.last() {
            Some(last) if page.more => after = last.id,
            Some(_) | None => return output.finish(),
        }
    }
}

fn say(globals: &Globals, plain: &str, json: impl FnOnce() -> Value) -> Result<(), Failure> {
    let mut output = Output::standard();
    output.write(|out| match globals.output {
        Some(Format::Json) => writeln!(out, "{}", json()),
        Some(Format::Table | Format::Plain) | None => writeln!(out, "{plain}"),
    })?;
    output.finish()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn json_of(lease: &LeaseInfo) -> Value {
    json!({
        "id": lease.id,
        "ttl_ms": milliseconds(lease.ttl),
        "remaining_ms": milliseconds(lease.remaining),
        "keys": lease.key_count,
        "of_one_key": lease.of_one_key,
    })
}

/// To the tenth of a second: more is noise.
fn shown(duration: Duration) -> String {
    humantime::format_duration(Duration::from_millis(milliseconds(duration) / 100 * 100)).to_string()
}

fn print_one(out: &mut dyn Write, lease: &LeaseInfo, keys: &[Bytes], format: Format) -> io::Result<()> {
    match format {
        Format::Json => {
            let mut object = json_of(lease);
            object["key_names"] = keys
                .iter()
                .map(|key| {
                    let (name, key) = record::key_field(key);
                    json!({ name: key })
                })
                .collect();
            writeln!(out, "{object}")
        }
        Format::Plain => {
            for key in keys {
                out.write_all(key)?;
                out.write_all(b"\n")?;
            }
            Ok(())
        }
        Format::Table => {
            print_list(out, std::slice::from_ref(lease), Format::Table, true)?;
            keys.iter().try_for_each(|key| writeln!(out, "  {}", printable(key, SHOWN_MAX)))
        }
    }
}

fn print_list(out: &mut dyn Write, leases: &[LeaseInfo], format: Format, headed: bool) -> io::Result<()> {
    match format {
        Format::Json => leases.iter().try_for_each(|lease| writeln!(out, "{}", json_of(lease))),
        Format::Plain => leases.iter().try_for_each(|lease| {
            let (ttl, remaining) = (milliseconds(lease.ttl), milliseconds(lease.remaining));
            writeln!(out, "{}\t{ttl}\t{remaining}\t{}", lease.id, lease.key_count)
        }),
        Format::Table => {
            let mut rows = table(if headed { &["LEASE", "TTL", "LEFT", "KEYS", ""] } else { &[] });
            for lease in leases {
                let remark = if lease.of_one_key { "of its key" } else { "" };
                let (ttl, left) = (shown(lease.ttl), shown(lease.remaining));
                rows.add_row([lease.id.to_string(), ttl, left, lease.key_count.to_string(), remark.to_owned()]);
            }
            write_table(out, &rows)
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn lease() -> LeaseInfo {
        let (ttl, remaining) = (Duration::from_secs(60), Duration::from_millis(12_345));
        LeaseInfo { id: 7, ttl, remaining, key_count: 2, of_one_key: false }
    }

    fn text(print: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_lease_is_shown_with_its_keys() {
        let keys = [Bytes::from_static(b"a"), Bytes::from_static(b"\xff")];
        let shown = text(|out| print_one(out, &lease(), &keys, Format::Table));
        assert!(shown.contains("12s 300ms") && shown.ends_with("\n  a\n  \\xff\n"), "{shown}");
        let object: Value = serde_json::from_str(&text(|out| print_one(out, &lease(), &keys, Format::Json))).unwrap();
        assert_eq!((&object["remaining_ms"], &object["key_names"][1]["key_base64"]), (&json!(12_345), &json!("/w==")));
        assert_eq!(text(|out| print_one(out, &lease(), &keys[..1], Format::Plain)), "a\n");
    }

    #[test]
    fn a_list_has_one_line_for_each() {
        let leases = [lease(), LeaseInfo { id: 8, of_one_key: true, ..lease() }];
        assert_eq!(
            text(|out| print_list(out, &leases, Format::Plain, true)),
            "7\t60000\t12345\t2\n8\t60000\t12345\t2\n"
        );
        let table = text(|out| print_list(out, &leases, Format::Table, true));
        assert!(table.starts_with("  LEASE") || table.starts_with(" LEASE") || table.starts_with("LEASE"), "{table}");
        assert!(table.contains("of its key"), "{table}");
        assert_eq!(text(|out| print_list(out, &leases, Format::Json, true)).lines().count(), 2);
    }
}

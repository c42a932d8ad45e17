//! `member list`: who belongs to the cluster.

use crate::arguments::Globals;
use crate::connect;
use crate::failure::Failure;
use crate::output::{Format, Output, table, write_table};
use client::Member;
use serde_json::json;
use std::io::{self, Write};

pub(super) async fn run(globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let members = client.member_list().await?;
    let mut output = Output::standard();
    output.write(|out| print(out, &members, globals.output.unwrap_or(Format::Table)))?;
    output.finish()
}

fn print(out: &mut dyn Write, members: &[Member], format: Format) -> io::Result<()> {
    let fields = |member: &Member| {
        let Member { id, name, kind, peer_address, client_address, .. } = member.clone();
        [id.to_string(), name, kind, peer_address, client_address]
    };
    match format {
        Format::Table => {
            let mut rows = table(&["ID", "NAME", "KIND", "PEER ADDRESS", "CLIENT ADDRESS"]);
            for member in members {
                let [id, name, kind, peer_address, client_address] = fields(member);
                let kind = if member.under_repair { format!("{kind}, under repair") } else { kind };
                rows.add_row([id, name, kind, peer_address, client_address]);
            }
            write_table(out, &rows)
        }
        Format::Plain => members.iter().try_for_each(|member| writeln!(out, "{}", fields(member).join("\t"))),
        Format::Json => members.iter().try_for_each(|member| {
            let Member { id, name, kind, peer_address, client_address, under_repair } = member;
            let object = json!({
                "id": id, "name": name, "kind": kind, "peer_address": peer_address, "client_address": client_address,
                "under_repair": under_repair
            });
            writeln!(out, "{object}")
        }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn all_forms_hold_all_fields() {
        let member = Member {
            id: 2,
            name: "n2".into(),
            peer_address: "10.0.0.2:7421".into(),
            client_address: "10.0.0.2:7420".into(),
            kind: "voter".into(),
            under_repair: false,
        };
        for format in [Format::Table, Format::Plain, Format::Json] {
            let mut out = Vec::new();
            print(&mut out, std::slice::from_ref(&member), format).unwrap();
            let text = String::from_utf8(out).unwrap();
            for field in ["2", "n2", "voter", "10.0.0.2:7421", "10.0.0.2:7420"] {
                assert!(text.contains(field), "{format:?} lacks {field}: {text}");
            }
        }
        let member = Member { kind: "learner".into(), under_repair: true, ..member };
        for (format, shown) in [(Format::Table, "learner, under repair"), (Format::Json, "\"under_repair\":true")] {
            let mut out = Vec::new();
            print(&mut out, std::slice::from_ref(&member), format).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains(shown), "{text}");
        }
    }
}

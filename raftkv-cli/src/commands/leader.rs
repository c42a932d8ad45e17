//! `leader`: who leads, and handing that over.

use crate::arguments::Globals;
use crate::commands::member::find;
use crate::connect;
use crate::failure::{Code, Failure};
use crate::output::{Format, Output};
use clap::Subcommand;
use client::{Client, Error, Member};
use serde_json::json;
use std::io::{self, Write};

/// What to do about the leader.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaderCommand {
    /// Show who leads
    Show,
    /// Hand leadership over, before maintenance for instance
    Transfer {
        /// The name or number of who should lead; without it, the voter that is furthest along
        member: Option<String>,
    },
}

pub(crate) async fn run(command: LeaderCommand, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let leader = match command {
        LeaderCommand::Show => {
            let unknown = || {
                Failure::new(Code::Unavailable, "no node knows of a leader at this moment")
                    .at(connect::asked(globals))
                    .with_next("raftkv-cli status, to see which nodes answer")
            };
            let statuses = client.cluster_status().await?;
            // The newest term counts: an older leader may not know yet that it was deposed.
            let known = statuses.iter().filter_map(|status| status.status.as_ref().ok());
            let newest = known.filter(|status| status.leader.is_some()).max_by_key(|status| status.term);
            newest.and_then(|status| status.leader).ok_or_else(unknown)?
        }
        LeaderCommand::Transfer { member } => {
            let target = match member {
                Some(member) => Some(find(&client, &member, globals).await?.id),
                None => None,
            };
            client.transfer_leadership(target).await.map_err(not_transferred)?
        }
    };
    let member = member_of(&client, leader).await;
    let mut output = Output::standard();
    output.write(|out| print(out, leader, member.as_ref(), globals.output.unwrap_or(Format::Plain)))?;
    output.finish()
}

/// What to look at next is the leader, and no key; and no longer waiting helps where it was tried and came to nothing.
fn not_transferred(error: Error) -> Failure {
    let next = if matches!(error, Error::OutcomeUnknown { .. }) {
        Some("raftkv-cli leader show, to see who leads")
    } else if matches!(error, Error::Unavailable { .. }) {
        Some("raftkv-cli status, to see which nodes answer")
    } else {
        None
    };
    let failure = Failure::from(error);
    match next {
        Some(next) => failure.with_next(next),
        None => failure,
    }
}

async fn member_of(client: &Client, id: u64) -> Option<Member> {
    let members = client.member_list().await.ok()?;
    members.into_iter().find(|member| member.id == id)
}

fn print(out: &mut dyn Write, leader: u64, member: Option<&Member>, format: Format) -> io::Result<()> {
    let (name, address) = member.map_or(("", ""), |member| (&*member.name, &*member.client_address));
    match format {
        Format::Json => writeln!(out, "{}", json!({ "id": leader, "name": name, "client_address": address })),
        Format::Table | Format::Plain => writeln!(out, "{leader}\t{name}\t{address}"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn whoever_does_not_know_what_became_of_a_transfer_looks_at_the_leader() {
        let error = Error::OutcomeUnknown { endpoint: "h:1".into(), cause: "the connection broke".into() };
        let failure = not_transferred(error);
        assert_eq!(failure.code, Code::OutcomeUnknown);
        assert_eq!(failure.next.as_deref(), Some("raftkv-cli leader show, to see who leads"));
    }

    #[test]
    fn leader_is_shown_with_name_and_address() {
        let member = Member {
            id: 2,
            name: "n2".into(),
            peer_address: "h:2".into(),
            client_address: "h:1".into(),
            kind: "voter".into(),
            under_repair: false,
        };
        let mut out = Vec::new();
        print(&mut out, 2, Some(&member), Format::Plain).unwrap();
        print(&mut out, 3, None, Format::Json).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "2\tn2\th:1\n{\"id\":3,\"name\":\"\",\"client_address\":\"\"}\n");
    }
}

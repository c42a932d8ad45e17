//! `member`: who belongs to the cluster, and changing it.

mod add;
mod change;
mod list;

use crate::arguments::Globals;
use crate::connect;
use crate::failure::Failure;
use clap::{Args, Subcommand};
use client::{Client, Member, MemberEdit};

/// What to do with members.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// List the members with their addresses
    List,
    /// Add a member, which receives the log and does not vote yet
    Add(add::AddArguments),
    /// Give a member its vote
    Promote(TargetArguments),
    /// Remove a member, for ever
    Remove(TargetArguments),
}

/// Which member, and whether to do it.
#[derive(Debug, Args)]
pub(crate) struct TargetArguments {
    /// The member's name or number
    pub(crate) member: String,
    /// Only show who decides before and who would decide afterwards
    #[arg(long)]
    pub(crate) dry_run: bool,
}

pub(crate) async fn run(command: MemberCommand, globals: &Globals) -> Result<(), Failure> {
    match command {
        MemberCommand::List => list::run(globals).await,
        MemberCommand::Add(arguments) => add::run(arguments, globals).await,
        MemberCommand::Promote(arguments) => change::run(arguments, MemberEdit::Promote, globals).await,
        MemberCommand::Remove(arguments) => change::run(arguments, MemberEdit::Remove, globals).await,
    }
}

/// The member with this name or number.
pub(crate) async fn find(client: &Client, given: &str, globals: &Globals) -> Result<Member, Failure> {
    the_one_meant(client.member_list().await?, given).map_err(|failure| failure.at(connect::asked(globals)))
}

/// The one member that `given` names or numbers. Members of old may be called what another is numbered.
fn the_one_meant(members: Vec<Member>, given: &str) -> Result<Member, Failure> {
    let shown = |members: &[Member]| {
        members.iter().map(|member| format!("{} ({})", member.name, member.id)).collect::<Vec<_>>().join(", ")
    };
    let all = shown(&members);
    let is_meant = |member: &Member| member.name == given || member.id.to_string() == given;
    let mut meant: Vec<Member> = members.into_iter().filter(is_meant).collect();
    let failure = match (meant.pop(), meant.is_empty()) {
        (Some(member), true) => return Ok(member),
        (Some(other), false) => {
            meant.push(other);
            format!("`{given}` is the name of one member and the number of another: {}", shown(&meant))
        }
        (None, _) => format!("no member is called or numbered `{given}`; the members are {all}"),
    };
    Err(Failure::usage(failure).with_next("raftkv-cli member list"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_member_is_found_by_name_or_number_and_never_guessed() {
        let member = |id: u64, name: &str| Member {
            id,
            name: name.into(),
            peer_address: "h:2".into(),
            client_address: "h:1".into(),
            kind: "voter".into(),
            under_repair: false,
        };
        let members = || vec![member(1, "2"), member(2, "b"), member(3, "c")];
        assert_eq!(the_one_meant(members(), "c").unwrap().id, 3);
        assert_eq!(the_one_meant(members(), "1").unwrap().id, 1);
        let ambiguous = the_one_meant(members(), "2").unwrap_err();
        assert!(ambiguous.cause.contains("2 (1), b (2)"), "{ambiguous}");
        let unknown = the_one_meant(members(), "9").unwrap_err();
        assert!(unknown.cause.contains("2 (1), b (2), c (3)"), "{unknown}");
    }
}

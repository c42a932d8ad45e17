//! `member`: who belongs to the cluster, and changing it.

mod add;
mod change;
mod list;

use crate::arguments::Globals;
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
pub(crate) async fn find(client: &Client, given: &str) -> Result<Member, Failure> {
    let members = client.member_list().await?;
    let is_meant = |member: &&Member| member.name == given || member.id.to_string() == given;
    members.iter().find(is_meant).cloned().ok_or_else(|| {
        let names: Vec<String> = members.iter().map(|member| format!("{} ({})", member.name, member.id)).collect();
        Failure::usage(format!("no member is called or numbered `{given}`; the members are {}", names.join(", ")))
            .with_next("raftkv-cli member list")
    })
}

//! `member add`: a new member, and the directory that its node starts from.
//!
//! The member is added first, as a learner, which endangers nothing; then its directory is written. If that fails, the same command again
//! goes on where it stopped: a learner with this name and these addresses is not added twice.

use super::change::{Names, apply, names, show};
use crate::arguments::Globals;
use crate::connect;
use crate::failure::{Code, Failure, quoted};
use clap::Args;
use client::{
    CertificateAuthority, Client, Member, MemberChange, MemberEdit, NewMember, NodeDirectoryError, check_absent,
};
use std::io::Write;
use std::path::PathBuf;

/// Add a member
///
/// It receives the log and does not vote until it is promoted. With the cluster's authority at hand (--ca-dir), the directory of its node is
/// written, ready to copy to the new machine: configuration, certificate, key.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  raftkv-cli member add n4 --peer 10.0.0.4:7421 --client 10.0.0.4:7420 --ca-dir out/ca --out n4
  raftkv-cli member add n4 --peer 10.0.0.4:7421 --client 10.0.0.4:7420 --dry-run")]
pub(crate) struct AddArguments {
    /// The new member's name
    pub(crate) name: String,
    /// Where the other nodes will reach it
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) peer: String,
    /// Where clients will reach it
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) client: String,
    /// The directory with ca.crt and ca.key, which `raftkv init` wrote
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    pub(crate) ca_dir: Option<PathBuf>,
    /// The directory to write for the new node; it must not exist [default: the name]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Only show who decides before and who would decide afterwards
    #[arg(long)]
    pub(crate) dry_run: bool,
}

pub(crate) async fn run(arguments: AddArguments, globals: &Globals) -> Result<(), Failure> {
    let client = connect::client(globals)?;
    let new = NewMember {
        name: arguments.name.clone(),
        peer_address: arguments.peer.clone(),
        client_address: arguments.client.clone(),
    };
    let Some(ca_dir) = arguments.ca_dir.as_ref().filter(|_| !arguments.dry_run) else {
        return add(&client, new, true, globals).await.map(|_| ());
    };
    // Everything that can fail here fails before the cluster is changed.
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from(&arguments.name));
    check_absent(&out).map_err(unwritten)?;
    let authority = CertificateAuthority::load(ca_dir).map_err(unwritten)?;
    let id = match added_before(&client, &new).await? {
        Some(id) => id,
        None => {
            let change = add(&client, new, false, globals).await?;
            *change.added.first().ok_or_else(|| Failure::other("the node did not say which number the member got"))?
        }
    };
    // The member is there, whatever becomes of the question what it starts with; asked again, this goes on from here.
    let config = client.node_config(id).await.map_err(|error| {
        let failure = Failure::from(error);
        failure
            .with_next("the same command again: it goes on where it stopped; raftkv-cli member list shows the member")
    })?;
    authority.write_node_directory(&out, id, &config).map_err(unwritten)?;
    let out = quoted(out.as_os_str());
    // Where standard error is closed there is nobody to tell.
    let _told = writeln!(
        std::io::stderr(),
        "{name} is member {id}; it does not vote yet. Next:\n  copy {out} to its machine, and there:  raftkv start --dir {out}\n  \
         then here:  raftkv-cli member promote {name}",
        name = arguments.name,
    );
    Ok(())
}

/// Adds the member, or shows what that would do.
async fn add(client: &Client, new: NewMember, dry_run: bool, globals: &Globals) -> Result<MemberChange, Failure> {
    let mut names: Names = names(client).await;
    let name = new.name.clone();
    let change = apply(client, vec![MemberEdit::Add(new)], &names, dry_run, globals).await?;
    // A dry run gives no number yet; then it is the one that is new.
    let new: Vec<u64> = if change.added.is_empty() {
        change.after.learners.iter().copied().filter(|id| !names.contains_key(id)).collect()
    } else {
        change.added.clone()
    };
    names.extend(new.into_iter().map(|id| (id, name.clone())));
    show(&change, &names, globals)?;
    Ok(change)
}

/// The number of a learner that an earlier attempt has added.
async fn added_before(client: &Client, new: &NewMember) -> Result<Option<u64>, Failure> {
    let members = client.member_list().await?;
    Ok(members.into_iter().find(|member| is_left_by_an_earlier_attempt(member, new)).map(|member| member.id))
}

/// A second directory does no harm, even if the node has run from the first: an empty one counts as a lost disk (scenario 35).
fn is_left_by_an_earlier_attempt(member: &Member, new: &NewMember) -> bool {
    member.kind == "learner"
        && member.name == new.name
        && member.peer_address == new.peer_address
        && member.client_address == new.client_address
}

fn unwritten(error: NodeDirectoryError) -> Failure {
    let next = match &error {
        NodeDirectoryError::Exists { .. } => "--out DIR, with a directory that does not exist",
        NodeDirectoryError::Authority { .. } | NodeDirectoryError::OtherCluster { .. } => {
            "--ca-dir DIR, with the directory `ca` that `raftkv init` wrote for this cluster"
        }
        NodeDirectoryError::Io { operation: "read", .. } => {
            "--ca-dir DIR, with the directory `ca` that `raftkv init` wrote (ca.crt and ca.key)"
        }
        NodeDirectoryError::Io { .. } => "--out DIR, on a file system with room; then the same command again",
        NodeDirectoryError::Path { .. } => "the same version of raftkv-cli as the nodes have",
    };
    let code = if matches!(error, NodeDirectoryError::Exists { .. }) { Code::Usage } else { Code::Other };
    Failure::new(code, error.to_string()).with_next(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_add_goes_on_with_its_learner() {
        let new = NewMember { name: "n4".into(), peer_address: "h:2".into(), client_address: "h:1".into() };
        let member = |kind: &str, under_repair| Member {
            id: 4,
            name: new.name.clone(),
            peer_address: new.peer_address.clone(),
            client_address: new.client_address.clone(),
            kind: kind.into(),
            under_repair,
        };
        assert!(is_left_by_an_earlier_attempt(&member("learner", false), &new));
        assert!(is_left_by_an_earlier_attempt(&member("learner", true), &new));
        assert!(!is_left_by_an_earlier_attempt(&member("voter", false), &new));
        let elsewhere = NewMember { peer_address: "i:2".into(), ..new.clone() };
        assert!(!is_left_by_an_earlier_attempt(&member("learner", false), &elsewhere));
    }
}

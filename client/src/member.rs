//! Who is a member: changes, and what they would do to the majority.

use crate::client::{Client, nonsense};
use crate::error::Error;
use crate::policy::Purpose;
use transport::proto::client as wire;
use transport::{Request, Response};

/// One part of a change of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberEdit {
    /// A new member, which receives the log and does not vote yet. It gets a number that no member ever had.
    Add(NewMember),
    /// The member with this number is to vote.
    Promote(u64),
    /// The voter with this number is to be a learner.
    Demote(u64),
    /// The member with this number is to be none, for ever.
    Remove(u64),
}

/// A member to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMember {
    /// Its name, which no other member has.
    pub name: String,
    /// Where the other nodes will reach it: `HOST:PORT`.
    pub peer_address: String,
    /// Where clients will reach it: `HOST:PORT`.
    pub client_address: String,
}

/// Who decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quorum {
    /// The voters, by number.
    pub voters: Vec<u64>,
    /// The members that do not vote.
    pub learners: Vec<u64>,
    /// How many of the voters decide.
    pub needed: u32,
    /// The voters that the leader hears.
    pub reachable: Vec<u64>,
}

/// What a change does, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberChange {
    /// Who decided before.
    pub before: Quorum,
    /// Who decides afterwards.
    pub after: Quorum,
    /// Where the change stands in the log; `None` if it was not made.
    pub index: Option<u64>,
    /// The numbers of the members added, in the order asked for.
    pub added: Vec<u64>,
}

/// What a member starts with that was added to a running cluster, beside its certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The cluster's name.
    pub cluster: String,
    /// Paths relative to the node's directory, and the text of each file.
    pub files: Vec<(String, String)>,
}

impl From<wire::Quorum> for Quorum {
    fn from(quorum: wire::Quorum) -> Quorum {
        let wire::Quorum { voters, learners, needed, reachable } = quorum;
        Quorum { voters, learners, needed, reachable }
    }
}

impl MemberEdit {
    fn into_wire(self) -> wire::MemberEdit {
        use wire::member_edit::Kind;
        let kind = match self {
            MemberEdit::Add(NewMember { name, peer_address, client_address }) => {
                Kind::Add(wire::NewMember { name, peer_address, client_address, http_address: None })
            }
            MemberEdit::Promote(id) => Kind::Promote(id),
            MemberEdit::Demote(id) => Kind::Demote(id),
            MemberEdit::Remove(id) => Kind::Remove(id),
        };
        wire::MemberEdit { kind: Some(kind) }
    }
}

impl Client {
    /// Changes the members, as one change. When it returns, the change is committed; with `dry_run`, nothing is changed.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
    /// use raftkv_client::MemberEdit;
    /// let would = client.change_members(vec![MemberEdit::Remove(3)], true).await?;
    /// println!("{} of {} voters would decide", would.after.needed, would.after.voters.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsafe`] when the group could not go on afterwards; [`Error::OutcomeUnknown`] when the change may or may not have been made:
    /// [`Client::member_list`] tells; after any other, it certainly was not.
    pub async fn change_members(&self, edits: Vec<MemberEdit>, dry_run: bool) -> Result<MemberChange, Error> {
        let edits = edits.into_iter().map(MemberEdit::into_wire).collect();
        let request = Request::MemberChange(wire::MemberChangeRequest { edits, dry_run });
        let (address, response) = self.call(Purpose::Write, request).await?;
        let Response::MemberChange(reply) = response else { return Err(nonsense(Purpose::Write, &address)) };
        let change = MemberChange {
            before: reply.before.map(Quorum::from).unwrap_or_default(),
            after: reply.after.map(Quorum::from).unwrap_or_default(),
            index: (reply.index != 0).then_some(reply.index),
            added: reply.added,
        };
        match reply.unsafe_reason {
            Some(cause) => Err(Error::Unsafe { endpoint: address.to_string(), cause, change: Box::new(change) }),
            None => Ok(change),
        }
    }

    /// Hands leadership to the voter with this number, or to whoever is furthest along. Returns who leads.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the target does not answer or did not take over in time, or another node was elected: that is not tried
    /// again. [`Error::Invalid`] when the target cannot lead. [`Error::OutcomeUnknown`] when leadership may or may not have gone over.
    pub async fn transfer_leadership(&self, target: Option<u64>) -> Result<u64, Error> {
        let request = Request::LeaderTransfer(wire::LeaderTransferRequest { target: target.unwrap_or(0) });
        let (address, response) = self.call(Purpose::Write, request).await?;
        let Response::LeaderTransfer(reply) = response else { return Err(nonsense(Purpose::Write, &address)) };
        Ok(reply.leader)
    }

    /// What the member with this number starts with.
    ///
    /// # Errors
    /// When it is no member, or no node answers.
    pub async fn node_config(&self, node: u64) -> Result<NodeConfig, Error> {
        // From the leader: it knows of a member as soon as there is one.
        let (address, response) =
            self.call(Purpose::Write, Request::NodeConfig(wire::NodeConfigRequest { node })).await?;
        let Response::NodeConfig(reply) = response else { return Err(nonsense(Purpose::Read, &address)) };
        let files = reply.files.into_iter().map(|wire::NodeFile { path, text }| (path, text)).collect();
        Ok(NodeConfig { cluster: reply.cluster, files })
    }
}

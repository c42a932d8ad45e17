//! How the nodes are, each asked for itself.

use crate::client::{Client, Deadline, Done, Work, nonsense};
use crate::directory::Address;
use crate::error::Error;
use crate::policy::{Purpose, Verdict, judge};
use std::collections::HashSet;
use std::time::Duration;
use tokio::task::JoinSet;
use transport::proto::client as wire;
use transport::{Request, Response};

/// How long a node may take to say how it is before it counts as unreachable, or the client's timeout if that is shorter.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where the other nodes reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
    /// "voter" or "learner".
    pub kind: String,
    /// It has lost what it had promised and is being repaired. It is a learner for as long as that takes, and may have been a voter.
    pub under_repair: bool,
}

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// The node's number.
    pub node: u64,
    /// Its name.
    pub name: String,
    /// Its software's version.
    pub version: String,
    /// "follower", "pre-candidate", "candidate" or "leader".
    pub role: String,
    /// Its term.
    pub term: u64,
    /// The leader's number, if it knows one.
    pub leader: Option<u64>,
    /// The oldest index in its log.
    pub log_first: u64,
    /// The newest index in its log.
    pub log_last: u64,
    /// What it knows to be committed.
    pub commit: u64,
    /// What it has applied.
    pub applied: u64,
    /// What of that is flushed to disk outside the log.
    pub flushed: u64,
    /// The store's revision.
    pub revision: u64,
    /// The hash of the state after `applied`.
    pub state_hash: Vec<u8>,
    /// The members it knows.
    pub members: Vec<Member>,
    /// How long it has run.
    pub uptime: Duration,
    /// Bytes of state on disk.
    pub state_bytes: u64,
    /// Bytes of log on disk.
    pub log_bytes: u64,
    /// It has lost what it had promised, and neither votes nor acknowledges until its peers have repaired it. False from a node that is too old to
    /// say so.
    pub under_repair: bool,
}

/// A member and what it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who it is; unknown for an endpoint that did not answer.
    pub member: Option<Member>,
    /// Where it was asked.
    pub address: String,
    /// How it is, or why it did not say.
    pub status: Result<Status, Error>,
}

impl From<wire::Member> for Member {
    fn from(member: wire::Member) -> Member {
        let wire::Member { id, name, peer_address, client_address, kind, under_repair } = member;
        Member { id, name, peer_address, client_address, kind, under_repair }
    }
}

impl From<wire::StatusReply> for Status {
    fn from(reply: wire::StatusReply) -> Status {
        Status {
            cluster: reply.cluster,
            node: reply.node,
            name: reply.name,
            version: reply.version,
            role: reply.role,
            term: reply.term,
            leader: (reply.leader != 0).then_some(reply.leader),
            log_first: reply.log_first,
            log_last: reply.log_last,
            commit: reply.commit,
            applied: reply.applied,
            flushed: reply.flushed,
            revision: reply.revision,
            state_hash: reply.state_hash.to_vec(),
            members: reply.members.into_iter().map(Member::from).collect(),
            uptime: Duration::from_millis(reply.uptime_ms),
            state_bytes: reply.state_bytes,
            log_bytes: reply.log_bytes,
            under_repair: reply.under_repair,
        }
    }
}

impl Client {
    /// How one node is: the one that this client stays with.
    ///
    /// # Errors
    /// When no node answers in time.
    pub async fn status(&self) -> Result<Status, Error> {
        let request = Request::Status(wire::StatusRequest {});
        let (address, response) = self.call(Purpose::Read, request).await?;
        let Response::Status(reply) = response else { return Err(nonsense(Purpose::Read, &address)) };
        let status = Status::from(reply);
        self.learn(status.members.iter().map(|member| member.client_address.as_str()));
        Ok(status)
    }

    /// How the node at this address is. No other is asked in its place.
    ///
    /// # Errors
    /// When it does not answer within two seconds, or the client's timeout if that is shorter.
    pub async fn status_at(&self, address: &str) -> Result<Status, Error> {
        let deadline = Deadline::after(PROBE_TIMEOUT.min(self.timeout()));
        let address: Address = address.into();
        let work = Work::Call(Request::Status(wire::StatusRequest {}));
        // A late round's dial may take all the time there is.
        const PATIENT_ROUND: u32 = 9;
        let endpoint = self.endpoint(&address);
        let attempt = self.attempt(&endpoint, Purpose::StaleRead, &work, PATIENT_ROUND, deadline).await;
        match attempt {
            Ok(Done::Call(Response::Status(reply))) => Ok(reply.into()),
            Ok(_) => Err(nonsense(Purpose::StaleRead, &address)),
            Err(failure) => match judge(Purpose::StaleRead, &address, failure) {
                Verdict::Fail(error) | Verdict::Retry { error, .. } => Err(error),
            },
        }
    }

    /// The members, as the node that this client stays with knows them.
    ///
    /// ```no_run
    /// # async fn example(client: raftkv_client::Client) -> Result<(), raftkv_client::Error> {
    /// for member in client.member_list().await? {
    ///     println!("{} {} {}", member.id, member.name, member.client_address);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When no node answers in time.
    pub async fn member_list(&self) -> Result<Vec<Member>, Error> {
        Ok(self.status().await?.members)
    }

    /// How every node is: all endpoints given and all members they name are asked at the same time, each for itself. Ordered by number,
    /// endpoints that did not say who they are last.
    ///
    /// # Errors
    /// When every endpoint turned this client down because of certificates or permission. Nodes that cannot be reached are part of the
    /// answer.
    pub async fn cluster_status(&self) -> Result<Vec<MemberStatus>, Error> {
        let endpoints: Vec<String> = self.directory().configured().iter().map(ToString::to_string).collect();
        let mut answers = self.probe(endpoints).await;
        let all_refused = answers.iter().all(|(_, status)| status.as_ref().is_err_and(Error::is_permission));
        if all_refused && let Some((_, Err(error))) = answers.first() {
            return Err(error.clone());
        }
        let members = newest_members(answers.iter().filter_map(|(_, status)| status.as_ref().ok()));
        let reached: HashSet<u64> = answers.iter().filter_map(|(_, status)| Some(status.as_ref().ok()?.node)).collect();
        let asked: HashSet<String> = answers.iter().map(|(address, _)| address.clone()).collect();
        let others = members.iter().filter(|member| !reached.contains(&member.id));
        let addresses = others.map(|member| member.client_address.clone()).filter(|address| !asked.contains(address));
        let more = self.probe(addresses.collect()).await;
        answers.extend(more);
        self.learn(members.iter().map(|member| member.client_address.as_str()));
        Ok(arrange(answers, &members))
    }

    async fn probe(&self, addresses: Vec<String>) -> Vec<(String, Result<Status, Error>)> {
        let mut probes = JoinSet::new();
        for address in addresses.into_iter().filter(|address| !address.is_empty()) {
            let client = self.clone();
            probes.spawn(async move {
                let status = client.status_at(&address).await;
                (address, status)
            });
        }
        probes.join_all().await
    }
}

/// The members as the node knows them that is furthest in the log.
fn newest_members<'a>(answers: impl Iterator<Item = &'a Status>) -> Vec<Member> {
    let newest = answers.max_by_key(|status| (status.commit, status.applied));
    newest.map(|status| status.members.clone()).unwrap_or_default()
}

/// One line for each member, however many endpoints lead to it, and one for each endpoint that leads to none.
fn arrange(answers: Vec<(String, Result<Status, Error>)>, members: &[Member]) -> Vec<MemberStatus> {
    let mut lines: Vec<MemberStatus> = Vec::new();
    for (address, status) in answers {
        let member = match &status {
            Ok(status) => members.iter().find(|member| member.id == status.node),
            Err(_) => members.iter().find(|member| member.client_address == address),
        };
        let same = lines.iter_mut().find(|line| match (&line.member, member) {
            (Some(known), Some(member)) => known.id == member.id,
            (None, _) | (_, None) => false,
        });
        match same {
            Some(line) if line.status.is_err() => *line = MemberStatus { member: member.cloned(), address, status },
            Some(_) => {}
            None => lines.push(MemberStatus { member: member.cloned(), address, status }),
        }
    }
    for member in members {
        if !lines.iter().any(|line| line.member.as_ref().is_some_and(|known| known.id == member.id)) {
            let endpoint = member.client_address.clone();
            let cause = "no client address of it is known".to_owned();
            let status = Err(Error::Unavailable { endpoint: endpoint.clone(), cause });
            lines.push(MemberStatus { member: Some(member.clone()), address: endpoint, status });
        }
    }
    lines.sort_by_key(|line| (line.member.as_ref().map_or(u64::MAX, |member| member.id), line.address.clone()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, client_address: &str) -> Member {
        wire::Member { id, client_address: client_address.into(), ..wire::Member::default() }.into()
    }

    fn status(node: u64) -> Status {
        wire::StatusReply { node, ..wire::StatusReply::default() }.into()
    }

    fn down(endpoint: &str) -> Error {
        Error::Unavailable { endpoint: endpoint.into(), cause: "unreachable".into() }
    }

    #[test]
    fn each_member_has_one_line_however_it_was_reached() {
        let members = [member(1, "a:1"), member(2, "b:1"), member(3, "")];
        let answers = vec![
            ("localhost:1".to_owned(), Ok(status(1))),
            ("a:1".to_owned(), Err(down("a:1"))),
            ("b:1".to_owned(), Err(down("b:1"))),
            ("elsewhere:1".to_owned(), Err(down("elsewhere:1"))),
        ];
        let lines = arrange(answers, &members);
        let shown: Vec<_> = lines
            .iter()
            .map(|line| (line.member.as_ref().map(|member| member.id), line.address.as_str(), line.status.is_ok()))
            .collect();
        assert_eq!(
            shown,
            [
                (Some(1), "localhost:1", true),
                (Some(2), "b:1", false),
                (Some(3), "", false),
                (None, "elsewhere:1", false)
            ]
        );
    }

    #[test]
    fn a_member_that_fails_under_one_name_and_answers_under_another_is_reachable() {
        let members = [member(1, "a:1")];
        let answers = vec![("a:1".to_owned(), Err(down("a:1"))), ("localhost:1".to_owned(), Ok(status(1)))];
        let lines = arrange(answers, &members);
        assert_eq!((lines.len(), lines[0].address.as_str()), (1, "localhost:1"));
    }

    #[test]
    fn the_node_furthest_in_the_log_knows_the_members_best() {
        let behind = Status { commit: 3, members: vec![member(1, "a:1")], ..status(1) };
        let ahead = Status { commit: 9, members: vec![member(1, "a:1"), member(2, "b:1")], ..status(2) };
        assert_eq!(newest_members([&behind, &ahead].into_iter()).len(), 2);
    }
}

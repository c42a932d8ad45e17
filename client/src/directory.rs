//! Which nodes there are, and where to go first.
//!
//! Addresses come from three sources: the caller (they stay), the members that a node listed (they are replaced by the next list), and
//! the hint of a node that is not the leader (one). An address that just failed is asked last for a while, and never forgotten.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// Nodes that a client knows at most; the caller's own endpoints come first, and what members lists hold beyond this is ignored.
pub const ENDPOINTS_MAX: usize = 64;

/// How long an address that failed is asked last.
const SUSPECT_FOR: Duration = Duration::from_secs(2);

use crate::policy::Purpose;

/// An address, `host:port`.
pub type Address = Arc<str>;

/// What one client knows. See the module.
#[derive(Debug)]
pub struct Directory {
    configured: Vec<Address>,
    learned: Vec<Address>,
    leader: Option<Address>,
    /// Where reads go: the node that answered last.
    preferred: Address,
    suspects: Vec<(Address, Instant)>,
}

impl Directory {
    /// Knows what the caller gave.
    ///
    /// # Panics
    /// When there is no endpoint: the builder checks that.
    pub fn new(configured: Vec<Address>) -> Directory {
        let preferred = configured.first().expect("the builder refuses to build without endpoints").clone();
        Directory { configured, learned: Vec::new(), leader: None, preferred, suspects: Vec::new() }
    }

    /// The endpoints that the caller gave.
    pub fn configured(&self) -> &[Address] {
        &self.configured
    }

    /// Every address known, the caller's first.
    pub fn all(&self) -> impl Iterator<Item = &Address> {
        self.configured.iter().chain(&self.learned).chain(self.leader.as_ref())
    }

    /// Where to go first.
    pub fn first(&self, purpose: Purpose, now: Instant) -> Address {
        if self.suspects.is_empty() {
            return match purpose {
                Purpose::Write | Purpose::RepeatableWrite | Purpose::OpenSession | Purpose::LeaseRead => {
                    self.leader.as_ref().unwrap_or(&self.preferred).clone()
                }
                Purpose::Read => self.preferred.clone(),
                Purpose::StaleRead => self.configured[0].clone(),
            };
        }
        let mut candidates = self.candidates(purpose, now);
        candidates.swap_remove(0)
    }

    /// Where to go, best first, each once. Never empty.
    pub fn candidates(&self, purpose: Purpose, now: Instant) -> Vec<Address> {
        let mut ordered: Vec<Address> = Vec::with_capacity(self.configured.len() + self.learned.len() + 2);
        let mut add = |address: &Address| {
            if !ordered.contains(address) {
                ordered.push(address.clone());
            }
        };
        match purpose {
            Purpose::Write | Purpose::RepeatableWrite | Purpose::OpenSession | Purpose::LeaseRead => {
                self.leader.iter().for_each(&mut add)
            }
            Purpose::Read => add(&self.preferred),
            Purpose::StaleRead => {}
        }
        if purpose == Purpose::StaleRead {
            self.configured.iter().for_each(&mut add);
        } else {
            add(&self.preferred);
            self.all().for_each(&mut add);
        }
        // Stable: otherwise the order stays.
        ordered.sort_by_key(|address| self.is_suspect(address, now));
        ordered
    }

    fn is_suspect(&self, address: &Address, now: Instant) -> bool {
        self.suspects.iter().any(|(suspect, until)| suspect == address && now < *until)
    }

    /// A node pointed to this address as the leader's.
    pub fn follow(&mut self, leader: &str) -> Address {
        let address = self.known(leader);
        self.leader = Some(address.clone());
        address
    }

    /// Whether there is nothing to note about this success: the usual case, which needs no exclusive access.
    pub fn is_settled(&self, purpose: Purpose, address: &Address) -> bool {
        if !self.suspects.is_empty() {
            return false;
        }
        match purpose {
            Purpose::Write | Purpose::RepeatableWrite | Purpose::OpenSession => self.leader.as_ref() == Some(address),
            Purpose::Read | Purpose::LeaseRead => self.preferred == *address,
            Purpose::StaleRead => true,
        }
    }

    /// This address answered.
    pub fn answered(&mut self, purpose: Purpose, address: &Address, now: Instant) {
        self.suspects.retain(|(suspect, until)| suspect != address && now < *until);
        match purpose {
            Purpose::Write | Purpose::RepeatableWrite | Purpose::OpenSession => self.leader = Some(address.clone()),
            Purpose::Read | Purpose::LeaseRead => self.preferred = address.clone(),
            Purpose::StaleRead => {}
        }
    }

    /// This address did not answer.
    pub fn silent(&mut self, address: &Address, now: Instant) {
        self.suspects.retain(|(suspect, until)| suspect != address && now < *until);
        self.suspects.push((address.clone(), now + SUSPECT_FOR));
        self.not_leader(address);
    }

    /// This address is not the leader's.
    pub fn not_leader(&mut self, address: &Address) {
        if self.leader.as_ref() == Some(address) {
            self.leader = None;
        }
    }

    /// Takes over the addresses of a members list.
    pub fn learn<'a>(&mut self, addresses: impl IntoIterator<Item = &'a str>) {
        let mut learned: Vec<Address> = Vec::new();
        for address in addresses {
            let is_new = !self.configured.iter().chain(&learned).any(|known| **known == *address);
            if is_new && !address.is_empty() && self.configured.len() + learned.len() < ENDPOINTS_MAX {
                learned.push(self.known(address));
            }
        }
        self.learned = learned;
        let is_known = self.all().any(|known| *known == self.preferred);
        if !is_known {
            self.preferred = self.configured[0].clone();
        }
    }

    fn known(&self, address: &str) -> Address {
        self.all().find(|known| ***known == *address).cloned().unwrap_or_else(|| address.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(endpoints: &[&str]) -> Directory {
        Directory::new(endpoints.iter().map(|endpoint| (*endpoint).into()).collect())
    }

    fn order(directory: &Directory, purpose: Purpose, now: Instant) -> Vec<String> {
        let candidates = directory.candidates(purpose, now);
        assert_eq!(candidates[0], directory.first(purpose, now), "the first of the candidates is where to go first");
        candidates.iter().map(|address| address.to_string()).collect()
    }

    #[test]
    fn writes_go_to_the_leader_and_reads_stay_where_they_are() {
        let now = Instant::now();
        let mut directory = directory(&["a:1", "b:1"]);
        assert_eq!(order(&directory, Purpose::Write, now), ["a:1", "b:1"]);
        directory.follow("c:1");
        assert_eq!(order(&directory, Purpose::Write, now), ["c:1", "a:1", "b:1"]);
        assert_eq!(order(&directory, Purpose::Read, now), ["a:1", "b:1", "c:1"]);
        directory.answered(Purpose::Read, &"b:1".into(), now);
        assert_eq!(order(&directory, Purpose::Read, now), ["b:1", "a:1", "c:1"]);
    }

    #[test]
    fn stale_reads_go_only_where_the_caller_said() {
        let now = Instant::now();
        let mut directory = directory(&["a:1", "b:1"]);
        directory.learn(["a:1", "b:1", "c:1"]);
        directory.follow("c:1");
        directory.answered(Purpose::Read, &"b:1".into(), now);
        assert_eq!(order(&directory, Purpose::StaleRead, now), ["a:1", "b:1"]);
    }

    #[test]
    fn an_address_that_failed_comes_last_for_a_while() {
        let now = Instant::now();
        let mut directory = directory(&["a:1", "b:1", "c:1"]);
        directory.silent(&"a:1".into(), now);
        assert_eq!(order(&directory, Purpose::StaleRead, now), ["b:1", "c:1", "a:1"]);
        assert_eq!(order(&directory, Purpose::Read, now), ["b:1", "c:1", "a:1"]);
        assert_eq!(order(&directory, Purpose::StaleRead, now + SUSPECT_FOR), ["a:1", "b:1", "c:1"]);
        directory.answered(Purpose::StaleRead, &"a:1".into(), now);
        assert_eq!(order(&directory, Purpose::StaleRead, now), ["a:1", "b:1", "c:1"]);
    }

    #[test]
    fn a_leader_that_failed_or_says_it_is_none_is_forgotten() {
        let now = Instant::now();
        let mut directory = directory(&["a:1"]);
        let leader = directory.follow("b:1");
        directory.not_leader(&leader);
        assert_eq!(order(&directory, Purpose::Write, now), ["a:1"]);
        let leader = directory.follow("b:1");
        directory.silent(&leader, now);
        assert_eq!(order(&directory, Purpose::Write, now), ["a:1"]);
    }

    #[test]
    fn one_endpoint_grows_to_all_members_and_removed_ones_go() {
        let now = Instant::now();
        let mut directory = directory(&["a:1"]);
        directory.learn(["a:1", "b:1", "c:1", "", "b:1"]);
        assert_eq!(order(&directory, Purpose::Read, now), ["a:1", "b:1", "c:1"]);
        directory.answered(Purpose::Read, &"b:1".into(), now);
        directory.learn(["a:1", "c:1"]);
        assert_eq!(order(&directory, Purpose::Read, now), ["a:1", "c:1"]);
    }

    #[test]
    fn a_long_members_list_is_cut() {
        let mut directory = directory(&["a:1"]);
        let many: Vec<String> = (0..1000).map(|number| format!("n{number}:1")).collect();
        directory.learn(many.iter().map(String::as_str));
        assert_eq!(directory.all().count(), ENDPOINTS_MAX);
    }
}

//! The network between nodes, and between clients and nodes: what becomes of a message is decided when it is sent.
//!
//! Links are cut one way at a time and may be cut by several faults at once; a link works when none of them cuts it. A message that was
//! under way when its link was cut is lost, except for the few that are delayed for long: those arrive whatever has become of link, sender and
//! receiver meanwhile, as messages of a former life do. Once the network is healed, those still under way are lost: minutes of a former leader's
//! heartbeats would otherwise keep an election off for as long, and progress is promised of a network that has become a good one.

use crate::random::Random;
use crate::schedule::Time;
use std::time::Duration;

/// How the network behaves in one run.
#[derive(Debug, Clone)]
pub struct NetworkSettings {
    /// Lost messages in a thousand.
    pub loss: u64,
    /// Messages in a thousand that arrive twice.
    pub duplicates: u64,
    /// Messages in a thousand that arrive very late.
    pub late: u64,
    /// The latest of them.
    pub late_max: Duration,
    /// What a message usually takes.
    pub delay: (Duration, Duration),
    /// Peers' messages travel in their encoded form.
    pub encoded: bool,
}

/// One copy of a message, under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) delay: Duration,
    /// Arrives even if the link is cut meanwhile.
    pub(crate) late: bool,
}

/// What becomes of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The link is cut.
    Cut,
    /// Lost on the way.
    Lost,
    /// Arrives.
    Sent(Copy),
    /// Arrives twice.
    Twice(Copy, Copy),
}

/// See the module. Nodes and clients are numbered from zero, each by themselves.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) settings: NetworkSettings,
    random: Random,
    nodes: usize,
    /// By how many faults the link from one node to another is cut.
    links: Vec<u32>,
    /// By how many faults the link between a client and a node is cut.
    client_links: Vec<u32>,
    /// When the last message on each link arrives.
    latest: Vec<Time>,
    healed: bool,
}

impl Network {
    pub(crate) fn new(settings: NetworkSettings, random: Random, nodes: usize, clients: usize) -> Network {
        let pairs = nodes * nodes;
        Network {
            settings,
            random,
            nodes,
            links: vec![0; pairs],
            client_links: vec![0; nodes * clients],
            latest: vec![Time::START; pairs],
            healed: false,
        }
    }

    pub(crate) fn fate(&mut self, from: usize, to: usize) -> Fate {
        if self.is_cut(from, to) {
            return Fate::Cut;
        }
        if self.settings.loss > 0 && self.random.chance(self.settings.loss) {
            return Fate::Lost;
        }
        let first = self.copy();
        if self.settings.duplicates > 0 && self.random.chance(self.settings.duplicates) {
            return Fate::Twice(first, self.copy());
        }
        Fate::Sent(first)
    }

    /// Notes that a message arrives at `at`, and says whether it comes before one that was sent earlier.
    pub(crate) fn overtakes(&mut self, from: usize, to: usize, at: Time) -> bool {
        let latest = &mut self.latest[from * self.nodes + to];
        let overtakes = at < *latest;
        *latest = at.max(*latest);
        overtakes
    }

    /// Whether a message that was sent from one node to another, and comes now, arrives.
    pub(crate) fn arrives(&self, from: usize, to: usize, late: bool) -> bool {
        if late { !self.healed } else { !self.is_cut(from, to) }
    }

    /// What a message between a client and a node takes; nothing if it does not arrive.
    pub(crate) fn client_delay(&mut self, client: usize, node: usize) -> Option<Duration> {
        if self.is_client_cut(client, node) {
            return None;
        }
        let (low, high) = self.settings.delay;
        Some(self.random.latency(low, high))
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.links[from * self.nodes + to] > 0
    }

    pub(crate) fn is_client_cut(&self, client: usize, node: usize) -> bool {
        self.client_links[client * self.nodes + node] > 0
    }

    /// Whether any link between nodes is cut.
    pub(crate) fn is_partitioned(&self) -> bool {
        self.links.iter().any(|cuts| *cuts > 0)
    }

    /// How many nodes `node` can speak with both ways, itself counted.
    pub(crate) fn reachable(&self, node: usize) -> usize {
        (0..self.nodes).filter(|other| !self.is_cut(node, *other) && !self.is_cut(*other, node)).count()
    }

    /// Cuts links, each given as from and to.
    pub(crate) fn cut(&mut self, links: &[(usize, usize)]) {
        for (from, to) in links {
            self.links[from * self.nodes + to] += 1;
        }
    }

    /// Takes back what [`Network::cut`] did.
    pub(crate) fn mend(&mut self, links: &[(usize, usize)]) {
        for (from, to) in links {
            let cuts = &mut self.links[from * self.nodes + to];
            *cuts = cuts.saturating_sub(1);
        }
    }

    /// Cuts links between clients and nodes.
    pub(crate) fn cut_clients(&mut self, links: &[(usize, usize)]) {
        for (client, node) in links {
            self.client_links[client * self.nodes + node] += 1;
        }
    }

    /// Takes back what [`Network::cut_clients`] did.
    pub(crate) fn mend_clients(&mut self, links: &[(usize, usize)]) {
        for (client, node) in links {
            let cuts = &mut self.client_links[client * self.nodes + node];
            *cuts = cuts.saturating_sub(1);
        }
    }

    /// From here on the network is a good one.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.links.fill(0);
        self.client_links.fill(0);
        (self.settings.loss, self.settings.duplicates, self.settings.late) = (0, 0, 0);
    }

    fn copy(&mut self) -> Copy {
        let (low, high) = self.settings.delay;
        let late = self.settings.late > 0 && self.random.chance(self.settings.late);
        let high = if late { self.settings.late_max } else { high };
        let delay = if late { self.random.duration(low, high) } else { self.random.latency(low, high) };
        Copy { delay, late }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        let settings = NetworkSettings {
            loss: 0,
            duplicates: 0,
            late: 0,
            late_max: Duration::ZERO,
            delay: (Duration::ZERO, Duration::from_millis(1)),
            encoded: false,
        };
        Network::new(settings, Random::new(1), 3, 1)
    }

    #[test]
    fn late_messages_arrive_over_links_that_are_cut_and_no_more_once_all_is_healed() {
        let mut network = network();
        network.cut(&[(0, 1)]);
        assert!(network.arrives(0, 1, true) && !network.arrives(0, 1, false) && network.arrives(1, 0, false));
        network.heal();
        assert!(!network.arrives(0, 1, true) && network.arrives(0, 1, false));
    }

    #[test]
    fn a_link_works_once_every_fault_that_cuts_it_is_over() {
        let mut network = network();
        network.cut(&[(0, 1), (1, 0)]);
        network.cut(&[(0, 1)]);
        assert_eq!((network.is_cut(0, 1), network.is_cut(1, 0), network.reachable(0)), (true, true, 2));
        network.mend(&[(0, 1), (1, 0)]);
        assert_eq!((network.fate(0, 1), network.is_cut(1, 0), network.reachable(0)), (Fate::Cut, false, 2));
        network.mend(&[(0, 1)]);
        assert!(matches!(network.fate(0, 1), Fate::Sent(_)) && !network.is_partitioned());
    }
}

//! The driver's host in the simulator: it writes down what the driver asks for; the world carries it out in simulated time.

use raft::{
    Changed, FetchSnapshot, InstallSnapshot, Instant, Load, LogIndex, LogPosition, Membership, Message, NodeId,
};
use raftkv::driver::{ApplyJob, Host, PersistJob, ReadWaiter};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// One thing that a driver wants done.
pub(crate) enum Order {
    Persist(PersistJob),
    Send(NodeId, Message),
    Apply(ApplyJob),
    Load(Load),
    Serve(Vec<ReadWaiter>),
    FetchSnapshot(FetchSnapshot),
    InstallSnapshot(InstallSnapshot),
    Compact(LogPosition),
    Flush,
    Changed(Changed),
    Membership { effective: Membership, committed: Membership },
    Repaired,
}

/// Orders in the order in which they came. The driver holds one half, the world the other.
#[derive(Clone, Default)]
pub(crate) struct SimHost(Rc<Desk>);

#[derive(Default)]
struct Desk {
    orders: RefCell<VecDeque<Order>>,
    wall_clock_ms: Cell<u64>,
    fresh_at: Cell<Option<Instant>>,
}

impl SimHost {
    /// The next order.
    pub(crate) fn next(&self) -> Option<Order> {
        self.0.orders.borrow_mut().pop_front()
    }

    /// What the wall clock shows from here on.
    pub(crate) fn set_wall_clock(&self, now_ms: u64) {
        self.0.wall_clock_ms.set(now_ms);
    }

    /// How old the state is at most, when the node's clock shows this; `None` if no leader was heard yet.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        self.0.fresh_at.get().map(|at| now.since(at))
    }

    fn order(&self, order: Order) {
        self.0.orders.borrow_mut().push_back(order);
    }
}

impl Host for SimHost {
    fn persist(&mut self, job: PersistJob) {
        self.order(Order::Persist(job));
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.order(Order::Send(to, message));
    }

    fn apply(&mut self, job: ApplyJob) {
        self.order(Order::Apply(job));
    }

    fn load(&mut self, load: Load) {
        self.order(Order::Load(load));
    }

    fn serve(&mut self, reads: Vec<ReadWaiter>) {
        self.order(Order::Serve(reads));
    }

    fn fetch_snapshot(&mut self, fetch: FetchSnapshot) {
        self.order(Order::FetchSnapshot(fetch));
    }

    fn install_snapshot(&mut self, install: InstallSnapshot) {
        self.order(Order::InstallSnapshot(install));
    }

    fn compact(&mut self, position: LogPosition) {
        self.order(Order::Compact(position));
    }

    fn request_flush(&mut self) {
        self.order(Order::Flush);
    }

    fn changed(&mut self, changed: Changed) {
        self.order(Order::Changed(changed));
    }

    fn committed(&mut self, _index: LogIndex) {}

    fn fresh(&mut self, at: Instant) {
        self.0.fresh_at.set(Some(at));
    }

    fn membership(&mut self, effective: &Membership, committed: &Membership) {
        self.order(Order::Membership { effective: effective.clone(), committed: committed.clone() });
    }

    fn wall_clock_ms(&mut self) -> u64 {
        self.0.wall_clock_ms.get()
    }

    fn repaired(&mut self) {
        self.order(Order::Repaired);
    }
}

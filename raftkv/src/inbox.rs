//! The driver's inbox.
//!
//! One channel without a bound of its own, because the log thread and the apply thread must never wait for the driver while the
//! driver waits for them. What fills it is bounded elsewhere: jobs under way by the core's limits, requests of clients by the
//! limits of the client port, messages of a peer by their permits, which the reader of its connection waits for.

use crate::driver::Input;
use crossbeam_channel::{Receiver, Sender};

/// Where inputs for the driver go.
#[derive(Clone)]
pub(crate) struct Inbox(Sender<Mail>);

/// What comes out of an inbox.
pub(crate) enum Mail {
    /// Something for the driver.
    Input(Input),
    /// The driver is to end.
    Stop,
}

impl Inbox {
    /// An inbox and its other end.
    pub(crate) fn new() -> (Inbox, Receiver<Mail>) {
        let (sender, receiver) = crossbeam_channel::unbounded();
        (Inbox(sender), receiver)
    }

    /// Hands something to the driver. Lost if the driver is gone, in which case the node is stopping; a waiter in it that is
    /// dropped unanswered answers for itself.
    pub(crate) fn push(&self, input: Input) {
        let _ = self.0.send(Mail::Input(input));
    }

    /// Asks the driver to end.
    pub(crate) fn stop(&self) {
        let _ = self.0.send(Mail::Stop);
    }
}

//! Runs the [`Factory`] beside the write path: in a thread of its own, one segment ahead, or inline for the simulator.
//!
//! Orders are carried out one after the other. There are never more than a handful: one preparation and one flush for each segment
//! filled, one retirement for each compaction. A failure to prepare ahead (a full disk) is not reported until the segment is needed:
//! then it is tried once more, and what fails is the write. Any other failure is kept for the next call of the log.

use super::factory::Factory;
use super::high_water::HighWater;
use super::reader::Poison;
use super::segment::Segment;
use super::{LogError, Preparation};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Orders that may wait before the log waits for them.
const ORDERS_MAX: usize = 64;

pub(super) enum Order {
    Prepare(u64),
    Take { sequence: u64, length_min: u64, reply: SyncSender<Result<Arc<Segment>, LogError>> },
    Retire(Vec<(String, u64)>),
    SyncHighWater,
}

/// Whoever carries out orders about segments.
pub(super) enum Workshop {
    Inline(Box<Worker>),
    Thread { orders: Option<SyncSender<Order>>, thread: Option<JoinHandle<()>> },
}

pub(super) struct Worker {
    factory: Factory,
    high_water: HighWater,
    poison: Arc<Poison>,
}

impl Worker {
    fn carry_out(&mut self, order: Order) {
        let result = match order {
            Order::Prepare(sequence) => {
                if let Err(error) = self.factory.prepare(sequence) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "could not prepare a log segment ahead");
                }
                Ok(())
            }
            Order::Take { sequence, length_min, reply } => {
                // The receiver is gone only if the log is, and then nobody needs the segment.
                let _ = reply.send(self.factory.take(sequence, length_min));
                Ok(())
            }
            // Nothing is dropped after a failure: not even the mark need be on disk then.
            Order::Retire(files) => self.poison.check().and_then(|()| self.factory.retire(&files)),
            Order::SyncHighWater => self.high_water.sync(),
        };
        if let Err(error) = result {
            tracing::error!(error = &error as &dyn std::error::Error, "log maintenance failed");
            self.poison.record(&error);
        }
    }

    fn run(&mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            self.carry_out(order);
        }
    }
}

impl Workshop {
    pub(super) fn start(
        factory: Factory,
        high_water: HighWater,
        poison: Arc<Poison>,
        preparation: Preparation,
        directory: &Path,
    ) -> Result<Workshop, LogError> {
        let mut worker = Worker { factory, high_water, poison };
        match preparation {
            Preparation::Inline => Ok(Workshop::Inline(Box::new(worker))),
            Preparation::Background => {
                let (orders, received) = sync_channel(ORDERS_MAX);
                let thread = std::thread::Builder::new()
                    .name("log-segments".to_owned())
                    .spawn(move || worker.run(&received))
                    .map_err(|source| LogError::io("start the thread that prepares segments of", directory, source))?;
                Ok(Workshop::Thread { orders: Some(orders), thread: Some(thread) })
            }
        }
    }

    fn order(&mut self, order: Order) {
        match self {
            Workshop::Inline(worker) => worker.carry_out(order),
            Workshop::Thread { orders, .. } => {
                let orders = orders.as_ref().expect("the channel lives as long as the log");
                orders.send(order).expect("the thread ends only with the channel");
            }
        }
    }

    /// Has segment `sequence` made, if there is a thread to do it meanwhile.
    pub(super) fn prepare(&mut self, sequence: u64) {
        match self {
            Workshop::Inline(_) => {}
            Workshop::Thread { .. } => self.order(Order::Prepare(sequence)),
        }
    }

    /// Segment `sequence` with at least `length_min` bytes: the one made ahead, or one made while the caller waits.
    pub(super) fn take(&mut self, sequence: u64, length_min: u64, directory: &Path) -> Result<Arc<Segment>, LogError> {
        let (reply, answer) = sync_channel(1);
        self.order(Order::Take { sequence, length_min, reply });
        answer
            .recv()
            .unwrap_or_else(|_| Err(LogError::io("prepare a segment in", directory, io::ErrorKind::BrokenPipe.into())))
    }

    pub(super) fn retire(&mut self, files: Vec<(String, u64)>) {
        self.order(Order::Retire(files));
    }

    pub(super) fn sync_high_water(&mut self) {
        self.order(Order::SyncHighWater);
    }

    /// Waits for everything ordered.
    pub(super) fn stop(&mut self) {
        if let Workshop::Thread { orders, thread } = self {
            drop(orders.take());
            if let Some(thread) = thread.take() {
                thread.join().expect("the thread that prepares segments does not panic");
            }
        }
    }
}

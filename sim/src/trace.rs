//! What a run tells: a line for everything that happens, if somebody wants to read it, and always a hash of all of it, by which
//! two runs of one seed are compared.

use crate::schedule::Time;
use std::fmt;
use xxhash_rust::xxh3::Xxh3;

/// Where lines go.
pub type Sink = Box<dyn FnMut(&str)>;

/// See the module.
pub struct Trace {
    sink: Option<Sink>,
    hasher: Xxh3,
}

impl Trace {
    /// Lines go to `sink`, if there is one.
    #[must_use]
    pub fn new(sink: Option<Sink>) -> Trace {
        Trace { sink, hasher: Xxh3::new() }
    }

    /// Notes a line. What it says is only made up if somebody reads it.
    pub fn line(&mut self, now: Time, line: fmt::Arguments<'_>) {
        if let Some(sink) = &mut self.sink {
            sink(&format!("{now:>14}  {line}"));
        }
    }

    /// Takes numbers that make this run what it is into the hash.
    pub fn note(&mut self, now: Time, kind: u64, detail: u64) {
        for number in [now.0, kind, detail] {
            self.hasher.update(&number.to_le_bytes());
        }
    }

    /// The hash of all that was noted.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hasher.digest()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("hash", &self.hash()).finish_non_exhaustive()
    }
}

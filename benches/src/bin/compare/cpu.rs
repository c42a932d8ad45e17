//! CPU time as the kernel counts it, to tell a store that is slow from a machine that is full.

use crate::measurement::CpuUse;
use anyhow::Context;
use std::time::Duration;

/// What one tick of `/proc` is on every Linux of the architectures raftkv runs on (`USER_HZ` is 100).
const TICK_MS: u64 = 10;

/// CPU time used up to one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuClock(CpuUse);

impl CpuClock {
    /// Reads the clocks of these processes, of this one and of the machine.
    pub(crate) fn read(store_processes: &[u32]) -> anyhow::Result<CpuClock> {
        let mut store = Duration::ZERO;
        for process in store_processes {
            store += process_time(&process.to_string())?;
        }
        let path = "/proc/stat";
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let machine = machine_time(&text).with_context(|| format!("cannot make sense of {path}"))?;
        Ok(CpuClock(CpuUse { store, generator: process_time("self")?, machine }))
    }

    /// What was used since.
    pub(crate) fn since(self, earlier: CpuClock) -> CpuUse {
        let (CpuClock(now), CpuClock(then)) = (self, earlier);
        CpuUse {
            store: now.store.saturating_sub(then.store),
            generator: now.generator.saturating_sub(then.generator),
            machine: now.machine.saturating_sub(then.machine),
        }
    }
}

fn process_time(process: &str) -> anyhow::Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}: has the process ended?"))?;
    parse_process(&text).with_context(|| format!("cannot make sense of {path}"))
}

/// User and system time: fields 14 and 15, counted from 1; the name in field 2 may hold anything, so counting starts after it.
fn parse_process(text: &str) -> Option<Duration> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()?.checked_add(fields.next()?.parse().ok()?)?;
    Some(Duration::from_millis(ticks.checked_mul(TICK_MS)?))
}

/// Everything but idle time, waiting for disks, and what a hypervisor took away.
fn machine_time(text: &str) -> Option<Duration> {
    let fields: Vec<u64> = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _idle, _io_wait, interrupts, soft_interrupts, ..] = fields[..] else { return None };
    let ticks: u64 = [user, nice, system, interrupts, soft_interrupts].iter().sum();
    Some(Duration::from_millis(ticks.checked_mul(TICK_MS)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let text = "42 (a (b) c) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0";
        assert_eq!(parse_process(text), Some(Duration::from_secs(2)));
        assert_eq!(parse_process("42 (short) S 1"), None);
    }

    #[test]
    fn idle_time_is_not_work() {
        let text = "cpu  100 10 50 99999 88888 5 35 7 0 0\ncpu0 1 2 3";
        assert_eq!(machine_time(text), Some(Duration::from_secs(2)));
        assert_eq!(machine_time("cpu 1 2"), None);
    }
}

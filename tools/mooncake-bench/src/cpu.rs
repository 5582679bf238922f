//! CPU time: what this process and the servers it talks to have used.

use crate::number::real;
use rustix::time::{ClockId, clock_gettime};
use std::fs;

/// CPU seconds of this process, all its threads, those that ended too.
pub(crate) fn own_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    real(time.tv_sec.unsigned_abs()) + real(time.tv_nsec.unsigned_abs()) / 1e9
}

/// CPU seconds of the living threads of other processes, to the nanosecond. A process that is gone counts nothing.
pub(crate) fn seconds_of(pids: &[u32]) -> f64 {
    let mut ns = 0u64;
    for pid in pids {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            ns += text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0u64);
        }
    }
    real(ns) / 1e9
}

/// Resident bytes of a process; 0 if it is gone.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_see_this_process_work() {
        // Other tests' threads end meanwhile and take their time out of the sum: then again.
        let seen = (0..100).any(|_| {
            let (own, other) = (own_seconds(), seconds_of(&[std::process::id()]));
            let mut x = 1u64;
            while own_seconds() - own < 0.02 {
                x = std::hint::black_box(x.wrapping_mul(3));
            }
            seconds_of(&[std::process::id()]) - other > 0.01
        });
        assert!(seen, "two hundredths of a second of work are seen by both clocks");
        assert!(resident_bytes(std::process::id()) > 1 << 16);
        assert_eq!(seconds_of(&[u32::MAX]), 0.0);
    }
}

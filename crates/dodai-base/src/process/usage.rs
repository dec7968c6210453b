//! What an instance uses, for `dodai top`.

use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use crate::shim::tree;

/// The use of resources at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since the start. A rate is the difference of two readings.
    pub cpu: Duration,
    /// Memory in bytes. From control groups: without page cache that is not in use. Otherwise the sum of
    /// the resident sets, which counts shared pages several times.
    pub memory_bytes: u64,
    /// Processes (with control groups: and threads).
    pub processes: u64,
}

/// Sums the descendants of a process, without itself.
pub(super) fn below(pid: i32) -> Usage {
    let constant = |name, fallback| {
        let value = sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
        value.filter(|value| *value > 0).unwrap_or(fallback)
    };
    let (ticks_per_second, page) =
        (constant(SysconfVar::CLK_TCK, 100), constant(SysconfVar::PAGE_SIZE, 4096));
    let mut usage = Usage::default();
    for pid in tree::descendants(pid) {
        let Some(stat) = tree::stat(pid).filter(|stat| stat.state != 'Z') else { continue };
        usage.cpu += Duration::from_micros(stat.ticks.saturating_mul(1_000_000) / ticks_per_second);
        usage.memory_bytes += stat.pages * page;
        usage.processes += 1;
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_child_uses_something() {
        let mut child = std::process::Command::new("/bin/sleep").arg("100").spawn().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        // The kernel counts pages per processor and adds them up in batches: zero for a moment.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while below(me).memory_bytes == 0 {
            assert!(std::time::Instant::now() < deadline, "{:?}", below(me));
            std::thread::yield_now();
        }
        assert!(below(me).processes >= 1);
        assert_eq!(below(i32::MAX), Usage::default());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

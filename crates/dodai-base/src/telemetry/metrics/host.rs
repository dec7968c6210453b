//! What the base's own process uses, from `/proc/self`. Names are those that Prometheus clients agree on.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// The use of resources of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnUse {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Processor time in seconds.
    pub cpu_seconds: f64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub open_files: u64,
    /// When it started, in seconds since the epoch.
    pub start_seconds: f64,
}

impl OwnUse {
    /// Reads it; `None` where there is no `/proc`.
    pub fn read() -> Option<OwnUse> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let open_files = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        let constant = |name, fallback| {
            let value = sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
            value.filter(|value| *value > 0).unwrap_or(fallback)
        };
        let (ticks, page) = (constant(SysconfVar::CLK_TCK, 100), constant(SysconfVar::PAGE_SIZE, 4096));
        // Listing the descriptors opened one of its own.
        let open_files = open_files.saturating_sub(1);
        OwnUse::parse(&stat, &boot, ticks, page).map(|found| OwnUse { open_files, ..found })
    }

    /// Reads the lines of proc(5): `/proc/self/stat` and the `btime` of `/proc/stat`.
    fn parse(stat: &str, boot: &str, ticks_per_second: u64, page: u64) -> Option<OwnUse> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Field 3 of the manual page (state) is fields[0].
        let number = |index: usize| fields.get(index - 3)?.parse::<u64>().ok();
        let booted: u64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second as f64;
        Some(OwnUse {
            resident_bytes: number(24)? * page,
            cpu_seconds: seconds(number(14)? + number(15)?),
            threads: number(20)?,
            open_files: 0,
            start_seconds: booted as f64 + seconds(number(22)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_the_right_ones() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 3 4 20 0 7 0 500 1000000 250 184467";
        let own = OwnUse::parse(stat, "cpu 1 2\nbtime 1000\nprocesses 5\n", 100, 4096).unwrap();
        let expect = OwnUse {
            resident_bytes: 1_024_000,
            cpu_seconds: 2.0,
            threads: 7,
            open_files: 0,
            start_seconds: 1005.0,
        };
        assert_eq!(own, expect);
        assert_eq!(OwnUse::parse("42 (a) S 1", "btime 1\n", 100, 4096), None);
    }

    #[test]
    fn this_process_uses_something() {
        let own = OwnUse::read().expect("tests run on Linux");
        assert!(own.threads >= 1 && own.open_files >= 3 && own.start_seconds > 1e9, "{own:?}");
    }
}

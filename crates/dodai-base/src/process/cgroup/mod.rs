//! Control groups of both versions: where they are, what to write, how to read them. This file is pure;
//! `group` makes and removes them. Each instance gets `dodai/<base>/<instance>` below the base's own group
//! in every hierarchy that can be written, so that limits of the base's surroundings go on holding.

mod group;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(super) use group::{Group, Groups};

use super::Limits;

/// The interval in which the kernel accounts CPU limits.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel's least quota.
const MIN_QUOTA_US: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Controller {
    Memory,
    Cpu,
    Cpuacct,
    Pids,
}

impl Controller {
    fn parse(word: &str) -> Option<Controller> {
        match word {
            "memory" => Some(Controller::Memory),
            "cpu" => Some(Controller::Cpu),
            "cpuacct" => Some(Controller::Cpuacct),
            "pids" => Some(Controller::Pids),
            _ => None,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
            Controller::Pids => "pids",
        }
    }
}

/// One mounted hierarchy and the base's own place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub version: Version,
    /// The directory of the group that this process is in.
    pub own: PathBuf,
    /// The directory of the topmost group that can be seen.
    pub top: PathBuf,
    /// Version 1: by the mount. Version 2: empty here, read from the directory.
    pub controllers: BTreeSet<Controller>,
}

/// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`.
pub(super) fn hierarchies(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
    mountinfo.lines().filter_map(|line| hierarchy(line, own)).collect()
}

fn hierarchy(line: &str, own: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, mount) = (unescape(left.next()?), unescape(left.next()?));
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    let (version, controllers) = match kind {
        "cgroup2" => (Version::V2, BTreeSet::new()),
        "cgroup" => (Version::V1, options.split(',').filter_map(Controller::parse).collect()),
        _ => return None,
    };
    if version == Version::V1 && controllers.is_empty() {
        return None;
    }
    let path = own_path(own, version, &controllers)?;
    // In a container the mount may show only a part of the hierarchy.
    let below = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(""));
    let top = PathBuf::from(mount);
    Some(Hierarchy { version, own: top.join(below), top, controllers })
}

/// The line of `/proc/self/cgroup` for a hierarchy: `4:memory:/path`, or `0::/path` for version 2.
fn own_path<'a>(own: &'a str, version: Version, controllers: &BTreeSet<Controller>) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let ours = match version {
            Version::V2 => names.is_empty(),
            Version::V1 => names.split(',').filter_map(Controller::parse).any(|c| controllers.contains(&c)),
        };
        ours.then_some(path)
    })
}

/// The kernel writes space, tab, newline and backslash of a path as three octal digits.
fn unescape(word: &str) -> String {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code =
            tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The files to write for the limits, in order.
pub(super) fn writes(version: Version, limits: &Limits) -> Vec<(Controller, &'static str, String)> {
    let mut writes = Vec::new();
    if let Some(memory) = limits.memory {
        let file = if version == Version::V1 { "memory.limit_in_bytes" } else { "memory.max" };
        writes.push((Controller::Memory, file, memory.to_string()));
    }
    if let Some(millicores) = limits.cpu_millicores {
        let quota = (u64::from(millicores) * CPU_PERIOD_US / 1000).max(MIN_QUOTA_US);
        match version {
            Version::V1 => {
                writes.push((Controller::Cpu, "cpu.cfs_period_us", CPU_PERIOD_US.to_string()));
                writes.push((Controller::Cpu, "cpu.cfs_quota_us", quota.to_string()));
            }
            Version::V2 => writes.push((Controller::Cpu, "cpu.max", format!("{quota} {CPU_PERIOD_US}"))),
        }
    }
    if let Some(pids) = limits.pids {
        writes.push((Controller::Pids, "pids.max", pids.to_string()));
    }
    writes
}

/// The controllers that limits need.
pub(super) fn needed(limits: &Limits) -> BTreeSet<Controller> {
    writes(Version::V2, limits).into_iter().map(|(controller, ..)| controller).collect()
}

/// A number after a word at the beginning of a line: `usage_usec 1234`.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID_MOUNTS: &str = "\
31 23 0:27 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 31 0:30 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
35 31 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
36 23 0:32 / /proc rw - proc proc rw";
    const HYBRID_OWN: &str = "5:name=systemd:/\n4:memory:/box/one\n1:cpu,cpuacct:/\n0::/\n";

    #[test]
    fn finds_both_versions_side_by_side() {
        let found = hierarchies(HYBRID_MOUNTS, HYBRID_OWN);
        let paths: Vec<_> = found.iter().map(|h| (h.version, h.own.to_str().unwrap())).collect();
        let expect = [
            (Version::V1, "/sys/fs/cgroup/cpu,cpuacct/"),
            (Version::V1, "/sys/fs/cgroup/memory/box/one"),
            (Version::V2, "/sys/fs/cgroup/unified/"),
        ];
        assert_eq!(paths, expect);
        assert_eq!(found[0].controllers, BTreeSet::from([Controller::Cpu, Controller::Cpuacct]));
    }

    #[test]
    fn a_container_sees_a_part_of_the_hierarchy() {
        let own = "0::/docker/abc/app\n";
        let mounts = "40 30 0:40 /docker/abc /sys/fs/cgr\\040oup ro - cgroup2 cgroup rw,nsdelegate";
        assert_eq!(hierarchies(mounts, own)[0].own, Path::new("/sys/fs/cgr oup/app"));
        let other_namespace = "0::/../elsewhere\n";
        assert_eq!(hierarchies(mounts, other_namespace)[0].own, Path::new("/sys/fs/cgr oup/"));
        assert!(hierarchies("", own).is_empty());
        assert!(hierarchies("garbage", "garbage").is_empty());
    }

    #[test]
    fn limits_become_files() {
        #[track_caller]
        fn check(version: Version, limits: Limits, expect: &[(&str, &str)]) {
            let writes = writes(version, &limits);
            let got: Vec<_> = writes.iter().map(|(_, file, value)| (*file, value.as_str())).collect();
            assert_eq!(got, expect);
        }
        let all = Limits {
            memory: Some(64 << 20),
            cpu_millicores: Some(1500),
            pids: Some(32),
            open_files: Some(100),
        };
        check(
            Version::V2,
            all,
            &[("memory.max", "67108864"), ("cpu.max", "150000 100000"), ("pids.max", "32")],
        );
        let v1 = [
            ("memory.limit_in_bytes", "67108864"),
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "150000"),
            ("pids.max", "32"),
        ];
        check(Version::V1, all, &v1);
        check(
            Version::V2,
            Limits { cpu_millicores: Some(10), ..Limits::default() },
            &[("cpu.max", "1000 100000")],
        );
        check(Version::V1, Limits::default(), &[]);
        assert_eq!(needed(&all), BTreeSet::from([Controller::Memory, Controller::Cpu, Controller::Pids]));
    }

    #[test]
    fn fields_of_flat_files() {
        let text = "usage_usec 1234\nuser_usec 1000\ninactive_file 5\n";
        assert_eq!(field(text, "usage_usec"), Some(1234));
        assert_eq!(field(text, "usage"), None);
        assert_eq!(field(text, "inactive_file"), Some(5));
    }
}

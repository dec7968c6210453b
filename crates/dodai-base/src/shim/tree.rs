//! Reading process trees from `/proc`. Every answer is a snapshot that may be stale when it arrives: callers
//! that must reach all descendants repeat until the kernel says that no child is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// What `/proc/<pid>/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub parent: i32,
    /// `Z` for a zombie.
    pub state: char,
    /// User and system time of the process and of the children it has waited for, in clock ticks.
    pub ticks: u64,
    /// Resident pages.
    pub pages: u64,
}

/// Parses one `stat` line. The name in parentheses may hold spaces and parentheses of its own.
pub(crate) fn parse_stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Field 3 of the manual page (state) is fields[0].
    let number = |index: usize| fields.get(index - 3)?.parse::<i64>().ok();
    let positive = |index: usize| Some(u64::try_from(number(index)?).unwrap_or(0));
    Some(Stat {
        parent: i32::try_from(number(4)?).ok()?,
        state: fields.first()?.chars().next()?,
        ticks: positive(14)? + positive(15)? + positive(16)? + positive(17)?,
        pages: positive(24)?,
    })
}

/// The state of one process; nothing if it is gone.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The children of one process, zombies included.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => {
                found.extend(list.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok()))
            }
            // The kernel was built without it (or the thread has just ended).
            Err(_) => {
                return parents().into_iter().filter(|(_, p)| *p == pid).map(|(child, _)| child).collect();
            }
        }
    }
    found
}

/// Every descendant of a process, without itself.
pub(crate) fn descendants(pid: i32) -> Vec<i32> {
    let mut seen = BTreeSet::new();
    let mut open = vec![pid];
    while let Some(next) = open.pop() {
        for child in children(next) {
            if seen.insert(child) {
                open.push(child);
            }
        }
    }
    seen.into_iter().collect()
}

/// Finds, among the children of a namespace's first process, the one that has this id inside.
pub(crate) fn find_inside(init: i32, inside: i32) -> Option<i32> {
    children(init).into_iter().find(|child| {
        fs::read_to_string(format!("/proc/{child}/status"))
            .is_ok_and(|status| innermost(&status) == Some(inside))
    })
}

/// The id of a process in its own namespace, from `/proc/<pid>/status`.
fn innermost(status: &str) -> Option<i32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().next_back()?.parse().ok()
}

fn parents() -> BTreeMap<i32, i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.parent)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let tail =
            "S 1 42 42 0 -1 4194560 100 0 0 0 10 20 3 4 20 0 1 0 5000 1000000 250 18446744073709551615";
        let expect = Some(Stat { parent: 1, state: 'S', ticks: 37, pages: 250 });
        for name in ["sh", "a b", "x) R 9", "(", ""] {
            assert_eq!(parse_stat(&format!("42 ({name}) {tail}")), expect, "{name}");
        }
        assert_eq!(parse_stat("42 (sh) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn namespace_ids() {
        assert_eq!(innermost("Name:\tsh\nNSpid:\t812\t2\nNSpgid:\t812\t2\n"), Some(2));
        assert_eq!(innermost("NSpid:\t812\n"), Some(812));
        assert_eq!(innermost("Name:\tsh\n"), None);
    }

    #[test]
    fn both_ways_of_listing_children_agree() {
        let mut child = std::process::Command::new("/bin/sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(children(me).contains(&pid));
        assert!(descendants(me).contains(&pid));
        assert_eq!(parents().get(&pid), Some(&me));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children(me).contains(&pid));
    }
}

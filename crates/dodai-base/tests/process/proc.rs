//! Finding processes by a mark in their environment, wherever they hide in the tree.

use std::fs;

/// The living processes whose environment has `APP_MARK=<mark>`.
pub(super) fn marked(mark: &str) -> Vec<i32> {
    let wanted = format!("APP_MARK={mark}");
    let has_mark = |pid: &i32| {
        // Empty for a zombie.
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let entries = fs::read_dir("/proc").unwrap();
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(has_mark).collect()
}

/// A field of `/proc/<pid>/status`.
pub(super) fn status_field(pid: i32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

pub(super) fn parent(pid: i32) -> i32 {
    status_field(pid, "PPid").unwrap().parse().unwrap()
}

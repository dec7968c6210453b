//! Gives back the pages of the program that only its start needed.
//!
//! The program is large and a base uses little of it, but starting (reading documents, opening stores,
//! setting up cryptography) touches pages all over it, and the kernel maps their neighbours along. They stay
//! in the resident set although nothing uses them again. Dropping the mapping of unchanged file pages loses
//! nothing: a page that is used comes back from the page cache. Rejected: ordering functions at link time,
//! which needs a list of mangled names that every change of the code outdates.

#![expect(unsafe_code, reason = "giving pages of the own image back has no safe form")]

use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::time::Duration;

use dodai_core::task::Tasks;
use nix::sys::mman::{MmapAdvise, madvise};

/// From the start of a base until it has settled.
const FIRST: Duration = Duration::from_secs(10);
/// Between two later times: what a module's start or a burst of management calls needed is given back too. Each costs a
/// millisecond, and what is in use comes back with some hundred faults of a microsecond.
const EVERY: Duration = Duration::from_secs(60);

/// Gives unused pages back once the base has settled, and now and then. Ends when `tasks` close.
pub async fn tend(tasks: Tasks) {
    let mut wait = FIRST;
    loop {
        tokio::select! {
            // Both only wait.
            () = tokio::time::sleep(wait) => {}
            () = tasks.closing() => return,
        }
        let bytes = give_back();
        tracing::debug!(bytes, "gave back the program's pages that were mapped");
        wait = EVERY;
    }
}

/// Drops the pages of the program's file and of its shared libraries that are mapped and unchanged. Says how many bytes were resident;
/// zero where the kernel does not tell.
pub fn give_back() -> u64 {
    let Ok(program) = std::fs::metadata("/proc/self/exe") else { return 0 };
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else { return 0 };
    let mut bytes = 0;
    for part in unchanged(&smaps, program.ino()) {
        let Some(address) = NonNull::new(part.start as *mut std::ffi::c_void) else { continue };
        // SAFETY: the range is a mapping of the program's own file or a library of it, which stays for as long as
        // the process lives; it is not writable and has no private copies of pages, so each reads the same again.
        if unsafe { madvise(address, part.end - part.start, MmapAdvise::MADV_DONTNEED) }.is_ok() {
            bytes += part.resident;
        }
    }
    bytes
}

/// A mapping.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    start: usize,
    end: usize,
    resident: u64,
}

/// The mappings of the file `inode` and of shared libraries that cannot be written and whose pages are all the file's own: relocated
/// data, breakpoints and the like are private copies, which could not be read again.
fn unchanged(smaps: &str, inode: u64) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut current: Option<Part> = None;
    let mut seen = (false, false);
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), second) = (words.next(), words.next()) else { continue };
        let Some(field) = first.strip_suffix(':') else {
            parts.extend(current.take().filter(|_| seen == (true, true)));
            let of = (words.nth(2), words.next());
            (current, seen) = (mapping(first, second, of, inode), (false, false));
            continue;
        };
        let Some(part) = &mut current else { continue };
        let kilobytes: u64 = second.and_then(|number| number.parse().ok()).unwrap_or(0);
        match field {
            "Rss" => part.resident = kilobytes * 1024,
            "Anonymous" => seen.0 = kilobytes == 0,
            "Swap" => seen.1 = kilobytes == 0,
            _ => {}
        }
    }
    parts.extend(current.filter(|_| seen == (true, true)));
    parts
}

/// Reads the first line of a mapping: `start-end rights offset device inode path` (proc_pid_maps(5)).
fn mapping(
    range: &str,
    rights: Option<&str>,
    (of, path): (Option<&str>, Option<&str>),
    inode: u64,
) -> Option<Part> {
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let rights = rights?;
    let library = path.and_then(|path| path.rsplit_once('/')).is_some_and(|(_, name)| name.contains(".so"));
    let ours = library || of?.parse() == Ok(inode);
    let fits = rights.starts_with('r') && !rights.contains('w') && ours;
    (fits && start < end).then_some(Part { start, end, resident: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55a000000000-55a000100000 r--p 00000000 fe:00 77 /usr/bin/dodai
Rss:                 512 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me sd
55a000100000-55a000900000 r-xp 00100000 fe:00 77 /usr/bin/dodai
Rss:                4096 kB
Anonymous:             4 kB
Swap:                  0 kB
55a000900000-55a000a00000 r--p 00900000 fe:00 77 /usr/bin/dodai
Rss:                   0 kB
Anonymous:             0 kB
Swap:                 16 kB
55a000a00000-55a000b00000 rw-p 00a00000 fe:00 77 /usr/bin/dodai
Rss:                  16 kB
Anonymous:             0 kB
Swap:                  0 kB
7fa000000000-7fa000100000 r-xp 00000000 fe:00 78 /usr/lib/libc.so.6
Rss:                  16 kB
Anonymous:             0 kB
Swap:                  0 kB
7fa000200000-7fa000300000 r--p 00000000 fe:00 78 /var/lib/data.bin
Rss:                  16 kB
Anonymous:             0 kB
Swap:                  0 kB
7fb000000000-7fb000001000 r-xp 00b00000 fe:00 77 /usr/bin/dodai
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  0 kB
";

    #[test]
    fn only_unchanged_pages_of_the_program_and_its_libraries_are_given_back() {
        let parts = unchanged(SMAPS, 77);
        let expect = [
            Part { start: 0x55a0_0000_0000, end: 0x55a0_0010_0000, resident: 512 * 1024 },
            Part { start: 0x7fa0_0000_0000, end: 0x7fa0_0010_0000, resident: 16 * 1024 },
            Part { start: 0x7fb0_0000_0000, end: 0x7fb0_0000_1000, resident: 4096 },
        ];
        assert_eq!(parts, expect);
    }

    #[test]
    fn a_kernel_that_does_not_tell_about_private_copies_is_left_alone() {
        let silent: String =
            SMAPS.lines().filter(|line| !line.starts_with("Swap")).map(|line| format!("{line}\n")).collect();
        assert_eq!(unchanged(&silent, 77), []);
    }

    #[test]
    fn the_program_runs_on_without_its_pages() {
        let ours = cfg!(target_os = "linux");
        assert_eq!(give_back() > 0, ours);
        assert_eq!(give_back() > 0, ours, "running this brought some back");
    }
}

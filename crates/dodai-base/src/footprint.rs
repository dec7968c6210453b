//! Gives memory back that only the start or a burst needed: pages of the program, and free pages of the heap.
//!
//! The program is large and a base uses little of it, but starting touches pages all over it and the kernel maps their
//! neighbours along. To drop the mapping of unchanged file pages loses nothing: what is used comes back from the page cache.
//! What is used together lies together in the binary that `cargo xtask dist` builds. And the heap keeps what is free between
//! two things that stay, after 10,000 connections most of their memory; glibc gives it back when told to (`malloc_trim(3)`).
//! Rejected: another allocator, which costs an idle base megabytes.

#![expect(unsafe_code, reason = "giving pages back has no safe form")]

use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::time::Duration;

use dodai_core::task::Tasks;
use nix::sys::mman::{MmapAdvise, madvise};

/// From the start of a base until it has settled.
const FIRST: Duration = Duration::from_secs(10);
/// Between two later times: what a module's start or a burst of management calls needed is given back too. Each costs a
/// millisecond, and what is in use comes back with some hundred faults of a microsecond.
const EVERY: Duration = Duration::from_secs(30);

/// Gives unused pages back once the base has settled, and now and then. Ends when `tasks` close.
pub async fn tend(tasks: Tasks) {
    let mut wait = FIRST;
    let mut heap = Heap::default();
    loop {
        tokio::select! {
            // Both only wait.
            () = tokio::time::sleep(wait) => {}
            () = tasks.closing() => return,
        }
        let bytes = give_back();
        heap.trim();
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

/// So much of the heap has to be free, in bytes, and so much more memory in use than after the last time.
const WORTH: u64 = 2 << 20;

/// The heap, as it was when its free pages were given back last.
#[derive(Default)]
struct Heap {
    /// Bytes of our own that were resident then.
    left: u64,
}

impl Heap {
    /// Gives the free pages back, if there are enough. That holds each part of the heap for the time that it takes, some
    /// milliseconds for 100 MB, so it is not done for nothing.
    fn trim(&mut self) {
        let Some(now) = own() else { return };
        self.left = self.left.min(now);
        if now > self.left + WORTH && free() > WORTH {
            give_back_heap();
            self.left = own().unwrap_or(now);
        }
    }
}

/// Bytes of memory that is only ours and resident.
fn own() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Bytes of the heap that are free, up to 4 GiB; more than that is told modulo that. `mallinfo2`, which counts further, is
/// younger than the oldest C library that we run on.
#[cfg(target_env = "gnu")]
fn free() -> u64 {
    // SAFETY: it takes the heap's own locks and changes nothing.
    let info = unsafe { nix::libc::mallinfo() };
    u64::from(info.fordblks.cast_unsigned())
}

/// Other C libraries tell nothing, and give back by themselves or not at all.
#[cfg(not(target_env = "gnu"))]
fn free() -> u64 {
    0
}

/// Gives the heap's free pages back.
fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the heap's own locks and touches only what is free.
    unsafe {
        nix::libc::malloc_trim(0);
    }
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
    #[cfg(target_env = "gnu")]
    fn what_a_burst_left_between_things_that_stay_is_given_back() {
        let mut heap = Heap { left: own().expect("Linux tells") };
        let mut burst: Vec<Box<[u8; 3000]>> = (0..30_000).map(|_| Box::new([1; 3000])).collect();
        let full = own().expect("as before");
        // One of 50 stays, so that no end of the heap becomes free.
        let mut number = 0;
        burst.retain(|_| {
            number += 1;
            number % 50 == 0
        });
        heap.trim();
        let after = own().expect("as before");
        assert!(full - after > 40 << 20, "{full} bytes in the burst, {after} afterwards");
        assert!(heap.left >= WORTH);
        drop(burst);
    }

    #[test]
    fn the_program_runs_on_without_its_pages() {
        let ours = cfg!(target_os = "linux");
        assert_eq!(give_back() > 0, ours);
        assert_eq!(give_back() > 0, ours, "running this brought some back");
    }
}

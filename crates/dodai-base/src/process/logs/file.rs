//! One log file with rotation by size and a cap on the disk space of its app. Blocking; called off the
//! runtime's threads. A failing disk stops the writing, not the app: one warning, a retry now and then, and
//! a note about how many lines are missing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::{Line, Stream};
use crate::process::{Error, LogPolicy};

/// How long to leave a failing disk alone.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// The files that live instances of the base write; the cap never removes one of these.
pub(in crate::process) type OpenFiles = Arc<Mutex<BTreeSet<PathBuf>>>;

pub(super) struct LogFile {
    path: PathBuf,
    max_size: u64,
    keep: u32,
    disk_cap: u64,
    open: OpenFiles,
    file: Option<File>,
    size: u64,
    retry_at: Option<Instant>,
    missing: u64,
}

impl LogFile {
    /// Opens the file for appending, so that a restart of the base continues it.
    pub(super) fn open(policy: &LogPolicy, path: &Path, open: OpenFiles) -> Result<LogFile, Error> {
        let fail = |source| Error::Log { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(fail)?;
        }
        let (file, size) = append(path).map_err(fail)?;
        open.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
        let log = LogFile {
            path: path.to_owned(),
            max_size: policy.max_size,
            keep: policy.keep,
            disk_cap: policy.disk_cap,
            open,
            file: Some(file),
            size,
            retry_at: None,
            missing: 0,
        };
        log.hold_cap();
        Ok(log)
    }

    /// Writes lines, or counts them as missing.
    pub(super) fn write(&mut self, lines: &[Arc<Line>], now: Instant) {
        if self.retry_at.is_some_and(|at| now < at) {
            self.missing += lines.len() as u64;
            return;
        }
        if let Err(error) = self.try_write(lines) {
            if self.retry_at.is_none() {
                let path = self.path.display();
                tracing::warn!(%path, %error, "cannot write a log; the app goes on, its lines are kept in memory only");
            }
            self.missing += lines.len() as u64;
            self.file = None;
            self.retry_at = Some(now + RETRY_AFTER);
        } else {
            self.retry_at = None;
        }
    }

    fn try_write(&mut self, lines: &[Arc<Line>]) -> io::Result<()> {
        let mut bytes = Vec::new();
        if self.missing > 0 {
            let text = format!("{} lines are missing here: the disk could not take them", self.missing);
            format_line(&mut bytes, SystemTime::now(), Stream::Note, &text);
        }
        for line in lines {
            let before = bytes.len();
            format_line(&mut bytes, line.time, line.stream, &line.text);
            if self.size + bytes.len() as u64 > self.max_size && (self.size > 0 || before > 0) {
                let rest = bytes.split_off(before);
                self.append(&bytes)?;
                self.rotate()?;
                bytes = rest;
            }
        }
        self.append(&bytes)?;
        self.missing = 0;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            let (file, size) = append(&self.path)?;
            self.size = size;
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// `x.log` becomes `x.log.1`, that becomes `x.log.2`, and the last one goes.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        if self.keep == 0 {
            remove(&self.path)?;
        } else {
            remove(&rotated(&self.path, self.keep))?;
            for number in (1..self.keep).rev() {
                rename(&rotated(&self.path, number), &rotated(&self.path, number + 1))?;
            }
            rename(&self.path, &rotated(&self.path, 1))?;
        }
        let (file, size) = append(&self.path)?;
        (self.file, self.size) = (Some(file), size);
        self.hold_cap();
        Ok(())
    }

    /// Removes the app's oldest files, except those being written, until it is under its cap with room for
    /// one more full file.
    fn hold_cap(&self) {
        let Some(entries) = self.path.parent().and_then(|folder| fs::read_dir(folder).ok()) else { return };
        let mut files: Vec<(SystemTime, PathBuf, u64)> = entries
            .flatten()
            .filter_map(|entry| {
                let meta = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                Some((meta.modified().ok()?, entry.path(), meta.len()))
            })
            .filter(|(_, path, _)| is_log(path))
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, _, size)| size).sum();
        let goal = self.disk_cap.saturating_sub(self.max_size.saturating_sub(self.size));
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, path, size) in files {
            if total <= goal {
                return;
            }
            if !open.contains(&path) && fs::remove_file(&path).is_ok() {
                total -= size;
            }
        }
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

/// `<time> <stream> <text>`
fn format_line(out: &mut Vec<u8>, time: SystemTime, stream: Stream, text: &str) {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    // Writing to memory cannot fail.
    let _ = writeln!(out, "{time:.6} {} {text}", stream.as_str());
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = File::options().create(true).append(true).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn is_log(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let digits = |tail: &str| !tail.is_empty() && tail.bytes().all(|byte| byte.is_ascii_digit());
    name.ends_with(".log") || name.rsplit_once(".log.").is_some_and(|(_, tail)| digits(tail))
}

fn remove(path: &Path) -> io::Result<()> {
    ignore_absent(fs::remove_file(path))
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    ignore_absent(fs::rename(from, to))
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Arc<Line> {
        Arc::new(Line { seq: 1, time: SystemTime::UNIX_EPOCH, stream: Stream::Stdout, text: text.to_owned() })
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn rotates_by_size_and_keeps_so_many() {
        let folder = tempfile::tempdir().unwrap();
        let policy = LogPolicy { max_size: 4096, keep: 2, ..LogPolicy::under(folder.path()) };
        let path = folder.path().join("shop/shop-1.log");
        let mut log = LogFile::open(&policy, &path, OpenFiles::default()).unwrap();
        for number in 0..40 {
            log.write(&[line(&format!("{number:0500}"))], Instant::now());
        }
        let shop = folder.path().join("shop");
        assert_eq!(names(&shop), ["shop-1.log", "shop-1.log.1", "shop-1.log.2"]);
        for name in names(&shop) {
            assert!(fs::metadata(shop.join(&name)).unwrap().len() <= 4096, "{name}");
        }
        let newest = fs::read_to_string(&path).unwrap();
        assert!(newest.ends_with(&format!("1970-01-01T00:00:00.000000Z stdout {:0500}\n", 39)), "{newest}");
    }

    #[test]
    fn the_cap_removes_the_oldest_files_of_the_app_but_none_that_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let shop = folder.path().join("shop");
        fs::create_dir_all(&shop).unwrap();
        let age = |name: &str, seconds| {
            let file = File::create(shop.join(name)).unwrap();
            file.set_len(4000).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        age("live.log", 1);
        age("old.log.1", 2);
        age("old.log", 3);
        age("notes.txt", 0);
        let open = OpenFiles::default();
        open.lock().unwrap().insert(shop.join("live.log"));
        let policy = LogPolicy { max_size: 4096, disk_cap: 13000, ..LogPolicy::under(folder.path()) };
        let _log = LogFile::open(&policy, &shop.join("new.log"), open).unwrap();
        assert_eq!(names(&shop), ["live.log", "new.log", "notes.txt", "old.log"]);
    }

    #[test]
    fn a_full_disk_costs_lines_and_says_how_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop-1.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut log = LogFile::open(&LogPolicy::under(folder.path()), &path, OpenFiles::default()).unwrap();
        let start = Instant::now();
        log.write(&[line("a"), line("b")], start);
        log.write(&[line("c")], start);
        fs::remove_file(&path).unwrap();
        log.write(&[line("d")], start + RETRY_AFTER);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("3 lines are missing"), "{text}");
        assert!(text.ends_with("stdout d\n"), "{text}");
    }
}

//! The file of an access log: appended to, opened again when somebody moved it away, turned over by size.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Target;

/// An open file and what it must not exceed.
pub(super) struct File {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    open: fs::File,
    bytes: u64,
    /// Device and inode, to see whether the path still leads here.
    identity: (u64, u64),
}

impl File {
    pub(super) fn open(path: PathBuf, max_bytes: u64, keep: u32) -> io::Result<File> {
        let (open, bytes, identity) = append(&path)?;
        Ok(File { path, max_bytes, keep, open, bytes, identity })
    }

    fn reopen(&mut self) -> io::Result<()> {
        (self.open, self.bytes, self.identity) = append(&self.path)?;
        Ok(())
    }

    /// Moves `NAME` to `NAME.1`, `NAME.1` to `NAME.2` and so on; the oldest goes.
    fn turn_over(&mut self) -> io::Result<()> {
        for age in (1..self.keep).rev() {
            rename(&older(&self.path, age), &older(&self.path, age + 1))?;
        }
        match self.keep {
            0 => fs::remove_file(&self.path)?,
            _ => rename(&self.path, &older(&self.path, 1))?,
        }
        self.reopen()
    }
}

impl Target for File {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let here = fs::metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if !here {
            self.reopen()?;
        }
        let size = lines.len() as u64;
        if self.bytes > 0 && self.bytes + size > self.max_bytes {
            self.turn_over()?;
        }
        self.open.write_all(lines)?;
        self.bytes += size;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<(fs::File, u64, (u64, u64))> {
    // Targets and callers are nobody else's business.
    let file = fs::OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata.len(), (metadata.dev(), metadata.ino())))
}

fn older(path: &Path, age: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{age}"));
    name.into()
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

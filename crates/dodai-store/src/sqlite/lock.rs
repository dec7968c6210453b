//! One process per store: an advisory lock on a file beside it, which also names the holder. The kernel
//! drops the lock with the process, however it ends, so a stale lock file means nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::db::beside;
use crate::error::{Error, Result};

/// The lock, as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the store at `path`.
    pub(crate) fn acquire(path: &Path) -> Result<Lock> {
        let lock_path = beside(path, "lock");
        let storage = |error: std::io::Error| Error::Storage {
            operation: "lock the store",
            path: lock_path.clone(),
            detail: error.to_string(),
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(storage)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(path, &mut file)),
            Err(TryLockError::Error(error)) => return Err(storage(error)),
        }
        // A full disk must not keep the store from being read: the pid is only for the error message.
        if let Err(error) = name_holder(&mut file) {
            tracing::warn!(path = %lock_path.display(), %error, "could not write the process id into the lock");
        }
        Ok(Lock { _file: file })
    }
}

fn name_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn in_use(path: &Path, file: &mut File) -> Error {
    let mut text = String::new();
    let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
    Error::InUse { path: PathBuf::from(path), pid }
}

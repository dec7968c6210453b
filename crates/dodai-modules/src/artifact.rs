//! Artefacts by content address: a folder of files named by the SHA-256 of their bytes.
//!
//! A file appears under its name only when it is whole and on disk (temporary file, fsync, rename). Every
//! read checks the digest again; a damaged file is set aside as `<name>.damaged`, never used.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use dodai_core::id::Digest;

use crate::error::Error;

const PREFIX: &str = "sha256:";

/// The age at which a temporary file is taken for left behind: no write or compilation lasts that long.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A folder of artefacts.
#[derive(Clone, Debug)]
pub struct Artifacts {
    folder: PathBuf,
}

impl Artifacts {
    /// Opens `folder`, making it (readable by us only) if it is not there.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Artifacts, Error> {
        let folder = folder.into();
        make_folder(&folder)?;
        sweep_temporary(&folder)?;
        Ok(Artifacts { folder })
    }

    /// Stores `bytes` and returns their address. Storing the same bytes again only makes them count as new for
    /// [`Artifacts::prune`].
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = digest_of(bytes);
        let path = self.path(&digest)?;
        let again = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        match again {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => write_whole(&path, bytes)?,
            Err(error) => return Err(Error::file("renew", &path, error)),
        }
        Ok(digest)
    }

    /// A piece of an artefact: at most `most` bytes from `offset` on, none at its end.
    ///
    /// # Errors
    /// [`Error::Missing`] if it is not here.
    pub fn piece(&self, digest: &Digest, offset: u64, most: usize) -> Result<Vec<u8>, Error> {
        let path = self.path(digest)?;
        let read = || {
            let mut file = fs::File::open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut piece = Vec::new();
            file.take(most as u64).read_to_end(&mut piece)?;
            Ok(piece)
        };
        read().map_err(|error: std::io::Error| {
            if error.kind() == ErrorKind::NotFound {
                return Error::Missing { digest: digest.clone(), folder: self.folder.clone() };
            }
            Error::file("read", &path, error)
        })
    }

    /// Where an artefact is gathered that comes in pieces, to be taken with [`Artifacts::adopt`].
    pub fn incoming(&self, digest: &Digest) -> Result<PathBuf, Error> {
        Ok(self.path(digest)?.with_extension("incoming.part"))
    }

    /// Takes what was gathered under its name. Who gathered it has checked its digest; reads check it again.
    pub fn adopt(&self, digest: &Digest) -> Result<(), Error> {
        let (from, path) = (self.incoming(digest)?, self.path(digest)?);
        let taken = fs::File::open(&from)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&from, &path))
            .and_then(|()| fs::File::open(&self.folder)?.sync_all());
        taken.map_err(|error| Error::file("keep", &path, error))
    }

    /// Whether the artefact is here; its bytes are not read.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_ok_and(|path| path.exists())
    }

    /// Reads an artefact.
    ///
    /// # Errors
    /// [`Error::Missing`] if it is not here, [`Error::Damaged`] if its bytes are not what its name says.
    pub fn get(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.path(digest)?;
        let bytes = fs::read(&path).map_err(|error| {
            if error.kind() == ErrorKind::NotFound {
                return Error::Missing { digest: digest.clone(), folder: self.folder.clone() };
            }
            Error::file("read", &path, error)
        })?;
        let found = digest_of(&bytes);
        if found == *digest {
            return Ok(bytes);
        }
        let aside = path.with_extension("damaged");
        fs::rename(&path, &aside).map_err(|error| Error::file("set aside", &path, error))?;
        Err(Error::Damaged { digest: digest.clone(), found })
    }

    /// Removes every artefact that is not in `keep` and was stored longer than `spare` ago; returns how many
    /// went.
    pub fn prune(&self, keep: &BTreeSet<Digest>, spare: Duration) -> Result<usize, Error> {
        let keep: BTreeSet<PathBuf> = keep.iter().filter_map(|digest| self.path(digest).ok()).collect();
        prune(&self.folder, spare, |path| keep.contains(path))
    }

    fn path(&self, digest: &Digest) -> Result<PathBuf, Error> {
        let hex = hex_of(digest)?;
        Ok(self.folder.join(format!("{hex}.wasm")))
    }
}

/// The content address of `bytes`.
pub fn digest_of(bytes: &[u8]) -> Digest {
    let hash = digest::digest(&digest::SHA256, bytes);
    Digest::new(format!("{PREFIX}{}", hex(hash.as_ref())))
}

/// The hex digits of `digest`, checked: they become a file name.
pub(crate) fn hex_of(digest: &Digest) -> Result<&str, Error> {
    digest
        .as_str()
        .strip_prefix(PREFIX)
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        .ok_or_else(|| Error::BadDigest(digest.to_string()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| DIGITS[digit as usize] as char).collect()
}

pub(crate) fn make_folder(folder: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| Error::file("make the folder", folder, error))
}

/// Writes `path` so that it is there whole or not at all; only we may read it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = temporary_beside(path);
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all());
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::file("write", path, error)
    })
}

/// A name that no other writer of this process or another uses.
pub(crate) fn temporary_beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_extension(format!("{}-{next}.part", std::process::id()))
}

/// Removes temporary files that a crash left in `folder`: those that nobody can still be writing.
pub(crate) fn sweep_temporary(folder: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(folder).map_err(|error| Error::file("list", folder, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Error::file("list", folder, error))?;
        let path = entry.path();
        let age =
            entry.metadata().and_then(|known| known.modified()).map(|at| at.elapsed().unwrap_or_default());
        let is_left = path.extension().is_some_and(|extension| extension == "part");
        if is_left && age.is_ok_and(|age| age > ABANDONED) {
            fs::remove_file(&path).map_err(|error| Error::file("remove", &path, error))?;
        }
    }
    Ok(())
}

/// Removes the files of `folder` that `keep` does not want and that are older than `spare`; temporary files
/// of others are left alone.
pub(crate) fn prune(folder: &Path, spare: Duration, keep: impl Fn(&Path) -> bool) -> Result<usize, Error> {
    let entries = fs::read_dir(folder).map_err(|error| Error::file("list", folder, error))?;
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(|error| Error::file("list", folder, error))?;
        let path = entry.path();
        let written = entry.metadata().and_then(|known| known.modified());
        let is_new = written.is_ok_and(|at| at.elapsed().unwrap_or_default() < spare);
        if is_new || path.extension().is_some_and(|extension| extension == "part") || keep(&path) {
            continue;
        }
        fs::remove_file(&path).map_err(|error| Error::file("remove", &path, error))?;
        removed += 1;
    }
    Ok(removed)
}

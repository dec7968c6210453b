//! The last good snapshot on a base's disk: a line with its SHA-256, then JSON; replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use dodai_core::snapshot::Snapshot;

/// Why a snapshot could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the last snapshot: {0}")]
    Io(#[from] io::Error),
    /// The file is not what was written.
    #[error("the last snapshot on disk is damaged ({0}); it is passed over, and the server sends another")]
    Damaged(String),
}

fn checksum(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a snapshot so that a crash leaves the old one or the new one.
///
/// # Errors
/// What the file system says.
pub fn save(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let json = serde_json::to_vec(snapshot)?;
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    writeln!(file, "{}", checksum(&json))?;
    file.write_all(&json)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads the snapshot back; `None` if there is none.
///
/// # Errors
/// [`LoadError::Damaged`] when the content does not fit its checksum.
pub fn load(path: &Path) -> Result<Option<Snapshot>, LoadError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let damaged = |why: &str| LoadError::Damaged(why.to_owned());
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no checksum"))?;
    let (sum, json) = (&bytes[..end], &bytes[end + 1..]);
    if sum != checksum(json).as_bytes() {
        return Err(damaged("its checksum is another"));
    }
    serde_json::from_slice(json).map(Some).map_err(|error| LoadError::Damaged(error.to_string()))
}

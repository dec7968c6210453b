//! The last good snapshot on a base's disk: a line with its SHA-256, then JSON; replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use dodai_core::snapshot::Snapshot;
use dodai_core::status::Status;
use dodai_core::task::{Kind, Tasks};
use tokio::sync::watch;

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
    // Settings of components may hold passwords.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
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

/// Saves every snapshot that is in force to `path`, until the tasks close. A snapshot that is refused is never
/// saved: the file keeps the last good one.
pub fn keep(
    path: PathBuf,
    snapshots: watch::Receiver<std::sync::Arc<Snapshot>>,
    mut status: watch::Receiver<Status>,
    tasks: &Tasks,
) {
    let ended = tasks.clone();
    tasks.spawn(Kind::Loop, async move {
        let mut saved = 0;
        loop {
            let applied = status.borrow_and_update().applied;
            let now = snapshots.borrow().clone();
            if now.version == applied && applied != saved {
                let path = path.clone();
                let done = tokio::task::spawn_blocking(move || save(&path, &now)).await;
                match done {
                    Ok(Ok(())) => saved = applied,
                    Ok(Err(error)) => tracing::warn!(%error, "cannot save the snapshot; after a restart without server an older one serves"),
                    Err(error) => tracing::warn!(%error, "saving the snapshot was cut"),
                }
            }
            tokio::select! {
                // Both only wait.
                () = ended.closing() => return,
                changed = status.changed() => if changed.is_err() { return },
            }
        }
    });
}

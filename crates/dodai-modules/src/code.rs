//! The cache of compiled code: one file of machine code per artefact and engine, with a seal beside it.
//!
//! Loading machine code is trusting it, so only what this base's compiler wrote is loaded: the seal is an
//! HMAC over artefact, engine and code under a key that lives in the folder (mode 0600). A file that is
//! torn, tampered with or from elsewhere does not match its seal and is compiled again.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use dodai_core::id::Digest;

use crate::artifact::{hex_of, make_folder, prune, sweep_temporary, temporary_beside, write_whole};
use crate::error::Error;
use crate::private;

const KEY_FILE: &str = "seal.key";
const KEY_LENGTH: usize = 32;

/// A folder of compiled code.
pub(crate) struct CodeCache {
    folder: PathBuf,
    key: hmac::Key,
}

/// Where the code of one artefact for one engine lives.
pub(crate) struct Slot {
    /// The machine code.
    pub(crate) code: PathBuf,
    seal: PathBuf,
    /// What the seal covers beside the code.
    name: String,
}

impl CodeCache {
    pub(crate) fn open(folder: PathBuf) -> Result<CodeCache, Error> {
        make_folder(&folder)?;
        private::check(&folder)?;
        sweep_temporary(&folder)?;
        let key = load_key(&folder.join(KEY_FILE))?;
        Ok(CodeCache { folder, key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }

    pub(crate) fn slot(&self, digest: &Digest, fingerprint: &str) -> Result<Slot, Error> {
        let name = format!("{}-{fingerprint}", hex_of(digest)?);
        let code = self.folder.join(format!("{name}.cwasm"));
        Ok(Slot { seal: code.with_extension("seal"), code, name })
    }

    /// Whether the code of `slot` is there and what we wrote.
    pub(crate) fn is_sealed(&self, slot: &Slot) -> bool {
        let (Ok(code), Ok(seal)) = (fs::read(&slot.code), fs::read(&slot.seal)) else { return false };
        let sound = hmac::verify(&self.key, &covered(&slot.name, &code), &seal).is_ok();
        if !sound {
            tracing::warn!(file = %slot.code.display(), "compiled code does not match its seal; compiling again");
        }
        sound
    }

    /// Keeps `code` in `slot`.
    pub(crate) fn keep(&self, slot: &Slot, code: &[u8]) -> Result<(), Error> {
        // The old seal must not meet the new code, nor the other way round: whoever reads in between
        // compiles again.
        let seal = hmac::sign(&self.key, &covered(&slot.name, code));
        write_whole(&slot.code, code)?;
        write_whole(&slot.seal, seal.as_ref())
    }

    /// A path in the cache's folder for a compiler to write to.
    pub(crate) fn scratch(&self, slot: &Slot) -> PathBuf {
        temporary_beside(&slot.code)
    }

    /// Whether there is nothing but the key.
    pub(crate) fn is_empty(&self) -> bool {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name() != KEY_FILE).count() == 0
    }

    /// Removes the code of every artefact that is not in `keep`, and all of other engines, where it is older
    /// than `spare`.
    pub(crate) fn prune(
        &self,
        keep: &BTreeSet<Digest>,
        fingerprints: &[&str],
        spare: Duration,
    ) -> Result<usize, Error> {
        let slots_of = |digest| fingerprints.iter().filter_map(move |mark| self.slot(digest, mark).ok());
        let slots: Vec<Slot> = keep.iter().flat_map(slots_of).collect();
        let key = self.folder.join(KEY_FILE);
        prune(&self.folder, spare, |path| {
            path == key || slots.iter().any(|slot| path == slot.code || path == slot.seal)
        })
    }
}

/// The message that a seal signs.
fn covered(name: &str, code: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(name.len() + 1 + code.len());
    message.extend_from_slice(name.as_bytes());
    message.push(b'\n');
    message.extend_from_slice(code);
    message
}

/// The folder's key; a new one makes everything sealed with the old one compile again.
fn load_key(path: &Path) -> Result<Vec<u8>, Error> {
    match fs::read(path) {
        Ok(key) if key.len() == KEY_LENGTH => return Ok(key),
        Ok(_) => {
            tracing::warn!(file = %path.display(), "the key of the code cache is damaged; making a new one")
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::file("read", path, error)),
    }
    let mut key = vec![0; KEY_LENGTH];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| Error::file("make", path, std::io::Error::other("the system's random source failed")))?;
    write_whole(path, &key)?;
    Ok(key)
}

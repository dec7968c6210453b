//! How sidecars of one user on one machine find each other: a folder with one file per running sidecar.
//!
//! The file names the address others call the app at. Its sidecar holds a lock on it for as long as it lives,
//! so that a file nobody locks is one of a sidecar that was killed; whoever sees it removes it. Rejected:
//! multicast DNS, which fails behind VPNs, firewalls and in containers.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use dodai_core::id::{AppId, Name};
use serde::{Deserialize, Serialize};

use super::options::Protocol;
use crate::environment::Environment;

/// Sidecars that are read at most; a folder with more is not ours.
const MAX_PEERS: usize = 1_000;

/// The folder of running sidecars.
#[derive(Clone, Debug)]
pub struct Registry {
    folder: PathBuf,
}

/// This sidecar's own file. It goes when this is dropped.
pub struct Registered {
    path: PathBuf,
    content: Content,
    /// Holds the lock.
    file: File,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    address: SocketAddr,
    pid: u32,
    #[serde(default)]
    protocol: Protocol,
}

/// An app that others' sidecars stand beside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where its sidecars take calls for it.
    pub addresses: Vec<SocketAddr>,
    /// What it speaks, and so what they are called by.
    pub protocol: Protocol,
}

/// The folder for what lives as long as its process: `DODAI_RUNTIME_DIR`, `dodai` in `XDG_RUNTIME_DIR`, or
/// `dodai-<uid>` in the folder for temporary files.
///
/// # Errors
/// It cannot be made, or is somebody else's.
pub fn runtime_folder(environment: &Environment) -> anyhow::Result<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let given = environment.get("DODAI_RUNTIME_DIR").filter(|path| !path.is_empty()).map(PathBuf::from);
    let login = environment.get("XDG_RUNTIME_DIR").map(Path::new).filter(|path| path.is_dir());
    let temporary = Path::new(environment.get("TMPDIR").unwrap_or("/tmp"));
    let folder = given
        .or_else(|| login.map(|path| path.join("dodai")))
        .unwrap_or_else(|| temporary.join(format!("dodai-{uid}")));
    make_private(&folder)?;
    let about =
        fs::symlink_metadata(&folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    ensure!(
        about.is_dir() && about.uid() == uid,
        "{} belongs to somebody else; set DODAI_RUNTIME_DIR to a folder of your own",
        folder.display()
    );
    Ok(folder)
}

/// Makes a folder that only its owner can look into.
pub fn make_private(folder: &Path) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(|| {
        format!(
            "cannot make the folder {}; set DODAI_RUNTIME_DIR to one that can be written",
            folder.display()
        )
    })
}

impl Registry {
    /// The registry in a runtime folder.
    ///
    /// # Errors
    /// Its folder cannot be made.
    pub fn open(runtime: &Path) -> anyhow::Result<Registry> {
        let folder = runtime.join("sidecars");
        make_private(&folder)?;
        Ok(Registry { folder })
    }

    /// Makes an app known until the answer is dropped.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn register(
        &self,
        app: &AppId,
        address: SocketAddr,
        protocol: Protocol,
    ) -> anyhow::Result<Registered> {
        let pid = std::process::id();
        let folder = self.folder.join(app.namespace.as_str()).join(app.name.as_str());
        make_private(&folder)?;
        let path = folder.join(format!("{pid}.json"));
        let content = Content { address, pid, protocol };
        let file = write(&path, &content)?;
        Ok(Registered { path, content, file })
    }

    /// The apps whose sidecars run. Files that cannot be read are
    /// passed over; those of sidecars that are gone are removed.
    pub fn peers(&self) -> BTreeMap<AppId, Peer> {
        let mut peers: BTreeMap<AppId, Peer> = BTreeMap::new();
        let mut count = 0;
        for (namespace, path) in entries(&self.folder) {
            for (name, path) in entries(&path) {
                let names = (Name::new(&namespace), Name::new(&name));
                let (Ok(namespace), Ok(name)) = names else { continue };
                for (_, path) in entries(&path) {
                    count += 1;
                    if count > MAX_PEERS {
                        return peers;
                    }
                    if let Some(content) = read(&path) {
                        let app = AppId::new(namespace.clone(), name.clone());
                        let peer = peers.entry(app).or_default();
                        peer.addresses.push(content.address);
                        peer.protocol = content.protocol;
                    }
                }
            }
        }
        for peer in peers.values_mut() {
            peer.addresses.sort_unstable();
            peer.addresses.dedup();
        }
        peers
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        (!name.starts_with('.')).then(|| (name, entry.path()))
    })
}

/// Writes a file whole and holds its lock: it appears with its content and locked.
fn write(path: &Path, content: &Content) -> anyhow::Result<File> {
    let failed = || format!("cannot write {}", path.display());
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let partial = path.with_file_name(format!(".{name}"));
    let mut file = File::create(&partial).with_context(failed)?;
    file.try_lock().with_context(failed)?;
    file.write_all(&serde_json::to_vec(content)?).with_context(failed)?;
    fs::rename(&partial, path).with_context(failed)?;
    Ok(file)
}

fn read(path: &Path) -> Option<Content> {
    let file = File::open(path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => serde_json::from_slice(&fs::read(path).ok()?).ok(),
        Ok(()) => {
            tracing::debug!(path = %path.display(), "a sidecar that is gone left this; it is removed");
            let _gone = fs::remove_file(path);
            None
        }
        Err(TryLockError::Error(_)) => None,
    }
}

impl Registered {
    /// Writes the file again if somebody took it away.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn renew(&mut self) -> anyhow::Result<()> {
        if !self.path.exists() {
            if let Some(folder) = self.path.parent() {
                make_private(folder)?;
            }
            self.file = write(&self.path, &self.content)?;
        }
        Ok(())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.path);
        let _unlocked = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(text: &str) -> AppId {
        AppId::parse(text).expect("an app")
    }

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn who_registers_is_found_until_it_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = Registry::open(folder.path()).expect("open");
        assert!(registry.peers().is_empty());
        let cart = registry.register(&app("shop/cart"), address(1), Protocol::Grpc).expect("registered");
        let order = registry.register(&app("default/order"), address(2), Protocol::Http).expect("registered");
        let peer = |port, protocol| Peer { addresses: vec![address(port)], protocol };
        let expect = BTreeMap::from([
            (app("shop/cart"), peer(1, Protocol::Grpc)),
            (app("default/order"), peer(2, Protocol::Http)),
        ]);
        assert_eq!(registry.peers(), expect);
        drop(cart);
        assert_eq!(registry.peers().keys().collect::<Vec<_>>(), [&app("default/order")]);
        drop(order);
        assert!(registry.peers().is_empty());
    }

    #[test]
    fn what_a_killed_sidecar_left_is_removed_and_rubbish_is_passed_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = Registry::open(folder.path()).expect("open");
        let left = folder.path().join("sidecars/default/gone/1.json");
        fs::create_dir_all(left.parent().expect("a folder")).expect("made");
        fs::write(&left, r#"{"address":"127.0.0.1:1","pid":1}"#).expect("written");
        fs::create_dir_all(folder.path().join("sidecars/default/Not_A_Name/x")).expect("made");
        assert!(registry.peers().is_empty());
        assert!(!left.exists());
    }

    #[test]
    fn a_file_that_was_taken_away_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = Registry::open(folder.path()).expect("open");
        let mut own = registry.register(&app("default/a"), address(1), Protocol::Http).expect("registered");
        fs::remove_dir_all(folder.path().join("sidecars/default")).expect("removed");
        assert!(registry.peers().is_empty());
        own.renew().expect("written again");
        assert_eq!(registry.peers().len(), 1);
    }
}

//! A base's place in a mesh: its own certificate and one for each app that it runs, renewed in time, on disk.
//!
//! What is on disk lets the base start again, and call and be called, while there is no server. A renewed
//! certificate counts from the next handshake on; connections that stand are not touched. An app's key never
//! leaves the base that made it.

#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use dodai_core::call::Caller;
use dodai_core::id::{AppId, BaseId, Name};
use dodai_core::snapshot::{self, Endpoint, Snapshot, Target};
use dodai_core::task::Tasks;
use dodai_dataplane::mesh::Mesh;
use dodai_transport::ca::Svid;
use dodai_transport::pem;
use dodai_transport::tls::mesh::{Connector, Keyring, LiveSvid, acceptor};
use dodai_transport::tls::{Acceptor, Clock};
use dodai_transport::trust::{Bundle, Trust};
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::watch;

use crate::brought::Brought;

/// The base's own certificate and key, in the folder of its identity.
pub const OWN_FILE: &str = "base.pem";
/// The roots that it trusts.
pub const BUNDLE_FILE: &str = "bundle.pem";
/// The folder of the apps' certificates and keys.
const APPS: &str = "apps";
/// The first wait after the server could not sign.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// The longest.
const RETRY_MOST: Duration = Duration::from_secs(30);
/// How long at least a certificate is kept that could be renewed at once.
const LEAST_AGE: Duration = Duration::from_secs(1);
/// How long it is at most until the wall clock is looked at again: it may jump, as that of a machine that was asleep.
const LOOK: Duration = Duration::from_secs(60);

/// Who signs certificates.
pub trait Issuer: Send + Sync + 'static {
    /// A new certificate for a name that this base answers for, or with `None` for the base itself.
    fn issue(&self, name: Option<AppId>) -> BoxFuture<'static, Result<Svid, String>>;
}

/// Why an identity on disk cannot be used.
#[derive(Debug, Error)]
#[error("the identity in {path} cannot be used: {reason}; remove the folder and join again with a new token")]
pub struct BadIdentity {
    path: PathBuf,
    reason: String,
}

/// How a base takes part in a mesh.
pub struct Settings {
    /// The base.
    pub base: BaseId,
    /// Its certificate.
    pub own: LiveSvid,
    /// Whom it trusts.
    pub trust: Trust,
    /// Who signs.
    pub issuer: Arc<dyn Issuer>,
    /// Where keys are kept, mode 0700.
    pub folder: PathBuf,
    /// Where other bases reach it, if that is not where it listens; port 0 for the port that it listens on.
    pub advertise: Option<SocketAddr>,
    /// The wall clock.
    pub clock: Clock,
}

/// A base's place in a mesh. Cheap to clone.
#[derive(Clone)]
pub struct Membership(Arc<Inner>);

struct Inner {
    settings: Settings,
    keyring: Keyring,
    own: Connector,
    apps: RwLock<HashMap<AppId, Connector>>,
    /// The names that can be answered for.
    held: watch::Sender<BTreeSet<AppId>>,
    brought: Brought,
    /// What the server told last of trust.
    told: RwLock<Option<snapshot::Trust>>,
    /// Grows when something of that asks for other certificates.
    turn: watch::Sender<u64>,
    /// How many certificates here were signed by which root.
    signed: watch::Sender<BTreeMap<String, u32>>,
}

/// One certificate and when it should be renewed.
struct Kept {
    svid: LiveSvid,
    due: SystemTime,
    /// The pin of the root that signed it.
    signer: String,
}

impl Kept {
    /// Of a fresh certificate that is so short-lived that its time to be renewed has passed already, a third of
    /// the life is kept; one from disk is renewed at once then.
    fn new(svid: LiveSvid, signer: String, fresh: bool, now: SystemTime) -> Kept {
        let current = svid.load();
        let due = if fresh && current.needs_renewal(now) {
            let left = current.not_after().duration_since(now).unwrap_or_default();
            now + (left / 3).max(LEAST_AGE)
        } else {
            current.renew_at()
        };
        Kept { svid, due, signer }
    }
}

impl Membership {
    /// Begins with what is on disk.
    pub fn new(settings: Settings) -> Membership {
        let connector = |svid: &LiveSvid| {
            Connector::new(svid.clone(), settings.trust.clone(), &[], settings.clock.clone())
        };
        let own = connector(&settings.own);
        let keyring = Keyring::new(settings.own.clone());
        let apps = RwLock::default();
        Membership(Arc::new(Inner {
            settings,
            keyring,
            own,
            apps,
            held: watch::Sender::default(),
            brought: Brought::default(),
            told: RwLock::default(),
            turn: watch::Sender::default(),
            signed: watch::Sender::default(),
        }))
    }

    /// What the server has brought for the configuration stores here.
    pub fn brought(&self) -> &Brought {
        &self.0.brought
    }

    /// The certificates that are held: the base's own without a name, and those of the names it answers for.
    pub fn certificates(&self) -> Vec<(Option<AppId>, Arc<Svid>)> {
        self.0.keyring.all().into_iter().map(|(name, svid)| (name, svid.load())).collect()
    }

    /// What the data plane needs.
    pub fn mesh(&self) -> Mesh {
        let settings = &self.0.settings;
        let keys = Arc::new(self.0.keyring.clone());
        let acceptor: Acceptor = acceptor(keys, settings.trust.clone(), &[], settings.clock.clone());
        let inner = self.0.clone();
        Mesh {
            connectors: Arc::new(move |caller| inner.connector(caller)),
            acceptor,
            zone: Name::new("default").expect("it is a name"),
            domain: settings.trust.domain().clone(),
        }
    }

    /// Where other bases reach this one, which listens at `listener`.
    pub fn address(&self, listener: SocketAddr) -> SocketAddr {
        match self.0.settings.advertise {
            Some(told) if told.port() == 0 => SocketAddr::new(told.ip(), listener.port()),
            Some(told) => told,
            None => listener,
        }
    }

    /// Whether there is a certificate of `app`.
    pub fn holds(&self, app: &AppId) -> bool {
        self.0.held.borrow().contains(app)
    }

    /// Waits until there is. Cancel safe.
    pub async fn held(&self, app: &AppId) {
        let mut held = self.0.held.subscribe();
        if held.wait_for(|held| held.contains(app)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Keeps certificates for what the snapshots name, until the tasks close.
    pub(crate) async fn tend(self, mut snapshots: watch::Receiver<Arc<Snapshot>>, tasks: Tasks) {
        let inner = &*self.0;
        let now = inner.settings.clock.now();
        let signer = inner.signer(&inner.settings.own.load());
        let mut own = Kept::new(inner.settings.own.clone(), signer, false, now);
        let mut turn = inner.turn.subscribe();
        let mut kept: BTreeMap<AppId, Kept> = BTreeMap::new();
        let mut retry = RETRY_FIRST;
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            if snapshot.version > 0 {
                let wanted = names(&snapshot, &inner.settings.base);
                inner.forget(&mut kept, &wanted);
                inner.load(&mut kept, &wanted);
            }
            turn.mark_unchanged();
            inner.count(&own, &kept);
            let done = tokio::select! {
                // A renewal that is cut is begun again at the next start.
                () = tasks.closing() => return,
                done = inner.renew(&mut own, &mut kept, &snapshot) => done,
            };
            inner.count(&own, &kept);
            // What another root signed than was told just now is asked for again, but not at once.
            let outdated =
                kept.values().chain([&own]).any(|one| inner.is_outdated(&one.svid.load(), &one.signer));
            let done = done && !outdated;
            let now = inner.settings.clock.now();
            let next = kept.values().map(|one| one.due).chain([own.due]).min().unwrap_or(own.due);
            let wait = if done {
                retry = RETRY_FIRST;
                next.duration_since(now).unwrap_or_default().clamp(LEAST_AGE, LOOK)
            } else {
                retry = (retry * 2).min(RETRY_MOST);
                retry
            };
            tokio::select! {
                // All only wait.
                () = tasks.closing() => return,
                () = tokio::time::sleep(wait) => {}
                // The sender is ours.
                _ = turn.changed() => {}
                changed = snapshots.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl Inner {
    /// The connector that presents a caller's certificate.
    fn connector(&self, caller: &Caller) -> Option<Connector> {
        match caller {
            Caller::App(app) => self.apps.read().unwrap_or_else(PoisonError::into_inner).get(app).cloned(),
            Caller::Base | Caller::Outside => Some(self.own.clone()),
        }
    }

    fn path(&self, name: &AppId) -> PathBuf {
        self.settings.folder.join(APPS).join(format!("{}.{}.pem", name.namespace, name.name))
    }

    /// Drops the certificates of names that nothing here answers to any more.
    fn forget(&self, kept: &mut BTreeMap<AppId, Kept>, wanted: &BTreeSet<AppId>) {
        let before = kept.len();
        kept.retain(|name, _| {
            let stays = wanted.contains(name);
            if !stays && let Err(error) = std::fs::remove_file(self.path(name)) {
                tracing::debug!(%name, %error, "the certificate of an app that is gone stays on disk");
            }
            stays
        });
        if kept.len() != before {
            self.publish(kept);
        }
    }

    /// Takes from disk what an earlier run left there.
    fn load(&self, kept: &mut BTreeMap<AppId, Kept>, wanted: &BTreeSet<AppId>) {
        let before = kept.len();
        for name in wanted {
            if kept.contains_key(name) {
                continue;
            }
            let path = self.path(name);
            if !path.exists() {
                continue;
            }
            match read(&path, &self.settings.trust) {
                Ok(svid) => {
                    let signer = self.signer(&svid.load());
                    kept.insert(name.clone(), Kept::new(svid, signer, false, self.settings.clock.now()));
                }
                Err(error) => tracing::warn!(%name, %error, "a new certificate is asked for instead"),
            }
        }
        if kept.len() != before {
            self.publish(kept);
        }
    }

    /// Has everything signed that is missing or due. False when something could not be.
    async fn renew(&self, own: &mut Kept, kept: &mut BTreeMap<AppId, Kept>, snapshot: &Snapshot) -> bool {
        let mut done = true;
        let now = self.settings.clock.now();
        for name in names(snapshot, &self.settings.base) {
            if kept.get(&name).is_some_and(|one| !self.is_due(one, now)) {
                continue;
            }
            match self.issued(Some(&name)).await {
                Ok(svid) => {
                    let signer = self.signer(&svid);
                    let live = match kept.get(&name) {
                        Some(known) => known.svid.replace(svid).map(|()| known.svid.clone()),
                        None => LiveSvid::new(svid),
                    };
                    match live {
                        Ok(live) => {
                            kept.insert(name, Kept::new(live, signer, true, self.settings.clock.now()));
                            self.publish(kept);
                        }
                        Err(error) => tracing::error!(%name, %error, "a signed certificate is of no use"),
                    }
                }
                Err(error) => {
                    tracing::debug!(%name, error, "no certificate for an app yet");
                    done = false;
                }
            }
        }
        if self.is_due(own, now) {
            match self.issued(None).await.map(|svid| (self.signer(&svid), own.svid.replace(svid))) {
                Ok((signer, Ok(()))) => {
                    *own = Kept::new(own.svid.clone(), signer, true, self.settings.clock.now());
                }
                Ok((_, Err(error))) => tracing::error!(%error, "a signed certificate is of no use"),
                Err(error) => {
                    let until = own.svid.load().not_after();
                    let left = until.duration_since(self.settings.clock.now()).unwrap_or_default();
                    tracing::warn!(error, ?left, "the certificate of this base cannot be renewed yet");
                    done = false;
                }
            }
        }
        done
    }

    /// Whether a certificate is to be exchanged now.
    fn is_due(&self, one: &Kept, now: SystemTime) -> bool {
        one.due <= now || self.is_outdated(&one.svid.load(), &one.signer)
    }

    /// Notes how many certificates were signed by which root.
    fn count(&self, own: &Kept, kept: &BTreeMap<AppId, Kept>) {
        let mut signed: BTreeMap<String, u32> = BTreeMap::new();
        for one in kept.values().chain([own]) {
            *signed.entry(one.signer.clone()).or_default() += 1;
        }
        self.signed.send_if_modified(|known| {
            let is_news = *known != signed;
            *known = signed;
            is_news
        });
    }

    /// Asks for one certificate and keeps it on disk.
    async fn issued(&self, name: Option<&AppId>) -> Result<Svid, String> {
        let svid = self.settings.issuer.issue(name.cloned()).await?;
        let path = name.map_or_else(|| self.settings.folder.join(OWN_FILE), |name| self.path(name));
        write(&path, &svid).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(svid)
    }

    /// Makes what is kept what is presented.
    fn publish(&self, kept: &BTreeMap<AppId, Kept>) {
        let keys = kept.iter().map(|(name, one)| (name.clone(), one.svid.clone())).collect();
        self.keyring.replace(keys);
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        apps.retain(|name, _| kept.contains_key(name));
        for (name, one) in kept {
            // A connector goes on with what its SVID is replaced by.
            apps.entry(name.clone()).or_insert_with(|| {
                let Settings { trust, clock, .. } = &self.settings;
                Connector::new(one.svid.clone(), trust.clone(), &[], clock.clone())
            });
        }
        drop(apps);
        self.held.send_replace(kept.keys().cloned().collect());
    }
}

/// The names that a base answers for: its apps, and services with an instance here behind them.
fn names(snapshot: &Snapshot, base: &BaseId) -> BTreeSet<AppId> {
    let here = |one: &Endpoint| matches!(&one.target, Target::Instance { base: on, .. } if on == base);
    let services = snapshot.endpoints().filter(|one| one.list.iter().any(here));
    let services = services.map(|one| one.service.owner.clone());
    snapshot.workloads().map(|one| one.app.clone()).chain(services).collect()
}

fn read(path: &Path, trust: &Trust) -> Result<LiveSvid, BadIdentity> {
    let bad =
        |error: &dyn std::fmt::Display| BadIdentity { path: path.to_owned(), reason: error.to_string() };
    let text = std::fs::read_to_string(path).map_err(|error| bad(&error))?;
    let svid = Svid::from_pem(&text, &text, trust.domain()).map_err(|error| bad(&error))?;
    LiveSvid::new(svid).map_err(|error| bad(&error))
}

fn write(path: &Path, svid: &Svid) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(parent)?;
    }
    pem::write_secret(path, &format!("{}{}", svid.chain_pem(), svid.key_pem()))
}

/// Writes what joining gave, so that the base can come again without a token. Certificates of an earlier
/// membership go.
///
/// # Errors
/// What the file system says.
pub fn keep(folder: &Path, svid: &Svid, bundle: &Bundle) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder.join(APPS)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    write(&folder.join(OWN_FILE), svid)?;
    pem::write_public(&folder.join(BUNDLE_FILE), &bundle.to_pem())
}

/// Reads it back; `None` if this base has not joined.
///
/// # Errors
/// When the files are damaged.
pub fn load(
    folder: &Path,
    domain: &dodai_transport::identity::TrustDomain,
) -> Result<Option<(LiveSvid, Trust)>, BadIdentity> {
    let (own, roots) = (folder.join(OWN_FILE), folder.join(BUNDLE_FILE));
    if !own.exists() || !roots.exists() {
        return Ok(None);
    }
    let bad = |error: &dyn std::fmt::Display| BadIdentity { path: roots.clone(), reason: error.to_string() };
    let text = std::fs::read_to_string(&roots).map_err(|error| bad(&error))?;
    let trust = Trust::new(domain.clone(), Bundle::from_pem(&text).map_err(|error| bad(&error))?);
    Ok(Some((read(&own, &trust)?, trust)))
}

//! `Control`: the handle to a running control, and the links to its bases.
//!
//! Three kinds of tasks: a mirror of the store, the loop that reconciles, and one listener for each base. All
//! of them can be cut at any point; what they know stands in the store or is told again by the bases.

mod cycle;
mod events;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dodai_api::{BaseSpec, Document, DocumentKey, Kind, Located, Metadata, Name};
use dodai_core::id::{AppId, BaseId, Digest, RevisionId};
use dodai_core::snapshot::{Snapshot, Trust};
use dodai_core::status::{Link, Status};
use dodai_core::task::{Kind as TaskKind, Tasks};
use dodai_store::Store;
use dodai_transport::tls::Clock;
use tokio::sync::{Notify, watch};

use crate::documents::{Applied, Apply, Artifacts, DigestsOnly, DocumentStore, FieldOwner, millis};
use crate::error::Result;
use crate::plan::Rules;
use crate::reads::Read;
use crate::records::{Millis, Observed, Sighting};
use crate::shared_map::same;
use crate::snapshot::{BaseSettings, Telling};

pub use crate::mirror::View;
pub use events::{EVENTS_KEPT, Event};

/// How control runs.
#[derive(Clone)]
pub struct Settings {
    /// Who knows the digests of artefacts.
    pub artifacts: Arc<dyn Artifacts>,
    /// The wall clock.
    pub clock: Clock,
    /// Times and bounds of reconciliation.
    pub rules: Rules,
    /// Whether bases join it that read no documents of their own: what a base takes from those at its start has
    /// no effect then, and whoever writes it is told.
    pub remote: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        let (artifacts, clock) = (Arc::new(DigestsOnly), Clock::system());
        Settings { artifacts, clock, rules: Rules::default(), remote: false }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// A running control. Cheap to clone.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    documents: DocumentStore,
    settings: Settings,
    bases: Mutex<BTreeMap<BaseId, Connection>>,
    sightings: Mutex<Observed>,
    serial: Mutex<u64>,
    /// Whom bases are told to trust, where that is told.
    trust: Mutex<Option<Trust>>,
    woken: Notify,
    events: events::Events,
    tasks: Tasks,
}

/// Control's end of a link.
struct Connection {
    serial: u64,
    settings: BaseSettings,
    telling: Telling,
    snapshots: watch::Sender<Arc<Snapshot>>,
    status: watch::Receiver<Status>,
}

impl Control {
    /// Starts control over `store`. Its tasks end when `tasks` close.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(store: Arc<dyn Store>, settings: Settings, tasks: &Tasks) -> Result<Control> {
        let started = millis(&settings.clock);
        let documents = DocumentStore::new(store, settings.artifacts.clone(), settings.clock.clone());
        let documents = if settings.remote { documents.for_remote_bases() } else { documents };
        documents.mirror().now().await?;
        let inner = Inner {
            documents,
            settings,
            bases: Mutex::default(),
            sightings: Mutex::new(Observed::new(started, BTreeMap::new())),
            serial: Mutex::default(),
            trust: Mutex::default(),
            woken: Notify::new(),
            events: events::Events::new(),
            tasks: tasks.clone(),
        };
        let control = Control(Arc::new(inner));
        let mirror = control.0.documents.mirror().clone();
        let closing = tasks.clone();
        tasks.spawn(TaskKind::Loop, async move { mirror.follow(closing).await });
        tasks.spawn(TaskKind::Loop, wake_on_change(control.clone(), tasks.clone()));
        tasks.spawn(TaskKind::Loop, cycle::run(control.clone(), tasks.clone()));
        Ok(control)
    }

    /// Connects a base. A second link for one base takes the place of the first.
    ///
    /// The base document is made if there is none, so that it shows up and can be configured.
    ///
    /// # Errors
    /// When the base's document cannot be written.
    pub async fn link(&self, base: BaseId, settings: BaseSettings) -> Result<Link> {
        self.link_again(base, settings, Status::default()).await
    }

    /// Connects a base that runs already and says what it is before it is told anything: otherwise its first
    /// snapshot would lack what it serves.
    ///
    /// # Errors
    /// As [`Control::link`].
    pub async fn link_again(&self, base: BaseId, settings: BaseSettings, first: Status) -> Result<Link> {
        self.register(&base).await?;
        let snapshots = watch::Sender::new(Arc::new(Snapshot::default()));
        let status = watch::Sender::new(first.clone());
        let serial = self.0.next_serial();
        let link = Link { base: base.clone(), snapshots: snapshots.subscribe(), status: status.clone() };
        {
            // Under the lock: whom to trust is told to those that are in the list, or else read here.
            let mut bases = self.0.bases();
            let settings = BaseSettings { trust: self.0.trust().clone(), ..settings };
            let (telling, status) = (Telling::default(), status.subscribe());
            let connection = Connection { serial, settings, telling, snapshots, status };
            bases.insert(base.clone(), connection);
        }
        let before = self.0.sightings().base(&base).map(|known| known.status.clone());
        self.0.sighted(&base, serial, &Arc::new(first));
        let now = millis(&self.0.settings.clock);
        self.0.events.add(now, base.to_string(), "BaseConnected", format!("base {base} is connected"));
        let attend = cycle::attend(self.clone(), base, serial, before.unwrap_or_default());
        self.0.tasks.spawn(TaskKind::Loop, attend);
        Ok(link)
    }

    async fn register(&self, base: &BaseId) -> Result<()> {
        let metadata = || Some(Metadata::new(Name::default_namespace(), base.as_str().parse::<Name>().ok()?));
        let Some(metadata) = metadata() else { return Ok(()) };
        let spec = BaseSpec { schedulable: true, ..BaseSpec::default() };
        let document = Document::from(dodai_api::Base { metadata, spec, status: None });
        match self.get(&document.key()).await {
            Err(crate::error::Error::NotFound(_)) => {}
            done => return done.map(|_| ()),
        }
        let documents = [Located::nowhere(document)];
        let apply = Apply {
            documents: &documents,
            actor: "control:bases",
            owner: FieldOwner::Control,
            prune: None,
            dry_run: false,
        };
        self.apply(&apply).await.map(|_| ())
    }

    /// Writes documents; see [`DocumentStore::apply`].
    ///
    /// # Errors
    /// As there.
    pub async fn apply(&self, apply: &Apply<'_>) -> Result<Applied> {
        self.0.documents.apply(apply).await
    }

    /// Reads one document with its status.
    ///
    /// # Errors
    /// [`crate::error::Error::NotFound`].
    pub async fn get(&self, key: &DocumentKey) -> Result<Document> {
        self.0.documents.get(key).await
    }

    /// Reads the documents of a kind with their statuses.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(&self, kind: Kind, namespace: Option<&Name>) -> Result<Vec<Document>> {
        self.0.documents.list(kind, namespace).await
    }

    /// Removes one document.
    ///
    /// # Errors
    /// [`crate::error::Error::NotFound`].
    pub async fn delete(&self, key: &DocumentKey, actor: &str) -> Result<()> {
        self.0.documents.delete(key, actor).await
    }

    /// Makes `digest` the artefact of an app's module.
    ///
    /// # Errors
    /// As [`DocumentStore::deploy`].
    pub async fn deploy(&self, app: &AppId, digest: &Digest, actor: &str) -> Result<Document> {
        self.0.documents.deploy(app, digest, actor).await
    }

    /// Lets an app be started anew.
    ///
    /// # Errors
    /// As [`DocumentStore::restart`].
    pub async fn restart(&self, app: &AppId, actor: &str) -> Result<Document> {
        self.0.documents.restart(app, actor).await
    }

    /// Makes an app what an earlier revision of it was.
    ///
    /// # Errors
    /// As [`DocumentStore::rollback`].
    pub async fn rollback(
        &self,
        app: &AppId,
        to: Option<&RevisionId>,
        actor: &str,
    ) -> Result<(Document, RevisionId)> {
        self.0.documents.rollback(app, to, actor).await
    }

    /// What stands in the store, as of a moment ago.
    pub fn view(&self) -> Arc<View> {
        self.0.documents.mirror().view()
    }

    /// Follows documents from now on. State, not events: changes that follow fast are told as one.
    pub fn watch(&self) -> Watch {
        let view = self.0.documents.mirror().subscribe();
        let told = view.borrow().clone();
        Watch { view, told }
    }

    /// What every base reported last.
    pub fn observed(&self) -> Observed {
        self.0.observed()
    }

    /// The snapshot that a base has been told, if it is connected.
    pub fn snapshot(&self, base: &BaseId) -> Option<Arc<Snapshot>> {
        self.0.bases().get(base).map(|one| one.snapshots.borrow().clone())
    }

    /// From now on the bases are told to trust this. What they were told already is not told again.
    pub fn tell_trust(&self, trust: &Trust) {
        {
            let mut bases = self.0.bases();
            let mut told = self.0.trust();
            if told.as_ref() == Some(trust) {
                return;
            }
            *told = Some(trust.clone());
            for connection in bases.values_mut() {
                connection.settings.trust = Some(trust.clone());
            }
        }
        self.0.woken.notify_one();
    }

    /// What happened after the event with number `sequence`; 0 for everything that is kept.
    pub fn events(&self, sequence: u64) -> Vec<Event> {
        self.0.events.after(sequence)
    }

    /// Takes note of something that happened.
    pub fn note(&self, object: String, reason: &'static str, message: String) {
        self.0.events.add(millis(&self.0.settings.clock), object, reason, message);
    }

    /// Tells the number of the newest event.
    pub fn events_changed(&self) -> watch::Receiver<u64> {
        self.0.events.subscribe()
    }

    /// The clock that it goes by.
    pub fn clock(&self) -> &Clock {
        &self.0.settings.clock
    }

    /// The documents behind.
    pub fn documents(&self) -> &DocumentStore {
        &self.0.documents
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl Inner {
    fn bases(&self) -> MutexGuard<'_, BTreeMap<BaseId, Connection>> {
        self.bases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sightings(&self) -> MutexGuard<'_, Observed> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trust(&self) -> MutexGuard<'_, Option<Trust>> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_serial(&self) -> u64 {
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        *serial += 1;
        *serial
    }

    fn observed(&self) -> Observed {
        self.sightings().clone()
    }

    /// Whether the connection with this number is still the base's.
    fn is_current(&self, base: &BaseId, serial: u64) -> bool {
        self.bases().get(base).is_some_and(|one| one.serial == serial)
    }

    fn sighted(&self, base: &BaseId, serial: u64, status: &Arc<Status>) {
        if !self.is_current(base, serial) {
            return;
        }
        let now: Millis = millis(&self.settings.clock);
        let mut sightings = self.sightings();
        let known = sightings.base(base);
        let since = known.filter(|known| known.connected).map_or(now, |known| known.since);
        // An empty first report of a base that was here before says nothing yet.
        let silent = **status == Status::default();
        let status = match known {
            Some(known) if silent => known.status.clone(),
            Some(_) | None => status.clone(),
        };
        sightings.bases_mut().insert(base.clone(), Sighting { status, connected: true, since });
        drop(sightings);
        self.woken.notify_one();
    }

    fn disconnect(&self, base: &BaseId, serial: u64) {
        let now = millis(&self.settings.clock);
        {
            // Under one lock, or a link that took the place of this one in between would be taken away.
            let mut bases = self.bases();
            if bases.get(base).is_none_or(|one| one.serial != serial) {
                return;
            }
            bases.remove(base);
            if let Some(sighting) = self.sightings().bases_mut().get_mut(base) {
                sighting.connected = false;
                sighting.since = now;
            }
        }
        self.events.add(
            now,
            base.to_string(),
            "BaseAway",
            format!("base {base} is not connected any longer"),
        );
        self.woken.notify_one();
    }
}

async fn wake_on_change(control: Control, tasks: Tasks) {
    let mut view = control.0.documents.mirror().subscribe();
    loop {
        tokio::select! {
            // Cancel safe: the view is state.
            () = tasks.closing() => return,
            changed = view.changed() => match changed {
                Ok(()) => control.0.woken.notify_one(),
                Err(_) => return,
            },
        }
    }
}

/// Follows documents; see [`Control::watch`].
pub struct Watch {
    view: watch::Receiver<Arc<View>>,
    told: Arc<View>,
}

/// A document that changed, or its status did.
#[derive(Clone, Debug, PartialEq)]
pub enum Changed {
    /// As it is now, with its status.
    Put(Document),
    /// It is gone.
    Deleted(DocumentKey),
}

impl Watch {
    /// The next changes; `None` when control has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Vec<Changed>> {
        loop {
            self.view.changed().await.ok()?;
            let now = self.view.borrow_and_update().clone();
            let changes = changes(&self.told, &now);
            self.told = now;
            if !changes.is_empty() {
                return Some(changes);
            }
        }
    }
}

fn changes(before: &View, after: &View) -> Vec<Changed> {
    let mut changed = BTreeSet::new();
    before.documents.differences(&after.documents, |read| {
        if let Read::Document(key) = read {
            changed.insert(key);
        }
    });
    before.statuses.differences(&after.statuses, |key, old, new| {
        if !same(old, new) && after.documents.get(key).is_some() {
            changed.insert(key.clone());
        }
    });
    let told = |key: DocumentKey| match after.document(&key) {
        Some(document) => Changed::Put(document),
        None => Changed::Deleted(key),
    };
    changed.into_iter().map(told).collect()
}

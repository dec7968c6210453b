//! What an output was made of, so that it is made anew only when something of that changed.
//!
//! [`Documents`](crate::documents::Documents), [`Records`](crate::records::Records) and
//! [`Observed`](crate::records::Observed) note every look at them in the [`Reads`] that they carry; their contents are
//! private to their modules, so that nothing can be looked at in secret.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dodai_api::{DocumentKey, Kind};
use dodai_core::id::{AppId, BaseId, InstanceId};

use crate::documents::Belonging;
use crate::records::Millis;

/// Something that can be looked at, and that changes as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Read {
    /// One document.
    Document(DocumentKey),
    /// All documents of a kind.
    Kind(Kind),
    /// Which documents of a kind there are.
    Names(Kind),
    /// What belongs to an app or a service in this way.
    Belonging(Belonging, AppId),
    /// The record of an app.
    App(AppId),
    /// The instances of an app.
    Instances(AppId),
    /// The instances on a base.
    On(BaseId),
    /// What a base says of one instance.
    Report(InstanceId),
    /// Whether a base is connected, and since when.
    Presence(BaseId),
    /// Where other bases reach a base.
    Mesh(BaseId),
    /// What a base says beside its instances.
    Sighting(BaseId),
    /// Which bases were seen.
    Bases,
}

/// What was noted.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// What was looked at.
    pub reads: HashSet<Read>,
    /// When time alone changes what was made of it.
    pub until: Option<Millis>,
}

/// Where looks are noted; nowhere by default. Clones note in one place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads(Option<Arc<Mutex<Noted>>>);

/// When `span` lies behind `since`.
pub(crate) fn passes_at(since: Millis, span: Duration) -> Millis {
    since.saturating_add(Millis::try_from(span.as_millis()).unwrap_or(Millis::MAX))
}

impl Reads {
    /// A place to note looks in.
    pub fn noting() -> Reads {
        Reads(Some(Arc::default()))
    }

    /// Takes note of a look.
    pub fn note(&self, read: impl FnOnce() -> Read) {
        if let Some(mut noted) = self.noted() {
            noted.reads.insert(read());
        }
    }

    /// Whether at least `span` lies between two times; notes when it will.
    pub fn passed(&self, since: Millis, now: Millis, span: Duration) -> bool {
        let at = passes_at(since, span);
        if at > now
            && let Some(mut noted) = self.noted()
        {
            noted.until = Some(noted.until.map_or(at, |until| until.min(at)));
        }
        at <= now
    }

    /// What was noted since the last time.
    pub fn take(&self) -> Noted {
        self.noted().map(|mut noted| std::mem::take(&mut *noted)).unwrap_or_default()
    }

    fn noted(&self) -> Option<MutexGuard<'_, Noted>> {
        self.0.as_ref().map(|noted| noted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

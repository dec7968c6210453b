//! What one base is told. Pure: documents, records and what is observed in, a snapshot out.
//!
//! A base is told only what it uses: the apps that run on it, what they declare to call, what its gateways lead to, and
//! what it asked for ([`Wants`]). That is its `Frame`; each part within it is made apart, and made anew only when
//! something it was made of changed (`Telling`). Unchanged resources keep their `Arc`, and the version grows only when
//! something changed.

mod balancing;
mod component;
mod endpoints;
mod guard;
mod listener;
mod outside;
mod policy;
mod precedence;
mod rate;
mod resilience;
mod resiliency;
mod route;
mod rule;
mod service;
mod telling;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use dodai_core::id::{AppId, BaseId};
use dodai_core::snapshot::{Snapshot, Trust};
use dodai_core::status::Wants;
use dodai_transport::identity::TrustDomain;

use crate::documents::Documents;
use crate::name;
use crate::records::{Observed, Records};

pub(crate) use policy::contested;
pub(crate) use route::{gateway_listener_names, unresolved};
pub(crate) use service::{absent, selects, traffic};
pub(crate) use telling::Telling;

/// The label on bases that gateways run on; where no base has it, they run on every base.
pub const GATEWAY_LABEL: &str = "dodai.dev/gateway";

/// How one base is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseSettings {
    /// Where it listens for other bases; `None` for a base that is alone.
    pub mesh: Option<SocketAddr>,
    /// The project folder that paths in documents begin at.
    pub project: Option<PathBuf>,
    /// Fixed addresses of the runtime API, by app. Others get a free port of 127.0.0.1.
    pub api: BTreeMap<AppId, Vec<SocketAddr>>,
    /// Fixed addresses of the outbound listener, by app.
    pub outbound: BTreeMap<AppId, SocketAddr>,
    /// The trust domain that SPIFFE ids in documents are of.
    pub trust_domain: TrustDomain,
    /// The token that apps must send to the runtime API. Default: none.
    pub api_token: Option<String>,
    /// Apps that run elsewhere and whose sidecar this base is. They have what local apps have, but for an
    /// outbound listener that `outbound` does not name.
    pub attached: BTreeSet<AppId>,
    /// Whom it is told to trust, if it says that it listens to that.
    pub trust: Option<Trust>,
}

/// Everything a snapshot is made of.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The documents.
    pub documents: &'a Documents,
    /// The records.
    pub records: &'a Records,
    /// What bases report.
    pub observed: &'a Observed,
    /// The base that is told.
    pub base: &'a BaseId,
    /// How it is set up.
    pub settings: &'a BaseSettings,
}

impl Input<'_> {
    /// The apps with an instance on this base, and those whose sidecar it is.
    fn local(&self) -> BTreeSet<AppId> {
        self.records
            .on(self.base)
            .filter(|one| !one.succeeded)
            .map(|one| one.app.clone())
            .chain(self.settings.attached.iter().cloned())
            .filter(|app| self.documents.app(app).is_some())
            .collect()
    }

    fn wants(&self) -> Wants {
        self.observed.base(self.base).map(|sighting| sighting.status.wants.clone()).unwrap_or_default()
    }

    /// Whether the base takes whom it trusts from the server.
    fn heeds_trust(&self) -> bool {
        self.observed.base(self.base).is_some_and(|sighting| sighting.status.trust.is_some())
    }

    /// Whether gateways listen on this base.
    fn has_gateways(&self) -> bool {
        has_gateways(self.documents, self.base)
    }
}

/// Whether gateways listen on a base.
pub(crate) fn has_gateways(documents: &Documents, base: &BaseId) -> bool {
    let labelled = |label: &dodai_api::Base| {
        label.spec.labels.contains_key(GATEWAY_LABEL) || label.metadata.labels.contains_key(GATEWAY_LABEL)
    };
    let mut any = documents.bases().filter(|base| labelled(base)).peekable();
    any.peek().is_none() || any.any(|labelled| labelled.metadata.name.as_str() == base.as_str())
}

/// What decides which parts a base is told, and what they have in common.
#[derive(Clone, Debug, Default, PartialEq)]
struct Frame {
    /// Every name is told.
    all: bool,
    /// The names that are.
    apps: BTreeSet<AppId>,
    /// Those of them that the base asked about.
    wanted: BTreeSet<AppId>,
    /// The apps that run here.
    local: BTreeSet<AppId>,
    /// The apps that some route leads to straight, whatever service has their name.
    apart: BTreeSet<AppId>,
    /// The labels that some rule asks about.
    asked: BTreeSet<String>,
}

impl Frame {
    fn of(input: &Input<'_>) -> Frame {
        let local = input.local();
        let mut apps = local.clone();
        for id in &local {
            let Some(app) = input.documents.app(id) else { continue };
            for call in &app.spec.calls {
                let there = call.namespace.as_ref().unwrap_or(&app.metadata.namespace);
                apps.insert(name::app_in(there, &call.app));
            }
            apps.extend(app.spec.depends_on.iter().map(|other| name::app_in(&app.metadata.namespace, other)));
        }
        if input.has_gateways() {
            apps.extend(route::gateway_targets(input.documents));
        }
        if listener::interception(input).is_some() {
            // Who calls by address is understood only where it is known who has it.
            let outside = input.documents.apps().filter(|app| app.spec.external.is_some());
            apps.extend(outside.map(|app| name::app_id(&app.metadata)));
        }
        // Where policies are kept, who is asked by them is called.
        apps.extend(guard::authorizers(input.documents));
        let (all, wanted) = match input.wants() {
            Wants::All => (true, BTreeSet::new()),
            Wants::Only(wanted) => (false, wanted),
        };
        apps.extend(wanted.iter().cloned());
        // Where rules of a service lead, calls to it go.
        let onward: Vec<AppId> =
            apps.iter().flat_map(|app| route::service_targets(input.documents, app)).collect();
        apps.extend(onward);
        let (apart, asked) = (route::app_targets(input.documents), endpoints::asked(input.documents));
        Frame { all, apps, wanted, local, apart, asked }
    }

    fn has(&self, app: &AppId) -> bool {
        self.all || self.apps.contains(app)
    }
}

/// The snapshot of a base at `version`.
pub fn build(input: &Input<'_>, version: u64) -> Snapshot {
    let mut snapshot = Telling::default().next(input, &Snapshot::default(), version).unwrap_or_default();
    snapshot.version = version;
    snapshot
}

//! Where services are: ready instances and addresses outside, with what callers choose between them by.

use std::collections::{BTreeMap, BTreeSet};

use dodai_api as api;
use dodai_core::id::{AppId, BaseId, RevisionId};
use dodai_core::snapshot::{Endpoint, Endpoints, Labels, Target};

use super::service::{Compiled, addresses, label};
use super::{Input, outside};
use crate::documents::Documents;
use crate::plan::named_by_traffic;

/// The zone of a base.
const ZONE_LABEL: &str = "dodai.dev/zone";
/// The region that its zone is in.
const REGION_LABEL: &str = "dodai.dev/region";
/// Tiers that nearness makes of one priority.
const DISTANCES: u8 = 3;

/// What is the same for the endpoints of all services of one snapshot.
pub(super) struct Traits<'a> {
    bases: BTreeMap<&'a str, &'a api::Base>,
    /// The labels that some rule asks about; others are not told.
    asked: BTreeSet<&'a str>,
}

impl<'a> Traits<'a> {
    pub fn of(documents: &'a Documents) -> Traits<'a> {
        let bases = documents.bases().map(|base| (base.metadata.name.as_str(), base)).collect();
        let rules = documents.routes().flat_map(|route| &route.spec.rules);
        let asked = |rule: &'a api::Rule| {
            let mirrors = rule.filters.iter().filter_map(|filter| filter.request_mirror.as_ref());
            let all = rule.backend_refs.iter().chain(mirrors.map(|mirror| &mirror.backend_ref));
            all.flat_map(|backend| backend.labels.keys()).map(String::as_str)
        };
        Traits { bases, asked: rules.flat_map(asked).collect() }
    }

    /// How far a base is from the one that is told: 0 in its zone, 1 in its region, else 2. Without labels, all are
    /// near.
    fn distance(&self, from: &BaseId, to: &BaseId) -> u8 {
        let label = |base: &BaseId, key: &str| {
            let base = self.bases.get(base.as_str())?;
            base.spec.labels.get(key).or_else(|| base.metadata.labels.get(key))
        };
        let differ = |key: &str| match (label(from, key), label(to, key)) {
            (Some(here), Some(there)) => here != there,
            (Some(_), None) | (None, Some(_)) => from != to,
            (None, None) => false,
        };
        match (differ(REGION_LABEL), differ(ZONE_LABEL)) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        }
    }

    /// The labels of an endpoint of `app`: the app's, then those of the base it runs on.
    fn labels(&self, documents: &Documents, app: &AppId, base: Option<&BaseId>) -> Labels {
        let of_base = |key: &str| {
            let base = self.bases.get(base?.as_str())?;
            base.spec.labels.get(key).or_else(|| base.metadata.labels.get(key))
        };
        let one = |key: &&str| {
            let value = label(documents, app, key).or_else(|| of_base(key))?;
            Some(((*key).to_owned(), value.clone()))
        };
        self.asked.iter().filter_map(one).collect()
    }
}

/// The endpoints of one service.
pub(super) fn endpoints(input: &Input<'_>, one: &Compiled, traits: &Traits<'_>) -> Endpoints {
    let mut list = Vec::new();
    for app in &one.apps {
        let record = input.records.apps.get(app);
        let serving = record.and_then(|record| record.serving.as_ref());
        // Without shares of traffic nobody would hold back the instances of a revision that is not whole yet.
        let shown = |revision: &RevisionId| one.apps.len() == 1 || serving == Some(revision);
        for instance in input.records.of(app) {
            if input.observed.is_ready(instance) && shown(&instance.revision) {
                let base = instance.base.clone();
                let labels = traits.labels(input.documents, app, Some(&base));
                let mesh = input.observed.bases.get(&base).and_then(|sighting| sighting.status.mesh);
                let tier = if one.prefers_near { traits.distance(input.base, &base) } else { 0 };
                let target = Target::Instance { instance: instance.id.clone(), base, mesh };
                list.push(Endpoint { tier, labels, ..Endpoint::new(instance.revision.clone(), target) });
            }
        }
        let named = input.documents.app(app).map(|document| named_by_traffic(document, app, input.documents));
        let outside: BTreeSet<RevisionId> = named.into_iter().flatten().chain(serving.cloned()).collect();
        for revision in outside.into_iter().filter(|revision| shown(revision)) {
            let Some(external) = addresses(input.documents, app, &revision) else { continue };
            let labels = traits.labels(input.documents, app, None);
            for (target, address) in
                outside::targets(input, app, external).into_iter().zip(&external.addresses)
            {
                let weight = external.weights.get(&address.to_string()).map_or(1, |weight| weight.0);
                let priority = external.priorities.get(&address.to_string()).copied().unwrap_or_default();
                let (labels, tier) = (labels.clone(), priority.saturating_mul(DISTANCES));
                list.push(Endpoint { weight, tier, labels, ..Endpoint::new(revision.clone(), target) });
            }
        }
    }
    Endpoints { service: one.service.id.clone(), list }
}

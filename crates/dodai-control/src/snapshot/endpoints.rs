//! Where services are: ready instances and addresses outside, with what callers choose between them by.

use std::collections::BTreeSet;

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
const DISTANCES: u8 = 3 + api::Locality::MAX_FAILOVER;

/// The labels that some rule asks about; others are not told.
pub(super) fn asked(documents: &Documents) -> BTreeSet<String> {
    let rules = documents.routes().flat_map(|route| &route.spec.rules);
    let asked = |rule: &api::Rule| -> Vec<String> {
        let mirrors = rule.filters.iter().filter_map(|filter| filter.request_mirror.as_ref());
        let all = rule.backend_refs.iter().chain(mirrors.map(|mirror| &mirror.backend_ref));
        all.flat_map(|backend| backend.labels.keys()).cloned().collect()
    };
    rules.flat_map(asked).collect()
}

/// What callers choose between endpoints by.
pub(super) struct Traits<'a> {
    pub documents: &'a Documents,
    pub asked: &'a BTreeSet<String>,
}

impl Traits<'_> {
    /// The value of a label of a base.
    fn label(&self, base: &BaseId, key: &str) -> Option<&String> {
        let base = self.documents.base(base)?;
        base.spec.labels.get(key).or_else(|| base.metadata.labels.get(key))
    }

    /// How far a base is from the one that is told: 0 in its zone, 1 in its region, from 2 on in the regions that take
    /// over, in their order, and then all others. Without labels, all are near.
    fn distance(&self, from: &BaseId, to: &BaseId, failover: &[String]) -> u8 {
        let differ = |key: &str| match (self.label(from, key), self.label(to, key)) {
            (Some(here), Some(there)) => here != there,
            (Some(_), None) | (None, Some(_)) => from != to,
            (None, None) => false,
        };
        match (differ(REGION_LABEL), differ(ZONE_LABEL)) {
            (true, _) => {
                let named = failover.iter().position(|region| self.label(to, REGION_LABEL) == Some(region));
                u8::try_from(2 + named.unwrap_or(failover.len())).unwrap_or(DISTANCES - 1).min(DISTANCES - 1)
            }
            (false, true) => 1,
            (false, false) => 0,
        }
    }

    /// The labels of an endpoint of `app`: the app's, then those of the base it runs on.
    fn labels(&self, app: &AppId, base: Option<&BaseId>) -> Labels {
        let one = |key: &String| {
            let value = label(self.documents, app, key).or_else(|| self.label(base?, key))?;
            Some((key.clone(), value.clone()))
        };
        self.asked.iter().filter_map(one).collect()
    }
}

/// The endpoints of one service.
pub(super) fn endpoints(input: &Input<'_>, one: &Compiled, traits: &Traits<'_>) -> Endpoints {
    let mut list = Vec::new();
    for app in &one.apps {
        let record = input.records.app(app);
        let serving = record.and_then(|record| record.serving.as_ref());
        // Without shares of traffic nobody would hold back the instances of a revision that is not whole yet.
        let shown = |revision: &RevisionId| one.apps.len() == 1 || serving == Some(revision);
        for instance in input.records.of(app) {
            if input.observed.is_ready(instance) && shown(&instance.revision) {
                let base = instance.base.clone();
                let labels = traits.labels(app, Some(&base));
                let mesh = input.observed.mesh(&base);
                let far = |failover: &Vec<String>| traits.distance(input.base, &base, failover);
                let tier = one.near.as_ref().map_or(0, far);
                let target = Target::Instance { instance: instance.id.clone(), base, mesh };
                list.push(Endpoint { tier, labels, ..Endpoint::new(instance.revision.clone(), target) });
            }
        }
        let named = input.documents.app(app).map(|document| named_by_traffic(document, app, input.documents));
        let outside: BTreeSet<RevisionId> = named.into_iter().flatten().chain(serving.cloned()).collect();
        for revision in outside.into_iter().filter(|revision| shown(revision)) {
            let Some(external) = addresses(input.documents, app, &revision) else { continue };
            let labels = traits.labels(app, None);
            for (target, address) in
                outside::targets(input, app, external).into_iter().zip(&external.addresses)
            {
                let weight = external.weights.get(&address.to_string()).map_or(1, |weight| weight.0);
                let priority = external.priorities.get(&address.to_string()).copied().unwrap_or_default();
                let (labels, tier) = (labels.clone(), priority.saturating_mul(DISTANCES));
                let each_address = external.resolve == api::Resolve::All && address.name().is_some();
                let one = Endpoint::new(revision.clone(), target);
                list.push(Endpoint { weight, tier, labels, each_address, ..one });
            }
        }
    }
    Endpoints { service: one.service.id.clone(), list }
}

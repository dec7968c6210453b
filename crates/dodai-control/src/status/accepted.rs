//! Whether what refers to other documents still finds them. They were there when it was written; what is
//! deleted later is told here.

use std::collections::BTreeSet;

use dodai_api::{Condition, Document, DocumentKey, Kind, Name, Policy, TargetKind, dapr};
use dodai_core::id::AppId;

use super::{Facts, condition};
use crate::name;
use crate::snapshot::selects;

pub(super) fn accepted(facts: &Facts<'_>, document: &Document) -> Option<Condition> {
    let lost = match document {
        Document::Policy(policy) => ("TargetNotFound", targets(facts, policy)),
        Document::Service(service) => {
            let none = !selects(facts.documents, &name::app_id(&service.metadata));
            ("NoApps", none.then(|| "there is no app behind it".to_owned()))
        }
        Document::Subscription(subscription) => ("ComponentNotFound", broker(facts, subscription)),
        Document::Configuration(configuration) => ("NotUsed", unused(facts, configuration)),
        Document::HttpEndpoint(endpoint) => ("NameTaken", taken(facts, endpoint)),
        Document::Namespace(_)
        | Document::App(_)
        | Document::Revision(_)
        | Document::Gateway(_)
        | Document::Route(_)
        | Document::Base(_)
        | Document::Component(_)
        | Document::Resiliency(_) => return None,
    };
    let (reason, lost) = lost;
    Some(match lost {
        Some(why) => condition("Accepted", false, reason, why),
        None => condition("Accepted", true, "Accepted", ""),
    })
}

fn is_there(facts: &Facts<'_>, kind: Kind, namespace: &Name, name: &str) -> bool {
    let key = name.parse().ok().map(|name| DocumentKey { kind, namespace: namespace.clone(), name });
    key.is_some_and(|key| facts.documents.get(&key).is_some())
}

fn targets(facts: &Facts<'_>, policy: &Policy) -> Option<String> {
    let namespace = &policy.metadata.namespace;
    let there = |kind, name: &Name| is_there(facts, kind, namespace, name.as_str());
    let lost = policy.spec.target_refs.iter().filter(|target| match target.kind {
        TargetKind::App => !there(Kind::App, &target.name),
        TargetKind::Service => !there(Kind::Service, &target.name) && !there(Kind::App, &target.name),
        TargetKind::Gateway => !there(Kind::Gateway, &target.name),
        TargetKind::Route => !there(Kind::Route, &target.name),
    });
    let lost: Vec<String> =
        lost.map(|target| format!("there is no {:?} `{}`", target.kind, target.name)).collect();
    (!lost.is_empty()).then(|| lost.join("; "))
}

fn broker(facts: &Facts<'_>, subscription: &dapr::Subscription) -> Option<String> {
    let (namespace, wanted) = (&subscription.metadata.namespace, &subscription.spec.pubsubname);
    (!is_there(facts, Kind::Component, namespace, wanted))
        .then(|| format!("there is no Component `{wanted}`"))
}

fn unused(facts: &Facts<'_>, configuration: &dapr::Configuration) -> Option<String> {
    let metadata = &configuration.metadata;
    let mut apps = facts.documents.apps();
    let names = |app: &dodai_api::App| {
        let wanted = app.spec.dapr.as_ref().and_then(|dapr| dapr.configuration.as_ref());
        app.metadata.namespace == metadata.namespace && wanted == Some(&metadata.name)
    };
    let why = "no app names it in `spec.dapr.configuration`; only `tracing` of it may be used, by the base that read it";
    (!apps.any(names)).then(|| why.to_owned())
}

fn taken(facts: &Facts<'_>, endpoint: &dapr::HttpEndpoint) -> Option<String> {
    let metadata = &endpoint.metadata;
    let taken: BTreeSet<Kind> = [Kind::App, Kind::Service]
        .into_iter()
        .filter(|kind| is_there(facts, *kind, &metadata.namespace, metadata.name.as_str()))
        .collect();
    let kind = taken.first()?;
    Some(format!("calls to `{}` go to the {kind} of that name", metadata.name))
}

/// What a revision does now.
pub(super) fn revision(facts: &Facts<'_>, revision: &dodai_api::Revision) -> Condition {
    let app = AppId::new(name::name(&revision.metadata.namespace), name::name(&revision.spec.app));
    let id = name::revision(&revision.spec.id);
    let record = facts.records.app(&app);
    let serves = record.is_some_and(|record| record.serving.as_ref() == Some(&id));
    let runs =
        facts.records.of(&app).filter(|one| one.revision == id && facts.observed.is_seen_ready(one)).count();
    let text = format!("{runs} instances are ready");
    match (serves, record.is_some_and(|record| record.current == id)) {
        (true, _) => condition("Serving", true, "Latest", text),
        (false, true) => condition("Serving", false, "Starting", text),
        (false, false) if runs > 0 => condition("Serving", true, "Named", text),
        (false, false) => condition("Serving", false, "Kept", "an older one, kept to go back to"),
    }
}

/// What a namespace holds.
pub(super) fn namespace(facts: &Facts<'_>, namespace: &dodai_api::Namespace) -> Condition {
    let kinds = Kind::ALL.iter().filter(|kind| kind.is_namespaced() && **kind != Kind::Revision);
    let keys = kinds.flat_map(|kind| facts.documents.keys(*kind));
    let count = keys.filter(|key| key.namespace.as_str() == namespace.metadata.name.as_str()).count();
    let reason = if count == 0 { "Empty" } else { "InUse" };
    condition("Accepted", true, reason, format!("it holds {count} documents"))
}

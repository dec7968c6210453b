//! Statuses of documents: what came of them, in conditions with reasons. Pure.

mod accepted;
mod gateway;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dodai_api::{
    App, AppStatus, BaseStatus, Condition, Document, DocumentKey, Kind, RevisionState, Run, Status, Truth,
    Weight, Workload,
};
use dodai_core::id::{AppId, BaseId, RevisionId};
use dodai_core::status::Phase;
use serde_json::Value;

use crate::documents::{Documents, timestamp};
use crate::name;
use crate::plan::{Room, Rules, template_revision, wanted};
use crate::reads::{Read, Reads};
use crate::records::{AppRecord, InstanceRecord, Millis, Observed, Records};
use crate::shared_map::{SharedMap, same};
use crate::snapshot::{BaseSettings, Input, absent, contested, traffic, unresolved};
use crate::world::{Memo, World};

/// How many bases a condition names.
const BASES_TOLD: usize = 8;

/// What statuses are made of.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The documents.
    pub documents: &'a Documents,
    /// The records.
    pub records: &'a Records,
    /// What bases report.
    pub observed: &'a Observed,
    /// Times and bounds.
    pub rules: &'a Rules,
    /// The time.
    pub now: Millis,
}

/// The status of every document that has one. `before` are those that stand: a condition that has not turned
/// keeps the time at which it did.
pub fn statuses(facts: &Facts<'_>, before: &BTreeMap<DocumentKey, Value>) -> BTreeMap<DocumentKey, Value> {
    let Facts { documents, records, observed, rules, now } = *facts;
    let world = World { documents: documents.clone(), records: records.clone(), observed: observed.clone() };
    let stand = before.iter().map(|(key, value)| (key.clone(), Arc::new(value.clone()))).collect();
    let mut all = before.clone();
    for (key, value) in Statuses::default().changes(&world, &stand, rules, now) {
        match value {
            Some(value) => all.insert(key, value),
            None => all.remove(&key),
        };
    }
    all
}

/// Those of all documents, as they stand.
pub(crate) type Stand = SharedMap<DocumentKey, Arc<Value>>;

/// Statuses, one time after the other.
#[derive(Debug, Default)]
pub(crate) struct Statuses {
    /// What they were made of the last time.
    seen: World,
    /// How they stood then.
    stood: Stand,
    made: Memo<DocumentKey>,
    /// Those that should stand otherwise.
    open: BTreeSet<DocumentKey>,
}

impl Statuses {
    /// How statuses should stand that stand otherwise; `None` for those that should not stand at all.
    pub fn changes(
        &mut self,
        world: &World,
        stand: &Stand,
        rules: &Rules,
        now: Millis,
    ) -> BTreeMap<DocumentKey, Option<Value>> {
        let changed = self.seen.differences(world);
        let mut keys = std::mem::take(&mut self.open);
        keys.extend(self.made.stale(&changed, now));
        let documents = |read| if let Read::Document(key) = read { Some(key) } else { None };
        keys.extend(changed.into_iter().filter_map(documents));
        self.stood.differences(stand, |key, old, new| {
            if !same(old, new) {
                keys.insert(key.clone());
            }
        });
        (self.seen, self.stood) = (world.clone(), stand.clone());
        let reads = Reads::noting();
        let World { documents, records, observed } = &world.noting(&reads);
        let facts = Facts { documents, records, observed, rules, now };
        let mut all = BTreeMap::new();
        for key in keys {
            let before = stand.get(&key).map(Arc::as_ref);
            let value =
                facts.documents.get(&key).cloned().and_then(|document| status(&facts, &document, before));
            self.made.keep(key.clone(), reads.take());
            if value.as_ref() != before {
                self.open.insert(key.clone());
                all.insert(key, value);
            }
        }
        all
    }

    /// When time alone changes a status.
    pub fn deadline(&self) -> Option<Millis> {
        self.made.deadline()
    }
}

/// The status of one document. `before` is the one that stands.
fn status(facts: &Facts<'_>, document: &Document, before: Option<&Value>) -> Option<Value> {
    let generation = document.metadata().generation;
    let mut value = match document {
        Document::App(app) => to_value(app_status(facts, app)),
        Document::Gateway(gateway) => to_value(gateway::status(facts, gateway)),
        Document::Route(route) => to_value(route_status(facts, route)),
        Document::Component(component) => to_value(component_status(facts, component)),
        Document::Base(base) => to_value(base_status(facts, base, before)),
        Document::Resiliency(one) => to_value(only(resiliency(contested(facts.documents, one)))),
        Document::Namespace(one) => to_value(only(accepted::namespace(facts, one))),
        Document::Revision(one) => to_value(only(accepted::revision(facts, one))),
        Document::Service(_)
        | Document::Policy(_)
        | Document::Subscription(_)
        | Document::Configuration(_)
        | Document::HttpEndpoint(_) => to_value(only(accepted::accepted(facts, document)?)),
    };
    if document.kind() != Kind::Base
        && let (Value::Object(map), Some(generation)) = (&mut value, generation)
    {
        map.insert("observedGeneration".to_owned(), Value::from(generation));
    }
    stamp(&mut value, before, &timestamp(facts.now));
    Some(value)
}

fn only(condition: Condition) -> Status {
    Status { conditions: vec![condition], ..Status::default() }
}

fn to_value(status: impl serde::Serialize) -> Value {
    serde_json::to_value(status).expect("statuses have text keys only, which JSON can always hold")
}

/// Gives each condition the time at which it turned.
fn stamp(status: &mut Value, before: Option<&Value>, now: &str) {
    let old = before.and_then(|before| before.get("conditions")).and_then(Value::as_array);
    let Some(Value::Array(conditions)) = status.get_mut("conditions") else { return };
    for condition in conditions {
        let same = |other: &&Value| {
            other.get("type") == condition.get("type") && other.get("status") == condition.get("status")
        };
        let kept = old.and_then(|old| old.iter().find(same)).and_then(|old| old.get("lastTransitionTime"));
        condition["lastTransitionTime"] = kept.cloned().unwrap_or_else(|| Value::from(now));
    }
}

fn condition(kind: &str, holds: bool, reason: &str, message: impl Into<String>) -> Condition {
    Condition {
        condition: kind.to_owned(),
        status: if holds { Truth::True } else { Truth::False },
        reason: reason.to_owned(),
        message: message.into(),
        last_transition_time: None,
    }
}

fn app_status(facts: &Facts<'_>, app: &App) -> AppStatus {
    let id = name::app_id(&app.metadata);
    let Some(record) = facts.records.app(&id) else {
        let (reason, text) = match template_revision(app) {
            Some(_) => ("Pending", "no revision has been made yet"),
            None => (
                "ArtifactMissing",
                "its artefact has not been uploaded; run `dodai up` or `dodai apply` in the project",
            ),
        };
        return AppStatus {
            conditions: vec![condition("Ready", false, reason, text)],
            ..AppStatus::default()
        };
    };
    let to_id = |revision: &RevisionId| revision.as_str().parse().ok();
    AppStatus {
        observed_generation: app.metadata.generation,
        conditions: std::iter::once(ready(facts, app, &id, record)).chain(routed(facts, &id)).collect(),
        latest_revision: to_id(&record.current),
        latest_ready_revision: record.serving.as_ref().and_then(to_id),
        revisions: revisions(facts, app, &id, record),
    }
}

fn revisions(facts: &Facts<'_>, app: &App, id: &AppId, record: &AppRecord) -> Vec<RevisionState> {
    let base = BaseId::new("");
    let settings = BaseSettings::default();
    let Facts { documents, records, observed, .. } = *facts;
    let shares = traffic(&Input { documents, records, observed, base: &base, settings: &settings }, id);
    let mut all: BTreeMap<RevisionId, (u32, u32, u32)> = BTreeMap::new();
    for (revision, weight) in shares {
        all.entry(revision).or_default().0 = weight;
    }
    all.entry(record.current.clone()).or_default();
    for instance in records.of(id) {
        let entry = all.entry(instance.revision.clone()).or_default();
        entry.2 += u32::from(observed.is_seen_ready(instance));
    }
    let active =
        |revision: &RevisionId| *revision == record.current || Some(revision) == record.serving.as_ref();
    let count = |revision: &RevisionId, weight: u32| {
        let runs = documents.revision(id, revision).is_some_and(|document| {
            matches!(document.spec.template.workload(), Some(Workload::Module(_) | Workload::Process(_)))
        });
        let all = u32::try_from(wanted(app)).unwrap_or(u32::MAX);
        if runs && (weight > 0 || active(revision)) { all } else { 0 }
    };
    let state = |(revision, (weight, _, ready)): (RevisionId, (u32, u32, u32))| {
        let wanted = count(&revision, weight);
        Some(RevisionState { id: revision.as_str().parse().ok()?, weight: Weight(weight), wanted, ready })
    };
    all.into_iter().filter_map(state).collect()
}

/// Whether what the app's traffic names is there; nothing for an app that names nothing that is not.
fn routed(facts: &Facts<'_>, id: &AppId) -> Option<Condition> {
    let absent: Vec<String> = absent(facts.documents, id).into_iter().map(|(id, _)| id.to_string()).collect();
    let text = || {
        format!(
            "`spec.traffic` names revisions that are not there, and calls of their shares are refused: {}; \
             `dodai get revisions` lists those that are",
            absent.join(", ")
        )
    };
    (!absent.is_empty()).then(|| condition("ResolvedRefs", false, "RevisionNotFound", text()))
}

fn ready(facts: &Facts<'_>, app: &App, id: &AppId, record: &AppRecord) -> Condition {
    let own: Vec<&InstanceRecord> =
        facts.records.of(id).filter(|one| one.revision == record.current && one.draining.is_none()).collect();
    let good = own.iter().filter(|one| facts.observed.is_seen_ready(one)).count();
    let mut trouble = trouble(facts, &own);
    if good < wanted(app)
        && let Some(failed) = failed_before(facts, app)
    {
        trouble = if trouble.is_empty() { failed } else { format!("{trouble}; {failed}") };
    }
    let wanted = wanted(app);
    if let Some(external) = &app.spec.external {
        return condition(
            "Ready",
            true,
            "External",
            match &external.start {
                Some(start) => format!("it runs elsewhere; if it does not answer, start it: {start}"),
                None => "it runs elsewhere; whether it answers shows when it is called".to_owned(),
            },
        );
    }
    if app.spec.run == Run::Once {
        let failed = own.iter().any(|one| facts.observed.phase(one) == Some(Phase::Failed));
        return match own.iter().any(|one| one.succeeded) {
            true => condition("Ready", true, "Succeeded", "it ran to its end"),
            false if failed => condition("Ready", false, "Failed", trouble),
            false => condition("Ready", false, "Running", trouble),
        };
    }
    let serves = record.serving.as_ref() == Some(&record.current);
    if serves && good >= wanted {
        return condition("Ready", true, "InstancesReady", format!("{good} of {wanted} instances are ready"));
    }
    let count = format!("{good} of {wanted} instances of revision {} are ready", record.current);
    let mut text = if trouble.is_empty() { count } else { format!("{count}: {trouble}") };
    if own.len() < wanted
        && let Some(closed) = no_room(facts, id, record)
    {
        text = format!("{text}; {closed}");
        if own.is_empty() {
            return condition("Ready", false, "NoBase", text);
        }
    }
    if !serves && facts.documents.reads().passed(record.since, facts.now, facts.rules.progress_deadline) {
        let rest = match &record.serving {
            Some(old) => format!("revision {old} goes on serving"),
            None => "nothing serves it".to_owned(),
        };
        let late = facts.rules.progress_deadline;
        return condition(
            "Ready",
            false,
            "ProgressDeadlineExceeded",
            format!("{text} after {late:?}; {rest}"),
        );
    }
    condition("Ready", false, if serves { "InstancesMissing" } else { "Progressing" }, text)
}

/// Why no base takes one more instance, base by base; `None` if one would.
fn no_room(facts: &Facts<'_>, id: &AppId, record: &AppRecord) -> Option<String> {
    let template = &facts.documents.revision(id, &record.current)?.spec.template;
    let room = Room { documents: facts.documents, records: facts.records, observed: facts.observed };
    let known = facts.documents.bases().map(|base| BaseId::new(base.metadata.name.as_str()));
    let bases: BTreeSet<BaseId> = known.chain(facts.observed.names().cloned()).collect();
    let reason = |base: &BaseId| Some(format!("base {base} {}", room.refusal(base, id, template)?));
    let reasons: Vec<String> = bases.iter().map(reason).collect::<Option<_>>()?;
    let more = match reasons.len().saturating_sub(BASES_TOLD) {
        0 => String::new(),
        more => format!("; and {more} more bases"),
    };
    match reasons.get(..BASES_TOLD.min(reasons.len())) {
        None | Some([]) => Some("there is no base yet; start one with `dodai base --join`".to_owned()),
        Some(told) => Some(format!("no base can take one more: {}{more}", told.join("; "))),
    }
}

/// Why instances are not ready, in the words of their bases.
fn trouble(facts: &Facts<'_>, instances: &[&InstanceRecord]) -> String {
    let mut reasons = Vec::new();
    for instance in instances {
        if !instance.succeeded && facts.observed.away_since(&instance.base).is_some() {
            reasons.push(format!("{}: base {} is away", instance.id, instance.base));
            continue;
        }
        let Some(status) = facts.observed.instance(instance) else { continue };
        if status.phase != Phase::Ready && !status.reason.is_empty() {
            reasons.push(format!("{} on {}: {}", instance.id, instance.base, status.reason));
        }
    }
    reasons.join("; ")
}

/// What an app waits for in vain: something that runs once and failed for good.
fn failed_before(facts: &Facts<'_>, app: &App) -> Option<String> {
    let mut before = app.spec.depends_on.iter().map(|other| name::app_in(&app.metadata.namespace, other));
    before.find_map(|other| {
        let document = facts.documents.app(&other).filter(|document| document.spec.run == Run::Once)?;
        let current = template_revision(document)?;
        let mut own = facts.records.of(&other).filter(|one| one.revision == current && !one.succeeded);
        let status =
            own.find_map(|one| facts.observed.instance(one).filter(|status| status.phase == Phase::Failed))?;
        let why = if status.reason.is_empty() { String::new() } else { format!(": {}", status.reason) };
        Some(format!("it depends on {other}, which failed{why}"))
    })
}

fn route_status(facts: &Facts<'_>, route: &dodai_api::Route) -> Status {
    let missing = unresolved(facts.documents, route);
    let one = match missing.is_empty() {
        true => condition("ResolvedRefs", true, "ResolvedRefs", "every backend exists"),
        false => condition("ResolvedRefs", false, "BackendNotFound", missing.join("; ")),
    };
    Status { conditions: vec![one], ..Status::default() }
}

fn component_status(facts: &Facts<'_>, component: &dodai_api::dapr::Component) -> Status {
    let key = format!("{}/{}", component.metadata.namespace, component.metadata.name);
    let told =
        facts.observed.bases().filter_map(|(base, one)| Some((base, one.status.components.get(&key)?)));
    let told: Vec<_> = told.collect();
    let serves = told.iter().all(|(_, one)| one.ready);
    // One that serves and has a reason is as it was before a change.
    let troubled = told.iter().filter(|(_, one)| !one.ready || !one.reason.is_empty());
    let trouble: Vec<String> = troubled.map(|(base, one)| format!("on {base}: {}", one.reason)).collect();
    let one = match (told.is_empty(), trouble.is_empty()) {
        (true, _) => Condition {
            status: Truth::Unknown,
            ..condition("Ready", false, "NotUsed", "no base uses it yet")
        },
        (false, true) => condition("Ready", true, "Ready", up_on(told.len())),
        (false, false) if serves => condition("Ready", true, "ChangeRefused", trouble.join("; ")),
        (false, false) => condition("Ready", false, "InitFailed", trouble.join("; ")),
    };
    Status { conditions: vec![one], ..Status::default() }
}

fn up_on(bases: usize) -> String {
    match bases {
        1 => "it is up on 1 base".to_owned(),
        _ => format!("it is up on {bases} bases"),
    }
}

fn resiliency(lost: Option<String>) -> Condition {
    match lost {
        Some(why) => condition("Accepted", false, "Overridden", why),
        None => condition("Accepted", true, "Accepted", ""),
    }
}

/// The status of a base that nobody has seen since the server started. What an earlier server wrote tells whether
/// it was seen before.
fn unseen(before: Option<&Value>) -> BaseStatus {
    let reason = before.and_then(|before| before["conditions"][0]["reason"].as_str());
    let last_seen = before.and_then(|before| before["lastSeen"].as_str()).map(str::to_owned);
    let one = match reason {
        None | Some("NeverSeen") => condition("Ready", false, "NeverSeen", "it has never connected"),
        Some(_) => {
            let text = "it has not connected since the server started; what it runs may go on";
            condition("Ready", false, "Away", text)
        }
    };
    BaseStatus { conditions: vec![one], last_seen, ..BaseStatus::default() }
}

fn base_status(facts: &Facts<'_>, base: &dodai_api::Base, before: Option<&Value>) -> BaseStatus {
    let id = BaseId::new(base.metadata.name.as_str());
    let Some(sighting) = facts.observed.base(&id) else { return unseen(before) };
    let refused = sighting.status.refused.as_ref().map(|refused| refused.reason.clone());
    let one = match (sighting.connected, &refused) {
        (false, _) => condition("Ready", false, "Away", "it is not connected; what it runs may go on"),
        (true, Some(why)) => condition("Ready", false, "SnapshotRefused", why.clone()),
        (true, None) if sighting.status.not_open.is_empty() => condition("Ready", true, "Connected", ""),
        (true, None) => {
            let told = sighting.status.not_open.iter().map(|(name, why)| format!("listener {name}: {why}"));
            condition("Ready", true, "ListenersNotOpen", told.collect::<Vec<_>>().join("; "))
        }
    };
    let mut instances: BTreeMap<String, u32> = BTreeMap::new();
    for instance in facts.records.on(&id).filter(|one| facts.observed.is_seen_ready(one)) {
        *instances.entry(instance.app.to_string()).or_default() += 1;
    }
    BaseStatus {
        conditions: vec![one],
        address: sighting.status.mesh.map(|address| address.to_string()),
        last_seen: (!sighting.connected).then(|| timestamp(sighting.since)),
        refused,
        instances,
    }
}

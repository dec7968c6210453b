//! Waiting until what was started is ready, and telling what is and what is not.
//!
//! What can be told is told at once: a refused configuration or an app that will not be started again does
//! not become ready by waiting. The judgement is a pure function of the base's status.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dodai_admin::seam::NotReady;
use dodai_api::{Document, ListenerProtocol, Located, Run};
use dodai_control::records::{InstanceRecord, Records};
use dodai_core::id::{AppId, InstanceId};
use dodai_core::status::{InstanceStatus, Phase, Status};
use serde_json::json;

use super::{Plan, System};
use crate::client::show::phase;
use crate::output::Output;
use crate::progress::Progress;

/// How long `up` waits for everything to be ready before it says what is not.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The same where there is no app and no gateway: the base may have nothing to be told.
const LITTLE_WITHIN: Duration = Duration::from_secs(1);

/// How many reasons why apps are not up yet are told while that is waited for.
const MAX_TOLD: usize = 20;

/// Which app an instance belongs to.
type AppOf<'a> = &'a dyn Fn(&InstanceId) -> Option<AppId>;

/// An app that gets instances.
#[derive(Clone, Debug)]
struct Expected {
    id: AppId,
    /// It runs to its end, so that being ready is only its beginning.
    once: bool,
}

/// The base forgets what ran to its end, in another life of it too; control remembers.
fn with_done(mut status: Status, records: &Records) -> Status {
    let current =
        |one: &InstanceRecord| records.app(&one.app).is_some_and(|record| record.current == one.revision);
    for one in records.instances().filter(|one| one.succeeded && current(one)) {
        let done = InstanceStatus {
            phase: Phase::Succeeded,
            reason: String::new(),
            restarts: 0,
            pid: None,
            ports: BTreeMap::new(),
            in_flight: 0,
        };
        status.instances.insert(one.id.clone(), done);
    }
    status
}

/// Whether there is nothing more to wait for: every app is ready or will never be.
fn is_settled(status: &Status, expected: &[Expected], app_of: AppOf<'_>) -> bool {
    let all = |app: &Expected| {
        let decided = |phase: Phase| match phase {
            Phase::Succeeded | Phase::Failed => true,
            Phase::Ready => !app.once,
            Phase::Waiting
            | Phase::Starting
            | Phase::Running
            | Phase::Unready
            | Phase::BackingOff
            | Phase::Draining
            | Phase::Gone
            | Phase::Unknown => false,
        };
        let own = status.instances.iter().filter(|(id, _)| app_of(id).as_ref() == Some(&app.id));
        let mut own = own.peekable();
        own.peek().is_some() && own.all(|(_, one)| decided(one.phase))
    };
    status.refused.is_some() || (status.applied > 0 && expected.iter().all(all))
}

/// Apps of which an instance has ended and is to be started again, and why.
fn failing(status: &Status, app_of: AppOf<'_>) -> Vec<(AppId, String)> {
    let failing =
        status.instances.iter().filter(|(_, one)| one.phase == Phase::BackingOff && !one.reason.is_empty());
    failing.filter_map(|(id, one)| Some((app_of(id)?, one.reason.clone()))).collect()
}

/// What of `expected` is not ready, with the reason where the base has one.
fn not_ready(status: &Status, expected: &[Expected], app_of: AppOf<'_>) -> Vec<NotReady> {
    let mut all = Vec::new();
    if let Some(refusal) = &status.refused {
        all.push(NotReady { what: "the configuration".to_owned(), reason: refusal.reason.clone() });
        if status.applied == 0 {
            // Nothing was started, for this one reason.
            return all;
        }
    }
    for (listener, why) in &status.not_open {
        all.push(NotReady { what: format!("listener {listener}"), reason: why.clone() });
    }
    for Expected { id: app, .. } in expected {
        let mut own = status.instances.iter().filter(|(id, _)| app_of(id).as_ref() == Some(app)).peekable();
        let what = format!("app {app}");
        if own.peek().is_none() {
            all.push(NotReady { what, reason: String::new() });
            continue;
        }
        for (id, one) in own.filter(|(_, one)| !matches!(one.phase, Phase::Ready | Phase::Succeeded)) {
            let why = if one.reason.is_empty() { String::new() } else { format!(": {}", one.reason) };
            let what = format!("{what} ({id})");
            all.push(NotReady { what, reason: format!("{}{why}", phase(one.phase)) });
        }
    }
    all
}

/// What is being waited for, for a person.
fn waiting_for(status: &Status, expected: &[Expected], app_of: AppOf<'_>) -> String {
    let missing = not_ready(status, expected, app_of);
    let apps = missing.iter().filter(|one| one.what.starts_with("app "));
    let mut names: Vec<&str> = apps.map(|one| one.what.split(" (").next().unwrap_or_default()).collect();
    names.dedup();
    let names: Vec<&str> = names.into_iter().map(|name| name.trim_start_matches("app ")).collect();
    let done = expected.len().saturating_sub(names.len());
    format!("waiting for apps: {done} of {} ready, not yet {}", expected.len(), names.join(", "))
}

/// What a listener is reached by.
fn scheme(protocol: ListenerProtocol) -> &'static str {
    match protocol {
        ListenerProtocol::Http => "http",
        ListenerProtocol::Https => "https",
        ListenerProtocol::Tcp => "tcp",
        ListenerProtocol::Tls => "tls",
        ListenerProtocol::Udp => "udp",
    }
}

/// What each listener of the project's gateways is reached by.
fn schemes(documents: &[Located<Document>]) -> BTreeMap<String, &'static str> {
    let mut all = BTreeMap::new();
    for located in documents {
        let Document::Gateway(gateway) = &located.value else { continue };
        let id = format!("{}/{}", gateway.metadata.namespace, gateway.metadata.name);
        for listener in &gateway.spec.listeners {
            all.insert(format!("gateway/{id}/{}", listener.name), scheme(listener.protocol));
        }
    }
    all
}

/// The apps of the project that get instances, and those that run elsewhere, with where that is.
fn apps(documents: &[Located<Document>]) -> (Vec<Expected>, Vec<(AppId, String)>) {
    let (mut here, mut outside) = (Vec::new(), Vec::new());
    for located in documents {
        let Document::App(app) = &located.value else { continue };
        let name = format!("{}/{}", app.metadata.namespace, app.metadata.name);
        let Ok(id) = AppId::parse(&name) else { continue };
        if let Some(external) = &app.spec.external {
            let addresses: Vec<String> = external.addresses.iter().map(ToString::to_string).collect();
            outside.push((id, addresses.join(", ")));
        } else {
            here.push(Expected { id, once: app.spec.run == Run::Once });
        }
    }
    (here, outside)
}

impl System {
    /// Waits until everything is ready or has had its time, then prints what there is. What is not ready, with
    /// the reason. Cancel safe.
    pub(super) async fn settle(&self, plan: &Plan, start: Instant, output: &Output) -> Vec<NotReady> {
        let (expected, outside) = apps(&plan.documents.read.documents);
        let parts = self.base.parts();
        let app_of = |id: &InstanceId| {
            let record = || self.control.view().records.instance(id).map(|one| one.app.clone());
            parts.app_of(id).or_else(record)
        };
        let mut status = parts.status.subscribe();
        // Copies: who changes the status may hold the lock that tells an instance's app, and waits for this one.
        let now = || with_done(parts.status.borrow().clone(), &self.control.view().records);
        let settled = async {
            let mut told = BTreeSet::new();
            while !is_settled(&now(), &expected, &app_of) {
                for (app, reason) in failing(&now(), &app_of) {
                    let name = &app.name;
                    let text =
                        format!("app {name} is not up: {reason}; it is tried again, see `dodai logs {name}`");
                    if told.len() < MAX_TOLD && told.insert(text.clone()) {
                        output.warn(&text);
                    }
                }
                if status.changed().await.is_err() {
                    break;
                }
            }
        };
        let text = || waiting_for(&now(), &expected, &app_of);
        let is_gateway = |located: &Located<Document>| matches!(located.value, Document::Gateway(_));
        let waits = !expected.is_empty() || plan.documents.read.documents.iter().any(is_gateway);
        let waited = tokio::time::timeout(if waits { READY_WITHIN } else { LITTLE_WITHIN }, settled);
        // The end of its time is no error: what is not ready is told below.
        let end = Instant::now() + READY_WITHIN;
        let _waited = Progress::on(output).during(text, waited).await;
        self.served(plan, end, output).await;
        let mut missing = not_ready(&now(), &expected, &app_of);
        for one in missing.iter_mut().filter(|one| one.reason.is_empty()) {
            one.reason = self.why_not_started(&one.what).await;
        }
        self.print(plan, &outside, &missing, start, output);
        missing
    }

    /// What control says of an app without an instance.
    async fn why_not_started(&self, what: &str) -> String {
        let app = what.trim_start_matches("app ");
        let told = async {
            let (namespace, name) = app.split_once('/')?;
            let key = dodai_api::DocumentKey {
                kind: dodai_api::Kind::App,
                namespace: namespace.parse().ok()?,
                name: name.parse().ok()?,
            };
            let document = self.control.get(&key).await.ok()?.to_value();
            let message = document.pointer("/status/conditions/0/message")?.as_str()?.to_owned();
            Some(message).filter(|message| !message.is_empty())
        };
        told.await.unwrap_or_else(|| format!("not started after {} s", READY_WITHIN.as_secs()))
    }

    /// Waits until calls and messages would find every app, at most until `end`: an instance is ready a little before
    /// control has told the data plane, and before it has been asked what it subscribes to. Says whom they may not find.
    async fn served(&self, plan: &Plan, end: Instant, output: &Output) {
        let parts = self.base.parts();
        let status = parts.status.borrow().clone();
        let called = |located: &Located<Document>| {
            let Document::App(app) = &located.value else { return None };
            let name = format!("{}/{}", app.metadata.namespace, app.metadata.name);
            let waits = app.spec.external.is_none() && !app.spec.services.is_empty();
            let id = AppId::parse(&name).ok().filter(|_| waits)?;
            let mut own = status.instances.iter().filter(|(one, _)| parts.app_of(one).as_ref() == Some(&id));
            own.any(|(_, one)| one.phase == Phase::Ready).then_some(id)
        };
        let apps: Vec<AppId> = plan.documents.read.documents.iter().filter_map(called).collect();
        let is_open = |app: &AppId| !parts.serves(app) || parts.runtime.is_subscribing(app);
        while Instant::now() < end && apps.iter().any(is_open) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for app in &apps {
            if let Some(why) = parts.runtime.unsubscribed(app) {
                output.warn(&format!("messages may not reach app {app} yet: {why}"));
            }
        }
    }

    fn print(
        &self,
        plan: &Plan,
        outside: &[(AppId, String)],
        missing: &[NotReady],
        start: Instant,
        output: &Output,
    ) {
        let parts = self.base.parts();
        let status = parts.status.borrow().clone();
        let listeners: BTreeMap<&String, String> =
            status.listeners.iter().map(|(name, address)| (name, address.to_string())).collect();
        let value = json!({
            "instances": status.instances,
            "listeners": listeners,
            "components": status.components,
            "notReady": missing,
        });
        if output.value(&value) {
            return;
        }
        let mut rows = Vec::new();
        for (instance, one) in &status.instances {
            let app = parts.app_of(instance).map(|app| app.to_string()).unwrap_or_default();
            let ports: Vec<String> = one.ports.values().map(ToString::to_string).collect();
            let phase = phase(one.phase);
            rows.push(vec![app, instance.to_string(), phase, ports.join(","), one.reason.clone()]);
        }
        for (app, addresses) in outside {
            rows.push(vec![
                app.to_string(),
                addresses.clone(),
                "external".to_owned(),
                String::new(),
                String::new(),
            ]);
        }
        output.table(&["APP", "INSTANCE", "STATE", "PORT", "REASON"], &rows);
        let schemes = schemes(&plan.documents.read.documents);
        for (name, address) in &status.listeners {
            if name.starts_with("gateway/") {
                let scheme = schemes.get(name).copied().unwrap_or("http");
                output.say(&format!("{name}: {scheme}://{address}"));
            }
        }
        for (name, health) in status.components.iter().filter(|(_, health)| !health.ready) {
            output.say(&format!("component {name} is not ready: {}", health.reason));
        }
        for one in missing {
            output.say(&format!("not ready: {one}"));
        }
        output.say(&format!("up after {:.2} s; stop with Ctrl-C", start.elapsed().as_secs_f64()));
    }
}

#[cfg(test)]
mod tests {
    use dodai_core::status::{InstanceStatus, Refusal};

    use super::*;

    fn app(name: &str) -> AppId {
        AppId::parse(&format!("default/{name}")).unwrap()
    }

    /// Instances are named after their app, with a number behind.
    fn app_of(id: &InstanceId) -> Option<AppId> {
        Some(app(id.as_str().split('-').next()?))
    }

    fn status(applied: u64, instances: &[(&str, Phase)]) -> Status {
        let one = |phase: Phase| InstanceStatus {
            phase,
            reason: if phase == Phase::Failed { "it ended with 7".to_owned() } else { String::new() },
            restarts: 0,
            pid: None,
            ports: BTreeMap::new(),
            in_flight: 0,
        };
        let instances = instances.iter().map(|(id, phase)| (InstanceId::new(*id), one(*phase)));
        Status { applied, instances: instances.collect(), ..Status::default() }
    }

    #[test]
    fn waiting_ends_when_nothing_can_change_any_more() {
        let expected = ["a", "b"].map(|name| Expected { id: app(name), once: name == "b" });
        for (status, expect) in [
            (status(0, &[]), false),
            (status(1, &[("a-1", Phase::Ready)]), false),
            (status(1, &[("a-1", Phase::Ready), ("a-2", Phase::Ready)]), false),
            (status(1, &[("a-1", Phase::Ready), ("b-1", Phase::Starting)]), false),
            (status(1, &[("a-1", Phase::Ready), ("b-1", Phase::BackingOff)]), false),
            (status(1, &[("a-1", Phase::Ready), ("b-1", Phase::Succeeded)]), true),
            (status(1, &[("a-1", Phase::Failed), ("b-1", Phase::Succeeded)]), true),
            // It runs to its end, and is not there yet.
            (status(1, &[("a-1", Phase::Ready), ("b-1", Phase::Ready)]), false),
            (status(1, &[("a-1", Phase::Ready), ("b-1", Phase::Failed)]), true),
        ] {
            assert_eq!(is_settled(&status, &expected, &app_of), expect, "{:?}", status.instances);
        }
        assert!(is_settled(&status(1, &[]), &[], &app_of), "a project without apps");
        let refused = Status { refused: Some(Refusal { version: 1, reason: "no".into() }), ..status(0, &[]) };
        assert!(is_settled(&refused, &expected, &app_of));
    }

    #[test]
    fn what_is_not_ready_is_named_with_its_reason() {
        let expected = ["a", "b", "c"].map(|name| Expected { id: app(name), once: false });
        let half = status(1, &[("a-1", Phase::Ready), ("b-1", Phase::Failed)]);
        let told: Vec<String> =
            not_ready(&half, &expected, &app_of).iter().map(ToString::to_string).collect();
        assert_eq!(told[0], "app default/b (b-1): failed: it ended with 7");
        assert!(told[1].starts_with("app default/c"), "{told:?}");
        let text = waiting_for(&half, &expected, &app_of);
        assert_eq!(text, "waiting for apps: 1 of 3 ready, not yet default/b, default/c");
        let mut deaf = status(1, &[("a-1", Phase::Ready), ("b-1", Phase::Ready), ("c-1", Phase::Ready)]);
        deaf.not_open.insert("gateway/default/front/http".into(), "port 80 is taken".into());
        let told: Vec<String> =
            not_ready(&deaf, &expected, &app_of).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["listener gateway/default/front/http: port 80 is taken"]);
        let refusal = Refusal { version: 1, reason: "port 80 is taken".into() };
        let refused = Status { refused: Some(refusal), ..status(0, &[]) };
        let told = not_ready(&refused, &expected, &app_of);
        assert_eq!((told.len(), told[0].to_string()), (1, "the configuration: port 80 is taken".to_owned()));
    }

    #[test]
    fn a_listener_is_shown_as_it_is_reached() {
        let text = b"apiVersion: dodai.dev/v1\nkind: Gateway\nmetadata: {name: front}\nspec:\n  listeners:\n    - {name: a, port: 1, protocol: HTTP}\n    - {name: b, port: 2, protocol: TCP}\n    - {name: c, port: 3, protocol: HTTPS, tls: {certificateRefs: [{name: x}]}}\n    - {name: d, port: 4, protocol: TLS, tls: {mode: Passthrough}}\n";
        let read = dodai_api::read(&dodai_api::Source { name: "a.yaml", bytes: text });
        assert_eq!(read.errors, Vec::new());
        let found: Vec<_> = schemes(&read.documents).into_iter().collect();
        let expect = [("a", "http"), ("b", "tcp"), ("c", "https"), ("d", "tls")];
        let expect = expect.map(|(name, scheme)| (format!("gateway/default/front/{name}"), scheme));
        assert_eq!(found, expect);
    }
}

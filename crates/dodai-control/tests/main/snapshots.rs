//! Snapshots: what a base is told of a world, and how little changes when little changes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dodai_api::{Document, Located, Source};
use dodai_control::control::Control;
use dodai_control::documents::FieldOwner;
use dodai_control::snapshot::BaseSettings;
use dodai_core::id::{AppId, BaseId, ServiceId};
use dodai_core::snapshot::{Action, PathMatch, Role, Shape, Snapshot, Target};
use dodai_core::task::{Kind, Tasks};
use dodai_store::MemoryStore;

use super::played::{apply, module, play, settings, yaml};

/// Runs control with one base that obeys until its snapshot stands still.
pub async fn settled(documents: &[Located<Document>]) -> (Control, Arc<Snapshot>, Tasks) {
    let tasks = Tasks::new();
    let store = Arc::new(MemoryStore::new(&tasks));
    let control = Control::start(store, settings(), &tasks).await.expect("starts");
    let base = BaseId::new("here");
    let link = control.link(base.clone(), BaseSettings::default()).await.expect("links");
    tasks.spawn(Kind::Loop, play(link, None));
    control.apply(&apply(documents, FieldOwner::File, Some("test"))).await.expect("applies");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let snapshot = control.snapshot(&base).expect("it is connected");
    (control, snapshot, tasks)
}

fn example(name: &str) -> Vec<Located<Document>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the example is there") {
        let path = entry.expect("an entry").path();
        let file = path.file_name().expect("a name").to_string_lossy().into_owned();
        if dodai_api::is_document_path(&file) {
            files.push((file, std::fs::read(&path).expect("it can be read")));
        }
    }
    let sources: Vec<Source<'_>> = files.iter().map(|(name, bytes)| Source { name, bytes }).collect();
    let project = dodai_api::read_all(&sources);
    assert!(project.read.is_clean(), "{:?}", project.read.errors);
    project.read.documents
}

#[tokio::test(start_paused = true)]
async fn the_smallest_project_becomes_a_whole_snapshot() {
    let (_control, snapshot, _tasks) = settled(&example("hello")).await;
    let workload = snapshot.workloads().next().expect("one instance");
    assert!(matches!(&workload.shape, Shape::Module(module) if module.reuse && module.config.len() == 1));
    let service = snapshot.services().next().expect("one service");
    assert_eq!((service.id.to_string().as_str(), service.default), ("default/hello/http", true));
    assert_eq!(service.traffic, [(workload.revision.clone(), 1)]);
    let endpoints = snapshot.endpoints().next().expect("its endpoints");
    assert!(
        matches!(&endpoints.list[..], [one] if matches!(&one.target, Target::Instance { instance, .. } if *instance == workload.instance))
    );
    let names: Vec<&str> = snapshot.listeners().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["api/default/hello", "gateway/default/hello/http", "outbound/default/hello"]);
    let routes = snapshot.routes().next().expect("one table");
    assert_eq!(routes.hosts[0].names, ["*"]);
    assert!(matches!(&routes.hosts[0].rules[0].action, Action::Forward(to) if to[0].service == service.id));
    assert_eq!(snapshot.components().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_shop_becomes_a_snapshot_and_all_its_apps_are_ready() {
    let (control, snapshot, _tasks) = settled(&example("shop")).await;
    assert_eq!(snapshot.workloads().count(), 4, "the external app has no instance");
    let external = ServiceId::parse("default/recommend/http").expect("valid");
    let found = snapshot.endpoints().find(|one| one.service == external).expect("it has endpoints");
    assert!(matches!(&found.list[..], [one] if matches!(one.target, Target::Address(_))), "{found:?}");
    let catalog = snapshot.service(&ServiceId::parse("default/catalog/http").expect("valid")).expect("it is");
    assert_eq!(catalog.policy.timeout, Some(Duration::from_secs(3)));
    assert_eq!(catalog.policy.retry.as_ref().map(|retry| retry.attempts), Some(2));
    for document in control.list(dodai_api::Kind::App, None).await.expect("lists") {
        let Document::App(app) = document else { panic!("an app") };
        let status = app.status.expect("it has a status");
        assert_eq!(status.conditions[0].status, dodai_api::Truth::True, "{}: {status:?}", app.metadata.name);
        assert_eq!(status.observed_generation, Some(1));
    }
}

#[tokio::test(start_paused = true)]
async fn what_did_not_change_is_shared() {
    let documents = yaml(&(module("a", "v1.wasm", "") + &module("b", "v1.wasm", "")));
    let (control, before, _tasks) = settled(&documents).await;
    let more = yaml(&module("a", "v1.wasm", "  labels: {tier: one}\n"));
    control.apply(&apply(&more, FieldOwner::Cli, None)).await.expect("applies");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = control.snapshot(&BaseId::new("here")).expect("it is connected");
    assert!(after.version > before.version);
    for (key, resource) in before.iter().filter(|(key, _)| key.name.contains("default/b")) {
        let now = after.get(key.kind, &key.name).expect("it is still there");
        assert!(Arc::ptr_eq(resource, now), "{key:?}");
    }
    let version = after.version;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let idle = control.snapshot(&BaseId::new("here")).expect("it is connected");
    assert_eq!(idle.version, version, "time alone changes nothing");
}

const ROUTES: &str = "apiVersion: dodai.dev/v1
kind: Gateway
metadata: {name: front}
spec:
  listeners:
    - {name: http, port: 8080, protocol: HTTP}
---
apiVersion: dodai.dev/v1
kind: Route
metadata: {name: wide}
spec:
  parentRefs: [{name: front}]
  rules:
    - name: prefix
      matches: [{path: {value: /api}}]
      backendRefs: [{name: a}]
    - name: longer
      matches: [{path: {value: /api/v1}}]
      backendRefs: [{name: a}]
    - name: exact
      matches: [{path: {type: Exact, value: /api}}]
      backendRefs: [{name: a}]
    - name: method
      matches: [{path: {value: /api}, method: GET}]
      backendRefs: [{name: a}]
    - name: header
      matches: [{path: {value: /api}, headers: [{name: x-canary, value: 'yes'}]}]
      backendRefs: [{name: b}]
    - name: moved
      matches: [{path: {value: /old}}]
      filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, hostname: new.example}}]
---
apiVersion: dodai.dev/v1
kind: Route
metadata: {name: narrow}
spec:
  parentRefs: [{name: front}]
  hostnames: [a.example.com, '*.example.com']
  rules:
    - name: host
      backendRefs: [{name: b}]
---
";

#[tokio::test(start_paused = true)]
async fn rules_stand_in_the_order_of_precedence() {
    let text = format!("{ROUTES}{}{}", module("a", "v1.wasm", ""), module("b", "v1.wasm", ""));
    let (_control, snapshot, _tasks) = settled(&yaml(&text)).await;
    let routes = snapshot.routes().next().expect("one table");
    let hosts: Vec<&str> = routes.hosts.iter().map(|host| host.names[0].as_str()).collect();
    assert_eq!(hosts, ["a.example.com", "*.example.com", "*"]);
    let names = |at: usize| routes.hosts[at].rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>();
    let wide =
        ["exact", "longer", "method", "header", "prefix", "moved"].map(|one| format!("default/wide/{one}"));
    assert_eq!(names(2), wide);
    assert_eq!(names(0)[0], "default/narrow/host", "the narrower host goes first, then what is wider");
    assert_eq!(names(0).len(), 8);
    let exact = &routes.hosts[2].rules[0].matches[0].path;
    assert_eq!(exact.as_ref(), Some(&PathMatch::Exact("/api".to_owned())));
    assert!(matches!(routes.hosts[2].rules[5].action, Action::Redirect { status: 301, .. }));
}

#[tokio::test(start_paused = true)]
async fn a_base_is_told_only_what_it_uses() {
    let text = module("caller", "v1.wasm", "  calls:\n    - app: callee\n")
        + &module("callee", "v1.wasm", "")
        + &module("other", "v1.wasm", "");
    let (control, _, _tasks) = settled(&yaml(&text)).await;
    let view = control.view();
    let caller = view.records.instances().find(|one| one.app.name.as_str() == "caller").expect("placed");
    let mut records = view.records.clone();
    let others: Vec<_> =
        records.instances().map(|one| one.id.clone()).filter(|id| *id != caller.id).collect();
    others.iter().for_each(|id| records.remove_instance(id));
    let mut observed = control.observed();
    for sighting in observed.bases_mut().values_mut() {
        sighting.report().wants = dodai_core::status::Wants::default();
    }
    let input = dodai_control::snapshot::Input {
        documents: &view.documents,
        records: &records,
        observed: &observed,
        base: &caller.base,
        settings: &BaseSettings::default(),
    };
    let told = dodai_control::snapshot::build(&input, 1);
    let services: Vec<String> = told.services().map(|one| one.id.owner.name.to_string()).collect();
    assert_eq!(services, ["callee", "caller"]);
    assert!(told.listeners().all(
        |one| matches!(&one.role, Role::Outbound { app } | Role::Api { app } if app.name.as_str() == "caller")
    ));
    for sighting in observed.bases_mut().values_mut() {
        let asked = ["default/other", "default/nobody"].map(|id| AppId::parse(id).expect("valid"));
        sighting.report().wants = dodai_core::status::Wants::Only(asked.into());
    }
    let input = dodai_control::snapshot::Input {
        documents: &view.documents,
        records: &records,
        observed: &observed,
        base: &caller.base,
        settings: &BaseSettings::default(),
    };
    let more = dodai_control::snapshot::build(&input, 2);
    assert_eq!(more.services().count(), 3, "what was called is told");
    let absent: Vec<String> = more.absents().map(|one| one.app.to_string()).collect();
    assert_eq!(absent, ["default/nobody"]);
}

#[tokio::test(start_paused = true)]
async fn an_app_without_the_dapr_api_gets_no_token_and_is_known_by_that() {
    let documents = yaml(
        r"
apiVersion: dodai.dev/v1
kind: App
metadata: {name: plain}
spec: {process: {command: [/bin/true]}, dapr: {enabled: false}}
---
apiVersion: dodai.dev/v1
kind: App
metadata: {name: asked}
spec: {process: {command: [/bin/true]}}
",
    );
    let tasks = Tasks::new();
    let control =
        Control::start(Arc::new(MemoryStore::new(&tasks)), settings(), &tasks).await.expect("starts");
    let base = BaseId::new("here");
    let own = BaseSettings { api_token: Some("t".to_owned()), ..BaseSettings::default() };
    tasks.spawn(Kind::Loop, play(control.link(base.clone(), own).await.expect("links"), None));
    control.apply(&apply(&documents, FieldOwner::File, Some("test"))).await.expect("applies");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let snapshot = control.snapshot(&base).expect("it is connected");
    let told = |name: &str| {
        let app = snapshot.app(&AppId::parse(&format!("default/{name}")).expect("valid")).expect("there");
        (app.runtime_api, app.scopes.api_token.as_deref())
    };
    assert_eq!((told("plain"), told("asked")), ((false, None), (true, Some("t"))));
}

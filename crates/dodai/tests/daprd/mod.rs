//! `dodai daprd` as a launcher starts it, with an app that knows nothing but Dapr's HTTP contract.

mod app;
mod jobs;
mod launcher;
mod messages;
mod outside;
mod sdk;
mod sdks;
mod sidecar;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use serde_json::{Value, json};

use crate::project::until;
use app::App;
use sidecar::{Sidecar, World, refused};

const COMPONENTS: &str = "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
spec: {type: state.sqlite, version: v1, metadata: [{name: connectionString, value: state.db}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: pubsub}
spec: {type: pubsub.in-memory, version: v1}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: declared}
spec: {pubsubname: pubsub, topic: declared, routes: {default: declared}}
";

/// A quickstart's app: it tells its subscriptions, takes events, keeps orders.
fn quickstart() -> App {
    App::start(|seen| match seen.path.as_str() {
        "/dapr/subscribe" => {
            let rules = json!([{ "match": "event.data.total > 100 && event.type.startsWith('com.')", "path": "/large" }]);
            let told = json!([{
                "pubsubname": "pubsub", "topic": "orders", "routes": { "rules": rules, "default": "/small" },
            }]);
            (200, told.to_string())
        }
        "/large" | "/small" | "/declared" => (200, json!({ "status": "SUCCESS" }).to_string()),
        "/orders?x=1" => (201, format!("got {}", seen.body)),
        _ => (404, "no such path".to_owned()),
    })
}

#[test]
fn an_app_of_a_quickstart_runs_beside_it_unchanged() {
    let world = World::new();
    world.write("components/all.yaml", COMPONENTS);
    let app = quickstart();
    let port = app.port.to_string();
    let arguments = [
        ["-app-id", "orders"],
        ["--app-port", &port],
        ["--resources-path", "components"],
        ["--placement-host-address", "localhost:50005"],
        ["--log-level", "INFO"],
    ];
    let tokens = [("DAPR_API_TOKEN", "to-dapr"), ("APP_API_TOKEN", "to-app")];
    let sidecar = Sidecar::start(&world, &arguments.concat(), &tokens);
    assert_eq!(sidecar.call("GET", "/v1.0/healthz/outbound", &[], "").status, 204, "ready before its app");
    let token = [("dapr-api-token", "to-dapr")];
    until("the components are up", || sidecar.call("GET", "/v1.0/healthz", &[], "").status == 204);
    assert_eq!(sidecar.call("GET", "/v1.0/metadata", &[], "").status, 401);

    let saved = sidecar.call("POST", "/v1.0/state/statestore", &token, r#"[{"key":"1","value":{"n":1}}]"#);
    assert_eq!(saved.status, 204, "{saved:?}");
    let got = sidecar.call("GET", "/v1.0/state/statestore/1", &token, "");
    assert_eq!((got.status, got.body.as_str()), (200, r#"{"n":1}"#));
    assert!(world.path("state.db").exists(), "relative paths begin where the sidecar was started");

    until("the app is asked for its subscriptions", || !app.seen("/dapr/subscribe").is_empty());
    let topics = || {
        let told: Value = sidecar.call("GET", "/v1.0/metadata", &token, "").json();
        let all = told["subscriptions"].as_array().cloned().unwrap_or_default();
        (told, all.len())
    };
    until("both subscriptions run", || topics().1 == 2);
    let told = topics().0;
    assert_eq!(told["id"], "orders");
    assert_eq!(told["runtimeVersion"], "1.18.0");
    assert_eq!(told["appConnectionProperties"]["port"], app.port);
    assert_eq!(told["appConnectionProperties"]["channelAddress"], "127.0.0.1");

    let json_type = [token[0], ("content-type", "application/json")];
    for (topic, total, path) in
        [("orders", 150, "/large"), ("orders", 50, "/small"), ("declared", 1, "/declared")]
    {
        let body = json!({ "total": total }).to_string();
        let published = sidecar.call("POST", &format!("/v1.0/publish/pubsub/{topic}"), &json_type, &body);
        assert_eq!(published.status, 204, "{published:?}");
        until("the event arrives", || app.seen(path).len() == 1);
        let event = app.seen(path).remove(0);
        assert_eq!(event.header("dapr-api-token"), Some("to-app"));
        assert_eq!(event.header("content-type"), Some("application/cloudevents+json"));
        let event: Value = serde_json::from_str(&event.body).unwrap();
        assert_eq!((&event["data"]["total"], &event["source"]), (&json!(total), &json!("orders")));
    }

    let invoked = sidecar.call("POST", "/v1.0/invoke/orders/method/orders?x=1", &token, "one");
    assert_eq!((invoked.status, invoked.body.as_str()), (201, "got one"));
    let seen = app.seen("/orders?x=1").remove(0);
    assert_eq!(seen.header("dapr-api-token"), Some("to-app"), "the caller's own token stays behind");
    assert_eq!(seen.header("dapr-caller-app-id"), Some("orders"));
    assert_eq!(sidecar.call("GET", "/v1.0/invoke/orders/method/nope", &token, "").status, 404);

    let metrics = sidecar.metrics();
    assert!(metrics.contains("dodai_"), "{metrics}");
    let log = sidecar.stop();
    assert!(log.contains("--placement-host-address has no effect"), "{log}");
    assert!(!log.contains("to-dapr") && !log.contains("to-app"), "{log}");
    assert_eq!(world.left(), Vec::<String>::new(), "nothing is left");
}

const SEALED: &str = "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: vault}
spec: {type: secretstores.local.file, version: v1, metadata: [{name: secretsFile, value: secrets.json}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
auth: {secretStore: vault}
spec:
  type: state.sqlite
  version: v1
  metadata:
    - {name: connectionString, value: state.db}
    - {name: primaryEncryptionKey, secretKeyRef: {name: mine, key: mine}}
---
apiVersion: dapr.io/v1alpha1
kind: HTTPEndpoint
metadata: {name: outside}
spec: {baseUrl: 'http://127.0.0.1:9'}
";

#[test]
fn values_are_encrypted_on_disk_and_pages_of_a_browser_may_call() {
    let world = World::new();
    world.write("components/all.yaml", SEALED);
    world.write("secrets.json", r#"{"mine":"cb321007ad11a9d23f963bff600d58e0","db":"hunter2"}"#);
    let arguments = [
        ["--app-id", "a"],
        ["--resources-path", "components"],
        ["--allowed-origins", "http://page.example"],
        ["--dapr-public-port", "0"],
        ["--dapr-public-listen-address", "127.0.0.1"],
    ];
    let sidecar = Sidecar::start(&world, &arguments.concat(), &[]);
    until("the components are up", || sidecar.call("GET", "/v1.0/healthz", &[], "").status == 204);
    let saved =
        sidecar.call("POST", "/v1.0/state/statestore", &[], r#"[{"key":"k","value":"in the clear"}]"#);
    assert_eq!(saved.status, 204, "{saved:?}");
    assert_eq!(sidecar.call("GET", "/v1.0/state/statestore/k", &[], "").body, r#""in the clear""#);
    let secrets = sidecar.call("GET", "/v1.0/secrets/vault/bulk", &[], "").json();
    assert_eq!(secrets["db"]["db"], "hunter2");
    let metadata = sidecar.call("GET", "/v1.0/metadata", &[], "").json();
    assert_eq!(metadata["httpEndpoints"], json!([{ "name": "outside" }]));

    let origin = ("origin", "http://page.example");
    let told = sidecar.call(
        "OPTIONS",
        "/v1.0/state/statestore",
        &[origin, ("access-control-request-method", "POST")],
        "",
    );
    assert_eq!(told.status, 200, "{told:?}");
    for header in ["access-control-allow-origin: http://page.example", "access-control-allow-methods: POST"] {
        assert!(told.head.contains(header), "{header}: {}", told.head);
    }
    let told = sidecar.call("GET", "/v1.0/metadata", &[("origin", "http://other.example")], "");
    assert!(told.status == 200 && !told.head.contains("access-control"), "{}", told.head);
    let log = sidecar.stop();
    assert!(log.contains("health and metadata: http://127.0.0.1:"), "{log}");
    let mut kept = Vec::new();
    for file in ["state.db", "state.db-wal"] {
        kept.extend(std::fs::read(world.path(file)).unwrap_or_default());
    }
    let kept = String::from_utf8_lossy(&kept);
    assert!(kept.contains("||mine") && !kept.contains("in the clear"), "the store has sealed values only");
}

#[test]
fn sidecars_of_one_machine_find_each_other() {
    let world = World::new();
    let app = App::start(|seen| (200, format!("{} says {}", seen.path, seen.body)));
    let port = app.port.to_string();
    let caller = Sidecar::start(&world, &["--app-id", "front"], &[]);
    let path = "/v1.0/invoke/back/method/hello?a=b";
    let unknown = caller.call("POST", path, &[], "x");
    assert_eq!((unknown.status, unknown.error().as_str()), (500, "ERR_DIRECT_INVOKE"), "{unknown:?}");

    let tokens = [("APP_API_TOKEN", "to-back")];
    let callee = Sidecar::start(&world, &["--app-id=back", "--app-port", &port], &tokens);
    until("the other is found", || caller.call("POST", path, &[], "x").status == 200);
    let answer = caller.call("POST", path, &[], "ping");
    assert_eq!(answer.body, "/hello?a=b says ping");
    let seen = app.seen("/hello?a=b").pop().unwrap();
    assert_eq!(seen.header("dapr-api-token"), Some("to-back"), "the callee's sidecar proves itself");
    assert_eq!(seen.header("dapr-caller-app-id"), Some("front"));
    // Any path, by header.
    let by_header = caller.call("GET", "/hi", &[("dapr-app-id", "back")], "");
    assert_eq!(by_header.body, "/hi says ");

    callee.kill();
    until("the dead one is forgotten", || {
        let told = caller.call("POST", path, &[], "x");
        told.status == 500 && told.body.contains("no app named")
    });
    caller.stop();
    assert_eq!(world.left(), Vec::<String>::new(), "nothing is left");
}

#[test]
fn what_another_sidecar_says_of_its_app_is_no_answer_of_the_app() {
    let world = World::new();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = gone.local_addr().unwrap().port().to_string();
    drop(gone);
    let callee = Sidecar::start(&world, &["--app-id", "back", "--app-port", &port], &[]);
    let caller = Sidecar::start(&world, &["--app-id", "front"], &[]);
    let call = || caller.call("GET", "/v1.0/invoke/back/method/x", &[], "");
    until("the other is found", || !call().body.contains("no app named"));
    let told = call();
    assert_eq!((told.status, told.error().as_str()), (500, "ERR_DIRECT_INVOKE"), "{told:?}");
    callee.stop();
    caller.stop();
}

#[test]
fn messages_wait_for_an_app_that_is_not_healthy() {
    let world = World::new();
    world.write("components/all.yaml", COMPONENTS);
    let well = Arc::new(AtomicBool::new(false));
    let health = well.clone();
    let app = App::start(move |seen| match seen.path.as_str() {
        "/up" => (if health.load(SeqCst) { 200 } else { 500 }, String::new()),
        "/declared" => (200, String::new()),
        _ => (404, String::new()),
    });
    let port = app.port.to_string();
    let arguments = [
        ["--app-id", "a"],
        ["--app-port", &port],
        ["--resources-path", "components"],
        ["--app-health-check-path", "up"],
        ["--app-health-probe-interval", "1"],
        ["--app-health-threshold", "1"],
    ];
    let arguments = [arguments.concat(), vec!["--enable-app-health-check"]].concat();
    let sidecar = Sidecar::start(&world, &arguments, &[]);
    until("the app is asked", || !app.seen("/up").is_empty());
    // The group exists from the first time the app was there; it joins while the app is not healthy, too.
    let publish = || sidecar.call("POST", "/v1.0/publish/pubsub/declared", &[], "x").status;
    until("the broker is up", || publish() == 204);
    assert!(app.seen("/declared").is_empty(), "nothing is brought to an app that is not healthy");
    well.store(true, SeqCst);
    until("what waited arrives", || {
        publish();
        !app.seen("/declared").is_empty()
    });
    let stopped = sidecar.call("POST", "/v1.0/shutdown", &[], "");
    assert_eq!(stopped.status, 204);
    assert!(sidecar.ended().contains("asked for a shutdown"));
}

const WITH_A_BREAKER: &str = "apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: careful}
spec:
  policies:
    retries: {none: {policy: constant, maxRetries: 0}}
    circuitBreakers: {quick: {trip: consecutiveFailures >= 3, timeout: 10m}}
  targets: {apps: {back: {retry: none, circuitBreaker: quick}}}
";

#[test]
fn errors_of_an_app_open_the_breaker_of_a_resiliency() {
    let world = World::new();
    world.write("resources/resiliency.yaml", WITH_A_BREAKER);
    let app =
        App::start(|seen| if seen.path == "/fine" { (200, String::new()) } else { (500, "bad".to_owned()) });
    let port = app.port.to_string();
    let callee = Sidecar::start(&world, &["--app-id", "back", "--app-port", &port], &[]);
    let caller = Sidecar::start(&world, &["--app-id", "front", "--resources-path", "resources"], &[]);
    let call = |path: &str| caller.call("GET", &format!("/v1.0/invoke/back/method/{path}"), &[], "");
    until("the other is found", || call("fine").status == 200);
    for _ in 0..3 {
        let told = call("fails");
        assert_eq!((told.status, told.body.as_str()), (500, "bad"));
    }
    let told = call("fine");
    assert_eq!((told.status, told.error().as_str()), (503, "ERR_DIRECT_INVOKE"), "{told:?}");
    callee.stop();
    caller.stop();
}

#[test]
fn an_app_that_takes_one_call_at_once_gets_one() {
    let world = World::new();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (current, peak) = (now.clone(), most.clone());
    let app = App::start(move |_| {
        peak.fetch_max(current.fetch_add(1, SeqCst) + 1, SeqCst);
        // Long enough for a second call to come in between, if one could.
        std::thread::park_timeout(std::time::Duration::from_millis(20));
        current.fetch_sub(1, SeqCst);
        (200, String::new())
    });
    let port = app.port.to_string();
    let arguments = ["--app-id", "a", "--app-port", &port, "--app-max-concurrency", "1"];
    let sidecar = Sidecar::start(&world, &arguments, &[]);
    until("the app is reached", || sidecar.call("GET", "/v1.0/invoke/a/method/x", &[], "").status == 200);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_eq!(sidecar.call("GET", "/v1.0/invoke/a/method/x", &[], "").status, 200));
        }
    });
    assert_eq!((most.load(SeqCst), now.load(SeqCst)), (1, 0));
}

#[test]
fn what_it_cannot_do_it_says() {
    let world = World::new();
    let (code, told) = refused(&world, &["--app-idd", "x"]);
    assert!(code == 2 && told.contains("did you mean `--app-id`"), "{code} {told}");
    let (code, told) = refused(&world, &["--app-id", "x", "--app-port", "1", "--app-protocol", "grpcs"]);
    assert!(code == 2 && told.contains("without TLS"), "{code} {told}");
    assert_eq!(refused(&world, &["--version"]), (0, "1.18.0\n".to_owned()));
    let (code, told) = refused(&world, &["--help"]);
    assert!(code == 0 && told.contains("--dapr-http-port"), "{told}");

    world.write(
        "bad/c.yaml",
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: x}\nspec: {type: redis}\n",
    );
    let (code, told) = refused(&world, &["--app-id", "x", "--resources-path", "bad"]);
    assert!(code == 3 && told.contains("c.yaml:4") && told.contains("state.sqlite"), "{code} {told}");
    let (code, told) = refused(&world, &["--app-id", "x", "--resources-path", "nowhere"]);
    assert!(code == 1 && told.contains("--resources-path nowhere"), "{code} {told}");
    world.write(
        "config.yaml",
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec: {accessControl: {defaultAction: deny}}\n",
    );
    let (code, told) = refused(&world, &["--app-id", "x", "--config", "config.yaml"]);
    assert!(code == 3 && told.contains("config.yaml:4") && told.contains("accessControl"), "{code} {told}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, told) = refused(&world, &["--app-id", "x", "--dapr-http-port", &port]);
    let holder = format!("port {port} is taken by pid {}", std::process::id());
    assert!(code == 1 && told.contains(&holder), "{code} {told}");
    assert!(told.contains("another port with --dapr-http-port"), "{told}");
    let public = ["--app-id", "x", "--dapr-http-port", "0", "--dapr-public-port", &port];
    let (code, told) = refused(&world, &public);
    assert!(code == 1 && told.contains(&holder) && told.contains("in --dapr-public-port"), "{code} {told}");
    assert_eq!(world.left(), Vec::<String>::new(), "nothing is left");
}

const SLIP: &str = "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: orders}
spec:
  type: state.postgresql
  version: v1
  metadata: [{name: connectionString, value: 'postgresql://app:S3cret@db:54a32/orders'}]
";

#[test]
fn a_slip_in_a_setting_shows_no_password() {
    let world = World::new();
    world.write("components/orders.yaml", SLIP);
    let sidecar = Sidecar::start(&world, &["--app-id", "x", "--resources-path", "components"], &[]);
    let health = || sidecar.call("GET", "/v1.0/healthz", &[], "");
    until("the slip is told", || health().body.contains("`connectionString` is ***"));
    let metadata = sidecar.call("GET", "/v1.0/metadata", &[], "").body;
    let all = [health().body, metadata, sidecar.stop()].concat();
    assert!(!all.contains("S3cret"), "{all}");
    assert!(all.contains("`connectionString` is ***; give the host of one server"), "{all}");
}

const ODD: &str = "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
spec: {type: state.in-memory, version: v1, metadata: [{name: actorStateStore, value: 'true'}]}
scopes: [x, other]
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: far}
spec: {type: pubsub.reddis, version: v1}
";

#[test]
fn what_is_odd_about_a_component_is_told_once() {
    let world = World::new();
    world.write("components/all.yaml", ODD);
    let arguments = ["--app-id", "x", "--resources-path", "components", "--log-level", "debug"];
    let sidecar = Sidecar::start(&world, &arguments, &[]);
    let metadata = || sidecar.call("GET", "/v1.0/metadata", &[], "").json();
    until("the store is up", || metadata()["components"].as_array().is_some_and(|all| !all.is_empty()));
    let capabilities = metadata()["components"][0]["capabilities"].to_string();
    assert!(capabilities.contains("ETAG") && !capabilities.contains("ACTOR"), "{capabilities}");
    until("the other one was tried again", || sidecar.logged().contains("still does not come up"));
    let log = sidecar.stop();
    for words in ["there are no actors yet", "did not come up"] {
        assert_eq!(log.matches(words).count(), 1, "{words}: {log}");
    }
    for words in ["warning: warning", "4:16: warning:", "actors are not served", "there is no App"] {
        assert!(!log.contains(words), "{words}: {log}");
    }
    assert!(log.contains("did you mean `pubsub."), "{log}");
}

#[test]
fn a_terminal_that_closes_ends_it_in_order() {
    let world = World::new();
    let app = quickstart();
    let port = app.port.to_string();
    let arguments = ["--app-id", "a", "--app-port", &port, "--dapr-block-shutdown-duration", "10m"];
    let sidecar = Sidecar::start(&world, &arguments, &[]);
    until("the app was asked", || sidecar.logged().contains("the app listens"));
    sidecar.send("-HUP");
    until("it waits for the app", || sidecar.logged().contains("the API stays for"));
    sidecar.send("-HUP");
    assert_eq!(sidecar.call("GET", "/v1.0/metadata", &[], "").status, 200, "it is in no hurry");
    sidecar.signal();
    assert_eq!(sidecar.code(), Some(130));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let world = World::new();
    let app = quickstart();
    let port = app.port.to_string();
    let arguments = ["--app-id", "a", "--app-port", &port, "--dapr-block-shutdown-duration", "10m"];
    let sidecar = Sidecar::start(&world, &arguments, &[]);
    until("the app was asked", || sidecar.logged().contains("the app listens"));
    sidecar.signal();
    until("it waits for the app", || sidecar.logged().contains("the API stays for"));
    sidecar.signal();
    assert_eq!(sidecar.code(), Some(130));
    assert_eq!(world.left(), [""; 0]);
}

#[test]
fn a_file_that_is_no_yaml_is_passed_over_with_a_word() {
    let world = World::new();
    world.write("components/broken.yaml", "kind: [Component\n");
    world.write("components/other.yaml", "image: shop\n");
    let sidecar = Sidecar::start(&world, &["--app-id", "x", "--resources-path", "components"], &[]);
    let log = sidecar.stop();
    assert!(log.contains("broken.yaml") && log.contains("cannot be read as YAML"), "{log}");
    assert!(!log.contains("other.yaml"), "{log}");
}

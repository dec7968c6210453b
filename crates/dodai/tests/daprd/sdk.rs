//! Dapr's own Python SDK, unchanged, against sidecars of ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::app::App;
use super::sidecar::{Sidecar, World};
use crate::site::free_ports;
use crate::toolchain::built;

pub const COMPONENTS: &str = "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
spec: {type: state.in-memory, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: pubsub}
spec: {type: pubsub.in-memory, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: locks}
spec: {type: lock.in-memory, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: files}
spec: {type: bindings.localstorage, version: v1, metadata: [{name: rootPath, value: files}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: tick}
scopes: [greeter, peer]
spec:
  type: bindings.cron
  version: v1
  metadata: [{name: schedule, value: '@every 1s'}, {name: direction, value: input}]
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: vault}
spec: {type: secretstores.local.file, version: v1, metadata: [{name: secretsFile, value: secrets.json}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: config}
scopes: [orders, peer]
spec:
  type: configuration.sqlite
  version: v1
  metadata: [{name: connectionString, value: config.db}, {name: pollInterval, value: 50ms}]
";

/// The SDK's gRPC server cannot ask for messages in bulk; the path is the topic by which it knows a function.
const BULK: &str = "apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: bulk}
scopes: [greeter]
spec:
  pubsubname: pubsub
  topic: bulk
  routes: {default: many}
  bulkSubscribe: {enabled: true, maxMessagesCount: 10, maxAwaitDurationMs: 50}
";

/// A Python with the packages of `peers/dapr-sdk.txt`.
fn python() -> PathBuf {
    let files = [("crates/dodai/tests/peers/dapr-sdk.txt", "packages.txt")];
    let install = "python3 -m venv venv && venv/bin/python3 -m pip install --quiet --disable-pip-version-check \
                   --only-binary :all: -r packages.txt";
    let product = "venv/bin/python3";
    built("dapr-sdk", &["python3"], &files, &["sh", "-c", install], product).join(product)
}

#[test]
fn the_python_sdk_works_unchanged() {
    let python = python();
    let world = World::new();
    world.write("components/all.yaml", COMPONENTS);
    world.write("components/bulk.yaml", BULK);
    world.write("secrets.json", r#"{"password": "hunter2"}"#);
    let app = App::start(|seen| match seen.path.as_str() {
        "/orders" => (200, format!("got {}", seen.body)),
        _ => (404, String::new()),
    });
    let [greeter_port] = free_ports().map(|port| port.to_string());
    let port = app.port.to_string();
    // No token here: the SDK does not send it when it follows configuration.
    let orders = ["--app-id", "orders", "--app-port", &port, "--resources-path", "components"];
    let orders = Sidecar::start(&world, &orders, &[]);
    let greeter = [
        ["--app-id", "greeter"],
        ["--app-port", &greeter_port],
        ["--app-protocol", "grpc"],
        ["--resources-path", "components"],
    ];
    let greeter = [&greeter.concat()[..], &["--enable-app-health-check"]].concat();
    let tokens = [("DAPR_API_TOKEN", "for-the-sidecar"), ("APP_API_TOKEN", "for-the-app")];
    let greeter = Sidecar::start(&world, &greeter, &tokens);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/sdk.py");
    let output = Command::new(python)
        .arg(script)
        .current_dir(world.path(""))
        .env("DAPR_GRPC_ENDPOINT", orders.grpc.to_string())
        .env("DAPR_HTTP_ENDPOINT", format!("http://{}", orders.api))
        // The same API at the port that is named for HTTP.
        .env("ORDERS_API", orders.api.to_string())
        .env("GREETER_API", greeter.grpc.to_string())
        .env("GREETER_PORT", &greeter_port)
        .envs(tokens)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(&output.stdout), "ok\n", "{}", text(&output.stderr));
    // The SDK asked both to shut down.
    orders.ended();
    greeter.ended();
}

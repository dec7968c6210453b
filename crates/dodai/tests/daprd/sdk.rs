//! Dapr's own Python SDK, unchanged, against sidecars of ours.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::app::App;
use super::sidecar::{Sidecar, World};
use crate::site::free_ports;

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

/// A Python with the packages of `peers/dapr-sdk.txt`, made once for each list of them.
fn python() -> Result<PathBuf, String> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/dapr-sdk.txt");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dapr-sdk");
    let (python, known) = (folder.join("bin/python3"), folder.join("packages.txt"));
    let wanted = std::fs::read(&list).unwrap();
    if std::fs::read(&known).is_ok_and(|known| known == wanted) {
        return Ok(python);
    }
    let run = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()),
        Err(error) => Err(error.to_string()),
    };
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let install =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"];
    run(Command::new(&python).args(install).arg(&list))?;
    std::fs::write(known, wanted).unwrap();
    Ok(python)
}

#[test]
fn the_python_sdk_works_unchanged() {
    let python = match python() {
        Ok(python) => python,
        Err(error) => {
            let _said = writeln!(std::io::stderr(), "SKIPPED: Dapr's Python SDK cannot be had here: {error}");
            return;
        }
    };
    let world = World::new();
    world.write("components/all.yaml", COMPONENTS);
    world.write("secrets.json", r#"{"password": "hunter2"}"#);
    let app = App::start(|seen| match seen.path.as_str() {
        "/orders" => (200, format!("got {}", seen.body)),
        _ => (404, String::new()),
    });
    let [greeter_port] = free_ports().map(|port| port.to_string());
    let port = app.port.to_string();
    // No token: the SDK does not send it when it follows configuration.
    let orders = ["--app-id", "orders", "--app-port", &port, "--resources-path", "components"];
    let orders = Sidecar::start(&world, &orders, &[]);
    let greeter = [
        ["--app-id", "greeter"],
        ["--app-port", &greeter_port],
        ["--app-protocol", "grpc"],
        ["--resources-path", "components"],
    ];
    let greeter = [&greeter.concat()[..], &["--enable-app-health-check"]].concat();
    let greeter = Sidecar::start(&world, &greeter, &[]);
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
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(&output.stdout), "ok\n", "{}", text(&output.stderr));
    // The SDK asked both to shut down.
    orders.ended();
    greeter.ended();
}

//! A component that is changed while it serves, as a user sees it.

use serde_json::Value;

use crate::project::until;
use crate::site::{PYTHON, Site, process};

const HTTP: &str = "  services: [{name: http}]";

fn store(file: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: state}}\nspec:\n  type: state.sqlite\n  version: v1\n  metadata: [{{name: connectionString, value: {file}}}]\n"
    )
}

#[test]
fn a_bad_component_leaves_the_old_one_serving_and_says_why() {
    let site = Site::new("swap");
    site.write("dodai.yaml", process("keeper", &[PYTHON, "keeper.py"], HTTP) + &store("good.db"));
    site.up();
    let kept = site.dodai(&["call", "keeper", "/greeting", "-X", "PUT", "-d", "hello"]);
    assert!(kept.status.success(), "{}", kept.all());

    let listed = site.dodai(&["state", "list", "state", "--app", "keeper", "--prefix", "greet"]);
    assert_eq!(
        listed.out().lines().map(str::trim).collect::<Vec<_>>(),
        ["KEY", "greeting"],
        "{}",
        listed.all()
    );
    let value = |key: &str| site.dodai(&["state", "get", "state", key, "--app", "keeper"]);
    assert_eq!(value("greeting").out(), "\"hello\"\n", "{}", value("greeting").all());
    assert_eq!(value("other").status.code(), Some(4), "{}", value("other").all());

    // Nothing can be below a file.
    site.write("bad.txt", store("/dev/null/bad.db"));
    let applied = site.dodai(&["apply", "-f", "bad.txt"]);
    assert!(applied.status.success(), "{}", applied.all());
    let row = || site.ask("/v1/components")["items"][0].clone();
    until("the API says why", || row()["reason"].as_str().is_some_and(|why| !why.is_empty()));
    let row = row();
    assert_eq!((&row["name"], &row["ready"]), (&Value::from("state"), &Value::from(true)), "{row}");
    let why = row["reason"].as_str().unwrap();
    assert!(why.contains("a change was refused") && why.contains("/dev/null"), "{why}");
    let described = || site.dodai(&["describe", "component", "state"]).all();
    until("its document says why", || described().contains("reason: ChangeRefused"));
    let described = described();
    assert!(described.contains("status: \"True\"") || described.contains("status: 'True'"), "{described}");
    let told = described.lines().filter(|line| line.contains("/dev/null"));
    assert!(told.clone().any(|line| line.contains("ComponentChangeRefused")), "the event too: {described}");
    let status = site.ask("/v1/status");
    assert_eq!(status["node"]["components"]["default/state"]["reason"], why, "{status}");
    let read = || site.dodai(&["call", "keeper", "/greeting"]);
    assert_eq!(read().out().trim(), "\"hello\"", "{}", read().all());

    site.write("good.txt", store("good.db"));
    let mended = site.dodai(&["apply", "-f", "good.txt"]);
    assert!(mended.status.success(), "{}", mended.all());
    until("it is as it should be", || site.ask("/v1/components")["items"][0]["reason"] == "");
    assert_eq!(read().out().trim(), "\"hello\"", "{}", read().all());
    site.down();
}

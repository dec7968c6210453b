//! The command line as scripts and people meet it: exit codes, JSON everywhere, errors that say what and where.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::project::{Done, Project, binary, until};

/// Commands that read, and work while the project runs.
const READS: [&[&str]; 13] = [
    &["ps"],
    &["ps", "hello"],
    &["get", "apps"],
    &["get", "route", "all"],
    &["get", "components", "-A"],
    &["describe", "app", "hello"],
    &["diff", "-f", "dodai.yaml"],
    &["apply", "-f", "dodai.yaml", "--dry-run"],
    &["call", "hello", "/"],
    &["top", "--once"],
    &["store", "status"],
    &["events"],
    &["version"],
];

#[test]
fn commands_speak_json_and_yaml_and_fail_with_a_reason() {
    let project = Project::new("cli");
    let up = project.dodai(&["up", ".", "-d", "--threads", "1", "--admin", "127.0.0.1:0"]);
    assert!(up.status.success(), "{}", up.all());
    for read in READS {
        assert!(project.json(read).is_object(), "{read:?}");
        let yaml = project.dodai(&[read, &["-o", "yaml"]].concat());
        assert!(yaml.status.success() && yaml.all().contains(": "), "{read:?}: {}", yaml.all());
    }
    let events = project.dodai(&["events", "--changes", "-o", "json"]);
    assert!(events.all().contains("\"actor\": \"up\""), "{}", events.all());
    let unchanged = project.json(&["apply", "-f", "dodai.yaml"]);
    let verdicts = unchanged["documents"].as_array().unwrap().iter().map(|one| &one["verdict"]);
    assert!(verdicts.clone().all(|verdict| verdict == "unchanged"), "{unchanged}");
    let ages = project.dodai(&["get", "apps"]).all();
    assert!(!ages.contains("T0") && ages.lines().nth(1).unwrap().trim_end().ends_with('s'), "{ages}");

    for (arguments, code, words) in [
        (&["ps", "nobody"][..], 4, "App/default/nobody"),
        (&["get", "app", "nobody"], 4, "dodai get App"),
        (&["get", "pods"], 2, "kinds are"),
        (&["describe", "route", "nobody"], 4, "Route/default/nobody"),
        (&["delete", "route", "nobody"], 4, "Route/default/nobody"),
        (&["logs", "nobody"], 4, "no app default/nobody"),
        (&["logs", "hello", "--instance", "x"], 4, "no instance `x`"),
        (&["call", "nobody"], 4, "no app default/nobody"),
        (&["call", "hello", "/", "-X", "A B"], 1, "`A B` is no method"),
        (&["call", "hello", "/", "-H", "x"], 1, "write `name: value`"),
        (&["publish", "nobus", "t", "x"], 1, "no component `nobus`"),
        (&["config", "get", "nostore", "k"], 4, "no component `nostore`"),
        (&["deploy", "nobody", "artifacts/hello-v2.wasm"], 4, "App/default/nobody"),
        (&["deploy", "hello", "nofile.wasm"], 1, "nofile.wasm"),
        (&["deploy", "hello", "dodai.yaml"], 1, "wasm32-wasip2"),
        (&["apply", "-f", "nofile.yaml"], 1, "nofile.yaml"),
        (&["store", "verify", "nofile"], 1, "no file nofile"),
        (&["validate", "nofile"], 1, "nofile"),
        (&["ps", "--server", "http://127.0.0.1:1", "--token", "x"], 5, "127.0.0.1:1"),
        (&["ps", "--folder", "/"], 5, "dodai up"),
        (&["no-such-command"], 2, "no-such-command"),
    ] {
        let done = project.dodai(arguments);
        let all = done.all();
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {all}");
        assert!(all.contains(words), "{arguments:?}: {all}");
        assert!(!all.contains("\u{1b}[") && !all.contains(": not found\n"), "{arguments:?}: {all}");
    }
    project.write("changed.txt", "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: {name: extra}\n");
    for (arguments, code) in [
        (&["diff", "-f", "changed.txt"][..], 0),
        (&["diff", "-f", "changed.txt", "--exit-code"], 6),
        (&["diff", "-f", "dodai.yaml", "--exit-code"], 0),
        (&["delete", "-f", "changed.txt"], 4),
        (&["delete"], 2),
        (&["delete", "route"], 2),
    ] {
        let done = project.dodai(arguments);
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {}", done.all());
    }
    for kind in ["gateways", "routes"] {
        let row = project.dodai(&["get", kind]).all();
        assert!(row.lines().nth(1).is_some_and(|row| row.contains(" yes ")), "{kind}: {row}");
    }
    // What is shown can be changed and applied, from a pipe too.
    let path = project.path();
    let pipe = format!("'{0}' get component state -o yaml | '{0}' apply -f -", binary().display());
    let applied = Done::of(Command::new("sh").args(["-c", &pipe]).current_dir(&path));
    assert!(applied.status.success() && applied.all().contains("unchanged"), "{}", applied.all());
    let empty = project.dodai(&["get", "apps", "-n", "nowhere"]);
    assert!(empty.status.success() && empty.all().contains("no App in namespace nowhere"), "{}", empty.all());
    assert!(project.dodai(&["down"]).status.success());
    until("nothing is left", || project.left().is_empty());
}

#[test]
fn completion_is_there_for_every_shell_and_a_reader_may_leave_early() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = Done::of(Command::new(binary()).args(["completion", shell]));
        assert!(done.status.success() && done.all().contains("validate"), "{shell}: {}", done.all());
    }
    let mut child = Command::new(binary())
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    let version: Value =
        serde_json::from_str(Done::of(Command::new(binary()).args(["version", "-o", "json"])).all().trim())
            .unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

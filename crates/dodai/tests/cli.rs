//! The command line as scripts and people meet it: exit codes, JSON everywhere, errors that say what and where.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::project::{Done, Project, binary, until};

/// Commands that read, and work while the project runs.
const READS: [&[&str]; 19] = [
    &["ps"],
    &["ps", "hello"],
    &["get", "apps"],
    &["get", "route", "all"],
    &["get", "route/all"],
    &["get", "apps,routes"],
    &["describe", "app/hello"],
    &["diff", "dodai.yaml"],
    &["diff"],
    &["validate"],
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
        (&["get", "app/nobody"], 4, "dodai get App"),
        (&["get", "pods"], 2, "kinds are"),
        (&["get", "app/hello", "all"], 2, "two names"),
        (&["get", "apps,routes", "hello"], 2, "one kind"),
        (&["get", "app/hello", "-A"], 2, "--all-namespaces"),
        (&["describe", "app"], 2, "app/NAME"),
        (&["delete", "route/nobody"], 4, "Route/default/nobody"),
        (&["call", "hello", "--folder", "/"], 5, "--server"),
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
        (&["deploy", "app/hello", "dodai.yaml"], 1, "wasm32-wasip2"),
        (&["deploy", "app/nobody", "dodai.yaml"], 4, "App/default/nobody"),
        (&["deploy", "app/beside", "dodai.yaml"], 1, "is a process"),
        (&["deploy", "outside", "dodai.yaml"], 1, "is external"),
        (&["deploy", "hello", "0123456789"], 1, "dodai rollback hello --to 0123456789"),
        (&["rollback", "app/nobody"], 4, "default/nobody"),
        (&["rollback", "hello"], 1, "no other revision"),
        (&["rollback", "hello", "--to", "0123456789"], 1, "dodai get revisions"),
        (&["rollback", "hello", "--to", "latest"], 2, "ten hexadecimal digits"),
        (&["restart", "app/nobody"], 4, "default/nobody"),
        (&["ps", "--server", "http://127.0.0.1:1", "--token", "x"], 5, "dodai server"),
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
    // What is shown can be changed and applied, from a pipe too, and nothing is said of what only the server writes.
    let path = project.path();
    let pipe = format!("'{0}' get component,apps,routes -o yaml | '{0}' apply -f -", binary().display());
    let applied = Done::of(Command::new("sh").args(["-c", &pipe]).current_dir(&path));
    assert!(applied.status.success() && applied.all().contains("unchanged"), "{}", applied.all());
    assert!(!applied.all().contains("warning"), "{}", applied.all());
    lists(&project);
    looks(&project);
    warnings(&project);
    let empty = project.dodai(&["get", "apps", "-n", "nowhere"]);
    assert!(empty.status.success() && empty.all().contains("no App in namespace nowhere"), "{}", empty.all());
    assert!(project.dodai(&["down"]).status.success());
    until("nothing is left", || project.left().is_empty());
}

/// A list in JSON is as good as documents one by one.
fn lists(project: &Project) {
    let path = project.path();
    let pipe = format!(
        "'{0}' get apps -o json > all.json.txt; '{0}' apply -f all.json.txt && '{0}' validate all.json.txt",
        binary().display()
    );
    let applied = Done::of(Command::new("sh").args(["-c", &pipe]).current_dir(&path));
    assert!(applied.status.success() && applied.all().contains("unchanged"), "{}", applied.all());
}

/// What tables say to people.
fn looks(project: &Project) {
    let cells = |arguments: &[&str], first: &str| -> Vec<String> {
        let all = project.dodai(arguments).all();
        let row =
            all.lines().find(|line| line.starts_with(first)).unwrap_or_else(|| panic!("no {first} in {all}"));
        row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    assert_eq!(cells(&["get", "apps"], "default    beside")[2], "1/1");
    assert_eq!(cells(&["get", "apps"], "default    outside")[2], "external");
    assert_eq!(cells(&["get", "gateways,apps"], "default    app/hello")[2], "1/1");
    let outside = cells(&["ps"], "default/outside");
    assert!(outside[1].starts_with("127.0.0.1:"), "{outside:?}");
    assert_eq!((outside[3].as_str(), outside[4].as_str()), ("external", "reachable"), "{outside:?}");
    assert!(outside[8].ends_with('s'), "an age: {outside:?}");
    assert_eq!(cells(&["ps", "outside"], "default/outside")[1], outside[1]);
    assert!(cells(&["top", "--once"], "APP").contains(&"IN FLIGHT".to_owned()));
    let external = project.json(&["ps"])["external"][0].clone();
    assert_eq!((&external["app"], &external["reachable"]), (&"default/outside".into(), &true.into()));
}

/// What is right and will not do what it seems to: told, with its place, and taken.
fn warnings(project: &Project) {
    project.write(
        "odd.txt",
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: far}\nspec: {type: state.sqlit}\n---\napiVersion: dodai.dev/v1\nkind: Policy\nmetadata: {name: guard}\nspec:\n  targetRefs: [{kind: App, name: hello}]\n  access: {default: allow, rules: [{action: deny, from: {apps: [besid]}}]}\n",
    );
    let told = ["warning: odd.txt:4:14: spec.type: ", "did you mean `state.sqlite`?"];
    let also = ["warning: odd.txt:11:65: spec.access.rules[0].from.apps[0]: ", "did you mean `beside`?"];
    let dry = project.dodai(&["apply", "odd.txt", "--dry-run"]);
    assert!(dry.status.success(), "{}", dry.all());
    for words in told.iter().chain(&also) {
        assert!(dry.all().contains(words), "no `{words}` in {}", dry.all());
    }
    let applied = project.json(&["apply", "odd.txt"]);
    assert_eq!(applied["warnings"].as_array().map(Vec::len), Some(2), "{applied}");
    // Alone it has no app to guard; the type is told all the same.
    let alone = project.dodai(&["validate", "-f", "odd.txt"]);
    assert!(alone.status.code() == Some(3) && alone.all().contains(told[0]), "{}", alone.all());
    for key in ["component/far", "policy/guard"] {
        assert!(project.dodai(&["delete", key]).status.success());
    }
}

#[test]
fn a_command_without_a_path_takes_the_folder_it_is_in() {
    let folder = tempfile::tempdir().unwrap();
    let validate = || Done::of(Command::new(binary()).arg("validate").current_dir(folder.path()));
    std::fs::write(folder.path().join("other.yaml"), "a: 1\n").unwrap();
    let nothing = validate();
    assert_eq!(nothing.status.code(), Some(2), "{}", nothing.all());
    assert!(nothing.all().contains("name a file or a folder"), "{}", nothing.all());
    std::fs::write(
        folder.path().join("dodai.yaml"),
        "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: {name: a}\n",
    )
    .unwrap();
    let one = validate();
    assert!(one.status.success() && one.all().contains("1 document is valid"), "{}", one.all());
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

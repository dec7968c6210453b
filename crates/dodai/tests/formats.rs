//! `-o json` and `-o yaml`: of every command, standard output alone is one value, or one per line of a stream.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

use crate::project::{Done, Project, binary, until};

/// How a command's results come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Results {
    /// One value.
    One,
    /// Values one after the other.
    Many,
}
use Results::{Many, One};

/// Commands that end by themselves while the project runs, in an order that works.
const COMMANDS: [(&[&str], Results); 47] = [
    (&["version"], One),
    (&["validate", "dodai.yaml"], One),
    (&["build", "."], One),
    (&["apply", "-f", "more.txt"], One),
    (&["apply", "-f", "dodai.yaml", "--dry-run"], One),
    (&["diff", "-f", "dodai.yaml"], One),
    (&["ps"], One),
    (&["ps", "hello"], One),
    (&["top"], One),
    (&["console"], One),
    (&["debug", "table"], One),
    (&["debug", "certificates"], One),
    (&["intercept", "show"], One),
    (&["get", "app", "hello"], One),
    (&["get", "routes"], One),
    (&["get", "components", "-A"], One),
    (&["describe", "app", "hello"], One),
    (&["deploy", "hello", "artifacts/hello-v2.wasm", "--wait"], One),
    (&["restart", "hello", "--wait"], One),
    (&["restart", "beside"], One),
    (&["get", "revisions"], One),
    (&["rollback", "hello", "--wait"], One),
    (&["logs", "beside", "--tail", "1"], Many),
    (&["call", "hello", "/"], One),
    (&["publish", "bus", "orders", "{}"], One),
    (&["topic", "list", "bus"], One),
    (&["topic", "peek", "bus", "orders"], One),
    (&["topic", "replay", "bus", "orders", "--all", "--to", "letters"], One),
    (&["state", "list", "state", "--app", "hello"], One),
    (&["lock", "list", "doors"], One),
    (&["job", "list"], One),
    (&["config", "set", "settings", "key", "@@value"], One),
    (&["config", "get", "settings", "key"], One),
    (&["config", "delete", "settings", "key"], One),
    (&["events"], One),
    (&["events", "--changes"], One),
    (&["store", "status"], One),
    (&["store", "backup", "FRESH.backup"], One),
    (&["store", "verify", "first.backup"], One),
    (&["new", "FRESH"], One),
    (&["delete", "namespace", "gone"], One),
    (&["apply", "-f", "gone.txt"], One),
    (&["delete", "-f", "gone.txt"], One),
    (&["apply", "-f", "gone.txt"], One),
    (&["down"], One),
    (&["store", "restore", "first.backup"], One),
    (&["up", ".", "-d", "--threads", "1", "--admin", "127.0.0.1:0"], One),
];
/// Commands that go on until they are stopped.
const ENDLESS: [(&[&str], Results); 6] = [
    (&["watch", "apps"], Many),
    (&["events", "-f"], Many),
    (&["tap"], Many),
    (
        &[
            "server",
            "--data",
            "server",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--metrics",
            "off",
        ],
        One,
    ),
    (&["base", "--from", "small", "--admin", "127.0.0.1:0", "--metrics", "off"], One),
    (&["serve", "--addr", "127.0.0.1:0", "artifacts/hello-v1.wasm"], One),
];
/// Commands with words of their own: a script for a shell, a log like daprd's, a token that only a server makes
/// (its test is that of joined bases), and the help.
const OTHER: [&str; 5] = ["ca", "completion", "daprd", "token", "help"];

const MORE: &str = "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec: {type: pubsub.sqlite, version: v1, metadata: [{name: connectionString, value: bus.db}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: settings}
spec: {type: configuration.sqlite, version: v1, metadata: [{name: connectionString, value: settings.db}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: doors}
spec: {type: lock.in-memory, version: v1}
---
apiVersion: dodai.dev/v1
kind: Namespace
metadata: {name: gone}
";
const GONE: &str = "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: {name: gone}\n";

/// Values of YAML text, one per document.
fn yaml(text: &str) -> Result<Vec<Value>, String> {
    /// What is being filled: a list, or a map with the key that waits for its value.
    enum Open {
        List(Vec<Value>),
        Map(Map<String, Value>, Option<String>),
    }
    let (mut open, mut documents): (Vec<Open>, Vec<Value>) = (Vec::new(), Vec::new());
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| error.to_string())?;
        let done = match event {
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(list)) => Value::from(list),
                Some(Open::Map(map, _)) => Value::from(map),
                None => return Err("an end without a beginning".to_owned()),
            },
            Event::Scalar(text, ScalarStyle::Plain, ..) => {
                serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text.as_ref()))
            }
            Event::Scalar(text, ..) => Value::from(text.as_ref()),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::Alias(_) => continue,
        };
        match open.last_mut() {
            None => documents.push(done),
            Some(Open::List(list)) => list.push(done),
            Some(Open::Map(map, key)) => match key.take() {
                None => *key = Some(done.as_str().ok_or("a key that is no text")?.to_owned()),
                Some(key) => drop(map.insert(key, done)),
            },
        }
    }
    Ok(documents)
}

fn json(text: &str) -> Result<Vec<Value>, String> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    values.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// The values in what a command wrote to standard output.
fn values(format: &str, results: Results, out: &str, what: &[&str]) -> Vec<Value> {
    let read = if format == "json" { json(out) } else { yaml(out) };
    let values = read.unwrap_or_else(|error| panic!("{what:?} -o {format}: {error}\n{out}"));
    let is_list_of_documents = format == "yaml" && what[0] == "get";
    if results == One && !is_list_of_documents {
        assert_eq!(values.len(), 1, "{what:?} -o {format} is one value:\n{out}");
    }
    assert!(!values.is_empty() && values.iter().all(Value::is_object), "{what:?} -o {format}:\n{out}");
    values
}

fn start(project: &Project, arguments: &[&str], format: &str) -> std::process::Child {
    Command::new(binary())
        .args(arguments)
        .args(["-o", format])
        .current_dir(project.path())
        .env_remove("DODAI_SERVER")
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(std::path::Path::new(&project.path()).join("out.txt")).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn every_command_is_in_one_of_the_tables() {
    let help = Done::of(Command::new(binary()).arg("--help"));
    let own = help.out().lines().skip_while(|line| *line != "Commands:").skip(1);
    let own = own.take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    // What is indented further is the rest of a description.
    let own: BTreeSet<&str> =
        own.filter_map(|line| line.split(' ').next()).filter(|word| !word.is_empty()).collect();
    let tables = COMMANDS.iter().chain(&ENDLESS).map(|(words, _)| words[0]).chain(OTHER);
    let tables: BTreeSet<&str> = tables.collect();
    let missing: Vec<_> =
        own.difference(&tables).filter(|word| word.chars().all(char::is_alphabetic)).collect();
    assert!(own.len() > 20 && missing.is_empty(), "not in a table: {missing:?}");
}

#[test]
fn results_are_values_and_nothing_else() {
    let project = Project::new("formats");
    project.write("more.txt", MORE);
    project.write("gone.txt", GONE);
    let small = std::path::Path::new(&project.path()).join("small");
    std::fs::create_dir(&small).unwrap();
    std::fs::write(small.join("dodai.yaml"), GONE).unwrap();
    let up = project.dodai(&["up", ".", "-d", "--threads", "1", "--admin", "127.0.0.1:0", "-o", "json"]);
    assert!(up.status.success(), "{}", up.all());
    values("json", One, up.out(), &["up"]);
    assert!(project.dodai(&["store", "backup", "first.backup"]).status.success());
    for format in ["json", "yaml"] {
        for (arguments, results) in COMMANDS {
            let fresh = format!("fresh-{format}");
            let words: Vec<String> = arguments.iter().map(|word| word.replace("FRESH", &fresh)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if arguments[0] == "logs" {
                until("it has written a line", || {
                    project.dodai(&["logs", "beside"]).out().contains("beside listens")
                });
            }
            if arguments[0] == "up" {
                // In the foreground it goes on; its own value is that of the one in the background.
                until("nothing is left", || project.left().is_empty());
            }
            let done = project.dodai(&[&words, &["-o", format][..]].concat());
            assert!(done.status.success(), "{words:?} -o {format}: {}", done.all());
            values(format, results, done.out(), &words);
            if arguments[0] == "new" {
                // Its documents are no part of this project.
                std::fs::remove_dir_all(std::path::Path::new(&project.path()).join(&fresh)).unwrap();
            }
        }
        for (arguments, results) in ENDLESS {
            let mut child = start(&project, arguments, format);
            let out =
                || std::fs::read_to_string(std::path::Path::new(&project.path()).join("out.txt")).unwrap();
            until(&format!("{arguments:?} says something"), || {
                if arguments[0] == "tap" {
                    let _called = crate::project::get(project.port, "/");
                }
                let out = out();
                let read = if format == "json" { json(&out) } else { yaml(&out) };
                out.ends_with('\n') && read.is_ok_and(|values| !values.is_empty())
            });
            values(format, results, &out(), arguments);
            let pid = child.id().to_string();
            assert!(Command::new("kill").arg(&pid).status().unwrap().success());
            child.wait().unwrap();
            values(format, results, &out(), arguments);
        }
    }
    assert!(project.dodai(&["down"]).status.success());
}

#[test]
fn a_failure_says_why_beside_the_value() {
    let project = Project::new("failures");
    project.write(
        "bad.yaml",
        "apiVersion: dodai.dev/v1\nkind: Route\nmetadata: {name: bad}\nspec: {rulez: []}\n",
    );
    for format in ["json", "yaml"] {
        let bad = project.dodai(&["validate", "bad.yaml", "-o", format]);
        assert_eq!(bad.status.code(), Some(3), "{}", bad.all());
        let value = &values(format, One, bad.out(), &["validate"])[0];
        assert_eq!(value["errors"].as_array().map(Vec::len), Some(2), "{value}");
        let up = project.dodai(&["up", ".", "-o", format]);
        assert_eq!((up.status.code(), up.out()), (Some(3), ""), "{}", up.all());
        assert!(up.all().contains("bad.yaml:4"), "{}", up.all());
    }
}

#[test]
fn streams_end_with_an_error_when_the_server_dies() {
    let project = Project::new("streams");
    let up = project.dodai(&["up", ".", "-d", "--threads", "1", "--admin", "127.0.0.1:0"]);
    assert!(up.status.success(), "{}", up.all());
    let streams = [&["watch", "apps"][..], &["logs", "beside", "-f"], &["events", "-f"], &["tap"]];
    let start = |arguments: &&[&str]| {
        Command::new(binary())
            .args(*arguments)
            .current_dir(project.path())
            .env_remove("DODAI_SERVER")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = streams.iter().map(start).collect();
    // Each is connected once the server's process has as many connections more.
    let pid = project.admin()["pid"].as_u64().unwrap();
    let port =
        project.admin()["address"].as_str().unwrap().rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let connected = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let own = format!("0100007F:{port:04X}");
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words.get(1) == Some(&own.as_str()) && words.get(3) == Some(&"01"))
            .count()
    };
    until("all are connected", || connected() >= streams.len());
    until("calls are seen", || crate::project::get(project.port, "/").is_ok());
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    for (arguments, child) in streams.iter().zip(children) {
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{arguments:?}: {told}");
        assert!(told.contains("went away") || told.contains("no answer"), "{arguments:?}: {told}");
    }
    until("its apps have ended with it", || project.left().is_empty());
}

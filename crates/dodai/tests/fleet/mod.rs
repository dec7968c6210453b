//! A server and bases that join it, each a process of its own on the loopback: what holds while all run, while
//! the server is gone, and when somebody comes with the wrong papers.

mod machines;
mod measured;
mod trust;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub use machines::Machines;
use machines::member;

use crate::project::{DEADLINE, until};
use crate::site::{free_ports, gateway, route};
use crate::wire::get;

/// The gateway and its routes: `/` to the module, `/me` to the process.
fn front(port: u16) -> String {
    let listener = format!("{{name: http, port: {port}, protocol: HTTP}}");
    [gateway("front", &[listener]), route("all", "name: front", &[("/me", "member"), ("/", "hello")])]
        .concat()
}

/// A gateway that leads everything to one app.
fn front_to(port: u16, app: &str) -> String {
    let listener = format!("{{name: http, port: {port}, protocol: HTTP}}");
    [gateway("front", &[listener]), route("all", "name: front", &[("/", app)])].concat()
}

const HELLO: &str = "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: hello}\nspec:\n  module: {artifact: hello-v1.wasm, isolation: reuse}\n  services: [{name: http}]\n---\n";

const BLOCKS: &str = "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: store}
spec:
  type: state.sqlite
  version: v1
  metadata: [{name: connectionString, value: fleet.db}]
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec:
  type: pubsub.sqlite
  version: v1
  metadata: [{name: connectionString, value: fleet.db}]
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: news}
spec:
  pubsubname: bus
  topic: news
  routes: {default: /hear}
scopes: [member]
---
";

fn text(port: u16, path: &str) -> String {
    let answer = get(port, path);
    format!("{} {}", answer.status(), answer.text())
}

/// Waits until a path answers this.
fn answers(port: u16, path: &str, expect: &str) {
    let last = RefCell::new(String::from("nothing listens"));
    let ready = || {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            last.replace(text(port, path));
        }
        *last.borrow() == expect
    };
    let start = Instant::now();
    while !ready() {
        let last = last.borrow();
        assert!(start.elapsed() < DEADLINE, "{path} answers `{}`, not `{}`", last.trim(), expect.trim());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn apps_on_two_bases_call_each_other_as_who_they_are() {
    let [port] = free_ports();
    let mut machines = Machines::new("two", "");
    machines.serve(&["--certificate-life", "15s"]);
    machines.join("one", &[]);
    machines.join("two", &[]);
    let listener = format!("{{name: http, port: {port}, protocol: HTTP}}");
    let two = machines.name("two");
    let policy = "apiVersion: dodai.dev/v1\nkind: Policy\nmetadata: {name: inner}\nspec:\n  targetRefs: [{kind: App, name: inner}]\n  access: {default: deny, rules: [{action: allow, from: {apps: [outer]}}]}\n---\n";
    let labels = format!(
        "apiVersion: dodai.dev/v1\nkind: Base\nmetadata: {{name: {two}}}\nspec:\n  labels: {{dodai.dev/gateway: \"\"}}\n---\n"
    );
    let routes = [("/outer", "outer"), ("/stranger", "stranger"), ("/inner", "inner")];
    let documents = [
        labels,
        member("inner", ""),
        member("outer", ""),
        member("stranger", "  scale: {min: 2, max: 2}"),
        policy.to_owned(),
        gateway("front", &[listener]),
        route("all", "name: front", &routes),
    ]
    .concat();
    machines.write("dodai.yaml", &documents);
    machines.apply("dodai.yaml");
    answers(port, "/outer", "200 outer\n");
    answers(port, "/stranger", "200 stranger\n");

    // Spread: of two instances each base has one, and the lone apps are on different bases.
    let ps = machines.json(&["ps"]);
    let bases = |app: &str| -> Vec<String> {
        let all = ps["items"].as_array().unwrap().iter().filter(|one| one["app"] == format!("default/{app}"));
        let mut bases: Vec<String> = all.map(|one| one["base"].as_str().unwrap().to_owned()).collect();
        bases.sort();
        bases
    };
    assert_eq!(bases("stranger"), [machines.name("one"), machines.name("two")]);
    assert_ne!(bases("inner"), bases("outer"));

    machines.call("outer", "/call/inner", "200 inner\n");
    machines.call("stranger", "/call/inner", "403\n");
    assert_eq!(get(port, "/inner").status(), 403, "who is nobody is refused too");

    // The mesh port says nothing to who has no certificate.
    let status = machines.status();
    let mesh = status["node"]["listeners"][format!("{}: mesh", machines.name("one"))].as_str().unwrap();
    let mut plain = TcpStream::connect(mesh).unwrap();
    plain.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(plain, "GET / HTTP/1.1\r\nHost: inner\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // It may be reset as well as closed.
    let _ended = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");

    let certificate = || std::fs::read_to_string(machines.path("one/identity/base.pem")).unwrap();
    let of_app = || machines.certificates();
    let (before, before_app) = (certificate(), of_app());
    assert!(!before_app.is_empty());
    until("certificates are renewed", || certificate() != before && of_app() != before_app);
    machines.call("outer", "/call/inner", "200 inner\n");
    machines.end();
}

#[test]
fn bases_go_on_without_their_server() {
    let [port] = free_ports();
    let documents = [HELLO, &member("member", ""), BLOCKS, &front(port)].concat();
    let mut machines = Machines::new("gone", &documents);
    machines.serve(&[]);
    machines.join("one", &[]);
    machines.apply("dodai.yaml");
    answers(port, "/me/call/hello", "200 200 hello from v1\n");
    assert_eq!(text(port, "/me/keep/colour/blue"), "200 204 200 \"blue\"\n");
    until("the snapshot is on disk", || std::fs::read_to_string(machines.path("one/snapshot.json")).is_ok());
    let saved = || machines.json(&["ps"])["items"].as_array().is_some_and(|all| all.len() == 2);
    assert!(saved());

    machines.kill("server");
    assert_eq!(text(port, "/me/call/hello"), "200 200 hello from v1\n", "traffic goes on");
    machines.kill("one");
    until("its apps ended with it", || TcpStream::connect(("127.0.0.1", port)).is_err());
    machines.join_again("one");
    answers(port, "/me/call/hello", "200 200 hello from v1\n");
    assert_eq!(text(port, "/me/keep/colour/red"), "200 204 200 \"red\"\n");

    machines.serve(&[]);
    machines.write(
        "more.yaml",
        &[member("later", ""), route("later", "name: front", &[("/later", "later")])].concat(),
    );
    machines.apply("more.yaml");
    answers(port, "/later", "200 later\n");
    answers(port, "/", "200 hello from v1\n");
    machines.end();
}

const SETTINGS: &str = "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: settings}
spec:
  type: configuration.sqlite
  version: v1
  metadata: [{name: connectionString, value: settings.db}]
---
";

#[test]
fn what_was_configured_before_a_base_joined_reaches_it() {
    let mut machines = Machines::new("config", &[SETTINGS, &member("member", "")].concat());
    machines.serve(&[]);
    let config = |machines: &Machines, arguments: &[&str]| {
        let done = machines.dodai(&[&["config"], arguments].concat());
        assert!(done.status.success(), "{}", done.all());
        done.out().trim().to_owned()
    };
    let unknown = machines.dodai(&["config", "set", "settings", "colour", "blue"]);
    assert_eq!(unknown.status.code(), Some(4), "{}", unknown.all());
    assert!(unknown.all().contains("no component `settings`"), "{}", unknown.all());
    machines.apply("dodai.yaml");
    config(&machines, &["set", "settings", "colour", "blue"]);
    assert_eq!(config(&machines, &["get", "settings", "colour"]), "blue", "it is kept");
    machines.join("one", &[]);
    machines.call("member", "/config/colour", "blue\n");
    config(&machines, &["set", "settings", "colour", "red"]);
    machines.call("member", "/config/colour", "red\n");
    machines.kill("one");
    let away =
        || machines.json(&["get", "base", &machines.name("one")])["status"].to_string().contains("Away");
    until("the server sees that the base is away", away);
    config(&machines, &["set", "settings", "colour", "green"]);
    machines.join_again("one");
    machines.call("member", "/config/colour", "green\n");
    config(&machines, &["delete", "settings", "colour"]);
    machines.call("member", "/config/colour", "None\n");
    machines.end();
}

#[test]
fn a_new_instance_starts_with_the_newest_configuration() {
    let mut machines = Machines::new("newest", SETTINGS);
    machines.serve(&[]);
    machines.apply("dodai.yaml");
    machines.join("one", &[]);
    let coloured = "  env: [{name: COLOUR, configRef: {store: settings, key: colour}}]\n";
    machines.write("late.yaml", &member("late", coloured));
    for colour in ["blue", "red", "green"] {
        // No instance here uses the store at this moment, so the base has closed it.
        let done = machines.dodai(&["config", "set", "settings", "colour", colour]);
        assert!(done.status.success(), "{}", done.all());
        machines.apply("late.yaml");
        machines.call("late", "/env/COLOUR", &format!("{colour}\n"));
        let done = machines.dodai(&["delete", "app", "late"]);
        assert!(done.status.success(), "{}", done.all());
        until("it is gone", || machines.json(&["ps"])["items"].as_array().is_some_and(Vec::is_empty));
    }
    machines.end();
}

#[test]
fn two_bases_of_one_machine_are_told_who_may_have_the_gateway() {
    let [port] = free_ports();
    let mut machines = Machines::new("clash", &[HELLO, &front_of_hello(port)].concat());
    machines.serve(&[]);
    machines.join("one", &[]);
    machines.apply("dodai.yaml");
    answers(port, "/", "200 hello from v1\n");
    machines.join("two", &[]);
    let (one, two) = (machines.name("one"), machines.name("two"));
    let told = || machines.json(&["get", "gateway", "front"])["status"]["conditions"][0].to_string();
    until("the gateway says who does not listen", || {
        let words =
            [&format!("base {two} does not listen for `http`"), "is taken by", "label `dodai.dev/gateway`"];
        words.iter().all(|words| told().contains(*words))
    });
    let labelled = format!(
        "apiVersion: dodai.dev/v1\nkind: Base\nmetadata: {{name: {one}}}\nspec:\n  labels: {{dodai.dev/gateway: \"\"}}\n"
    );
    machines.write("base.yaml", &labelled);
    machines.apply("base.yaml");
    until("the gateway is where it should be", || told().contains("every listener listens"));
    until("the other base takes what it is told", || {
        machines.json(&["get", "base", &two])["status"].to_string().contains("Connected")
    });
    machines.end();
}

/// A gateway that leads to `hello`.
fn front_of_hello(port: u16) -> String {
    let listener = format!("{{name: http, port: {port}, protocol: HTTP}}");
    [gateway("front", &[listener]), route("all", "name: front", &[("/", "hello")])].concat()
}

#[test]
fn who_may_not_join_is_told_why() {
    let mut machines = Machines::new("papers", "");
    machines.serve(&[]);
    let refused = |machines: &Machines, name: &str, more: &[&str], expect: &[&str]| {
        let done = machines.try_join(name, more);
        assert!(!done.status.success(), "{}", done.all());
        for part in expect {
            assert!(done.all().contains(part), "no `{part}` in: {}", done.all());
        }
    };
    let remedy = "dodai token create";
    refused(&machines, "none", &[], &["has not joined yet", remedy, "--token"]);
    let token = machines.token(&["--base", &machines.name("one")]);
    let pin = token["pin"].as_str().unwrap();
    let text = token["token"].as_str().unwrap();
    refused(&machines, "one", &["--token", text], &["--pin is needed", remedy]);
    refused(&machines, "one", &["--token", text, "--pin", "sha256:12"], &["64 hex digits"]);
    let wrong = format!("sha256:{}", "0".repeat(64));
    refused(&machines, "one", &["--token", text, "--pin", &wrong], &["not the one that is pinned", remedy]);
    refused(&machines, "two", &["--token", text, "--pin", pin], &["is for base", "--name", remedy]);
    refused(&machines, "one", &["--token", "dodai-api-x", "--pin", pin], &["an API token", "dodai-join-"]);
    refused(&machines, "one", &["--token", "nonsense", "--pin", pin], &["not a join token"]);

    // The token was spent by none of those.
    machines.start_base("one", &["--token", text, "--pin", pin]);
    until("it has joined", || machines.json(&["get", "bases"]).to_string().contains(&machines.name("one")));
    refused(
        &machines,
        "again",
        &["--token", text, "--pin", pin, "--name", &machines.name("one")],
        &["used", remedy],
    );
    let open = machines.token(&[]);
    let open = open["token"].as_str().unwrap();
    let name = machines.name("one");
    refused(
        &machines,
        "again",
        &["--token", open, "--pin", pin, "--name", &name],
        &["known here already", "--base"],
    );
    refused(&machines, "one", &[], &["another base runs on", "--data"]);
    refused(&machines, "one", &["--name", "else"], &["belongs to base", "--name", "--data"]);
    machines.end();
}

//! What a server knows of the calls on its bases.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::Value;

use super::{BLOCKS, Machines, answers, front_to, member};
use crate::project::until;
use crate::site::free_ports;
use crate::wire::get;

fn edge<'a>(traffic: &'a Value, caller: &str, app: &str) -> Option<&'a Value> {
    traffic["edges"].as_array()?.iter().find(|one| one["caller"] == caller && one["app"] == app)
}

fn calls(traffic: &Value, caller: &str, app: &str) -> u64 {
    edge(traffic, caller, app).and_then(|edge| edge["calls"].as_u64()).unwrap_or_default()
}

#[test]
fn a_server_adds_up_what_its_bases_measure() {
    let [port] = free_ports();
    let mut machines = Machines::new("rates", "");
    machines.serve(&[]);
    machines.join("one", &[]);
    machines.join("two", &[]);
    let traffic = |machines: &Machines| machines.ask("/v1/traffic?seconds=300");
    until("both bases tell", || {
        let told = traffic(&machines);
        told["known"] == true && told["silent"].as_array().is_some_and(Vec::is_empty)
    });
    let documents =
        [labelled(&machines, "two"), member("inner", ""), member("outer", ""), front_to(port, "outer")]
            .concat();
    machines.write("dodai.yaml", &documents);
    machines.apply("dodai.yaml");
    answers(port, "/call/inner", "200 200 inner\n");
    let ps = machines.json(&["ps"]);
    let mut bases: Vec<&str> =
        ps["items"].as_array().unwrap().iter().map(|one| one["base"].as_str().unwrap()).collect();
    bases.sort_unstable();
    assert_eq!(bases, [machines.name("one"), machines.name("two")], "each app is on a base of its own");

    // One of the two steps of each call crosses machines, where both ends count it.
    let last = RefCell::new(traffic(&machines));
    until("what went before is counted", || {
        let now = traffic(&machines);
        let second = |of: &Value| of["range"]["to"].as_u64();
        if now["edges"] != last.borrow()["edges"] || calls(&now, "default/outer", "default/inner") == 0 {
            last.replace(now);
            return false;
        }
        second(&now) >= second(&last.borrow()).map(|second| second + 3)
    });
    let before = last.into_inner();
    let answered = || {
        let told = machines.ask("/v1/traffic?seconds=300&app=default/inner");
        let [one] = told["revisions"].as_array().unwrap().as_slice() else { panic!("{told}") };
        (one["revision"].clone(), one["calls"].as_u64().unwrap(), one["errors"].as_u64().unwrap())
    };
    let (_, already, _) = answered();
    for _ in 0..20 {
        assert_eq!(get(port, "/call/inner").status(), 200);
    }
    let came = |now: &Value, caller: &str, app: &str| calls(now, caller, app) - calls(&before, caller, app);
    until("all calls are counted, each once", || {
        let now = traffic(&machines);
        came(&now, "outside", "default/outer") >= 20 && came(&now, "default/outer", "default/inner") >= 20
    });
    let now = traffic(&machines);
    assert_eq!(came(&now, "outside", "default/outer"), 20, "{now}");
    assert_eq!(came(&now, "default/outer", "default/inner"), 20, "{now}");
    assert_eq!(came(&now, "outside", "default/inner"), 0, "{now}");
    let inner = ps["items"].as_array().unwrap().iter().find(|one| one["app"] == "default/inner").unwrap();
    assert_eq!(answered(), (inner["revision"].clone(), already + 20, 0), "by the revision that answered");
    let base_of = |app: &str| {
        let row = ps["items"].as_array().unwrap().iter().find(|one| one["app"] == app).unwrap();
        row["base"].as_str().unwrap().to_owned()
    };
    let across = |of: &Value| {
        let (from, to) = (base_of("default/outer"), base_of("default/inner"));
        let row = of["bases"].as_array()?.iter().find(|one| one["from"] == *from && one["to"] == *to);
        row?["calls"].as_u64()
    };
    let crossed = across(&now).unwrap_or_default() - across(&before).unwrap_or_default();
    assert_eq!(crossed, 20, "from base to base: {now}");
    let sum = &now["sums"]["default/inner"];
    assert!(sum["p50_us"].as_u64() > Some(0) && sum["p99_us"].as_u64() >= sum["p50_us"].as_u64(), "{sum}");
    until("what instances use is known", || {
        let all = machines.ask("/v1/instances");
        all["items"].as_array().unwrap().iter().all(|one| one["memory_bytes"].as_u64() > Some(0))
    });

    // A call of the server itself begins at no base.
    machines.call("inner", "/", "inner\n");
    until("it is counted, too", || calls(&traffic(&machines), "outside", "default/inner") > 0);

    let host = machines.json(&["ps"])["items"].as_array().unwrap().clone();
    let on_one: Vec<&Value> = host.iter().filter(|one| one["base"] == machines.name("one")).collect();
    machines.kill("one");
    until("what a base used that is gone is not known", || {
        let all = machines.ask("/v1/instances");
        let rows = all["items"].as_array().unwrap();
        on_one.iter().all(|gone| {
            rows.iter().filter(|row| row["id"] == gone["id"]).all(|row| row["memory_bytes"].is_null())
        })
    });
    assert_eq!(traffic(&machines)["known"], true);
    machines.end();
}

#[test]
fn a_tap_hears_a_base_that_joins_after_it_began() {
    let [port] = free_ports();
    let mut machines = Machines::new("tap", "");
    machines.serve(&[]);
    let mut told = BufReader::new(machines.follow("/v1/calls"));
    let mut line = String::new();
    while !line.contains(": begins") {
        line.clear();
        assert!(told.read_line(&mut line).unwrap() > 0, "the tap ended before it began");
    }
    machines.join("late", &[]);
    machines.write(
        "dodai.yaml",
        &[labelled(&machines, "late"), member("outer", ""), front_to(port, "outer")].concat(),
    );
    machines.apply("dodai.yaml");
    answers(port, "/", "200 outer\n");
    let of_base = format!("\"base\":\"{}\"", machines.name("late"));
    let heard = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The base knows of the tap a moment later, so there must always be one more call to hear of.
        scope.spawn(|| {
            while !heard.load(Relaxed) {
                assert_eq!(get(port, "/").status(), 200);
            }
        });
        let _no_more = Raised(&heard);
        while !(line.contains(&of_base) && line.contains("default/outer")) {
            line.clear();
            assert!(told.read_line(&mut line).unwrap() > 0, "the tap ended");
        }
    });
    drop(told);
    machines.end();
}

/// Raises a flag when it goes, also by a panic.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The document of a base that opens gateways.
fn labelled(machines: &Machines, base: &str) -> String {
    let name = machines.name(base);
    format!(
        "apiVersion: dodai.dev/v1\nkind: Base\nmetadata: {{name: {name}}}\nspec:\n  labels: {{dodai.dev/gateway: \"\"}}\n---\n"
    )
}

const DOORS: &str = "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: doors}
spec: {type: lock.in-memory, version: v1}
---
";

#[test]
fn what_is_inside_of_components_is_told_with_its_base() {
    let mut machines = Machines::new("inside", "");
    machines.serve(&[]);
    machines.join("one", &[]);
    machines.join("two", &[]);
    machines.write("dodai.yaml", &[BLOCKS, DOORS, &member("member", "")].concat());
    machines.apply("dodai.yaml");
    let publish = || machines.dodai(&["publish", "bus", "letters", "lost"]).status.success();
    until("a base publishes", publish);
    let found = |path: &str| machines.ask(path)["items"].as_array().cloned().unwrap_or_default();
    let waiting = || found("/v1/topics/bus").into_iter().find(|one| one["topic"] == "letters");
    until("what waits is told", || waiting().is_some());
    let row = waiting().unwrap();
    let base = row["base"].as_str().unwrap().to_owned();
    assert!([machines.name("one"), machines.name("two")].contains(&base), "{row}");
    let several = machines.dodai(&["topic", "peek", "bus", "letters"]);
    assert!(several.all().contains("several bases") && several.all().contains("--base"), "{}", several.all());
    let messages = machines.json(&["topic", "peek", "bus", "letters", "--base", &base]);
    let text = messages["items"][0]["text"].as_str().unwrap_or_default();
    assert!(text.contains("\"lost\""), "{messages}");
    let replay = |what: &str| {
        machines.dodai(&["topic", "replay", "bus", "letters", what, "--to", "found", "--base", &base])
    };
    let moved = replay("--all");
    assert!(moved.out().contains("1 message moved from letters to found"), "{}", moved.all());
    let gone = replay(messages["items"][0]["id"].as_str().unwrap());
    assert_eq!(gone.status.code(), Some(4), "{}", gone.all());
    assert_eq!(found("/v1/topics/bus").iter().filter(|one| one["topic"] == "found").count(), 1);
    machines.end();
}

#[test]
fn jobs_and_locks_of_all_bases_are_listed_and_ended_from_the_command_line() {
    let mut machines = Machines::new("jobs", "");
    machines.serve(&[]);
    machines.join("one", &[]);
    machines.join("two", &[]);
    machines.write("dodai.yaml", &[DOORS, &member("member", "")].concat());
    machines.apply("dodai.yaml");
    let asked = |path: &str, expect: &str| {
        until(path, || machines.dodai(&["call", "member", path]).out().starts_with(expect));
    };
    asked("/schedule/report", "204");
    asked("/schedule/again", "204");
    asked("/hold/door", "200 {\"success\":true}");
    let all = machines.json(&["ps"]);
    let base = all["items"][0]["base"].as_str().unwrap().to_owned();

    let jobs = || machines.json(&["job", "list", "member"]);
    let told = jobs();
    let item = &told["items"][1];
    assert_eq!((&item["name"], &item["base"]), (&"report".into(), &base.as_str().into()), "{told}");
    assert_eq!(
        (&item["schedule"], &item["repeats"], &item["ticks"]),
        (&"@daily".into(), &9.into(), &0.into())
    );
    let table = machines.dodai(&["job", "list"]);
    assert!(table.out().contains("0 of 9") && table.out().contains("BASE"), "{}", table.all());
    assert_eq!(machines.json(&["job", "list", "other"])["items"], Value::Array(Vec::new()));
    let delete = |more: &[&str]| machines.dodai(&[&["job", "delete", "member", "report"], more].concat());
    assert!(delete(&[]).all().contains("several bases"));
    let deleted = delete(&["--base", &base]);
    assert!(deleted.out().contains("job report of default/member deleted"), "{}", deleted.all());
    assert_eq!(delete(&["--base", &base]).status.code(), Some(4));
    assert_eq!(jobs()["items"].as_array().map(Vec::len), Some(1));

    let locks = || machines.json(&["lock", "list", "doors"]);
    let held = locks();
    let resource = held["items"][0]["resource"].as_str().unwrap_or_else(|| panic!("{held}")).to_owned();
    let release = |owner: &str| {
        machines.dodai(&["lock", "release", "doors", &resource, "--owner", owner, "--base", &base])
    };
    assert!(release("other").all().contains("no longer held by `other`"));
    assert!(release("member").status.success());
    assert_eq!(locks()["items"], Value::Array(Vec::new()));
    machines.end();
}

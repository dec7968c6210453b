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

#[test]
fn what_is_inside_of_components_is_told_with_its_base() {
    let mut machines = Machines::new("inside", "");
    machines.serve(&[]);
    machines.join("one", &[]);
    machines.join("two", &[]);
    machines.write("dodai.yaml", &[BLOCKS, &member("member", "")].concat());
    machines.apply("dodai.yaml");
    let publish = || machines.dodai(&["publish", "bus", "letters", "lost"]).status.success();
    until("a base publishes", publish);
    let found = |path: &str| machines.ask(path)["items"].as_array().cloned().unwrap_or_default();
    let waiting = || found("/v1/topics/bus").into_iter().find(|one| one["topic"] == "letters");
    until("what waits is told", || waiting().is_some());
    let row = waiting().unwrap();
    let base = row["base"].as_str().unwrap().to_owned();
    assert!([machines.name("one"), machines.name("two")].contains(&base), "{row}");
    let several = machines.ask("/v1/topics/bus/letters");
    assert!(several["message"].as_str().is_some_and(|text| text.contains("several bases")), "{several}");
    let messages = found(&format!("/v1/topics/bus/letters?base={base}"));
    assert!(messages[0]["text"].as_str().is_some_and(|text| text.contains("\"lost\"")), "{messages:?}");
    machines.end();
}

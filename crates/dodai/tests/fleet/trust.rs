//! Trust between a server and its bases: the root is exchanged under load, bases miss that, certificates are revoked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;

use super::{Machines, answers, member};
use crate::project::until;
use crate::site::{free_ports, gateway, route};
use crate::wire::{Wire, request};

/// Two apps on two bases; users reach `outer` through a gateway on the base of the first name.
fn documents(machines: &Machines, port: u16) -> String {
    let listener = format!("{{name: http, port: {port}, protocol: HTTP}}");
    let labels = format!(
        "apiVersion: dodai.dev/v1\nkind: Base\nmetadata: {{name: {}}}\nspec:\n  labels: {{dodai.dev/gateway: \"\"}}\n---\n",
        machines.name("one")
    );
    let front = [gateway("front", &[listener]), route("all", "name: front", &[("/me", "outer")])].concat();
    [labels, member("inner", ""), member("outer", ""), front].concat()
}

/// A server, two bases, and calls from one to the other.
fn meshed(name: &str, life: &str, port: u16) -> Machines {
    let mut machines = Machines::new(name, "");
    machines.serve(&["--certificate-life", life]);
    machines.join("one", &[]);
    machines.join("two", &[]);
    machines.write("dodai.yaml", &documents(&machines, port));
    machines.apply("dodai.yaml");
    answers(port, "/me/call/inner", "200 200 inner\n");
    let ps = machines.json(&["ps"]);
    let bases: Vec<&Value> = ps["items"].as_array().unwrap().iter().map(|one| &one["base"]).collect();
    assert!(bases.len() == 2 && bases[0] != bases[1], "the call goes from base to base: {ps}");
    machines
}

/// Calls on one kept connection until it is told to end.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(port: u16, path: &'static str, expect: &'static str) -> Load {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, called) = (stop.clone(), calls.clone());
        let thread = std::thread::spawn(move || {
            // A connection that is closed under it fails the test: it is kept throughout.
            let mut wire = Wire::to(port);
            while !stopped.load(Ordering::Relaxed) {
                let answer = wire.ask(&request("GET", path, ""));
                assert_eq!((answer.status(), answer.text()), (200, expect));
                called.fetch_add(1, Ordering::Relaxed);
            }
        });
        Load { stop, calls, thread }
    }

    /// Waits until calls were made since this was asked.
    fn flows(&self) {
        let before = self.calls.load(Ordering::Relaxed);
        until("calls go on", || self.thread.is_finished() || self.calls.load(Ordering::Relaxed) > before + 5);
    }

    fn end(self) {
        self.flows();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every call was answered, on one connection");
    }
}

fn step(machines: &Machines, arguments: &[&str]) -> Value {
    let done = machines.dodai(&[&["ca"], arguments, &["-o", "json"]].concat());
    assert!(done.status.success(), "{arguments:?}: {}", done.all());
    serde_json::from_str(done.out()).unwrap()
}

fn refused(machines: &Machines, arguments: &[&str], expect: &[&str]) {
    let done = machines.dodai(&[&["ca"], arguments].concat());
    assert!(!done.status.success(), "{}", done.all());
    for part in expect {
        assert!(done.all().contains(part), "no `{part}` in: {}", done.all());
    }
}

fn pins(answer: &Value) -> Vec<String> {
    answer["roots"].as_array().unwrap().iter().map(|root| root["pin"].as_str().unwrap().to_owned()).collect()
}

/// The pin of the root that signed everything that a base holds, if that is one.
fn signer(answer: &Value, base: &str) -> Option<String> {
    let base = answer["bases"].as_array().unwrap().iter().find(|one| one["name"] == base)?;
    let signers = base["signedBy"].as_object()?;
    (signers.len() == 1).then(|| signers.keys().next().cloned())?
}

#[test]
fn the_root_is_exchanged_under_load_and_through_starts_of_the_server() {
    let [port] = free_ports();
    let mut machines = meshed("rotate", "1h", port);
    let load = Load::start(port, "/me/call/inner", "200 inner\n");
    let before = step(&machines, &["show"]);
    assert_eq!((before["phase"].as_str(), pins(&before).len()), (Some("steady"), 1));
    let old = pins(&before).remove(0);
    refused(&machines, &["issue"], &["steady", "dodai ca rotate"]);

    step(&machines, &["rotate", "--wait"]);
    machines.kill("server");
    machines.serve(&["--certificate-life", "1h"]);
    let announced = step(&machines, &["show"]);
    assert_eq!((announced["phase"].as_str(), pins(&announced).len()), (Some("announced"), 2));
    let new = pins(&announced).remove(1);
    assert_ne!(new, old);
    load.flows();
    until("the bases are back", || step(&machines, &["show"])["bases"][0]["waitsFor"].is_null());
    until("both of them", || step(&machines, &["show"])["bases"][1]["waitsFor"].is_null());

    let issued = step(&machines, &["issue", "--wait"]);
    assert_eq!(issued["phase"], "issuing");
    for base in ["one", "two"] {
        assert_eq!(signer(&issued, &machines.name(base)).as_ref(), Some(&new));
    }
    machines.kill("server");
    machines.serve(&["--certificate-life", "1h"]);
    until("all have said again what they have", || {
        let shown = step(&machines, &["show"]);
        shown["bases"].as_array().unwrap().iter().all(|base| base["waitsFor"].is_null())
    });
    load.flows();
    let finished = step(&machines, &["finish", "--wait"]);
    assert_eq!((finished["phase"].as_str(), pins(&finished)), (Some("steady"), vec![new.clone()]));
    let root = std::fs::read_to_string(machines.path("server/ca/ca.pem")).unwrap();
    let bundle = |base: &str| std::fs::read_to_string(machines.path(&format!("{base}/identity/bundle.pem")));
    until("the old root is gone everywhere", || {
        ["one", "two"].iter().all(|base| bundle(base).is_ok_and(|bundle| bundle == root))
    });
    load.end();

    // Who starts again, and who is new, is let in by the new root.
    assert_eq!(machines.token(&[])["pin"], new);
    machines.kill("two");
    machines.join_again("two");
    machines.join("three", &[]);
    answers(port, "/me/call/inner", "200 200 inner\n");
    machines.end();
}

#[test]
fn a_rotation_is_called_off_without_a_lost_call() {
    let [port] = free_ports();
    let machines = meshed("calloff", "1h", port);
    let load = Load::start(port, "/me/call/inner", "200 inner\n");
    let old = pins(&step(&machines, &["show"]));
    step(&machines, &["rotate", "--wait"]);
    assert_eq!(pins(&step(&machines, &["cancel", "--wait"])), old);
    step(&machines, &["rotate", "--wait"]);
    step(&machines, &["issue", "--wait"]);
    assert_eq!(step(&machines, &["cancel", "--wait"])["phase"], "returning");
    let finished = step(&machines, &["finish", "--wait"]);
    assert_eq!((finished["phase"].as_str(), pins(&finished)), (Some("steady"), old));
    load.end();
    machines.end();
}

#[test]
fn a_base_that_was_away_is_waited_for_or_has_to_join_again() {
    let [port] = free_ports();
    let mut machines = meshed("missed", "1h", port);
    let two = machines.name("two");
    machines.kill("two");
    step(&machines, &["rotate"]);
    refused(
        &machines,
        &["issue"],
        &[&two, "does not trust the new root yet", "--force", "dodai delete base"],
    );
    step(&machines, &["issue", "--force"]);
    until("the other has new certificates", || {
        let shown = step(&machines, &["show"]);
        let new = pins(&shown).remove(1);
        signer(&shown, &machines.name("one")) == Some(new)
    });
    refused(&machines, &["finish"], &[&two, "--force"]);

    // Before the end it comes back by itself.
    machines.join_again("two");
    until("it has caught up", || {
        let shown = step(&machines, &["show"]);
        shown["bases"].as_array().unwrap().iter().all(|base| base["waitsFor"].is_null())
    });
    answers(port, "/me/call/inner", "200 200 inner\n");
    step(&machines, &["finish", "--wait"]);

    // After the end it does not.
    machines.kill("two");
    step(&machines, &["rotate"]);
    step(&machines, &["issue", "--force"]);
    until("the other has new certificates", || {
        let shown = step(&machines, &["show"]);
        let new = pins(&shown).remove(1);
        signer(&shown, &machines.name("one")) == Some(new)
    });
    step(&machines, &["finish", "--force"]);
    machines.join_again("two");
    let log = || std::fs::read_to_string(machines.path("two.log")).unwrap();
    let told = format!("dodai token create --base {two}");
    until("it says how to come back", || log().contains(&told));
    machines.kill("two");
    let token = machines.token(&["--base", &two]);
    let (text, pin) = (token["token"].as_str().unwrap(), token["pin"].as_str().unwrap());
    machines.start_base("two", &["--token", text, "--pin", pin]);
    answers(port, "/me/call/inner", "200 200 inner\n");
    machines.end();
}

#[test]
fn a_revoked_base_is_thrown_out_and_comes_back_with_a_token() {
    let [port] = free_ports();
    let mut machines = meshed("revoked", "1h", port);
    let two = machines.name("two");
    let shown = step(&machines, &["revoke", &format!("base/{two}")]);
    assert_eq!(shown["revoked"][0]["whose"], format!("base/{two}"));
    until("the server does not hear it any more", || {
        machines.json(&["get", "base", &two])["status"].to_string().contains("Away")
    });
    let log = || std::fs::read_to_string(machines.path("two.log")).unwrap();
    let told = format!("dodai token create --base {two}");
    until("it says why, and how to come back", || {
        log().contains("certificate is revoked") && log().contains(&told)
    });
    // Whatever app is on it: no call passes between the two.
    let answer = Wire::to(port).ask(&request("GET", "/me/call/inner", "Connection: close\r\n"));
    assert_ne!(answer.text(), "200 inner\n");

    machines.kill("two");
    let token = machines.token(&["--base", &two]);
    let (text, pin) = (token["token"].as_str().unwrap(), token["pin"].as_str().unwrap());
    machines.start_base("two", &["--token", text, "--pin", pin]);
    answers(port, "/me/call/inner", "200 200 inner\n");
    machines.end();
}

#[test]
fn a_revoked_app_gets_new_certificates_and_goes_on() {
    let [port] = free_ports();
    let machines = meshed("rekeyed", "1h", port);
    let of_inner = || {
        let file = |base: &str| machines.path(&format!("{base}/identity/apps/default.inner.pem"));
        ["one", "two"].iter().find_map(|base| std::fs::read_to_string(file(base)).ok()).unwrap()
    };
    let before = of_inner();
    refused(&machines, &["revoke", "inner"], &["names no certificates", "app/NAMESPACE/NAME"]);
    refused(&machines, &["reinstate", "app/default/inner"], &["not revoked"]);
    step(&machines, &["revoke", "app/default/inner"]);
    until("its certificate is another", || of_inner() != before);
    answers(port, "/me/call/inner", "200 200 inner\n");
    let shown = step(&machines, &["reinstate", "app/default/inner"]);
    assert_eq!(shown["revoked"].as_array().map(Vec::len), Some(0));
    machines.end();
}

#[test]
fn certificates_are_renewed_under_kept_connections() {
    let [port] = free_ports();
    // So short that several are renewed within the test, and some expire under the connections made with them.
    let machines = meshed("renewed", "12s", port);
    let load = Load::start(port, "/me/call/inner", "200 inner\n");
    let certificates = || {
        let files = ["one/identity/base.pem", "two/identity/base.pem"];
        files.map(|file| std::fs::read_to_string(machines.path(file)).unwrap())
    };
    for _ in 0..3 {
        let before = certificates();
        until("every certificate is renewed", || {
            certificates().iter().zip(&before).all(|(now, before)| now != before)
        });
        load.flows();
    }
    load.end();
    machines.end();
}

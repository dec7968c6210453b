//! The binary as a user has it: a small project goes up, is called, changed under load, looked at, and goes
//! down without leaving anything; a killed one comes back with what it knew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod cli;
mod clients;
mod dapr_yaml;
mod daprd;
mod failure;
mod fleet;
mod formats;
mod intercept;
mod packaging;
mod polyglot;
mod probes;
mod project;
mod protocols;
mod proxied;
mod readme;
mod running;
mod serve;
mod shop;
mod site;
mod swapping;
mod sweep;
mod telemetry;
mod toolchain;
mod wire;
mod written;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use project::{Project, get, until};
use serde_json::Value;

#[test]
fn a_project_goes_up_changes_under_load_and_goes_down() {
    let project = Project::new("life");
    let up = project.dodai(&["up", &project.path(), "-d", "--threads", "1", "--admin", "127.0.0.1:0"]);
    assert!(up.status.success(), "{}", up.all());
    assert_eq!(get(project.port, "/"), Ok("hello from v1\n".to_owned()));
    assert_eq!(get(project.port, "/outside"), Ok("outside\n".to_owned()), "an app that runs elsewhere");
    assert_eq!(get(project.port, "/beside"), Ok("beside\n".to_owned()), "a supervised process");

    let ps: Value = project.json(&["ps"]);
    let of =
        |app: &str| ps["items"].as_array().unwrap().iter().find(|one| one["app"] == app).cloned().unwrap();
    let (hello, beside) = (of("default/hello"), of("default/beside"));
    assert_eq!((hello["shape"].as_str(), hello["phase"].as_str()), (Some("module"), Some("ready")));
    assert_eq!(beside["shape"], "process");
    assert!(beside["pid"].as_u64().is_some() && beside["ports"]["http"].as_u64().is_some(), "{beside}");
    assert!(project.dodai(&["ps"]).all().contains("default/hello"));

    deploy_under_load(&project);

    until("the process's line is in its log", || {
        project.dodai(&["logs", "beside", "--tail", "5"]).all().contains("beside listens")
    });
    let call = project.dodai(&["call", "hello", "/", "-i"]);
    assert!(call.status.success() && call.all().contains("hello from v2"), "{}", call.all());
    assert!(project.dodai(&["describe", "app", "hello"]).all().contains("artifact: "));
    let component = project.dodai(&["get", "component", "state", "-o", "yaml"]).all();
    assert!(component.contains("<hidden>") && !component.contains("state.db"), "{component}");

    console(&project);

    project.write(
        "bad.txt",
        "apiVersion: dodai.dev/v1\nkind: Route\nmetadata:\n  name: bad\nspec:\n  rulez: []\n",
    );
    let bad = project.dodai(&["apply", "-f", "bad.txt"]);
    assert_eq!(bad.status.code(), Some(3), "{}", bad.all());
    assert!(bad.all().contains("bad.txt:6:3") && bad.all().contains("rules"), "{}", bad.all());
    assert_eq!(project.dodai(&["get", "route", "bad"]).status.code(), Some(4));

    let second = project.dodai(&["up", "."]);
    assert!(!second.status.success() && second.all().contains("dodai down"), "{}", second.all());
    let down = project.dodai(&["down"]);
    assert!(down.status.success(), "{}", down.all());
    assert_eq!(project.left(), Vec::<String>::new(), "no process is left");
    let ps = project.dodai(&["ps"]);
    assert_eq!(ps.status.code(), Some(5));
    assert!(ps.all().contains("dodai up"), "{}", ps.all());
}

/// Replaces v1 by v2 while clients call; not one of them may notice more than the new answer.
/// The console is in the binary, and the link that a command prints opens it.
fn console(project: &Project) {
    let admin = project.admin();
    let (address, token) = (admin["address"].as_str().unwrap(), admin["token"].as_str().unwrap());
    let link = project.dodai(&["console"]);
    assert_eq!(link.out().trim(), format!("http://{address}/#token={token}"));
    let port: u16 = address.rsplit_once(':').unwrap().1.parse().unwrap();
    let page = get(port, "/").unwrap();
    assert!(page.contains("<script type=\"module\"") && !page.contains(token), "{page}");
    let script = page.split("src=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert!(get(port, script).unwrap().len() > 10_000, "the script {script}");
    assert!(get(port, "/v1/traffic").unwrap_err().starts_with("HTTP/1.1 401"), "figures need the token");
}

fn deploy_under_load(project: &Project) {
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let port = project.port;
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, calls) = (stop.clone(), calls.clone());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match get(port, "/").as_deref() {
                        Ok("hello from v1\n" | "hello from v2\n") => calls.fetch_add(1, Ordering::Relaxed),
                        other => {
                            failures.push(format!("{other:?}"));
                            0
                        }
                    };
                }
                failures
            })
        })
        .collect();
    until("the load runs", || calls.load(Ordering::Relaxed) > 20);
    let deploy = project.dodai(&["deploy", "hello", "artifacts/hello-v2.wasm", "--wait"]);
    let after = calls.load(Ordering::Relaxed);
    until("the load goes on", || calls.load(Ordering::Relaxed) > after + 20 || !deploy.status.success());
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert!(deploy.status.success(), "{}", deploy.all());
    for step in ["uploaded", "compiled", "ready", "switched", "drained"] {
        assert!(deploy.all().contains(step), "no {step} in\n{}", deploy.all());
    }
    assert_eq!(failures, Vec::<String>::new(), "of {} calls", calls.load(Ordering::Relaxed));
    assert_eq!(get(port, "/"), Ok("hello from v2\n".to_owned()));
}

#[test]
fn a_killed_server_comes_back_with_what_it_knew() {
    let project = Project::new("kill");
    let path = project.path();
    let arguments = ["up", &path, "-d", "--threads", "1", "--admin", "127.0.0.1:0"];
    let up = project.dodai(&arguments);
    assert!(up.status.success(), "{}", up.all());
    let deploy = project.dodai(&["deploy", "hello", "artifacts/hello-v2.wasm", "--wait"]);
    assert!(deploy.status.success(), "{}", deploy.all());
    let pid = project.admin()["pid"].as_u64().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    until("its apps have ended with it", || project.left().is_empty());
    assert_eq!(project.dodai(&["ps"]).status.code(), Some(5), "a stale file is no server");

    let up = project.dodai(&arguments);
    assert!(up.status.success(), "{}", up.all());
    assert_ne!(project.admin()["pid"].as_u64(), Some(pid));
    assert_eq!(get(project.port, "/"), Ok("hello from v2\n".to_owned()), "what was deployed stays deployed");
    assert_eq!(get(project.port, "/beside"), Ok("beside\n".to_owned()));
    let down = project.dodai(&["down"]);
    assert!(down.status.success(), "{}", down.all());
    assert_eq!(project.left(), Vec::<String>::new(), "no process is left");
}

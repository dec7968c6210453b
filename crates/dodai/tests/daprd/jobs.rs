//! Jobs outlive their sidecar, whichever way it ends, and belong to all sidecars of an app.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::app::App;
use super::sidecar::{Sidecar, World};
use crate::project::until;

fn sidecar(world: &World, app: &App) -> Sidecar {
    Sidecar::start(world, &["--app-id", "orders", "--app-port", &app.port.to_string()], &[])
}

fn schedule(sidecar: &Sidecar, name: &str, body: &serde_json::Value) {
    let told = sidecar.call("POST", &format!("/v1.0/jobs/{name}"), &[], &body.to_string());
    assert_eq!(told.status, 204, "{told:?}");
}

#[test]
fn a_killed_sidecar_loses_no_job_and_no_run() {
    let world = World::new();
    // The first run of `slow` is never answered: the sidecar is killed meanwhile.
    let begun = Arc::new(AtomicUsize::new(0));
    let over = Arc::new((Mutex::new(false), Condvar::new()));
    let (count, gate) = (begun.clone(), over.clone());
    let app = App::start(move |seen| {
        if seen.path == "/job/slow" && count.fetch_add(1, SeqCst) == 0 {
            let (is_over, told) = &*gate;
            let _over = told.wait_while(is_over.lock().unwrap(), |is_over| !*is_over).unwrap();
        }
        (if seen.path.starts_with("/job/") { 200 } else { 404 }, String::new())
    });
    let first = sidecar(&world, &app);
    let due = SystemTime::now() + Duration::from_secs(3);
    schedule(&first, "late", &json!({ "dueTime": "3s", "data": { "n": 1 } }));
    schedule(&first, "often", &json!({ "schedule": "@every 1h" }));
    schedule(&first, "slow", &json!({ "dueTime": "0s" }));
    until("a run is under way", || begun.load(SeqCst) == 1);
    first.kill();
    until("a job falls due while nobody runs", || SystemTime::now() > due);
    assert!(app.seen("/job/late").is_empty(), "that took longer than it may");

    let second = sidecar(&world, &app);
    until("both have run", || begun.load(SeqCst) == 2 && app.seen("/job/late").len() == 1);
    assert_eq!(app.seen("/job/late")[0].body, r#"{"n":1}"#);
    let gone = |name: &str| second.call("GET", &format!("/v1.0/jobs/{name}"), &[], "").status == 500;
    until("they are done", || gone("slow") && gone("late"));
    assert_eq!(second.call("GET", "/v1.0/jobs/often", &[], "").status, 200);
    second.stop();
    *over.0.lock().unwrap() = true;
    over.1.notify_all();
    assert_eq!((app.seen("/job/late").len(), app.seen("/job/slow").len() <= 2), (1, true));
}

#[test]
fn sidecars_of_one_app_share_its_jobs() {
    let world = World::new();
    let app = App::start(|seen| (if seen.path.starts_with("/job/") { 200 } else { 404 }, String::new()));
    let (first, second) = (sidecar(&world, &app), sidecar(&world, &app));
    schedule(&first, "one", &json!({ "dueTime": "0s" }));
    until("it runs", || !app.seen("/job/one").is_empty());
    schedule(&second, "two", &json!({ "dueTime": "0s" }));
    until("what one is told another runs", || !app.seen("/job/two").is_empty());
    schedule(&second, "kept", &json!({ "schedule": "@daily" }));
    assert_eq!(first.call("GET", "/v1.0/jobs/kept", &[], "").status, 200);
    first.kill();
    schedule(&second, "three", &json!({ "dueTime": "0s" }));
    until("who is left takes over", || !app.seen("/job/three").is_empty());
    let second = second.stop();
    assert!(!second.contains("jobs do not run"), "{second}");
    for name in ["one", "two", "three"] {
        assert_eq!(app.seen(&format!("/job/{name}")).len(), 1, "{name}");
    }
}

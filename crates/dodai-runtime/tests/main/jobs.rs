//! Jobs: asked for over both protocols, run when the clock says so.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use dodai_capability::clock::Clock;
use dodai_capability::jobs::{self, Due, Error, Hold, Memory, Progress, Record, Store, Which};
use dodai_capability::{Answer, Fault};
use dodai_core::body::{Writer, pipe};
use dodai_core::call::{Caller, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::id::AppId;
use dodai_core::snapshot::{App, Resource};
use dodai_proto::apps::dapr::proto::common::v1::job_failure_policy::Policy;
use dodai_proto::apps::dapr::proto::common::v1::{JobFailurePolicy, JobFailurePolicyDrop};
use dodai_proto::apps::dapr::proto::runtime::v1::*;
use dodai_runtime::Settings;
use http::StatusCode;
use prost_types::Any;
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::Code;

use crate::callbacks::{SERVICE, answered, message, refused};
use crate::grpc::{dapr, reason};
use crate::world::{World, app, blocks, reply};

/// 2026-01-01T00:00:00Z.
fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

struct Test {
    world: World,
    clock: Clock,
    store: Arc<dyn Store>,
}

impl Test {
    async fn new() -> Test {
        Test::with(blocks(), Arc::new(Memory::default()), Clock::manual(start())).await
    }

    async fn with(resources: Vec<Resource>, store: Arc<dyn Store>, clock: Clock) -> Test {
        let settings =
            Settings { jobs: Some(store.clone()), clock: clock.clone(), max_jobs: 3, ..Settings::default() };
        Test { world: World::with(resources, settings, |_| {}).await, clock, store }
    }

    async fn schedule(&self, name: &str, body: Value) {
        let told = self.world.cart("POST", &format!("/v1.0/jobs/{name}"), &body.to_string()).await;
        assert_eq!((told.status, told.body.as_str()), (204, ""), "{name}");
    }

    fn ready(&self) {
        self.world.runtime.app_ready(&app("shop/cart"), true);
    }

    fn runs(&self) -> usize {
        self.world.seen_at("/job/").len()
    }

    /// Moves the clock, and waits until so many runs have been begun in all.
    async fn advance(&self, by: Duration, runs: usize) {
        self.clock.advance(by);
        self.world.until(&format!("{runs} runs"), || self.runs() >= runs).await;
        self.settle().await;
        assert_eq!(self.runs(), runs);
    }

    /// The app begins to answer each run, and works on until what is given here ends the answer.
    fn works_on(&self) -> Arc<Mutex<Vec<Writer>>> {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let begun = answers.clone();
        self.world.script(move |_| {
            let (answer, body) = pipe(1, None);
            begun.lock().expect("not poisoned").push(answer);
            let mut reply = Reply::new(StatusCode::OK, "");
            reply.body = body;
            Ok(reply)
        });
        answers
    }

    /// Lets everything happen that would happen without the clock.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(600)).await;
    }

    async fn owners(&self, only: Option<&AppId>) -> Vec<String> {
        let all = self.world.runtime.jobs(only).await.expect("told").into_iter();
        all.map(|job| format!("{} {}", job.app, job.name)).collect()
    }

    async fn status(&self) -> Vec<(String, u64, u32, Option<String>)> {
        let all = self.world.runtime.jobs(None).await.expect("told").into_iter();
        let after = |at: SystemTime| at.duration_since(start()).expect("later").as_secs();
        all.map(|job| (job.name, after(job.next), job.ticks, job.problem)).collect()
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Jobs that several sidecars share, and a gate in the way of those that look for what is due.
struct Shared {
    memory: Memory,
    gate: watch::Sender<bool>,
}

impl Shared {
    fn new() -> Arc<Shared> {
        Arc::new(Shared { memory: Memory::default(), gate: watch::Sender::new(true) })
    }
}

impl Store for Shared {
    fn put(&self, app: &str, record: Record, overwrite: bool, most: usize) -> Answer<'_, Result<(), Error>> {
        self.memory.put(app, record, overwrite, most)
    }

    fn get(&self, app: &str, name: &str) -> Answer<'_, Result<Option<Record>, Fault>> {
        self.memory.get(app, name)
    }

    fn list(&self, app: &str, data: Option<usize>) -> Answer<'_, Result<Vec<Record>, Error>> {
        self.memory.list(app, data)
    }

    fn apps(&self) -> Answer<'_, Result<Vec<String>, Fault>> {
        self.memory.apps()
    }

    fn delete(&self, app: &str, which: Which) -> Answer<'_, Result<(), Fault>> {
        self.memory.delete(app, which)
    }

    fn due(&self, app: &str, now_ms: i64, most: usize, but: Vec<String>) -> Answer<'_, Result<Due, Fault>> {
        let app = app.to_owned();
        Answer::later(async move {
            let due = self.memory.due(&app, now_ms, most, but).await;
            let mut gate = self.gate.subscribe();
            gate.wait_for(|open| *open).await.map(|_| ()).expect("the gate stays");
            due
        })
    }

    fn settle(
        &self,
        app: &str,
        record: &Record,
        progress: Option<Progress>,
    ) -> Answer<'_, Result<(), Fault>> {
        self.memory.settle(app, record, progress)
    }

    fn hold(&self, app: &str) -> Answer<'_, Result<Option<Hold>, Fault>> {
        self.memory.hold(app)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_when_it_is_due_and_then_is_gone() {
    let test = Test::new().await;
    test.ready();
    let body = json!({ "dueTime": "10s", "data": { "n": 1 }, "failurePolicy": {} });
    test.schedule("a%20job", body).await;
    let told = test.world.cart("GET", "/v1.0-alpha1/jobs/a%20job", "").await.json();
    let policy = json!({ "constant": { "interval": "1s", "maxRetries": 3 } });
    let data = json!({ "@type": "type.googleapis.com/google.protobuf.Value", "value": { "n": 1 } });
    assert_eq!(told, json!({ "name": "a job", "dueTime": "10s", "data": data, "failurePolicy": policy }));
    assert_eq!(test.status().await, [("a job".to_owned(), 10, 0, None)]);
    test.advance(SECOND * 9, 0).await;
    test.advance(SECOND, 1).await;
    let run = test.world.seen_at("/job/").remove(0);
    assert_eq!(
        (run.method.as_str(), run.path.as_str(), &*run.body),
        ("POST", "/job/a%20job", &br#"{"n":1}"#[..])
    );
    assert_eq!(
        (run.caller, run.headers["content-type"].as_bytes()),
        (Caller::Base, &b"application/json"[..])
    );
    assert_eq!(test.status().await, []);
    test.advance(SECOND * 3600, 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_an_app_does_not_take_is_tried_again() {
    let test = Test::new().await;
    test.world.script(|_| reply(500, ""));
    test.ready();
    test.schedule("j", json!({ "schedule": "@every 60s" })).await;
    test.advance(SECOND * 60, 1).await;
    assert_eq!(test.status().await, [("j".to_owned(), 61, 0, Some("the app answered 500".to_owned()))]);
    for runs in 2..=4 {
        test.advance(SECOND, runs).await;
    }
    assert_eq!(test.status().await, [("j".to_owned(), 120, 1, Some("the app answered 500".to_owned()))]);
    test.advance(SECOND * 10, 4).await;
    // 404 is the last word, as with daprd, and so is a policy that drops.
    test.world.script(|_| reply(404, ""));
    test.advance(SECOND * 47, 5).await;
    assert_eq!(test.status().await, [("j".to_owned(), 180, 2, Some("the app answered 404".to_owned()))]);
    test.world.script(|_| reply(503, ""));
    let body = json!({ "due_time": "0s", "overwrite": true, "failure_policy": { "drop": {} } });
    test.schedule("j", body).await;
    test.advance(SECOND, 6).await;
    assert_eq!(test.status().await, []);
}

#[tokio::test(start_paused = true)]
async fn what_fell_due_while_nobody_ran_is_one_late_run() {
    let (store, clock): (Arc<dyn Store>, _) = (Arc::new(Memory::default()), Clock::manual(start()));
    let test = Test::with(blocks(), store.clone(), clock.clone()).await;
    test.schedule("often", json!({ "schedule": "@every 10s" })).await;
    test.schedule("once", json!({ "dueTime": "2026-01-01T00:30:00Z" })).await;
    test.world.runtime.close(SECOND).await;
    drop(test);
    clock.advance(Duration::from_secs(3_605));
    let test = Test::with(blocks(), store, clock).await;
    test.settle().await;
    assert_eq!(test.runs(), 0, "an app that is not ready is left alone");
    test.ready();
    test.advance(Duration::ZERO, 2).await;
    assert_eq!(test.status().await, [("often".to_owned(), 3_610, 1, None)]);
    test.advance(SECOND * 5, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_app_cannot_be_reached_stays_due() {
    let test = Test::new().await;
    test.world.script(|_| Err(Failure::new(Kind::Connect, "nobody listens")));
    test.ready();
    test.schedule("j", json!({ "dueTime": "1s", "failurePolicy": { "drop": {} } })).await;
    test.clock.advance(SECOND);
    test.world.until("tried often", || test.runs() > 20).await;
    assert_eq!(test.status().await, [("j".to_owned(), 1, 0, None)]);
    test.world.script(|_| reply(200, ""));
    test.settle().await;
    assert_eq!(test.status().await, []);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_reach_the_app_leaves_its_jobs_to_others() {
    let (store, clock) = (Shared::new(), Clock::manual(start()));
    let dead = Test::with(blocks(), store.clone(), clock.clone()).await;
    dead.world.script(|_| Err(Failure::new(Kind::Connect, "nobody listens")));
    dead.ready();
    dead.schedule("j", json!({ "dueTime": "1s", "failurePolicy": { "drop": {} } })).await;
    clock.advance(SECOND);
    dead.world.until("it has the jobs", || dead.runs() > 0).await;
    let well = Test::with(blocks(), store, clock).await;
    well.ready();
    well.world.until("the other runs it", || well.runs() == 1).await;
    well.settle().await;
    assert_eq!((well.runs(), well.status().await), (1, Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn no_run_begins_once_the_app_is_not_ready_or_the_base_stops() {
    for stops in [false, true] {
        let store = Shared::new();
        let test = Test::with(blocks(), store.clone(), Clock::manual(start())).await;
        test.schedule("j", json!({ "dueTime": "1s" })).await;
        test.clock.advance(SECOND);
        store.gate.send_replace(false);
        test.ready();
        test.settle().await;
        let closing = async {
            match stops {
                true => test.world.runtime.close(SECOND * 5).await,
                false => test.world.runtime.app_ready(&app("shop/cart"), false),
            }
        };
        let opening = async {
            tokio::time::sleep(SECOND).await;
            store.gate.send_replace(true);
        };
        tokio::join!(closing, opening);
        test.settle().await;
        assert_eq!(test.runs(), 0, "stops: {stops}");
        assert!(store.get("shop/cart", "j").await.expect("read").is_some(), "it stays due");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_may_take_long_and_one_runner_at_a_time_runs_it() {
    let test = Test::new().await;
    let answers = test.works_on();
    test.ready();
    test.schedule("slow", json!({ "schedule": "@every 10s" })).await;
    test.clock.advance(SECOND * 10);
    test.world.until("it runs", || test.runs() == 1).await;
    // The app changes what it speaks and back, which makes new runners.
    for grpc_callbacks in [true, false] {
        let mut resources = blocks();
        resources.push(Resource::App(App { grpc_callbacks, ..App::new(app("shop/cart")) }));
        test.world.apply(resources).await;
        test.settle().await;
    }
    tokio::time::sleep(SECOND * 1_800).await;
    assert_eq!(test.runs(), 1, "half an hour is not too long");
    assert_eq!(test.status().await, [("slow".to_owned(), 10, 0, None)]);
    for answer in answers.lock().expect("not poisoned").drain(..) {
        answer.finish(None);
    }
    test.settle().await;
    assert_eq!(test.status().await, [("slow".to_owned(), 20, 1, None)]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_did_not_reach_the_app_is_no_failure() {
    for kind in [Kind::BreakerOpen, Kind::QueueFull, Kind::Shed, Kind::Refused, Kind::Tls] {
        let test = Test::new().await;
        test.world.script(move |_| Err(Failure::new(kind, "it did not get there")));
        test.ready();
        test.schedule("j", json!({ "dueTime": "1s", "failurePolicy": { "drop": {} } })).await;
        test.clock.advance(SECOND);
        test.world.until("tried often", || test.runs() > 3).await;
        assert_eq!(test.status().await, [("j".to_owned(), 1, 0, None)], "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_run_of_a_job_is_under_way_at_a_time() {
    let test = Test::new().await;
    let answers = test.works_on();
    test.ready();
    test.schedule("slow", json!({ "schedule": "@every 10s" })).await;
    test.schedule("other", json!({ "dueTime": "10s" })).await;
    test.clock.advance(SECOND * 10);
    test.world.until("both run at once", || test.runs() == 2).await;
    test.clock.advance(SECOND * 25);
    tokio::time::sleep(SECOND * 30).await;
    assert_eq!(test.runs(), 2, "the first is not over");
    for answer in answers.lock().expect("not poisoned").drain(..) {
        answer.finish(None);
    }
    test.settle().await;
    assert_eq!(test.status().await, [("slow".to_owned(), 40, 1, None)]);
    test.advance(SECOND * 5, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_replaced_or_deleted_runs_no_more() {
    let test = Test::new().await;
    test.ready();
    test.schedule("j", json!({ "dueTime": "10s" })).await;
    let again = test.world.cart("POST", "/v1.0/jobs/j", r#"{"dueTime":"1s"}"#).await;
    assert_eq!(again.error(), (409, "DAPR_SCHEDULER_SCHEDULE_JOB".to_owned()));
    assert!(again.body.contains("job `j` exists already; set overwrite"), "{}", again.body);
    test.schedule("j", json!({ "dueTime": "20s", "overwrite": true })).await;
    test.advance(SECOND * 10, 0).await;
    for _ in 0..2 {
        assert_eq!(test.world.cart("DELETE", "/v1.0/jobs/j", "").await.status, 204, "gone is gone");
    }
    test.advance(SECOND * 60, 0).await;
    assert_eq!(
        test.world.cart("GET", "/v1.0/jobs/j", "").await.error(),
        (500, "DAPR_SCHEDULER_GET_JOB".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn jobs_of_one_app_are_its_own_and_have_a_bound() {
    let test = Test::new().await;
    for name in ["a", "b", "c"] {
        test.schedule(name, json!({ "schedule": "@daily" })).await;
    }
    let full = test.world.cart("POST", "/v1.0/jobs/d", r#"{"schedule":"@daily"}"#).await;
    assert_eq!(full.error(), (429, "DAPR_SCHEDULER_SCHEDULE_JOB".to_owned()));
    test.schedule("a", json!({ "schedule": "@daily", "overwrite": true })).await;
    let other = test.world.send("shop/other", "POST", "/v1.0/jobs/a", &[], r#"{"schedule":"@daily"}"#).await;
    assert_eq!(other.status, 204);
    assert_eq!(test.owners(None).await, ["shop/cart a", "shop/cart b", "shop/cart c", "shop/other a"]);
    let other = app("shop/other");
    assert_eq!(test.owners(Some(&other)).await, ["shop/other a"]);
    let forget = async |app, name| test.world.runtime.forget_job(app, name).await.expect("forgotten");
    assert!(!forget(&other, "b").await);
    assert!(forget(&other, "a").await);
    assert!(!forget(&other, "a").await);
    assert_eq!(test.owners(Some(&other)).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn jobs_of_an_app_that_is_not_here_are_told_and_can_be_forgotten() {
    let store = Arc::new(Memory::default());
    let gone = app("shop/gone");
    let (name, schedule) = ("j".to_owned(), Some("@daily".to_owned()));
    let job = jobs::Job { name, schedule, ..jobs::Job::default() };
    let record = job.start("id".to_owned(), 0).expect("a job");
    store.put(&gone.to_string(), record, false, 1).await.expect("kept");
    let test = Test::with(blocks(), store, Clock::manual(start())).await;
    assert_eq!(test.owners(None).await, ["shop/gone j"]);
    assert!(test.world.runtime.forget_job(&gone, "j").await.expect("forgotten"));
    assert_eq!(test.owners(None).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_job_is_refused_in_daprs_words() {
    let test = Test::new().await;
    for (path, body, code, words) in [
        ("j", "{}", "DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty"),
        ("%20", r#"{"schedule":"@daily"}"#, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty"),
        (
            "j",
            r#"{"name":"x","schedule":"@daily"}"#,
            "DAPR_SCHEDULER_JOB_NAME",
            "Set the job name in the url only",
        ),
        (
            "j",
            r#"{"schedule":"often"}"#,
            "DAPR_SCHEDULER_SCHEDULE_JOB",
            "failed to schedule job due to: `often`",
        ),
        ("%20j", r#"{"dueTime":"1s"}"#, "DAPR_SCHEDULER_SCHEDULE_JOB", "no blanks at its ends"),
        ("j", r#"{"schedule":"@every 1ms"}"#, "DAPR_SCHEDULER_SCHEDULE_JOB", "1s or more"),
        ("j", r#"{"dueTime":"1s","data":1e999}"#, "ERR_MALFORMED_REQUEST", "number out of range"),
        (
            "j",
            r#"{"dueTime":"1s","failurePolicy":{"drop":{},"constant":{}}}"#,
            "ERR_MALFORMED_REQUEST",
            "drop or constant",
        ),
        ("a%2Fb", r#"{"dueTime":"1s"}"#, "DAPR_SCHEDULER_SCHEDULE_JOB", "none of / \\\\ # ?"),
        ("j", r#"{"dueTime":"soon"}"#, "DAPR_SCHEDULER_SCHEDULE_JOB", "dueTime `soon` is no time"),
        ("j", "", "ERR_MALFORMED_REQUEST", "EOF"),
        ("j", "[{}]", "ERR_MALFORMED_REQUEST", "expected an object"),
        ("j", r#"{"schedule":"@daily","repeats":-1}"#, "ERR_MALFORMED_REQUEST", "-1"),
        (
            "j",
            r#"{"schedule":"@daily","failurePolicy":{"constant":{"interval":"soon"}}}"#,
            "ERR_MALFORMED_REQUEST",
            "interval is no duration",
        ),
    ] {
        let told = test.world.cart("POST", &format!("/v1.0/jobs/{path}"), body).await;
        assert_eq!(told.error(), (400, code.to_owned()), "{body}");
        assert!(told.body.contains(words), "{body}: {}", told.body);
    }
    assert_eq!(test.status().await, []);
    let mut dapr = dapr(&test.world);
    let empty = dapr.schedule_job(ScheduleJobRequest::default()).await.expect_err("no job");
    assert_eq!(
        (empty.code(), empty.message(), reason(&empty).as_str()),
        (Code::InvalidArgument, "Job is empty", "DAPR_SCHEDULER_EMPTY")
    );
    let unnamed = dapr.get_job(GetJobRequest::default()).await.expect_err("no name");
    assert_eq!(
        (unnamed.code(), reason(&unnamed).as_str()),
        (Code::InvalidArgument, "DAPR_SCHEDULER_JOB_NAME_EMPTY")
    );
    let missing = dapr.get_job(GetJobRequest { name: "x".to_owned() }).await.expect_err("no job");
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::Internal, "DAPR_SCHEDULER_GET_JOB"));
}

#[tokio::test(start_paused = true)]
async fn jobs_that_are_too_much_for_one_message_are_not_listed() {
    let test = Test::new().await;
    // Each of these numbers is two bytes as JSON, and more than ten as a message.
    let data = vec![0; 400_000];
    test.schedule("long", json!({ "schedule": "@daily", "data": data })).await;
    let refused = dapr(&test.world).list_jobs(ListJobsRequest {}).await.expect_err("too much");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("get them by name"), "{refused}");
}

fn job(name: &str) -> Job {
    Job { name: name.to_owned(), schedule: Some("@every 1m".to_owned()), ..Job::default() }
}

fn wish(job: Job) -> ScheduleJobRequest {
    ScheduleJobRequest { job: Some(job), overwrite: false }
}

#[tokio::test(start_paused = true)]
#[expect(deprecated, reason = "older clients call these names")]
async fn jobs_over_grpc_by_both_names() {
    let test = Test::new().await;
    let mut dapr = dapr(&test.world);
    let data = Some(Any { type_url: "type.googleapis.com/x.Y".to_owned(), value: vec![1, 255] });
    let policy = Some(JobFailurePolicy { policy: Some(Policy::Drop(JobFailurePolicyDrop {})) });
    let whole = Job {
        repeats: Some(2),
        due_time: Some("1s".to_owned()),
        ttl: Some("1h".to_owned()),
        data,
        failure_policy: policy,
        ..job("whole")
    };
    dapr.schedule_job(wish(whole.clone())).await.expect("kept");
    let again = dapr.schedule_job_alpha1(wish(whole.clone())).await.expect_err("there is one");
    assert_eq!((again.code(), reason(&again).as_str()), (Code::AlreadyExists, "DAPR_SCHEDULER_SCHEDULE_JOB"));
    dapr.schedule_job_alpha1(ScheduleJobRequest { overwrite: true, ..wish(whole.clone()) })
        .await
        .expect("kept");
    let name = || GetJobRequest { name: "whole".to_owned() };
    assert_eq!(dapr.get_job(name()).await.expect("got").into_inner().job, Some(whole.clone()));
    assert_eq!(dapr.get_job_alpha1(name()).await.expect("got").into_inner().job, Some(whole));
    dapr.schedule_job(wish(job("other"))).await.expect("kept");
    let names = |jobs: Vec<Job>| jobs.into_iter().map(|job| job.name).collect::<Vec<_>>();
    let listed = dapr.list_jobs(ListJobsRequest {}).await.expect("listed").into_inner().jobs;
    assert_eq!(names(listed), ["other", "whole"]);
    let prefix = DeleteJobsByPrefixRequest { name_prefix: Some("wh".to_owned()) };
    dapr.delete_jobs_by_prefix(prefix).await.expect("deleted");
    let listed = dapr.list_jobs_alpha1(ListJobsRequestAlpha1 {}).await.expect("listed").into_inner().jobs;
    assert_eq!(names(listed), ["other"]);
    dapr.delete_job(DeleteJobRequest { name: "none".to_owned() }).await.expect("nothing to do");
    dapr.delete_job_alpha1(DeleteJobRequest { name: "other".to_owned() }).await.expect("deleted");
    dapr.schedule_job(wish(job("last"))).await.expect("kept");
    dapr.delete_jobs_by_prefix_alpha1(DeleteJobsByPrefixRequestAlpha1 { name_prefix: None })
        .await
        .expect("all");
    assert_eq!(test.status().await, []);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_speaks_grpc_is_told_by_either_name() {
    let mut resources = blocks();
    resources.push(Resource::App(App { grpc_callbacks: true, ..App::new(app("shop/cart")) }));
    let test = Test::with(resources, Arc::new(Memory::default()), Clock::manual(start())).await;
    let both = |world: &World| {
        world.seen().into_iter().filter(|seen| seen.path.contains("JobEvent")).collect::<Vec<_>>()
    };
    test.world.script_all(|seen| match seen.path.rsplit('/').next() {
        // Newer apps know the first of the two, older ones the second.
        Some("OnJobEventAlpha1") => answered(&JobEventResponse {}),
        _ => refused("12"),
    });
    test.ready();
    let long = json!({ "dueTime": "1h", "data": vec![0; 500_000] }).to_string();
    let told = test.world.cart("POST", "/v1.0/jobs/long", &long).await;
    assert_eq!(told.error(), (400, "DAPR_SCHEDULER_SCHEDULE_JOB".to_owned()));
    assert!(told.body.contains("at most 4194304 reach the app"), "{}", told.body);
    test.schedule("j", json!({ "schedule": "@every 1s", "data": "x", "repeats": 2 })).await;
    test.clock.advance(SECOND);
    test.world.until("told", || both(&test.world).len() == 2).await;
    let event: JobEventRequest = message(&both(&test.world)[1]);
    assert_eq!((event.name.as_str(), event.method.as_str()), ("j", "job/j"));
    assert_eq!(event.content_type, "type.googleapis.com/google.protobuf.Value");
    assert_eq!(event.data.expect("data").type_url, event.content_type);
    test.settle().await;
    test.world.script_all(|seen| {
        if seen.path == format!("{SERVICE}OnJobEvent") { refused("5") } else { refused("12") }
    });
    test.clock.advance(SECOND);
    test.world.until("told", || both(&test.world).len() == 3).await;
    test.settle().await;
    assert_eq!(test.status().await, [], "NotFound is not tried again");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_makes_no_storm_and_loses_nothing() {
    let test = Test::new().await;
    test.ready();
    test.schedule("j", json!({ "schedule": "@every 10s" })).await;
    test.advance(SECOND * 10, 1).await;
    test.advance(SECOND * 86_400, 2).await;
    // A restart with a clock of an hour ago.
    let Test { world, store, .. } = test;
    world.runtime.close(SECOND).await;
    let clock = Clock::manual(start() + SECOND * (86_410 - 3_600));
    let test = Test::with(blocks(), store, clock).await;
    test.ready();
    test.settle().await;
    test.advance(SECOND * 9, 0).await;
    test.advance(SECOND, 1).await;
    test.advance(SECOND * 10, 2).await;
}

//! A component that moves from one Redis to another while calls go through it: none fails, and a change that cannot be
//! made leaves it where it was.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use dodai_core::body::Body;
use dodai_core::call::{Answer, Call, Caller, Context, Door, Reply};
use dodai_core::id::{AppId, Name};
use dodai_core::snapshot::{App, Component, Resource, Setting, Snapshot, Value};
use dodai_core::status::Health;
use dodai_core::task::Tasks;
use dodai_core::trace::Span;
use dodai_runtime::{Runtime, Settings};
use http::{Request, StatusCode};

/// A `redis-server` that ends with the test.
struct Redis(Child, u16);

impl Redis {
    /// One whose value of `mark` tells which one it is.
    fn start(mark: &str) -> Redis {
        let port = free_port();
        let mut server = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server runs (Debian package redis-server)");
        let lines = BufReader::new(server.stdout.take().expect("piped")).lines();
        let ready = lines.map_while(Result::ok).any(|line| line.contains("Ready to accept connections"));
        assert!(ready, "redis-server ended before it was ready");
        let set = ["HSET", "cart||mark", "data", mark, "version", "1"];
        let set = Command::new("redis-cli").args(["-p", &port.to_string()]).args(set).output();
        assert_eq!(set.expect("redis-cli runs (it comes with redis-server)").stdout, b"2\n");
        Redis(server, port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it has ended");
    }
}

fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.local_addr().expect("bound").port()
}

/// Nobody is behind it.
struct Nowhere;

impl Door for Nowhere {
    fn enter(&self, _: Call) -> Answer<'_> {
        Box::pin(async { Ok(Reply::new(StatusCode::NOT_FOUND, "")) })
    }
}

fn shop() -> AppId {
    AppId::parse("shop/cart").expect("an app")
}

/// A state store in the Redis at that port.
fn wanted(port: u16) -> Snapshot {
    let setting = |name: &str, value: String| Setting { name: name.to_owned(), value: Value::Plain(value) };
    let component = Component {
        namespace: Name::new("shop").expect("a name"),
        name: "db".to_owned(),
        driver: "state.redis".to_owned(),
        version: "v1".to_owned(),
        settings: vec![
            setting("redisHost", format!("127.0.0.1:{port}")),
            setting("redisMaxRetries", "-1".to_owned()),
        ],
        scopes: Vec::new(),
        ignore_errors: false,
        init_timeout: Duration::from_secs(5),
        inbound: Default::default(),
        outbound: Default::default(),
    };
    Snapshot::of(1, [Resource::Component(component), Resource::App(App::new(shop()))])
}

fn runtime(tasks: &Tasks) -> Runtime {
    let mut registry = dodai_capability::component::Registry::new();
    let folders = dodai_drivers::Folders { data: PathBuf::new(), project: PathBuf::new() };
    let environment = Arc::new(BTreeMap::new());
    dodai_drivers::register(&mut registry, environment.clone(), &folders);
    Runtime::new(registry, Arc::new(Nowhere), environment, PathBuf::new(), Settings::default(), tasks)
}

async fn call(runtime: &Runtime, method: &str, path: &str, body: String) -> (u16, String) {
    let (head, ()) = Request::builder().method(method).uri(path).body(()).expect("a request").into_parts();
    let context = Context::new(Caller::App(shop()), Span::root(false));
    let reply = runtime.api(&shop()).serve(Call { head, body: Body::full(body), context }).await;
    let reply = reply.expect("an answer");
    let body = reply.body.collect(usize::MAX).await.expect("a whole body");
    (reply.head.status.as_u16(), String::from_utf8_lossy(&body).into_owned())
}

async fn until(runtime: &Runtime, what: &str, condition: impl Fn(&Health) -> bool) {
    let come = async {
        while !runtime.health().get("shop/db").is_some_and(&condition) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), come).await;
    assert!(waited.is_ok(), "never {what}: {:?}", runtime.health());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_while_a_component_moves_and_a_bad_change_leaves_it() {
    let (one, two) = (Redis::start("\"one\""), Redis::start("\"two\""));
    let tasks = Tasks::new();
    let runtime = runtime(&tasks);
    runtime.apply(&wanted(one.1));
    until(&runtime, "up", |health| health.ready).await;
    let (stop, calls) = (AtomicBool::new(false), AtomicU32::new(0));
    let worker = async |worker: u32| {
        let mut at = 0_u32;
        while !stop.load(SeqCst) {
            let body = format!(r#"[{{"key":"k-{worker}-{at}","value":{at}}}]"#);
            let (status, told) = call(&runtime, "POST", "/v1.0/state/db", body).await;
            assert_eq!(status, 204, "{told}");
            let (status, told) = call(&runtime, "GET", "/v1.0/state/db/mark", String::new()).await;
            assert_eq!(status, 200, "{told}");
            calls.fetch_add(2, SeqCst);
            at += 1;
        }
    };
    let more = async |count: u32| {
        let before = calls.load(SeqCst);
        while calls.load(SeqCst) < before + count {
            tokio::task::yield_now().await;
        }
    };
    let moves = async {
        for round in 0..10 {
            let (redis, mark) = if round % 2 == 0 { (&two, "\"two\"") } else { (&one, "\"one\"") };
            runtime.apply(&wanted(redis.1));
            let moved = async {
                while call(&runtime, "GET", "/v1.0/state/db/mark", String::new()).await.1 != mark {}
            };
            tokio::time::timeout(Duration::from_secs(20), moved).await.expect("it moves");
            more(100).await;
        }
        // Nobody listens there: the one before serves on, and it is said why.
        let nobody = free_port();
        runtime.apply(&wanted(nobody));
        until(&runtime, "refused", |health| health.reason.contains(&format!("127.0.0.1:{nobody}"))).await;
        let health = runtime.health()["shop/db"].clone();
        assert!(health.ready && health.reason.starts_with("a change was refused"), "{}", health.reason);
        more(200).await;
        let (_, mark) = call(&runtime, "GET", "/v1.0/state/db/mark", String::new()).await;
        assert_eq!(mark, "\"one\"");
        stop.store(true, SeqCst);
    };
    tokio::join!(worker(0), worker(1), worker(2), worker(3), moves);
    runtime.apply(&wanted(one.1));
    until(&runtime, "mended", |health| health.ready && health.reason.is_empty()).await;
    runtime.close(Duration::from_secs(5)).await;
}

//! A host with the hello guest, and calls to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dodai_capability::state::Store;
use dodai_core::body::{Body, Writer};
use dodai_core::call::{Answer, Call, Caller, Context, Door, Reply, Serve};
use dodai_core::failure::{Failure, Kind};
use dodai_core::id::{AppId, InstanceId};
use dodai_core::snapshot::ModuleSpec;
use dodai_core::task::Tasks;
use dodai_core::trace::Span;
use dodai_modules::*;

/// The longest that any wait of a test may take; reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn hello_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello/artifacts/hello-v1.wasm")
}

pub fn hello() -> Vec<u8> {
    std::fs::read(hello_path()).expect("examples/hello is built")
}

/// The guest for WASI 0.3.
pub fn hello_async() -> Vec<u8> {
    let path = "../../examples/hello-async/artifacts/hello-async.wasm";
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("examples/hello-async is built")
}

/// One host for all tests that do not look at the host itself: the guest is compiled once.
pub fn host() -> &'static Host {
    static HOST: LazyLock<Host> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("modules");
        let host = Host::open(HostOptions::new(folder), &Tasks::new()).expect("a host");
        host.artifacts().put(&hello()).expect("stored");
        host.artifacts().put(&hello_async()).expect("stored");
        host
    });
    &HOST
}

pub fn spec() -> ModuleSpec {
    ModuleSpec {
        artifact: digest_of(&hello()),
        reuse: false,
        max_concurrency: 16,
        memory: 64 << 20,
        wall_time: Duration::from_secs(20),
        cpu_time: Duration::from_secs(10),
        allowed_hosts: vec!["allowed.example".to_owned()],
        config: Vec::new(),
        keyvalue: BTreeMap::from([("state".to_owned(), "memory".to_owned())]),
    }
}

pub fn new_instance() -> InstanceId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    InstanceId::new(format!("hello-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

pub fn app() -> AppId {
    AppId::parse("default/hello").expect("valid")
}

/// What a module under test reaches, with a record of it.
pub struct World {
    pub lines: Mutex<Vec<(Stream, String)>>,
    pub calls: Mutex<Vec<(http::request::Parts, Context)>>,
    pub store: Arc<dyn Store>,
    /// Where two outbound calls to `/meet` wait for one another.
    pub meeting: tokio::sync::Barrier,
}

impl Default for World {
    fn default() -> World {
        let store = Arc::new(dodai_capability::memory::State::new(1 << 20));
        World {
            lines: Mutex::default(),
            calls: Mutex::default(),
            store,
            meeting: tokio::sync::Barrier::new(2),
        }
    }
}

impl World {
    pub fn seams(self: &Arc<World>) -> Seams {
        let config = BTreeMap::from([("greeting".to_owned(), "hei".to_owned())]);
        Seams {
            door: self.clone(),
            names: self.clone(),
            config: Arc::new(config),
            keyvalue: self.clone(),
            logs: self.clone(),
            environment: Vec::new(),
        }
    }

    pub fn lines_of(&self, stream: Stream) -> Vec<String> {
        let lines = self.lines.lock().expect("sound");
        lines.iter().filter(|(of, _)| *of == stream).map(|(_, line)| line.clone()).collect()
    }
}

impl LogSink for World {
    fn line(&self, stream: Stream, line: &str) {
        self.lines.lock().expect("sound").push((stream, line.to_owned()));
    }
}

impl MeshNames for World {
    fn is_mesh_name<'a>(&'a self, _app: &'a AppId, host: &'a str) -> dodai_modules::Known<'a> {
        Box::pin(std::future::ready(!host.contains('.')))
    }
}

impl Door for World {
    fn enter(&self, call: Call) -> Answer<'_> {
        let path = call.head.uri.path().to_owned();
        let body = call.body;
        self.calls.lock().expect("sound").push((call.head, call.context));
        Box::pin(async move {
            if path == "/length" {
                let length = body.collect(16 << 20).await?.len();
                return Ok(Reply::new(http::StatusCode::OK, format!("{length} bytes")));
            }
            if path == "/down" {
                return Err(Failure::new(Kind::NoEndpoint, "shop has no ready instance"));
            }
            if path == "/meet" {
                self.meeting.wait().await;
            }
            Ok(Reply::new(http::StatusCode::OK, format!("you asked for {path}")))
        })
    }
}

impl KeyValue for World {
    fn open(&self, app: &AppId, component: &str) -> Pending<'_, Arc<dyn Bucket>> {
        let prefix = format!("{}||", app.name);
        let bucket: Result<Arc<dyn Bucket>, _> = match component {
            "memory" => Ok(Arc::new(StateBucket::new(self.store.clone(), prefix))),
            _ => Err(KeyValueError::NoSuchStore),
        };
        Box::pin(std::future::ready(bucket))
    }
}

/// A module of `spec` in the shared host, with a world of its own.
pub async fn install(spec: ModuleSpec) -> (Arc<Module>, Arc<World>) {
    let world = Arc::new(World::default());
    let module = host().install(new_instance(), app(), spec, world.seams()).await.expect("installed");
    (module, world)
}

pub fn call(target: &str) -> Call {
    call_with(target, Body::empty())
}

pub fn call_with(target: &str, body: Body) -> Call {
    let (head, ()) =
        http::Request::get(format!("http://hello{target}")).body(()).expect("valid").into_parts();
    Call { head, body, context: Context::new(Caller::Outside, Span::root(false)) }
}

pub async fn get(module: &Module, target: &str) -> Result<(u16, String), Failure> {
    let reply = tokio::time::timeout(PATIENCE, module.serve(call(target))).await.expect("in time")?;
    let status = reply.head.status.as_u16();
    let bytes = reply.body.collect(16 << 20).await?;
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

/// Sends a chunk to a guest that sends back what it gets, and waits until all of it is back.
pub async fn echoed(writer: &mut Writer, reply: &mut Reply, chunk: Bytes) {
    writer.send(chunk.clone()).await.expect("the guest reads");
    let mut back = Vec::new();
    while back.len() < chunk.len() {
        let frame = reply.body.frame().await.expect("more").expect("whole");
        back.extend_from_slice(&frame.into_data().expect("data"));
    }
    assert_eq!(back, chunk);
}

/// Waits until `condition` holds, looking again whenever other tasks had their turn.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not come about");
}

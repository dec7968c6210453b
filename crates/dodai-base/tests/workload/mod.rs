//! A base that is told snapshots and runs their workloads: modules in it, processes beside it.
#![expect(
    clippy::unwrap_used,
    reason = "the lint's exception for tests does not reach their shared functions"
)]

mod follow;
mod module;
mod native;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dodai_base::node::{Base, Config, Source};
use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Serve};
use dodai_core::failure::Failure;
use dodai_core::id::{AppId, BaseId, Digest, InstanceId, Name, RevisionId};
use dodai_core::snapshot::{
    App, Component, Limits, ModuleSpec, Probes, ProcessSpec, Protocol, Resource, Restart, ServicePort,
    Setting, Shape, Snapshot, Value, Workload,
};
use dodai_core::status::{InstanceStatus, Link, Phase, Status, Wants};
use dodai_core::task::Tasks;
use dodai_core::trace::Span;
use dodai_modules::StateBucket;
use tempfile::TempDir;
use tokio::sync::watch;

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// The only app of these tests.
const APP: &str = "default/hello";

/// A running base and the far end of its link.
struct Node {
    base: Base,
    snapshots: watch::Sender<Arc<Snapshot>>,
    status: watch::Receiver<Status>,
    folder: TempDir,
    began: Instant,
}

impl Node {
    async fn new() -> Node {
        Node::fed_by(None).await
    }

    /// One that gets artefacts from elsewhere.
    async fn fed_by(artifacts: Option<Arc<dyn Source>>) -> Node {
        let folder = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let id = BaseId::new("local");
        let (snapshots, told) = watch::channel(Arc::new(Snapshot::default()));
        let (report, status) = watch::channel(Status::default());
        let config = Config {
            base: id.clone(),
            data_dir: folder.path().join("data"),
            project_dir: folder.path().to_owned(),
            executable: vec![crate::process::example("activation").into()],
            threads: 1,
            limits: dodai_dataplane::limits::Limits::default(),
            sinks: Vec::new(),
            sample_per_ten_thousand: 0,
            environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            wants: Wants::All,
            membership: None,
            artifacts,
            runtime: dodai_runtime::Settings::default(),
            components_dir: None,
        };
        let link = Link { base: id, snapshots: told, status: report };
        let base = Base::start(config, link, &tasks).await.unwrap();
        Node { base, snapshots, status, folder, began: Instant::now() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Stores the module that the tests use.
    fn hello(&self) -> Digest {
        self.base.parts().modules.artifacts().put(&hello()).unwrap()
    }

    /// Tells the base what it should be.
    fn tell(&self, resources: impl IntoIterator<Item = Resource>) {
        let version = self.snapshots.borrow().version + 1;
        let app = Resource::App(App::new(app()));
        let snapshot = Snapshot::of(version, std::iter::once(app).chain(resources));
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Waits until the base says of an instance what is wanted.
    async fn until(
        &self,
        instance: &str,
        what: &str,
        wanted: impl Fn(&InstanceStatus) -> bool,
    ) -> InstanceStatus {
        let id = InstanceId::new(instance);
        let mut status = self.status.clone();
        let seen = status.wait_for(|status| status.instances.get(&id).is_some_and(&wanted));
        match tokio::time::timeout(DEADLINE, seen).await {
            Ok(Ok(status)) => status.instances[&id].clone(),
            Ok(Err(_)) => panic!("the base ended before {instance} was {what}"),
            Err(_) => panic!("{instance} was not {what} in time: {:?}", self.status.borrow().instances),
        }
    }

    /// Waits until the base knows nothing of an instance any more.
    async fn until_gone(&self, instance: &str) {
        let id = InstanceId::new(instance);
        let mut status = self.status.clone();
        let gone = status
            .wait_for(|status| status.instances.get(&id).is_none_or(|status| status.phase == Phase::Gone));
        tokio::time::timeout(DEADLINE, gone).await.expect("gone in time").expect("the base lives");
    }

    /// A moment, while waiting for something that nobody announces.
    async fn pause(&self) {
        assert!(self.began.elapsed() < DEADLINE, "not in time: {:?}", self.status.borrow().instances);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    /// The bucket that the module keeps, as it sees it.
    fn bucket(&self) -> StateBucket {
        let found = self.base.parts().runtime.keyvalue(&app(), "state").unwrap();
        StateBucket::new(found.store, found.prefix.start())
    }

    /// Asks a module as the data plane does; status and body.
    async fn ask(&self, instance: &str, path: &str) -> (u16, String) {
        self.try_ask(instance, path).await.unwrap()
    }

    async fn try_ask(&self, instance: &str, path: &str) -> Result<(u16, String), Failure> {
        let module = self.base.parts().modules.module(&InstanceId::new(instance)).unwrap();
        let (head, ()) = http::Request::get(format!("http://hello{path}")).body(()).unwrap().into_parts();
        let context = Context::new(Caller::Base, Span::root(false));
        let reply = module.serve(Call { head, body: Body::empty(), context }).await?;
        let body = reply.body.collect(1 << 16).await?;
        Ok((reply.head.status.as_u16(), String::from_utf8(body.to_vec()).unwrap()))
    }

    async fn stop(self) {
        self.base.stop(Duration::from_secs(10)).await;
    }
}

fn http() -> Name {
    Name::new("http").unwrap()
}

fn hello() -> Vec<u8> {
    let path: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello/artifacts/hello-v1.wasm");
    std::fs::read(path).unwrap()
}

fn app() -> AppId {
    AppId::parse(APP).unwrap()
}

fn module(artifact: Digest) -> Shape {
    Shape::Module(ModuleSpec {
        artifact,
        reuse: true,
        max_concurrency: 16,
        memory: 64 << 20,
        wall_time: Duration::from_secs(20),
        cpu_time: Duration::from_secs(10),
        allowed_hosts: Vec::new(),
        config: Vec::new(),
        keyvalue: BTreeMap::from([("state".to_owned(), "state".to_owned())]),
    })
}

/// A shell script.
fn script(script: &str, restart: Restart) -> Shape {
    Shape::Process(ProcessSpec {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        working_directory: None,
        user: None,
        group: None,
        stop_signal: "SIGTERM".to_owned(),
        stop_grace: Duration::from_secs(1),
        restart,
        backoff_initial: Duration::from_millis(20),
        backoff_max: Duration::from_millis(100),
        log_max_size: 1 << 20,
        log_keep: 1,
        proxy_env: false,
    })
}

fn workload(instance: &str, shape: Shape) -> Workload {
    Workload {
        instance: InstanceId::new(instance),
        app: app(),
        revision: RevisionId::new("one"),
        shape,
        services: vec![ServicePort { name: http(), protocol: Protocol::Http, port: None }],
        env: Vec::new(),
        probes: Probes::default(),
        limits: Limits::default(),
        depends_on: Vec::new(),
        once: false,
        draining: false,
    }
}

fn plain(name: &str, value: &str) -> Setting {
    Setting { name: name.to_owned(), value: Value::Plain(value.to_owned()) }
}

fn component(name: &str, driver: &str, settings: Vec<Setting>) -> Resource {
    Resource::Component(Component {
        namespace: Name::new("default").unwrap(),
        name: name.to_owned(),
        driver: driver.to_owned(),
        version: "v1".to_owned(),
        settings,
        scopes: Vec::new(),
        ignore_errors: false,
        init_timeout: Duration::from_secs(5),
        inbound: Default::default(),
        outbound: Default::default(),
    })
}

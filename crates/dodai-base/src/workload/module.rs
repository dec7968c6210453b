//! Workloads that are WASM modules.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use dodai_core::id::{AppId, Name};
use dodai_core::snapshot::{ModuleSpec, Setting, Value};
use dodai_core::status::Phase;
use dodai_core::task::Kind;
use dodai_dataplane::local::Way;
use dodai_modules::{
    Bucket, KeyValue, KeyValueError, LogSink, MeshNames, Module, Pending, Seams, StateBucket, Stream,
};

use super::{Context, DRAIN};
use crate::node::Parts;
use crate::process::{LogPolicy, Logs, Stream as Output};

/// How often configuration and secrets are looked at again.
const LOOK: Duration = Duration::from_secs(1);
/// How long a failed install waits before it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Runs the module until it should end.
pub async fn run(context: &mut Context, spec: ModuleSpec) {
    let logs = logs(context);
    loop {
        context.close("is being installed");
        match install(context, &spec, &logs).await {
            Ok(module) => {
                context.open(Way::Serve(module));
                context.until_drained().await;
                context.drain().await;
                context.parts.modules.remove(&context.workload.instance, DRAIN).await;
                logs.close();
                return;
            }
            Err(reason) => {
                tracing::warn!(instance = %context.workload.instance, reason, "a module cannot be installed");
                context.close(&format!("cannot be installed: {reason}"));
                context.report(Phase::Failed, &reason);
                tokio::select! {
                    // Both only wait.
                    () = tokio::time::sleep(RETRY) => {}
                    () = context.until_drained() => return,
                }
            }
        }
    }
}

/// Brings the module in, its artefact first if that is not here.
async fn install(context: &mut Context, spec: &ModuleSpec, logs: &Logs) -> Result<Arc<Module>, String> {
    if context.parts.lacks(&spec.artifact) {
        context.report(Phase::Starting, "fetching its artefact");
        let parts = context.parts.clone();
        tokio::select! {
            // What a cut fetch left is gone on with.
            fetched = parts.fetch(&spec.artifact) => fetched?,
            () = context.until_drained() => return Err("it should end".to_owned()),
        }
    }
    context.report(Phase::Starting, "installing its artefact");
    let config = Config::start(context, &spec.config).await;
    let seams = seams(context, config, logs);
    let workload = &context.workload;
    let modules = &context.parts.modules;
    let installed =
        modules.install(workload.instance.clone(), workload.app.clone(), spec.clone(), seams).await;
    installed.map_err(|error| error.to_string())
}

/// The ring that the module's output goes to.
fn logs(context: &Context) -> Logs {
    let folder = context.parts.config.data_dir.join("logs");
    let workload = &context.workload;
    let path = folder
        .join(format!("{}.{}", workload.app.namespace, workload.app.name))
        .join(workload.instance.as_str());
    let logs = Logs::new(&LogPolicy::under(folder), path.with_extension("log"));
    let mut all = context.parts.logs.lock().unwrap_or_else(PoisonError::into_inner);
    all.insert(workload.instance.clone(), (workload.app.clone(), logs.clone()));
    logs
}

fn seams(context: &Context, config: Config, logs: &Logs) -> Seams {
    let parts = &context.parts;
    Seams {
        door: Arc::new(parts.plane.door()),
        names: Arc::new(Names(parts.clone())),
        config: Arc::new(config),
        keyvalue: Arc::new(Buckets(parts.clone())),
        logs: Arc::new(Lines(logs.clone())),
        environment: environment(context),
    }
}

/// What every workload of ours finds in its environment, whatever its shape.
fn environment(context: &Context) -> Vec<(String, String)> {
    let workload = &context.workload;
    let pair = |name: &str, value: String| (name.to_owned(), value);
    vec![
        pair("APP_ID", workload.app.name.to_string()),
        pair("NAMESPACE", workload.app.namespace.to_string()),
        pair("DODAI_APP", workload.app.to_string()),
        pair("DODAI_INSTANCE", workload.instance.to_string()),
        pair("DODAI_REVISION", workload.revision.to_string()),
    ]
}

/// The name of a setting that stands for every key of a configuration store.
const EVERY: &str = "*";

struct Names(Arc<Parts>);

impl MeshNames for Names {
    fn is_mesh_name(&self, app: &AppId, host: &str) -> bool {
        self.0.plane.table().knows(host, app.namespace.as_str())
    }
}

struct Lines(Logs);

impl LogSink for Lines {
    fn line(&self, stream: Stream, line: &str) {
        let stream = match stream {
            Stream::Stdout => Output::Stdout,
            Stream::Stderr => Output::Stderr,
        };
        self.0.push(SystemTime::now(), stream, line.to_owned());
    }
}

/// What `wasi:config` answers: plain values as written, references as they were at the last look.
#[derive(Clone)]
struct Config(Arc<RwLock<BTreeMap<String, String>>>);

impl Config {
    /// Resolves what can be resolved now and keeps looking until the workload ends.
    async fn start(context: &Context, settings: &[Setting]) -> Config {
        let config = Config(Arc::default());
        config.look(&context.parts, &context.workload.app.namespace, settings).await;
        if settings.iter().any(|setting| !matches!(setting.value, Value::Plain(_))) {
            let (parts, namespace) = (context.parts.clone(), context.workload.app.namespace.clone());
            let (settings, looking) = (settings.to_vec(), config.clone());
            let tasks = context.tasks.clone();
            context.tasks.spawn(Kind::Loop, async move {
                // The values are held by the module's seams; when only this task is left, the module is gone.
                while Arc::strong_count(&looking.0) > 1 {
                    tokio::select! {
                        // Both only wait.
                        () = tokio::time::sleep(LOOK) => {}
                        () = tasks.closing() => return,
                    }
                    looking.look(&parts, &namespace, &settings).await;
                }
            });
        }
        config
    }

    async fn look(&self, parts: &Parts, namespace: &Name, settings: &[Setting]) {
        let mut values = BTreeMap::new();
        let (all, named): (Vec<&Setting>, Vec<&Setting>) = settings.iter().partition(|one| one.name == EVERY);
        for setting in all {
            if let Value::Config { store, .. } = &setting.value
                && let Ok(found) = parts.runtime.configurations(namespace, store).await
            {
                values.extend(found);
            }
        }
        // What is named wins over what comes with a whole store.
        for setting in named {
            let value = match &setting.value {
                Value::Plain(text) => Some(text.clone()),
                Value::Config { .. } | Value::Secret { .. } | Value::Environment(_) => {
                    parts.runtime.secret(namespace, &setting.value).await.ok()
                }
            };
            values.extend(value.map(|value| (setting.name.clone(), value)));
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = values;
    }
}

impl dodai_modules::Config for Config {
    fn get(&self, key: &str) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn all(&self) -> Vec<(String, String)> {
        let values = self.0.read().unwrap_or_else(PoisonError::into_inner);
        values.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// Buckets on the same state components as the runtime API, under the same keys.
struct Buckets(Arc<Parts>);

impl KeyValue for Buckets {
    fn open(&self, app: &AppId, component: &str) -> Pending<'_, Arc<dyn Bucket>> {
        let found = self.0.runtime.keyvalue(app, component);
        Box::pin(async move {
            let found = found.map_err(|error| KeyValueError::Failed(error.to_string()))?;
            Ok(Arc::new(StateBucket::new(found.store, found.prefix.start())) as Arc<dyn Bucket>)
        })
    }
}

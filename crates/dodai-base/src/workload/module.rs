//! Workloads that are WASM modules: installed, asked whether they are ready, given calls for as long as
//! their checks pass, and installed anew when they are dead.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use dodai_core::id::{AppId, Name};
use dodai_core::snapshot::{ModuleSpec, Setting, Value};
use dodai_core::status::Phase;
use dodai_core::task::Kind;
use dodai_dataplane::local::Way;
use dodai_modules::{
    Bucket, KeyValue, KeyValueError, Known, LogSink, MeshNames, Module, Pending, Seams, StateBucket, Stream,
};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use super::{Context, DRAIN, check, env};
use crate::node::Parts;
use crate::process::backoff::{Backoff, Next, dice};
use crate::process::probe::{self, Verdict};
use crate::process::{Capture, LogPolicy, Probes, Restart, Stream as Output};

/// How often configuration and secrets are looked at again.
const LOOK: Duration = Duration::from_secs(1);
/// How long what may mend itself soon waits before it is tried again: a secret store that is not up yet.
const RETRY_SOON: Duration = Duration::from_secs(2);
/// How long a failed install waits before it is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long the calls of a module that is dead may take before they are cut.
const LAST_CALLS: Duration = Duration::from_secs(10);
/// How long the end waits for the last lines to be on disk.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Why a module does not run now.
struct Trouble {
    phase: Phase,
    reason: String,
    /// When it is tried again.
    after: Duration,
}

/// Runs the module until it should end.
pub async fn run(context: &mut Context, spec: ModuleSpec) {
    let Some((output, written)) = output(context).await else { return };
    let probes = check::probes(&context.workload.probes);
    let mut backoff = Backoff::default();
    loop {
        context.close("is being installed");
        let began = Instant::now();
        let trouble = match install(context, &spec, &output).await {
            Ok(module) => match serve(context, &probes, module).await {
                None => break,
                Some(reason) => {
                    context.close(&format!("is started again: {reason}"));
                    context.parts.modules.remove(&context.workload.instance, LAST_CALLS).await;
                    context.update(|status| status.restarts = status.restarts.saturating_add(1));
                    dead(&mut backoff, reason, began.elapsed())
                }
            },
            Err(trouble) => trouble,
        };
        let Trouble { phase, reason, after } = trouble;
        tracing::warn!(instance = %context.workload.instance, reason, "a module does not run");
        output.note(format!("{reason}; starts again in {after:.1?}"));
        context.close(&format!("does not run: {reason}"));
        context.report(phase, &reason);
        tokio::select! {
            // Both only wait.
            () = tokio::time::sleep(after) => {}
            () = context.until_drained() => break,
        }
    }
    output.logs().close();
    drop(output);
    // The last lines are on disk before the end is told, if the disk is not stuck.
    let _late = timeout(LAST_LINES, written).await;
}

/// When a module that failed its checks is started again.
fn dead(backoff: &mut Backoff, reason: String, ran_for: Duration) -> Trouble {
    let after = match backoff.after(&Restart::default(), None, ran_for, dice()) {
        Next::After { delay, .. } => delay,
        // A module is never given up, and has no exit that would be its end.
        Next::Done | Next::GiveUp => RETRY,
    };
    Trouble { phase: Phase::BackingOff, reason, after }
}

/// Opens and closes the way in as the checks say. `None` when it was drained and taken out, else why it has
/// to be started again.
async fn serve(context: &mut Context, probes: &Probes<check::Path>, module: Arc<Module>) -> Option<String> {
    let (tell, mut verdicts) = watch::channel(Verdict::Starting);
    let mut probing = std::pin::pin!(probe::run(probes, |probe| check::ask(&module, probe), &tell));
    let mut probing_over = false;
    context.close("does not pass its startup check yet");
    context.report(Phase::Starting, "");
    loop {
        tokio::select! {
            // The checks live outside of the select; the others only wait.
            () = &mut probing, if !probing_over => {
                probing_over = true;
                continue;
            }
            Ok(()) = verdicts.changed() => {}
            () = context.until_drained() => {
                context.drain().await;
                context.parts.modules.remove(&context.workload.instance, DRAIN).await;
                return None;
            }
        }
        match verdicts.borrow_and_update().clone() {
            Verdict::Starting => {}
            Verdict::Ready => context.open(Way::Serve(module.clone())),
            Verdict::Unready(reason) => {
                context.close("does not pass its readiness check");
                context.report(Phase::Unready, &reason.unwrap_or_default());
            }
            Verdict::Dead(reason) => return Some(reason),
        }
    }
}

/// Brings the module in, its artefact first if that is not here.
async fn install(context: &mut Context, spec: &ModuleSpec, output: &Capture) -> Result<Arc<Module>, Trouble> {
    let failed = |reason| Trouble { phase: Phase::Failed, reason, after: RETRY };
    if context.parts.lacks(&spec.artifact) {
        context.report(Phase::Starting, "fetching its artefact");
        let parts = context.parts.clone();
        tokio::select! {
            // What a cut fetch left is gone on with.
            fetched = parts.fetch(&spec.artifact) => fetched.map_err(failed)?,
            () = context.until_drained() => return Err(failed("it should end".to_owned())),
        }
    }
    context.report(Phase::Starting, "installing its artefact");
    let soon = |reason| Trouble { phase: Phase::BackingOff, reason, after: RETRY_SOON };
    let environment = env::of_module(context).await.map_err(soon)?;
    let config = Config::start(context, &spec.config).await;
    let seams = seams(context, config, environment, output);
    let workload = &context.workload;
    let modules = &context.parts.modules;
    let installed =
        modules.install(workload.instance.clone(), workload.app.clone(), spec.clone(), seams).await;
    installed.map_err(|error| failed(error.to_string()))
}

/// Opens the log that the module's output goes to, as soon as that can be done. `None` if it should end.
async fn output(context: &mut Context) -> Option<(Capture, oneshot::Receiver<()>)> {
    let policy = LogPolicy::under(context.parts.config.data_dir.join("logs"));
    let app = format!("{}.{}", context.workload.app.namespace, context.workload.app.name);
    loop {
        let instance = context.workload.instance.clone();
        match context.parts.processes.capture(&policy, &app, instance.as_str(), &context.tasks) {
            Ok((capture, written)) => {
                let entry = (context.workload.app.clone(), capture.logs().clone());
                let mut all = context.parts.logs.lock().unwrap_or_else(PoisonError::into_inner);
                all.insert(instance, entry);
                return Some((capture, written));
            }
            Err(error) => context.report(Phase::BackingOff, &error.to_string()),
        }
        tokio::select! {
            // Both only wait.
            () = tokio::time::sleep(RETRY_SOON) => {}
            () = context.until_drained() => return None,
        }
    }
}

fn seams(context: &Context, config: Config, environment: Vec<(String, String)>, output: &Capture) -> Seams {
    let parts = &context.parts;
    Seams {
        door: Arc::new(parts.plane.door()),
        names: Arc::new(Names(parts.clone())),
        config: Arc::new(config),
        keyvalue: Arc::new(Buckets(parts.clone())),
        logs: Arc::new(Lines(output.clone())),
        environment,
    }
}

/// The name of a setting that stands for every key of a configuration store.
const EVERY: &str = "*";

struct Names(Arc<Parts>);

impl MeshNames for Names {
    fn is_mesh_name<'a>(&'a self, app: &'a AppId, host: &'a str) -> Known<'a> {
        Box::pin(self.0.plane.knows(host, app.namespace.as_str()))
    }
}

struct Lines(Capture);

impl LogSink for Lines {
    fn line(&self, stream: Stream, line: &str) {
        let stream = match stream {
            Stream::Stdout => Output::Stdout,
            Stream::Stderr => Output::Stderr,
        };
        self.0.put(SystemTime::now(), stream, line.to_owned());
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

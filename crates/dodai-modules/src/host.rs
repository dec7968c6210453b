//! The module host of a base: brings modules in, warms them, and takes them out again without a trace.
//!
//! Installing goes fetch, compile (or load what was compiled), link, start one instance; each step may fail
//! and leaves nothing behind. Modules of one artefact share its code. Rejected: compiling at the first
//! call, which would put seconds on somebody's request.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use dodai_core::id::{AppId, Digest, InstanceId};
use dodai_core::snapshot::ModuleSpec;
use dodai_core::task::Tasks;
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::Instant;
use wasmtime::component::Component;

use crate::artifact::Artifacts;
use crate::code::{CodeCache, Slot};
use crate::compile::{self, Compiler};
use crate::engine::{Engine, EngineOptions, Flavour, Started};
use crate::error::Error;
use crate::inspect;
use crate::instance::{Instance, Loaded};
use crate::link::{self, Linked};
use crate::meter::{Meter, metered};
use crate::metrics::{Counters, Metrics};
use crate::module::{Drained, Module};
use crate::plan::Plan;
use crate::run::MAX_WALL_TIME;
use crate::seam::Seams;
use crate::threads::{Placement, Threads};
use crate::trap;

/// How often waiting instances are looked through for stale ones.
const SWEEP: Duration = Duration::from_secs(2);

/// How a host is set up.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Where artefacts and compiled code are kept.
    pub folder: PathBuf,
    /// How the engine allocates.
    pub engine: EngineOptions,
    /// Where guests run.
    pub placement: Placement,
    /// Who compiles.
    pub compiler: Compiler,
    /// How many calls of one module may wait for a place.
    pub max_queued: u32,
}

impl HostOptions {
    /// Two threads, compiling in this process, everything kept in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> HostOptions {
        HostOptions {
            folder: folder.into(),
            engine: EngineOptions::default(),
            placement: Placement::Threads(2),
            compiler: Compiler::InProcess,
            max_queued: 1_000,
        }
    }
}

/// The module host.
pub struct Host {
    options: HostOptions,
    tasks: Tasks,
    engine: Arc<Engine>,
    artifacts: Artifacts,
    code: Arc<CodeCache>,
    threads: OnceLock<Arc<Threads>>,
    /// One compilation at a time: it is the most expensive thing that a base does.
    compiling: tokio::sync::Mutex<()>,
    registry: Arc<Registry>,
}

#[derive(Default)]
struct Registry {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    modules: BTreeMap<InstanceId, Arc<Module>>,
    /// Instances being installed: their ids are taken.
    coming: BTreeSet<InstanceId>,
    /// Linked code by artefact, for as long as some module uses it.
    linked: HashMap<Digest, Weak<Linked>>,
    closed: bool,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// Opens the folders; nothing runs before the first module is installed. Tasks are born from a child
    /// of `tasks`; end them with [`Host::shutdown`].
    pub fn open(options: HostOptions, tasks: &Tasks) -> Result<Host, Error> {
        let artifacts = Artifacts::open(options.folder.join("artifacts"))?;
        let code = Arc::new(CodeCache::open(options.folder.join("code"))?);
        Ok(Host {
            engine: Arc::new(Engine::new(options.engine.clone())),
            tasks: tasks.child(),
            options,
            artifacts,
            code,
            threads: OnceLock::new(),
            compiling: tokio::sync::Mutex::default(),
            registry: Arc::default(),
        })
    }

    /// The artefacts of this base; fetch what an install needs into it first.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// The engine, for its state.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// An installed module.
    pub fn module(&self, instance: &InstanceId) -> Option<Arc<Module>> {
        self.registry.lock().modules.get(instance).cloned()
    }

    /// The metrics of all installed modules.
    pub fn metrics(&self) -> Vec<(InstanceId, AppId, Metrics)> {
        let modules: Vec<Arc<Module>> = self.registry.lock().modules.values().cloned().collect();
        modules
            .iter()
            .map(|module| (module.instance().clone(), module.app().clone(), module.metrics()))
            .collect()
    }

    /// Compiles and links an artefact without installing it, so that a later install only starts it.
    /// `name` is what messages call it.
    pub async fn prepare(&self, name: &str, artifact: &Digest) -> Result<(), Error> {
        self.linked(name, artifact).await.map(drop)
    }

    /// Brings a module in: its code compiled or loaded, its imports checked, one instance started. It
    /// takes calls when this returns. When it fails, or its future is dropped, nothing is left behind.
    pub async fn install(
        &self,
        instance: InstanceId,
        app: AppId,
        mut spec: ModuleSpec,
        seams: Seams,
    ) -> Result<Arc<Module>, Error> {
        let coming = Coming::new(&self.registry, &instance)?;
        spec.wall_time = spec.wall_time.min(MAX_WALL_TIME);
        let linked = self.linked(app.name.as_str(), &spec.artifact).await?;
        let threads = self.threads()?;
        let plan = Arc::new(Plan {
            instance: instance.clone(),
            app,
            spec,
            seams,
            counters: Arc::<Counters>::default(),
        });
        let loaded = Arc::new(Loaded::new(plan, linked));
        self.warm(&threads, &loaded).await?;
        let module = Arc::new(Module::new(loaded, threads, self.options.max_queued));
        coming.arrive(module.clone())?;
        Ok(module)
    }

    /// Drains a module and takes it out. `None` if it is not installed.
    pub async fn remove(&self, instance: &InstanceId, deadline: Duration) -> Option<Drained> {
        let module = self.module(instance)?;
        let drained = module.drain(deadline).await;
        let mut state = self.registry.lock();
        state.modules.remove(instance);
        state.linked.retain(|_, linked| linked.strong_count() > 0);
        Some(drained)
    }

    /// The artefacts that installed modules run.
    pub fn in_use(&self) -> BTreeSet<Digest> {
        let state = self.registry.lock();
        let used = state.linked.iter().filter(|(_, linked)| linked.strong_count() > 0);
        used.map(|(digest, _)| digest.clone()).collect()
    }

    /// Removes the artefacts and the compiled code that are neither in `keep` nor in use and were written longer
    /// than `spare` ago; returns how many files went. Blocks on the disk.
    pub fn prune(&self, keep: &BTreeSet<Digest>, spare: Duration) -> Result<usize, Error> {
        let keep: BTreeSet<Digest> = keep.union(&self.in_use()).cloned().collect();
        let artifacts = self.artifacts.prune(&keep, spare)?;
        // A base that never had a module need not load the compiler to learn what it calls its code.
        if self.code.is_empty() {
            return Ok(artifacts);
        }
        let [serial, concurrent] = Flavour::ALL.map(|flavour| self.engine.fingerprint(flavour));
        Ok(artifacts + self.code.prune(&keep, &[serial?, concurrent?], spare)?)
    }

    /// Takes no module any more, drains all to `deadline`, and ends the host's tasks.
    pub async fn shutdown(&self, deadline: Duration) -> Drained {
        let modules = {
            let mut state = self.registry.lock();
            state.closed = true;
            std::mem::take(&mut state.modules)
        };
        let drained = join_all(modules.values().map(|module| module.drain(deadline))).await;
        self.tasks.drain(deadline).await;
        drained.iter().fold(Drained::default(), |sum, one| Drained {
            finished: sum.finished + one.finished,
            cut: sum.cut + one.cut,
        })
    }

    /// The linked code of an artefact: of a module that has it, from the cache, or from the compiler.
    async fn linked(&self, name: &str, digest: &Digest) -> Result<Arc<Linked>, Error> {
        if let Some(linked) = self.registry.lock().linked.get(digest).and_then(Weak::upgrade) {
            return Ok(linked);
        }
        let _one_at_a_time = self.compiling.lock().await;
        if let Some(linked) = self.registry.lock().linked.get(digest).and_then(Weak::upgrade) {
            return Ok(linked);
        }
        let (engine, code, wanted) = (self.engine.clone(), self.code.clone(), digest.clone());
        let cached = blocking(move || {
            for flavour in Flavour::ALL {
                let slot = code.slot(&wanted, engine.fingerprint(flavour)?)?;
                if !code.is_sealed(&slot) {
                    continue;
                }
                match load(&engine, flavour, &slot)? {
                    Ok(code) => return Ok(Some(code)),
                    Err(reason) => {
                        tracing::warn!(reason, "compiled code does not load; compiling again");
                    }
                }
            }
            Ok(None)
        })
        .await?;
        let code = match cached {
            Some(code) => code,
            None => self.compiled(name, digest).await?,
        };
        let linked = Arc::new(link::link(name, code.engine, &code.component)?);
        self.registry.lock().linked.insert(digest.clone(), Arc::downgrade(&linked));
        Ok(linked)
    }

    async fn compiled(&self, name: &str, digest: &Digest) -> Result<Code, Error> {
        let (artifacts, wanted) = (self.artifacts.clone(), digest.clone());
        let wasm = blocking(move || artifacts.get(&wanted)).await?;
        // Headers are told apart here, where errors keep their type.
        inspect::check_header(name, &wasm)?;
        let flavour = inspect::flavour_of(&wasm);
        let (engine, code) = (self.engine.clone(), self.code.clone());
        let slot = code.slot(digest, engine.fingerprint(flavour)?)?;
        let machine_code = match &self.options.compiler {
            Compiler::Child(child) => {
                compile::compile_in_child(child, name, &wasm, code.scratch(&slot)).await?
            }
            Compiler::InProcess => {
                let (engine, name) = (engine.clone(), name.to_owned());
                blocking(move || Ok(compile::compile(&engine.start(flavour)?.wasmtime, &name, &wasm)?))
                    .await?
            }
        };
        let name = name.to_owned();
        blocking(move || {
            code.keep(&slot, &machine_code)?;
            let failed = |reason: String| Error::Compiler { name, reason };
            if !code.is_sealed(&slot) {
                return Err(failed(format!("{} was changed by others meanwhile", slot.code.display())));
            }
            load(&engine, flavour, &slot)?
                .map_err(|reason| failed(format!("this base does not take the compiled code: {reason}")))
        })
        .await
    }

    fn threads(&self) -> Result<Arc<Threads>, Error> {
        if let Some(threads) = self.threads.get() {
            return Ok(threads.clone());
        }
        let threads = Arc::new(Threads::start(self.options.placement, self.tasks.clone())?);
        let mut started = false;
        let threads = self.threads.get_or_init(|| {
            started = true;
            threads
        });
        if started {
            threads.spawn_loop(sweep(Arc::downgrade(&self.registry), self.tasks.clone()));
        }
        Ok(threads.clone())
    }

    /// Starts the first instance, with the limits of a call.
    async fn warm(&self, threads: &Threads, loaded: &Arc<Loaded>) -> Result<(), Error> {
        let running = loaded.linked.engine.ticker.begin();
        let (done, warmed) = oneshot::channel();
        let starting = loaded.clone();
        threads.spawn(async move {
            let meter = Meter::new(starting.plan.counters.clone());
            let made = {
                let make = std::pin::pin!(starting.make(meter.clone()));
                tokio::time::timeout(starting.plan.spec.wall_time, metered(make, &meter)).await
            };
            let made: Result<Instance, String> = match made {
                Ok(Ok(instance)) => Ok(instance),
                Ok(Err(error)) => Err(trap::failure_of(&starting.plan, &error).detail.into_owned()),
                Err(_) => Err(format!("it took longer than {:?}", starting.plan.spec.wall_time)),
            };
            drop(running);
            let _ = done.send(made.map(|instance| starting.keep(instance)));
        });
        let outcome = warmed.await.unwrap_or_else(|_| Err("the task that started it ended early".to_owned()));
        outcome.map_err(|reason| Error::Start { name: loaded.plan.name().to_owned(), reason })
    }
}

/// An id that is taken while its module is on the way.
struct Coming<'a> {
    registry: &'a Registry,
    instance: InstanceId,
}

impl<'a> Coming<'a> {
    fn new(registry: &'a Registry, instance: &InstanceId) -> Result<Coming<'a>, Error> {
        let mut state = registry.lock();
        if state.closed {
            return Err(Error::ShuttingDown);
        }
        if state.modules.contains_key(instance) || !state.coming.insert(instance.clone()) {
            return Err(Error::Installed(instance.clone()));
        }
        Ok(Coming { registry, instance: instance.clone() })
    }

    fn arrive(self, module: Arc<Module>) -> Result<(), Error> {
        let mut state = self.registry.lock();
        if state.closed {
            return Err(Error::ShuttingDown);
        }
        state.modules.insert(self.instance.clone(), module);
        Ok(())
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.registry.lock().coming.remove(&self.instance);
    }
}

/// Machine code in memory, and the engine that runs it.
struct Code {
    engine: Arc<Started>,
    component: Component,
}

/// The code in `slot`, whose seal was checked just now, or why it does not load. What does not fit the
/// pool is loaded where instances are allocated on demand.
fn load(engine: &Engine, flavour: Flavour, slot: &Slot) -> Result<Result<Code, String>, Error> {
    let usual = engine.start(flavour)?;
    let refusal = match deserialize(&usual, slot) {
        Ok(component) => return Ok(Ok(Code { engine: usual, component })),
        Err(error) if usual.pooled => error,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    let on_demand = engine.start_on_demand(flavour)?;
    Ok(match deserialize(&on_demand, slot) {
        Ok(component) => {
            let reason = format!("{refusal:#}");
            tracing::info!(
                reason,
                "a component does not fit the pool; its instances are allocated on demand"
            );
            Ok(Code { engine: on_demand, component })
        }
        Err(error) => Err(format!("{error:#}")),
    })
}

fn deserialize(engine: &Started, slot: &Slot) -> wasmtime::Result<Component> {
    // SAFETY: the file is the output of our own compiler: its seal, made under a key that only we can
    // read, was checked just now, and the folder is not writable by others.
    #[expect(unsafe_code, reason = "loading machine code is unsafe by nature; the seal vouches for it")]
    unsafe {
        Component::deserialize_file(&engine.wasmtime, &slot.code)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::Engine { reason: format!("a blocking task ended early: {error}") }),
    }
}

/// Drops instances that have waited too long, until the host closes.
async fn sweep(registry: Weak<Registry>, tasks: Tasks) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP) => {}
            () = tasks.closing() => return,
        }
        let Some(registry) = registry.upgrade() else { return };
        let modules: Vec<Arc<Module>> = registry.lock().modules.values().cloned().collect();
        let now = Instant::now();
        modules.iter().for_each(|module| module.sweep(now));
    }
}

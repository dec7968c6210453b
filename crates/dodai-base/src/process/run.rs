//! One run of an instance under one shim, from launch until nothing of it is left.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use dodai_core::task::Kind;
use nix::sys::signal::{Signal as NixSignal, killpg};
use nix::unistd::{Pid, geteuid};
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::cgroup::Group;
use super::instance::{End, Instance, Intent, Running};
use super::link::{self, Launched, Link};
use super::probe::{self, ExecRequest, Verdict};
use super::status::{Exit, Phase};
use crate::shim::tree;
use crate::shim::wire::{self, FromShim, Program, Ran, Rlimits, Start, ToShim};

/// Exec probes that may wait for the shim; a probe asks only when its last answer is there.
const EXEC_QUEUE: usize = 4;
/// Beyond the grace of its lease, how long a shim may take to end everything and itself.
const SHIM_HANGS: Duration = Duration::from_secs(10);
/// How long log pipes may stay open then. Only something outside of the app's tree can hold them.
const PIPES_LINGER: Duration = Duration::from_secs(1);

/// What is known during a run.
struct Run<'a> {
    instance: &'a Instance,
    program: Program,
    shim: i32,
    group: Group,
    link: Link,
    pid: Option<i32>,
    exit: Option<Exit>,
    refused: Option<String>,
    /// Why the base itself ended it.
    why: Option<String>,
    given: Intent,
    asked: BTreeMap<u64, oneshot::Sender<Result<(), String>>>,
    next_id: u64,
}

pub(super) async fn run(instance: &mut Instance) -> End {
    // A clone, so that orders can be awaited while the rest of the instance is read.
    let mut orders = instance.orders.clone();
    orders.mark_changed();
    let instance = &*instance;
    let (group, mut conditions) = instance.base.groups.create(&instance.spec.instance, &instance.spec.limits);
    let program = program(instance, &group, &mut conditions);
    instance.status.send_modify(|status| status.conditions = conditions);
    let launched = link::launch(&instance.base.config.shim, start(instance, &group, program.clone())).await;
    let Launched { child, pid: shim, link, stdout, stderr } = match launched {
        Ok(launched) => launched,
        Err(error) => {
            group.clear().await;
            return End::Refused(with_source(&error));
        }
    };
    let (done, read) = oneshot::channel();
    let reading = instance.capture.clone().read(stdout, stderr);
    let reader = instance.tasks.spawn(Kind::Process, async move {
        reading.await;
        let _ = done.send(());
    });
    let mut run = Run {
        instance,
        program,
        shim,
        group,
        link,
        pid: None,
        exit: None,
        refused: None,
        why: None,
        given: Intent::Run,
        asked: BTreeMap::new(),
        next_id: 0,
    };
    run.attend(&mut orders).await;
    run.wind_up(child, reader, read).await
}

impl Run<'_> {
    /// Until the shim closes its lease.
    async fn attend(&mut self, orders: &mut watch::Receiver<Intent>) {
        let (exec, mut requests) = mpsc::channel(EXEC_QUEUE);
        let (tell, mut verdicts) = watch::channel(Verdict::Starting);
        let probes = self.instance.spec.probes.clone();
        let mut probing = std::pin::pin!(probe::run(&probes, |one| probe::ask(one, &exec), &tell));
        let mut probing_over = false;
        loop {
            let probe_now = self.pid.is_some() && self.exit.is_none() && !probing_over;
            // Cancel safe: a message is taken only whole, levels and queues keep what was not taken, and
            // the probes live outside of the select.
            let sent = tokio::select! {
                message = self.link.next() => match message {
                    Some(message) => { self.hear(message); Ok(()) }
                    None => return,
                },
                _ = orders.changed() => self.obey().await,
                () = self.instance.tasks.closing(), if self.given == Intent::Run => self.obey().await,
                () = &mut probing, if probe_now => { probing_over = true; Ok(()) }
                _ = verdicts.changed() => {
                    let verdict = verdicts.borrow_and_update().clone();
                    self.judge(verdict).await
                }
                Some(request) = requests.recv() => self.exec(request).await,
            };
            if let Err(error) = sent {
                tracing::error!(instance = self.instance.spec.instance, %error, "the shim does not listen; giving it up");
                return;
            }
        }
    }

    fn hear(&mut self, message: FromShim) {
        match message {
            FromShim::Started { pid, isolated } => self.started(pid, isolated),
            FromShim::Refused { reason } => self.refused = Some(reason),
            FromShim::Exited { code, signal, oom } => {
                self.exit = Some(match (code, signal) {
                    (_, Some(_)) if oom => Exit::OutOfMemory,
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => Exit::Lost,
                });
                self.asked.clear();
                self.instance.status.send_modify(|status| {
                    status.pid = None;
                    status.phase = Phase::Stopping;
                });
            }
            FromShim::Ran { id, outcome } => {
                if let Some(answer) = self.asked.remove(&id) {
                    // The probe may have been given up.
                    let _ = answer.send(told(outcome));
                }
            }
            FromShim::Stuck { pids } => {
                let reason = format!("processes do not end after SIGKILL: {pids:?}");
                tracing::warn!(instance = self.instance.spec.instance, "{reason}");
                self.instance.status.send_modify(|status| status.reason = Some(reason));
            }
        }
    }

    fn started(&mut self, inside: i32, isolated: bool) {
        let init = if isolated { tree::children(self.shim).first().copied() } else { Some(self.shim) };
        let keeper = init.unwrap_or(self.shim);
        // Inside a namespace the app has another id than here. It may have ended before this lookup.
        let pid = if isolated { tree::find_inside(keeper, inside) } else { Some(inside) };
        self.pid = Some(pid.unwrap_or(0));
        let running = Running { group: self.group.clone(), keeper };
        *self.instance.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        self.instance.status.send_modify(|status| {
            status.pid = pid;
            status.started_at = Some(SystemTime::now());
            status.reason = None;
        });
    }

    async fn obey(&mut self) -> std::io::Result<()> {
        let order = self.instance.order();
        if !order.exceeds(self.given) {
            return Ok(());
        }
        self.given = order;
        self.instance.status.send_modify(|status| status.phase = Phase::Stopping);
        match order {
            Intent::Run => Ok(()),
            Intent::Stop { grace } => self.send_stop(grace).await,
            Intent::Kill => self.link.send(&ToShim::Kill).await,
        }
    }

    async fn send_stop(&mut self, grace: Duration) -> std::io::Result<()> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.link.send(&ToShim::Stop { signal: self.instance.spec.stop.signal.number(), grace_ms }).await
    }

    async fn judge(&mut self, verdict: Verdict) -> std::io::Result<()> {
        if self.given != Intent::Run || self.exit.is_some() {
            return Ok(());
        }
        let (phase, reason) = match &verdict {
            Verdict::Starting => (Phase::Starting, None),
            Verdict::Ready => (Phase::Ready, None),
            Verdict::Unready(reason) => (Phase::Unready, reason.clone()),
            Verdict::Dead(reason) => (Phase::Unready, Some(reason.clone())),
        };
        self.instance.status.send_modify(|status| (status.phase, status.reason) = (phase, reason));
        let Verdict::Dead(reason) = verdict else { return Ok(()) };
        self.instance.capture.note(reason.clone());
        self.why = Some(reason);
        self.send_stop(self.instance.spec.stop.grace).await
    }

    async fn exec(&mut self, request: ExecRequest) -> std::io::Result<()> {
        self.next_id += 1;
        let program = Program { argv: request.argv, ..self.program.clone() };
        let timeout_ms = u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX);
        self.asked.insert(self.next_id, request.answer);
        self.link.send(&ToShim::Run { id: self.next_id, program, timeout_ms }).await
    }

    /// The lease is closed: nothing of the app is left, unless the shim itself was killed.
    async fn wind_up(self, mut child: Child, reader: AbortHandle, read: oneshot::Receiver<()>) -> End {
        let Run { instance, link, group, exit, refused, why, pid, .. } = self;
        drop(link);
        // Killed only when it hangs: as a subreaper it must outlive what it still ends.
        if timeout(instance.base.config.lease_grace + SHIM_HANGS, child.wait()).await.is_err() {
            let _ = child.start_kill();
            let _ = child.wait().await;
        }
        if exit.is_none() && refused.is_none() {
            // A session led by the app: its number is not used again while one member lives.
            if let Some(pid) = pid.filter(|pid| *pid > 1) {
                let _ = killpg(Pid::from_raw(pid), NixSignal::SIGKILL);
            }
        }
        group.clear().await;
        if timeout(PIPES_LINGER, read).await.is_err() {
            reader.abort();
        }
        match (exit, refused) {
            (Some(exit), _) => End::Ended { exit, why },
            (None, Some(reason)) => End::Refused(reason),
            (None, None) => End::Ended { exit: Exit::Lost, why },
        }
    }
}

fn told(outcome: Ran) -> Result<(), String> {
    match outcome {
        Ran::Exited { code: 0 } => Ok(()),
        Ran::Exited { code } => Err(format!("the command ended with exit code {code}")),
        Ran::Signaled { signal } => Err(format!("the command was {}", Exit::Signal(signal))),
        Ran::TimedOut => Err("the command took too long and was killed".into()),
        Ran::Refused { reason } => Err(reason),
    }
}

fn program(instance: &Instance, group: &Group, conditions: &mut Vec<String>) -> Program {
    let spec = &instance.spec;
    let mut rlimits = Rlimits { open_files: spec.limits.open_files, processes: None };
    if let Some(pids) = spec.limits.pids.filter(|_| !group.pids_enforced()) {
        // The kernel counts per user: only a user that the base does not share may be limited so.
        let own_user = instance.identity.as_ref().is_some_and(|identity| identity.uid != geteuid().as_raw());
        if own_user {
            rlimits.processes = Some(pids.into());
            conditions.push("limits.pids is counted per user here, not per instance".into());
        }
    }
    Program {
        argv: spec.argv.clone(),
        env: spec.env.iter().map(|(key, value)| (key.clone(), value.reveal().to_owned())).collect(),
        cwd: spec.cwd.clone(),
        identity: instance.identity.clone(),
        rlimits,
        cgroups: group.dirs(),
    }
}

fn start(instance: &Instance, group: &Group, program: Program) -> Start {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = &instance.base.config;
    Start {
        version: wire::VERSION,
        program,
        isolate: instance.spec.isolate,
        lease_grace_ms: millis(config.lease_grace),
        leftover_grace_ms: millis(config.leftover_grace.min(instance.spec.stop.grace)),
        oom_events: group.oom_events(),
    }
}

fn with_source(error: &super::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

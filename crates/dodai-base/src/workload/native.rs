//! Workloads that are native processes.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dodai_core::id::Name;
use dodai_core::snapshot::{self, ProcessSpec, Protocol};
use dodai_core::status::Phase;
use dodai_dataplane::local::Way;
use dodai_transport::listen::{self, BindError};

use super::{Context, env};
use crate::process::{
    self, Check, Handle, LogPolicy, Port, Probe, Probes, RestartPolicy, Signal, Spec, Stop,
};

/// How often a starting process is looked at when nothing else is asked for.
const STARTUP_PERIOD: Duration = Duration::from_millis(50);
/// How many such looks may fail before the start counts as failed: five minutes.
const STARTUP_FAILURES: u32 = 6_000;
/// How long a failed start waits before it is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How many bytes of rotated logs one app may keep.
const LOG_DISK_CAP: u64 = 200 << 20;

/// Why a process is not watched any more.
enum End {
    /// It has ended for good, or was asked to.
    Over,
    /// Somebody else listens on a port that was chosen for it.
    PortTaken(u16),
    /// Somebody else listens on a port that its document fixes.
    FixedPortTaken,
}

/// Runs the process until it should end.
pub async fn run(context: &mut Context, spec: &ProcessSpec) {
    let mut restarts = 0;
    loop {
        let reason = match start(context, spec).await {
            Ok((handle, ways, ports)) => {
                let handle = Arc::new(handle);
                let users = context.parts.plane.users();
                let _claim = handle.user().map(|user| users.claim(context.workload.app.clone(), user));
                {
                    let mut handles = context.parts.handles.lock().unwrap_or_else(PoisonError::into_inner);
                    handles.insert(context.workload.instance.clone(), handle.clone());
                }
                let end = watch(context, spec, &handle, (ways, &ports), &mut restarts).await;
                {
                    let mut handles = context.parts.handles.lock().unwrap_or_else(PoisonError::into_inner);
                    handles.remove(&context.workload.instance);
                }
                match end {
                    End::Over => return,
                    // The next start tells who it is, and waits.
                    End::FixedPortTaken => continue,
                    End::PortTaken(port) => {
                        let told = "another program took its port; it starts again on another one";
                        tracing::warn!(instance = %context.workload.instance, port, "{told}");
                        context.report(Phase::BackingOff, &format!("port {port}: {told}"));
                        // The ports it had are given back only now, so that the new ones are others.
                        drop(ports);
                        continue;
                    }
                }
            }
            Err(reason) => reason,
        };
        context.close(&format!("cannot start: {reason}"));
        context.report(Phase::BackingOff, &reason);
        tokio::select! {
            // Both only wait.
            () = tokio::time::sleep(RETRY) => {}
            () = context.until_drained() => return,
        }
    }
}

type Started = (Handle, BTreeMap<Name, SocketAddr>, Vec<Port>);

async fn start(context: &Context, spec: &ProcessSpec) -> Result<Started, String> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (mut addresses, mut ports) = (BTreeMap::new(), Vec::new());
    for service in &context.workload.services {
        let number = match service.port {
            Some(port) => {
                if service.protocol != Protocol::Udp {
                    is_free(SocketAddr::new(loopback, port)).await?;
                }
                port
            }
            None => {
                let port = context.parts.ports.free_port(loopback).map_err(|error| error.to_string())?;
                let number = port.number();
                ports.push(port);
                number
            }
        };
        addresses.insert(service.name.clone(), SocketAddr::new(loopback, number));
    }
    let env = env::of_process(context, spec, &addresses).await?;
    let spec = convert(context, spec, &addresses, env)?;
    let handle =
        context.parts.processes.start(spec, &context.parts.watching).map_err(|error| error.to_string())?;
    let entry = (context.workload.app.clone(), handle.logs().clone());
    context
        .parts
        .logs
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(context.workload.instance.clone(), entry);
    context.update(|status| {
        status.ports = addresses.iter().map(|(name, at)| (name.clone(), at.port())).collect()
    });
    Ok((handle, addresses, ports))
}

/// Whether somebody listens there. What else is in the way is for the app to find, which may bind it otherwise.
fn is_taken(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

/// Whether an app may be started on a port that its document fixes: whoever listens there would get its calls.
async fn is_free(address: SocketAddr) -> Result<(), String> {
    if !is_taken(address) {
        return Ok(());
    }
    // Looking for who it is reads about every process of the machine.
    let setting = listen::Options::named("services[].port");
    let told = tokio::task::spawn_blocking(move || match listen::bind(address, &setting) {
        Err(taken @ BindError::Taken { .. }) => Err(taken.to_string()),
        // It has just gone.
        Ok(_) | Err(_) => Ok(()),
    });
    told.await.unwrap_or(Ok(()))
}

/// Opens and closes the way in as the process says, until it has ended for good or should end. Adds to
/// `restarts`, which earlier handles of the same instance have counted.
async fn watch(
    context: &mut Context,
    spec: &ProcessSpec,
    handle: &Handle,
    (ways, ports): (BTreeMap<Name, SocketAddr>, &[Port]),
    restarts: &mut u32,
) -> End {
    let mut status = handle.status();
    let ways = Arc::new(ways);
    let mut succeeded = false;
    loop {
        let now = status.borrow_and_update().clone();
        context.update(|entry| {
            entry.pid = now.pid.and_then(|pid| u32::try_from(pid).ok());
            entry.restarts = restarts.saturating_add(now.restarts);
        });
        let reason = now.reason.clone().unwrap_or_default();
        match &now.phase {
            process::Phase::Starting => {
                context.close("is starting");
                let listens = || first_of(context, &ways).filter(|_| reason.is_empty());
                let waits = listens().map(|at| format!("waiting for it to listen on {at} ($PORT)"));
                context.report(Phase::Starting, waits.as_deref().unwrap_or(&reason));
            }
            process::Phase::Ready => context.open(Way::Ports(ways.clone())),
            process::Phase::Unready => {
                context.close("does not pass its readiness check");
                context.report(Phase::Unready, &reason);
            }
            process::Phase::BackingOff { .. } => {
                context.close(&format!("ended and is being started again: {reason}"));
                // Nothing of it is left now, so whoever listens there is somebody else.
                if let Some(port) = ports.iter().find(|port| port.is_taken()) {
                    handle.kill().await;
                    *restarts = restarts.saturating_add(now.restarts + 1);
                    return End::PortTaken(port.number());
                }
                let services = &context.workload.services;
                let mut fixed =
                    services.iter().filter(|one| one.protocol != Protocol::Udp && one.port.is_some());
                if fixed.any(|one| ways.get(&one.name).is_some_and(|at| is_taken(*at))) {
                    handle.kill().await;
                    *restarts = restarts.saturating_add(now.restarts + 1);
                    return End::FixedPortTaken;
                }
                context.report(Phase::BackingOff, &reason);
            }
            process::Phase::Stopping => context.close("is stopping"),
            process::Phase::Exited { code } => {
                context.close("has ended");
                succeeded = *code == Some(0);
                let phase = if succeeded { Phase::Succeeded } else { Phase::Failed };
                context.report(phase, &reason);
            }
            process::Phase::Failed { reason } => {
                context.close(&format!("failed: {reason}"));
                context.report(Phase::Failed, reason);
            }
        }
        tokio::select! {
            // Waiting for a change and for the end are both cancel safe.
            changed = status.changed(), if !now.phase.is_final() => if changed.is_err() { break },
            () = context.until_drained() => break,
        }
    }
    if !succeeded {
        context.drain().await;
    }
    handle.stop(spec.stop_grace + Duration::from_secs(5)).await;
    End::Over
}

/// Where a process is waited for that has no checks of its own.
fn first_of(context: &Context, ways: &BTreeMap<Name, SocketAddr>) -> Option<SocketAddr> {
    let workload = &context.workload;
    let has_own = workload.probes.startup.is_some() || workload.probes.readiness.is_some() || workload.once;
    let first = workload.services.first().filter(|_| !has_own)?;
    ways.get(&first.name).copied()
}

fn convert(
    context: &Context,
    spec: &ProcessSpec,
    ports: &BTreeMap<Name, SocketAddr>,
    env: BTreeMap<String, process::EnvValue>,
) -> Result<Spec, String> {
    let workload = &context.workload;
    let logs = LogPolicy {
        max_size: spec.log_max_size.max(4096),
        keep: spec.log_keep,
        disk_cap: LOG_DISK_CAP.max(spec.log_max_size),
        ..LogPolicy::under(context.parts.config.data_dir.join("logs"))
    };
    let app = format!("{}.{}", workload.app.namespace, workload.app.name);
    // Control that is elsewhere knows no folder of this machine.
    let project = &context.parts.config.project_dir;
    let mut command = spec.command.clone();
    // Wherever it runs: its build and its revision know the program by its path from the project folder.
    if let Some(program) = command.first_mut().filter(|program| program.contains('/'))
        && let Some(path) = project.join(&*program).to_str()
    {
        path.clone_into(program);
    }
    let mut to = Spec::new(app, workload.instance.as_str(), command, logs);
    to.env = env;
    to.cwd = Some(project.join(spec.working_directory.as_deref().unwrap_or_default()));
    to.user = spec.user.clone();
    to.group = spec.group.clone();
    to.limits = process::Limits {
        memory: workload.limits.memory,
        cpu_millicores: workload.limits.cpu_millis.and_then(|millis| u32::try_from(millis).ok()),
        pids: workload.limits.pids.and_then(|pids| u32::try_from(pids).ok()),
        open_files: workload.limits.open_files,
    };
    let signal: Signal = spec.stop_signal.parse()?;
    to.stop = Stop { signal, grace: spec.stop_grace };
    to.restart.policy = match spec.restart {
        snapshot::Restart::Always => RestartPolicy::Always,
        snapshot::Restart::OnFailure => RestartPolicy::OnFailure,
        snapshot::Restart::Never => RestartPolicy::Never,
    };
    to.restart.initial = spec.backoff_initial;
    to.restart.max = spec.backoff_max.max(spec.backoff_initial);
    to.probes = probes(context, ports)?;
    Ok(to)
}

/// The probes, with a quick startup probe where none is asked for: the readiness check, or a connection to
/// the first service. Otherwise a process would count as ready before it listens, or wait a whole period.
fn probes(context: &Context, ports: &BTreeMap<Name, SocketAddr>) -> Result<Probes, String> {
    let workload = &context.workload;
    let convert = |probe: &snapshot::Probe| -> Result<Probe, String> {
        Ok(Probe {
            period: probe.period,
            timeout: probe.timeout,
            failure_threshold: probe.failure_threshold,
            success_threshold: probe.success_threshold,
            initial_delay: probe.initial_delay,
            ..Probe::new(check(context, &probe.check, ports)?)
        })
    };
    let given = |probe: &Option<snapshot::Probe>| probe.as_ref().map(convert).transpose();
    let readiness = given(&workload.probes.readiness)?;
    let startup = match given(&workload.probes.startup)? {
        Some(startup) => Some(startup),
        None if workload.once => None,
        None => {
            let first = workload.services.first().and_then(|service| ports.get(&service.name));
            let check = readiness.as_ref().map(|probe| probe.check.clone());
            let check = check.or_else(|| first.map(|address| Check::TcpSocket { address: *address }));
            check.map(|check| Probe {
                period: STARTUP_PERIOD,
                failure_threshold: STARTUP_FAILURES,
                ..Probe::new(check)
            })
        }
    };
    Ok(Probes { startup, readiness, liveness: given(&workload.probes.liveness)? })
}

fn check(
    context: &Context,
    check: &snapshot::Check,
    ports: &BTreeMap<Name, SocketAddr>,
) -> Result<Check, String> {
    let address = |service: &Option<Name>| {
        let name = service.as_ref().or(context.workload.services.first().map(|service| &service.name));
        let found = name.and_then(|name| ports.get(name)).copied();
        found.ok_or_else(|| "a probe names a service that the app does not have".to_owned())
    };
    Ok(match check {
        snapshot::Check::Http { path, service } => {
            Check::HttpGet { address: address(service)?, path: path.clone(), host: None, headers: Vec::new() }
        }
        snapshot::Check::Tcp { service } => Check::TcpSocket { address: address(service)? },
        snapshot::Check::Exec(argv) => Check::Exec { argv: argv.clone() },
    })
}

//! Instances on a base: from the template of a revision to what the base runs.

use dodai_api::{self as api, RestartPolicy, Run, Workload as Shapes};
use dodai_core::id::{AppId, Digest, InstanceId};
use dodai_core::snapshot::{
    Check, Limits, ModuleSpec, Probe, Probes, ProcessSpec, Protocol, Restart, ServicePort, Setting, Shape,
    Value, Workload,
};

use super::Input;
use crate::name;
use crate::plan::template_revision;
use crate::records::InstanceRecord;

/// Calls that a module runs at once on one base, unless its app says so itself.
const MAX_CONCURRENCY: u32 = 256;

/// What a base is told of an instance that was placed on it.
pub(super) fn workload(input: &Input<'_>, id: &InstanceId) -> Option<Workload> {
    let here = |one: &&InstanceRecord| one.base == *input.base && !one.succeeded;
    let record = input.records.instance(id).filter(here)?;
    let revision = input.documents.revision(&record.app, &record.revision)?;
    let template = &revision.spec.template;
    let shape = match template.workload()? {
        Shapes::Module(module) => {
            Shape::Module(module_spec(module, template, revision.spec.digest.as_deref()?))
        }
        Shapes::Process(process) => Shape::Process(process_spec(input, process, template.run)),
        Shapes::External(_) => return None,
    };
    let services = template.services.iter().map(|service| ServicePort {
        name: name::name(&service.name),
        protocol: protocol(service.protocol),
        port: service.port.map(api::Port::get),
    });
    Some(Workload {
        instance: record.id.clone(),
        app: record.app.clone(),
        revision: record.revision.clone(),
        shape,
        services: services.collect(),
        env: template.env.iter().map(variable).collect(),
        probes: probes(template),
        limits: Limits {
            memory: template.limits.memory.map(api::ByteSize::bytes),
            cpu_millis: template.limits.cpu.map(|cpu| u64::from(cpu.millis())),
            pids: template.limits.pids.map(u64::from),
            open_files: template.limits.open_files.map(u64::from),
        },
        depends_on: awaited(input, &record.app),
        once: template.run == Run::Once,
        draining: record.draining.is_some(),
    })
}

/// The apps that an app waits for. Those that ran once to their end are not waited for, wherever they ran; what
/// counts is the revision that their document makes now, which may have no record yet.
fn awaited(input: &Input<'_>, id: &AppId) -> Vec<AppId> {
    let Some(app) = input.documents.app(id) else { return Vec::new() };
    let done = |other: &AppId| {
        let current = input.documents.app(other).and_then(template_revision);
        input.records.of(other).any(|one| one.succeeded && Some(&one.revision) == current.as_ref())
    };
    let others = app.spec.depends_on.iter().map(|other| name::app_in(&app.metadata.namespace, other));
    others.filter(|other| !done(other)).collect()
}

fn module_spec(module: &api::Module, template: &api::RevisionTemplate, digest: &str) -> ModuleSpec {
    let plain =
        |(key, value): (&String, &String)| Setting { name: key.clone(), value: Value::Plain(value.clone()) };
    let stored = |store: &api::ObjectName, key: &str| Setting {
        name: key.to_owned(),
        value: Value::Config { store: store.to_string(), key: key.to_owned() },
    };
    let mut config: Vec<Setting> = module.config.iter().map(plain).collect();
    for source in &template.config {
        let keys = source.keys.iter().map(String::as_str);
        config.extend(
            keys.filter(|key| !module.config.contains_key(*key)).map(|key| stored(&source.store, key)),
        );
        if source.keys.is_empty() {
            config.push(stored(&source.store, "*"));
        }
    }
    ModuleSpec {
        artifact: Digest::new(digest),
        reuse: module.isolation == api::Isolation::Reuse,
        max_concurrency: module.max_concurrency.unwrap_or(MAX_CONCURRENCY),
        memory: module.limits.memory.bytes(),
        wall_time: module.limits.wall_time.get(),
        cpu_time: module.limits.cpu_time.get(),
        allowed_hosts: module.allowed_hosts.clone(),
        config,
        keyvalue: module.keyvalue.iter().map(|(bucket, store)| (bucket.clone(), store.to_string())).collect(),
    }
}

fn process_spec(input: &Input<'_>, process: &api::Process, run: Run) -> ProcessSpec {
    let folder = process.working_directory.as_deref();
    let folder = match (&input.settings.project, folder) {
        (Some(project), Some(folder)) => Some(project.join(folder).display().to_string()),
        (Some(project), None) => Some(project.display().to_string()),
        (None, folder) => folder.map(str::to_owned),
    };
    let restart = match (process.restart.policy, run) {
        // What runs once and ended well is done.
        (RestartPolicy::Always, Run::Once) | (RestartPolicy::OnFailure, _) => Restart::OnFailure,
        (RestartPolicy::Always, Run::Service) => Restart::Always,
        (RestartPolicy::Never, _) => Restart::Never,
    };
    ProcessSpec {
        command: process.command.clone(),
        working_directory: folder,
        user: process.user.clone(),
        group: process.group.clone(),
        stop_signal: signal(process.stop.signal).to_owned(),
        stop_grace: process.stop.grace.get(),
        restart,
        backoff_initial: process.restart.backoff.initial.get(),
        backoff_max: process.restart.backoff.max.get(),
        log_max_size: process.logs.max_size.bytes(),
        log_keep: process.logs.keep,
        proxy_env: process.proxy_env,
    }
}

fn signal(signal: api::Signal) -> &'static str {
    match signal {
        api::Signal::Sigterm => "SIGTERM",
        api::Signal::Sigint => "SIGINT",
        api::Signal::Sigquit => "SIGQUIT",
        api::Signal::Sighup => "SIGHUP",
        api::Signal::Sigusr1 => "SIGUSR1",
        api::Signal::Sigusr2 => "SIGUSR2",
        api::Signal::Sigkill => "SIGKILL",
    }
}

pub(super) fn protocol(protocol: api::Protocol) -> Protocol {
    match protocol {
        api::Protocol::Http => Protocol::Http,
        api::Protocol::Http2 => Protocol::Http2,
        api::Protocol::Grpc => Protocol::Grpc,
        api::Protocol::Tcp => Protocol::Tcp,
        api::Protocol::Udp => Protocol::Udp,
    }
}

fn variable(variable: &api::EnvVar) -> Setting {
    let value = match (&variable.secret_ref, &variable.config_ref) {
        (Some(secret), _) => Value::Secret {
            store: secret.store.to_string(),
            name: secret.key.clone(),
            key: secret.key.clone(),
        },
        (None, Some(config)) => Value::Config { store: config.store.to_string(), key: config.key.clone() },
        (None, None) => Value::Plain(variable.value.clone().unwrap_or_default()),
    };
    Setting { name: variable.name.clone(), value }
}

fn probes(template: &api::RevisionTemplate) -> Probes {
    let mut probes = Probes {
        readiness: template.probes.readiness.as_ref().map(probe),
        liveness: template.probes.liveness.as_ref().map(probe),
        startup: template.probes.startup.as_ref().map(probe),
    };
    // Nobody can knock at a port of UDP.
    let asked = template.services.iter().position(|service| service.protocol != api::Protocol::Udp);
    if let Some(at) = asked.filter(|_| probes.readiness.is_none() && template.process.is_some()) {
        let second = std::time::Duration::from_secs(1);
        probes.readiness = Some(Probe {
            check: Check::Tcp { service: (at > 0).then(|| name::name(&template.services[at].name)) },
            period: second,
            timeout: second,
            failure_threshold: 3,
            success_threshold: 1,
            initial_delay: std::time::Duration::ZERO,
        });
    }
    probes
}

fn probe(probe: &api::Probe) -> Probe {
    let check = match (&probe.http_get, &probe.exec) {
        (Some(get), _) => {
            Check::Http { path: get.path.clone(), service: get.service.as_ref().map(name::name) }
        }
        (None, Some(exec)) => Check::Exec(exec.command.clone()),
        (None, None) => {
            let service = probe.tcp_socket.as_ref().and_then(|socket| socket.service.as_ref());
            Check::Tcp { service: service.map(name::name) }
        }
    };
    Probe {
        check,
        period: probe.period.get(),
        timeout: probe.timeout.get(),
        failure_threshold: probe.failure_threshold,
        success_threshold: probe.success_threshold,
        initial_delay: probe.initial_delay.get(),
    }
}

//! Rules within an App and a Revision.

use super::Findings;
use crate::app::{AppService, AppSpec, Call, EnvVar, Probe, Protocol, RevisionSpec, Run, TrafficShare};
use crate::read::Code;
use crate::workload::{Build, External, Module, Process, Resolve, Workload};

pub(super) fn check(spec: &AppSpec, found: &mut Findings) {
    let shapes = [
        ("module", spec.module.is_some()),
        ("process", spec.process.is_some()),
        ("external", spec.external.is_some()),
    ];
    found.exactly_one("spec", &shapes);
    match spec.workload() {
        Some(Workload::Module(module)) => check_module(spec, module, found),
        Some(Workload::Process(process)) => check_process(process, found),
        Some(Workload::External(external)) => check_external(spec, external, found),
        None => {}
    }
    check_services(&spec.services, found);
    check_env(&spec.env, found);
    check_calls(&spec.calls, found);
    check_probes(spec, found);
    check_limits(spec, found);
    check_scale(spec, found);
    check_traffic(&spec.traffic, found);
    let depends = spec.depends_on.iter().enumerate();
    found.unique("the app", depends.map(|(i, app)| (format!("spec.dependsOn[{i}]"), app.clone())));
    if let Some(dapr) = &spec.dapr {
        if let Some(service) = &dapr.service {
            known_service("spec.dapr.service", service, &spec.services, found);
        }
        found.absolute_path("spec.dapr.subscribePath", &dapr.subscribe_path);
    }
    for (i, config) in spec.config.iter().enumerate() {
        for (j, _) in config.keys.iter().enumerate().filter(|(_, key)| key.is_empty()) {
            let remedy = "write the key, or leave `keys` out for every item of the store";
            found.error(
                Code::InvalidValue,
                format!("spec.config[{i}].keys[{j}]"),
                "the key is empty",
                remedy,
            );
        }
    }
}

pub(super) fn check_revision(spec: &RevisionSpec, found: &mut Findings) {
    if spec.template.workload().is_none() {
        let message = "the template has not exactly one of `module`, `process` and `external`";
        found.error(
            Code::Conflict,
            "spec.template",
            message,
            "revisions are made by the server; change the app instead",
        );
    }
}

fn check_module(spec: &AppSpec, module: &Module, found: &mut Findings) {
    if spec.run == Run::Once {
        let message = "a module answers calls and never ends, so it cannot run once";
        let remedy = "leave `run` out, or make what runs once a `process`";
        found.error(Code::Conflict, "spec.run", message, remedy);
    }
    let artifact = "spec.module.artifact";
    if let Some(digest) = module.artifact.strip_prefix("sha256:") {
        if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            let message = "not a SHA-256 digest";
            found.error(
                Code::InvalidValue,
                artifact,
                message,
                "write `sha256:` and 64 lower-case hexadecimal digits",
            );
        }
        if module.build.is_some() {
            let message = "an artefact named by digest is not built";
            found.error(
                Code::Conflict,
                "spec.module.build",
                message,
                "leave `build` out, or name a file in `artifact`",
            );
        }
    } else if module.artifact.is_empty() {
        let remedy = "name the component, for example `target/wasm32-wasip2/release/shop.wasm`";
        found.error(Code::InvalidValue, artifact, "the artefact is empty", remedy);
    }
    if let Some(build) = &module.build {
        check_build("spec.module.build", build, found);
    }
    if module.max_concurrency == Some(0) {
        let message = "no call could ever run";
        found.error(
            Code::InvalidValue,
            "spec.module.maxConcurrency",
            message,
            "write 1 or more, or leave it out",
        );
    }
    let limits = &module.limits;
    let zero = [
        ("memory", limits.memory.bytes() == 0),
        ("wallTime", limits.wall_time.get().is_zero()),
        ("cpuTime", limits.cpu_time.get().is_zero()),
    ];
    for (name, _) in zero.iter().filter(|(_, zero)| *zero) {
        let path = format!("spec.module.limits.{name}");
        found.error(
            Code::InvalidValue,
            path,
            "nothing can run with a limit of 0",
            "write a limit, or leave it out",
        );
    }
    for (i, host) in module.allowed_hosts.iter().enumerate() {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host.as_str(), None),
        };
        let path = format!("spec.module.allowedHosts[{i}]");
        if port.is_some_and(|port| port.parse::<std::num::NonZeroU16>().is_err()) {
            let message = format!("`{}` is not a host", crate::Invalid::shorten(host));
            found.error(
                Code::InvalidValue,
                path,
                message,
                "write `example.com`, `example.com:443` or `*.example.com`",
            );
        } else if name != "*" {
            found.hostname(&path, name);
        }
    }
    let raw = |service: &AppService| matches!(service.protocol, Protocol::Tcp | Protocol::Udp);
    for (i, service) in spec.services.iter().enumerate().filter(|(_, service)| raw(service)) {
        let message = format!(
            "a module cannot serve `{}`: modules answer HTTP calls, not byte streams or datagrams",
            service.name
        );
        let path = format!("spec.services[{i}].protocol");
        found.error(Code::Conflict, path, message, "use `http` or `grpc`, or run the app as a process");
    }
    if !spec.limits.is_empty() {
        let remedy = "set `spec.module.limits`";
        found.warning(Code::NoEffect, "spec.limits", "these limits are for processes", remedy);
    }
}

fn check_build(path: &str, build: &Build, found: &mut Findings) {
    found.command(&format!("{path}.command"), &build.command);
    if build.product.as_deref() == Some("") {
        let remedy = "name a file that the build writes, or leave it out";
        found.error(Code::InvalidValue, format!("{path}.product"), "the product is empty", remedy);
    }
}

fn check_process(process: &Process, found: &mut Findings) {
    found.command("spec.process.command", &process.command);
    if let Some(build) = &process.build {
        check_build("spec.process.build", build, found);
        let program = process.command.first().filter(|program| !program.contains('/'));
        if let Some(program) = program.filter(|_| build.product.is_none()) {
            let message = format!("`{program}` is found by its name, so nothing says what is built");
            let remedy = "name a file that the build writes, in `product`";
            found.error(Code::Conflict, "spec.process.build", message, remedy);
        }
    }
    let backoff = &process.restart.backoff;
    if backoff.max < backoff.initial {
        let message =
            format!("the longest wait, {}, is shorter than the first, {}", backoff.max, backoff.initial);
        found.error(
            Code::Conflict,
            "spec.process.restart.backoff.max",
            message,
            "make `max` at least `initial`",
        );
    }
    if process.logs.max_size.bytes() == 0 {
        let message = "a log file of no size cannot be written";
        found.error(Code::InvalidValue, "spec.process.logs.maxSize", message, "write a size such as `10Mi`");
    }
}

/// The last of the priorities.
const MAX_PRIORITY: u8 = 15;

fn check_external(spec: &AppSpec, external: &External, found: &mut Findings) {
    found.not_empty("spec.external.addresses", "address", &external.addresses);
    let addresses = external.addresses.iter().enumerate();
    found.unique("the address", addresses.map(|(i, a)| (format!("spec.external.addresses[{i}]"), a)));
    let is_there = |address: &str| external.addresses.iter().any(|one| one.to_string() == address);
    let keys = external.weights.keys().map(|address| ("weights", address));
    for (key, address) in keys.chain(external.priorities.keys().map(|address| ("priorities", address))) {
        if !is_there(address) {
            let message = format!("`{}` is not one of `addresses`", crate::Invalid::shorten(address));
            let path = format!("spec.external.{key}[{address:?}]");
            found.error(Code::UnknownReference, path, message, "write it as it stands there");
        }
    }
    for (address, priority) in external.priorities.iter().filter(|(_, priority)| **priority > MAX_PRIORITY) {
        let path = format!("spec.external.priorities[{address:?}]");
        let message = format!("{priority} is out of range");
        found.error(Code::InvalidValue, path, message, format!("write 0 to {MAX_PRIORITY}"));
    }
    for (address, share) in external.weights.iter().filter(|(address, _)| is_there(address)) {
        let path = format!("spec.external.weights[{address:?}]");
        if share.0 == 0 {
            let remedy = "write 1 or more; to give an address no calls, take it out of `addresses`";
            found.error(Code::InvalidValue, path, "0 would be no share at all", remedy);
        } else {
            super::route::weight(&path, *share, found);
        }
    }
    if external.resolve == Resolve::One && external.addresses.iter().all(|one| one.name().is_none()) {
        let message = "none of `addresses` is a name, so nothing is looked up";
        found.warning(Code::NoEffect, "spec.external.resolve", message, "leave it out");
    }
    if let Some(tls) = &external.tls {
        super::outside::check_tls("spec.external.tls", tls, found);
    }
    let parts = [
        ("spec.env", !spec.env.is_empty()),
        ("spec.limits", !spec.limits.is_empty()),
        ("spec.dependsOn", !spec.depends_on.is_empty()),
        ("spec.run", spec.run == Run::Once),
        ("spec.scale", spec.scale != crate::app::Scale::default()),
        ("spec.placement", !spec.placement.is_empty()),
    ];
    for (path, _) in parts.iter().filter(|(_, given)| *given) {
        found.warning(Code::NoEffect, *path, "Dodai does not start an external app", "leave it out");
    }
}

fn check_services(services: &[AppService], found: &mut Findings) {
    let names = services.iter().enumerate();
    found.unique("the service", names.map(|(i, s)| (format!("spec.services[{i}].name"), s.name.clone())));
    let ports = services.iter().enumerate().filter_map(|(i, s)| Some((i, s.port?)));
    found.unique("the port", ports.map(|(i, port)| (format!("spec.services[{i}].port"), port)));
}

fn check_env(env: &[EnvVar], found: &mut Findings) {
    let names = env.iter().enumerate();
    found.unique("the variable", names.map(|(i, v)| (format!("spec.env[{i}].name"), v.name.clone())));
    for (i, variable) in env.iter().enumerate() {
        let path = format!("spec.env[{i}]");
        if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
            let message = format!("`{}` is not a variable's name", crate::Invalid::shorten(&variable.name));
            found.error(Code::InvalidValue, format!("{path}.name"), message, "use letters, digits and `_`");
        }
        let given = [
            ("value", variable.value.is_some()),
            ("secretRef", variable.secret_ref.is_some()),
            ("configRef", variable.config_ref.is_some()),
        ];
        found.exactly_one(&path, &given);
        for (key, reference) in [("secretRef", &variable.secret_ref), ("configRef", &variable.config_ref)] {
            if reference.as_ref().is_some_and(|r| r.key.is_empty()) {
                found.error(
                    Code::InvalidValue,
                    format!("{path}.{key}.key"),
                    "the key is empty",
                    "name the item",
                );
            }
        }
    }
}

fn check_calls(calls: &[Call], found: &mut Findings) {
    let listening = calls.iter().enumerate().filter_map(|(i, call)| Some((i, call.listen?)));
    found.unique("the address", listening.map(|(i, address)| (format!("spec.calls[{i}].listen"), address)));
}

fn known_service(path: &str, name: &crate::Name, services: &[AppService], found: &mut Findings) {
    if services.iter().any(|service| service.name == *name) {
        return;
    }
    let known: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
    let remedy = match crate::read::suggest(name.as_str(), &known) {
        Some(nearest) => nearest,
        None if known.is_empty() => "declare it in `spec.services`".to_owned(),
        None => format!("the app's services are `{}`", known.join("`, `")),
    };
    found.error(Code::UnknownReference, path, format!("the app has no service `{name}`"), remedy);
}

fn check_probes(spec: &AppSpec, found: &mut Findings) {
    let probes = [
        ("readiness", &spec.probes.readiness),
        ("liveness", &spec.probes.liveness),
        ("startup", &spec.probes.startup),
    ];
    for (name, probe) in probes {
        if let Some(probe) = probe {
            check_probe(&format!("spec.probes.{name}"), probe, spec, found);
        }
    }
}

fn check_probe(path: &str, probe: &Probe, spec: &AppSpec, found: &mut Findings) {
    let given = [
        ("httpGet", probe.http_get.is_some()),
        ("tcpSocket", probe.tcp_socket.is_some()),
        ("exec", probe.exec.is_some()),
    ];
    found.exactly_one(path, &given);
    if let Some(get) = &probe.http_get {
        found.absolute_path(&format!("{path}.httpGet.path"), &get.path);
    }
    let http = probe.http_get.as_ref().and_then(|get| Some(("httpGet", get.service.as_ref()?)));
    let tcp = probe.tcp_socket.as_ref().and_then(|tcp| Some(("tcpSocket", tcp.service.as_ref()?)));
    for (key, service) in http.into_iter().chain(tcp) {
        known_service(&format!("{path}.{key}.service"), service, &spec.services, found);
    }
    if (probe.http_get.is_some() || probe.tcp_socket.is_some()) && spec.services.is_empty() {
        let message = "the app serves nothing that could be asked";
        found.error(
            Code::UnknownReference,
            path,
            message,
            "declare a service in `spec.services`, or use `exec`",
        );
    }
    if probe.tcp_socket.is_some() && spec.module.is_some() {
        let message = "a module has no port to connect to";
        found.error(Code::Conflict, format!("{path}.tcpSocket"), message, "use `httpGet`");
    }
    if let Some(exec) = &probe.exec {
        found.command(&format!("{path}.exec.command"), &exec.command);
        if spec.process.is_none() {
            let message = "only a process has a place to run a command in";
            found.error(Code::Conflict, format!("{path}.exec"), message, "use `httpGet`");
        }
    }
    for (key, value) in [("period", probe.period), ("timeout", probe.timeout)] {
        if value.get().is_zero() {
            found.error(
                Code::InvalidValue,
                format!("{path}.{key}"),
                "must be more than 0",
                "write for example `1s`",
            );
        }
    }
    for (key, value) in
        [("failureThreshold", probe.failure_threshold), ("successThreshold", probe.success_threshold)]
    {
        if value == 0 {
            found.error(Code::InvalidValue, format!("{path}.{key}"), "must be at least 1", "write 1 or more");
        }
    }
}

fn check_limits(spec: &AppSpec, found: &mut Findings) {
    let zero = [
        ("memory", spec.limits.memory.is_some_and(|m| m.bytes() == 0)),
        ("pids", spec.limits.pids == Some(0)),
        ("openFiles", spec.limits.open_files == Some(0)),
    ];
    for (name, _) in zero.iter().filter(|(_, zero)| *zero) {
        let path = format!("spec.limits.{name}");
        found.error(
            Code::InvalidValue,
            path,
            "nothing can run with a limit of 0",
            "write a limit, or leave it out",
        );
    }
}

fn check_scale(spec: &AppSpec, found: &mut Findings) {
    let (min, max) = (spec.scale.min, spec.scale.max);
    if max == Some(0) {
        let message = "nothing could ever run";
        found.error(Code::InvalidValue, "spec.scale.max", message, "write 1 or more, or delete the app");
    } else if let Some(max) = max
        && max < min
    {
        let message = format!("the most, {max}, is less than the least, {min}");
        found.error(Code::Conflict, "spec.scale.max", message, "make `max` at least `min`");
    }
    if min > 10_000 || max.is_some_and(|max| max > 10_000) {
        found.error(
            Code::InvalidValue,
            "spec.scale",
            "more than 10000 instances of one app",
            "write 10000 or fewer",
        );
    }
    if spec.run == Run::Once && spec.scale != crate::app::Scale::default() {
        let message = "an app with `run: once` runs once, whatever its scale";
        found.warning(Code::NoEffect, "spec.scale", message, "leave `scale` out");
    }
}

fn check_traffic(traffic: &[TrafficShare], found: &mut Findings) {
    let shares = traffic.iter().enumerate();
    found.unique(
        "the revision",
        shares.map(|(i, s)| (format!("spec.traffic[{i}].revision"), s.revision.clone())),
    );
    for (i, share) in traffic.iter().enumerate() {
        super::route::weight(&format!("spec.traffic[{i}].weight"), share.weight, found);
    }
    if !traffic.is_empty() && traffic.iter().all(|share| share.weight.0 == 0) {
        let message = "every weight is 0: no call would be answered";
        found.error(Code::Conflict, "spec.traffic", message, "give at least one revision a weight");
    }
}

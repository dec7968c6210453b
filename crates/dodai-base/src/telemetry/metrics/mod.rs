//! Metrics as Prometheus or OpenMetrics text, made from a copy of the counters when somebody scrapes.
//!
//! A [`Source`] gives [`Readings`], plain data; [`render`] makes text of them. Names, units and meanings are
//! in `docs/telemetry.md`, and a test holds the two together. Labels come from documents only and each family
//! is capped, so a client cannot make the text grow. Rejected: prometheus-client, which owns its counters;
//! ours live in the data plane, and a collector over copies is longer than the encoder.

mod encode;
mod host;
mod standing;

use std::collections::BTreeMap;
use std::time::SystemTime;

use dodai_core::id::{AppId, InstanceId};
use dodai_core::status::Phase;
use dodai_dataplane::stats::{self, BUCKETS};
use dodai_dataplane::survey::ServiceView;
use dodai_dataplane::tally;
use dodai_dataplane::{arrivals, gauges};
use dodai_modules::Metrics;

pub use self::encode::Format;
use self::encode::{Encoder, Example, Type};
pub use self::host::OwnUse;
use super::SinkReading;

/// The most call series in one text; the rest is counted in `dodai_metrics_series_omitted`.
pub const MAX_CALL_SERIES: usize = 2000;

/// The most modules, and the most processes, in one text.
pub const MAX_INSTANCES: usize = 2000;

/// Gives readings when asked.
pub trait Source: Send + Sync {
    /// A copy of every counter at this moment. May read `/proc`, so not on a data-plane thread.
    fn read(&self) -> Readings;
}

/// The counters of one base at one moment.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// The base's name.
    pub base: String,
    /// The version of the program.
    pub version: String,
    /// Calls.
    pub calls: Vec<stats::Reading>,
    /// Modules.
    pub modules: Vec<ModuleReading>,
    /// Processes.
    pub processes: Vec<ProcessReading>,
    /// The phase of every instance.
    pub instances: Vec<(AppId, Phase)>,
    /// Whether each component is ready, by `namespace/name`.
    pub components: BTreeMap<String, bool>,
    /// The version of the snapshot in force; 0 before the first.
    pub applied: u64,
    /// The version of the snapshot that was refused, if none newer was applied.
    pub refused: Option<u64>,
    /// Open listeners.
    pub listeners: u64,
    /// Listeners that are not as the snapshot in force says.
    pub not_open: u64,
    /// How full connections, pools and queues of the data plane are.
    pub plane: gauges::Reading,
    /// The share that this base has of limits which all bases keep together, from 0 to 1.
    pub shares: Vec<(String, f64)>,
    /// Whether each Redis by which such limits are shared can be reached.
    pub rate_stores: BTreeMap<String, bool>,
    /// What filters of rules and services did.
    pub filters: Vec<tally::Reading>,
    /// What happened at the listeners.
    pub arrivals: Vec<arrivals::Reading>,
    /// TLS handshakes with endpoints: that ended well, by version, and that failed.
    pub dialled: ([u64; arrivals::VERSIONS.len()], u64),
    /// How services stand, with the connections to their endpoints.
    pub services: Vec<(ServiceView, gauges::Pool)>,
    /// Certificates that this base shows others.
    pub certificates: Vec<CertificateReading>,
    /// Whether there is a connection to the server, where there is to be one.
    pub connected: Option<bool>,
    /// What the sinks of call records did.
    pub sinks: Vec<SinkReading>,
    /// The base's own use of resources; see [`OwnUse::read`].
    pub own: Option<OwnUse>,
}

/// One certificate that this base shows others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateReading {
    /// Whose it is: `listener`, `base` or `app`.
    pub kind: &'static str,
    /// The listener, the base or the app.
    pub name: String,
    /// The file that it was read from; empty for those that the base keeps itself.
    pub file: String,
    /// When it expires.
    pub not_after: SystemTime,
}

/// The counters of one module.
#[derive(Clone, Debug)]
pub struct ModuleReading {
    /// Its app.
    pub app: AppId,
    /// Its instance.
    pub instance: InstanceId,
    /// Its counters.
    pub metrics: Metrics,
}

/// What is known of one process instance.
#[derive(Clone, Debug)]
pub struct ProcessReading {
    /// Its app.
    pub app: AppId,
    /// Its instance.
    pub instance: InstanceId,
    /// Whether a process runs now.
    pub up: bool,
    /// How often it was started again.
    pub restarts: u64,
    /// Processor time since the start in seconds, where it can be read.
    pub cpu_seconds: Option<f64>,
    /// Memory in bytes, where it can be read.
    pub memory_bytes: Option<u64>,
}

/// The text that a scraper reads.
pub fn render(readings: &Readings, format: Format) -> String {
    let mut out = Encoder::new(format);
    base(&mut out, readings);
    plane(&mut out, &readings.plane);
    standing::render(&mut out, readings);
    calls(&mut out, &readings.calls[..readings.calls.len().min(MAX_CALL_SERIES)]);
    shares(&mut out, &readings.shares[..readings.shares.len().min(MAX_CALL_SERIES)]);
    rate_stores(&mut out, &readings.rate_stores);
    filters(&mut out, &readings.filters[..readings.filters.len().min(MAX_CALL_SERIES)]);
    instances(&mut out, &readings.instances);
    modules(&mut out, &readings.modules[..readings.modules.len().min(MAX_INSTANCES)]);
    processes(&mut out, &readings.processes[..readings.processes.len().min(MAX_INSTANCES)]);
    sinks(&mut out, &readings.sinks);
    omitted(&mut out, readings);
    if let Some(own) = &readings.own {
        own_use(&mut out, own);
    }
    out.finish()
}

fn base(out: &mut Encoder, readings: &Readings) {
    let facts = [("version", readings.version.as_str()), ("base", readings.base.as_str())];
    out.family("dodai_build", Type::Info, "The program and the base's name.").whole(&facts, 1);
    out.family(
        "dodai_snapshot_applied_version",
        Type::Gauge,
        "Version of the snapshot in force, 0 before the first.",
    )
    .whole(&[], readings.applied);
    out.family(
        "dodai_snapshot_refused_version",
        Type::Gauge,
        "Version of the newest snapshot if it was refused, else 0.",
    )
    .whole(&[], readings.refused.unwrap_or(0));
    out.family("dodai_listeners", Type::Gauge, "Open listeners.").whole(&[], readings.listeners);
    let help = "Listeners that are not as the snapshot in force says.";
    out.family("dodai_listeners_not_open", Type::Gauge, help).whole(&[], readings.not_open);
    let help = "1 while there is a connection to the server, else 0.";
    out.family("dodai_control_connected", Type::Gauge, help);
    if let Some(connected) = readings.connected {
        out.whole(&[], u64::from(connected));
    }
    out.family("dodai_component_ready", Type::Gauge, "1 if the component can be used, else 0.");
    for (component, ready) in &readings.components {
        out.whole(&[("component", component)], u64::from(*ready));
    }
}

fn plane(out: &mut Encoder, of: &gauges::Reading) {
    let mut one = |name, help, value: usize| {
        out.family(name, Type::Gauge, help).whole(&[], value as u64);
    };
    one("dodai_client_connections", "Open connections from clients.", of.clients);
    one("dodai_client_connections_limit", "The most open connections from clients.", of.clients_limit);
    one("dodai_endpoint_waiting", "Calls that wait for a connection to an endpoint.", of.endpoints_waiting);
    one("dodai_door_queued", "Calls from inside the base that wait for a thread.", of.door_queued);
    one("dodai_door_queue_capacity", "The most such calls that may wait.", of.door_capacity);
    one("dodai_mirrors_in_flight", "Calls under way to a mirror.", of.mirrors);
    out.family(
        "dodai_mesh_connections",
        Type::Counter,
        "Connections of other bases and plain callers, as let in.",
    );
    for (security, count) in ["mutual_tls", "plain"].into_iter().zip(of.mesh_let_in) {
        out.whole(&[("security", security)], count);
    }
    let left_out = [("ejected", of.endpoints_ejected), ("unwell", of.endpoints_unwell)];
    out.family("dodai_endpoints_left_out", Type::Gauge, "Endpoints that get no calls, by reason.");
    for (reason, count) in left_out {
        out.whole(&[("reason", reason)], count as u64);
    }
    let help = "Connections that rules of the kernel led here, by what became of them.";
    out.family("dodai_intercepted_connections", Type::Counter, help);
    for (way, fate, count) in of.captured.iter() {
        out.whole(&[("way", way), ("fate", fate)], count);
    }
    let states = [("busy", of.endpoints_busy), ("idle", of.endpoints_idle), ("shared", of.endpoints_h2)];
    out.family("dodai_endpoint_connections", Type::Gauge, "Connections to endpoints by state.");
    for (state, count) in states {
        out.whole(&[("state", state)], count as u64);
    }
    datagrams(out, &of.datagrams);
}

/// What UDP listeners carried.
fn datagrams(out: &mut Encoder, of: &dodai_dataplane::udp::Reading) {
    out.family(
        "dodai_udp_sessions_open",
        Type::Gauge,
        "Clients of UDP listeners that are not forgotten yet.",
    );
    out.whole(&[], of.open);
    out.family("dodai_udp_sessions", Type::Counter, "Clients of UDP listeners that sent something.");
    out.whole(&[], of.sessions);
    let ways = ["from_client", "to_client"];
    out.family("dodai_udp_datagrams", Type::Counter, "Datagrams that were passed on, by direction.");
    for (way, count) in ways.iter().zip(of.datagrams) {
        out.whole(&[("direction", way)], count);
    }
    out.family("dodai_udp_bytes", Type::Counter, "Bytes of those datagrams.");
    for (way, count) in ways.iter().zip(of.bytes) {
        out.whole(&[("direction", way)], count);
    }
    let reasons = [("sessions", of.refused), ("undeliverable", of.dropped)];
    out.family("dodai_udp_dropped", Type::Counter, "Datagrams that were dropped, by reason.");
    for (reason, count) in reasons {
        out.whole(&[("reason", reason)], count);
    }
}

/// Status classes in the order of `stats::Reading::classes`.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

fn call_labels(of: &stats::Labels) -> [(&'static str, &str); 4] {
    [
        ("direction", of.direction.as_str()),
        ("caller", &of.caller),
        ("service", &of.service),
        ("route", &of.route),
    ]
}

fn calls(out: &mut Encoder, readings: &[stats::Reading]) {
    out.family(
        "dodai_calls",
        Type::Counter,
        "Finished calls by class of status; none is a caller that left.",
    );
    for reading in readings {
        let [direction, caller, service, route] = call_labels(&reading.labels);
        for (class, count) in CLASSES.iter().zip(reading.classes).filter(|(_, count)| *count > 0) {
            out.whole(&[direction, caller, service, route, ("class", class)], count);
        }
    }
    out.family("dodai_call_failures", Type::Counter, "Calls that the base answered itself, by failure code.");
    for reading in readings {
        let [direction, caller, service, route] = call_labels(&reading.labels);
        for (kind, count) in &reading.failures {
            let blame = match kind.blame() {
                dodai_core::failure::Blame::Client => "client",
                dodai_core::failure::Blame::Policy => "policy",
                dodai_core::failure::Blame::Endpoint => "endpoint",
                dodai_core::failure::Blame::Us => "us",
            };
            let code = ("code", kind.code());
            out.whole(&[direction, caller, service, route, code, ("blame", blame)], *count);
        }
    }
    statuses(out, readings);
    let help = "Bytes from callers, without heads.";
    out.family("dodai_call_request_bytes", Type::Counter, help);
    for reading in readings {
        out.whole(&call_labels(&reading.labels), reading.received);
    }
    out.family("dodai_call_response_bytes", Type::Counter, "Bytes to callers, without heads.");
    for reading in readings {
        out.whole(&call_labels(&reading.labels), reading.sent);
    }
    out.family("dodai_call_retries", Type::Counter, "Tries after the first.");
    for reading in readings {
        out.whole(&call_labels(&reading.labels), reading.retries);
    }
    let help = "From the request's head to the last byte of the response.";
    out.family("dodai_call_duration_seconds", Type::Histogram, help);
    for reading in readings {
        let examples = reading.exemplars.iter().map(|one| one.as_ref().map(example)).collect::<Vec<_>>();
        let labels = call_labels(&reading.labels);
        out.histogram(&labels, &BUCKETS, &reading.buckets, reading.seconds, &examples);
    }
}

/// Calls by what exactly was answered.
fn statuses(out: &mut Encoder, readings: &[stats::Reading]) {
    type Counts = fn(&stats::Reading) -> &[(Option<u16>, u64)];
    let help = ["Finished calls by status of HTTP that was sent.", "Finished calls of gRPC by their status."];
    let families: [(&str, &str, Counts); 2] = [
        ("dodai_call_statuses", help[0], |reading| &reading.statuses),
        ("dodai_call_grpc_statuses", help[1], |reading| &reading.grpc),
    ];
    for (name, help, counts) in families {
        out.family(name, Type::Counter, help);
        for reading in readings {
            let [direction, caller, service, route] = call_labels(&reading.labels);
            for (code, count) in counts(reading) {
                let code = code.map_or_else(|| "other".to_owned(), |code| code.to_string());
                out.whole(&[direction, caller, service, route, ("code", &code)], *count);
            }
        }
    }
}

/// A sampled call as both formats' readers know it: by its trace.
fn example(of: &stats::Exemplar) -> Example {
    let at = of.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Example { trace: of.trace, span: of.span, value: of.seconds, at }
}

fn filters(out: &mut Encoder, readings: &[tally::Reading]) {
    let help = "What filters of rules and services did, by event.";
    out.family("dodai_filter_events", Type::Counter, help);
    for reading in readings {
        out.whole(&[("rule", &reading.rule), ("event", reading.event.as_str())], reading.count);
    }
}

fn shares(out: &mut Encoder, all: &[(String, f64)]) {
    let help = "The share that this base has of a limit which all bases keep together.";
    out.family("dodai_rate_limit_share_ratio", Type::Gauge, help);
    for (limit, share) in all {
        out.real(&[("limit", limit)], *share);
    }
}

fn rate_stores(out: &mut Encoder, all: &BTreeMap<String, bool>) {
    let help = "Whether a Redis by which bases share rate limits can be reached.";
    out.family("dodai_rate_limit_redis_up", Type::Gauge, help);
    for (redis, up) in all {
        out.whole(&[("redis", redis)], u64::from(*up));
    }
}

fn instances(out: &mut Encoder, all: &[(AppId, Phase)]) {
    let mut count: BTreeMap<(String, &str), u64> = BTreeMap::new();
    for (app, at) in all {
        *count.entry((app.to_string(), at.as_str())).or_default() += 1;
    }
    out.family("dodai_instances", Type::Gauge, "Instances of this base by phase.");
    for ((app, phase), count) in &count {
        out.whole(&[("app", app), ("phase", phase)], *count);
    }
}

/// One family with a whole value per module.
type Whole = (&'static str, Type, &'static str, fn(&Metrics) -> u64);

const MODULE_WHOLES: [Whole; 13] = [
    ("dodai_module_calls", Type::Counter, "Calls that came in, refused ones included.", |m| m.calls),
    (
        "dodai_module_calls_answered",
        Type::Counter,
        "Calls that the guest answered, whatever the status.",
        |m| m.answered,
    ),
    ("dodai_module_in_flight", Type::Gauge, "Calls that run now.", |m| m.in_flight),
    ("dodai_module_queued", Type::Gauge, "Calls that wait for a place now.", |m| m.queued),
    ("dodai_module_instances", Type::Gauge, "Guest instances that live now.", |m| m.instances),
    ("dodai_module_warm_instances", Type::Gauge, "Guest instances that wait for a call now.", |m| m.warm),
    ("dodai_module_instantiations", Type::Counter, "Guest instances made.", |m| m.instantiated),
    (
        "dodai_module_memory_peak_bytes",
        Type::Gauge,
        "The most linear memory one guest instance has had.",
        |m| m.memory_peak,
    ),
    ("dodai_module_outbound_calls", Type::Counter, "Requests that guests sent.", |m| m.outbound),
    ("dodai_module_outbound_denied", Type::Counter, "Requests of guests to hosts they may not call.", |m| {
        m.outbound_denied
    }),
    ("dodai_module_log_lines", Type::Counter, "Lines that guests wrote.", |m| m.log_lines),
    ("dodai_module_calls_cancelled", Type::Counter, "Calls whose caller went away.", |m| m.cancelled),
    (
        "dodai_module_calls_drained",
        Type::Counter,
        "Calls refused or cut because the module was draining.",
        |m| m.drained,
    ),
];

/// One reason for a failed call, and its count.
type Reason = (&'static str, fn(&Metrics) -> u64);

/// Why a module failed a call.
const MODULE_FAILURES: [Reason; 7] = [
    ("trap", |m| m.traps),
    ("memory", |m| m.over_memory),
    ("cpu", |m| m.over_cpu),
    ("wall_time", |m| m.over_wall_time),
    ("timeout", |m| m.timeouts),
    ("incomplete", |m| m.incomplete),
    ("queue_full", |m| m.queue_full),
];

fn modules(out: &mut Encoder, readings: &[ModuleReading]) {
    let named: Vec<_> = readings.iter().map(|module| (module.app.to_string(), module)).collect();
    for (name, kind, help, value) in MODULE_WHOLES {
        out.family(name, kind, help);
        for (app, module) in &named {
            out.whole(&[("app", app), ("instance_id", module.instance.as_str())], value(&module.metrics));
        }
    }
    out.family("dodai_module_failures", Type::Counter, "Calls that the module failed, by reason.");
    for (app, module) in &named {
        for (reason, value) in MODULE_FAILURES {
            let labels =
                [("app", app.as_str()), ("instance_id", module.instance.as_str()), ("reason", reason)];
            out.whole(&labels, value(&module.metrics));
        }
    }
    out.family("dodai_module_cpu_seconds", Type::Counter, "Processor time that guests used.");
    for (app, module) in &named {
        let labels = [("app", app.as_str()), ("instance_id", module.instance.as_str())];
        out.real(&labels, module.metrics.cpu_ns as f64 / 1e9);
    }
    out.family("dodai_module_instantiate_seconds", Type::Counter, "Time spent making guest instances.");
    for (app, module) in &named {
        let labels = [("app", app.as_str()), ("instance_id", module.instance.as_str())];
        out.real(&labels, module.metrics.instantiate_us as f64 / 1e6);
    }
}

fn processes(out: &mut Encoder, readings: &[ProcessReading]) {
    let named: Vec<_> = readings.iter().map(|process| (process.app.to_string(), process)).collect();
    let labels = |at: usize| -> [(&'static str, &str); 2] {
        [("app", named[at].0.as_str()), ("instance_id", named[at].1.instance.as_str())]
    };
    out.family("dodai_process_up", Type::Gauge, "1 if the app's process runs, else 0.");
    for (at, (_, process)) in named.iter().enumerate() {
        out.whole(&labels(at), u64::from(process.up));
    }
    out.family("dodai_process_restarts", Type::Counter, "How often the app's process was started again.");
    for (at, (_, process)) in named.iter().enumerate() {
        out.whole(&labels(at), process.restarts);
    }
    out.family("dodai_process_cpu_seconds", Type::Counter, "Processor time of the app's processes.");
    for (at, (_, process)) in named.iter().enumerate() {
        if let Some(seconds) = process.cpu_seconds {
            out.real(&labels(at), seconds);
        }
    }
    out.family("dodai_process_memory_bytes", Type::Gauge, "Memory of the app's processes.");
    for (at, (_, process)) in named.iter().enumerate() {
        if let Some(bytes) = process.memory_bytes {
            out.whole(&labels(at), bytes);
        }
    }
}

fn sinks(out: &mut Encoder, readings: &[SinkReading]) {
    let mut each = |name, kind, help, value: fn(&SinkReading) -> u64| {
        out.family(name, kind, help);
        for reading in readings {
            out.whole(&[("sink", reading.sink)], value(reading));
        }
    };
    each("dodai_telemetry_written", Type::Counter, "Call records that arrived where they should.", |r| {
        r.written
    });
    each("dodai_telemetry_dropped", Type::Counter, "Call records that were dropped.", |r| r.dropped);
    each("dodai_telemetry_queued", Type::Gauge, "Call records that wait now.", |r| r.queued);
    each("dodai_telemetry_queue_capacity", Type::Gauge, "The most call records that may wait.", |r| {
        r.capacity
    });
}

fn omitted(out: &mut Encoder, readings: &Readings) {
    out.family("dodai_metrics_series_omitted", Type::Gauge, "Readings left out because there are too many.");
    for (of, count, most) in [
        ("calls", readings.calls.len(), MAX_CALL_SERIES),
        ("filters", readings.filters.len(), MAX_CALL_SERIES),
        ("services", readings.services.len(), MAX_CALL_SERIES),
        ("certificates", readings.certificates.len(), MAX_CALL_SERIES),
        ("modules", readings.modules.len(), MAX_INSTANCES),
        ("processes", readings.processes.len(), MAX_INSTANCES),
    ] {
        out.whole(&[("of", of)], count.saturating_sub(most) as u64);
    }
}

fn own_use(out: &mut Encoder, own: &OwnUse) {
    out.family("process_resident_memory_bytes", Type::Gauge, "Resident memory of the base.")
        .whole(&[], own.resident_bytes);
    out.family("process_cpu_seconds", Type::Counter, "Processor time of the base.")
        .real(&[], own.cpu_seconds);
    out.family("process_threads", Type::Gauge, "Threads of the base.").whole(&[], own.threads);
    out.family("process_open_fds", Type::Gauge, "Open file descriptors of the base.")
        .whole(&[], own.open_files);
    out.family("process_start_time_seconds", Type::Gauge, "When the base started, since the epoch.")
        .real(&[], own.start_seconds);
}

#[cfg(test)]
mod tests;

//! What a base tells about its calls, set up: the access log, live records, and traces over OTLP.
//!
//! Flags say what is logged; the environment (the variables of OpenTelemetry) or, where that is silent, a Dapr
//! `Configuration` of the project says where traces go and how many are sampled. `docs/telemetry.md` has it all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use dodai_api::Document;
use dodai_api::dapr::{Otel, Tracing};
use dodai_base::telemetry::access_log::{self, AccessLog, Filter, Filters, Format};
use dodai_base::telemetry::collect::ReadSink;
use dodai_base::telemetry::otlp::{Exporter, Settings};
use dodai_base::telemetry::ring::{CAPACITY, Ring};
use dodai_core::id::BaseId;
use dodai_core::record::Sink;
use dodai_core::task::Tasks;

use crate::environment::Environment;
use crate::output::Output;

/// The access log's name in the data folder.
const FILE: &str = "access.log";
/// It is turned over before it grows larger than this.
const MAX_BYTES: u64 = 10 << 20;
/// So many older files are kept.
const KEEP: u32 = 3;
/// How long the last lines may take to be written at the end.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Sampling rates are whole numbers of these.
const WHOLE: f64 = 10_000.0;

/// Flags of every command that runs a base.
#[derive(Args, Clone, Debug, Default)]
pub struct Flags {
    /// Log calls to this file, `-` for standard output, `off`; default: failures to `access.log` in the data folder.
    #[arg(long, value_name = "FILE", help_heading = "Telemetry")]
    pub access_log: Option<String>,
    /// Which calls are logged: all, failures, sampled, status=4xx, duration>=250ms, ..., joined by && (repeat: one of
    /// them is enough); default: all where --access-log is given.
    #[arg(long = "access-log-filter", value_name = "FILTER", help_heading = "Telemetry")]
    pub access_log_filters: Vec<Filter>,
    /// How lines look: json, text, envoy, or a format string such as `%START_TIME% %RESPONSE_CODE%`; default: json.
    #[arg(long, value_name = "FORMAT", help_heading = "Telemetry")]
    pub access_log_format: Option<Format>,
    /// A request header that JSON lines carry, or of the response as `response:NAME` (repeat).
    #[arg(long = "access-log-header", value_name = "NAME", help_heading = "Telemetry")]
    pub access_log_headers: Vec<LoggedHeader>,
}

/// A header that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedHeader {
    name: String,
    of_response: bool,
}

impl FromStr for LoggedHeader {
    type Err = String;

    fn from_str(text: &str) -> Result<LoggedHeader, String> {
        let (name, of_response) = match text.split_once(':') {
            Some(("response", name)) => (name, true),
            Some(("request", name)) => (name, false),
            Some(_) => return Err("write NAME, or response:NAME for a header of the response".to_owned()),
            None => (text, false),
        };
        let name = http::HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        Ok(LoggedHeader { name: name.as_str().to_owned(), of_response })
    }
}

/// What is set up. Its parts go to the base ([`Telemetry::sinks`]) and to the metrics.
pub struct Telemetry {
    access: Option<Arc<AccessLog>>,
    ring: Ring,
    exporter: Option<Arc<Exporter>>,
    /// Of 10,000 traces that start here, how many are sampled.
    pub sample_per_ten_thousand: u16,
}

impl Telemetry {
    /// Opens the access log and starts the exporter. `tasks` must close after the base has drained.
    pub fn start(
        flags: &Flags,
        environment: &Environment,
        documents: &dodai_api::Project,
        (base, data): (&BaseId, &Path),
        output: &Output,
        tasks: &Tasks,
    ) -> anyhow::Result<Telemetry> {
        let access = match log_config(flags, data) {
            Some(config) => Some(Arc::new(AccessLog::open(config)?)),
            None => None,
        };
        let chosen = tracing_of(documents, output);
        let settings = match Settings::from_environment(&environment.0) {
            Ok(Some(settings)) => Some(settings),
            Ok(None) if exports_nowhere(environment) => None,
            Ok(None) => chosen.and_then(|(name, tracing)| configured(name, tracing, environment, output)),
            // These variables are often meant for the apps: they are no reason not to start.
            Err(error) => {
                output.warn(&format!("no traces are exported: {error}"));
                None
            }
        };
        let rate = chosen.and_then(|(_, tracing)| tracing.sampling_rate.as_deref());
        let sample_per_ten_thousand = sample(environment, rate, settings.is_some(), output);
        let exporter = settings.map(|settings| Arc::new(Exporter::start(settings, base, tasks)));
        Ok(Telemetry { access, ring: Ring::new(CAPACITY), exporter, sample_per_ten_thousand })
    }

    /// Who wants call records.
    pub fn sinks(&self) -> Vec<Arc<dyn Sink>> {
        let mut sinks: Vec<Arc<dyn Sink>> = vec![Arc::new(self.ring.clone())];
        sinks.extend(self.access.clone().map(|log| log as Arc<dyn Sink>));
        sinks.extend(self.exporter.clone().map(|exporter| exporter as Arc<dyn Sink>));
        sinks
    }

    /// What the sinks did, for the metrics.
    pub fn readings(&self) -> Vec<ReadSink> {
        let ring = self.ring.clone();
        let mut all: Vec<ReadSink> = vec![Box::new(move || ring.reading())];
        if let Some(log) = self.access.clone() {
            all.push(Box::new(move || log.reading()));
        }
        if let Some(exporter) = self.exporter.clone() {
            all.push(Box::new(move || exporter.reading()));
        }
        all
    }

    /// The calls of this moment, for whoever listens.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Writes the last lines of the access log. Call it after the data plane has drained; what the exporter
    /// still holds goes out when its tasks close.
    pub async fn close(&self) {
        let Some(log) = self.access.clone() else { return };
        // A write may block; it may not block the runtime.
        let _written = tokio::task::spawn_blocking(move || log.close(LAST_LINES)).await;
    }
}

/// What the flags say of the access log; `None` if it is off.
fn log_config(flags: &Flags, data: &Path) -> Option<access_log::Config> {
    let file = |path: PathBuf| access_log::Output::File { path, max_bytes: MAX_BYTES, keep: KEEP };
    let (output, filter) = match flags.access_log.as_deref() {
        Some("off") => return None,
        Some("-") => (access_log::Output::Stdout, Filter::all()),
        Some(path) => (file(path.into()), Filter::all()),
        None => (file(data.join(FILE)), Filter::failures()),
    };
    let filters = match flags.access_log_filters.as_slice() {
        [] => filter.into(),
        several => Filters(several.into()),
    };
    let mut headers = access_log::Headers::default();
    for header in &flags.access_log_headers {
        let all = if header.of_response { &mut headers.response } else { &mut headers.request };
        all.insert(header.name.clone());
    }
    let format = flags.access_log_format.clone().unwrap_or_default();
    Some(access_log::Config { format, filters, headers, ..access_log::Config::to(output) })
}

/// Whether the environment says in so many words that no traces are to be exported.
fn exports_nowhere(environment: &Environment) -> bool {
    environment.get("OTEL_SDK_DISABLED").is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
        || environment.get("OTEL_TRACES_EXPORTER").map(str::trim) == Some("none")
}

/// The tracing section of the project: that of its first Configuration that has one. A base has one exporter
/// for all apps, so a second section that says something else is told to have no effect.
fn tracing_of<'a>(documents: &'a dodai_api::Project, output: &Output) -> Option<(&'a str, &'a Tracing)> {
    let section = |located: &'a dodai_api::Located<Document>| {
        let Document::Configuration(document) = &located.value else { return None };
        Some((document.metadata.name.as_str(), document.spec.tracing.as_ref()?))
    };
    let mut all = documents.read.documents.iter().filter_map(section);
    let first = all.next()?;
    for (name, _) in all.filter(|(_, tracing)| *tracing != first.1) {
        output.warn(&format!(
            "Configuration {name}: its spec.tracing has no effect, because a base exports for all its apps as \
             Configuration {} says; make them equal or remove one",
            first.0
        ));
    }
    Some(first)
}

/// What a Configuration asks for, with the rest of the environment's settings; what it asks for and cannot have is
/// said, and then nothing is exported: documents of Dapr are taken as they are.
fn configured(name: &str, tracing: &Tracing, environment: &Environment, output: &Output) -> Option<Settings> {
    let warn = |text: &str| output.warn(&format!("Configuration {name}: spec.tracing.{text}"));
    if tracing.stdout {
        warn("stdout is not offered; use --access-log=- for a line per call");
    }
    if tracing.zipkin.is_some() {
        warn("zipkin is not offered; point spec.tracing.otel to a collector");
    }
    let otel = tracing.otel.as_ref()?;
    match variables(otel).and_then(|own| {
        let mut all = environment.0.clone();
        all.extend(own);
        Settings::from_environment(&all).map_err(|error| error.reason)
    }) {
        Ok(settings) => settings,
        Err(reason) => {
            warn(&format!("otel cannot be used, so nothing is exported: {reason}"));
            None
        }
    }
}

/// An `otel` section as the variables that say the same.
fn variables(otel: &Otel) -> Result<BTreeMap<String, String>, String> {
    let endpoint = otel.endpoint_address.as_deref().ok_or("endpointAddress is missing; write host:port")?;
    let scheme = if otel.is_secure.unwrap_or(true) { "https" } else { "http" };
    if otel.protocol.as_deref() != Some("http") {
        return Err("only protocol: http is offered (collector port 4318)".to_owned());
    }
    let mut all = BTreeMap::from([
        ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("{scheme}://{endpoint}")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL".to_owned(), "http/protobuf".to_owned()),
    ]);
    let mut headers = Vec::new();
    for header in &otel.headers {
        let Some(value) = header.value.as_ref().and_then(|value| value.as_str()) else {
            return Err(format!(
                "the header {} has no plain value; set OTEL_EXPORTER_OTLP_HEADERS instead, which stays out of \
                 documents",
                header.name
            ));
        };
        headers.push(format!("{}={}", header.name, crate::client::connection::encode(value)));
    }
    if !headers.is_empty() {
        all.insert("OTEL_EXPORTER_OTLP_HEADERS".to_owned(), headers.join(","));
    }
    if let Some(timeout) = otel.timeout {
        let millis = timeout.get().as_millis().to_string();
        all.insert("OTEL_EXPORTER_OTLP_TIMEOUT".to_owned(), millis);
    }
    Ok(all)
}

/// Of 10,000 traces that start here, how many are sampled: as `OTEL_TRACES_SAMPLER` says, else as a
/// Configuration does, else all where traces are exported and none where they are not.
fn sample(environment: &Environment, rate: Option<&str>, exports: bool, output: &Output) -> u16 {
    let share = |text: &str| text.trim().parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    // A share of 0 to 1 makes at most 10,000.
    let parts = |share: f64| (share * WHOLE).round() as u16;
    let usual = rate.and_then(share).map_or(if exports { parts(1.0) } else { 0 }, parts);
    match sampler(environment) {
        Ok(sampler) => sampler.map_or(usual, parts),
        // As with the other variables of OpenTelemetry: what cannot be used is told, and left out.
        Err(text) => {
            output.warn(&format!("{text}; until then {:.2} % are sampled", f64::from(usual) / 100.0));
            usual
        }
    }
}

/// The share that `OTEL_TRACES_SAMPLER` asks for, if it does.
fn sampler(environment: &Environment) -> Result<Option<f64>, String> {
    let sampler = environment.get("OTEL_TRACES_SAMPLER").map(str::trim).filter(|name| !name.is_empty());
    match sampler {
        None => Ok(None),
        Some("always_on" | "parentbased_always_on") => Ok(Some(1.0)),
        Some("always_off" | "parentbased_always_off") => Ok(Some(0.0)),
        Some("traceidratio" | "parentbased_traceidratio") => {
            let text = environment.get("OTEL_TRACES_SAMPLER_ARG").unwrap_or("1");
            let share = text.trim().parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
            share.map(Some).ok_or_else(|| {
                format!("OTEL_TRACES_SAMPLER_ARG is `{text}`; write a share from 0 to 1, such as 0.05")
            })
        }
        Some(other) => Err(format!(
            "OTEL_TRACES_SAMPLER is `{other}`; use parentbased_always_on, parentbased_always_off or \
             parentbased_traceidratio with OTEL_TRACES_SAMPLER_ARG"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    fn output() -> Output {
        Output::plain(&environment(&[]))
    }

    #[tokio::test]
    async fn variables_that_cannot_be_used_do_not_stop_a_start() {
        let folder = std::env::temp_dir();
        let flags = Flags { access_log: Some("off".to_owned()), ..Flags::default() };
        let documents = dodai_api::Project::default();
        for variables in [
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "not an address")][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
            &[("OTEL_TRACES_SAMPLER", "xray")],
        ] {
            let (base, tasks) = (BaseId::new("local"), Tasks::new());
            let started = Telemetry::start(
                &flags,
                &environment(variables),
                &documents,
                (&base, &folder),
                &output(),
                &tasks,
            );
            let telemetry = started.unwrap_or_else(|error| panic!("{variables:?}: {error:#}"));
            assert!(telemetry.exporter.is_none(), "{variables:?}");
        }
    }

    #[test]
    fn the_sampler_decides_then_the_configuration_then_whether_there_is_an_export() {
        for (variables, rate, exports, expect) in [
            (&[][..], None, false, 0),
            (&[], None, true, 10_000),
            (&[], Some("0.05"), true, 500),
            (&[("OTEL_TRACES_SAMPLER", "parentbased_always_off")], Some("1"), true, 0),
            (
                &[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.5")],
                None,
                false,
                5_000,
            ),
            (&[("OTEL_TRACES_SAMPLER", "always_on")], Some("0"), false, 10_000),
        ] {
            assert_eq!(
                sample(&environment(variables), rate, exports, &output()),
                expect,
                "{variables:?} {rate:?}"
            );
        }
        let wrong = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "5")];
        assert!(sampler(&environment(&wrong)).unwrap_err().contains("from 0 to 1"));
        assert_eq!(sample(&environment(&wrong), None, true, &output()), 10_000, "told, and left out");
        let remote = environment(&[("OTEL_TRACES_SAMPLER", "jaeger_remote")]);
        assert!(sampler(&remote).unwrap_err().contains("parentbased_traceidratio"));
        assert_eq!(sample(&remote, Some("0.5"), true, &output()), 5_000);
    }

    #[test]
    fn failures_are_logged_unless_the_flags_say_otherwise() {
        let data = Path::new("/data");
        let config = log_config(&Flags::default(), data).unwrap();
        assert_eq!(config.filters, Filter::failures().into());
        assert!(matches!(config.output, access_log::Output::File { path, .. } if path == data.join(FILE)));
        let with = |text: &str| Flags { access_log: Some(text.to_owned()), ..Flags::default() };
        assert!(log_config(&with("off"), data).is_none());
        let config = log_config(&with("-"), data).unwrap();
        assert_eq!((config.output, config.filters), (access_log::Output::Stdout, Filter::all().into()));
    }

    #[test]
    fn headers_are_of_requests_unless_the_flag_says_otherwise() {
        let flags = Flags {
            access_log_headers: ["X-Request-Id", "response:Server"].map(|text| text.parse().unwrap()).into(),
            access_log_filters: ["status=4xx", "failures"].map(|text| text.parse().unwrap()).into(),
            ..Flags::default()
        };
        let config = log_config(&flags, Path::new("/data")).unwrap();
        assert_eq!(config.headers.request, ["x-request-id".to_owned()].into());
        assert_eq!(config.headers.response, ["server".to_owned()].into());
        assert_eq!(config.filters.0.len(), 2);
        assert!("a b".parse::<LoggedHeader>().is_err() && "trailer:x".parse::<LoggedHeader>().is_err());
    }

    #[test]
    fn a_section_of_dapr_becomes_the_same_settings() {
        let mut otel = Otel {
            protocol: Some("http".to_owned()),
            endpoint_address: Some("127.0.0.1:4318".to_owned()),
            is_secure: Some(false),
            ..Otel::default()
        };
        let settings = Settings::from_environment(&variables(&otel).unwrap()).unwrap().unwrap();
        assert_eq!((settings.authority.as_str(), settings.path.as_str()), ("127.0.0.1:4318", "/v1/traces"));
        otel.is_secure = None;
        assert_eq!(variables(&otel).unwrap()["OTEL_EXPORTER_OTLP_ENDPOINT"], "https://127.0.0.1:4318");
        otel.protocol = Some("grpc".to_owned());
        assert!(variables(&otel).unwrap_err().contains("protocol: http"));
    }
}

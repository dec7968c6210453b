//! daprd's flags as a table, and the reading of a command line against it.
//!
//! Rules are those of daprd's own parser: one dash or two, `-flag=value` or `-flag value`, truth values stand
//! alone or behind `=`, a later value replaces an earlier one unless the flag may be repeated. Every flag that
//! daprd has is known here, so that one without effect says so and a misspelt one is told its neighbour.

use std::collections::BTreeMap;

use thiserror::Error;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A value.
    Text,
    /// Nothing, or `=true` and `=false`.
    Truth,
}

/// What a flag does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What it does in daprd.
    Works,
    /// Nothing; the reason is told when it is given.
    Without(&'static str),
    /// It cannot be had, and going on without it would be worse than not starting.
    Refused(&'static str),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its name without dashes.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// Its default as `--help` shows it.
    pub default: &'static str,
    /// What it does here.
    pub effect: Effect,
    /// One line of help.
    pub help: &'static str,
}

const fn text(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, takes: Takes::Text, default, effect: Effect::Works, help }
}

const fn truth(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, takes: Takes::Truth, default, effect: Effect::Works, help }
}

const fn without(name: &'static str, takes: Takes, why: &'static str) -> Flag {
    Flag { name, takes, default: "", effect: Effect::Without(why), help: "" }
}

const fn refused(name: &'static str, takes: Takes, why: &'static str) -> Flag {
    Flag { name, takes, default: "", effect: Effect::Refused(why), help: "" }
}

const NO_ACTORS: &str = "actors and workflows are not served here, and this sidecar runs jobs itself";
const NO_CONTROL_PLANE: &str = "this sidecar has no Dapr control plane";
const NO_MTLS: &str = "sidecars on one machine speak over loopback without TLS";

/// Every flag.
pub const FLAGS: &[Flag] = &[
    text("app-id", "", "the app's name, by which others invoke it; needed"),
    text("app-port", "", "the port the app listens on; without one nothing is brought to the app"),
    text("app-protocol", "http", "what the app speaks: http, h2c or grpc"),
    text("app-channel-address", "127.0.0.1", "the address or host name the app listens on"),
    text("app-max-concurrency", "-1", "calls to the app at once; -1 for no limit"),
    text("dapr-http-port", "3500", "the port of the Dapr API over HTTP; 0 takes a free one"),
    text("dapr-grpc-port", "50001", "the port of the Dapr API over gRPC; 0 takes a free one"),
    text("dapr-listen-addresses", "[::1],127.0.0.1", "addresses of the Dapr API, separated by commas"),
    text("dapr-public-port", "", "a port for health and metadata only"),
    text("dapr-public-listen-address", "0.0.0.0", "the address of that port"),
    text(
        "allowed-origins",
        "",
        "origins whose pages may call the API from a browser, separated by commas; * for all",
    ),
    text("disable-init-endpoints", "", "`subscribe`: do not ask the app for its subscriptions"),
    text(
        "dapr-internal-grpc-port",
        "",
        "the port other sidecars of this machine use (over HTTP); default a free one",
    ),
    text(
        "resources-path",
        "",
        "folders of Component, Subscription, Resiliency, ... documents, separated by commas; may be repeated",
    ),
    text("components-path", "", "the older name of --resources-path"),
    text("config", "", "files with a Configuration document, separated by commas; may be repeated"),
    text("log-level", "info", "debug, info, warn, error or fatal"),
    truth("log-as-json", "false", "write log lines as JSON"),
    truth("enable-api-logging", "false", "write a line for every call to standard output"),
    text("dapr-http-max-request-size", "4", "the longest body of an API request in MiB; -1 for no limit"),
    text("max-body-size", "4Mi", "the same as a quantity, and it wins"),
    text("dapr-http-read-buffer-size", "32", "the longest head of a request in KiB"),
    text("read-buffer-size", "32Ki", "the same as a quantity, and it wins"),
    text("dapr-graceful-shutdown-seconds", "5", "how long calls may take to finish at the end"),
    text(
        "dapr-block-shutdown-duration",
        "",
        "how long the API stays after a stop was asked for, such as 30s",
    ),
    truth("enable-metrics", "true", "serve Prometheus metrics"),
    text("metrics-port", "9090", "the port of the metrics; 0 takes a free one"),
    text("metrics-listen-address", "127.0.0.1", "the address of the metrics"),
    truth("enable-app-health-check", "false", "bring messages to the app only while it is healthy"),
    text("app-health-check-path", "/healthz", "what is asked to learn the app's health"),
    text("app-health-probe-interval", "5", "seconds between two checks"),
    text("app-health-probe-timeout", "500", "milliseconds a check may take"),
    text("app-health-threshold", "3", "failed checks in a row that mean unhealthy"),
    text("mode", "standalone", "standalone is the only mode"),
    truth("version", "", "print the Dapr version whose API this is"),
    truth("build-info", "", "print the versions of Dapr's API and of dodai"),
    without("placement-host-address", Takes::Text, NO_ACTORS),
    without("scheduler-host-address", Takes::Text, NO_ACTORS),
    without("scheduler-job-streams", Takes::Text, NO_ACTORS),
    without("actors-service", Takes::Text, NO_ACTORS),
    without("reminders-service", Takes::Text, NO_ACTORS),
    without("control-plane-address", Takes::Text, NO_CONTROL_PLANE),
    without("control-plane-trust-domain", Takes::Text, NO_CONTROL_PLANE),
    without("control-plane-namespace", Takes::Text, NO_CONTROL_PLANE),
    without("sentry-address", Takes::Text, NO_CONTROL_PLANE),
    without("sentry-request-jwt-audiences", Takes::Text, NO_CONTROL_PLANE),
    without("trust-anchors", Takes::Text, NO_MTLS),
    without("trust-anchors-file", Takes::Text, NO_MTLS),
    without("enable-mtls", Takes::Truth, NO_MTLS),
    without("enable-profiling", Takes::Truth, "there is no profiling port"),
    without("profile-port", Takes::Text, "there is no profiling port"),
    without("app-health-port", Takes::Text, "the app's health is asked on its own port"),
    without(
        "app-binding-options-timeout",
        Takes::Text,
        "an app has 3 s to say whether it takes the events of a binding",
    ),
    without("disable-builtin-k8s-secret-store", Takes::Truth, "there is none"),
    without("dapr-internal-grpc-listen-address", Takes::Text, "other sidecars reach this one over loopback"),
    without("wait", Takes::Truth, "the API is open before anything else is waited for"),
    refused("unix-domain-socket", Takes::Text, "the API is served on TCP ports only; leave the flag out"),
    refused("app-ssl", Takes::Truth, "apps are called without TLS; let the app listen in plain on loopback"),
];

/// The flags that were given; those that may be repeated have several values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given(BTreeMap<&'static str, Vec<String>>);

impl Given {
    /// The value that counts: the last one. A given flag may be empty, as launchers like to do.
    pub fn last(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.last().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All values, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A truth value; `None` if it was not given.
    pub fn truth(&self, name: &str) -> Option<bool> {
        self.last(name).map(|value| value == "true")
    }

    /// Given flags that do nothing here, with the reason. One that is switched off asks for nothing.
    pub fn without_effect(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        FLAGS.iter().filter_map(|flag| match flag.effect {
            Effect::Without(why) if self.last(flag.name).is_some_and(|value| value != "false") => {
                Some((flag.name, why))
            }
            Effect::Without(_) | Effect::Works | Effect::Refused(_) => None,
        })
    }
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To run with these flags.
    Run(Given),
    /// How it is used.
    Help,
}

/// A command line that cannot be understood.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// No such flag.
    #[error("there is no flag `{0}`{1}; `dodai daprd --help` shows all")]
    Unknown(String, String),
    /// A flag that needs a value stands last.
    #[error("`{0}` needs a value: write `{0} VALUE` or `{0}=VALUE`")]
    NoValue(String),
    /// A truth value that is none.
    #[error("`{0}` is true or false, not `{1}`; write `{0}` or `{0}=false`")]
    NotTruth(String, String),
    /// A flag that asks for what cannot be had.
    #[error("`{0}` cannot be had: {1}")]
    Refused(String, &'static str),
    /// Something that is no flag.
    #[error("`{0}` is no flag: every flag begins with `-`, and the value of a truth flag stands behind `=`")]
    Stray(String),
}

/// Reads a command line without the program's name.
///
/// # Errors
/// The first thing that cannot be understood.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Asked, Error> {
    let mut arguments = arguments.into_iter();
    let mut given = Given::default();
    while let Some(argument) = arguments.next() {
        let bare = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
        let Some(bare) = bare.filter(|bare| !bare.is_empty() && !bare.starts_with('-')) else {
            return Err(Error::Stray(argument));
        };
        let (name, value) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (bare, None),
        };
        if name == "help" || name == "h" {
            return Ok(Asked::Help);
        }
        let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) else {
            return Err(Error::Unknown(format!("--{name}"), nearest(name)));
        };
        let shown = || format!("--{name}");
        let value = match (flag.takes, value) {
            (Takes::Text, Some(value)) => value,
            (Takes::Text, None) => arguments.next().ok_or_else(|| Error::NoValue(shown()))?,
            (Takes::Truth, value) => read_truth(&shown(), value)?,
        };
        if let Effect::Refused(why) = flag.effect
            && !value.is_empty()
            && value != "false"
        {
            return Err(Error::Refused(shown(), why));
        }
        given.0.entry(flag.name).or_default().push(value);
    }
    Ok(Asked::Run(given))
}

/// Truth values as Go's flags take them.
fn read_truth(flag: &str, value: Option<String>) -> Result<String, Error> {
    match value.as_deref() {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok("true".to_owned()),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok("false".to_owned()),
        Some(other) => Err(Error::NotTruth(flag.to_owned(), other.to_owned())),
    }
}

fn nearest(name: &str) -> String {
    let near = FLAGS.iter().map(|flag| (strsim::damerau_levenshtein(name, flag.name), flag.name)).min();
    match near {
        Some((distance, near)) if distance <= 2 + name.len() / 4 => format!("; did you mean `--{near}`?"),
        Some(_) | None => String::new(),
    }
}

/// What `--help` prints.
pub fn help() -> String {
    let mut out = String::from(
        "Run one stand-alone sidecar with daprd's flags.\n\n\
         Usage: dodai daprd --app-id NAME [--app-port PORT] [--resources-path FOLDER] [FLAGS]\n\n\
         Flags, with one dash or two:\n",
    );
    for flag in FLAGS.iter().filter(|flag| flag.effect == Effect::Works) {
        let shown =
            if flag.takes == Takes::Text { format!("{} VALUE", flag.name) } else { flag.name.to_owned() };
        let default =
            if flag.default.is_empty() { String::new() } else { format!(" (default {})", flag.default) };
        out.push_str(&format!("  --{shown:<40} {}{default}\n", flag.help));
    }
    out.push_str("\nTaken so that launchers go on working, without effect:\n");
    for flag in FLAGS {
        if let Effect::Without(why) = flag.effect {
            out.push_str(&format!("  --{:<40} {why}\n", flag.name));
        }
    }
    out.push_str("\nRefused:\n");
    for flag in FLAGS {
        if let Effect::Refused(why) = flag.effect {
            out.push_str(&format!("  --{:<40} {why}\n", flag.name));
        }
    }
    out.push_str(
        "\nEnvironment: DAPR_API_TOKEN, APP_API_TOKEN, NAMESPACE, and for flags that are not given APP_ID,\n\
         APP_PORT, DAPR_HTTP_PORT and DAPR_GRPC_PORT. Example:\n\
         \x20 dodai daprd --app-id orders --app-port 8000 --resources-path ./components\n",
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Asked, Error> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    fn given(line: &str) -> Given {
        match asked(line) {
            Ok(Asked::Run(given)) => given,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn one_dash_and_two_equals_sign_or_not() {
        for line in ["-app-id x", "--app-id x", "-app-id=x", "--app-id=x"] {
            assert_eq!(given(line).last("app-id"), Some("x"), "{line}");
        }
        assert_eq!(given("--app-id a --app-id b").last("app-id"), Some("b"));
        let many = given("--resources-path a -components-path c --resources-path=b --resources-path=");
        assert_eq!(many.all("resources-path").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(given("--app-max-concurrency -1").last("app-max-concurrency"), Some("-1"));
    }

    #[test]
    fn truth_values_take_nothing_or_an_equals_sign() {
        assert_eq!(given("-enable-metrics").truth("enable-metrics"), Some(true));
        assert_eq!(given("--enable-metrics=false").truth("enable-metrics"), Some(false));
        assert_eq!(given("--log-as-json --app-id x").last("app-id"), Some("x"));
        assert_eq!(given("").truth("log-as-json"), None);
        assert_eq!(asked("--enable-metrics false"), Err(Error::Stray("false".into())));
        assert_eq!(asked("--log-as-json=yes"), Err(Error::NotTruth("--log-as-json".into(), "yes".into())));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let told = |line: &str| asked(line).expect_err(line).to_string();
        assert!(told("--app-prot 80").contains("did you mean `--app-port`"), "{}", told("--app-prot 80"));
        assert!(!told("--zzzzzzzz").contains("did you mean"));
        assert!(told("--app-id").contains("needs a value"));
        assert!(told("--").contains("no flag"));
        assert!(told("run").contains("no flag"));
        assert!(told("--unix-domain-socket /tmp").contains("TCP ports only"));
        assert!(asked("--app-ssl=false --unix-domain-socket=").is_ok());
        assert_eq!(asked("--app-id x -h"), Ok(Asked::Help));
    }

    #[test]
    fn flags_without_effect_say_so_when_they_are_given() {
        let given = given("--placement-host-address h:1 --enable-mtls=false --sentry-address=");
        let told: Vec<&str> = given.without_effect().map(|(name, _)| name).collect();
        assert_eq!(told, ["placement-host-address"]);
    }

    #[test]
    fn every_flag_is_named_once_and_explained() {
        for (at, flag) in FLAGS.iter().enumerate() {
            assert!(!FLAGS[..at].iter().any(|other| other.name == flag.name), "{}", flag.name);
            assert!(help().contains(&format!("--{}", flag.name)));
            let explained = match flag.effect {
                Effect::Works => !flag.help.is_empty(),
                Effect::Without(why) | Effect::Refused(why) => !why.is_empty(),
            };
            assert!(explained, "{}", flag.name);
        }
    }
}

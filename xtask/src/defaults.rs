//! `cargo xtask defaults`: the tables of limits in `docs/defaults.md`, written or compared.
//!
//! Those of the data path are printed by `dodai-dataplane`'s example `limits`. The others are single constants of many
//! crates, read from their sources: the value here is the text of the code, and only what it bounds is said twice.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::ci::Outcome;
use crate::process::Tool;
use crate::workspace::Workspace;

const PAGE: &str = "docs/defaults.md";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Write,
    Check,
}

/// How a number is shown.
#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Count,
    Time,
}

/// One limit outside the data path: the file below `crates`, the constant or default in it, what it bounds.
struct Limit {
    file: &'static str,
    name: &'static str,
    unit: Unit,
    what: &'static str,
}

const fn limit(file: &'static str, name: &'static str, unit: Unit, what: &'static str) -> Limit {
    Limit { file, name, unit, what }
}

const LIMITS: &[Limit] = &[
    limit("dodai-api/src/read/mod.rs", "MAX_FILE_BYTES", Unit::Bytes, "one file of documents"),
    limit("dodai-api/src/read/mod.rs", "MAX_DOCUMENT_BYTES", Unit::Bytes, "one document as it is stored"),
    limit("dodai-api/src/read/yaml.rs", "MAX_DOCUMENTS", Unit::Count, "documents in one file"),
    limit("dodai-api/src/read/yaml.rs", "MAX_DEPTH", Unit::Count, "levels of nesting in a document"),
    limit(
        "dodai-admin/src/api.rs",
        "MAX_DOCUMENTS_BYTES",
        Unit::Bytes,
        "documents in one request; more is 413",
    ),
    limit(
        "dodai-admin/src/api.rs",
        "MAX_ARTIFACT_BYTES",
        Unit::Bytes,
        "an artefact that is uploaded; more is 413",
    ),
    limit(
        "dodai-admin/src/api.rs",
        "MAX_VALUE_BYTES",
        Unit::Bytes,
        "a message or configuration value that is sent by hand",
    ),
    limit(
        "dodai-store/src/txn.rs",
        "MAX_REQUEST_BYTES",
        Unit::Bytes,
        "one request to the store, and so one document in it",
    ),
    limit(
        "dodai-store/src/txn.rs",
        "MAX_OPERATIONS",
        Unit::Count,
        "operations of one transaction of the store",
    ),
    limit(
        "dodai-control/src/plan/mod.rs",
        "revisions_kept",
        Unit::Count,
        "revisions of an app that are kept",
    ),
    limit(
        "dodai-control/src/plan/place.rs",
        "MOST_INSTANCES",
        Unit::Count,
        "instances on one base, unless its Base document says another number",
    ),
    limit(
        "dodai-control/src/stream/fetch.rs",
        "MAX_ARTIFACT",
        Unit::Bytes,
        "an artefact that a base fetches from its server",
    ),
    limit("dodai-modules/src/compile.rs", "timeout", Unit::Time, "compiling one module"),
    limit("dodai-modules/src/compile.rs", "memory", Unit::Bytes, "memory of the process that compiles one"),
    limit(
        "dodai-modules/src/host.rs",
        "max_queued",
        Unit::Count,
        "calls that wait for one module; more is 503",
    ),
    limit(
        "dodai-modules/src/limits.rs",
        "MAX_HANDLES",
        Unit::Count,
        "handles of one instance of a module: bodies, streams, fields, buckets",
    ),
    limit(
        "dodai-base/src/process/logs/frame.rs",
        "MAX_LINE",
        Unit::Bytes,
        "a line of a process's output; the rest begins a new one",
    ),
    limit(
        "dodai-base/src/process/logs/capture.rs",
        "QUEUE_LINES",
        Unit::Count,
        "lines of output that wait to be written; beyond that they are counted and dropped",
    ),
    limit(
        "dodai-base/src/shim/wire.rs",
        "MAX_FRAME",
        Unit::Bytes,
        "what a process is started with: arguments and environment",
    ),
    limit(
        "dodai-admin/src/session.rs",
        "MAX_SESSIONS",
        Unit::Count,
        "sessions of the console; a further one ends the one that was silent the longest",
    ),
    limit(
        "dodai-admin/src/session.rs",
        "SESSION_IDLE",
        Unit::Time,
        "that a session of the console may be silent",
    ),
    limit("dodai-admin/src/session.rs", "SESSION_LONGEST", Unit::Time, "that a session of the console lasts"),
    limit("dodai-admin/src/live.rs", "BEAT", Unit::Time, "between two messages of the console's live stream"),
    limit(
        "dodai-admin/src/live.rs",
        "KEPT",
        Unit::Count,
        "messages kept for consoles that come back; one that was away for longer asks for everything anew",
    ),
    limit(
        "dodai-admin/src/history.rs",
        "MAX_TRACKS",
        Unit::Count,
        "apps, and pairs of caller and app, whose rates and latencies the console knows",
    ),
    limit(
        "dodai-base/src/rates.rs",
        "ROUND",
        Unit::Time,
        "between two rounds in which bases tell each other of limits by a Redis",
    ),
    limit(
        "dodai-drivers/src/rates.rs",
        "LEASE_SECONDS",
        Unit::Time,
        "a base counts that was not heard of by that Redis; then, without it, each keeps the whole limit",
    ),
    limit(
        "dodai-drivers/src/redis/link.rs",
        "QUEUE",
        Unit::Count,
        "requests of a component that wait for the socket of its Redis; more wait for these",
    ),
    limit(
        "dodai-drivers/src/redis/pubsub.rs",
        "SWEEP_EVERY",
        Unit::Time,
        "between two removals of messages that all groups of a Redis stream have settled",
    ),
    limit(
        "dodai-drivers/src/postgresql/configuration.rs",
        "CHANNELS",
        Unit::Count,
        "channels that one `configuration.postgresql` listens to",
    ),
    limit("dodai-drivers/src/bindings/http.rs", "ANSWER", Unit::Time, "for the answer to a `bindings.http`"),
    limit("dodai-drivers/src/bindings/http.rs", "LONGEST", Unit::Bytes, "an answer to a `bindings.http`"),
    limit(
        "dodai-drivers/src/bindings/localstorage.rs",
        "LONGEST",
        Unit::Bytes,
        "a file that `bindings.localstorage` reads",
    ),
    limit(
        "dodai-drivers/src/bindings/localstorage.rs",
        "MOST",
        Unit::Count,
        "files that `bindings.localstorage` lists",
    ),
    limit(
        "dodai-runtime/src/inputs.rs",
        "ASK_TIMEOUT",
        Unit::Time,
        "for an app to say whether it takes the events of a binding",
    ),
    limit("dodai-base/src/dump/mod.rs", "MAX_ITEMS", Unit::Count, "items of one page of `dodai debug`"),
    limit(
        "dodai-admin/src/debug.rs",
        "USUAL",
        Unit::Count,
        "items of one page of `dodai debug` that says no number",
    ),
    limit(
        "dodai-base/src/dump/mod.rs",
        "PAGE_ENDPOINTS",
        Unit::Count,
        "endpoints after which a page of services ends",
    ),
    limit(
        "dodai/src/fleet/roots.rs",
        "SWEEP",
        Unit::Time,
        "between two looks of a server for expired certificates, and until bases are told anew whom to trust",
    ),
    limit(
        "dodai-admin/src/server.rs",
        "MAX_CONNECTIONS",
        Unit::Count,
        "connections to the management API; one more takes the place of one that is idle, or waits for one",
    ),
    limit(
        "dodai-admin/src/server.rs",
        "MAX_STREAMS",
        Unit::Count,
        "of these that are live streams (pages of the console, commands that follow); one more is 503",
    ),
    limit("dodai-admin/src/apps.rs", "MAX_TAIL", Unit::Count, "lines of logs that one request asks for"),
    limit("dodai-api/src/read/yaml.rs", "MAX_NODES", Unit::Count, "values in one file of documents"),
    limit("dodai-api/src/read/yaml.rs", "MAX_KEY_BYTES", Unit::Bytes, "a key in a document"),
    limit("dodai-api/src/read/decode.rs", "MAX_ERRORS", Unit::Count, "errors that are told of one document"),
    limit("dodai-api/src/validate/route.rs", "MAX_DIRECT_BODY", Unit::Bytes, "the body of a direct response"),
    limit("dodai-cel/src/lib.rs", "MAX_SOURCE", Unit::Bytes, "an expression"),
    limit("dodai-cel/src/parse.rs", "MAX_DEPTH", Unit::Count, "levels of nesting in an expression"),
    limit(
        "dodai-cel/src/eval.rs",
        "MAX_STEPS",
        Unit::Count,
        "steps of one evaluation; one that takes more does not match",
    ),
    limit("dodai-log/src/line_format.rs", "MAX_FORMAT", Unit::Bytes, "a format of the access log"),
    limit("dodai-store/src/txn.rs", "MAX_KEY_BYTES", Unit::Bytes, "a key of the store"),
    limit(
        "dodai-store/src/sqlite/mod.rs",
        "QUEUE",
        Unit::Count,
        "writes that wait for the store; further ones wait to be let in",
    ),
    limit(
        "dodai-control/src/stream/mod.rs",
        "MAX_MESSAGE",
        Unit::Bytes,
        "one message between a server and a base",
    ),
    limit("dodai-runtime/src/api/publish.rs", "MAX_ENTRIES", Unit::Count, "messages of one bulk publish"),
    limit("dodai-runtime/src/api/about.rs", "MAX_EXTENDED", Unit::Count, "extended metadata of a sidecar"),
    limit("dodai-runtime/src/api/about.rs", "MAX_EXTENDED_VALUE", Unit::Bytes, "a value of it"),
    limit("dodai-runtime/src/api/mod.rs", "MAX_TOPIC", Unit::Bytes, "the name of a topic"),
    limit("dodai-runtime/src/delivery/plan.rs", "MAX_BULK", Unit::Count, "messages of one bulk delivery"),
    limit(
        "dodai-runtime/src/delivery/plan.rs",
        "MAX_TOLD",
        Unit::Count,
        "subscriptions that an app tells; further ones are left out, and told as a problem",
    ),
    limit(
        "dodai-runtime/src/delivery/plan.rs",
        "MAX_BULK_WAIT",
        Unit::Time,
        "that a message waits for others of a bulk delivery",
    ),
    limit(
        "dodai-runtime/src/delivery/worker.rs",
        "MAX_BULK_BYTES",
        Unit::Bytes,
        "after which a bulk delivery takes no more messages",
    ),
    limit(
        "dodai-runtime/src/delivery/stream.rs",
        "JOIN_WAIT",
        Unit::Time,
        "for a broker to let in a streaming subscription; then it is refused",
    ),
    limit(
        "dodai-runtime/src/callback/mod.rs",
        "MAX_ANSWER",
        Unit::Bytes,
        "what an app answers to a delivery or a question of the runtime",
    ),
    limit(
        "dodai-runtime/src/settings.rs",
        "max_jobs",
        Unit::Count,
        "jobs of one app on a base; one more is 429",
    ),
    limit(
        "dodai-runtime/src/settings.rs",
        "job_timeout",
        Unit::Time,
        "an app's answer to a run of a job; then the run has failed",
    ),
    limit("dodai-capability/src/jobs.rs", "MAX_NAME", Unit::Bytes, "the name of a job"),
    limit("dodai-capability/src/jobs.rs", "MAX_DATA", Unit::Bytes, "what a job brings"),
    limit("dodai-modules/src/keyvalue.rs", "MAX_BATCH", Unit::Count, "keys of one batch of `wasi:keyvalue`"),
    limit("dodai-dataplane/src/jwt/source.rs", "MAX_BYTES", Unit::Bytes, "the keys of an issuer of tokens"),
    limit("dodai-dataplane/src/jwt/keys.rs", "MAX_KEYS", Unit::Count, "keys of one issuer"),
    limit(
        "dodai-dataplane/src/authorizer.rs",
        "MAX_BYTES",
        Unit::Bytes,
        "what an authoriser answers over HTTP",
    ),
    limit(
        "dodai-base/src/telemetry/metrics/mod.rs",
        "MAX_CALL_SERIES",
        Unit::Count,
        "series of calls in one reading of the metrics; the rest is counted in `dodai_metrics_series_omitted`",
    ),
    limit(
        "dodai-base/src/telemetry/access_log/mod.rs",
        "QUEUE",
        Unit::Count,
        "lines of the access log that wait to be written; beyond that they are counted and dropped",
    ),
    limit(
        "dodai-base/src/workload/check.rs",
        "MAX_BODY",
        Unit::Bytes,
        "an answer to a probe; the rest is not read",
    ),
];

pub fn run(workspace: &Workspace, mode: Mode) -> Result<()> {
    let path = workspace.root.join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("reading {PAGE}"))?;
    let data_path = Tool::new(workspace.example("limits")?, &workspace.root)
        .hint("the example `limits` of dodai-dataplane must print them")
        .output()?;
    let fresh = replaced(&page, "data-path", &data_path)?;
    let fresh = replaced(&fresh, "others", &others(workspace)?)?;
    match mode {
        Mode::Write => fs::write(&path, fresh).with_context(|| format!("writing {PAGE}")),
        Mode::Check if fresh == page => {
            println!("defaults: {} and the data path's limits match the code", LIMITS.len());
            Ok(())
        }
        Mode::Check => {
            bail!("{PAGE} is not what the code says\n  to mend it: `cargo xtask defaults`, then commit")
        }
    }
}

pub fn check(workspace: &Workspace) -> Result<Outcome> {
    run(workspace, Mode::Check).map(|()| Outcome::Passed)
}

/// The table of what the data path does not have.
fn others(workspace: &Workspace) -> Result<String> {
    let mut table = "| limit | where | what it bounds |\n|---|---|---|\n".to_owned();
    for limit in LIMITS {
        let path = workspace.root.join("crates").join(limit.file);
        let source = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let value = value(&source, limit.name)
            .with_context(|| format!("{} has no number called {}", limit.file, limit.name))?;
        let part = limit.file.split('/').next().unwrap_or_default().trim_start_matches("dodai-");
        table.push_str(&format!("| {} | {part} | {} |\n", shown(value, limit.unit), limit.what));
    }
    Ok(table)
}

/// The page with what is between the marks of `name` replaced.
fn replaced(page: &str, name: &str, text: &str) -> Result<String> {
    let (begin, end) =
        (format!("<!-- begin {name}: cargo xtask defaults -->\n"), format!("<!-- end {name} -->\n"));
    let marks = page.split_once(begin.as_str()).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(end.as_str())?;
        Some((before, after))
    });
    let (before, after) = marks.with_context(|| format!("{PAGE} has no marks for `{name}`"))?;
    Ok(format!("{before}{begin}{text}{end}{after}"))
}

/// The number that `name` is in a source: `const NAME: T = 4 << 20;` or `name: 1_000,` of a default. Times are in
/// seconds.
fn value(source: &str, name: &str) -> Option<u64> {
    let written = |line: &str| -> Option<String> {
        let constant =
            line.split_once(&format!("const {name}: ")).and_then(|(_, rest)| rest.split_once(" = "));
        if let Some((_, expression)) = constant {
            return Some(expression.split_once(';')?.0.to_owned());
        }
        let (before, rest) = line.split_once(&format!("{name}: "))?;
        let word = before.chars().next_back().is_some_and(|last| last.is_alphanumeric() || last == '_');
        let end = rest.find([',', '}']).filter(|_| !word)?;
        Some(rest[..end].to_owned())
    };
    source.lines().filter_map(written).find_map(|text| number(text.trim()))
}

/// Evaluates what limits are written as.
fn number(text: &str) -> Option<u64> {
    if let Some(seconds) = text.strip_prefix("Duration::from_secs(") {
        return number(seconds.strip_suffix(')')?);
    }
    if let Some((left, right)) = text.split_once("<<") {
        return number(left.trim())?.checked_shl(number(right.trim())?.try_into().ok()?);
    }
    if let Some((left, right)) = text.split_once('*') {
        return number(left.trim())?.checked_mul(number(right.trim())?);
    }
    text.replace('_', "").parse().ok()
}

fn shown(value: u64, unit: Unit) -> String {
    match unit {
        Unit::Count => value.to_string(),
        Unit::Time => format!("{value} s"),
        Unit::Bytes => match value {
            _ if value.is_multiple_of(1 << 30) => format!("{} GiB", value >> 30),
            _ if value.is_multiple_of(1 << 19) => format!("{} MiB", value as f64 / f64::from(1 << 20)),
            _ if value.is_multiple_of(1 << 10) => format!("{} KiB", value >> 10),
            _ => format!("{value} bytes"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        let check =
            |source: &str, expect: Option<u64>| assert_eq!(value(source, "LIMIT"), expect, "{source}");
        check("pub const LIMIT: usize = 4 << 20;", Some(4 << 20));
        check("const LIMIT: u64 = 1536 * 1024;", Some(1536 * 1024));
        check("const OTHER_LIMIT: u64 = 1;\npub(crate) const LIMIT: u32 = 1_000;", Some(1000));
        check("Options { command, LIMIT: Duration::from_secs(120), memory: 4 }", Some(120));
        check("    LIMIT: 10,", Some(10));
        check("    pub LIMIT: u32,", None);
        check("    MY_LIMIT: 10,", None);
        check("const LIMIT: usize = OTHER;", None);
    }

    #[test]
    fn sizes_are_shown_for_people() {
        for (bytes, expect) in
            [(1536 * 1024, "1.5 MiB"), (4 << 30, "4 GiB"), (16 << 10, "16 KiB"), (4097, "4097 bytes")]
        {
            assert_eq!(shown(bytes, Unit::Bytes), expect);
        }
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = "a\n<!-- begin x: cargo xtask defaults -->\nold\n<!-- end x -->\nb\n";
        let fresh = replaced(page, "x", "new\n").expect("it has the marks");
        assert_eq!(fresh, page.replace("old", "new"));
        assert!(replaced(page, "y", "new\n").is_err());
    }
}

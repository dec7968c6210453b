//! Commands that show: ps, top, get, describe, watch, events.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dodai_admin::apps::Instance;
use dodai_core::status::Phase;
use serde_json::{Value, json};

use super::arguments::{Events, Get, One, Ps, Top, Watch};
use super::connection::{Connection, encode};
use super::{app_id, to_yaml};
use crate::output::Output;

/// How often `top` looks again.
const REFRESH: Duration = Duration::from_secs(2);
/// Between the two looks of a `top` that prints once: a rate needs two.
const ONCE: Duration = Duration::from_millis(250);

/// The instances.
pub async fn instances(connection: &Connection) -> anyhow::Result<Vec<Instance>> {
    let mut answer = connection.get("/v1/instances").await?;
    Ok(serde_json::from_value(answer["items"].take())?)
}

/// `dodai ps`.
pub async fn ps(connection: &Connection, arguments: &Ps, output: &Output) -> anyhow::Result<()> {
    let wanted = arguments.app.as_deref().map(app_id);
    let mut all = instances(connection).await?;
    all.retain(|one| wanted.as_ref().is_none_or(|app| *app == one.app));
    if let Some((namespace, name)) =
        wanted.as_deref().and_then(|app| app.split_once('/')).filter(|_| all.is_empty())
    {
        // An app without instances is one thing, a name that nobody has another.
        connection.get(&format!("/v1/documents/App/{}/{}", encode(namespace), encode(name))).await?;
    }
    if output.value(&json!({ "items": all })) {
        return Ok(());
    }
    let now = now_ms();
    // With one base there is nothing to tell.
    let several = all.windows(2).any(|pair| pair[0].base != pair[1].base);
    let row = |one: &Instance| {
        let ports: Vec<String> = one.ports.values().map(ToString::to_string).collect();
        let mut row = vec![one.app.clone(), one.id.clone()];
        row.extend(several.then(|| one.base.clone()));
        row.extend([
            one.revision.clone(),
            one.shape.clone(),
            phase(one.phase).to_owned(),
            one.restarts.to_string(),
            one.pid.map_or("-".to_owned(), |pid| pid.to_string()),
            or_dash(ports.join(",")),
            age(now.saturating_sub(one.created_ms)),
            one.memory_bytes.map_or("-".to_owned(), size),
            one.reason.clone(),
        ]);
        row
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    let mut headings = vec!["APP", "INSTANCE"];
    headings.extend(several.then_some("BASE"));
    headings.extend(["REVISION", "SHAPE", "STATE", "RESTARTS", "PID", "PORTS", "AGE", "MEMORY", "REASON"]);
    output.table(&headings, &rows);
    Ok(())
}

/// `dodai top`.
pub async fn top(connection: &Connection, arguments: &Top, output: &Output) -> anyhow::Result<()> {
    let once = arguments.once || !output.is_live();
    let (mut before, mut at) = (instances(connection).await?, Instant::now());
    loop {
        tokio::time::sleep(if once { ONCE } else { REFRESH }).await;
        let (all, now) = (instances(connection).await?, Instant::now());
        let rates = rates(&before, &all, now.duration_since(at));
        if once && output.value(&json!({ "items": all, "cpuPercent": rates })) {
            return Ok(());
        }
        if !once {
            output.clear();
        }
        let mut rows: Vec<(f64, Vec<String>)> =
            all.iter().map(|one| top_row(one, rates.get(&one.id).copied())).collect();
        rows.sort_by(|a, b| b.0.total_cmp(&a.0));
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, row)| row).collect();
        output.table(&["APP", "INSTANCE", "STATE", "CPU%", "MEMORY", "CALLS", "RESTARTS"], &rows);
        if once {
            return Ok(());
        }
        (before, at) = (all, now);
    }
}

fn top_row(one: &Instance, rate: Option<f64>) -> (f64, Vec<String>) {
    let row = vec![
        one.app.clone(),
        one.id.clone(),
        phase(one.phase).to_owned(),
        rate.map_or("-".to_owned(), |rate| format!("{rate:.1}")),
        one.memory_bytes.map_or("-".to_owned(), size),
        one.in_flight.to_string(),
        one.restarts.to_string(),
    ];
    (rate.unwrap_or(-1.0), row)
}

/// Percent of one core by instance, where both readings are there.
fn rates(before: &[Instance], after: &[Instance], elapsed: Duration) -> BTreeMap<String, f64> {
    let millis = elapsed.as_secs_f64() * 1000.0;
    let rate = |one: &Instance| {
        let old = before.iter().find(|old| old.id == one.id)?.cpu_ms?;
        let used = one.cpu_ms?.saturating_sub(old);
        Some((one.id.clone(), used as f64 / millis * 100.0))
    };
    after.iter().filter_map(rate).collect()
}

/// `dodai get`.
pub async fn get(connection: &Connection, arguments: &Get, output: &Output) -> anyhow::Result<()> {
    let kind = arguments.kind;
    if let Some(name) = &arguments.name {
        let path = format!("/v1/documents/{kind}/{}/{}", encode(&arguments.namespace), encode(name));
        let document = connection.get(&path).await?;
        if !output.value(&document) {
            output.table(&HEADINGS, &[document_row(&document)]);
        }
        return Ok(());
    }
    let namespace = if arguments.all_namespaces || !kind.is_namespaced() {
        String::new()
    } else {
        format!("&namespace={}", encode(&arguments.namespace))
    };
    let answer = connection.get(&format!("/v1/documents?kind={kind}{namespace}")).await?;
    let empty = Vec::new();
    let items = answer["items"].as_array().unwrap_or(&empty);
    if output.is_yaml() {
        // Documents, which can be applied again, and not a list of them.
        for item in items {
            let _for_people = output.line(item);
        }
    } else if !output.value(&answer) {
        let rows: Vec<Vec<String>> = items.iter().map(document_row).collect();
        output.table(&HEADINGS, &rows);
        if items.is_empty() {
            let place = if namespace.is_empty() {
                String::new()
            } else {
                format!(" in namespace {}", arguments.namespace)
            };
            output.note(&format!("there is no {kind}{place}"));
        }
    }
    Ok(())
}

const HEADINGS: [&str; 5] = ["NAMESPACE", "NAME", "READY", "GENERATION", "AGE"];

fn document_row(document: &Value) -> Vec<String> {
    let metadata = &document["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let conditions = document["status"]["conditions"].as_array().into_iter().flatten();
    // Each kind says in its own word whether it does what it says.
    let words = ["Ready", "Programmed", "ResolvedRefs", "Accepted"];
    let ready = conditions.into_iter().find(|one| words.iter().any(|word| one["type"] == *word));
    let ready = ready.map_or("-".to_owned(), |one| {
        if one["status"] == "True" { "yes".to_owned() } else { format!("no: {}", text(&one["reason"])) }
    });
    vec![
        text(&metadata["namespace"]),
        text(&metadata["name"]),
        ready,
        metadata["generation"].to_string().replace("null", "-"),
        metadata["creationTimestamp"].as_str().and_then(age_since).unwrap_or_else(|| "-".to_owned()),
    ]
}

/// `dodai describe`.
pub async fn describe(connection: &Connection, arguments: &One, output: &Output) -> anyhow::Result<()> {
    let One { kind, name, namespace } = arguments;
    let document =
        connection.get(&format!("/v1/documents/{kind}/{}/{}", encode(namespace), encode(name))).await?;
    let id = format!("{namespace}/{name}");
    let own: Vec<Instance> = if *kind == dodai_api::Kind::App {
        instances(connection).await?.into_iter().filter(|one| one.app == id).collect()
    } else {
        Vec::new()
    };
    let events = connection.get("/v1/events").await?;
    let about = |event: &&Value| {
        let object = event["object"].as_str().unwrap_or_default();
        object == id || object == *name || own.iter().any(|one| one.id == object)
    };
    let events: Vec<&Value> = events["items"].as_array().into_iter().flatten().filter(about).collect();
    if output.value(&json!({ "document": document, "instances": own, "events": events })) {
        return Ok(());
    }
    output.say(to_yaml(&document).trim_end());
    if !own.is_empty() {
        output.say("\nInstances:");
        let row = |one: &Instance| {
            vec![one.id.clone(), one.revision.clone(), phase(one.phase).to_owned(), one.reason.clone()]
        };
        output.table(&["INSTANCE", "REVISION", "STATE", "REASON"], &own.iter().map(row).collect::<Vec<_>>());
    }
    if !events.is_empty() {
        output.say("\nEvents:");
        events.iter().for_each(|event| output.say(&event_line(event)));
    }
    Ok(())
}

/// `dodai watch`.
pub async fn watch(connection: &Connection, arguments: &Watch, output: &Output) -> anyhow::Result<()> {
    let mut query = Vec::new();
    query.extend(arguments.kind.map(|kind| format!("kind={kind}")));
    query.extend(arguments.namespace.as_ref().map(|namespace| format!("namespace={}", encode(namespace))));
    let mut events = connection.events(&format!("/v1/watch?{}", query.join("&"))).await?;
    while let Some(event) = events.next().await? {
        if output.line(&event) {
            continue;
        }
        if let Some(key) = event["key"].as_str() {
            output.say(&format!("deleted  {key}"));
            continue;
        }
        let document = &event["document"];
        let row = document_row(document);
        let kind = document["kind"].as_str().unwrap_or_default();
        output
            .say(&format!("put      {kind}/{}/{}  ready {}  generation {}", row[0], row[1], row[2], row[3]));
    }
    Ok(())
}

/// `dodai events`.
pub async fn events(connection: &Connection, arguments: &Events, output: &Output) -> anyhow::Result<()> {
    if arguments.follow {
        let mut events = connection.events("/v1/events?follow=true").await?;
        while let Some(event) = events.next().await? {
            if !output.line(&event) {
                output.say(&event_line(&event));
            }
        }
        return Ok(());
    }
    let path = if arguments.changes { "/v1/changes?limit=10000" } else { "/v1/events" };
    let answer = connection.get(path).await?;
    if output.value(&answer) {
        return Ok(());
    }
    for item in answer["items"].as_array().into_iter().flatten() {
        let text = |name: &str| item[name].as_str().unwrap_or_default();
        if arguments.changes {
            let time = item["time_ms"].as_u64().unwrap_or(0);
            output.say(&format!(
                "{}  {} {} by {}: {}",
                time_of(time),
                text("action"),
                text("key"),
                text("actor"),
                text("reason")
            ));
        } else {
            output.say(&event_line(item));
        }
    }
    Ok(())
}

fn event_line(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    format!(
        "{}  {}  {}: {}",
        time_of(event["at"].as_u64().unwrap_or(0)),
        text("reason"),
        text("object"),
        text("message")
    )
}

/// A problem of a document as one line: place, what is wrong, remedy.
pub fn problem(problem: &Value) -> String {
    let text = |name: &str| problem[name].as_str().unwrap_or_default();
    let mut line = text("file").to_owned();
    if problem["line"].as_u64().unwrap_or(0) > 0 {
        line.push_str(&format!(":{}:{}", problem["line"], problem["column"]));
    }
    for part in [text("path"), text("message")] {
        if !part.is_empty() {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(part);
        }
    }
    match problem["remedy"].as_str() {
        Some(remedy) => format!("{line}; {remedy}"),
        None => line,
    }
}

/// The word for a phase.
pub fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting => "waiting",
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Unready => "unready",
        Phase::BackingOff => "backing off",
        Phase::Draining => "draining",
        Phase::Succeeded => "succeeded",
        Phase::Failed => "failed",
        Phase::Gone => "gone",
    }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A length of time in its largest unit.
fn age(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long ago a time in RFC 3339 was.
fn age_since(time: &str) -> Option<String> {
    let then = time.parse::<jiff::Timestamp>().ok()?.as_millisecond();
    Some(age(now_ms().saturating_sub(u64::try_from(then).ok()?)))
}

/// Bytes in a unit people read.
fn size(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 1.0 { format!("{}Ki", bytes >> 10) } else { format!("{mebibytes:.1}Mi") }
}

/// The time of day, in UTC.
pub fn time_of(millis: u64) -> String {
    let seconds = millis / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}Z", seconds / 3600, seconds / 60 % 60, seconds % 60, millis % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        let ages = [0, 59_999, 60_000, 7_200_000, 200_000_000].map(age);
        assert_eq!(ages, ["0s", "59s", "1m", "2h", "2d"]);
        assert_eq!([2048, 3 << 20].map(size), ["2Ki", "3.0Mi"]);
        assert_eq!(time_of(86_400_000 + 3_661_007), "01:01:01.007Z");
    }

    #[test]
    fn rates_need_two_readings() {
        let one = |id: &str, cpu: Option<u64>| Instance {
            id: id.into(),
            app: String::new(),
            revision: String::new(),
            shape: String::new(),
            base: String::new(),
            phase: Phase::Ready,
            reason: String::new(),
            restarts: 0,
            pid: None,
            ports: BTreeMap::new(),
            in_flight: 0,
            created_ms: 0,
            cpu_ms: cpu,
            memory_bytes: None,
        };
        let before = [one("a", Some(100)), one("b", None)];
        let after = [one("a", Some(600)), one("b", Some(5)), one("c", Some(5))];
        let rates = rates(&before, &after, Duration::from_secs(1));
        assert_eq!(rates, BTreeMap::from([("a".to_owned(), 50.0)]));
    }

    #[test]
    fn a_document_is_one_row() {
        let document = json!({
            "metadata": {"namespace": "default", "name": "shop", "generation": 2},
            "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Starting"}]},
        });
        assert_eq!(document_row(&document), ["default", "shop", "no: Starting", "2", "-"]);
        for (condition, status, expect) in [
            ("Programmed", "True", "yes"),
            ("Programmed", "False", "no: Pending"),
            ("ResolvedRefs", "False", "no: Pending"),
            ("Other", "True", "-"),
        ] {
            let own = json!({"status": {"conditions": [{"type": condition, "status": status, "reason": "Pending"}]}});
            assert_eq!(document_row(&own)[2], expect, "{own}");
        }
        let mut old = document;
        old["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
        assert!(document_row(&old)[4].ends_with('d'), "an age, not a time: {:?}", document_row(&old));
    }
}

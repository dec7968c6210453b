//! Commands that show documents and what became of them: get, describe, watch, events.

use std::time::{SystemTime, UNIX_EPOCH};

use dodai_admin::apps::Instance;
use dodai_api::Kind;
use serde_json::{Value, json};

use super::arguments::{Events, Get, One, Watch};
use super::connection::{Connection, encode};
use super::to_yaml;
use super::wanted::wrong;
use crate::output::Output;

pub use super::instances::{instances, phase};

/// `dodai get`.
pub async fn get(connection: &Connection, arguments: &Get, output: &Output) -> anyhow::Result<()> {
    let (kinds, name) = arguments.wanted.with(arguments.name.as_deref())?;
    if let Some(name) = name {
        if arguments.all_namespaces {
            return Err(wrong(format!("`{name}` is in one namespace; leave --all-namespaces out")));
        }
        let path = format!("/v1/documents/{}/{}/{}", kinds[0], encode(&arguments.namespace), encode(&name));
        let document = connection.get(&path).await?;
        if !output.value(&document) {
            output.table(headings(kinds[0]), &[document_row(&document)]);
        }
        return Ok(());
    }
    let mut lists = Vec::new();
    for kind in kinds {
        lists.push((kind, list(connection, kind, arguments).await?));
    }
    let all = || lists.iter().flat_map(|(_, items)| items);
    if output.is_yaml() {
        // Documents, which can be applied again, and not a list of them.
        for item in all() {
            let _for_people = output.line(item);
        }
    } else if !output.value(&json!({ "items": all().collect::<Vec<_>>() })) {
        print(&lists, arguments, output);
    }
    Ok(())
}

async fn list(connection: &Connection, kind: Kind, arguments: &Get) -> anyhow::Result<Vec<Value>> {
    let namespace = if arguments.all_namespaces || !kind.is_namespaced() {
        String::new()
    } else {
        format!("&namespace={}", encode(&arguments.namespace))
    };
    let mut answer = connection.get(&format!("/v1/documents?kind={kind}{namespace}")).await?;
    Ok(serde_json::from_value(answer["items"].take())?)
}

/// A table for each kind; of several, each name has its kind before it.
fn print(lists: &[(Kind, Vec<Value>)], arguments: &Get, output: &Output) {
    let several = lists.len() > 1;
    let mut first = true;
    for (kind, items) in lists {
        if items.is_empty() {
            let everywhere = arguments.all_namespaces || !kind.is_namespaced();
            let place =
                if everywhere { String::new() } else { format!(" in namespace {}", arguments.namespace) };
            output.note(&format!("there is no {kind}{place}"));
        }
        if several && items.is_empty() {
            continue;
        }
        let mut items: Vec<&Value> = items.iter().collect();
        if *kind == Kind::Revision {
            // The newest of an app last, as in a log.
            items.sort_by_key(|one| (text(&one["spec"]["app"]), text(&one["metadata"]["creationTimestamp"])));
        }
        let mut rows: Vec<Vec<String>> = items.into_iter().map(document_row).collect();
        if several {
            let word = kind.as_str().to_lowercase();
            rows.iter_mut().for_each(|row| row[1] = format!("{word}/{}", row[1]));
            if !std::mem::take(&mut first) {
                output.say("");
            }
        }
        output.table(headings(*kind), &rows);
    }
}

fn headings(kind: Kind) -> &'static [&'static str] {
    if kind == Kind::Revision {
        return &["NAMESPACE", "NAME", "APP", "REVISION", "SERVES", "ARTEFACT", "AGE"];
    }
    &["NAMESPACE", "NAME", "READY", "GENERATION", "AGE"]
}

fn document_row(document: &Value) -> Vec<String> {
    let metadata = &document["metadata"];
    let age = || metadata["creationTimestamp"].as_str().and_then(age_since).unwrap_or_else(|| "-".to_owned());
    if document["kind"] == Kind::Revision.as_str() {
        let spec = &document["spec"];
        let digest = spec["digest"].as_str().and_then(|digest| digest.get("sha256:".len()..19));
        return vec![
            text(&metadata["namespace"]),
            text(&metadata["name"]),
            text(&spec["app"]),
            text(&spec["id"]),
            serves(document),
            digest.unwrap_or("-").to_owned(),
            age(),
        ];
    }
    vec![
        text(&metadata["namespace"]),
        text(&metadata["name"]),
        if document["kind"] == Kind::App.as_str() { app_ready(document) } else { ready(document) },
        metadata["generation"].to_string().replace("null", "-"),
        age(),
    ]
}

/// Whether a revision gets calls; why not, if it is on its way.
fn serves(revision: &Value) -> String {
    let condition = &revision["status"]["conditions"][0];
    match (condition["status"].as_str(), condition["reason"].as_str()) {
        (Some("True"), Some("Latest")) => "yes".to_owned(),
        (Some("True"), _) => "yes, by name".to_owned(),
        (Some(_), Some("Starting")) => "no: Starting".to_owned(),
        (Some(_), _) => "no".to_owned(),
        (None, _) => "-".to_owned(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

/// What a document's condition says of whether it does what it says; each kind has its own word for that.
fn condition(document: &Value) -> Option<&Value> {
    let words = ["Ready", "Programmed", "ResolvedRefs", "Accepted"];
    let conditions = document["status"]["conditions"].as_array()?;
    let of_word = |one: &&Value| words.iter().any(|word| one["type"] == *word);
    let fails = |one: &&Value| of_word(one) && one["status"] == "False";
    conditions.iter().find(fails).or_else(|| conditions.iter().find(of_word))
}

fn ready(document: &Value) -> String {
    condition(document).map_or("-".to_owned(), |one| {
        if one["status"] == "True" { "yes".to_owned() } else { format!("no: {}", text(&one["reason"])) }
    })
}

/// How many instances of an app are ready, of how many that are wanted; why, if that does not do.
fn app_ready(app: &Value) -> String {
    if app["spec"]["external"].is_object() {
        return "external".to_owned();
    }
    let holds = condition(app).is_some_and(|one| one["status"] == "True");
    let count = if app["spec"]["run"] == "once" {
        // Its one instance is gone when it has done its work.
        format!("{}/1", u8::from(holds))
    } else {
        let revisions = app["status"]["revisions"].as_array().into_iter().flatten();
        let ready: u64 = revisions.filter_map(|one| one["ready"].as_u64()).sum();
        format!("{ready}/{}", app["spec"]["scale"]["min"].as_u64().unwrap_or(1))
    };
    match condition(app) {
        Some(one) if !holds => format!("{count}: {}", text(&one["reason"])),
        Some(_) | None => count,
    }
}

/// `dodai describe`.
pub async fn describe(connection: &Connection, arguments: &One, output: &Output) -> anyhow::Result<()> {
    let namespace = &arguments.namespace;
    let (kind, name) = arguments.wanted.one(arguments.name.as_deref())?;
    let document =
        connection.get(&format!("/v1/documents/{kind}/{}/{}", encode(namespace), encode(&name))).await?;
    let id = format!("{namespace}/{name}");
    let own: Vec<Instance> = if kind == Kind::App {
        instances(connection).await?.into_iter().filter(|one| one.app == id).collect()
    } else {
        Vec::new()
    };
    let events = connection.get("/v1/events").await?;
    let about = |event: &&Value| {
        let object = event["object"].as_str().unwrap_or_default();
        is_about(object, kind, namespace, &name) || own.iter().any(|one| one.id == object)
    };
    let events: Vec<&Value> = events["items"].as_array().into_iter().flatten().filter(about).collect();
    if output.value(&json!({ "document": document, "instances": own, "events": events })) {
        return Ok(());
    }
    output.say(to_yaml(&document).trim_end());
    if !own.is_empty() {
        output.say("\nInstances:");
        let row =
            |one: &Instance| vec![one.id.clone(), one.revision.clone(), phase(one.phase), one.reason.clone()];
        output.table(&["INSTANCE", "REVISION", "STATE", "REASON"], &own.iter().map(row).collect::<Vec<_>>());
    }
    if !events.is_empty() {
        output.say("\nEvents:");
        events.iter().for_each(|event| output.say(&event_line(event)));
    }
    Ok(())
}

/// Whether the object of an event is this document: an app is told as `namespace/name`, a base by its name,
/// anything else with its kind.
fn is_about(object: &str, kind: Kind, namespace: &str, name: &str) -> bool {
    object == format!("{kind}/{namespace}/{name}")
        || (kind == Kind::App && object == format!("{namespace}/{name}"))
        || (kind == Kind::Base && object == name)
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

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A length of time in its largest unit.
pub fn age(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long ago a time in RFC 3339 was.
pub fn age_since(time: &str) -> Option<String> {
    let then = time.parse::<jiff::Timestamp>().ok()?.as_millisecond();
    Some(age(now_ms().saturating_sub(u64::try_from(then).ok()?)))
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
        assert_eq!(time_of(86_400_000 + 3_661_007), "01:01:01.007Z");
    }

    #[test]
    fn the_instances_of_an_app_are_counted() {
        let app = |spec: Value, ready: u64, condition: &str| {
            let revisions = json!([{"id": "a", "weight": 1, "wanted": 1, "ready": ready}]);
            let conditions = json!([{"type": "Ready", "status": condition, "reason": "Progressing"}]);
            json!({"kind": "App", "spec": spec, "status": {"conditions": conditions, "revisions": revisions}})
        };
        let scaled = |min: u64| json!({"module": {}, "scale": {"min": min}, "run": "service"});
        for (app, expect) in [
            (app(scaled(1), 1, "True"), "1/1"),
            (app(scaled(3), 1, "False"), "1/3: Progressing"),
            (app(json!({"process": {}, "run": "once"}), 0, "True"), "1/1"),
            (app(json!({"process": {}, "run": "once"}), 0, "False"), "0/1: Progressing"),
            (app(json!({"external": {}}), 0, "True"), "external"),
            (json!({"kind": "App", "spec": scaled(2)}), "0/2"),
        ] {
            assert_eq!(document_row(&app)[2], expect, "{app}");
        }
    }

    #[test]
    fn events_of_another_kind_are_of_another_thing() {
        for (object, kind, expect) in [
            ("default/x", Kind::App, true),
            ("default/x", Kind::Component, false),
            ("x", Kind::Component, false),
            ("x", Kind::Base, true),
            ("x", Kind::App, false),
            ("Revision/default/x", Kind::Revision, true),
            ("Revision/default/x", Kind::App, false),
            ("Component/default/x", Kind::Component, true),
            ("Component/default/x", Kind::App, false),
        ] {
            assert_eq!(is_about(object, kind, "default", "x"), expect, "{object} {kind}");
        }
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

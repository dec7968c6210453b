//! Commands that look into components and jobs: keys and values of apps, topics and messages that wait in them, locks,
//! jobs of apps.

use anyhow::bail;
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::app_id;
use super::connection::{Connection, encode};
use super::show::{age, now_ms};
use crate::exit::Failed;
use crate::output::Output;

/// How many items the server is asked for at once.
const PAGE: usize = 500;
/// The most messages that one command moves.
const MOST: usize = 10_000;
/// How many letters of a message a table shows.
const SHOWN: usize = 60;

/// `dodai topic`.
#[derive(Debug, Subcommand)]
pub enum Topic {
    /// List the topics of a component with their groups, and how many messages each has yet to settle.
    List(Component),
    /// Show messages that a group has yet to settle, oldest first. Nothing is taken or counted by looking.
    Peek {
        /// Where.
        #[command(flatten)]
        group: Group,
        /// How many at most.
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: usize,
    },
    /// Move messages that a group has yet to settle to another topic, each in one step.
    Replay {
        /// Where.
        #[command(flatten)]
        group: Group,
        /// The ids of the messages; `dodai topic peek` shows them.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<String>,
        /// All that wait now, at most 10,000.
        #[arg(long)]
        all: bool,
        /// The topic that they go to.
        #[arg(long, value_name = "TOPIC")]
        to: String,
    },
}

/// `dodai state`.
#[derive(Debug, Subcommand)]
pub enum State {
    /// List keys that an app keeps.
    List {
        /// Where.
        #[command(flatten)]
        shelf: Shelf,
        /// Only keys that begin so.
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Print the value that an app keeps under a key, of long ones the first 64 KiB.
    Get {
        /// Where.
        #[command(flatten)]
        shelf: Shelf,
        /// The key, as the app knows it.
        key: String,
    },
}

/// What one app keeps in a state store.
#[derive(Args, Debug)]
pub struct Shelf {
    /// The state store component.
    pub store: String,
    /// The app whose keys they are: `name` or `namespace/name`.
    #[arg(long)]
    pub app: String,
}

impl Shelf {
    fn path(&self) -> String {
        format!("/v1/apps/{}/state/{}", app_id(&self.app), encode(&self.store))
    }
}

/// `dodai lock`.
#[derive(Debug, Subcommand)]
pub enum Lock {
    /// List locks that are held.
    List(Component),
    /// Take a lock away from its owner, who is not told.
    Release {
        /// The lock store.
        #[command(flatten)]
        store: Component,
        /// What is locked, as `dodai lock list` says it.
        resource: String,
        /// Who holds it; the lock of another owner stays.
        #[arg(long)]
        owner: String,
    },
}

/// `dodai job`.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// List jobs: when each runs next, and how its last run ended.
    List {
        /// Only those of this app: `name` or `namespace/name`.
        app: Option<String>,
        /// Only those that this base keeps.
        #[arg(long, value_name = "NAME")]
        base: Option<String>,
    },
    /// Forget a job. A run that is under way goes on.
    Delete {
        /// The app: `name` or `namespace/name`.
        app: String,
        /// The job.
        name: String,
        /// The base that keeps it, where there are several.
        #[arg(long, value_name = "NAME")]
        base: Option<String>,
    },
}

/// A component where it is.
#[derive(Args, Debug)]
pub struct Component {
    /// The component.
    pub component: String,
    /// Its namespace.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// The base, where there are several.
    #[arg(long, value_name = "NAME")]
    pub base: Option<String>,
}

impl Component {
    /// The query that names the place.
    fn query(&self) -> String {
        format!("?namespace={}{}", encode(&self.namespace), on(self.base.as_ref()))
    }
}

/// A group of a topic.
#[derive(Args, Debug)]
pub struct Group {
    /// The pub/sub component.
    #[command(flatten)]
    pub pubsub: Component,
    /// The topic.
    pub topic: String,
    /// The group, which is the app that reads; default: what waits for the first that subscribes.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub group: String,
}

impl Group {
    fn waiting(&self) -> String {
        format!("{}&group={}", self.path(""), encode(&self.group))
    }

    fn path(&self, rest: &str) -> String {
        let (component, query) = (encode(&self.pubsub.component), self.pubsub.query());
        format!("/v1/topics/{component}/{}{rest}{query}", encode(&self.topic))
    }
}

fn on(base: Option<&String>) -> String {
    base.map_or_else(String::new, |base| format!("&base={}", encode(base)))
}

/// A cell of a table. Apps chose the words, which must not steer the terminal.
fn text(item: &Value, name: &str) -> String {
    let value = &item[name];
    match value.as_str() {
        Some("") => "-".to_owned(),
        Some(text) => text.replace(char::is_control, " "),
        None if value.is_null() => "-".to_owned(),
        None => value.to_string(),
    }
}

/// A list that comes page by page, at most `most` of it, with the bases that failed.
async fn list(connection: &Connection, path: &str, most: usize) -> anyhow::Result<Value> {
    let (mut items, mut failed, mut after) = (Vec::new(), json!({}), String::new());
    loop {
        let limit = PAGE.min(most - items.len());
        let mut page = connection.get(&format!("{path}&limit={limit}{after}")).await?;
        items.append(page["items"].as_array_mut().unwrap_or(&mut Vec::new()));
        if page["failed"].is_object() {
            failed = page["failed"].take();
        }
        match page["next"].as_str().filter(|_| items.len() < most) {
            Some(next) => after = format!("&after={}", encode(next)),
            None => return Ok(json!({ "items": items, "failed": failed })),
        }
    }
}

/// Prints a list, and which bases are not in it.
fn print(
    answer: &Value,
    headings: &[&str],
    row: impl Fn(&Value) -> Vec<String>,
    nothing: &str,
    output: &Output,
) {
    if output.value(answer) {
        return;
    }
    let items = answer["items"].as_array().map_or(&[][..], Vec::as_slice);
    let spread = items.iter().any(|item| item["base"].is_string());
    let headings = [headings, if spread { &["BASE"][..] } else { &[] }].concat();
    let rows = items.iter().map(|item| {
        let mut cells = row(item);
        cells.extend(spread.then(|| text(item, "base")));
        cells
    });
    if items.is_empty() {
        output.note(nothing);
    } else {
        output.table(&headings, &rows.collect::<Vec<_>>());
    }
    for (base, why) in answer["failed"].as_object().into_iter().flatten() {
        output.warn(&format!("base {base} is not in this list: {}", why.as_str().unwrap_or_default()));
    }
}

/// `dodai topic`.
pub async fn topic(connection: &Connection, command: &Topic, output: &Output) -> anyhow::Result<()> {
    match command {
        Topic::List(of) => {
            let answer =
                connection.get(&format!("/v1/topics/{}{}", encode(&of.component), of.query())).await?;
            let names = ["topic", "group", "pending", "in_delivery"];
            let row = |item: &Value| names.map(|name| text(item, name)).to_vec();
            print(
                &answer,
                &["TOPIC", "GROUP", "WAITING", "IN DELIVERY"],
                row,
                "there are no topics yet",
                output,
            );
        }
        Topic::Peek { group, limit } => {
            let answer = list(connection, &group.waiting(), (*limit).max(1)).await?;
            let row = |item: &Value| {
                let age = item["published_ms"].as_u64().map(|at| age(now_ms().saturating_sub(at)));
                let data = text(item, "text").chars().take(SHOWN).collect();
                vec![
                    text(item, "id"),
                    age.unwrap_or_default(),
                    text(item, "attempt"),
                    text(item, "bytes"),
                    data,
                ]
            };
            print(&answer, &["ID", "AGE", "TRIES", "BYTES", "DATA"], row, "nothing waits there", output);
        }
        Topic::Replay { group, ids, all, to } => replay(connection, group, (ids, *all), to, output).await?,
    }
    Ok(())
}

/// Moves messages one by one; what could not be moved is told at the end, and stays where it is.
async fn replay(
    connection: &Connection,
    group: &Group,
    (ids, all): (&[String], bool),
    to: &str,
    output: &Output,
) -> anyhow::Result<()> {
    let ids = if all {
        let waiting = list(connection, &group.waiting(), MOST).await?;
        let items = waiting["items"].as_array().cloned().unwrap_or_default();
        items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect()
    } else {
        ids.to_vec()
    };
    let (mut moved, mut stay) = (Vec::new(), Vec::new());
    for id in ids {
        let body = json!({ "group": group.group, "id": id, "to": to }).to_string();
        let kind = [("content-type", "application/json")];
        match connection.json_as(Method::POST, &group.path("/replay"), &kind, body.into()).await {
            Ok(_) => moved.push(id),
            Err(error) => {
                let is_lost = error.downcast_ref::<Failed>() == Some(&Failed::Unreachable);
                stay.push((id, error));
                if is_lost {
                    break;
                }
            }
        }
    }
    output.say(&format!("{} moved from {} to {to}", counted(moved.len()), group.topic));
    output.json(&json!({ "moved": moved }));
    match stay.pop() {
        None => Ok(()),
        Some((_, error)) if moved.is_empty() && stay.is_empty() => Err(error),
        Some((id, error)) => {
            bail!("{} could not be moved; the last of them, {id}: {error}", counted(stay.len() + 1))
        }
    }
}

fn counted(count: usize) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

/// `dodai state`.
pub async fn state(connection: &Connection, command: &State, output: &Output) -> anyhow::Result<()> {
    match command {
        State::List { shelf, prefix } => {
            let (mut keys, mut after) = (Vec::new(), String::new());
            loop {
                let query = format!("?prefix={}&limit={PAGE}{after}", encode(prefix));
                let mut page = connection.get(&format!("{}{query}", shelf.path())).await?;
                keys.append(page["keys"].as_array_mut().unwrap_or(&mut Vec::new()));
                match page["next"].as_str() {
                    Some(next) => after = format!("&after={}", encode(next)),
                    None => break,
                }
            }
            let items: Vec<Value> = keys.into_iter().map(|key| json!({ "key": key })).collect();
            let answer = json!({ "items": items });
            let nothing = "the app keeps nothing there that begins so";
            print(&answer, &["KEY"], |item| vec![text(item, "key")], nothing, output);
        }
        State::Get { shelf, key } => {
            let answer = connection.get(&format!("{}/{}", shelf.path(), encode(key))).await?;
            if output.value(&answer) {
                return Ok(());
            }
            let bytes = answer["bytes"].as_u64().unwrap_or_default();
            let Some(value) = answer["text"].as_str() else {
                bail!("the value of `{key}` is {bytes} bytes that are no text");
            };
            output.say(value);
            if value.len() as u64 != bytes {
                output.warn(&format!("these are the first {} bytes of {bytes}", value.len()));
            }
        }
    }
    Ok(())
}

/// `dodai lock`.
pub async fn lock(connection: &Connection, command: &Lock, output: &Output) -> anyhow::Result<()> {
    match command {
        Lock::List(of) => {
            let path = format!("/v1/locks/{}{}", encode(&of.component), of.query());
            let answer = list(connection, &path, usize::MAX).await?;
            let row = |item: &Value| {
                let left = item["left_ms"].as_u64().map_or_else(|| "-".to_owned(), age);
                vec![text(item, "resource"), text(item, "owner"), left]
            };
            print(&answer, &["RESOURCE", "OWNER", "LEFT"], row, "no lock is held there", output);
        }
        Lock::Release { store, resource, owner } => {
            let (component, resource_part) = (encode(&store.component), encode(resource));
            let path =
                format!("/v1/locks/{component}/{resource_part}{}&owner={}", store.query(), encode(owner));
            let answer = connection.json(Method::DELETE, &path, Bytes::new()).await?;
            if !output.value(&answer) {
                output.say(&format!("{resource} released; {owner} is not told"));
            }
        }
    }
    Ok(())
}

/// `dodai job`.
pub async fn job(connection: &Connection, command: &Job, output: &Output) -> anyhow::Result<()> {
    match command {
        Job::List { app, base } => {
            let app = app.as_deref().map(|app| format!("&app={}", encode(&app_id(app)))).unwrap_or_default();
            let answer =
                list(connection, &format!("/v1/jobs?{}{}", app, on(base.as_ref())), usize::MAX).await?;
            let headings = ["APP", "NAME", "WHEN", "NEXT", "RAN", "FAILURES", "LAST"];
            print(&answer, &headings, job_row, "there are no jobs", output);
        }
        Job::Delete { app, name, base } => {
            let base = base.as_ref().map(|base| format!("?base={}", encode(base))).unwrap_or_default();
            let path = format!("/v1/jobs/{}/{}{base}", app_id(app), encode(name));
            let answer = connection.json(Method::DELETE, &path, Bytes::new()).await?;
            if !output.value(&answer) {
                output.say(&format!("job {name} of {} deleted", app_id(app)));
            }
        }
    }
    Ok(())
}

fn job_row(job: &Value) -> Vec<String> {
    let ran = match job["repeats"].as_u64() {
        Some(repeats) => format!("{} of {repeats}", job["ticks"]),
        None => text(job, "ticks"),
    };
    let when = if job["schedule"].is_string() { "schedule" } else { "due_time" };
    let (now, next) = (now_ms(), job["next_ms"].as_u64().unwrap_or_default());
    let next =
        if next > now { format!("in {}", age(next - now)) } else { format!("{} late", age(now - next)) };
    let outcome = if job["problem"].is_string() { text(job, "problem") } else { "taken".to_owned() };
    let last = job["last_ms"].as_u64().map(|at| format!("{} ago: {outcome}", age(now.saturating_sub(at))));
    let last = last.unwrap_or_else(|| "-".to_owned());
    vec![text(job, "app"), text(job, "name"), text(job, when), next, ran, text(job, "failures"), last]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_one_row() {
        let row = |job: Value| job_row(&job)[2..].join("|");
        let late = now_ms() - 90_000;
        let one = json!({ "app": "default/a", "name": "j", "schedule": null, "due_time": "5s", "next_ms": late,
            "ticks": 0, "repeats": null, "failures": 2, "last_ms": late, "problem": "the app\u{1b} answered 500" });
        assert_eq!(row(one), "5s|1m late|0|2|1m ago: the app  answered 500");
        let again = json!({ "app": "default/a", "name": "j", "schedule": "@daily", "due_time": "5s",
            "next_ms": now_ms() + 7_260_000, "ticks": 3, "repeats": 9, "failures": 0, "last_ms": null });
        assert_eq!(row(again), "@daily|in 2h|3 of 9|0|-");
    }
}

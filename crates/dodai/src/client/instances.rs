//! Commands that show what runs: ps, top.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dodai_admin::apps::Instance;
use dodai_admin::externals::External;
use dodai_core::status::Phase;
use serde_json::json;

use super::app_id;
use super::arguments::{Ps, Top};
use super::connection::{Connection, encode};
use super::show::{age, age_since, now_ms};
use crate::exit::Failed;
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

/// The addresses of apps that run elsewhere, each tried by the server.
async fn externals(connection: &Connection) -> anyhow::Result<Vec<External>> {
    match connection.get("/v1/externals").await {
        Ok(mut answer) => Ok(serde_json::from_value(answer["items"].take())?),
        // An older server does not tell.
        Err(error) if error.downcast_ref::<Failed>() == Some(&Failed::NotFound) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// `dodai ps`.
pub async fn ps(connection: &Connection, arguments: &Ps, output: &Output) -> anyhow::Result<()> {
    let wanted = arguments.app.as_deref().map(app_id);
    let (mut all, mut elsewhere) = (instances(connection).await?, externals(connection).await?);
    all.retain(|one| wanted.as_ref().is_none_or(|app| *app == one.app));
    elsewhere.retain(|one| wanted.as_ref().is_none_or(|app| *app == one.app));
    if let Some((namespace, name)) = wanted
        .as_deref()
        .and_then(|app| app.split_once('/'))
        .filter(|_| all.is_empty() && elsewhere.is_empty())
    {
        // An app without instances is one thing, a name that nobody has another.
        connection.get(&format!("/v1/documents/App/{}/{}", encode(namespace), encode(name))).await?;
    }
    if output.value(&json!({ "items": all, "external": elsewhere })) {
        return Ok(());
    }
    let with_base = tells_base(&all);
    let now = now_ms();
    let mut rows: Vec<Vec<String>> = all.iter().map(|one| row(one, with_base, now)).collect();
    rows.extend(elsewhere.iter().map(|one| external_row(one, with_base)));
    let mut headings = vec!["APP", "INSTANCE"];
    headings.extend(with_base.then_some("BASE"));
    headings.extend(["REVISION", "SHAPE", "STATE", "RESTARTS", "PID", "PORTS", "AGE", "MEMORY", "REASON"]);
    output.table(&headings, &rows);
    Ok(())
}

/// Whether it is of interest which base runs what: not where there is none but that of `dodai up`.
fn tells_base(all: &[Instance]) -> bool {
    all.iter().any(|one| one.base != crate::up::BASE)
}

fn row(one: &Instance, with_base: bool, now: u64) -> Vec<String> {
    let ports: Vec<String> = one.ports.values().map(ToString::to_string).collect();
    let mut row = vec![one.app.clone(), one.id.clone()];
    row.extend(with_base.then(|| one.base.clone()));
    row.extend([
        one.revision.clone(),
        one.shape.clone(),
        phase(one.phase),
        one.restarts.to_string(),
        one.pid.map_or("-".to_owned(), |pid| pid.to_string()),
        or_dash(ports.join(",")),
        age(now.saturating_sub(one.created_ms)),
        one.memory_bytes.map_or("-".to_owned(), size),
        one.reason.clone(),
    ]);
    row
}

/// An app that runs elsewhere has an address where others have an instance.
fn external_row(one: &External, with_base: bool) -> Vec<String> {
    let dash = || "-".to_owned();
    let mut row = vec![one.app.clone(), one.address.clone()];
    row.extend(with_base.then(dash));
    let port = one.address.rsplit_once(':').map_or_else(dash, |(_, port)| port.to_owned());
    row.extend([
        or_dash(one.revision.clone()),
        "external".to_owned(),
        if one.reachable { "reachable" } else { "unreachable" }.to_owned(),
        dash(),
        dash(),
        port,
        one.created.as_deref().and_then(age_since).unwrap_or_else(dash),
        dash(),
        one.reason.clone(),
    ]);
    row
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
        output.table(&["APP", "INSTANCE", "STATE", "CPU%", "MEMORY", "IN FLIGHT", "RESTARTS"], &rows);
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
        phase(one.phase),
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

/// The words for a phase, as people read them.
pub fn phase(phase: Phase) -> String {
    phase.as_str().replace('_', " ")
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Bytes in a unit people read.
fn size(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 1.0 { format!("{}Ki", bytes >> 10) } else { format!("{mebibytes:.1}Mi") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_runs_elsewhere_is_a_row() {
        let one = |reachable: bool, reason: &str| External {
            app: "default/far".into(),
            address: "[::1]:9301".into(),
            revision: String::new(),
            reachable,
            reason: reason.into(),
            created: None,
        };
        let there = external_row(&one(true, ""), false);
        assert_eq!(
            there,
            ["default/far", "[::1]:9301", "-", "external", "reachable", "-", "-", "9301", "-", "-", ""]
        );
        let gone = external_row(&one(false, "refused; start it: x"), true);
        assert_eq!((gone.len(), gone[2].as_str(), gone[5].as_str()), (12, "-", "unreachable"));
        assert_eq!(gone[11], "refused; start it: x");
    }

    #[test]
    fn the_base_is_shown_where_it_is_not_that_of_up() {
        let on = |base: &str| Instance {
            id: "web-1".into(),
            app: "default/web".into(),
            revision: "web-r1".into(),
            shape: "process".into(),
            base: base.into(),
            phase: Phase::Ready,
            reason: String::new(),
            restarts: 0,
            pid: None,
            ports: BTreeMap::new(),
            in_flight: 0,
            created_ms: 0,
            cpu_ms: None,
            memory_bytes: None,
        };
        assert!(!tells_base(&[]) && !tells_base(&[on("local")]));
        assert!(tells_base(&[on("one"), on("one")]) && tells_base(&[on("local"), on("one")]));
        assert_eq!(row(&on("one"), true, 0)[2], "one");
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([2048, 3 << 20].map(size), ["2Ki", "3.0Mi"]);
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
}

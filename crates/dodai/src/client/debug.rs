//! `dodai debug`: what a running base is at this moment, as tables or JSON.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::app_id;
use super::connection::{Connection, encode};
use crate::output::Output;

/// Items that are asked for at once.
const PAGE: usize = 500;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// The compiled rules, in the order in which calls ask them.
    Table,
    /// Services with their endpoints and how each stands.
    Clusters,
    /// Connections from clients.
    Connections,
    /// Certificates that the base shows others; never keys.
    Certificates,
}

impl View {
    fn as_str(self) -> &'static str {
        match self {
            View::Table => "table",
            View::Clusters => "clusters",
            View::Connections => "connections",
            View::Certificates => "certificates",
        }
    }
}

/// `dodai debug`.
#[derive(Args, Debug)]
pub struct Debug {
    /// What is looked at.
    #[arg(value_enum)]
    pub view: View,
    /// Only what is of this service (`namespace/app/port`), listener or rule.
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
    /// Only what is of this app: `name` or `namespace/name`.
    #[arg(long, value_name = "APP")]
    pub app: Option<String>,
    /// The base, where a server has several.
    #[arg(long, value_name = "BASE")]
    pub base: Option<String>,
    /// At most so many items.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: usize,
    /// Only items after this one, as `next` of an earlier answer said.
    #[arg(long, value_name = "NEXT", default_value_t = 0)]
    pub after: u64,
}

/// `dodai debug`.
pub async fn run(connection: &Connection, arguments: &Debug, output: &Output) -> anyhow::Result<()> {
    let (mut items, mut next) = (Vec::new(), Some(arguments.after));
    while let Some(after) = next
        && items.len() < arguments.limit
    {
        let mut page = connection.get(&path(arguments, after, arguments.limit - items.len())).await?;
        if let Value::Array(some) = page["items"].take() {
            items.extend(some);
        }
        next = page["next"].as_u64();
    }
    if output.value(&json!({ "items": items, "next": next })) {
        return Ok(());
    }
    let (headings, rows): (&[&str], Vec<Vec<String>>) = match arguments.view {
        View::Table => {
            (&["ORDER", "WHERE", "RULE", "MATCHES", "FILTERS", "ACTION"], items.iter().map(rule).collect())
        }
        View::Clusters => (
            &[
                "SERVICE",
                "ENDPOINT",
                "STATE",
                "WEIGHT",
                "TIER",
                "IN FLIGHT",
                "LATENCY",
                "FAILURES",
                "REVISION",
            ],
            items.iter().flat_map(cluster).collect(),
        ),
        View::Connections => (
            &["ID", "LISTENER", "PEER", "CALLER", "PROTOCOL", "TLS", "AGE", "CALLS", "STREAMS", "IN", "OUT"],
            items.iter().map(connected).collect(),
        ),
        View::Certificates => (
            &["KIND", "NAME", "NAMES", "ISSUER", "SERIAL", "NOT BEFORE", "NOT AFTER"],
            items.iter().map(certificate).collect(),
        ),
    };
    output.table(headings, &rows);
    if let Some(next) = next {
        output.note(&format!("there is more; go on with --after {next}, or raise --limit"));
    }
    Ok(())
}

fn path(arguments: &Debug, after: u64, left: usize) -> String {
    let mut path = format!("/debug/{}?after={after}&limit={}", arguments.view.as_str(), left.min(PAGE));
    let app = arguments.app.as_deref().map(app_id);
    for (name, value) in [("only", &arguments.only), ("app", &app), ("base", &arguments.base)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    path
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) if all.is_empty() => "-".to_owned(),
        Value::Array(all) => all.iter().map(cell).collect::<Vec<_>>().join(","),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Object(_)) => other.to_string(),
    }
}

fn cells(of: &Value, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| cell(&of[*name])).collect()
}

fn rule(of: &Value) -> Vec<String> {
    let place = if of["hosts"].is_array() {
        format!("{} {}", cell(&of["routes"]), cell(&of["hosts"]))
    } else {
        cell(&of["service"])
    };
    let matches = match of["matches"].as_array().map(Vec::as_slice) {
        None | Some([]) => "everything".to_owned(),
        Some(all) => all.iter().map(matched).collect::<Vec<_>>().join(" or "),
    };
    let filters = if of["onArrival"].is_array() { &of["onArrival"] } else { &of["filters"] };
    let kinds: Vec<String> = filters.as_array().into_iter().flatten().map(|one| cell(&one["kind"])).collect();
    let kinds = if kinds.is_empty() { "-".to_owned() } else { kinds.join(",") };
    vec![cell(&of["order"]), place, cell(&of["rule"]), matches, kinds, action(&of["action"])]
}

/// A match in few words: `GET prefix /a, header x-lane`.
fn matched(of: &Value) -> String {
    let mut parts = Vec::new();
    parts.extend(of["method"].as_str().map(str::to_owned));
    for (kind, value) in of["path"].as_object().into_iter().flatten() {
        parts.push(format!("{kind} {}", cell(value)));
    }
    for (list, word) in [("headers", "header"), ("query", "parameter"), ("cookies", "cookie")] {
        let named = of[list].as_array().into_iter().flatten();
        parts.extend(named.map(|one| format!("{word} {}", cell(&one["name"]))));
    }
    parts.extend(of["source"].is_object().then(|| format!("source {}", of["source"])));
    parts.extend(of["cel"].as_str().map(|cel| format!("cel {cel}")));
    parts.join(", ")
}

fn action(of: &Value) -> String {
    if let Some(backends) = of["forward"].as_array() {
        let shown = backends.iter().map(|one| format!("{} ({})", cell(&one["service"]), one["weight"]));
        return shown.collect::<Vec<_>>().join(" ");
    }
    match of.as_object().and_then(|fields| fields.iter().next()) {
        Some((kind, what)) => format!("{kind} {}", cell(&what["status"])),
        None => "forward".to_owned(),
    }
}

/// A row for each endpoint; one that says so for a service without.
fn cluster(of: &Value) -> Vec<Vec<String>> {
    let endpoints = of["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
    if endpoints.is_empty() {
        let mut row = vec![cell(&of["service"]), "no endpoint".to_owned()];
        row.resize(9, "-".to_owned());
        return vec![row];
    }
    let one = |endpoint: &Value| {
        let left = ["breakerOpenForMs", "ejectedForMs"].iter().find_map(|name| endpoint[*name].as_u64());
        let state = cell(&endpoint["state"]);
        let state = left.map_or(state.clone(), |left| format!("{state} {:.1}s", left as f64 / 1000.0));
        let latency = endpoint["latencyUs"].as_u64().map_or("-".to_owned(), |us| format!("{us} us"));
        let mut row = vec![cell(&of["service"]), cell(&endpoint["name"]), state];
        row.extend(cells(endpoint, &["weight", "tier", "inFlight"]));
        row.extend([latency, cell(&endpoint["failures"]), cell(&endpoint["revision"])]);
        row
    };
    endpoints.iter().map(one).collect()
}

fn connected(of: &Value) -> Vec<String> {
    let mut row = cells(of, &["id", "listener", "peer"]);
    row.push(if of["identity"].is_null() { cell(&of["caller"]) } else { cell(&of["identity"]) });
    row.extend(cells(of, &["protocol", "tls"]));
    row.push(super::show::age(of["ageMs"].as_u64().unwrap_or(0)));
    row.extend(cells(of, &["calls", "streams", "receivedBytes", "sentBytes"]));
    row
}

fn certificate(of: &Value) -> Vec<String> {
    cells(of, &["kind", "name", "names", "issuer", "serial", "notBefore", "notAfter"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_a_row() {
        let of = json!({
            "order": 0, "routes": "web", "hosts": ["shop.example"], "rule": "carts", "matches": [{
                "method": "GET", "path": { "prefix": "/a" }, "headers": [{ "name": "x-lane", "value": "present" }],
            }],
            "filters": [{ "kind": "rate_limit" }],
            "action": { "forward": [{ "service": "shop/cart/http", "weight": 1 }] },
        });
        assert_eq!(
            rule(&of),
            [
                "0",
                "web shop.example",
                "carts",
                "GET, prefix /a, header x-lane",
                "rate_limit",
                "shop/cart/http (1)"
            ]
        );
        let plain = json!({ "order": 0, "service": "shop/cart/http", "onArrival": [] });
        assert_eq!(rule(&plain), ["0", "shop/cart/http", "-", "everything", "-", "forward"]);
        let redirect = json!({ "redirect": { "status": 301 } });
        assert_eq!(action(&redirect), "redirect 301");
    }

    #[test]
    fn an_endpoint_is_a_row() {
        let of = json!({
            "service": "shop/cart/http", "endpoints": [{
                "name": "cart-1", "state": "ejected", "ejectedForMs": 1500, "weight": 2, "tier": 0, "inFlight": 3,
                "latencyUs": 420, "failures": 1, "revision": "r1",
            }],
        });
        assert_eq!(
            cluster(&of),
            [["shop/cart/http", "cart-1", "ejected 1.5s", "2", "0", "3", "420 us", "1", "r1"]
                .map(str::to_owned)]
        );
        assert_eq!(cluster(&json!({ "service": "a/b/c", "endpoints": [] }))[0][1], "no endpoint");
    }

    #[test]
    fn pages_are_asked_for_in_turn() {
        let debug = Debug {
            view: View::Connections,
            only: Some("web/1".to_owned()),
            app: None,
            base: None,
            limit: 1000,
            after: 0,
        };
        assert_eq!(path(&debug, 7, 1000), "/debug/connections?after=7&limit=500&only=web%2F1");
    }
}

//! The compiled rules in the order in which calls ask them.

use dodai_core::secrecy::is_secret_name;
use dodai_core::snapshot::{Action, Backend, Filter, HeaderEdits, Match, RateLimit, Role, Rule};
use dodai_dataplane::table::Table;
use serde_json::{Value, json};

use super::{Page, micros};
use crate::telemetry::mask::MASK;

/// Every rule: those of gateways by host, the more exact host first, then those of services.
pub(super) fn rules(table: &Table, page: &Page) -> Vec<Value> {
    let mut all = Vec::new();
    let mut routers: Vec<_> = table.routers().collect();
    routers.sort_by_key(|(name, _)| *name);
    for (name, router) in routers {
        let listeners: Vec<&str> = table
            .listeners
            .values()
            .filter(|one| matches!(&one.role, Role::Gateway { routes } if routes == name))
            .map(|one| one.name.as_str())
            .collect();
        let mut hosts: Vec<_> = router.hosts().collect();
        hosts.sort_by_key(|(names, _)| names.iter().map(|name| precedence(name)).min());
        for (names, rules) in hosts {
            let of = |(at, rule): (usize, &std::sync::Arc<dodai_dataplane::route::Rule>)| {
                let mut value = rule_of(rule.source(), at);
                value["routes"] = name.into();
                value["listeners"] = json!(listeners);
                value["hosts"] = json!(names);
                value
            };
            all.extend(rules.list().iter().enumerate().map(of));
        }
    }
    if page.app.is_some() {
        // A gateway's rules are of no one app; they are left out where one is asked for.
        all.clear();
    }
    let mut services: Vec<_> = table.services().collect();
    services.sort_by(|one, other| one.label.cmp(&other.label));
    for service in services.into_iter().filter(|service| page.is_of(&service.id().owner)) {
        let of = |(at, rule): (usize, &std::sync::Arc<dodai_dataplane::route::Rule>)| {
            let mut value = rule_of(rule.source(), at);
            value["service"] = (*service.label).into();
            value
        };
        all.extend(service.rules.list().iter().enumerate().map(of));
        if service.rules.is_empty() {
            // Without a rule of its own every call goes there as it is.
            let filters: Vec<Value> = service.spec.inbound.iter().map(filter).collect();
            all.push(json!({ "service": &*service.label, "order": 0, "onArrival": filters }));
        }
    }
    if let Some(only) = page.only.as_deref() {
        all.retain(|value| ["rule", "service", "routes"].iter().any(|key| value[*key] == only));
    }
    all
}

/// Exact names go before suffixes, longer suffixes before shorter, and `*` last.
fn precedence(name: &str) -> (u8, std::cmp::Reverse<usize>, &str) {
    let class = match name.strip_prefix('*') {
        Some("") => 2,
        Some(_) => 1,
        None => 0,
    };
    (class, std::cmp::Reverse(name.len()), name)
}

fn rule_of(rule: &Rule, at: usize) -> Value {
    let policy = &rule.policy;
    json!({
        "rule": rule.name,
        "order": at,
        "matches": rule.matches.iter().map(matched).collect::<Vec<_>>(),
        "filters": rule.filters.iter().map(filter).collect::<Vec<_>>(),
        "action": action(&rule.action),
        "timeoutUs": policy.timeout.map(micros),
        "totalTimeoutUs": policy.total_timeout.map(micros),
        "tryTimeoutUs": policy.try_timeout.map(micros),
        "retries": policy.retry.as_ref().map(|retry| retry.attempts),
    })
}

/// A match as it is written in snapshots, without the values of what is named like a secret.
fn matched(one: &Match) -> Value {
    let mut value = serde_json::to_value(one).unwrap_or_default();
    for list in ["headers", "query", "cookies"] {
        let named = value.get_mut(list).and_then(Value::as_array_mut);
        for item in named.into_iter().flatten() {
            if item["name"].as_str().is_some_and(|name| is_secret_name(name, &[]))
                && item["value"] != "present"
            {
                item["value"] = MASK.into();
            }
        }
    }
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, field| !field.is_null() && field.as_array().is_none_or(|list| !list.is_empty()));
    }
    value
}

fn backend(of: &Backend) -> Value {
    json!({
        "service": of.service.to_string(),
        "weight": of.weight,
        "revision": of.revision.as_ref().map(|revision| revision.as_str().to_owned()),
        "labels": of.labels.as_deref(),
    })
}

fn action(of: &Action) -> Value {
    match of {
        Action::Forward(backends) => json!({ "forward": backends.iter().map(backend).collect::<Vec<_>>() }),
        Action::Redirect { scheme, host, port, path, status } => json!({
            "redirect": { "status": status, "scheme": scheme, "host": host, "port": port, "path": path },
        }),
        Action::Respond { status, body } => json!({ "respond": { "status": status, "bytes": body.len() } }),
    }
}

/// Header names only: values may be secret.
fn edits(kind: &str, of: &HeaderEdits) -> Value {
    let names = |list: &[(String, String)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let made = of.made.iter().map(|one| &one.name).collect::<Vec<_>>();
    json!({ "kind": kind, "set": names(&of.set), "add": names(&of.add), "made": made, "remove": of.remove })
}

fn limit(of: &RateLimit) -> Value {
    let name = of.shared.as_ref().map(|shared| &shared.name);
    json!({ "intervalUs": micros(of.interval), "burst": of.burst, "key": of.key, "shared": name })
}

fn filter(of: &Filter) -> Value {
    match of {
        Filter::RequestHeaders(changes) => edits("request_headers", changes),
        Filter::ResponseHeaders(changes) => edits("response_headers", changes),
        Filter::Rewrite { host, path } => json!({ "kind": "rewrite", "host": host, "path": path }),
        Filter::Mirror { to, per_ten_thousand } => {
            json!({ "kind": "mirror", "to": backend(to), "perTenThousand": per_ten_thousand })
        }
        Filter::RateLimits(limits) => {
            json!({ "kind": "rate_limits", "limits": limits.iter().map(limit).collect::<Vec<_>>() })
        }
        Filter::Access(_) => json!({ "kind": "access" }),
        Filter::Cors(_) => json!({ "kind": "cors" }),
        Filter::Jwt(_) => json!({ "kind": "jwt" }),
        Filter::Authorizer(_) => json!({ "kind": "authorizer" }),
        Filter::Fault(_) => json!({ "kind": "fault" }),
        Filter::Trial { policy, filter: tried } => {
            json!({ "kind": "trial", "policy": policy, "filter": filter(tried) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_core::id::{BaseId, ServiceId};
    use dodai_core::snapshot::{
        self, PathMatch, Resource, Routes, Snapshot, ValueMatch, ValuePattern, VirtualHost,
    };
    use dodai_dataplane::hosts::Hosts;
    use dodai_dataplane::local::Locals;

    fn header(name: &str) -> ValueMatch {
        ValueMatch { name: name.to_owned(), value: ValuePattern::Exact("hidden?".to_owned()) }
    }

    fn table() -> Table {
        let id = ServiceId::parse("shop/cart/http").expect("an id");
        let forward = |name: &str| Rule::forward(name, id.clone());
        let first = Rule {
            matches: vec![Match {
                path: Some(PathMatch::Prefix("/a".to_owned())),
                headers: vec![header("x-api-key"), header("x-lane")],
                ..Match::default()
            }],
            filters: vec![Filter::RequestHeaders(HeaderEdits {
                set: vec![("authorization".to_owned(), "Bearer hidden".to_owned())],
                ..HeaderEdits::default()
            })],
            ..forward("first")
        };
        let host = |name: &str, rules: Vec<Rule>| VirtualHost { names: vec![name.to_owned()], rules };
        let hosts = vec![
            host("*", vec![forward("any")]),
            host("*.example", vec![forward("suffix")]),
            host("*.shop.example", vec![forward("longer")]),
            host("shop.example", vec![first, forward("second")]),
        ];
        let snapshot = Snapshot::of(
            7,
            [
                Resource::Routes(Routes { name: "web".to_owned(), hosts, trusted: false }),
                Resource::Service(snapshot::Service::new(id)),
            ],
        );
        Table::compile(&snapshot, &Table::empty(), &BaseId::new("b"), &Locals::default(), &Hosts::default())
            .expect("compiles")
    }

    #[test]
    fn rules_come_in_the_order_in_which_calls_ask_them() {
        let all = rules(&table(), &Page::default());
        let names: Vec<&str> = all.iter().filter_map(|rule| rule["rule"].as_str()).collect();
        assert_eq!(names, ["first", "second", "longer", "suffix", "any"]);
        assert_eq!(all.last().expect("one")["service"], "shop/cart/http");
        let only = rules(&table(), &Page { only: Some("suffix".to_owned()), ..Page::default() });
        assert_eq!(only.len(), 1);
    }

    #[test]
    fn values_that_may_be_secret_are_not_shown() {
        let all = rules(&table(), &Page::default());
        let text = all[0].to_string();
        assert!(!text.contains("Bearer hidden"), "{text}");
        assert_eq!(all[0]["matches"][0]["headers"][0]["value"], MASK);
        assert_eq!(all[0]["matches"][0]["headers"][1]["value"]["exact"], "hidden?");
        assert_eq!(all[0]["filters"][0]["set"][0], "authorization");
    }
}

//! Values that may be secrets, taken out of documents before anybody sees them.
//!
//! Hidden are values of component settings, environment variables and header changes whose name or form says
//! that they are secret, and all headers of HTTP endpoints and of trace collectors. Names and references to
//! secret stores stay: they say where a secret is, not what it is. A hidden value that comes back stands for the
//! stored one at the same place, so that what was shown can be edited and applied.

use std::collections::BTreeMap;

use dodai_api::Document;
use dodai_core::secrecy::{is_secret_setting, is_secret_value};
use serde_json::Value;

/// What stands in the place of a hidden value.
pub const HIDDEN: &str = "<hidden>";
/// What stands in the place of a hidden value that differs from the one before.
pub const CHANGED: &str = "<hidden, changed>";

/// Hides values in the canonical form of a document.
pub fn mask(document: &mut Value) {
    each_secret(document, &mut |_, value| *value = Value::from(HIDDEN));
}

/// Hides values in two forms of one document so that their difference still shows which ones changed.
pub fn mask_pair(old: &mut Value, new: &mut Value) {
    let mut before = Vec::new();
    each_secret(old, &mut |place, value| {
        before.push((place.path.clone(), std::mem::replace(value, Value::from(HIDDEN))));
    });
    each_secret(new, &mut |place, value| {
        let same = before.iter().any(|(other, old)| *other == place.path && old == value);
        *value = Value::from(if same { HIDDEN } else { CHANGED });
    });
}

/// Whether a document has a value that stands for one that was not shown.
pub fn has_hidden(document: &Document) -> bool {
    let mut found = false;
    each_value(&mut document.to_value(), &mut |_, value| found |= is_mark(value));
    found
}

/// Puts the stored values in the place of those that were not shown. The names of those that nothing is stored
/// for at the same place, or for which that cannot be told.
pub fn restore(document: &mut Value, stored: Option<&Value>) -> Vec<String> {
    let mut known: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut by_name: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    each_value(&mut stored.cloned().unwrap_or_default(), &mut |place, value| {
        known.entry(place.path.clone()).or_default().push(value.clone());
        by_name.entry(place.name.clone()).or_default().push(value.clone());
    });
    let mut missing = Vec::new();
    each_value(document, &mut |place, value| {
        if !is_mark(value) {
            return;
        }
        let same = |values: &[Value]| values.iter().all(|one| *one == values[0]);
        let kept = known.get(&place.path).filter(|values| same(values) && value.as_str() == Some(HIDDEN));
        // A rule without a name may have moved; then only a value that all of them share is the right one.
        let sure = !place.by_position || by_name.get(&place.name).is_some_and(|values| same(values));
        match kept.filter(|_| sure) {
            Some(values) => value.clone_from(&values[0]),
            None => missing.push(place.name.clone()),
        }
    });
    missing
}

fn is_mark(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text == HIDDEN || text == CHANGED)
}

/// Where a value that may be secret stands.
struct Place {
    /// What leads to it; the same for the same value of two forms of a document.
    path: String,
    /// Its own name.
    name: String,
    /// Whether the path counts items of a list that have no name.
    by_position: bool,
    /// Whether every value here is secret.
    always: bool,
}

fn each_secret(document: &mut Value, visit: &mut dyn FnMut(&Place, &mut Value)) {
    each_value(document, &mut |place, value| {
        let is_secret = place.always || is_secret_setting(&place.name);
        if is_secret || value.as_str().is_some_and(is_secret_value) {
            visit(place, value);
        }
    });
}

/// Visits every value that may be secret.
fn each_value(document: &mut Value, visit: &mut dyn FnMut(&Place, &mut Value)) {
    let (path, always) = match document.get("kind").and_then(Value::as_str) {
        Some("Component") => ("/spec/metadata", false),
        Some("HTTPEndpoint") => ("/spec/headers", true),
        Some("Configuration") => ("/spec/tracing/otel/headers", true),
        Some("App") => ("/spec/env", false),
        Some("Revision") => ("/spec/template/env", false),
        _ => return header_changes(document, "", false, visit),
    };
    if let Some(items) = document.pointer_mut(path) {
        named(
            items,
            &Place { path: path.to_owned(), name: String::new(), by_position: false, always },
            visit,
        );
    }
}

/// Visits the values of header changes, wherever a document has them.
fn header_changes(
    value: &mut Value,
    path: &str,
    by_position: bool,
    visit: &mut dyn FnMut(&Place, &mut Value),
) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{path}/{key}");
                if value.is_array() && (key == "set" || key == "add") {
                    named(value, &Place { path, name: String::new(), by_position, always: false }, visit);
                } else {
                    header_changes(value, &path, by_position, visit);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                let name = item.get("name").and_then(Value::as_str).map(|name| format!("[{name}]"));
                let by_position = by_position || (name.is_none() && !path.ends_with("/filters"));
                let own = name.unwrap_or_else(|| format!("/{index}"));
                header_changes(item, &format!("{path}{own}"), by_position, visit);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Visits the values of a list of names and values below a place.
fn named(items: &mut Value, below: &Place, visit: &mut dyn FnMut(&Place, &mut Value)) {
    for item in items.as_array_mut().into_iter().flatten() {
        let name = item.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(value) = item.get_mut("value").filter(|value| !value.is_null()) {
            let path = format!("{}[{}]", below.path, name.to_ascii_lowercase());
            visit(&Place { path, name, by_position: below.by_position, always: below.always }, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn component(password: &str) -> Value {
        json!({"kind": "Component", "metadata": {"name": "a"}, "spec": {"type": "state.redis", "metadata": [
            {"name": "redisPassword", "value": password},
            {"name": "port", "value": 6379},
            {"name": "key", "secretKeyRef": {"name": "redis", "key": "key"}},
        ]}})
    }

    fn route(rules: &Value) -> Value {
        json!({"kind": "Route", "spec": {"rules": rules}})
    }

    fn rule(header: &str, value: &str) -> Value {
        json!({"filters": [{"type": "RequestHeaderModifier",
            "requestHeaderModifier": {"set": [{"name": header, "value": value}, {"name": "x-lane", "value": "blue"}]}}]})
    }

    #[test]
    fn secrets_of_every_kind_are_hidden_and_the_rest_stays() {
        let env = json!([{"name": "TOKEN", "value": "s3cret"}, {"name": "LOG_LEVEL", "value": "blue"}, {"name": "X", "secretRef": {"store": "s", "key": "k"}}]);
        let mut mirrored = route(&json!([rule("x-lane", "blue")]));
        mirrored["spec"]["rules"][0]["filters"][0]["responseHeaderModifier"] =
            json!({"add": [{"name": "Set-Cookie", "value": "s3cret"}]});
        for mut value in [
            json!({"kind": "App", "spec": {"env": env, "x": "blue"}}),
            json!({"kind": "Revision", "spec": {"template": {"env": env}}}),
            json!({"kind": "HTTPEndpoint", "x": "blue", "spec": {"headers": [{"name": "X-Own", "value": "s3cret"}]}}),
            json!({"kind": "Configuration", "x": "blue", "spec": {"tracing": {"otel": {"headers": [{"name": "x-own", "value": "s3cret"}]}}}}),
            route(&json!([rule("Authorization", "s3cret")])),
            route(&json!([rule("cookie", "s3cret")])),
            route(&json!([rule("x-api-key", "s3cret")])),
            route(&json!([rule("Proxy-Authorization", "s3cret")])),
            route(&json!([rule("x-plain", "Bearer s3cret")])),
            mirrored,
            json!({"kind": "Policy", "x": "blue", "spec": {"headers": {"request": {"add": [{"name": "X-Token", "value": "s3cret"}]}}}}),
        ] {
            mask(&mut value);
            let text = value.to_string();
            assert!(!text.contains("s3cret") && text.contains("blue") && text.contains(HIDDEN), "{text}");
        }
        let mut value = component("s3cret");
        mask(&mut value);
        let text = value.to_string();
        assert!(!text.contains("s3cret") && text.contains("6379") && text.contains("secretKeyRef"), "{text}");
    }

    #[test]
    fn what_was_not_shown_is_kept() {
        let stored = component("s3cret");
        let mut shown = stored.clone();
        mask(&mut shown);
        shown["spec"]["metadata"][1]["value"] = json!(6380);
        assert_eq!(restore(&mut shown, Some(&stored)), Vec::<String>::new());
        assert_eq!(shown["spec"]["metadata"][0]["value"], "s3cret");
        assert_eq!(shown["spec"]["metadata"][1]["value"], 6380);

        let mut fresh = component(HIDDEN);
        assert_eq!(restore(&mut fresh, None), ["redisPassword"], "nothing is stored");
        let mut other = component(CHANGED);
        assert_eq!(restore(&mut other, Some(&stored)), ["redisPassword"], "a mark of a difference");
        let mut renamed = component(HIDDEN);
        renamed["spec"]["metadata"][0]["name"] = json!("password");
        assert_eq!(restore(&mut renamed, Some(&stored)), ["password"], "another place");
    }

    #[test]
    fn secrets_of_rules_never_change_places() {
        let name = |mut rule: Value, name: &str| {
            rule["name"] = json!(name);
            rule
        };
        let (a, b) = (rule("authorization", "one"), rule("authorization", "two"));
        let masked = |rules: &Value| {
            let mut route = route(rules);
            mask(&mut route);
            route
        };
        let stored = route(&json!([a, b]));
        let mut back = masked(&json!([b, a]));
        assert_eq!(restore(&mut back, Some(&stored)).len(), 2, "which is which cannot be told");
        let stored = route(&json!([a, a]));
        let mut back = masked(&json!([a, a]));
        assert_eq!(restore(&mut back, Some(&stored)).len(), 0, "they are the same");
        assert_eq!(back, stored);
        let (a, b) = (name(a, "a"), name(b, "b"));
        let mut back = masked(&json!([b, a]));
        assert_eq!(restore(&mut back, Some(&route(&json!([a, b])))).len(), 0, "names tell");
        assert_eq!(back, route(&json!([b, a])));
    }

    #[test]
    fn a_pair_shows_which_value_changed_and_not_what_to() {
        let (mut old, mut new) = (component("one"), component("two"));
        mask_pair(&mut old, &mut new);
        let changes = dodai_api::diff(&old, &new);
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(changes[0].path, "spec.metadata[name=redisPassword].value");
        assert_eq!(changes[0].new, Some(Value::from(CHANGED)));
        let (mut old, mut new) = (component("one"), component("one"));
        mask_pair(&mut old, &mut new);
        assert_eq!(old, new);
    }
}

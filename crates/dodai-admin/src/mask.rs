//! Values that may be secrets, taken out of documents before anybody sees them.
//!
//! Masked are the values of component settings, of environment variables and of HTTP endpoint headers. The
//! names beside them and references to secret stores stay: they say where a secret is, not what it is.

use dodai_api::Document;
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
    each_secret(old, &mut |name, value| {
        before.push((name.to_owned(), std::mem::replace(value, Value::from(HIDDEN))));
    });
    each_secret(new, &mut |name, value| {
        let same = before.iter().any(|(other, old)| other == name && old == value);
        *value = Value::from(if same { HIDDEN } else { CHANGED });
    });
}

/// The name of a value that is still hidden: the document was read from here and would lose its secrets.
pub fn hidden_in(document: &Document) -> Option<String> {
    let mut found = None;
    each_secret(&mut document.to_value(), &mut |name, value| {
        if value.as_str().is_some_and(|text| text == HIDDEN || text == CHANGED) {
            found = Some(name.to_owned());
        }
    });
    found
}

fn each_secret(document: &mut Value, visit: &mut dyn FnMut(&str, &mut Value)) {
    let path = match document.get("kind").and_then(Value::as_str) {
        Some("Component") => "/spec/metadata",
        Some("HTTPEndpoint") => "/spec/headers",
        Some("App") => "/spec/env",
        Some("Revision") => "/spec/template/env",
        _ => return,
    };
    let Some(Value::Array(items)) = document.pointer_mut(path) else { return };
    for item in items {
        let name = item.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(value) = item.get_mut("value").filter(|value| !value.is_null()) {
            visit(&name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn component(password: &str) -> Value {
        json!({"kind": "Component", "metadata": {"name": "a"}, "spec": {"type": "state.redis", "metadata": [
            {"name": "password", "value": password},
            {"name": "port", "value": 6379},
            {"name": "key", "secretKeyRef": {"name": "redis", "key": "key"}},
        ]}})
    }

    #[test]
    fn values_of_every_kind_are_hidden_and_names_stay() {
        let env = json!([{"name": "TOKEN", "value": "s3cret"}, {"name": "X", "secretRef": {"store": "s", "key": "k"}}]);
        for mut value in [
            component("s3cret"),
            json!({"kind": "App", "spec": {"env": env}}),
            json!({"kind": "Revision", "spec": {"template": {"env": env}}}),
            json!({"kind": "HTTPEndpoint", "spec": {"headers": [{"name": "Authorization", "value": "s3cret"}]}}),
        ] {
            mask(&mut value);
            let text = value.to_string();
            assert!(!text.contains("s3cret") && !text.contains("6379") && text.contains(HIDDEN), "{text}");
        }
        let mut route = json!({"kind": "Route", "spec": {"env": env}});
        mask(&mut route);
        assert!(route.to_string().contains("s3cret"), "a kind without secrets is left alone");
    }

    #[test]
    fn a_pair_shows_which_value_changed_and_not_what_to() {
        let (mut old, mut new) = (component("one"), component("two"));
        mask_pair(&mut old, &mut new);
        let changes = dodai_api::diff(&old, &new);
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(changes[0].path, "spec.metadata[name=password].value");
        assert_eq!(changes[0].new, Some(Value::from(CHANGED)));
        let (mut old, mut new) = (component("one"), component("one"));
        mask_pair(&mut old, &mut new);
        assert_eq!(old, new);
    }
}

//! What changed between two canonical values, for `dodai diff`, the change log and release guards.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::read::push_key;

/// One field that changes.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "FieldChange")]
pub struct Change {
    /// Where: `spec.services[0].port`.
    pub path: String,
    /// What was there; null if nothing.
    pub old: Option<Value>,
    /// What is there now; null if nothing.
    pub new: Option<Value>,
}

/// The changes that lead from `old` to `new`, in order of path; none if the values are equal.
///
/// Items of a list are matched by their `name` if all have one, otherwise by position.
pub fn diff(old: &Value, new: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    walk("", Some(old), Some(new), &mut changes);
    changes
}

fn walk(path: &str, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    match (old, new) {
        (None, None) => {}
        (Some(old), Some(new)) if old == new => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let mut path = path.to_owned();
                push_key(&mut path, key);
                walk(&path, a.get(key), b.get(key), changes);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => match (names(a), names(b)) {
            (Some(a_names), Some(b_names)) => {
                let all: BTreeSet<&str> = a_names.iter().chain(&b_names).copied().collect();
                let find = |items: &'_ [Value], names: &[&str], name: &str| {
                    names.iter().position(|n| *n == name).map(|i| items[i].clone())
                };
                for name in all {
                    let (was, is) = (find(a, &a_names, name), find(b, &b_names, name));
                    walk(&format!("{path}[name={name}]"), was.as_ref(), is.as_ref(), changes);
                }
                if a_names.len() == b_names.len()
                    && a_names != b_names
                    && sorted(&a_names) == sorted(&b_names)
                {
                    changes.push(Change {
                        path: path.to_owned(),
                        old: Some(list(&a_names)),
                        new: Some(list(&b_names)),
                    });
                }
            }
            _ => {
                for index in 0..a.len().max(b.len()) {
                    walk(&format!("{path}[{index}]"), a.get(index), b.get(index), changes);
                }
            }
        },
        (old, new) => changes.push(Change { path: path.to_owned(), old: old.cloned(), new: new.cloned() }),
    }
}

/// The names of the items, if each has one of its own.
fn names(items: &[Value]) -> Option<Vec<&str>> {
    let names: Option<Vec<&str>> = items.iter().map(|item| item.get("name")?.as_str()).collect();
    names.filter(|names| names.iter().collect::<BTreeSet<_>>().len() == names.len())
}

fn sorted<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names
}

fn list(names: &[&str]) -> Value {
    Value::from(names.to_vec())
}

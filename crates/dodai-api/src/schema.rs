//! JSON schemas of the documents, made from the types: editors complete and check with them.

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::document::{Document, Kind};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The JSON schema (draft 2020-12) of a kind.
pub fn schema(kind: Kind) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let body = kind_schema(kind, &mut generator);
    finish(body, generator)
}

/// One schema for documents of every kind.
pub fn combined_schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut branches = Vec::new();
    for &kind in Kind::ALL {
        let body = Value::from(kind_schema(kind, &mut generator));
        let test = json!({ "properties": { "kind": { "const": kind.as_str() } } });
        branches.push(json!({ "if": test, "then": body }));
    }
    let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    let mut root = Map::new();
    root.insert("title".to_owned(), Value::from("Dodai documents"));
    root.insert("type".to_owned(), Value::from("object"));
    root.insert("required".to_owned(), json!(["apiVersion", "kind"]));
    root.insert("properties".to_owned(), json!({ "kind": { "enum": kinds } }));
    root.insert("allOf".to_owned(), Value::Array(branches));
    finish(Schema::from(root), generator)
}

/// Every schema file: its name under `schema/`, and its content.
pub fn schemas() -> Vec<(String, Value)> {
    let each = Kind::ALL.iter().map(|&kind| (format!("{}.json", kind.as_str().to_lowercase()), schema(kind)));
    std::iter::once(("dodai.json".to_owned(), combined_schema())).chain(each).collect()
}

fn kind_schema(kind: Kind, generator: &mut SchemaGenerator) -> Schema {
    let mut schema = Document::raw_schema(kind, generator);
    schema.insert("title".to_owned(), Value::from(kind.as_str()));
    let versions = kind.api_versions();
    let version = match versions {
        [one] => json!({ "const": one, "description": "The version of the document's form." }),
        several => json!({ "enum": several, "description": "The version of the document's form." }),
    };
    let word = json!({ "const": kind.as_str(), "description": "The document's kind." });
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert("apiVersion".to_owned(), version);
        properties.insert("kind".to_owned(), word);
        // Users do not write it, and editors should not offer it.
        properties.remove("status");
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.insert(0, Value::from("kind"));
        required.insert(0, Value::from("apiVersion"));
    }
    schema
}

fn finish(mut schema: Schema, mut generator: SchemaGenerator) -> Value {
    let definitions = generator.take_definitions(true);
    let used = reachable(schema.as_value(), &definitions);
    let kept: Map<String, Value> = definitions.into_iter().filter(|(name, _)| used.contains(name)).collect();
    schema.insert("$schema".to_owned(), Value::from(DIALECT));
    if !kept.is_empty() {
        schema.insert("$defs".to_owned(), Value::Object(kept));
    }
    tidy(Value::from(schema))
}

/// The definitions that are referred to, directly or through others: those of `status` are not.
fn reachable(root: &Value, definitions: &Map<String, Value>) -> std::collections::BTreeSet<String> {
    let mut used = std::collections::BTreeSet::new();
    let mut open = vec![root];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(map) => {
                if let Some(name) =
                    map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/"))
                    && used.insert(name.to_owned())
                {
                    open.extend(definitions.get(name));
                }
                open.extend(map.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    used
}

/// Descriptions on one line, as editors show them; keys in order, so that the files are the same whatever features `serde_json` was built with.
pub fn tidy(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> =
                map.into_iter().map(|(key, value)| (key, tidy(value))).collect();
            for (_, text) in entries.iter_mut().filter(|(key, _)| key == "description") {
                if let Value::String(text) = text {
                    *text = text.replace('\n', " ");
                }
            }
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(tidy).collect()),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}

//! The committed JSON schemas are those of the types.

use std::path::Path;

use dodai_api::schemas;

#[test]
fn committed_schemas_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schema");
    for (name, schema) in schemas() {
        let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        let current = format!("{schema:#}\n");
        assert!(
            committed == current,
            "schema/{name} is not current: run `cargo run -p dodai-api --example write_schemas -- schema`"
        );
    }
}

#[test]
fn every_key_is_described() {
    let (_, all) = &schemas()[0];
    let mut missing = Vec::new();
    describe("", all, &mut missing);
    assert!(missing.is_empty(), "keys without a description: {missing:#?}");
}

fn describe(path: &str, schema: &serde_json::Value, missing: &mut Vec<String>) {
    if let Some(properties) = schema.get("properties").and_then(|properties| properties.as_object()) {
        // The tests of the combined schema name `kind` without describing it again.
        let tests = properties.len() == 1 && properties.contains_key("kind");
        for (key, property) in properties {
            if property.get("description").is_none() && !tests {
                missing.push(format!("{path}.{key}"));
            }
        }
    }
    match schema {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                describe(&format!("{path}.{key}"), value, missing);
            }
        }
        serde_json::Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                describe(&format!("{path}[{index}]"), item, missing);
            }
        }
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => {}
    }
}

//! JSON values as YAML, so that what `get -o yaml` prints can be edited and applied again.

use serde_json::Value;

/// The value as a YAML document.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out
}

fn write(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                out.push_str(&" ".repeat(indent));
                out.push_str(&scalar(&Value::from(key.as_str())));
                out.push(':');
                child(value, indent, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                out.push_str(&" ".repeat(indent));
                out.push('-');
                if is_nested(item) {
                    let mut text = String::new();
                    write(item, indent + 2, &mut text);
                    out.push(' ');
                    out.push_str(text.trim_start());
                } else {
                    child(item, indent, out);
                }
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
}

fn child(value: &Value, indent: usize, out: &mut String) {
    if is_nested(value) {
        out.push('\n');
        write(value, indent + 2, out);
    } else {
        out.push(' ');
        out.push_str(&scalar(value));
        out.push('\n');
    }
}

fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Plain text where no reader can take it for anything else; a quoted JSON string, which YAML reads, otherwise.
fn scalar(value: &Value) -> String {
    let Value::String(text) = value else { return value.to_string() };
    let begins = text.chars().next().is_some_and(|first| first.is_ascii_alphabetic() || first == '/');
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    let word =
        ["true", "false", "yes", "no", "on", "off", "null", "y", "n"].contains(&text.to_lowercase().as_str());
    if begins && plain && !word { text.clone() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_reads_well() {
        let value = json!({"kind": "App", "spec": {"list": [{"a": 1, "b": ["x: y", "no"]}, 2], "none": {}, "port": "80"}});
        let expect = "kind: App\nspec:\n  list:\n    - a: 1\n      b:\n        - \"x: y\"\n        - \"no\"\n    - 2\n  none: {}\n  port: \"80\"\n";
        assert_eq!(to_yaml(&value), expect);
    }

    #[test]
    fn documents_read_back() {
        let text = include_bytes!("../../../../examples/hello/dodai.yaml");
        let read = dodai_api::read(&dodai_api::Source { name: "dodai.yaml", bytes: text });
        assert!(read.documents.len() > 2);
        for document in read.documents {
            let yaml = to_yaml(&document.value.to_value());
            let again = dodai_api::read(&dodai_api::Source { name: "x.yaml", bytes: yaml.as_bytes() });
            assert_eq!(again.documents[0].value, document.value, "{yaml}");
        }
    }
}

//! The pages under `docs/` and the code say the same: every document in them is valid, and the tables of
//! `documents.md` have every field of every kind, with the default that the types have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dodai_api::{Source, read_all, schemas};
use serde_json::Value;

const KINDS: [&str; 7] = ["Namespace", "App", "Service", "Gateway", "Route", "Policy", "Base"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/documents.md")).expect("the page is there")
}

/// The blocks of YAML that hold documents, each with the number of its first line.
fn blocks(page: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in page.lines().enumerate() {
        match &mut open {
            None if line == "```yaml" => open = Some((index + 2, String::new())),
            None => {}
            Some(_) if line == "```" => found.extend(open.take()),
            Some((_, text)) => *text += &format!("{line}\n"),
        }
    }
    // Others are parts of a document, or of another program.
    found.retain(|(_, text)| text.starts_with("apiVersion: "));
    found
}

#[test]
fn every_document_in_the_pages_is_valid() {
    let mut pages = vec![root().join("README.md")];
    let folder = std::fs::read_dir(root().join("docs")).unwrap();
    pages.extend(
        folder.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "md")),
    );
    pages.sort();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for path in pages {
        let page = std::fs::read_to_string(&path).unwrap();
        for (line, text) in blocks(&page) {
            count += 1;
            let name = format!("{} from line {line}", path.file_name().unwrap().display());
            let read = read_all(&[Source { name: &name, bytes: text.as_bytes() }]).read;
            // The app that a single component is for stands elsewhere.
            let warnings = read.warnings.iter().filter(|problem| !problem.path.starts_with("scopes"));
            wrong.extend(read.errors.iter().chain(warnings).map(ToString::to_string));
            if read.documents.is_empty() {
                wrong.push(format!("{name}: no documents"));
            }
        }
    }
    assert!(count > 5, "the pages have lost their examples");
    assert_eq!(wrong, Vec::<String>::new());
}

/// A field of a schema.
#[derive(Debug)]
struct Field {
    required: bool,
    /// Its default, where it is one value.
    default: Option<String>,
    /// Whether it has fields of its own.
    outer: bool,
}

/// Follows references and choices between something and nothing.
fn resolved<'a>(mut schema: &'a Value, all: &'a Value) -> &'a Value {
    loop {
        let choices = schema["anyOf"].as_array();
        let real = choices.and_then(|list| list.iter().find(|one| one["type"] != "null"));
        schema = match (schema["$ref"].as_str(), real) {
            (Some(name), _) => {
                all.pointer(name.trim_start_matches('#')).expect("a reference leads somewhere")
            }
            (None, Some(real)) => real,
            (None, None) => return schema,
        };
    }
}

fn collect(schema: &Value, path: &str, required: bool, all: &Value, fields: &mut BTreeMap<String, Field>) {
    let default = match &schema["default"] {
        Value::String(text) => Some(text.clone()),
        value @ (Value::Bool(_) | Value::Number(_)) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let schema = resolved(schema, all);
    let items = resolved(&schema["items"], all);
    let (within, path) = match items.get("properties") {
        Some(_) => (items, format!("{path}[]")),
        None => (schema, path.to_owned()),
    };
    let properties = within["properties"].as_object();
    for (key, inner) in properties.into_iter().flatten() {
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let wanted = within["required"].as_array().is_some_and(|list| list.iter().any(|one| one == key));
        collect(inner, &at, wanted, all, fields);
    }
    if !path.is_empty() {
        fields.insert(path, Field { required, default, outer: properties.is_some() });
    }
}

/// The fields of a kind's `spec`, by path.
fn fields(kind: &str) -> BTreeMap<String, Field> {
    let name = format!("{}.json", kind.to_lowercase());
    let (_, schema) = schemas().into_iter().find(|(own, _)| *own == name).expect("every kind has a schema");
    let mut fields = BTreeMap::new();
    if let Some(spec) = schema["properties"].get("spec") {
        collect(spec, "", false, &schema, &mut fields);
    }
    fields
}

/// A row of the page: paths, type, default.
struct Row {
    paths: Vec<String>,
    kind: String,
    default: String,
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows of the section of a kind.
fn rows(page: &str, kind: &str) -> Vec<Row> {
    let heading = format!("## {kind}");
    let section =
        page.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with("## "));
    let cells =
        section.filter(|line| line.starts_with("| `")).map(|line| line.split(" | ").collect::<Vec<_>>());
    cells
        .map(|cells| Row { paths: quoted(cells[0]), kind: cells[1].to_owned(), default: cells[2].to_owned() })
        .collect()
}

/// What stands below a path, without the path.
fn below(fields: &BTreeMap<String, Field>, path: &str) -> BTreeSet<String> {
    fields.keys().filter_map(|own| own.strip_prefix(&format!("{path}."))).map(str::to_owned).collect()
}

#[test]
fn the_page_has_every_field_and_its_default() {
    let page = page();
    let mut wrong = Vec::new();
    for kind in KINDS {
        let fields = fields(kind);
        let mut told = BTreeSet::new();
        for row in rows(&page, kind) {
            for path in &row.paths {
                let Some(field) = fields.get(path) else {
                    wrong.push(format!("{kind}: there is no `{path}`"));
                    continue;
                };
                told.insert(path.clone());
                if let Some(other) = row.kind.strip_prefix("as ") {
                    let (own, other) = (below(&fields, path), below(&fields, &quoted(other)[0]));
                    if own != other {
                        wrong.push(format!("{kind}: `{path}` is not {}", row.kind));
                    }
                    told.extend(own.iter().map(|rest| format!("{path}.{rest}")));
                }
                if field.default.as_ref().is_some_and(|default| *default != row.default.replace('`', "")) {
                    wrong.push(format!(
                        "{kind}: `{path}` has the default {:?}, not {}",
                        field.default, row.default
                    ));
                }
                if field.required && !field.outer && row.default != "required" {
                    wrong.push(format!("{kind}: `{path}` is required"));
                }
            }
        }
        let missing = fields.iter().filter(|(path, field)| !field.outer && !told.contains(*path));
        wrong.extend(missing.map(|(path, _)| format!("{kind}: `{path}` is not on the page")));
    }
    assert_eq!(wrong, Vec::<String>::new());
}

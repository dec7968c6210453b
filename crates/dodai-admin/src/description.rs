//! What the API is, in the words of OpenAPI: made from the table of operations and the types of their handlers.
//!
//! The program itself has no use for it. The example `write_description` writes it to `schema/management.openapi.json`,
//! from which the types of the console are made.

use http::HeaderName;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::Refusal;
use crate::operations::{Access, EVERY, Operation, Reason, Table, operations};
use crate::wire::{Described, Media};

/// Where definitions are.
const SCHEMAS: &str = "/components/schemas";

/// Where a parameter is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the path.
    Path,
    /// In the query.
    Query,
}

/// What is known of one operation, while its handler tells it.
pub struct Entry<'a> {
    schemas: &'a mut Schemas,
    parameters: Vec<Value>,
    body: Value,
    answer: Map<String, Value>,
}

impl Entry<'_> {
    /// The fields of `T` are parameters.
    pub(crate) fn parameters<T: JsonSchema>(&mut self, place: Place) {
        let schema = T::json_schema(&mut self.schemas.asked);
        let required = schema.get("required").cloned().unwrap_or_default();
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let mut field = field.clone();
            present(&mut field);
            let description = field.as_object_mut().and_then(|field| field.remove("description"));
            let is_named = |one: &Value| one.as_str() == Some(name);
            let is_required = required.as_array().is_some_and(|all| all.iter().any(is_named));
            self.parameters.push(json!({
                "name": name,
                "in": if place == Place::Path { "path" } else { "query" },
                "required": place == Place::Path || is_required,
                "description": description.unwrap_or_default(),
                "schema": field,
            }));
        }
    }

    /// A header that may be there.
    pub(crate) fn header(&mut self, name: &HeaderName, description: &str) {
        self.parameters.push(json!({
            "name": name.as_str(), "in": "header", "description": description, "schema": { "type": "string" },
        }));
    }

    /// What is sent.
    pub(crate) fn body<M: Media>(&mut self, required: bool) {
        let content = content(M::media(&mut self.schemas.asked));
        if !content.is_empty() {
            self.body = json!({ "required": required, "content": content });
        }
    }

    /// What is answered.
    pub(crate) fn answer<M: Media>(&mut self) {
        self.answer = content(M::media(&mut self.schemas.told));
    }
}

fn content(media: Vec<(&'static str, schemars::Schema)>) -> Map<String, Value> {
    media.into_iter().map(|(kind, schema)| (kind.to_owned(), json!({ "schema": schema }))).collect()
}

/// Makes the schema of something that is left out where it is not known one of what is there: never null.
fn present(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|one| one != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            map.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(any)) = map.get_mut("anyOf") {
        any.retain(|one| one["type"] != "null");
        if let [Value::Object(only)] = any.as_slice() {
            let only = only.clone();
            map.remove("anyOf");
            map.extend(only);
        }
    }
    map.retain(|name, value| name != "default" || !value.is_null());
}

/// In answers, what may be missing is left out instead of being null.
fn never_null(definition: &mut Value) {
    let required = definition.get("required").cloned().unwrap_or_default();
    let properties = definition.get_mut("properties").and_then(Value::as_object_mut);
    for (name, field) in properties.into_iter().flatten() {
        let is_named = |one: &Value| one.as_str() == Some(name);
        if !required.as_array().is_some_and(|all| all.iter().any(is_named)) {
            present(field);
        }
    }
}

/// The definitions of what is sent to the server and of what it sends: of the one fields may be left out that the
/// other always has.
struct Schemas {
    asked: SchemaGenerator,
    told: SchemaGenerator,
}

impl Schemas {
    fn new() -> Schemas {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = SCHEMAS.into();
            settings.meta_schema = None;
        });
        Schemas {
            asked: settings.clone().for_deserialize().into_generator(),
            told: settings.for_serialize().into_generator(),
        }
    }
}

/// The paths with their operations, as they are told.
struct Paths {
    schemas: Schemas,
    paths: Map<String, Value>,
}

impl Table for Paths {
    fn add<H, M, A>(&mut self, operation: Operation, _handler: H)
    where
        H: Described<A>,
    {
        let (parameters, body) = (Vec::new(), Value::Null);
        let mut entry = Entry { schemas: &mut self.schemas, parameters, body, answer: Map::new() };
        H::describe(&mut entry);
        let Entry { parameters, body, answer, .. } = entry;
        let mut value = json!({
            "operationId": operation.id,
            "summary": operation.summary,
            "responses": responses(&operation, answer),
        });
        for (name, part) in [("parameters", Value::Array(parameters)), ("requestBody", body)] {
            if part != json!([]) && !part.is_null() {
                value[name] = part;
            }
        }
        match operation.access {
            Access::Session => {}
            Access::Token => value["security"] = json!([{ "token": [] }]),
            Access::Everybody => value["security"] = json!([]),
        }
        let methods = self.paths.entry(operation.described_path()).or_insert_with(|| json!({}));
        methods[operation.method.as_str().to_lowercase()] = value;
    }
}

fn responses(operation: &Operation, answer: Map<String, Value>) -> Value {
    let is_stream = answer.contains_key("text/event-stream");
    let done =
        if is_stream { "Server-sent events; the data of each is JSON of this schema." } else { "Done." };
    let mut all = Map::new();
    all.insert("200".to_owned(), json!({ "description": done, "content": answer }));
    let common = if operation.access == Access::Everybody { &EVERY[1..] } else { EVERY };
    let mut codes: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    for Reason(status, code) in common.iter().chain(operation.refuses) {
        codes.entry(status.as_str().to_owned()).or_default().push(format!("`{code}`"));
    }
    for (status, codes) in codes {
        all.insert(status, refused(&format!("Refused: {}.", codes.join(", "))));
    }
    all.insert("default".to_owned(), refused("Refused for another reason, such as what a base says."));
    Value::Object(all)
}

fn refused(description: &str) -> Value {
    let schema = json!({ "$ref": format!("#{SCHEMAS}/Refusal") });
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

/// The description, as OpenAPI 3.1.
pub fn description() -> Value {
    let mut paths = Paths { schemas: Schemas::new(), paths: Map::new() };
    operations(&mut paths);
    let Paths { mut schemas, paths } = paths;
    schemas.told.subschema_for::<Refusal>();
    let mut definitions = schemas.told.take_definitions(true);
    definitions.values_mut().for_each(never_null);
    definitions.extend(schemas.asked.take_definitions(true));
    dodai_api::tidy(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Dodai management API",
            "version": "1",
            "description": "What the command line and the console ask of a running server. Every path but /healthz needs a token, or a session of the console: its cookie and its key.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "token": [] }, { "cookie": [], "key": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "cookie": { "type": "apiKey", "in": "cookie", "name": "dodai-console-PORT" },
                "key": { "type": "apiKey", "in": "header", "name": crate::session::KEY.as_str() },
            },
            "schemas": definitions,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_one_type_whichever_way_it_goes() {
        let mut paths = Paths { schemas: Schemas::new(), paths: Map::new() };
        operations(&mut paths);
        let told = paths.schemas.told.definitions();
        for (name, schema) in paths.schemas.asked.definitions() {
            assert!(
                told.get(name).is_none_or(|other| other == schema),
                "{name} is sent and answered in two forms"
            );
        }
        for name in told.keys().chain(paths.schemas.asked.definitions().keys()) {
            assert!(!name.ends_with(|last: char| last.is_ascii_digit()), "{name}: two types have this name");
        }
    }
}

//! The console's door, its files and its stream, and that the API is as its description says.

use std::collections::BTreeMap;

use dodai_admin::api::routes;
use http::StatusCode;
use serde_json::Value;

use super::fake::World;

fn description() -> Value {
    serde_json::from_str(include_str!("../../../schema/management.openapi.json")).unwrap()
}

#[tokio::test]
async fn a_session_is_a_cookie_and_a_key_and_ends() {
    let world = World::new().await;
    let begun = world.send("POST", "/v1/session", &[], "").await;
    assert_eq!(begun.status, StatusCode::OK, "{}", begun.text);
    let cookie = begun.headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.starts_with("dodai-console-7070="), "{cookie}");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    assert!(
        !begun.text.contains(cookie.split(['=', ';']).nth(1).unwrap()),
        "the page cannot read the cookie"
    );
    let (cookie, key) = (cookie.split(';').next().unwrap(), begun.json()["key"].as_str().unwrap().to_owned());
    let with = |pairs: &[(&'static str, &str)]| {
        let mut all = vec![("authorization".to_owned(), String::new())];
        all.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        all
    };
    let ask = async |method: &str, path: &str, pairs: Vec<(String, String)>| {
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        world.send(method, path, &pairs, "").await.status
    };
    let both = || with(&[("cookie", cookie), ("dodai-session", &key)]);
    assert_eq!(ask("GET", "/v1/instances", both()).await, StatusCode::OK);
    assert_eq!(ask("GET", "/v1/instances", with(&[("cookie", cookie)])).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask("GET", "/v1/instances", with(&[("dodai-session", &key)])).await, StatusCode::UNAUTHORIZED);
    // A page of another origin, even one of this machine, can write nothing, whatever the browser sends along.
    let foreign = [both(), with(&[("origin", "http://127.0.0.1:8080")])].concat();
    assert_eq!(ask("POST", "/v1/shutdown", foreign).await, StatusCode::FORBIDDEN);
    assert!(!*world.stop.borrow());
    // A session does not make sessions.
    assert_eq!(ask("POST", "/v1/session", both()).await, StatusCode::BAD_REQUEST);
    let own = [("authorization", ""), ("cookie", cookie), ("dodai-session", key.as_str())];
    let mut live = world.stream_with("/v1/live", &own).await;
    assert!(live.next().await["documents"].is_u64());
    assert_eq!(ask("DELETE", "/v1/session", both()).await, StatusCode::OK);
    assert!(live.ends().await, "what has no end ends with the session");
    assert_eq!(ask("GET", "/v1/instances", both()).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_console_is_shown_to_everybody_and_nothing_else_is() {
    let world = World::new().await;
    let none = [("authorization", "")];
    for path in ["/", "/apps/default/%3Cscript%3E", "/calls?app=x"] {
        let page = world.send("GET", path, &[("authorization", ""), ("accept", "text/html,*/*")], "").await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(page.headers["x-content-type-options"], "nosniff");
        assert!(!page.text.contains("<script>"), "nothing of the path is in the page");
    }
    for path in ["/v1/../v1/status", "/v1/none", "/debug/table", "/metrics", "/apps/default/x"] {
        assert_eq!(world.send("GET", path, &none, "").await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(world.send("POST", "/", &none, "").await.status, StatusCode::UNAUTHORIZED);
    let rebound = [("authorization", ""), ("host", "evil.example")];
    assert_eq!(world.send("GET", "/", &rebound, "").await.status, StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn the_stream_goes_on_where_it_was() {
    let world = World::new().await;
    let mut first = world.stream("/v1/live").await;
    let schemas = description();
    let anew = first.next().await;
    conforms(
        &anew,
        &schemas["components"]["schemas"]["Marks"],
        &schemas,
        "a new listener asks for everything",
    );
    let (beat, id) = first.next_with_id().await;
    conforms(&beat, &schemas["components"]["schemas"]["Beat"], &schemas, "a beat");
    assert_eq!(anew["documents"], beat["documents"], "nothing has changed in between");
    let (later, next) = first.next_with_id().await;
    assert_eq!(next, id + 1, "messages are counted, whatever the clock does");
    // The only listener leaves and comes back.
    drop(first);
    let mut again = world.stream(&format!("/v1/live?after={id}")).await;
    assert_eq!(again.next().await["second"], later["second"], "what came in between comes first");
    let mut old = world.stream("/v1/live?after=1").await;
    let told = old.next().await;
    assert!(
        told["second"].is_null() && told["documents"].is_u64(),
        "what is no longer kept cannot be told: {told}"
    );
}

/// Every path of the router with the methods that it takes.
pub async fn methods(world: &World) -> BTreeMap<&'static str, Vec<String>> {
    let mut routed = BTreeMap::new();
    for (path, _) in routes() {
        // A method that nothing takes is answered with those that are taken.
        let answer = world.send("TRACE", &filled(path), &[], "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allow = answer.headers["allow"].to_str().unwrap();
        let mut methods: Vec<String> =
            allow.split(',').filter(|one| *one != "HEAD").map(str::to_owned).collect();
        methods.sort();
        routed.insert(path, methods);
    }
    routed
}

/// A path with something in each of its places.
pub fn filled(path: &str) -> String {
    path.replace(['{', '}', '*'], "")
}

#[tokio::test]
async fn the_description_has_every_path_and_method_of_the_router() {
    let world = World::new().await;
    let description = description();
    let mut described: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        let mut methods: Vec<String> =
            methods.as_object().unwrap().keys().map(|one| one.to_uppercase()).collect();
        methods.sort();
        described.insert(path.clone(), methods);
    }
    let routed: BTreeMap<String, Vec<String>> =
        methods(&world).await.into_iter().map(|(path, methods)| (path.replace("{*", "{"), methods)).collect();
    assert_eq!(routed, described, "schema/management.openapi.json is to be as the router is");
}

#[tokio::test]
async fn answers_are_as_the_description_says() {
    let world = World::new().await;
    let document = "apiVersion: dodai.dev/v1\nkind: App\nmetadata:\n  name: shop\nspec:\n  external:\n    addresses: \
                    [\"127.0.0.1:9\"]\n  services: [{name: http, port: 9}]\n";
    let description = description();
    let schema = |path: &str, method: &str| {
        description["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
            .clone()
    };
    let applied = world.send("POST", "/v1/documents?dryRun=true", &[], document).await;
    conforms(&applied.json(), &schema("/v1/documents", "post"), &description, "a dry run");
    assert_eq!(world.send("POST", "/v1/documents", &[], document).await.status, StatusCode::OK);
    let component = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: bus}\nspec: {type: pubsub.odd, version: v1}\n";
    assert_eq!(world.send("POST", "/v1/documents", &[], component).await.status, StatusCode::OK);
    world.until(|| world.has(dodai_api::Kind::Component)).await;
    let refused = world.send("POST", "/v1/documents", &[], "kind: None\n").await;
    conforms(&refused.json(), &description["components"]["schemas"]["Refusal"], &description, "a refusal");
    for (path, at) in [
        ("/v1/status", "/v1/status"),
        ("/v1/session", "/v1/session"),
        ("/v1/kinds", "/v1/kinds"),
        ("/v1/traffic", "/v1/traffic?seconds=60"),
        ("/v1/documents", "/v1/documents?kind=App"),
        ("/v1/documents/{kind}/{namespace}/{name}", "/v1/documents/App/default/shop"),
        ("/v1/events", "/v1/events"),
        ("/v1/changes", "/v1/changes"),
        ("/v1/history/{kind}/{namespace}/{name}", "/v1/history/App/default/shop"),
        ("/v1/instances", "/v1/instances"),
        ("/v1/externals", "/v1/externals"),
        ("/v1/bases", "/v1/bases"),
        ("/v1/components", "/v1/components"),
        ("/v1/topics/{pubsub}", "/v1/topics/bus"),
        ("/v1/topics/{pubsub}/{topic}", "/v1/topics/bus/dead?group=shop"),
        ("/v1/locks/{store}", "/v1/locks/bus"),
        ("/v1/jobs", "/v1/jobs?app=default/shop"),
        ("/v1/store", "/v1/store"),
        ("/v1/apps/{namespace}/{name}/state/{store}", "/v1/apps/default/shop/state/kv?prefix=cart"),
        ("/v1/apps/{namespace}/{name}/state/{store}/{key}", "/v1/apps/default/shop/state/kv/cart%2F1"),
    ] {
        let answer = world.send("GET", at, &[], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{at}: {}", answer.text);
        conforms(&answer.json(), &schema(path, "get"), &description, at);
    }
    let schema = world.send("GET", "/v1/schema/Route", &[], "").await.json();
    assert_eq!(schema["title"], "Route");
}

/// Checks a value against a schema: types, required and known properties, items.
fn conforms(value: &Value, schema: &Value, description: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return conforms(value, &description["components"]["schemas"][name], description, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        // A thing or null.
        if !value.is_null() {
            conforms(value, &any[0], description, at);
        }
        return;
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return,
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(types.contains(&is), "{at}: {value} is {is}, and {types:?} is described");
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        let item_schema =
            if schema["prefixItems"].is_array() { &schema["prefixItems"][index] } else { &schema["items"] };
        conforms(item, item_schema, description, &format!("{at}[{index}]"));
    }
    let Some(map) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(map.contains_key(name), "{at}: {name} is described and missing in {value}");
    }
    for (name, one) in map {
        let inner = &schema["properties"][name];
        let rest = &schema["additionalProperties"];
        assert!(!inner.is_null() || *rest != Value::Bool(false), "{at}: {name} is not described");
        conforms(one, if inner.is_null() { rest } else { inner }, description, &format!("{at}.{name}"));
    }
}

#[tokio::test]
async fn an_edit_does_not_overwrite_a_later_one() {
    let world = World::new().await;
    let app = |port: u16| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: shop}}\nspec: {{external: {{addresses: \
             [\"127.0.0.1:9\"]}}, services: [{{name: http, port: {port}}}]}}\n"
        )
    };
    let revision = async || {
        let document = world.get("/v1/documents/App/default/shop").await.json();
        document["metadata"]["revision"].as_u64().expect("a revision")
    };
    let first = world.apply("", &app(9)).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    let read = revision().await;
    let query = format!("?ifRevision={read}");
    let second = world.apply(&query, &app(10)).await;
    assert_eq!(second.status, StatusCode::OK, "{}", second.text);
    let third = world.apply(&query, &app(11)).await;
    assert_eq!(third.status, StatusCode::CONFLICT, "{}", third.text);
    assert!(revision().await > read);
    let both = format!("{}---\n{}", app(12), app(12).replace("shop", "other"));
    let several = world.apply(&query, &both).await;
    assert_eq!(several.status, StatusCode::BAD_REQUEST, "{}", several.text);
}

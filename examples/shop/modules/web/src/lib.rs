//! The shop's front: the page, and the one API it talks to.
//!
//! The page calls `/api/...` only; each call is passed to the app that owns the matter, by that app's name. What
//! the shop can do without (recommendations, who runs where) is answered in any case, and says what is missing.

mod page;
mod visitor;

use serde_json::{Value, json};
use shop_guest::bindings::wasi::random::random;
use shop_guest::call::{self, Call, Reply, Unanswered};
use shop_guest::info::Info;
use shop_guest::{Failure, Request, Response, config};
use std::time::Duration;
use visitor::Visitor;

shop_guest::serve!(answer);

/// How long the page waits for what it can do without.
const PATIENCE: Duration = Duration::from_millis(800);

const OTHER_APPS: [&str; 4] = ["catalog", "orders", "notify", "recommend"];

fn answer(request: &Request) -> Result<Response, Failure> {
    let (method, path) = request.route();
    match (method, path.as_slice()) {
        (method, ["api", path @ ..]) => {
            let visitor = Visitor::of(request, || random::get_random_bytes(16));
            let response = api(request, method, path, &visitor)?;
            Ok(visitor.remember(response.with("cache-control", "no-store")))
        }
        ("GET", ["info"]) => Ok(Response::json(200, &own_info())),
        ("GET", ["healthz"]) => Ok(Response::empty(204)),
        ("GET", path) => {
            page::file(path, request.header("if-none-match")).ok_or_else(|| Failure::no_route(request))
        }
        _ => Err(Failure::no_route(request)),
    }
}

fn api(request: &Request, method: &str, path: &[&str], visitor: &Visitor) -> Result<Response, Failure> {
    let cart = format!("/carts/{}", visitor.id);
    match (method, path) {
        ("GET", ["products"]) => pass(request, Call::get("catalog", "/products")),
        ("GET", ["cart"]) => pass(request, Call::get("orders", cart)),
        ("DELETE", ["cart"]) => pass(request, Call::new("DELETE", "orders", cart)),
        ("PUT", ["cart", "lines", product]) => {
            let call = Call::new("PUT", "orders", format!("{cart}/lines/{product}"));
            pass(request, call.body("application/json", request.body.clone()))
        }
        ("GET", ["orders"]) => pass(request, Call::get("orders", "/orders")),
        ("POST", ["orders"]) => checkout(request, visitor),
        ("GET", ["notifications"]) => pass(request, Call::get("notify", "/notifications")),
        ("GET", ["recommendations"]) => Ok(recommendations(request)),
        ("GET", ["info"]) => Ok(who_runs_where(request)),
        ("GET", ["banner"]) => Ok(Response::json(200, &json!({ "banner": config::text("banner") }))),
        _ => Err(Failure::no_route(request)),
    }
}

/// The answer of another app as it is, or a failure that names the app.
fn pass(request: &Request, call: Call) -> Result<Response, Failure> {
    let reply = call.on_behalf_of(request).send().map_err(unanswered)?;
    Ok(Response::new(reply.status, "application/json", reply.body))
}

fn unanswered(error: Unanswered) -> Failure {
    Failure::new(502, "unavailable", error.to_string())
}

/// The cart is the visitor's cookie, not the body's: nobody buys another one's cart.
fn checkout(request: &Request, visitor: &Visitor) -> Result<Response, Failure> {
    let wanted: Value = request.json()?;
    let mut call = Call::new("POST", "orders", "/orders")
        .json(&json!({ "cartId": visitor.id, "customer": wanted["customer"].as_str().unwrap_or("") }));
    if let Some(key) = request.header("idempotency-key") {
        call = call.with("idempotency-key", key);
    }
    pass(request, call)
}

fn recommendations(request: &Request) -> Response {
    let call = Call::get("recommend", format!("/recommendations?{}", request.query));
    let body = match call.on_behalf_of(request).within(PATIENCE).send() {
        Ok(reply) if reply.is_success() => {
            reply.json::<Value>().map(|value| (true, value["products"].clone()))
        }
        Ok(_) | Err(_) => None,
    };
    let (available, products) = body.unwrap_or((false, json!([])));
    Response::json(200, &json!({ "available": available, "products": products }))
}

fn who_runs_where(request: &Request) -> Response {
    let calls = OTHER_APPS.map(|app| Call::get(app, "/info").on_behalf_of(request).within(PATIENCE));
    let others = OTHER_APPS.iter().zip(call::all(calls.into())).map(|(app, reply)| described(app, reply));
    let own = described("web", Ok(Reply { status: 200, body: json!(own_info()).to_string().into_bytes() }));
    let apps: Vec<Value> = std::iter::once(own).chain(others).collect();
    Response::json(200, &json!({ "apps": apps }))
}

fn described(app: &str, reply: Result<Reply, Unanswered>) -> Value {
    let down = |reason: String| json!({ "app": app, "up": false, "reason": reason });
    match reply {
        Ok(reply) if reply.is_success() => match reply.json::<Info>() {
            Some(info) => json!({
                "app": info.app, "up": true,
                "shape": info.shape, "revision": info.revision, "version": info.version,
            }),
            None => down("its answer is not what /info should say".into()),
        },
        Ok(reply) => down(format!("it answered {}", reply.status)),
        Err(error) => down(error.reason),
    }
}

fn own_info() -> Info {
    Info::of_module("web", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_up_only_if_it_says_who_it_is() {
        let ok = |body: &str| Ok(Reply { status: 200, body: body.into() });
        let info = r#"{"app":"orders","shape":"process","revision":"r1","version":"1.0.0"}"#;
        assert_eq!(described("orders", ok(info))["up"], true);
        assert_eq!(described("orders", ok("hello"))["up"], false);
        let down = described("orders", Ok(Reply { status: 503, body: Vec::new() }));
        assert_eq!(down["reason"], "it answered 503");
        let gone = described("orders", Err(Unanswered { app: "orders".into(), reason: "timed out".into() }));
        assert_eq!((&gone["up"], &gone["reason"]), (&json!(false), &json!("timed out")));
    }
}

//! The example shop as its README tells it: something is ordered, what is not vital goes away and comes back,
//! configuration changes live, a module is deployed under load, a second start finds the orders again; and the same
//! shop answers alike in one process, on a base of its own, and on a base that joined a server.

mod copy;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use aws_lc_rs::hmac;
pub use copy::exchange;
use copy::{Shop, Way};
use serde_json::{Value, json};

use crate::fleet::Machines;
use crate::project::until;

#[test]
fn the_shop_sells_survives_and_remembers() {
    let mut shop = Shop::new();
    shop.up();
    let page = exchange(shop.port, "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    assert_eq!(page.0, 200);
    assert!(String::from_utf8_lossy(&page.2).contains("<html"), "{}", page.1);

    let order = an_order(&mut shop);
    recommendations_come_and_go(&mut shop);
    configuration_changes_live(&mut shop);
    a_module_changes_under_load(&mut shop);

    assert!(shop.dodai(&["down"]).status.success());
    shop.up();
    let orders = shop.get("/orders");
    assert_eq!(orders["orders"][0]["id"], order, "{orders}");
    assert_eq!(shop.get("/notifications")["notifications"][0]["orderId"], order);
    assert!(shop.dodai(&["down"]).status.success());
}

#[test]
fn up_builds_the_shops_own_app_where_it_is_missing() {
    let mut shop = Shop::unbuilt();
    let up = shop.up();
    assert!(up.out().contains("built orders in"), "{}", up.all());
    an_order(&mut shop);
    assert!(shop.dodai(&["down"]).status.success());
    let again = shop.up();
    assert!(!again.out().contains("built orders"), "{}", again.all());
    assert!(shop.dodai(&["down"]).status.success());
}

/// Fills a cart and buys it; the order's id.
fn an_order(shop: &mut Shop) -> Value {
    let before = shop.product("lantern")["stock"].as_u64().unwrap();
    let (status, cart) = shop.call("PUT", "/cart/lines/lantern", Some(&json!({"quantity": 2})));
    assert_eq!((status, cart["lines"][0]["quantity"].as_u64()), (200, Some(2)), "{cart}");
    let (status, order) = shop.call("POST", "/orders", Some(&json!({"customer": "Aiko <b>"})));
    assert_eq!(status, 201, "{order}");
    is_signed(&order);
    assert_eq!(shop.product("lantern")["stock"].as_u64(), Some(before - 2));
    let listed = shop.get("/orders");
    assert_eq!(listed["orders"][0]["id"], order["id"]);
    assert!(listed["orders"][0]["customer"] == "Aiko <b>", "{listed}");
    let id = order["id"].clone();
    shop.wait("the notification of the order", "/notifications", |notes| {
        notes["notifications"][0]["orderId"] == id
    });
    id
}

/// The receipt is signed with the shop's secret, so the app has read it.
fn is_signed(order: &Value) {
    let secret = include_str!("../../../../examples/shop/secrets.json");
    let key: Value = serde_json::from_str(secret).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, key["payment-key"].as_str().unwrap().as_bytes());
    let payload = order["receipt"]["payload"].as_str().unwrap();
    assert!(payload.starts_with(&format!("{}|", order["id"].as_str().unwrap())), "{order}");
    let tag = hmac::sign(&key, payload.as_bytes());
    let expect: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(order["receipt"]["signature"], expect);
}

fn recommendations_come_and_go(shop: &mut Shop) {
    assert_eq!(shop.get("/recommendations?with=teapot")["available"], false, "nobody started it");
    let outside = shop.start_recommend();
    let answer =
        shop.wait("recommend is there", "/recommendations?with=teapot", |answer| answer["available"] == true);
    assert_eq!(answer["products"][0]["id"], "cups", "{answer}");
    drop(outside);
    shop.wait("recommend is gone", "/recommendations?with=teapot", |answer| answer["available"] == false);
    shop.product("teapot");
}

fn configuration_changes_live(shop: &mut Shop) {
    let full = shop.product("teapot")["priceCents"].as_u64().unwrap();
    for (key, value) in [("discount-percent", "50"), ("banner", "Half price")] {
        let set = shop.dodai(&["config", "set", "shop-config", key, value]);
        assert!(set.status.success(), "{}", set.all());
    }
    let price = |all: &Value| {
        let products = all["products"].as_array().cloned().unwrap_or_default();
        products.iter().find(|one| one["id"] == "teapot").and_then(|one| one["priceCents"].as_u64())
    };
    shop.wait("half the price", "/products", |all| price(all) == Some(full / 2));
    shop.wait("the banner", "/banner", |answer| answer["banner"] == "Half price");
}

/// The same module with other bytes, so another digest, so another revision.
fn a_module_changes_under_load(shop: &mut Shop) {
    let artifact = shop.path("artifacts/catalog.wasm");
    let mut bytes = std::fs::read(&artifact).unwrap();
    // A custom section (id 0) of three bytes: the length of its name, and the name.
    bytes.extend([0, 3, 2, b'v', b'2']);
    std::fs::write(&artifact, bytes).unwrap();
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let port = shop.port;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, calls) = (stop.clone(), calls.clone());
            std::thread::spawn(move || {
                let request = "GET /api/products HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match exchange(port, request) {
                        Ok((200, _, _)) => drop(calls.fetch_add(1, Ordering::Relaxed)),
                        other => failures.push(format!("{other:?}")),
                    }
                }
                failures
            })
        })
        .collect();
    until("the load runs", || calls.load(Ordering::Relaxed) > 20);
    let deploy = shop.dodai(&["deploy", "catalog", "artifacts/catalog.wasm", "--wait"]);
    let after = calls.load(Ordering::Relaxed);
    until("the load goes on", || calls.load(Ordering::Relaxed) > after + 20 || !deploy.status.success());
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert!(deploy.status.success(), "{}", deploy.all());
    assert_eq!(failures, Vec::<String>::new(), "of {} calls", calls.load(Ordering::Relaxed));
}

/// What a customer sees, without what differs from visit to visit.
fn visit(shop: &mut Shop) -> Vec<Value> {
    let mut seen = vec![shop.get("/products"), shop.get("/banner"), shop.get("/recommendations?with=teapot")];
    for (method, path, body) in [
        ("PUT", "/cart/lines/lantern", Some(json!({"quantity": 2}))),
        ("PUT", "/cart/lines/nothing", Some(json!({"quantity": 1}))),
        ("PUT", "/cart/lines/teapot", Some(json!({"quantity": 100_000}))),
        ("GET", "/cart", None),
        ("GET", "/nowhere", None),
        ("POST", "/orders", Some(json!({"customer": 7}))),
        ("PUT", "/cart/lines/plane", Some(json!({"quantity": 20}))),
        ("POST", "/orders", Some(json!({"customer": "Aiko"}))),
        ("PUT", "/cart/lines/plane", Some(json!({"quantity": 0}))),
        ("POST", "/orders", Some(json!({"customer": "Aiko"}))),
    ] {
        let (status, body) = shop.call(method, path, body.as_ref());
        seen.push(json!([method, path, status, body]));
    }
    assert!(seen.last().unwrap()[2] == 201, "{seen:#?}");
    let unknown = json!({"error": "no-product", "message": "there is no product nothing"});
    assert_eq!(seen[4], json!(["PUT", "/cart/lines/nothing", 404, unknown]));
    assert_eq!(seen[10][2], 409, "there are twelve planes, not twenty: {}", seen[10]);
    let order = seen.last_mut().unwrap()[3].take();
    is_signed(&order);
    let id = order["id"].clone();
    let notes = shop.wait("the notification of the order", "/notifications", |notes| {
        notes["notifications"][0]["orderId"] == id
    });
    let text = notes["notifications"][0]["text"].as_str().unwrap().replace(id.as_str().unwrap(), "ID");
    seen.extend([order["lines"].clone(), order["totalCents"].clone(), json!(text)]);
    let outside = shop.start_recommend();
    let path = "/recommendations?with=teapot";
    seen.push(shop.wait("recommend is there", path, |answer| answer["available"] == true));
    drop(outside);
    seen
}

#[test]
fn the_shop_is_the_same_however_it_runs() {
    let mut seen = Vec::new();
    for way in [Way::Up, Way::Alone, Way::Joined] {
        let mut shop = Shop::new();
        let machines = shop.start(way);
        seen.push((way, visit(&mut shop)));
        live_change(&machines, &mut shop, way);
        machines.end();
    }
    let (_, first) = &seen[0];
    for (way, other) in &seen[1..] {
        assert_eq!(first, other, "with {way:?}, unlike `dodai up`");
    }
}

/// The same commands work on each of the three; only a server gives out tokens.
fn live_change(machines: &Machines, shop: &mut Shop, way: Way) {
    let done = |arguments: &[&str]| {
        let done = machines.dodai(arguments);
        assert!(done.status.success(), "{way:?}: {}", done.all());
        done
    };
    done(&["config", "set", "shop-config", "banner", "Sale"]);
    shop.wait("the banner", "/banner", |answer| answer["banner"] == "Sale");
    assert!(done(&["call", "catalog", "/healthz", "-i"]).all().contains("204"));
    for app in ["web", "catalog", "orders", "notify"] {
        assert!(done(&["ps"]).out().contains(&format!("default/{app}")), "{way:?} has no {app}");
    }
    done(&["publish", "shop-pubsub", "nobody.hears", r#"{"text": "two"}"#]);
    let nowhere = machines.dodai(&["publish", "nobus", "news", "{}"]);
    assert!(!nowhere.status.success() && nowhere.all().contains("nobus"), "{}", nowhere.all());
    until("the app's lines come", || !machines.dodai(&["logs", "orders"]).out().is_empty());
    done(&["deploy", "notify", "artifacts/catalog.wasm", "--wait"]);
    assert!(done(&["call", "notify", "/products"]).out().contains("teapot"), "{way:?}: it is a catalog now");
    let token = machines.dodai(&["token", "create"]);
    assert_eq!(token.status.success(), way == Way::Joined, "{}", token.all());
}

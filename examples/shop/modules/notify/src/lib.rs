//! Notifications: hears `order.placed`, writes what a customer should be told, and lists it.
//!
//! Events come at least once. A notification is kept under its event's id, so that one that comes twice is
//! written once.

use serde::{Deserialize, Serialize};
use serde_json::json;
use shop_guest::info::Info;
use shop_guest::state::State;
use shop_guest::{Failure, Request, Response};
use std::collections::BTreeSet;

shop_guest::serve!(answer);

const STORE: &str = "shop-state";
const SHOWN: u64 = 20;

fn answer(request: &Request) -> Result<Response, Failure> {
    let (method, path) = request.route();
    match (method, path.as_slice()) {
        ("GET", ["dapr", "subscribe"]) => Ok(subscriptions()),
        ("POST", ["events", "order-placed"]) => Ok(order_placed(request)),
        ("GET", ["notifications"]) => list(),
        ("GET", ["info"]) => Ok(Response::json(200, &Info::of_module("notify", env!("CARGO_PKG_VERSION")))),
        ("GET", ["healthz"]) => Ok(Response::empty(204)),
        _ => Err(Failure::no_route(request)),
    }
}

/// What the runtime asks at start: which topics go to which paths.
fn subscriptions() -> Response {
    let wanted =
        json!([{ "pubsubname": "shop-pubsub", "topic": "order.placed", "route": "/events/order-placed" }]);
    Response::json(200, &wanted)
}

/// The part of a CloudEvent that is read here.
#[derive(Deserialize)]
struct Event {
    id: String,
    data: OrderPlaced,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderPlaced {
    order_id: String,
    customer: String,
    items: u64,
    total_cents: u64,
    currency: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notification {
    event_id: String,
    order_id: String,
    text: String,
}

/// The verdict of a delivery: done, again later, or never (an event that cannot be read will not get better).
fn order_placed(request: &Request) -> Response {
    let status = match request.json::<Event>() {
        Ok(event) => match keep(&notification(event)) {
            Ok(()) => "SUCCESS",
            Err(_) => "RETRY",
        },
        Err(_) => "DROP",
    };
    Response::json(200, &json!({ "status": status }))
}

fn notification(event: Event) -> Notification {
    let OrderPlaced { order_id, customer, items, total_cents, currency } = event.data;
    let things = if items == 1 { "1 thing" } else { &format!("{items} things") };
    let (whole, cents) = (total_cents / 100, total_cents % 100);
    let text =
        format!("Thank you, {customer}: {things} for {currency} {whole}.{cents:02} will be on the way soon.");
    Notification { event_id: event.id, order_id, text }
}

fn keep(notification: &Notification) -> Result<(), Failure> {
    let state = State::open(STORE)?;
    let key = note_key(&notification.event_id);
    if state.get::<Notification>(&key)?.is_some() {
        return Ok(());
    }
    // The place in the list first: a crash in between leaves a place without a note, which the list skips, and
    // the event comes again.
    let place = state.increment("notify:count", 1)?;
    state.set(&place_key(place), &notification.event_id)?;
    state.set(&key, notification)
}

fn list() -> Result<Response, Failure> {
    let state = State::open(STORE)?;
    let count = state.count("notify:count")?;
    let (mut seen, mut notes) = (BTreeSet::new(), Vec::new());
    for place in (count.saturating_sub(SHOWN) + 1..=count).rev() {
        let Some(event) = state.get::<String>(&place_key(place))? else { continue };
        if let Some(note) = state.get::<Notification>(&note_key(&event))?
            && seen.insert(event)
        {
            notes.push(note);
        }
    }
    Ok(Response::json(200, &json!({ "notifications": notes, "count": count })))
}

fn note_key(event: &str) -> String {
    format!("notify:note:{event}")
}

fn place_key(place: u64) -> String {
    format!("notify:place:{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(items: u64) -> Event {
        let text = json!({
            "specversion": "1.0", "id": "e-1", "type": "com.dapr.event.sent", "topic": "order.placed",
            "data": { "orderId": "o-1", "customer": "Mei", "items": items, "totalCents": 6405, "currency": "EUR" },
        });
        serde_json::from_value(text).expect("a CloudEvent")
    }

    #[test]
    fn a_notification_names_customer_count_and_total() {
        let note = notification(event(1));
        assert_eq!(note.text, "Thank you, Mei: 1 thing for EUR 64.05 will be on the way soon.");
        assert_eq!((note.event_id.as_str(), note.order_id.as_str()), ("e-1", "o-1"));
        assert!(notification(event(3)).text.contains("3 things"));
    }

    #[test]
    fn an_event_that_is_not_an_order_is_dropped() {
        let request = Request { body: b"{\"id\":\"e\",\"data\":5}".to_vec(), ..Request::default() };
        assert_eq!(order_placed(&request).body, br#"{"status":"DROP"}"#);
    }

    #[test]
    fn the_subscription_names_the_route_that_answers() {
        let wanted: serde_json::Value = serde_json::from_slice(&subscriptions().body).expect("JSON");
        assert_eq!(wanted[0]["route"], "/events/order-placed");
        assert_eq!(wanted[0]["topic"], "order.placed");
    }
}

//! What the app does: carts, checkout, the list of orders.

use crate::cart::{self, Cart};
use crate::order::{self, Event, Order, Reserved};
use crate::reply::{Refusal, Reply, empty_reply, json_reply};
use crate::runtime::{Runtime, Trace};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const BODY_LIMIT: usize = 64 * 1024;
/// How many orders the list keeps.
const LISTED: usize = 30;
const LIST: &str = "orders:latest";

/// The app.
pub struct Shop {
    /// Where state, secrets, configuration and the other apps are.
    pub runtime: Runtime,
    /// Which revision this process is.
    pub revision: String,
}

#[derive(Deserialize)]
struct Quantity {
    quantity: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Checkout {
    cart_id: String,
    customer: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reservation {
    lines: Vec<Reserved>,
    discount_percent: u64,
}

impl Shop {
    /// Answers a request.
    pub async fn answer(&self, request: Request<Incoming>) -> Reply {
        let line = format!("{} {}", request.method(), request.uri().path());
        let reply = self.route(request).await.unwrap_or_else(Reply::from);
        if reply.status().is_server_error() {
            eprintln!("{line} was answered {}", reply.status());
        }
        reply
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Reply, Refusal> {
        let trace = Trace::of(request.headers());
        let key =
            request.headers().get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
        let (head, body) = request.into_parts();
        let path: Vec<&str> = head.uri.path().split('/').filter(|part| !part.is_empty()).collect();
        match (head.method.as_str(), path.as_slice()) {
            ("GET", ["healthz"]) => Ok(empty_reply(StatusCode::NO_CONTENT)),
            ("GET", ["info"]) => Ok(self.info()),
            ("GET", ["carts", cart]) => self.cart(&trace, cart).await,
            ("DELETE", ["carts", cart]) => self.empty_cart(&trace, cart).await,
            ("PUT", ["carts", cart, "lines", product]) => {
                let wanted: Quantity = read(body).await?;
                self.set_line(&trace, cart, product, wanted.quantity).await
            }
            ("GET", ["orders"]) => self.list(&trace).await,
            ("GET", ["orders", id]) => self.order(&trace, id).await,
            ("POST", ["orders"]) => self.checkout(&trace, read(body).await?, key.as_deref()).await,
            ("POST", ["orders", id, "publish"]) => self.publish_again(&trace, id).await,
            _ => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "no-route",
                format!("nothing answers {} {} here", head.method, head.uri.path()),
            )),
        }
    }

    fn info(&self) -> Reply {
        let version = env!("CARGO_PKG_VERSION");
        let info =
            json!({ "app": "orders", "shape": "process", "revision": self.revision, "version": version });
        json_reply(StatusCode::OK, &info)
    }

    async fn cart(&self, trace: &Trace, id: &str) -> Result<Reply, Refusal> {
        let cart: Cart = self.runtime.state(trace, &cart_key(id)?).await?.unwrap_or_default();
        Ok(json_reply(StatusCode::OK, &cart))
    }

    async fn empty_cart(&self, trace: &Trace, id: &str) -> Result<Reply, Refusal> {
        self.runtime.delete(trace, &cart_key(id)?).await?;
        Ok(empty_reply(StatusCode::NO_CONTENT))
    }

    async fn set_line(
        &self,
        trace: &Trace,
        id: &str,
        product: &str,
        quantity: u64,
    ) -> Result<Reply, Refusal> {
        if !cart::is_name(product) {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "bad-product",
                "a product's name has letters and hyphens",
            ));
        }
        if quantity > 0 {
            self.is_sold(trace, product).await?;
        }
        let change = |cart: &mut Cart| cart.set(product, quantity);
        let cart = self.runtime.change(trace, &cart_key(id)?, change).await?;
        Ok(json_reply(StatusCode::OK, &cart))
    }

    /// Refuses what the catalog does not know. A catalog that cannot be asked keeps nobody from filling a cart: it
    /// is asked again at the checkout.
    async fn is_sold(&self, trace: &Trace, product: &str) -> Result<(), Refusal> {
        let path = format!("products/{product}");
        let answer = match self.runtime.invoke(trace, "catalog", Method::GET, &path, None).await {
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => answer,
            Ok(_) | Err(_) => return Ok(()),
        };
        let said: Value = answer.json("the catalog").unwrap_or_default();
        if said["error"] != "no-product" {
            return Ok(());
        }
        let message = format!("there is no product {product}");
        Err(Refusal::new(StatusCode::NOT_FOUND, "no-product", message))
    }

    async fn list(&self, trace: &Trace) -> Result<Reply, Refusal> {
        let orders: Vec<Order> = self.runtime.state(trace, LIST).await?.unwrap_or_default();
        Ok(json_reply(StatusCode::OK, &json!({ "orders": orders })))
    }

    async fn order(&self, trace: &Trace, id: &str) -> Result<Reply, Refusal> {
        Ok(json_reply(StatusCode::OK, &self.kept(trace, id).await?))
    }

    async fn kept(&self, trace: &Trace, id: &str) -> Result<Order, Refusal> {
        let order = self.runtime.state(trace, &order_key(id)?).await?;
        order
            .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "no-order", format!("there is no order {id}")))
    }

    /// Reserve, price, sign, keep, tell. A retry with the same key finds the order kept and only finishes it.
    async fn checkout(&self, trace: &Trace, wanted: Checkout, key: Option<&str>) -> Result<Reply, Refusal> {
        let customer: String = wanted.customer.trim().chars().take(40).collect();
        if customer.is_empty() {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "no-name",
                "say who orders: customer is empty",
            ));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = order::order_id(&wanted.cart_id, key, now.as_nanos());
        if let Some(order) = self.runtime.state::<Order>(trace, &order_key(&id)?).await? {
            let order = self.finish(trace, order).await?;
            return Ok(json_reply(StatusCode::OK, &order));
        }
        let cart: Cart = self.runtime.state(trace, &cart_key(&wanted.cart_id)?).await?.unwrap_or_default();
        if cart.lines.is_empty() {
            return Err(Refusal::new(StatusCode::CONFLICT, "empty-cart", "there is nothing in the cart"));
        }
        let placed_at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let reserved = self.reserve(trace, &id, &cart).await?;
        let order = match self.keep(trace, &id, &customer, placed_at_ms, reserved).await {
            Ok(order) => order,
            Err(refusal) => {
                self.release(trace, &id).await;
                return Err(refusal);
            }
        };
        let order = self.finish(trace, order).await?;
        self.runtime.delete(trace, &cart_key(&wanted.cart_id)?).await?;
        Ok(json_reply(StatusCode::CREATED, &order))
    }

    async fn reserve(&self, trace: &Trace, id: &str, cart: &Cart) -> Result<Reservation, Refusal> {
        let wanted = json!({ "orderId": id, "lines": cart.lines });
        let answer =
            self.runtime.invoke(trace, "catalog", Method::POST, "reservations", Some(&wanted)).await?;
        if answer.status.is_success() {
            return answer.json("the catalog's reservation");
        }
        let said: Value = answer.json("the catalog").unwrap_or_default();
        let message =
            said["message"].as_str().unwrap_or("the catalog did not take the order; try again").to_owned();
        Err(Refusal::new(answer.status, "not-reserved", message))
    }

    async fn keep(
        &self,
        trace: &Trace,
        id: &str,
        customer: &str,
        placed_at_ms: u64,
        reserved: Reservation,
    ) -> Result<Order, Refusal> {
        let discount = match self.runtime.config(trace, "discount-percent").await {
            Ok(value) => value.map_or(0, |text| order::discount(&text)),
            // The price must not depend on a store that is away: the customer pays what the catalog shows.
            Err(_) => reserved.discount_percent,
        };
        let key = self.runtime.secret(trace, "payment-key").await?;
        let order = Order::new(id, customer, placed_at_ms, reserved.lines, discount, &key);
        if self.runtime.create(trace, &order_key(id)?, &order).await? {
            return Ok(order);
        }
        // The twin of this request was faster and holds the same reservation.
        self.kept(trace, id).await
    }

    async fn release(&self, trace: &Trace, id: &str) {
        let path = format!("reservations/{id}");
        if let Err(refusal) = self.runtime.invoke(trace, "catalog", Method::DELETE, &path, None).await {
            eprintln!("the goods of {id} could not be given back: {}", refusal.message);
        }
    }

    /// The order is kept: what fails from here on does not undo it, and may be done twice.
    async fn finish(&self, trace: &Trace, mut order: Order) -> Result<Order, Refusal> {
        if order.event == Event::Pending {
            match self.publish(trace, &order).await {
                Ok(()) => order.event = Event::Published,
                Err(refusal) => {
                    eprintln!("{} is kept, but its event is not out: {}", order.id, refusal.message)
                }
            }
            let key = order_key(&order.id)?;
            self.runtime.change(trace, &key, |kept: &mut Option<Order>| *kept = Some(order.clone())).await?;
        }
        self.enlist(trace, &order).await?;
        Ok(order)
    }

    async fn publish(&self, trace: &Trace, order: &Order) -> Result<(), Refusal> {
        let event = json!({
            "orderId": order.id, "customer": order.customer, "items": order.items(),
            "totalCents": order.total_cents, "currency": order.currency,
        });
        self.runtime.publish(trace, "order.placed", &order.id, &event).await
    }

    /// For an order whose event could not go out when it was placed.
    async fn publish_again(&self, trace: &Trace, id: &str) -> Result<Reply, Refusal> {
        let order = self.kept(trace, id).await?;
        Ok(json_reply(StatusCode::OK, &self.finish(trace, order).await?))
    }

    /// Puts the order on the list of the latest, newest first, or replaces it there.
    async fn enlist(&self, trace: &Trace, order: &Order) -> Result<(), Refusal> {
        let change = |orders: &mut Vec<Order>| match orders.iter_mut().find(|known| known.id == order.id) {
            Some(known) => *known = order.clone(),
            None => {
                orders.insert(0, order.clone());
                orders.truncate(LISTED);
            }
        };
        self.runtime.change(trace, LIST, change).await.map(drop)
    }
}

fn cart_key(id: &str) -> Result<String, Refusal> {
    named("cart", id)
}

fn order_key(id: &str) -> Result<String, Refusal> {
    named("order", id)
}

fn named(kind: &str, id: &str) -> Result<String, Refusal> {
    if cart::is_name(id) {
        return Ok(format!("{kind}:{id}"));
    }
    let message = format!("the name of a {kind} has 1 to 64 letters, digits and hyphens");
    Err(Refusal::new(StatusCode::BAD_REQUEST, "bad-name", message))
}

async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, Refusal> {
    let bytes: Bytes = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad-body", format!("the body: {error}")));
        }
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "bad-body", format!("the body: {error}")))
}

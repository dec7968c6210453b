//! The catalog: products, today's prices, stock.
//!
//! Products are part of the code, so that a new assortment is a new revision. Prices follow the live key
//! `discount-percent`; stock is kept in the state component `shop-state`.

mod products;
mod stock;

use products::{PRODUCTS, Product};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shop_guest::info::Info;
use shop_guest::state::State;
use shop_guest::{Failure, Request, Response, config};
use stock::{Line, Refused};

shop_guest::serve!(answer);

const STORE: &str = "shop-state";

fn answer(request: &Request) -> Result<Response, Failure> {
    let (method, path) = request.route();
    match (method, path.as_slice()) {
        ("GET", ["products"]) => list(),
        ("GET", ["products", id]) => one(id),
        ("POST", ["reservations"]) => reserve(&request.json()?),
        ("DELETE", ["reservations", order]) => release(order),
        ("POST", ["products", id, "restock"]) => restock(id, &request.json()?),
        ("GET", ["info"]) => Ok(Response::json(200, &Info::of_module("catalog", env!("CARGO_PKG_VERSION")))),
        ("GET", ["healthz"]) => Ok(Response::empty(204)),
        _ => Err(Failure::no_route(request)),
    }
}

/// A product as a customer sees it now.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Offer {
    id: &'static str,
    name: &'static str,
    blurb: &'static str,
    tag: &'static str,
    list_cents: u64,
    price_cents: u64,
    stock: u64,
}

impl Offer {
    fn of(product: &'static Product, discount: u8, state: &State) -> Result<Offer, Failure> {
        Ok(Offer {
            id: product.id,
            name: product.name,
            blurb: product.blurb,
            tag: product.tag,
            list_cents: product.cents,
            price_cents: products::discounted(product.cents, discount),
            stock: stock::left(state, product)?,
        })
    }
}

fn list() -> Result<Response, Failure> {
    let state = State::open(STORE)?;
    let discount = config::percent("discount-percent");
    let offers = PRODUCTS.iter().map(|product| Offer::of(product, discount, &state));
    let offers = offers.collect::<Result<Vec<_>, _>>()?;
    Ok(Response::json(200, &json!({ "products": offers, "discountPercent": discount, "currency": "EUR" })))
}

fn one(id: &str) -> Result<Response, Failure> {
    let offer = Offer::of(product(id)?, config::percent("discount-percent"), &State::open(STORE)?)?;
    Ok(Response::json(200, &offer))
}

fn product(id: &str) -> Result<&'static Product, Failure> {
    products::find(id).ok_or_else(|| Failure::new(404, "no-product", format!("there is no product {id}")))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reserve {
    order_id: String,
    lines: Vec<Line>,
}

/// A line of a reservation with what an order needs to know of the product.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reserved {
    id: &'static str,
    name: &'static str,
    list_cents: u64,
    quantity: u64,
}

/// Takes all lines out of stock, or none. Asked again for the same order it gives the same answer.
fn reserve(wanted: &Reserve) -> Result<Response, Failure> {
    let mut lines = Vec::with_capacity(wanted.lines.len());
    for line in &wanted.lines {
        if !(1..=99).contains(&line.quantity) {
            return Err(Failure::new(
                400,
                "bad-quantity",
                format!("take 1 to 99 of {}, not {}", line.id, line.quantity),
            ));
        }
        let product = product(&line.id)?;
        lines.push(Reserved {
            id: product.id,
            name: product.name,
            list_cents: product.cents,
            quantity: line.quantity,
        });
    }
    stock::reserve(&State::open(STORE)?, &wanted.order_id, &wanted.lines).map_err(refused)?;
    let discount = config::percent("discount-percent");
    Ok(Response::json(
        200,
        &json!({ "orderId": wanted.order_id, "lines": lines, "discountPercent": discount }),
    ))
}

fn refused(refused: Refused) -> Failure {
    match refused {
        Refused::SoldOut { id } => {
            let name = products::find(&id).map_or(id.as_str(), |product| product.name);
            Failure::new(409, "sold-out", format!("there is not enough of {name} left"))
        }
        Refused::Busy => {
            Failure::new(409, "in-progress", "this order is being reserved by another call; ask again")
        }
        Refused::Released => Failure::new(409, "released", "this order was given up; place a new one"),
        Refused::State(failure) => failure,
    }
}

fn release(order: &str) -> Result<Response, Failure> {
    stock::release(&State::open(STORE)?, order).map_err(refused)?;
    Ok(Response::empty(204))
}

#[derive(Deserialize)]
struct Restock {
    quantity: u64,
}

fn restock(id: &str, more: &Restock) -> Result<Response, Failure> {
    if !(1..=10_000).contains(&more.quantity) {
        return Err(Failure::new(400, "bad-quantity", format!("add 1 to 10000, not {}", more.quantity)));
    }
    let (product, state) = (product(id)?, State::open(STORE)?);
    stock::add(&state, product.id, more.quantity)?;
    Ok(Response::json(200, &json!({ "id": product.id, "stock": stock::left(&state, product)? })))
}

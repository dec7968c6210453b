//! An order: its price and its receipt.

use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A placed order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Its name.
    pub id: String,
    /// Who ordered.
    pub customer: String,
    /// When, in milliseconds since 1970.
    pub placed_at_ms: u64,
    /// What.
    pub lines: Vec<Line>,
    /// The discount that was given.
    pub discount_percent: u64,
    /// The price of everything.
    pub total_cents: u64,
    /// Always `EUR` in this shop.
    pub currency: String,
    /// Proof that the shop took the order.
    pub receipt: Receipt,
    /// Whether others have been told.
    pub event: Event,
}

/// A line of an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The product.
    pub id: String,
    /// Its name when it was ordered.
    pub name: String,
    /// How many.
    pub quantity: u64,
    /// The price of one.
    pub unit_cents: u64,
}

/// What is signed, and the signature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// `HMAC-SHA256`.
    pub algorithm: String,
    /// The text under the signature.
    pub payload: String,
    /// In hexadecimal digits.
    pub signature: String,
}

/// What became of an order's event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// The order is kept, its event is not out yet.
    Pending,
    /// The event was accepted for delivery.
    Published,
}

/// A line as the catalog reserved it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reserved {
    id: String,
    name: String,
    list_cents: u64,
    quantity: u64,
}

impl Order {
    /// Prices reserved lines and signs the receipt.
    pub fn new(
        id: &str,
        customer: &str,
        placed_at_ms: u64,
        reserved: Vec<Reserved>,
        discount_percent: u64,
        key: &str,
    ) -> Order {
        let lines: Vec<Line> = reserved.into_iter().map(|line| priced(line, discount_percent)).collect();
        let total_cents = lines.iter().map(|line| line.unit_cents * line.quantity).sum();
        let payload = format!("{id}|{total_cents}|EUR|{placed_at_ms}");
        let receipt = Receipt { algorithm: "HMAC-SHA256".into(), signature: sign(key, &payload), payload };
        Order {
            id: id.into(),
            customer: customer.into(),
            placed_at_ms,
            lines,
            discount_percent,
            total_cents,
            currency: "EUR".into(),
            receipt,
            event: Event::Pending,
        }
    }

    /// How many things it has.
    pub fn items(&self) -> u64 {
        self.lines.iter().map(|line| line.quantity).sum()
    }
}

/// Rounds to the nearest cent, half a cent up, as the catalog shows it.
fn priced(line: Reserved, discount_percent: u64) -> Line {
    let unit_cents = (line.list_cents * (100 - discount_percent.min(100)) + 50) / 100;
    Line { id: line.id, name: line.name, quantity: line.quantity, unit_cents }
}

/// The discount a configuration value means; anything outside 0 to 90 counts as none.
pub fn discount(text: &str) -> u64 {
    match text.trim().trim_end_matches('%').trim_end().parse() {
        Ok(percent) if percent <= 90 => percent,
        _ => 0,
    }
}

/// The order's name: of the caller's idempotency key if there is one, so that a retry names the same order.
pub fn order_id(cart: &str, idempotency_key: Option<&str>, now_nanos: u128) -> String {
    let mut hash = Sha256::new();
    hash.update(cart.as_bytes());
    match idempotency_key {
        Some(key) => {
            hash.update(b"|key|");
            hash.update(key.as_bytes());
        }
        None => {
            hash.update(b"|time|");
            hash.update(now_nanos.to_be_bytes());
        }
    }
    format!("o-{}", hex(&hash.finalize()[..6]))
}

fn sign(key: &str, payload: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(payload.as_bytes());
    hex(&mac.finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved(id: &str, list_cents: u64, quantity: u64) -> Reserved {
        Reserved { id: id.into(), name: id.into(), list_cents, quantity }
    }

    #[test]
    fn a_discount_is_taken_from_each_unit() {
        let lines = vec![reserved("cups", 3200, 2), reserved("odd", 999, 3)];
        let order = Order::new("o-1", "Mei", 7, lines, 10, "key");
        assert_eq!(order.lines.iter().map(|line| line.unit_cents).collect::<Vec<_>>(), [2880, 899]);
        assert_eq!((order.total_cents, order.items()), (2 * 2880 + 3 * 899, 5));
        assert_eq!(order.receipt.payload, "o-1|8457|EUR|7");
    }

    #[test]
    fn the_signature_is_hmac_sha256() {
        // RFC 4231, test case 2.
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(sign("Jefe", "what do ya want for nothing?"), expected);
    }

    #[test]
    fn a_discount_is_a_bounded_number() {
        for (text, percent) in [("15", 15), ("20%", 20), ("91", 0), ("-1", 0), ("soon", 0), ("", 0)] {
            assert_eq!(discount(text), percent, "{text:?}");
        }
    }

    #[test]
    fn a_retry_names_the_same_order_and_nobody_elses() {
        let id = order_id("cart-a", Some("k1"), 1);
        assert_eq!(id, order_id("cart-a", Some("k1"), 2));
        assert_ne!(id, order_id("cart-b", Some("k1"), 1));
        assert_ne!(order_id("cart-a", None, 1), order_id("cart-a", None, 2));
        assert!(crate::cart::is_name(&id));
    }
}

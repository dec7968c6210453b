//! What a customer is about to buy.

use serde::{Deserialize, Serialize};

/// The most of one product in a cart.
pub const MOST: u64 = 20;

/// So many of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The product.
    pub id: String,
    /// How many, at least one.
    pub quantity: u64,
}

/// A cart; lines keep the order in which they were added.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cart {
    /// One line per product.
    pub lines: Vec<Line>,
}

impl Cart {
    /// Sets how many of a product are in the cart; zero takes it out.
    pub fn set(&mut self, id: &str, quantity: u64) {
        let quantity = quantity.min(MOST);
        match self.lines.iter_mut().find(|line| line.id == id) {
            _ if quantity == 0 => self.lines.retain(|line| line.id != id),
            Some(line) => line.quantity = quantity,
            None => self.lines.push(Line { id: id.into(), quantity }),
        }
    }
}

/// Whether text may be part of a key: carts and orders are named by letters, digits and hyphens.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_set_kept_in_order_and_taken_out() {
        let mut cart = Cart::default();
        for (id, quantity) in
            [("cups", 1), ("bell", 2), ("cups", 3), ("knife", 1), ("bell", 0), ("broom", 99)]
        {
            cart.set(id, quantity);
        }
        let lines: Vec<_> = cart.lines.iter().map(|line| (line.id.as_str(), line.quantity)).collect();
        assert_eq!(lines, [("cups", 3), ("knife", 1), ("broom", MOST)]);
    }

    #[test]
    fn a_name_cannot_leave_its_key() {
        for (text, good) in [("0ab-9", true), ("", false), ("a/b", false), ("a||b", false), ("a?b", false)] {
            assert_eq!(is_name(text), good, "{text:?}");
        }
        assert!(!is_name(&"a".repeat(65)));
    }
}

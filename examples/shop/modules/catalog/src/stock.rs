//! Stock that is never oversold, on a store that can only add.
//!
//! `stock:taken:<id>` counts what reservations took, `stock:back:<id>` what came back or came in; left is
//! capacity + back - taken. A reservation reads `back` first, then adds to `taken`: every unit in `back` at that
//! time is one that `taken` counts already, so that two reservations can never both get the last unit. The one
//! that went too far gives back what it took.

use crate::products::Product;
use serde::{Deserialize, Serialize};
use shop_guest::Failure;
use shop_guest::state::State;

/// So many of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The product.
    pub id: String,
    /// How many.
    pub quantity: u64,
}

/// Why a reservation was not made.
#[derive(Debug)]
pub enum Refused {
    /// There is not enough of this product.
    SoldOut {
        /// The product.
        id: String,
    },
    /// Another call works on this order.
    Busy,
    /// The order was released before.
    Released,
    /// The store failed.
    State(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Refused {
        Refused::State(failure)
    }
}

/// What the arithmetic needs of a store; the tests have one in memory.
pub trait Ledger {
    /// A counter's value.
    fn count(&self, key: &str) -> Result<u64, Failure>;
    /// Adds to a counter in one step; its new value.
    fn increment(&self, key: &str, by: u64) -> Result<u64, Failure>;
    /// The lines reserved for an order.
    fn reservation(&self, key: &str) -> Result<Option<Vec<Line>>, Failure>;
    /// Remembers the lines reserved for an order.
    fn remember(&self, key: &str, lines: &[Line]) -> Result<(), Failure>;
}

impl Ledger for State {
    fn count(&self, key: &str) -> Result<u64, Failure> {
        State::count(self, key)
    }
    fn increment(&self, key: &str, by: u64) -> Result<u64, Failure> {
        State::increment(self, key, by)
    }
    fn reservation(&self, key: &str) -> Result<Option<Vec<Line>>, Failure> {
        self.get(key)
    }
    fn remember(&self, key: &str, lines: &[Line]) -> Result<(), Failure> {
        self.set(key, &lines)
    }
}

/// How many of `product` can still be sold.
pub fn left(ledger: &impl Ledger, product: &Product) -> Result<u64, Failure> {
    let (back, taken) = (ledger.count(&back_key(product.id))?, ledger.count(&taken_key(product.id))?);
    Ok((product.stock + back).saturating_sub(taken))
}

/// Adds new goods.
pub fn add(ledger: &impl Ledger, id: &str, quantity: u64) -> Result<(), Failure> {
    ledger.increment(&back_key(id), quantity).map(drop)
}

/// Takes every line, or none.
pub fn reserve(ledger: &impl Ledger, order: &str, lines: &[Line]) -> Result<(), Refused> {
    if ledger.count(&released_key(order))? > 0 {
        return Err(Refused::Released);
    }
    if ledger.increment(&claim_key(order), 1)? > 1 {
        // Somebody was here before: the same call, retried, or its twin that is still at work.
        return match ledger.reservation(&order_key(order))? {
            Some(made) if made == lines => Ok(()),
            _ => Err(Refused::Busy),
        };
    }
    for (at, line) in lines.iter().enumerate() {
        if !take(ledger, line)? {
            for taken in &lines[..at] {
                add(ledger, &taken.id, taken.quantity)?;
            }
            ledger.increment(&released_key(order), 1)?;
            return Err(Refused::SoldOut { id: line.id.clone() });
        }
    }
    Ok(ledger.remember(&order_key(order), lines)?)
}

/// Gives back what an order had reserved; a second time changes nothing.
pub fn release(ledger: &impl Ledger, order: &str) -> Result<(), Refused> {
    let Some(lines) = ledger.reservation(&order_key(order))? else { return Ok(()) };
    if ledger.increment(&released_key(order), 1)? == 1 {
        for line in &lines {
            add(ledger, &line.id, line.quantity)?;
        }
    }
    Ok(())
}

fn take(ledger: &impl Ledger, line: &Line) -> Result<bool, Refused> {
    let capacity = crate::products::find(&line.id).map_or(0, |product| product.stock);
    let back = ledger.count(&back_key(&line.id))?;
    let taken = ledger.increment(&taken_key(&line.id), line.quantity)?;
    if taken <= capacity + back {
        return Ok(true);
    }
    add(ledger, &line.id, line.quantity)?;
    Ok(false)
}

fn taken_key(id: &str) -> String {
    format!("stock:taken:{id}")
}

fn back_key(id: &str) -> String {
    format!("stock:back:{id}")
}

fn order_key(order: &str) -> String {
    format!("reservation:{order}")
}

fn claim_key(order: &str) -> String {
    format!("reservation-claim:{order}")
}

fn released_key(order: &str) -> String {
    format!("reservation-released:{order}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::products::find;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Memory {
        counters: RefCell<BTreeMap<String, u64>>,
        reservations: RefCell<BTreeMap<String, Vec<Line>>>,
    }

    impl Ledger for Memory {
        fn count(&self, key: &str) -> Result<u64, Failure> {
            Ok(self.counters.borrow().get(key).copied().unwrap_or(0))
        }
        fn increment(&self, key: &str, by: u64) -> Result<u64, Failure> {
            let mut counters = self.counters.borrow_mut();
            let count = counters.entry(key.into()).or_default();
            *count += by;
            Ok(*count)
        }
        fn reservation(&self, key: &str) -> Result<Option<Vec<Line>>, Failure> {
            Ok(self.reservations.borrow().get(key).cloned())
        }
        fn remember(&self, key: &str, lines: &[Line]) -> Result<(), Failure> {
            self.reservations.borrow_mut().insert(key.into(), lines.to_vec());
            Ok(())
        }
    }

    fn lines(wanted: &[(&str, u64)]) -> Vec<Line> {
        wanted.iter().map(|(id, quantity)| Line { id: (*id).into(), quantity: *quantity }).collect()
    }

    fn stock(memory: &Memory, id: &str) -> u64 {
        left(memory, find(id).expect("a product")).expect("memory does not fail")
    }

    #[test]
    fn a_reservation_takes_stock_once_however_often_it_is_asked_for() {
        let memory = Memory::default();
        for _ in 0..3 {
            reserve(&memory, "o-1", &lines(&[("plane", 5), ("cups", 2)])).expect("there is enough");
        }
        assert_eq!((stock(&memory, "plane"), stock(&memory, "cups")), (7, 78));
    }

    #[test]
    fn all_lines_or_none() {
        let memory = Memory::default();
        let refused = reserve(&memory, "o-1", &lines(&[("cups", 2), ("plane", 13)]));
        assert!(matches!(refused, Err(Refused::SoldOut { id }) if id == "plane"));
        assert_eq!((stock(&memory, "plane"), stock(&memory, "cups")), (12, 80));
    }

    #[test]
    fn the_last_one_goes_to_one_order_and_comes_back() {
        let memory = Memory::default();
        reserve(&memory, "o-1", &lines(&[("plane", 12)])).expect("there are twelve");
        assert!(matches!(reserve(&memory, "o-2", &lines(&[("plane", 1)])), Err(Refused::SoldOut { .. })));
        for _ in 0..2 {
            release(&memory, "o-1").expect("memory does not fail");
        }
        assert_eq!(stock(&memory, "plane"), 12);
        reserve(&memory, "o-3", &lines(&[("plane", 12)])).expect("they are back");
    }

    #[test]
    fn a_released_order_stays_released() {
        let memory = Memory::default();
        reserve(&memory, "o-1", &lines(&[("bell", 1)])).expect("there is enough");
        release(&memory, "o-1").expect("memory does not fail");
        assert!(matches!(reserve(&memory, "o-1", &lines(&[("bell", 1)])), Err(Refused::Released)));
    }

    #[test]
    fn a_reservation_never_made_is_released_without_effect() {
        let memory = Memory::default();
        release(&memory, "o-9").expect("memory does not fail");
        assert_eq!(stock(&memory, "bell"), 50);
    }

    #[test]
    fn another_order_of_the_same_id_is_not_taken_for_a_retry() {
        let memory = Memory::default();
        reserve(&memory, "o-1", &lines(&[("bell", 1)])).expect("there is enough");
        assert!(matches!(reserve(&memory, "o-1", &lines(&[("bell", 2)])), Err(Refused::Busy)));
    }
}

//! Where a simulation's choices come from: a number that makes them again.

use std::ops::Range;
use std::time::Duration;

/// A source of choices (splitmix64: small, and any number is a good start).
#[derive(Clone, Debug)]
pub struct Seed(u64);

impl Seed {
    /// Begins at `number`.
    pub fn new(number: u64) -> Seed {
        Seed(number)
    }

    /// Another source, which takes nothing from this one's later choices.
    pub fn fork(&mut self) -> Seed {
        Seed(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of the range.
    ///
    /// # Panics
    /// When the range is empty.
    pub fn number(&mut self, range: Range<u64>) -> u64 {
        assert!(!range.is_empty(), "there is nothing to choose from");
        range.start + self.next() % (range.end - range.start)
    }

    /// A place in something that is `length` long.
    ///
    /// # Panics
    /// When the length is zero.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.number(0..length as u64)).expect("less than a usize")
    }

    /// A time of so many milliseconds.
    pub fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.number(range))
    }
}

/// Tells how to run a seed again when the test that holds this fails.
pub struct Again {
    /// The seed.
    pub seed: u64,
    /// The command that runs it alone.
    pub command: String,
}

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} failed; run it again with: {}", self.seed, self.command);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_chooses_the_same_again() {
        let choose = |seed| {
            let mut seed = Seed::new(seed);
            (0..100).map(|_| seed.number(3..50)).collect::<Vec<_>>()
        };
        assert_eq!(choose(7), choose(7));
        assert_ne!(choose(7), choose(8));
        assert!(choose(9).iter().all(|number| (3..50).contains(number)));
    }
}

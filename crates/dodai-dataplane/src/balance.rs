//! How one endpoint is picked of those that a call may go to.
//!
//! Tables (turns by weight, the ring, Maglev's) are made once for a set of endpoints and shared by all threads; whether
//! an endpoint is up is not in them, so one that fails moves only the calls that would have gone to it. Tables of keys
//! are built from what endpoints are called, so every base builds the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use dodai_core::snapshot::Balance;
use dodai_core::trace::random;

use crate::affinity::mixed;
use crate::place::Endpoint;

/// Points of a ring for each endpoint of average weight.
const POINTS: usize = 160;
/// The most points of a ring, and the most turns, unless there are more endpoints.
const LARGEST: usize = 1 << 16;
/// Turns at most, unless there are more endpoints.
const TURNS: usize = 1 << 10;
/// Sizes of Maglev's table; primes, as its permutations need. Few, because keys move when the size changes.
const PRIMES: [usize; 2] = [16_381, 65_521];
/// Places of Maglev's table that are looked at for a key before its order is left.
const LOOKS: u64 = 16;

/// Picks endpoints of one set.
#[derive(Debug)]
pub struct Balancer {
    by: Balance,
    table: Table,
    turn: AtomicUsize,
}

#[derive(Debug)]
enum Table {
    /// All weights are the same.
    Even,
    /// Endpoints as often as their weights say, well mixed.
    Turns(Box<[u32]>),
    /// Points by hash, and the endpoint that each belongs to.
    Ring(Box<[(u64, u32)]>),
    Maglev(Box<[u32]>),
}

impl Balancer {
    /// For these endpoints.
    pub fn new(by: &Balance, all: &[Arc<Endpoint>]) -> Balancer {
        let even = || all.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let table = match by {
            Balance::RingHash(_) if all.len() > 1 => Table::Ring(ring(all)),
            Balance::Maglev(_) if all.len() > 1 => Table::Maglev(maglev(all)),
            _ if even() => Table::Even,
            Balance::RoundRobin
            | Balance::LeastLatency
            | Balance::LeastRequest
            | Balance::Weighted
            | Balance::RingHash(_)
            | Balance::Maglev(_) => Table::Turns(turns(all)),
        };
        Balancer { by: by.clone(), table, turn: AtomicUsize::new(random() as usize) }
    }

    /// One of `all` that fits, if any does. `now` is a time on the clock of [`crate::service::now_nanos`].
    pub fn pick<'e>(
        &self,
        all: &'e [Arc<Endpoint>],
        now: u64,
        key: Option<u64>,
        fits: &impl Fn(&&Arc<Endpoint>) -> bool,
    ) -> Option<&'e Arc<Endpoint>> {
        if let [only] = all {
            return Some(only).filter(fits);
        }
        let count = all.iter().filter(fits).count();
        let nth = |n: usize| all.iter().filter(fits).nth(n);
        if count < 2 {
            return nth(0);
        }
        match (&self.table, key) {
            (Table::Ring(points), Some(key)) => {
                let from = points.partition_point(|(point, _)| *point < key);
                let around = points[from..].iter().chain(&points[..from]);
                around.map(|(_, at)| &all[*at as usize]).find(fits)
            }
            (Table::Maglev(table), Some(key)) => {
                let place = |look: u64| {
                    let hash = if look == 0 { key } else { mixed(key.wrapping_add(look)) };
                    &all[table[(hash % table.len() as u64) as usize] as usize]
                };
                (0..LOOKS).map(place).find(fits).or_else(|| nth((mixed(key) % count as u64) as usize))
            }
            (Table::Even, _) | (Table::Ring(_) | Table::Maglev(_), None) => match self.by {
                Balance::RoundRobin => nth(self.turn.fetch_add(1, Relaxed) % count),
                Balance::Weighted => nth((random() % count as u64) as usize),
                Balance::LeastLatency | Balance::LeastRequest | Balance::RingHash(_) | Balance::Maglev(_) => {
                    let draw = random();
                    let first = (draw as u32 as usize) % count;
                    let second = (first + 1 + ((draw >> 32) as usize) % (count - 1)) % count;
                    Some(self.lighter(nth(first)?, nth(second)?, now))
                }
            },
            (Table::Turns(turns), _) => {
                let from = |at: usize| {
                    let (before, after) = turns.split_at(at % turns.len());
                    after.iter().chain(before).map(|at| &all[*at as usize]).find(fits)
                };
                match self.by {
                    Balance::RoundRobin => from(self.turn.fetch_add(1, Relaxed)),
                    Balance::Weighted => from(random() as usize),
                    Balance::LeastLatency
                    | Balance::LeastRequest
                    | Balance::RingHash(_)
                    | Balance::Maglev(_) => {
                        let draw = random();
                        Some(self.lighter(from(draw as u32 as usize)?, from((draw >> 32) as usize)?, now))
                    }
                }
            }
        }
    }

    /// The one of two that costs less.
    fn lighter<'e>(&self, a: &'e Arc<Endpoint>, b: &'e Arc<Endpoint>, now: u64) -> &'e Arc<Endpoint> {
        let cost = |one: &Endpoint| match self.by {
            Balance::LeastLatency => one.cost(now),
            Balance::RoundRobin
            | Balance::LeastRequest
            | Balance::Weighted
            | Balance::RingHash(_)
            | Balance::Maglev(_) => one.load(),
        };
        if cost(a) <= cost(b) { a } else { b }
    }
}

/// So many places for each of `all` that they share `size` by weight; each has one at least.
fn shares(all: &[Arc<Endpoint>], size: usize) -> impl Iterator<Item = usize> {
    let total: u64 = all.iter().map(|one| u64::from(one.weight)).sum();
    all.iter().map(move |one| ((size as u64 * u64::from(one.weight) / total.max(1)) as usize).max(1))
}

/// Every endpoint at even distances, as often as its weight says.
fn turns(all: &[Arc<Endpoint>]) -> Box<[u32]> {
    let total: u64 = all.iter().map(|one| u64::from(one.weight)).sum();
    let size = usize::try_from(total).unwrap_or(TURNS).min(TURNS.max(all.len()));
    let mut places: Vec<(f64, u32)> = Vec::with_capacity(size);
    for (at, share) in (0_u32..).zip(shares(all, size)) {
        places.extend((0..share).map(|turn| ((turn as f64 + 0.5) / share as f64, at)));
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    places.into_iter().map(|(_, at)| at).collect()
}

fn ring(all: &[Arc<Endpoint>]) -> Box<[(u64, u32)]> {
    let size = (POINTS * all.len()).min(LARGEST.max(all.len()));
    let mut points: Vec<(u64, u32)> = Vec::with_capacity(size);
    for ((at, share), one) in (0_u32..).zip(shares(all, size)).zip(all) {
        points.extend((0..share as u64).map(|point| (mixed(one.token.wrapping_add(mixed(point))), at)));
    }
    points.sort_by_key(|(point, at)| (*point, all[*at as usize].token));
    points.into()
}

/// The table of Maglev (Eisenbud and others, NSDI 2016, section 3.4): endpoints take places in turn, each in an order
/// of its own; the lighter ones miss turns.
fn maglev(all: &[Arc<Endpoint>]) -> Box<[u32]> {
    let wanted = all.len() * 100;
    let size = PRIMES.iter().copied().find(|prime| *prime >= wanted).unwrap_or(PRIMES[PRIMES.len() - 1]);
    // In the order of their names, so that it is the same on every base.
    let mut order: Vec<u32> = (0..u32::try_from(all.len()).unwrap_or(u32::MAX)).collect();
    order.sort_by_key(|at| all[*at as usize].token);
    let heaviest = all.iter().map(|one| one.weight).max().unwrap_or(1);
    let mut next: Vec<u64> = order.iter().map(|at| mixed(all[*at as usize].token) % size as u64).collect();
    let step = |at: u32| mixed(all[at as usize].token ^ 0x9e37_79b9_7f4a_7c15) % (size as u64 - 1) + 1;
    let mut table = vec![u32::MAX; size];
    let (mut filled, mut round) = (0, 0_u64);
    loop {
        round += 1;
        for (next, at) in next.iter_mut().zip(&order) {
            let weight = u64::from(all[*at as usize].weight);
            let due = |round: u64| round * weight / u64::from(heaviest);
            if due(round) == due(round - 1) {
                continue;
            }
            while table[*next as usize] != u32::MAX {
                *next = (*next + step(*at)) % size as u64;
            }
            table[*next as usize] = *at;
            filled += 1;
            if filled == size {
                return table.into();
            }
        }
    }
}

#[cfg(test)]
mod tests;

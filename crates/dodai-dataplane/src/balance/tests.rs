//! Every algorithm gives calls by weight, and keys stay where they were.

use std::collections::BTreeMap;

use dodai_core::id::{BaseId, RevisionId};
use dodai_core::snapshot::{self, HashKey, Target};
use proptest::prelude::*;

use super::*;
use crate::affinity::stable;
use crate::local::Locals;

fn endpoints(weights: &[u32]) -> Vec<Arc<Endpoint>> {
    let one = |(at, weight): (usize, &u32)| {
        let target = Target::Address(format!("10.0.1.{at}:8000"));
        let source =
            snapshot::Endpoint { weight: *weight, ..snapshot::Endpoint::new(RevisionId::new("r"), target) };
        let endpoint = Endpoint::new(&source, None, &BaseId::new("b"), &Locals::default());
        Arc::new(endpoint.expect("an address can be reached"))
    };
    weights.iter().enumerate().map(one).collect()
}

fn keyed() -> [Balance; 2] {
    [Balance::RingHash(HashKey::Path), Balance::Maglev(HashKey::Path)]
}

/// How many of `calls` each endpoint gets; keys are those of numbers.
fn spread(by: &Balance, all: &[Arc<Endpoint>], calls: u64) -> Vec<u64> {
    let balancer = Balancer::new(by, all);
    let mut counts: BTreeMap<u64, u64> = all.iter().map(|one| (one.id, 0)).collect();
    for call in 0..calls {
        let key =
            matches!(by, Balance::RingHash(_) | Balance::Maglev(_)).then(|| stable(&call.to_le_bytes()));
        let chosen = balancer.pick(all, 0, key, &|_| true).expect("one fits");
        *counts.get_mut(&chosen.id).expect("one of them") += 1;
    }
    all.iter().map(|one| counts[&one.id]).collect()
}

#[test]
fn every_algorithm_heeds_weights() {
    let all = endpoints(&[1, 2, 5]);
    let rest = [Balance::RoundRobin, Balance::LeastLatency, Balance::LeastRequest, Balance::Weighted];
    for by in rest.into_iter().chain(keyed()) {
        let counts = spread(&by, &all, 8_000);
        for (count, weight) in counts.iter().zip([1_000.0, 2_000.0, 5_000.0]) {
            let share = *count as f64 / weight;
            assert!((0.75..1.3).contains(&share), "{by:?}: {counts:?}");
        }
    }
}

#[test]
fn turns_are_well_mixed() {
    let all = endpoints(&[1, 3]);
    let balancer = Balancer::new(&Balance::RoundRobin, &all);
    let picks: Vec<u64> =
        (0..8).map(|_| balancer.pick(&all, 0, None, &|_| true).expect("one fits").id).collect();
    assert_eq!(picks.iter().filter(|id| **id == all[0].id).count(), 2, "{picks:?}");
    assert!(!picks.windows(2).any(|pair| pair == [all[0].id; 2]), "{picks:?}");
}

#[test]
fn fewer_calls_under_way_are_better() {
    let all = endpoints(&[1, 1]);
    let balancer = Balancer::new(&Balance::LeastRequest, &all);
    let _busy: Vec<_> = (0..3).map(|_| all[0].attempt(0)).collect();
    for _ in 0..50 {
        assert_eq!(balancer.pick(&all, 0, None, &|_| true).expect("one fits").id, all[1].id);
    }
}

#[test]
fn tables_are_the_same_whatever_the_order() {
    let all = endpoints(&[1, 2, 1, 3, 1]);
    let mut turned = all.clone();
    turned.reverse();
    for by in keyed() {
        let (here, there) = (Balancer::new(&by, &all), Balancer::new(&by, &turned));
        for call in 0..500_u64 {
            let key = Some(stable(&call.to_le_bytes()));
            let picked = here.pick(&all, 0, key, &|_| true).map(|one| one.id);
            assert_eq!(picked, there.pick(&turned, 0, key, &|_| true).map(|one| one.id), "{by:?}");
        }
    }
}

proptest! {
    #[test]
    fn a_key_moves_only_with_its_endpoint(
        weights in prop::collection::vec(1_u32..6, 2..20),
        gone in any::<prop::sample::Index>(),
        calls in prop::collection::vec(any::<u64>(), 1..50),
    ) {
        let all = endpoints(&weights);
        let gone = all[gone.index(all.len())].id;
        for by in keyed() {
            let balancer = Balancer::new(&by, &all);
            for call in &calls {
                let before = balancer.pick(&all, 0, Some(*call), &|_| true).expect("one fits").id;
                let after = balancer.pick(&all, 0, Some(*call), &|one| one.id != gone).expect("one fits").id;
                prop_assert!(after != gone);
                prop_assert!(before == gone || before == after, "{:?} of {:?} moved", call, by);
            }
        }
    }

    #[test]
    fn whatever_fits_is_found(
        weights in prop::collection::vec(1_u32..100, 1..12),
        fit in prop::collection::vec(any::<bool>(), 12),
        key in any::<Option<u64>>(),
    ) {
        let all = endpoints(&weights);
        let fits = |one: &&Arc<Endpoint>| all.iter().position(|other| other.id == one.id).is_some_and(|at| fit[at]);
        let expect = fit.iter().take(all.len()).any(|fit| *fit);
        let rest = [Balance::RoundRobin, Balance::LeastLatency, Balance::LeastRequest, Balance::Weighted];
        for by in rest.into_iter().chain(keyed()) {
            let found = Balancer::new(&by, &all).pick(&all, 0, key, &fits).map(|one| one.id);
            prop_assert_eq!(found.is_some(), expect, "{:?}", by);
            prop_assert!(found.is_none_or(|id| all.iter().zip(&fit).any(|(one, fit)| one.id == id && *fit)));
        }
    }

    #[test]
    fn most_keys_stay_when_one_endpoint_comes(count in 5_usize..30) {
        for by in keyed() {
            let all = endpoints(&vec![1; count + 1]);
            let fewer = &all[..count];
            let (before, after) = (Balancer::new(&by, fewer), Balancer::new(&by, &all));
            let moved = (0..2_000_u64).filter(|call| {
                let key = Some(stable(&call.to_le_bytes()));
                let old = before.pick(fewer, 0, key, &|_| true).expect("one fits").id;
                let new = after.pick(&all, 0, key, &|_| true).expect("one fits").id;
                old != new
            });
            let share = moved.count() as f64 / 2_000.0;
            prop_assert!(share < 2.5 / count as f64 + 0.05, "{:?}: {} of {}", by, share, count);
        }
    }
}

/// In nanoseconds.
const MS: u64 = 1_000_000;

fn about(found: f64, expect: f64) {
    assert!((found - expect).abs() < expect * 0.01, "{found} is not about {expect}");
}

#[test]
fn a_peak_of_latency_counts_at_once_and_is_forgotten_slowly() {
    let all = endpoints(&[1]);
    let endpoint = &all[0];
    let call = |start: u64, took: u64| endpoint.attempt(start).succeeded(start + took);
    about(endpoint.cost(0), MS as f64);
    call(0, MS);
    about(endpoint.cost(MS), MS as f64);
    call(MS, 10 * MS);
    about(endpoint.cost(11 * MS), 10.0 * MS as f64);
    call(11 * MS, MS);
    about(endpoint.cost(12 * MS), 10.0 * MS as f64);
    // Ten seconds later two thirds of it are forgotten, whether calls came meanwhile or not.
    let later = 10_012 * MS;
    about(endpoint.cost(later), 10.0 * (-1.0_f64).exp() * MS as f64);
    call(later - MS, MS);
    about(endpoint.cost(later), (9.0 * (-1.0_f64).exp() + 1.0) * MS as f64);
    let _one_under_way = endpoint.attempt(later);
    about(endpoint.cost(later), 2.0 * (9.0 * (-1.0_f64).exp() + 1.0) * MS as f64);
}

#[test]
fn a_slow_endpoint_gets_calls_only_while_the_quick_one_is_full() {
    let all = endpoints(&[1, 1]);
    let balancer = Balancer::new(&Balance::LeastLatency, &all);
    all[0].attempt(0).succeeded(10 * MS);
    all[1].attempt(9 * MS).succeeded(10 * MS);
    let pick = || balancer.pick(&all, 10 * MS, None, &|_| true).expect("one fits").id;
    assert!((0..50).all(|_| pick() == all[1].id));
    let under_way: Vec<_> = (0..10).map(|_| all[1].attempt(10 * MS)).collect();
    assert!((0..50).all(|_| pick() == all[0].id));
    drop(under_way);
    assert!((0..50).all(|_| pick() == all[1].id));
}

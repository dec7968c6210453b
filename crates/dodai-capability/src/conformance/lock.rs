//! The suite for lock stores.

use std::time::Duration;

use futures_util::future::join_all;

use super::Bench;
use crate::lock::{Outcome, Release, Store};

const EXPIRY: Duration = Duration::from_secs(10);

/// Runs every case.
pub async fn run(bench: &Bench) {
    let store = bench.component.serves.lock.clone().expect("the component serves locks");
    one_owner_at_a_time(&*store).await;
    only_the_owner_gives_back(&*store).await;
    locks_expire(bench, &*store).await;
    locks_are_renewed(bench, &*store).await;
    locks_are_listed(&*store).await;
}

async fn lock(store: &dyn Store, resource: &str, owner: &str) -> Option<u64> {
    match store.try_lock(resource, owner, EXPIRY).await.expect("an answer") {
        Outcome::Acquired { token } => Some(token),
        Outcome::Held => None,
    }
}

async fn unlock(store: &dyn Store, resource: &str, owner: &str) -> Release {
    store.unlock(resource, owner).await.expect("an answer")
}

/// Stores that cannot list say so.
async fn locks_are_listed(store: &dyn Store) {
    for (resource, owner) in [("list-b", "y"), ("list-a", "x"), ("list-gone", "x")] {
        lock(store, resource, owner).await.expect("it is free");
    }
    unlock(store, "list-gone", "x").await;
    let found = match store.held(Some("list-"), 2).await {
        Ok(found) => found,
        Err(error) => {
            assert!(!store.features().list, "it says that it lists: {error}");
            return assert_eq!(error.code(), "unsupported", "{error}");
        }
    };
    assert!(store.features().list, "it lists and says that it does not");
    let named: Vec<_> = found.iter().map(|one| (one.resource.as_str(), one.owner.as_str())).collect();
    assert_eq!(named, [("list-a", "x"), ("list-b", "y")]);
    assert!(found.iter().all(|one| !one.left.is_zero() && one.left <= EXPIRY), "{found:?}");
}

async fn one_owner_at_a_time(store: &dyn Store) {
    let owners: Vec<String> = (0..16).map(|owner| format!("owner-{owner}")).collect();
    let tokens = join_all(owners.iter().map(|owner| lock(store, "race", owner))).await;
    assert_eq!(tokens.iter().flatten().count(), 1, "one of many gets it: {tokens:?}");
    assert!(lock(store, "other", "owner-1").await.is_some(), "another resource is free");
}

async fn only_the_owner_gives_back(store: &dyn Store) {
    assert_eq!(unlock(store, "back", "a").await, Release::DoesNotExist);
    let first = lock(store, "back", "a").await.expect("it is free");
    assert!(lock(store, "back", "a").await.is_none(), "nor does its owner get it twice");
    assert_eq!(unlock(store, "back", "b").await, Release::BelongsToOthers);
    assert_eq!(unlock(store, "back", "a").await, Release::Success);
    assert_eq!(unlock(store, "back", "a").await, Release::DoesNotExist);
    let second = lock(store, "back", "b").await.expect("it is free");
    assert!(second > first, "tokens grow: {first}, {second}");
}

async fn locks_expire(bench: &Bench, store: &dyn Store) {
    let first = lock(store, "expire", "a").await.expect("it is free");
    (bench.advance)(EXPIRY - Duration::from_secs(1)).await;
    assert!(lock(store, "expire", "b").await.is_none());
    (bench.advance)(Duration::from_secs(2)).await;
    assert_eq!(unlock(store, "expire", "a").await, Release::DoesNotExist, "its time is over");
    let second = lock(store, "expire", "b").await.expect("it is free again");
    assert!(second > first);
    assert_eq!(unlock(store, "expire", "a").await, Release::BelongsToOthers);
}

async fn locks_are_renewed(bench: &Bench, store: &dyn Store) {
    let renew =
        |owner: &'static str| async move { store.renew("renew", owner, EXPIRY).await.expect("an answer") };
    assert_eq!(renew("a").await, Release::DoesNotExist);
    lock(store, "renew", "a").await.expect("it is free");
    assert_eq!(renew("b").await, Release::BelongsToOthers);
    for _ in 0..3 {
        (bench.advance)(EXPIRY - Duration::from_secs(1)).await;
        assert_eq!(renew("a").await, Release::Success);
    }
    assert!(lock(store, "renew", "b").await.is_none(), "it was kept");
    (bench.advance)(EXPIRY + Duration::from_secs(1)).await;
    assert_eq!(renew("a").await, Release::DoesNotExist, "what is over cannot be renewed");
}

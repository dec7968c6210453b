//! Leases: keys vanish with them, in one transaction that watchers see.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{cause, events, get, keys, put, refused, revision, value, within};
use crate::{Changes, Error, Lease, LeaseId, Op, Store, Txn};

/// Longer than any run of the suite.
const LONG: Duration = Duration::from_secs(3600);

async fn grant(store: &Arc<dyn Store>, ttl: Duration) -> Lease {
    within(store.grant(ttl)).await.expect("grant")
}

async fn put_with(store: &Arc<dyn Store>, keys: &[&str], lease: Lease) {
    let put = |key: &&str| Op::Put { key: (*key).to_owned(), value: value("x"), lease: Some(lease.id) };
    let txn = keys.iter().map(put).fold(Txn::new(cause()), Txn::then);
    within(store.txn(txn)).await.expect("transaction");
}

pub(super) async fn keys_vanish_with_their_lease(store: Arc<dyn Store>, ttl: Duration) {
    put(&store, "/l/stays", "x").await;
    let granted = Instant::now();
    let lease = grant(&store, ttl).await;
    assert_eq!(lease.ttl, ttl);
    let other = grant(&store, LONG).await;
    assert_ne!(lease.id, other.id);
    put_with(&store, &["/l/a", "/l/b"], lease).await;
    put_with(&store, &["/l/c"], other).await;
    let before = revision(&store).await;
    let mut watch = store.watch("/l/", before.next());
    let seen = events(&mut watch, 2).await;
    assert!(granted.elapsed() >= ttl, "the lease ended early, after {:?}", granted.elapsed());
    assert_eq!([seen[0].key(), seen[1].key()], ["/l/a", "/l/b"]);
    assert!(seen.iter().all(|event| event.revision() == before.next()), "in one transaction");
    assert_eq!(keys(&store, "/l/").await, ["/l/c", "/l/stays"]);
    assert_eq!(refused(within(store.keep_alive(lease.id)).await), Error::LeaseNotFound { lease: lease.id });
    let changes = Changes { prefix: "/l/a".to_owned(), after: before, limit: 10 };
    let log = within(store.changes(changes)).await.expect("changes");
    assert!(log[0].cause.reason.contains("expired"), "the change log says why: {:?}", log[0].cause);
}

pub(super) async fn keeping_alive_keeps_keys(store: Arc<dyn Store>, ttl: Duration) {
    let lease = grant(&store, ttl).await;
    put_with(&store, &["/l/a"], lease).await;
    let start = Instant::now();
    let mut renewed = start;
    let mut kept = true;
    // Where time is real the machine may be too slow to keep it alive; then nothing is shown by that.
    while kept && start.elapsed() < ttl * 3 {
        tokio::time::sleep(ttl / 4).await;
        let now = Instant::now();
        match within(store.keep_alive(lease.id)).await {
            Ok(granted) => assert_eq!(granted, ttl),
            Err(error) => {
                assert_eq!(error, Error::LeaseNotFound { lease: lease.id });
                assert!(renewed.elapsed() >= ttl, "it ended {:?} after it was kept alive", renewed.elapsed());
                kept = false;
            }
        }
        if kept {
            renewed = now;
            let found = get(&store, "/l/a").await;
            assert!(found.is_some() || renewed.elapsed() >= ttl, "the key vanished while its lease lived");
        }
    }
    let mut watch = store.watch("/l/", revision(&store).await);
    while get(&store, "/l/a").await.is_some() {
        within(watch.next()).await.expect("watch");
    }
    assert!(renewed.elapsed() >= ttl, "the lease ended {:?} after it was kept alive", renewed.elapsed());
}

pub(super) async fn revoking_removes_keys_at_once(store: Arc<dyn Store>) {
    let lease = grant(&store, LONG).await;
    put_with(&store, &["/l/a", "/l/b"], lease).await;
    let before = revision(&store).await;
    assert_eq!(within(store.revoke(lease.id, cause())).await.expect("revoke"), before.next());
    assert_eq!(keys(&store, "/l/").await, [] as [&str; 0]);
    let gone = Error::LeaseNotFound { lease: lease.id };
    assert_eq!(refused(within(store.revoke(lease.id, cause())).await), gone);
    assert_eq!(refused(within(store.keep_alive(lease.id)).await), gone);
    let empty = grant(&store, LONG).await;
    assert_ne!(empty.id, lease.id, "names of leases are not used again");
    assert_eq!(within(store.revoke(empty.id, cause())).await.expect("revoke"), before.next());
}

pub(super) async fn a_put_moves_the_key_to_its_lease(store: Arc<dyn Store>) {
    let (first, second) = (grant(&store, LONG).await, grant(&store, LONG).await);
    put_with(&store, &["/l/moved", "/l/freed", "/l/again", "/l/kept"], first).await;
    put_with(&store, &["/l/moved"], second).await;
    put(&store, "/l/freed", "x").await;
    within(store.delete("/l/again", cause())).await.expect("delete");
    put(&store, "/l/again", "x").await;
    assert_eq!(get(&store, "/l/moved").await.expect("there").lease, Some(second.id));
    assert_eq!(get(&store, "/l/freed").await.expect("there").lease, None);
    within(store.revoke(first.id, cause())).await.expect("revoke");
    assert_eq!(keys(&store, "/l/").await, ["/l/again", "/l/freed", "/l/moved"]);
    within(store.revoke(second.id, cause())).await.expect("revoke");
    assert_eq!(keys(&store, "/l/").await, ["/l/again", "/l/freed"]);
}

pub(super) async fn unknown_leases_are_refused(store: Arc<dyn Store>) {
    let lease = LeaseId(999_999);
    let before = revision(&store).await;
    let bad = Op::Put { key: "/l/a".to_owned(), value: value("x"), lease: Some(lease) };
    let txn = Txn::new(cause()).put("/l/b", "x").then(bad);
    assert_eq!(refused(within(store.txn(txn)).await), Error::LeaseNotFound { lease });
    assert_eq!(refused(within(store.keep_alive(lease)).await), Error::LeaseNotFound { lease });
    assert_eq!(revision(&store).await, before);
    assert_eq!(get(&store, "/l/b").await, None, "all or nothing");
    for ttl in [Duration::ZERO, Duration::MAX] {
        let error = refused(within(store.grant(ttl)).await);
        assert!(matches!(error, Error::InvalidTtl { .. }), "{error}");
    }
}

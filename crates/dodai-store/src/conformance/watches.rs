//! Watches: order, no gap, no duplicate, from any start.

use std::sync::Arc;

use super::{cause, events, get, next, put, refused, revision, value, within};
use crate::{Error, Event, Op, Revision, Store, Txn};

/// More than any back end keeps at hand, so that a watcher has to go back to history.
const MANY: usize = 6000;

fn told(events: &[Event]) -> Vec<(&str, Option<&[u8]>)> {
    events.iter().map(|event| (event.key(), value_of(event))).collect()
}

fn value_of(event: &Event) -> Option<&[u8]> {
    match event {
        Event::Put { kv, .. } => Some(kv.value.as_ref()),
        Event::Delete { .. } => None,
    }
}

pub(super) async fn history_then_present_without_gap(store: Arc<dyn Store>) {
    let start = revision(&store).await;
    put(&store, "/w/a", "1").await;
    let from = put(&store, "/w/a", "2").await;
    let before = get(&store, "/w/a").await;
    within(store.delete("/w/a", cause())).await.expect("delete");
    let mut all = store.watch("/w/", start.next());
    let mut some = store.watch("/w/", from);
    let one = [("/w/a", Some(b"1".as_slice()))];
    let rest = [("/w/a", Some(b"2".as_slice())), ("/w/a", None)];
    assert_eq!(told(&events(&mut all, 3).await), [one.as_slice(), &rest].concat());
    let seen = events(&mut some, 2).await;
    assert_eq!(told(&seen), rest, "inclusive of its start");
    assert_eq!(seen[1].prev(), before.as_ref(), "a delete tells what was removed");
    assert_eq!(seen[1].revision(), from.next());
    let live = put(&store, "/w/b", "3").await;
    for watch in [&mut all, &mut some] {
        let seen = events(watch, 1).await;
        assert_eq!((told(&seen), seen[0].revision()), (vec![("/w/b", Some(b"3".as_slice()))], live));
        assert_eq!(seen[0].prev(), None);
    }
    put(&store, "/w/b", "4").await;
    let seen = events(&mut all, 1).await;
    assert_eq!(seen[0].prev().map(|kv| (kv.mod_revision, kv.value.clone())), Some((live, value("3"))));
}

pub(super) async fn a_watch_sees_only_its_prefix(store: Arc<dyn Store>) {
    let start = revision(&store).await;
    let mut narrow = store.watch("/w/", start.next());
    let mut wide = store.watch("", start.next());
    for key in ["/v", "/w", "/w/1", "/w0", "/x", "/w/2"] {
        put(&store, key, "x").await;
    }
    let keys = |events: Vec<Event>| events.iter().map(|event| event.key().to_owned()).collect::<Vec<_>>();
    assert_eq!(keys(events(&mut narrow, 2).await), ["/w/1", "/w/2"]);
    assert_eq!(keys(events(&mut wide, 6).await), ["/v", "/w", "/w/1", "/w0", "/x", "/w/2"]);
}

pub(super) async fn a_watch_tells_that_it_is_caught_up(store: Arc<dyn Store>) {
    let last = put(&store, "/w/a", "1").await;
    let mut watch = store.watch("/w/", last.next());
    let batch = next(&mut watch).await;
    assert_eq!((batch.events.len(), batch.revision, batch.caught_up), (0, last, true));
    let written = put(&store, "/w/a", "2").await;
    let batch = next(&mut watch).await;
    assert_eq!((batch.events.len(), batch.revision, batch.caught_up), (1, written, true));
    let mut elsewhere = store.watch("/other/", last);
    let batch = next(&mut elsewhere).await;
    assert_eq!((batch.events.len(), batch.revision, batch.caught_up), (0, written, true));
}

pub(super) async fn a_watch_may_start_in_the_future(store: Arc<dyn Store>) {
    let now = put(&store, "/w/a", "1").await;
    let mut watch = store.watch("/w/", Revision(now.0 + 3));
    let batch = next(&mut watch).await;
    assert_eq!((batch.events.len(), batch.revision, batch.caught_up), (0, now, true));
    for text in ["2", "3", "4", "5"] {
        put(&store, "/w/a", text).await;
    }
    let seen = events(&mut watch, 2).await;
    assert_eq!(told(&seen), [("/w/a", Some(b"4".as_slice())), ("/w/a", Some(b"5"))]);
}

pub(super) async fn progress_is_told_when_other_keys_change(store: Arc<dyn Store>) {
    let mut watch = store.watch("/w/", revision(&store).await.next());
    next(&mut watch).await;
    let other = put(&store, "/other", "1").await;
    let batch = next(&mut watch).await;
    assert_eq!((batch.events.len(), batch.revision, batch.caught_up), (0, other, true));
}

pub(super) async fn a_slow_watcher_misses_nothing(store: Arc<dyn Store>) {
    let start = revision(&store).await;
    let mut slow = store.watch("/w/", start.next());
    let mut reference = Vec::new();
    let mut sent = 0;
    while sent < MANY {
        let txn =
            (sent..sent + 100).fold(Txn::new(cause()), |txn, n| txn.put(format!("/w/{}", n % 1000), "x"));
        let revision = within(store.txn(txn)).await.expect("transaction").revision;
        reference.extend((sent..sent + 100).map(|n| (revision, format!("/w/{}", n % 1000))));
        sent += 100;
    }
    let seen = events(&mut slow, MANY).await;
    let seen: Vec<_> = seen.iter().map(|event| (event.revision(), event.key().to_owned())).collect();
    assert!(seen == reference, "events are missing, twice or out of order");
}

pub(super) async fn a_batch_never_splits_a_revision(store: Arc<dyn Store>) {
    const KEYS: usize = 1200;
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        let txn = chunk.iter().fold(Txn::new(cause()), |txn, n| txn.put(format!("/w/{n}"), "x"));
        within(store.txn(txn)).await.expect("transaction");
    }
    let start = revision(&store).await;
    let txn = Txn::new(cause()).then(Op::DeletePrefix { prefix: "/w/".to_owned() });
    within(store.txn(txn)).await.expect("transaction");
    put(&store, "/w/after", "x").await;
    let mut watch = store.watch("/w/", start.next());
    let first = next(&mut watch).await;
    let last = first.events.last().expect("there are events").revision();
    let whole = if last == start.next() { KEYS } else { KEYS + 1 };
    assert_eq!((first.events.len(), first.revision), (whole, last));
}

pub(super) async fn compacted_history_is_told(store: Arc<dyn Store>) {
    put(&store, "/w/a", "1").await;
    within(store.delete("/w/a", cause())).await.expect("delete");
    let deleted = revision(&store).await;
    within(store.compact(deleted)).await.expect("compact");
    let mut early = store.watch("/w/", deleted.previous());
    let expect = Error::Compacted { requested: deleted.previous(), compacted: deleted };
    assert_eq!(refused(within(early.next()).await), expect);
    assert_eq!(refused(within(early.next()).await), expect, "and it stays so");
    let mut exact = store.watch("/w/", deleted);
    assert_eq!(told(&events(&mut exact, 1).await), [("/w/a", None)], "the revision itself can be watched");
    let mut other = store.watch("/other/", deleted.previous());
    assert_eq!(refused(within(other.next()).await), expect, "whatever it watches");
}

pub(super) async fn a_dropped_future_loses_no_event(store: Arc<dyn Store>) {
    let start = revision(&store).await;
    let mut watch = store.watch("/w/", start.next());
    let mut seen = Vec::new();
    for n in 0..50 {
        put(&store, &format!("/w/{n:02}"), "x").await;
        // Polled once or a few times, then dropped, wherever it happens to be.
        for _ in 0..n % 3 {
            tokio::select! {
                biased;
                batch = watch.next() => seen.extend(batch.expect("watch").events),
                () = tokio::task::yield_now() => {}
            }
        }
    }
    seen.extend(events(&mut watch, 50 - seen.len()).await);
    let keys: Vec<_> = seen.iter().map(|event| event.key().to_owned()).collect();
    assert_eq!(keys, (0..50).map(|n| format!("/w/{n:02}")).collect::<Vec<_>>());
}

pub(super) async fn closing_ends_watches(store: Arc<dyn Store>) {
    let mut watch = store.watch("/w/", revision(&store).await.next());
    next(&mut watch).await;
    let ending = watch.next();
    let (error, ()) = within(async { tokio::join!(ending, store.close()) }).await;
    assert_eq!(refused(error), Error::Closed);
    assert_eq!(refused(within(watch.next()).await), Error::Closed);
    assert_eq!(refused(within(store.put("/w/a", value("1"), cause())).await), Error::Closed);
    assert_eq!(refused(within(store.get("/w/a")).await), Error::Closed);
    within(store.close()).await;
}

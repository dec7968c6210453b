//! What every back end has to do, as checks that panic with what they found. Each runs on a store of its
//! own, uses revisions only relative to where that store stands, and waits on tokio's clock, so that the
//! suite runs under paused time, and against a real server as well.

mod leases;
mod reads;
mod watches;
mod writes;

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{Batch, Cause, Event, KeyValue, Result, Revision, Store, Watch};

/// No single step takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the whole suite. `open` gives an empty store each time; `ttl` is a time to live that the back end
/// can grant exactly, as short as its clock allows.
pub async fn all<F, Opened>(open: F, ttl: Duration)
where
    F: Fn() -> Opened,
    Opened: Future<Output = Arc<dyn Store>>,
{
    writes::versions_and_revisions_count(open().await).await;
    writes::compares_decide_the_branch(open().await).await;
    writes::a_transaction_is_one_revision(open().await).await;
    writes::previous_values_are_told(open().await).await;
    writes::guarded_writes_conflict(open().await).await;
    writes::bad_requests_are_refused_and_change_nothing(open().await).await;
    writes::limits_are_exact(open().await).await;
    writes::racing_writers_lose_no_update(open().await).await;
    writes::changes_are_recorded(open().await).await;
    reads::pages_are_of_one_revision(open().await).await;
    reads::prefixes_end_where_they_should(open().await).await;
    reads::the_past_can_be_read(open().await).await;
    reads::compaction_drops_what_is_below(open().await).await;
    reads::the_change_log_is_paged_and_outlives_compaction(open().await).await;
    watches::history_then_present_without_gap(open().await).await;
    watches::a_watch_sees_only_its_prefix(open().await).await;
    watches::a_watch_tells_that_it_is_caught_up(open().await).await;
    watches::a_watch_may_start_in_the_future(open().await).await;
    watches::progress_is_told_when_other_keys_change(open().await).await;
    watches::a_slow_watcher_misses_nothing(open().await).await;
    watches::a_batch_never_splits_a_revision(open().await).await;
    watches::compacted_history_is_told(open().await).await;
    watches::a_dropped_future_loses_no_event(open().await).await;
    watches::closing_ends_watches(open().await).await;
    leases::keys_vanish_with_their_lease(open().await, ttl).await;
    leases::keeping_alive_keeps_keys(open().await, ttl).await;
    leases::revoking_removes_keys_at_once(open().await).await;
    leases::a_put_moves_the_key_to_its_lease(open().await).await;
    leases::unknown_leases_are_refused(open().await).await;
}

fn cause() -> Cause {
    Cause::new("suite", "conformance")
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("a step of the suite took longer than a minute")
}

async fn put(store: &Arc<dyn Store>, key: &str, text: &str) -> Revision {
    within(store.put(key, value(text), cause())).await.expect("put")
}

async fn get(store: &Arc<dyn Store>, key: &str) -> Option<KeyValue> {
    within(store.get(key)).await.expect("get").kv
}

async fn revision(store: &Arc<dyn Store>) -> Revision {
    within(store.status()).await.expect("status").revision
}

async fn keys(store: &Arc<dyn Store>, prefix: &str) -> Vec<String> {
    let listing = within(store.list(prefix)).await.expect("list");
    listing.items.into_iter().map(|kv| kv.key).collect()
}

async fn next(watch: &mut Watch) -> Batch {
    within(watch.next()).await.expect("watch")
}

/// Reads batches until `count` events have come; no more than that may come with them.
async fn events(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.extend(next(watch).await.events);
    }
    assert_eq!(seen.len(), count, "more events than expected: {seen:?}");
    seen
}

#[track_caller]
fn refused<T: Debug>(result: Result<T>) -> crate::Error {
    result.expect_err("this has to be refused")
}

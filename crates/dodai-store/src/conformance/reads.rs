//! Ranges, the past, compaction and the change log.

use std::sync::Arc;

use super::{cause, get, keys, put, refused, revision, value, within};
use crate::{Changes, Error, Op, Page, Range, Revision, Store, Txn};

async fn page(store: &Arc<dyn Store>, range: &Range) -> Page {
    within(store.range(range.clone())).await.expect("range")
}

fn texts(page: &Page) -> Vec<(&str, &[u8])> {
    page.items.iter().map(|kv| (kv.key.as_str(), kv.value.as_ref())).collect()
}

pub(super) async fn pages_are_of_one_revision(store: Arc<dyn Store>) {
    for key in ["/p/a", "/p/b", "/p/c", "/p/d", "/p/e", "/q"] {
        put(&store, key, "old").await;
    }
    let range = Range::prefix("/p/").limit(2);
    let first = page(&store, &range).await;
    assert_eq!(texts(&first), [("/p/a", b"old".as_slice()), ("/p/b", b"old")]);
    put(&store, "/p/bb", "new").await;
    put(&store, "/p/c", "new").await;
    within(store.delete("/p/d", cause())).await.expect("delete");
    let range = range.following(&first).expect("there is more");
    let second = page(&store, &range).await;
    assert_eq!(texts(&second), [("/p/c", b"old".as_slice()), ("/p/d", b"old")]);
    assert_eq!(second.revision, first.revision);
    let range = range.following(&second).expect("there is more");
    let third = page(&store, &range).await;
    assert_eq!(texts(&third), [("/p/e", b"old".as_slice())]);
    assert_eq!(range.following(&third), None, "the last page says so");
    let exact = page(&store, &Range::prefix("/q").limit(1)).await;
    assert_eq!((exact.items.len(), exact.more), (1, None), "a full last page is the last page");
    assert_eq!(keys(&store, "/p/").await, ["/p/a", "/p/b", "/p/bb", "/p/c", "/p/e"]);
}

pub(super) async fn prefixes_end_where_they_should(store: Arc<dyn Store>) {
    let all = ["/a", "/a/", "/a/b", "/a/\u{10FFFF}", "/a0", "/b", "/ä", "0"];
    for key in all {
        put(&store, key, "x").await;
    }
    assert_eq!(keys(&store, "").await, all, "in the order of their bytes");
    assert_eq!(keys(&store, "/a/").await, ["/a/", "/a/b", "/a/\u{10FFFF}"]);
    assert_eq!(keys(&store, "/a").await, ["/a", "/a/", "/a/b", "/a/\u{10FFFF}", "/a0"]);
    assert_eq!(keys(&store, "/a/\u{10FFFF}").await, ["/a/\u{10FFFF}"]);
    assert_eq!(keys(&store, "/A").await, [] as [&str; 0], "keys differ in case");
    let txn = Txn::new(cause()).then(Op::DeletePrefix { prefix: "/a/".to_owned() });
    within(store.txn(txn)).await.expect("transaction");
    assert_eq!(keys(&store, "").await, ["/a", "/a0", "/b", "/ä", "0"]);
}

pub(super) async fn the_past_can_be_read(store: Arc<dyn Store>) {
    let empty = revision(&store).await;
    let one = put(&store, "/a", "1").await;
    let two = put(&store, "/a", "2").await;
    within(store.delete("/a", cause())).await.expect("delete");
    let gone = revision(&store).await;
    let last = put(&store, "/b", "1").await;
    for (at, expect) in [(empty, None), (one, Some("1")), (two, Some("2")), (gone, None), (last, None)] {
        let found = page(&store, &Range::prefix("/a").at(at)).await;
        let expect: Vec<_> = expect.iter().map(|text| ("/a", text.as_bytes())).collect();
        assert_eq!((texts(&found), found.revision), (expect, at), "at {at}");
    }
    let past = page(&store, &Range::prefix("/a").at(two)).await.items.remove(0);
    assert_eq!((past.create_revision, past.mod_revision, past.version), (one, two, 2));
    let error = refused(within(store.range(Range::prefix("/a").at(last.next()))).await);
    assert_eq!(error, Error::FutureRevision { requested: last.next(), current: last });
}

pub(super) async fn compaction_drops_what_is_below(store: Arc<dyn Store>) {
    put(&store, "/old", "kept").await;
    let early = put(&store, "/a", "1").await;
    put(&store, "/b", "1").await;
    put(&store, "/gone", "1").await;
    within(store.delete("/gone", cause())).await.expect("delete");
    let middle = put(&store, "/a", "2").await;
    put(&store, "/b", "2").await;
    let late = put(&store, "/a", "3").await;
    assert_eq!(within(store.compact(middle)).await.expect("compact"), middle);
    assert_eq!(within(store.compact(early)).await.expect("compact"), middle, "history does not come back");
    let error = refused(within(store.range(Range::prefix("").at(early))).await);
    assert_eq!(error, Error::Compacted { requested: early, compacted: middle });
    let error = refused(within(store.range(Range::prefix("").at(middle.previous()))).await);
    assert_eq!(error, Error::Compacted { requested: middle.previous(), compacted: middle });
    let kept = page(&store, &Range::prefix("").at(middle)).await;
    assert_eq!(
        texts(&kept),
        [("/a", b"2".as_slice()), ("/b", b"1"), ("/old", b"kept")],
        "the revision itself stays"
    );
    let now = page(&store, &Range::prefix("")).await;
    assert_eq!(texts(&now), [("/a", b"3".as_slice()), ("/b", b"2"), ("/old", b"kept")]);
    let error = refused(within(store.compact(late.next())).await);
    assert_eq!(error, Error::FutureRevision { requested: late.next(), current: late });
    within(store.compact(late)).await.expect("compact");
    assert_eq!(get(&store, "/a").await.expect("alive").version, 3, "versions go on counting");
    assert_eq!(within(store.status()).await.expect("status").compacted, late);
    let written = put(&store, "/a", "4").await;
    assert_eq!(get(&store, "/a").await.expect("alive").mod_revision, written);
}

pub(super) async fn the_change_log_is_paged_and_outlives_compaction(store: Arc<dyn Store>) {
    let start = revision(&store).await;
    put(&store, "/a/1", "x").await;
    let txn = ["/a/2", "/a/3", "/b/1", "/a/4"].iter().fold(Txn::new(cause()), |txn, key| txn.put(*key, "x"));
    within(store.txn(txn)).await.expect("transaction");
    let last = put(&store, "/a/5", "x").await;
    within(store.compact(last)).await.expect("compact");
    let read = async |prefix: &str, after: Revision, limit| {
        let changes = Changes { prefix: prefix.to_owned(), after, limit };
        let found = within(store.changes(changes)).await.expect("changes");
        found.into_iter().map(|change| change.key).collect::<Vec<_>>()
    };
    assert_eq!(read("/a/", start, 10).await, ["/a/1", "/a/2", "/a/3", "/a/4", "/a/5"]);
    assert_eq!(read("/a/", start, 2).await, ["/a/1"], "the next revision does not fit");
    let second = Revision(start.0 + 1);
    assert_eq!(read("/a/", second, 2).await, ["/a/2", "/a/3", "/a/4"], "a revision is not split");
    assert_eq!(read("/b/", start, 2).await, ["/b/1"]);
    assert_eq!(read("", last, 2).await, [] as [&str; 0]);
    let again = within(store.put("/a/1", value("y"), cause())).await.expect("put");
    assert_eq!(read("", last, 2).await, ["/a/1"]);
    put(&store, "/a/11", "x").await;
    let of = async |limit| {
        let found = within(store.changes_of("/a/1", limit)).await.expect("changes");
        found.into_iter().map(|change| (change.key, change.revision)).collect::<Vec<_>>()
    };
    let both = [("/a/1".to_owned(), again), ("/a/1".to_owned(), start.next())];
    assert_eq!(of(10).await, both, "newest first, and not those of a key that begins alike");
    assert_eq!(of(1).await, both[..1]);
}

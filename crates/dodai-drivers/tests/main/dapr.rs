//! The tables of `state.sqlite` are Dapr's: rows written by it are read, and ours are as it would write them.

use std::time::{Duration, SystemTime};

use dodai_capability::clock::Clock;
use dodai_capability::component::Context;
use dodai_capability::metadata::Ttl;
use dodai_capability::state::{Get, Set, Store};
use rusqlite::Connection;

use crate::sqlite;

/// The layout as Dapr's component makes it.
const LAYOUT: &str = "
    CREATE TABLE metadata (key text NOT NULL PRIMARY KEY, value text NOT NULL);
    INSERT INTO metadata VALUES ('migrations', '1');
    CREATE TABLE state (
        key TEXT NOT NULL PRIMARY KEY,
        value TEXT NOT NULL,
        is_binary BOOLEAN NOT NULL,
        etag TEXT NOT NULL,
        expiration_time TIMESTAMP DEFAULT NULL,
        update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
    );
    INSERT INTO state VALUES
        ('shop||json', '{\"a\":1}', 0, 'e1', NULL, '2026-01-01 00:00:00'),
        ('shop||bytes', 'AP8=', 1, 'e2', '2026-06-01 00:00:10', '2026-01-01 00:00:00'),
        ('shop||over', 'x', 0, 'e3', '2026-06-01 00:00:00', '2026-01-01 00:00:00');";

/// 2026-06-01 00:00:00 UTC.
const NOW: Duration = Duration::from_secs(1_780_272_000);

async fn found(store: &dyn Store, key: &str) -> Option<(Vec<u8>, String, Option<SystemTime>)> {
    let item = store.get(&Get::new(key)).await.expect("read")?;
    Some((item.value.to_vec(), item.etag.expect("an etag").to_string(), item.expires))
}

#[tokio::test]
async fn rows_are_exchanged() {
    let dir = tempfile::tempdir().expect("a folder");
    let other = Connection::open(dir.path().join("shop.db")).expect("opens");
    other.execute_batch(LAYOUT).expect("made");
    let now = SystemTime::UNIX_EPOCH + NOW;
    let context = Context { clock: Clock::manual(now), ..Context::default() };
    let component = sqlite(dir.path(), "state.sqlite", &context).await;
    let store = component.serves.state.clone().expect("state");

    assert_eq!(found(&*store, "shop||json").await, Some((br#"{"a":1}"#.to_vec(), "e1".into(), None)));
    let bytes = Some((b"\x00\xff".to_vec(), "e2".into(), Some(now + Duration::from_secs(10))));
    assert_eq!(found(&*store, "shop||bytes").await, bytes);
    assert_eq!(found(&*store, "shop||over").await, None);
    let set = Set {
        etag: Some("e1".into()),
        ttl: Ttl::After(Duration::from_secs(5)),
        ..Set::new("shop||json", "{}")
    };
    store.set(set).await.expect("its etag admits the write");
    store.set(Set::new("shop||raw", &b"\xfe"[..])).await.expect("written");

    let row = |key: &str| -> (String, bool, Option<String>) {
        let sql = "SELECT value, is_binary, expiration_time FROM state WHERE key = ?1";
        other.query_row(sql, [key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("a row")
    };
    assert_eq!(row("shop||json"), ("{}".into(), false, Some("2026-06-01 00:00:05.000".into())));
    assert_eq!(row("shop||raw"), ("/g==".into(), true, None));
}

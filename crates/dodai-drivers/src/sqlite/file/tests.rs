use super::*;

async fn access(dir: &Path) -> Access {
    let tuning = Tuning { busy_timeout: Duration::from_millis(50), wal: true };
    let file = Files::default().open(&Place::File(dir.join("t.db")), tuning).await.expect("opens");
    Access::new(file, Duration::from_secs(10))
}

fn run(access: &Access, sql: &'static str) -> Answer<'static, Result<usize, Fault>> {
    access.write("a statement", Durability::Process, move |connection| Ok(connection.execute(sql, ())?))
}

async fn count(access: &Access) -> i64 {
    let count = |connection: &Connection| -> Result<i64, Failure<Fault>> {
        Ok(connection.query_row("SELECT count(*) FROM t", (), |row| row.get(0))?)
    };
    access.read("counting", count).await.expect("counts")
}

#[tokio::test]
async fn one_failing_write_of_a_batch_takes_nothing_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let access = access(dir.path()).await;
    run(&access, "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)").await.unwrap();
    let refused = access.write::<(), Fault, _>("half a write", Durability::Process, |connection| {
        connection.execute("INSERT INTO t VALUES (9, 'undone')", ())?;
        Err(Failure::Refused(Fault::new(Kind::Invalid, "no")))
    });
    let panics = access.write::<(), Fault, _>("a broken write", Durability::Process, |connection| {
        connection.execute("INSERT INTO t VALUES (8, 'undone')", ())?;
        panic!("on purpose")
    });
    let (a, b, c, d, e) = tokio::join!(
        run(&access, "INSERT INTO t VALUES (1, 'one')"),
        refused,
        run(&access, "INSERT INTO t VALUES (1, 'again')"),
        panics,
        run(&access, "INSERT INTO t VALUES (2, 'two')"),
    );
    assert_eq!((a.unwrap(), e.unwrap()), (1, 1));
    assert_eq!(b.expect_err("refused").to_string(), "no");
    assert!(c.expect_err("a duplicate").to_string().contains("a statement failed"));
    assert!(d.is_err());
    assert_eq!(count(&access).await, 2);
}

#[tokio::test]
async fn a_full_disk_is_told_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let access = access(dir.path()).await;
    run(&access, "CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)").await.unwrap();
    run(&access, "INSERT INTO t VALUES (1, 'kept')").await.unwrap();
    let shrink = |connection: &Connection| -> Result<(), Failure<Fault>> {
        Ok(connection.pragma_update_and_check(None, "max_page_count", 4, |_| Ok(()))?)
    };
    access.write("limiting the file", Durability::Process, shrink).await.unwrap();
    let fault = run(&access, "INSERT INTO t VALUES (2, zeroblob(100000))").await.expect_err("full");
    assert_eq!(fault.kind(), Kind::Full, "{fault}");
    assert!(fault.to_string().contains("make room"), "{fault}");
    assert_eq!(count(&access).await, 1);
    run(&access, "INSERT INTO t VALUES (3, 'fits')").await.expect("small writes still fit");
}

#[tokio::test]
async fn a_file_that_another_process_writes_is_busy_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let access = access(dir.path()).await;
    run(&access, "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)").await.unwrap();
    let other = Connection::open(dir.path().join("t.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (7, 'other')").unwrap();
    let fault = run(&access, "INSERT INTO t VALUES (1, 'one')").await.expect_err("busy");
    assert_eq!(fault.kind(), Kind::Busy, "{fault}");
    assert_eq!(count(&access).await, 0);
    other.execute_batch("COMMIT").unwrap();
    run(&access, "INSERT INTO t VALUES (1, 'one')").await.unwrap();
    assert_eq!(count(&access).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_can_open_a_new_file_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let tuning = Tuning { busy_timeout: Duration::from_secs(10), wal: true };
    // Each with files of its own, as processes have.
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let place = Place::File(dir.path().join("t.db"));
        all.spawn(async move { Files::default().open(&place, tuning).await.map(drop) });
    }
    while let Some(one) = all.join_next().await {
        one.unwrap().expect("opens");
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("not-a-database");
    std::fs::write(&path, "plain text, long enough to be taken for a header of a database file").unwrap();
    let tuning = Tuning { busy_timeout: Duration::from_millis(50), wal: true };
    let fault = Files::default().open(&Place::File(path), tuning).await.err().expect("refused");
    assert_eq!(fault.kind(), Kind::Corrupt, "{fault}");
    assert!(fault.to_string().contains("not-a-database"), "{fault}");
}

#[tokio::test]
async fn components_share_an_open_file() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::default();
    let tuning = Tuning { busy_timeout: Duration::from_millis(50), wal: true };
    let one = files.open(&Place::File(dir.path().join("a/../t.db")), tuning).await;
    let two = files.open(&Place::File(dir.path().join("t.db")), tuning).await.expect("opens");
    drop(one);
    let three = files.open(&Place::File(dir.path().join("t.db")), tuning).await.expect("opens");
    assert!(Arc::ptr_eq(&two, &three));
}

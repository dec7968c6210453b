//! The far side of the crash and disk-full tests, and a small measurement:
//!
//! - `store_writer write STORE` puts `/w/N/M` from eight tasks, and prints each key once it is answered;
//! - `store_writer fill STORE BALLAST` writes until the disk is full, reads, removes BALLAST, writes again;
//! - `store_writer bench STORE SECONDS` measures puts per second, from one writer and from 64.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dodai_core::task::{Kind, Tasks};
use dodai_store::{Cause, Error, Options, SqliteStore, Store};

const VALUE_BYTES: usize = 1024;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let tasks = Tasks::new();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["write", path] => write(open(path, &tasks).await?, &tasks).await,
        ["fill", path, ballast] => fill(open(path, &tasks).await?, Path::new(ballast)).await,
        ["bench", path, seconds] => {
            let seconds = seconds.parse().map_or(Duration::from_secs(3), Duration::from_secs);
            bench(open(path, &tasks).await?, seconds).await
        }
        _ => panic!("usage: store_writer write STORE | fill STORE BALLAST | bench STORE SECONDS"),
    }
}

async fn open(path: &str, tasks: &Tasks) -> Result<Arc<dyn Store>, Error> {
    Ok(Arc::new(SqliteStore::open(path, Options::default(), tasks).await?))
}

fn cause() -> Cause {
    Cause::new("store_writer", "")
}

/// Runs until it is killed.
async fn write(store: Arc<dyn Store>, tasks: &Tasks) -> Result<(), Error> {
    // Goes on where an earlier run was killed, so that no key is written twice.
    let start = store.status().await?.revision.0;
    for writer in 0..8 {
        let store = store.clone();
        tasks.spawn(Kind::Loop, async move {
            for n in 0.. {
                let key = format!("/w/{writer}/{start}-{n}");
                let value = Bytes::from(key.clone().into_bytes());
                store.put(&key, value, cause()).await.expect("put");
                // One line in one system call: standard output is a pipe that outlives us.
                let mut out = std::io::stdout().lock();
                out.write_all(format!("{key}\n").as_bytes()).expect("print");
                out.flush().expect("print");
            }
        });
    }
    tasks.closing().await;
    Ok(())
}

/// Panics if anything is not as it should be.
async fn fill(store: Arc<dyn Store>, ballast: &Path) -> Result<(), Error> {
    let value = Bytes::from(vec![7; 16 * 1024]);
    let mut written = 0;
    let error = loop {
        match store.put(&format!("/fill/{written}"), value.clone(), cause()).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full { .. }), "expected to hear that the disk is full, not: {error}");
    println!("full after {written}: {error}");
    let listing = store.list("/fill/").await?;
    assert_eq!(listing.items.len(), written, "reads go on, and see what was answered");
    std::fs::remove_file(ballast).expect("remove the ballast");
    store.put("/fill/after", value, cause()).await?;
    store.close().await;
    println!("recovered");
    Ok(())
}

async fn bench(store: Arc<dyn Store>, duration: Duration) -> Result<(), Error> {
    for writers in [1, 64] {
        let count = Arc::new(AtomicU64::new(0));
        let tasks = Tasks::new();
        let start = Instant::now();
        for writer in 0..writers {
            let (store, count) = (store.clone(), count.clone());
            tasks.spawn(Kind::Loop, async move {
                let key = format!("/bench/{writer}");
                while start.elapsed() < duration {
                    store.put(&key, Bytes::from(vec![7; VALUE_BYTES]), cause()).await.expect("put");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        tasks.drain(duration + Duration::from_secs(60)).await;
        let rate = count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
        println!("{writers} writers: {rate:.0} puts/s of {VALUE_BYTES} bytes");
    }
    store.close().await;
    Ok(())
}

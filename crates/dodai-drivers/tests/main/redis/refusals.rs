//! What the server refuses, for one key or for all, and what replicas lack.

use std::sync::Arc;
use std::time::Duration;

use dodai_capability::component::{Context, Spec};
use dodai_capability::state::{Consistency, Get, Set, Store};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::{open, opened, spec};
use crate::registry;
use crate::servers::Redis;

fn run(redis: &Redis, words: &[&str]) {
    redis::cmd(words[0]).arg(&words[1..]).exec(&mut redis.admin()).expect("done");
}

async fn state(redis: &Redis) -> Arc<dyn Store> {
    open("state.redis", redis).await.serves.state.clone().expect("state")
}

fn strong(key: &str) -> Set {
    Set { consistency: Consistency::Strong, ..Set::new(key, "v") }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_request_that_is_at_fault_is_called_so() {
    let redis = Redis::start();
    let store = state(&redis).await;
    let check = async |setting: &str, value: &str, back: &str, code: &str, word: &str| {
        run(&redis, &["CONFIG", "SET", setting, value]);
        let error = store.set(Set::new("k", "v")).await.expect_err("refused");
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(word), "{error}");
        for outcome in store.set_many(vec![Set::new("k", "v"), Set::new("l", "v")]).await {
            assert_eq!(outcome.expect_err("refused").code(), code);
        }
        run(&redis, &["CONFIG", "SET", setting, back]);
        store.set(Set::new("k", "v")).await.expect("it takes writes again");
    };
    check("maxmemory", "1", "0", "full", "OOM").await;
    check("min-replicas-to-write", "1", "0", "unavailable", "NOREPLICAS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_of_many_has_its_own_outcome() {
    let redis = Redis::start();
    run(&redis, &["ACL", "SETUSER", "shop", "on", ">sesame", "~ok-*", "+@all"]);
    let login = spec("state.redis", &redis).with("redisUsername", "shop").with("redisPassword", "sesame");
    let store = opened(login).await.serves.state.clone().expect("state");
    let outcomes = store.set_many(["ok-1", "no", "ok-2"].map(|key| Set::new(key, "v")).into()).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    let error = outcomes[1].as_ref().expect_err("another's key");
    assert!(error.code() == "unavailable" && error.to_string().contains("NOPERM"), "{error}");
    let found = store.get_many(&["ok-1", "no", "ok-2"].map(Get::new), 0).await;
    assert!(found[0].is_ok() && found[1].is_err() && found[2].is_ok(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strong_writes_wait_for_replicas_and_keep_nobody_else_waiting() {
    let redis = Redis::start();
    let mut replica = Redis::with(&["--replicaof", "127.0.0.1", &redis.port.to_string()]);
    run(&redis, &["SET", "before", "v"]);
    run(&redis, &["WAIT", "1", "20000"]);
    let store = state(&redis).await;
    store.set(strong("one")).await.expect("replicated");
    let outcomes = store.set_many(vec![strong("two"), strong("three")]).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    replica.down();
    for outcome in store.set_many(vec![strong("two"), strong("three")]).await {
        let error = outcome.expect_err("the replica is gone");
        assert!(error.code() == "timeout" && error.to_string().contains("0 of 1 replicas"), "{error}");
    }
    let write = store.set(strong("one"));
    tokio::pin!(write);
    let reads = async {
        for _ in 0..20 {
            store.get(&Get::new("one")).await.expect("read");
            tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>()).await.ok();
        }
    };
    tokio::select! {
        biased;
        outcome = &mut write => panic!("reads waited for it: {outcome:?}"),
        () = reads => {}
    }
    assert_eq!(write.await.expect_err("the replica is gone").code(), "timeout");
    store.set(Set::new("one", "weak")).await.expect("others go on");
}

/// Speaks for a Redis of version 6.0 on one connection.
async fn serve_as_old(stream: tokio::net::TcpStream) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let words: usize = line.trim().trim_start_matches('*').parse().expect("a command");
        let mut command = String::new();
        for _ in 0..words * 2 {
            stream.read_line(&mut command).await.expect("a word");
        }
        let info = "redis_version:6.0.16\r\n";
        let answer = if command.contains("\r\nINFO\r\n") {
            format!("${}\r\n{info}\r\n", info.len())
        } else {
            "+OK\r\n".to_owned()
        };
        stream.write_all(answer.as_bytes()).await.expect("told");
        line.clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_is_refused() {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = socket.local_addr().expect("bound").port();
    let registry = registry(std::path::Path::new("."), &[]);
    for kind in ["state.redis", "pubsub.redis", "configuration.redis", "lock.redis"] {
        let spec = Spec::new("aged", kind).with("redisHost", format!("127.0.0.1:{port}"));
        let context = Context::default();
        let serve = async {
            let (stream, _) = socket.accept().await.expect("a connection");
            serve_as_old(stream).await;
            std::future::pending().await
        };
        let error = tokio::select! {
            opened = registry.open(spec, &context) => opened.expect_err("too old").to_string(),
            () = serve => unreachable!("it serves on"),
        };
        assert!(error.contains("`aged`") && error.contains("6.0.16, 6.2 or later"), "{kind}: {error}");
    }
}

//! The listener of the API, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use dodai_admin::server::{self, MAX_CONNECTIONS};
use dodai_core::task::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Much shorter than what a client may take to send a head.
const SOON: Duration = Duration::from_secs(5);

async fn connect(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    tokio::time::timeout(SOON, read).await.expect("an answer soon").unwrap();
    text
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, tasks) = (listener.local_addr().unwrap(), Tasks::new());
    let (asked, may_answer) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let slow = {
        let (asked, may_answer) = (asked.clone(), may_answer.clone());
        get(async move || {
            asked.add_permits(1);
            let _permit = may_answer.acquire().await.unwrap();
            "slow"
        })
    };
    let router = Router::new().route("/slow", slow).route("/quick", get(async || "quick"));
    server::serve(listener, router, &tasks);
    let mut busy = connect(address, "GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let _permit = asked.acquire().await.unwrap();
    let mut silent = Vec::new();
    for number in 0..MAX_CONNECTIONS {
        // Some say nothing, some begin and stop.
        silent.push(connect(address, if number % 2 == 0 { "" } else { "GET /quick HT" }).await);
    }
    for _ in 0..4 {
        let mut client =
            connect(address, "GET /quick HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(rest(&mut client).await.ends_with("\r\n\r\nquick"));
    }
    may_answer.add_permits(1);
    assert!(rest(&mut busy).await.ends_with("\r\n\r\nslow"), "an answer under way is not cut");
    drop(silent);
    assert!(tasks.drain(SOON).await.is_empty());
}

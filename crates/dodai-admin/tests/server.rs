//! The listener of the API, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use dodai_admin::server::{self, MAX_CONNECTIONS, MAX_STREAMS};
use dodai_core::task::Tasks;
use futures_util::StreamExt as _;
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

#[tokio::test]
async fn live_streams_leave_seats_for_others() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, tasks) = (listener.local_addr().unwrap(), Tasks::new());
    let live = get(async || {
        let first = futures_util::stream::once(async { Ok::<_, std::convert::Infallible>(": begins\n\n") });
        let body = Body::from_stream(first.chain(futures_util::stream::pending()));
        ([("content-type", "text/event-stream")], body)
    });
    let router = Router::new().route("/live", live).route("/quick", get(async || "quick"));
    server::serve(listener, router, &tasks);
    let ask = async |path: &str| {
        let text = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        connect(address, &text).await
    };
    let mut open = Vec::new();
    for _ in 0..MAX_STREAMS {
        let mut stream = ask("/live").await;
        let mut head = [0; 15];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        open.push(stream);
    }
    for _ in 0..MAX_CONNECTIONS {
        let told = rest(&mut ask("/live").await).await;
        assert!(told.starts_with("HTTP/1.1 503") && told.contains("too_many_streams"), "{told}");
    }
    assert!(rest(&mut ask("/quick").await).await.ends_with("\r\n\r\nquick"));
    // One that ends makes room.
    drop(open.pop());
    let again = async {
        loop {
            let mut stream = ask("/live").await;
            let mut head = [0; 15];
            stream.read_exact(&mut head).await.unwrap();
            if &head == b"HTTP/1.1 200 OK" {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, again).await.expect("room soon");
    drop(open);
    assert!(tasks.drain(SOON).await.is_empty());
}

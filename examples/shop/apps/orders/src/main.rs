//! The orders app: carts, checkout, receipts.
//!
//! An ordinary HTTP service. It knows one address, that of the runtime beside it, and asks there for state, secrets,
//! configuration, other apps and event delivery. It stops on SIGTERM when the requests under way are answered.

mod cart;
mod order;
mod reply;
mod runtime;
mod shop;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use runtime::Runtime;
use shop::Shop;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// How long requests under way may take after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let settings = Settings::from_environment()?;
    let listener = TcpListener::bind(settings.listen).await?;
    println!("orders listens on {}", listener.local_addr()?);
    let runtime = Runtime::new(settings.runtime_port, settings.api_token);
    let shop = Rc::new(Shop { runtime, revision: settings.revision });
    tokio::task::LocalSet::new().run_until(serve(listener, shop)).await
}

async fn serve(listener: TcpListener, shop: Rc<Shop>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let Ok((stream, _peer)) = accepted else {
            // Out of descriptors, most likely: give the connections at work time to end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let shop = Rc::clone(&shop);
        let service = service_fn(move |request| {
            let shop = Rc::clone(&shop);
            async move { Ok::<_, Infallible>(shop.answer(request).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(60));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        connections.spawn_local(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection ended early: {error}");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        eprintln!("some requests took longer than {} s and were cut", GRACE.as_secs());
    }
    Ok(())
}

struct Settings {
    listen: SocketAddr,
    runtime_port: u16,
    api_token: Option<String>,
    revision: String,
}

impl Settings {
    /// What whoever started this process said: `PORT`, `DAPR_HTTP_PORT`, `DAPR_API_TOKEN`, `DODAI_REVISION`.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the entry point; nothing else reads the environment"
    )]
    fn from_environment() -> io::Result<Settings> {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let port = |name: &str, default: u16| match text(name) {
            None => Ok(default),
            Some(value) => value.parse::<u16>().map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidInput, format!("{name}={value} is not a port: {error}"))
            }),
        };
        Ok(Settings {
            listen: ([127, 0, 0, 1], port("PORT", 9201)?).into(),
            runtime_port: port("DAPR_HTTP_PORT", 3500)?,
            api_token: text("DAPR_API_TOKEN"),
            revision: text("DODAI_REVISION").unwrap_or_else(|| "unknown".into()),
        })
    }
}

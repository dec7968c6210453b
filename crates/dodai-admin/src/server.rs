//! The API on a listener: HTTP/1.1, bounded connections, an orderly end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use dodai_core::task::{Kind, Tasks};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// The most connections at once; more wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 256;
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after the machine refused a connection (out of file descriptors).
const RETRY: Duration = Duration::from_millis(100);

/// Serves until `tasks` close, then lets requests under way finish.
pub fn serve(listener: TcpListener, router: Router, tasks: &Tasks) {
    let accepting = accept(listener, router, tasks.clone());
    tasks.spawn(Kind::Api, accepting);
}

async fn accept(listener: TcpListener, router: Router, tasks: Tasks) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            // Both are cancel safe.
            accepted = listener.accept() => accepted,
            () = tasks.closing() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, router.clone(), tasks.clone());
                tasks.spawn(Kind::Api, async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection of the management API");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, tasks: Tasks) {
    let _not_vital = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        // The connection is polled on after the signal; nothing is lost.
        ended = connection.as_mut() => ended,
        () = tasks.closing() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the management API ended badly");
    }
}

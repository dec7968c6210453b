//! The API on a listener: HTTP/1.1, bounded connections, an orderly end.
//!
//! When all seats are taken, whoever has asked for nothing the longest leaves: silence keeps nobody out, and an
//! answer under way is never cut for it. Answers without end have so many seats and no more, so that there are always
//! some for whoever asks whether all is well.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::{IntoResponse, Response};
use dodai_core::seldom::Seldom;
use dodai_core::task::{Kind, Tasks};
use http::StatusCode;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

use crate::feed;
use crate::refusal::Refusal;
use crate::seats::{Answer, Seat, Seats};

/// The most connections at once.
pub const MAX_CONNECTIONS: usize = 256;
/// The most answers without end at once; one more is 503.
pub const MAX_STREAMS: usize = 192;
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that leaves may take to send what it still has.
const PARTING: Duration = Duration::from_millis(250);
/// How long to wait after the machine refused a connection (out of file descriptors).
const RETRY: Duration = Duration::from_millis(100);

/// Serves until `tasks` close, then lets requests under way finish.
pub fn serve(listener: TcpListener, router: Router, tasks: &Tasks) {
    let accepting = accept(listener, router, tasks.clone());
    tasks.spawn(Kind::Api, accepting);
}

async fn accept(listener: TcpListener, router: Router, tasks: Tasks) {
    let seats = Arc::new(Seats::new(MAX_CONNECTIONS, MAX_STREAMS));
    let warnings = Seldom::default();
    loop {
        let accepted = tokio::select! {
            // Both are cancel safe.
            accepted = listener.accept() => accepted,
            () = tasks.closing() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let seat = tokio::select! {
                    // Both only wait.
                    seat = seats.take() => seat,
                    () = tasks.closing() => return,
                };
                tasks.spawn(Kind::Api, connection(stream, router.clone(), seat, tasks.clone()));
            }
            Err(error) => {
                if let Some(times) = warnings.count("", Instant::now()) {
                    tracing::warn!(times, %error, "cannot take a connection of the management API");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn too_many() -> Response {
    let message = format!("{MAX_STREAMS} live streams are open on this listener, which is the most");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", message)
        .remedy("end some: pages of the console, and commands that follow (logs -f, events, tap)")
        .into_response()
}

async fn connection(stream: TcpStream, router: Router, seat: Seat, tasks: Tasks) {
    let _not_vital = stream.set_nodelay(true);
    let seat = Arc::new(seat);
    let router = TowerToHyperService::new(router);
    let answers = service_fn(|request: Request<Incoming>| {
        let (busy, answer) = (seat.clone().answering(), router.call(request));
        async move {
            let answer = answer.await?;
            let busy = if feed::is_stream(&answer) { busy.for_long() } else { Ok(busy) };
            Ok::<_, Infallible>(match busy {
                Ok(busy) => answer.map(|body| Answer::new(body, busy)),
                Err(busy) => too_many().map(|body| Answer::new(body, busy)),
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answers);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        // The connection is polled on after either signal; nothing is lost.
        ended = connection.as_mut() => ended,
        () = seat.is_wanted() => {
            connection.as_mut().graceful_shutdown();
            loop {
                match tokio::time::timeout(PARTING, connection.as_mut()).await {
                    Ok(ended) => break ended,
                    Err(_late) if seat.is_silent() => return,
                    // A request came just before.
                    Err(_late) => {}
                }
            }
        }
        () = tasks.closing() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the management API ended badly");
    }
}

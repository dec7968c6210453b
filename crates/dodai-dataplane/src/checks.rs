//! Asking endpoints whether they are well, for services that want it.
//!
//! The sweep of every thread looks for endpoints that are due; an atomic lets one thread ask each. A service that
//! nobody has called for a while is left in peace, and what was known of its endpoints stays. Of instances on other bases
//! it is asked whether their base can be reached; how they are is known there, and what is not ready leaves the snapshot.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context};
use dodai_core::failure::{Failure, Kind};
use dodai_core::snapshot::{HealthCheck, Protocol, Question};
use dodai_core::task;
use dodai_core::trace::Span;
use tokio::time::Instant;

use crate::limits::MAX_CHECKS;
use crate::message;
use crate::place::{Endpoint, Place, nanos};
use crate::reach::{self, Reach, dial};
use crate::service::Service;
use crate::worker::Worker;

/// The most of an answer that is read, so that its connection can be kept.
const READ: usize = 64 * 1024;
/// `SERVING` of gRPC's health protocol.
const SERVING: u8 = 1;

/// Starts what is due at `now`.
pub fn sweep(worker: &Rc<Worker>, now: Instant) {
    let table = worker.shared.table.load();
    for service in table.services() {
        let Some(check) = &service.spec.health.check else { continue };
        let now = nanos(now);
        if !service.judge.was_called_within(check.idle_after, now) {
            continue;
        }
        for endpoint in service.endpoints() {
            let can_be_asked = endpoint.is_open();
            // Beyond the most at once the rest waits for a later sweep.
            if can_be_asked && worker.checks.get() < MAX_CHECKS && endpoint.standing.check_is_due(now, check)
            {
                begin(worker, service.clone(), endpoint.clone());
            }
        }
    }
}

fn begin(worker: &Rc<Worker>, service: Arc<Service>, endpoint: Arc<Endpoint>) {
    let under_way = UnderWay::new(worker);
    let worker_too = worker.clone();
    worker.tasks.spawn_local(task::Kind::Call, async move {
        let _under_way = under_way;
        let worker = worker_too;
        let Some(check) = &service.spec.health.check else { return };
        let answer = tokio::select! {
            // An answer is worth nothing to a drain.
            () = worker.tasks.closing() => return,
            answer = tokio::time::timeout(check.timeout, ask(&worker, &service, &endpoint, check)) => answer,
        };
        let why = match answer {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure.to_string()),
            Err(_) => Some(format!("no answer within {:?}", check.timeout)),
        };
        if endpoint.standing.checked(why.is_none(), check, nanos(Instant::now())) {
            let (service, endpoint) = (&*service.label, &*endpoint.label);
            match why {
                None => tracing::info!(service, endpoint, "an endpoint is well again"),
                Some(why) => tracing::warn!(service, endpoint, why, "an endpoint is not well"),
            }
        }
    });
}

/// Asks once; fine is well.
async fn ask(
    worker: &Rc<Worker>,
    service: &Service,
    endpoint: &Arc<Endpoint>,
    check: &HealthCheck,
) -> Result<(), Failure> {
    let reach = reach::of(endpoint, service, &Caller::Base, &worker.shared)?;
    if let (Place::Mesh { .. }, Reach::Http1(target) | Reach::Http2(target)) = (&endpoint.place, &reach) {
        return dial(worker, target).await.map(drop);
    }
    match (&check.asks, reach) {
        // A module is in this process: whether it works is known without asking.
        (_, Reach::Serve(..)) => Ok(()),
        (Question::Tcp, Reach::Http1(target) | Reach::Http2(target)) => dial(worker, &target).await.map(drop),
        (Question::Http { path, host, statuses }, reach) => {
            let host = host.as_deref().unwrap_or(match &endpoint.place {
                Place::Address(address, ..) => address,
                Place::Local(_) | Place::Mesh { .. } => service.spec.id.owner.name.as_str(),
            });
            let reply =
                send(worker, service, reach, http::Request::get(uri(host, path)?), Bytes::new()).await?;
            let status = reply.head.status.as_u16();
            let _read = reply.body.collect(READ).await;
            if (statuses.0..=statuses.1).contains(&status) {
                Ok(())
            } else {
                Err(bad(format!("it answered {status}")))
            }
        }
        (Question::Grpc { service: asked }, Reach::Http1(target) | Reach::Http2(target)) => {
            let name = service.spec.id.owner.name.as_str();
            let request = http::Request::post(uri(name, "/grpc.health.v1.Health/Check")?)
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            let reach = Reach::Http2(reach::Target { protocol: Protocol::Grpc, ..target });
            let reply = send(worker, service, reach, request, question(asked)).await?;
            if reply.head.status != http::StatusCode::OK {
                return Err(bad(format!("it answered {}", reply.head.status.as_u16())));
            }
            let body = reply.body.collect(READ).await?;
            if is_serving(&body) { Ok(()) } else { Err(bad("it says that it does not serve".to_owned())) }
        }
    }
}

fn bad(text: String) -> Failure {
    Failure::new(Kind::Protocol, text)
}

fn uri(host: &str, path: &str) -> Result<http::Uri, Failure> {
    let uri = http::Uri::builder().scheme("http").authority(host).path_and_query(path).build();
    uri.map_err(|error| bad(format!("`{host}` and `{path}` are no URL to ask: {error}")))
}

async fn send(
    worker: &Rc<Worker>,
    service: &Service,
    reach: Reach,
    request: http::request::Builder,
    body: Bytes,
) -> Result<dodai_core::call::Reply, Failure> {
    let request = request.header("user-agent", "dodai-health").body(());
    let (head, ()) = request.map_err(|error| bad(error.to_string()))?.into_parts();
    let body = if body.is_empty() { Body::empty() } else { Body::full(body) };
    let context = Context::new(Caller::Base, Span::root(false));
    message::carry(worker, reach, Call { head, body, context }, &service.spec.breaker).await
}

/// `HealthCheckRequest` with its frame: field 1 is the service.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    frame.into()
}

/// Whether a framed `HealthCheckResponse` says so: field 1 is the status. Nothing else is in that message.
fn is_serving(frame: &[u8]) -> bool {
    let message = frame.get(5..).unwrap_or_default();
    frame.first() == Some(&0) && message == [0x08, SERVING]
}

struct UnderWay(Rc<Worker>);

impl UnderWay {
    fn new(worker: &Rc<Worker>) -> UnderWay {
        worker.checks.set(worker.checks.get() + 1);
        UnderWay(worker.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.checks.set(self.0.checks.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_health_protocol_is_spoken() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(200));
        assert_eq!(&long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
        for (frame, expect) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], true),
            (&[0, 0, 0, 0, 2, 8, 2], false),
            (&[0, 0, 0, 0, 0], false),
            (&[1, 0, 0, 0, 2, 8, 1], false),
            (&[], false),
        ] {
            assert_eq!(is_serving(frame), expect, "{frame:?}");
        }
    }
}

//! The Dapr gRPC API, on the ports of the HTTP API.
//!
//! tonic reads and writes messages; calls come in and leave as those of the data plane. Calls of a service that is
//! not ours go to the app that their metadata name. Always holds: what Dapr's service has and this one does not is
//! UNIMPLEMENTED with a reason.

mod bindings;
mod configuration;
mod health;
mod invoke;
mod jobs;
mod metadata;
mod pubsub;
mod reflection;
mod service;
mod state;
mod status;
mod subscribe;
mod unserved;

pub(super) use invoke::passed;
pub(crate) use state::options as state_options;

use std::convert::Infallible;

use dodai_core::body::Body;
use dodai_core::call::{Call, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_proto::apps::dapr::proto::runtime::v1::dapr_server::DaprServer;
use dodai_proto::apps::grpc::health::v1::health_server::HealthServer;
use dodai_proto::apps::grpc::reflection::v1::server_reflection_server::ServerReflectionServer;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use tonic::{Code, Status};

use super::Api;
use super::refusal::Refusal;
use service::Service;

const MEDIA_TYPE: &[u8] = b"application/grpc";

const DAPR: &str = "dapr.proto.runtime.v1.Dapr";
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
/// The older name of [`REFLECTION`], with the same messages.
const OLD_REFLECTION: &str = "grpc.reflection.v1alpha.ServerReflection";

/// What is served here.
const SERVICES: [&str; 3] = [DAPR, HEALTH, REFLECTION];

/// Whether a call is one of gRPC: by its media type, and not to a path of the HTTP API.
pub(super) fn is_meant(head: &Parts) -> bool {
    let kind = head.headers.get(CONTENT_TYPE).map_or(&[][..], |kind| kind.as_bytes());
    let is_grpc = kind.strip_prefix(MEDIA_TYPE).is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]));
    is_grpc && !head.uri.path().starts_with("/v1.0")
}

impl Api {
    /// Answers one call of the gRPC API.
    pub(super) async fn over_grpc(&self, mut call: Call) -> Result<Reply, Failure> {
        let path = call.head.uri.path().to_owned();
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        let target = invoke::target(&call.head.headers);
        // Our own health only: that of another app is a call like any other.
        let is_probe = service == HEALTH && target.is_none();
        if !is_probe && !self.admits(&call.head.headers) {
            let message = "the api token is missing or wrong; send it as `dapr-api-token` in the metadata";
            return Ok(refused(&status::plain(Code::Unauthenticated, "DODAI_TOKEN_INVALID", message)));
        }
        match service {
            DAPR => match unserved::api(method) {
                Some(api) => Ok(refused(&status::status(Refusal::not_served(api)))),
                None => {
                    let most = self.shared.settings.max_body;
                    let server = DaprServer::new(Service(self.clone())).max_decoding_message_size(most);
                    Ok(served(server, call).await)
                }
            },
            HEALTH if target.is_none() => {
                Ok(served(HealthServer::new(health::Health(self.clone())), call).await)
            }
            REFLECTION | OLD_REFLECTION if target.is_none() => {
                let uri = Uri::builder().path_and_query(format!("/{REFLECTION}/{method}")).build();
                call.head.uri = uri.unwrap_or(call.head.uri);
                Ok(served(ServerReflectionServer::new(reflection::Reflection), call).await)
            }
            _ => self.proxy(target, call).await,
        }
    }
}

/// Gives a call to one of tonic's servers.
async fn served<S>(mut server: S, call: Call) -> Reply
where
    S: tonic::codegen::Service<Request<Body>, Response = Response<tonic::body::Body>, Error = Infallible>,
{
    let Call { head, body, context } = call;
    let path = head.uri.path().to_owned();
    let mut request = Request::from_parts(head, body);
    request.extensions_mut().insert(context);
    let response = match server.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (mut head, body) = response.into_parts();
    status::complete(&mut head.headers, &path);
    let body = body.map_err(|status| Failure::new(Kind::Internal, status.to_string()));
    Reply { head, body: Body::boxed(body) }
}

/// An answer that is an error alone.
fn refused(status: &Status) -> Reply {
    let (head, ()) = status.clone().into_http::<()>().into_parts();
    Reply { head, body: Body::empty() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_of_grpc_is_told_by_its_media_type() {
        for (kind, path, expect) in [
            ("application/grpc", "/a.B/C", true),
            ("application/grpc+proto", "/a.B/C", true),
            ("application/grpc;x", "/a.B/C", true),
            ("application/grpc-web", "/a.B/C", false),
            ("application/json", "/a.B/C", false),
            ("application/grpc", "/v1.0/invoke/a/method/b", false),
        ] {
            let head = Request::post(path).header("content-type", kind).body(()).expect("a request");
            assert_eq!(is_meant(&head.into_parts().0), expect, "{kind} {path}");
        }
    }
}

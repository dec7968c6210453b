//! A call in an instance of WASI 0.3: a task of the guest, its streams, and what it goes on doing after it
//! has answered.
//!
//! One call at a time runs in an instance, as with 0.2: then memory, CPU time and traps are the call's own.

use std::convert::Infallible;
use std::future::poll_fn;

use dodai_core::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::p3::Request as GuestRequest;
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error as HttpError, WasiBody, WasiHttpView};

use crate::egress::wasi_error;
use crate::guest::Guest;

/// How the guest's side of a call is told of its response, and learns that the body was taken.
pub(crate) struct Told {
    pub(crate) response: oneshot::Sender<Result<Response<WasiBody>, ErrorCode>>,
    /// Closes when nobody reads the body any more.
    pub(crate) taken: oneshot::Receiver<Infallible>,
}

/// Runs the guest until it has answered, its body was taken, and it has nothing more to do.
pub(crate) async fn call(
    store: &mut Store<Guest>,
    service: &Service,
    request: Request<Body>,
    told: Told,
) -> wasmtime::Result<()> {
    let request = entering(store.data().plan.name(), request)?;
    store
        .run_concurrent(async |accessor| {
            // What the guest says about reading the request is of no use to anybody.
            let request = accessor
                .with(|mut access| GuestRequest::from_http(access.data_mut().http().hooks, request).0);
            let response = match service.handle(accessor, request).await? {
                Ok(response) => response,
                Err(code) => {
                    let _ = told.response.send(Err(code));
                    return Ok(());
                }
            };
            let (sent, is_sent) = oneshot::channel::<Result<(), HttpError>>();
            let is_sent = async move { is_sent.await.unwrap_or(Ok(())) };
            let response = accessor.with(|access| response.into_http(access, is_sent))?;
            // A caller that went away in this moment drops this future.
            let _ = told.response.send(Ok(response));
            let _closed = told.taken.await;
            let _ = sent.send(Ok(()));
            poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            Ok(())
        })
        .await?
}

/// The request as the guest sees it: scheme and authority are always there.
fn entering(name: &str, request: Request<Body>) -> wasmtime::Result<Request<WasiBody>> {
    let (mut head, body) = request.into_parts();
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    if uri.authority.is_none() {
        uri.authority = Some(match head.headers.get(http::header::HOST) {
            Some(host) => host.as_bytes().try_into()?,
            None => name.try_into()?,
        });
    }
    uri.scheme.get_or_insert(http::uri::Scheme::HTTP);
    uri.path_and_query.get_or_insert(http::uri::PathAndQuery::from_static("/"));
    head.uri = http::Uri::from_parts(uri)?;
    let body = body.map_err(|failure| wasi_error(&failure)).boxed_unsync();
    Ok(Request::from_parts(head, body))
}

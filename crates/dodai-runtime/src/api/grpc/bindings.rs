//! Output bindings over gRPC.

use dodai_capability::binding::{Request, Response};
use dodai_proto::apps::dapr::proto::runtime::v1::{InvokeBindingRequest, InvokeBindingResponse};
use tonic::metadata::MetadataMap;

use super::status::{Told, status};
use crate::api::Api;
use crate::api::bindings::{NotDone, as_headers};

/// Asks a binding. What the far side said beside a refusal is in the metadata of the error, as it is in the headers
/// over HTTP.
pub(super) async fn invoke(
    api: &Api,
    given: MetadataMap,
    asked: InvokeBindingRequest,
) -> Told<InvokeBindingResponse> {
    let InvokeBindingRequest { name, data, metadata, operation } = asked;
    match api.ask_binding(&name, given.as_ref(), Request { operation, data, metadata }).await {
        Ok(Response { data, metadata }) => Ok(tonic::Response::new(InvokeBindingResponse { data, metadata })),
        Err(NotDone { refusal, metadata }) => {
            let mut status = status(refusal);
            *status.metadata_mut() = MetadataMap::from_headers(as_headers(&metadata).collect());
            Err(status)
        }
    }
}

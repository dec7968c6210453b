//! Calls from the base to the services that an app serves over gRPC.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Ready, Poll};
use std::time::Duration;

use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Door, FAILURE_HEADER};
use dodai_core::failure::{Failure, Kind};
use dodai_core::id::AppId;
use dodai_core::trace::Span;
use dodai_proto::apps::dapr::proto::common::v1::{InvokeRequest, InvokeResponse};
use dodai_proto::apps::dapr::proto::runtime::v1::app_callback_alpha_client::AppCallbackAlphaClient;
use dodai_proto::apps::dapr::proto::runtime::v1::app_callback_client::AppCallbackClient;
use dodai_proto::apps::dapr::proto::runtime::v1::app_callback_health_check_client::AppCallbackHealthCheckClient;
use dodai_proto::apps::dapr::proto::runtime::v1::{
    BindingEventRequest, BindingEventResponse, JobEventRequest, JobEventResponse, ListInputBindingsResponse,
    ListTopicSubscriptionsResponse, TopicEventBulkRequest, TopicEventBulkResponse, TopicEventRequest,
    TopicEventResponse,
};
use http::header::{HOST, HeaderValue};
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tonic::codegen::Service;
use tonic::{Code, Status};

use super::{Callbacks, MAX_ANSWER};

/// The services of one app, called through the door.
#[derive(Clone)]
struct Channel {
    door: Arc<dyn Door>,
    app: AppId,
    context: Context,
}

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Body>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Ready<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let Channel { door, app, context } = self.clone();
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            // The long form can only mean a name of the mesh.
            let authority = format!("{}.{}.svc.cluster.local", app.name, app.namespace);
            let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority.as_str());
            let uri = uri.path_and_query(head.uri.path()).build();
            let bad = |error: &dyn std::fmt::Display| {
                Failure::new(Kind::Internal, format!("{app} cannot be addressed: {error}"))
            };
            head.uri = uri.map_err(|error| bad(&error))?;
            head.headers.insert(HOST, HeaderValue::try_from(authority).map_err(|error| bad(&error))?);
            let body = body.map_err(|status| Failure::new(Kind::Internal, status.to_string()));
            let reply = door.enter(Call { head, body: Body::boxed(body), context }).await?;
            Ok(Response::from_parts(reply.head, reply.body))
        })
    }
}

/// So many bytes an answer may have beside its data.
const ENVELOPE: usize = 64 << 10;

/// What is no word of the app: a base or sidecar on the way gave it in its place, or its answer is too long to be read.
fn on_the_way(status: &Status) -> Option<Failure> {
    let code = status.metadata().get(FAILURE_HEADER).and_then(|code| code.to_str().ok());
    if let Some(code) = code {
        let kind = Kind::ALL.iter().copied().find(|kind| kind.code() == code)?;
        let is_its = i32::from(kind.grpc_status()) == i32::from(status.code());
        return is_its.then(|| Failure::new(kind, status.message().to_owned()));
    }
    // In tonic's words, which has no type for it.
    (status.code() == Code::OutOfRange
        && status.message().starts_with("Error, decoded message length too large"))
    .then(|| Failure::new(Kind::BodyTooLarge, format!("the app's answer is too long: {}", status.message())))
}

/// Why an app did not answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The call did not get through.
    Failed(Failure),
    /// The app said so.
    Refused(Status),
}

impl From<Status> for Unanswered {
    fn from(status: Status) -> Unanswered {
        match status.source().and_then(|source| source.downcast_ref::<Failure>()) {
            Some(failure) => Unanswered::Failed(failure.clone()),
            None => Unanswered::Refused(status),
        }
    }
}

impl Unanswered {
    /// Why, in words.
    pub fn told(self) -> String {
        match self {
            Unanswered::Failed(failure) => failure.detail.to_string(),
            Unanswered::Refused(status) => {
                format!("the app answered {:?}: {}", status.code(), status.message())
            }
        }
    }

    /// Whether the app does not have what it was asked for.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Unanswered::Refused(status) if status.code() == Code::Unimplemented)
    }
}

impl Callbacks {
    fn channel(&self, app: &AppId, timeout: Duration, span: Span) -> Channel {
        let mut context = Context::new(Caller::Base, span);
        context.deadline = Some((Instant::now() + timeout).into_std());
        Channel { door: self.door.clone(), app: app.clone(), context }
    }

    async fn within<T>(
        timeout: Duration,
        app: &AppId,
        answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Unanswered> {
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Unanswered::Failed(Failure::new(
                Kind::Timeout,
                format!("{app} did not answer within {timeout:?}"),
            ))),
        }
    }

    /// Asks an app for its subscriptions.
    pub async fn list_subscriptions(
        &self,
        app: &AppId,
    ) -> Result<ListTopicSubscriptionsResponse, Unanswered> {
        let channel = self.channel(app, self.timeout, Span::root(false));
        let mut client = AppCallbackClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        Callbacks::within(self.timeout, app, client.list_topic_subscriptions(())).await
    }

    /// Asks an app which input bindings it reads.
    pub async fn list_bindings(
        &self,
        app: &AppId,
        timeout: Duration,
    ) -> Result<ListInputBindingsResponse, Unanswered> {
        let channel = self.channel(app, timeout, Span::root(false));
        let mut client = AppCallbackClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        Callbacks::within(timeout, app, client.list_input_bindings(())).await
    }

    /// Brings an event of an input binding.
    pub async fn on_binding_event(
        &self,
        app: &AppId,
        timeout: Duration,
        span: Span,
        event: BindingEventRequest,
    ) -> Result<BindingEventResponse, Unanswered> {
        let channel = self.channel(app, timeout, span);
        let mut client = AppCallbackClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        Callbacks::within(timeout, app, client.on_binding_event(event)).await
    }

    /// Brings an event.
    pub async fn on_topic_event(
        &self,
        app: &AppId,
        timeout: Duration,
        span: Span,
        event: TopicEventRequest,
    ) -> Result<TopicEventResponse, Unanswered> {
        let mut client = AppCallbackClient::new(self.channel(app, timeout, span));
        Callbacks::within(timeout, app, client.on_topic_event(event)).await
    }

    /// Brings many events in one call; older apps know it by another name.
    pub async fn on_bulk_topic_event(
        &self,
        app: &AppId,
        timeout: Duration,
        span: Span,
        events: TopicEventBulkRequest,
    ) -> Result<TopicEventBulkResponse, Unanswered> {
        let channel = self.channel(app, timeout, span);
        let mut client = AppCallbackClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let answer = Callbacks::within(timeout, app, client.on_bulk_topic_event(events.clone())).await;
        if !answer.as_ref().is_err_and(Unanswered::is_unimplemented) {
            return answer;
        }
        let mut older = AppCallbackAlphaClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        #[expect(deprecated, reason = "the name that older apps know")]
        let answer = older.on_bulk_topic_event_alpha1(events);
        Callbacks::within(timeout, app, answer).await
    }

    /// Brings a job; older apps know it by another name.
    pub async fn on_job_event(
        &self,
        app: &AppId,
        timeout: Duration,
        span: Span,
        event: JobEventRequest,
    ) -> Result<JobEventResponse, Unanswered> {
        let channel = self.channel(app, timeout, span);
        let mut client = AppCallbackClient::new(channel.clone());
        let answer = Callbacks::within(timeout, app, client.on_job_event(event.clone())).await;
        if !answer.as_ref().is_err_and(Unanswered::is_unimplemented) {
            return answer;
        }
        let mut older = AppCallbackAlphaClient::new(channel);
        #[expect(deprecated, reason = "the name that older apps know")]
        let answer = older.on_job_event_alpha1(event);
        Callbacks::within(timeout, app, answer).await
    }

    /// Calls an app as another one, which `context` names.
    pub async fn on_invoke(
        &self,
        app: &AppId,
        context: Context,
        request: tonic::Request<InvokeRequest>,
        most: usize,
    ) -> Result<tonic::Response<InvokeResponse>, Unanswered> {
        let channel = Channel { door: self.door.clone(), app: app.clone(), context };
        // Room for what stands around the data.
        let mut client = AppCallbackClient::new(channel).max_decoding_message_size(most + ENVELOPE);
        client.on_invoke(request).await.map_err(|status| match on_the_way(&status) {
            Some(failure) => Unanswered::Failed(failure),
            None => Unanswered::from(status),
        })
    }

    /// Whether an app says that it is well.
    pub async fn is_well(&self, app: &AppId, timeout: Duration) -> bool {
        let channel = self.channel(app, timeout, Span::root(false));
        let mut client = AppCallbackHealthCheckClient::new(channel);
        Callbacks::within(timeout, app, client.health_check(())).await.is_ok()
    }
}

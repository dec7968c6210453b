//! Subscriptions that an app reads as a stream.

use std::pin::Pin;

use dodai_proto::apps::dapr::proto::runtime::v1::subscribe_topic_events_request_alpha1::SubscribeTopicEventsRequestType as Asked;
use dodai_proto::apps::dapr::proto::runtime::v1::subscribe_topic_events_response_alpha1::SubscribeTopicEventsResponseType as Answer;
use dodai_proto::apps::dapr::proto::runtime::v1::{
    SubscribeTopicEventsRequestAlpha1, SubscribeTopicEventsRequestInitialAlpha1,
    SubscribeTopicEventsRequestProcessedAlpha1, SubscribeTopicEventsResponseAlpha1,
    SubscribeTopicEventsResponseInitialAlpha1,
};
use futures_util::stream::{self, Stream, StreamExt as _};
use tonic::{Code, Response, Status, Streaming};

use super::status::{Told, plain, status};
use crate::api::Api;
use crate::delivery::stream::{Events, Streamed};

/// What the app reads: a word that it is subscribed, then events.
pub(super) type Brought =
    Pin<Box<dyn Stream<Item = Result<SubscribeTopicEventsResponseAlpha1, Status>> + Send>>;

fn answer(answer: Answer) -> SubscribeTopicEventsResponseAlpha1 {
    SubscribeTopicEventsResponseAlpha1 { subscribe_topic_events_response_type: Some(answer) }
}

/// Subscribes to what the first message says, and serves the stream until the app or this base ends it. The first
/// answer comes when the subscription has been joined.
pub(super) async fn subscribe(
    api: &Api,
    mut asked: Streaming<SubscribeTopicEventsRequestAlpha1>,
) -> Told<Brought> {
    let first = asked.message().await?.and_then(|first| first.subscribe_topic_events_request_type);
    let Some(Asked::InitialRequest(wish)) = first else {
        return Err(wrong("the first message must be the initial request"));
    };
    let SubscribeTopicEventsRequestInitialAlpha1 { pubsub_name, topic, metadata, dead_letter_topic } = wish;
    let wish = Streamed { pubsub: pubsub_name, topic, dead_letter: dead_letter_topic, metadata };
    let events = api.stream_topic(wish).await.map_err(status)?;
    let welcome = answer(Answer::InitialResponse(SubscribeTopicEventsResponseInitialAlpha1 {}));
    let brought = stream::unfold(Some((events, asked)), next);
    Ok(Response::new(stream::iter([Ok(welcome)]).chain(brought).boxed()))
}

fn wrong(message: &str) -> Status {
    plain(Code::InvalidArgument, "ERR_MALFORMED_REQUEST", message)
}

/// The two sides of a stream; none once it has ended.
type Sides = Option<(Events, Streaming<SubscribeTopicEventsRequestAlpha1>)>;

/// The next event; what the app says of earlier ones is taken meanwhile.
async fn next(sides: Sides) -> Option<(Result<SubscribeTopicEventsResponseAlpha1, Status>, Sides)> {
    let (mut events, mut asked) = sides?;
    loop {
        // Both branches are cancel safe: a message stays where it is until it is taken.
        let said = tokio::select! {
            event = events.events.recv() => {
                let Some(event) = event else {
                    let over = "the subscription has ended: this base closes, or the app has left it; subscribe again";
                    let over = plain(Code::Unavailable, "DODAI_SUBSCRIPTION_ENDED", over);
                    return Some((Err(over), None));
                };
                return Some((Ok(answer(Answer::EventMessage(event))), Some((events, asked))));
            }
            said = asked.message() => said,
        };
        match said {
            Ok(Some(said)) => match said.subscribe_topic_events_request_type {
                Some(Asked::EventProcessed(SubscribeTopicEventsRequestProcessedAlpha1 { id, status })) => {
                    events.answers.tell(&id, status.unwrap_or_default().status);
                }
                Some(Asked::InitialRequest(_)) | None => {
                    return Some((Err(wrong("the stream has its subscription already")), None));
                }
            },
            Ok(None) | Err(_) => return None,
        }
    }
}

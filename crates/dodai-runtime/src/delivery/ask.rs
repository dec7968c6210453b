//! Asks an app for its subscriptions whenever it has become ready.

use std::time::Duration;

use bytes::Bytes;
use dodai_core::failure::Kind;
use dodai_core::id::AppId;
use dodai_core::trace::Span;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};
use serde::de::IgnoredAny;
use tokio_util::sync::CancellationToken;

use super::{Deliveries, plan};
use crate::callback::{Ask, Unanswered};

/// Under this name stands what is wrong with an app's answer.
pub(super) const PROBLEM: &str = "GET /dapr/subscribe";

/// What is asked of an app that speaks gRPC.
pub(super) const GRPC_QUESTION: &str = "ListTopicSubscriptions";

/// How long the first question waits for an app that has just become ready.
const SETTLING: Duration = Duration::from_millis(100);

/// After so many questions that did not arrive, nobody waits for the answer: the app may speak another protocol.
const SPEAKS_NOT: u32 = 3;

/// For an app that knows nothing of all this. A sidecar has no document of its app.
pub(super) fn remedy(deliveries: &Deliveries) -> &'static str {
    if deliveries.0.settings.sidecar_of.is_some() {
        "if it subscribes to nothing by itself, start the sidecar with `--disable-init-endpoints subscribe`"
    } else {
        "if it uses no Dapr API, write `dapr: {enabled: false}` in the spec of its App"
    }
}

/// Asks until there is an answer, the app is no longer ready, or the base closes.
pub(super) async fn run(deliveries: Deliveries, app: AppId, stop: CancellationToken) {
    let tasks = deliveries.0.tasks.clone();
    // Cancel safe: an answer is taken over at once or not at all.
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = tasks.closing() => {}
        () = ask(&deliveries, &app) => {}
    }
}

async fn ask(deliveries: &Deliveries, app: &AppId) {
    let mut failures = 0;
    loop {
        if deliveries.speaks_grpc(app) {
            match ask_over_grpc(deliveries, app).await {
                Ok(()) => return,
                Err(Unasked::Absent) if failures == 0 => tokio::time::sleep(SETTLING).await,
                Err(unasked) => {
                    let answered = matches!(unasked, Unasked::Refused(_)) || failures >= SPEAKS_NOT;
                    deliveries.set_problem(app, unasked.told(), answered);
                    tokio::time::sleep(deliveries.0.settings.delivery_backoff.pause(failures + 1)).await;
                }
            }
            failures += 1;
            continue;
        }
        let question = Ask {
            method: Method::GET,
            path: "/dapr/subscribe",
            content_type: "application/json",
            headers: HeaderMap::new(),
            body: Bytes::new(),
            span: Span::root(false),
        };
        let answer = deliveries.0.callbacks.call_whole(app, question).await;
        let answered = answer.is_ok();
        let problem = match answer.map(|(head, body)| (head.status, head.headers, body)) {
            Ok((StatusCode::OK, headers, body)) => match plan::told(&body) {
                Ok((plans, problems)) => {
                    let problem = Some(problems.join("; ")).filter(|text| !text.is_empty());
                    return deliveries.set_told(app, plans, problem);
                }
                // It would be the same if it were asked again.
                Err(problem) if is_meant(&headers, &body) => {
                    return deliveries.set_problem(app, format!("{problem}; {}", remedy(deliveries)), true);
                }
                Err(_) => return deliveries.set_silent(app),
            },
            Ok((StatusCode::NOT_FOUND | StatusCode::NO_CONTENT | StatusCode::METHOD_NOT_ALLOWED, ..)) => {
                return deliveries.set_told(app, Vec::new(), None);
            }
            Ok((status, ..)) => {
                let (status, remedy) = (status.as_u16(), remedy(deliveries));
                format!("the app answered {status} to GET /dapr/subscribe; {remedy}")
            }
            Err(failure) if failure.kind == Kind::NoEndpoint && failures == 0 => {
                // It has just become ready; the word takes a moment to reach the data plane's table.
                tokio::time::sleep(SETTLING).await;
                failures += 1;
                continue;
            }
            Err(failure) => format!("the app could not be asked for its subscriptions: {}", failure.detail),
        };
        failures += 1;
        deliveries.set_problem(app, problem, answered || failures >= SPEAKS_NOT);
        tokio::time::sleep(deliveries.0.settings.delivery_backoff.pause(failures)).await;
    }
}

/// Why an app did not say which subscriptions it has.
enum Unasked {
    /// Nobody is there.
    Absent,
    /// It could not be asked.
    Wrong(String),
    /// It did not want to answer.
    Refused(String),
}

impl Unasked {
    fn told(self) -> String {
        match self {
            Unasked::Absent => "the app has no ready instance to ask for its subscriptions".to_owned(),
            Unasked::Wrong(problem) | Unasked::Refused(problem) => problem,
        }
    }
}

/// Asks once.
async fn ask_over_grpc(deliveries: &Deliveries, app: &AppId) -> Result<(), Unasked> {
    match deliveries.0.callbacks.list_subscriptions(app).await {
        Ok(answer) => {
            let (plans, problems) = plan::listed(answer.subscriptions);
            let problem = Some(problems.join("; ")).filter(|text| !text.is_empty());
            deliveries.set_told(app, plans, problem);
            Ok(())
        }
        Err(unanswered) if unanswered.is_unimplemented() => {
            deliveries.set_told(app, Vec::new(), None);
            Ok(())
        }
        Err(Unanswered::Failed(failure)) if failure.kind == Kind::NoEndpoint => Err(Unasked::Absent),
        Err(Unanswered::Failed(failure)) => Err(Unasked::Wrong(format!(
            "the app could not be asked for its subscriptions: {}",
            failure.detail
        ))),
        Err(Unanswered::Refused(status)) => {
            let (code, message) = (status.code(), status.message());
            let remedy = remedy(deliveries);
            let problem = format!("the app answered {code:?} to {GRPC_QUESTION}: {message}; {remedy}");
            Err(Unasked::Refused(problem))
        }
    }
}

/// Whether an answer that is no list of subscriptions was meant as one: an app that answers every path, say with
/// its start page, has said nothing.
fn is_meant(headers: &HeaderMap, body: &[u8]) -> bool {
    let body = body.trim_ascii_start();
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let says_json = essence == "application/json" || essence.ends_with("+json");
    body.starts_with(b"[") || (says_json && serde_json::from_slice::<IgnoredAny>(body).is_ok())
}

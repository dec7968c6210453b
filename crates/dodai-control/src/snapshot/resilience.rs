//! How calls are tried, and tested, from documents to the words of the data path.

use dodai_api::{self as api, RetryCondition};
use dodai_core::snapshot::{Concurrency, Fault, FaultAbort, Filter, Hedge, Priority, RetryOn};

use super::rule::value;

/// What a call is made again for; `None` if nothing is said.
pub(super) fn retry_on(conditions: &[RetryCondition]) -> Option<Vec<RetryOn>> {
    let one = |condition: &RetryCondition| match condition {
        RetryCondition::ConnectFailure => RetryOn::ConnectFailure,
        RetryCondition::RefusedStream => RetryOn::RefusedStream,
        RetryCondition::Reset => RetryOn::Reset,
        RetryCondition::Timeout => RetryOn::Timeout,
        RetryCondition::GatewayError => RetryOn::GatewayError,
        RetryCondition::ServerError => RetryOn::ServerError,
        RetryCondition::RetriableStatusCodes => RetryOn::Statuses,
        RetryCondition::Cancelled => RetryOn::Grpc(1),
        RetryCondition::DeadlineExceeded => RetryOn::Grpc(4),
        RetryCondition::ResourceExhausted => RetryOn::Grpc(8),
        RetryCondition::Internal => RetryOn::Grpc(13),
        RetryCondition::Unavailable => RetryOn::Grpc(14),
    };
    (!conditions.is_empty()).then(|| conditions.iter().map(one).collect())
}

pub(super) fn hedge(wanted: &api::Hedge) -> Hedge {
    let delay = wanted.delay.map(api::TimeSpan::get);
    Hedge { delay, attempts: wanted.attempts, any_method: wanted.any_method }
}

pub(super) fn concurrency(wanted: &api::Concurrency) -> Concurrency {
    let priority_header = wanted.priority_header.as_ref().map(|header| header.to_ascii_lowercase());
    Concurrency { limit: wanted.limit, adaptive: wanted.adaptive, priority_header }
}

pub(super) fn priority(wanted: api::Priority) -> Priority {
    match wanted {
        api::Priority::Low => Priority::Low,
        api::Priority::Normal => Priority::Normal,
        api::Priority::High => Priority::High,
    }
}

/// Of 10,000 calls, how many.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
fn share(percent: f64) -> u16 {
    (percent.clamp(0.0, 100.0) * 100.0).round() as u16
}

pub(super) fn fault(fault: &api::Fault) -> Filter {
    let abort = fault.abort.as_ref().map(|abort| {
        let answer = match (abort.status, abort.grpc_status) {
            (None, Some(status)) => FaultAbort::Grpc(status),
            (status, _) => FaultAbort::Http(status.unwrap_or(503)),
        };
        (answer, share(abort.percent))
    });
    Filter::Fault(Fault {
        delay: fault.delay.as_ref().map(|delay| (delay.time.get(), share(delay.percent))),
        abort,
        reset: fault.reset_percent.map(share),
        throttle: fault.throttle.as_ref().map(|one| (one.bytes_per_second, share(one.percent))),
        headers: fault.headers.iter().map(value).collect(),
    })
}

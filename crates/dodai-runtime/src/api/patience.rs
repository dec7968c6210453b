//! How long an app's request to a component may take, and whether it is made again: what documents say of it.
//!
//! Only failures that may pass are tried again; one that the request itself is to blame for never.

use std::time::Duration;

use dodai_capability::fault::{Fault, Kind};
use dodai_capability::{configuration, pubsub, secrets, state};
use dodai_core::snapshot::Patience;

/// An error of a capability, as far as trying again is concerned.
pub(super) trait Passing: From<Fault> {
    /// Whether the same request may succeed later.
    fn may_pass(&self) -> bool;
}

macro_rules! passing {
    ($($block:ident: $($final:ident)*;)*) => {
        $(impl Passing for $block::Error {
            fn may_pass(&self) -> bool {
                match self {
                    $block::Error::Fault(fault) => fault.is_transient(),
                    $($block::Error::$final { .. } => false,)*
                }
            }
        })*
    };
}

passing! {
    state: EtagMismatch EtagMalformed TooManyOperations;
    pubsub: LeaseLost TopicFull;
    secrets: NotFound Refused;
    configuration: ;
}

/// Makes `request` of the component `name`, as often and as long as `patience` allows.
pub(super) async fn ask<R: Clone, T, E: Passing, F: Future<Output = Result<T, E>>>(
    patience: Option<&Patience>,
    name: &str,
    request: R,
    mut once: impl FnMut(R) -> F,
) -> Result<T, E> {
    let Some(patience) = patience.filter(|patience| **patience != Patience::default()) else {
        return once(request).await;
    };
    let mut retries = 0;
    loop {
        let error = match within(patience.timeout, name, once(request.clone())).await {
            Err(error) if error.may_pass() => error,
            done => return done,
        };
        let Some(retry) = patience.retry.as_ref().filter(|retry| retries < retry.attempts) else {
            return Err(error);
        };
        tokio::time::sleep(retry.pause(retries)).await;
        retries += 1;
    }
}

async fn within<T, E: From<Fault>>(
    timeout: Option<Duration>,
    name: &str,
    once: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let Some(timeout) = timeout else { return once.await };
    let late = |_| Fault::new(Kind::Timeout, format!("component `{name}` did not answer within {timeout:?}"));
    tokio::time::timeout(timeout, once).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_core::snapshot::RetryPolicy;
    use tokio::time::Instant;

    fn patience(timeout: Option<u64>, attempts: Option<u32>) -> Patience {
        let retry = attempts.map(|attempts| RetryPolicy {
            attempts,
            statuses: Vec::new(),
            on: None,
            backoff: Duration::from_secs(1),
            constant: true,
            max_backoff: None,
            budget_percent: 100,
            min_per_second: 100,
        });
        Patience { timeout: timeout.map(Duration::from_secs), retry }
    }

    /// How often a component that fails `failures` times is asked, whether it answers, and how long that takes.
    async fn asked(patience: &Patience, failures: u32, kind: Kind) -> (u32, bool, u64) {
        let (start, mut tries) = (Instant::now(), 0);
        let done: Result<(), state::Error> = ask(Some(patience), "db", (), |()| {
            tries += 1;
            let fails = tries <= failures;
            async move {
                // One that hangs says nothing by itself.
                if fails && kind == Kind::Timeout {
                    std::future::pending::<()>().await;
                }
                if fails { Err(Fault::new(kind, "test").into()) } else { Ok(()) }
            }
        })
        .await;
        (tries, done.is_ok(), start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_asked_again_as_often_as_allowed() {
        let thrice = patience(None, Some(3));
        assert_eq!(asked(&thrice, 2, Kind::Unavailable).await, (3, true, 2));
        assert_eq!(asked(&thrice, 9, Kind::Busy).await, (4, false, 3));
        assert_eq!(asked(&thrice, 9, Kind::Invalid).await, (1, false, 0));
        assert_eq!(asked(&patience(None, None), 9, Kind::Busy).await, (1, false, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn each_try_has_its_time() {
        assert_eq!(asked(&patience(Some(5), None), 1, Kind::Timeout).await, (1, false, 5));
        assert_eq!(asked(&patience(Some(5), Some(2)), 1, Kind::Timeout).await, (2, true, 6));
    }
}

//! How endpoints are picked and judged, in the words of the data path.

use std::time::Duration;

use dodai_api as api;
use dodai_core::snapshot::{
    Balance, FailurePercentage, HashKey, Health, HealthCheck, Outliers, Question, SameSite, Sticky,
    SuccessRate,
};

/// Fewer endpoints than this that are well, of a hundred, and all get calls again, unless something is said.
const PANIC: u32 = 50;

/// How an endpoint is picked, what keeps clients where they were, and what is near.
#[derive(Clone, Debug, Default)]
pub(super) struct Balancing {
    pub balance: Balance,
    pub sticky: Option<Sticky>,
    pub slow_start: Option<Duration>,
    /// When calls spill over to what is further; without it, all is alike.
    pub spill_below: Option<u32>,
    /// Regions in the order in which they take over.
    pub failover: Vec<String>,
}

impl Balancing {
    pub fn of(balancing: &api::LoadBalancing) -> Balancing {
        Balancing {
            balance: balance(balancing),
            sticky: balancing.sticky.as_ref().map(sticky),
            slow_start: balancing.slow_start.map(api::TimeSpan::get).filter(|span| !span.is_zero()),
            spill_below: balancing.locality.as_ref().map(|locality| locality.spill_below),
            failover: balancing
                .locality
                .as_ref()
                .map(|locality| locality.failover.clone())
                .unwrap_or_default(),
        }
    }
}

fn balance(balancing: &api::LoadBalancing) -> Balance {
    let key = || match &balancing.hash_on {
        Some(api::HashOn { header: Some(name), .. }) => HashKey::Header(name.to_ascii_lowercase()),
        Some(api::HashOn { cookie: Some(name), .. }) => HashKey::Cookie(name.clone()),
        Some(api::HashOn { query_param: Some(name), .. }) => HashKey::Query(name.clone()),
        Some(api::HashOn { call: Some(api::HashedPart::Path), .. }) => HashKey::Path,
        Some(api::HashOn { .. }) | None => HashKey::Source,
    };
    match balancing.algorithm {
        api::Algorithm::RoundRobin => Balance::RoundRobin,
        api::Algorithm::LeastLatency => Balance::LeastLatency,
        api::Algorithm::LeastRequest => Balance::LeastRequest,
        api::Algorithm::Weighted => Balance::Weighted,
        api::Algorithm::RingHash => Balance::RingHash(key()),
        api::Algorithm::Maglev => Balance::Maglev(key()),
    }
}

fn sticky(sticky: &api::Sticky) -> Sticky {
    Sticky {
        name: sticky.cookie.clone(),
        ttl: sticky.ttl.map(api::TimeSpan::get),
        path: sticky.path.clone(),
        same_site: match sticky.same_site {
            api::SameSite::Lax => SameSite::Lax,
            api::SameSite::Strict => SameSite::Strict,
            api::SameSite::None => SameSite::None,
        },
    }
}

/// How endpoints are judged; slow start and what is near come with the balancing.
pub(super) fn health(health: &api::Health) -> Health {
    let judged = health.outliers.is_some() || health.check.is_some();
    Health {
        outliers: health.outliers.as_ref().map(outliers),
        check: health.check.as_ref().and_then(check),
        panic_percent: health.panic_threshold.unwrap_or(if judged { PANIC } else { 0 }),
        slow_start: None,
        spill_below_percent: 0,
    }
}

fn seconds(span: Option<api::TimeSpan>, default: u64) -> Duration {
    span.map_or(Duration::from_secs(default), api::TimeSpan::get)
}

fn outliers(outliers: &api::Outliers) -> Outliers {
    let ejection = seconds(outliers.ejection_time, 30);
    Outliers {
        consecutive_5xx: outliers.consecutive_5xx,
        consecutive_gateway: outliers.consecutive_gateway_errors,
        success_rate: outliers.success_rate.as_ref().map(|rate| SuccessRate {
            deviations_hundredths: rate.deviations.0,
            min_endpoints: rate.min_instances,
            min_calls: rate.min_calls,
        }),
        failure_percentage: outliers.failure_percentage.as_ref().map(|failures| FailurePercentage {
            threshold: failures.threshold,
            min_endpoints: failures.min_instances,
            min_calls: failures.min_calls,
        }),
        interval: seconds(outliers.interval, 10),
        ejection,
        max_ejection: seconds(outliers.max_ejection_time, 300).max(ejection),
        max_ejected_percent: outliers.max_ejection_percent,
    }
}

fn check(check: &api::HealthCheck) -> Option<HealthCheck> {
    let http = |http: &api::HttpCheck| Question::Http {
        path: http.path.clone(),
        host: http.host.clone(),
        statuses: (http.from_status, http.to_status),
    };
    let grpc = |grpc: &api::GrpcCheck| Question::Grpc { service: grpc.service.clone() };
    let asks = check.http.as_ref().map(http).or_else(|| check.grpc.as_ref().map(grpc));
    Some(HealthCheck {
        asks: asks.or_else(|| check.tcp.as_ref().map(|_| Question::Tcp))?,
        interval: seconds(check.interval, 10),
        timeout: seconds(check.timeout, 1),
        healthy_after: check.healthy_threshold.unwrap_or(2),
        unhealthy_after: check.unhealthy_threshold.unwrap_or(3),
        idle_after: seconds(check.idle_after, 300),
    })
}

//! Rules within `health` of a Policy.

use std::time::Duration;

use super::Findings;
use crate::health::{Health, HealthCheck, Outliers};
use crate::quantity::TimeSpan;
use crate::read::Code;

/// Endpoints are looked at once a second.
const SHORTEST: Duration = Duration::from_secs(1);

pub(super) fn check(health: &Health, found: &mut Findings) {
    percent("spec.health.panicThreshold", health.panic_threshold, found);
    if let Some(outliers) = &health.outliers {
        check_outliers(outliers, found);
    }
    if let Some(check) = &health.check {
        check_check(check, found);
    }
    if health.panic_threshold.is_some() && health.outliers.is_none() && health.check.is_none() {
        let message = "nothing says which instances are well";
        let remedy = "add `outliers` or `check`, or leave it out";
        found.warning(Code::NoEffect, "spec.health.panicThreshold", message, remedy);
    }
}

fn percent(path: &str, share: Option<u32>, found: &mut Findings) {
    if let Some(share) = share.filter(|share| *share > 100) {
        found.error(Code::InvalidValue, path, format!("{share} is not a share"), "write 0 to 100");
    }
}

fn at_least_a_second(path: &str, span: Option<TimeSpan>, found: &mut Findings) {
    if span.is_some_and(|span| span.get() < SHORTEST) {
        found.error(Code::InvalidValue, path, "shorter than bases look", "write `1s` or more");
    }
}

fn at_least_one(path: &str, number: u32, message: &str, found: &mut Findings) {
    if number == 0 {
        found.error(Code::InvalidValue, path, message, "write 1 or more");
    }
}

fn check_outliers(outliers: &Outliers, found: &mut Findings) {
    let path = |key: &str| format!("spec.health.outliers.{key}");
    percent(&path("maxEjectionPercent"), Some(outliers.max_ejection_percent), found);
    at_least_a_second(&path("interval"), outliers.interval, found);
    at_least_a_second(&path("ejectionTime"), outliers.ejection_time, found);
    if let (Some(first), Some(longest)) = (outliers.ejection_time, outliers.max_ejection_time)
        && longest < first
    {
        let message = format!("the longest time is {longest}, and already the first is {first}");
        found.error(Code::Conflict, path("maxEjectionTime"), message, "make it at least `ejectionTime`");
    }
    if let Some(rate) = &outliers.success_rate {
        if !(10..=1000).contains(&rate.deviations.0) {
            let remedy = "write a number from 0.1 to 10";
            found.error(
                Code::InvalidValue,
                path("successRate.deviations"),
                "the number is out of range",
                remedy,
            );
        }
        if rate.min_instances < 2 {
            let message = "one instance has nobody to be compared with";
            found.error(Code::InvalidValue, path("successRate.minInstances"), message, "write 2 or more");
        }
        at_least_one(&path("successRate.minCalls"), rate.min_calls, "no calls tell nothing", found);
    }
    if let Some(failures) = &outliers.failure_percentage {
        if !(1..=100).contains(&failures.threshold) {
            let message = format!("{} is not a share of failures", failures.threshold);
            let at = path("failurePercentage.threshold");
            found.error(Code::InvalidValue, at, message, "write 1 to 100");
        }
        let (instances, calls) = (path("failurePercentage.minInstances"), path("failurePercentage.minCalls"));
        at_least_one(&instances, failures.min_instances, "no instance is ever left alone by this", found);
        at_least_one(&calls, failures.min_calls, "no calls tell nothing", found);
    }
    let in_a_row = outliers.consecutive_5xx > 0 || outliers.consecutive_gateway_errors > 0;
    if !in_a_row && outliers.success_rate.is_none() && outliers.failure_percentage.is_none() {
        let message = "no instance is ever left alone by this";
        found.warning(
            Code::NoEffect,
            "spec.health.outliers",
            message,
            "add `successRate`, `failurePercentage`, or a number that is not 0",
        );
    }
}

fn check_check(check: &HealthCheck, found: &mut Findings) {
    let path = |key: &str| format!("spec.health.check.{key}");
    let given =
        [("http", check.http.is_some()), ("grpc", check.grpc.is_some()), ("tcp", check.tcp.is_some())];
    found.exactly_one("spec.health.check", &given);
    at_least_a_second(&path("interval"), check.interval, found);
    if check.timeout.is_some_and(|timeout| timeout.get().is_zero()) {
        found.error(
            Code::InvalidValue,
            path("timeout"),
            "no answer is that quick",
            "write a time such as `1s`",
        );
    }
    for (key, count) in
        [("healthyThreshold", check.healthy_threshold), ("unhealthyThreshold", check.unhealthy_threshold)]
    {
        if count == Some(0) {
            found.error(Code::InvalidValue, path(key), "0 answers tell nothing", "write 1 or more");
        }
    }
    if let Some(http) = &check.http {
        found.absolute_path(&path("http.path"), &http.path);
        if !http.path.chars().all(|c| c.is_ascii_graphic()) {
            let message = format!("`{}` is not a path", crate::Invalid::shorten(&http.path));
            found.error(
                Code::InvalidValue,
                path("http.path"),
                message,
                "write a space as `%20`, and only what is printed",
            );
        }
        if let Some(host) = &http.host {
            found.hostname(&path("http.host"), host);
        }
        let statuses = 200..=599;
        if !statuses.contains(&http.from_status)
            || !statuses.contains(&http.to_status)
            || http.from_status > http.to_status
        {
            let message = format!("{} to {} are no statuses", http.from_status, http.to_status);
            found.error(
                Code::InvalidValue,
                path("http.toStatus"),
                message,
                "write two from 200 to 599, the lower first",
            );
        }
    }
}

//! The families about listeners, TLS and how services stand.

use std::time::UNIX_EPOCH;

use dodai_dataplane::arrivals::VERSIONS;
use dodai_dataplane::gauges::Pool;
use dodai_dataplane::survey::{ServiceView, State};

use super::encode::{Encoder, Type};
use super::{CertificateReading, MAX_CALL_SERIES, Readings};

/// What is known of one service, and the connections to its endpoints.
type One = (ServiceView, Pool);

pub(super) fn render(out: &mut Encoder, readings: &Readings) {
    listeners(out, readings);
    handshakes(out, readings);
    certificates(out, &readings.certificates[..readings.certificates.len().min(MAX_CALL_SERIES)]);
    let services = &readings.services[..readings.services.len().min(MAX_CALL_SERIES)];
    endpoints(out, services);
    pools(out, services);
    protection(out, services);
}

fn listeners(out: &mut Encoder, readings: &Readings) {
    out.family("dodai_listener_connections", Type::Gauge, "Connections that a listener serves now.");
    for one in &readings.arrivals {
        out.whole(&[("listener", &one.listener)], one.open);
    }
    out.family("dodai_listener_accepted", Type::Counter, "Connections that a listener accepted.");
    for one in &readings.arrivals {
        out.whole(&[("listener", &one.listener)], one.accepted);
    }
}

fn handshakes(out: &mut Encoder, readings: &Readings) {
    out.family(
        "dodai_tls_handshakes",
        Type::Counter,
        "TLS handshakes of clients that ended well, by version.",
    );
    for one in &readings.arrivals {
        for (version, count) in VERSIONS.iter().zip(one.handshakes).filter(|(_, count)| *count > 0) {
            out.whole(&[("listener", &one.listener), ("version", version)], count);
        }
    }
    out.family("dodai_tls_handshake_failures", Type::Counter, "TLS handshakes of clients that failed.");
    for one in &readings.arrivals {
        for (why, count) in &one.failures {
            out.whole(&[("listener", &one.listener), ("reason", why.as_str())], *count);
        }
    }
    out.family("dodai_tls_peers", Type::Counter, "Connections by the identity that the peer has proven.");
    for one in &readings.arrivals {
        for (peer, count) in &one.peers {
            out.whole(&[("listener", &one.listener), ("peer", peer)], *count);
        }
    }
    let (ended_well, failed) = readings.dialled;
    out.family(
        "dodai_tls_dials",
        Type::Counter,
        "TLS handshakes with endpoints that ended well, by version.",
    );
    for (version, count) in VERSIONS.iter().zip(ended_well) {
        out.whole(&[("version", version)], count);
    }
    out.family("dodai_tls_dial_failures", Type::Counter, "TLS handshakes with endpoints that failed.")
        .whole(&[], failed);
}

fn certificates(out: &mut Encoder, all: &[CertificateReading]) {
    let help = "When a certificate expires, since the epoch.";
    out.family("dodai_certificate_expiry_time_seconds", Type::Gauge, help);
    for one in all {
        let seconds = one.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        out.whole(&[("kind", one.kind), ("name", &one.name), ("file", &one.file)], seconds);
    }
}

fn endpoints(out: &mut Encoder, services: &[One]) {
    out.family("dodai_service_endpoints", Type::Gauge, "Endpoints of a service by how they stand.");
    for (service, _) in services {
        for state in State::ALL {
            let count = service.count(state) as u64;
            out.whole(&[("service", &service.label), ("state", state.as_str())], count);
        }
    }
    out.family("dodai_service_in_flight", Type::Gauge, "Calls to a service under way from this base.");
    for (service, _) in services {
        out.whole(&[("service", &service.label)], service.in_flight());
    }
}

fn pools(out: &mut Encoder, services: &[One]) {
    let used = || services.iter().filter(|(_, pool)| *pool != Pool::default());
    out.family("dodai_service_connections", Type::Gauge, "Connections to a service's endpoints by state.");
    for (service, pool) in used() {
        for (state, count) in [("busy", pool.busy), ("idle", pool.idle), ("shared", pool.shared)] {
            out.whole(&[("service", &service.label), ("state", state)], count);
        }
    }
    out.family("dodai_service_streams", Type::Gauge, "HTTP/2 streams under way to a service's endpoints.");
    for (service, pool) in used() {
        out.whole(&[("service", &service.label)], pool.streams);
    }
    out.family(
        "dodai_service_waiting",
        Type::Gauge,
        "Calls that wait for a connection to a service's endpoints.",
    );
    for (service, pool) in used() {
        out.whole(&[("service", &service.label)], pool.waiting);
    }
}

fn protection(out: &mut Encoder, services: &[One]) {
    out.family("dodai_retry_budget", Type::Gauge, "Retries that could be made at once.");
    for (service, _) in services {
        out.real(&[("service", &service.label)], service.retry_budget);
    }
    let help = "Retries that were not made for want of budget.";
    out.family("dodai_retries_refused", Type::Counter, help);
    for (service, _) in services {
        out.whole(&[("service", &service.label)], service.retries_refused);
    }
    let help = "1 while so few endpoints are well that all of them get calls, else 0.";
    out.family("dodai_service_panic", Type::Gauge, help);
    for (service, _) in services {
        if let Some(panics) = service.panics {
            out.whole(&[("service", &service.label)], u64::from(panics));
        }
    }
    out.family("dodai_concurrency_limit", Type::Gauge, "How many calls a service bears at once.");
    for (service, _) in services {
        if let Some(limit) = service.concurrency_limit {
            out.whole(&[("service", &service.label)], u64::from(limit));
        }
    }
}

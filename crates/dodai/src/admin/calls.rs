//! Calls of this base for who listens to them: which of them, and as the management API tells them.

use dodai_admin::seam::{Call, CallFilter, Missed, Stations, Told};
use dodai_base::telemetry::line::{self, Line};
use dodai_base::telemetry::ring::{Entry, Next};
use dodai_core::id::AppId;
use dodai_core::record::effective_status;

/// Whether a listener wants to see a call.
fn wants(filter: &CallFilter, entry: &Entry, line: &Line<'_>) -> bool {
    let of_app = |app: &AppId| {
        let app = app.to_string();
        line.caller == app || line.service.strip_prefix(&app).is_some_and(|rest| rest.starts_with('/'))
    };
    let of_caller = |caller: &String| {
        line.caller == caller || line.caller == format!("default/{caller}") || line.identity == caller
    };
    let has = |(name, wanted): &(String, Option<String>)| entry.has_header(name, wanted.as_deref());
    let status = effective_status(line.status, line.grpc_status);
    let grpc_failed = line.grpc_status.is_some_and(|status| status != 0);
    // A tunnel that begins has no end yet to be judged by.
    let ended = line.event.is_none();
    let judged = filter.least_status.is_some()
        || filter.statuses.is_some()
        || filter.slower_than_us.is_some()
        || filter.failures
        || filter.errors;
    (ended || !judged)
        && filter.app.as_ref().is_none_or(of_app)
        && filter.least_status.is_none_or(|least| status >= least || status == 0)
        && filter.statuses.is_none_or(|(least, most)| (least..=most).contains(&status))
        && (!filter.failures || line.failure.is_some())
        && (!filter.errors || line.failure.is_some() || grpc_failed || !(1..400).contains(&status))
        && filter.route.as_ref().is_none_or(|route| line.route == route)
        && filter.method.as_ref().is_none_or(|method| line.method.eq_ignore_ascii_case(method))
        && filter.path.as_ref().is_none_or(|path| line.target.starts_with(path.as_str()))
        && filter.slower_than_us.is_none_or(|least| line.took_us >= least)
        && filter.header.as_ref().is_none_or(has)
        && filter.caller.as_ref().is_none_or(of_caller)
}

/// What a listener gets for one step of the ring; `None` if it does not want it.
pub fn told(filter: &CallFilter, next: &Next) -> Option<Told> {
    match next {
        Next::Lost(missed) => Some(Told::Missed(Missed { missed: *missed, base: None })),
        Next::Closed => None,
        Next::Entry(entry) => {
            let line = entry.line(filter.header.as_ref().map(|(name, _)| name.as_str()));
            wants(filter, entry, &line).then(|| Told::Call(Box::new(call_of(entry.sequence, line))))
        }
    }
}

/// A call as the API tells it: every field of its line, under the same name. Taken apart, so that none is forgotten.
fn call_of(sequence: u64, line: Line<'_>) -> Call {
    let text = |text: Option<&str>| text.map(str::to_owned);
    let headers = |all: line::Named<'_>| {
        all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let left = |line::Stations { route_us, filter_us, attempt_us, endpoint_us, response_us }| Stations {
        route_us,
        filter_us,
        attempt_us,
        endpoint_us,
        response_us,
    };
    let Line {
        time,
        direction,
        event,
        listener,
        client,
        identity,
        tls,
        caller,
        service,
        route,
        endpoint,
        revision,
        method,
        target,
        authority,
        protocol,
        status,
        grpc_status,
        failure,
        detail,
        received_bytes,
        sent_bytes,
        retries,
        took_us,
        first_byte_us,
        trace_id,
        span_id,
        parent_id,
        sampled,
        stations,
        request_headers,
        response_headers,
    } = line;
    Call {
        sequence,
        time,
        direction: direction.to_owned(),
        event: text(event),
        listener: listener.to_owned(),
        client: client.to_owned(),
        identity: identity.to_owned(),
        tls: tls.to_owned(),
        caller: caller.to_owned(),
        service: service.to_owned(),
        route: route.to_owned(),
        endpoint: endpoint.to_owned(),
        revision: revision.to_owned(),
        method: method.to_owned(),
        target: target.into_owned(),
        authority: authority.into_owned(),
        protocol: protocol.to_owned(),
        status,
        grpc_status,
        failure: text(failure),
        detail: detail.to_owned(),
        received_bytes,
        sent_bytes,
        retries,
        took_us,
        first_byte_us,
        trace_id,
        span_id,
        parent_id,
        sampled,
        stations: stations.map(left),
        request_headers: headers(request_headers),
        response_headers: headers(response_headers),
        base: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line() -> Line<'static> {
        Line {
            time: "2023-11-14T22:13:20.000042Z".to_owned(),
            direction: "gateway",
            event: None,
            listener: "web",
            client: "",
            identity: "",
            tls: "",
            caller: "outside",
            service: "shop/cart/http",
            route: "carts",
            endpoint: "cart-1",
            revision: "cart-r1",
            method: "GET",
            target: "/carts/7".into(),
            authority: "shop.example:8080".into(),
            protocol: "HTTP/1.1",
            status: 200,
            grpc_status: None,
            failure: None,
            detail: "",
            received_bytes: 1,
            sent_bytes: 512,
            retries: 2,
            took_us: 1500,
            first_byte_us: None,
            trace_id: "abc".to_owned(),
            span_id: "12".to_owned(),
            parent_id: None,
            sampled: true,
            stations: None,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        }
    }

    /// What bases tell one another and the access log has is the same as what the API says.
    #[test]
    fn a_call_is_told_as_its_line_is_written() {
        let whole = Line {
            event: Some("open"),
            client: "192.0.2.7:4711",
            identity: "spiffe://cluster.local/ns/default/shop",
            tls: "1.3",
            grpc_status: Some(3),
            failure: Some("timeout"),
            detail: "no answer",
            first_byte_us: Some(1200),
            parent_id: Some("34".to_owned()),
            stations: Some(line::Stations {
                route_us: 1,
                filter_us: 2,
                attempt_us: 3,
                endpoint_us: 4,
                response_us: 5,
            }),
            request_headers: vec![("x-lane", "blue")],
            response_headers: vec![("server", "shop")],
            ..line()
        };
        for line in [line(), whole] {
            let mut expect = serde_json::to_value(&line).unwrap();
            expect["sequence"] = json!(7);
            let told = Told::Call(Box::new(call_of(7, line)));
            assert_eq!(serde_json::to_value(&told).unwrap(), expect);
            // As it comes back from a base.
            assert_eq!(serde_json::from_value::<Told>(expect).unwrap(), told);
        }
    }
}

//! Lines in a format of the operator's own, in the words of Envoy.

use std::fmt::{self, Write};
use std::time::Duration;

use dodai_core::failure::Kind;
use dodai_core::record::Record;
use dodai_log::line_format::{Field, LineFormat, Piece};

use crate::telemetry::line::{Escaped, Line};

/// Writes one line, without its end. What is not known is `-`; nothing of a caller's can end the line.
pub(super) fn write(out: &mut impl Write, format: &LineFormat, record: &Record) -> fmt::Result {
    let line = Line::from(record);
    for piece in format.pieces() {
        match piece {
            Piece::Text(text) => out.write_str(text)?,
            Piece::Field(field) => known(out, *field, record, &line)?,
            Piece::Request(names, most) => {
                let found = names.iter().find_map(|name| request(name, record, &line));
                cut(out, found, *most)?;
            }
            Piece::Response(names, most) => {
                let found = names.iter().find_map(|name| header(&record.response_headers, name));
                cut(out, found, *most)?;
            }
        }
    }
    Ok(())
}

fn cut(out: &mut impl Write, found: Option<&str>, most: Option<usize>) -> fmt::Result {
    let text = found.unwrap_or_default();
    let text = most.map_or(text, |most| dodai_core::record::clipped(text, most));
    word(out, text)
}

fn word(out: &mut impl Write, text: &str) -> fmt::Result {
    if text.is_empty() { out.write_char('-') } else { write!(out, "{}", Escaped(text)) }
}

fn header<'a>(all: &'a [(Box<str>, String)], name: &str) -> Option<&'a str> {
    all.iter().find(|(known, _)| **known == *name).map(|(_, value)| value.as_str())
}

fn request<'a>(name: &str, record: &'a Record, line: &'a Line<'_>) -> Option<&'a str> {
    let own = match name {
        ":method" => record.method.as_str(),
        ":path" => &*line.target,
        ":authority" => &*line.authority,
        ":scheme" if record.tls.is_empty() => "http",
        ":scheme" => "https",
        name => return header(&record.request_headers, name),
    };
    Some(own).filter(|own| !own.is_empty())
}

fn known(out: &mut impl Write, field: Field, record: &Record, line: &Line<'_>) -> fmt::Result {
    let millis = |span: Duration| span.as_millis();
    match field {
        Field::StartTime => out.write_str(&line.time),
        Field::Protocol => word(out, record.protocol),
        Field::ResponseCode => write!(out, "{}", record.status),
        Field::ResponseCodeDetails => word(out, line.failure.unwrap_or("via_upstream")),
        Field::ResponseFlags => word(out, flags(record.failure).0),
        Field::ResponseFlagsLong => word(out, flags(record.failure).1),
        Field::BytesReceived => write!(out, "{}", record.received),
        Field::BytesSent => write!(out, "{}", record.sent),
        Field::Duration => write!(out, "{}", millis(record.took)),
        Field::ResponseDuration => match record.first_byte {
            Some(first) => write!(out, "{}", millis(first)),
            None => out.write_char('-'),
        },
        Field::ResponseTxDuration => match record.first_byte {
            Some(first) => write!(out, "{}", millis(record.took.saturating_sub(first))),
            None => out.write_char('-'),
        },
        Field::UpstreamHost => word(out, &record.endpoint),
        Field::UpstreamCluster => word(out, &record.service),
        Field::UpstreamRequestAttemptCount => {
            write!(out, "{}", if record.endpoint.is_empty() { 0 } else { record.retries + 1 })
        }
        Field::UpstreamTransportFailureReason => {
            let is_transport = matches!(record.failure, Some(Kind::Connect | Kind::Tls | Kind::Reset));
            word(out, if is_transport { &record.detail } else { "" })
        }
        Field::RouteName => word(out, &record.route),
        Field::DownstreamRemoteAddress => word(out, &record.client),
        Field::DownstreamRemoteAddressWithoutPort => {
            let address = record.client.rsplit_once(':').map_or("", |(address, _)| address);
            word(out, address.trim_start_matches('[').trim_end_matches(']'))
        }
        Field::DownstreamPeerUriSan => word(out, &record.identity),
        Field::DownstreamPeerSubject => word(out, &record.subject),
        Field::DownstreamTlsVersion => match record.tls {
            "" => out.write_char('-'),
            version => write!(out, "TLSv{version}"),
        },
        Field::GrpcStatus => match record.grpc_status {
            Some(status) => write!(out, "{status}"),
            None => out.write_char('-'),
        },
        Field::TraceId => out.write_str(&line.trace_id),
        Field::DodaiCaller => word(out, &record.caller),
        Field::DodaiDirection => word(out, record.direction),
        Field::DodaiListener => word(out, &record.listener),
        Field::DodaiRevision => word(out, &record.revision),
    }
}

/// A failure in Envoy's letters and words. What Envoy does not know has the nearest of its own.
fn flags(failure: Option<Kind>) -> (&'static str, &'static str) {
    let Some(kind) = failure else { return ("", "") };
    match kind {
        Kind::NoRoute | Kind::Loop => ("NR", "NoRouteFound"),
        Kind::NoEndpoint => ("UH", "NoHealthyUpstream"),
        Kind::Connect | Kind::Tls => ("UF", "UpstreamConnectionFailure"),
        Kind::QueueFull | Kind::BreakerOpen => ("UO", "UpstreamOverflow"),
        Kind::Shed | Kind::Quota => ("OM", "OverloadManagerTerminated"),
        Kind::Timeout => ("UT", "UpstreamRequestTimeout"),
        Kind::Reset | Kind::Stale => ("UC", "UpstreamConnectionTermination"),
        Kind::Refused | Kind::Trap => ("UR", "UpstreamRemoteReset"),
        Kind::Protocol => ("UPE", "UpstreamProtocolError"),
        Kind::Idle => ("SI", "StreamIdleTimeout"),
        Kind::Overtime => ("UMSDR", "UpstreamMaxStreamDurationReached"),
        Kind::ClientGone => ("DC", "DownstreamConnectionTermination"),
        Kind::ClientTimeout => ("DT", "DownstreamRequestTimeout"),
        Kind::BadRequest | Kind::HeadTooLarge | Kind::BodyTooLarge | Kind::NotImplemented => {
            ("DPE", "DownstreamProtocolError")
        }
        Kind::RateLimited => ("RL", "RateLimited"),
        Kind::Unauthenticated | Kind::BadToken | Kind::KeysMissing | Kind::AuthorizerDown | Kind::Denied => {
            ("UAEX", "UnauthorizedExternalService")
        }
        Kind::FaultInjected => ("FI", "FaultInjected"),
        Kind::Draining | Kind::Internal => ("LR", "LocalReset"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::line::tests::record;

    fn line(format: &str, record: &Record) -> String {
        let mut out = String::new();
        write(&mut out, &LineFormat::parse(format).unwrap(), record).unwrap();
        out
    }

    #[test]
    fn a_line_is_what_envoy_would_have_written() {
        let record = Record {
            request_headers: vec![("user-agent".into(), "curl \"8\"\n".to_owned())],
            response_headers: vec![("server".into(), "nginx/1.22".to_owned())],
            ..record()
        };
        assert_eq!(
            line(dodai_log::line_format::ENVOY, &record),
            "[2023-11-14T22:13:20.000042Z] \"GET /carts/7?token=***&page=2 HTTP/1.1\" 200 - 0 512 1 - \"-\" \
             \"curl \\\"8\\\"\\u{a}\" \"-\" \"shop.example:8080\" \"cart-1\""
        );
        assert_eq!(
            line("%RESP(Server):5% %RESP(x?server)% %REQ(:scheme)%", &record),
            "nginx nginx/1.22 http"
        );
        assert_eq!(
            line(
                "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_CLUSTER% %ROUTE_NAME% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%",
                &record
            ),
            "192.0.2.7:4711 192.0.2.7 shop/cart/http carts 1 0"
        );
    }

    #[test]
    fn failures_have_the_letters_of_envoy() {
        let failed = |kind| Record {
            failure: Some(kind),
            identity: "spiffe://a/ns/b/c".into(),
            tls: "1.3",
            ..record()
        };
        let format = "%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %RESPONSE_CODE_DETAILS% %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_TLS_VERSION%";
        assert_eq!(
            line(format, &failed(Kind::NoEndpoint)),
            "UH NoHealthyUpstream no_endpoint spiffe://a/ns/b/c TLSv1.3"
        );
        for kind in Kind::ALL {
            assert_ne!(line("%RESPONSE_FLAGS%", &failed(*kind)), "-", "{kind:?}");
        }
    }
}

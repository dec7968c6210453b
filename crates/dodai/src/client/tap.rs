//! `dodai tap`: calls of the running base as they end.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::app_id;
use super::connection::{Connection, encode};
use crate::output::Output;

/// `dodai tap`: only calls for which everything holds that is given.
#[derive(Args, Debug)]
pub struct Tap {
    /// Only calls that this app makes or gets: `name` or `namespace/name`.
    pub app: Option<String>,
    /// Only calls with this status: `400` is at least that (and callers that left), `4xx` and `500-503` are those.
    #[arg(long, value_name = "STATUS")]
    pub status: Option<String>,
    /// Only calls that the base answered itself.
    #[arg(long)]
    pub failures: bool,
    /// Only calls that ended in an error: a status of 400 or more, a failure, or a caller that left.
    #[arg(long)]
    pub errors: bool,
    /// Only calls by this rule.
    #[arg(long, value_name = "RULE")]
    pub route: Option<String>,
    /// Only calls with this method.
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// Only calls whose path begins so.
    #[arg(long, value_name = "PREFIX")]
    pub path: Option<String>,
    /// Only calls that took at least so long: `250ms`, `2s`.
    #[arg(long, value_name = "TIME")]
    pub slower_than: Option<dodai_api::TimeSpan>,
    /// Only calls with this request header, `name` or `name:value`; it is shown too.
    #[arg(long, value_name = "HEADER")]
    pub header: Option<String>,
    /// Only calls of this caller: an app, `outside`, `base`, or a SPIFFE id.
    #[arg(long, value_name = "WHO")]
    pub caller: Option<String>,
    /// Show each call as its six stations, with the time at each.
    #[arg(long)]
    pub tree: bool,
    /// End after so many calls.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

impl Tap {
    /// What the server is asked for.
    fn query(&self) -> String {
        let micros = |time: Duration| time.as_micros().to_string();
        let slow = self.slower_than.map(|time| micros(time.get()));
        let texts = [
            ("app", self.app.as_deref().map(app_id)),
            ("status", self.status.clone()),
            ("route", self.route.clone()),
            ("method", self.method.clone()),
            ("path", self.path.clone()),
            ("slower_than_us", slow),
            ("header", self.header.clone()),
            ("caller", self.caller.clone()),
            ("failures", self.failures.then(|| "true".to_owned())),
            ("errors", self.errors.then(|| "true".to_owned())),
        ];
        let given = texts.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encode(&value?))));
        given.collect::<Vec<_>>().join("&")
    }
}

/// `dodai tap`.
pub async fn run(connection: &Connection, arguments: &Tap, output: &Output) -> anyhow::Result<()> {
    let mut calls = connection.events(&format!("/v1/calls?{}", arguments.query())).await?;
    if !output.is_structured() {
        output.note("calls as they end; stop with Ctrl-C");
    }
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    while left > 0
        && let Some(call) = calls.next().await?
    {
        if !output.line(&call) {
            output
                .say(&note(&call).unwrap_or_else(|| if arguments.tree { tree(&call) } else { line(&call) }));
        }
        left -= u64::from(note(&call).is_none());
    }
    Ok(())
}

/// What came instead of a call, in words: some were passed over, or a base tells no more.
fn note(told: &Value) -> Option<String> {
    let base = told["base"].as_str().map_or(String::new(), |base| format!(" of base {base}"));
    if let Some(missed) = told["missed"].as_u64() {
        return Some(format!("* {missed} calls{base} missed: this reader is too slow"));
    }
    Some(format!("* no more calls{base}: {}", told["ended"].as_str()?))
}

fn text<'a>(call: &'a Value, name: &str) -> &'a str {
    call[name].as_str().filter(|text| !text.is_empty()).unwrap_or("-")
}

/// One call for people: when, what, how it ended, between whom, how long.
fn line(call: &Value) -> String {
    let text = |name: &str| text(call, name);
    let time = text("time").split_once('T').map_or("-", |(_, time)| time);
    if call["event"] == "open" {
        let (protocol, caller, service) = (text("protocol"), text("caller"), text("service"));
        return format!("{time}  opens {protocol} {}  {caller} -> {service}", text("target"));
    }
    let millis = call["took_us"].as_u64().unwrap_or(0) as f64 / 1000.0;
    let (caller, service) = (text("caller"), text("service"));
    let mut line = if matches!(text("protocol"), "TCP" | "SOCKS5") {
        let (received, sent) = (&call["received_bytes"], &call["sent_bytes"]);
        let what = format!("{} {}", text("protocol"), text("target"));
        format!("{time}  closes {what}  {caller} -> {service}  {received} B in, {sent} B out  {millis:.1} ms")
    } else {
        let (method, target) = (text("method"), text("target"));
        format!("{time}  {:3} {method} {target}  {caller} -> {service}  {millis:.1} ms", call["status"])
    };
    if let Some(failure) = call["failure"].as_str() {
        line.push_str(&format!("  {failure}: {}", text("detail")));
    }
    line
}

/// One call as its six stations; the times count from the request's head.
fn tree(call: &Value) -> String {
    let text = |name: &str| text(call, name);
    let mut out = line(call);
    if call["event"] == "open" {
        return out;
    }
    let from = if call["client"].is_null() { text("caller") } else { text("client") };
    let tls = call["tls"].as_str().map_or(String::new(), |version| format!(", TLS {version}"));
    let identity = call["identity"].as_str().map_or(String::new(), |identity| format!(", {identity}"));
    let mut station = |name: &str, at: Option<u64>, what: String| {
        let at = at.map_or_else(|| "-".to_owned(), micros);
        let branch = if name == "endpoint" { "`-" } else { "|-" };
        out.push_str(&format!("\n  {branch} {name:8} {at:>10}  {what}"));
    };
    let stations = &call["stations"];
    let stamp = |name: &str| stations[name].as_u64();
    station("listen", None, format!("{} from {from}{tls}{identity}", text("listener")));
    let received = &call["received_bytes"];
    let head = format!("{} {} {}, {received} B of body", text("protocol"), text("method"), text("authority"));
    station("codec", Some(0), head);
    station("route", stamp("route_us"), text("route").to_owned());
    let stopped = call["failure"].as_str().filter(|_| stamp("attempt_us").unwrap_or(0) == 0);
    station(
        "filter",
        stamp("filter_us"),
        stopped.map_or("passed".to_owned(), |code| format!("ended here: {code}")),
    );
    let tried = stamp("attempt_us").filter(|at| *at > 0);
    let tries = call["retries"].as_u64().unwrap_or(0) + u64::from(tried.is_some());
    station("attempt", tried, if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") });
    let mut reached = format!("{} {}", text("endpoint"), text("revision"));
    if let Some(answered) = call["first_byte_us"].as_u64() {
        reached.push_str(&format!(", answered {} at {}", call["status"], micros(answered)));
    }
    let (sent, took) = (&call["sent_bytes"], call["took_us"].as_u64().unwrap_or(0));
    reached.push_str(&format!(", {sent} B sent by {}", micros(took)));
    station("endpoint", tried.and(stamp("endpoint_us")), reached);
    out
}

fn micros(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} us"),
        _ => format!("{:.1} ms", count as f64 / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call() -> Value {
        json!({
            "time": "2023-11-14T22:13:20.000042Z", "status": 200, "method": "GET", "target": "/a", "caller":
            "outside", "service": "shop/cart/http", "took_us": 15_000, "protocol": "HTTP/1.1", "listener": "web",
            "client": "192.0.2.7:4711", "authority": "shop.example", "route": "carts", "endpoint": "cart-1",
            "revision": "r1", "received_bytes": 0, "sent_bytes": 512, "retries": 1, "first_byte_us": 12_000,
            "stations": {
                "route_us": 4, "filter_us": 9, "attempt_us": 20, "endpoint_us": 140, "response_us": 12_000,
            },
        })
    }

    #[test]
    fn a_call_is_one_line() {
        let call = json!({
            "time": "2023-11-14T22:13:20.000042Z", "status": 503, "method": "GET", "target": "/a", "caller":
            "outside", "service": "", "took_us": 1_500, "failure": "no_endpoint", "detail": "shop has none",
        });
        assert_eq!(
            line(&call),
            "22:13:20.000042Z  503 GET /a  outside -> -  1.5 ms  no_endpoint: shop has none"
        );
        let open = json!({
            "time": "2023-11-14T22:13:20.000042Z", "event": "open", "protocol": "TCP", "caller": "shop/front",
            "service": "shop/db/tcp", "target": "-",
        });
        assert_eq!(line(&open), "22:13:20.000042Z  opens TCP -  shop/front -> shop/db/tcp");
        let closed = json!({
            "time": "2023-11-14T22:13:20.000042Z", "protocol": "TCP", "caller": "shop/front", "took_us": 2_000,
            "service": "shop/db/tcp", "target": "-", "received_bytes": 5, "sent_bytes": 7, "status": 200,
        });
        assert_eq!(
            line(&closed),
            "22:13:20.000042Z  closes TCP -  shop/front -> shop/db/tcp  5 B in, 7 B out  2.0 ms"
        );
    }

    #[test]
    fn what_is_no_call_is_said() {
        assert_eq!(note(&call()), None);
        assert_eq!(
            note(&json!({"base": "a", "missed": 3})).unwrap(),
            "* 3 calls of base a missed: this reader is too slow"
        );
        assert_eq!(
            note(&json!({"base": "a", "ended": "it left"})).unwrap(),
            "* no more calls of base a: it left"
        );
    }

    #[test]
    fn a_call_is_six_stations() {
        assert_eq!(
            tree(&call()),
            "22:13:20.000042Z  200 GET /a  outside -> shop/cart/http  15.0 ms\n  \
             |- listen            -  web from 192.0.2.7:4711\n  \
             |- codec          0 us  HTTP/1.1 GET shop.example, 0 B of body\n  \
             |- route          4 us  carts\n  \
             |- filter         9 us  passed\n  \
             |- attempt       20 us  2 tries\n  \
             `- endpoint     140 us  cart-1 r1, answered 200 at 12.0 ms, 512 B sent by 15.0 ms"
        );
        let mut refused = call();
        refused["failure"] = "rate_limited".into();
        refused["stations"]["attempt_us"] = 0.into();
        let shown = tree(&refused);
        assert!(shown.contains("|- filter         9 us  ended here: rate_limited\n"), "{shown}");
        assert!(shown.contains("|- attempt           -  "), "{shown}");
    }

    #[test]
    fn only_what_is_given_is_asked_for() {
        let tap = Tap {
            app: Some("shop".to_owned()),
            status: Some("5xx".to_owned()),
            failures: false,
            errors: true,
            route: None,
            method: None,
            path: Some("/a b".to_owned()),
            slower_than: Some("250ms".parse().unwrap()),
            header: None,
            caller: None,
            tree: false,
            limit: None,
        };
        assert_eq!(
            tap.query(),
            "app=default%2Fshop&status=5xx&path=%2Fa%20b&slower_than_us=250000&errors=true"
        );
    }
}

//! `dodai tap`: calls of the running base as they end.

use serde_json::Value;

use super::app_id;
use super::arguments::Tap;
use super::connection::{Connection, encode};
use crate::output::Output;

/// `dodai tap`.
pub async fn run(connection: &Connection, arguments: &Tap, output: &Output) -> anyhow::Result<()> {
    let mut query = vec![format!("failures={}", arguments.failures)];
    query.extend(arguments.app.as_deref().map(|app| format!("app={}", encode(&app_id(app)))));
    query.extend(arguments.status.map(|status| format!("status={status}")));
    let mut calls = connection.events(&format!("/v1/calls?{}", query.join("&"))).await?;
    if !output.is_structured() {
        output.note("calls as they end; stop with Ctrl-C");
    }
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    while left > 0
        && let Some(call) = calls.next().await?
    {
        if !output.line(&call) {
            output.say(&match call["missed"].as_u64() {
                Some(missed) => format!("* {missed} calls missed: this reader is too slow"),
                None => line(&call),
            });
        }
        left -= u64::from(call["missed"].is_null());
    }
    Ok(())
}

/// One call for people: when, what, how it ended, between whom, how long.
fn line(call: &Value) -> String {
    let text = |name: &str| call[name].as_str().filter(|text| !text.is_empty()).unwrap_or("-");
    let time = text("time").split_once('T').map_or("-", |(_, time)| time);
    let millis = call["took_us"].as_u64().unwrap_or(0) as f64 / 1000.0;
    let mut line = format!(
        "{time}  {:3} {} {}  {} -> {}  {millis:.1} ms",
        call["status"],
        text("method"),
        text("target"),
        text("caller"),
        text("service"),
    );
    if let Some(failure) = call["failure"].as_str() {
        line.push_str(&format!("  {failure}: {}", text("detail")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_one_line() {
        let call = serde_json::json!({
            "time": "2023-11-14T22:13:20.000042Z", "status": 503, "method": "GET", "target": "/a", "caller":
            "outside", "service": "", "took_us": 1_500, "failure": "no_endpoint", "detail": "shop has none",
        });
        assert_eq!(
            line(&call),
            "22:13:20.000042Z  503 GET /a  outside -> -  1.5 ms  no_endpoint: shop has none"
        );
    }
}

//! What an app's answer to a delivery means.

use http::StatusCode;
use serde::Deserialize;

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The app has it.
    Taken,
    /// The app does not want it, now or later.
    Dropped(String),
    /// The app could not take it now.
    Again(String),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    status: Option<String>,
}

/// Any 2xx takes the message unless its body is JSON that says otherwise; 404 drops it; all else is tried
/// again (daprd's rules).
pub(super) fn verdict(status: StatusCode, body: &[u8]) -> Verdict {
    if status == StatusCode::NOT_FOUND {
        return Verdict::Dropped("the app answered 404".into());
    }
    if !status.is_success() {
        return Verdict::Again(format!("the app answered {}", status.as_u16()));
    }
    // Only the first JSON value counts, and a body that is none says nothing.
    let answer = serde_json::Deserializer::from_slice(body).into_iter::<Answer>().next();
    let told = answer.and_then(Result::ok).and_then(|answer| answer.status).unwrap_or_default();
    match told.as_str() {
        "" | "SUCCESS" => Verdict::Taken,
        "DROP" => Verdict::Dropped("the app answered DROP".into()),
        "RETRY" => Verdict::Again("the app answered RETRY".into()),
        other => Verdict::Again(format!("the app answered with the unknown status `{other}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_daprd_reads_them() {
        let table = [
            (200, "", "taken"),
            (204, "", "taken"),
            (200, "OK", "taken"),
            (200, "[1]", "taken"),
            (200, "{}", "taken"),
            (200, r#"{"status":""}"#, "taken"),
            (200, r#"{"status":null}"#, "taken"),
            (201, r#"{"status":"SUCCESS"}"#, "taken"),
            (200, r#"{"status":"DROP"}"#, "dropped"),
            (200, r#"{"status":"RETRY"} and more"#, "again"),
            (200, r#"{"status":"success"}"#, "again"),
            (404, r#"{"status":"SUCCESS"}"#, "dropped"),
            (302, "", "again"),
            (400, "", "again"),
            (500, r#"{"status":"DROP"}"#, "again"),
        ];
        for (status, body, expect) in table {
            let word = match verdict(StatusCode::from_u16(status).expect("a status"), body.as_bytes()) {
                Verdict::Taken => "taken",
                Verdict::Dropped(_) => "dropped",
                Verdict::Again(_) => "again",
            };
            assert_eq!(word, expect, "{status} {body}");
        }
    }
}

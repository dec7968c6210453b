//! Tokens under a wall clock that is set forward and back by hours.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;

/// When the test begins, in seconds since the epoch.
const START: f64 = 1_700_000_000.0;
const HOUR: f64 = 3600.0;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The rule of an issuer with one key, and a token of it with these claims beside its name.
fn signed(claims: &[(&str, f64)]) -> (Jwt, String) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)}]}).to_string();
    let issuer = snapshot::JwtIssuer {
        issuer: "https://login".into(),
        audiences: vec![],
        keys: JwtKeys::Inline(keys),
        headers: vec![("authorization".into(), "Bearer ".into())],
        cookies: vec![],
        params: vec![],
        clock_skew: std::time::Duration::from_secs(60),
        forward: false,
        claims_to_headers: vec![],
    };
    let jwt = Jwt::compile("r", &snapshot::Jwt { issuers: vec![issuer], optional: false }).expect("compiles");
    let mut all = json!({"iss": "https://login", "sub": "ada"});
    for (name, value) in claims {
        all[*name] = json!(value);
    }
    let text = format!("{}.{}", encode(json!({"alg": "ES256"}).to_string()), encode(all.to_string()));
    let signature = pair.sign(&SystemRandom::new(), text.as_bytes()).expect("signed");
    (jwt, format!("{text}.{}", encode(signature)))
}

/// What a call with this token comes to at each of these hours after the start, one after another.
fn at_hours(claims: &[(&str, f64)], hours: &[f64]) -> (Vec<&'static str>, u64) {
    let (jwt, token) = signed(claims);
    let head = http::Request::get("/").header("authorization", format!("Bearer {token}"));
    let (head, ()) = head.body(()).expect("valid").into_parts();
    let come_to = |hour: &f64| {
        let checked = jwt.check_at(START + hour * HOUR, &RequestHead::Map(&head), false, &mut Edits::new());
        match checked {
            Ok(Checked::Token(_)) => "in",
            Ok(Checked::None | Checked::Wait(_)) => "nothing",
            Err(failure) if failure.detail.contains("expired") => "late",
            Err(failure) if failure.detail.contains("not count yet") => "early",
            Err(_) => "bad",
        }
    };
    let come = hours.iter().map(come_to).collect();
    let known = jwt.tally.read().find(|(event, _)| *event == Event::TokenKnown).map_or(0, |(_, count)| count);
    (come, known)
}

#[test]
fn a_known_token_counts_by_the_clock_of_each_call() {
    let hour_from = [("nbf", START), ("exp", START + HOUR)];
    let (come, known) = at_hours(&hour_from, &[0.5, 0.5, 3.0, 0.5, -3.0, 0.5]);
    assert_eq!(come, ["in", "in", "late", "in", "early", "in"]);
    assert_eq!(known, 3, "a jump forgets nothing");
}

#[test]
fn within_the_skew_it_is_proved_anew_and_beyond_it_does_not_count() {
    let minute = 1.0 / 60.0;
    let hour_from = [("nbf", START), ("exp", START + HOUR)];
    let hours = [0.5, 1.0 + minute / 2.0, 1.0 + 2.0 * minute, -minute / 2.0, -2.0 * minute];
    assert_eq!(at_hours(&hour_from, &hours), (vec!["in", "in", "late", "in", "early"], 0));
}

#[test]
fn one_without_times_counts_whatever_the_clock_says() {
    assert_eq!(at_hours(&[], &[0.0, 1e6, -1e5]), (vec!["in"; 3], 2));
}

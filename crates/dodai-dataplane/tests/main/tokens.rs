//! Tokens of users: what counts, what the app is told, and where the keys come from.

use std::time::{Duration, SystemTime};

use crate::support::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dodai_core::snapshot::*;
use dodai_dataplane::tally::Event;
use serde_json::{Value, json};

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with a key of each kind.
pub struct Login {
    point: EcdsaKeyPair,
    edwards: Ed25519KeyPair,
    rsa: RsaKeyPair,
}

impl Login {
    pub fn new() -> Login {
        Login {
            point: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"),
            edwards: Ed25519KeyPair::generate().expect("a key"),
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"),
        }
    }

    pub fn keys(&self) -> String {
        let point = self.point.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        let rsa = self.rsa.public_key();
        let keys = json!([
            {"kty": "EC", "crv": "P-256", "kid": "point", "x": encode(x), "y": encode(y)},
            {"kty": "OKP", "crv": "Ed25519", "kid": "edwards", "x": encode(self.edwards.public_key())},
            {
                "kty": "RSA", "kid": "rsa", "use": "sig",
                "n": encode(rsa.modulus().big_endian_without_leading_zero()),
                "e": encode(rsa.exponent().big_endian_without_leading_zero()),
            },
            {"kty": "oct", "kid": "secret", "k": encode("shared")},
        ]);
        json!({ "keys": keys }).to_string()
    }

    pub fn sign(&self, algorithm: &str, claims: &Value) -> String {
        let id = match algorithm {
            "ES256" => "point",
            "EdDSA" => "edwards",
            _ => "rsa",
        };
        let header = json!({"alg": algorithm, "kid": id, "typ": "JWT"}).to_string();
        let text = format!("{}.{}", encode(header), encode(claims.to_string()));
        let random = SystemRandom::new();
        let rsa = |with: &'static dyn signature::RsaEncoding| {
            let mut out = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(with, &random, text.as_bytes(), &mut out).expect("signed");
            out
        };
        let signature = match algorithm {
            "ES256" => self.point.sign(&random, text.as_bytes()).expect("signed").as_ref().to_vec(),
            "EdDSA" => self.edwards.sign(text.as_bytes()).as_ref().to_vec(),
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "PS512" => rsa(&signature::RSA_PSS_SHA512),
            // Signed by what the world knows: the public key.
            _ => encode("x").into_bytes(),
        };
        format!("{text}.{}", encode(signature))
    }
}

pub fn in_seconds(from_now: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    i64::try_from(now).expect("fits") + from_now
}

pub fn ada() -> Value {
    json!({"iss": "https://login", "aud": ["shop"], "sub": "ada", "exp": in_seconds(600), "groups": ["staff"],
           "realm": {"role": "admin"}})
}

fn issuer(keys: JwtKeys) -> JwtIssuer {
    JwtIssuer {
        issuer: "https://login".into(),
        audiences: vec!["shop".into()],
        keys,
        headers: vec![("authorization".into(), "Bearer ".into())],
        cookies: vec!["session".into()],
        params: vec!["access_token".into()],
        clock_skew: Duration::from_secs(60),
        forward: false,
        claims_to_headers: vec![("sub".into(), "x-user".into()), ("realm.role".into(), "x-role".into())],
    }
}

pub fn jwt(keys: JwtKeys) -> Filter {
    Filter::Jwt(Jwt { issuers: vec![issuer(keys)], optional: false })
}

fn call(more: &str) -> String {
    format!("GET /a?q=1 HTTP/1.1\r\nHost: a\r\nX-User: root\r\n{more}\r\n")
}

fn bearer(token: &str) -> String {
    call(&format!("Authorization: Bearer {token}\r\n"))
}

/// A backend that answers everything and sends back what it got.
fn echoing(mut backends: Peers) {
    beside(async move {
        loop {
            let mut backend = backends.accept().await;
            beside(async move {
                loop {
                    let head = backend.message().await.head;
                    backend
                        .send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len()))
                        .await;
                }
            });
        }
    });
}

#[tokio::test(start_paused = true)]
async fn calls_are_counted_by_what_their_token_claims() {
    local(async {
        let login = Login::new();
        let key = vec![RateKey::Claim("sub".into()), RateKey::Cookie("device".into())];
        let limit = Filter::RateLimits(vec![RateLimit { interval: secs(60), burst: 1, key, shared: None }]);
        let rule = filtered(vec![jwt(JwtKeys::Inline(login.keys())), limit]);
        let world = World::of(usual(service("shop/catalog/http"), rule)).await;
        echoing(world.backend(1));
        let mut client = world.client().await;
        for (user, device, status) in
            [("ada", "1", 200), ("bob", "1", 200), ("ada", "2", 200), ("ada", "1", 429), ("bob", "1", 429)]
        {
            let mut claims = ada();
            // Another token each time: its user counts, not the token.
            (claims["sub"], claims["jti"]) = (user.into(), json!(format!("{user}{device}{status}")));
            let token = login.sign("ES256", &claims);
            let asked = call(&format!("Authorization: Bearer {token}\r\nCookie: device={device}\r\n"));
            assert_eq!(client.ask(&asked).await.status(), status, "{user} {device}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_taken_out_of_a_query_that_is_rewritten_too() {
    local(async {
        let login = Login::new();
        let path = Some(PathRewrite::Prefix("/b".into()));
        let rewrite = Filter::Rewrite { host: None, path };
        let (guard, token) = (jwt(JwtKeys::Inline(login.keys())), login.sign("ES256", &ada()));
        for filters in [vec![guard.clone(), rewrite.clone()], vec![rewrite, guard]] {
            let mut rule = filtered(filters);
            rule.matches = vec![Match { path: Some(PathMatch::Prefix("/a".into())), ..Match::default() }];
            let world = World::of(usual(service("shop/catalog/http"), rule)).await;
            echoing(world.backend(1));
            let spoofed = "X_User: root\r\n";
            let asked = format!("GET /a/x?access_token={token}&q=1 HTTP/1.1\r\nHost: a\r\n{spoofed}\r\n");
            let answer = world.client().await.ask(&asked).await;
            assert!(answer.body.starts_with("GET /b/x?q=1 HTTP/1.1\r\n"), "{}", answer.body);
            assert!(!answer.body.contains("root") && answer.body.contains("x-user: ada"), "{}", answer.body);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_tokens_that_an_issuer_signed_count() {
    local(async {
        let login = Login::new();
        let filters = vec![jwt(JwtKeys::Inline(login.keys()))];
        let world = World::of(usual(service("shop/catalog/http"), filtered(filters))).await;
        echoing(world.backend(1));
        let mut client = world.client().await;
        for algorithm in ["ES256", "EdDSA", "RS256", "PS512"] {
            let answer = client.ask(&bearer(&login.sign(algorithm, &ada()))).await;
            assert_eq!(answer.status(), 200, "{algorithm} {}", answer.body);
            assert!(answer.body.contains("x-user: ada\r\n") && answer.body.contains("x-role: admin\r\n"));
            assert!(!answer.body.contains("root") && !answer.body.to_lowercase().contains("authorization"));
        }
        let answer = client.ask(&call("")).await;
        assert_eq!((answer.status(), answer.header("www-authenticate")), (401, Some("Bearer")));
        let two = format!("Authorization: Bearer {}\r\nAuthorization: x\r\n", login.sign("ES256", &ada()));
        assert_eq!(client.ask(&call(&two)).await.header("dodai-failure"), Some("bad_token"));
        assert_eq!(answer.header("dodai-failure"), Some("unauthenticated"));
        let with = |key: &str, value: Value| {
            let mut claims = ada();
            claims[key] = value;
            login.sign("ES256", &claims)
        };
        let good = login.sign("ES256", &ada());
        let (head, _) = good.rsplit_once('.').expect("three parts");
        let none = encode(json!({"alg": "none"}).to_string());
        let bad = [
            ("another issuer", with("iss", json!("https://other"))),
            ("another audience", with("aud", json!("mail"))),
            ("expired", with("exp", json!(in_seconds(-61)))),
            ("not yet", with("nbf", json!(in_seconds(120)))),
            ("another key", Login::new().sign("ES256", &ada())),
            ("a shared secret", login.sign("HS256", &ada())),
            ("no signature", format!("{head}.")),
            ("none", format!("{none}.{}.", encode(ada().to_string()))),
            ("no token", "x".to_owned()),
        ];
        for (why, token) in &bad {
            let answer = client.ask(&bearer(token)).await;
            assert_eq!((answer.status(), answer.header("dodai-failure")), (401, Some("bad_token")), "{why}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
        }
        assert_eq!(
            client.ask(&bearer(&with("exp", json!(in_seconds(-30))))).await.status(),
            200,
            "clocks differ"
        );
        let told = world.plane.table().tallies();
        let count = |event| told.iter().find(|one| one.event == event).map(|one| one.count);
        assert_eq!(
            (count(Event::TokenMissing), count(Event::TokenBad)),
            (Some(1), Some(bad.len() as u64 + 1))
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn tokens_are_found_and_taken_out_where_they_stand() {
    local(async {
        let login = Login::new();
        let filters = vec![jwt(JwtKeys::Inline(login.keys()))];
        let world = World::of(usual(service("shop/catalog/http"), filtered(filters))).await;
        echoing(world.backend(1));
        let mut client = world.client().await;
        let token = login.sign("EdDSA", &ada());
        let answer = client.ask(&call(&format!("Cookie: a=1; session={token}; b=2\r\n"))).await;
        assert!(answer.body.contains("cookie: a=1; b=2\r\n"), "{}", answer.body);
        let url = format!("GET /a?x=1&access_token={token}&y HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.ask(&url).await;
        assert!(answer.body.starts_with("GET /a?x=1&y HTTP/1.1\r\n"), "{}", answer.body);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn access_looks_at_claims() {
    local(async {
        let login = Login::new();
        let check = |name: &str, value: &str| {
            let claims =
                vec![ClaimMatch { name: name.into(), values: vec![ValuePattern::Exact(value.into())] }];
            let rules = vec![AccessRule { allow: true, claims, ..AccessRule::default() }];
            vec![jwt(JwtKeys::Inline(login.keys())), Filter::Access(Access { default_allow: false, rules })]
        };
        for (name, value, expect) in [
            ("groups", "staff", 200),
            ("groups", "guests", 403),
            ("realm.role", "admin", 200),
            ("none", "x", 403),
        ] {
            // At the gateway, and where the call arrives.
            let mut arriving = service("shop/catalog/http");
            arriving.inbound = check(name, value);
            for resources in [
                usual(service("shop/catalog/http"), filtered(check(name, value))),
                usual(arriving, filtered(vec![])),
            ] {
                let world = World::of(resources).await;
                echoing(world.backend(1));
                let answer = world.client().await.ask(&bearer(&login.sign("ES256", &ada()))).await;
                assert_eq!(answer.status(), expect, "{name} {value}");
                if expect == 200 {
                    assert!(answer.body.contains("x-user: ada\r\n"), "{}", answer.body);
                }
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_further_try_has_the_token_too() {
    local(async {
        let login = Login::new();
        let mut catalog = service("shop/catalog/http");
        catalog.inbound = vec![jwt(JwtKeys::Inline(login.keys()))];
        let retry = RetryPolicy { statuses: vec![503], ..dodai_dataplane::attempt::default_retry() };
        catalog.policy.retry = Some(retry);
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(bearer(&login.sign("ES256", &ada()))).await;
        let mut backend = backends.accept().await;
        for answer in ["HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", OK] {
            let call = backend.answer(answer).await;
            assert_eq!((call.header("x-user"), call.header("authorization")), (Some("ada"), None));
            if answer != OK {
                backend = backends.accept().await;
            }
        }
        assert_eq!(client.message().await.status(), 200);
    })
    .await;
}

fn remote(refresh: Duration) -> JwtKeys {
    JwtKeys::Uri { uri: "http://10.0.1.9:8000/keys".into(), refresh }
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_once_kept_and_renewed() {
    local(async {
        let login = Login::new();
        let filters = vec![jwt(remote(secs(300)))];
        let world = World::of(usual(service("shop/catalog/http"), filtered(filters))).await;
        echoing(world.backend(1));
        let mut keys = world.backend(9);
        let token = login.sign("ES256", &ada());
        // Two calls wait for one fetch.
        let (mut one, mut two) = (world.client().await, world.client().await);
        one.send(bearer(&token)).await;
        two.send(bearer(&token)).await;
        let mut issuer = keys.accept().await;
        let set = |login: &Login| {
            let keys = login.keys();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{keys}", keys.len())
        };
        assert!(issuer.answer(&set(&login)).await.head.starts_with("GET /keys HTTP/1.1\r\n"));
        assert_eq!((one.message().await.status(), two.message().await.status()), (200, 200));
        assert!(issuer.is_quiet().await, "they are fetched once");
        // While the issuer is gone, what was fetched counts; calls do not wait for it.
        drop(issuer);
        tokio::time::sleep(secs(301)).await;
        assert_eq!(world.client().await.ask(&bearer(&token)).await.status(), 200);
        let mut issuer = keys.accept().await;
        issuer.answer("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(world.client().await.ask(&bearer(&token)).await.status(), 200);
        // A key that is not known is asked for, but not again and again.
        let other = Login::new();
        let mut claims = ada();
        claims["sub"] = json!("bob");
        let header = encode(json!({"alg": "EdDSA", "kid": "new"}).to_string());
        let text = format!("{header}.{}", encode(claims.to_string()));
        let signed = format!("{text}.{}", encode(other.edwards.sign(text.as_bytes())));
        tokio::time::sleep(secs(11)).await;
        let mut one = world.client().await;
        one.send(bearer(&signed)).await;
        let renamed = other.keys().replace("edwards", "new");
        issuer
            .answer(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{renamed}", renamed.len()))
            .await;
        assert!(one.message().await.body.contains("x-user: bob"));
        let made_up = signed.replace(&header, &encode(json!({"alg": "EdDSA", "kid": "x"}).to_string()));
        assert_eq!(one.ask(&bearer(&made_up)).await.status(), 401);
        assert!(issuer.is_quiet().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_keys_nobody_comes_in() {
    local(async {
        let login = Login::new();
        let filters = vec![jwt(remote(secs(300)))];
        let world = World::of(usual(service("shop/catalog/http"), filtered(filters))).await;
        let answer = world.client().await.ask(&bearer(&login.sign("ES256", &ada()))).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("keys_missing")));
        let optional = Filter::Jwt(Jwt { issuers: vec![issuer(remote(secs(300)))], optional: true });
        world.apply(usual(service("shop/catalog/http"), filtered(vec![optional]))).await;
        echoing(world.backend(1));
        let answer = world.client().await.ask(&call("")).await;
        assert_eq!(answer.status(), 200);
        assert!(!answer.body.to_lowercase().contains("x-user"), "nobody says who he is: {}", answer.body);
        let bad = usual(service("shop/catalog/http"), filtered(vec![jwt(JwtKeys::Inline("{}".into()))]));
        let refused = world.plane.apply(&Snapshot::of(9, bad)).await.expect_err("refused");
        assert!(refused.to_string().contains("https://login"), "{refused}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn tokens_on_trial_are_told_of_and_stay_as_they_are() {
    local(async {
        let login = Login::new();
        let trial = |filter| Filter::Trial { policy: "shop/try".into(), filter: Box::new(filter) };
        let claims = vec![ClaimMatch { name: "sub".into(), values: vec![ValuePattern::Exact("ada".into())] }];
        let rule = AccessRule { allow: true, claims, ..AccessRule::default() };
        let access = || Filter::Access(Access { default_allow: false, rules: vec![rule.clone()] });
        let world = |keys| {
            let filters = vec![trial(jwt(keys)), trial(access())];
            World::of(usual(service("shop/catalog/http"), filtered(filters)))
        };
        let would_refuse = |world: &World| -> u64 {
            let told = world.plane.table().tallies();
            told.iter().filter(|one| one.event == Event::WouldRefuse).map(|one| one.count).sum()
        };
        let here = world(JwtKeys::Inline(login.keys())).await;
        echoing(here.backend(1));
        let mut client = here.client().await;
        let answer = client.ask(&bearer(&login.sign("ES256", &ada()))).await;
        assert_eq!((answer.status(), would_refuse(&here)), (200, 0));
        let body = answer.body.to_lowercase();
        assert!(body.contains("authorization") && !body.contains("x-user: ada"), "nothing changes: {body}");
        let answer = client.ask(&call("")).await;
        assert_eq!((answer.status(), would_refuse(&here)), (200, 2), "without a token, by both");
        let there = world(remote(secs(300))).await;
        echoing(there.backend(1));
        let answer = there.client().await.ask(&bearer(&login.sign("ES256", &ada()))).await;
        assert_eq!((answer.status(), would_refuse(&there)), (200, 2), "without keys");
    })
    .await;
}

fn known(world: &World) -> u64 {
    world.plane.table().tallies().iter().find(|one| one.event == Event::TokenKnown).map_or(0, |one| one.count)
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_proved_is_known_as_long_as_it_and_the_keys_count() {
    local(async {
        let (login, other) = (Login::new(), Login::new());
        let resources =
            |keys: String| usual(service("shop/catalog/http"), filtered(vec![jwt(JwtKeys::Inline(keys))]));
        let world = World::of(resources(login.keys())).await;
        echoing(world.backend(1));
        let mut client = world.client().await;
        let token = login.sign("ES256", &ada());
        for calls in 0..3 {
            let answer = client.ask(&bearer(&token)).await;
            assert_eq!((answer.status(), known(&world)), (200, calls));
            assert!(answer.body.contains("x-user: ada\r\n") && !answer.body.contains("uthorization"));
        }
        // Nothing but the very same token.
        let (head, _) = token.rsplit_once('.').expect("three parts");
        assert_eq!(client.ask(&bearer(&format!("{head}.{}", encode([7; 64])))).await.status(), 401);
        // One that expired is looked at anew, and counts as long as clocks may differ.
        let mut claims = ada();
        claims["exp"] = json!(in_seconds(-30));
        let late = login.sign("EdDSA", &claims);
        for _ in 0..2 {
            assert_eq!((client.ask(&bearer(&late)).await.status(), known(&world)), (200, 2));
        }
        world.apply(resources(other.keys())).await;
        assert_eq!(client.ask(&bearer(&token)).await.status(), 401, "the keys are others");
        assert_eq!(client.ask(&bearer(&other.sign("ES256", &ada()))).await.status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn keys_in_a_file_are_read_again_when_it_changes() {
    local(async {
        let (login, other) = (Login::new(), Login::new());
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.json");
        let filters = vec![jwt(JwtKeys::File(path.to_str().expect("text").to_owned()))];
        let world = World::of(usual(service("shop/catalog/http"), filtered(filters))).await;
        echoing(world.backend(1));
        let mut client = world.client().await;
        let (old, new) = (login.sign("ES256", &ada()), other.sign("ES256", &ada()));
        let answer = client.ask(&bearer(&old)).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("keys_missing")));
        assert!(answer.body.contains("keys.json"), "{}", answer.body);
        std::fs::write(&path, login.keys()).expect("written");
        tokio::time::sleep(secs(3)).await;
        for token in [&old, &old] {
            assert_eq!(client.ask(&bearer(token)).await.status(), 200);
        }
        assert_eq!(known(&world), 1);
        assert_eq!(client.ask(&bearer(&new)).await.status(), 401);
        // What is no key set leaves the last good one.
        std::fs::write(&path, "{").expect("written");
        tokio::time::sleep(secs(5)).await;
        assert_eq!(client.ask(&bearer(&old)).await.status(), 200);
        std::fs::write(&path, other.keys()).expect("written");
        // Keys that calls use are looked at beside them.
        let mut status = 0;
        for _ in 0..10 {
            status = client.ask(&bearer(&new)).await.status();
            tokio::time::sleep(secs(1)).await;
        }
        assert_eq!(status, 200);
        assert_eq!(client.ask(&bearer(&old)).await.status(), 401, "it was known by keys that are gone");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_set_of_keys_has_so_many_bytes_and_no_more() {
    local(async {
        let login = Login::new();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.json");
        let file = JwtKeys::File(path.to_str().expect("text").to_owned());
        for (bytes, expect) in [(256 << 10, 200), ((256 << 10) + 1, 503)] {
            let mut set = login.keys();
            set.push_str(&" ".repeat(bytes - set.len()));
            std::fs::write(&path, &set).expect("written");
            for keys in [remote(secs(300)), file.clone()] {
                let filters = vec![jwt(keys)];
                let world = World::of(usual(service("shop/catalog/http"), filtered(filters))).await;
                echoing(world.backend(1));
                let (mut issuers, set) = (world.backend(9), set.clone());
                beside(async move {
                    while let Ok((stream, _)) = issuers.0.accept().await {
                        let mut issuer = Peer::new(stream);
                        issuer.message().await;
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
                        issuer.try_send(head + &set).await;
                    }
                });
                let answer = world.client().await.ask(&bearer(&login.sign("ES256", &ada()))).await;
                assert_eq!(answer.status(), expect, "{bytes}: {}", answer.body);
            }
        }
    })
    .await;
}

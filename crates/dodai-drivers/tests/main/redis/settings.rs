//! What may be configured: passwords, databases, TLS; and what is refused.

use dodai_capability::component::{Context, Spec, Value};
use dodai_capability::state::{Get, Set};

use super::opened;
use crate::registry;
use crate::servers::Redis;

#[tokio::test(flavor = "multi_thread")]
async fn passwords_and_databases() {
    let redis = Redis::with(&["--requirepass", "open sesame"]);
    let spec = |password: &str| {
        let mut spec = Spec::new("s", "state.redis")
            .with("redisHost", redis.host())
            .with("redisDB", "3")
            .with("poolSize", "20");
        spec.properties.insert("redisPassword", Value::Secret(password.to_owned().into()));
        spec
    };
    let component = opened(spec("open sesame")).await;
    assert!(component.warnings.is_empty(), "{:?}", component.warnings);
    component.serves.state.clone().expect("state").set(Set::new("k", "v")).await.expect("written");
    let client = redis::Client::open(format!("redis://:open%20sesame@127.0.0.1:{}/3", redis.port))
        .expect("an address");
    let found: String = redis::cmd("HGET")
        .arg(&["k", "data"])
        .query(&mut client.get_connection().expect("connected"))
        .expect("read");
    assert_eq!(found, "v");
    let registry = registry(std::path::Path::new("."), &[]);
    let error =
        registry.open(spec("wrong password"), &Context::default()).await.expect_err("refused").to_string();
    assert!(!error.contains("wrong password") && error.contains(&redis.host()), "{error}");
}

#[tokio::test]
async fn what_is_not_offered_is_refused_with_a_remedy() {
    let registry = registry(std::path::Path::new("."), &[]);
    let table = [
        ("redisType", "cluster", "clusters are not offered yet"),
        ("failover", "true", "Sentinels are not offered yet"),
        ("insecureSkipTLSVerify", "true", "caCert"),
        ("redisHost", "one:1,two:2", "one Redis"),
        ("redisDB", "minus one", "the number of a database"),
        ("dialTimeout", "soon", "a duration"),
    ];
    for (name, value, expect) in table {
        let spec = Spec::new("s", "state.redis").with("redisHost", "127.0.0.1:1").with(name, value);
        let error = registry.open(spec, &Context::default()).await.expect_err(name).to_string();
        assert!(error.contains(name) && error.contains(expect), "{error}");
    }
    let missing =
        registry.open(Spec::new("s", "lock.redis"), &Context::default()).await.expect_err("missing");
    assert_eq!(missing.to_string(), "component `s`: property `redisHost` is missing");
    let spec = Spec::new("s", "lock.redis").with("redisHost", "127.0.0.1:1").with("clientCert", "PEM");
    let missing = registry.open(spec, &Context::default()).await.expect_err("missing").to_string();
    assert!(missing.contains("`clientKey` is missing"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_checked_against_the_roots_that_were_given() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["127.0.0.1".to_owned()];
    let certificate =
        rcgen::CertificateParams::new(names).expect("a name").self_signed(&key).expect("signed");
    std::fs::write(path("redis.pem"), certificate.pem()).expect("written");
    std::fs::write(path("redis.key"), key.serialize_pem()).expect("written");
    let (chain, key) = (path("redis.pem"), path("redis.key"));
    let port = crate::servers::free_port().to_string();
    let files = ["--tls-cert-file", &chain, "--tls-key-file", &key, "--tls-ca-cert-file", &chain];
    let redis = Redis::with(&[&["--tls-port", &*port, "--tls-auth-clients", "no"][..], &files[..]].concat());
    let spec = |roots: &str| {
        let spec = Spec::new("s", "state.redis").with("redisHost", format!("127.0.0.1:{port}"));
        spec.with("enableTLS", "true").with("caCert", roots)
    };
    let component = opened(spec(&certificate.pem())).await;
    let store = component.serves.state.clone().expect("state");
    store.set(Set::new("k", "v")).await.expect("written");
    assert!(store.get(&Get::new("k")).await.expect("read").is_some());

    let other = rcgen::KeyPair::generate().expect("a key");
    let other =
        rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name").self_signed(&other);
    let registry = registry(redis.folder(), &[]);
    let untrusted = spec(&other.expect("signed").pem());
    let error = registry.open(untrusted, &Context::default()).await.expect_err("not trusted").to_string();
    assert!(error.contains("certificate"), "{error}");
}

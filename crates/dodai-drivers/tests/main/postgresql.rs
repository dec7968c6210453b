//! The PostgreSQL drivers against a real server. Making one takes a while, so cases share it, each with tables of its own.

use std::time::Duration;

use dodai_capability::component::{Component, Context, Spec};
use dodai_capability::conformance::{self, Bench};
use dodai_capability::metadata::{Metadata, Ttl};
use dodai_capability::state::{Get, Set};

use crate::servers::Postgres;
use crate::{does_as_its_type_says, registry, upsets};

fn spec(kind: &str, version: &str, postgres: &Postgres) -> Spec {
    let mut spec = Spec::new("under-test", kind).with("connectionString", postgres.url());
    spec.version = version.to_owned();
    if kind.starts_with("configuration") {
        spec.with("table", "settings").with("pollInterval", "1s")
    } else {
        spec
    }
}

async fn opened(spec: Spec) -> Component {
    let registry = registry(std::path::Path::new("."), &[]);
    let component = registry.open(spec, &Context::default()).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(component.warnings.is_empty(), "{:?}", component.warnings);
    does_as_its_type_says(&registry, &component);
    component
}

/// A bench that lets time pass by moving the times that a column says.
async fn bench(spec: Spec, postgres: &Postgres, advance: &'static str) -> Bench {
    let admin = std::sync::Arc::new(postgres.admin().await);
    Bench {
        component: opened(spec.clone()).await,
        reopen: Box::new(move || Box::pin(opened(spec.clone()))),
        advance: Box::new(move |by| {
            let admin = admin.clone();
            Box::pin(async move {
                let by = format!("interval '{} milliseconds'", by.as_millis());
                admin.batch_execute(&advance.replace("BY", &by)).await.expect("time passes");
            })
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_of_version_1() {
    let postgres = Postgres::start();
    let advance = "ALTER TABLE state ADD COLUMN IF NOT EXISTS x int; UPDATE state SET expiredate = expiredate - BY WHERE expiredate IS NOT NULL";
    conformance::state::run(&mut bench(spec("state.postgresql", "v1", &postgres), &postgres, advance).await)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_of_version_2() {
    let postgres = Postgres::start();
    let advance = "UPDATE state SET expires_at = expires_at - BY WHERE expires_at IS NOT NULL";
    conformance::state::run(&mut bench(spec("state.postgresql", "v2", &postgres), &postgres, advance).await)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration() {
    let postgres = Postgres::start();
    let spec = spec("configuration.postgresql", "v1", &postgres);
    conformance::configuration::run(&mut bench(spec, &postgres, "").await, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_a_server_that_is_killed_and_cut_connections() {
    let mut postgres = Postgres::start();
    for version in ["v1", "v2"] {
        let spec =
            spec("state.postgresql", version, &postgres).with("metadataTableName", format!("m_{version}"));
        let name = if version == "v1" { "tableName" } else { "tablePrefix" };
        let store =
            opened(spec.with(name, format!("t_{version}"))).await.serves.state.clone().expect("state");
        upsets::writes(store.clone(), 2, async || {
            postgres.down();
            postgres.up(&[]);
        })
        .await;
        upsets::writes(store, 6, async || postgres.cut().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_are_told_the_last_value_whatever_befalls_the_server() {
    let mut postgres = Postgres::start();
    let component = opened(spec("configuration.postgresql", "v1", &postgres)).await;
    upsets::configuration(&component, 4, async || postgres.cut().await).await;
    let restart = async || {
        postgres.down();
        postgres.up(&[]);
    };
    upsets::configuration(&component, 2, restart).await;
}

/// Tables as Dapr's components make them.
const DAPR: &str = "
    CREATE TABLE dapr_metadata (key text NOT NULL PRIMARY KEY, value text NOT NULL);
    INSERT INTO dapr_metadata VALUES ('migrations', '1');
    CREATE TABLE state (
        key text NOT NULL PRIMARY KEY,
        value jsonb NOT NULL,
        isbinary boolean NOT NULL,
        insertdate TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
        updatedate TIMESTAMP WITH TIME ZONE NULL
    );
    INSERT INTO state (key, value, isbinary) VALUES ('shop||json', '{\"a\":1}', false), ('shop||bytes', '\"AP8=\"', true);
    CREATE TABLE two_state (
        key text NOT NULL PRIMARY KEY,
        value bytea NOT NULL,
        etag uuid NOT NULL DEFAULT gen_random_uuid(),
        created_at timestamp with time zone NOT NULL DEFAULT now(),
        updated_at timestamp with time zone,
        expires_at timestamp with time zone
    );
    INSERT INTO dapr_metadata VALUES ('migrations-state-v2-two_', '1');
    INSERT INTO two_state (key, value) VALUES ('shop||json', '{\"a\":1}');
    CREATE TABLE configtable (KEY VARCHAR NOT NULL, VALUE VARCHAR NOT NULL, VERSION VARCHAR NOT NULL, METADATA JSON);
    INSERT INTO configtable VALUES ('colour', 'green', '4', NULL);
    CREATE FUNCTION notify_event() RETURNS trigger AS $$ BEGIN
        PERFORM pg_notify('config', json_build_object('table', TG_TABLE_NAME, 'action', TG_OP, 'data', row_to_json(NEW))::text);
        RETURN NULL;
    END; $$ LANGUAGE plpgsql;
    CREATE TRIGGER config AFTER INSERT OR UPDATE OR DELETE ON configtable FOR EACH ROW EXECUTE PROCEDURE notify_event();";

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_exchanged_with_dapr() {
    let postgres = Postgres::start();
    let admin = postgres.admin().await;
    admin.batch_execute(DAPR).await.expect("made");
    let get = async |store: &std::sync::Arc<dyn dodai_capability::state::Store>, key: &str| {
        store.get(&Get::new(key)).await.expect("read").map(|item| item.value.to_vec())
    };
    let one = opened(spec("state.postgresql", "v1", &postgres)).await.serves.state.clone().expect("state");
    assert_eq!(get(&one, "shop||json").await, Some(br#"{"a": 1}"#.to_vec()));
    assert_eq!(get(&one, "shop||bytes").await, Some(b"\x00\xff".to_vec()));
    let ttl = Ttl::After(Duration::from_secs(100));
    one.set(Set { ttl, ..Set::new("shop||json", "[1, 2]") }).await.expect("written");
    one.set(Set::new("shop||spaces", "[1,2]")).await.expect("written");
    let rows = admin
        .query("SELECT key, value::text, isbinary, expiredate IS NOT NULL FROM state ORDER BY key", &[])
        .await;
    let rows: Vec<(String, String, bool, bool)> =
        rows.expect("read").iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    let row = |key: &str, value: &str, binary, expires| (key.to_owned(), value.to_owned(), binary, expires);
    assert_eq!(
        rows,
        [
            row("shop||bytes", r#""AP8=""#, true, false),
            row("shop||json", "[1, 2]", false, true),
            row("shop||spaces", r#""WzEsMl0=""#, true, false),
        ]
    );
    let level = "SELECT value FROM dapr_metadata WHERE key = 'migrations'";
    assert_eq!(admin.query_one(level, &[]).await.expect("read").get::<_, String>(0), "2");

    let two = opened(spec("state.postgresql", "v2", &postgres).with("tablePrefix", "two_")).await;
    let two = two.serves.state.clone().expect("state");
    assert_eq!(get(&two, "shop||json").await, Some(br#"{"a":1}"#.to_vec()));
    two.set(Set::new("shop||raw", &b"\xfe"[..])).await.expect("written");
    let raw =
        admin.query_one("SELECT value FROM two_state WHERE key = 'shop||raw'", &[]).await.expect("read");
    assert_eq!(raw.get::<_, Vec<u8>>(0), b"\xfe");

    let spec = Spec::new("c", "configuration.postgresql").with("connectionString", postgres.url());
    let component = opened(spec.with("table", "configtable").with("pollInterval", "1h")).await;
    let store = component.serves.configuration.clone().expect("configuration");
    let metadata = Metadata::from([("pgNotifyChannel".into(), "config".into())]);
    let mut feed = store.subscribe(&["colour".to_owned()], &metadata).await.expect("subscribed");
    admin.batch_execute("UPDATE configtable SET value = 'blue', version = '5'").await.expect("updated");
    let changes = tokio::time::timeout(Duration::from_secs(30), feed.next()).await.expect("it is told");
    let item = changes.expect("open").expect("no lag")[0].item.clone().expect("a value");
    assert_eq!((&*item.value, &*item.version), ("blue", "5"));
    let writer = component.serves.configuration_writer.clone().expect("a writer");
    writer.set("colour", "red", Metadata::new()).await.expect("set");
    let row = admin.query_one("SELECT value, version FROM configtable", &[]).await.expect("one row");
    assert_eq!((row.get(0), row.get(1)), ("red", "6"));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_while_the_server_is_away_are_told_when_it_is_back() {
    let mut postgres = Postgres::start();
    let component = opened(spec("configuration.postgresql", "v1", &postgres)).await;
    let store = component.serves.configuration.clone().expect("configuration");
    let mut feed = store.subscribe(&[], &Metadata::new()).await.expect("subscribed");
    postgres.down();
    postgres.up(&[]);
    let insert = "INSERT INTO settings VALUES ('colour', 'green', '1', NULL)";
    postgres.admin().await.batch_execute(insert).await.expect("written by somebody else");
    let changes = tokio::time::timeout(Duration::from_secs(30), feed.next()).await.expect("it is told");
    assert_eq!(changes.expect("open").expect("no lag")[0].key, "colour");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_made_as_the_string_says() {
    let mut postgres = Postgres::start();
    let registry = registry(std::path::Path::new("."), &[]);
    let open = async |text: &str, roots: Option<&str>| {
        let spec = Spec::new("s", "state.postgresql").with("connectionString", text);
        let spec = if let Some(roots) = roots { spec.with("caCert", roots) } else { spec };
        registry.open(spec, &Context::default()).await.map(|_| ()).map_err(|error| error.to_string())
    };
    let port = postgres.port;
    let pairs = |more: &str| {
        format!("host=127.0.0.1 port={port} user=dodai password='open sesame' database=postgres {more}")
    };
    open(&pairs(""), None).await.expect("pairs");
    let wrong = open(&pairs("").replace("sesame", "wrong"), None).await.expect_err("refused");
    assert!(wrong.contains("28P01") || wrong.contains("password authentication failed"), "{wrong}");
    assert!(!wrong.contains("open wrong"), "{wrong}");
    for (text, expect) in [
        ("nonsense", "give a URL"),
        ("host=a,b", "several hosts and Unix sockets are not offered"),
        ("host=/run/postgresql", "several hosts and Unix sockets are not offered"),
        ("host=a sslmode=maybe", "sslmode disable, require"),
        ("host=a sslrootcert=/proc/nowhere", "an sslrootcert that can be read"),
    ] {
        let error = open(text, None).await.expect_err(text);
        assert!(error.contains(expect), "{error}");
    }
    let clear = open(&pairs("sslmode=require"), None).await.expect_err("the server has no TLS");
    assert!(clear.contains(&format!("127.0.0.1:{port}")), "{clear}");

    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["127.0.0.1".to_owned()];
    let certificate =
        rcgen::CertificateParams::new(names).expect("a name").self_signed(&key).expect("signed");
    let (chain, secret) = (postgres.folder().join("server.pem"), postgres.folder().join("server.key"));
    std::fs::write(&chain, certificate.pem()).expect("written");
    std::fs::write(&secret, key.serialize_pem()).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    std::fs::set_permissions(&secret, mode).expect("for the server alone");
    let group =
        std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(postgres.folder()).expect("the folder"));
    std::os::unix::fs::chown(&secret, None, Some(group)).expect("for the server");
    postgres.down();
    let (chain, secret) =
        (format!("ssl_cert_file={}", chain.display()), format!("ssl_key_file={}", secret.display()));
    postgres.up(&["-c", "ssl=on", "-c", &chain, "-c", &secret]);
    open(&pairs("sslmode=verify-full"), Some(&certificate.pem()))
        .await
        .expect("a certificate that was given");
    let error = open(&pairs("sslmode=require"), None).await.expect_err("nobody trusts it");
    assert!(error.contains("certificate"), "{error}");
}

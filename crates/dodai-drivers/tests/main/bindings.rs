//! Bindings: a folder, the clock, and an HTTP endpoint.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, SystemTime};

use dodai_capability::binding::{Error, Output, Request, Response};
use dodai_capability::clock::Clock;
use dodai_capability::component::{Component, Context, Spec};
use dodai_capability::conformance::{self, Bench};

use crate::registry;

async fn opened(dir: &Path, spec: Spec, context: &Context) -> Component {
    let component = registry(dir, &[]).open(spec, context).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(component.warnings.is_empty(), "{:?}", component.warnings);
    component
}

async fn ask(
    output: &dyn Output,
    operation: &str,
    data: &str,
    metadata: &[(&str, &str)],
) -> Result<Response, Error> {
    output.invoke(request(operation, data, metadata)).await
}

fn request(operation: &str, data: &str, metadata: &[(&str, &str)]) -> Request {
    let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Request { operation: operation.to_owned(), data: data.to_owned().into(), metadata }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_a_binding() {
    let dir = tempfile::tempdir().expect("a folder");
    let spec = Spec::new("files", "bindings.localstorage").with("rootPath", "kept");
    let component = opened(dir.path(), spec, &Context::default()).await;
    let file = [("fileName", "a/b.txt")];
    let requests = [
        request("create", "\"some words\"", &file),
        request("get", "", &file),
        request("list", "", &[]),
        request("delete", "", &file),
    ];
    conformance::binding::output(&component, &requests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_a_binding() {
    let dir = tempfile::tempdir().expect("a folder");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    // It ends with the process.
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // One that was given up asks nothing.
                if socket.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
                    let _gone = socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
                }
            });
        }
    });
    let component =
        opened(dir.path(), Spec::new("api", "bindings.http").with("url", url), &Context::default()).await;
    let output = component.serves.output.clone().expect("an output binding");
    let requests: Vec<Request> =
        output.operations().iter().map(|operation| request(operation, "{}", &[])).collect();
    conformance::binding::output(&component, &requests).await;
}

#[tokio::test]
async fn the_clock_is_a_binding() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().to_owned();
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let context = Context { clock: clock.clone(), ..Context::default() };
    let spec = Spec::new("tick", "bindings.cron").with("schedule", "@every 30s");
    let spec = spec.with("route", "/ticks").with("direction", "input");
    let mut bench = Bench {
        component: opened(&folder, spec.clone(), &context).await,
        reopen: Box::new(move || {
            let (folder, spec, context) = (folder.clone(), spec.clone(), context.clone());
            Box::pin(async move { opened(&folder, spec, &context).await })
        }),
        advance: Box::new(move |by| {
            clock.advance(by);
            Box::pin(std::future::ready(()))
        }),
    };
    conformance::binding::input(&mut bench, Duration::from_secs(30)).await;
}

#[tokio::test]
async fn files_are_kept_below_the_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    let spec = Spec::new("files", "bindings.localstorage").with("rootPath", "kept");
    let component = opened(dir.path(), spec, &Context::default()).await;
    let output = component.serves.output.clone().expect("an output binding");
    let file = |name: &'static str| [("fileName", name)];
    let made = ask(&*output, "create", "\"hello\"", &file("a/b/c.txt")).await.expect("created");
    assert_eq!(made.data, r#"{"fileName":"a/b/c.txt"}"#);
    assert_eq!(std::fs::read(dir.path().join("kept/a/b/c.txt")).expect("it is there"), b"hello");
    ask(&*output, "create", "\"AP8=\"", &file("bytes")).await.expect("created");
    assert_eq!(&*ask(&*output, "get", "", &file("bytes")).await.expect("read").data, b"\x00\xff");
    ask(&*output, "create", "short", &file("a/b/c.txt")).await.expect("written over");
    assert_eq!(ask(&*output, "get", "", &file("/a/b/c.txt")).await.expect("read").data, "short");
    let drawn = ask(&*output, "create", "{}", &[]).await.expect("created under a name of its own");
    let drawn: BTreeMap<String, String> = serde_json::from_slice(&drawn.data).expect("JSON");
    assert!(dir.path().join("kept").join(&drawn["fileName"]).is_file());
    let below = ask(&*output, "list", "", &file("a")).await.expect("listed");
    let root = std::fs::canonicalize(dir.path()).expect("the folder");
    assert_eq!(below.data, serde_json::json!([root.join("kept/a/b/c.txt")]).to_string());
    ask(&*output, "delete", "", &file("bytes")).await.expect("deleted");
    let gone = ask(&*output, "get", "", &file("bytes")).await.expect_err("gone").to_string();
    assert!(gone.contains("get of") && gone.contains("No such file"), "{gone}");

    std::fs::write(dir.path().join("secret"), "s3cr3t").expect("written");
    std::os::unix::fs::symlink("../secret", dir.path().join("kept/link")).expect("a link");
    std::os::unix::fs::symlink("..", dir.path().join("kept/up")).expect("a link");
    for name in ["../secret", "link", "up/secret", "a/../../secret"] {
        for operation in ["get", "create"] {
            let error =
                ask(&*output, operation, "x", &[("fileName", name)]).await.expect_err(name).to_string();
            assert!(error.contains("leads out of the folder"), "{operation} {name}: {error}");
        }
    }
    assert_eq!(std::fs::read(dir.path().join("secret")).expect("it is there"), b"s3cr3t");
    let unknown = ask(&*output, "paint", "", &file("x")).await.expect_err("unknown").to_string();
    assert_eq!(unknown, "operation `paint` is not supported; it has create, get, list, delete");
    let registry = registry(dir.path(), &[]);
    let spec = Spec::new("files", "bindings.localstorage").with("rootPath", "/proc/self");
    let error = registry.open(spec, &Context::default()).await.expect_err("refused").to_string();
    assert!(error.contains("may not be there"), "{error}");
}

#[tokio::test]
async fn the_clock_tells_of_its_times() {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let context = Context { clock: clock.clone(), ..Context::default() };
    let spec = Spec::new("tick", "bindings.cron").with("schedule", "TZ=UTC */30 * * * * *");
    let component =
        opened(dir.path(), spec.with("route", "/ticks").with("direction", "input"), &context).await;
    let input = component.serves.input.clone().expect("an input binding");
    let mut events = input.read().await.expect("read");
    for _ in 0..3 {
        let advance = async {
            tokio::task::yield_now().await;
            clock.advance(Duration::from_secs(30));
        };
        let (event, ()) = tokio::join!(events.next(), advance);
        let event = event.expect("open");
        assert!(event.data.is_empty() && event.metadata["timeZone"] == "UTC", "{event:?}");
    }
    let (end, ()) = tokio::join!(events.next(), component.close());
    assert!(end.is_none());
    let registry = registry(dir.path(), &[]);
    let spec = Spec::new("tick", "bindings.cron").with("schedule", "61 * * * *");
    let error = registry.open(spec, &Context::default()).await.expect_err("refused").to_string();
    assert!(error.contains("`61` is no minute"), "{error}");
}

/// Answers one request after the other, and returns what they were.
fn server(answers: &'static [&'static str]) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/base", listener.local_addr().expect("bound"));
    let served = std::thread::spawn(move || {
        let one = |answer: &&str| {
            let (mut socket, _) = listener.accept().expect("a connection");
            let mut request = vec![0; 4096];
            let read = socket.read(&mut request).expect("a request");
            socket.write_all(answer.as_bytes()).expect("answered");
            String::from_utf8_lossy(&request[..read]).into_owned()
        };
        answers.iter().map(one).collect()
    });
    (url, served)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_to_the_url() {
    let dir = tempfile::tempdir().expect("a folder");
    let (url, served) = server(&[
        "HTTP/1.1 201 Created\r\nX-One: a\r\nX-One: b\r\nContent-Length: 4\r\n\r\ndone",
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n12345678901234567890",
    ]);
    let mut spec = Spec::new("api", "bindings.http").with("url", &url).with("maxResponseBodySize", "10");
    spec = spec.with("securityTokenHeader", "X-Token").with("securityToken", "t0ken");
    let component = opened(dir.path(), spec, &Context::default()).await;
    let output = component.serves.output.clone().expect("an output binding");
    let headers =
        [("path", "/orders?x=1"), ("X-User", "ada"), ("other", "stays here"), ("traceparent", "00-1-2-01")];
    let done = ask(&*output, "post", "{\"a\":1}", &headers).await.expect("done");
    assert_eq!(done.data, "done");
    assert_eq!((&*done.metadata["statusCode"], &*done.metadata["X-One"]), ("201", "a, b"));
    let error = ask(&*output, "get", "", &[]).await.expect_err("refused");
    assert_eq!(error.to_string(), "received status code 500");
    assert!(matches!(error, Error::Refused { response, .. } if response.data == "oops"));
    let done = ask(&*output, "delete", "", &[("errorIfNot2XX", "false")]).await.expect("told");
    assert_eq!(done.metadata["statusCode"], "404");
    let long = ask(&*output, "get", "", &[]).await.expect_err("too long").to_string();
    assert!(long.contains("its answer could not be read"), "{long}");
    let seen = served.join().expect("served");
    assert!(seen[0].starts_with("POST /base/orders?x=1 HTTP/1.1\r\n"), "{}", seen[0]);
    let lower = seen[0].to_lowercase();
    for line in ["x-user: ada", "x-token: t0ken", "content-type: application/json", "traceparent: 00-1-2-01"]
    {
        assert!(lower.contains(line), "{line} in {lower}");
    }
    assert!(!lower.contains("stays here") && seen[0].ends_with("{\"a\":1}"), "{}", seen[0]);
    assert!(seen[1].starts_with("GET /base HTTP/1.1\r\n"), "{}", seen[1]);
    let unknown = ask(&*output, "paint", "", &[]).await.expect_err("unknown").code();
    assert_eq!(unknown, "binding_unknown_operation");
    // Nobody listens there any longer.
    let away = ask(&*output, "get", "", &[]).await.expect_err("away");
    assert_eq!(away.code(), "unavailable");
}

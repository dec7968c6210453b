//! `dodai up` on an unmodified `dapr.yaml`: two apps written for the Dapr CLI, which know the ports that it fixes and send no
//! token.

use std::path::Path;

use serde_json::Value;

use crate::project::{get, until};
use crate::site::{PYTHON, Site, free_ports};
use crate::wire::Wire;

/// Takes orders by events, keeps them, and is asked for them.
const ORDERS: &str = r#"
import json, os, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
STATE = f"http://localhost:{os.environ['DAPR_HTTP_PORT']}/v1.0/state/statestore"
class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def reply(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == "/dapr/subscribe":
            return self.reply([{"pubsubname": "pubsub", "topic": "orders", "route": "/orders"}])
        if self.path == "/healthz":
            return self.reply({})
        if self.path == "/env":
            names = ["APP_ID", "APP_PORT", "APP_PROTOCOL", "DAPR_HTTP_PORT", "DAPR_GRPC_PORT", "DEBUG", "LEVEL"]
            told = {name: os.environ.get(name) for name in names}
            return self.reply(told | {"PROXY": os.environ.get("HTTP_PROXY"), "CWD": os.getcwd()})
        with urllib.request.urlopen(STATE + "/last") as answer:
            return self.reply(json.loads(answer.read() or b"null"))
    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps([{"key": "last", "value": event["data"]}]).encode()
        urllib.request.urlopen(urllib.request.Request(STATE, body, {"content-type": "application/json"})).read()
        self.reply({"status": "SUCCESS"})
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), App).serve_forever()
"#;

/// Publishes the same order again and again.
const CHECKOUT: &str = r#"
import os, time, urllib.request
url = f"http://localhost:{os.environ['DAPR_HTTP_PORT']}/v1.0/publish/pubsub/orders"
while True:
    request = urllib.request.Request(url, b'{"orderId": 7}', {"content-type": "application/json"})
    urllib.request.urlopen(request).read()
    time.sleep(0.2)
"#;

fn component(name: &str, kind: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\nspec: {{type: {kind}, version: v1}}\n"
    )
}

/// A project as the Dapr CLI takes it, with the ports of its apps' APIs.
fn project(ports: [u16; 4]) -> Site {
    let [app, http, grpc, other] = ports;
    let site = Site::new("dapr-yaml").with_home();
    site.write(
        "dapr.yaml",
        format!(
            "# https://docs.dapr.io/developing-applications/local-development/multi-app-dapr-run
version: 1
common:
  resourcesPath: ./components
  env:
    DEBUG: True
apps:
  - appID: order-processor
    appDirPath: ./order-processor/
    appPort: {app}
    daprHTTPPort: {http}
    daprGRPCPort: {grpc}
    enableAppHealthCheck: true
    appHealthProbeInterval: 1
    appLogDestination: fileAndConsole
    env:
      LEVEL: 1.10
    command: [\"python3\", \"app.py\"]
  - appDirPath: ./checkout/
    daprHTTPPort: {other}
    command: [\"python3\", \"app.py\"]
"
        ),
    );
    site.write("components/pubsub.yaml", component("pubsub", "pubsub.in-memory"));
    // Beside the app: these win over what all share.
    site.write("order-processor/.dapr/resources/statestore.yaml", component("statestore", "state.in-memory"));
    site.write("order-processor/.dapr/resources/pubsub.yaml", component("pubsub", "pubsub.in-memory"));
    site.write("order-processor/app.py", ORDERS);
    site.write("checkout/app.py", CHECKOUT);
    site
}

#[test]
fn up_runs_an_unmodified_dapr_yaml() {
    let ports: [u16; 4] = free_ports();
    let site = project(ports);
    let [app, http, grpc, other] = ports;
    let up = site.dodai(&["up", "-f", &site.folder().join("dapr.yaml").display().to_string(), "-d"]);
    assert!(up.status.success(), "{}", up.all());
    assert!(up.all().contains("dapr.yaml:15:") && up.all().contains("`dodai logs APP -f`"), "{}", up.all());

    // The order went from one app to the other, by the APIs at the ports that the file names, without a token.
    until("the order is kept", || get(app, "/last").is_ok_and(|last| last == "{\"orderId\": 7}"));
    let env: Value = serde_json::from_str(&get(app, "/env").unwrap()).unwrap();
    let text = |name: &str| env[name].as_str().map(str::to_owned);
    assert_eq!(text("DAPR_HTTP_PORT"), Some(http.to_string()));
    assert_eq!(text("DAPR_GRPC_PORT"), Some(grpc.to_string()));
    assert_eq!((text("APP_PORT"), text("APP_ID")), (Some(app.to_string()), Some("order-processor".into())));
    assert_eq!((text("APP_PROTOCOL"), text("DEBUG")), (Some("http".into()), Some("True".into())));
    assert_eq!((text("LEVEL"), text("PROXY")), (Some("1.10".into()), None), "{env}");
    let folder = site.folder().join("order-processor").canonicalize().unwrap();
    assert_eq!(text("CWD").as_deref().map(Path::new), Some(folder.as_path()));

    // One app calls another; what one may use the other may not.
    assert_eq!(get(other, "/v1.0/invoke/order-processor/method/last"), Ok("{\"orderId\": 7}".to_owned()));
    let refused = get(other, "/v1.0/state/statestore/last").unwrap_err();
    assert!(refused.starts_with("HTTP/1.1 500") || refused.starts_with("HTTP/1.1 400"), "{refused}");
    assert!(get(grpc, "/v1.0/metadata").unwrap().contains("\"id\":\"order-processor\""));
    site.down();

    // The folder alone will do too.
    let up = site.dodai(&["up", "-d"]);
    assert!(up.status.success(), "{}", up.all());
    until("the order is kept", || get(app, "/last").is_ok_and(|last| last == "{\"orderId\": 7}"));
    site.down();
}

/// Serves `AppCallback` and writes down which of its methods brought what. Answers of one field are written as bytes: topic
/// `orders` of `pubsub`, and the binding `clock`.
const CALLBACKS: &str = r#"
import os
from concurrent import futures
import grpc
SERVICE = "dapr.proto.runtime.v1.AppCallback"
def text(field, value):
    return bytes([field << 3 | 2, len(value)]) + value
def brings(name):
    def method(request, _context):
        with open("brought", "a") as file:
            file.write(f"{name} {request!r}\n")
        return b""
    return grpc.unary_unary_rpc_method_handler(method)
def answers(value):
    return grpc.unary_unary_rpc_method_handler(lambda _request, _context: value)
methods = {name: brings(name) for name in ["OnTopicEvent", "OnBindingEvent", "OnJobEvent"]}
methods["ListTopicSubscriptions"] = answers(text(1, text(1, b"pubsub") + text(2, b"orders")))
methods["ListInputBindings"] = answers(text(1, b"clock"))
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
server.add_insecure_port("127.0.0.1:" + os.environ["APP_PORT"])
server.start()
server.wait_for_termination()
"#;

#[test]
fn an_app_that_speaks_grpc_is_brought_topics_bindings_and_jobs() {
    let [app, http] = free_ports();
    let site = Site::new("dapr-yaml-grpc");
    let command = format!("[\"{PYTHON}\", \"app.py\"]");
    site.write(
        "dapr.yaml",
        format!(
            "version: 1\ncommon: {{resourcesPath: ./components}}\napps:\n  - {{appID: teller, appDirPath: ./teller, \
             appPort: {app}, appProtocol: grpc, daprHTTPPort: {http}, command: {command}}}\n"
        ),
    );
    site.write("components/pubsub.yaml", component("pubsub", "pubsub.in-memory"));
    let clock = "spec: {metadata: [{name: schedule, value: \"@every 1s\"}], type";
    site.write("components/clock.yaml", component("clock", "bindings.cron").replace("spec: {type", clock));
    site.write("teller/app.py", CALLBACKS);
    site.up();

    let post = |path: &str, body: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
        let length = body.len();
        let answer = Wire::to(http).ask(&format!("{head}content-length: {length}\r\n\r\n{body}"));
        assert_eq!(answer.status(), 204, "{path}: {}", answer.text());
    };
    post("/v1.0/publish/pubsub/orders", "\"an order\"");
    post("/v1.0/jobs/report", r#"{"dueTime": "0s", "data": "a report"}"#);
    let brought = || std::fs::read_to_string(site.folder().join("teller/brought")).unwrap_or_default();
    let has = |method: &str, word: &str| {
        brought().lines().any(|line| line.starts_with(method) && line.contains(word))
    };
    until("the topic", || has("OnTopicEvent ", "an order"));
    until("the binding", || has("OnBindingEvent ", "clock"));
    until("the job", || has("OnJobEvent ", "a report"));
    site.down();
}

/// Says what it was started with.
const TELLER: &str = r#"
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = (os.environ["VALUE"] + " of the first").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), App).serve_forever()
"#;

#[test]
fn what_changes_in_a_dapr_yaml_is_watched() {
    let [app, http, other, later] = free_ports();
    let site = Site::new("dapr-yaml-watch").with_home();
    let file = |value: &str, more: &str| {
        let text = format!(
            "version: 1\ncommon: {{resourcesPath: ./components}}\napps:\n  - {{appID: teller, appDirPath: ./teller, \
             appPort: {app}, daprHTTPPort: {http}, env: {{VALUE: {value}}}, command: [{PYTHON}, app.py]}}\n{more}"
        );
        site.write("dapr.yaml", text);
    };
    file("one", "");
    site.write("components/pubsub.yaml", component("pubsub", "pubsub.in-memory"));
    site.write("teller/app.py", TELLER);
    let up = site.dodai(&["up", "-f", "dapr.yaml", "--watch", "-d"]);
    assert!(up.status.success(), "{}", up.all());
    let says = |port: u16, words: &str| get(port, "/").is_ok_and(|said| said == words);
    until("it runs", || says(app, "one of the first"));

    // The file, a program, and a resource that comes and goes.
    file("two", "");
    until("the app has its new variable", || says(app, "two of the first"));
    site.write("teller/app.py", TELLER.replace("first", "second"));
    until("the new program runs", || says(app, "two of the second"));
    let has_store = || get(http, "/v1.0/metadata").is_ok_and(|about| about.contains("\"state.in-memory\""));
    assert!(!has_store());
    site.write("components/store.yaml", component("store", "state.in-memory"));
    until("the store is there", has_store);
    std::fs::remove_file(site.folder().join("components/store.yaml")).unwrap();
    until("the store is gone", || !has_store());
    site.write("teller/.dapr/resources/store.yaml", component("store", "state.in-memory"));
    until("the app's own store is there", has_store);

    // What is wrong is told, with its line, and what ran goes on; mended, it counts.
    file("three", "  - {appID: other, appDirPath: ./other}\n");
    until("the missing folder is told", || site.log().contains("dapr.yaml:5:32: apps[1].appDirPath"));
    assert!(says(app, "two of the second"));
    site.write("other/app.py", TELLER);
    let line = |id: &str, port: u16| {
        format!(
            "  - {{appID: {id}, appDirPath: ./other, appPort: {port}, env: {{VALUE: {id}}}, command: [{PYTHON}, app.py]}}\n"
        )
    };
    file("three", &line("other", other));
    until("a second app runs", || says(other, "other of the first"));
    until("the first has changed", || says(app, "three of the second"));
    let called = || get(http, "/v1.0/invoke/other/method/").is_ok_and(|said| said == "other of the first");
    until("one calls the other", called);
    file("three", &line("last", later));
    until("another took its place", || says(later, "last of the first") && get(other, "/").is_err());
    site.down();
}

#[test]
fn a_dapr_yaml_is_validated_without_a_start() {
    let site = Site::new("dapr-yaml-valid").with_home();
    let validate = |arguments: &[&str]| {
        let binary = crate::project::binary().display().to_string();
        site.command(&binary, &[&["validate"], arguments].concat())
    };
    site.write(
        "dapr.yaml",
        "version: 1\ncommon: {resourcesPath: ./components}\napps: [{appDirPath: ./shop}]\n",
    );
    site.write("shop/app.py", "");
    site.write("components/store.yaml", component("store", "state.in-memory"));
    for arguments in [&[][..], &["."], &["dapr.yaml"], &["-f", "dapr.yaml"]] {
        let valid = validate(arguments);
        assert!(valid.status.success(), "{}", valid.all());
        assert!(valid.out().contains("2 documents are valid"), "{}", valid.all());
    }
    site.write(
        "dapr.yaml",
        "version: 1\napps:\n  - {appDirPath: ./shop, logLevel: debug}\n  - {appDirPath: ./none}\n",
    );
    let wrong = validate(&["dapr.yaml"]);
    assert_eq!(wrong.status.code(), Some(3), "{}", wrong.all());
    assert!(wrong.all().contains("4 |   - {appDirPath: ./none}"), "{}", wrong.all());
    let told = validate(&["dapr.yaml", "-o", "json"]);
    let told: Value = serde_json::from_str(told.out()).unwrap();
    assert_eq!((&told["errors"][0]["line"], &told["errors"][0]["column"]), (&4.into(), &18.into()), "{told}");
    assert_eq!(told["warnings"][1]["path"], "apps[0].logLevel", "{told}");
    site.write("dapr.yaml", "version: 1\nappps: []\n");
    assert_eq!(validate(&["dapr.yaml"]).status.code(), Some(3));
}

/// Documents of our own kinds come first, and are not disturbed by the run file beside them.
#[test]
fn of_documents_and_a_dapr_yaml_in_one_folder_the_documents_are_taken() {
    let site = Site::new("dapr-yaml-beside").with_home();
    site.write("dapr.yaml", "# docs.dapr.io/x\nversion: 1\napps: [{appID: a, appDirPath: .}]\n");
    site.write("deploy/night.yaml", crate::site::process("night", &["sleep", "60"], ""));
    let up = site.try_up();
    assert!(up.status.success(), "{}", up.all());
    assert!(up.all().contains("deploy/night.yaml is one") && up.all().contains("-f"), "{}", up.all());
    assert!(site.log().contains("default/night"), "{}", site.log());
    site.down();
    let valid = site.command(&crate::project::binary().display().to_string(), &["validate", "."]);
    assert!(valid.status.success() && valid.all().contains("1 document is valid"), "{}", valid.all());
}

#[test]
fn what_is_wrong_with_a_dapr_yaml_stops_the_start() {
    let site = Site::new("dapr-yaml-wrong").with_home();
    let refused = |text: &str, words: &[&str]| {
        site.write("dapr.yaml", text);
        let up = site.dodai(&["up", "-f", "dapr.yaml"]);
        assert!(!up.status.success(), "{}", up.all());
        for word in words {
            assert!(up.all().contains(word), "no `{word}` in {}", up.all());
        }
    };
    let unknown = "version: 1\napps:\n  - appID: a\n    appDirPath: ./none\n    daprHttpPort: 3500\n";
    refused(
        unknown,
        &["dapr.yaml:4:17", "apps[0].appDirPath", "there is no folder", "dapr.yaml:5:5", "`daprHTTPPort`?"],
    );
    refused("version: 1\napps: [{appID: My_App, appDirPath: .}]\n", &["appID My_App", "write appID my-app"]);
    refused(
        "version: 1\napps: [{appID: a, appDirPath: .}, {appID: a, appDirPath: .}]\n",
        &["there are two apps `a`"],
    );
    for (folder, kind) in [("one", "state.in-memory"), ("two", "state.sqlite")] {
        site.write(&format!("{folder}/.dapr/resources/store.yaml"), component("statestore", kind));
    }
    refused(
        "version: 1\napps: [{appDirPath: ./one}, {appDirPath: ./two}]\n",
        &["Component", "statestore", "is not the one of", "give one another name"],
    );
}

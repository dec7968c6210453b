//! Messages in a real Redis, to an app that takes them in bulk, does not take some, and reads some without an envelope.

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::sidecar::{Sidecar, World};
use crate::project::{Done, get, until};
use crate::site::free_ports;

/// A program of this test. It is killed at the end.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn components(redis: u16) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: pubsub}}
spec:
  type: pubsub.redis
  version: v1
  metadata:
    - {{name: redisHost, value: '127.0.0.1:{redis}'}}
    - {{name: redeliverInterval, value: 100ms}}
    - {{name: keepSettled, value: 'true'}}
---
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {{name: twice-more}}
spec:
  policies: {{retries: {{twice: {{policy: constant, duration: 50ms, maxRetries: 2}}}}}}
  targets: {{components: {{pubsub: {{inbound: {{retry: twice}}}}}}}}
"
    )
}

struct Site {
    sidecar: Sidecar,
    app: u16,
    redis: u16,
    _programs: [Program; 2],
    _world: World,
}

impl Site {
    fn start() -> Site {
        let world = World::new();
        let [redis, app] = free_ports();
        world.write("components/all.yaml", &components(redis));
        let quiet = |command: &mut Command| {
            Program(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
        };
        let server = quiet(
            Command::new("redis-server")
                .args(["--port", &redis.to_string(), "--bind", "127.0.0.1", "--save", ""])
                .current_dir(world.path("")),
        );
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/bulk.py");
        let peer = quiet(Command::new("python3").args([script, &app.to_string()]));
        until("the app listens", || get(app, "/seen").is_ok());
        let port = app.to_string();
        let arguments = ["--app-id", "shop", "--app-port", &port, "--resources-path", "components"];
        let sidecar = Sidecar::start(&world, &arguments, &[]);
        let site = Site { sidecar, app, redis, _programs: [server, peer], _world: world };
        until("the app's groups are there", || {
            let topics = ["orders", "single", "dead", "raw", "rawbulk"];
            topics.iter().all(|topic| site.redis(&["XINFO", "GROUPS", topic]).contains("shop"))
        });
        site
    }

    /// What the Redis says, as its own client shows it.
    fn redis(&self, words: &[&str]) -> String {
        Done::of(Command::new("redis-cli").args(["-p", &self.redis.to_string()]).args(words)).out().to_owned()
    }

    fn publish(&self, path: &str, kind: &str, body: &str) {
        let told =
            self.sidecar.call("POST", &format!("/v1.0/publish/{path}"), &[("content-type", kind)], body);
        assert!((200..300).contains(&told.status), "{told:?}");
    }

    /// What came at a path: calls, each with its texts.
    fn calls(&self, path: &str) -> Vec<Value> {
        let seen: Vec<Value> = serde_json::from_str(&get(self.app, "/seen").unwrap()).unwrap();
        seen.into_iter().filter(|one| one["path"] == path).collect()
    }

    /// All texts that came at a path, in order of the alphabet.
    fn texts(&self, path: &str) -> Vec<String> {
        let calls = self.calls(path);
        let each = calls.iter().flat_map(|call| call["texts"].as_array().unwrap());
        let mut texts: Vec<String> = each.map(|text| text.as_str().unwrap().to_owned()).collect();
        texts.sort();
        texts
    }

    fn pending(&self, topic: &str) -> String {
        self.redis(&["XPENDING", topic, "shop"]).lines().next().unwrap_or_default().to_owned()
    }
}

#[test]
fn messages_come_in_bulk_die_and_go_without_an_envelope() {
    let site = Site::start();
    in_bulk(&site);
    one_by_one(&site);
    raw(&site);
    site.sidecar.stop();
}

fn in_bulk(site: &Site) {
    let mut expect: Vec<String> = (10..30).map(|at| format!("order {at}")).collect();
    let texts = expect.iter().map(String::as_str).chain(["bad"]);
    let entries = texts
        .enumerate()
        .map(|(at, text)| json!({"entryId": at.to_string(), "event": text, "contentType": "text/plain"}));
    site.publish("bulk/pubsub/orders", "application/json", &Value::from_iter(entries).to_string());
    // The first delivery and two more, then it is dead.
    expect.splice(0..0, ["bad", "bad", "bad"].map(str::to_owned));
    until("what cannot be taken is dead", || site.texts("/dead") == ["bad"]);
    until("all is settled", || site.pending("orders") == "0");
    assert_eq!(site.texts("/bulk"), expect);
    let sizes: Vec<usize> =
        site.calls("/bulk").iter().map(|call| call["texts"].as_array().unwrap().len()).collect();
    assert!(sizes.iter().all(|size| *size <= 10) && sizes.contains(&10), "{sizes:?}");
}

fn one_by_one(site: &Site) {
    site.publish("pubsub/single", "text/plain", "bad");
    site.publish("pubsub/single", "text/plain", "good");
    until("it is dead, too", || site.texts("/dead").len() == 2);
    until("all is settled", || site.pending("single") == "0" && site.pending("dead") == "0");
    assert_eq!(site.texts("/one"), ["bad", "bad", "bad", "good"]);
    let bad = site.calls("/one").into_iter().find(|call| call["texts"] == json!(["bad"])).unwrap();
    assert_eq!(site.calls("/dead")[1]["id"], bad["id"], "it is the same event");
}

fn raw(site: &Site) {
    for (topic, path) in [("raw", "/raw"), ("rawbulk", "/rawbulk")] {
        site.publish(&format!("pubsub/{topic}?metadata.rawPayload=true"), "text/plain", "bare words");
        until("bare words came", || site.texts(path) == ["bare words"]);
        let kept = site.redis(&["XRANGE", topic, "-", "+"]);
        assert!(kept.lines().any(|line| line == "bare words"), "there is no envelope around it: {kept}");
        site.redis(&["XADD", topic, "*", "data", "from elsewhere"]);
        until("another's words came", || site.texts(path) == ["bare words", "from elsewhere"]);
        // Of a message with an envelope the subscription is given all.
        site.publish(&format!("pubsub/{topic}"), "text/plain", "wrapped");
        until("the envelope came", || site.texts(path).len() == 3);
        let whole = site.texts(path).pop().filter(|text| text.starts_with('{'));
        let whole: Value =
            serde_json::from_str(&whole.unwrap_or_else(|| panic!("{:?}", site.texts(path)))).unwrap();
        assert_eq!((&whole["data"], &whole["specversion"]), (&json!("wrapped"), &json!("1.0")));
        until("all is settled", || site.pending(topic) == "0");
    }
}

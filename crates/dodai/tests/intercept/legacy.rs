//! `examples/legacy` as its README has it: set up, called, intercepted, called again, released, taken down.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::project::{Done, binary, until};

/// The example under a name of its own; taken down with the value.
struct Legacy {
    state: tempfile::TempDir,
    tag: String,
}

impl Legacy {
    fn script(&self, arguments: &[&str]) -> Done {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/legacy/legacy.sh");
        let mut command = Command::new(script);
        command.args(arguments).env("DODAI", binary()).env("LEGACY_TAG", &self.tag);
        Done::of(command.env("LEGACY_STATE", self.data("")))
    }

    fn data(&self, below: &str) -> PathBuf {
        self.state.path().join("state").join(below)
    }

    fn does(&self, arguments: &[&str]) {
        let done = self.script(arguments);
        assert!(
            done.status.success(),
            "legacy.sh {}: {}\nTHIS TEST NEEDS NETWORK NAMESPACES: run it as root, where `ip netns add` is allowed.",
            arguments.join(" "),
            done.all()
        );
    }

    /// The client's call, which nobody has told of anything.
    fn call(&self, url: &str) -> (String, String) {
        let done =
            self.script(&["in", "client", "curl", "-sS", "--max-time", "20", "-w", "%{http_code}", url]);
        assert!(done.status.success(), "{url}: {}", done.all());
        let (body, status) = done.out().split_at(done.out().len() - 3);
        (body.to_owned(), status.to_owned())
    }
}

impl Drop for Legacy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["base-client", "base-web", "nginx", "stock"] {
                let log = std::fs::read_to_string(self.data(&format!("{name}.log"))).unwrap_or_default();
                eprintln!("{name}: {log}");
            }
        }
        let _down = self.script(&["down"]);
    }
}

/// What the client sees without interception.
fn as_ever(legacy: &Legacy) {
    assert_eq!(legacy.call("http://web/").0, "web: /, asked with trace ''\n");
    assert_eq!(legacy.call("http://web/internal").0, "web: for us only\n");
    let both = [legacy.call("http://stock:8000/bolt").1, legacy.call("http://stock:8000/bolt").1];
    assert!(both.contains(&"503".to_owned()), "every other answer is a failure: {both:?}");
}

#[test]
fn programs_in_which_nothing_is_changed_are_routed_guarded_and_told_of() {
    let state = tempfile::Builder::new().prefix("dodai-legacy-").tempdir().unwrap();
    let legacy = Legacy { state, tag: format!("legacy{}", std::process::id()) };
    legacy.does(&["up"]);
    as_ever(&legacy);
    legacy.does(&["intercept"]);

    for _ in 0..6 {
        let answer = legacy.call("http://stock:8000/bolt");
        assert_eq!(answer, ("stock: /bolt is there\n".to_owned(), "200".to_owned()), "it is tried again");
    }
    let (body, status) = legacy.call("http://web/");
    assert!(status == "200" && body.contains("trace '00-"), "{body}");
    let (body, _) = legacy.call("http://web/next/x");
    assert_eq!(body, "stock: /next/x is there\n", "a route leads elsewhere");
    let (body, status) = legacy.call("http://web/internal");
    assert!(status == "403" && body.contains("denied"), "{status} {body}");

    let metrics = legacy.call("http://127.0.0.1:7071/metrics").0;
    let stock = "{direction=\"outbound\",caller=\"default/till\",service=\"default/stock/http\",route=\"\"";
    assert!(metrics.contains(&format!("dodai_calls_total{stock},class=\"2xx\"}} 6\n")), "{metrics}");
    assert!(metrics.contains("dodai_intercepted_connections_total{way=\"outbound\",fate=\"routed\"} 9\n"));
    let retries =
        metrics.lines().find_map(|line| line.strip_prefix(&format!("dodai_call_retries_total{stock}}} ")));
    assert!(retries.is_some_and(|count| count.parse::<u32>().unwrap() >= 3), "{metrics}");

    // Somebody looks on while calls are made.
    let ended = AtomicBool::new(false);
    let seen = std::thread::scope(|threads| {
        let tap = threads.spawn(|| {
            let (program, data) =
                (binary().display().to_string(), legacy.data("client").display().to_string());
            let done =
                legacy.script(&["in", "client", &program, "tap", "--limit", "1", "--data-folder", &data]);
            ended.store(true, Ordering::Relaxed);
            done.all()
        });
        until("a call is seen", || {
            legacy.call("http://stock:8000/nut");
            ended.load(Ordering::Relaxed)
        });
        tap.join().unwrap()
    });
    assert!(seen.contains("200 GET /nut  default/till -> default/stock/http"), "{seen}");

    legacy.does(&["release"]);
    as_ever(&legacy);
    legacy.does(&["down"]);
    let namespaces = Done::of(Command::new("ip").args(["netns", "list"]));
    assert!(!namespaces.out().contains(&legacy.tag), "{}", namespaces.all());
}

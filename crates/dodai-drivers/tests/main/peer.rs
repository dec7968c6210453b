//! Dapr's own stores and brokers (`tests/dapr`): a process that does what it is asked.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

/// Built once; what nobody changed is not built again. Nothing is passed over for want of it.
static PROGRAM: LazyLock<String> = LazyLock::new(|| {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dapr-stores").display().to_string();
    let build = Command::new("go")
        .args(["build", "-mod=readonly", "-o", &program, "."])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dapr"))
        .output()
        .expect("this test needs Go 1.24 or later (Debian package golang-go)");
    assert!(build.status.success(), "Dapr's stores: {}", String::from_utf8_lossy(&build.stderr));
    program
});

pub struct Dapr {
    process: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Dapr {
    pub fn start() -> Dapr {
        let mut process = Command::new(&*PROGRAM)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Dapr's stores run");
        let asks = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        Dapr { process, asks, answers }
    }

    /// What became of a request.
    pub fn tries(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.asks.as_ref().expect("open"), "{request}").expect("asked");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it ended at {request}"));
        answer["error"].as_str().map_or(Ok(answer.clone()), |error| Err(error.to_owned()))
    }

    /// The answer to a request that must be done.
    pub fn does(&mut self, request: &Value) -> Value {
        self.tries(request).unwrap_or_else(|error| panic!("{request}: {error}"))
    }

    /// Opens a component of that kind, which is its name too.
    pub fn opens(&mut self, kind: &str, metadata: &Value) {
        self.does(&json!({"do": "open", "of": kind, "kind": kind, "metadata": metadata}));
    }

    /// The next that a subscription of the component brings.
    pub fn hears(&mut self, of: &str) -> Value {
        self.does(&json!({"do": "next", "of": of}))
    }
}

impl Drop for Dapr {
    fn drop(&mut self) {
        self.asks = None;
        let _killed = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// Bytes as requests have them.
pub fn bytes(value: impl AsRef<[u8]>) -> String {
    BASE64.encode(value)
}

/// The bytes of an answer; nothing where there are none.
pub fn value(answer: &Value) -> Option<Vec<u8>> {
    answer["value"].as_str().map(|text| BASE64.decode(text).expect("base64"))
}

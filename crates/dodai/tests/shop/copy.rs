//! A copy of the example shop on ports of its own, and what a customer can do in it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::fleet::Machines;
use crate::project::{DEADLINE, Done, binary, until};
use crate::site::free_ports;

/// How the shop runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `dodai up`: everything in one process.
    Up,
    /// `dodai base --from`: a base on its own.
    Alone,
    /// `dodai server` and a `dodai base` that joined it.
    Joined,
}

/// The shop.
pub struct Shop {
    folder: tempfile::TempDir,
    /// Where its gateway listens.
    pub port: u16,
    recommend_port: u16,
    cookie: String,
}

impl Shop {
    /// With its native app built before: it is newer than its sources, from a build that is kept.
    pub fn new() -> Shop {
        let shop = Shop::sources();
        let app = shop.path("apps/orders");
        copy_app(&app);
        std::fs::create_dir_all(app.join("target/release")).unwrap();
        std::fs::copy(orders(), app.join("target/release/orders")).unwrap();
        shop
    }

    /// With its native app still to be built. The app lies in a folder that stays, where the next build finds its
    /// dependencies; the product itself is gone.
    pub fn unbuilt() -> Shop {
        let shop = Shop::sources();
        let app = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shop-unbuilt");
        copy_app(&app);
        let mut cargo = Command::new(env!("CARGO"));
        let fetched = Done::of(cargo.args(["fetch", "--quiet", "--locked"]).current_dir(&app));
        assert!(fetched.status.success(), "{}", fetched.all());
        let product = app.join("target/release/orders");
        assert!(!product.exists() || std::fs::remove_file(&product).is_ok());
        std::fs::create_dir_all(shop.path("apps")).unwrap();
        std::os::unix::fs::symlink(app, shop.path("apps/orders")).unwrap();
        shop
    }

    /// All but its native app.
    fn sources() -> Shop {
        let folder = tempfile::Builder::new().prefix("dodai-shop-").tempdir().unwrap();
        let modules = ["catalog.wasm", "notify.wasm", "web.wasm"].map(|name| format!("artifacts/{name}"));
        let rest = ["dodai.yaml", "traffic.yaml", "components.yaml", "secrets.json", "external/recommend.py"];
        for file in modules.iter().map(String::as_str).chain(rest) {
            let to = folder.path().join(file);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(example().join(file), to).unwrap();
        }
        let [port, recommend_port] = free_ports();
        let replace = |file: &str, from: &str, to: u16| {
            let path = folder.path().join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{file} holds no {from}");
            std::fs::write(path, text.replace(from, &to.to_string())).unwrap();
        };
        replace("traffic.yaml", "8080", port);
        replace("dodai.yaml", "9301", recommend_port);
        Shop { folder, port, recommend_port, cookie: String::new() }
    }

    /// A path below its folder.
    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// Starts it as `way` says, with processes that end with the value.
    pub fn start(&self, way: Way) -> Machines {
        let mut machines = Machines::at(&format!("shop-{way:?}").to_lowercase(), self.folder.path());
        let folder = machines.path("");
        match way {
            Way::Up => {
                let data = machines.path("server");
                machines.start("up", &["up", &folder, "--admin", "127.0.0.1:0", "--data", &data]);
            }
            Way::Alone => {
                let (data, name) = (machines.path("server"), machines.name("alone"));
                let own = ["base", "--from", &folder, "--data", &data, "--name", &name];
                machines.start("alone", &[&own[..], &["--threads", "1", "--admin", "127.0.0.1:0"]].concat());
            }
            Way::Joined => {
                machines.serve(&[]);
                machines.join("one", &[]);
                for file in ["components.yaml", "dodai.yaml", "traffic.yaml"] {
                    machines.apply(file);
                }
            }
        }
        for path in ["products", "notifications", "orders"] {
            let ready = format!("GET /api/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            until(path, || exchange(self.port, &ready).is_ok_and(|(status, _, _)| status == 200));
        }
        machines
    }

    pub fn dodai(&self, arguments: &[&str]) -> Done {
        let mut command = Command::new(binary());
        // What is built here was fetched before.
        command.env("CARGO_NET_OFFLINE", "true");
        Done::of(command.args(arguments).current_dir(self.folder.path()))
    }

    pub fn up(&self) -> Done {
        let up = self.dodai(&["up", ".", "-d", "--threads", "1", "--admin", "127.0.0.1:0"]);
        assert!(up.status.success(), "{}", up.all());
        up
    }

    /// One call of the page, with its cookie: status and body.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.try_call(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn try_call(&mut self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<(u16, Value)> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let head = format!(
            "{method} /api{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncookie: {}\r\ncontent-length: {}\r\n\r\n",
            self.cookie,
            body.len()
        );
        let (status, head, body) = exchange(self.port, &(head + &body))?;
        let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
        if let Some(cookie) = cookie.and_then(|text| text.split(';').next()) {
            cookie.clone_into(&mut self.cookie);
        }
        let value = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        Ok((status, value))
    }

    pub fn get(&mut self, path: &str) -> Value {
        let (status, value) = self.call("GET", path, None);
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    pub fn product(&mut self, id: &str) -> Value {
        let all = self.get("/products");
        let found = all["products"].as_array().unwrap().iter().find(|one| one["id"] == id).cloned();
        found.unwrap_or_else(|| panic!("no {id} in {all}"))
    }

    pub fn wait(&mut self, what: &str, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let start = std::time::Instant::now();
        loop {
            let value = self.get(path);
            if holds(&value) {
                return value;
            }
            assert!(start.elapsed() < DEADLINE, "not in time: {what}; {path} says {value}");
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
    }

    pub fn start_recommend(&self) -> Outside {
        let mut command = Command::new("python3");
        command.arg(self.folder.path().join("external/recommend.py"));
        command.args(["--port", &self.recommend_port.to_string()]).stdout(Stdio::null());
        Outside(command.spawn().expect("python3 is installed"))
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if self.folder.path().join(".dodai/admin.json").exists() {
            // The test failed half-way: its server must not stay.
            let _stopped = self.dodai(&["down"]);
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join(".dodai/up.log")).unwrap_or_default();
            eprintln!("up.log:\n{log}");
        }
    }
}

/// A process beside the shop, ended with the test.
pub struct Outside(Child);

impl Drop for Outside {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop")
}

/// Copies the sources of the shop's own native app.
fn copy_app(to: &Path) {
    let from = example().join("apps/orders");
    std::fs::create_dir_all(to.join("src")).unwrap();
    for file in ["Cargo.toml", "Cargo.lock"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    for entry in std::fs::read_dir(from.join("src")).unwrap().flatten() {
        std::fs::copy(entry.path(), to.join("src").join(entry.file_name())).unwrap();
    }
}

/// The shop's own native app; built once and kept beside the tests' own binaries.
fn orders() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shop-orders");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--target-dir"]).arg(&target);
    let built = Done::of(cargo.current_dir(example().join("apps/orders")));
    assert!(built.status.success(), "{}", built.all());
    target.join("debug/orders")
}

/// One exchange on a connection of its own: status, head in lower case names as sent, body as it is.
pub fn exchange(port: u16, request: &str) -> std::io::Result<(u16, String, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(|| {
        std::io::Error::other(format!("no whole head in {:?}", String::from_utf8_lossy(&answer)))
    })?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let body = answer[end + 4..].to_vec();
    let body =
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunk(&body) } else { body };
    Ok((status, head, body))
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|window| window == b"\r\n").expect("a chunk's size");
        let size =
            usize::from_str_radix(std::str::from_utf8(&body[..line]).unwrap(), 16).expect("hexadecimal");
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 2 + size + 2..];
    }
}

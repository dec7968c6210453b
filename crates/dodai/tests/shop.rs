//! The example shop as its README tells it: something is ordered, what is not vital goes away and comes back,
//! configuration changes live, a module is deployed under load, and a second start finds the orders again.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::project::{DEADLINE, Done, binary, until};

/// A copy of the shop on ports of its own.
struct Shop {
    folder: tempfile::TempDir,
    port: u16,
    recommend_port: u16,
    cookie: String,
}

impl Shop {
    fn new() -> Shop {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
        let folder = tempfile::Builder::new().prefix("dodai-shop-").tempdir().unwrap();
        let copy = |from: &str, to: &str| {
            let to = folder.path().join(to);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(source.join(from), to).unwrap();
        };
        for file in ["catalog.wasm", "notify.wasm", "web.wasm"].map(|name| format!("artifacts/{name}")) {
            copy(&file, &file);
        }
        for file in ["dodai.yaml", "traffic.yaml", "components.yaml", "secrets.json", "external/recommend.py"]
        {
            copy(file, file);
        }
        for file in ["Cargo.toml", "Cargo.lock"].map(|name| format!("apps/orders/{name}")) {
            copy(&file, &file);
        }
        for entry in std::fs::read_dir(source.join("apps/orders/src")).unwrap().flatten() {
            let file = format!("apps/orders/src/{}", entry.file_name().display());
            copy(&file, &file);
        }
        // `up` builds it when it is missing; here it is there, newer than its sources, from a build that is kept.
        std::fs::create_dir_all(folder.path().join("apps/orders/target/release")).unwrap();
        std::fs::copy(orders(&source), folder.path().join("apps/orders/target/release/orders")).unwrap();
        let listeners = [0, 0].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, recommend_port] = [0, 1].map(|index: usize| listeners[index].local_addr().unwrap().port());
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

    fn dodai(&self, arguments: &[&str]) -> Done {
        Done::of(Command::new(binary()).args(arguments).current_dir(self.folder.path()))
    }

    fn up(&self) {
        let up = self.dodai(&["up", ".", "-d", "--threads", "1", "--admin", "127.0.0.1:0"]);
        assert!(up.status.success(), "{}", up.all());
    }

    /// One call of the page, with its cookie: status and body.
    fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let head = format!(
            "{method} /api{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncookie: {}\r\ncontent-length: {}\r\n\r\n",
            self.cookie,
            body.len()
        );
        let (status, head, body) = exchange(self.port, &(head + &body)).unwrap();
        let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
        if let Some(cookie) = cookie.and_then(|text| text.split(';').next()) {
            cookie.clone_into(&mut self.cookie);
        }
        let value = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        (status, value)
    }

    fn get(&mut self, path: &str) -> Value {
        let (status, value) = self.call("GET", path, None);
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    fn product(&mut self, id: &str) -> Value {
        let all = self.get("/products");
        let found = all["products"].as_array().unwrap().iter().find(|one| one["id"] == id).cloned();
        found.unwrap_or_else(|| panic!("no {id} in {all}"))
    }

    fn wait(&mut self, what: &str, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
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

    fn start_recommend(&self) -> Outside {
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
struct Outside(Child);

impl Drop for Outside {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// The shop's own native app; built once and kept beside the tests' own binaries.
fn orders(shop: &Path) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shop-orders");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--target-dir"]).arg(&target);
    let built = Done::of(cargo.current_dir(shop.join("apps/orders")));
    assert!(built.status.success(), "{}", built.all());
    target.join("debug/orders")
}

/// One exchange on a connection of its own: status, head in lower case names as sent, body as it is.
fn exchange(port: u16, request: &str) -> std::io::Result<(u16, String, Vec<u8>)> {
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

#[test]
fn the_shop_sells_survives_and_remembers() {
    let mut shop = Shop::new();
    shop.up();
    let page = exchange(shop.port, "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    assert_eq!(page.0, 200);
    assert!(String::from_utf8_lossy(&page.2).contains("<html"), "{}", page.1);

    let order = an_order(&mut shop);
    recommendations_come_and_go(&mut shop);
    configuration_changes_live(&mut shop);
    a_module_changes_under_load(&mut shop);

    assert!(shop.dodai(&["down"]).status.success());
    shop.up();
    let orders = shop.get("/orders");
    assert_eq!(orders["orders"][0]["id"], order, "{orders}");
    assert_eq!(shop.get("/notifications")["notifications"][0]["orderId"], order);
    assert!(shop.dodai(&["down"]).status.success());
}

/// Fills a cart and buys it; the order's id.
fn an_order(shop: &mut Shop) -> Value {
    let before = shop.product("lantern")["stock"].as_u64().unwrap();
    let (status, cart) = shop.call("PUT", "/cart/lines/lantern", Some(&json!({"quantity": 2})));
    assert_eq!((status, cart["lines"][0]["quantity"].as_u64()), (200, Some(2)), "{cart}");
    let (status, order) = shop.call("POST", "/orders", Some(&json!({"customer": "Aiko <b>"})));
    assert_eq!(status, 201, "{order}");
    assert_eq!(shop.product("lantern")["stock"].as_u64(), Some(before - 2));
    let listed = shop.get("/orders");
    assert_eq!(listed["orders"][0]["id"], order["id"]);
    assert!(listed["orders"][0]["customer"] == "Aiko <b>", "{listed}");
    let id = order["id"].clone();
    shop.wait("the notification of the order", "/notifications", |notes| {
        notes["notifications"][0]["orderId"] == id
    });
    id
}

fn recommendations_come_and_go(shop: &mut Shop) {
    assert_eq!(shop.get("/recommendations?with=teapot")["available"], false, "nobody started it");
    let outside = shop.start_recommend();
    let answer =
        shop.wait("recommend is there", "/recommendations?with=teapot", |answer| answer["available"] == true);
    assert_eq!(answer["products"][0]["id"], "cups", "{answer}");
    drop(outside);
    shop.wait("recommend is gone", "/recommendations?with=teapot", |answer| answer["available"] == false);
    shop.product("teapot");
}

fn configuration_changes_live(shop: &mut Shop) {
    let full = shop.product("teapot")["priceCents"].as_u64().unwrap();
    for (key, value) in [("discount-percent", "50"), ("banner", "Half price")] {
        let set = shop.dodai(&["config", "set", "shop-config", key, value]);
        assert!(set.status.success(), "{}", set.all());
    }
    let price = |all: &Value| {
        let products = all["products"].as_array().cloned().unwrap_or_default();
        products.iter().find(|one| one["id"] == "teapot").and_then(|one| one["priceCents"].as_u64())
    };
    shop.wait("half the price", "/products", |all| price(all) == Some(full / 2));
    shop.wait("the banner", "/banner", |answer| answer["banner"] == "Half price");
}

/// The same module with other bytes, so another digest, so another revision.
fn a_module_changes_under_load(shop: &mut Shop) {
    let artifact = shop.folder.path().join("artifacts/catalog.wasm");
    let mut bytes = std::fs::read(&artifact).unwrap();
    // A custom section (id 0) of three bytes: the length of its name, and the name.
    bytes.extend([0, 3, 2, b'v', b'2']);
    std::fs::write(&artifact, bytes).unwrap();
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let port = shop.port;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, calls) = (stop.clone(), calls.clone());
            std::thread::spawn(move || {
                let request = "GET /api/products HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match exchange(port, request) {
                        Ok((200, _, _)) => drop(calls.fetch_add(1, Ordering::Relaxed)),
                        other => failures.push(format!("{other:?}")),
                    }
                }
                failures
            })
        })
        .collect();
    until("the load runs", || calls.load(Ordering::Relaxed) > 20);
    let deploy = shop.dodai(&["deploy", "catalog", "artifacts/catalog.wasm", "--wait"]);
    let after = calls.load(Ordering::Relaxed);
    until("the load goes on", || calls.load(Ordering::Relaxed) > after + 20 || !deploy.status.success());
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert!(deploy.status.success(), "{}", deploy.all());
    assert_eq!(failures, Vec::<String>::new(), "of {} calls", calls.load(Ordering::Relaxed));
}

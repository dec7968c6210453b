//! The example of many languages as its README tells it: an order goes through all of its apps, each of which does its
//! part by an SDK of Dapr's, or knowing of nothing; what is configured changes their work while they run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use crate::project::{Done, until};
use crate::shop::exchange;
use crate::site::{Site, free_ports, processes_of};
use crate::toolchain::{copy, kept, need, repository};

/// How long its apps may take to be ready; far more than they do.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// How many they are that have instances.
const APPS: usize = 7;

struct Polyglot {
    site: Site,
    /// Where its apps are, and run.
    apps: PathBuf,
    port: u16,
}

impl Polyglot {
    /// On ports of its own. Its apps are built in a folder that is kept.
    fn new() -> Polyglot {
        let (site, example) = (Site::new("polyglot"), repository("examples/polyglot"));
        let apps = kept("polyglot-apps").canonicalize().unwrap();
        copy(&example.join("apps"), &apps);
        std::os::unix::fs::symlink(&apps, site.folder().join("apps")).unwrap();
        for file in ["components.yaml", "secrets.json"] {
            site.write(file, std::fs::read(example.join(file)).unwrap());
        }
        let ports: [u16; 3] = free_ports();
        let mut text = std::fs::read_to_string(example.join("dodai.yaml")).unwrap();
        let module = repository("examples/shop/artifacts/notify.wasm").canonicalize().unwrap();
        let own = [("../shop/artifacts/notify.wasm", module.display().to_string())];
        let own_ports = ["8080", "9311", "9312"].into_iter().zip(ports.map(|port| port.to_string()));
        for (from, to) in own.into_iter().chain(own_ports) {
            assert!(text.contains(from), "dodai.yaml holds no {from}");
            text = text.replace(from, &to);
        }
        site.write("dodai.yaml", text);
        Polyglot { site, apps, port: ports[0] }
    }

    /// Starts it. Apps of five languages may take longer on a loaded machine than `up` waits for them.
    fn up(&self) -> Done {
        let up = self.site.try_up();
        assert!(up.status.success() || up.all().contains("not everything is ready"), "{}", up.all());
        let end = Instant::now() + READY_WITHIN;
        let (mut all_ready, mut told) = (false, String::new());
        while !all_ready && Instant::now() < end {
            let ps = self.site.dodai(&["ps", "-o", "json"]);
            told = ps.all();
            let known: Value = serde_json::from_str(ps.out()).unwrap_or_default();
            let ready = known["items"].as_array().into_iter().flatten().filter(|one| one["phase"] == "ready");
            all_ready = ready.count() >= APPS;
        }
        assert!(all_ready, "{told}");
        up
    }

    fn down(&self) {
        self.site.down();
        until("nothing is left of its apps", || processes_of(&self.apps).is_empty());
    }

    fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let head = "host: localhost\r\nconnection: close\r\ncontent-type: application/json";
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}");
        let (status, _, body) = exchange(self.port, &request).unwrap();
        let text = String::from_utf8_lossy(&body).into_owned();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    fn order(&self, item: &str, quantity: u32) -> Value {
        let wish = json!({ "customer": "Aiko", "item": item, "quantity": quantity });
        let (status, order) = self.call("POST", "/orders", &wish.to_string());
        assert_eq!(status, 201, "{order}");
        assert_eq!(order["status"], "placed", "{order}");
        let path = format!("/orders/{}", order["id"].as_str().unwrap());
        let found = std::cell::RefCell::new(Value::Null);
        until("it is shipped", || {
            *found.borrow_mut() = self.call("GET", &path, "").1;
            found.borrow()["status"] == "shipped"
        });
        found.into_inner()
    }

    fn set(&self, key: &str, value: &str) {
        let set = self.site.dodai(&["config", "set", "config", key, value]);
        assert!(set.status.success(), "{}", set.all());
    }

    /// What an app wrote by the binding of files.
    fn paper(&self, order: &str, name: &str) -> Value {
        let path =
            find(self.site.data(), &Path::new(order).join(name)).unwrap_or_else(|| panic!("no {name}"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn left(&self, item: &str) -> Option<u64> {
        let told = self.site.dodai(&["call", "stock", &format!("/items?name={item}")]);
        serde_json::from_str::<Value>(told.out()).ok()?["left"].as_u64()
    }
}

impl Drop for Polyglot {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for app in ["web", "orders", "stock", "billing", "shipping", "couriers"] {
                eprintln!("{}", self.site.dodai(&["logs", app, "--tail", "20"]).all());
            }
        }
    }
}

/// The file below a folder whose path ends so.
fn find(folder: &Path, end: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() { find(&path, end) } else { path.ends_with(end).then_some(path) }
    })
}

fn sealed(key: &str, text: &str) -> String {
    let secrets: Value =
        serde_json::from_slice(&std::fs::read(repository("examples/polyglot/secrets.json")).unwrap())
            .unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secrets[key].as_str().unwrap().as_bytes());
    hmac::sign(&key, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_order_goes_through_apps_of_many_languages() {
    need(&["python3", "node", "npm", "go", "mvn"]);
    let all = Polyglot::new();
    let _started = all.up();
    an_order_is_placed_billed_and_shipped(&all);
    what_is_short_is_ordered(&all);
    configuration_changes_live(&all);
    let wish = json!({ "customer": "Aiko", "item": "teapot", "quantity": 1000 });
    let (status, refused) = all.call("POST", "/orders", &wish.to_string());
    assert_eq!((status, &refused["error"]), (409, &json!("only 8 of teapot are left")));
    all.down();

    let again = all.up();
    assert!(!again.out().contains("building"), "{}", again.all());
    let (status, order) = all.call("GET", "/orders/order-1", "");
    assert_eq!((status, &order["status"]), (200, &json!("shipped")), "{order}");
    all.down();
}

#[test]
fn a_build_without_its_toolchain_says_what_is_missing() {
    let site = Site::new("toolchain");
    let build = "{command: [nocturne, package], workingDirectory: app, product: app/product}";
    site.write("app/source", "");
    site.write(
        "dodai.yaml",
        format!(
            "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: night}}\nspec:\n  process: {{command: [sleep, '9'], build: {build}}}\n"
        ),
    );
    let up = site.try_up();
    assert!(!up.status.success());
    for words in [
        "building night: nocturne package",
        "building app night",
        "there is no `nocturne` in PATH; install it",
    ] {
        assert!(up.all().contains(words), "no `{words}` in {}", up.all());
    }
}

fn an_order_is_placed_billed_and_shipped(all: &Polyglot) {
    let order = all.order("lantern", 5);
    // Python took it, at the price that Go told, and signed it.
    assert_eq!(
        (&order["id"], &order["totalCents"], &order["currency"]),
        (&json!("order-1"), &json!(9250), &json!("EUR"))
    );
    assert_eq!(order["signature"], sealed("orders-key", "order-1|9250|EUR"));
    assert_eq!(all.paper("order-1", "order.json")["signature"], order["signature"]);
    // Java billed it.
    let invoice = &order["invoice"];
    assert_eq!((&invoice["number"], &invoice["taxCents"]), (&json!("invoice-1"), &json!(1757)), "{order}");
    assert_eq!(invoice["seal"], sealed("billing-key", "invoice-1|11007"));
    assert_eq!(all.paper("order-1", "invoice.json"), *invoice);
    // Node.js shipped it, by the courier that Flask knew from the weight that Go told.
    let parcel = &order["parcel"];
    assert_eq!((&parcel["courier"], &parcel["grams"]), (&json!("bicycle"), &json!(3200)), "{order}");
    assert_eq!(parcel["seal"], sealed("shipping-key", "parcel-of-order-1|bicycle"));
    assert_eq!(all.paper("order-1", "label.json"), *parcel);
    // The module heard of it.
    until("the notification is there", || {
        all.call("GET", "/notifications", "").1["notifications"][0]["orderId"] == "order-1"
    });
}

/// Three of eight are left, which is little: Go orders twelve more.
fn what_is_short_is_ordered(all: &Polyglot) {
    until("more lanterns came", || all.left("lantern") == Some(15));
    let folder = find(all.site.data(), Path::new("order-1/order.json")).unwrap();
    let reorders = folder.parent().and_then(Path::parent).unwrap().join("reorders");
    let paper = std::fs::read_dir(reorders).unwrap().flatten().next().unwrap().path();
    let paper: Value = serde_json::from_slice(&std::fs::read(paper).unwrap()).unwrap();
    assert_eq!(paper["seal"], sealed("stock-key", "lantern|12"), "{paper}");
    assert_eq!(paper["freight"]["courier"], "van", "{paper}");
}

fn configuration_changes_live(all: &Polyglot) {
    for (key, value) in
        [("currency", "JPY"), ("tax-percent", "7"), ("label-greeting", "Bon voyage"), ("reorder-below", "1")]
    {
        all.set(key, value);
    }
    let order = all.order("plane", 6);
    assert_eq!((&order["currency"], &order["invoice"]["taxCents"]), (&json!("JPY"), &json!(777)), "{order}");
    // It is followed, not asked for: it comes when it comes. There are eight of everything, whatever its name.
    let mut kites = (1..).map(|number| format!("kite-{number}"));
    let next = std::cell::RefCell::new(&mut kites);
    until("labels have the new greeting", || {
        let kite = next.borrow_mut().next().unwrap();
        all.order(&kite, 1)["parcel"]["greeting"] == "Bon voyage"
    });
    assert_eq!(all.left("plane"), Some(2), "no more were ordered");
}

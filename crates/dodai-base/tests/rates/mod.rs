//! Bases that share a rate limit through a real Redis, also when it is killed and comes back.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dodai_base::rates::{Dialer, Sharer};
use dodai_base::reveal::Vault;
use dodai_core::id::{BaseId, Name};
use dodai_core::snapshot::{
    Action, CallPolicy, ClientTls, Filter, Listener, Pem, Protocol, RateKey, RateLimit, RateStore, Resource,
    Role, Routes, Rule, SharedRate, Snapshot, Value, VirtualHost,
};
use dodai_dataplane::limits::Limits;
use dodai_dataplane::plane::{Config, DataPlane};
use dodai_transport::network::Network;
use dodai_transport::tls::public::RootsFrom;
use tokio::time::Instant;

const PASSWORD: &str = "open sesame";

/// A `redis-server` that ends with the test.
struct Redis(Child);

impl Redis {
    fn start(port: u16) -> Redis {
        Redis::run(&["--port", &port.to_string()])
    }

    /// One that speaks TLS alone, with a certificate that `authority` issued.
    fn secured(port: u16, authority: &Authority) -> Redis {
        let path = |name: &str| authority.0.path().join(name).display().to_string();
        let (chain, key, root) = (path("redis.pem"), path("redis.key"), path("root.pem"));
        let files = ["--tls-cert-file", &chain, "--tls-key-file", &key, "--tls-ca-cert-file", &root];
        let tls = ["--port", "0", "--tls-auth-clients", "no", "--tls-port", &port.to_string()];
        Redis::run(&[&tls[..], &files[..]].concat())
    }

    fn run(listens: &[&str]) -> Redis {
        let mut server = Command::new("redis-server")
            .args(listens)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--requirepass", PASSWORD, "--daemonize", "no"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server runs (Debian package redis-server)");
        let lines = BufReader::new(server.stdout.take().expect("piped")).lines();
        let ready = lines.map_while(Result::ok).any(|line| line.contains("Ready to accept connections"));
        assert!(ready, "redis-server ended before it was ready");
        Redis(server)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it has ended");
    }
}

/// An authority and what it issued for the name `redis`, as files.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Authority {
        let folder = tempfile::tempdir().expect("a folder");
        let write =
            |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
        let key = || rcgen::KeyPair::generate().expect("a key");
        let mut root = rcgen::CertificateParams::default();
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root_key = key();
        let certificate = root.self_signed(&root_key).expect("signed");
        write("root.pem", certificate.pem());
        let issuer = rcgen::Issuer::new(root, root_key);
        let leaf = rcgen::CertificateParams::new(vec!["redis".to_owned()]).expect("a name");
        let leaf_key = key();
        write("redis.pem", leaf.signed_by(&leaf_key, &issuer).expect("signed").pem());
        write("redis.key", leaf_key.serialize_pem());
        Authority(folder)
    }

    /// Who trusts it, and takes the Redis to be the one of this name.
    fn trusted(&self, name: Option<&str>) -> ClientTls {
        ClientTls {
            server_name: name.map(str::to_owned),
            // Below the folder that relative paths begin at.
            roots: Some(Pem::File("root.pem".to_owned())),
            certificate: None,
        }
    }
}

/// Has the password, as a file would.
struct Safe(&'static str);

impl Vault for Safe {
    async fn read(&self, namespace: &Name, _: &Value) -> Result<String, dodai_runtime::Error> {
        assert_eq!(namespace.as_str(), "shop");
        Ok(format!("{}\n", self.0))
    }
}

/// A base with a gateway that answers by itself, below a limit that is shared through the Redis at this port.
struct Base {
    plane: DataPlane,
    gateway: SocketAddr,
    sharer: Sharer,
}

impl Base {
    async fn start(name: &str, port: u16) -> Base {
        Base::reaching(name, port, None, PathBuf::new()).await
    }

    /// One whose Redis speaks TLS, if so; files begin at `folder`.
    async fn reaching(name: &str, port: u16, tls: Option<ClientTls>, folder: PathBuf) -> Base {
        Base::counting(name, port, tls, folder, Vec::new()).await
    }

    /// One that counts by a key.
    async fn counting(
        name: &str,
        port: u16,
        tls: Option<ClientTls>,
        folder: PathBuf,
        key: Vec<RateKey>,
    ) -> Base {
        let plane = DataPlane::start(Config {
            base: BaseId::new(name),
            limits: Limits::default(),
            network: Network::system(),
            threads: 1,
            sinks: Vec::new(),
            sample_per_ten_thousand: 0,
            mesh: None,
            demand: None,
            data_dir: std::path::PathBuf::new(),
            roots: Default::default(),
        })
        .expect("started");
        let store = RateStore {
            address: format!("127.0.0.1:{port}"),
            database: 3,
            username: None,
            password: Some(Value::Secret {
                store: "vault".into(),
                name: "redis".into(),
                key: "redis".into(),
            }),
            namespace: Name::new("shop").expect("a name"),
            tls: tls.map(Box::new),
        };
        let limit = Filter::RateLimits(vec![RateLimit {
            interval: Duration::from_millis(1),
            burst: 1000,
            key,
            shared: Some(SharedRate { name: "shop/all".into(), store: Some(store) }),
        }]);
        let rule = Rule {
            name: "r".into(),
            matches: Vec::new(),
            filters: vec![limit],
            action: Action::Respond { status: 200, body: String::new() },
            policy: CallPolicy::default(),
        };
        let hosts = vec![VirtualHost { names: vec!["*".into()], rules: vec![rule] }];
        let listener = Listener::new(
            "gateway",
            (Ipv4Addr::LOCALHOST, 0).into(),
            Protocol::Http,
            Role::Gateway { routes: "all".into() },
        );
        let resources = [
            Resource::Listener(listener),
            Resource::Routes(Routes { name: "all".into(), hosts, trusted: false }),
        ];
        let bound =
            plane.apply(&Snapshot::of(1, resources)).await.expect("applied").all_open().expect("open");
        Base {
            plane,
            gateway: bound["gateway"],
            sharer: Sharer::new(name, Dialer::new(RootsFrom::default(), folder)),
        }
    }

    /// So many calls.
    fn call(&self, count: usize) {
        self.call_as("ada", count);
    }

    fn call_as(&self, user: &str, count: usize) {
        let mut client = TcpStream::connect(self.gateway).expect("connected");
        for at in 0..count {
            let end = if at + 1 == count { "Connection: close\r\n" } else { "" };
            client
                .write_all(format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n{end}\r\n").as_bytes())
                .expect("sent");
        }
        let mut answers = String::new();
        client.read_to_string(&mut answers).expect("answered");
        assert_eq!(answers.matches("HTTP/1.1 200").count(), count);
    }

    async fn round(&mut self, vault: &Safe, now: Instant) {
        self.sharer.round(self.plane.table().limits(), vault, now).await;
    }

    fn share(&self) -> u32 {
        self.plane.table().limits()["shop/all"].share()
    }

    fn is_up(&self) -> bool {
        self.sharer.readings().values().all(|up| *up)
    }
}

fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.local_addr().expect("bound").port()
}

#[tokio::test]
async fn bases_share_by_what_is_asked_and_keep_the_whole_while_it_is_away() {
    let (port, vault) = (free_port(), Safe(PASSWORD));
    let redis = Redis::start(port);
    // Of one name, as bases are that each run by themselves.
    let (mut a, mut b) = (Base::start("local", port).await, Base::start("local", port).await);
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    for base in [&mut a, &mut b] {
        base.round(&vault, at(0)).await;
        assert!(base.is_up());
    }
    a.round(&vault, at(0)).await;
    assert_eq!((a.share(), b.share()), (5_000, 5_000), "nothing is asked yet");
    a.call(30);
    b.call(10);
    for base in [&mut a, &mut b] {
        base.round(&vault, at(1)).await;
    }
    a.call(30);
    a.round(&vault, at(2)).await;
    assert_eq!((a.share(), b.share()), (7_250, 2_750));
    drop(redis);
    for seconds in 3..=6 {
        a.round(&vault, at(seconds)).await;
        assert_eq!((a.share(), a.is_up()), (7_250, false), "what was heard counts for a moment");
    }
    a.round(&vault, at(7)).await;
    assert_eq!(a.share(), 10_000, "then the whole, rather than refuse what is within it");
    let _redis = Redis::start(port);
    for base in [&mut b, &mut a] {
        // A connection that was open when it was killed is found out by the first round.
        base.round(&vault, at(8)).await;
        base.round(&vault, at(8)).await;
        assert!(base.is_up());
    }
    a.round(&vault, at(9)).await;
    b.round(&vault, at(9)).await;
    assert_eq!((a.share(), b.share()), (5_000, 5_000), "it comes back empty, and nothing was asked of late");
}

#[tokio::test]
async fn bases_share_each_busy_key_and_all_others_evenly() {
    let (port, vault) = (free_port(), Safe(PASSWORD));
    let redis = Redis::start(port);
    let key = || vec![RateKey::Header("x-user".into())];
    let mut a = Base::counting("a", port, None, PathBuf::new(), key()).await;
    let mut b = Base::counting("b", port, None, PathBuf::new(), key()).await;
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    for base in [&mut a, &mut b] {
        base.round(&vault, at(0)).await;
    }
    a.call_as("ada", 30);
    a.call_as("bob", 20);
    b.call_as("ada", 10);
    b.round(&vault, at(1)).await;
    a.round(&vault, at(1)).await;
    let shares = |base: &Base| {
        let of_keys = base.plane.table().limits()["shop/all"].shares_of_keys();
        let mut of_keys: Vec<u32> = of_keys.into_values().collect();
        of_keys.sort_unstable();
        (base.share(), of_keys)
    };
    assert_eq!(shares(&a), (5_000, vec![7_250, 9_500]), "bob comes in here alone");
    b.call_as("ada", 10);
    b.round(&vault, at(2)).await;
    assert_eq!(shares(&b), (5_000, vec![2_750]));
    drop(redis);
    for seconds in 3..=7 {
        a.round(&vault, at(seconds)).await;
    }
    assert_eq!(shares(&a), (10_000, vec![]), "the whole for each key, rather than refuse what is within it");
}

#[tokio::test]
async fn a_wrong_password_is_as_if_it_were_away_until_it_is_mended() {
    let port = free_port();
    let _redis = Redis::start(port);
    let mut a = Base::start("a", port).await;
    let start = Instant::now();
    a.round(&Safe("closed"), start).await;
    assert_eq!((a.share(), a.is_up()), (10_000, false));
    a.round(&Safe(PASSWORD), start + Duration::from_secs(1)).await;
    assert!(a.is_up());
}

#[tokio::test]
async fn a_redis_that_speaks_tls_must_prove_who_it_is() {
    let (authority, other, port) = (Authority::new(), Authority::new(), free_port());
    let _redis = Redis::secured(port, &authority);
    let (start, vault) = (Instant::now(), Safe(PASSWORD));
    let of = |authority: &Authority, name: Option<&str>| {
        Base::reaching("a", port, Some(authority.trusted(name)), authority.0.path().to_owned())
    };
    let mut known = of(&authority, Some("redis")).await;
    known.round(&vault, start).await;
    known.call(20);
    known.round(&vault, start + Duration::from_secs(1)).await;
    assert!(known.is_up());
    let mut second = of(&authority, Some("redis")).await;
    second.round(&vault, start).await;
    assert!(second.is_up());
    let by_address = of(&authority, None).await;
    let stranger = of(&other, Some("redis")).await;
    let plain = Base::start("a", port).await;
    for (mut base, why) in [
        (by_address, "its certificate is not for 127.0.0.1"),
        (stranger, "nobody vouches for it"),
        (plain, "TLS is not spoken"),
    ] {
        base.round(&vault, start).await;
        assert!(!base.is_up() && base.share() == 10_000, "{why}");
    }
}

//! TLS on gateway listeners: who gets which certificate and protocol, what passes through, what a change does.

use std::time::SystemTime;

use dodai_core::snapshot::{
    self, Certificate, Listener, Protocol, Resource, Role, Routes, Service, TlsName, VirtualHost,
};
use dodai_dataplane::limits::Limits;
use dodai_transport::ca::{Authority, LEAF_VALIDITY, Names};
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::network::Network;
use dodai_transport::stream::Stream;
use dodai_transport::tls::files::{Files, Pair, Versions};
use dodai_transport::tls::public::{Connector, Roots};
use dodai_transport::tls::{Alpn, Clock};

use crate::support::{
    GATEWAY, GET, OK, Peer, World, app, beside, endpoint, endpoints, filtered, local, routes, rule, secs,
    service, settle, to, usual,
};

/// A certificate authority whose clients trust it, and a folder of what it issued.
pub struct Site {
    pub authority: Authority,
    pub folder: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Site {
        let authority = Authority::create(TrustDomain::default(), SystemTime::now()).expect("created");
        Site { authority, folder: tempfile::tempdir().expect("a folder") }
    }

    /// Writes a certificate for `names` to the files of `stem`.
    pub fn issue(&self, stem: &str, names: &[&str]) -> Certificate {
        let names = Names { dns: names.iter().map(ToString::to_string).collect(), ..Names::default() };
        let identity = PeerIdentity::App(app("edge/gate"));
        let svid = self.authority.issue(&identity, &names, LEAF_VALIDITY, SystemTime::now()).expect("issued");
        self.write(&format!("{stem}.crt"), &svid.chain_pem());
        self.write(&format!("{stem}.key"), &svid.key_pem());
        let path = |end: &str| self.folder.path().join(format!("{stem}.{end}")).display().to_string();
        Certificate { chain_file: path("crt"), key_file: path("key") }
    }

    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.path().join(file), text).expect("written");
    }

    /// A client's handshake with whoever answers on `port` of the gateway.
    async fn dial(&self, world: &World, port: u16, host: &str, offer: &[Alpn]) -> Result<Stream, String> {
        let network = Network::Memory(world.net.host([10, 0, 0, 5]));
        let stream = network.connect_addr((GATEWAY, port).into(), secs(1)).await.expect("connected");
        let roots = Roots::given(self.authority.chain_pem().as_bytes()).expect("roots");
        let connector = Connector::new(&roots, offer, Clock::system());
        connector.connect(stream, host).await.map_err(|failure| failure.detail.into_owned())
    }

    async fn client(&self, world: &World, host: &str) -> Peer {
        Peer::new(self.dial(world, 443, host, &[Alpn::Http1]).await.expect("through the handshake"))
    }
}

fn secure(protocol: Protocol, certificates: Vec<Certificate>, names: Vec<TlsName>) -> Resource {
    let role = Role::Gateway { routes: "all".into() };
    let tls = Some(snapshot::Tls { certificates, names, only_newest: false, clients: None });
    Resource::Listener(Listener { tls, ..Listener::new("secure", (GATEWAY, 443).into(), protocol, role) })
}

fn https(certificates: Vec<Certificate>) -> Vec<Resource> {
    let mut all = usual(service("shop/catalog/http"), filtered(vec![]));
    all.push(secure(Protocol::Http, certificates, vec![]));
    all
}

#[tokio::test(start_paused = true)]
async fn the_wanted_name_chooses_the_certificate_and_alpn_the_protocol() {
    local(async {
        let site = Site::new();
        let one = site.issue("one", &["one.example"]);
        let two = site.issue("two", &["two.example", "*.two.example"]);
        let world = World::of(https(vec![one, two])).await;
        let mut backend = world.backend(1);
        for host in ["one.example", "two.example", "www.two.example"] {
            let mut client = site.client(&world, host).await;
            assert_eq!(client.stream.alpn(), Some(Alpn::Http1));
            client.send(GET).await;
            let request = backend.accept().await.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            assert_eq!(request.header("x-forwarded-proto"), Some("https"));
            assert_eq!(client.message().await.status(), 200);
        }
        let why = site.dial(&world, 443, "three.example", Alpn::HTTP).await.expect_err("no certificate");
        assert!(why.contains("not for three.example"), "{why}");
        let h2 = site.dial(&world, 443, "one.example", Alpn::HTTP).await.expect("through");
        assert_eq!(h2.alpn(), Some(Alpn::H2), "HTTP/2 is preferred");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn handshakes_are_counted_by_version_and_by_why_they_failed() {
    local(async {
        let site = Site::new();
        let world = World::of(https(vec![site.issue("one", &["one.example"])])).await;
        let _client = site.client(&world, "one.example").await;
        let mut plain = world.client_of(443).await;
        plain.send(GET).await;
        plain.rest_bytes().await;
        drop(plain);
        let refused = site.dial(&world, 443, "other.example", Alpn::HTTP).await.expect_err("not that name");
        assert!(refused.contains("not for other.example"), "{refused}");
        drop(world.client_of(443).await);
        settle().await;
        let arrivals = world.plane.arrivals();
        let secure = arrivals.iter().find(|one| one.listener == "secure").expect("it counts");
        assert_eq!((secure.accepted, secure.handshakes), (4, [0, 1]));
        let mut why: Vec<&str> = secure.failures.iter().map(|(why, _)| why.as_str()).collect();
        why.sort_unstable();
        assert_eq!(why, ["alert", "gone", "not_tls"]);
        let served = world.plane.certificates();
        assert_eq!(served.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["secure"]);
        assert!(served[0].1.leaf.names.contains(&"DNS:one.example".to_owned()), "{:?}", served[0].1.leaf);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http2_over_tls_reaches_the_endpoint() {
    local(async {
        let site = Site::new();
        let world = World::of(https(vec![site.issue("one", &["one.example"])])).await;
        let mut backend = world.backend(1);
        let stream = site.dial(&world, 443, "one.example", Alpn::HTTP).await.expect("through");
        let (mut send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        let driven = beside(connection);
        let request = http::Request::get("https://one.example/a").body(()).expect("valid");
        let (answer, _) = send.send_request(request, true).expect("sent");
        backend.accept().await.answer(OK).await;
        let answer = answer.await.expect("answered");
        assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
        driven.abort();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn new_files_are_served_and_connections_stay() {
    local(async {
        let site = Site::new();
        let world = World::of(https(vec![site.issue("site", &["old.example"])])).await;
        let mut backend = world.backend(1);
        let mut old = site.client(&world, "old.example").await;
        old.send(GET).await;
        let mut endpoint = backend.accept().await;
        endpoint.answer(OK).await;
        assert_eq!(old.message().await.body, "ok");

        assert!(world.plane.reload_certificates().await.is_empty(), "nothing changed");
        site.issue("site", &["new.example"]);
        assert!(world.plane.reload_certificates().await.is_empty());
        old.send(GET).await;
        endpoint.answer(OK).await;
        assert_eq!(old.message().await.body, "ok", "the connection stays");
        site.client(&world, "new.example").await;
        assert!(site.dial(&world, 443, "old.example", Alpn::HTTP).await.is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bad_files_are_named_and_the_last_good_stays() {
    local(async {
        let site = Site::new();
        let good = site.issue("site", &["site.example"]);
        let other = site.issue("other", &["other.example"]);
        let world = World::of(https(vec![good.clone()])).await;
        let read = |file: &str| std::fs::read_to_string(file).expect("readable");
        let (chain, key, strange) = (read(&good.chain_file), read(&good.key_file), read(&other.key_file));
        let check = async |file: &str, text: &str, expect: &[&str]| {
            site.write(file, text);
            let bad = world.plane.reload_certificates().await;
            let told = bad.first().map(|(listener, error)| format!("{listener}: {error}")).expect("told");
            for part in expect {
                assert!(told.contains(part), "{told} lacks {part}");
            }
            site.client(&world, "site.example").await;
            site.write("site.crt", &chain);
            site.write("site.key", &key);
            assert!(world.plane.reload_certificates().await.is_empty());
        };
        check("site.crt", "nonsense", &["secure: ", "site.crt: "]).await;
        check("site.key", "", &["secure: ", "site.key: "]).await;
        check("site.key", &strange, &["site.key is not the key of", "site.crt"]).await;

        std::fs::remove_file(&good.key_file).expect("removed");
        let gone = world.plane.reload_certificates().await;
        assert!(gone[0].1.to_string().contains("cannot read") && gone[0].1.to_string().contains("site.key"));

        let refused = snapshot::Snapshot::of(
            2,
            https(vec![good.clone()])
                .into_iter()
                .chain([Resource::Service(Service { port: Some(1), ..service("shop/other/http") })]),
        );
        let applied = world.plane.apply(&refused).await.expect("applied");
        assert!(applied.not_open.is_empty(), "a listener that stays is not read again");
        let both = snapshot::Snapshot::of(3, https(vec![other, good]));
        let applied = world.plane.apply(&both).await.expect("applied");
        let error = applied.not_open["secure"].to_string();
        assert!(error.contains("cannot read") && error.contains("site.key"), "{error}");
        // As it was, it goes on.
        site.client(&world, "site.example").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn names_tell_what_passes_through_from_what_ends_here() {
    local(async {
        let site = Site::new();
        let name = |host: &str, passes: bool| TlsName { host: host.into(), passes };
        let names = vec![name("web.example", false), name("*.raw.example", true)];
        let raw = Service { protocol: Protocol::Tcp, ..service("shop/raw/tcp") };
        let forward = |to_: &str| rule(snapshot::Action::Forward(vec![to(to_)]));
        let hosts = vec![
            VirtualHost { names: vec!["*.raw.example".into()], rules: vec![forward("shop/raw/tcp")] },
            VirtualHost { names: vec!["*".into()], rules: vec![forward("shop/catalog/http")] },
        ];
        let world = World::of(vec![
            secure(Protocol::Http, vec![site.issue("web", &["web.example"])], names),
            Resource::Routes(Routes { name: "all".into(), hosts, trusted: false }),
            Resource::Service(service("shop/catalog/http")),
            Resource::Service(raw),
            endpoints("shop/catalog/http", vec![endpoint(1, "r1")]),
            endpoints("shop/raw/tcp", vec![endpoint(2, "r1")]),
        ])
        .await;
        let (mut web, mut raw) = (world.backend(1), world.backend(2));
        let mut client = site.client(&world, "web.example").await;
        client.send(GET).await;
        web.accept().await.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");

        let own = site.issue("own", &["a.raw.example"]);
        let pair = Pair { chain: (&own.chain_file).into(), key: (&own.key_file).into() };
        let acceptor =
            Files::load(vec![pair]).expect("loaded").acceptor(&[], Versions::Usual, Clock::system());
        let far = beside(async move {
            let stream = raw.accept().await.stream;
            let mut far = Peer::new(acceptor.accept(stream).await.expect("the endpoint ends it"));
            assert_eq!(far.text(4).await, "ping");
            far.send("pong").await;
        });
        let mut client = Peer::new(site.dial(&world, 443, "a.raw.example", &[]).await.expect("through"));
        client.send("ping").await;
        assert_eq!(client.text(4).await, "pong");
        far.await.expect("no panic");
        assert!(site.dial(&world, 443, "raw.example", &[]).await.is_err(), "there is no certificate for it");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn tls_may_end_in_front_of_bytes() {
    local(async {
        let site = Site::new();
        let raw = Service { protocol: Protocol::Tcp, ..service("shop/raw/tcp") };
        let world = World::of(vec![
            secure(Protocol::Tcp, vec![site.issue("raw", &["raw.example"])], vec![]),
            routes(vec![rule(snapshot::Action::Forward(vec![to("shop/raw/tcp")]))]),
            Resource::Service(raw),
            endpoints("shop/raw/tcp", vec![endpoint(1, "r1")]),
        ])
        .await;
        let mut backend = world.backend(1);
        let stream = site.dial(&world, 443, "raw.example", &[]).await.expect("through");
        let mut client = Peer::new(stream);
        let mut far = backend.accept().await;
        far.send("hello first").await;
        assert_eq!(client.text(11).await, "hello first");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_let_go() {
    local(async {
        let site = Site::new();
        let names = vec![TlsName { host: "*".into(), passes: true }];
        let mut all = https(vec![site.issue("one", &["one.example"])]);
        all.push(Resource::Listener(Listener {
            tls: Some(snapshot::Tls { certificates: vec![], names, only_newest: false, clients: None }),
            ..Listener::new(
                "passing",
                (GATEWAY, 444).into(),
                Protocol::Tcp,
                Role::Gateway { routes: "all".into() },
            )
        }));
        let world = World::with(Limits::default(), all).await;
        for port in [443, 444] {
            let mut silent = world.client_of(port).await;
            assert!(silent.is_quiet().await);
            silent.ended().await;
            let mut loud = world.client_of(port).await;
            loud.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(!loud.rest_bytes().await.starts_with(b"HTTP"), "no answer in plain text");
        }
    })
    .await;
}

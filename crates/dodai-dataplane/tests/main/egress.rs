//! TLS towards hosts outside the mesh, over real sockets: `https` is TLS to a proven name or no call at all.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::support::*;
use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Door as _, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::id::{BaseId, RevisionId};
use dodai_core::snapshot::*;
use dodai_core::trace::Span;
use dodai_dataplane::limits::Limits;
use dodai_dataplane::plane::{Config, DataPlane};
use dodai_transport::ca::{Authority, LEAF_VALIDITY, Names, Svid};
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::network::{self, Network};
use dodai_transport::stream::Stream;
use dodai_transport::tls::files::{Files, Pair, Versions};
use dodai_transport::tls::mesh::{LiveSvid, acceptor};
use dodai_transport::tls::public::RootsFrom;
use dodai_transport::tls::{Acceptor, Alpn, Clock};
use dodai_transport::trust::Trust;
use http_body::Body as _;
use tokio::task::JoinHandle;

/// An authority, a folder of what it issued, and a base that trusts it as one of the public roots.
struct Site {
    authority: Authority,
    folder: tempfile::TempDir,
    plane: DataPlane,
}

impl Site {
    async fn new() -> Site {
        Site::with(vec![]).await
    }

    async fn with(resources: Vec<Resource>) -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::create(TrustDomain::default(), SystemTime::now()).expect("created");
        std::fs::write(folder.path().join("roots.pem"), authority.chain_pem()).expect("written");
        let plane = plane(folder.path().to_owned(), RootsFrom::file(folder.path().join("roots.pem")));
        plane.apply(&Snapshot::of(1, resources)).await.expect("applied");
        Site { authority, folder, plane }
    }

    fn issue_at(&self, names: &[&str], now: SystemTime) -> Svid {
        let names = Names { dns: names.iter().map(ToString::to_string).collect(), ..Names::default() };
        let identity = PeerIdentity::App(app("edge/gate"));
        self.authority.issue(&identity, &names, LEAF_VALIDITY, now).expect("issued")
    }

    /// A server with a certificate for `names`.
    fn server(&self, names: &[&str], offered: &[Alpn]) -> Server {
        self.server_with(&self.issue_at(names, SystemTime::now()), offered)
    }

    fn server_with(&self, svid: &Svid, offered: &[Alpn]) -> Server {
        let path = |name: &str| self.folder.path().join(name);
        std::fs::write(path("tls.crt"), svid.chain_pem()).expect("written");
        std::fs::write(path("tls.key"), svid.key_pem()).expect("written");
        let files = Files::load(vec![Pair { chain: path("tls.crt"), key: path("tls.key") }]).expect("loaded");
        Server::new(files.acceptor(offered, Versions::Usual, Clock::system()))
    }

    async fn call(&self, url: &str) -> Result<Reply, Failure> {
        self.send(url, |head| head).await
    }

    async fn send(
        &self,
        url: &str,
        with: impl FnOnce(http::request::Builder) -> http::request::Builder,
    ) -> Result<Reply, Failure> {
        let head = with(http::Request::get(url).header("authorization", "Bearer s3cret"));
        let (head, ()) = head.body(()).expect("valid").into_parts();
        let context = Context::new(Caller::App(app("shop/front")), Span::root(false));
        self.plane.door().enter(Call { head, body: Body::empty(), context }).await
    }
}

fn plane(data_dir: PathBuf, roots: RootsFrom) -> DataPlane {
    DataPlane::start(Config {
        base: BaseId::new("b"),
        limits: Limits { connect_timeout: secs(2), ..Limits::default() },
        network: Network::system(),
        threads: 0,
        sinks: vec![],
        sample_per_ten_thousand: 0,
        mesh: None,
        demand: None,
        data_dir,
        roots,
    })
    .expect("started")
}

/// A TLS server on a port of this machine.
struct Server {
    at: SocketAddr,
    accepted: JoinHandle<Peer>,
}

impl Server {
    /// Takes connections until one gets through the handshake: a failed one is tried again.
    fn new(acceptor: Acceptor) -> Server {
        let (at, mut listener) = socket();
        let accepted = beside(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepted");
                if let Ok(stream) = acceptor.accept(stream).await {
                    return Peer::new(stream);
                }
            }
        });
        Server { at, accepted }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}/a", self.at.port())
    }

    async fn peer(self) -> Peer {
        self.accepted.await.expect("no panic")
    }
}

fn socket() -> (SocketAddr, network::Listener) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Network::system().listen(any, &Default::default()).expect("listening");
    (listener.local_addr().expect("an address"), listener)
}

async fn text(reply: Reply) -> String {
    let mut body = reply.body;
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        all.extend(frame.expect("a frame").into_data().unwrap_or_default());
    }
    String::from_utf8(all).expect("text")
}

fn why<T>(result: Result<T, Failure>) -> (Kind, String) {
    let failure = result.err().expect("it fails");
    (failure.kind, failure.detail.into_owned())
}

#[tokio::test]
async fn a_call_to_https_goes_out_in_tls() {
    local(async {
        let site = Site::new().await;
        let server = site.server(&["localhost"], Alpn::HTTP);
        let url = server.url("https");
        let answered = beside(async move {
            let mut peer = server.peer().await;
            let alpn = peer.stream.alpn();
            let name = peer.stream.server_name().map(str::to_owned);
            (peer.answer(OK).await, alpn, name)
        });
        let reply = site.call(&url).await.expect("answered");
        assert_eq!(text(reply).await, "ok");
        let (request, alpn, name) = answered.await.expect("no panic");
        assert_eq!(request.header("authorization"), Some("Bearer s3cret"));
        assert!(request.header("host").is_some_and(|host| host.starts_with("localhost:")), "{request:?}");
        assert_eq!((alpn, name.as_deref()), (Some(Alpn::Http1), Some("localhost")));
    })
    .await;
}

#[tokio::test]
async fn nothing_is_sent_to_who_speaks_no_tls_or_cannot_prove_the_name() {
    local(async {
        let site = Site::new().await;
        // A plain port: what it reads must not hold the token.
        let (at, mut listener) = socket();
        let plain = beside(async move {
            let mut peer = Peer::new(listener.accept().await.expect("accepted").0);
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            peer.rest_bytes().await
        });
        let (kind, detail) = why(site.call(&format!("https://localhost:{}/a", at.port())).await);
        assert_eq!(kind, Kind::Tls, "{detail}");
        assert!(detail.contains("does not speak TLS"), "{detail}");
        let seen = plain.await.expect("no panic");
        assert!(!String::from_utf8_lossy(&seen).contains("s3cret"));

        let check = async |server: Server, wanted: &str| {
            let (kind, detail) = why(site.call(&server.url("https")).await);
            assert_eq!(kind, Kind::Tls, "{detail}");
            assert!(detail.contains("localhost at 127.0.0.1:") && detail.contains(wanted), "{detail}");
        };
        check(site.server(&["other.example"], Alpn::HTTP), "not for localhost but for").await;
        let old = SystemTime::now() - LEAF_VALIDITY * 3;
        check(site.server_with(&site.issue_at(&["localhost"], old), Alpn::HTTP), "expired").await;
        let stranger = Site::new().await;
        check(stranger.server(&["localhost"], Alpn::HTTP), "not signed by a root that is trusted here").await;
        check(site.server(&["localhost"], &[Alpn::H2]), "no application protocol in common").await;
    })
    .await;
}

#[tokio::test]
async fn who_is_not_there_and_roots_that_are_not_there_are_told_apart() {
    local(async {
        let site = Site::new().await;
        let at = socket().0;
        let (kind, detail) = why(site.call(&format!("https://127.0.0.1:{}/", at.port())).await);
        assert_eq!(kind, Kind::Connect, "{detail}");
        assert!(detail.contains("refused"), "{detail}");

        let server = site.server(&["localhost"], Alpn::HTTP);
        let bare = Site { plane: plane(PathBuf::new(), RootsFrom::file("/nowhere/roots.pem")), ..site };
        let (kind, detail) = why(bare.call(&server.url("https")).await);
        assert_eq!(kind, Kind::Tls, "{detail}");
        assert!(detail.contains("cannot read root certificates from /nowhere/roots.pem"), "{detail}");
        let (kind, _) = why(bare.call("ftp://files.example/a").await);
        assert_eq!(kind, Kind::BadRequest);
    })
    .await;
}

#[tokio::test]
async fn a_kept_plain_connection_is_not_used_for_https() {
    local(async {
        let site = Site::new().await;
        // One port that speaks plain HTTP to who comes first and TLS to who comes second.
        let (at, mut listener) = socket();
        let svid = site.issue_at(&["localhost"], SystemTime::now());
        let tls = site.server_with(&svid, Alpn::HTTP);
        tls.accepted.abort();
        let files = Files::load(vec![Pair {
            chain: site.folder.path().join("tls.crt"),
            key: site.folder.path().join("tls.key"),
        }]);
        let acceptor = files.expect("loaded").acceptor(Alpn::HTTP, Versions::Usual, Clock::system());
        let served = beside(async move {
            let mut plain = Peer::new(listener.accept().await.expect("accepted").0);
            plain.answer(OK).await;
            let second: Stream = listener.accept().await.expect("a second connection").0;
            let mut secure = Peer::new(acceptor.accept(second).await.expect("TLS"));
            secure.answer(OK).await;
            (plain, secure)
        });
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://localhost:{}/a", at.port());
            assert_eq!(text(site.call(&url).await.expect("answered")).await, "ok", "{url}");
        }
        served.await.expect("the kept plain connection is not used for https");
    })
    .await;
}

#[tokio::test]
async fn grpc_to_https_is_http2() {
    local(async {
        let site = Site::new().await;
        let server = site.server(&["localhost"], Alpn::HTTP);
        let url = server.url("https");
        let served = beside(async move {
            let peer = server.peer().await;
            assert_eq!(peer.stream.alpn(), Some(Alpn::H2));
            let mut connection = h2::server::handshake(peer.stream).await.expect("HTTP/2");
            let (request, mut respond) = connection.accept().await.expect("a stream").expect("a call");
            let answer = http::Response::builder().header("grpc-status", "0").body(()).expect("valid");
            respond.send_response(answer, true).expect("sent");
            let scheme = request.uri().scheme_str().map(str::to_owned);
            let ended = tokio::time::timeout(Duration::from_millis(50), connection.accept()).await;
            drop(ended);
            scheme
        });
        let reply = site.send(&url, |head| head.header("content-type", "application/grpc")).await;
        let reply = reply.expect("answered");
        assert_eq!(reply.head.headers["grpc-status"], "0");
        assert!(reply.body.is_end_stream());
        assert_eq!(served.await.expect("no panic").as_deref(), Some("https"));
    })
    .await;
}

/// A service with one endpoint outside the mesh that is spoken to in TLS.
fn outside(protocol: Protocol, at: SocketAddr, tls: ClientTls) -> Vec<Resource> {
    let target = Target::Tls { address: at.to_string(), tls };
    let one = Endpoint::new(RevisionId::new("r1"), target);
    let bank = Service { protocol, ..service("shop/bank/http") };
    vec![Resource::Service(bank), endpoints("shop/bank/http", vec![one])]
}

#[tokio::test]
async fn an_endpoint_outside_is_held_to_its_own_roots_and_name() {
    local(async {
        let site = Site::new().await;
        let bank = Site::new().await;
        let apply = async |at: SocketAddr, tls: ClientTls, version| {
            let snapshot = Snapshot::of(version, outside(Protocol::Http, at, tls));
            site.plane.apply(&snapshot).await.expect("applied");
        };
        let named = |name: &str| ClientTls { server_name: Some(name.to_owned()), ..ClientTls::default() };
        let own = Some(Pem::File(bank.folder.path().join("roots.pem").display().to_string()));

        let server = bank.server(&["bank.example"], Alpn::HTTP);
        apply(server.at, named("bank.example"), 1).await;
        let (kind, detail) = why(site.call("http://bank/a").await);
        assert_eq!(kind, Kind::Tls);
        assert!(detail.contains("not signed by a root"), "the public roots are not the bank's: {detail}");

        let server = bank.server(&["bank.example"], Alpn::HTTP);
        apply(server.at, ClientTls { roots: own.clone(), ..named("bank.example") }, 2).await;
        let answered = beside(async move { server.peer().await.answer(OK).await });
        assert_eq!(text(site.call("http://bank/a").await.expect("answered")).await, "ok");
        answered.await.expect("no panic");

        let server = bank.server(&["bank.example"], Alpn::HTTP);
        apply(server.at, ClientTls { roots: own, ..named("other.example") }, 3).await;
        let (kind, detail) = why(site.call("http://bank/a").await);
        assert!(kind == Kind::Tls && detail.contains("not for other.example"), "{detail}");

        let gone = Some(Pem::File("gone.pem".to_owned()));
        let server = bank.server(&["bank.example"], Alpn::HTTP);
        apply(server.at, ClientTls { roots: gone, ..named("bank.example") }, 4).await;
        let (kind, detail) = why(site.call("http://bank/a").await);
        assert!(kind == Kind::Tls && detail.contains("cannot read gone.pem"), "{detail}");
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_outside_learns_who_we_are_if_it_asks() {
    local(async {
        let site = Site::new().await;
        let svid = site.issue_at(&["bank.example"], SystemTime::now());
        let trust = Trust::new(TrustDomain::default(), site.authority.bundle().expect("a root"));
        let keys = Arc::new(LiveSvid::new(svid).expect("usable"));
        let server = Server::new(acceptor(keys, trust, &[Alpn::H2], Clock::system()));
        let ours = site.issue_at(&[], SystemTime::now());
        let value = |text: String| Pem::Value(Value::Plain(text));
        let tls = ClientTls {
            server_name: Some("bank.example".to_owned()),
            roots: None,
            certificate: Some((value(ours.chain_pem()), value(ours.key_pem()))),
        };
        let snapshot = Snapshot::of(2, outside(Protocol::Http2, server.at, tls));
        site.plane.apply(&snapshot).await.expect("applied");
        let served = beside(async move {
            let peer = server.peer().await;
            let who = peer.stream.identity().cloned();
            let mut connection = h2::server::handshake(peer.stream).await.expect("HTTP/2");
            let (_, mut respond) = connection.accept().await.expect("a stream").expect("a call");
            respond.send_response(http::Response::new(()), true).expect("sent");
            let _more = tokio::time::timeout(Duration::from_millis(50), connection.accept()).await;
            who
        });
        assert_eq!(site.call("http://bank/a").await.expect("answered").head.status, 200);
        assert_eq!(served.await.expect("no panic"), Some(PeerIdentity::App(app("edge/gate"))));
    })
    .await;
}

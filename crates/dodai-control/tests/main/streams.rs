//! The control stream over the loopback: joining, deltas, refusals, a server that starts again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dodai_control::control::{Control, Settings};
use dodai_control::documents::FieldOwner;
use dodai_control::stream::{
    Answer, Answers, Blobs, Introduction, NoAnswers, NoBlobs, Remote, RemoteError, Server, Standing, Told,
    load, save,
};
use dodai_core::id::{AppId, BaseId, Digest};
use dodai_core::status::{Refusal, Wants};
use dodai_core::task::{Kind, Tasks};
use dodai_store::{MemoryStore, Store};
use dodai_transport::ca::{Authorities, Authority, KeyRequest, LEAF_VALIDITY, Names};
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::listen::Options;
use dodai_transport::network::Network;
use dodai_transport::tls::mesh::{LiveSvid, acceptor};
use dodai_transport::tls::{Alpn, Clock};
use dodai_transport::trust::Trust;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::played::{ByPath, apply, module, play, yaml};

struct Site {
    domain: TrustDomain,
    authorities: Arc<Authorities>,
    trust: Trust,
    store: Arc<dyn Store>,
}

impl Site {
    fn new(tasks: &Tasks) -> Site {
        let domain = TrustDomain::new("cluster.local").expect("valid");
        let authority = Arc::new(Authority::create(domain.clone(), SystemTime::now()).expect("a root"));
        let authorities = Arc::new(Authorities::only(authority).expect("a bundle"));
        let trust = authorities.trust().clone();
        Site { domain, authorities, trust, store: Arc::new(MemoryStore::new(tasks)) }
    }

    fn svid(&self, identity: &PeerIdentity) -> LiveSvid {
        let now = SystemTime::now();
        let svid =
            self.authorities.signer().issue(identity, &Names::default(), LEAF_VALIDITY, now).expect("a leaf");
        LiveSvid::new(svid).expect("usable")
    }

    async fn serve(&self, address: SocketAddr, tasks: &Tasks) -> (Control, SocketAddr) {
        self.serve_with(Arc::new(NoBlobs), address, tasks).await
    }

    async fn serve_with(
        &self,
        blobs: Arc<dyn Blobs>,
        address: SocketAddr,
        tasks: &Tasks,
    ) -> (Control, SocketAddr) {
        let (control, server) = self.server(blobs, tasks).await;
        (control, self.listen(&server, address))
    }

    /// A server that does not listen yet.
    async fn server(&self, blobs: Arc<dyn Blobs>, tasks: &Tasks) -> (Control, Server) {
        let settings = Settings { artifacts: Arc::new(ByPath), ..Settings::default() };
        let control = Control::start(self.store.clone(), settings, tasks).await.expect("starts");
        let server = Server::new(control.clone(), self.authorities.clone(), blobs, tasks);
        (control, server)
    }

    fn listen(&self, server: &Server, address: SocketAddr) -> SocketAddr {
        let listener = Network::system().listen(address, &Options::named("test")).expect("binds");
        let address = listener.local_addr().expect("an address");
        let own = Arc::new(self.svid(&PeerIdentity::Server));
        server.serve(listener, acceptor(own, self.trust.clone(), &[Alpn::H2], Clock::system()));
        address
    }

    fn remote(&self, base: &str, at: SocketAddr) -> Remote {
        let base = BaseId::new(base);
        let svid = self.svid(&PeerIdentity::Base(base.clone()));
        let host = at.ip().to_string();
        Remote::new(Network::system(), (&host, at.port()), base, svid, self.trust.clone(), Clock::system())
    }
}

/// Waits for something that happens on real sockets.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().expect("valid")
}

#[tokio::test]
async fn a_base_follows_its_server_through_a_restart() {
    let tasks = Tasks::new();
    let site = Site::new(&tasks);
    let first = tasks.child();
    let (control, at) = site.serve(anywhere(), &first).await;
    let remote = site.remote("far", at);
    let (link, _) = remote.connect(None, Introduction::default(), Arc::new(NoAnswers), &tasks);
    let seen = link.snapshots.clone();
    tasks.spawn(Kind::Loop, play(link, None));
    let documents = yaml(&module("shop", "v1.wasm", ""));
    control.apply(&apply(&documents, FieldOwner::Cli, None)).await.expect("applies");
    until("the instance is told", || seen.borrow().workloads().count() == 1).await;
    let far = BaseId::new("far");
    let serves = |control: &Control| {
        let told = control.snapshot(&far);
        told.is_some_and(|told| told.endpoints().any(|one| one.list.len() == 1))
    };
    until("its status comes back", || serves(&control)).await;
    let app = AppId::parse("default/shop").expect("valid");
    let svid = remote.renew(Some(&app)).await.expect("it is placed there");
    assert_eq!(svid.identity(), &PeerIdentity::App(app));
    let other = AppId::parse("default/other").expect("valid");
    let error = remote.renew(Some(&other)).await.expect_err("it is not placed there");
    assert!(error.to_string().contains("not placed"), "{error}");

    let _ = first.drain(Duration::from_secs(1)).await;
    drop(control);
    assert_eq!(seen.borrow().workloads().count(), 1, "without a server the base goes on");
    let (control, _) = site.serve(at, &tasks).await;
    until("the base comes back", || serves(&control)).await;
    let more = yaml(&module("more", "v1.wasm", ""));
    control.apply(&apply(&more, FieldOwner::Cli, None)).await.expect("applies");
    until("the new app is told", || seen.borrow().workloads().count() == 2).await;
}

#[tokio::test]
async fn a_refusal_reaches_the_user() {
    let tasks = Tasks::new();
    let site = Site::new(&tasks);
    let (control, at) = site.serve(anywhere(), &tasks).await;
    let (link, _) =
        site.remote("far", at).connect(None, Introduction::default(), Arc::new(NoAnswers), &tasks);
    link.status.send_modify(|status| {
        status.wants = Wants::All;
        status.refused = Some(Refusal { version: 1, reason: "port 8080 is taken".to_owned() });
    });
    let far = BaseId::new("far");
    let refused = || {
        let observed = control.observed();
        observed.base(&far).and_then(|one| one.status.refused.clone()).is_some_and(|one| one.version == 1)
    };
    until("the refusal is known", refused).await;
    until("and told", || control.events(0).iter().any(|one| one.message.contains("port 8080 is taken")))
        .await;
}

#[tokio::test]
async fn of_two_processes_with_one_identity_one_stays_and_the_other_is_told_why() {
    let tasks = Tasks::new();
    let site = Site::new(&tasks);
    let (control, at) = site.serve(anywhere(), &tasks).await;
    let connect = |tasks: &Tasks| {
        site.remote("far", at).connect(None, Introduction::default(), Arc::new(NoAnswers), tasks)
    };
    let first = tasks.child();
    let (_first, first_stands) = connect(&first);
    until("the first is connected", || *first_stands.borrow() == Standing::Connected).await;
    let (_second, second_stands) = connect(&tasks);
    until("the second is refused", || matches!(&*second_stands.borrow(), Standing::Refused(_))).await;
    assert_eq!(*first_stands.borrow(), Standing::Connected, "the one that has the place keeps it");
    let Standing::Refused(why) = second_stands.borrow().clone() else { panic!("it was let in") };
    assert!(
        why.contains("two processes run as base far: the one at 127.0.0.1:") && why.contains("--name"),
        "{why}"
    );
    let told =
        || control.events(0).into_iter().filter(|one| one.reason == "BaseRunsTwice").collect::<Vec<_>>();
    assert_eq!(told().iter().map(|one| one.object.as_str()).collect::<Vec<_>>(), ["far"]);
    // When the one that has the place ends, the other gets it.
    assert!(first.drain(Duration::from_secs(5)).await.is_empty());
    until("the second is let in", || *second_stands.borrow() == Standing::Connected).await;
    let came = || control.events(0).iter().filter(|one| one.reason == "BaseConnected").count();
    assert_eq!(came(), 2, "they did not throw each other out");
}

#[tokio::test]
async fn a_token_is_good_once_and_for_its_base_only() {
    use dodai_proto::control::{JoinRequest, control_server::Control as _};
    let tasks = Tasks::new();
    let site = Site::new(&tasks);
    let (control, _) = site.serve(anywhere(), &tasks).await;
    let server = Server::new(control.clone(), site.authorities.clone(), Arc::new(NoBlobs), &tasks);
    let join = async |base: &str, token: &str| {
        let identity = PeerIdentity::base(&BaseId::new(base)).expect("valid");
        let request = KeyRequest::new(&identity, &Names::default(), &site.domain).expect("a request");
        let asked = JoinRequest {
            token: token.to_owned(),
            base: base.to_owned(),
            certificate_request: request.pem().to_owned(),
        };
        let joined =
            server.join(tonic::Request::new(asked)).await.map_err(|status| status.message().to_owned())?;
        let svid =
            request.accept(&joined.into_inner().certificate_chain, &site.domain).expect("for this key");
        Ok::<_, String>(svid.identity().clone())
    };
    let hour = Duration::from_secs(3600);
    let token = control.join_token(Some(BaseId::new("one")), hour, "test").await.expect("a token").reveal();
    let check = |found: Result<PeerIdentity, String>, expect: &str| {
        let error = found.expect_err(expect);
        assert!(error.contains(expect), "{error}");
    };
    check(join("one", "nonsense").await, "token");
    check(join("two", &token).await, "is for base `one`");
    assert_eq!(join("one", &token).await, Ok(PeerIdentity::Base(BaseId::new("one"))));
    check(join("one", &token).await, "used");
    let short = control.join_token(None, Duration::ZERO, "test").await.expect("a token").reveal();
    tokio::time::sleep(Duration::from_millis(5)).await;
    check(join("three", &short).await, "expired");
}

/// Says what it was asked, twice; goes on for ever when asked for that.
struct Echo;

impl Answers for Echo {
    fn answer(&self, question: Bytes) -> BoxStream<'static, Answer> {
        if question == "no" {
            return futures_util::stream::iter([Err("never".to_owned())]).boxed();
        }
        let twice = [Ok(question.clone()), Ok(question.clone())];
        if question == "ever" {
            return futures_util::stream::iter(twice).cycle().boxed();
        }
        futures_util::stream::iter(twice).boxed()
    }
}

#[tokio::test]
async fn a_server_asks_its_bases() {
    let tasks = Tasks::new();
    let site = Site::new(&tasks);
    let (_control, server) = site.server(Arc::new(NoBlobs), &tasks).await;
    let asker = server.asker();
    let at = site.listen(&server, anywhere());
    let far = BaseId::new("far");
    let nobody = asker.ask(&far, b"one".to_vec()).map(drop).expect_err("nobody is there");
    assert!(nobody.contains("not connected"), "{nobody}");
    let (_link, _) = site.remote("far", at).connect(None, Introduction::default(), Arc::new(Echo), &tasks);
    until("the base comes", || asker.ask(&far, b"one".to_vec()).is_ok()).await;
    let all = async |question: &str| {
        let mut answers = asker.ask(&far, question.as_bytes().to_vec()).expect("asked");
        let mut all = Vec::new();
        while let Some(answer) = answers.recv().await {
            let Told::Answer(answer) = answer else { panic!("nothing is missed: {answer:?}") };
            all.push(answer.map(|json| String::from_utf8_lossy(&json).into_owned()));
        }
        all
    };
    let asked = async {
        assert_eq!(all("two").await, [Ok("two".to_owned()), Ok("two".to_owned())]);
        assert_eq!(all("no").await, [Err("never".to_owned())]);
        // Who stops reading ends the question; who does not read fast enough misses answers, and is not waited for.
        let mut left = asker.ask(&far, b"ever".to_vec()).expect("asked");
        assert!(matches!(left.recv().await, Some(Told::Answer(Ok(_)))));
        drop(left);
        let _unread = asker.ask(&far, b"ever".to_vec()).expect("asked");
        assert_eq!(all("three").await.len(), 2, "others are answered all the same");
    };
    tokio::time::timeout(Duration::from_secs(20), asked).await.expect("in time");
}

/// An artefact of so many bytes, all alike.
struct Alike(u64);

impl Blobs for Alike {
    fn read(
        &self,
        _: &Digest,
        offset: u64,
        most: usize,
    ) -> BoxFuture<'static, Result<Option<Bytes>, String>> {
        let rest = usize::try_from(self.0.saturating_sub(offset)).unwrap_or(usize::MAX);
        Box::pin(async move { Ok(Some(Bytes::from(vec![0; rest.min(most)]))) })
    }
}

#[tokio::test]
async fn an_artefact_that_is_too_large_is_not_fetched_again_and_again() {
    let tasks = Tasks::new();
    let site = Site::new(&tasks);
    let most = 1 << 30;
    let (_control, at) = site.serve_with(Arc::new(Alike(most + 1)), anywhere(), &tasks).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("artefact");
    // What is there of it takes no room on the disk.
    std::fs::File::create(&path).and_then(|file| file.set_len(most)).expect("a file");
    let digest = Digest::new(format!("sha256:{}", "a".repeat(64)));
    let error = site.remote("far", at).artifact(&digest, &path).await.expect_err("one byte too many");
    assert!(error.to_string().ends_with(&format!("{digest} is larger than {most} bytes")), "{error}");
    assert!(matches!(error, RemoteError::Unwritten(_)), "it is not asked for again");
    assert!(!path.exists(), "what is there of it goes");
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_its_stream_and_the_base_comes_back() {
    let tasks = Tasks::new();
    let site = Site::new(&tasks);
    let (_control, server) = site.server(Arc::new(NoBlobs), &tasks).await;
    let (asker, far) = (server.asker(), BaseId::new("far"));
    let at = site.listen(&server, anywhere());
    let (_link, _) = site.remote("far", at).connect(None, Introduction::default(), Arc::new(Echo), &tasks);
    until("the base comes", || asker.ask(&far, b"one".to_vec()).is_ok()).await;
    let mut lost = asker.ask(&far, vec![b' '; 64 << 20]).expect("asked");
    let lost = tokio::time::timeout(Duration::from_secs(20), lost.recv()).await.expect("in time");
    assert!(matches!(lost, None | Some(Told::Answer(Err(_)))), "{lost:?}");
    until("the base comes back", || asker.ask(&far, b"one".to_vec()).is_ok()).await;
}

#[tokio::test]
async fn what_is_too_large_to_be_told_is_kept_back_and_named_and_the_base_stays() {
    let tasks = Tasks::new();
    let site = Site::new(&tasks);
    let (control, server) = site.server(Arc::new(NoBlobs), &tasks).await;
    let at = site.listen(&server.with_largest(60_000), anywhere());
    let (link, stands) =
        site.remote("far", at).connect(None, Introduction::default(), Arc::new(NoAnswers), &tasks);
    let (seen, reports) = (link.snapshots.clone(), link.status.clone());
    tasks.spawn(Kind::Loop, play(link, None));
    let put = async |name: &str, bytes: usize| {
        let value = "x".repeat(bytes);
        let documents =
            yaml(&module(name, "v1.wasm", &format!("  env:\n    - name: NOTE\n      value: {value}\n")));
        control.apply(&apply(&documents, FieldOwner::Cli, None)).await.expect("applies");
    };
    put("small", 10).await;
    until("the first is told", || seen.borrow().workloads().count() == 1).await;
    put("huge", 100_000).await;
    let told = || {
        let all = control.events(0).into_iter().filter(|one| one.reason == "SnapshotTooLarge");
        all.collect::<Vec<_>>()
    };
    until("it is said", || !told().is_empty()).await;
    let event = told().remove(0);
    assert_eq!(event.object, "far");
    assert!(event.message.contains("default/huge") && event.message.contains("60000"), "{}", event.message);
    assert_eq!(seen.borrow().workloads().count(), 1, "the base goes on with what it had");
    // The stream is still the same one: what the base says is heard, and what fits is told.
    reports.send_modify(|status| status.refused = Some(Refusal { version: 77, reason: "still here".into() }));
    until("the base is heard", || control.events(0).iter().any(|one| one.message.contains("still here")))
        .await;
    assert_eq!(*stands.borrow(), Standing::Connected);
    assert_eq!(control.events(0).iter().filter(|one| one.reason == "BaseConnected").count(), 1);
    put("huge", 10).await;
    until("the second is told", || seen.borrow().workloads().count() == 2).await;
}

#[test]
fn the_last_snapshot_reads_back_and_damage_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("snapshot.json");
    assert!(load(&path).expect("nothing yet").is_none());
    let app = dodai_core::snapshot::App::new(AppId::parse("default/shop").expect("valid"));
    let snapshot = dodai_core::snapshot::Snapshot::of(7, [dodai_core::snapshot::Resource::App(app)]);
    save(&path, &snapshot).expect("saves");
    assert_eq!(load(&path).expect("reads"), Some(snapshot));
    let mut bytes = std::fs::read(&path).expect("reads");
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).expect("writes");
    let error = load(&path).expect_err("it is damaged");
    assert!(error.to_string().contains("checksum"), "{error}");
}

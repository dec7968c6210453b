//! A policy that changes is asked again of calls under way: over every pair of protocols, with the next bytes of either
//! direction, and by everything that it may ask for.

use std::sync::Arc;

use crate::h2::{Incoming, Server};
use crate::serve::Scripted;
use crate::support::*;
use crate::tokens::{Login, ada, in_seconds, jwt};
use bytes::Bytes;
use dodai_core::body::{Body, CREDIT, Writer, pipe};
use dodai_core::call::Reply;
use dodai_core::failure::Failure;
use dodai_core::id::InstanceId;
use dodai_core::snapshot::*;
use dodai_dataplane::local::Way;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::sync::{mpsc, oneshot};

/// The client's end of a call that goes on for long.
enum Client {
    Http1(Peer),
    Http2 { up: SendStream<Bytes>, answer: Option<ResponseFuture>, down: Option<RecvStream> },
}

/// The endpoint's end.
enum Backend {
    Http1(Peer),
    Http2 { asked: RecvStream, respond: SendResponse<Bytes>, down: Option<SendStream<Bytes>> },
    Module { asked: Body, answer: Option<oneshot::Sender<Result<Reply, Failure>>>, down: Option<Writer> },
}

/// A call whose request has begun and not ended.
struct UnderWay {
    client: Client,
    backend: Backend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
    /// It is in the base's own process.
    Module,
}

use Speaks::{Http1, Http2, Module};

/// What client and endpoint speak.
const PAIRS: [(Speaks, Speaks); 6] =
    [(Http1, Http1), (Http1, Http2), (Http1, Module), (Http2, Http1), (Http2, Http2), (Http2, Module)];

/// What a call says of itself beside its token.
const TEAM: (&str, &str) = ("x-team", "red");

/// A route with these filters to a service with those, which speaks so.
fn guarded(to: Speaks, filters: Vec<Filter>, inbound: Vec<Filter>) -> Vec<Resource> {
    let protocol = if to == Http2 { Protocol::Http2 } else { Protocol::Http };
    let mut resources =
        usual(Service { protocol, inbound, ..service("shop/catalog/http") }, filtered(filters));
    if to == Module {
        resources.push(endpoints("shop/catalog/http", vec![instance("i-1")]));
    }
    resources
}

fn spoken(to: Speaks, filters: Vec<Filter>) -> Vec<Resource> {
    guarded(to, filters, vec![])
}

impl UnderWay {
    /// A call whose first bytes are there.
    async fn begin(world: &World, (from, to): (Speaks, Speaks), token: &str, kind: &str) -> UnderWay {
        let mut backends = world.backend(1);
        let (module, mut calls) = mpsc::channel(1);
        world.plane.locals().get(&InstanceId::new("i-1")).set(Way::Serve(Arc::new(Scripted(module))));
        let client = if from == Http2 {
            let stream = world.client().await.stream;
            let (sender, connection) = h2::client::handshake(stream).await.expect("shaken");
            beside(connection);
            let mut sender = sender.ready().await.expect("ready");
            let request = Request::post("http://shop/api/a").header(TEAM.0, TEAM.1);
            let request = request.header("authorization", format!("Bearer {token}"));
            let request = request.header("content-type", kind).header("te", "trailers");
            let (answer, mut up) =
                sender.send_request(request.body(()).expect("valid"), false).expect("sent");
            up.send_data("begun".into(), false).expect("sent");
            Client::Http2 { up, answer: Some(answer), down: None }
        } else {
            let mut peer = world.client().await;
            let head = format!(
                "POST /api/a HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n{}: {}\r\n",
                TEAM.0, TEAM.1
            );
            peer.send(format!("{head}Authorization: Bearer {token}\r\n\r\n5\r\nbegun\r\n")).await;
            Client::Http1(peer)
        };
        let mut backend = match to {
            Http1 => {
                let mut peer = backends.accept().await;
                peer.head().await;
                Backend::Http1(peer)
            }
            Http2 => {
                let mut server = Server::accept(&mut backends).await;
                let (asked, respond): Incoming = server.next().await;
                server.drive();
                Backend::Http2 { asked: asked.into_body(), respond, down: None }
            }
            Module => {
                let (call, answer) = calls.recv().await.expect("a call");
                Backend::Module { asked: call.body, answer: Some(answer), down: None }
            }
        };
        assert_eq!(backend.takes().await.as_deref(), Some("begun"));
        UnderWay { client, backend }
    }

    /// Bytes of the request, which arrive.
    async fn sends(&mut self, text: &str) {
        self.client.send(text).await;
        assert_eq!(self.backend.takes().await.as_deref(), Some(text));
    }

    /// Bytes of the answer, which arrive; the first with its head.
    async fn is_told(&mut self, text: &str) {
        self.backend.tell(text).await;
        assert_eq!(self.client.hears().await.as_deref(), Some(text));
    }
}

impl Client {
    async fn send(&mut self, text: &str) {
        match self {
            Client::Http1(peer) => peer.send(format!("{:x}\r\n{text}\r\n", text.len())).await,
            Client::Http2 { up, .. } => up.send_data(text.to_owned().into(), false).expect("sent"),
        }
    }

    /// The next bytes of the answer, if it is still whole; the first come with its head.
    async fn hears(&mut self) -> Option<String> {
        match self {
            Client::Http1(peer) => chunk(peer).await,
            Client::Http2 { answer, down, .. } => {
                if let Some(answer) = answer.take() {
                    *down = Some(answer.await.expect("answered").into_body());
                }
                let data = down.as_mut().expect("an answer").data().await?;
                Some(String::from_utf8(data.ok()?.to_vec()).expect("text"))
            }
        }
    }

    /// The status of an answer that has not begun before.
    async fn status(&mut self) -> (u16, Option<String>) {
        match self {
            Client::Http1(peer) => (peer.message().await.status(), None),
            Client::Http2 { answer, .. } => {
                let head = answer.take().expect("not answered").await.expect("answered");
                let code = head.headers().get("grpc-status");
                (head.status().as_u16(), code.map(|code| code.to_str().expect("text").to_owned()))
            }
        }
    }
}

impl Backend {
    /// The next bytes of the request, if there are any.
    async fn takes(&mut self) -> Option<String> {
        match self {
            Backend::Http1(peer) => chunk(peer).await,
            Backend::Http2 { asked, .. } => {
                let data = asked.data().await?.ok()?;
                asked.flow_control().release_capacity(data.len()).expect("open");
                Some(String::from_utf8(data.to_vec()).expect("text"))
            }
            Backend::Module { asked, .. } => {
                let data = asked.frame().await?.ok()?.into_data().ok()?;
                Some(String::from_utf8(data.to_vec()).expect("text"))
            }
        }
    }

    async fn tell(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        match self {
            Backend::Http1(peer) => drop(peer.try_send(chunk).await),
            Backend::Http2 { down, .. } => {
                // Whose stream was reset cannot send.
                let _cut = down.as_mut().expect("a head").send_data(text.to_owned().into(), false);
            }
            Backend::Module { down, .. } => {
                let _cut = down.as_mut().expect("a head").send(text.to_owned().into()).await;
            }
        }
    }

    async fn head(&mut self) {
        match self {
            Backend::Http1(peer) => {
                peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            }
            Backend::Http2 { respond, down, .. } => {
                *down = Some(respond.send_response(Response::new(()), false).expect("sent"));
            }
            Backend::Module { answer, down, .. } => {
                let (writer, body) = pipe(CREDIT, None);
                *down = Some(writer);
                let (head, ()) = Response::new(()).into_parts();
                assert!(answer.take().expect("asked").send(Ok(Reply { head, body })).is_ok());
            }
        }
    }
}

/// The next chunk that a peer sends, behind a head if there is one; `None` at the end, however that comes.
async fn chunk(peer: &mut Peer) -> Option<String> {
    let mut line = peer.try_until("\r\n").await?;
    if line.starts_with("HTTP/1.1 ") {
        peer.try_until("\r\n\r\n").await?;
        line = peer.try_until("\r\n").await?;
    }
    let size = usize::from_str_radix(line.trim_end(), 16).ok().filter(|size| *size > 0)?;
    let text = peer.text(size).await;
    peer.text(2).await;
    Some(text)
}

/// What is asked of a call before, after a change that still lets it in, and after one that does not.
struct Change {
    what: &'static str,
    before: Vec<Filter>,
    still: Vec<Filter>,
    after: Vec<Filter>,
}

fn access(default_allow: bool, rule: AccessRule) -> Filter {
    Filter::Access(Access { default_allow, rules: vec![rule] })
}

fn deny(rule: AccessRule) -> Filter {
    access(true, rule)
}

fn header(value: &str) -> AccessRule {
    let value = ValuePattern::Exact(value.into());
    AccessRule { headers: vec![ValueMatch { name: TEAM.0.into(), value }], ..AccessRule::default() }
}

fn group(name: &str) -> AccessRule {
    let values = vec![ValuePattern::Exact(name.into())];
    AccessRule { claims: vec![ClaimMatch { name: "groups".into(), values }], ..AccessRule::default() }
}

fn cel(text: &str) -> AccessRule {
    AccessRule { cel: Some(text.into()), ..AccessRule::default() }
}

fn path(text: &str) -> AccessRule {
    AccessRule { paths: vec![text.into()], ..AccessRule::default() }
}

/// Everything that a rule may ask for, and that was asked of calls only when they came.
fn changes(login: &Login) -> Vec<Change> {
    let token = || jwt(JwtKeys::Inline(login.keys()));
    let rewrite = || Filter::Rewrite { host: None, path: Some(PathRewrite::Full("/inner".into())) };
    let removes =
        || Filter::RequestHeaders(HeaderEdits { remove: vec![TEAM.0.into()], ..HeaderEdits::default() });
    let change = |what, before, still, after| Change { what, before, still, after };
    let except = AccessExcept { claims: group("staff").claims, ..AccessExcept::default() };
    vec![
        change("header", vec![], vec![deny(header("blue"))], vec![deny(header("red"))]),
        change(
            "a header that the route takes out",
            vec![removes()],
            vec![access(false, AccessRule { allow: true, ..header("red") }), removes()],
            vec![deny(header("red")), removes()],
        ),
        change(
            "CEL over the head",
            vec![],
            vec![deny(cel("request.headers['x-team'] == 'blue'"))],
            vec![deny(cel("request.headers['x-team'] == 'red' && source.app == ''"))],
        ),
        change(
            "a path that is rewritten",
            vec![rewrite()],
            vec![deny(path("/inner")), rewrite()],
            vec![deny(path("/api/*")), rewrite()],
        ),
        change(
            "claims",
            vec![token()],
            vec![token(), access(false, AccessRule { allow: true, ..group("staff") })],
            vec![token(), deny(group("staff"))],
        ),
        change(
            "all but some claims",
            vec![token()],
            vec![token(), deny(AccessRule { except, ..AccessRule::default() })],
            vec![token(), access(false, AccessRule { allow: true, ..group("other") })],
        ),
        change(
            "CEL over claims",
            vec![token()],
            vec![token(), deny(cel("claims.realm.role == 'guest'"))],
            vec![token(), deny(cel("claims.realm.role == 'admin'"))],
        ),
        change(
            "claims of a token that nobody had asked for",
            vec![],
            vec![token(), access(false, AccessRule { allow: true, ..group("staff") })],
            vec![token(), deny(group("staff"))],
        ),
        change(
            "claims of an issuer that is trusted no more",
            vec![token()],
            vec![token(), access(false, AccessRule { allow: true, ..group("staff") })],
            vec![access(false, AccessRule { allow: true, ..group("staff") })],
        ),
    ]
}

async fn denied(world: &World, what: &str) {
    let record = world.records.next().await;
    assert_eq!(record.failure.map(|kind| kind.code()), Some("denied"), "{what}: {record:?}");
    assert!(record.detail.contains("the policy changed"), "{what}: {}", record.detail);
}

#[tokio::test(start_paused = true)]
async fn answers_are_cut_with_their_next_bytes() {
    local(async {
        let login = Login::new();
        let token = login.sign("ES256", &ada());
        for pair in PAIRS {
            for Change { what, before, still, after } in changes(&login) {
                let what = format!("{what} over {pair:?}");
                let world = World::of(spoken(pair.1, before)).await;
                let mut call = UnderWay::begin(&world, pair, &token, "text/plain").await;
                call.backend.head().await;
                call.is_told("one").await;
                world.apply(spoken(pair.1, still)).await;
                call.is_told("two").await;
                world.apply(spoken(pair.1, after)).await;
                call.backend.tell("secret").await;
                assert_eq!(call.client.hears().await, None, "{what}");
                denied(&world, &what).await;
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_nobody_answers_yet_are_cut_with_their_next_bytes() {
    local(async {
        let login = Login::new();
        let token = login.sign("ES256", &ada());
        for pair in PAIRS {
            for Change { what, before, still, after } in changes(&login) {
                let what = format!("{what} over {pair:?}");
                let world = World::of(spoken(pair.1, before)).await;
                let mut call = UnderWay::begin(&world, pair, &token, "text/plain").await;
                world.apply(spoken(pair.1, still)).await;
                call.sends("two").await;
                world.apply(spoken(pair.1, after)).await;
                call.client.send("secret").await;
                assert_eq!(call.backend.takes().await, None, "{what}");
                assert_eq!(call.client.status().await.0, 403, "{what}");
                denied(&world, &what).await;
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn requests_whose_answer_has_begun_are_cut_with_their_next_bytes() {
    local(async {
        for pair in PAIRS {
            let what = format!("{pair:?}");
            let world = World::of(spoken(pair.1, vec![])).await;
            let mut call = UnderWay::begin(&world, pair, "none", "text/plain").await;
            call.backend.head().await;
            call.is_told("one").await;
            world.apply(spoken(pair.1, vec![deny(header("red"))])).await;
            call.client.send("secret").await;
            assert_eq!(call.backend.takes().await, None, "{what}");
            // A module may go on to answer, and is not heard.
            call.backend.tell("secret").await;
            assert_eq!(call.client.hears().await, None, "{what}");
            denied(&world, &what).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_begins_after_the_change_does_not_pass() {
    local(async {
        for pair in PAIRS {
            let what = format!("{pair:?}");
            let world = World::of(spoken(pair.1, vec![])).await;
            let mut call = UnderWay::begin(&world, pair, "none", "text/plain").await;
            world.apply(spoken(pair.1, vec![deny(header("red"))])).await;
            call.backend.head().await;
            call.backend.tell("secret").await;
            assert_eq!(call.client.status().await.0, 403, "{what}");
            denied(&world, &what).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_stream_of_grpc_is_refused_in_its_own_words() {
    local(async {
        for to in [Http1, Http2, Module] {
            let world = World::of(spoken(to, vec![])).await;
            let mut call = UnderWay::begin(&world, (Http2, to), "none", "application/grpc").await;
            call.sends("more").await;
            world.apply(spoken(to, vec![deny(header("red"))])).await;
            call.client.send("secret").await;
            assert_eq!(call.backend.takes().await, None, "{to:?}");
            assert_eq!(call.client.status().await, (200, Some("7".to_owned())), "{to:?}");
            denied(&world, "gRPC").await;
        }
    })
    .await;
}

/// Claims that the service of the endpoint itself asks for, and not the route.
#[tokio::test(start_paused = true)]
async fn what_a_service_asks_of_its_callers_is_asked_again() {
    local(async {
        let login = Login::new();
        let token = login.sign("ES256", &ada());
        let asks = |to, filter: Option<Filter>| {
            let inbound = [jwt(JwtKeys::Inline(login.keys()))].into_iter().chain(filter).collect();
            guarded(to, vec![], inbound)
        };
        for pair in PAIRS {
            let what = format!("{pair:?}");
            let world = World::of(asks(pair.1, None)).await;
            let mut call = UnderWay::begin(&world, pair, &token, "text/plain").await;
            let staff = access(false, AccessRule { allow: true, ..group("staff") });
            world.apply(asks(pair.1, Some(staff))).await;
            call.sends("two").await;
            world.apply(asks(pair.1, Some(deny(group("staff"))))).await;
            call.client.send("secret").await;
            assert_eq!(call.backend.takes().await, None, "{what}");
            assert_eq!(call.client.status().await.0, 403, "{what}");
            denied(&world, &what).await;
        }
    })
    .await;
}

/// A token that ends while its call is under way, and keys that are others by then, are no change of policy.
#[tokio::test(start_paused = true)]
async fn a_token_counts_as_long_as_its_call() {
    local(async {
        let login = Login::new();
        let keys = |login: &Login| jwt(JwtKeys::Inline(login.keys()));
        let staff = || access(false, AccessRule { allow: true, ..group("staff") });
        // It counts a minute longer than it says.
        for (expired_for, counts) in [(80, true), (200, false)] {
            let mut claims = ada();
            claims["exp"] = in_seconds(-expired_for).into();
            let token = login.sign("ES256", &claims);
            let world = World::of(spoken(Http1, vec![])).await;
            let mut call = UnderWay::begin(&world, (Http1, Http1), &token, "text/plain").await;
            tokio::time::sleep(secs(40)).await;
            world.apply(spoken(Http1, vec![keys(&login), staff()])).await;
            if counts {
                call.sends("two").await;
            } else {
                call.client.send("two").await;
                denied(&world, "of a token that had ended before").await;
            }
        }
        let token = login.sign("ES256", &ada());
        for pair in PAIRS {
            let world = World::of(spoken(pair.1, vec![keys(&login)])).await;
            let mut call = UnderWay::begin(&world, pair, &token, "text/plain").await;
            world.apply(spoken(pair.1, vec![keys(&Login::new()), staff()])).await;
            call.sends("two").await;
        }
    })
    .await;
}

//! Endpoints in this process (modules, APIs), calls through the door, and calls between bases.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::support::*;
use bytes::Bytes;
use dodai_core::body::{Body, pipe};
use dodai_core::call::{Answer, Call, Caller, Context, Door as _, MAX_HOPS, Reply, Serve};
use dodai_core::failure::{Failure, Kind};
use dodai_core::id::{BaseId, InstanceId, Name};
use dodai_core::snapshot::*;
use dodai_core::trace::Span;
use dodai_dataplane::door::PlaneDoor;
use dodai_dataplane::limits::Limits;
use dodai_dataplane::local::{Local, Way};
use dodai_dataplane::mesh::Mesh;
use dodai_transport::ca::{Authority, LEAF_VALIDITY, Names};
use dodai_transport::identity::{MeshName, PeerIdentity, TrustDomain};
use dodai_transport::memory::Net;
use dodai_transport::tls::mesh::{Connector, LiveSvid, acceptor};
use dodai_transport::tls::{Alpn, Clock};
use dodai_transport::trust::Trust;
use http::StatusCode;
use tokio::sync::{Mutex, mpsc, oneshot};

/// A service whose calls the test answers by hand.
pub struct Scripted(pub mpsc::Sender<(Call, oneshot::Sender<Result<Reply, Failure>>)>);

impl Serve for Scripted {
    fn serve(&self, call: Call) -> Answer<'_> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            self.0.send((call, answer)).await.expect("the test listens");
            answered.await.unwrap_or_else(|_| Err(Failure::new(Kind::Trap, "the test dropped the call")))
        })
    }
}

type Calls = mpsc::Receiver<(Call, oneshot::Sender<Result<Reply, Failure>>)>;

async fn module() -> (World, Calls, Arc<Local>) {
    let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
    resources.push(endpoints("shop/catalog/http", vec![instance("i-1")]));
    let world = World::of(resources).await;
    let (sender, calls) = mpsc::channel(8);
    let local = world.plane.locals().get(&InstanceId::new("i-1"));
    local.set(Way::Serve(Arc::new(Scripted(sender))));
    (world, calls, local)
}

fn call(caller: Caller, uri: &str) -> Call {
    let (head, ()) = http::Request::get(uri).body(()).expect("valid").into_parts();
    Call { head, body: Body::empty(), context: Context::new(caller, Span::root(false)) }
}

#[tokio::test(start_paused = true)]
async fn bodies_stream_into_and_out_of_a_module() {
    local(async {
        let (world, mut calls, instance) = module().await;
        let mut client = world.client().await;
        client.send("POST /m HTTP/1.1\r\nHost: shop\r\nContent-Length: 200000\r\n\r\n").await;
        let (mut call, answer) = calls.recv().await.expect("a call");
        assert_eq!((call.context.hops, call.context.caller.clone()), (1, Caller::Outside));
        let (mut writer, body) = pipe(1000, None);
        assert!(answer.send(Ok(Reply { head: Reply::new(StatusCode::OK, "").head, body })).is_ok());
        writer.send(Bytes::from_static(b"early")).await.expect("wanted");
        // The answer runs while the request is still on its way.
        assert!(client.head().await.contains("transfer-encoding: chunked\r\n"));
        assert_eq!(client.until("5\r\nearly\r\n").await, "5\r\nearly\r\n");
        assert_eq!(instance.in_flight(), 1);
        let upload = beside(async move {
            client.send(vec![b'x'; 200_000]).await;
            client
        });
        let mut got = 0;
        while got < 200_000 {
            got += call.body.frame().await.expect("more").expect("whole").into_data().expect("data").len();
        }
        assert!(call.body.frame().await.is_none());
        let mut client = upload.await.expect("no panic");
        writer.finish(None);
        assert_eq!(client.until("0\r\n\r\n").await, "0\r\n\r\n");
        settle().await;
        assert_eq!(instance.in_flight(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_cancels_the_module() {
    local(async {
        let (world, mut calls, instance) = module().await;
        let mut client = world.client().await;
        client.send(GET).await;
        let (_call, mut answer) = calls.recv().await.expect("a call");
        drop(client);
        answer.closed().await;
        settle().await;
        assert_eq!(instance.in_flight(), 0);
        let mut client = world.client().await;
        client.send(GET).await;
        let (_call, answer) = calls.recv().await.expect("a call");
        let (mut writer, body) = pipe(1000, None);
        assert!(answer.send(Ok(Reply { head: Reply::new(StatusCode::OK, "").head, body })).is_ok());
        client.head().await;
        drop(client);
        writer.cancelled().await;
        settle().await;
        assert_eq!(instance.in_flight(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_module_that_fails_is_told_apart() {
    local(async {
        let (world, mut calls, _instance) = module().await;
        let mut client = world.client().await;
        client.send(GET).await;
        drop(calls.recv().await);
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (502, Some("trap")));
        client.send(GET).await;
        let (_call, answer) = calls.recv().await.expect("a call");
        let (writer, body) = pipe(1000, Some(10));
        assert!(answer.send(Ok(Reply { head: Reply::new(StatusCode::OK, "").head, body })).is_ok());
        assert!(client.head().await.contains("content-length: 10\r\n"));
        writer.fail(Failure::new(Kind::Quota, "out of fuel"));
        client.ended().await;
        let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let answer = world.client().await.ask(upgrade).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (501, Some("not_implemented")));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_of_another_length_than_announced_is_cut() {
    local(async {
        let (world, mut calls, _instance) = module().await;
        for (piece, whole) in [("abcdef", ""), ("ab", "ab")] {
            let mut client = world.client().await;
            client.send(GET).await;
            let (_call, answer) = calls.recv().await.expect("a call");
            let (mut writer, body) = pipe(1000, Some(5));
            assert!(answer.send(Ok(Reply { head: Reply::new(StatusCode::OK, "").head, body })).is_ok());
            client.head().await;
            writer.send(Bytes::from_static(piece.as_bytes())).await.expect("wanted");
            settle().await;
            writer.finish(None);
            assert_eq!(client.rest().await, whole);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_door_leads_through_the_same_stations() {
    local(async {
        let (world, mut calls, instance) = module().await;
        let door = world.plane.door();
        let asking = {
            let door = door.clone();
            beside(async move { door.enter(call(Caller::App(app("shop/front")), "http://catalog/x")).await })
        };
        let (call_in, answer) = calls.recv().await.expect("a call");
        assert_eq!((call_in.context.hops, &call_in.context.caller), (1, &Caller::App(app("shop/front"))));
        assert!(answer.send(Ok(Reply::new(StatusCode::CREATED, "made"))).is_ok());
        let reply = asking.await.expect("no panic").expect("answered");
        assert_eq!(
            (reply.head.status, reply.body.collect(10).await.expect("whole")),
            (StatusCode::CREATED, "made".into())
        );
        assert_eq!(instance.in_flight(), 0);
        let unknown =
            door.enter(call(Caller::App(app("shop/front")), "http://nobody/")).await.expect_err("unknown");
        assert_eq!(unknown.kind, Kind::NoRoute);
        let mut cancelled = Box::pin(door.enter(call(Caller::App(app("shop/front")), "http://catalog/x")));
        let (_call, mut answer) = tokio::select! {
            _ = &mut cancelled => panic!("nobody answered"),
            call = calls.recv() => call.expect("a call"),
        };
        drop(cancelled);
        answer.closed().await;
        settle().await;
        assert_eq!(instance.in_flight(), 0);
        world.plane.drain(secs(1)).await;
        let late = door.enter(call(Caller::Base, "http://catalog.shop/x")).await.expect_err("closed");
        assert_eq!(late.kind, Kind::Draining);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_base_asks_of_an_app_that_is_not_there_yet_is_nobodys_failure() {
    local(async {
        let (world, _calls, instance) = module().await;
        instance.set(Way::Closed("is starting".into()));
        let door = world.plane.door();
        for (caller, recorded) in [(Caller::Base, 0), (Caller::App(app("shop/front")), 1)] {
            let failure = door.enter(call(caller, "http://catalog.shop/dapr/subscribe")).await;
            assert_eq!(failure.expect_err("nobody").kind, Kind::NoEndpoint);
            assert_eq!(world.records.take().len(), recorded);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_of_the_base_takes_as_long_as_it_says_itself() {
    local(async {
        let (world, mut calls, _instance) = module().await;
        for (caller, bound) in [(Caller::Base, 3_600), (Caller::App(app("shop/front")), 60)] {
            let mut asked = call(caller, "http://catalog.shop/job/slow");
            let start = tokio::time::Instant::now();
            asked.context.deadline = Some((start + secs(3_600)).into_std());
            let door = world.plane.door();
            let answered = beside(async move { door.enter(asked).await });
            let _unanswered = calls.recv().await.expect("a call");
            let late = answered.await.expect("no panic").expect_err("too long");
            assert_eq!(late.kind, Kind::Timeout);
            let took = start.elapsed();
            assert!(took >= secs(bound) && took < secs(bound + 2), "{took:?}, not {bound} s");
        }
    })
    .await;
}

/// Calls itself with the context it got.
struct Echoing(PlaneDoor);

impl Serve for Echoing {
    fn serve(&self, call_in: Call) -> Answer<'_> {
        Box::pin(async move {
            let mut next = call(call_in.context.caller.clone(), "http://catalog.shop/again");
            next.context = call_in.context;
            self.0.enter(next).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn modules_that_call_in_a_circle_are_stopped() {
    local(async {
        let (world, _calls, instance) = module().await;
        instance.set(Way::Serve(Arc::new(Echoing(world.plane.door()))));
        let answer = world.client().await.ask(GET).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (508, Some("loop")));
        assert_eq!(world.records.take().len(), usize::from(MAX_HOPS));
        assert_eq!(instance.in_flight(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_doors_queue_is_bounded() {
    local(async {
        let world = World::with(Limits { door_queue: 1, ..Limits::default() }, vec![]).await;
        let door = world.plane.door();
        let enter = || door.enter(call(Caller::Base, "http://nobody/"));
        let (first, second) = futures_util::join!(enter(), enter());
        assert_eq!(
            (first.expect_err("no").kind, second.expect_err("no").kind),
            (Kind::NoRoute, Kind::QueueFull)
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_apps_api_is_reached_by_both_protocols() {
    local(async {
        let api = listener("api", 85, Role::Api { app: app("shop/front") });
        let world = World::of(vec![api]).await;
        let answer = world.client_of(85).await.ask(GET).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("no_endpoint")));
        let (sender, mut calls) = mpsc::channel(8);
        world.plane.set_api(&app("shop/front"), Some(Arc::new(Scripted(sender))));
        let mut client = world.client_of(85).await;
        client.send("POST /v1.0/state HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\ndodai-hops: 4\r\n\r\n[]").await;
        let (call, answer) = calls.recv().await.expect("a call");
        assert_eq!((call.head.uri.path(), call.context.hops), ("/v1.0/state", 4));
        assert_eq!(call.body.collect(10).await.expect("whole"), "[]");
        assert!(answer.send(Ok(Reply::new(StatusCode::NO_CONTENT, ""))).is_ok());
        assert!(client.head().await.starts_with("HTTP/1.1 204 "));
        let (mut sender, connection) = h2::client::handshake(world.client_of(85).await.stream).await.expect("shaken");
        let _driving = beside(connection);
        let request = http::Request::get("http://localhost/v1.0/x").body(()).expect("valid");
        let (response, _) = sender.send_request(request, true).expect("sent");
        let (_call, answer) = calls.recv().await.expect("a call");
        assert!(answer.send(Ok(Reply::new(StatusCode::OK, "yes"))).is_ok());
        assert_eq!(response.await.expect("answered").status(), 200);
        assert!(world.records.take().iter().all(|record| record.direction == "api"));
    })
    .await;
}

/// An authority that issues to everybody who asks, and the wall clock of the bases.
#[derive(Clone)]
pub struct Issuer(Arc<(Mutex<()>, Authority, Trust)>, Clock);

impl Issuer {
    pub fn new() -> Issuer {
        Issuer::at(Clock::system())
    }

    pub fn at(clock: Clock) -> Issuer {
        let authority = Authority::create(TrustDomain::default(), SystemTime::now()).expect("created");
        let trust = Trust::new(TrustDomain::default(), authority.bundle().expect("bundle"));
        Issuer(Arc::new((Mutex::default(), authority, trust)), clock)
    }

    /// Looks at what is open, as a base does time and again.
    pub fn sweep(&self) {
        self.0.2.sweep(self.1.now());
    }

    fn svid(&self, identity: &PeerIdentity) -> LiveSvid {
        let svid =
            self.0.1.issue(identity, &Names::default(), LEAF_VALIDITY, SystemTime::now()).expect("issued");
        LiveSvid::new(svid).expect("usable")
    }

    /// The seam of a base that accepts for `catalog`.
    pub fn mesh(&self) -> Mesh {
        let issuer = self.clone();
        let connectors = Arc::new(move |caller: &Caller| {
            let identity = match caller {
                Caller::App(app) if app.name.as_str() == "stranger" => return None,
                Caller::App(app) => PeerIdentity::App(app.clone()),
                Caller::Base | Caller::Outside => PeerIdentity::base(&BaseId::new("b")).expect("valid"),
            };
            Some(Connector::new(issuer.svid(&identity), issuer.0.2.clone(), &[], issuer.1.clone()))
        });
        let keys = Arc::new(self.svid(&PeerIdentity::App(app("shop/catalog"))));
        Mesh {
            connectors,
            acceptor: acceptor(keys, self.0.2.clone(), Alpn::HTTP, self.1.clone()),
            zone: Name::new("z1").expect("valid"),
            domain: TrustDomain::default(),
        }
    }
}

pub fn remote(port: u16) -> Endpoint {
    let target = Target::Instance {
        instance: InstanceId::new("i-1"),
        base: BaseId::new("far"),
        mesh: Some(([10, 0, 0, 2], port).into()),
    };
    Endpoint::new(dodai_core::id::RevisionId::new("r1"), target)
}

#[tokio::test(start_paused = true)]
async fn without_a_mesh_nothing_goes_to_another_base() {
    local(async {
        let mut resources = usual(service("shop/catalog/http"), filtered(vec![]));
        resources.push(endpoints("shop/catalog/http", vec![remote(15_008)]));
        let world = World::of(resources).await;
        let mut far = Peers(listen(&world.net.host([10, 0, 0, 2]), 15_008));
        let answer = world.client().await.ask(GET).await;
        assert!(answer.status() == 503 && answer.body.contains("not part of a mesh"), "{answer:?}");
        assert!(far.is_left_alone().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bases_call_each_other_as_their_apps() {
    local(async {
        let (net, issuer) = (Net::new(), Issuer::new());
        let near = World::on(net.clone(), Limits::default(), Some(issuer.mesh()));
        let far = World::at(net, [10, 0, 0, 2], "far", Limits::default(), Some(issuer.mesh()));
        for protocol in [Protocol::Http, Protocol::Http2] {
            let mut catalog = Service { protocol, ..service("shop/catalog/http") };
            let front = AccessRule { allow: true, apps: vec![app("shop/front")], ..AccessRule::default() };
            catalog.inbound = vec![Filter::Access(Access { default_allow: false, rules: vec![front] })];
            let mut here = usual(catalog.clone(), filtered(vec![]));
            here.push(endpoints("shop/catalog/http", vec![remote(15_008)]));
            here.push(listener("stranger", 82, Role::Outbound { app: app("shop/stranger") }));
            near.apply(here).await;
            let mesh_listener =
                Listener::new("mesh", ([10, 0, 0, 2], 15_008).into(), Protocol::Http, Role::Mesh);
            let list = endpoints("shop/catalog/http", vec![remote(15_008)]);
            far.apply(vec![Resource::Listener(mesh_listener), Resource::Service(catalog), list]).await;
            let (sender, mut calls) = mpsc::channel(8);
            far.plane.locals().get(&InstanceId::new("i-1")).set(Way::Serve(Arc::new(Scripted(sender))));
            let mut client = near.client_of(81).await;
            client.send("GET /x HTTP/1.1\r\nHost: catalog\r\n\r\n").await;
            let (call, answer) = calls.recv().await.expect("a call");
            assert_eq!((call.context.caller, call.context.hops), (Caller::App(app("shop/front")), 2));
            assert!(answer.send(Ok(Reply::new(StatusCode::OK, "far"))).is_ok());
            assert_eq!(client.message().await.body, "far");
            let answer = near.client().await.ask(GET).await;
            assert_eq!(
                (answer.status(), answer.header("dodai-failure")),
                (403, Some("denied")),
                "a gateway's users"
            );
            let answer = near.client_of(82).await.ask("GET / HTTP/1.1\r\nHost: catalog\r\n\r\n").await;
            assert!(answer.status() == 503 && answer.body.contains("holds no certificate"), "{answer:?}");
            assert_eq!(far.records.take()[0].direction, "inbound");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_base_that_cannot_be_reached_is_found_out_by_asking() {
    local(async {
        let (net, issuer) = (Net::new(), Issuer::new());
        let near = World::on(net.clone(), Limits::default(), Some(issuer.mesh()));
        let far = World::at(net, [10, 0, 0, 2], "far", Limits::default(), Some(issuer.mesh()));
        let mut catalog = service("shop/catalog/http");
        catalog.health.check = Some(HealthCheck {
            asks: Question::Http { path: "/healthz".into(), host: None, statuses: (200, 299) },
            interval: secs(1),
            timeout: secs(1),
            healthy_after: 1,
            unhealthy_after: 2,
            idle_after: secs(600),
        });
        // Nobody may call it, and it is well all the same: it is not a matter of calls.
        catalog.inbound = vec![Filter::Access(Access { default_allow: false, rules: vec![] })];
        let mut here = usual(catalog.clone(), filtered(vec![]));
        here.push(endpoints("shop/catalog/http", vec![remote(15_008)]));
        near.apply(here).await;
        let mesh = Listener::new("mesh", ([10, 0, 0, 2], 15_008).into(), Protocol::Http, Role::Mesh);
        let there = || {
            let list = endpoints("shop/catalog/http", vec![remote(15_008)]);
            vec![Resource::Listener(mesh.clone()), Resource::Service(catalog.clone()), list]
        };
        far.apply(there()).await;
        let (sender, _calls) = mpsc::channel(8);
        far.plane.locals().get(&InstanceId::new("i-1")).set(Way::Serve(Arc::new(Scripted(sender))));
        let unwell = async |expect: usize| {
            for _ in 0..100 {
                if near.plane.gauges().endpoints_unwell == expect {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            panic!("{:?}", near.plane.gauges());
        };
        assert_eq!(near.client().await.ask(GET).await.status(), 403);
        tokio::time::sleep(secs(5)).await;
        unwell(0).await;
        far.apply(vec![]).await;
        unwell(1).await;
        far.apply(there()).await;
        unwell(0).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_finds_its_instance_closed_goes_where_the_newer_table_leads() {
    local(async {
        for from_inside in [false, true] {
            let (world, mut calls, _instance) = module().await;
            let door = world.plane.door();
            let asked = if from_inside {
                let post = call(Caller::App(app("shop/front")), "http://catalog/x");
                Ok(beside(async move { door.enter(post).await.expect("answered").head.status.as_u16() }))
            } else {
                let mut client = world.client().await;
                client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
                Err(client)
            };
            let (_call, answer) = calls.recv().await.expect("it arrived");
            // A deploy: another endpoint is told, the old instance closes.
            let mut backends = world.backend(1);
            world.apply(usual(service("shop/catalog/http"), filtered(vec![]))).await;
            answer.send(Err(Failure::new(Kind::NoEndpoint, "is shutting down"))).expect("it waits");
            let request = backends.accept().await.answer(OK).await;
            match asked {
                Ok(entered) => assert_eq!(entered.await.expect("no panic"), 200),
                Err(mut client) => {
                    assert_eq!(request.body, "hi", "the body goes along");
                    assert_eq!(client.message().await.body, "ok");
                }
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_rule_asks_of_instances_holds_on_another_base() {
    local(async {
        let (net, issuer) = (Net::new(), Issuer::new());
        let near = World::on(net.clone(), Limits::default(), Some(issuer.mesh()));
        let far = World::at(net, [10, 0, 0, 2], "far", Limits::default(), Some(issuer.mesh()));
        let list: Vec<Endpoint> = [("i-1", "r1", "gold"), ("i-2", "r2", "gold"), ("i-3", "r2", "iron")]
            .map(|(instance, revision, tier)| {
                let (base, mesh) = (BaseId::new("far"), Some(([10, 0, 0, 2], 15_008).into()));
                let target = Target::Instance { instance: InstanceId::new(instance), base, mesh };
                let labels = [("tier".to_owned(), tier.to_owned())].into();
                Endpoint { labels, ..Endpoint::new(dodai_core::id::RevisionId::new(revision), target) }
            })
            .into();
        let sticky = Sticky { name: "at".into(), ttl: None, path: "/".into(), same_site: SameSite::Lax };
        let catalog = Service { sticky: Some(sticky), ..service("shop/catalog/http") };
        let mesh_listener = Listener::new("mesh", ([10, 0, 0, 2], 15_008).into(), Protocol::Http, Role::Mesh);
        let told = endpoints("shop/catalog/http", list.clone());
        far.apply(vec![Resource::Listener(mesh_listener), Resource::Service(catalog.clone()), told]).await;
        for one in &list {
            let Target::Instance { instance, .. } = &one.target else { panic!("an instance") };
            let named = Arc::new(Named(instance.to_string()));
            far.plane.locals().get(instance).set(Way::Serve(named));
        }
        let gold = Arc::new(Labels::from([("tier".to_owned(), "gold".to_owned())]));
        let revision = || Some(dodai_core::id::RevisionId::new("r2"));
        let some = || to("shop/catalog/http");
        for (asked, expect) in [
            (Backend { revision: revision(), ..some() }, vec!["i-2", "i-3"]),
            (Backend { labels: Some(gold.clone()), ..some() }, vec!["i-1", "i-2"]),
            (Backend { revision: revision(), labels: Some(gold.clone()), ..some() }, vec!["i-2"]),
            (some(), vec!["i-1", "i-2", "i-3"]),
        ] {
            let rule = rule(Action::Forward(vec![asked.clone()]));
            let rest = vec![gateway(), routes(vec![rule]), Resource::Service(catalog.clone())];
            near.apply(rest.into_iter().chain([endpoints("shop/catalog/http", list.clone())]).collect())
                .await;
            let mut client = near.client().await;
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..12 {
                // What a client says of this is no matter.
                let first = client.ask("GET / HTTP/1.1\r\nHost: a\r\ndodai-to: r1\r\n\r\n").await;
                let cookie = first.header("set-cookie").expect("a cookie").split(';').next().expect("a pair");
                let again =
                    client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n")).await;
                assert_eq!((again.body.as_str(), again.header("set-cookie")), (first.body.as_str(), None));
                seen.insert(first.body);
            }
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), expect, "{asked:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_expires_under_traffic_ends_the_connection_after_its_calls() {
    local(async {
        let issuer = Issuer::new();
        let world = World::on(Net::new(), Limits::default(), Some(issuer.mesh()));
        let mesh = Listener::new("mesh", (GATEWAY, 15_008).into(), Protocol::Http, Role::Mesh);
        let list = endpoints("shop/catalog/http", vec![instance("i-1")]);
        let catalog = Resource::Service(service("shop/catalog/http"));
        world.apply(vec![Resource::Listener(mesh), catalog, list]).await;
        let (sender, mut calls) = mpsc::channel(8);
        world.plane.locals().get(&InstanceId::new("i-1")).set(Way::Serve(Arc::new(Scripted(sender))));
        // The client has a look of its own at what is trusted, so that it is not the one that ends.
        let own = Trust::new(TrustDomain::default(), issuer.0.1.bundle().expect("bundle"));
        let front = issuer.svid(&PeerIdentity::App(app("shop/front")));
        let connector = Connector::new(front, own, &[Alpn::H2], Clock::system());
        let name = MeshName::parse("http.catalog.shop.z1.cluster.local").expect("a name");
        let (name, catalog) = (name.server_name().expect("a name"), PeerIdentity::App(app("shop/catalog")));
        let stream = world.client_of(15_008).await.stream;
        let stream = connector.connect(stream, name, &[catalog]).await.expect("let in");
        let (client, connection) = h2::client::handshake(stream).await.expect("shaken");
        let ending = beside(connection);
        let call = || http::Request::get("http://catalog/x").body(()).expect("valid");
        let open = async || client.clone().ready().await.map_err(|_gone| ());
        let (slow, _) = open().await.expect("open").send_request(call(), true).expect("sent");
        let (_slow, last) = calls.recv().await.expect("a call");
        issuer.0.2.sweep(SystemTime::now() + LEAF_VALIDITY + LEAF_VALIDITY);
        let (next, _) = open().await.expect("open").send_request(call(), true).expect("sent");
        let (_call, answer) = calls.recv().await.expect("it came before the end was told");
        assert!(answer.send(Ok(Reply::new(StatusCode::OK, "yes"))).is_ok());
        assert_eq!(next.await.expect("answered").status(), 200);
        settle().await;
        assert!(open().await.is_err(), "no further call");
        assert!(last.send(Ok(Reply::new(StatusCode::OK, "yes"))).is_ok());
        assert_eq!(slow.await.expect("what is under way ends as it should").status(), 200);
        let _ended = ending.await.expect("no panic");
    })
    .await;
}

/// Answers with its name.
pub struct Named(pub String);

impl Serve for Named {
    fn serve(&self, call: Call) -> Answer<'_> {
        assert!(!call.head.headers.contains_key("dodai-to"), "what bases tell each other stays between them");
        Box::pin(async { Ok(Reply::new(StatusCode::OK, self.0.clone())) })
    }
}

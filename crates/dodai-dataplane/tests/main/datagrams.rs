//! Datagrams through UDP listeners, over real sockets: the network in memory has none.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::support::*;
use dodai_core::failure::Kind;
use dodai_core::snapshot::*;
use dodai_dataplane::limits::Limits;
use dodai_dataplane::plane::{Config, DataPlane};
use dodai_dataplane::udp::Reading;
use dodai_transport::network::Network;
use tokio::net::UdpSocket;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

async fn patient<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("something happened in time")
}

/// A base with one UDP listener.
struct Base {
    plane: DataPlane,
    records: std::sync::Arc<Records>,
    at: SocketAddr,
}

impl Base {
    async fn start(limits: Limits, resources: Vec<Resource>) -> Base {
        let records = std::sync::Arc::new(Records::default());
        let plane = DataPlane::start(Config {
            base: dodai_core::id::BaseId::new("b"),
            limits,
            network: Network::system(),
            threads: 2,
            sinks: vec![records.clone()],
            sample_per_ten_thousand: 0,
            mesh: None,
            demand: None,
            data_dir: std::path::PathBuf::new(),
            roots: Default::default(),
        })
        .expect("started");
        let bound = plane.apply(&Snapshot::of(1, resources)).await.expect("applied").listeners;
        Base { plane, records, at: bound["udp"] }
    }

    /// The counters, once they are as wanted.
    async fn counts(&self, wanted: impl Fn(&Reading) -> bool) -> Reading {
        for _ in 0..2000 {
            let read = self.plane.gauges().datagrams;
            if wanted(&read) {
                return read;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{:?}", self.plane.gauges().datagrams)
    }
}

fn udp(role: Role) -> Resource {
    let address = (Ipv4Addr::LOCALHOST, 0).into();
    Resource::Listener(Listener::new("udp", address, Protocol::Udp, role))
}

/// A way of the app `front` to a UDP service at these addresses.
fn declared(dns: Service, at: &[SocketAddr]) -> Vec<Resource> {
    let list = at
        .iter()
        .map(|at| Endpoint::new(dodai_core::id::RevisionId::new("r1"), Target::Address(at.to_string())));
    let list = endpoints("shop/dns/dns", list.collect());
    let role = Role::Dependency { app: app("shop/front"), service: id("shop/dns/dns") };
    vec![udp(role), Resource::Service(dns), list]
}

fn dns() -> Service {
    Service { protocol: Protocol::Udp, ..service("shop/dns/dns") }
}

async fn socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound")
}

/// A client of `base`.
async fn client(base: &Base) -> UdpSocket {
    let socket = socket().await;
    socket.connect(base.at).await.expect("connected");
    socket
}

async fn hear(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let got = patient(socket.recv(&mut buffer)).await.expect("heard");
    buffer.truncate(got);
    buffer
}

/// A server that answers each question with its name and what was asked, like DNS one datagram for one.
async fn answering(name: &'static str) -> SocketAddr {
    let socket = socket().await;
    let at = socket.local_addr().expect("bound");
    beside(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((got, from)) = socket.recv_from(&mut buffer).await {
            let mut answer = name.as_bytes().to_vec();
            answer.extend_from_slice(&buffer[..got]);
            socket.send_to(&answer, from).await.expect("sent");
        }
    });
    at
}

#[tokio::test]
async fn what_clients_send_is_answered_and_counted() {
    local(async {
        let base = Base::start(Limits::default(), declared(dns(), &[answering("a:").await])).await;
        let clients = [client(&base).await, client(&base).await];
        for round in 0..50 {
            for (at, client) in clients.iter().enumerate() {
                let question = format!("{at} {round}");
                client.send(question.as_bytes()).await.expect("sent");
                assert_eq!(hear(client).await, format!("a:{question}").as_bytes());
            }
        }
        let largest = vec![7; 60_000];
        clients[0].send(&largest).await.expect("sent");
        assert_eq!(hear(&clients[0]).await.len(), 60_002);
        // A datagram is counted once it is sent, and may be heard before that.
        let counts = base.counts(|counts| counts.datagrams == [101, 101]).await;
        assert_eq!((counts.sessions, counts.open, counts.dropped), (2, 2, 0));
        assert_eq!(counts.bytes[1] - counts.bytes[0], 202);
    })
    .await;
}

#[tokio::test]
async fn who_is_silent_is_forgotten_and_may_come_again() {
    local(async {
        let limits = Limits { udp_idle_timeout: Duration::from_millis(300), ..Limits::default() };
        let base = Base::start(limits, declared(dns(), &[answering("a:").await])).await;
        let client = client(&base).await;
        client.send(b"once").await.expect("sent");
        assert_eq!(hear(&client).await, b"a:once");
        base.counts(|counts| counts.sessions == 1 && counts.open == 0).await;
        let record = base.records.next().await;
        assert_eq!((record.protocol, record.status, &*record.service), ("UDP", 200, "shop/dns/dns"));
        assert_eq!((&*record.caller, record.failure), ("shop/front", None));
        assert!(record.received > 0 && record.sent > record.received);
        client.send(b"again").await.expect("sent");
        assert_eq!(hear(&client).await, b"a:again");
        base.counts(|counts| counts.sessions == 2).await;
    })
    .await;
}

#[tokio::test]
async fn a_session_stays_with_its_endpoint_and_others_are_balanced() {
    local(async {
        let at = [answering("a:").await, answering("b:").await];
        let base = Base::start(Limits::default(), declared(dns(), &at)).await;
        let mut heard = Vec::new();
        for _ in 0..4 {
            let client = client(&base).await;
            let mut first = None;
            for _ in 0..3 {
                client.send(b"x").await.expect("sent");
                let answer = hear(&client).await;
                assert_eq!(first.get_or_insert(answer.clone()), &answer);
            }
            heard.extend(first);
        }
        heard.sort();
        assert_eq!(heard, [b"a:x", b"a:x", b"b:x", b"b:x"]);
    })
    .await;
}

#[tokio::test]
async fn clients_beyond_the_most_are_dropped_and_nobody_else() {
    local(async {
        let limits = Limits { udp_sessions: 2, ..Limits::default() };
        let mut resources = declared(dns(), &[answering("a:").await]);
        let Resource::Service(dns) = &mut resources[1] else { panic!("a service") };
        dns.policy.idle_timeout = Some(secs(600));
        let base = Base::start(limits, resources).await;
        let mut known = Vec::new();
        // Each of the two threads lets two in.
        for _ in 0..64 {
            let client = client(&base).await;
            client.send(b"x").await.expect("sent");
            known.push(client);
        }
        let counts = base.counts(|counts| counts.sessions + counts.refused == 64).await;
        assert!((2..=4).contains(&counts.sessions), "{counts:?}");
        base.counts(|counts| counts.datagrams[1] == counts.sessions).await;
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_told_and_left() {
    local(async {
        let gone = {
            let socket = socket().await;
            socket.local_addr().expect("bound")
        };
        let base = Base::start(Limits::default(), declared(dns(), &[gone, answering("b:").await])).await;
        let client = client(&base).await;
        // A refusal is heard of after the datagram; what is lost is asked again, as over any network.
        let answer = patient(async {
            loop {
                client.send(b"x").await.expect("sent");
                let mut buffer = [0; 8];
                let wait = Duration::from_millis(50);
                if let Ok(Ok(got)) = tokio::time::timeout(wait, client.recv(&mut buffer)).await {
                    return buffer[..got].to_vec();
                }
            }
        })
        .await;
        assert_eq!(answer, b"b:x");
    })
    .await;
}

#[tokio::test]
async fn instances_on_other_bases_are_no_way_and_it_is_said_what_is() {
    local(async {
        let mesh = Some((Ipv4Addr::LOCALHOST, 9).into());
        let target = Target::Instance {
            instance: dodai_core::id::InstanceId::new("i-1"),
            base: dodai_core::id::BaseId::new("other"),
            mesh,
        };
        let far = Endpoint::new(dodai_core::id::RevisionId::new("r1"), target);
        let mut resources = declared(dns(), &[]);
        resources[2] = endpoints("shop/dns/dns", vec![far]);
        let base = Base::start(Limits::default(), resources).await;
        client(&base).await.send(b"x").await.expect("sent");
        base.counts(|read| read.dropped == 1 && read.open == 0).await;
        let record = base.records.next().await;
        assert_eq!((record.failure, &*record.service), (Some(Kind::NoEndpoint), "shop/dns/dns"));
        assert!(
            record.detail.contains("on other bases") && record.detail.contains("external app"),
            "{record:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_gateway_leads_by_its_route_and_policies_hold() {
    local(async {
        let at = answering("a:").await;
        let gateway = |access: Vec<Filter>| {
            let rule = Rule { filters: access, ..rule(Action::Forward(vec![to("shop/dns/dns")])) };
            let mut all = declared(dns(), &[at]);
            all[0] = udp(Role::Gateway { routes: "all".into() });
            all.push(routes(vec![rule]));
            all
        };
        let base = Base::start(Limits::default(), gateway(vec![])).await;
        let client = client(&base).await;
        client.send(b"x").await.expect("sent");
        assert_eq!(hear(&client).await, b"a:x");
        // A new policy ends what it would not let in, and nobody new comes in.
        let deny = Filter::Access(Access { default_allow: false, rules: vec![] });
        base.plane.apply(&Snapshot::of(2, gateway(vec![deny]))).await.expect("applied");
        base.counts(|counts| counts.open == 0).await;
        let cut = base.records.next().await;
        assert_eq!((cut.status, cut.failure), (200, Some(Kind::Denied)));
        client.send(b"x").await.expect("sent");
        let refused = base.records.next().await;
        assert_eq!((refused.status, refused.failure), (0, Some(Kind::Denied)));
    })
    .await;
}

#[tokio::test]
async fn a_udp_and_a_tcp_listener_may_have_one_port() {
    local(async {
        let base = Base::start(Limits::default(), declared(dns(), &[])).await;
        // An address of its own: nobody else takes the port between the two who bind it.
        let at = UdpSocket::bind("127.0.0.77:0").await.and_then(|free| free.local_addr()).expect("bound");
        let both = |list: &[SocketAddr], name: &str| {
            let mut all = declared(dns(), list);
            let mut tcp = all[0].clone();
            for (listener, protocol, name) in
                [(&mut all[0], Protocol::Udp, name), (&mut tcp, Protocol::Http, "tcp")]
            {
                let Resource::Listener(listener) = listener else { panic!("a listener") };
                (listener.address, listener.protocol, listener.name) = (at, protocol, name.into());
            }
            all.push(tcp);
            all
        };
        let bound = base.plane.apply(&Snapshot::of(2, both(&[], "one"))).await.expect("applied").listeners;
        assert_eq!((bound["one"], bound["tcp"]), (at, at));
        // A successor takes the socket over.
        let list = [answering("a:").await];
        base.plane.apply(&Snapshot::of(3, both(&list, "two"))).await.expect("applied");
        let client = socket().await;
        client.connect(at).await.expect("connected");
        client.send(b"x").await.expect("sent");
        assert_eq!(hear(&client).await, b"a:x");
        base.plane.apply(&Snapshot::of(4, [])).await.expect("applied");
        base.counts(|counts| counts.open == 0).await;
        let free = async {
            while UdpSocket::bind(at).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        patient(free).await;
    })
    .await;
}

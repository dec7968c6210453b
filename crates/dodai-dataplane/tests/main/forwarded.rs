//! Proxies in front of a gateway that speak HTTP: whose calls they bring, and where that counts.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use dodai_core::id::{BaseId, InstanceId};
use dodai_core::record::Heeds;
use dodai_core::snapshot::*;
use dodai_dataplane::limits::Limits;
use dodai_dataplane::local::Way;
use dodai_transport::memory::Net;
use dodai_transport::proxy_protocol::{self, Ends};
use http::Request;

use crate::serve::{Issuer, Named};
use crate::support::*;

/// The proxy that all clients of these tests come by.
const PEER: &str = "10.0.0.5";
const TRUSTED: &str = "10.0.0.0/24";

/// The gateway behind the proxies `trusted`, in front of an endpoint that speaks `protocol`.
fn behind(trusted: &[&str], protocol: Protocol, rule: Rule) -> Vec<Resource> {
    let mut resources = usual(Service { protocol, ..service("shop/catalog/http") }, rule);
    for resource in &mut resources {
        if let Resource::Listener(listener) = resource
            && listener.name == "gateway"
        {
            listener.trusted_proxies = trusted.iter().map(ToString::to_string).collect();
        }
    }
    resources
}

fn get(headers: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: shop.example\r\n{headers}\r\n")
}

fn lines(values: &[&str]) -> String {
    values.iter().map(|value| format!("X-Forwarded-For: {value}\r\n")).collect()
}

/// What trusted proxies say, and whose call it is then.
fn chains() -> Vec<(Vec<String>, String)> {
    let of = |lines: &[&str], client: &str| {
        (lines.iter().map(ToString::to_string).collect::<Vec<_>>(), client.to_owned())
    };
    let many = vec!["10.0.0.8"; 31].join(", ");
    vec![
        of(&[], "10.0.0.5"),
        of(&[""], "10.0.0.5"),
        of(&["192.0.2.7"], "192.0.2.7:0"),
        of(&["198.51.100.1, 192.0.2.7, 10.0.0.9"], "192.0.2.7:0"),
        of(&["198.51.100.1, 192.0.2.7", "10.0.0.9", "10.0.0.8,10.0.0.7"], "192.0.2.7:0"),
        of(&["192.0.2.7,, ,10.0.0.9,"], "192.0.2.7:0"),
        of(&["192.0.2.7:5678"], "192.0.2.7:5678"),
        of(&["2001:db8::1"], "[2001:db8::1]:0"),
        of(&["[2001:db8::1]"], "[2001:db8::1]:0"),
        of(&["[2001:db8::1]:443, 10.0.0.9:80"], "[2001:db8::1]:443"),
        of(&["2001:0DB8:0:0::1"], "[2001:db8::1]:0"),
        of(&["::ffff:192.0.2.7"], "192.0.2.7:0"),
        of(&["192.0.2.7, ::ffff:10.0.0.9"], "192.0.2.7:0"),
        // Before what is no address anybody may have made up what stands there.
        of(&["192.0.2.7, unknown"], "10.0.0.5"),
        of(&["192.0.2.7, unknown, 10.0.0.9"], "10.0.0.9:0"),
        of(&["192.0.2.7, 10.0.0.256, 10.0.0.9"], "10.0.0.9:0"),
        of(&["192.0.2.7", "\u{7f2}"], "10.0.0.5"),
        // All are trusted: the first began it.
        of(&["10.0.0.7, 10.0.0.8", "10.0.0.9"], "10.0.0.7:0"),
        of(&["192.0.2.7", &many], "192.0.2.7:0"),
        of(&["192.0.2.7", "10.0.0.7", &many], "10.0.0.7:0"),
    ]
}

/// The client in a record: the peer has a port that nobody chose.
fn told(client: &str) -> &str {
    client.strip_prefix(PEER).map_or(client, |_| PEER)
}

#[tokio::test(start_paused = true)]
async fn the_client_is_the_last_that_is_no_trusted_proxy() {
    local(async {
        let world = World::of(behind(&[TRUSTED], Protocol::Http, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        // All calls share the connections: none is taken for that of the one before.
        let mut client = world.client().await;
        client.send(get(&lines(&["203.0.113.1"]))).await;
        let mut backend = backends.accept().await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.status(), 200);
        assert_eq!(world.records.next().await.client, "203.0.113.1:0");
        for (said, expect) in chains() {
            let said: Vec<_> = said.iter().map(String::as_str).collect();
            client.send(get(&lines(&said))).await;
            let request = backend.answer(OK).await;
            assert_eq!(client.message().await.status(), 200);
            let chain = [&said[..], &[PEER]].concat().join(", ");
            assert_eq!(request.header("x-forwarded-for"), Some(&*chain));
            assert_eq!(told(&world.records.next().await.client), expect, "{said:?}");
        }
        client.send("no head at all\r\n\r\n").await;
        assert_eq!(client.message().await.status(), 400);
        assert_eq!(told(&world.records.next().await.client), PEER, "who sent that is not told");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn streams_of_one_connection_have_clients_of_their_own() {
    local(async {
        for protocol in [Protocol::Http, Protocol::Http2] {
            let world = World::of(behind(&[TRUSTED], protocol, filtered(vec![]))).await;
            let chain = Rc::default();
            let backend = beside(answering(world.backend(1), protocol, Rc::clone(&chain)));
            let (mut sender, connection) =
                h2::client::handshake(world.client().await.stream).await.expect("shaken");
            let driven = beside(connection);
            for (said, expect) in chains() {
                let mut request = Request::get("http://shop.example/x");
                for value in &said {
                    request = request.header("x-forwarded-for", value.as_bytes());
                }
                let request = request.body(()).expect("valid");
                let (answer, _) = sender.send_request(request, true).expect("sent");
                assert_eq!(answer.await.expect("answered").status(), 200);
                let expected = said.iter().map(|value| value.as_bytes()).chain([PEER.as_bytes()]);
                assert_eq!(*chain.borrow(), expected.collect::<Vec<_>>().join(&b", "[..]));
                assert_eq!(told(&world.records.next().await.client), expect, "{said:?}");
            }
            backend.abort();
            driven.abort();
        }
    })
    .await;
}

/// Answers calls with nothing, and keeps what `X-Forwarded-For` each of them came with.
async fn answering(mut peers: Peers, protocol: Protocol, chain: Rc<RefCell<Vec<u8>>>) {
    let mut peer = peers.accept().await;
    if protocol == Protocol::Http {
        loop {
            let request = peer.answer(OK).await;
            *chain.borrow_mut() = request.header("x-forwarded-for").expect("it is there").into();
        }
    }
    let mut connection = h2::server::handshake(peer.stream).await.expect("shaken");
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        *chain.borrow_mut() = request.headers()["x-forwarded-for"].as_bytes().into();
        respond.send_response(http::Response::new(()), true).expect("sent");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_else_is_believed() {
    local(async {
        let said = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n";
        for trusted in [&[][..], &["10.0.9.0/24", "fd00::/8", "10.0.0.6"]] {
            let world = World::of(behind(trusted, Protocol::Http, filtered(vec![]))).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send(get(said)).await;
            let request = backends.accept().await.answer(OK).await;
            assert_eq!(request.header("x-forwarded-for"), Some("192.0.2.7, 10.0.0.5"));
            assert_eq!(request.header("x-forwarded-proto"), Some("http"));
            assert_eq!(client.message().await.status(), 200);
            assert_eq!(told(&world.records.next().await.client), PEER);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_peer_is_whom_the_proxy_protocol_names() {
    local(async {
        for (source, expect) in [("192.0.2.1:9", "198.51.100.7:0"), ("192.0.3.1:9", "192.0.3.1:9")] {
            let mut resources = behind(&["192.0.2.0/24"], Protocol::Http, filtered(vec![]));
            if let Resource::Listener(listener) = &mut resources[0] {
                listener.proxy = Some(ProxyProtocol { required: true, trusted: vec![PEER.into()] });
            }
            let world = World::of(resources).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            let at = |text: &str| text.parse().expect("an address");
            let ends = Ends { source: at(source), destination: at("10.0.0.1:80") };
            client.send(proxy_protocol::write(ProxyVersion::V2, Some(&ends))).await;
            client.send(get(&lines(&["198.51.100.7"]))).await;
            backends.accept().await.answer(OK).await;
            assert_eq!(client.message().await.status(), 200);
            assert_eq!(world.records.next().await.client, expect);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rules_and_limits_go_by_the_client() {
    local(async {
        let allowed =
            AccessRule { allow: true, addresses: vec!["192.0.2.0/24".into()], ..Default::default() };
        let access = Filter::Access(Access { default_allow: false, rules: vec![allowed] });
        let once = RateLimit { interval: secs(60), burst: 1, key: vec![RateKey::Address], shared: None };
        let limit = Filter::RateLimits(vec![once]);
        let world = World::of(behind(&[TRUSTED], Protocol::Http, filtered(vec![access, limit]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let mut backend = None;
        for (said, status) in [
            ("203.0.113.1", 403),
            ("192.0.2.7", 200),
            ("192.0.2.7", 429),
            ("192.0.2.8", 200),
            ("192.0.2.9, 203.0.113.1", 403),
            ("192.0.2.8, 10.0.0.9", 429),
        ] {
            client.send(get(&lines(&[said]))).await;
            if status == 200 {
                let peer = match &mut backend {
                    Some(peer) => peer,
                    None => backend.insert(backends.accept().await),
                };
                peer.answer(OK).await;
            }
            assert_eq!(client.message().await.status(), status, "{said}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_scheme_is_what_the_client_spoke() {
    local(async {
        let redirect = rule(Action::Redirect {
            scheme: None,
            host: Some("www.shop.example".into()),
            port: None,
            path: None,
            status: 302,
        });
        let leads = World::of(behind(&[TRUSTED], Protocol::Http, redirect)).await;
        let world = World::of(behind(&[TRUSTED], Protocol::Http, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        for (said, scheme, passed_on) in [
            ("", "http", "http"),
            ("https", "https", "https"),
            ("HTTP", "http", "HTTP"),
            ("wss", "https", "wss"),
            ("gopher", "http", "http"),
        ] {
            let line = if said.is_empty() { String::new() } else { format!("X-Forwarded-Proto: {said}\r\n") };
            let sent = get(&format!("{line}X-Forwarded-Host: public.example\r\n"));
            let answer = leads.client().await.ask(&sent).await;
            assert_eq!(answer.header("location"), Some(&*format!("{scheme}://www.shop.example/x")), "{said}");
            let mut client = world.client().await;
            client.send(sent).await;
            let request = backends.accept().await.answer(OK).await;
            assert_eq!(request.header("x-forwarded-proto"), Some(passed_on));
            assert_eq!(request.header("x-forwarded-host"), Some("public.example"));
            assert_eq!(client.message().await.status(), 200);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_base_shares_calls_out_by_the_client_too() {
    local(async {
        let (net, issuer) = (Net::new(), Issuer::new());
        let (far_ip, port) = ([10, 0, 0, 2], 15_008);
        let near = World::on(net.clone(), Limits::default(), Some(issuer.mesh()));
        let far = World::at(net, far_ip, "far", Limits::default(), Some(issuer.mesh()));
        let balance = Balance::Maglev(HashKey::Source);
        let catalog = Resource::Service(Service { balance, ..service("shop/catalog/http") });
        let list = ["i-1", "i-2", "i-3"].map(|name| {
            let mesh = Some((far_ip, port).into());
            let target = Target::Instance { instance: InstanceId::new(name), base: BaseId::new("far"), mesh };
            Endpoint { target, ..instance(name) }
        });
        let list = endpoints("shop/catalog/http", list.to_vec());
        let mesh = Listener::new("mesh", (far_ip, port).into(), Protocol::Http, Role::Mesh);
        far.apply(vec![Resource::Listener(mesh), catalog.clone(), list.clone()]).await;
        for name in ["i-1", "i-2", "i-3"] {
            let named = Arc::new(Named(name.to_owned()));
            far.plane.locals().get(&InstanceId::new(name)).set(Way::Serve(named));
        }
        let mut resources = behind(&[TRUSTED], Protocol::Http, filtered(vec![]));
        resources.truncate(3);
        resources.extend([catalog, list]);
        near.apply(resources).await;
        let mut seen = BTreeSet::new();
        for last in 1..40 {
            let sent = get(&lines(&[&format!("192.0.2.{last}")]));
            let first = near.client().await.ask(&sent).await.body;
            assert_eq!(near.client().await.ask(&sent).await.body, first, "{last}");
            seen.insert(first);
        }
        assert_eq!(seen.len(), 3);
    })
    .await;
}

fn is_uuid(text: &str) -> bool {
    let dashes = [8, 13, 18, 23].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
    let is_digit = |byte: u8| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 36 && dashes && text.as_bytes()[14] == b'4' && text.bytes().all(is_digit)
}

#[tokio::test(start_paused = true)]
async fn calls_get_an_id_where_a_listener_asks_for_one() {
    local(async {
        for (which, trusted, sent, kept) in [
            (None, &[][..], "", Some(None)),
            (None, &[], "own", Some(Some("own"))),
            (Some(RequestId::Generate), &[], "", None),
            (Some(RequestId::Generate), &[], "own", None),
            (Some(RequestId::Generate), &[TRUSTED], "own", Some(Some("own"))),
            (Some(RequestId::Generate), &[TRUSTED], "", None),
            (Some(RequestId::Keep), &[], "own", Some(Some("own"))),
            (Some(RequestId::Keep), &[], "", None),
        ] {
            let mut resources = behind(trusted, Protocol::Http, filtered(vec![]));
            if let Resource::Listener(listener) = &mut resources[0] {
                listener.request_id = which;
            }
            let world = World::of(resources).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            let line = if sent.is_empty() { String::new() } else { format!("X-Request-ID: {sent}\r\n") };
            client.send(get(&line)).await;
            let mut backend = backends.accept().await;
            let request = backend.answer(OK).await;
            let id = request.header("x-request-id");
            match kept {
                Some(kept) => assert_eq!(id, kept, "{which:?} {trusted:?}"),
                None => assert!(id.is_some_and(is_uuid), "{which:?} {trusted:?} {id:?}"),
            }
            assert_eq!(client.message().await.status(), 200);
            if kept.is_none() {
                client.send(get(&line)).await;
                assert_ne!(backend.answer(OK).await.header("x-request-id"), id, "each has its own");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn records_have_headers_as_they_went_on() {
    local(async {
        for (protocol, over_h2) in [(Protocol::Http, false), (Protocol::Http, true), (Protocol::Http2, true)]
        {
            let edits =
                HeaderEdits { set: vec![("x-asked".into(), "ours".into())], ..HeaderEdits::default() };
            let rule = filtered(vec![Filter::RequestHeaders(edits)]);
            let world = World::heeding(Heeds { request_headers: true, ..Heeds::default() });
            world.apply(behind(&[], protocol, rule)).await;
            let backend = beside(answering(world.backend(1), protocol, Rc::default()));
            if over_h2 {
                let stream = world.client().await.stream;
                let (mut sender, connection) = h2::client::handshake(stream).await.expect("shaken");
                let driven = beside(connection);
                let request = Request::get("http://shop.example/x").header("x-asked", "theirs");
                let (answer, _) = sender.send_request(request.body(()).expect("valid"), true).expect("sent");
                assert_eq!(answer.await.expect("answered").status(), 200);
                driven.abort();
            } else {
                let answer = world.client().await.ask(&get("X-Asked: theirs\r\n")).await;
                assert_eq!(answer.status(), 200);
            }
            let record = world.records.next().await;
            assert_eq!(
                record.request_headers,
                [("x-asked".into(), "ours".to_owned())],
                "{protocol:?} {over_h2}"
            );
            backend.abort();
        }
    })
    .await;
}

//! Which endpoint answers: cookies and keys that keep calls together, weights, labels.

use std::collections::BTreeSet;

use crate::support::*;
use dodai_core::id::RevisionId;
use dodai_core::snapshot::*;

const CATALOG: &str = "shop/catalog/http";

/// Answers every call on every connection to backend `last` with its number, for as long as the test runs.
fn answering(world: &World, last: u8) {
    let mut peers = world.backend(last);
    beside(async move {
        loop {
            let mut peer = peers.accept().await;
            beside(async move {
                while peer.try_head().await.is_some() {
                    let body = last.to_string();
                    peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
                        .await;
                }
            });
        }
    });
}

async fn world(catalog: Service, rule: Rule, list: Vec<Endpoint>) -> World {
    let count = list.len();
    let resources =
        vec![gateway(), outbound(), routes(vec![rule]), Resource::Service(catalog), endpoints(CATALOG, list)];
    let world = World::of(resources).await;
    for last in 1..=count {
        answering(&world, u8::try_from(last).expect("few"));
    }
    world
}

fn three() -> Vec<Endpoint> {
    vec![endpoint(1, "r1"), endpoint(2, "r1"), endpoint(3, "r2")]
}

fn sticky() -> Service {
    let sticky =
        Sticky { name: "at".into(), ttl: Some(secs(60)), path: "/shop".into(), same_site: SameSite::Strict };
    Service { sticky: Some(sticky), ..service(CATALOG) }
}

async fn get(client: &mut Peer, headers: &str) -> Message {
    let answer = client.ask(&format!("GET /a HTTP/1.1\r\nHost: catalog\r\n{headers}\r\n")).await;
    assert_eq!(answer.status(), 200, "{}", answer.head);
    answer
}

/// The cookie of an answer, as a client sends it back.
fn cookie(answer: &Message) -> Option<String> {
    let set = answer.header("set-cookie")?;
    Some(format!("Cookie: x=1; {}\r\n", set.split(';').next()?))
}

#[tokio::test(start_paused = true)]
async fn a_cookie_keeps_a_client_where_it_was() {
    local(async {
        let world = world(sticky(), filtered(vec![]), three()).await;
        let mut client = world.client().await;
        let first = get(&mut client, "").await;
        let set = first.header("set-cookie").expect("a cookie").to_owned();
        assert!(
            set.starts_with("at=") && set.ends_with("; Path=/shop; Max-Age=60; HttpOnly; SameSite=Strict"),
            "{set}"
        );
        let theirs = cookie(&first).expect("a cookie");
        for _ in 0..10 {
            let again = get(&mut client, &theirs).await;
            assert_eq!((again.body.as_str(), again.header("set-cookie")), (first.body.as_str(), None));
        }
        let without: BTreeSet<String> = {
            let mut all = BTreeSet::new();
            for _ in 0..3 {
                all.insert(get(&mut client, "").await.body);
            }
            all
        };
        assert_eq!(without.len(), 3, "others go in turn");
        let odd = get(&mut client, "Cookie: at=nonsense\r\n").await;
        assert!(odd.header("set-cookie").is_some(), "a cookie that names nobody is replaced");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cookie_of_an_endpoint_that_went_is_replaced() {
    local(async {
        let world = world(sticky(), filtered(vec![]), three()).await;
        let mut client = world.client().await;
        let first = get(&mut client, "").await;
        let theirs = cookie(&first).expect("a cookie");
        let gone: u8 = first.body.parse().expect("a number");
        let left = three().into_iter().zip(1..).filter(|(_, last)| *last != gone).map(|(one, _)| one);
        let resources = vec![
            gateway(),
            routes(vec![filtered(vec![])]),
            Resource::Service(sticky()),
            endpoints(CATALOG, left.collect()),
        ];
        world.apply(resources).await;
        let moved = get(&mut client, &theirs).await;
        assert_ne!(moved.body, first.body);
        let theirs = cookie(&moved).expect("a new one");
        for _ in 0..5 {
            assert_eq!(get(&mut client, &theirs).await.body, moved.body);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_cookie_is_for_http_2_and_in_process_callers_too() {
    local(async {
        use dodai_core::call::{Call, Caller, Context, Door as _};
        let world = world(sticky(), filtered(vec![]), three()).await;
        let ask = async |cookie: Option<&str>| {
            let mut request = http::Request::get("http://catalog/a");
            if let Some(cookie) = cookie {
                request = request.header("cookie", cookie);
            }
            let (head, ()) = request.body(()).expect("valid").into_parts();
            let context = Context::new(Caller::App(app("shop/front")), dodai_core::trace::Span::root(false));
            let call = Call { head, body: dodai_core::body::Body::empty(), context };
            let reply = world.plane.door().enter(call).await.expect("answered");
            let set = reply.head.headers.get("set-cookie").map(|set| set.to_str().expect("text").to_owned());
            (set, reply.body.collect(16).await.expect("whole"))
        };
        let (set, first) = ask(None).await;
        let set = set.expect("a cookie");
        let theirs = set.split(';').next().expect("a pair");
        for _ in 0..5 {
            assert_eq!(ask(Some(theirs)).await, (None, first.clone()));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_key_go_one_way() {
    local(async {
        for (balance, headers) in [
            (Balance::RingHash(HashKey::Header("x-user".into())), "X-User: N\r\n"),
            (Balance::Maglev(HashKey::Header("x-user".into())), "X-User: N\r\n"),
            (Balance::RingHash(HashKey::Cookie("user".into())), "Cookie: user=N\r\n"),
        ] {
            let catalog = Service { balance: balance.clone(), ..service(CATALOG) };
            let world = world(catalog, filtered(vec![]), three()).await;
            let (mut outside, mut inside) = (world.client().await, world.client_of(81).await);
            let mut ways = BTreeSet::new();
            for user in 0..20 {
                let headers = headers.replace('N', &user.to_string());
                let way = get(&mut outside, &headers).await.body;
                for _ in 0..3 {
                    assert_eq!(get(&mut outside, &headers).await.body, way, "{balance:?}");
                    assert_eq!(get(&mut inside, &headers).await.body, way, "{balance:?}");
                }
                ways.insert(way);
            }
            assert_eq!(ways.len(), 3, "keys are shared out: {balance:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn path_query_and_source_are_keys() {
    local(async {
        for key in [HashKey::Path, HashKey::Query("u".into()), HashKey::Source] {
            let catalog = Service { balance: Balance::Maglev(key.clone()), ..service(CATALOG) };
            let world = world(catalog, filtered(vec![]), three()).await;
            let mut client = world.client().await;
            let mut seen = BTreeSet::new();
            for n in 0..20 {
                let target = format!("GET /{n}?u={n} HTTP/1.1\r\nHost: catalog\r\n\r\n");
                let first = client.ask(&target).await.body;
                assert_eq!(client.ask(&target).await.body, first, "{key:?}");
                seen.insert(first);
            }
            let expect = if key == HashKey::Source { 1 } else { 3 };
            assert_eq!(seen.len(), expect, "{key:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn weights_share_calls_out() {
    local(async {
        for balance in [Balance::RoundRobin, Balance::Weighted, Balance::LeastRequest] {
            let catalog = Service { balance: balance.clone(), ..service(CATALOG) };
            let mut list = three();
            list[0].weight = 8;
            let world = world(catalog, filtered(vec![]), list).await;
            let mut client = world.client().await;
            let mut first = 0;
            for _ in 0..200 {
                first += u32::from(get(&mut client, "").await.body == "1");
            }
            assert!((130..190).contains(&first), "{balance:?}: {first} of 200");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_may_be_some_of_the_instances() {
    local(async {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let mut list = three();
        list[0].labels = labels(&[("tier", "gold")]);
        list[1].labels = labels(&[("tier", "gold"), ("zone", "b")]);
        let to_labels = |pairs| Backend { labels: Some(std::sync::Arc::new(labels(pairs))), ..to(CATALOG) };
        for (asked, expect) in [
            (to_labels(&[("tier", "gold")]), vec!["1", "2"]),
            (to_labels(&[("tier", "gold"), ("zone", "b")]), vec!["2"]),
            (Backend { revision: Some(RevisionId::new("r2")), ..to(CATALOG) }, vec!["3"]),
        ] {
            let world =
                world(service(CATALOG), rule(Action::Forward(vec![asked.clone()])), list.clone()).await;
            let mut client = world.client().await;
            let mut seen = BTreeSet::new();
            for _ in 0..10 {
                seen.insert(get(&mut client, "dodai-to: r2\r\n").await.body);
            }
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), expect, "{asked:?}");
        }
        let nobody = to_labels(&[("tier", "silver")]);
        let world = world(service(CATALOG), rule(Action::Forward(vec![nobody])), list).await;
        let answer = world.client().await.ask(GET).await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("no_endpoint")));
    })
    .await;
}

//! How endpoints are judged, through real calls: outliers, panic, slow start, tiers, checks.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::support::*;
use dodai_core::snapshot::*;

const CATALOG: &str = "shop/catalog/http";
const CALL: &str = "GET /a HTTP/1.1\r\nHost: catalog\r\n\r\n";

/// Backends that answer with their number and with what status they are told to; how often each was asked what.
#[derive(Default)]
struct Backend {
    status: Cell<u16>,
    calls: Cell<u32>,
    checks: Cell<u32>,
}

fn backend(world: &World, last: u8) -> Rc<Backend> {
    let mut peers = world.backend(last);
    let state = Rc::new(Backend { status: Cell::new(200), ..Backend::default() });
    let all = state.clone();
    beside(async move {
        loop {
            let mut peer = peers.accept().await;
            let state = all.clone();
            beside(async move {
                while let Some(head) = peer.try_head().await {
                    let count = if head.starts_with("GET /healthz") { &state.checks } else { &state.calls };
                    count.set(count.get() + 1);
                    let status = state.status.get();
                    let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: 1\r\n\r\n{last}");
                    if !peer.try_send(answer).await {
                        return;
                    }
                }
            });
        }
    });
    state
}

async fn world(health: Health, list: Vec<Endpoint>) -> (World, Vec<Rc<Backend>>) {
    let count = u8::try_from(list.len()).expect("few");
    let breaker = Breaker { consecutive_failures: 0, ..Breaker::default() };
    let catalog = Service { health, breaker, ..service(CATALOG) };
    let resources =
        vec![gateway(), routes(vec![filtered(vec![])]), Resource::Service(catalog), endpoints(CATALOG, list)];
    let world = World::of(resources).await;
    let backends = (1..=count).map(|last| backend(&world, last)).collect();
    (world, backends)
}

fn several(count: u8) -> Vec<Endpoint> {
    (1..=count).map(|last| endpoint(last, "r1")).collect()
}

/// How the answers to `calls` calls are spread over backends.
async fn spread(client: &mut Peer, calls: u32) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        *counts.entry(client.ask(CALL).await.body).or_default() += 1;
    }
    counts
}

fn outliers() -> Outliers {
    Outliers {
        consecutive_5xx: 3,
        consecutive_gateway: 0,
        success_rate: None,
        failure_percentage: None,
        interval: secs(10),
        ejection: secs(30),
        max_ejection: secs(300),
        max_ejected_percent: 50,
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_answers_badly_is_left_alone_and_comes_back() {
    local(async {
        let health = Health { outliers: Some(outliers()), ..Health::default() };
        let (world, backends) = world(health, several(3)).await;
        let mut client = world.client().await;
        backends[0].status.set(500);
        let first = spread(&mut client, 9).await;
        assert_eq!(first["1"], 3);
        let while_out = spread(&mut client, 12).await;
        assert_eq!(while_out.get("1"), None, "{while_out:?}");
        assert_eq!(world.plane.gauges().endpoints_ejected, 1);
        backends[0].status.set(200);
        tokio::time::sleep(secs(31)).await;
        assert_eq!(world.plane.gauges().endpoints_ejected, 0);
        assert_eq!(spread(&mut client, 12).await.get("1"), Some(&4));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_of_which_something_else_is_told_stays_who_it_is() {
    local(async {
        let health = Health { outliers: Some(outliers()), ..Health::default() };
        let (world, backends) = world(health.clone(), several(3)).await;
        let mut client = world.client().await;
        backends[0].status.set(500);
        spread(&mut client, 9).await;
        assert_eq!(world.plane.gauges().endpoints_ejected, 1);
        let idle = world.plane.gauges().endpoints_idle;
        let mut list = several(3);
        list[0].weight = 7;
        list[1].labels = [("tier".to_owned(), "gold".to_owned())].into();
        let breaker = Breaker { consecutive_failures: 0, ..Breaker::default() };
        let catalog = Service { health, breaker, ..service(CATALOG) };
        let rest = vec![gateway(), routes(vec![filtered(vec![])]), Resource::Service(catalog)];
        world.apply(rest.into_iter().chain([endpoints(CATALOG, list)]).collect()).await;
        assert_eq!(world.plane.gauges().endpoints_ejected, 1, "it is still left alone");
        assert_eq!(spread(&mut client, 12).await.get("1"), None);
        assert_eq!(world.plane.gauges().endpoints_idle, idle, "and connections are kept");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_so_many_are_left_alone() {
    local(async {
        let health = Health { outliers: Some(outliers()), ..Health::default() };
        let (world, backends) = world(health, several(4)).await;
        let mut client = world.client().await;
        for one in &backends[..3] {
            one.status.set(503);
        }
        spread(&mut client, 40).await;
        assert_eq!(world.plane.gauges().endpoints_ejected, 2, "half of four");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_more_often_than_the_others_is_found() {
    local(async {
        let rate = SuccessRate { deviations_hundredths: 150, min_endpoints: 3, min_calls: 5 };
        let rules = Outliers { consecutive_5xx: 0, success_rate: Some(rate), ..outliers() };
        let (world, backends) =
            world(Health { outliers: Some(rules), ..Health::default() }, several(5)).await;
        let mut client = world.client().await;
        for round in 0..60 {
            backends[2].status.set(if round % 2 == 0 { 500 } else { 200 });
            spread(&mut client, 5).await;
        }
        tokio::time::sleep(secs(11)).await;
        spread(&mut client, 5).await;
        let after = spread(&mut client, 20).await;
        assert_eq!(after.get("3"), None, "{after:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn when_too_few_are_well_all_get_calls() {
    local(async {
        let rules = Outliers { max_ejected_percent: 100, ..outliers() };
        let health = Health { outliers: Some(rules), panic_percent: 60, ..Health::default() };
        let (world, backends) = world(health, several(4)).await;
        let mut client = world.client().await;
        for one in &backends[..2] {
            one.status.set(500);
        }
        spread(&mut client, 40).await;
        assert_eq!(world.plane.gauges().endpoints_ejected, 2);
        let counts = spread(&mut client, 40).await;
        assert_eq!(counts.len(), 4, "half is less than 60 of a hundred: {counts:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_gets_its_share_slowly() {
    local(async {
        let health = Health { slow_start: Some(secs(100)), ..Health::default() };
        let (world, _backends) = world(health.clone(), several(1)).await;
        tokio::time::sleep(secs(200)).await;
        let mut client = world.client().await;
        let _second = backend(&world, 2);
        let catalog = Service { health, ..service(CATALOG) };
        let rest = vec![gateway(), routes(vec![filtered(vec![])]), Resource::Service(catalog)];
        world.apply(rest.into_iter().chain([endpoints(CATALOG, several(2))]).collect()).await;
        let early = spread(&mut client, 400).await.get("2").copied().unwrap_or_default();
        assert!((1..100).contains(&early), "{early} of 400 at once");
        tokio::time::sleep(secs(100)).await;
        let mut client = world.client().await;
        let late = spread(&mut client, 400).await["2"];
        assert!((150..250).contains(&late), "{late} of 400 later");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_stay_near_and_spill_over_as_the_near_ones_fail() {
    local(async {
        let rules = Outliers { max_ejected_percent: 100, ..outliers() };
        let health = Health { outliers: Some(rules), spill_below_percent: 100, ..Health::default() };
        let mut list = several(4);
        list[2].tier = 1;
        list[3].tier = 2;
        let (world, backends) = world(health, list).await;
        let mut client = world.client().await;
        let near = spread(&mut client, 40).await;
        assert_eq!(near.keys().collect::<Vec<_>>(), ["1", "2"], "the nearest are enough");
        backends[0].status.set(500);
        spread(&mut client, 40).await;
        let half = spread(&mut client, 200).await;
        assert!((60..140).contains(&half["2"]) && half["2"] + half["3"] == 200, "{half:?}");
        backends[1].status.set(500);
        spread(&mut client, 40).await;
        let next = spread(&mut client, 40).await;
        assert_eq!(next.keys().collect::<Vec<_>>(), ["3"], "then the next tier");
        backends[2].status.set(500);
        spread(&mut client, 40).await;
        let last = spread(&mut client, 40).await;
        assert_eq!(last.keys().collect::<Vec<_>>(), ["4"], "then the last");
    })
    .await;
}

fn check(asks: Question) -> HealthCheck {
    HealthCheck {
        asks,
        interval: secs(5),
        timeout: secs(1),
        healthy_after: 2,
        unhealthy_after: 2,
        idle_after: secs(60),
    }
}

fn http() -> Question {
    Question::Http { path: "/healthz".into(), host: None, statuses: (200, 299) }
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_asked_and_left_out_until_they_are_well() {
    local(async {
        let health = Health { check: Some(check(http())), ..Health::default() };
        let (world, backends) = world(health, several(3)).await;
        tokio::time::sleep(secs(30)).await;
        let mut client = world.client().await;
        assert!(backends.iter().all(|one| one.checks.get() == 0), "nobody called");
        spread(&mut client, 3).await;
        tokio::time::sleep(secs(12)).await;
        assert!(backends.iter().all(|one| one.checks.get() >= 2));
        backends[1].status.set(503);
        tokio::time::sleep(secs(13)).await;
        assert_eq!(world.plane.gauges().endpoints_unwell, 1);
        let counts = spread(&mut client, 12).await;
        assert_eq!(counts.keys().collect::<Vec<_>>(), ["1", "3"]);
        backends[1].status.set(200);
        tokio::time::sleep(secs(13)).await;
        assert_eq!(world.plane.gauges().endpoints_unwell, 0);
        let mut client = world.client().await;
        assert_eq!(spread(&mut client, 12).await.len(), 3);
        tokio::time::sleep(secs(65)).await;
        let quiet: Vec<u32> = backends.iter().map(|one| one.checks.get()).collect();
        tokio::time::sleep(secs(60)).await;
        let later: Vec<u32> = backends.iter().map(|one| one.checks.get()).collect();
        assert_eq!(quiet, later, "nobody has called for a while");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_answer_in_time_or_at_all_is_not_well() {
    local(async {
        for probe in [http(), Question::Tcp] {
            let health = Health { check: Some(check(probe.clone())), ..Health::default() };
            let (world, _backends) = world(health.clone(), several(1)).await;
            let mut list = several(2);
            let catalog = Service { health, ..service(CATALOG) };
            let rest = vec![gateway(), routes(vec![filtered(vec![])]), Resource::Service(catalog)];
            list[1] = endpoint(9, "r1");
            // The second is there for connections only if it is asked by HTTP, and then says nothing.
            let silent = (probe != Question::Tcp).then(|| world.backend(9));
            world.apply(rest.into_iter().chain([endpoints(CATALOG, list)]).collect()).await;
            let mut client = world.client().await;
            client.send(CALL).await;
            tokio::time::sleep(secs(20)).await;
            assert_eq!(world.plane.gauges().endpoints_unwell, 1, "{probe:?}");
            drop(silent);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_of_grpc_is_asked_by_its_health_protocol() {
    local(async {
        let catalog = Service {
            protocol: Protocol::Grpc,
            health: Health { check: Some(check(Question::Grpc { service: "shop".into() })), ..Health::default() },
            ..service(CATALOG)
        };
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let serving = Rc::new(Cell::new(2_u8));
        let asked = Rc::new(Cell::new(0));
        let (status, count) = (serving.clone(), asked.clone());
        let mut backends = world.backend(1);
        beside(async move {
            let peer = backends.accept().await;
            let mut connection = h2::server::handshake(peer.stream).await.expect("HTTP/2");
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let response = http::Response::builder().header("content-type", "application/grpc");
                if request.uri().path() == "/grpc.health.v1.Health/Check" {
                    count.set(count.get() + 1);
                }
                let frame = vec![0, 0, 0, 0, 2, 8, status.get()];
                let mut body = respond.send_response(response.body(()).expect("valid"), false).expect("sent");
                body.send_data(frame.into(), false).expect("sent");
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                body.send_trailers(trailers).expect("sent");
            }
        });
        let mut client = world.client().await;
        client.ask("POST /shop.Catalog/Get HTTP/1.1\r\nHost: catalog\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n").await;
        tokio::time::sleep(secs(15)).await;
        assert!(asked.get() >= 2);
        assert_eq!(world.plane.gauges().endpoints_unwell, 1, "NOT_SERVING");
        serving.set(1);
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(world.plane.gauges().endpoints_unwell, 0, "SERVING");
    })
    .await;
}

//! Calls that are shed when more come than a service bears.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::support::*;
use dodai_core::snapshot::*;
use dodai_dataplane::tally::Event;
use tokio::time::Instant;

fn bearing(limit: u32, adaptive: bool, rule_priority: Option<Priority>) -> Vec<Resource> {
    let mut catalog = service("shop/catalog/http");
    let priority_header = Some("x-priority".to_owned());
    catalog.concurrency = Some(Concurrency { limit: Some(limit), adaptive, priority_header });
    let mut rule = filtered(vec![]);
    rule.policy.priority = rule_priority;
    usual(catalog, rule)
}

fn call(priority: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nX-Priority: {priority}\r\n\r\n")
}

#[tokio::test(start_paused = true)]
async fn what_matters_less_is_shed_first() {
    local(async {
        let world = World::of(bearing(10, false, Some(Priority::High))).await;
        let mut backends = world.backend(1);
        let mut held = Vec::new();
        let shed = async |priority: &str| {
            let answer = world.client().await.ask(&call(priority)).await;
            assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("shed")), "{priority}");
        };
        for under_way in 0..10 {
            if under_way >= 7 {
                shed("low").await;
            }
            if under_way >= 9 {
                shed("normal").await;
            }
            let mut client = world.client().await;
            client.send(call("high")).await;
            held.push((client, backends.accept().await));
        }
        shed("high").await;
        let told = world.plane.table().tallies();
        let count = told.iter().find(|one| one.event == Event::Shed).map(|one| (&*one.rule, one.count));
        assert_eq!(count, Some(("shop/catalog/http", 5)));
        // Those that end make room.
        let (mut client, mut backend) = held.pop().expect("ten");
        backend.answer(OK).await;
        assert_eq!(client.message().await.status(), 200);
        client.send(call("high")).await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_may_say_that_it_matters_less_but_not_more() {
    local(async {
        for (rule, header, expect) in [
            (Some(Priority::Low), "high", 503),
            (Some(Priority::High), "low", 503),
            (Some(Priority::High), "high", 200),
            (Some(Priority::Low), "", 503),
            (None, "high", 503),
        ] {
            let world = World::of(bearing(2, false, rule)).await;
            let mut backends = world.backend(1);
            let (mut first, mut second) = (world.client().await, world.client().await);
            first.send(call("low")).await;
            let _held = backends.accept().await;
            second.send(call(header)).await;
            if expect == 200 {
                backends.accept().await.answer(OK).await;
            }
            assert_eq!(second.message().await.status(), expect, "{rule:?} {header}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_may_not_say_is_not_told_on() {
    local(async {
        for (rule, header, told) in [
            (None, "high", "normal"),
            (None, "low", "low"),
            (None, "whatever", "whatever"),
            (Some(Priority::Low), "normal", "low"),
            (Some(Priority::High), "high", "high"),
        ] {
            let world = World::of(bearing(10, false, rule)).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send(call(header)).await;
            let request = backends.accept().await.answer(OK).await;
            assert_eq!(request.header("x-priority"), Some(told), "{rule:?} {header}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn streams_count_until_they_end_over_http2_too() {
    local(async {
        let world = World::of(bearing(1, true, None)).await;
        let mut backends = world.backend(1);
        let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
        beside(connection);
        let mut sender = sender.ready().await.expect("ready");
        let request = || http::Request::get("http://shop/b").body(()).expect("valid");
        let (first, _) = sender.send_request(request(), true).expect("sent");
        let mut backend = backends.accept().await;
        backend.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
        let mut body = first.await.expect("answered").into_body();
        assert_eq!(body.data().await.expect("more").expect("whole"), "a");
        let (second, _) = sender.send_request(request(), true).expect("sent");
        assert_eq!(second.await.expect("answered").headers()["dodai-failure"], "shed");
        backend.send("0\r\n\r\n").await;
        while let Some(data) = body.data().await {
            assert!(data.expect("whole").is_empty());
        }
        let (third, _) = sender.send_request(request(), true).expect("sent");
        backend.answer(OK).await;
        assert_eq!(third.await.expect("answered").status(), 200);
    })
    .await;
}

/// A backend that answers as slowly as the cell says, and clients that ask again as soon as they are answered.
struct Busy {
    world: World,
    latency: Rc<Cell<Duration>>,
    /// Answers of the app, and answers of ours that shed a call.
    served: Rc<Cell<u32>>,
    shed: Rc<Cell<u32>>,
}

impl Busy {
    async fn start(clients: usize, latency: Duration) -> Busy {
        let world = World::of(bearing(1000, true, Some(Priority::High))).await;
        let busy =
            Busy { latency: Rc::new(Cell::new(latency)), served: Rc::default(), shed: Rc::default(), world };
        let (mut backends, latency) = (busy.world.backend(1), busy.latency.clone());
        beside(async move {
            loop {
                let (mut backend, latency) = (backends.accept().await, latency.clone());
                beside(async move {
                    while backend.try_head().await.is_some() {
                        tokio::time::sleep(latency.get()).await;
                        if !backend.try_send(OK).await {
                            return;
                        }
                    }
                });
            }
        });
        for _ in 0..clients {
            let (mut client, served, shed) =
                (busy.world.client().await, busy.served.clone(), busy.shed.clone());
            beside(async move {
                loop {
                    let answer = client.ask(&call("high")).await;
                    if answer.status() == 200 {
                        served.set(served.get() + 1);
                        continue;
                    }
                    assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("shed")));
                    shed.set(shed.get() + 1);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        busy
    }

    fn limit(&self) -> u32 {
        self.world.plane.survey()[0].0.concurrency_limit.expect("it is asked for")
    }

    /// How many calls were served and shed in the next second.
    async fn second(&self) -> (u32, u32) {
        let before = (self.served.get(), self.shed.get());
        tokio::time::sleep(secs(1)).await;
        (self.served.get() - before.0, self.shed.get() - before.1)
    }

    async fn until(&self, what: &str, is_so: impl Fn(u32) -> bool) {
        let start = Instant::now();
        while !is_so(self.limit()) {
            assert!(start.elapsed() < secs(120), "{what}: the limit is {}", self.limit());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_found_follows_latency_down_and_up_again() {
    local(async {
        let clients = 24;
        let busy = Busy::start(clients, Duration::from_millis(10)).await;
        busy.until("quick answers", |limit| limit > clients as u32).await;
        let (served, shed) = busy.second().await;
        assert!(served > 1000 && shed == 0, "all have room: {served}, {shed}");
        busy.latency.set(Duration::from_millis(300));
        busy.until("slow answers", |limit| limit < clients as u32 / 2).await;
        let (served, shed) = busy.second().await;
        assert!(served > 0 && shed > 100, "some are served, the others shed at once: {served}, {shed}");
        for priority in ["low", "normal"] {
            let start = Instant::now();
            let answer = busy.world.client().await.ask(&call(priority)).await;
            assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("shed")), "{priority}");
            assert!(start.elapsed() < Duration::from_millis(20), "{:?}", start.elapsed());
        }
        busy.latency.set(Duration::from_millis(10));
        busy.until("quick answers again", |limit| limit > clients as u32).await;
        let (served, shed) = busy.second().await;
        assert!(served > 1000 && shed == 0, "all have room again: {served}, {shed}");
        assert_eq!(busy.world.client().await.ask(&call("low")).await.status(), 200);
    })
    .await;
}

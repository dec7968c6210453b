//! A call ends when its caller no longer waits for it: with all its tries and those beside them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use dodai_core::snapshot::*;
use h2::client::SendRequest;
use tokio::time::Instant;

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// That as many milliseconds have passed since `start`, and few more.
pub fn within(start: Instant, expect: u64, what: &str) {
    let took = start.elapsed();
    assert!(took >= millis(expect) && took < millis(expect + 150), "{what}: {took:?}");
}

/// A client that asks over HTTP/1 or HTTP/2.
pub enum Ask {
    H1(Peer),
    H2(SendRequest<Bytes>),
}

impl Ask {
    pub async fn new(peer: Peer, h2: bool) -> Ask {
        if !h2 {
            return Ask::H1(peer);
        }
        let (sender, connection) = h2::client::handshake(peer.stream).await.expect("shaken");
        beside(async move {
            let _ended = connection.await;
        });
        Ask::H2(sender.ready().await.expect("ready"))
    }

    /// The status of a GET with a header.
    pub async fn get(&mut self, host: &str, name: &str, value: Option<String>) -> u16 {
        match self {
            Ask::H1(peer) => {
                let told = value.map_or_else(String::new, |value| format!("{name}: {value}\r\n"));
                peer.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n{told}\r\n")).await.status()
            }
            Ask::H2(sender) => {
                let mut request = http::Request::get(format!("http://{host}/"));
                if let Some(value) = value {
                    request = request.header(name, value);
                }
                let (answer, _) = sender.send_request(request.body(()).expect("valid"), true).expect("sent");
                answer.await.expect("answered").status().as_u16()
            }
        }
    }
}

/// One call at an app that never answers.
struct Came {
    at: Instant,
    /// What it was told of its caller's patience, in milliseconds.
    told: Option<u64>,
    ended: Option<Instant>,
}

/// An app that never answers.
#[derive(Clone, Default)]
pub struct Silent(Rc<RefCell<Vec<Came>>>);

impl Silent {
    pub fn at(mut backends: Peers, protocol: Protocol) -> Silent {
        let silent = Silent::default();
        let own = silent.clone();
        beside(async move {
            loop {
                let mut peer = backends.accept().await;
                let own = own.clone();
                beside(async move {
                    if protocol == Protocol::Http2 {
                        return own.streams(peer).await;
                    }
                    let head = peer.head().await;
                    let lines = head.lines().filter_map(|line| line.split_once(':'));
                    let call =
                        own.came(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
                    peer.ended().await;
                    own.ended(call);
                });
            }
        });
        silent
    }

    async fn streams(self, peer: Peer) {
        let mut connection = h2::server::handshake(peer.stream).await.expect("shaken");
        while let Some(Ok((asked, mut respond))) = connection.accept().await {
            let value = |value: &http::HeaderValue| value.to_str().expect("text").to_owned();
            let call =
                self.came(asked.headers().iter().map(|(name, of)| (name.as_str().to_owned(), value(of))));
            let own = self.clone();
            beside(async move {
                let _reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                own.ended(call);
            });
        }
    }

    fn came(&self, headers: impl Iterator<Item = (String, String)>) -> usize {
        let told = |(name, value): (String, String)| {
            let is_time = matches!(&*name.to_lowercase(), "dodai-timeout-ms" | "grpc-timeout");
            is_time.then(|| value.trim_end_matches('m').parse().expect("milliseconds"))
        };
        let told = { headers }.find_map(told);
        let mut all = self.0.borrow_mut();
        all.push(Came { at: Instant::now(), told, ended: None });
        all.len() - 1
    }

    fn ended(&self, call: usize) {
        self.0.borrow_mut()[call].ended = Some(Instant::now());
    }

    /// What the calls were told.
    pub fn told(&self) -> Vec<u64> {
        self.0.borrow().iter().filter_map(|call| call.told).collect()
    }

    /// That so many tries came of a call that began at `start` and may take `whole`, none was told more than was left,
    /// and none is there after its end.
    pub async fn all_ended(&self, start: Instant, whole: Duration, tries: usize, what: &str) {
        tokio::time::sleep(secs(2)).await;
        let all = self.0.borrow();
        assert_eq!(all.len(), tries, "{what}");
        for call in all.iter() {
            let ended = call.ended.expect("cut").duration_since(start);
            assert!(ended < whole + millis(150), "{what}: {ended:?}");
            let left = whole.saturating_sub(call.at.duration_since(start));
            assert!(call.told.is_none_or(|told| millis(told) <= left + millis(2)), "{what}: {:?}", call.told);
        }
    }
}

/// What a policy says in milliseconds: of the head of the answer, of all, and of a try; and its tries after the first.
fn policy(timeout: u64, total: Option<u64>, each: Option<u64>, attempts: u32) -> CallPolicy {
    let retry = dodai_dataplane::attempt::default_retry();
    CallPolicy {
        timeout: Some(millis(timeout)),
        total_timeout: total.map(millis),
        try_timeout: each.map(millis),
        retry: Some(RetryPolicy { attempts, constant: true, ..retry }),
        ..CallPolicy::default()
    }
}

/// Every way through: HTTP/1 or HTTP/2 on either side.
const WAYS: [(bool, Protocol); 4] =
    [(false, Protocol::Http), (true, Protocol::Http2), (true, Protocol::Http), (false, Protocol::Http2)];

#[tokio::test(start_paused = true)]
async fn all_tries_together_take_as_long_as_the_shortest_word_allows() {
    local(Box::pin(async {
        for (h2, protocol) in WAYS {
            for (policy, told, most, whole, tries) in [
                (policy(5000, None, Some(400), 10), Some(1000), 1000, 1000, 3),
                (policy(1000, None, Some(400), 10), Some(5000), 1000, 1000, 3),
                (policy(1000, None, Some(400), 10), None, 1000, 1000, 3),
                (policy(5000, Some(700), Some(400), 10), Some(2000), 700, 700, 2),
                (policy(5000, None, None, 10), Some(700), 700, 700, 1),
                // Its tries are used up before its time.
                (policy(5000, None, Some(400), 1), Some(2000), 2000, 810, 2),
            ] {
                for (name, unit) in [("dodai-timeout-ms", ""), ("grpc-timeout", "m")] {
                    let what = format!("{h2} {protocol:?} {policy:?} {name} {told:?}");
                    let policy = policy.clone();
                    let catalog = Service { protocol, policy, ..service("shop/catalog/http") };
                    let world = World::of(usual(catalog, filtered(vec![]))).await;
                    let silent = Silent::at(world.backend(1), protocol);
                    let mut ask = Ask::new(world.client().await, h2).await;
                    let start = Instant::now();
                    let told = told.map(|told: u64| format!("{told}{unit}"));
                    assert_eq!(ask.get("a", name, told).await, 504, "{what}");
                    within(start, whole, &what);
                    silent.all_ended(start, millis(most), tries, &what).await;
                }
            }
        }
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn tries_beside_a_slow_one_end_with_the_call() {
    local(async {
        for (h2, protocol) in WAYS {
            let mut policy = policy(5000, None, None, 0);
            policy.hedge = Some(Hedge { delay: Some(millis(100)), attempts: 2, any_method: false });
            let catalog = Service { protocol, policy, ..service("shop/catalog/http") };
            let mut resources = usual(catalog, filtered(vec![]));
            let list = (1..=3).map(|last| endpoint(last, "r1")).collect();
            resources.push(endpoints("shop/catalog/http", list));
            let world = World::of(resources).await;
            let all = [1, 2, 3].map(|last| Silent::at(world.backend(last), protocol));
            let what = format!("{h2} {protocol:?}");
            let mut ask = Ask::new(world.client().await, h2).await;
            let start = Instant::now();
            assert_eq!(ask.get("a", "dodai-timeout-ms", Some("1000".into())).await, 504, "{what}");
            within(start, 1000, &what);
            for silent in all {
                silent.all_ended(start, millis(1000), 1, &what).await;
            }
        }
    })
    .await;
}

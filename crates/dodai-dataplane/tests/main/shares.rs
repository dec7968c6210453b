//! Rate limits that all bases keep together, as one base keeps its share.

use crate::support::*;
use dodai_core::snapshot::*;
use std::time::Duration;

fn limit(burst: u32, key: &[RateKey]) -> Filter {
    let shared = Some(SharedRate { name: "shop/all".into(), store: None });
    let interval = Duration::from_millis(100);
    Filter::RateLimits(vec![RateLimit { interval, burst, key: key.to_vec(), shared }])
}

fn share(per_ten_thousand: u16) -> Resource {
    Resource::Share(Share { limit: "shop/all".into(), per_ten_thousand, keys: Default::default() })
}

/// Two rules that share the limit, and what this base may take of it.
fn limited(share: Option<Resource>) -> Vec<Resource> {
    let answer = |name: &str, path: &str| Rule {
        name: name.into(),
        matches: vec![Match { path: Some(PathMatch::Prefix(path.into())), ..Match::default() }],
        filters: vec![limit(10, &[])],
        ..rule(Action::Respond { status: 200, body: String::new() })
    };
    let mut resources = vec![gateway(), routes(vec![answer("one", "/one"), answer("two", "/two")])];
    resources.extend(share);
    resources
}

/// How many of 40 calls come through, half by each rule.
async fn through(world: &World) -> usize {
    let mut client = world.client().await;
    let mut passed = 0;
    for round in 0..40 {
        let path = if round % 2 == 0 { "one" } else { "two" };
        let answer = client.ask(&format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        passed += usize::from(answer.status() == 200);
    }
    passed
}

#[tokio::test(start_paused = true)]
async fn a_share_scales_the_limit_and_stays() {
    local(async {
        let world = World::of(limited(None)).await;
        assert_eq!(through(&world).await, 10, "alone it takes the whole, all rules together");
        world.apply(limited(Some(share(2_000)))).await;
        tokio::time::sleep(secs(10)).await;
        assert_eq!(through(&world).await, 2, "a fifth at once");
        // Over time too: a fifth of ten a second.
        let mut passed = 0;
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut client = world.client().await;
            passed += usize::from(client.ask("GET /one HTTP/1.1\r\nHost: a\r\n\r\n").await.status() == 200);
        }
        assert!((9..=11).contains(&passed), "{passed}");
        let asked = world.plane.table().limits()["shop/all"].asked();
        assert_eq!(asked, 130, "what is refused is asked for too");
        // Nothing more is heard of control: the share stays, also in a table that is new for another reason.
        let mut other = limited(None);
        other.push(listener("more", 82, Role::Gateway { routes: "all".into() }));
        world.apply(other).await;
        assert_eq!(world.plane.table().limits()["shop/all"].share(), 2_000);
        tokio::time::sleep(secs(10)).await;
        assert_eq!(through(&world).await, 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_changes_keeps_its_share() {
    local(async {
        let world = World::of(limited(Some(share(5_000)))).await;
        assert_eq!(through(&world).await, 5);
        let mut other = limited(None);
        let answer = Rule {
            filters: vec![limit(20, &[])],
            ..rule(Action::Respond { status: 200, body: String::new() })
        };
        other.push(routes(vec![answer]));
        world.apply(other).await;
        assert_eq!(through(&world).await, 10, "half of twenty");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_many_calls_come_by_has_a_share_of_its_own() {
    local(async {
        let resources = |share: Option<Share>| {
            let answer = Rule {
                filters: vec![limit(10, &[RateKey::Header("x-user".into())])],
                ..rule(Action::Respond { status: 200, body: String::new() })
            };
            let mut resources = vec![gateway(), routes(vec![answer])];
            resources.extend(share.map(Resource::Share));
            resources
        };
        let world = World::of(resources(None)).await;
        let passed = async |user: &str, calls: usize| {
            let (mut client, mut passed) = (world.client().await, 0);
            for _ in 0..calls {
                let call = format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n");
                passed += usize::from(client.ask(&call).await.status() == 200);
            }
            passed
        };
        assert_eq!((passed("ada", 40).await, passed("bob", 20).await), (10, 10));
        let busiest = world.plane.table().limits()["shop/all"].busiest();
        let (ada, _) = busiest.iter().find(|(_, calls)| **calls == 40).expect("what is refused counts too");
        let told =
            |share| Share { limit: "shop/all".into(), per_ten_thousand: 5_000, keys: [(*ada, share)].into() };
        world.apply(resources(Some(told(9_000)))).await;
        tokio::time::sleep(secs(60)).await;
        assert_eq!((passed("ada", 40).await, passed("bob", 40).await), (9, 5));
        world.apply(resources(Some(told(1_000)))).await;
        tokio::time::sleep(secs(60)).await;
        assert_eq!((passed("ada", 40).await, passed("bob", 40).await), (1, 5));
    })
    .await;
}

//! Of many calls about as many are copied, harmed or led elsewhere as was said. The bounds are six standard deviations
//! from what is expected: chance crosses them once in 500 million runs.

use crate::support::*;
use dodai_core::snapshot::*;
use dodai_dataplane::tally::Event;

const CALLS: u32 = 2000;

fn is_about(count: u64, share: f64) {
    let (calls, seen) = (f64::from(CALLS), f64::from(u32::try_from(count).expect("few")));
    let deviation = (calls * share * (1.0 - share)).sqrt();
    assert!((seen - calls * share).abs() < 6.0 * deviation, "{count} of {CALLS} are not {share}");
}

/// Makes the calls; how many had each status and body.
async fn call(world: &World) -> std::collections::BTreeMap<(u16, String), u64> {
    let mut client = world.client().await;
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..CALLS {
        let answer = client.ask(GET).await;
        let body = if answer.status() == 200 { answer.body.clone() } else { String::new() };
        *seen.entry((answer.status(), body)).or_default() += 1;
    }
    seen
}

fn counted(world: &World, event: Event) -> u64 {
    world.plane.table().tallies().iter().filter(|one| one.event == event).map(|one| one.count).sum()
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_calls_is_copied() {
    local(async {
        let mirror = Filter::Mirror { to: to("shop/shadow/http"), per_ten_thousand: 1000 };
        let mut resources = usual(service("shop/catalog/http"), filtered(vec![mirror]));
        resources.push(Resource::Service(service("shop/shadow/http")));
        resources.push(endpoints("shop/shadow/http", vec![endpoint(2, "r1")]));
        let world = World::of(resources).await;
        (1..=2).for_each(|last| answer_with_number(&world, last));
        assert_eq!(call(&world).await, [((200, "1".to_owned()), u64::from(CALLS))].into());
        is_about(counted(&world, Event::Mirrored), 0.1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_calls_is_harmed() {
    local(async {
        let fault = Fault {
            abort: Some((FaultAbort::Http(418), 3000)),
            delay: Some((std::time::Duration::from_millis(1), 500)),
            ..Fault::default()
        };
        let world =
            World::of(usual(service("shop/catalog/http"), filtered(vec![Filter::Fault(fault)]))).await;
        answer_with_number(&world, 1);
        let seen = call(&world).await;
        is_about(seen[&(418, String::new())], 0.3);
        is_about(counted(&world, Event::FaultAborted), 0.3);
        is_about(counted(&world, Event::FaultDelayed), 0.05);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn weights_share_the_calls() {
    local(async {
        let weighted = |name: &str, weight| Backend { weight, ..to(name) };
        let action = Action::Forward(vec![
            weighted("shop/catalog/http", 90),
            weighted("shop/shadow/http", 10),
            weighted("shop/nobody/http", 0),
        ]);
        let mut resources = usual(service("shop/catalog/http"), rule(action));
        for (name, last) in [("shop/shadow/http", 2), ("shop/nobody/http", 3)] {
            resources.push(Resource::Service(service(name)));
            resources.push(endpoints(name, vec![endpoint(last, "r1")]));
        }
        let world = World::of(resources).await;
        (1..=3).for_each(|last| answer_with_number(&world, last));
        let seen = call(&world).await;
        assert_eq!(seen.len(), 2, "{seen:?}");
        is_about(seen[&(200, "2".to_owned())], 0.1);
    })
    .await;
}

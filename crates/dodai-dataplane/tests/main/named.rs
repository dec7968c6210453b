//! Names outside the mesh of which every address is an endpoint.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::support::*;
use dodai_core::id::RevisionId;
use dodai_core::snapshot::*;
use tokio::time::sleep;

const NAME: &str = "bank.example";

fn ip(last: u8) -> IpAddr {
    [10, 0, 1, last].into()
}

/// A catalog that is a name, which leads to `addresses`.
async fn world(catalog: Service, each_address: bool, addresses: &[IpAddr]) -> World {
    let world = World::bare(Default::default());
    world.net.name(NAME, addresses);
    let target = Target::Address(format!("{NAME}:8000"));
    let one = Endpoint { each_address, ..Endpoint::new(RevisionId::new("r1"), target) };
    let list = endpoints("shop/catalog/http", vec![one]);
    world.apply(vec![gateway(), routes(vec![filtered(vec![])]), Resource::Service(catalog), list]).await;
    sleep(secs(2)).await;
    world
}

/// Who answers so many calls.
async fn answers(world: &World, count: usize) -> BTreeSet<String> {
    let mut client = world.client().await;
    let mut seen = BTreeSet::new();
    for _ in 0..count {
        seen.insert(client.ask(GET).await.body);
    }
    seen
}

fn told<const N: usize>(expect: [&str; N]) -> BTreeSet<String> {
    expect.map(str::to_owned).into()
}

/// Ids of the live endpoints by their labels.
fn live(world: &World) -> Vec<(String, u64)> {
    let table = world.plane.table();
    let catalog = table.service(&id("shop/catalog/http")).expect("it is there");
    catalog.endpoints().iter().map(|one| (one.label.to_string(), one.id)).collect()
}

#[tokio::test(start_paused = true)]
async fn calls_go_to_every_address_and_follow_the_name() {
    local(async {
        let world = world(service("shop/catalog/http"), true, &[ip(2), ip(1)]).await;
        (1..=3).for_each(|last| answer_with_number(&world, last));
        assert_eq!(answers(&world, 4).await, told(["1", "2"]));
        let before = live(&world);
        assert_eq!(
            before.iter().map(|(label, _)| &**label).collect::<Vec<_>>(),
            ["10.0.1.1:8000", "10.0.1.2:8000"]
        );
        world.net.name(NAME, &[ip(2), ip(3), "::1".parse().expect("an address")]);
        sleep(secs(17)).await;
        assert_eq!(answers(&world, 4).await, told(["2", "3"]));
        assert_eq!(live(&world)[0], before[1], "who stays is known");
        // Nobody knows the name any more.
        world.net.name(NAME, &[]);
        sleep(secs(17)).await;
        assert_eq!(answers(&world, 4).await, told(["2", "3"]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_keeps_what_was_looked_up() {
    local(async {
        let world = world(service("shop/catalog/http"), true, &[ip(1), ip(2)]).await;
        let before = live(&world);
        let target = Target::Address(format!("{NAME}:8000"));
        let one = Endpoint { each_address: true, weight: 7, ..Endpoint::new(RevisionId::new("r1"), target) };
        let list = endpoints("shop/catalog/http", vec![one]);
        let catalog = Resource::Service(service("shop/catalog/http"));
        world.apply(vec![gateway(), routes(vec![filtered(vec![])]), catalog, list]).await;
        assert_eq!(live(&world), before, "with another weight they are who they were");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn each_address_is_judged_by_itself() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.breaker = Breaker { consecutive_failures: 1, open_for: secs(3600), ..Breaker::default() };
        let world = world(catalog, true, &[ip(1), ip(2)]).await;
        answer_with_number(&world, 2);
        assert_eq!(answers(&world, 4).await, told(["2"]), "nobody listens at the other");
        let records = world.records.take();
        assert_eq!(records.iter().map(|record| record.retries).sum::<u32>(), 1, "it was tried once");
        sleep(secs(60)).await;
        answers(&world, 4).await;
        assert_eq!(world.records.take().iter().map(|record| record.retries).sum::<u32>(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_one_endpoint_is_looked_up_by_connections() {
    local(async {
        for (each_address, before) in [(false, 1), (true, 0)] {
            // A name that nobody knows yet is one endpoint in any case.
            let addresses = [ip(1)];
            let world = world(service("shop/catalog/http"), each_address, &addresses[..before]).await;
            assert_eq!(live(&world)[0].0, format!("{NAME}:8000"));
            world.net.name(NAME, &[ip(1)]);
            answer_with_number(&world, 1);
            assert_eq!(answers(&world, 1).await, told(["1"]));
        }
    })
    .await;
}

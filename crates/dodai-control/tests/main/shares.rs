//! Limits with a key that all bases keep together: what each is told of its keys, and what comes through.

use std::collections::BTreeMap;
use std::time::Duration;

use dodai_control::documents::Documents;
use dodai_control::records::{Observed, Records, Sighting};
use dodai_control::snapshot::{BaseSettings, Input, build};
use dodai_core::id::BaseId;
use dodai_core::snapshot::{BUSIEST_KEYS, Share};
use dodai_core::status::Status;
use dodai_testkit::cluster::{Called, Cluster, User};
use dodai_testkit::seed::Seed;
use tokio::task::LocalSet;

use super::compiled::{app, document, policy};
use super::played::yaml;

/// What bases are told of the limit, each of which said how often its keys are called by.
fn told(busiest: &[&[(u64, u64)]]) -> Vec<Share> {
    let limits = "rateLimits: [{requests: 100, scope: global, key: [{source: app}]}]";
    let text = app("a", "{name: http}") + &policy("p", "{kind: App, name: a}", limits);
    let documents: Documents = yaml(&text).into_iter().map(|one| one.value).collect();
    let mut observed = Observed::default();
    let name = || "default/p[0]".to_owned();
    let id = |at: usize| BaseId::new(format!("b{at}"));
    for (at, keys) in busiest.iter().enumerate() {
        let busiest = BTreeMap::from([(name(), keys.iter().copied().collect())]);
        let status = Status { demand: [(name(), 1)].into(), busiest, ..Status::default() };
        let sighting = Sighting { status: status.into(), connected: true, since: 0 };
        observed.bases_mut().insert(id(at), sighting);
    }
    let (records, settings) = (Records::default(), BaseSettings::default());
    let one = |at: usize| {
        let (documents, records, observed, settings) = (&documents, &records, &observed, &settings);
        let input = Input { documents, records, observed, base: &id(at), settings };
        build(&input, 1).shares().next().expect("it keeps the limit").clone()
    };
    (0..busiest.len()).map(one).collect()
}

#[test]
fn busy_keys_are_shared_by_demand_and_others_evenly() {
    let shares = told(&[&[(1, 300), (2, 50)], &[(1, 100)], &[]]);
    let keys = |at: usize| shares[at].keys.clone().into_iter().collect::<Vec<_>>();
    assert_eq!(keys(0), [(1, 333 + 6_750), (2, 333 + 9_000)]);
    assert_eq!(keys(1), [(1, 333 + 2_250), (2, 333)], "also of a key that has not come here");
    assert_eq!(keys(2), [(1, 333), (2, 333)]);
    assert!(shares.iter().all(|share| share.per_ten_thousand == 3_333), "{shares:?}");
}

#[test]
fn no_more_keys_are_told_of_than_the_busiest_of_all_bases() {
    let most = BUSIEST_KEYS as u64;
    let many: Vec<(u64, u64)> = (0..most).map(|mark| (mark, 10)).collect();
    let busier: Vec<(u64, u64)> = (0..most / 2).map(|at| (most + at, 20)).collect();
    let shares = told(&[&many, &busier]);
    for share in &shares {
        assert_eq!(share.keys.len(), BUSIEST_KEYS);
        assert!(busier.iter().all(|(mark, _)| share.keys.contains_key(mark)));
    }
    assert!(shares[0].keys.keys().eq(shares[1].keys.keys()), "every base is told of the same");
}

const PORT: u16 = 8080;
/// Calls per second that each user may make.
const LIMIT: u32 = 40;

fn front() -> String {
    let listeners = format!("{{listeners: [{{name: http, port: {PORT}, protocol: HTTP}}]}}");
    let answer = "[{type: DirectResponse, directResponse: {statusCode: 200}}]";
    let route = format!("{{parentRefs: [{{name: front}}], rules: [{{filters: {answer}}}]}}");
    let limit =
        format!("rateLimits: [{{requests: {LIMIT}, burst: 4, scope: global, key: [{{header: host}}]}}]");
    document("Gateway", "front", &listeners)
        + &document("Route", "all", &route)
        + &policy("users", "{kind: Gateway, name: front}", &limit)
}

/// How many calls of each user come through in `seconds`. So many a second come in at each base: `load[base][user]`.
async fn through<const USERS: usize>(user: &User, load: &[[u64; USERS]], seconds: u64) -> [u64; USERS] {
    let mut passed = [0; USERS];
    for millisecond in 0..seconds * 1_000 {
        for (base, users) in load.iter().enumerate() {
            for (name, rate) in users.iter().enumerate() {
                // Evenly over each second.
                if (millisecond * rate) / 1_000 == ((millisecond + 1) * rate) / 1_000 {
                    continue;
                }
                match user.call(base, PORT, &format!("user-{name}")).await {
                    Called::Answered(200, _) => passed[name] += 1,
                    Called::Answered(429, _) => {}
                    other @ (Called::Answered(..) | Called::Lost(_)) => panic!("{other:?}"),
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    passed
}

fn about(passed: u64, per_second: u32, seconds: u64) {
    let expect = u64::from(per_second) * seconds;
    assert!((expect * 85 / 100..=expect * 105 / 100).contains(&passed), "{passed} of about {expect}");
}

#[test]
fn a_user_has_the_limit_wherever_the_calls_come_in() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let mut cluster = Cluster::start(3, &[], Seed::new(7)).await;
        assert!(cluster.apply(&yaml(&front())).await);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let user = cluster.user();
        // One comes in at one base alone, one at all but mostly at one, one evenly; the last is within the limit.
        let load = [[90, 10, 40, 5], [0, 100, 40, 5], [0, 10, 40, 5]];
        let first = through(&user, &load, 1).await;
        for (at, passed) in first.iter().enumerate() {
            assert!(
                *passed <= u64::from(LIMIT) * 110 / 100 + 12,
                "user {at} got {passed} in the first second"
            );
        }
        through(&user, &load, 3).await;
        let [one, most, even, within] = through(&user, &load, 5).await;
        for passed in [one, most, even] {
            about(passed, LIMIT, 5);
        }
        assert!(within >= 5 * 14, "{within}");
        // Without the server each base goes on with what it was told last.
        cluster.kill_control().await;
        let [one, most, even, _] = through(&user, &load, 5).await;
        for passed in [one, most, even] {
            about(passed, LIMIT, 5);
        }
        // What comes in elsewhere then has the small part of each base that nothing came in at.
        let [moved] = through(&user, &[[0], [90], [0]], 5).await;
        assert!(moved <= 5 * u64::from(LIMIT) / 3, "{moved}");
    });
}

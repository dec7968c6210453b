//! A base's place in a mesh, with real certificates and a server that is played.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use dodai_core::id::{InstanceId, RevisionId, ServiceId};
use dodai_core::snapshot::{Endpoints, Resource};
use dodai_core::status::{Held, Status};
use dodai_core::task::Kind;
use dodai_transport::ca::{Authorities, Authority, Names};
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::tls::pinned::Pin;

use super::*;

struct Signs {
    authority: Authority,
    life: Duration,
    asked: AtomicUsize,
}

impl Signs {
    fn sign(&self, name: Option<&AppId>) -> Svid {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let base = || PeerIdentity::Base(BaseId::new("one"));
        let identity = name.map_or_else(base, |app| PeerIdentity::App(app.clone()));
        let now = SystemTime::now();
        self.authority.issue(&identity, &Names::default(), self.life, now).expect("signs")
    }
}

struct Shared(Arc<Signs>);

impl Issuer for Shared {
    fn issue(&self, name: Option<AppId>) -> BoxFuture<'static, Result<Svid, String>> {
        let signs = self.0.clone();
        Box::pin(async move { Ok(signs.sign(name.as_ref())) })
    }
}

fn snapshot(name: &str) -> Arc<Snapshot> {
    let owner = AppId::parse(name).expect("valid");
    let instance = InstanceId::new("a-1");
    let target = Target::Instance { instance, base: BaseId::new("one"), mesh: None };
    let list = vec![Endpoint::new(RevisionId::new("r"), target)];
    let service = ServiceId { owner, port: Name::new("http").expect("valid") };
    Arc::new(Snapshot::of(1, [Resource::Endpoints(Endpoints { service, list })]))
}

#[tokio::test]
async fn certificates_are_had_kept_renewed_and_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    let domain = TrustDomain::default();
    let authority = Authority::create(domain.clone(), SystemTime::now()).expect("a root");
    let bundle = authority.bundle().expect("a root");
    let signs = Signs { authority, life: Duration::from_secs(6), asked: AtomicUsize::new(0) };
    let signs = Arc::new(signs);
    assert!(load(folder.path(), &domain).expect("reads").is_none());
    keep(folder.path(), &signs.sign(None), &bundle).expect("writes");
    let (own, trust) = load(folder.path(), &domain).expect("reads").expect("has joined");
    let first = own.load().not_after();
    let membership = Membership::new(Settings {
        base: BaseId::new("one"),
        own: own.clone(),
        trust,
        issuer: Arc::new(Shared(signs.clone())),
        folder: folder.path().to_owned(),
        advertise: None,
        clock: Clock::system(),
    });
    let shop = AppId::parse("default/shop").expect("valid");
    let caller = Caller::App(shop.clone());
    assert!((membership.mesh().connectors)(&caller).is_none());
    let (snapshots, seen) = watch::channel(snapshot("default/shop"));
    let tasks = Tasks::new();
    tasks.spawn(Kind::Loop, membership.clone().tend(seen, tasks.clone()));
    let in_time = Duration::from_secs(20);
    tokio::time::timeout(in_time, membership.held(&shop)).await.expect("a certificate comes");
    assert!((membership.mesh().connectors)(&caller).is_some());
    let file = folder.path().join("apps/default.shop.pem");
    assert!(std::fs::read_to_string(&file).expect("on disk").contains("PRIVATE KEY"));
    // The base's own is from disk and due at once; it is replaced in place.
    let renewed = async {
        while own.load().not_after() <= first {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(in_time, renewed).await.expect("renewed");
    snapshots.send_replace(snapshot("default/other"));
    let other = AppId::parse("default/other").expect("valid");
    tokio::time::timeout(in_time, membership.held(&other)).await.expect("another comes");
    assert!(!membership.holds(&shop) && !file.exists(), "and the first is gone");
    assert!(signs.asked.load(Ordering::Relaxed) < 20, "nobody asks in a tight loop");
    assert!(tasks.drain(in_time).await.is_empty());
}

#[test]
fn damage_is_told_with_a_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::create(TrustDomain::default(), SystemTime::now()).expect("a root");
    std::fs::write(folder.path().join(OWN_FILE), "junk").expect("writes");
    let bundle = authority.bundle().expect("a root").to_pem();
    std::fs::write(folder.path().join(BUNDLE_FILE), bundle).expect("writes");
    let error = load(folder.path(), &TrustDomain::default()).map(drop).expect_err("damaged").to_string();
    assert!(error.contains("base.pem") && error.contains("join again"), "{error}");
}

/// A wall clock that goes with paused time, and is ahead of it by so many seconds.
fn paused_clock(ahead: &Arc<AtomicI64>) -> Clock {
    let (epoch, start, ahead) = (SystemTime::now(), tokio::time::Instant::now(), ahead.clone());
    Clock::from_fn(move || {
        let (now, by) = (epoch + start.elapsed(), ahead.load(Ordering::Relaxed));
        let apart = Duration::from_secs(by.unsigned_abs());
        if by < 0 { now - apart } else { now + apart }
    })
}

/// A server that can be away, and counts who asks.
struct Site {
    authorities: Authorities,
    life: Duration,
    clock: Clock,
    away: AtomicBool,
    asked: AtomicUsize,
}

struct AtSite(Arc<Site>);

impl Issuer for AtSite {
    fn issue(&self, name: Option<AppId>) -> BoxFuture<'static, Result<Svid, String>> {
        let site = self.0.clone();
        Box::pin(async move {
            site.asked.fetch_add(1, Ordering::Relaxed);
            if site.away.load(Ordering::Relaxed) {
                return Err("no server".to_owned());
            }
            let identity = name.map_or_else(|| PeerIdentity::Base(BaseId::new("one")), PeerIdentity::App);
            let signer = site.authorities.signer();
            let svid = signer.issue(&identity, &Names::default(), site.life, site.clock.now());
            svid.map_err(|error| error.to_string())
        })
    }
}

struct Running {
    site: Arc<Site>,
    /// Seconds by which the wall clock has jumped.
    ahead: Arc<AtomicI64>,
    membership: Membership,
    own: LiveSvid,
    snapshots: watch::Sender<Arc<Snapshot>>,
    status: watch::Sender<Status>,
    folder: tempfile::TempDir,
    _tasks: Tasks,
}

impl Running {
    async fn start(life: Duration) -> Running {
        let (folder, ahead) = (tempfile::tempdir().expect("a folder"), Arc::default());
        let clock = paused_clock(&ahead);
        let authority = Authority::create(TrustDomain::default(), clock.now()).expect("a root");
        let authorities = Authorities::only(Arc::new(authority)).expect("a root");
        let (away, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        let site = Arc::new(Site { authorities, life, clock: clock.clone(), away, asked });
        let bundle = site.authorities.trust().bundle();
        let first = AtSite(site.clone()).issue(None).await.expect("signs");
        keep(folder.path(), &first, &bundle).expect("writes");
        let (own, trust) = load(folder.path(), &TrustDomain::default()).expect("reads").expect("has joined");
        let membership = Membership::new(Settings {
            base: BaseId::new("one"),
            own: own.clone(),
            trust,
            issuer: Arc::new(AtSite(site.clone())),
            folder: folder.path().to_owned(),
            advertise: None,
            clock,
        });
        let (snapshots, seen) = watch::channel(snapshot("default/shop"));
        let (tasks, status) = (Tasks::new(), watch::Sender::default());
        let heed = membership.clone().heed(seen.clone(), status.clone(), tasks.clone());
        tasks.spawn(Kind::Loop, heed);
        tasks.spawn(Kind::Loop, membership.clone().tend(seen, tasks.clone()));
        Running { site, ahead, membership, own, snapshots, status, folder, _tasks: tasks }
    }

    /// Tells it what a server would tell.
    fn tell(&self, version: u64, revoked: Vec<snapshot::Revoked>) {
        let trust = self.site.authorities.trust();
        let signer = self.site.authorities.signer().bundle().expect("a root");
        let told = snapshot::Trust {
            bundle: trust.bundle().to_pem(),
            signer: Pin::of(&signer.roots()[0]).to_string(),
            revoked,
        };
        self.snapshots.send_modify(|known| {
            let mut next = Snapshot::clone(known);
            next.version = version;
            next.insert(Resource::Trust(told));
            *known = Arc::new(next);
        });
    }

    async fn reports(&self, holds: impl FnMut(&Status) -> bool) {
        let mut status = self.status.subscribe();
        let reported = tokio::time::timeout(Duration::from_secs(120), status.wait_for(holds)).await;
        reported.expect("reported in time").expect("it goes on");
    }
}

fn held(status: &Status) -> Held {
    status.trust.clone().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_gone_for_an_hour_is_waited_for_and_nothing_ends() {
    let running = Running::start(Duration::from_secs(2 * 3600)).await;
    let shop = AppId::parse("default/shop").expect("valid");
    running.membership.held(&shop).await;
    let first = running.own.load().not_after();
    // Renewals fall between 58 and 80 minutes after the start.
    running.site.away.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(50 * 60)).await;
    let before = running.site.asked.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60 * 60)).await;
    let tries = running.site.asked.load(Ordering::Relaxed) - before;
    assert!((20..=400).contains(&tries), "it tries again, ever more seldom: {tries}");
    assert_eq!(running.own.load().not_after(), first, "the last certificate stays in use");
    assert!(running.membership.holds(&shop));
    assert!((running.membership.mesh().connectors)(&Caller::App(shop.clone())).is_some());
    running.site.away.store(false, Ordering::Relaxed);
    tokio::time::sleep(RETRY_MOST * 2).await;
    assert!(running.own.load().not_after() > first, "and is renewed as soon as there is a server");
    let after = running.site.asked.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(running.site.asked.load(Ordering::Relaxed), after, "then all is quiet");
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_over_a_renewal_has_it_made_soon() {
    const DAY: i64 = 24 * 3600;
    let running = Running::start(Duration::from_secs(24 * 3600)).await;
    let shop = AppId::parse("default/shop").expect("valid");
    running.membership.held(&shop).await;
    let first = running.own.load().not_after();
    // As a machine finds it that was asleep for a weekend.
    running.ahead.store(2 * DAY, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let (second, asked) = (running.own.load().not_after(), running.site.asked.load(Ordering::Relaxed));
    assert!(second > first + Duration::from_secs(24 * 3600), "it is renewed by the new time");
    // One that is set back has certificates that last for longer; it asks for none, and holds what it has.
    running.ahead.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(running.site.asked.load(Ordering::Relaxed), asked);
    assert!(running.membership.holds(&shop) && running.own.load().not_after() == second);
}

#[tokio::test(start_paused = true)]
async fn a_base_follows_a_rotation_and_says_how_far_it_is() {
    let running = Running::start(Duration::from_secs(24 * 3600)).await;
    let all = &running.site.authorities;
    running.tell(2, Vec::new());
    running
        .reports(|status| held(status).roots.len() == 1 && held(status).signers.values().sum::<u32>() == 2)
        .await;
    let old = held(&running.status.borrow()).roots;
    all.announce(running.site.clock.now()).expect("announced");
    running.tell(3, Vec::new());
    running.reports(|status| held(status).roots.len() == 2).await;
    let on_disk = || std::fs::read_to_string(running.folder.path().join(BUNDLE_FILE)).expect("on disk");
    assert_eq!(on_disk().matches("BEGIN CERTIFICATE").count(), 2, "before it is reported");
    all.issue().expect("issues");
    running.tell(4, Vec::new());
    running.reports(|status| held(status).signers.keys().all(|signer| !old.contains(signer))).await;
    assert_eq!(held(&running.status.borrow()).signers.values().sum::<u32>(), 2, "its own, and the app's");
    all.finish().expect("ends");
    running.tell(5, Vec::new());
    running.reports(|status| held(status).roots.len() == 1).await;
    assert!(held(&running.status.borrow()).roots.is_disjoint(&old));
    let (_, trust) =
        load(running.folder.path(), &TrustDomain::default()).expect("reads").expect("has joined");
    assert_eq!(trust.bundle().roots().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_revoked_is_renewed_where_it_may_be() {
    let running = Running::start(Duration::from_secs(24 * 3600)).await;
    let shop = AppId::parse("default/shop").expect("valid");
    running.membership.held(&shop).await;
    let file = running.folder.path().join("apps/default.shop.pem");
    let before = std::fs::read_to_string(&file).expect("on disk");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let now = running.site.clock.now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let whose = snapshot::Whose::App(shop);
    running.tell(2, vec![snapshot::Revoked { whose, until: now }]);
    running.reports(|status| held(status).revoked == 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_ne!(std::fs::read_to_string(&file).expect("on disk"), before);
    let asked = running.site.asked.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(running.site.asked.load(Ordering::Relaxed), asked, "once");
}

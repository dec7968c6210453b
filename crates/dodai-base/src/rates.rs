//! Rate limits that bases share through a Redis: once a second each tells what is asked of it, hears what is asked of all,
//! and takes its share of the whole.
//!
//! No call waits for this: a share scales a bucket of the data plane. While the Redis is away the share stays for a
//! moment; then each base keeps the whole limit by itself, rather than refuse calls that are within it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::snapshot::{Protocol, RateStore, Share};
use dodai_core::task::Tasks;
use dodai_dataplane::rate::WHOLE;
use dodai_dataplane::secure::{Outward, Secure};
use dodai_dataplane::shared_rate::{Limit, Limits};
use dodai_drivers::rates::{Asked as OfAll, LEASE_SECONDS, Rates};
use dodai_transport::network::Network;
use dodai_transport::stream::Stream;
use dodai_transport::tls::public::RootsFrom;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::node::Parts;
use crate::reveal::Vault;

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a share counts that nothing was heard of since.
const LEASE: Duration = Duration::from_secs(LEASE_SECONDS);

/// Keeps the shares of one base until told to stop.
pub(crate) async fn tend(parts: Arc<Parts>, tasks: Tasks) {
    let config = &parts.config;
    let roots = RootsFrom::environment(|name| config.environment.get(name).cloned());
    let dialer = Dialer::new(roots, config.data_dir.clone());
    let mut sharer = Sharer::new(config.base.as_str(), dialer);
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Waiting for a moment and for the end are both cancel safe.
            now = rounds.tick() => {
                let table = parts.plane.table();
                sharer.round(table.limits(), &parts.runtime, now).await;
                parts.rate_stores.store(Arc::new(sharer.readings()));
            }
            () = tasks.closing() => return,
        }
    }
}

/// Opens connections to Redis.
pub struct Dialer {
    network: Network,
    outward: Outward,
}

impl Dialer {
    /// TLS is checked against `roots` where nothing else is said; files of certificates begin at `folder`.
    pub fn new(roots: RootsFrom, folder: PathBuf) -> Dialer {
        Dialer { network: Network::system(), outward: Outward::new(roots, folder) }
    }

    async fn open(&self, store: &RateStore) -> Result<Stream, String> {
        let (host, port) = store.address.rsplit_once(':').unwrap_or((&store.address, "6379"));
        let port = port.parse().map_err(|_| format!("`{port}` is no port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let opened = self.network.connect(host, port, PATIENCE).await;
        let stream = opened.map_err(|failure| failure.detail.to_string())?;
        let Some(tls) = &store.tls else { return Ok(stream) };
        let secure = Secure::new(&store.address, tls);
        let secured = self.outward.secure(stream, &secure, Protocol::Tcp).await;
        secured.map_err(|failure| failure.detail.to_string())
    }
}

/// The shares of one base.
pub struct Sharer {
    /// What tells it apart from all others that share by a Redis.
    member: String,
    dialer: Dialer,
    links: BTreeMap<RateStore, Link>,
}

/// One Redis.
#[derive(Default)]
struct Link {
    rates: Option<Rates>,
    counts: BTreeMap<String, u64>,
    looked: Option<Instant>,
    heard: Option<Instant>,
    away: bool,
}

/// What is asked of one base, of a limit or one of its keys.
struct Asked<'a> {
    /// What it is called in the Redis.
    name: Cow<'a, str>,
    /// The mark of the key.
    key: Option<u64>,
    rate: u64,
}

type Shared<'a> = Vec<(&'a str, &'a Arc<Limit>)>;

impl Sharer {
    /// Of the base that is called so. Bases of different owners may have one name: each that runs by itself is called
    /// `local`. So a number that was drawn at the start is part of it; what a base that has ended asked for counts
    /// until its lease is over.
    pub fn new(base: &str, dialer: Dialer) -> Sharer {
        let drawn = RandomState::new().build_hasher().finish();
        Sharer { member: format!("{base}/{drawn:016x}"), dialer, links: BTreeMap::new() }
    }

    /// One round at `now`: tells and hears of all `limits` that are shared through a Redis.
    pub async fn round(&mut self, limits: &Limits, vault: &impl Vault, now: Instant) {
        let mut stores: BTreeMap<&RateStore, Shared<'_>> = BTreeMap::new();
        for (name, limit) in limits {
            if let Some(store) = limit.store() {
                stores.entry(store).or_default().push((name.as_str(), limit));
            }
        }
        self.links.retain(|store, _| stores.contains_key(store));
        for store in stores.keys() {
            if !self.links.contains_key(*store) {
                self.links.insert((*store).clone(), Link::default());
            }
        }
        let own = (self.member.as_str(), &self.dialer);
        let rounds = self.links.iter_mut().filter_map(|(store, link)| {
            let shared = stores.get(store)?;
            Some(link.round(own, store, shared, vault, now))
        });
        futures_util::future::join_all(rounds).await;
    }

    /// Whether each Redis could be reached when it was last asked, by address and database.
    pub fn readings(&self) -> BTreeMap<String, bool> {
        let reading = |(store, link): (&RateStore, &Link)| {
            (format!("{}/{}", store.address, store.database), !link.away)
        };
        self.links.iter().map(reading).collect()
    }
}

impl Link {
    async fn round(
        &mut self,
        own: (&str, &Dialer),
        store: &RateStore,
        shared: &Shared<'_>,
        vault: &impl Vault,
        now: Instant,
    ) {
        let asked = self.measure(shared, now);
        let names: Vec<(&str, u64)> = asked.iter().map(|one| (&*one.name, one.rate)).collect();
        let told = match tokio::time::timeout(PATIENCE, self.tell(own, store, &names, vault)).await {
            Ok(told) => told,
            Err(_) => Err("no answer in time".to_owned()),
        };
        match told {
            Ok(all) => {
                share_out(shared, &asked, &all);
                self.heard = Some(now);
                if std::mem::take(&mut self.away) {
                    tracing::info!(redis = store.address, "rate limits are shared again");
                }
            }
            Err(reason) => {
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(
                        redis = store.address,
                        reason,
                        "rate limits are not shared; each base keeps them by itself until they are"
                    );
                }
                if self.heard.is_none_or(|heard| now.saturating_duration_since(heard) >= LEASE) {
                    for (_, limit) in shared {
                        limit.set_share(WHOLE);
                        limit.set_shares_of_keys(std::iter::empty());
                    }
                }
            }
        }
    }

    /// Calls per second by limit since the last look, each followed by those of its busiest keys.
    fn measure<'a>(&mut self, shared: &Shared<'a>, now: Instant) -> Vec<Asked<'a>> {
        let took = now.saturating_duration_since(*self.looked.get_or_insert(now)).as_secs_f64();
        let rate = |more: u64| if took > 0.0 { (more as f64 / took).round() as u64 } else { 0 };
        let (mut asked, mut counts) = (Vec::new(), BTreeMap::new());
        for &(name, limit) in shared {
            let count = limit.asked();
            let more = count.saturating_sub(self.counts.get(name).copied().unwrap_or(count));
            asked.push(Asked { name: name.into(), key: None, rate: rate(more) });
            let keys = limit.busiest().into_iter().map(|(mark, count)| (mark, rate(count)));
            asked.extend(keys.filter(|(_, rate)| *rate > 0).map(|(mark, rate)| Asked {
                name: format!("{name}#{mark:016x}").into(),
                key: Some(mark),
                rate,
            }));
            counts.insert(name.to_owned(), count);
        }
        (self.looked, self.counts) = (Some(now), counts);
        asked
    }

    async fn tell(
        &mut self,
        (member, dialer): (&str, &Dialer),
        store: &RateStore,
        asked: &[(&str, u64)],
        vault: &impl Vault,
    ) -> Result<Vec<OfAll>, String> {
        let mut rates = match self.rates.take() {
            Some(rates) => rates,
            None => {
                let password = match &store.password {
                    Some(value) => {
                        let text = vault.read(&store.namespace, value).await;
                        Some(text.map_err(|error| format!("its password cannot be read: {error}"))?)
                    }
                    None => None,
                };
                // A file that holds a secret ends with a line end as a rule.
                let password = password.as_deref().map(|text| text.trim_end_matches(['\r', '\n']));
                Rates::new(store.database, store.username.as_deref(), password)
            }
        };
        // What fails is made anew, with the password that holds by then.
        let all = rates.tell(member, asked, dialer.open(store)).await.map_err(|error| error.to_string())?;
        self.rates = Some(rates);
        Ok(all)
    }
}

/// Takes the shares of what is asked of all, in the same order as what is asked of this base.
fn share_out(shared: &Shared<'_>, asked: &[Asked<'_>], all: &[OfAll]) {
    let mut told = asked.iter().zip(all).peekable();
    for (_, limit) in shared {
        let Some((own, of)) = told.next() else { return };
        let bases = of.bases;
        // Keys that this base does not tell of are shared evenly.
        let share =
            if limit.is_keyed() { Share::of(0, 0, bases) } else { Share::of(own.rate, of.total, bases) };
        limit.set_share(share.into());
        let keys = std::iter::from_fn(|| {
            let (own, of) = told.next_if(|(own, _)| own.key.is_some())?;
            Some((own.key?, Share::of(own.rate, of.total, bases)))
        });
        limit.set_shares_of_keys(keys);
    }
}

//! What a running base is at this moment, as JSON for people and tools: the compiled table, services with their
//! endpoints, connections, certificates.
//!
//! Every answer is one page of at most [`MAX_ITEMS`] items and says where the next begins. Secrets are left out, keys
//! are never read, and nothing here is on the path of a call.

mod table;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dodai_core::id::AppId;
use dodai_dataplane::gauges::Pool;
use dodai_dataplane::roll::{Connection, Wanted};
use dodai_dataplane::service::Service;
use dodai_dataplane::survey::{EndpointView, ServiceView};
use dodai_transport::certificate::Facts;
use serde_json::{Value, json};

use crate::node::Parts;

/// The most items of one page.
pub const MAX_ITEMS: usize = 1000;
/// The most endpoints of one service that are shown.
const MAX_ENDPOINTS: usize = 1000;
/// A page of services ends when it has so many endpoints.
const PAGE_ENDPOINTS: usize = 5000;
/// How long the data-plane threads may take to say who is connected.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which page of what is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Where it begins: what the page before said, or 0.
    pub after: u64,
    /// How many items at most.
    pub limit: usize,
    /// Only what is of this service, listener or rule.
    pub only: Option<String>,
    /// Only what is of this app.
    pub app: Option<AppId>,
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.clamp(1, MAX_ITEMS)
    }

    /// The page of all that there is, in an order that stays.
    fn of(&self, all: impl Iterator<Item = Value>) -> Value {
        let from = usize::try_from(self.after).unwrap_or(usize::MAX);
        let mut rest = all.skip(from);
        let items: Vec<Value> = rest.by_ref().take(self.limit()).collect();
        let next = rest.next().map(|_| from + items.len());
        json!({ "items": items, "next": next })
    }

    /// Which of the items are on the page, by how many endpoints each has, and where the next page begins.
    fn span(&self, sizes: impl ExactSizeIterator<Item = usize>) -> (Range<usize>, Option<usize>) {
        let all = sizes.len();
        let from = usize::try_from(self.after).unwrap_or(usize::MAX).min(all);
        let mut endpoints = 0;
        // One item at least, however large: else there were no way past it.
        let fits = |(at, size): &(usize, usize)| {
            endpoints += size;
            *at == 0 || endpoints <= PAGE_ENDPOINTS
        };
        let count = sizes.skip(from).take(self.limit()).enumerate().take_while(fits).count();
        let end = from + count;
        (from..end, (end < all).then_some(end))
    }

    fn is_of(&self, app: &AppId) -> bool {
        self.app.as_ref().is_none_or(|only| only == app)
    }
}

/// The compiled table: every rule in the order in which rules are asked.
pub fn table(parts: &Parts, page: &Page) -> Value {
    let live = parts.plane.table();
    let mut value = page.of(table::rules(&live, page).into_iter());
    value["version"] = live.version.into();
    value["base"] = parts.config.base.as_str().into();
    value
}

/// Services with their endpoints and how each stands. Only those of the page are looked at.
pub fn clusters(parts: &Parts, page: &Page) -> Value {
    let is_wanted = |service: &Arc<Service>| {
        page.is_of(&service.id().owner) && page.only.as_deref().is_none_or(|only| *service.label == *only)
    };
    let wanted: Vec<Arc<Service>> = parts.plane.services().into_iter().filter(is_wanted).collect();
    let sizes = wanted.iter().map(|service| service.endpoints().len().min(MAX_ENDPOINTS));
    let (items, next) = page.span(sizes);
    let here = &wanted[items];
    let shown = |(service, (view, pool)): (&Arc<Service>, (ServiceView, Pool))| {
        let mut value = cluster(&view, &pool);
        value["protocol"] = serde_json::to_value(service.spec.protocol).unwrap_or_default();
        value["balance"] = serde_json::to_value(&service.spec.balance).unwrap_or_default();
        value["default"] = service.spec.default.into();
        value
    };
    let items: Vec<Value> = here.iter().zip(parts.plane.survey_of(here)).map(shown).collect();
    json!({ "items": items, "next": next })
}

fn cluster(view: &ServiceView, pool: &Pool) -> Value {
    let endpoints: Vec<Value> = view.endpoints.iter().take(MAX_ENDPOINTS).map(endpoint).collect();
    json!({
        "service": &*view.label,
        "inFlight": view.in_flight(),
        "panic": view.panics,
        "retryBudget": view.retry_budget,
        "retriesRefused": view.retries_refused,
        "concurrencyLimit": view.concurrency_limit,
        "connections": {
            "busy": pool.busy, "idle": pool.idle, "waiting": pool.waiting, "shared": pool.shared, "streams": pool.streams,
        },
        "endpointsOmitted": view.endpoints.len() - endpoints.len(),
        "endpoints": endpoints,
    })
}

fn endpoint(of: &EndpointView) -> Value {
    json!({
        "name": &*of.label,
        "place": of.place,
        "address": of.address,
        "revision": of.revision.as_str(),
        "weight": of.weight,
        "tier": of.tier,
        "state": of.state.as_str(),
        "inFlight": of.in_flight,
        "latencyUs": of.latency.map(micros),
        "failures": of.failures,
        "breakerOpenForMs": of.open_for.map(millis),
        "ejectedForMs": of.ejected_for.map(millis),
        "ejections": of.ejections,
        "ageMs": millis(of.age),
    })
}

/// Connections from clients, by their numbers.
pub async fn connections(parts: &Parts, page: &Page) -> Value {
    let wanted = Wanted {
        after: page.after,
        limit: page.limit() + 1,
        listener: page.only.clone(),
        caller: page.app.as_ref().map(ToString::to_string),
    };
    let mut all = parts.plane.connections(wanted, PATIENCE).await;
    let more = all.len() > page.limit();
    all.truncate(page.limit());
    let next = all.last().filter(|_| more).map(|last| last.id);
    json!({ "items": all.iter().map(connection).collect::<Vec<_>>(), "next": next })
}

fn connection(of: &Connection) -> Value {
    json!({
        "id": of.id,
        "listener": of.listener,
        "peer": of.peer.to_string(),
        "caller": &*of.caller,
        "identity": of.identity.as_deref(),
        "tls": of.tls,
        "protocol": of.protocol,
        "ageMs": millis(of.age),
        "quietMs": millis(of.quiet),
        "calls": of.calls,
        "streams": of.streams,
        "receivedBytes": of.received,
        "sentBytes": of.sent,
    })
}

/// The certificates that this base shows others; never a key.
pub fn certificates(parts: &Parts, page: &Page) -> Value {
    let now = SystemTime::now();
    let is_named = |name: &str| page.only.as_deref().is_none_or(|only| name == only);
    let served = parts.plane.certificates();
    let of_listeners = served.iter().filter(|(listener, _)| page.app.is_none() && is_named(listener)).map(
        |(listener, one)| {
            certificate("listener", listener, &one.pair.chain.display().to_string(), &one.leaf, now)
        },
    );
    let held = parts.config.membership.iter().flat_map(|membership| membership.certificates());
    let of_identities = held.filter_map(|(app, svid)| {
        let (kind, name) = match &app {
            Some(app) if page.is_of(app) => ("app", app.to_string()),
            None if page.app.is_none() => ("base", parts.config.base.to_string()),
            Some(_) | None => return None,
        };
        let facts = svid.chain().first().and_then(Facts::of)?;
        is_named(&name).then(|| certificate(kind, &name, "", &facts, now))
    });
    page.of(of_listeners.chain(of_identities))
}

fn certificate(kind: &str, name: &str, file: &str, facts: &Facts, now: SystemTime) -> Value {
    let left = facts.not_after.duration_since(now).map_or(0, |left| left.as_secs());
    json!({
        "kind": kind,
        "name": name,
        "file": file,
        "subject": facts.subject,
        "issuer": facts.issuer,
        "serial": facts.serial,
        "names": facts.names,
        "notBefore": time(facts.not_before),
        "notAfter": time(facts.not_after),
        "expiresInSeconds": left,
    })
}

/// A moment as people and programs read it.
pub(crate) fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another_and_the_last_says_so() {
        let all = || (0..5).map(Value::from);
        let page = |after, limit| Page { after, limit, ..Page::default() };
        assert_eq!(page(0, 2).of(all()), json!({ "items": [0, 1], "next": 2 }));
        assert_eq!(page(2, 2).of(all()), json!({ "items": [2, 3], "next": 4 }));
        assert_eq!(page(4, 2).of(all()), json!({ "items": [4], "next": null }));
        assert_eq!(page(9, 2).of(all()), json!({ "items": [], "next": null }));
        let many = page(0, usize::MAX).of((0..5000).map(Value::from));
        assert_eq!((many["items"].as_array().map(Vec::len), &many["next"]), (Some(MAX_ITEMS), &1000.into()));
    }

    #[test]
    fn a_page_of_services_ends_by_their_number_or_by_that_of_their_endpoints() {
        let check = |after: u64, limit: usize, sizes: &[usize], expect: (Range<usize>, Option<usize>)| {
            let page = Page { after, limit, ..Page::default() };
            assert_eq!(page.span(sizes.iter().copied()), expect, "{page:?} {sizes:?}");
        };
        check(0, 100, &[], (0..0, None));
        check(0, 2, &[1, 1, 1], (0..2, Some(2)));
        check(2, 2, &[1, 1, 1], (2..3, None));
        check(9, 2, &[1, 1, 1], (3..3, None));
        check(0, 100, &[3000, 2000, 1], (0..2, Some(2)));
        check(0, 100, &[4999, 2, 1], (0..1, Some(1)));
        check(1, 100, &[1, 9000, 1], (1..2, Some(2)));
        check(2, 100, &[1, 9000, 1], (2..3, None));
    }

    #[test]
    fn a_certificate_that_expired_has_nothing_left() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let facts = Facts {
            subject: "CN=a".to_owned(),
            issuer: "CN=ca".to_owned(),
            serial: "01".to_owned(),
            names: vec!["DNS:a.example".to_owned()],
            not_before: at(100),
            not_after: at(200),
        };
        let shown = certificate("listener", "web", "a.pem", &facts, at(150));
        assert_eq!(
            (&shown["expiresInSeconds"], &shown["notAfter"]),
            (&50.into(), &"1970-01-01T00:03:20Z".into())
        );
        assert_eq!(certificate("listener", "web", "a.pem", &facts, at(300))["expiresInSeconds"], 0);
    }
}

//! What consoles are shown of a running base: who calls whom, what instances use, what apps keep.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;
use std::time::Duration;

use dodai_admin::Refusal;
use dodai_admin::seam::{Kept, Keys, Own, Pair, Shelf, Traffic, Usage};
use dodai_base::node::Parts;
use dodai_base::telemetry::metrics::OwnUse;
use dodai_capability::keys::original;
use dodai_capability::state::{Get, List};
use dodai_core::id::InstanceId;
use dodai_dataplane::stats::{Answered, Answering, BUCKETS, Direction, Labels};
use http::StatusCode;

/// The most bytes of a value that are shown.
const MAX_SHOWN: usize = 64 << 10;

/// What each instance uses, where it is measured.
pub fn usages(base: &Parts) -> HashMap<InstanceId, Usage> {
    // What modules hold together is not measured apart; the peak of one instance is what is known.
    let modules = base.modules.metrics().into_iter().map(|(instance, _, metrics)| {
        let usage =
            Usage { cpu_ms: Some(metrics.cpu_ns / 1_000_000), memory_bytes: Some(metrics.memory_peak) };
        (instance, usage)
    });
    let handles = base.handles.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let processes = handles.into_iter().filter_map(|(instance, handle)| {
        let usage = handle.usage()?;
        let cpu = u64::try_from(usage.cpu.as_millis()).unwrap_or(u64::MAX);
        Some((instance, Usage { cpu_ms: Some(cpu), memory_bytes: Some(usage.memory_bytes) }))
    });
    modules.chain(processes).collect()
}

/// What this process uses.
pub fn own() -> Option<Own> {
    let own = OwnUse::read()?;
    let millis = |seconds: f64| Duration::try_from_secs_f64(seconds).map_or(0, |time| time.as_millis());
    let millis = |seconds| u64::try_from(millis(seconds)).unwrap_or(u64::MAX);
    Some(Own {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        memory_bytes: own.resident_bytes,
        cpu_ms: millis(own.cpu_seconds),
        threads: own.threads,
        open_files: own.open_files,
        started_ms: millis(own.start_seconds),
    })
}

/// All calls until now. Those of the runtime API are no calls of one app to another, and are left out.
pub fn traffic(base: &Parts) -> Traffic {
    let mut pairs = BTreeMap::new();
    counted(base, |direction| direction != Direction::Api).for_each(|(_, pair)| add(&mut pairs, pair));
    let (mut revisions, mut bases) = (BTreeMap::new(), BTreeMap::new());
    answered(base).into_iter().for_each(|(_, pair)| add(&mut revisions, pair));
    crossed(base).into_iter().for_each(|(_, pair)| add(&mut bases, pair));
    Traffic {
        bounds_s: BUCKETS.to_vec(),
        pairs: pairs.into_values().collect(),
        revisions: revisions.into_values().collect(),
        bases: bases.into_values().collect(),
    }
}

/// What each revision answered of the calls that began at this base; it stands in the place of the caller.
pub fn answered(base: &Parts) -> Vec<(Answering, Pair)> {
    told_apart(base, |one| (one.revision.to_string(), app_of(&one.service).to_owned()))
}

/// Which base answered the calls that began at this one. What is outside of the mesh has no name.
pub fn crossed(base: &Parts) -> Vec<(Answering, Pair)> {
    let to = |one: &Answered| one.base.as_ref().map_or_else(String::new, ToString::to_string);
    told_apart(base, |one| (base.config.base.to_string(), to(one)))
}

/// Calls that began at this base and were answered, by the names of both ends.
fn told_apart(base: &Parts, ends: impl Fn(&Answered) -> (String, String)) -> Vec<(Answering, Pair)> {
    let rows = base.plane.stats().answered().into_iter().map(|one| {
        let (caller, app) = ends(&one);
        let (calls, errors, buckets) = (one.buckets.iter().sum(), one.errors, one.buckets.to_vec());
        ((one.service, one.revision, one.base), Pair { caller, app, calls, errors, buckets })
    });
    rows.collect()
}

/// The app of a service, `namespace/app/port`.
fn app_of(service: &str) -> &str {
    service.rsplit_once('/').map_or("", |(app, _)| app)
}

/// All calls until now that began at this base, by series: a call to an app on another base is counted there once
/// more, as it arrives.
pub fn begun(base: &Parts) -> Vec<(Labels, Pair)> {
    counted(base, |direction| matches!(direction, Direction::Gateway | Direction::Outbound)).collect()
}

fn counted(base: &Parts, counts: impl Fn(Direction) -> bool) -> impl Iterator<Item = (Labels, Pair)> {
    let all = base.plane.stats().look().into_iter().filter(move |one| counts(one.labels.direction));
    all.map(|reading| {
        let pair = Pair {
            caller: reading.labels.caller.to_string(),
            app: app_of(&reading.labels.service).to_owned(),
            calls: reading.calls(),
            errors: reading.classes[5] + reading.classes[0],
            buckets: reading.buckets.to_vec(),
        };
        (reading.labels, pair)
    })
}

/// Adds to the pairs what another one counts.
pub fn add(pairs: &mut BTreeMap<(String, String), Pair>, more: Pair) {
    let Some(sum) = pairs.get_mut(&(more.caller.clone(), more.app.clone())) else {
        pairs.insert((more.caller.clone(), more.app.clone()), more);
        return;
    };
    sum.calls = sum.calls.saturating_add(more.calls);
    sum.errors = sum.errors.saturating_add(more.errors);
    for (sum, more) in sum.buckets.iter_mut().zip(&more.buckets) {
        *sum = sum.saturating_add(*more);
    }
}

fn refused(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "state", error.to_string())
}

/// Keys that an app keeps in a state store.
pub async fn keys(
    base: &Parts,
    shelf: &Shelf,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Keys, Refusal> {
    let open = base.runtime.keyvalue(&shelf.app, &shelf.store).map_err(|error| refused(&error))?;
    let stored = |key: &str| format!("{}{key}", open.prefix.start());
    let list = List { prefix: stored(prefix), after: after.map(stored), limit };
    let page = open.store.list(&list).await.map_err(|error| refused(&error))?;
    let shown = |key: &String| original(key).to_owned();
    Ok(Keys { keys: page.keys.iter().map(shown).collect(), next: page.next.as_ref().map(shown) })
}

/// One value that an app keeps in a state store.
pub async fn kept(base: &Parts, shelf: &Shelf, key: &str) -> Result<Option<Kept>, Refusal> {
    let open = base.runtime.keyvalue(&shelf.app, &shelf.store).map_err(|error| refused(&error))?;
    let get = Get::new(open.prefix.apply(key).map_err(|error| Refusal::bad_request(error.to_string()))?);
    let found = open.store.get(&get).await.map_err(|error| refused(&error))?;
    Ok(found.map(|item| {
        let text = std::str::from_utf8(&item.value).ok();
        let end = text.map_or(0, |text| text.floor_char_boundary(MAX_SHOWN));
        Kept {
            text: text.map(|text| text[..end].to_owned()),
            bytes: item.value.len(),
            etag: item.etag.map(|etag| etag.to_string()),
            content_type: item.content_type.map(|kind| kind.to_string()),
        }
    }))
}

//! The loop: woken by the store, by bases and by a timer; plans, executes, writes statuses, publishes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dodai_api::DocumentKey;
use dodai_core::id::BaseId;
use dodai_core::status::{OPENING, Status};
use dodai_core::task::Tasks;
use dodai_store::{Cause, Revision, Txn};
use serde_json::Value;

use super::{Control, Inner};
use crate::documents::{STATUS_PREFIX, millis, unchanged};
use crate::error::Result;
use crate::execute::{execute, words};
use crate::mirror::View;
use crate::plan::Planning;
use crate::reads::passes_at;
use crate::records::{Millis, bytes};
use crate::snapshot;
use crate::status::Statuses;
use crate::world::World;

/// Changes that come within this are taken together.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// How long it waits at most when nothing wakes it and no deadline passes: only a wake that was lost shows then.
const REST: Duration = Duration::from_secs(600);
/// How long it waits after the store failed, or when there is more to do.
const RETRY: Duration = Duration::from_secs(1);
/// How many plans may follow one another before others get a turn.
const ROUNDS: usize = 16;
/// How many statuses are written in one transaction.
const STATUS_CHUNK: usize = 64;

pub(super) async fn run(control: Control, tasks: Tasks) {
    let inner = &*control.0;
    let mut kept = Kept::default();
    loop {
        let rest = tokio::select! {
            // Cancel safe: what is cut between two steps is planned again.
            () = tasks.closing() => return,
            done = once(inner, &mut kept) => match done {
                Ok(rest) => rest,
                Err(error) => {
                    tracing::warn!(%error, "reconciling failed; trying again");
                    RETRY
                }
            }
        };
        tokio::select! {
            () = tasks.closing() => return,
            () = inner.woken.notified() => tokio::time::sleep(DEBOUNCE).await,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// What is kept from one time to the next, so that each costs what changed.
#[derive(Default)]
struct Kept {
    planning: Planning,
    statuses: Statuses,
}

/// Plans until there is nothing to do, then tells everybody. Says when to look again if nothing happens.
async fn once(inner: &Inner, kept: &mut Kept) -> Result<Duration> {
    let now = millis(&inner.settings.clock);
    let rules = &inner.settings.rules;
    let mut settled = false;
    for _ in 0..ROUNDS {
        let (view, world) = inner.world();
        let plan = kept.planning.plan(&world, rules, now);
        if plan.steps.is_empty() {
            settled = true;
            break;
        }
        let mut known = view.known.clone();
        let executed = execute(&**inner.documents.store(), &plan.steps, &mut known).await?;
        for step in &plan.steps[..executed.done] {
            let (object, reason, text) = words(step);
            inner.events.add(now, object, reason, text);
        }
        // After a race the mirror is behind by what somebody else wrote; what that is, the next wake brings.
        inner.caught_up(executed.revision).await;
        if executed.raced {
            tokio::time::sleep(DEBOUNCE).await;
        }
    }
    publish(inner, None);
    let (view, world) = inner.world();
    let changes = kept.statuses.changes(&world, &view.statuses, rules, now);
    write_statuses(inner, &view, &changes).await?;
    if !settled {
        return Ok(RETRY);
    }
    let ends = [held_until(inner, &world), kept.planning.deadline(), kept.statuses.deadline()];
    let deadline = ends.into_iter().flatten().filter(|at| *at > now).min();
    let until = deadline.map_or(REST, |at| Duration::from_millis(at.saturating_sub(now)));
    Ok(until.clamp(DEBOUNCE, REST))
}

/// Gives each base its snapshot, if that changed. After a start nothing is told before every base that has
/// instances was heard of: a snapshot without their endpoints would cut what works. `only` leaves out all but one.
fn publish(inner: &Inner, only: Option<&BaseId>) {
    // Under the lock, so that no snapshot is made of what is older than the one before.
    let mut bases = inner.bases();
    let (_, world) = inner.world();
    let now = millis(&inner.settings.clock);
    if held_until(inner, &world).is_some_and(|at| now < at) {
        return;
    }
    for (base, connection) in bases.iter_mut().filter(|(base, _)| only.is_none_or(|only| only == *base)) {
        let input = snapshot::Input {
            documents: &world.documents,
            records: &world.records,
            observed: &world.observed,
            base,
            settings: &connection.settings,
        };
        let previous = connection.snapshots.borrow().clone();
        // A base that took snapshots of an earlier control goes on from its version.
        let version = connection.status.borrow().applied.max(previous.version) + 1;
        if let Some(next) = connection.telling.next(&input, &previous, version) {
            connection.snapshots.send_replace(Arc::new(next));
        }
    }
}

/// Until when nothing is told because some base that has instances was not heard of yet.
fn held_until(inner: &Inner, world: &World) -> Option<Millis> {
    let unheard = world.records.bases().any(|base| world.observed.base(base).is_none());
    unheard.then(|| passes_at(world.observed.started(), inner.settings.rules.lost_after))
}

async fn write_statuses(
    inner: &Inner,
    view: &View,
    changes: &BTreeMap<DocumentKey, Option<Value>>,
) -> Result<()> {
    let writes: Vec<_> = changes.iter().collect();
    let mut last = Revision::ZERO;
    for chunk in writes.chunks(STATUS_CHUNK) {
        let mut txn = Txn::new(Cause::new("control:status", "what was observed"));
        for (key, value) in chunk {
            let at = format!("{STATUS_PREFIX}/{key}");
            txn = txn.when(&at, unchanged(view.known.get(&at).copied()));
            txn = match value {
                Some(value) => txn.put(at, bytes(value)),
                None => txn.delete(at),
            };
        }
        let outcome = inner.documents.store().txn(txn).await?;
        if outcome.held {
            last = last.max(outcome.revision);
        }
    }
    inner.caught_up(last).await;
    Ok(())
}

impl Inner {
    /// Everything that is known now.
    fn world(&self) -> (Arc<View>, World) {
        let (view, observed) = (self.documents.mirror().view(), self.observed());
        let world = World { documents: view.documents.clone(), records: view.records.clone(), observed };
        (view, world)
    }

    /// Waits until the mirror shows what was written at `revision`.
    async fn caught_up(&self, revision: Revision) {
        let mut view = self.documents.mirror().subscribe();
        // Only a mirror that is gone fails, and then the loop is about to end as well.
        let _ = tokio::time::timeout(RETRY, view.wait_for(|view| view.revision >= revision)).await;
    }
}

/// Turns what a base reports into wakes and events, until the base is gone. `before` is what was known of it
/// when it came.
pub(super) async fn attend(control: Control, base: BaseId, serial: u64, mut before: Arc<Status>) {
    let tasks = control.0.tasks.clone();
    let Some(mut reports) = control.0.bases().get(&base).map(|one| one.status.clone()) else { return };
    reports.mark_changed();
    loop {
        let closed = tokio::select! {
            // Cancel safe: a report is state, and is read after the wait.
            () = tasks.closing() => return,
            changed = reports.changed() => changed.is_err(),
        };
        if closed {
            control.0.disconnect(&base, serial);
            return;
        }
        let report = Arc::new(reports.borrow_and_update().clone());
        tell(&control.0, &base, &before, &report);
        control.0.sighted(&base, serial, &report);
        // A call waits for what a base asks about; a plan, which looks at everything, is not needed for that.
        if report.wants != before.wants && control.0.is_current(&base, serial) {
            publish(&control.0, Some(&base));
        }
        before = report;
    }
}

fn tell(inner: &Arc<Inner>, base: &BaseId, before: &Status, after: &Status) {
    let now = millis(&inner.settings.clock);
    for (id, status) in &after.instances {
        let old = before.instances.get(id);
        if old.is_some_and(|old| old.phase == status.phase && old.restarts == status.restarts) {
            continue;
        }
        let why = if status.reason.is_empty() { String::new() } else { format!(": {}", status.reason) };
        let text = format!("instance {id} on base {base} is {:?}{why}", status.phase);
        inner.events.add(now, id.to_string(), "InstancePhase", text);
    }
    if let Some(refused) = after.refused.as_ref().filter(|refused| before.refused.as_ref() != Some(refused)) {
        let text = format!("base {base} refused snapshot {}: {}", refused.version, refused.reason);
        inner.events.add(now, base.to_string(), "SnapshotRefused", text);
    }
    for (name, health) in &after.components {
        let object = || format!("{}/{name}", dodai_api::Kind::Component);
        // That it is being opened is no news.
        let old = before.components.get(name).map_or("", |old| old.reason.as_str());
        let old = if old == OPENING { "" } else { old };
        if health.ready && health.reason.is_empty() && !old.is_empty() {
            let text = format!("component {name} is up on base {base}");
            inner.events.add(now, object(), "ComponentUp", text);
        } else if !matches!(health.reason.as_str(), "" | OPENING) && health.reason != old {
            let word = if health.ready { "ComponentChangeRefused" } else { "ComponentNotUp" };
            let text = format!("component {name} on base {base}: {}", health.reason);
            inner.events.add(now, object(), word, text);
        }
    }
    for (name, why) in after.not_open.iter().filter(|(name, why)| before.not_open.get(*name) != Some(*why)) {
        let text = format!("listener {name} is not open on base {base}: {why}");
        inner.events.add(now, base.to_string(), "ListenerNotOpen", text);
    }
}

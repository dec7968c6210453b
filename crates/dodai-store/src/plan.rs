//! What a transaction will do, computed before anything is written: the one place that knows etcd's rules,
//! shared by the back ends. They supply a [`View`] of the present, and record the [`Plan`].

use std::collections::BTreeSet;

use crate::change::{Action, Cause};
use crate::error::{Error, Result};
use crate::key_value::{KeyValue, LeaseId, Revision};
use crate::txn::{Op, OpOutcome, Txn};
use crate::watch::Event;

/// The present state, as a transaction sees it.
pub(crate) trait View {
    /// One key.
    fn current(&self, key: &str) -> Result<Option<KeyValue>>;
    /// All keys under a prefix, in order.
    fn under(&self, prefix: &str) -> Result<Vec<KeyValue>>;
    /// Whether a lease exists.
    fn has_lease(&self, lease: LeaseId) -> Result<bool>;
    /// All keys of a lease, in order.
    fn attached(&self, lease: LeaseId) -> Result<Vec<KeyValue>>;
}

/// What a transaction does. It takes a revision only if there are events, all of that revision.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) held: bool,
    pub(crate) results: Vec<OpOutcome>,
    pub(crate) events: Vec<Event>,
}

/// Plans a valid transaction that would take the revision `next`.
pub(crate) fn plan(view: &impl View, txn: &Txn, next: Revision) -> Result<Plan> {
    let mut held = true;
    for compare in &txn.compares {
        if !compare.check.holds(view.current(&compare.key)?.as_ref()) {
            held = false;
            break;
        }
    }
    let mut plan = Plan { held, results: Vec::new(), events: Vec::new() };
    let mut gone = BTreeSet::new();
    for op in if held { &txn.then } else { &txn.otherwise } {
        let result = match op {
            Op::Put { key, value, lease } => {
                if let Some(lease) = *lease
                    && !view.has_lease(lease)?
                {
                    return Err(Error::LeaseNotFound { lease });
                }
                let prev = view.current(key)?;
                let kv = KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: prev.as_ref().map_or(next, |kv| kv.create_revision),
                    mod_revision: next,
                    version: prev.as_ref().map_or(0, |kv| kv.version) + 1,
                    lease: *lease,
                };
                let previous = if txn.previous { prev.clone() } else { None };
                plan.events.push(Event::Put { kv, prev });
                OpOutcome::Put { previous }
            }
            Op::Delete { key } => {
                let found = view.current(key)?.into_iter().collect();
                delete(found, txn.previous, next, &mut gone, &mut plan.events)
            }
            Op::DeletePrefix { prefix } => {
                delete(view.under(prefix)?, txn.previous, next, &mut gone, &mut plan.events)
            }
            Op::Get { key } => OpOutcome::Got(view.current(key)?),
        };
        plan.results.push(result);
    }
    Ok(plan)
}

/// Plans the end of a lease: its keys vanish.
pub(crate) fn plan_end_of_lease(view: &impl View, lease: LeaseId, next: Revision) -> Result<Vec<Event>> {
    if !view.has_lease(lease)? {
        return Err(Error::LeaseNotFound { lease });
    }
    let mut events = Vec::new();
    delete(view.attached(lease)?, false, next, &mut BTreeSet::new(), &mut events);
    Ok(events)
}

/// Deletes what no earlier operation of the same transaction has deleted.
fn delete(
    found: Vec<KeyValue>,
    previous: bool,
    next: Revision,
    gone: &mut BTreeSet<String>,
    events: &mut Vec<Event>,
) -> OpOutcome {
    let mut taken = Vec::new();
    let mut count = 0;
    for kv in found {
        if !gone.insert(kv.key.clone()) {
            continue;
        }
        count += 1;
        if previous {
            taken.push(kv.clone());
        }
        events.push(Event::Delete { key: kv.key.clone(), prev: Some(kv), mod_revision: next });
    }
    OpOutcome::Deleted { count, previous: taken }
}

/// The change log's word for an event.
pub(crate) fn action(event: &Event) -> Action {
    match event {
        Event::Put { prev: None, .. } => Action::Create,
        Event::Put { prev: Some(_), .. } => Action::Update,
        Event::Delete { .. } => Action::Delete,
    }
}

/// Who removes the keys of a lease that ran out.
pub(crate) fn expiry_cause(lease: LeaseId) -> Cause {
    Cause::new("dodai:lease", format!("lease {lease} expired"))
}

/// Checks that `requested` can be compacted or read, given what is there.
pub(crate) fn check_readable(requested: Revision, compacted: Revision, current: Revision) -> Result<()> {
    if requested > current {
        return Err(Error::FutureRevision { requested, current });
    }
    if requested < compacted {
        return Err(Error::Compacted { requested, compacted });
    }
    Ok(())
}

/// Keeps about `limit` items of whole revisions: never splits a revision, and always keeps one whole.
/// Returns whether something was cut. `items` are in revision order.
pub(crate) fn cut_whole_revisions<T>(
    items: &mut Vec<T>,
    limit: usize,
    revision: impl Fn(&T) -> Revision,
) -> bool {
    let Some(first_over) = items.get(limit.max(1)).map(&revision) else { return false };
    let mut keep = items.partition_point(|item| revision(item) < first_over);
    if keep == 0 {
        keep = items.partition_point(|item| revision(item) <= first_over);
    }
    let cut = keep < items.len();
    items.truncate(keep);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(revisions: &[u64], limit: usize, expect: &[u64], expect_cut: bool) {
        let mut items = revisions.to_vec();
        let cut = cut_whole_revisions(&mut items, limit, |item| Revision(*item));
        assert_eq!((items.as_slice(), cut), (expect, expect_cut), "{revisions:?} limit {limit}");
    }

    #[test]
    fn pages_hold_whole_revisions() {
        check(&[], 2, &[], false);
        check(&[1, 2], 2, &[1, 2], false);
        check(&[1, 2, 3], 2, &[1, 2], true);
        check(&[1, 2, 2], 2, &[1], true);
        check(&[1, 1, 1], 2, &[1, 1, 1], false);
        check(&[1, 1, 1, 2], 2, &[1, 1, 1], true);
        check(&[1, 2], 0, &[1], true);
    }
}

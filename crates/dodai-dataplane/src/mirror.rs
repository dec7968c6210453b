//! Mirrors: copies of calls that go elsewhere, whose answers nobody waits for.
//!
//! A copy has its own task, its own deadline and no retries; a request is copied only when its whole body is
//! at hand and small. Beyond [`MAX_MIRRORS`] at once on a thread, copies are dropped: the original never waits.

use std::rc::Rc;

use bytes::Bytes;
use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context};
use dodai_core::snapshot::Backend;
use dodai_core::task;
use dodai_core::trace::Span;
use tokio::time::Instant;

use crate::filter::Filter;
use crate::limits::MAX_MIRRORS;
use crate::message;
use crate::reach;
use crate::service::Wish;
use crate::spine::Forward;
use crate::tally::{Event, Tally};
use crate::worker::Worker;

/// The most of a response that is read so that its connection can be kept, in bytes.
const READ: usize = 64 * 1024;

/// The mirrors that were drawn for a call, with what counts their copies.
fn drawn(forward: &Forward) -> impl Iterator<Item = (&Backend, &Tally)> {
    let filters = forward.rule.as_ref().map_or(&[] as &[Filter], |rule| &rule.filters);
    forward.mirrors.iter().filter_map(|index| match filters.get(*index) {
        Some(Filter::Mirror { to, tally, .. }) => Some((to, &**tally)),
        Some(_) | None => None,
    })
}

/// Counts that a call whose body is not at hand is not copied.
#[cold]
pub fn left_out(forward: &Forward) {
    drawn(forward).for_each(|(_, tally)| tally.count(Event::MirrorBody));
}

/// Sends the copies that were drawn for a call. `head` is as the endpoint gets it.
pub fn send(
    worker: &Rc<Worker>,
    forward: &Forward,
    caller: &Caller,
    span: Span,
    head: &http::request::Parts,
    body: &Bytes,
) {
    for (to, tally) in drawn(forward) {
        if worker.mirrors.get() >= MAX_MIRRORS {
            tally.count(Event::MirrorBusy);
            continue;
        }
        let Some(service) = worker.shared.table.load().service(&to.service).cloned() else { continue };
        tally.count(Event::Mirrored);
        let (revision, labels) = (to.revision.clone(), to.labels.clone());
        let under_way = UnderWay::new(worker);
        let (worker_too, caller) = (worker.clone(), caller.clone());
        let context = Context::new(caller.clone(), span.child());
        let mut call = Call { head: head.clone(), body: Body::full(body.clone()), context };
        worker.tasks.spawn_local(task::Kind::Call, async move {
            let _under_way = under_way;
            let worker = worker_too;
            let deadline = Instant::now() + worker.shared.limits.call_timeout;
            call.context.deadline = Some(deadline.into_std());
            let copy = async {
                let (revision, labels) = (revision.as_ref(), labels.as_deref());
                let endpoint = service.pick(&Wish { revision, labels, ..Wish::default() })?;
                let reach = reach::of(&endpoint, &service, &caller, &worker.shared)?;
                if reach.is_checked_here() {
                    let head = dodai_core::head::RequestHead::Map(&call.head);
                    crate::spine::admit_inbound(&service, &head, &caller, false)?;
                }
                let reply = message::carry(&worker, reach, call, &service.spec.breaker).await?;
                reply.body.collect(READ).await
            };
            tokio::select! {
                // A copy is worth nothing to a drain.
                () = worker.tasks.closing() => {}
                result = tokio::time::timeout_at(deadline, copy) => {
                    if let Ok(Err(failure)) = result {
                        tracing::debug!(service = &*service.label, %failure, "a mirrored call failed");
                    }
                }
            }
        });
    }
}

struct UnderWay(Rc<Worker>);

impl UnderWay {
    fn new(worker: &Rc<Worker>) -> UnderWay {
        worker.mirrors.set(worker.mirrors.get() + 1);
        UnderWay(worker.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get() - 1);
    }
}

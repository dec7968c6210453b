//! The seldom parts of an HTTP/1 client's call, apart from the hot path: filters that wait, checks on arrival that
//! change the call, faults.

use std::time::Duration;

use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edits, RequestHead};

use crate::deadline;
use crate::fault::{self, Drawn, End};
use crate::h1;
use crate::later::{self, Arrived};
use crate::request::Request;
use crate::serve_h1::{Client, Next};
use crate::service::{Endpoint, Place};
use crate::spine::{Decision, Forward, Outcome};

impl Client {
    /// Waits for what a filter needs, and decides.
    #[cold]
    pub async fn resume(&self, request: &mut Request, decision: &mut Result<Decision, Failure>) {
        let head = match request.parts() {
            Ok(head) => head,
            Err(failure) => return *decision = Err(failure),
        };
        let waits = std::mem::replace(decision, Err(Failure::new(Kind::Internal, "the call still waits")));
        let Ok(Decision::Later(later)) = waits else { return };
        let mut edits = Edits::new();
        let mut decided = later.resume(&self.worker, &self.side, &head, request.lap.start, &mut edits).await;
        if let Ok(Decision::Forward(_)) = decided
            && let Err(failure) = request.edit(&self.worker, &edits)
        {
            decided = Err(failure);
        }
        *decision = decided;
    }

    /// Does to a call what a fault wants; the end of it, if it ends.
    #[cold]
    pub async fn befall(
        &self,
        request: &Request,
        fault: &Drawn,
        within: Duration,
        outcome: &mut Outcome,
    ) -> Option<Next> {
        if let Some(delay) = fault.delay {
            tokio::time::sleep(delay.min(within)).await;
            if delay >= within {
                let late =
                    Failure::new(Kind::Timeout, "the delay of a `fault` was longer than the call may take");
                return Some(self.failed(request, late, outcome).await);
            }
        }
        outcome.failure = Some(fault::failure());
        match fault.end {
            None => {
                outcome.failure = None;
                None
            }
            Some(End::Reset) => Some(Next::Close),
            Some(End::Status(abort)) => {
                let reply = fault::answer(abort, request.is_grpc);
                let close = !request.keep_alive || !request.is_whole() || request.http10 || self.is_ending();
                outcome.status = reply.head.status.as_u16();
                let mut out = self.worker.buffer();
                let (headers, text) = (&reply.head.headers, fault::text(request.is_grpc));
                h1::write_local_map(&mut out, outcome.status, headers, text, close, request.is_head);
                self.send(out).await;
                Some(if close { Next::Linger } else { Next::Keep })
            }
        }
    }

    /// Tells in the head of a further try how long that may take. A head that cannot be read stays, and fails the try.
    #[cold]
    pub fn tell_left(&self, request: &mut Request, left: Duration) {
        request.restore();
        let anew =
            request.parse_again(|line, headers| deadline::anew(&RequestHead::Raw(line.view(headers)), left));
        if let Ok(edits) = anew {
            let _unread = request.edit(&self.worker, &edits);
        }
    }

    /// The callee's own checks that may wait or change the call; what becomes of the connection, if the call was answered
    /// here.
    #[cold]
    pub async fn arrive(
        &self,
        request: &mut Request,
        forward: &Forward,
        endpoint: &Endpoint,
        outcome: &mut Outcome,
    ) -> Result<Option<Next>, Failure> {
        // A further try begins with the head that the first one had: what was taken out of it is asked for again.
        request.restore();
        // Checked here is what no other base is there to check.
        if matches!(endpoint.place, Place::Mesh { .. }) {
            return Ok(None);
        }
        let head = request.parts()?;
        match later::arrive(&self.worker, forward, &self.side.caller, &head).await? {
            Arrived::Through { call, reply } => {
                request.keep();
                request.edit(&self.worker, &call)?;
                request.reply = reply;
                self.worker.now();
                Ok(None)
            }
            Arrived::Denied(mut local) => {
                let mut edits = Edits::new();
                forward.response_edits(None, &mut edits);
                edits.apply_to(&mut local.headers);
                outcome.status = local.status;
                outcome.failure.clone_from(&local.failure);
                Ok(Some(self.answer_local(request, &local).await))
            }
        }
    }
}

//! One call in one instance: hand the request in, get the head out, move the body, end it for whatever
//! reason comes first.
//!
//! The guest and the body's pump are polled by one task, on a module thread. Dropping that task's future
//! is how a guest is cut: the fibre it runs on is unwound and its store is thrown away. Always holds: the
//! caller learns of every end, by a reply, a failure, or a cut body.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dodai_core::body::Body;
use dodai_core::call::Call;
use dodai_core::failure::{Failure, Kind};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use wasmtime::Store;
use wasmtime::component::Resource;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use crate::egress::wasi_error;
use crate::guest::Guest;
use crate::instance::{Exports, Instance, Loaded};
use crate::meter::{Meter, metered};
use crate::metrics::up;
use crate::outlet::{Outlet, Pumped, take_whole, unfinished};
use crate::plan::Plan;
use crate::preview3::{self, Told};
use crate::trap;

/// How a call ended.
enum End {
    /// The guest answered; its instance is as good as before, or not.
    Answered { sound: bool },
    /// The caller went away.
    Gone,
    /// Nobody else's fault than the call's.
    Failed(Failure),
}

/// What is heard of the guest's response.
struct Heard<E> {
    response: oneshot::Receiver<Result<Response<WasiBody>, E>>,
    /// Dropped when nobody reads the body any more; for guests that wait for that.
    reading: Option<oneshot::Sender<Infallible>>,
}

/// Runs `call` to its end. Returns whether it was cut by `cut`.
pub(crate) async fn run(loaded: &Loaded, call: Call, mut outlet: Outlet, cut: &CancellationToken) -> bool {
    let plan = &loaded.plan;
    let wall_time = plan.spec.wall_time;
    let end_at = Instant::now() + wall_time;
    let mut was_cut = false;
    let end = tokio::select! {
        biased;
        end = serve(loaded, call, &mut outlet, end_at) => end,
        () = cut.cancelled() => {
            was_cut = true;
            up(&plan.counters.drained);
            let detail = format!("{} was still running at its drain deadline and was cut", plan.name());
            End::Failed(Failure::new(Kind::Draining, detail))
        }
        () = tokio::time::sleep(wall_time) => {
            up(&plan.counters.over_wall_time);
            let detail = format!("{} took longer than {wall_time:?} (its wallTime)", plan.name());
            End::Failed(Failure::new(Kind::Quota, detail))
        }
    };
    match end {
        End::Answered { .. } => up(&plan.counters.answered),
        End::Gone => up(&plan.counters.cancelled),
        End::Failed(failure) => {
            if !was_cut {
                plan.counters.failed(failure.kind);
            }
            outlet.fail(failure);
        }
    }
    was_cut
}

async fn serve(loaded: &Loaded, call: Call, outlet: &mut Outlet, end_at: Instant) -> End {
    let plan = &loaded.plan;
    let mut instance = match obtain(loaded).await {
        Ok(instance) => instance,
        Err(error) => return End::Failed(trap::failure_of(plan, &error)),
    };
    let Call { head, body, context } = call;
    let request = Request::from_parts(head, body);
    let Instance { store, exports, meter, .. } = &mut instance;
    store.data_mut().egress.serve(&context, end_at);
    let end = match exports {
        Exports::Preview2(proxy) => {
            let (told, response) = oneshot::channel();
            let request = match enter(store, request, told) {
                Ok(request) => request,
                Err(error) => return End::Failed(trap::failure_of(plan, &error)),
            };
            let entry = proxy.wasi_http_incoming_handler();
            let guest = pin!(entry.call_handle(store, request.0, request.1));
            let guest = pin!(metered(guest, meter));
            exchange(plan, guest, Heard { response, reading: None }, outlet, context.deadline).await
        }
        Exports::Preview3(service) => {
            let ((told, response), (reading, taken)) = (oneshot::channel(), oneshot::channel());
            let told = Told { response: told, taken };
            let guest = pin!(preview3::call(store, service, request, told));
            let guest = pin!(metered(guest, meter));
            exchange(plan, guest, Heard { response, reading: Some(reading) }, outlet, context.deadline).await
        }
    };
    let guest = instance.store.data();
    guest.stdout.flush();
    guest.stderr.flush();
    if matches!(end, End::Answered { sound: true }) {
        loaded.give_back(instance);
    }
    end
}

/// A waiting instance or a new one, with its meter at zero.
async fn obtain(loaded: &Loaded) -> wasmtime::Result<Instance> {
    if let Some(instance) = loaded.take() {
        instance.meter.reset();
        return Ok(instance);
    }
    let meter = Meter::new(loaded.plan.counters.clone());
    metered(pin!(loaded.make(meter.clone())), &meter).await
}

type Entry = (Resource<HostIncomingRequest>, Resource<HostResponseOutparam>);

/// Puts the request and the place for the response into an instance of WASI 0.2.
fn enter(
    store: &mut Store<Guest>,
    mut request: Request<Body>,
    told: oneshot::Sender<Result<Response<WasiBody>, ErrorCode>>,
) -> wasmtime::Result<Entry> {
    let guest = store.data_mut();
    if request.uri().authority().is_none() && !request.headers().contains_key(http::header::HOST) {
        let name = HeaderValue::from_str(guest.plan.name())?;
        request.headers_mut().insert(http::header::HOST, name);
    }
    let scheme = match request.uri().scheme_str() {
        Some("https") => Scheme::Https,
        _ => Scheme::Http,
    };
    let request = request.map(|body| body.map_err(|failure| wasi_error(&failure)));
    let mut http = guest.http();
    Ok((http.new_incoming_request(scheme, request)?, http.new_response_outparam(told)?))
}

/// Waits for the head, then moves the body. `guest` is polled throughout.
async fn exchange<G, E>(
    plan: &Arc<Plan>,
    mut guest: Pin<&mut G>,
    mut heard: Heard<E>,
    outlet: &mut Outlet,
    deadline: Option<Instant>,
) -> End
where
    G: Future<Output = wasmtime::Result<()>>,
    E: Display,
{
    let mut result = None;
    let response = tokio::select! {
        biased;
        ended = &mut guest => {
            result = Some(ended);
            heard.response.try_recv().ok()
        }
        response = &mut heard.response => response.ok(),
        () = outlet.gone() => return End::Gone,
        () = until(deadline) => {
            let detail = format!("{} sent no response head before the caller's deadline", plan.name());
            return End::Failed(Failure::new(Kind::Timeout, detail));
        }
    };
    if let Some(Err(error)) = &result {
        return End::Failed(trap::failure_of(plan, error));
    }
    let (head, mut body) = match response {
        Some(Ok(response)) => response.into_parts(),
        Some(Err(code)) => {
            let detail = format!("{} answered with the error {code}", plan.name());
            return End::Failed(Failure::new(Kind::Protocol, detail));
        }
        None => {
            let detail = format!("{} returned without a response", plan.name());
            return End::Failed(Failure::new(Kind::Protocol, detail));
        }
    };
    if result.is_none() {
        outlet.begin(head);
        return stream(plan, guest, body, heard.reading, outlet).await;
    }
    match take_whole(&mut body) {
        Some((bytes, None)) => outlet.reply(head, Body::full(bytes)),
        Some((bytes, trailers)) => {
            outlet.begin(head);
            outlet.push(bytes);
            outlet.finish(trailers);
        }
        None => return End::Failed(unfinished(plan.name())),
    }
    End::Answered { sound: true }
}

/// Moves the body while the guest goes on; afterwards lets the guest do what it wants to do behind the
/// caller's back.
async fn stream<G>(
    plan: &Arc<Plan>,
    mut guest: Pin<&mut G>,
    mut body: WasiBody,
    reading: Option<oneshot::Sender<Infallible>>,
    outlet: &mut Outlet,
) -> End
where
    G: Future<Output = wasmtime::Result<()>>,
{
    let mut result = None;
    let pumped = poll_fn(|cx| {
        if result.is_none()
            && let std::task::Poll::Ready(ended) = guest.as_mut().poll(cx)
        {
            result = Some(ended);
        }
        if matches!(result, Some(Err(_))) {
            return std::task::Poll::Ready(Pumped::Unfinished);
        }
        outlet.poll_pump(&mut body, result.is_some(), cx)
    })
    .await;
    match (pumped, &result) {
        (_, Some(Err(error))) => return End::Failed(trap::failure_of(plan, error)),
        (Pumped::Gone, _) => return End::Gone,
        (Pumped::Unfinished, _) => return End::Failed(unfinished(plan.name())),
        (Pumped::Whole(trailers), _) => outlet.finish(trailers),
    }
    drop((body, reading));
    let ended = match result {
        Some(ended) => ended,
        None => guest.await,
    };
    if let Err(error) = &ended {
        // The caller has its whole answer; the trap is the module's own matter.
        let failure = trap::failure_of(plan, error);
        plan.counters.failed(failure.kind);
    }
    End::Answered { sound: ended.is_ok() }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => {
            tokio::time::sleep(deadline.saturating_duration_since(Instant::now())).await;
        }
        None => std::future::pending::<()>().await,
    }
}

/// The longest wall-clock time that is kept track of; longer ones mean the same.
pub(crate) const MAX_WALL_TIME: Duration = Duration::from_secs(30 * 24 * 3600);

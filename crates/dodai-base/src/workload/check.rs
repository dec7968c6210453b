//! Health checks of a module: a GET that goes straight to it, beside the way in that the checks open and
//! close. Thresholds, periods and timeouts are those of processes.

use std::time::Instant;

use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context as CallContext, Serve};
use dodai_core::snapshot;
use dodai_core::trace::Span;
use dodai_modules::Module;
use tokio::time::timeout;

use crate::process::{Probe, Probes};

/// How much of an answer's body is read, so that an instance that is used again is left as it should be.
const MAX_BODY: usize = 64 << 10;

/// The path, with its query, that a probe asks for.
pub type Path = String;

/// What the documents say. A module has no port and no command: what is not asked over HTTP is refused where
/// documents are read.
pub fn probes(of: &snapshot::Probes) -> Probes<Path> {
    let convert = |probe: &Option<snapshot::Probe>| {
        let probe = probe.as_ref()?;
        let snapshot::Check::Http { path, .. } = &probe.check else { return None };
        Some(Probe {
            period: probe.period,
            timeout: probe.timeout,
            failure_threshold: probe.failure_threshold,
            success_threshold: probe.success_threshold,
            initial_delay: probe.initial_delay,
            ..Probe::new(path.clone())
        })
    };
    Probes {
        startup: convert(&of.startup),
        readiness: convert(&of.readiness),
        liveness: convert(&of.liveness),
    }
}

/// Asks a module once. A status from 200 to 399 is success.
pub async fn ask(module: &Module, probe: Probe<Path>) -> Result<(), String> {
    let path = probe.check;
    let deadline = Instant::now() + probe.timeout;
    match timeout(probe.timeout, get(module, &path, deadline)).await {
        Ok(Ok(status)) if (200..400).contains(&status) => Ok(()),
        Ok(Ok(status)) => Err(format!("GET {path} answered {status}")),
        Ok(Err(reason)) => Err(format!("GET {path}: {reason}")),
        Err(_) => Err(format!("GET {path}: no answer within {:?}", probe.timeout)),
    }
}

async fn get(module: &Module, path: &str, deadline: Instant) -> Result<u16, String> {
    let request = http::Request::get(path).header(http::header::USER_AGENT, "dodai-probe").body(());
    let (head, ()) = request.map_err(|error| error.to_string())?.into_parts();
    let context =
        CallContext { deadline: Some(deadline), ..CallContext::new(Caller::Base, Span::root(false)) };
    let call = Call { head, body: Body::empty(), context };
    let reply = module.serve(call).await.map_err(|failure| failure.to_string())?;
    let status = reply.head.status.as_u16();
    // An answer counts by its status, as it does over a socket.
    let _whole_or_not = reply.body.collect(MAX_BODY).await;
    Ok(status)
}

//! Reads a running base for the metrics.

use std::sync::{Arc, PoisonError};

use dodai_core::id::InstanceId;

use super::SinkReading;
use super::metrics::{CertificateReading, ModuleReading, OwnUse, ProcessReading, Readings, Source};
use crate::node::Parts;
use crate::process;

/// Reads one sink's counters.
pub type ReadSink = Box<dyn Fn() -> SinkReading + Send + Sync>;

/// The source of one base's metrics.
pub struct Collector {
    parts: Arc<Parts>,
    version: &'static str,
    sinks: Vec<ReadSink>,
}

impl Collector {
    /// Reads `parts` of a base run by a program of this version, and these sinks.
    pub fn new(parts: Arc<Parts>, version: &'static str, sinks: Vec<ReadSink>) -> Collector {
        Collector { parts, version, sinks }
    }

    fn processes(&self) -> Vec<ProcessReading> {
        let handles = self.parts.handles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let read = |(instance, handle): (InstanceId, Arc<process::Handle>)| {
            let app = self.parts.app_of(&instance)?;
            let (up, restarts) = {
                let status = handle.status();
                let status = status.borrow();
                (status.pid.is_some(), u64::from(status.restarts))
            };
            let usage = handle.usage();
            let cpu_seconds = usage.map(|usage| usage.cpu.as_secs_f64());
            Some(ProcessReading {
                app,
                instance,
                up,
                restarts,
                cpu_seconds,
                memory_bytes: usage.map(|usage| usage.memory_bytes),
            })
        };
        handles.into_iter().filter_map(read).collect()
    }
}

/// The certificates that a base shows others.
fn certificates(parts: &Parts) -> Vec<CertificateReading> {
    let of_listener = |(name, served): (String, dodai_transport::tls::files::Served)| {
        let (file, not_after) = (served.pair.chain.display().to_string(), served.not_after);
        CertificateReading { kind: "listener", name, file, not_after }
    };
    let mut all: Vec<_> = parts.plane.certificates().into_iter().map(of_listener).collect();
    let held = parts.config.membership.iter().flat_map(|membership| membership.certificates());
    all.extend(held.map(|(app, svid)| {
        let (kind, name) = match app {
            Some(app) => ("app", app.to_string()),
            None => ("base", parts.config.base.to_string()),
        };
        CertificateReading { kind, name, file: String::new(), not_after: svid.not_after() }
    }));
    all
}

fn shares(table: &dodai_dataplane::table::Table) -> Vec<(String, f64)> {
    let whole = f64::from(dodai_dataplane::rate::WHOLE);
    table.limits().iter().map(|(name, limit)| (name.clone(), f64::from(limit.share()) / whole)).collect()
}

impl Source for Collector {
    fn read(&self) -> Readings {
        let parts = &self.parts;
        let modules = parts.modules.metrics().into_iter();
        let status = parts.status.borrow().clone();
        let phases = status.instances.iter();
        Readings {
            base: parts.config.base.as_str().to_owned(),
            version: self.version.to_owned(),
            calls: parts.plane.stats().read(),
            modules: modules
                .map(|(instance, app, metrics)| ModuleReading { app, instance, metrics })
                .collect(),
            processes: self.processes(),
            instances: phases
                .filter_map(|(instance, of)| Some((parts.app_of(instance)?, of.phase)))
                .collect(),
            components: status.components.iter().map(|(name, health)| (name.clone(), health.ready)).collect(),
            applied: status.applied,
            refused: status.refused.as_ref().map(|refused| refused.version),
            listeners: status.listeners.len() as u64,
            not_open: status.not_open.len() as u64,
            plane: parts.plane.gauges(),
            shares: shares(&parts.plane.table()),
            rate_stores: parts.rate_stores.load().as_ref().clone(),
            filters: parts.plane.table().tallies(),
            arrivals: parts.plane.arrivals(),
            dialled: parts.plane.dialled(),
            services: parts.plane.survey(),
            certificates: certificates(parts),
            connected: parts.config.membership.as_ref().map(|membership| membership.brought().is_connected()),
            sinks: self.sinks.iter().map(|read| read()).collect(),
            own: OwnUse::read(),
        }
    }
}

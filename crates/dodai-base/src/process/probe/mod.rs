//! Startup, readiness and liveness with the meaning they have in Kubernetes: the other two wait for the
//! startup probe; readiness begins as failed, liveness as passed. When to check and what a result means is
//! a pure state machine (`state`); `run` is the loop around it, `check` does the asking of processes. Who is
//! probed and how is not known here: `C` is a [`Check`] of a process, or what a module is asked.

mod check;
mod run;
mod state;

use std::net::SocketAddr;
use std::time::Duration;

use super::spec::MAX_DURATION;

pub(super) use check::{ExecRequest, ask};
pub(crate) use run::run;
pub(crate) use state::Verdict;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// An HTTP GET; a status from 200 to 399 is success.
    HttpGet {
        /// Where to connect.
        address: SocketAddr,
        /// Path and query, beginning with `/`.
        path: String,
        /// The `Host` header; the address when absent.
        host: Option<String>,
        /// More headers.
        headers: Vec<(String, String)>,
    },
    /// A TCP connection; being accepted is success.
    TcpSocket {
        /// Where to connect.
        address: SocketAddr,
    },
    /// A command with the app's user, folder, environment and limits; exit code 0 is success. Its output
    /// is discarded.
    Exec {
        /// The program and its arguments.
        argv: Vec<String>,
    },
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe<C = Check> {
    /// What is asked.
    pub check: C,
    /// From the start of the process to the first check.
    pub initial_delay: Duration,
    /// From one check to the next.
    pub period: Duration,
    /// After this long without an answer a check has failed.
    pub timeout: Duration,
    /// So many failures in a row are a failure.
    pub failure_threshold: u32,
    /// So many successes in a row are a success. Must be 1 for startup and liveness.
    pub success_threshold: u32,
}

impl<C> Probe<C> {
    /// A probe with the defaults of Kubernetes: every 10 s, timeout 1 s, 3 failures, 1 success.
    pub fn new(check: C) -> Probe<C> {
        Probe {
            check,
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            failure_threshold: 3,
            success_threshold: 1,
        }
    }
}

impl Probe {
    fn problem(&self) -> Option<String> {
        if self.period.is_zero() || self.timeout.is_zero() {
            return Some("has a period or timeout of 0; use at least a millisecond".into());
        }
        if [self.period, self.timeout, self.initial_delay].iter().any(|duration| *duration > MAX_DURATION) {
            return Some("has a period, timeout or delay over 24 hours; use less".into());
        }
        if self.failure_threshold == 0 || self.success_threshold == 0 {
            return Some("has a threshold of 0; use at least 1".into());
        }
        match &self.check {
            Check::HttpGet { path, host, headers, .. } => {
                let clean = |text: &str| !text.contains(|c: char| c.is_ascii_control() || c == ' ');
                if !path.starts_with('/') || !clean(path) {
                    return Some(format!("asks for {path:?}; a path begins with '/' and has no spaces"));
                }
                let bad = |text: &str| text.contains(['\r', '\n']);
                let names_ok =
                    headers.iter().all(|(name, value)| !name.is_empty() && clean(name) && !bad(value));
                (!names_ok || host.as_deref().is_some_and(|host| !clean(host))).then(|| {
                    "has a header with a space in its name or a line end in its value; remove it".into()
                })
            }
            Check::TcpSocket { .. } => None,
            Check::Exec { argv } => {
                let empty = argv.first().is_none_or(String::is_empty);
                empty.then(|| "runs an empty command; give the program and its arguments".into())
            }
        }
    }
}

/// The probes of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes<C = Check> {
    /// Until it succeeds the others wait; when it fails the instance is restarted.
    pub startup: Option<Probe<C>>,
    /// While it fails the instance gets no calls.
    pub readiness: Option<Probe<C>>,
    /// When it fails the instance is restarted.
    pub liveness: Option<Probe<C>>,
}

impl<C> Default for Probes<C> {
    fn default() -> Probes<C> {
        Probes { startup: None, readiness: None, liveness: None }
    }
}

impl Probes {
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let all = [
            ("probes.startup", &self.startup),
            ("probes.readiness", &self.readiness),
            ("probes.liveness", &self.liveness),
        ];
        for (field, probe) in all {
            let Some(probe) = probe else { continue };
            if let Some(problem) = probe.problem() {
                return Some((field, problem));
            }
            if field != "probes.readiness" && probe.success_threshold != 1 {
                return Some((
                    field,
                    "has a success threshold other than 1, which only readiness may have".into(),
                ));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_that_cannot_work_are_refused() {
        let http = |path: &str| Check::HttpGet {
            address: ([127, 0, 0, 1], 80).into(),
            path: path.into(),
            host: None,
            headers: vec![],
        };
        let good = Probe::new(http("/healthz?full=1"));
        assert_eq!(good.problem(), None);
        assert!(Probe::new(http("healthz")).problem().unwrap().contains("begins with"));
        assert!(Probe::new(http("/a\r\nX: y")).problem().is_some());
        assert!(Probe::new(Check::Exec { argv: vec![] }).problem().is_some());
        assert!(Probe { period: Duration::ZERO, ..good.clone() }.problem().is_some());
        assert!(Probe { initial_delay: Duration::MAX, ..good.clone() }.problem().is_some());
        assert!(Probe { failure_threshold: 0, ..good.clone() }.problem().is_some());
        let twice = Probe { success_threshold: 2, ..good };
        assert!(Probes { readiness: Some(twice.clone()), ..Probes::default() }.problem().is_none());
        assert_eq!(
            Probes { liveness: Some(twice), ..Probes::default() }.problem().unwrap().0,
            "probes.liveness"
        );
    }
}

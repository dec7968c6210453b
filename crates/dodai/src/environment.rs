//! The process's environment, read once.

use std::collections::BTreeMap;

use tracing_subscriber::EnvFilter;

use crate::cli::Global;

/// Environment variables at the start.
#[derive(Clone, Debug)]
pub struct Environment(pub BTreeMap<String, String>);

impl Environment {
    /// Reads all variables; those that are not UTF-8 are left out.
    pub fn read() -> Environment {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Environment(std::env::vars_os().filter_map(text).collect())
    }

    /// One variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Sends log lines to standard error.
pub fn start_logging(global: &Global, environment: &Environment) {
    log_to_stderr(&global.log, global.log_json, environment);
}

/// The same for commands with flags of their own. `DODAI_LOG` wins over `filter`; only the first call counts.
pub fn log_to_stderr(filter: &str, json: bool, environment: &Environment) {
    let filter = environment.get("DODAI_LOG").unwrap_or(filter);
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("warn"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _started_before = if json {
        lines.json().try_init()
    } else {
        let colour =
            !crate::output::is_plain(environment) && std::io::IsTerminal::is_terminal(&std::io::stderr());
        lines.with_ansi(colour).with_target(false).try_init()
    };
}

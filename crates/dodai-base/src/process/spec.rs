//! What to run: the plain description of one instance, checked before anything starts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::{Error, Probes};

/// The longest app or instance name; it becomes a file name.
const MAX_NAME: usize = 128;
/// The least memory limit that lets any program start.
const MIN_MEMORY: u64 = 1 << 20;

/// The longest duration in a spec: no sum of a moment and such a duration overflows.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// A value that no formatter prints.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// The value itself, for handing it to its process.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The value of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// May be shown.
    Plain(String),
    /// Must never be shown.
    Secret(Secret),
}

impl EnvValue {
    pub(crate) fn reveal(&self) -> &str {
        match self {
            EnvValue::Plain(value) => value,
            EnvValue::Secret(secret) => secret.reveal(),
        }
    }
}

impl From<&str> for EnvValue {
    fn from(value: &str) -> EnvValue {
        EnvValue::Plain(value.to_owned())
    }
}

/// One process instance.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The app it belongs to; letters, digits, `.`, `_` and `-`.
    pub app: String,
    /// Its id, unique on the base; same letters.
    pub instance: String,
    /// The program and its arguments. A program without `/` is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment: nothing of the base's own is inherited.
    pub env: BTreeMap<String, EnvValue>,
    /// Where it starts; the base's own folder when absent.
    pub cwd: Option<PathBuf>,
    /// User name or number to run as (root only).
    pub user: Option<String>,
    /// Group name or number; the user's own group when absent (root only).
    pub group: Option<String>,
    /// Resource limits.
    pub limits: Limits,
    /// Startup, readiness and liveness.
    pub probes: Probes,
    /// How it is asked to end.
    pub stop: Stop,
    /// Whether and when it starts again.
    pub restart: Restart,
    /// Where its output goes.
    pub logs: LogPolicy,
    /// Give it a PID namespace of its own where permitted (root). Turn it off for programs that must see
    /// the processes of the host.
    pub isolate: bool,
}

impl Spec {
    /// A spec with defaults for everything that has one.
    pub fn new(
        app: impl Into<String>,
        instance: impl Into<String>,
        argv: Vec<String>,
        logs: LogPolicy,
    ) -> Spec {
        Spec {
            app: app.into(),
            instance: instance.into(),
            argv,
            env: BTreeMap::new(),
            cwd: None,
            user: None,
            group: None,
            limits: Limits::default(),
            probes: Probes::default(),
            stop: Stop::default(),
            restart: Restart::default(),
            logs,
            isolate: true,
        }
    }

    /// Refuses what could not work, with the field and the remedy.
    pub fn check(&self) -> Result<(), Error> {
        self.problem().map_or(Ok(()), |(field, problem)| {
            Err(Error::Spec { instance: self.instance.clone(), field, problem })
        })
    }

    fn problem(&self) -> Option<(&'static str, String)> {
        let names = [("app", &self.app), ("instance", &self.instance)];
        if let Some((field, name)) = names.into_iter().find(|(_, name)| !is_name(name)) {
            let rule = "use 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit";
            return Some((field, format!("{name:?} is not a name; {rule}")));
        }
        if self.argv.first().is_none_or(String::is_empty) {
            return Some(("argv", "is empty; give the program and its arguments".into()));
        }
        if self.argv.iter().any(|word| word.contains('\0')) {
            return Some(("argv", "contains a zero byte; remove it".into()));
        }
        let bad_key = |key: &&String| key.is_empty() || key.contains(['=', '\0']);
        if let Some(key) = self.env.keys().find(bad_key) {
            return Some((
                "env",
                format!("{key:?} is not a variable name; it must not be empty or contain '='"),
            ));
        }
        if let Some((key, _)) = self.env.iter().find(|(_, value)| value.reveal().contains('\0')) {
            return Some(("env", format!("{key} contains a zero byte; remove it or pass it by file")));
        }
        if self.stop.grace > MAX_DURATION {
            return Some(("stop.grace", "is over 24 hours; use less".into()));
        }
        self.limits
            .problem()
            .or_else(|| self.probes.problem())
            .or_else(|| self.restart.problem())
            .or_else(|| self.logs.problem())
    }
}

pub(super) fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= MAX_NAME && name.chars().all(inner) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Resource limits; absent means unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes, page cache included (control group).
    pub memory: Option<u64>,
    /// Thousandths of a core (control group).
    pub cpu_millicores: Option<u32>,
    /// Processes and threads together (control group; else per user, see `docs/processes.md`).
    pub pids: Option<u32>,
    /// Open files of each process.
    pub open_files: Option<u64>,
}

impl Limits {
    fn problem(&self) -> Option<(&'static str, String)> {
        if let Some(memory) = self.memory.filter(|memory| *memory < MIN_MEMORY) {
            return Some((
                "limits.memory",
                format!("of {memory} bytes is under 1 MiB; nothing starts in that"),
            ));
        }
        if let Some(cpu) = self.cpu_millicores.filter(|cpu| *cpu < 10) {
            return Some((
                "limits.cpu",
                format!("of {cpu} millicores is under 10, the least the kernel takes"),
            ));
        }
        if self.pids == Some(0) {
            return Some(("limits.pids", "is 0; the program itself counts as 1".into()));
        }
        if let Some(files) = self.open_files.filter(|files| *files < 8) {
            return Some(("limits.open_files", format!("of {files} is under 8; nothing starts with that")));
        }
        None
    }
}

/// A signal by number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signal(nix::sys::signal::Signal);

impl Signal {
    /// The polite request to end.
    pub const TERM: Signal = Signal(nix::sys::signal::Signal::SIGTERM);
    /// What Ctrl-C sends.
    pub const INT: Signal = Signal(nix::sys::signal::Signal::SIGINT);
    /// A graceful end for some servers.
    pub const QUIT: Signal = Signal(nix::sys::signal::Signal::SIGQUIT);

    pub(crate) fn number(self) -> i32 {
        self.0 as i32
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl FromStr for Signal {
    type Err = String;

    /// Reads `SIGTERM`, `TERM` or `term`.
    fn from_str(word: &str) -> Result<Signal, String> {
        let upper = word.to_ascii_uppercase();
        let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
        name.parse()
            .map(Signal)
            .map_err(|_| format!("{word:?} is not a signal; use a name such as SIGTERM or SIGINT"))
    }
}

/// How an instance is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Sent to the main process; what it leaves behind gets SIGTERM.
    pub signal: Signal,
    /// From the signal to SIGKILL for the whole tree.
    pub grace: Duration,
}

impl Default for Stop {
    fn default() -> Stop {
        Stop { signal: Signal::TERM, grace: Duration::from_secs(10) }
    }
}

/// When an ended process starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// Whatever its exit.
    #[default]
    Always,
    /// Unless it ended with exit code 0.
    OnFailure,
    /// Never: it runs once, and exit code 0 is success.
    Never,
}

/// Restart policy and backoff.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Restart {
    /// When.
    pub policy: RestartPolicy,
    /// The delay before the first restart.
    pub initial: Duration,
    /// The longest delay.
    pub max: Duration,
    /// How much longer each delay is than the one before.
    pub factor: f64,
    /// The share of the delay that is random, 0 to 1, so that instances do not restart in step.
    pub jitter: f64,
    /// After running this long the delay starts over.
    pub stable_after: Duration,
    /// Give up after so many restarts in a row; absent means never.
    pub max_attempts: Option<u32>,
}

impl Default for Restart {
    fn default() -> Restart {
        Restart {
            policy: RestartPolicy::Always,
            initial: Duration::from_millis(500),
            max: Duration::from_secs(60),
            factor: 2.0,
            jitter: 0.2,
            stable_after: Duration::from_secs(60),
            max_attempts: None,
        }
    }
}

impl Restart {
    /// Run once: exit code 0 is success, anything else failure.
    pub fn never() -> Restart {
        Restart { policy: RestartPolicy::Never, ..Restart::default() }
    }

    fn problem(&self) -> Option<(&'static str, String)> {
        if !(self.factor >= 1.0 && self.factor <= 100.0) {
            return Some(("restart.factor", format!("is {}; use 1 to 100", self.factor)));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Some(("restart.jitter", format!("is {}; use 0 to 1", self.jitter)));
        }
        if self.max > MAX_DURATION {
            return Some(("restart.max", "is over 24 hours; use less".into()));
        }
        if self.max < self.initial {
            return Some(("restart.max", "is under restart.initial; make it at least as long".into()));
        }
        None
    }
}

/// Where output goes and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPolicy {
    /// The folder of all logs of the base. Files are `<dir>/<app>/<instance>.log`, then `.log.1` and on.
    pub dir: PathBuf,
    /// A file is rotated before it grows over this many bytes.
    pub max_size: u64,
    /// How many rotated files are kept beside the current one.
    pub keep: u32,
    /// Bytes on disk for all instances of the app together; the oldest rotated files go first.
    pub disk_cap: u64,
    /// Lines kept in memory.
    pub memory_lines: usize,
    /// Bytes of text kept in memory.
    pub memory_bytes: usize,
}

impl LogPolicy {
    /// The defaults below a folder: 10 MiB files, 5 rotated ones, 200 MiB an app, 1,000 lines or 512 KiB
    /// in memory.
    pub fn under(dir: impl Into<PathBuf>) -> LogPolicy {
        LogPolicy {
            dir: dir.into(),
            max_size: 10 << 20,
            keep: 5,
            disk_cap: 200 << 20,
            memory_lines: 1000,
            memory_bytes: 512 << 10,
        }
    }

    fn problem(&self) -> Option<(&'static str, String)> {
        if self.max_size < 4096 {
            return Some((
                "logs.max_size",
                format!("of {} bytes is under 4096; make it larger", self.max_size),
            ));
        }
        if self.disk_cap < self.max_size {
            return Some(("logs.disk_cap", "is under logs.max_size; make it at least as large".into()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec::new("shop", "shop-1", vec!["true".into()], LogPolicy::under("/tmp"))
    }

    #[test]
    fn secrets_are_never_printed() {
        let mut spec = spec();
        spec.env.insert("TOKEN".into(), EnvValue::Secret(Secret::new("hunter2")));
        let shown = format!("{spec:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_field() {
        #[track_caller]
        fn check(field: &str, change: impl Fn(&mut Spec)) {
            let mut spec = spec();
            change(&mut spec);
            let error = spec.check().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        spec().check().unwrap();
        check("app", |s| s.app = "../etc".into());
        check("app", |s| s.app = String::new());
        check("instance", |s| s.instance = ".hidden".into());
        check("instance", |s| s.instance = "a".repeat(200));
        check("argv", |s| s.argv.clear());
        check("argv", |s| s.argv = vec!["a\0b".into()]);
        check("env", |s| drop(s.env.insert("A=B".into(), "".into())));
        check("env", |s| drop(s.env.insert("A".into(), "\0".into())));
        check("limits.memory", |s| s.limits.memory = Some(5));
        check("limits.cpu", |s| s.limits.cpu_millicores = Some(1));
        check("limits.pids", |s| s.limits.pids = Some(0));
        check("limits.open_files", |s| s.limits.open_files = Some(1));
        check("restart.factor", |s| s.restart.factor = f64::NAN);
        check("restart.jitter", |s| s.restart.jitter = 2.0);
        check("restart.max", |s| s.restart.max = Duration::ZERO);
        check("restart.max", |s| s.restart.max = Duration::MAX);
        check("stop.grace", |s| s.stop.grace = Duration::MAX);
        check("logs.max_size", |s| s.logs.max_size = 1);
        check("logs.disk_cap", |s| s.logs.disk_cap = 5000);
    }

    #[test]
    fn signal_names() {
        assert_eq!("SIGINT".parse(), Ok(Signal::INT));
        assert_eq!("quit".parse(), Ok(Signal::QUIT));
        assert!("SIGNOPE".parse::<Signal>().unwrap_err().contains("SIGNOPE"));
    }
}

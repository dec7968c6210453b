//! A small base: runs one shell script as several instances and waits for the end of its input.
//!
//! `supervise SHIM LOGS BASE SCRIPT COUNT [plain]`: each instance gets `INSTANCE` and the variables of this
//! process that begin with `APP_`. `plain` does without PID namespaces and control groups, as a base
//! without root does.

use std::time::Duration;

use dodai_base::process::{Config, LogPolicy, Spec, Supervisor};
use dodai_core::task::Tasks;
use tokio::io::AsyncReadExt;

const USAGE: &str = "usage: supervise SHIM LOGS BASE SCRIPT COUNT [plain]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (shim, logs, base, script, count, plain) = match args.as_slice() {
        [shim, logs, base, script, count] => (shim, logs, base, script, count, false),
        [shim, logs, base, script, count, word] if word == "plain" => (shim, logs, base, script, count, true),
        _ => return Err(USAGE.into()),
    };
    let mut config = Config::new(vec![shim.into()], base);
    config.cgroups = !plain;
    config.lease_grace = Duration::from_millis(200);
    let supervisor = Supervisor::open(config).await?;
    let tasks = Tasks::new();
    for number in 0..count.parse()? {
        let argv = ["/bin/sh", "-c", script].map(String::from).to_vec();
        let mut spec = Spec::new("app", format!("{base}-{number}"), argv, LogPolicy::under(logs));
        spec.isolate = !plain;
        spec.env.insert("INSTANCE".into(), spec.instance.as_str().into());
        spec.env.extend(environment());
        supervisor.start(spec, &tasks)?;
    }
    // Cancel safety does not matter: nothing else is awaited.
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    let cut = tasks.drain(Duration::from_secs(10)).await;
    if cut.is_empty() { Ok(()) } else { Err(format!("cut: {cut:?}").into()) }
}

#[expect(clippy::disallowed_methods, reason = "a binary takes its one snapshot of the environment")]
fn environment() -> impl Iterator<Item = (String, dodai_base::process::EnvValue)> {
    std::env::vars()
        .filter(|(key, _)| key.starts_with("APP_"))
        .map(|(key, value)| (key, value.as_str().into()))
}

//! `cargo xtask fuzz`: coverage-guided fuzzing with the pinned stable compiler and nothing to install.
//!
//! The flags are those by which libFuzzer sees coverage; they are stable codegen options. The address sanitizer, which
//! needs a nightly compiler, is left out: the targets hold no unsafe code of ours, and a panic is what they look for.
//! A fixed `--target` keeps the flags away from build scripts and macros.

use anyhow::{Context as _, Result, bail};

use crate::ci::Outcome;
use crate::process::Tool;
use crate::workspace::Workspace;

pub const DEFAULT_SECONDS: u32 = 60;
/// Holds all targets; the variable `FUZZ_TARGET` chooses.
const PROGRAM: &str = "dodai-fuzz";
/// Hitting this is a finding: a parser of small inputs has no use for it.
const MEMORY_MB: u32 = 1024;
/// One input may take this long, in seconds, before it counts as a hang.
const INPUT_TIMEOUT: u32 = 10;

const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions --cfg fuzzing";

/// Builds all targets, then runs the named one or each of them.
pub fn run(workspace: &Workspace, target: Option<&str>, seconds: u32) -> Result<()> {
    let targets = targets(workspace)?;
    let chosen: Vec<&String> =
        targets.iter().filter(|name| target.is_none_or(|wanted| wanted == *name)).collect();
    if chosen.is_empty() {
        bail!("no such fuzz target; fuzz/ has: {}", targets.join(", "));
    }
    let platform = host(workspace)?;
    build(workspace, &platform)?;
    for name in chosen {
        let log = run_one(workspace, &platform, name, seconds)?;
        println!("fuzz {name}: {} executions in {seconds} s", executions(&log)?);
    }
    Ok(())
}

pub fn check(workspace: &Workspace, seconds: u32) -> Result<Outcome> {
    run(workspace, None, seconds).map(|()| Outcome::Passed)
}

fn build(workspace: &Workspace, platform: &str) -> Result<()> {
    Tool::new("cargo", &workspace.root.join("fuzz"))
        .args(["build", "--release", "--locked", "--bin", PROGRAM, "--target", platform, "--target-dir"])
        .args([workspace.target.join("fuzz")])
        .env("RUSTFLAGS", FLAGS)
        .hint("fuzz/ is a workspace of its own: `cargo metadata` in it renews its lock file; the C++ part needs g++")
        .run()
}

fn run_one(workspace: &Workspace, platform: &str, name: &str, seconds: u32) -> Result<String> {
    let fuzz = workspace.root.join("fuzz");
    // Ours, kept with the sources: small inputs that reach far. What a run discovers goes to the ignored folder.
    let (seeds, found, crashes) =
        (fuzz.join("seeds").join(name), fuzz.join("corpus").join(name), fuzz.join("artifacts"));
    for folder in [&seeds, &found, &crashes] {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let program = workspace.target.join("fuzz").join(platform).join("release").join(PROGRAM);
    Tool::new(program, &fuzz)
        .env("FUZZ_TARGET", name)
        .args([format!("-max_total_time={seconds}"), format!("-timeout={INPUT_TIMEOUT}")])
        .args([format!("-rss_limit_mb={MEMORY_MB}"), format!("-artifact_prefix={}/{name}-", crashes.display())])
        .args(["-print_final_stats=1", "-verbosity=0"])
        .args([&found, &seeds])
        .hint(format!(
            "the input was saved under fuzz/artifacts/{name}-*; turn it into a unit test of the parser, mend the parser"
        ))
        .stderr()
}

/// The count that libFuzzer prints at the end; a run without one did not fuzz.
fn executions(log: &str) -> Result<u64> {
    let line = log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let count: u64 =
        line.and_then(|text| text.trim().parse().ok()).context("the fuzzer printed no execution count")?;
    if count == 0 {
        bail!("the fuzzer executed nothing");
    }
    Ok(count)
}

/// Every file in `fuzz/src` is a target, but for the two that hold them together. One that the list lacks fails to run.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.root.join("fuzz/src");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry.context("reading fuzz/src")?.path();
        let stem = path.file_stem().filter(|_| path.extension().is_some_and(|ending| ending == "rs"));
        if let Some(stem) = stem.filter(|stem| !["lib", "main"].map(Some).contains(&stem.to_str())) {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn host(workspace: &Workspace) -> Result<String> {
    let text = Tool::new("rustc", &workspace.root).args(["-vV"]).output()?;
    let line =
        text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::executions;

    #[test]
    fn a_run_that_executed_nothing_is_a_failure() {
        assert_eq!(executions("x\nstat::number_of_executed_units: 12345\n").expect("a count"), 12345);
        assert!(executions("stat::number_of_executed_units: 0").is_err());
        assert!(executions("").is_err());
    }
}

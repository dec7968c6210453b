//! `cargo xtask fuzz`: coverage-guided fuzzing with the pinned stable compiler and nothing to install.
//!
//! Our crates are compiled once more, by `fuzz/rustc-with-coverage`; what they depend on is shared with the tests. The
//! address sanitizer, which needs a nightly compiler, is left out: the targets hold no unsafe code of ours, and a panic is
//! what they look for.

use std::path::{Path, PathBuf};

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

/// Builds all targets, then runs the named one or each of them. One that fails does not keep the others from running.
pub fn run(workspace: &Workspace, target: Option<&str>, seconds: u32) -> Result<()> {
    let targets = targets(workspace)?;
    let chosen: Vec<&String> =
        targets.iter().filter(|name| target.is_none_or(|wanted| wanted == *name)).collect();
    if chosen.is_empty() {
        bail!("no such fuzz target; fuzz/ has: {}", targets.join(", "));
    }
    let program = build(workspace)?;
    let mut failed = Vec::new();
    for name in chosen {
        match run_one(workspace, &program, name, seconds).and_then(|log| executions(&log)) {
            Ok(count) => println!("fuzz {name}: {count} executions in {seconds} s"),
            Err(error) => {
                println!("fuzz {name}: FAILED: {error:#}");
                failed.push(name.as_str());
            }
        }
    }
    if !failed.is_empty() {
        bail!("fuzz targets failed: {}", failed.join(", "));
    }
    Ok(())
}

pub fn check(workspace: &Workspace, seconds: u32) -> Result<Outcome> {
    run(workspace, None, seconds).map(|()| Outcome::Passed)
}

/// Builds the fuzzer; where it is. It has the features that the whole workspace gives its dependencies, as the tests have.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    Tool::new("cargo", &workspace.root)
        .args(["build", "--locked", "--workspace", "--bin", PROGRAM])
        .env("RUSTC_WORKSPACE_WRAPPER", workspace.root.join("fuzz/rustc-with-coverage"))
        .hint("the C++ part needs g++")
        .run()?;
    Ok(workspace.target.join("debug").join(PROGRAM))
}

fn run_one(workspace: &Workspace, program: &Path, name: &str, seconds: u32) -> Result<String> {
    let fuzz = workspace.root.join("fuzz");
    // Ours, kept with the sources: small inputs that reach far. What a run discovers goes to the ignored folder.
    let (seeds, found, crashes) =
        (fuzz.join("seeds").join(name), fuzz.join("corpus").join(name), fuzz.join("artifacts"));
    for folder in [&seeds, &found, &crashes] {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
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

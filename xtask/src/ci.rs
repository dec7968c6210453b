//! `cargo xtask ci`: the stages, in the order in which they are cheapest to fail, and a table of what each cost.
//!
//! Every stage runs even when an earlier one failed, so that one run tells everything. A stage that could not do its
//! work says SKIPPED with the reason, and the table repeats it; nothing is passed over in silence.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::cost::{Cost, Meter};
use crate::process::{Tool, environment};
use crate::workspace::Workspace;
use crate::{conformance, console, defaults, deny, fuzz, guests, release, schema, spelling, testing, tidy};

/// What a cold run may cost. Going over is reported, not failed: machines differ.
const COLD_BUDGET: Duration = Duration::from_secs(4000);
/// Long enough to find a shallow crash, short enough for every run.
const FUZZ_SECONDS: u32 = 3;

/// How a stage ended, if it did not fail.
pub enum Outcome {
    Passed,
    /// Nothing failed because nothing could be checked; the reason is shown.
    Skipped(String),
}

impl Outcome {
    /// Says aloud what was not checked.
    pub fn say(self, name: &str) {
        if let Outcome::Skipped(reason) = self {
            println!("{name}: SKIPPED: {reason}");
        }
    }
}

struct Stage {
    name: &'static str,
    what: &'static str,
    run: fn(&Workspace) -> Result<Outcome>,
}

const STAGES: &[Stage] = &[
    Stage { name: "fmt", what: "rustfmt agrees with every file", run: fmt },
    Stage { name: "tidy", what: "the house rules hold", run: |w| tidy::run(w).map(|()| Outcome::Passed) },
    Stage { name: "deny", what: "bans, licences, sources", run: |w| deny::run(w).map(|()| Outcome::Passed) },
    Stage { name: "typos", what: "spelling", run: |w| spelling::run(w).map(|()| Outcome::Passed) },
    Stage { name: "clippy", what: "lints, warnings are errors", run: clippy },
    Stage { name: "doc", what: "rustdoc builds without a warning", run: doc },
    Stage {
        name: "schema",
        what: "schema/ matches the types of documents and of the management API",
        run: schema::check,
    },
    Stage { name: "defaults", what: "docs/defaults.md has the limits of the code", run: defaults::check },
    Stage {
        name: "console",
        what: "the web console passes its checks; console/dist is rebuilt",
        run: console::check,
    },
    Stage { name: "test", what: "all tests", run: |w| testing::run(w, &[]).map(|()| Outcome::Passed) },
    Stage { name: "browser", what: "every page of the console works in Chromium", run: console::browse },
    Stage { name: "h2spec", what: "a gateway passes the test suite of HTTP/2", run: conformance::check },
    Stage { name: "fuzz", what: "fuzz targets build and run", run: |w| fuzz::check(w, FUZZ_SECONDS) },
    Stage {
        name: "guests",
        what: "tests of the examples; committed guests match their sources",
        run: guests::check,
    },
    Stage {
        name: "release",
        what: "release build with few tools, the main jobs against it",
        run: release::check,
    },
];

/// Prints the names that `--stage` takes.
pub fn list() -> Result<()> {
    for stage in STAGES {
        println!("{:8} {}", stage.name, stage.what);
    }
    Ok(())
}

/// Runs all stages, or the one that is named.
pub fn run(workspace: &Workspace, only: Option<&str>) -> Result<()> {
    let chosen: Vec<&Stage> =
        STAGES.iter().filter(|stage| only.is_none_or(|name| name == stage.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        bail!("there is no stage `{}`; stages: {}", only.unwrap_or_default(), names.join(", "));
    }
    let warm = is_warm(workspace);
    let whole = Meter::start();
    let mut rows = Vec::new();
    for stage in chosen {
        println!("\n=== {}: {}", stage.name, stage.what);
        let meter = Meter::start();
        let result = (stage.run)(workspace);
        let cost = meter.spent();
        let ending = ending(&result);
        println!(
            "=== {}: {ending}, {:.1} s wall, {:.1} s CPU",
            stage.name,
            cost.wall.as_secs_f64(),
            cost.cpu.as_secs_f64()
        );
        rows.push(Row { name: stage.name, cost, ending, failed: result.is_err() });
    }
    report(&rows, whole.spent(), warm, workspace)
}

struct Row {
    name: &'static str,
    cost: Cost,
    ending: String,
    failed: bool,
}

fn ending(result: &Result<Outcome>) -> String {
    match result {
        Ok(Outcome::Passed) => "passed".to_owned(),
        Ok(Outcome::Skipped(reason)) => format!("SKIPPED: {reason}"),
        Err(error) => {
            println!("{error:#}");
            "FAILED".to_owned()
        }
    }
}

fn report(rows: &[Row], whole: Cost, warm: bool, workspace: &Workspace) -> Result<()> {
    println!("\n{:<10}{:>9}{:>9}  result", "stage", "wall s", "CPU s");
    for row in rows {
        let (wall, cpu) = (row.cost.wall.as_secs_f64(), row.cost.cpu.as_secs_f64());
        println!("{:<10}{wall:>9.1}{cpu:>9.1}  {}", row.name, row.ending);
    }
    let (wall, cpu) = (whole.wall.as_secs_f64(), whole.cpu.as_secs_f64());
    println!("{:<10}{wall:>9.1}{cpu:>9.1}", "all");
    let state = if warm { "warm" } else { "cold" };
    println!("target directory: {state} ({})", workspace.target.display());
    if whole.cpu > COLD_BUDGET {
        println!("OVER BUDGET: {cpu:.0} CPU seconds, where a cold run may cost {}", COLD_BUDGET.as_secs());
    }
    let failed: Vec<&str> = rows.iter().filter(|row| row.failed).map(|row| row.name).collect();
    if failed.is_empty() {
        println!("ci: passed");
        return Ok(());
    }
    bail!("failed: {}; run one alone with `cargo xtask ci --stage NAME`", failed.join(", "))
}

/// Whether an earlier run left compiled dependencies: `.ci/run` knows, since building xtask already fills the folder.
fn is_warm(workspace: &Workspace) -> bool {
    match environment("CI_TARGET_STATE") {
        Some(state) => state == "warm",
        None => workspace.target.join("debug/deps").is_dir(),
    }
}

fn fmt(workspace: &Workspace) -> Result<Outcome> {
    let mut failed = Vec::new();
    for manifest in workspace.manifests()? {
        let check = Tool::new("cargo", &workspace.root)
            .args(["fmt", "--all", "--check", "--manifest-path", &manifest, "--", "--color", "never"])
            .run();
        if check.is_err() {
            failed.push(manifest);
        }
    }
    if failed.is_empty() {
        return Ok(Outcome::Passed);
    }
    bail!(
        "not formatted: {}\n  to mend it: `cargo fmt --all --manifest-path ...`, or rustfmt on the files",
        failed.join(", ")
    )
}

fn clippy(workspace: &Workspace) -> Result<Outcome> {
    Tool::new("cargo", &workspace.root)
        .args(["clippy", "--workspace", "--all-targets", "--locked", "--keep-going", "--", "-D", "warnings"])
        .hint("mend the code; where a lint is wrong here, `#[expect(lint, reason = \"...\")]` on the smallest item")
        .run()?;
    Ok(Outcome::Passed)
}

fn doc(workspace: &Workspace) -> Result<Outcome> {
    Tool::new("cargo", &workspace.root)
        // An example is documented along, because only then do dependencies have the features that clippy and the tests
        // give them, and nothing is checked for it a second time.
        .args([
            "doc",
            "--workspace",
            "--no-deps",
            "--locked",
            "--keep-going",
            "--lib",
            "--bins",
            "--example",
            "limits",
        ])
        .env("RUSTDOCFLAGS", "-D warnings")
        .hint("mend the link or the markup that rustdoc names")
        .run()?;
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_names_are_unique() {
        let mut names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STAGES.len());
    }

    #[test]
    fn a_skipped_stage_says_why() {
        assert_eq!(ending(&Ok(Outcome::Skipped("no target".to_owned()))), "SKIPPED: no target");
        assert_eq!(ending(&Err(anyhow::anyhow!("x"))), "FAILED");
    }
}

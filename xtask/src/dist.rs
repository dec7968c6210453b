//! `cargo xtask dist`: the binary that is shipped, laid out by what it does when it works (profile-guided optimisation).
//!
//! It is built twice. The first one counts which way each branch goes while the comparisons of `bench/` load it for a
//! few seconds each; the second one is compiled with these counts. See docs/adr/0017-profile-guided.md.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::packages;
use crate::process::{Tool, environment};
use crate::workspace::Workspace;

/// The comparisons whose loads make the profile: those of a base's calls, those of calls between bases, and the others.
const CALLS: [&[&str]; 2] = [&["hop", "tls", "h2"], &["mesh"]];
const OTHERS: &[&str] = &["invoke", "daprd", "modules"];

/// Where the toolchain links with its own LLD, which takes an order of functions; other linkers do not know the option.
const LLD: &str = "x86_64-unknown-linux-gnu";

/// Builds `target/dist/dodai` and says where it is.
pub fn run(workspace: &Workspace) -> Result<PathBuf> {
    let host = host(workspace)?;
    let merger = merger(workspace, &host)?;
    packages::ensure_benches(workspace)?;
    let folder = workspace.target.join("profile");
    let counts = folder.join("counts");
    if counts.exists() {
        std::fs::remove_dir_all(&counts).with_context(|| format!("removing {}", counts.display()))?;
    }
    let counting = build(workspace, &host, &[format!("-Cprofile-generate={}", counts.display())])?;
    let train = |loads: &[&str], how: &str, profile: &str| {
        for load in loads {
            Tool::new(workspace.root.join(format!("bench/{load}.py")), &workspace.root)
                .env("TRAINING", how)
                .env("DODAI_BINARY", &counting)
                .hint("the script says what it did not get")
                .run()?;
        }
        merge(workspace, &merger, &counts, folder.join(profile))
    };
    // Each profile has what was counted before it, too.
    let mut profiles = Vec::new();
    for (at, loads) in CALLS.into_iter().enumerate() {
        profiles.push(train(loads, "start", &format!("start-{at}.profdata"))?);
        profiles.push(train(loads, "1", &format!("calls-{at}.profdata"))?);
    }
    let profile = train(OTHERS, "1", "dodai.profdata")?;
    profiles.push(profile.clone());
    let mut flags = vec![format!("-Cprofile-use={}", profile.display())];
    if host == LLD {
        let order = folder.join("order.txt");
        let shown = profiles.iter().map(|profile| shown(workspace, &merger, profile));
        std::fs::write(&order, by_use(&shown.collect::<Result<Vec<_>>>()?))
            .with_context(|| format!("writing {}", order.display()))?;
        let order = format!("--symbol-ordering-file={},--no-warn-symbol-ordering", order.display());
        flags.push(format!("-Clink-arg=-Wl,{order}"));
    }
    let built = build(workspace, &host, &flags)?;
    let shipped = workspace.target.join("dist/dodai");
    std::fs::create_dir_all(workspace.target.join("dist")).context("making target/dist")?;
    std::fs::copy(&built, &shipped)
        .with_context(|| format!("copying {} to {}", built.display(), shipped.display()))?;
    println!("{}", shipped.display());
    Ok(shipped)
}

/// Builds with `flags` for everything but build scripts, which is why the target is named. Both builds must agree in all
/// else: cargo puts the settings of the profile into the names of functions, by which counts are found again.
fn build(workspace: &Workspace, host: &str, flags: &[String]) -> Result<PathBuf> {
    let flags: Vec<String> = environment("RUSTFLAGS").into_iter().chain(flags.iter().cloned()).collect();
    Tool::new("cargo", &workspace.root)
        .args([
            "build",
            "--profile",
            "dist",
            "--locked",
            "--package",
            "dodai",
            "--bin",
            "dodai",
            "--target",
            host,
        ])
        .env("RUSTFLAGS", flags.join(" "))
        .run()?;
    Ok(workspace.target.join(host).join("dist/dodai"))
}

/// Adds up what was counted so far.
fn merge(workspace: &Workspace, merger: &Path, counts: &Path, profile: PathBuf) -> Result<PathBuf> {
    if !counts.is_dir() {
        bail!(
            "no process has written counts into {}: did they end by a signal that cannot be caught?",
            counts.display()
        );
    }
    let output = [Path::new("merge"), Path::new("-o"), &profile, counts];
    Tool::new(merger, &workspace.root).args(output).run()?;
    Ok(profile)
}

/// The counts of a profile as text.
fn shown(workspace: &Workspace, merger: &Path, profile: &Path) -> Result<String> {
    let asked = [Path::new("show"), Path::new("--all-functions"), Path::new("--counts"), profile];
    Tool::new(merger, &workspace.root).args(asked).output()
}

/// The functions that ran, for the linker: what works together shares pages, and the pages that only a start needs are not
/// mapped beside those of every call.
///
/// `shown` are profiles, each with what was counted before it: after the starts of some loads, after these loads, and so
/// on for other loads, and last after everything. First come functions that run again and again, because they ran more
/// often under load than the starts in it explain, those of the first loads first; then those that ran at all. What ran
/// most leads.
fn by_use(shown: &[String]) -> String {
    let profiles: Vec<_> = shown.iter().map(|shown| counts(shown)).collect();
    let (mut order, mut rest, mut before) = (Vec::new(), Vec::new(), &HashMap::new());
    for part in profiles.chunks(2) {
        let [start, load] = part else {
            rest.extend(part);
            continue;
        };
        let since = |now: &HashMap<&str, u64>, then: &HashMap<&str, u64>, name| {
            now.get(name).unwrap_or(&0).saturating_sub(*then.get(name).unwrap_or(&0))
        };
        let loaded = load.keys().map(|&name| (name, since(load, start, name)));
        order.extend(most_first(loaded.filter(|(name, times)| *times > since(start, before, name) + SPARE)));
        rest.push(load);
        before = load;
    }
    order.extend(
        rest.into_iter().flat_map(|counts| most_first(counts.iter().map(|(&name, &times)| (name, times)))),
    );
    let mut seen = HashSet::new();
    order.into_iter().filter(|name| seen.insert(*name)).map(|name| format!("{name}\n")).collect()
}

/// The names by how often, and equal ones in their own order, so that one profile makes one order of functions.
fn most_first<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> Vec<&'a str> {
    let mut counts: Vec<_> = counts.collect();
    counts.sort_by_key(|&(name, times)| (Reverse(times), name));
    counts.into_iter().map(|(name, _)| name).collect()
}

/// Two starts do not do everything equally often; this much more says nothing yet.
const SPARE: u64 = 2;

/// The functions that ran, with how often their busiest block did. `shown` names each function (`unit;` before the name of
/// one that is not seen outside its unit), and then how often each of its blocks ran.
fn counts(shown: &str) -> HashMap<&str, u64> {
    let mut found = HashMap::new();
    let mut name = "";
    for line in shown.lines().map(str::trim) {
        if let Some(counts) = line.strip_prefix("Block counts: [") {
            let counts = counts.trim_end_matches(']').split(", ").filter_map(|count| count.parse().ok());
            found.extend(counts.max().filter(|&most| most > 0).map(|most| (name, most)));
        } else if let Some(of) = line.strip_suffix(':') {
            name = of.rsplit(';').next().unwrap_or(of);
        }
    }
    found
}

/// The machine that this is built on, as Rust names it.
fn host(workspace: &Workspace) -> Result<String> {
    let told = Tool::new("rustc", &workspace.root).args(["-vV"]).output()?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// What adds counts up. It must be of the compiler's own version, so it comes with the toolchain.
fn merger(workspace: &Workspace, host: &str) -> Result<PathBuf> {
    let sysroot = Tool::new("rustc", &workspace.root).args(["--print", "sysroot"]).output()?;
    let path = Path::new(sysroot.trim()).join(format!("lib/rustlib/{host}/bin/llvm-profdata"));
    if !path.exists() {
        Tool::new("rustup", &workspace.root)
            .args(["component", "add", "llvm-tools"])
            .hint("llvm-profdata is needed; without it, `cargo build --profile dist` makes a binary that is some 5 % slower")
            .run()?;
    }
    if path.exists() { Ok(path) } else { bail!("the component llvm-tools has no {}", path.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read() {
        let shown = "\
Counters:
  _ZN1a1a17h0E:
    Hash: 0x0014
    Counters: 2
    Block counts: [0, 3]
  some.f62d-cgu.0;_ZN1b1b17h1E:
    Hash: 0x0ae1
    Counters: 3
    Block counts: [1, 70, 0]
  _ZN1c1c17h2E:
    Hash: 0x04a4
    Counters: 1
    Block counts: [0]
Total functions: 3
Maximum function count: 70
";
        assert_eq!(counts(shown), HashMap::from([("_ZN1b1b17h1E", 70), ("_ZN1a1a17h0E", 3)]));
    }

    #[test]
    fn what_runs_again_and_again_comes_before_what_a_start_does() {
        let profile = |counts: &[(&str, u64)]| -> String {
            counts.iter().map(|(name, most)| format!("  {name}:\n    Block counts: [{most}]\n")).collect()
        };
        let start = profile(&[("parse", 900), ("tick", 1)]);
        let calls = profile(&[("parse", 1800), ("tick", 9), ("call", 70)]);
        let joined = profile(&[("parse", 2700), ("tick", 10), ("call", 70), ("join", 30)]);
        let between = profile(&[("parse", 3600), ("tick", 19), ("call", 90), ("join", 60), ("tell", 40)]);
        let all = profile(&[("compile", 9000), ("parse", 2700), ("tick", 20), ("call", 80), ("tell", 41)]);
        let order = by_use(&[start, calls, joined, between, all]);
        assert_eq!(order, "call\ntick\ntell\nparse\njoin\ncompile\n");
    }
}

//! `cargo xtask deny`: banned crates, licences and sources, over the resolved graph.
//!
//! Reads the same `deny.toml` as cargo-deny, as far as our file goes, and refuses keys it does not know. Building
//! cargo-deny would cost more than all of our own checks together (ADR 0002). Advisories are not covered.

mod licence;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::process::Tool;
use crate::workspace::Workspace;

const RULES: &str = "deny.toml";
/// How the public registry's index is spelled in a resolved graph; split, since registries are not named in sources.
const PUBLIC_INDEX: &str = concat!("/rust-lang/crates", ".io-index");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    graph: Graph,
    licenses: Licences,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Graph {
    /// Platforms whose graphs are checked.
    targets: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Licences {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bans {
    multiple_versions: Level,
    wildcards: Level,
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    unknown_registry: Level,
    unknown_git: Level,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Level {
    Allow,
    Deny,
}

/// Checks every graph and prints all findings.
pub fn run(workspace: &Workspace) -> Result<()> {
    let text = std::fs::read_to_string(workspace.root.join(RULES)).context("reading deny.toml")?;
    let rules = read(&text)?;
    let mut findings = Vec::new();
    let mut count = 0;
    for manifest in &workspace.manifests()? {
        // The same crate is met once per platform; one finding each is enough.
        let mut packages = BTreeMap::new();
        for target in &rules.graph.targets {
            let compiled = compiled(workspace, manifest, target)?;
            let graph = resolved(workspace, manifest, target)?;
            for package in graph["packages"].as_array().context("cargo metadata has no packages")? {
                if compiled.contains(&identity(package)) {
                    packages.insert(package["id"].to_string(), package.clone());
                }
            }
        }
        count += packages.len();
        findings.extend(packages.values().flat_map(|package| check(&rules, package)));
    }
    findings.sort();
    findings.dedup();
    for finding in &findings {
        println!("{finding}");
    }
    println!("deny: {count} packages in all graphs, {} findings", findings.len());
    if findings.is_empty() {
        return Ok(());
    }
    bail!(
        "{} findings: take another crate, switch off the feature that brings it, or argue in deny.toml",
        findings.len()
    )
}

fn read(text: &str) -> Result<Rules> {
    let rules: Rules =
        toml::from_str(text).context("reading deny.toml (this check knows only the keys in use)")?;
    if rules.bans.multiple_versions != Level::Allow {
        bail!(
            "deny.toml: bans.multiple-versions is not supported by `cargo xtask deny`; keep it at \"allow\""
        );
    }
    if rules.graph.targets.is_empty() {
        bail!(
            "deny.toml: graph.targets is empty, so nothing would be checked; name the platforms we ship for"
        );
    }
    Ok(rules)
}

fn resolved(workspace: &Workspace, manifest: &str, platform: &str) -> Result<Value> {
    let text = Tool::new("cargo", &workspace.root)
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path", manifest])
        .args(["--filter-platform", platform])
        .hint(format!(
            "if the lock file is out of date: `cargo metadata --manifest-path {manifest}`, then commit it"
        ))
        .output()?;
    serde_json::from_str(&text).context("reading `cargo metadata`")
}

/// Name and version of every package that is really built: the resolved graph of `cargo metadata` also holds optional
/// dependencies that a weak feature mentions and nobody switches on.
fn compiled(workspace: &Workspace, manifest: &str, platform: &str) -> Result<BTreeSet<String>> {
    let text = Tool::new("cargo", &workspace.root)
        .args(["tree", "--locked", "--workspace", "--manifest-path", manifest, "--target", platform])
        .args(["--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}"])
        .output()?;
    let names: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.split_once(" v"))
        .map(|(name, rest)| format!("{name} {}", rest.split_whitespace().next().unwrap_or_default()))
        .collect();
    if names.is_empty() {
        bail!("`cargo tree` names no package for {manifest} on {platform}, so nothing would be checked");
    }
    Ok(names)
}

fn identity(package: &Value) -> String {
    let text = |key: &str| package[key].as_str().unwrap_or("?");
    format!("{} {}", text("name"), text("version"))
}

/// All findings for one package of a graph.
fn check(rules: &Rules, package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or("?");
    let place = identity(package);
    let mut findings = Vec::new();
    if let Some(ban) = rules.bans.deny.iter().find(|ban| ban.name == name) {
        findings.push(format!("{place}: banned: {} (see who brings it: `cargo tree -i {name}`)", ban.reason));
    }
    match package["source"].as_str() {
        // Our own: their versions of others must be pinned to something.
        None if rules.bans.wildcards == Level::Deny => findings.extend(wildcards(package, &place)),
        None => {}
        Some(source) => findings.extend(foreign_source(rules, source).map(|what| format!("{place}: {what}"))),
    }
    findings.extend(licence_of(rules, name, package).map(|what| format!("{place}: {what}")));
    findings
}

fn wildcards(package: &Value, place: &str) -> Vec<String> {
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    dependencies
        .iter()
        .filter(|dependency| dependency["req"] == "*" && dependency["path"].is_null())
        .map(|dependency| format!("{place}: depends on any version of {}: name one", dependency["name"]))
        .collect()
}

fn foreign_source(rules: &Rules, source: &str) -> Option<String> {
    if source.starts_with("git+") {
        return (rules.sources.unknown_git == Level::Deny).then(|| {
            format!("comes from {source}: published versions only, so that a build can be repeated")
        });
    }
    let is_public =
        source.ends_with(PUBLIC_INDEX) || source.starts_with(concat!("sparse+https://index.crates", ".io/"));
    (!is_public && rules.sources.unknown_registry == Level::Deny)
        .then(|| format!("comes from {source}: only the public registry is allowed"))
}

fn licence_of(rules: &Rules, name: &str, package: &Value) -> Option<String> {
    let Some(expression) = package["license"].as_str() else {
        return Some("states no licence expression: read its licence file and argue in deny.toml".to_owned());
    };
    let more = rules.licenses.exceptions.iter().find(|exception| exception.name == name);
    let allowed = |id: &str| {
        let in_list = |list: &Vec<String>| list.iter().any(|allowed| allowed == id);
        in_list(&rules.licenses.allow) || more.is_some_and(|exception| in_list(&exception.allow))
    };
    match licence::satisfied(expression, &allowed) {
        Ok(true) => None,
        Ok(false) => Some(format!("licence `{expression}` is not covered by licenses.allow in deny.toml")),
        Err(why) => Some(format!("licence `{expression}` cannot be read: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = r#"
        graph = { targets = ["x"] }
        licenses = { allow = ["MIT"], exceptions = [{ crate = "odd", allow = ["NCSA"] }] }
        bans = { multiple-versions = "allow", wildcards = "deny", deny = [{ crate = "ring", reason = "one stack" }] }
        sources = { unknown-registry = "deny", unknown-git = "deny" }
    "#;

    fn findings(package: Value) -> usize {
        check(&read(TEXT).expect("good rules"), &package).len()
    }

    fn public() -> String {
        format!("registry+https://example{PUBLIC_INDEX}")
    }

    #[test]
    fn a_plain_package_passes() {
        assert_eq!(findings(json!({"name": "a", "license": "MIT OR Apache-2.0", "source": public()})), 0);
        assert_eq!(findings(json!({"name": "odd", "license": "MIT AND NCSA", "source": public()})), 0);
    }

    #[test]
    fn each_rule_finds_its_breach() {
        assert_eq!(findings(json!({"name": "ring", "license": "MIT", "source": public()})), 1);
        assert_eq!(findings(json!({"name": "a", "license": "GPL-3.0", "source": public()})), 1);
        assert_eq!(findings(json!({"name": "a", "license": "MIT AND NCSA", "source": public()})), 1);
        assert_eq!(findings(json!({"name": "a", "source": public()})), 1);
        assert_eq!(findings(json!({"name": "a", "license": "MIT", "source": "git+https://example/a"})), 1);
        assert_eq!(
            findings(json!({"name": "a", "license": "MIT", "source": "registry+https://example/a"})),
            1
        );
        let loose = json!({"name": "b", "req": "*", "path": null});
        assert_eq!(
            findings(json!({"name": "a", "license": "MIT", "source": null, "dependencies": [loose]})),
            1
        );
    }

    #[test]
    fn rules_that_would_not_be_applied_are_refused() {
        assert!(read(&TEXT.replace("\"allow\", wild", "\"deny\", wild")).is_err());
        assert!(read(&TEXT.replace("[\"x\"]", "[]")).is_err());
        assert!(read(&format!("{TEXT}\nadvisories = {{}}")).is_err());
    }
}

//! Which crate may know which: the arrows of the architecture, over `cargo metadata`.
//!
//! `ARCHITECTURE.md` and ADR 0001 carry the picture; this table is what is enforced. Adding a line here is a decision
//! about the shape of the product: write down what was learnt.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Finding;

/// Our crates and the crates of ours that each may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("dodai-cel", &[]),
    ("dodai-log", &["dodai-cel"]),
    ("dodai-api", &["dodai-cel", "dodai-log"]),
    ("dodai-core", &["dodai-log"]),
    ("dodai-proto", &[]),
    ("dodai-transport", &["dodai-core"]),
    ("dodai-capability", &["dodai-core"]),
    // Drivers dial by it, so that there is one TLS.
    ("dodai-drivers", &["dodai-capability", "dodai-core", "dodai-transport"]),
    ("dodai-modules", &["dodai-core", "dodai-capability"]),
    ("dodai-dataplane", &["dodai-cel", "dodai-core", "dodai-log", "dodai-transport"]),
    ("dodai-runtime", &["dodai-cel", "dodai-core", "dodai-proto", "dodai-capability"]),
    ("dodai-store", &["dodai-api", "dodai-core"]),
    ("dodai-control", &["dodai-api", "dodai-core", "dodai-proto", "dodai-store", "dodai-transport"]),
    ("dodai-admin", &["dodai-api", "dodai-core", "dodai-control"]),
    ("dodai-base", BASE),
    ("dodai", EVERYTHING),
    ("dodai-testkit", EVERYTHING),
    // Parsers and what they stand on; the module engine would make its build several times as long.
    ("dodai-fuzz", PARSERS),
    ("xtask", &[]),
];

const PARSERS: &[&str] = &[
    "dodai-api",
    "dodai-capability",
    "dodai-cel",
    "dodai-core",
    "dodai-dataplane",
    "dodai-log",
    "dodai-runtime",
    "dodai-transport",
];

const BASE: &[&str] = &[
    "dodai-api",
    "dodai-cel",
    "dodai-core",
    "dodai-log",
    "dodai-proto",
    "dodai-transport",
    "dodai-capability",
    "dodai-drivers",
    "dodai-modules",
    "dodai-dataplane",
    "dodai-runtime",
];

const EVERYTHING: &[&str] = &[
    "dodai-api",
    "dodai-core",
    "dodai-proto",
    "dodai-transport",
    "dodai-capability",
    "dodai-drivers",
    "dodai-modules",
    "dodai-dataplane",
    "dodai-runtime",
    "dodai-base",
    "dodai-store",
    "dodai-control",
    "dodai-admin",
];

/// What tests may use beyond the arrows. The testkit links the whole product, so only crates at the top may have it:
/// no test of the data plane or of a codec shall wait for the module engine to compile.
const TEST_ARROWS: &[(&str, &[&str])] = &[
    ("dodai-base", &["dodai-testkit", "dodai-store", "dodai-control"]),
    ("dodai-control", &["dodai-testkit", "dodai-dataplane"]),
    ("dodai-admin", &["dodai-testkit", "dodai-store", "dodai-transport"]),
    ("dodai", &["dodai-testkit"]),
];

/// Outside crates with a single home, by the first letters of their name.
struct Home {
    prefix: &'static str,
    crates: &'static [&'static str],
    reason: &'static str,
    tests_too: bool,
}

const HOMES: &[Home] = &[
    Home {
        prefix: "wasmtime",
        crates: &["dodai-modules"],
        reason: "the module engine is replaceable, and no other crate shall wait for it to compile",
        tests_too: true,
    },
    Home {
        prefix: "rusqlite",
        crates: &["dodai-drivers", "dodai-store"],
        reason: "SQLite is reached through the Store trait or a driver, whose conformance suites guard it",
        tests_too: false,
    },
    Home {
        prefix: "anyhow",
        crates: &["dodai", "xtask"],
        reason: "libraries return typed errors that name operation, object and remedy; anyhow is for main and tests",
        tests_too: false,
    },
    Home {
        prefix: "clap",
        crates: &["dodai"],
        reason: "only the binary reads the command line; other crates take checked settings",
        tests_too: true,
    },
    Home { prefix: "etcd-client", crates: &["dodai-store"], reason: VENDOR, tests_too: false },
    Home { prefix: "redis", crates: &["dodai-drivers"], reason: VENDOR, tests_too: false },
    Home { prefix: "tokio-postgres", crates: &["dodai-drivers"], reason: VENDOR, tests_too: false },
    Home { prefix: "sqlx", crates: &["dodai-drivers"], reason: VENDOR, tests_too: false },
    Home { prefix: "async-nats", crates: &["dodai-drivers"], reason: VENDOR, tests_too: false },
    Home { prefix: "rdkafka", crates: &["dodai-drivers"], reason: VENDOR, tests_too: false },
    Home { prefix: "rskafka", crates: &["dodai-drivers"], reason: VENDOR, tests_too: false },
    Home { prefix: "lapin", crates: &["dodai-drivers"], reason: VENDOR, tests_too: false },
    Home { prefix: "rumqttc", crates: &["dodai-drivers"], reason: VENDOR, tests_too: false },
    Home { prefix: "opendal", crates: &["dodai-drivers"], reason: VENDOR, tests_too: false },
    Home { prefix: "object_store", crates: &["dodai-drivers"], reason: VENDOR, tests_too: false },
];

const VENDOR: &str =
    "vendors' libraries live with the drivers, so that a base without them neither builds nor loads them";

/// Checks the declared dependencies of every package of the workspace.
pub fn check(metadata: &Value) -> Result<Vec<Finding>> {
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            findings.push(Finding::new(
                name,
                "this crate is not in the arrows table: say in xtask/src/tidy/arrows.rs and ARCHITECTURE.md what it may know",
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().context("a package without dependencies")? {
            let on = dependency["name"].as_str().context("a dependency without a name")?;
            let in_tests = dependency["kind"].as_str() == Some("dev");
            findings.extend(ours(name, on, in_tests, allowed));
            findings.extend(outside(name, on, in_tests));
        }
    }
    Ok(findings)
}

fn ours(name: &str, on: &str, in_tests: bool, allowed: &[&str]) -> Option<Finding> {
    let is_ours = ARROWS.iter().any(|(known, _)| *known == on);
    // A crate may name itself in its tests, to switch a feature on.
    if !is_ours || allowed.contains(&on) || (in_tests && on == name) {
        return None;
    }
    if in_tests && TEST_ARROWS.iter().any(|(known, more)| *known == name && more.contains(&on)) {
        return None;
    }
    let kind = if in_tests { "tests of this crate" } else { "this crate" };
    Some(Finding::new(
        name,
        format!(
            "{kind} may not depend on {on}: arrows keep each layer testable and replaceable alone. Reach it through a \
             handle of dodai-core, move the code, or change the table in xtask/src/tidy/arrows.rs with an ADR"
        ),
    ))
}

fn outside(name: &str, on: &str, in_tests: bool) -> Option<Finding> {
    let home = HOMES.iter().find(|home| on == home.prefix || on.starts_with(&format!("{}-", home.prefix)))?;
    if home.crates.contains(&name) || (in_tests && !home.tests_too) {
        return None;
    }
    Some(Finding::new(name, format!("{on} may be named only by {}: {}", home.crates.join(", "), home.reason)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn findings(name: &str, on: &str, kind: Option<&str>) -> usize {
        let metadata = json!({"packages": [{"name": name, "dependencies": [{"name": on, "kind": kind}]}]});
        check(&metadata).expect("well-formed").len()
    }

    #[test]
    fn arrows_point_one_way() {
        assert_eq!(findings("dodai-transport", "dodai-core", None), 0);
        assert_eq!(findings("dodai-core", "dodai-transport", None), 1);
        assert_eq!(findings("dodai-dataplane", "dodai-api", None), 1);
        assert_eq!(findings("dodai-dataplane", "dodai-control", None), 1);
        assert_eq!(findings("dodai-store", "dodai", None), 1);
    }

    #[test]
    fn tests_have_their_own_arrows() {
        assert_eq!(findings("dodai-base", "dodai-testkit", Some("dev")), 0);
        assert_eq!(findings("dodai-base", "dodai-testkit", None), 1);
        assert_eq!(findings("dodai-dataplane", "dodai-testkit", Some("dev")), 1);
        assert_eq!(findings("dodai-dataplane", "dodai-modules", Some("dev")), 1);
    }

    #[test]
    fn outside_crates_have_homes() {
        assert_eq!(findings("dodai-modules", "wasmtime-wasi", None), 0);
        assert_eq!(findings("dodai-base", "wasmtime", None), 1);
        assert_eq!(findings("dodai-base", "wasmtime-wasi", Some("dev")), 1);
        assert_eq!(findings("dodai-core", "rusqlite", None), 1);
        assert_eq!(findings("dodai-core", "anyhow", None), 1);
        assert_eq!(findings("dodai-core", "anyhow", Some("dev")), 0);
        assert_eq!(findings("dodai-admin", "clap", None), 1);
    }

    #[test]
    fn an_unknown_crate_is_a_finding() {
        assert_eq!(findings("dodai-extra", "serde", None), 1);
    }

    #[test]
    fn the_table_has_no_cycle() {
        // Listed in such an order that each crate only knows earlier ones, dodai-base and the roots aside.
        let order: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
        for (at, (name, allowed)) in ARROWS.iter().enumerate() {
            for on in *allowed {
                let earlier = order[..at].contains(on);
                assert!(earlier, "{name} knows {on}, which the table lists later");
            }
        }
    }
}

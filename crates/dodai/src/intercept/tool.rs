//! Programs that change the kernel's rules: where they are, and what they say.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

use crate::environment::Environment;

/// The tools of this machine.
pub struct Tools {
    /// nft, of nftables.
    pub nft: Option<PathBuf>,
    /// iptables.
    pub iptables: Option<PathBuf>,
    /// ip, of iproute2.
    pub ip: Option<PathBuf>,
}

impl Tools {
    /// Looks in PATH, and where such tools are if PATH is that of a common user.
    pub fn find(environment: &Environment) -> Tools {
        let path = environment.get("PATH").unwrap_or_default().to_owned() + ":/usr/sbin:/sbin:/usr/bin:/bin";
        let find = |name: &str| {
            let mut folders = path.split(':').filter(|folder| !folder.is_empty());
            folders.find_map(|folder| Some(Path::new(folder).join(name)).filter(|file| file.is_file()))
        };
        Tools { nft: find("nft"), iptables: find("iptables"), ip: find("ip") }
    }
}

/// The tool, or what to install.
pub fn need<'a>(tool: Option<&'a PathBuf>, name: &str, package: &str) -> anyhow::Result<&'a Path> {
    tool.map(PathBuf::as_path).with_context(|| {
        format!("{name} is not here; install the package {package}, such as by `apt-get install {package}`")
    })
}

/// The program beside iptables for one family: `iptables`, `ip6tables-restore`.
pub fn beside(iptables: &Path, name: &str) -> PathBuf {
    iptables.with_file_name(name)
}

/// Runs a program with `input`, and says what it wrote.
pub fn run(program: &Path, arguments: &[&str], input: &str) -> anyhow::Result<String> {
    let output = attempt(program, arguments, input)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} {}: {}", program.display(), arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program succeeds; what it says is of no interest.
pub fn succeeds(program: &Path, arguments: &[&str]) -> anyhow::Result<bool> {
    Ok(attempt(program, arguments, "")?.status.success())
}

fn attempt(program: &Path, arguments: &[&str], input: &str) -> anyhow::Result<Output> {
    let start = || -> std::io::Result<Output> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read to the end says why in its own words.
            let _gone = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    start().with_context(|| format!("cannot run {}", program.display()))
}

/// capabilities(7).
const CAP_NET_ADMIN: u32 = 12;

/// Refuses early, and in plain words, what the kernel would refuse.
pub fn needs_privilege() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    if has_capability(&status, CAP_NET_ADMIN) {
        return Ok(());
    }
    bail!("the kernel's rules are read and changed with CAP_NET_ADMIN only; run this as root");
}

fn has_capability(status: &str, capability: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
    set >> capability & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read() {
        assert!(has_capability("Name:\tx\nCapEff:\t000001fffeffffff\n", CAP_NET_ADMIN));
        assert!(!has_capability("CapEff:\t0000000000000000\n", CAP_NET_ADMIN));
        assert!(!has_capability("CapEff:\t0000000000000800\n", CAP_NET_ADMIN));
        assert!(has_capability("CapEff:\t0000000000001000\n", CAP_NET_ADMIN));
        assert!(!has_capability("", CAP_NET_ADMIN));
    }
}

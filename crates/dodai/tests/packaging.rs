//! The files under `packaging/` start the binary as it is: commands and flags that it has, and a unit that systemd takes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::project::{Done, binary};

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(packaging(name)).unwrap()
}

/// Asks the binary whether it has a command with these flags.
fn known(words: &[String]) {
    let (command, rest) = words.split_first().expect("a command");
    let help = Done::of(Command::new(binary()).args([command, "--help"]));
    assert!(help.status.success(), "there is no command {command}");
    for flag in rest.iter().filter(|word| word.starts_with("--")) {
        let name = flag.split('=').next().unwrap_or(flag);
        assert!(help.all().contains(name), "`dodai {command}` has no {name}");
    }
}

#[test]
fn the_unit_of_systemd_is_one_it_takes() {
    let unit = read("systemd/dodai.service");
    let start =
        unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/dodai ")).expect("ExecStart");
    known(&start.split(' ').map(str::to_owned).collect::<Vec<_>>());
    for hardened in
        ["NoNewPrivileges=yes", "ProtectSystem=strict", "DynamicUser=yes", "CapabilityBoundingSet="]
    {
        assert!(unit.contains(hardened), "{hardened} is gone");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dodai.service");
    let here = binary().canonicalize().unwrap();
    std::fs::write(&path, unit.replace("/usr/bin/dodai", &here.display().to_string())).unwrap();
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // It also looks at units of the machine; only what it says of ours counts.
            let ours: Vec<&str> = said.lines().filter(|line| line.contains("dodai.service")).collect();
            assert!(ours.is_empty(), "{ours:?}");
        }
        // Not `println`, which the test harness keeps to itself when the test passes.
        Err(error) => {
            let _said = writeln!(std::io::stderr(), "SKIPPED: systemd-analyze verify: {error}");
        }
    }
}

#[test]
fn the_container_starts_a_command_that_exists() {
    let file = read("Containerfile");
    let list =
        |line: &str| -> Vec<String> { serde_json::from_str(&line[line.find('[').unwrap()..]).unwrap() };
    let of =
        |word: &str| file.lines().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("no {word}"));
    assert_eq!(list(of("ENTRYPOINT")), ["/usr/bin/dodai"]);
    known(&list(of("CMD")));
    let health = list(of("HEALTHCHECK"));
    assert_eq!(health[0], "/usr/bin/dodai");
    known(&health[1..]);
    let pinned = std::fs::read_to_string(packaging("../rust-toolchain.toml")).unwrap();
    let image = of("FROM rust:").trim_start_matches("FROM rust:").split('-').next().unwrap().to_owned();
    assert!(pinned.contains(&format!("channel = \"{image}")), "the image's Rust is not the pinned one");
}

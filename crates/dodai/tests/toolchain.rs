//! What tests need to run programs in other languages, and folders in which they are built once and kept.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::project::Done;

/// Programs that are not everywhere, how they are asked whether they are there, and what brings them.
const TOOLS: [(&str, &str, &str); 5] = [
    ("python3", "--version", "Python 3.10 or later with venv (Debian: python3-venv)"),
    ("node", "--version", "Node.js 20 or later"),
    ("npm", "--version", "npm, which comes with Node.js"),
    ("go", "version", "Go 1.26 or later"),
    ("mvn", "--version", "Maven and a JDK of Java 17 or later (Debian: maven, openjdk-17-jdk)"),
];

/// Fails unless the programs of these names can be run. Nothing is passed over for want of one.
pub fn need(wanted: &[&str]) {
    for (tool, asked, brings) in TOOLS.iter().filter(|(tool, _, _)| wanted.contains(tool)) {
        let asked = Command::new(tool).arg(asked).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let is_there = asked.is_ok_and(|status| status.success());
        assert!(is_there, "this test needs `{tool}`, which cannot be run here: install {brings}");
    }
}

/// A folder of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A folder that outlives the test.
pub fn kept(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Copies a file, or all files of a folder but what builds left there. What is the same already stays as it is, so
/// that what was built of it is newer.
pub fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        for entry in std::fs::read_dir(from).unwrap().flatten() {
            let name = entry.file_name();
            let is_built = ["target", "node_modules", ".venv"].iter().any(|built| name == *built);
            if !is_built {
                copy(&entry.path(), &to.join(name));
            }
        }
        return;
    }
    let wanted = std::fs::read(from).unwrap();
    if std::fs::read(to).is_ok_and(|there| there == wanted) {
        return;
    }
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::write(to, wanted).unwrap();
}

/// A kept folder with these files of the repository in it (from, to), in which the command has run since they changed.
pub fn built(name: &str, files: &[(&str, &str)], command: &[&str]) -> PathBuf {
    let folder = kept(name);
    for (from, to) in files {
        copy(&repository(from), &folder.join(to));
    }
    let wanted: Vec<u8> = files.iter().flat_map(|(_, to)| std::fs::read(folder.join(to)).unwrap()).collect();
    let known = folder.join("built-of");
    if std::fs::read(&known).is_ok_and(|known| known == wanted) {
        return folder;
    }
    let done = Done::of(Command::new(command[0]).args(&command[1..]).current_dir(&folder));
    assert!(done.status.success(), "{}: {}", command.join(" "), done.all());
    std::fs::write(known, wanted).unwrap();
    folder
}

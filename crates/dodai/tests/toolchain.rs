//! What tests need to run programs in other languages, and folders in which they are built once and kept.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::project::Done;

/// A program that is not everywhere.
struct Tool {
    name: &'static str,
    /// How it is asked for its version.
    asked: &'static str,
    /// What stands before the version in its answer.
    before: &'static str,
    /// The least version that will do.
    least: (u32, u32),
    /// What brings it.
    brings: &'static str,
}

const TOOLS: [Tool; 5] = [
    Tool {
        name: "python3",
        asked: "--version",
        before: "Python ",
        least: (3, 10),
        brings: "Python with venv (Debian: python3-venv)",
    },
    Tool { name: "node", asked: "--version", before: "v", least: (20, 0), brings: "Node.js" },
    Tool {
        name: "npm",
        asked: "--version",
        before: "",
        least: (9, 0),
        brings: "npm, which comes with Node.js",
    },
    Tool { name: "go", asked: "version", before: "go version go", least: (1, 24), brings: "Go" },
    Tool {
        name: "mvn",
        asked: "--version",
        before: "Java version: ",
        least: (17, 0),
        brings: "Maven and a JDK (Debian: maven, openjdk-17-jdk)",
    },
];

impl Tool {
    /// What it says of its version; `None` if it cannot be run.
    fn says(&self) -> Option<String> {
        let output = Command::new(self.name).arg(self.asked).stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn is_new_enough(&self, says: &str) -> bool {
        let version = says.split_once(self.before).map(|(_, rest)| rest).unwrap_or_default();
        let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= self.least
    }
}

/// Fails unless the programs of these names can be run. Nothing is passed over for want of one.
pub fn need(wanted: &[&str]) {
    for tool in TOOLS.iter().filter(|tool| wanted.contains(&tool.name)) {
        let (name, (major, minor), brings) = (tool.name, tool.least, tool.brings);
        let says = tool.says().unwrap_or_else(|| "nothing: it cannot be run".to_owned());
        assert!(
            tool.is_new_enough(&says),
            "this test needs `{name}` {major}.{minor} or later, and it says {says}; install {brings}"
        );
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

/// What builds leave in a folder.
const LEFT: [&str; 3] = ["target", "node_modules", ".venv"];

/// Makes a file, or a folder but for what builds leave there, the same as another. What is the same already stays as it
/// is, so that what was built of it is newer; what the other has no more goes.
pub fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        let is_source = |name: &OsStr| !LEFT.iter().any(|left| name == *left);
        for entry in std::fs::read_dir(to).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            if is_source(&name) && !from.join(&name).exists() {
                let gone =
                    if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
                gone.unwrap();
            }
        }
        for entry in std::fs::read_dir(from).unwrap().flatten() {
            let name = entry.file_name();
            if is_source(&name) {
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

/// A kept folder with these files of the repository in it (from, to), in which the command has made `product` of them,
/// by the tools that it needs as they are now.
pub fn built(name: &str, tools: &[&str], files: &[(&str, &str)], command: &[&str], product: &str) -> PathBuf {
    // Two tests may want one folder at the same time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    need(tools);
    let _only = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut wanted = format!("{command:?}\n").into_bytes();
    for tool in TOOLS.iter().filter(|tool| tools.contains(&tool.name)) {
        wanted.extend(tool.says().unwrap_or_default().into_bytes());
    }
    for (from, to) in files {
        let content = std::fs::read(repository(from)).unwrap();
        wanted.extend(format!("{to} {}\n", content.len()).into_bytes());
        wanted.extend(content);
    }
    let known = folder.join("built-of");
    if std::fs::read(&known).is_ok_and(|known| known == wanted) && folder.join(product).exists() {
        return folder;
    }
    // What is half built never has the name under which it is looked for.
    let parent = folder.parent().unwrap();
    std::fs::create_dir_all(parent).unwrap();
    let fresh = tempfile::Builder::new().prefix("being-built-").tempdir_in(parent).unwrap();
    for (from, to) in files {
        copy(&repository(from), &fresh.path().join(to));
    }
    let done = Done::of(Command::new(command[0]).args(&command[1..]).current_dir(fresh.path()));
    assert!(done.status.success(), "{}: {}", command.join(" "), done.all());
    assert!(fresh.path().join(product).exists(), "{} made no {product}: {}", command.join(" "), done.all());
    std::fs::write(fresh.path().join("built-of"), wanted).unwrap();
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::rename(fresh.keep(), &folder).unwrap();
    folder
}

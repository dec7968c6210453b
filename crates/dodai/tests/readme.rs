//! The commands of `README.md`, as a reader types them: every `console` block, in order, in a copy of the examples.
//! Lines without `$` are what the command before prints, among other things.

use std::path::Path;
use std::process::Command;

use crate::project::{Done, binary};

/// The port of `examples/hello`; the copy gets a free one.
const PORT: &str = "8081";

/// One command and what it must print.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    prints: Vec<String>,
}

/// The commands of the `console` blocks of a page.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match (inside, line.strip_prefix("$ ")) {
            (false, _) => inside = line == "```console",
            (true, _) if line == "```" => inside = false,
            (true, Some(command)) => steps.push(Step { command: command.to_owned(), prints: Vec::new() }),
            (true, None) => {
                steps.last_mut().expect("a block begins with a command").prints.push(line.to_owned())
            }
        }
    }
    steps
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match (from.is_dir(), entry.file_name().to_str()) {
            (_, Some("target" | ".dodai")) => {}
            (true, _) => copy(&from, &to),
            (false, _) => drop(std::fs::copy(&from, &to).unwrap()),
        }
    }
}

#[test]
fn the_commands_of_the_readme_do_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let steps = steps(&std::fs::read_to_string(root.join("README.md")).unwrap());
    assert!(steps.len() > 5, "the page has lost its commands: {steps:?}");
    let folder = tempfile::Builder::new().prefix("dodai-readme-").tempdir().unwrap();
    let hello = folder.path().join("examples/hello");
    copy(&root.join("examples/hello"), &hello);
    let [free] = crate::site::free_ports();
    let manifest = std::fs::read_to_string(hello.join("dodai.yaml")).unwrap();
    assert!(manifest.contains(PORT), "the example listens on another port now");
    std::fs::write(hello.join("dodai.yaml"), manifest.replace(PORT, &free.to_string())).unwrap();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    std::os::unix::fs::symlink(binary(), folder.path().join("bin/dodai")).unwrap();

    // `cd` counts for the commands behind it, as in the reader's shell.
    let mut at = folder.path().to_owned();
    let run = |command: &str, at: &Path| {
        let script = format!("PATH=\"{}:$PATH\"; {command}", folder.path().join("bin").display());
        Done::of(Command::new("sh").args(["-c", &script]).current_dir(at))
    };
    let mut wrong = Vec::new();
    for step in &steps {
        if let Some(folder) = step.command.strip_prefix("cd ") {
            at = at.join(folder);
            continue;
        }
        let done = run(&step.command, &at);
        let all = done.all();
        if !done.status.success() || step.prints.iter().any(|line| !all.contains(line)) {
            wrong.push(format!("{} -> {}\n{all}(expected {:?})", step.command, done.status, step.prints));
            break;
        }
    }
    if !wrong.is_empty() {
        let _stopped = run("dodai down", &hello);
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(!hello.join(".dodai/admin.json").exists(), "the last command stops what the first one started");
}

#[test]
fn blocks_are_read_as_written() {
    let page = "```sh\nrm -rf /\n```\n```console\n$ a b\nout\n$ c\n```\n$ not inside\n";
    let step = |command: &str, prints: &[&str]| Step {
        command: command.to_owned(),
        prints: prints.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(steps(page), [step("a b", &["out"]), step("c", &[])]);
}

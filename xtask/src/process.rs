//! Running other programs: always echoed, never through a shell, and a failure says what to do about it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// One command line, with the advice to print when it fails.
pub struct Tool {
    command: Command,
    line: String,
    hint: Option<String>,
}

impl Tool {
    pub fn new(program: impl AsRef<OsStr>, folder: &Path) -> Self {
        let mut command = Command::new(program.as_ref());
        command.current_dir(folder).stdin(Stdio::null());
        Self { command, line: program.as_ref().to_string_lossy().into_owned(), hint: None }
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        for arg in args {
            self.line.push(' ');
            self.line.push_str(&arg.as_ref().to_string_lossy());
            self.command.arg(arg);
        }
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.line = format!("{name}={:?} {}", value.as_ref(), self.line);
        self.command.env(name, value);
        self
    }

    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// What to do when this fails, said to the person who reads the log.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Runs it with our own stdout and stderr.
    pub fn run(mut self) -> Result<()> {
        eprintln!("+ {}", self.line);
        let status = self.command.status().with_context(|| format!("starting `{}`", self.line))?;
        if status.success() {
            return Ok(());
        }
        bail!("`{}` failed ({status}){}", self.line, self.remedy())
    }

    /// Runs it quietly and returns its stdout; stderr is shown only when it fails.
    pub fn output(mut self) -> Result<String> {
        let output = self.command.output().with_context(|| format!("starting `{}`", self.line))?;
        if !output.status.success() {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            bail!("`{}` failed ({}){}", self.line, output.status, self.remedy());
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("`{}` printed bytes that are not UTF-8", self.line))
    }

    /// Runs it and returns what it wrote to stderr, which is shown only when it fails.
    pub fn stderr(mut self) -> Result<String> {
        eprintln!("+ {}", self.line);
        let output = self.command.output().with_context(|| format!("starting `{}`", self.line))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        eprint!("{text}");
        bail!("`{}` failed ({}){}", self.line, output.status, self.remedy())
    }

    fn remedy(&self) -> String {
        self.hint.as_ref().map_or_else(String::new, |hint| format!("\n  to mend it: {hint}"))
    }
}

/// One variable of the environment; the only place that reads it.
#[expect(
    clippy::disallowed_methods,
    reason = "xtask is a binary of its own; every reading goes through here"
)]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The folders of `PATH`.
pub fn search_path() -> Vec<PathBuf> {
    environment("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// Where `program` is found on `PATH`.
pub fn find_program(program: &str) -> Option<PathBuf> {
    search_path().into_iter().map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_the_remedy() {
        let error = Tool::new("false", Path::new("/"))
            .args(["--quietly"])
            .hint("try `true`")
            .output()
            .expect_err("false fails");
        let text = format!("{error:#}");
        assert!(text.contains("false --quietly") && text.contains("to mend it: try `true`"), "{text}");
    }

    #[test]
    fn output_is_what_was_printed() {
        let text = Tool::new("echo", Path::new("/")).args(["a b"]).output().expect("echo runs");
        assert_eq!(text, "a b\n");
    }
}

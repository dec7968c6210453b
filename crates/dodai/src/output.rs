//! What a person or a script reads: tables, JSON, colours where they help.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use serde_json::json;

use crate::cli::{Format, Global};
use crate::environment::Environment;
use crate::exit::Failed;

/// Where and how results are written.
pub struct Output {
    format: Format,
    colour: bool,
    /// The same for standard error, which may lead elsewhere.
    error_colour: bool,
}

impl Output {
    /// Colours only on a terminal, and never with `NO_COLOR`.
    pub fn new(global: &Global, environment: &Environment) -> Output {
        let wanted =
            environment.get("NO_COLOR").is_none_or(str::is_empty) && environment.get("TERM") != Some("dumb");
        Output {
            format: global.output,
            colour: wanted && std::io::stdout().is_terminal(),
            error_colour: wanted && std::io::stderr().is_terminal(),
        }
    }

    /// For commands whose results are not asked for in a format.
    pub fn plain(environment: &Environment) -> Output {
        let wanted = environment.get("NO_COLOR").is_none_or(str::is_empty);
        Output {
            format: Format::Table,
            colour: wanted && std::io::stdout().is_terminal(),
            error_colour: wanted && std::io::stderr().is_terminal(),
        }
    }

    /// Whether results go to a program.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether results are YAML.
    pub fn is_yaml(&self) -> bool {
        self.format == Format::Yaml
    }

    /// Whether results go to a program, as JSON or YAML.
    pub fn is_structured(&self) -> bool {
        self.format != Format::Table
    }

    /// Whether a table may be drawn again and again in one place.
    pub fn is_live(&self) -> bool {
        !self.is_structured() && std::io::stdout().is_terminal()
    }

    /// One value in the format that was asked for; says whether that was JSON or YAML.
    pub fn value(&self, value: &serde_json::Value) -> bool {
        match self.format {
            Format::Table => return false,
            Format::Json => self.json(value),
            Format::Yaml => self.say(crate::client::to_yaml(value).trim_end()),
        }
        true
    }

    /// One value of many on a line of its own; says whether JSON or YAML was asked for.
    pub fn line(&self, value: &serde_json::Value) -> bool {
        match self.format {
            Format::Table => return false,
            Format::Json => self.write(&value.to_string()),
            Format::Yaml => self.write(&format!("---\n{}", crate::client::to_yaml(value).trim_end())),
        }
        true
    }

    /// Empties the terminal.
    pub fn clear(&self) {
        self.write("\x1b[H\x1b[2J");
    }

    /// A remark for people, on standard error.
    pub fn warn(&self, line: &str) {
        let _gone = writeln!(std::io::stderr(), "{} {line}", paint(self.error_colour, "warning:", "33;1"));
    }

    /// A hint for people, on standard error, so that results can be piped.
    pub fn note(&self, line: &str) {
        let _gone = writeln!(std::io::stderr(), "{}", paint(self.error_colour, line, "2"));
    }

    fn write(&self, line: &str) {
        let mut out = std::io::stdout().lock();
        let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    /// One line for people; nothing in JSON mode.
    pub fn say(&self, line: &str) {
        if !self.is_json() {
            let mut out = std::io::stdout().lock();
            // A reader that went away (`| head`) is no reason to fail.
            let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    }

    /// One JSON value; nothing in other modes.
    pub fn json(&self, value: &serde_json::Value) {
        if self.is_json() {
            let mut out = std::io::stdout().lock();
            let _gone = writeln!(out, "{value:#}").and_then(|()| out.flush());
        }
    }

    /// An error with everything that led to it.
    pub fn error(&self, error: &anyhow::Error) {
        let mut text = error.to_string();
        // What only says which exit code it is adds nothing to the words before it.
        for cause in error.chain().skip(1).filter(|cause| !cause.is::<Failed>()) {
            let cause = cause.to_string();
            if !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
        }
        let _gone = writeln!(std::io::stderr(), "{} {text}", paint(self.error_colour, "error:", "31;1"));
    }

    /// Text in a colour, if colours are on.
    pub fn paint(&self, text: &str, code: &str) -> String {
        paint(self.colour, text, code)
    }

    /// Rows under headings, columns as wide as needed.
    pub fn table(&self, headings: &[&str], rows: &[Vec<String>]) {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([headings[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let line = |cells: Vec<&str>| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.say(&self.paint(&line(headings.to_vec()), "1"));
        for row in rows {
            self.say(&line(row.iter().map(String::as_str).collect()));
        }
    }

    /// `dodai version`.
    pub fn version(&self) -> ExitCode {
        let version = env!("CARGO_PKG_VERSION");
        if !self.value(&json!({ "version": version })) {
            self.say(&format!("dodai {version}"));
        }
        ExitCode::SUCCESS
    }
}

fn paint(colour: bool, text: &str, code: &str) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

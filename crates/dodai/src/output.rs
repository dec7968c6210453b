//! What a person or a script reads: tables, JSON, colours where they help.

use std::borrow::Cow;
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
    progress: bool,
}

/// Whether colours and lines that redraw themselves are wanted where they can be had.
/// `NO_COLOR` and a terminal that only prints both say no.
pub fn is_plain(environment: &Environment) -> bool {
    environment.get("NO_COLOR").is_some_and(|value| !value.is_empty())
        || environment.get("TERM") == Some("dumb")
}

impl Output {
    /// Colours only on a terminal, and never with `NO_COLOR`.
    pub fn new(global: &Global, environment: &Environment) -> Output {
        let terminals = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        Output::on(global.output, environment, terminals)
    }

    /// For commands whose results are not asked for in a format.
    pub fn plain(environment: &Environment) -> Output {
        let terminals = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        Output::on(Format::Table, environment, terminals)
    }

    /// Decided from what standard output and standard error lead to.
    fn on(format: Format, environment: &Environment, (out, err): (bool, bool)) -> Output {
        let wanted = !is_plain(environment);
        Output {
            format,
            colour: wanted && out && format == Format::Table,
            error_colour: wanted && err,
            progress: wanted && err && format == Format::Table,
        }
    }

    /// Whether a line that redraws itself may be shown on standard error.
    pub fn shows_progress(&self) -> bool {
        self.progress
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

    /// The one value of a command in the format that was asked for; says whether that was JSON or YAML.
    pub fn value(&self, value: &serde_json::Value) -> bool {
        match self.format {
            Format::Table => return false,
            Format::Json => self.write(&format!("{value:#}")),
            Format::Yaml => self.write(crate::client::to_yaml(value).trim_end()),
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
        self.problem("warning:", line);
    }

    /// A hint for people, on standard error, so that results can be piped.
    pub fn note(&self, line: &str) {
        let _gone = writeln!(std::io::stderr(), "{}", paint(self.error_colour, &harmless(line), "2"));
    }

    /// Takes a line of progress away before another one is written; it is drawn again below it.
    fn wipe(&self) {
        if self.progress {
            let _gone = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    fn write(&self, line: &str) {
        self.wipe();
        let mut out = std::io::stdout().lock();
        let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    /// One line for people; nothing where results go to a program.
    pub fn say(&self, line: &str) {
        if !self.is_structured() {
            // A reader that went away (`| head`) is no reason to fail.
            self.write(line);
        }
    }

    /// The one value of a command, where results go to a program.
    pub fn json(&self, value: &serde_json::Value) {
        let _for_people = self.value(value);
    }

    /// A problem for people, on standard error.
    pub fn problem(&self, word: &str, text: &str) {
        self.wipe();
        let code = if word == "error:" { "31;1" } else { "33;1" };
        let (word, text) = (paint(self.error_colour, word, code), harmless(text));
        let _gone = writeln!(std::io::stderr(), "{word} {text}");
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
        self.problem("error:", &text);
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

/// Text from elsewhere without what would steer the terminal; lines stay lines.
fn harmless(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(steers) {
        return text.into();
    }
    let mut shown = String::new();
    for c in text.chars() {
        if steers(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown.into()
}

fn paint(colour: bool, text: &str, code: &str) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(format: Format, variables: &[(&str, &str)], terminals: (bool, bool)) -> (bool, bool, bool) {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let output = Output::on(format, &Environment(variables.collect()), terminals);
        (output.colour, output.error_colour, output.progress)
    }

    #[test]
    fn colours_and_progress_are_for_people_at_a_terminal() {
        let both = (true, true);
        for (format, variables, terminals, expect) in [
            (Format::Table, &[][..], both, (true, true, true)),
            (Format::Table, &[("TERM", "xterm"), ("NO_COLOR", "")], both, (true, true, true)),
            (Format::Table, &[("NO_COLOR", "1")], both, (false, false, false)),
            (Format::Table, &[("TERM", "dumb")], both, (false, false, false)),
            // Each stream counts for itself: `| less` keeps colours out of the pipe only.
            (Format::Table, &[], (false, true), (false, true, true)),
            (Format::Table, &[], (true, false), (true, false, false)),
            (Format::Json, &[], both, (false, true, false)),
            (Format::Yaml, &[], both, (false, true, false)),
        ] {
            assert_eq!(on(format, variables, terminals), expect, "{format:?} {variables:?} {terminals:?}");
        }
        assert_eq!(paint(true, "x", "1"), "\u{1b}[1mx\u{1b}[0m");
        assert_eq!(paint(false, "x", "1"), "x");
    }

    #[test]
    fn text_from_elsewhere_steers_no_terminal() {
        assert_eq!(harmless("one\n\ttwo é"), "one\n\ttwo é");
        assert_eq!(harmless("\u{1b}[2J\u{7}\0\r\u{9b}1m"), r"\u{1b}[2J\u{7}\u{0}\r\u{9b}1m");
    }
}

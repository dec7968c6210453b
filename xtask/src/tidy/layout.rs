//! The form of files: length, headers, and names that say nothing.

use super::rust_text::{RustText, line_of, words};
use super::{File, Finding};

/// A file longer than this has a second subject.
const MAX_LINES: usize = 600;
/// A module header is a signpost; the long story belongs in docs/.
const MAX_HEADER: usize = 8;

/// Names under which anything can be filed, and so everything is.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "types"];
/// Endings that say only that a thing does something.
const EMPTY_ENDINGS: &[&str] = &["Manager", "Handler", "Helper", "Impl"];
/// Where code lives; other folders are documents and assets.
const CODE: &[&str] = &["crates/", "xtask/", "fuzz/", "examples/", "bench/", "console/src/"];
const CODE_ENDINGS: &[&str] = &[".rs", ".py", ".ts", ".tsx", ".js", ".sh"];

pub fn check(file: &File) -> Vec<Finding> {
    let in_code = CODE.iter().any(|folder| file.path.starts_with(folder));
    if !in_code || !CODE_ENDINGS.iter().any(|ending| file.path.ends_with(ending)) || file.is_generated() {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = length(file).into_iter().chain(path_names(file)).collect();
    if file.is_rust() {
        let text = RustText::new(&file.text);
        findings.extend(header(file));
        findings.extend(inner_names(file, &text.code));
        findings.extend(endings(file, &text.code));
    }
    findings
}

fn length(file: &File) -> Option<Finding> {
    let lines = file.text.lines().count();
    (lines > MAX_LINES).then(|| {
        Finding::at(
            &file.path,
            lines,
            format!("{lines} lines, at most {MAX_LINES}: split it where its second subject begins (generated files say so in their first lines)"),
        )
    })
}

fn path_names(file: &File) -> Option<Finding> {
    let mut parts = file.path.split('/').map(|part| part.split('.').next().unwrap_or(part));
    let bad = parts.find(|part| EMPTY_NAMES.contains(part))?;
    Some(Finding::new(&file.path, format!("`{bad}` names no subject: call the file after what it is about")))
}

fn inner_names(file: &File, code: &str) -> Vec<Finding> {
    declared(code, &["mod "])
        .filter(|(_, name)| EMPTY_NAMES.contains(name))
        .map(|(line, name)| {
            Finding::at(
                &file.path,
                line,
                format!("module `{name}` names no subject: call it after what it is about"),
            )
        })
        .collect()
}

fn endings(file: &File, code: &str) -> Vec<Finding> {
    declared(code, &["struct ", "enum ", "trait ", "type "])
        .filter_map(|(line, name)| {
            let ending = EMPTY_ENDINGS.iter().find(|ending| name.ends_with(*ending))?;
            let message =
                format!("`{name}`: `{ending}` says nothing; name the thing by its part in the story");
            Some(Finding::at(&file.path, line, message))
        })
        .collect()
}

/// Names declared with one of the keywords, and their lines.
fn declared<'a>(code: &'a str, keywords: &'a [&'a str]) -> impl Iterator<Item = (usize, &'a str)> {
    keywords.iter().flat_map(move |keyword| {
        words(code, keyword).map(move |at| {
            let rest = code[at + keyword.len()..].trim_start();
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            (line_of(code, at), &rest[..end])
        })
    })
}

fn header(file: &File) -> Option<Finding> {
    if is_test(&file.path) {
        return None;
    }
    let lines = file.text.lines().take_while(|line| line.starts_with("//!")).count();
    if lines == 0 {
        return Some(Finding::at(
            &file.path,
            1,
            "no `//!` header: say what this is, its place in the flow, and what always or never holds",
        ));
    }
    let is_root = ["lib.rs", "main.rs"].iter().any(|root| file.path.ends_with(&format!("src/{root}")));
    (lines > MAX_HEADER && !is_root).then(|| {
        Finding::at(
            &file.path,
            lines,
            format!("a header of {lines} lines, at most {MAX_HEADER}: the long story belongs in docs/"),
        )
    })
}

/// Tests say what they are by their names.
fn is_test(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs" || part.ends_with("_tests.rs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&File { path: path.to_owned(), text: text.to_owned() }).len()
    }

    #[test]
    fn long_files_are_found() {
        let long = format!("//! Long.\n{}", "\n".repeat(600));
        assert_eq!(findings("crates/a/src/long.rs", &long), 1);
        assert_eq!(findings("bench/long.py", &"x\n".repeat(601)), 1);
        assert_eq!(findings("crates/a/src/long.rs", &format!("// {}generated\n{long}", '@')), 0);
        assert_eq!(findings("crates/a/src/ok.rs", "//! Short.\n"), 0);
    }

    #[test]
    fn headers_are_there_and_short() {
        assert_eq!(findings("crates/a/src/x.rs", "fn f() {}\n"), 1);
        assert_eq!(findings("crates/a/src/x.rs", &"//! a\n".repeat(9)), 1);
        assert_eq!(findings("crates/a/src/lib.rs", &"//! a\n".repeat(9)), 0);
        assert_eq!(findings("crates/a/tests/x.rs", "fn f() {}\n"), 0);
    }

    #[test]
    fn empty_names_are_found() {
        assert_eq!(findings("crates/a/src/util.rs", "//! a\n"), 1);
        assert_eq!(findings("crates/a/src/common/x.rs", "//! a\n"), 1);
        assert_eq!(findings("crates/a/src/x.rs", "//! a\npub mod helpers {}\n"), 1);
        assert_eq!(findings("crates/a/src/x.rs", "//! a\n// mod helpers\nmod types_of_trees {}\n"), 0);
        assert_eq!(findings("crates/a/src/x.rs", "//! a\nstruct PoolManager;\nenum Kind {}\n"), 1);
        assert_eq!(findings("crates/a/src/x.rs", "//! a\nimpl Handler for X {}\n"), 0);
    }
}

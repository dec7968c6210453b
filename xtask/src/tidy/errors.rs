//! The pages under `docs/errors/` and the codes in the sources are the same: a user who meets a code finds it, and
//! no page tells of one that is gone.

use std::collections::BTreeSet;

use super::{File, Finding};

/// A page, and the sources whose codes it explains.
struct Page {
    path: &'static str,
    /// Files or folders.
    sources: &'static [&'static str],
    /// The codes in one source's text.
    codes: fn(&str) -> BTreeSet<String>,
}

const PAGES: [Page; 4] = [
    Page {
        path: "docs/errors/calls.md",
        sources: &["crates/dodai-core/src/failure.rs"],
        codes: |text| after(text, "=> \""),
    },
    Page {
        path: "docs/errors/documents.md",
        sources: &["crates/dodai-api/src/read/problem.rs"],
        codes: |text| after(listed(text), " = \""),
    },
    Page {
        path: "docs/errors/management-api.md",
        sources: &["crates/dodai-admin/src/", "crates/dodai/src/admin/"],
        codes: refusals,
    },
    Page { path: "docs/errors/README.md", sources: &["crates/dodai/src/exit.rs"], codes: exits },
];

/// Words that are no codes though they stand where codes do: the ones that the shell and clap give.
const EXIT_CODES_OF_OTHERS: [&str; 3] = ["0", "2", "130"];

pub fn check(files: &[File]) -> Vec<Finding> {
    PAGES.iter().flat_map(|page| check_page(page, files)).collect()
}

fn check_page(page: &Page, files: &[File]) -> Vec<Finding> {
    let Some(found) = files.iter().find(|file| file.path == page.path) else {
        return vec![Finding::new(page.path, "is missing: users look up codes of errors there")];
    };
    let explained = rows(&found.text);
    let is_source = |file: &&File| page.sources.iter().any(|source| file.path.starts_with(source));
    let (mut known, mut findings) = (BTreeSet::new(), Vec::new());
    for source in files.iter().filter(is_source) {
        let codes = (page.codes)(&source.text);
        for code in codes.difference(&explained) {
            let message =
                format!("the code `{code}` has no line in {}: say what, why and the remedy", page.path);
            findings.push(Finding::new(&source.path, message));
        }
        known.extend(codes);
    }
    for code in explained.difference(&known).filter(|code| !is_of_others(page, code)) {
        let message = format!("`{code}` is explained and no source has it: take the line out");
        findings.push(Finding::new(page.path, message));
    }
    findings
}

fn is_of_others(page: &Page, code: &str) -> bool {
    page.path.ends_with("README.md") && EXIT_CODES_OF_OTHERS.contains(&code)
}

/// The first cells of a page's tables, where they are one code.
fn rows(text: &str) -> BTreeSet<String> {
    let cell = |line: &str| {
        let cell = line.strip_prefix("| ")?.split(" |").next()?;
        let word = cell.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
        let code =
            word.or_else(|| Some(cell).filter(|cell| cell.bytes().all(|byte| byte.is_ascii_digit())))?;
        is_code(code).then(|| code.to_owned())
    };
    text.lines().filter_map(cell).collect()
}

fn is_code(text: &str) -> bool {
    let number = text.bytes().all(|byte| byte.is_ascii_digit());
    let word = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    !text.is_empty() && (number || word)
}

/// The quoted codes that stand right behind `mark`; tests at the end of a file are left out.
fn after(text: &str, mark: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    let quoted = code.split(mark).skip(1).filter_map(|rest| rest.split('"').next());
    quoted.filter(|word| is_code(word)).map(str::to_owned).collect()
}

/// The list that a `codes!` macro is given.
fn listed(text: &str) -> &str {
    let list = text.split("codes! {").nth(1).unwrap_or_default();
    list.split("\n}").next().unwrap_or(list)
}

/// `StatusCode::CONFLICT, "conflict"`, on one line or two.
fn refusals(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    let quoted = code.split("StatusCode::").skip(1).filter_map(|rest| {
        let rest =
            rest.trim_start_matches(|c: char| c.is_ascii_uppercase() || c == '_' || c == '}' || c == ' ');
        rest.strip_prefix(',')?.trim_start().strip_prefix('"')?.split('"').next()
    });
    quoted.filter(|word| is_code(word)).map(str::to_owned).collect()
}

/// The numbers of `Some(Failed::...) => N`, and what is left; and codes with a name of their own.
fn exits(text: &str) -> BTreeSet<String> {
    let code = text.split("fn code_of").nth(1).unwrap_or_default();
    let code = code.split("#[cfg(test)]").next().unwrap_or(code);
    let numbers = code.split("=> ").skip(1).filter_map(|rest| rest.split([',', '\n', ' ']).next());
    let named = text.split(": u8 = ").skip(1).filter_map(|rest| rest.split(';').next());
    numbers.chain(named).filter(|number| is_code(number)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    fn of_page(page: usize, source: &str, text: &str) -> Vec<Finding> {
        let page = &PAGES[page];
        let files = [file(page.path, text), file(&format!("{}x.rs", page.sources[0]), source)];
        check_page(page, &files)
    }

    #[test]
    fn a_page_that_is_missing_is_told() {
        assert_eq!(check(&[]).len(), PAGES.len());
    }

    #[test]
    fn codes_and_lines_are_the_same() {
        let table = "| code | x |\n|---|---|\n| `no_route` | 404 |\n| `trap` | 502 |\n";
        let source =
            "NoRoute => \"no_route\", Client;\n Trap => \"trap\", Endpoint;\n#[cfg(test)] X => \"fake\",";
        assert_eq!(of_page(0, source, table), []);
        assert_eq!(of_page(0, "NoRoute => \"no_route\",", table).len(), 1, "a line without a code");
        let more = source.replace("#[cfg", "Y => \"new_one\",\n#[cfg");
        let found = of_page(0, &more, table);
        assert!(found.len() == 1 && found[0].message.contains("`new_one`"), "{found:?}");
    }

    #[test]
    fn codes_are_found_where_they_stand() {
        let text = "Refusal::new(StatusCode::CONFLICT, \"conflict\", t); else { StatusCode::BAD_GATEWAY },\n  \"publish\",";
        assert_eq!(refusals(text), ["conflict", "publish"].map(str::to_owned).into());
        let text = "pub const DIFFERS: u8 = 6;\nfn code_of() {\n Some(A) => 3,\n None => 1,\n }";
        assert_eq!(exits(text), ["1", "3", "6"].map(str::to_owned).into());
        let text = "codes! {\n    Syntax = \"syntax\",\n}\n#[serde(rename_all = \"lowercase\")]";
        assert_eq!(after(listed(text), " = \""), ["syntax"].map(str::to_owned).into());
    }
}

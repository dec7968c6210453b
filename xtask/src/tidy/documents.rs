//! The documents that are kept short, and the list of decisions, which is complete.

use super::{File, Finding};

const DECISIONS: &str = "docs/adr/";
const INDEX: &str = "docs/adr/README.md";
const MAX_DECISION: usize = 60;
const MAX_ARCHITECTURE: usize = 300;

pub fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let index = files.iter().find(|file| file.path == INDEX).map_or("", |file| file.text.as_str());
    let mut numbers: Vec<&str> = Vec::new();
    for file in files {
        if file.path == "ARCHITECTURE.md" {
            findings.extend(length(file, MAX_ARCHITECTURE, "it is read in one sitting; details go to docs/"));
        }
        let Some(name) = file.path.strip_prefix(DECISIONS).filter(|_| file.path != INDEX) else { continue };
        findings.extend(length(
            file,
            MAX_DECISION,
            "a decision is its context, options, choice and what would change it",
        ));
        findings.extend(listed(file, name, index));
        match name.split_once('-') {
            Some((number, _)) if number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit()) => {
                if numbers.contains(&number) {
                    findings.push(Finding::new(
                        &file.path,
                        format!("number {number} is taken: take the next free one"),
                    ));
                }
                numbers.push(number);
            }
            _ => findings.push(Finding::new(
                &file.path,
                "decisions are named NNNN-what-it-is-about.md, so that they sort",
            )),
        }
    }
    findings
}

fn length(file: &File, most: usize, reason: &str) -> Option<Finding> {
    let lines = file.text.lines().count();
    (lines > most).then(|| Finding::new(&file.path, format!("{lines} lines, at most {most}: {reason}")))
}

fn listed(file: &File, name: &str, index: &str) -> Option<Finding> {
    (!index.contains(&format!("]({name})"))).then(|| {
        Finding::new(
            &file.path,
            format!("not listed in {INDEX}, where readers look: add a line that links it"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn decisions_are_listed_short_and_numbered() {
        let index = file(INDEX, "- [one](0001-one.md)\n- [two](0001-two.md)\n- [x](x.md)");
        assert_eq!(check(&[file(INDEX, "[one](0001-one.md)"), file("docs/adr/0001-one.md", "x")]), []);
        assert_eq!(check(&[file("docs/adr/0001-one.md", "x")]).len(), 1);
        assert_eq!(
            check(&[index, file("docs/adr/0001-one.md", "x"), file("docs/adr/0001-two.md", "x")]).len(),
            1
        );
        assert_eq!(check(&[file(INDEX, "[x](x.md)"), file("docs/adr/x.md", "x")]).len(), 1);
        let long = "x\n".repeat(61);
        assert_eq!(check(&[file(INDEX, "[one](0001-one.md)"), file("docs/adr/0001-one.md", &long)]).len(), 1);
        assert_eq!(check(&[file("ARCHITECTURE.md", &"x\n".repeat(301))]).len(), 1);
    }
}

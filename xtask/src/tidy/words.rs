//! Words that may not stand in a file: in code (sockets, `unsafe`, unfinished work) and in any text (this machine).

use super::rust_text::{RustText, line_of, words};
use super::{File, Finding};

/// A word in code, where it may not be, and why.
struct Ban {
    words: &'static [&'static str],
    /// Prefixes of paths under the rule; an empty list means everywhere.
    inside: &'static [&'static str],
    /// Parts of paths that are exempt.
    except: &'static [&'static str],
    /// Text that, somewhere in the file, makes the word right.
    unless: Option<&'static str>,
    reason: &'static str,
}

const CODE_BANS: &[Ban] = &[
    Ban {
        words: &[
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "tokio::net",
            "std::net::ToSocketAddrs",
        ],
        inside: &["crates/dodai-core/", "crates/dodai-api/"],
        except: &[],
        unless: None,
        reason: "core and api know no sockets, so that all of it runs in simulation; sockets live in dodai-transport",
    },
    Ban {
        words: &["unsafe"],
        inside: &[],
        except: &[
            "crates/dodai-transport/",
            "crates/dodai-modules/",
            "crates/dodai-base/src/shim",
            "crates/dodai-base/src/footprint.rs",
        ],
        unless: None,
        reason: "unsafe code lives in the transport, the module host, the process shim and where pages are given back, \
                 each use with its reason",
    },
    Ban {
        words: &["SystemTime::now"],
        inside: &["crates/dodai-dataplane/src/"],
        // Times of tokens, `Retry-After`, and what records and headers say of when a call was.
        except: &["/jwt.rs", "/refused.rs", "/lap.rs", "/stats.rs", "/changes.rs"],
        unless: None,
        reason: "the wall clock jumps: timeouts, limits and breakers are measured with `Instant`, and it is read only for what \
                 the world dates",
    },
    Ban {
        words: &["todo!", "unimplemented!"],
        inside: &[],
        except: &[],
        unless: None,
        reason: "unfinished work is not merged: return a typed error that says what is not supported",
    },
    Ban {
        words: &["#[ignore", ", ignore]", ",ignore]", ", ignore)]"],
        inside: &[],
        except: &[],
        // Code that a test of the same file starts as a process of its own, to kill it.
        unless: Some("\"--ignored\""),
        reason: "a test that does not run protects nothing: mend it, or make it say aloud at run time why it cannot run",
    },
];

const REASON_NOTES: &str =
    "notes to oneself belong in a change of their own: do it now, or write down the limit for the user";
const REASON_PATHS: &str = "a path of one machine means nothing on another: use a relative path or a setting";
const REASON_HOSTS: &str =
    "builds reach registries through their clients, which may be pointed at a mirror: name the package only";

/// Split so that this table does not find itself.
const HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("registry.npm", "js.org"),
    concat!("pypi", ".org"),
    concat!("files.python", "hosted.org"),
    concat!("proxy.golang", ".org"),
    concat!("repo.maven", ".apache.org"),
    concat!("repo1.maven", ".org"),
    concat!("deb.debian", ".org"),
];

const MACHINE_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/tmp/ta", "rget")];

pub fn check(file: &File) -> Vec<Finding> {
    let mut findings = anywhere(file);
    if file.is_generated() {
        return findings;
    }
    if file.is_rust() {
        let text = RustText::new(&file.text);
        for ban in CODE_BANS {
            findings.extend(banned(file, &text.code, ban));
        }
        findings.extend(notes(&file.path, &text.code));
        findings.extend(notes(&file.path, &text.comments));
    } else if !file.path.ends_with(".md") {
        findings.extend(notes(&file.path, &file.text));
    }
    findings
}

fn banned(file: &File, code: &str, ban: &Ban) -> Vec<Finding> {
    let applies = ban.inside.is_empty() || ban.inside.iter().any(|prefix| file.path.starts_with(prefix));
    let excused = ban.unless.is_some_and(|text| file.text.contains(text));
    if !applies || excused || ban.except.iter().any(|part| file.path.contains(part)) {
        return Vec::new();
    }
    let hits = ban.words.iter().flat_map(|word| words(code, word).map(move |at| (at, *word)));
    hits.map(|(at, word)| Finding::at(&file.path, line_of(code, at), format!("`{word}`: {}", ban.reason)))
        .collect()
}

fn notes(path: &str, text: &str) -> Vec<Finding> {
    let hits = ["FIXME", "XXX"].into_iter().flat_map(|word| words(text, word).map(move |at| (at, word)));
    hits.map(|(at, word)| Finding::at(path, line_of(text, at), format!("`{word}`: {REASON_NOTES}"))).collect()
}

/// Rules for every text file.
fn anywhere(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_lock =
        file.path.ends_with(".lock") || file.path.ends_with("-lock.json") || file.path.ends_with(".lock.txt");
    if !is_lock {
        for host in HOSTS {
            for (at, _) in file.text.match_indices(host) {
                findings.push(Finding::at(
                    &file.path,
                    line_of(&file.text, at),
                    format!("`{host}`: {REASON_HOSTS}"),
                ));
            }
        }
    }
    for path in MACHINE_PATHS {
        for (at, _) in file.text.match_indices(path) {
            // Only where the path begins here: `/var/lib/x/` may well hold such a folder.
            let before = file.text[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && !"._-}*$/~>".contains(c)) {
                findings.push(Finding::at(
                    &file.path,
                    line_of(&file.text, at),
                    format!("`{path}`: {REASON_PATHS}"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&File { path: path.to_owned(), text: text.to_owned() }).len()
    }

    #[test]
    fn core_knows_no_sockets() {
        assert_eq!(findings("crates/dodai-core/src/x.rs", "use tokio::net::TcpStream;"), 2);
        assert_eq!(findings("crates/dodai-api/src/x.rs", "use std::net::UdpSocket;"), 1);
        assert_eq!(findings("crates/dodai-core/src/x.rs", "use std::net::SocketAddr; // TcpStream"), 0);
        assert_eq!(findings("crates/dodai-transport/src/x.rs", "use tokio::net::TcpStream;"), 0);
    }

    #[test]
    fn unsafe_has_its_places() {
        assert_eq!(findings("crates/dodai-core/src/x.rs", "unsafe { f() }"), 1);
        assert_eq!(findings("crates/dodai-core/src/x.rs", "#![deny(unsafe_code)] // unsafe"), 0);
        assert_eq!(findings("crates/dodai-transport/src/x.rs", "unsafe { f() }"), 0);
        assert_eq!(findings("crates/dodai-base/src/shim.rs", "unsafe { f() }"), 0);
        assert_eq!(findings("crates/dodai-base/src/lib.rs", "unsafe { f() }"), 1);
    }

    #[test]
    fn the_data_path_reads_the_wall_clock_where_it_must() {
        let text = "let now = SystemTime::now();";
        assert_eq!(findings("crates/dodai-dataplane/src/rate.rs", text), 1);
        assert_eq!(findings("crates/dodai-dataplane/src/jwt.rs", text), 0);
        assert_eq!(findings("crates/dodai-dataplane/tests/main/tokens.rs", text), 0);
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(findings("crates/a/src/x.rs", "fn f() { todo!() }"), 1);
        assert_eq!(findings("crates/a/src/x.rs", "fn f() { unimplemented!(\"later\") }"), 1);
        assert_eq!(findings("crates/a/src/x.rs", "#[ignore]\nfn f() {}"), 1);
        assert_eq!(
            findings("crates/a/tests/x.rs", "#[ignore = \"a child\"]\nfn f() { run(\"--ignored\") }"),
            0
        );
        assert_eq!(findings("crates/a/src/x.rs", "#[cfg_attr(miri, ignore)]\nfn f() {}"), 1);
        assert_eq!(findings("crates/a/src/x.rs", "// FIXME: later"), 1);
        assert_eq!(findings("bench/run.sh", "# XXX\nmktemp x.XXXXXX"), 1);
        assert_eq!(findings("crates/a/src/x.rs", "let x = \"todo!() FIXME\";"), 0);
    }

    #[test]
    fn machines_and_registries_are_not_named() {
        assert_eq!(findings("docs/x.md", &format!("see {}thing", MACHINE_PATHS[0])), 1);
        assert_eq!(findings("docs/x.md", &format!("`{}.cargo`", MACHINE_PATHS[1])), 1);
        assert_eq!(findings("docs/x.md", &format!("/var/lib{}thing", MACHINE_PATHS[0])), 0);
        assert_eq!(findings("docs/x.md", &format!("https://{}/x", HOSTS[0])), 1);
        assert_eq!(findings("Cargo.lock", &format!("https://{}/x", HOSTS[0])), 0);
    }
}

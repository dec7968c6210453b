//! Paths as an endpoint may read them: what routes and access rules are compared with.
//!
//! Endpoints decode escapes, merge slashes and follow dot segments, each in its own way. A rule that looked at the raw
//! bytes would be passed by another spelling of the same path. The path itself is sent on as it came.

use std::borrow::Cow;

/// `path` as RFC 3986 section 6.2.2 makes it, with slashes merged: escapes of letters, digits and `-._~` decoded,
/// dot segments gone. Borrowed when it is so already, as nearly all are.
pub fn normal(path: &str) -> Cow<'_, str> {
    if is_normal(path) { Cow::Borrowed(path) } else { Cow::Owned(settle(&unescape(path, is_unreserved))) }
}

/// How an endpoint may read what RFC 3986 leaves to it.
#[derive(Clone, Copy, Debug)]
struct Habit {
    /// Parameters of segments (`;a=b`) are left out: never, before escapes are decoded, or after.
    parameters: Parameters,
    /// `%2f`, `\` and `%5c` are slashes.
    slashes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parameters {
    Kept,
    DroppedFirst,
    DroppedLast,
}

const HABITS: [Habit; 6] = {
    use Parameters::{DroppedFirst, DroppedLast, Kept};
    [
        Habit { parameters: Kept, slashes: false },
        Habit { parameters: Kept, slashes: true },
        Habit { parameters: DroppedFirst, slashes: false },
        Habit { parameters: DroppedFirst, slashes: true },
        Habit { parameters: DroppedLast, slashes: false },
        Habit { parameters: DroppedLast, slashes: true },
    ]
};

/// `path` as an endpoint of that habit reads it.
fn read(path: &str, habit: Habit) -> String {
    let bare = |path: &str| {
        let segments: Vec<&str> =
            path.split('/').map(|one| one.split(';').next().unwrap_or_default()).collect();
        segments.join("/")
    };
    let first = if habit.parameters == Parameters::DroppedFirst { bare(path) } else { path.to_owned() };
    let mut decoded = unescape(&first, |byte| habit.slashes || !matches!(byte, b'/' | b'\\'));
    if habit.slashes {
        decoded = decoded.replace('\\', "/");
    }
    settle(&if habit.parameters == Parameters::DroppedLast { bare(&decoded) } else { decoded })
}

/// Whether [`normal`] changes nothing. One pass, no table: paths are short.
fn is_normal(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.first() == Some(&b'/')
        && !bytes.contains(&b'%')
        && !bytes.windows(2).any(|pair| pair[0] == b'/' && matches!(pair[1], b'/' | b'.'))
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Decodes the escapes of bytes that `which` wants decoded; what is no escape stays.
fn unescape(path: &str, which: impl Fn(u8) -> bool) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = bytes.get(at..at + 3).filter(|three| three[0] == b'%').and_then(|three| {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(three[1])? * 16 + digit(three[2])?).ok()
        });
        match escaped {
            Some(decoded) if which(decoded) => {
                out.push(decoded);
                at += 3;
            }
            Some(_) | None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Follows dot segments and merges slashes. A path that does not begin with a slash (`*`) stays.
fn settle(path: &str) -> String {
    if !path.starts_with('/') {
        return path.to_owned();
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').peekable();
    let mut is_folder = false;
    while let Some(segment) = segments.next() {
        is_folder = segments.peek().is_none() && matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    let end = if is_folder && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/"))
}

/// A path with all its readings, for rules that guard.
pub struct Readings<'a> {
    path: &'a str,
    /// As each of [`HABITS`] reads it; nothing when all read the path as it is.
    read: Vec<String>,
}

impl<'a> Readings<'a> {
    /// The readings of `path`.
    pub fn of(path: &'a str) -> Readings<'a> {
        let is_plain = is_normal(path) && !path.bytes().any(|byte| matches!(byte, b';' | b'\\'));
        let read =
            if is_plain { Vec::new() } else { HABITS.iter().map(|habit| read(path, *habit)).collect() };
        Readings { path, read }
    }

    /// Whether some endpoint may read a path that `rule` covers: what a rule that denies asks.
    pub fn may_be(&self, rule: &str) -> bool {
        covers(rule, self.path) || covers(rule, &normal(self.path)) || self.each(rule).any(|covered| covered)
    }

    /// Whether every endpoint reads a path that `rule` covers: what a rule that allows asks.
    pub fn must_be(&self, rule: &str) -> bool {
        if self.read.is_empty() { covers(rule, self.path) } else { self.each(rule).all(|covered| covered) }
    }

    /// For each habit, whether `rule` covers what it reads; the rule may be spelled as the path is.
    fn each<'r>(&'r self, rule: &'r str) -> impl Iterator<Item = bool> + 'r {
        let habits = self.read.iter().zip(HABITS);
        habits.map(move |(path, habit)| covers(rule, path) || covers(&read(rule, habit), path))
    }
}

/// Whether the path of a rule covers `path`: exactly, or everything below when it ends in `/*`.
fn covers(rule: &str, path: &str) -> bool {
    rule.strip_suffix("/*").map_or(path == rule, |prefix| has_prefix(path, prefix))
}

/// Whether `path` starts with the whole segments of `prefix` (which has no slash at its end).
pub fn has_prefix(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_path_are_one() {
        for (path, expect) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b", "/a/b"),
            ("/./a/./b/.", "/a/b/"),
            ("/a/../b", "/b"),
            ("/../../a", "/a"),
            ("/a/b/..", "/a/"),
            ("/a/..", "/"),
            ("/%61dmin", "/admin"),
            ("/a/%2e%2E/b", "/b"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a%", "/a%"),
            ("/a%4", "/a%4"),
            ("/a%zz", "/a%zz"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(normal(path), expect, "{path}");
        }
    }

    #[test]
    fn a_guard_holds_for_every_reading() {
        let below = "/admin/*";
        for path in [
            "/admin",
            "/admin/x",
            "//admin/x",
            "/./admin/x",
            "/a/../admin/x",
            "/%61dmin/x",
            "/a/%2e%2e/admin",
            "/admin%2Fx",
            "/a%2f..%2fadmin/x",
            "/a\\..\\admin",
            "/admin;v=1/x",
            "/a/..;/admin/x",
            "/admin;%2f..%2fx",
            "/admin;a=%2f..",
            "/a%2fb/../admin;x",
            "/a\\b/../admin;x",
            "/x/%2e%2e;/admin",
        ] {
            assert!(Readings::of(path).may_be(below), "{path} passes a rule that denies");
        }
        for path in ["/administrator", "/a/admin", "/public/admin%2F", "/", "/admins;x"] {
            assert!(!Readings::of(path).may_be(below), "{path}");
        }
        for path in ["/open/x", "/open", "/open/./x"] {
            assert!(Readings::of(path).must_be("/open/*"), "{path}");
        }
        for path in [
            "/open/../admin",
            "/open/..%2fadmin",
            "/open/..;/admin",
            "/open/..\\admin",
            "/open/..;%2fopen%2fx%2f../admin",
        ] {
            assert!(!Readings::of(path).must_be("/open/*"), "{path} is let in by a rule for /open");
        }
        assert!(Readings::of("/a;v=1/b").must_be("/a;v=1/b"));
        assert!(Readings::of("/files/a%2Fb").must_be("/files/a%2Fb"));
    }

    proptest! {
        #[test]
        fn a_normal_path_stays(path in "/[a-z./%0-9;\\\\]{0,30}") {
            let once = normal(&path).into_owned();
            prop_assert!(once.starts_with('/'));
            // What an escape of an escape decodes to is for the endpoint's second look, not for ours.
            prop_assume!(!path.contains("%25"));
            prop_assume!(!once.contains('%'));
            prop_assert_eq!(normal(&once).into_owned(), once);
        }

        #[test]
        fn no_reading_climbs_above_the_root(path in "/[a./%2eEfF;\\\\]{0,30}") {
            let readings = Readings::of(&path);
            for one in &readings.read {
                prop_assert!(!one.split('/').any(|segment| segment == ".."), "{} of {}", one, path);
            }
        }
    }
}

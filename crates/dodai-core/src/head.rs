//! Request and response heads as the stations see them: borrowed, read through one view, changed only
//! through a list of edits that the codec applies when it writes.
//!
//! [`RequestHead`] is `Raw` (HTTP/1: slices into the bytes that arrived) or `Map` (HTTP/2 and in-process
//! calls). Nothing here allocates on the plain path: an edit's value is kept inline up to 64 bytes.
//! Header names compare without case; values are bytes.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use smallvec::SmallVec;

/// One header as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct RawHeader<'a> {
    /// The name, in the sender's case.
    pub name: &'a str,
    /// The value without surrounding white space.
    pub value: &'a [u8],
}

/// A request head in HTTP/1 form.
#[derive(Clone, Copy, Debug)]
pub struct RawRequest<'a> {
    /// The method token.
    pub method: &'a str,
    /// Path and query, starting with `/` (or `*`).
    pub target: &'a str,
    /// The authority: from an absolute target, else the `Host` header; may be empty.
    pub authority: &'a str,
    /// All headers, in order.
    pub headers: &'a [RawHeader<'a>],
}

/// A request head, whatever it is made of.
#[derive(Clone, Copy, Debug)]
pub enum RequestHead<'a> {
    /// Slices into HTTP/1 bytes.
    Raw(RawRequest<'a>),
    /// Parsed parts.
    Map(&'a http::request::Parts),
}

impl<'a> RequestHead<'a> {
    /// The method token.
    pub fn method(&self) -> &'a str {
        match self {
            RequestHead::Raw(raw) => raw.method,
            RequestHead::Map(parts) => parts.method.as_str(),
        }
    }

    /// The path without the query.
    pub fn path(&self) -> &'a str {
        let target = self.target();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    /// The query, without `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    /// Path and query.
    pub fn target(&self) -> &'a str {
        match self {
            RequestHead::Raw(raw) => raw.target,
            RequestHead::Map(parts) => parts.uri.path_and_query().map_or("/", |target| target.as_str()),
        }
    }

    /// The authority as sent, with its port if it had one; empty if there was none.
    pub fn authority(&self) -> &'a str {
        match self {
            RequestHead::Raw(raw) => raw.authority,
            RequestHead::Map(parts) => match parts.uri.authority() {
                Some(authority) => authority.as_str(),
                None => {
                    parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("")
                }
            },
        }
    }

    /// The host part of the authority, without port; an IPv6 literal keeps its brackets.
    pub fn host(&self) -> &'a str {
        host_of(self.authority())
    }

    /// The first value of `name`.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        match self {
            RequestHead::Raw(raw) => raw
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name))
                .map(|header| header.value),
            RequestHead::Map(parts) => parts.headers.get(name).map(HeaderValue::as_bytes),
        }
    }

    /// Visits every header in order.
    pub fn for_each_header(&self, mut visit: impl FnMut(&'a str, &'a [u8])) {
        match self {
            RequestHead::Raw(raw) => raw.headers.iter().for_each(|header| visit(header.name, header.value)),
            RequestHead::Map(parts) => {
                parts.headers.iter().for_each(|(name, value)| visit(name.as_str(), value.as_bytes()));
            }
        }
    }

    /// Whether this is a gRPC request (its content type begins with `application/grpc`).
    pub fn is_grpc(&self) -> bool {
        self.header("content-type").is_some_and(|value| value.starts_with(b"application/grpc"))
    }

    /// Whether the method is idempotent by RFC 9110 section 9.2.2.
    pub fn is_idempotent(&self) -> bool {
        is_idempotent(self.method().as_bytes())
    }
}

/// Whether `method` is idempotent by RFC 9110 section 9.2.2.
pub fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

/// The host of `authority` without its port.
pub fn host_of(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.find(']').map_or(authority, |end| &authority[..=end]);
    }
    // Authorities are short: a plain loop is quicker than a search that is set up for long texts.
    authority.bytes().position(|byte| byte == b':').map_or(authority, |colon| &authority[..colon])
}

/// The port of `authority`, when it names one.
pub fn port_of(authority: &str) -> Option<u16> {
    let rest = &authority[host_of(authority).len()..];
    rest.strip_prefix(':').and_then(|port| port.parse().ok())
}

/// A short byte string kept inline up to 64 bytes.
pub type Short = SmallVec<[u8; 64]>;

/// One change to a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Removes every header of that name, then adds one.
    Set(HeaderName, Short),
    /// Adds one header.
    Append(HeaderName, Short),
    /// Removes every header of that name.
    Remove(HeaderName),
    /// Replaces path and query.
    Target(Short),
    /// Replaces the authority.
    Authority(Short),
}

fn length_bit(length: usize) -> u64 {
    1 << length.min(63)
}

impl Edit {
    /// The bit of the length of the name that it changes in any way.
    fn name_bit(&self) -> u64 {
        match self {
            Edit::Set(name, _) | Edit::Append(name, _) | Edit::Remove(name) => {
                length_bit(name.as_str().len())
            }
            Edit::Target(_) | Edit::Authority(_) => 0,
        }
    }

    /// Whether it takes away what stood there as `name`.
    fn replaces(&self, name: &HeaderName) -> bool {
        matches!(self, Edit::Set(own, _) | Edit::Remove(own) if own == name)
    }

    /// The bit of the length of the name that it replaces or removes.
    fn length_bit(&self) -> u64 {
        match self {
            Edit::Set(name, _) | Edit::Remove(name) => length_bit(name.as_str().len()),
            Edit::Append(..) | Edit::Target(_) | Edit::Authority(_) => 0,
        }
    }

    fn is_of_start_line(&self) -> bool {
        matches!(self, Edit::Target(_) | Edit::Authority(_))
    }

    fn write_added(&self, out: &mut Vec<u8>) {
        match self {
            Edit::Set(name, value) | Edit::Append(name, value) => {
                write_header(out, name.as_str().as_bytes(), value)
            }
            Edit::Remove(_) | Edit::Target(_) | Edit::Authority(_) => {}
        }
    }
}

/// Writes one header as HTTP/1 does.
pub fn write_header(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Changes that are made alike to many heads; what they add is written out once.
#[derive(Debug)]
pub struct Prepared {
    edits: Vec<Edit>,
    /// The headers that they add, as HTTP/1 writes them.
    lines: Vec<u8>,
    lengths: u64,
    names: u64,
    start_line: bool,
    crossing: bool,
}

impl Prepared {
    /// These changes.
    pub fn new(edits: Vec<Edit>) -> Arc<Prepared> {
        let mut all = Edits::new();
        edits.iter().for_each(|edit| all.push(edit.clone()));
        let mut lines = Vec::new();
        all.write_added(&mut lines);
        let Edits { lengths, names, start_line, crossing, .. } = all;
        Arc::new(Prepared { edits, lines, lengths, names, start_line, crossing })
    }
}

/// The changes to one head, applied in order when it is written.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    parts: SmallVec<[Part; 6]>,
    /// A bit for each length that the name of a replaced or removed header has: most names are told apart by it.
    lengths: u64,
    /// The same of each header that is changed in any way.
    names: u64,
    /// Whether target or authority change.
    start_line: bool,
    /// Whether a change may take back what one before it added.
    crossing: bool,
}

#[derive(Clone, Debug)]
enum Part {
    One(Edit),
    All(Arc<Prepared>),
}

impl Part {
    fn edits(&self) -> &[Edit] {
        match self {
            Part::One(edit) => std::slice::from_ref(edit),
            Part::All(prepared) => &prepared.edits,
        }
    }
}

impl Edits {
    /// No changes.
    pub fn new() -> Edits {
        Edits::default()
    }

    /// Adds a change after the others.
    pub fn push(&mut self, edit: Edit) {
        self.crossing |= self.names & edit.length_bit() != 0;
        self.lengths |= edit.length_bit();
        self.names |= edit.name_bit();
        self.start_line |= edit.is_of_start_line();
        self.parts.push(Part::One(edit));
    }

    /// Adds changes after the others without copying them.
    pub fn push_all(&mut self, prepared: &Arc<Prepared>) {
        self.crossing |= prepared.crossing || self.names & prepared.lengths != 0;
        self.lengths |= prepared.lengths;
        self.names |= prepared.names;
        self.start_line |= prepared.start_line;
        self.parts.push(Part::All(prepared.clone()));
    }

    /// Adds the changes of `others` after these.
    pub fn extend(&mut self, others: &Edits) {
        self.crossing |= others.crossing || self.names & others.lengths != 0;
        self.lengths |= others.lengths;
        self.names |= others.names;
        self.start_line |= others.start_line;
        self.parts.extend(others.parts.iter().cloned());
    }

    /// Sets a header.
    pub fn set(&mut self, name: HeaderName, value: &[u8]) {
        self.push(Edit::Set(name, Short::from_slice(value)));
    }

    /// Gives a header another value where these changes set it; says whether they do.
    pub fn set_anew(&mut self, name: &HeaderName, value: &[u8]) -> bool {
        let values = self.parts.iter_mut().filter_map(|part| match part {
            Part::One(Edit::Set(own, old)) if own == name => Some(old),
            Part::One(_) | Part::All(_) => None,
        });
        values.map(|old| *old = Short::from_slice(value)).count() > 0
    }

    /// Takes back what was set for a header.
    pub fn unset(&mut self, name: &HeaderName) {
        self.parts.retain(|part| !matches!(part, Part::One(Edit::Set(known, _)) if known == name));
    }

    /// The changes in order.
    pub fn iter(&self) -> impl Iterator<Item = &Edit> {
        self.parts.iter().flat_map(Part::edits)
    }

    /// The target that these changes make, if they make one.
    pub fn target(&self) -> Option<&Short> {
        let targets =
            self.iter().filter_map(|edit| if let Edit::Target(target) = edit { Some(target) } else { None });
        targets.last()
    }

    /// Whether target or authority may change.
    pub fn change_start_line(&self) -> bool {
        self.start_line
    }

    /// The headers that are added, but for those that a later change takes back.
    pub fn added(&self) -> impl Iterator<Item = (&HeaderName, &Short)> {
        let stays = |at: usize, name: &HeaderName| {
            !self.crossing || !self.iter().skip(at + 1).any(|later| later.replaces(name))
        };
        self.iter().enumerate().filter_map(move |(at, edit)| match edit {
            Edit::Set(name, value) | Edit::Append(name, value) => stays(at, name).then_some((name, value)),
            Edit::Remove(_) | Edit::Target(_) | Edit::Authority(_) => None,
        })
    }

    /// Writes the headers that are added, as HTTP/1 does.
    pub fn write_added(&self, out: &mut Vec<u8>) {
        if self.crossing {
            self.added().for_each(|(name, value)| write_header(out, name.as_str().as_bytes(), value));
            return;
        }
        for part in &self.parts {
            match part {
                Part::One(edit) => edit.write_added(out),
                Part::All(prepared) => out.extend_from_slice(&prepared.lines),
            }
        }
    }

    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Forgets all changes.
    pub fn clear(&mut self) {
        *self = Edits::new();
    }

    /// What these changes make of the first value of the header `name`, which was `before`.
    pub fn value<'a>(&'a self, name: &str, before: Option<&'a [u8]>) -> Option<&'a [u8]> {
        let is_named = |edited: &HeaderName| edited.as_str().eq_ignore_ascii_case(name);
        self.iter().fold(before, |value, edit| match edit {
            Edit::Set(edited, set) if is_named(edited) => Some(set),
            Edit::Append(edited, added) if is_named(edited) => value.or(Some(added)),
            Edit::Remove(edited) if is_named(edited) => None,
            Edit::Set(..) | Edit::Append(..) | Edit::Remove(_) | Edit::Target(_) | Edit::Authority(_) => {
                value
            }
        })
    }

    /// Whether some change removes or replaces the header `name`.
    pub fn replaces(&self, name: &str) -> bool {
        self.lengths & length_bit(name.len()) != 0 && self.names(name)
    }

    fn names(&self, name: &str) -> bool {
        self.iter().any(|edit| match edit {
            Edit::Set(edited, _) | Edit::Remove(edited) => edited.as_str().eq_ignore_ascii_case(name),
            Edit::Append(..) | Edit::Target(_) | Edit::Authority(_) => false,
        })
    }

    /// Applies the header changes to a map; a value that is no header value is left out.
    pub fn apply_to(&self, headers: &mut http::HeaderMap) {
        for edit in self.iter() {
            match edit {
                Edit::Set(name, value) => {
                    headers.remove(name);
                    if let Ok(value) = HeaderValue::from_bytes(value) {
                        headers.insert(name.clone(), value);
                    }
                }
                Edit::Append(name, value) => {
                    if let Ok(value) = HeaderValue::from_bytes(value) {
                        headers.append(name.clone(), value);
                    }
                }
                Edit::Remove(name) => {
                    headers.remove(name);
                }
                Edit::Target(_) | Edit::Authority(_) => {}
            }
        }
    }

    /// Applies every change to parsed parts. A target or authority that does not parse is left as it was.
    pub fn apply_to_request(&self, parts: &mut http::request::Parts) {
        self.apply_to(&mut parts.headers);
        for edit in self.iter() {
            let mut uri = parts.uri.clone().into_parts();
            match edit {
                Edit::Target(target) => {
                    uri.path_and_query = target.as_slice().try_into().ok().or(uri.path_and_query)
                }
                Edit::Authority(authority) => {
                    uri.authority = authority.as_slice().try_into().ok().or(uri.authority);
                    if let Ok(host) = HeaderValue::from_bytes(authority)
                        && parts.headers.contains_key(http::header::HOST)
                    {
                        parts.headers.insert(http::header::HOST, host);
                    }
                }
                Edit::Set(..) | Edit::Append(..) | Edit::Remove(_) => continue,
            }
            if uri.authority.is_some() && uri.scheme.is_none() {
                uri.scheme = Some(http::uri::Scheme::HTTP);
            }
            if let Ok(uri) = http::Uri::from_parts(uri) {
                parts.uri = uri;
            }
        }
    }
}

/// Whether `method` is one we know how to treat; others pass as opaque tokens.
pub fn known_method(method: &str) -> Option<Method> {
    Method::from_bytes(method.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_tell_what_becomes_of_a_value() {
        let name = HeaderName::from_static;
        let mut edits = Edits::new();
        edits.set(name("a"), b"1");
        edits.set(name("a"), b"2");
        edits.push(Edit::Append(name("a"), Short::from_slice(b"3")));
        edits.push(Edit::Append(name("b"), Short::from_slice(b"4")));
        edits.push(Edit::Remove(name("c")));
        for (name, before, after) in [
            ("A", Some("0"), Some("2")),
            ("b", None, Some("4")),
            ("b", Some("0"), Some("0")),
            ("c", Some("0"), None),
            ("d", Some("0"), Some("0")),
            ("d", None, None),
        ] {
            let found = edits.value(name, before.map(str::as_bytes));
            assert_eq!(found, after.map(str::as_bytes), "{name} {before:?}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        let check = |authority: &str, host: &str, port: Option<u16>| {
            assert_eq!((host_of(authority), port_of(authority)), (host, port), "{authority}");
        };
        check("catalog", "catalog", None);
        check("catalog:80", "catalog", Some(80));
        check("[::1]:8080", "[::1]", Some(8080));
        check("[::1]", "[::1]", None);
        check("catalog:x", "catalog", None);
        check("", "", None);
    }

    #[test]
    fn raw_and_map_heads_read_alike() {
        let headers = [RawHeader { name: "HOST", value: b"a:1" }, RawHeader { name: "X-One", value: b"1" }];
        let raw = RequestHead::Raw(RawRequest {
            method: "GET",
            target: "/p?q=1",
            authority: "a:1",
            headers: &headers,
        });
        let request =
            http::Request::get("/p?q=1").header("host", "a:1").header("x-one", "1").body(()).expect("valid");
        let (parts, ()) = request.into_parts();
        let map = RequestHead::Map(&parts);
        for head in [raw, map] {
            assert_eq!((head.method(), head.path(), head.query()), ("GET", "/p", Some("q=1")));
            assert_eq!((head.host(), head.header("x-ONE")), ("a", Some(b"1".as_slice())));
        }
    }

    #[test]
    fn edits_apply_in_order() {
        let (mut parts, ()) = http::Request::get("http://a/old")
            .header("x", "1")
            .header("y", "2")
            .body(())
            .expect("valid")
            .into_parts();
        let mut edits = Edits::new();
        edits.set(HeaderName::from_static("x"), b"3");
        let shared = vec![Edit::Append(HeaderName::from_static("x"), Short::from_slice(b"4"))];
        edits.push_all(&Prepared::new(shared));
        edits.push(Edit::Remove(HeaderName::from_static("y")));
        edits.push(Edit::Target(Short::from_slice(b"/new?z")));
        edits.push(Edit::Authority(Short::from_slice(b"b:80")));
        edits.apply_to_request(&mut parts);
        let xs: Vec<_> = parts.headers.get_all("x").iter().collect();
        assert_eq!(xs, ["3", "4"]);
        assert!(!parts.headers.contains_key("y"));
        assert_eq!(parts.uri, "http://b:80/new?z");
        assert!(edits.replaces("X") && !edits.replaces("z"));
        let mut lines = Vec::new();
        edits.write_added(&mut lines);
        assert_eq!((lines.as_slice(), edits.change_start_line()), (b"x: 3\r\nx: 4\r\n".as_slice(), true));
    }

    #[test]
    fn what_a_later_change_takes_back_is_not_written() {
        let short = Short::from_slice;
        let name = HeaderName::from_static;
        let all = [
            Edit::Set(name("a"), short(b"1")),
            Edit::Append(name("a"), short(b"2")),
            Edit::Append(name("b"), short(b"1")),
            Edit::Remove(name("b")),
            Edit::Set(name("a"), short(b"3")),
            Edit::Append(name("c"), short(b"1")),
            Edit::Append(name("b"), short(b"2")),
        ];
        // Whoever makes which of them: one filter or several.
        for split in 0..=all.len() {
            let mut edits = Edits::new();
            all[..split].iter().for_each(|edit| edits.push(edit.clone()));
            edits.push_all(&Prepared::new(all[split..].to_vec()));
            let mut lines = Vec::new();
            edits.write_added(&mut lines);
            assert_eq!(lines.as_slice(), b"a: 3\r\nc: 1\r\nb: 2\r\n", "{split}");
            let mut headers = http::HeaderMap::new();
            edits.apply_to(&mut headers);
            assert_eq!(headers.len(), 3, "{split}: {headers:?}");
        }
    }
}

//! What the types cannot say: rules within one document (`validate`) and between documents (`set`).

mod access;
mod app;
mod authorizer;
mod balancing;
mod base;
mod bounds;
mod cors;
mod dapr;
mod drivers;
mod fault;
mod gateway;
mod health;
mod jwt;
mod offered;
mod outside;
mod policy;
mod rate_limit;
mod rewrite;
mod route;
mod set;
mod state;
mod targets;

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::document::Document;
use crate::metadata::Metadata;
use crate::name::Name;
use crate::read::{Code, MAX_DOCUMENT_BYTES, Problem};

pub use drivers::unknown_drivers;
pub use set::{Beside, validate_set};

/// Checks one document by itself. Paths are set, places are not: [`crate::Located::locate`] gives them.
///
/// [`crate::read`] has done this already; writers that build documents themselves have not.
pub fn validate(document: &Document) -> Vec<Problem> {
    let mut found = Findings::default();
    let kind = document.kind();
    let size = crate::canonical_json(&document.to_value()).len();
    if size > MAX_DOCUMENT_BYTES {
        let message = format!("the document has {size} bytes, and {MAX_DOCUMENT_BYTES} are taken");
        found.error(Code::TooLarge, "", message, "make several of it, or serve large texts from an app");
    }
    let metadata = document.metadata();
    if !kind.is_namespaced() && metadata.namespace != Name::default_namespace() {
        let message = format!("a {kind} is in no namespace");
        found.error(Code::Conflict, "metadata.namespace", message, "leave `namespace` out");
    }
    if kind.is_strict() {
        labels(metadata, &mut found);
    }
    match document {
        Document::Namespace(_) => {}
        Document::Base(base) => base::check(&base.spec, &mut found),
        Document::App(app) => {
            app::check(&app.spec, &mut found);
            bounds::check(&app.spec, &mut found);
            offered::check_app(&app.spec, &mut found);
        }
        Document::Revision(revision) => app::check_revision(&revision.spec, &mut found),
        Document::Service(service) => gateway::check_service(&service.spec, &mut found),
        Document::Gateway(gateway) => gateway::check(&gateway.spec, &mut found),
        Document::Route(route) => route::check(&route.spec, &mut found),
        Document::Policy(policy) => {
            policy::check(&policy.spec, &mut found);
            offered::check_policy(&policy.spec, &mut found);
        }
        Document::Component(component) => {
            dapr::check_component(component, &mut found);
            state::check(component, &mut found);
        }
        Document::Subscription(subscription) => dapr::check_subscription(&subscription.spec, &mut found),
        Document::Resiliency(resiliency) => {
            dapr::check_resiliency(&resiliency.spec, &mut found);
            offered::check_resiliency(resiliency, &mut found);
        }
        Document::Configuration(configuration) => {
            dapr::check_configuration(&configuration.spec, &mut found);
            offered::check_configuration(&configuration.spec, &mut found);
        }
        Document::HttpEndpoint(endpoint) => {
            dapr::check_endpoint(&endpoint.spec, &mut found);
            outside::check_endpoint(endpoint, &mut found);
        }
    }
    found.problems
}

fn labels(metadata: &Metadata, found: &mut Findings) {
    for (key, value) in &metadata.labels {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        let place = format!("metadata.labels[{key:?}]");
        if key.is_empty() || key.len() > 253 || !key.chars().all(plain) {
            let message = format!("`{}` is not a label's key", crate::Invalid::shorten(key));
            found.error(Code::InvalidValue, &place, message, "use letters, digits, `.`, `_`, `-` and `/`");
        } else if value.len() > 253 || value.chars().any(char::is_control) {
            let message = "the value of a label is at most 253 characters on one line";
            found.error(Code::InvalidValue, &place, message, "put long notes into `annotations`");
        } else if key == crate::MTLS_LABEL && crate::MutualTls::parse(value).is_none() {
            let message = format!("`{}` says nothing of mutual TLS", crate::Invalid::shorten(value));
            found.error(Code::InvalidValue, &place, message, "use `strict` or `permissive`");
        }
    }
}

/// Problems being collected.
#[derive(Default)]
pub(crate) struct Findings {
    pub problems: Vec<Problem>,
}

impl Findings {
    fn error(
        &mut self,
        code: Code,
        path: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.problems.push(Problem::new(code, path, message).remedy(remedy));
    }

    fn warning(
        &mut self,
        code: Code,
        path: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.problems.push(Problem::new(code, path, message).remedy(remedy).warning());
    }

    /// Every item once; `what` names the items in the message.
    fn unique<T: Ord + Display>(&mut self, what: &str, items: impl Iterator<Item = (String, T)>) {
        let mut first: BTreeMap<T, String> = BTreeMap::new();
        for (path, item) in items {
            if let Some(before) = first.get(&item) {
                let message = format!("{what} `{item}` is given twice");
                self.error(
                    Code::Conflict,
                    path,
                    message,
                    format!("it is at `{before}` already; change one of the two"),
                );
            } else {
                first.insert(item, path);
            }
        }
    }

    /// Exactly one of the named parts is given.
    fn exactly_one(&mut self, path: &str, parts: &[(&str, bool)]) {
        let given: Vec<&str> = parts.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
        let all = parts.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        match given.as_slice() {
            [_] => {}
            [] => self.error(Code::MissingKey, path, format!("one of {all} is missing"), "add one of them"),
            [first, rest @ ..] => {
                let rest = rest.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ");
                let message = format!("`{first}` and {rest} do not go together");
                self.error(Code::Conflict, path, message, format!("keep exactly one of {all}"));
            }
        }
    }

    fn not_empty<T>(&mut self, path: &str, what: &str, items: &[T]) {
        if items.is_empty() {
            self.error(
                Code::MissingKey,
                path,
                format!("at least one {what} is needed"),
                format!("add a {what}"),
            );
        }
    }

    fn command(&mut self, path: &str, command: &[String]) {
        if command.first().is_none_or(String::is_empty) {
            let remedy = "write the program and its arguments as a list, for example `[\"./server\", \"--port\", \"80\"]`";
            self.error(Code::MissingKey, path, "the command is empty", remedy);
        } else if let [one] = command
            && one.contains(' ')
        {
            let message = "no shell reads the command; this is one program name with spaces in it";
            self.warning(Code::NoEffect, path, message, "write each word as an item of the list");
        }
        if let Some(index) = command.iter().position(|word| word.contains('\0')) {
            let message = "a word of a command cannot hold a NUL character";
            self.error(Code::InvalidValue, format!("{path}[{index}]"), message, "remove it");
        }
    }

    fn absolute_path(&mut self, path: &str, value: &str) {
        if !value.starts_with('/') {
            let message = format!("`{}` is not a path", crate::Invalid::shorten(value));
            self.error(Code::InvalidValue, path, message, "begin it with `/`");
        }
    }

    fn status_codes(&mut self, path: &str, codes: &[u16]) {
        for (index, code) in codes.iter().enumerate().filter(|(_, code)| !(400..=599).contains(*code)) {
            let message = format!("{code} is not a status code of a failure");
            self.error(
                Code::InvalidValue,
                format!("{path}[{index}]"),
                message,
                "write codes from 400 to 599",
            );
        }
    }

    fn header_name(&mut self, path: &str, name: &str) {
        if !is_token(name) {
            let message = format!("`{}` is not a header's name", crate::Invalid::shorten(name));
            self.error(Code::InvalidValue, path, message, "use letters, digits and `-`");
        }
    }

    fn cookie_name(&mut self, path: &str, name: &str) {
        if !is_token(name) {
            let message = format!("`{}` is not a cookie's name", crate::Invalid::shorten(name));
            self.error(Code::InvalidValue, path, message, "use letters, digits, `-` and `_`");
        }
    }

    fn header_value(&mut self, path: &str, value: &str) {
        if value.chars().any(|c| c.is_control() && c != '\t') {
            let message = "the value of a header is one line of text";
            self.error(Code::InvalidValue, path, message, "remove line breaks and control characters");
        }
    }

    fn method(&mut self, path: &str, method: &str) {
        if !is_token(method) || method.chars().any(|c| c.is_ascii_lowercase()) {
            let message = format!("`{}` is not a method", crate::Invalid::shorten(method));
            self.error(Code::InvalidValue, path, message, "write it in capitals, for example `GET`");
        }
    }

    fn regex(&mut self, path: &str, expression: &str) {
        const LARGEST: usize = 1 << 20;
        if let Err(error) = regex::RegexBuilder::new(expression).size_limit(LARGEST).build() {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or("not valid").trim().trim_start_matches("error: ");
            let message = format!("not a regular expression: {reason}");
            self.error(
                Code::InvalidValue,
                path,
                message,
                "look-around and back-references do not exist; escape `\\`",
            );
        }
    }

    /// A host name, perhaps with `*.` before it.
    fn hostname(&mut self, path: &str, host: &str) {
        let bare = host.strip_prefix("*.").unwrap_or(host);
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if bare.len() > 253 || !bare.split('.').all(label) {
            let message = format!("`{}` is not a host name", crate::Invalid::shorten(host));
            self.error(
                Code::InvalidValue,
                path,
                message,
                "write `example.com` or `*.example.com`, without port and scheme",
            );
        }
    }
}

/// A token of HTTP (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    let mark = |b: u8| b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.len() <= 256 && text.bytes().all(|b| b.is_ascii_alphanumeric() || mark(b))
}

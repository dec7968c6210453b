//! Properties of a component: what is written, and reading it into types.
//!
//! Reading registers each name as known, so that [`Reader::finish`] can say which properties nobody reads without
//! a second list to keep in step. Names match without regard to case.

use std::collections::BTreeMap;
use std::time::Duration;

use dodai_core::secrecy::{is_secret_setting, is_secret_value};

use super::{Error, Spec};
use crate::fault::Fault;
use crate::secrets::Secret;

/// Properties that the runtime itself reads, whatever the driver, by how the type begins.
const RUNTIME: [(&str, &[&str]); 4] = [
    ("bindings.", &["route", "direction"]),
    ("state.", &["keyPrefix", "actorStateStore", "primaryEncryptionKey", "secondaryEncryptionKey"]),
    ("lock.", &["keyPrefix"]),
    (
        "pubsub.",
        &["publishingScopes", "subscriptionScopes", "allowedTopics", "protectedTopics", "consumerID"],
    ),
];
/// What would promise messages that nobody sends.
const OUTBOX: [&str; 4] =
    ["outboxPublishPubsub", "outboxPublishTopic", "outboxPubsub", "outboxDiscardWhenMissingState"];
const ACTORS: &str = "actorStateStore";

/// The value of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Written as is.
    Plain(String),
    /// Came from a secret store; it never prints.
    Secret(Secret),
}

impl Value {
    /// The text of it. Do not print what may be a secret.
    pub fn reveal(&self) -> &str {
        match self {
            Value::Plain(text) => text,
            Value::Secret(secret) => secret.reveal(),
        }
    }

    /// How an error about the property `name` says it. It is read where nobody has shown who they are.
    fn shown(&self, name: &str) -> String {
        match self {
            // What is before an `@` may be a login in a form that nobody knows.
            Value::Plain(text)
                if !is_secret_setting(name) && !is_secret_value(text) && !text.contains('@') =>
            {
                format!("`{text}`")
            }
            Value::Plain(text) if text.is_empty() => "``".to_owned(),
            Value::Plain(_) | Value::Secret(_) => "***".to_owned(),
        }
    }
}

/// The properties of one component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    values: BTreeMap<String, Value>,
    /// The names of the secrets that values came from.
    secrets: BTreeMap<String, String>,
}

impl Properties {
    /// Sets one.
    pub fn insert(&mut self, name: impl Into<String>, value: Value) {
        self.values.insert(name.into(), value);
    }

    /// Sets one to the value of the secret called `secret`.
    pub fn insert_secret(&mut self, name: impl Into<String>, secret: impl Into<String>, value: Secret) {
        let name = name.into();
        self.secrets.insert(name.clone(), secret.into());
        self.values.insert(name, Value::Secret(value));
    }

    /// The name of the secret that a property came from.
    pub fn secret_name(&self, name: &str) -> Option<&str> {
        let mut all = self.secrets.iter();
        all.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, secret)| secret.as_str())
    }

    /// One by name: exactly as written first, then without regard to case.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name).or_else(|| {
            self.values.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        })
    }

    /// The text of one, if it is there and not empty. Do not print what may be a secret.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).map(Value::reveal).filter(|text| !text.is_empty())
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl FromIterator<(String, Value)> for Properties {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(pairs: I) -> Properties {
        Properties { values: pairs.into_iter().collect(), secrets: BTreeMap::new() }
    }
}

/// Reads the properties of one spec.
pub struct Reader<'a> {
    spec: &'a Spec,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(spec: &'a Spec) -> Reader<'a> {
        let known = RUNTIME.iter().filter(|(kind, _)| spec.kind.starts_with(kind));
        Reader { spec, known: known.flat_map(|(_, names)| *names).copied().collect() }
    }

    /// An optional text under one of several names; empty counts as absent.
    pub fn text(&mut self, names: &[&'static str]) -> Option<&'a str> {
        self.find(names).map(|(_, value)| value.reveal())
    }

    fn find(&mut self, names: &[&'static str]) -> Option<(&'static str, &'a Value)> {
        self.known.extend(names);
        let mut found =
            names.iter().filter_map(|name| self.spec.properties.get(name).map(|value| (*name, value)));
        found.find(|(_, value)| !value.reveal().is_empty())
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// It is not; the error names a property with a similar name, if there is one.
    pub fn required(&mut self, names: &[&'static str]) -> Result<&'a str, Error> {
        if let Some(text) = self.text(names) {
            return Ok(text);
        }
        Err(self.missing(names.first().copied().unwrap_or_default()))
    }

    /// That a property is missing, for what only the driver can tell that it needs.
    pub fn missing(&self, name: &str) -> Error {
        let written = self.spec.properties.iter().map(|(written, _)| written);
        let nearest = nearest(name, written.filter(|written| !self.knows(written)))
            .map_or_else(String::new, |near| format!("; it has `{near}`, which may be a slip of it"));
        Error::MissingProperty { name: self.spec.name.clone(), property: name.to_owned(), nearest }
    }

    /// A truth value.
    ///
    /// # Errors
    /// It is neither a word for yes nor one for no.
    pub fn truth(&mut self, names: &[&'static str], default: bool) -> Result<bool, Error> {
        self.typed(names, default, "true or false", |text| {
            let no = ["false", "0", "f", "n", "no", "off"];
            if crate::metadata::is_true(text) {
                Some(true)
            } else {
                no.iter().any(|word| text.eq_ignore_ascii_case(word)).then_some(false)
            }
        })
    }

    /// A whole number from 0.
    ///
    /// # Errors
    /// It is none.
    pub fn number(&mut self, names: &[&'static str], default: u64) -> Result<u64, Error> {
        self.typed(names, default, "a whole number from 0", |text| text.parse().ok())
    }

    /// A number of bytes: `1048576`, `1024Ki`, `1Mi`, `2Gi`.
    ///
    /// # Errors
    /// It is none.
    pub fn bytes(&mut self, names: &[&'static str], default: u64) -> Result<u64, Error> {
        self.typed(names, default, "a number of bytes such as 1048576, 64Mi or 1Gi", bytes)
    }

    /// A duration: `500ms`, `1m30s`, or a bare number of seconds.
    ///
    /// # Errors
    /// It is none, or it is negative.
    pub fn duration(&mut self, names: &[&'static str], default: Duration) -> Result<Duration, Error> {
        self.typed(names, default, "a duration such as 500ms, 20s or 1m30s, or a number of seconds", duration)
    }

    /// The parsed value of a property.
    ///
    /// # Errors
    /// `parse` refuses it; `wanted` says what it would take.
    pub fn typed<T>(
        &mut self,
        names: &[&'static str],
        default: T,
        wanted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Error> {
        let Some((name, value)) = self.find(names) else { return Ok(default) };
        parse(value.reveal().trim()).ok_or_else(|| self.bad(name, value, wanted))
    }

    /// That a property asks for what cannot be; `wanted` says what can.
    pub fn refuse(&self, name: &str, wanted: &str) -> Error {
        let absent = Value::Plain(String::new());
        self.bad(name, self.spec.properties.get(name).unwrap_or(&absent), wanted)
    }

    fn bad(&self, property: &str, value: &Value, wanted: &str) -> Error {
        Error::BadProperty {
            name: self.spec.name.clone(),
            property: property.to_owned(),
            given: value.shown(property),
            wanted: wanted.to_owned(),
        }
    }

    /// A failure of the driver, under the component's name.
    pub fn fault(&self, fault: Fault) -> Error {
        Error::Fault { name: self.spec.name.clone(), kind: self.spec.kind.clone(), fault }
    }

    fn knows(&self, name: &str) -> bool {
        self.known.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Warnings about properties that nobody has read.
    pub fn finish(self) -> Vec<String> {
        let unread = self.spec.properties.iter().filter(|(name, _)| !self.knows(name));
        unread
            .map(|(name, _)| {
                let near = nearest(name, self.known.iter().copied())
                    .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                format!(
                    "component `{}`: {} has no property `{name}`, it is ignored{near}",
                    self.spec.name, self.spec.kind
                )
            })
            .collect()
    }
}

/// What daprd's runtime does with a state store and this one does not: refused where going on would lose something,
/// a warning where it would not.
pub(super) fn unserved(spec: &Spec) -> Result<Option<String>, Error> {
    if !spec.kind.starts_with("state.") {
        return Ok(None);
    }
    if let Some(property) = OUTBOX.into_iter().find(|name| spec.properties.text(name).is_some()) {
        return Err(Error::Outbox { name: spec.name.clone(), property });
    }
    let actors = spec.properties.text(ACTORS).is_some_and(crate::metadata::is_true);
    Ok(actors.then(|| {
        let name = &spec.name;
        format!("component `{name}`: `{ACTORS}` has no effect, actors are not served; it keeps plain state")
    }))
}

/// The candidate most like `name`, if one is like it at all.
pub(super) fn nearest<'c>(name: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let name = name.to_lowercase();
    candidates
        .map(|candidate| (strsim::jaro_winkler(&name, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim() {
        "" => 1,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

const NANOS: u128 = 1_000_000_000;
/// Digits behind the point that count.
const DIGITS: usize = 15;

/// A duration such as `500ms` or `1m30s`, or a bare number of seconds. As with Go nothing is rounded up.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = 0_u128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let amount = &rest[..digits];
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1,
            "us" | "\u{b5}s" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS,
            "m" => 60 * NANOS,
            "h" => 3600 * NANOS,
            _ => return None,
        };
        total = total.checked_add(nanos(amount, unit)?)?;
        rest = &rest[end..];
    }
    let seconds = u64::try_from(total / NANOS).ok().filter(|_| !text.is_empty())?;
    Some(Duration::new(seconds, u32::try_from(total % NANOS).ok()?))
}

/// The nanoseconds of `1.5` units, to the last digit that counts.
fn nanos(amount: &str, unit: u128) -> Option<u128> {
    let (whole, part) = amount.split_once('.').unwrap_or((amount, ""));
    // What follows is less than a nanosecond of any unit.
    let part = part.get(..part.len().min(DIGITS))?;
    let number = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u64>().ok() };
    let is_number = !(whole.is_empty() && part.is_empty());
    let whole = u128::from(number(whole).filter(|_| is_number)?).checked_mul(unit)?;
    let part = u128::from(number(part)?) * unit / 10_u128.pow(u32::try_from(part.len()).ok()?);
    whole.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_types_and_says_what_is_wrong() {
        let spec = Spec::new("orders", "state.sqlite")
            .with("ConnectionString", "a.db")
            .with("timeout", "1m30s")
            .with("busyTimeoutt", "5")
            .with("disableWAL", "maybe")
            .with("maxBytes", "64Mi");
        let mut read = spec.read();
        assert_eq!(read.required(&["connectionString", "url"]).unwrap(), "a.db");
        assert_eq!(read.duration(&["timeout"], Duration::ZERO).unwrap(), Duration::from_secs(90));
        assert_eq!(read.bytes(&["maxBytes"], 0).unwrap(), 64 << 20);
        assert_eq!(
            read.truth(&["disableWAL"], false).expect_err("refused").to_string(),
            "component `orders`: property `disableWAL` is `maybe`; give true or false"
        );
        let missing = read.required(&["busyTimeout"]).expect_err("missing").to_string();
        assert!(missing.contains("`busyTimeoutt`"), "{missing}");
        let warnings = read.finish();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("did you mean `busyTimeout`"), "{warnings:?}");
    }

    #[test]
    fn a_secret_property_does_not_print() {
        let mut spec = Spec::new("orders", "state.sqlite");
        spec.properties.insert("timeout", Value::Secret("hunter2".into()));
        let error = spec.read().duration(&["timeout"], Duration::ZERO).expect_err("refused");
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(!format!("{spec:?}").contains("hunter2"));
    }

    #[test]
    fn what_may_be_a_secret_does_not_print_in_errors() {
        for (name, value) in [
            ("connectionString", "postgresql://app:S3cret@db:54a32/orders"),
            ("connectionString", "host=db user=app password=S3cret Space dbname=x"),
            ("redisHost", "redis://u:S3cret@h:1"),
            ("redisHost", "S3cret@h:1"),
            ("url", "htp://u:S3cret@h/a"),
            ("url", "htp://u:S3/cret@h/a"),
            ("MTLSClientKey", "S3cret"),
            ("place", "host=db;password = S3cret"),
        ] {
            let spec = Spec::new("orders", "state.x").with(name, value);
            let error = spec.read().refuse(name, "something else").to_string();
            assert!(!error.contains("S3") && error.contains(&format!("`{name}` is ***")), "{error}");
        }
    }

    #[test]
    fn durations_and_sizes() {
        let table = [
            ("20", Some(20_000)),
            ("500ms", Some(500)),
            ("1.5s", Some(1_500)),
            ("1h2m3s", Some(3_723_000)),
            (".5m", Some(30_000)),
            ("10000000003ms", Some(10_000_000_003)),
            ("9999999999999999999h", None),
            ("0.1.2s", None),
            (".s", None),
            ("", None),
            ("-5s", None),
            ("5 s", None),
            ("5x", None),
            ("s", None),
        ];
        for (text, millis) in table {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
        let table =
            [("7", Some(7)), ("2Ki", Some(2048)), ("1 GiB", Some(1 << 30)), ("1k", None), ("Mi", None)];
        for (text, count) in table {
            assert_eq!(bytes(text), count, "{text}");
        }
    }
}

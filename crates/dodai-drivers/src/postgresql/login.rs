//! `connectionString`: a URL, or `key=value` pairs as libpq and Dapr's components read them.
//!
//! Read here and not by the client, which knows fewer words and would connect without a check where `require` is asked.

use std::time::Duration;

use dodai_capability::component::{Error, Reader};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use crate::server::{Place, Security};

/// Names that Dapr's components know and that say nothing here.
const WITHOUT_EFFECT: [&str; 4] = ["connectionMaxIdleTime", "connMaxIdleTime", "queryExecMode", "hostaddr"];

/// Where the database is and how to use it.
#[derive(Clone)]
pub struct Settings {
    /// Where it is.
    pub place: Place,
    /// User, password, database and the rest.
    pub config: Config,
    /// With TLS, if so.
    pub security: Option<Security>,
    /// How long a statement may take, the wait for a connection included.
    pub timeout: Duration,
    /// How long a connection may take.
    pub dial_timeout: Duration,
    /// Connections at most.
    pub connections: usize,
}

/// What a connection string says, by libpq's names; a password in it never prints.
struct Words(Vec<(String, String)>);

impl Words {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Settings {
    /// Reads `connectionString`, single parts of it under their own names, `timeout`, `maxConns` and certificates.
    /// Returns warnings for the user too.
    ///
    /// # Errors
    /// The string is missing or cannot be read, or it asks for what is not offered.
    pub fn read(read: &mut Reader<'_>) -> Result<(Settings, Vec<String>), Error> {
        const NAME: &str = "connectionString";
        let wanted = "a URL (postgresql://USER:PASSWORD@HOST:PORT/DATABASE) or pairs (host=HOST port=PORT user=USER password=PASSWORD database=DATABASE)";
        let words = read.typed(&[NAME], None, wanted, |text| words(text).map(Some))?;
        let has_words = words.is_some();
        let mut words = words.unwrap_or(Words(Vec::new()));
        for name in ["host", "port", "database", "user", "password", "sslRootCert"] {
            if let Some(text) = read.text(&[name]) {
                let key = if name == "database" { "dbname".to_owned() } else { name.to_lowercase() };
                words.0.push((key, text.to_owned()));
            }
        }
        if !has_words && words.get("host").is_none() {
            return Err(read.missing(NAME));
        }
        let one = "the host of one server and the number of its port; several hosts and Unix sockets are not offered";
        let host = words.get("host").or(words.get("hostaddr")).unwrap_or("localhost");
        let port = words.get("port").unwrap_or("5432").parse().unwrap_or(0);
        let place = Place::parse(host, port).filter(|_| !host.contains(['/', ',']));
        let Some(place) = place else { return Err(read.refuse(NAME, one)) };
        let mut config = Config::new();
        config.user(words.get("user").unwrap_or("postgres"));
        if let Some(password) = words.get("password") {
            config.password(password);
        }
        if let Some(database) = words.get("dbname") {
            config.dbname(database);
        }
        if let Some(options) = words.get("options") {
            config.options(options);
        }
        config.application_name(words.get("application_name").unwrap_or("dodai"));
        let mut warnings = Vec::new();
        let mut security = Security::read(read)?;
        let tls = match words.get("sslmode").unwrap_or("disable") {
            "disable" => false,
            "prefer" | "allow" => {
                warnings.push(format!(
                    "{NAME}: sslmode `prefer` and `allow` connect without TLS; for TLS say `require`"
                ));
                false
            }
            "require" | "verify-ca" | "verify-full" => true,
            _ => return Err(read.refuse(NAME, "sslmode disable, require, verify-ca or verify-full")),
        };
        if let Some(file) = words.get("sslrootcert") {
            let text = std::fs::read_to_string(file);
            let readable = "an sslrootcert that can be read, or the PEM itself in `caCert`";
            security.roots = Some(text.map_err(|_| read.refuse(NAME, readable))?);
        }
        config.ssl_mode(if tls { SslMode::Require } else { SslMode::Disable });
        let dial =
            words.get("connect_timeout").and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
        for name in WITHOUT_EFFECT {
            read.text(&[name]);
        }
        let connections =
            read.typed(&["maxConns"], 0, "a number of connections", |text| text.parse::<i64>().ok())?;
        let settings = Settings {
            place,
            config,
            security: tls.then_some(security),
            timeout: read.duration(&["timeout", "timeoutInSeconds"], Duration::from_secs(20))?,
            dial_timeout: dial.map_or(Duration::from_secs(5), Duration::from_secs),
            connections: usize::try_from(connections).ok().filter(|count| *count > 0).unwrap_or(4).min(1_000),
        };
        Ok((settings, warnings))
    }
}

/// The parts of a connection string; `None` if it is none.
fn words(text: &str) -> Option<Words> {
    let rest = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
    let mut words = match rest {
        Some(rest) => url(rest)?,
        None => pairs(text)?,
    };
    for (key, _) in &mut words {
        if key == "database" {
            "dbname".clone_into(key);
        }
    }
    Some(Words(words))
}

/// `USER:PASSWORD@HOST:PORT/DATABASE?KEY=VALUE&...`, every part optional.
fn url(rest: &str) -> Option<Vec<(String, String)>> {
    let mut words = Vec::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, server) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let at = server.rfind(':').filter(|at| !server[*at..].contains(']'));
    let (host, port) = at.map_or((server, ""), |at| (&server[..at], &server[at + 1..]));
    for (key, value) in
        [("user", user), ("password", password), ("host", host), ("port", port), ("dbname", path)]
    {
        if !value.is_empty() {
            words.push((key.to_owned(), decoded(value)?));
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=')?;
        words.push((decoded(key)?, decoded(value)?));
    }
    Some(words)
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(more.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &more[2..];
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    String::from_utf8(bytes).ok()
}

/// `key=value key='a value'`, with `\` before a quote or another `\` in a value.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut words = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        if letters.peek().is_none() {
            return (!words.is_empty()).then_some(words);
        }
        let mut key = String::new();
        while let Some(letter) = letters.next_if(|letter| *letter != '=') {
            key.push(letter);
        }
        letters.next()?;
        let key = key.trim().to_lowercase();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return None;
        }
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        let quoted = letters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match letters.next() {
                None if quoted => return None,
                None => break,
                Some('\\') => value.push(letters.next()?),
                Some('\'') if quoted => break,
                Some(letter) if !quoted && letter.is_whitespace() => break,
                Some(letter) => value.push(letter),
            }
        }
        words.push((key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings() {
        let check = |text: &str, expect: Option<&[(&str, &str)]>| {
            let found = words(text).map(|words| words.0);
            let expect = expect.map(|pairs| {
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
            });
            assert_eq!(found, expect, "{text}");
        };
        check(
            "postgresql://shop:p%40ss@db:5433/orders?sslmode=require",
            Some(&[
                ("user", "shop"),
                ("password", "p@ss"),
                ("host", "db"),
                ("port", "5433"),
                ("dbname", "orders"),
                ("sslmode", "require"),
            ]),
        );
        check("postgres://[::1]/orders", Some(&[("host", "[::1]"), ("dbname", "orders")]));
        check("postgres://[::1]:7000", Some(&[("host", "[::1]"), ("port", "7000")]));
        check("postgres://db?%zz=1", None);
        check(
            r"host=db user = shop password='it\'s a \\' database=orders",
            Some(&[("host", "db"), ("user", "shop"), ("password", r"it's a \"), ("dbname", "orders")]),
        );
        check("password='no end", None);
        check("just a text", None);
        check("", None);
    }
}

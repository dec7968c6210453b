//! Whom the bases of a mesh trust.

use serde::{Deserialize, Serialize};

use crate::id::{AppId, BaseId};

/// The roots of the mesh, which of them signs, and what is void before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The root certificates, PEM.
    pub bundle: String,
    /// The pin of the root that signs: what another one has signed is to be renewed at once.
    pub signer: String,
    /// Certificates that nobody may take any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Revoked>,
}

/// Certificates that are void.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Which.
    pub whose: Whose,
    /// Those issued up to then, in seconds since 1970. Of no meaning for a serial number.
    pub until: u64,
}

/// Whose certificates are void.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// All that were issued to a base: its own, and those of apps that ran there.
    Base(BaseId),
    /// All of an app, wherever it runs.
    App(AppId),
    /// The one with this serial number, in hexadecimal digits.
    Serial(String),
}

impl Whose {
    /// Reads what [`Whose`]'s `to_string` gave: `base/NAME`, `app/NAMESPACE/NAME` or `serial/HEX`.
    pub fn parse(text: &str) -> Option<Whose> {
        let (kind, name) = text.split_once('/')?;
        match kind {
            "base" if !name.is_empty() && !name.contains('/') => Some(Whose::Base(BaseId::new(name))),
            "app" if name.contains('/') => AppId::parse(name).ok().map(Whose::App),
            "app" => AppId::parse(&format!("default/{name}")).ok().map(Whose::App),
            "serial" => {
                let digits: String = name.chars().filter(|c| *c != ':').collect();
                let fits = (2..=40).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
                fits.then(|| Whose::Serial(digits.to_ascii_lowercase()))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Whose::Base(base) => write!(f, "base/{base}"),
            Whose::App(app) => write!(f, "app/{app}"),
            Whose::Serial(serial) => write!(f, "serial/{serial}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_revoked_is_named_and_read_back() {
        for text in ["base/one", "app/shop/cart", "serial/40ff"] {
            assert_eq!(Whose::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(Whose::parse("app/cart"), Whose::parse("app/default/cart"));
        assert_eq!(Whose::parse("serial/40:FF"), Whose::parse("serial/40ff"));
        for text in ["", "one", "base/", "base/a/b", "app/", "app/A B/c", "serial/", "serial/xy", "else/one"]
        {
            assert_eq!(Whose::parse(text), None, "{text}");
        }
    }
}

//! Identifiers: newtypes over short strings, checked where they enter.
//!
//! A name is a DNS label (RFC 1123: 1 to 63 of `a-z 0-9 -`, alphanumeric at both ends), so that names can
//! stand in host names, SNI and SPIFFE ids without escaping. All ids are cheap to clone (`Arc<str>`).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a string is not an identifier.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadId {
    /// The text is not a DNS label.
    #[error("`{0}` is not a name: use 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends")]
    Name(String),
    /// The text is not `namespace/name`.
    #[error("`{0}` is not of the form namespace/name")]
    Qualified(String),
    /// The text is not a SPIFFE id of this mesh.
    #[error("`{0}` is not of the form spiffe://<trust domain>/ns/<namespace>/<app>")]
    Spiffe(String),
}

/// A DNS label.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// Checks `text`.
    pub fn new(text: &str) -> Result<Name, BadId> {
        let bytes = text.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        let ends = bytes.first() != Some(&b'-') && bytes.last() != Some(&b'-');
        if (1..=63).contains(&bytes.len()) && bytes.iter().all(inner) && ends {
            Ok(Name(text.into()))
        } else {
            Err(BadId::Name(text.to_owned()))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = BadId;
    fn try_from(text: String) -> Result<Name, BadId> {
        Name::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An app: the unit of identity, policy and ownership. Written `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppId {
    /// The namespace it lives in.
    pub namespace: Name,
    /// Its name; Dapr's app-id.
    pub name: Name,
}

impl AppId {
    /// From two checked names.
    pub fn new(namespace: Name, name: Name) -> AppId {
        AppId { namespace, name }
    }

    /// Parses `namespace/name`.
    pub fn parse(text: &str) -> Result<AppId, BadId> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| BadId::Qualified(text.to_owned()))?;
        Ok(AppId { namespace: Name::new(namespace)?, name: Name::new(name)? })
    }

    /// The SPIFFE id of this app in `trust_domain`: `spiffe://<trust domain>/ns/<namespace>/<app>`.
    pub fn spiffe(&self, trust_domain: &str) -> String {
        format!("spiffe://{trust_domain}/ns/{}/{}", self.namespace, self.name)
    }

    /// Reads a SPIFFE id of `trust_domain` back.
    pub fn from_spiffe(id: &str, trust_domain: &str) -> Result<AppId, BadId> {
        let bad = || BadId::Spiffe(id.to_owned());
        let path =
            id.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(trust_domain)).ok_or_else(bad)?;
        let (namespace, name) =
            path.strip_prefix("/ns/").and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
        Ok(AppId { namespace: Name::new(namespace)?, name: Name::new(name)? })
    }
}

impl TryFrom<String> for AppId {
    type Error = BadId;
    fn try_from(text: String) -> Result<AppId, BadId> {
        AppId::parse(&text)
    }
}

impl From<AppId> for String {
    fn from(app: AppId) -> String {
        app.to_string()
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One named port of one app or service: what a route forwards to. Written `namespace/name/port-name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceId {
    /// The app or service it belongs to.
    pub owner: AppId,
    /// The name of the port (`http`, `grpc`, ...).
    pub port: Name,
}

impl ServiceId {
    /// Parses `namespace/name/port-name`.
    pub fn parse(text: &str) -> Result<ServiceId, BadId> {
        let (owner, port) = text.rsplit_once('/').ok_or_else(|| BadId::Qualified(text.to_owned()))?;
        Ok(ServiceId { owner: AppId::parse(owner)?, port: Name::new(port)? })
    }
}

impl TryFrom<String> for ServiceId {
    type Error = BadId;
    fn try_from(text: String) -> Result<ServiceId, BadId> {
        ServiceId::parse(&text)
    }
}

impl From<ServiceId> for String {
    fn from(id: ServiceId) -> String {
        id.to_string()
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.port)
    }
}

impl fmt::Debug for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.port)
    }
}

/// Defines an id that is any short text.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// From text that was checked or made by us.
            pub fn new(text: impl AsRef<str>) -> $name {
                $name(text.as_ref().into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> $name {
                $name(text.into())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// An immutable version of an app: the hash of its artefact digest and template.
    RevisionId
);
text_id!(
    /// One running copy of a revision; unique over time, made by control.
    InstanceId
);
text_id!(
    /// One base (node).
    BaseId
);
text_id!(
    /// A content address of an artefact: `sha256:<64 hex digits>`.
    Digest
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "catalog", "a-b", "0", &"a".repeat(63)] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"a".repeat(64)] {
            assert!(Name::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spiffe_ids_read_back() {
        let app = AppId::parse("shop/catalog").expect("valid");
        let id = app.spiffe("cluster.local");
        assert_eq!(id, "spiffe://cluster.local/ns/shop/catalog");
        assert_eq!(AppId::from_spiffe(&id, "cluster.local"), Ok(app));
        for bad in [
            "spiffe://other/ns/shop/catalog",
            "spiffe://cluster.local/shop",
            "spiffe://cluster.localx/ns/a/b",
        ] {
            assert!(AppId::from_spiffe(bad, "cluster.local").is_err(), "{bad}");
        }
    }

    #[test]
    fn service_ids_read_back() {
        let id = ServiceId::parse("shop/catalog/http").expect("valid");
        assert_eq!(ServiceId::parse(&id.to_string()), Ok(id));
        assert!(ServiceId::parse("catalog").is_err());
    }
}

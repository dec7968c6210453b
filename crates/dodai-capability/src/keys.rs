//! Key prefixes: how apps that share a state store are kept apart, or share keys on purpose.
//!
//! The form on the wire is daprd's (`<prefix>||<key>`), so data written by either can be read by the other.

use crate::component::Properties;

/// What stands between a prefix and a key; a user's key must not have it.
pub const SEPARATOR: &str = "||";

/// How the keys of one store are prefixed for one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(Option<String>);

/// Why a key or a prefix is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{text}` has `||` in it, which parts prefixes from keys; use another word")]
pub struct Illegal {
    what: &'static str,
    text: String,
}

fn legal(what: &'static str, text: &str) -> Result<(), Illegal> {
    if text.contains(SEPARATOR) { Err(Illegal { what, text: text.to_owned() }) } else { Ok(()) }
}

impl Prefix {
    /// The prefix by the strategy of property `keyPrefix`: `appid` (default), `name` (of the store),
    /// `namespace` (`<namespace>.<app>`), `none`, or a word of its own. Case does not matter, and a word of
    /// its own is kept in lower case, as daprd does.
    ///
    /// # Errors
    /// The word has `||` in it.
    pub fn new(properties: &Properties, app: &str, store: &str, namespace: &str) -> Result<Prefix, Illegal> {
        let strategy = properties.text("keyPrefix").unwrap_or("appid").to_lowercase();
        legal("keyPrefix", &strategy)?;
        Ok(Prefix(match strategy.as_str() {
            "none" => None,
            "appid" if app.is_empty() => None,
            "appid" => Some(app.to_owned()),
            "name" => Some(store.to_owned()),
            "namespace" if namespace.is_empty() && app.is_empty() => None,
            "namespace" if namespace.is_empty() => Some(app.to_owned()),
            "namespace" => Some(format!("{namespace}.{app}")),
            _ => Some(strategy),
        }))
    }

    /// The key as the store keeps it.
    ///
    /// # Errors
    /// The key has `||` in it.
    pub fn apply(&self, key: &str) -> Result<String, Illegal> {
        legal("key", key)?;
        Ok(match &self.0 {
            None => key.to_owned(),
            Some(prefix) => [prefix, SEPARATOR, key].concat(),
        })
    }

    /// What all keys of this app begin with.
    pub fn start(&self) -> String {
        self.0.as_ref().map_or_else(String::new, |prefix| [prefix, SEPARATOR].concat())
    }
}

/// The key as the user wrote it: what stands behind the first `||`.
pub fn original(stored: &str) -> &str {
    stored.split_once(SEPARATOR).map_or(stored, |(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::Value;

    #[test]
    fn every_strategy() {
        let table = [
            (None, "shop", "stock", "prod", "shop||k"),
            (Some(""), "shop", "stock", "prod", "shop||k"),
            (Some("AppID"), "shop", "stock", "prod", "shop||k"),
            (Some("appid"), "", "stock", "prod", "k"),
            (Some("name"), "shop", "stock", "prod", "stock||k"),
            (Some("namespace"), "shop", "stock", "prod", "prod.shop||k"),
            (Some("namespace"), "shop", "stock", "", "shop||k"),
            (Some("none"), "shop", "stock", "prod", "k"),
            (Some("Shared"), "shop", "stock", "prod", "shared||k"),
        ];
        for (strategy, app, store, namespace, stored) in table {
            let properties: Properties = strategy
                .map(|text| ("keyprefix".to_owned(), Value::Plain(text.to_owned())))
                .into_iter()
                .collect();
            let prefix = Prefix::new(&properties, app, store, namespace).unwrap();
            assert_eq!(prefix.apply("k").unwrap(), stored, "{strategy:?}");
            assert_eq!(original(stored), "k");
            assert_eq!(prefix.start() + "k", stored);
        }
    }

    #[test]
    fn the_separator_is_refused() {
        let prefix = Prefix::new(&Properties::default(), "shop", "stock", "").unwrap();
        assert!(prefix.apply("a||b").expect_err("refused").to_string().starts_with("key `a||b`"));
        assert_eq!(prefix.apply("a|b").unwrap(), "shop||a|b");
        let properties: Properties =
            [("keyPrefix".to_owned(), Value::Plain("a||b".into()))].into_iter().collect();
        assert!(Prefix::new(&properties, "shop", "stock", "").is_err());
    }
}

//! Scopes: which topics an app may use, and which secrets it may read. Pure rules over what is configured.

use std::collections::BTreeSet;

use crate::component::Properties;

/// What an app wants to do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Publish to it.
    Publish,
    /// Subscribe to it.
    Subscribe,
}

/// The topics of one pub/sub component as one app may use them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    allowed: BTreeSet<String>,
    protected: BTreeSet<String>,
    /// Empty if the component says nothing about the app.
    publishing: BTreeSet<String>,
    subscribing: BTreeSet<String>,
}

impl Topics {
    /// Reads `allowedTopics`, `protectedTopics`, `publishingScopes` and `subscriptionScopes`
    /// (`app1=topic1,topic2;app2=`).
    pub fn new(properties: &Properties, app: &str) -> Topics {
        let set = |name: &str| list(properties.text(name).unwrap_or_default());
        let scope = |name: &str| scoped(properties.text(name).unwrap_or_default(), app);
        Topics {
            allowed: set("allowedTopics"),
            protected: set("protectedTopics"),
            publishing: scope("publishingScopes"),
            subscribing: scope("subscriptionScopes"),
        }
    }

    /// Whether the app may use the topic so. An app that no scope names may use every topic that is not
    /// protected; an app that is named with nothing behind it may use none.
    pub fn allow(&self, what: Use, topic: &str) -> bool {
        if !self.allowed.is_empty() && !self.allowed.contains(topic) {
            return false;
        }
        let scope = match what {
            Use::Publish => &self.publishing,
            Use::Subscribe => &self.subscribing,
        };
        if scope.is_empty() { !self.protected.contains(topic) } else { scope.contains(topic) }
    }
}

fn list(text: &str) -> BTreeSet<String> {
    text.split(',').map(str::trim).filter(|topic| !topic.is_empty()).map(str::to_owned).collect()
}

fn scoped(text: &str, app: &str) -> BTreeSet<String> {
    let mut entries = text.split(';').filter_map(|entry| entry.split_once('='));
    // An empty name stays in: it makes the set "named, but nothing" instead of "not named".
    entries
        .find(|(name, _)| name.trim() == app)
        .map(|(_, topics)| topics.split(',').map(|topic| topic.trim().to_owned()).collect())
        .unwrap_or_default()
}

/// Which secrets of one store may be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Whether a secret that neither list names is denied.
    pub deny_by_default: bool,
    /// If there are any, only these.
    pub allowed: BTreeSet<String>,
    /// Never these.
    pub denied: BTreeSet<String>,
}

impl Secrets {
    /// Whether this secret may be read. A list of allowed secrets settles it alone, as in daprd.
    pub fn allow(&self, name: &str) -> bool {
        if !self.allowed.is_empty() {
            return self.allowed.contains(name);
        }
        !self.denied.contains(name) && !self.deny_by_default
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::Value;

    fn topics(pairs: &[(&str, &str)], app: &str) -> Topics {
        let properties = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::Plain((*value).to_owned())))
            .collect();
        Topics::new(&properties, app)
    }

    #[test]
    fn topics_by_allow_list_protection_and_scope() {
        let all = [
            ("allowedTopics", "a, b,c,secret"),
            ("protectedTopics", "secret"),
            ("publishingScopes", "shop = a, secret ; mute=;other=b"),
            ("subscriptionScopes", "mail=b"),
        ];
        let table = [
            ("shop", Use::Publish, "a", true),
            ("shop", Use::Publish, "secret", true),
            ("shop", Use::Publish, "b", false),
            ("shop", Use::Publish, "z", false),
            ("mute", Use::Publish, "a", false),
            ("mute", Use::Subscribe, "a", true),
            ("unnamed", Use::Publish, "a", true),
            ("unnamed", Use::Publish, "secret", false),
            ("unnamed", Use::Publish, "z", false),
            ("mail", Use::Subscribe, "b", true),
            ("mail", Use::Subscribe, "a", false),
            ("mail", Use::Publish, "a", true),
        ];
        for (app, what, topic, allowed) in table {
            assert_eq!(topics(&all, app).allow(what, topic), allowed, "{app} {what:?} {topic}");
        }
        assert!(topics(&[], "shop").allow(Use::Publish, "anything"));
        assert!(topics(&[("publishingScopes", "")], "shop").allow(Use::Publish, "anything"));
    }

    #[test]
    fn secrets_by_default_and_lists() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let table = [
            (false, set(&[]), set(&[]), "x", true),
            (true, set(&[]), set(&[]), "x", false),
            (true, set(&["x"]), set(&[]), "x", true),
            (false, set(&["x"]), set(&[]), "y", false),
            (false, set(&[]), set(&["x"]), "x", false),
            (false, set(&[]), set(&["x"]), "y", true),
            (false, set(&["x"]), set(&["x"]), "x", true),
        ];
        for (deny_by_default, allowed, denied, name, may) in table {
            let scope = Secrets { deny_by_default, allowed, denied };
            assert_eq!(scope.allow(name), may, "{scope:?} {name}");
        }
    }
}

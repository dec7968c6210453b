//! The registry: which driver opens components of which type and version.

use std::collections::BTreeMap;
use std::sync::Arc;

use dodai_core::features::{Blocks, Type};
use futures_core::future::BoxFuture;

use super::properties::{nearest, unserved};
use super::{Capabilities, Component, Context, Error, Spec};
use crate::state;

/// What a factory hands back: the capabilities, and warnings for the user.
pub type Opening = (Capabilities, Vec<String>);

/// Opens components of one type.
pub trait Factory: Send + Sync {
    /// Opens one. Dropping the future must leave nothing behind.
    fn open<'a>(&'a self, spec: &'a Spec, context: &'a Context) -> BoxFuture<'a, Result<Opening, Error>>;
}

impl<F> Factory for F
where
    F: for<'a> Fn(&'a Spec, &'a Context) -> BoxFuture<'a, Result<Opening, Error>> + Send + Sync,
{
    fn open<'a>(&'a self, spec: &'a Spec, context: &'a Context) -> BoxFuture<'a, Result<Opening, Error>> {
        self(spec, context)
    }
}

/// A driver, and what the components that it opens can serve.
#[derive(Clone)]
struct Driver {
    blocks: Blocks,
    factory: Arc<dyn Factory>,
}

/// The drivers that are built in.
#[derive(Clone, Default)]
pub struct Registry(BTreeMap<String, BTreeMap<String, Driver>>);

impl Registry {
    /// An empty registry.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Adds a driver, replacing one of the same type and version. `blocks` is what its components can serve; settings
    /// may leave something out.
    pub fn register(&mut self, kind: &str, version: &str, blocks: Blocks, factory: impl Factory + 'static) {
        let driver = Driver { blocks, factory: Arc::new(factory) };
        self.0.entry(kind.to_owned()).or_default().insert(version.to_owned(), driver);
    }

    /// The types that are known, each version by itself.
    pub fn types(&self) -> impl Iterator<Item = Type> {
        self.0.iter().flat_map(|(kind, versions)| {
            versions.iter().map(|(version, driver)| Type {
                kind: kind.clone(),
                version: version.clone(),
                blocks: driver.blocks.clone(),
            })
        })
    }

    fn factory(&self, spec: &Spec) -> Result<&Arc<dyn Factory>, Error> {
        let Some(versions) = self.0.get(&spec.kind) else {
            let nearest = nearest(&spec.kind, self.0.keys().map(String::as_str))
                .map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
            let known = self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownType {
                name: spec.name.clone(),
                kind: spec.kind.clone(),
                nearest,
                known,
            });
        };
        let version = if spec.version.is_empty() { "v1" } else { &spec.version };
        versions.get(version).map(|driver| &driver.factory).ok_or_else(|| Error::UnknownVersion {
            name: spec.name.clone(),
            kind: spec.kind.clone(),
            version: version.to_owned(),
            known: versions.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        })
    }

    /// Whether a driver of this spec's type and version is there, without opening anything.
    ///
    /// # Errors
    /// There is none.
    pub fn check(&self, spec: &Spec) -> Result<(), Error> {
        self.factory(spec).map(|_| ())
    }

    /// Opens a component, within its init timeout.
    ///
    /// # Errors
    /// No such driver, a bad property, or a store that cannot be reached.
    pub async fn open(&self, spec: Spec, context: &Context) -> Result<Component, Error> {
        let factory = self.factory(&spec)?;
        let unserved = unserved(&spec)?;
        let keys = if spec.kind.starts_with("state.") { state::Keys::read(&spec)? } else { None };
        let opening = factory.open(&spec, context);
        let (mut serves, mut warnings) =
            tokio::time::timeout(spec.init_timeout, opening).await.map_err(|_| Error::Timeout {
                name: spec.name.clone(),
                kind: spec.kind.clone(),
                timeout: spec.init_timeout,
            })??;
        if let Some(keys) = keys {
            serves.state = serves.state.map(|store| keys.seal(store));
        }
        for warning in &warnings {
            tracing::warn!(component = %spec.name, "{warning}");
        }
        // Who read the document has told this already, with its place.
        warnings.extend(unserved);
        Ok(Component { spec: Arc::new(spec), serves, warnings })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn never<'a>(_: &'a Spec, _: &'a Context) -> BoxFuture<'a, Result<Opening, Error>> {
        Box::pin(std::future::pending())
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_types_versions_and_slow_stores_are_named() {
        let mut registry = Registry::new();
        registry.register("state.slow", "v1", Blocks::default(), never);
        let open = |spec: Spec| {
            let registry = registry.clone();
            async move { registry.open(spec, &Context::default()).await.expect_err("refused").to_string() }
        };
        assert_eq!(
            open(Spec::new("a", "state.slwo")).await,
            "component `a`: unknown type `state.slwo`, did you mean `state.slow`?; known: state.slow"
        );
        let spec = Spec { version: "v9".into(), ..Spec::new("a", "state.slow") };
        assert_eq!(open(spec).await, "component `a`: type `state.slow` has no version `v9`; known: v1");
        let spec = Spec { init_timeout: Duration::from_secs(2), ..Spec::new("a", "state.slow") };
        assert!(open(spec).await.contains("did not open within 2s"));
    }

    #[tokio::test]
    async fn an_outbox_is_refused_and_actors_are_warned_of() {
        let mut registry = Registry::new();
        crate::memory::register(&mut registry);
        let open = |spec: Spec| {
            let registry = registry.clone();
            async move { registry.open(spec, &Context::default()).await }
        };
        for property in ["outboxPublishPubsub", "OUTBOXPUBLISHTOPIC", "outboxPubsub"] {
            let error =
                open(Spec::new("a", "state.in-memory").with(property, "x")).await.expect_err(property);
            assert!(error.to_string().contains("asks for the outbox"), "{error}");
        }
        let opened = open(Spec::new("a", "state.in-memory").with("actorStateStore", "true")).await;
        let opened = opened.expect("opens");
        assert!(!opened.features().contains(&"ACTOR"), "actors are not served: {:?}", opened.features());
        let warnings = opened.warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("actors are not served"), "{warnings:?}");
        let opened = open(Spec::new("a", "state.in-memory").with("actorStateStore", "false")).await;
        assert_eq!(opened.expect("opens").warnings, Vec::<String>::new());
        // What concerns state alone is unknown to others.
        let opened = open(Spec::new("a", "lock.in-memory").with("primaryEncryptionKey", "x")).await;
        assert!(opened.expect("opens").warnings[0].contains("has no property `primaryEncryptionKey`"));
    }
}

//! Why the runtime could not do what it was asked, in words for the person who can mend it.

use dodai_capability::{Fault, component, configuration, secrets};
use dodai_core::id::Name;

/// A failure of the runtime outside of an app's API call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such component.
    #[error(
        "there is no component `{name}` in namespace `{namespace}`; add a Component of that name, or correct the reference"
    )]
    NoComponent {
        /// Where it was looked for.
        namespace: Name,
        /// What was asked for.
        name: String,
    },
    /// The component is there and cannot be used now.
    #[error("component `{name}` is not ready: {reason}")]
    NotReady {
        /// Which one.
        name: String,
        /// Why.
        reason: String,
    },
    /// The component does something else.
    #[error("component `{name}` is no {wanted}; name one whose type begins with `{prefix}`")]
    WrongKind {
        /// Which one.
        name: String,
        /// What was wanted of it.
        wanted: &'static str,
        /// How such types begin.
        prefix: &'static str,
    },
    /// The app is not among the component's scopes.
    #[error("app `{app}` may not use component `{name}`; add it to the component's scopes")]
    OutOfScope {
        /// Which component.
        name: String,
        /// Which app.
        app: String,
    },
    /// An environment variable that a value refers to is not set, or is the runtime's own.
    #[error("environment variable `{name}` {problem}")]
    Variable {
        /// Which one.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A secret has no value of the wanted key.
    #[error("secret `{name}` of store `{store}` has no key `{key}`")]
    SecretKey {
        /// Which store.
        store: String,
        /// Which secret.
        name: String,
        /// Which key.
        key: String,
    },
    /// A configuration store does not have a key.
    #[error("configuration store `{store}` has no key `{key}`")]
    ConfigurationKey {
        /// Which store.
        store: String,
        /// Which key.
        key: String,
    },
    /// A secret could not be read.
    #[error("secret `{name}` of store `{store}` could not be read: {source}")]
    Secret {
        /// Which store.
        store: String,
        /// Which secret.
        name: String,
        /// What the store said.
        source: secrets::Error,
    },
    /// A configuration store failed.
    #[error("configuration store `{store}` could not be read: {source}")]
    Configuration {
        /// Which store.
        store: String,
        /// What the store said.
        source: configuration::Error,
    },
    /// A setting stands for something different in each app, which a component shared by apps cannot have.
    #[error(
        "setting `{setting}` has the template `{template}`, which differs from app to app, but a component is shared by the apps of a base; write the value out, or make one component per app"
    )]
    Template {
        /// Which setting.
        setting: String,
        /// Which template.
        template: &'static str,
    },
    /// A component could not be opened.
    #[error(transparent)]
    Open(#[from] component::Error),
    /// A component was opened and does not answer.
    #[error("component `{name}` was opened but does not answer: {fault}")]
    Ping {
        /// Which one.
        name: String,
        /// What it said.
        fault: Fault,
    },
    /// A key prefix that cannot be used.
    #[error(transparent)]
    Prefix(#[from] dodai_capability::keys::Illegal),
}

impl Error {
    /// A stable word for this error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::NoComponent { .. } => "component_not_found",
            Error::NotReady { .. } => "component_not_ready",
            Error::WrongKind { .. } => "component_wrong_kind",
            Error::OutOfScope { .. } => "component_out_of_scope",
            Error::Variable { .. } => "environment_variable",
            Error::SecretKey { .. } => "secret_key_not_found",
            Error::ConfigurationKey { .. } => "configuration_key_not_found",
            Error::Secret { source, .. } => source.code(),
            Error::Configuration { source, .. } => source.code(),
            Error::Template { .. } => "component_template",
            Error::Open(error) => error.code(),
            Error::Ping { .. } => "component_ping_failed",
            Error::Prefix(_) => "component_key_prefix",
        }
    }

    /// Whether it may pass as soon as another component has come up.
    pub(crate) fn waits_for_another(&self) -> bool {
        matches!(self, Error::NoComponent { .. } | Error::NotReady { .. })
    }
}

//! Components: a [`Spec`] says what a user configured, a [`Registry`] knows the driver of each type, and a
//! [`Component`] is the open thing that serves one or more capabilities.
//!
//! Order of life: open (within the init timeout), serve, close. A component that replaces another is opened
//! before the old one is closed; nothing here keeps them apart.

mod properties;
mod registry;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::features::{self, Blocks};
pub(crate) use properties::duration;
pub use properties::{Properties, Reader, Value};
pub use registry::{Factory, Opening, Registry};

use crate::answer::Answer;
use crate::clock::Clock;
use crate::fault::Fault;
use crate::{binding, configuration, lock, pubsub, secrets, state};

/// How long a component may take to open unless its spec says otherwise.
pub const DEFAULT_INIT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a user configured. Secret references are resolved already.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The name that apps use.
    pub name: String,
    /// The type: `state.sqlite`.
    pub kind: String,
    /// The version of the type; empty means `v1`.
    pub version: String,
    /// What the driver is to know.
    pub properties: Properties,
    /// The apps that may use it; none listed: all.
    pub scopes: Vec<String>,
    /// Whether the base goes on without it when it cannot be opened.
    pub ignore_errors: bool,
    /// How long it may take to open.
    pub init_timeout: Duration,
}

impl Spec {
    /// A spec without properties.
    pub fn new(name: impl Into<String>, kind: impl Into<String>) -> Spec {
        Spec {
            name: name.into(),
            kind: kind.into(),
            version: "v1".into(),
            properties: Properties::default(),
            scopes: Vec::new(),
            ignore_errors: false,
            init_timeout: DEFAULT_INIT_TIMEOUT,
        }
    }

    /// The same spec with one more plain property.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Spec {
        self.properties.insert(name, Value::Plain(value.into()));
        self
    }

    /// Whether `app` may use the component.
    pub fn serves(&self, app: &str) -> bool {
        self.scopes.is_empty() || self.scopes.iter().any(|scope| scope == app)
    }

    /// Reads the properties, one by one.
    pub fn read(&self) -> Reader<'_> {
        Reader::new(self)
    }
}

/// What a driver may use of the process it runs in.
#[derive(Clone, Default)]
pub struct Context {
    /// Where relative paths of files begin.
    pub data_dir: PathBuf,
    /// The wall clock.
    pub clock: Clock,
    /// Where background work is born.
    pub tasks: dodai_core::task::Tasks,
}

/// The end of a component's life, and its pulse.
pub trait Lifecycle: Send + Sync {
    /// Whether the store behind it answers.
    fn ping(&self) -> Answer<'_, Result<(), Fault>> {
        Answer::ready(Ok(()))
    }

    /// Ends it: waiting consumers are told that it is over, later calls fail as closed. Closing twice is
    /// harmless.
    fn close(&self) -> Answer<'_, ()>;
}

/// What a driver made: the capabilities it serves. The same object may serve several.
#[derive(Clone, Default)]
pub struct Capabilities {
    /// Key-value state.
    pub state: Option<Arc<dyn state::Store>>,
    /// Messages.
    pub pubsub: Option<Arc<dyn pubsub::Broker>>,
    /// Secrets.
    pub secrets: Option<Arc<dyn secrets::Store>>,
    /// Configuration, for apps.
    pub configuration: Option<Arc<dyn configuration::Store>>,
    /// Configuration, for operators.
    pub configuration_writer: Option<Arc<dyn configuration::Writer>>,
    /// Locks.
    pub lock: Option<Arc<dyn lock::Store>>,
    /// What apps may ask of it.
    pub output: Option<Arc<dyn binding::Output>>,
    /// What it tells apps.
    pub input: Option<Arc<dyn binding::Input>>,
    /// Pulse and end; `None` for drivers that hold nothing.
    pub lifecycle: Option<Arc<dyn Lifecycle>>,
}

impl Capabilities {
    /// The blocks it serves, and what it can do in each.
    pub fn blocks(&self) -> Blocks {
        let operations = self.output.as_ref().map(|output| output.operations());
        let binds = self.input.is_some() || self.output.is_some();
        Blocks {
            state: self.state.as_ref().map(|state| state.features()),
            pubsub: self.pubsub.as_ref().map(|pubsub| pubsub.features()),
            secrets: self.secrets.as_ref().map(|secrets| secrets.features()),
            configuration: self
                .configuration
                .as_ref()
                .map(|_| features::Configuration { write: self.configuration_writer.is_some() }),
            lock: self.lock.as_ref().map(|lock| lock.features()),
            bindings: binds.then(|| binding::features(self.input.is_some(), operations.unwrap_or_default())),
        }
    }
}

/// An open component.
#[derive(Clone)]
pub struct Component {
    /// What it was made from.
    pub spec: Arc<Spec>,
    /// What it serves.
    pub serves: Capabilities,
    /// What its user should know: properties that nobody reads.
    pub warnings: Vec<String>,
}

impl Component {
    /// The words for the features it has, as the metadata API lists them. `ACTOR` is never one: clients would take
    /// the store for one of actors, which are not served.
    pub fn features(&self) -> Vec<&'static str> {
        let Blocks { state, pubsub, secrets, bindings, configuration: _, lock: _ } = self.serves.blocks();
        let state = state.unwrap_or_default();
        let pubsub = pubsub.unwrap_or_default();
        let bindings = bindings.unwrap_or_default();
        let table = [
            (state.etag, "ETAG"),
            (state.transaction, "TRANSACTIONAL"),
            (state.ttl, "TTL"),
            (state.list, "KEYS_LIKE"),
            (pubsub.ttl, "MESSAGE_TTL"),
            (pubsub.bulk_publish, "BULK_PUBSUB"),
            (bindings.input, "INPUT_BINDING"),
            (!bindings.operations.is_empty(), "OUTPUT_BINDING"),
            (secrets.unwrap_or_default().multiple_values, "MULTIPLE_KEY_VALUES_PER_SECRET"),
        ];
        table.into_iter().filter(|(has, _)| *has).map(|(_, word)| word).collect()
    }

    /// Whether the store behind it answers.
    pub async fn ping(&self) -> Result<(), Fault> {
        match &self.serves.lifecycle {
            Some(lifecycle) => lifecycle.ping().await,
            None => Ok(()),
        }
    }

    /// Ends it.
    pub async fn close(&self) {
        if let Some(lifecycle) = &self.serves.lifecycle {
            lifecycle.close().await;
        }
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component").field("name", &self.spec.name).field("type", &self.spec.kind).finish()
    }
}

/// Why a component could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No driver of that type is built in.
    #[error("component `{name}`: unknown type `{kind}`{nearest}; known: {known}")]
    UnknownType {
        /// The component.
        name: String,
        /// The type asked for.
        kind: String,
        /// `, did you mean ...?` or nothing.
        nearest: String,
        /// All types there are.
        known: String,
    },
    /// The type is known, its version is not.
    #[error("component `{name}`: type `{kind}` has no version `{version}`; known: {known}")]
    UnknownVersion {
        /// The component.
        name: String,
        /// The type.
        kind: String,
        /// The version asked for.
        version: String,
        /// The versions there are.
        known: String,
    },
    /// A property that must be there is not.
    #[error("component `{name}`: property `{property}` is missing{nearest}")]
    MissingProperty {
        /// The component.
        name: String,
        /// The property.
        property: String,
        /// `; it has ..., did you mean that?` or nothing.
        nearest: String,
    },
    /// A property cannot be read.
    #[error("component `{name}`: property `{property}` is {given}; give {wanted}")]
    BadProperty {
        /// The component.
        name: String,
        /// The property.
        property: String,
        /// What it is; `***` if it is a secret.
        given: String,
        /// What it should be.
        wanted: String,
    },
    /// It asks for the transactional outbox.
    #[error(
        "component `{name}`: property `{property}` asks for the outbox, which is not offered: no message would be sent; take it out, and publish after the write"
    )]
    Outbox {
        /// The component.
        name: String,
        /// The property.
        property: &'static str,
    },
    /// It did not open in time.
    #[error(
        "component `{name}` ({kind}) did not open within {timeout:?}; see that its store can be reached, or raise initTimeout"
    )]
    Timeout {
        /// The component.
        name: String,
        /// Its type.
        kind: String,
        /// The limit.
        timeout: Duration,
    },
    /// The driver failed.
    #[error("component `{name}` ({kind}) could not be opened: {fault}")]
    Fault {
        /// The component.
        name: String,
        /// Its type.
        kind: String,
        /// What the driver said.
        fault: Fault,
    },
}

impl Error {
    /// A stable word for this error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::UnknownType { .. } => "component_unknown_type",
            Error::UnknownVersion { .. } => "component_unknown_version",
            Error::MissingProperty { .. } => "component_missing_property",
            Error::BadProperty { .. } => "component_bad_property",
            Error::Outbox { .. } => "component_outbox",
            Error::Timeout { .. } => "component_init_timeout",
            Error::Fault { .. } => "component_init_failed",
        }
    }
}

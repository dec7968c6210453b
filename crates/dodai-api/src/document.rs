//! `Document`, the closed set of kinds, its key, and its canonical JSON form.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dapr::{Component, Configuration, HttpEndpoint, Resiliency, Subscription};
use crate::metadata::{Metadata, Status};
use crate::name::{Name, ObjectName};
use crate::text::Invalid;
use crate::{
    AppSpec, AppStatus, BaseSpec, BaseStatus, GatewaySpec, PolicySpec, RevisionSpec, RouteSpec, ServiceSpec,
};

/// A document of a dodai.dev kind: metadata, spec and the status that control writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resource<S, T = Status> {
    /// Identity and labels.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: S,
    /// What was observed. Written by control, ignored when a user writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<T>,
}

/// A namespace: it has labels and no spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Namespace {
    /// Identity and labels.
    pub metadata: Metadata,
    /// What was observed. Written by control, ignored when a user writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// An app: the unit of identity, policy and ownership.
pub type App = Resource<AppSpec, AppStatus>;
/// An immutable version of an app, made by control.
pub type Revision = Resource<RevisionSpec>;
/// A name others call, when the one that an app's own services give is not enough.
pub type Service = Resource<ServiceSpec>;
/// Listeners at the border.
pub type Gateway = Resource<GatewaySpec>;
/// Where calls go.
pub type Route = Resource<RouteSpec>;
/// Limits, retries and access for what it targets.
pub type Policy = Resource<PolicySpec>;
/// One node.
pub type Base = Resource<BaseSpec, BaseStatus>;

macro_rules! kinds {
    ($($variant:ident($type:ty) = $kind:literal, $versions:expr, $namespaced:literal;)*) => {
        /// The kinds of documents.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = concat!("`", $kind, "`.")] $variant,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)*];

            /// The word in a document's `kind`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Kind::$variant => $kind,)* }
            }

            /// The values of `apiVersion` this kind is read from, the one it is written with first.
            pub const fn api_versions(self) -> &'static [&'static str] {
                match self { $(Kind::$variant => $versions,)* }
            }

            /// Whether documents of this kind live in a namespace other than `default`.
            pub const fn is_namespaced(self) -> bool {
                match self { $(Kind::$variant => $namespaced,)* }
            }
        }

        /// A document of any kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Document {
            $(#[doc = concat!("A `", $kind, "`.")] $variant(Box<$type>),)*
        }

        impl Document {
            /// The document's kind.
            pub fn kind(&self) -> Kind {
                match self { $(Document::$variant(_) => Kind::$variant,)* }
            }

            /// Identity, labels and bookkeeping.
            pub fn metadata(&self) -> &Metadata {
                match self { $(Document::$variant(document) => &document.metadata,)* }
            }

            /// Identity, labels and bookkeeping, to change.
            pub fn metadata_mut(&mut self) -> &mut Metadata {
                match self { $(Document::$variant(document) => &mut document.metadata,)* }
            }

            /// Drops the status; says whether there was one.
            pub fn clear_status(&mut self) -> bool {
                match self { $(Document::$variant(document) => document.status.take().is_some(),)* }
            }

            fn body(&self) -> Value {
                let body = match self { $(Document::$variant(document) => serde_json::to_value(document),)* };
                body.expect("documents have text keys only, which JSON can always hold")
            }

            pub(crate) fn parse<'de, D: serde::Deserializer<'de>>(kind: Kind, body: D) -> Result<Self, D::Error> {
                match kind {
                    $(Kind::$variant => Ok(Document::$variant(Box::new(Deserialize::deserialize(body)?))),)*
                }
            }

            pub(crate) fn raw_schema(kind: Kind, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                match kind { $(Kind::$variant => <$type>::json_schema(generator),)* }
            }
        }

        $(
            impl From<$type> for Document {
                fn from(document: $type) -> Self {
                    Document::$variant(Box::new(document))
                }
            }
        )*
    };
}

/// `apiVersion` of our own kinds.
pub const API_VERSION: &str = "dodai.dev/v1";
const DODAI: &[&str] = &[API_VERSION];
const DAPR: &[&str] = &["dapr.io/v1alpha1"];
const DAPR_SUBSCRIPTION: &[&str] = &["dapr.io/v2alpha1", "dapr.io/v1alpha1"];

kinds! {
    Namespace(Namespace) = "Namespace", DODAI, false;
    App(App) = "App", DODAI, true;
    Revision(Revision) = "Revision", DODAI, true;
    Service(Service) = "Service", DODAI, true;
    Gateway(Gateway) = "Gateway", DODAI, true;
    Route(Route) = "Route", DODAI, true;
    Policy(Policy) = "Policy", DODAI, true;
    Base(Base) = "Base", DODAI, false;
    Component(Component) = "Component", DAPR, true;
    Subscription(Subscription) = "Subscription", DAPR_SUBSCRIPTION, true;
    Resiliency(Resiliency) = "Resiliency", DAPR, true;
    Configuration(Configuration) = "Configuration", DAPR, true;
    HttpEndpoint(HttpEndpoint) = "HTTPEndpoint", DAPR, true;
}

impl Kind {
    /// Whether unknown keys are errors (dodai.dev) or warnings (dapr.io).
    pub fn is_strict(self) -> bool {
        self.api_versions() == DODAI
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = Invalid;

    /// Reads a kind as it is written in documents; upper and lower case do not matter.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let found = Kind::ALL.iter().copied().find(|kind| kind.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| {
            let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            Invalid::new(
                format!("`{}` is not a kind", Invalid::shorten(text)),
                crate::read::suggest(text, &known)
                    .unwrap_or_else(|| format!("kinds are {}", known.join(", "))),
            )
        })
    }
}

/// What names a document in the store: `kind/namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace; `default` for kinds without one.
    pub namespace: Name,
    /// The name.
    pub name: ObjectName,
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

impl FromStr for DocumentKey {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut parts = text.splitn(3, '/');
        let (Some(kind), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Invalid::new(
                format!("`{}` does not name a document", Invalid::shorten(text)),
                "write `kind/namespace/name`, for example `App/default/shop`",
            ));
        };
        Ok(DocumentKey { kind: kind.parse()?, namespace: namespace.parse()?, name: name.parse()? })
    }
}

impl Serialize for Document {
    /// Writes the canonical form.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Document {
    /// Reads the canonical form; the error names the first problem.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Document::from_value(&value).map_err(|problems| {
            let first = problems.into_iter().next().map(|problem| problem.to_string());
            serde::de::Error::custom(first.unwrap_or_else(|| "not a document".to_owned()))
        })
    }
}

impl Document {
    /// What names this document in the store.
    pub fn key(&self) -> DocumentKey {
        let metadata = self.metadata();
        let namespace =
            if self.kind().is_namespaced() { metadata.namespace.clone() } else { Name::default_namespace() };
        DocumentKey { kind: self.kind(), namespace, name: metadata.name.clone() }
    }

    /// The canonical form: every default written out, absent and empty parts left out, quantities in their
    /// shortest spelling. [`Document::from_value`] of it gives an equal document.
    pub fn to_value(&self) -> Value {
        let mut value = self.body();
        if let Value::Object(map) = &mut value {
            let version = self.kind().api_versions()[0];
            map.insert("apiVersion".to_owned(), Value::from(version));
            map.insert("kind".to_owned(), Value::from(self.kind().as_str()));
        }
        value
    }

    /// A document from its canonical form, as the store and the API hold it; status and server-set metadata stay.
    ///
    /// # Errors
    /// Every problem of the value, if it is not a document.
    pub fn from_value(value: &Value) -> Result<Document, Vec<crate::read::Problem>> {
        crate::read::from_value(value)
    }

    /// The `spec` of the canonical form; `null` for a kind without one.
    pub fn spec_value(&self) -> Value {
        let mut body = self.body();
        body.get_mut("spec").map(Value::take).unwrap_or_default()
    }
}

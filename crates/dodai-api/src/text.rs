//! Values written as text (names, durations, sizes): one error shape and one serde and schema treatment for all.

use std::fmt;

/// Why a text is not a value of its type, and how to write one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// What is wrong, naming the text.
    pub message: String,
    /// What to write instead.
    pub remedy: String,
}

/// Between message and remedy when an [`Invalid`] passes through serde, which carries text only.
pub(crate) const REMEDY_MARK: &str = "; ";

/// The name under which a text newtype asks for the text as it was written.
pub(crate) const RAW_TEXT: &str = "$text";

impl Invalid {
    pub(crate) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }

    /// At most 60 characters of a text, for messages. What would steer a terminal, or begin a line, is escaped.
    pub(crate) fn shorten(text: &str) -> String {
        let long = text.chars().count() > 60;
        let mut short = String::new();
        for c in text.chars().take(if long { 57 } else { 60 }) {
            if c.is_control() { short.extend(c.escape_default()) } else { short.push(c) }
        }
        if long {
            short.push_str("...");
        }
        short
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{REMEDY_MARK}{}", self.message, self.remedy)
    }
}

impl std::error::Error for Invalid {}

/// serde and schema for a newtype with `FromStr<Err = Invalid>` and `Display`: it is written as a string.
/// From a file, the text is what the user wrote even without quotes: `0123456789` is an id, and `30` a duration whose
/// unit is missing. [`RAW_TEXT`] tells the reader so; other deserializers pass over it.
macro_rules! text_newtype {
    ($type:ident, $expected:literal, $pattern:expr, $description:literal) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl<'de> serde::de::Visitor<'de> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_newtype_struct<D>(self, deserializer: D) -> Result<$type, D::Error>
                    where
                        D: serde::Deserializer<'de>,
                    {
                        deserializer.deserialize_str(self)
                    }
                }
                deserializer.deserialize_newtype_struct($crate::text::RAW_TEXT, Text)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                false
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    };
}
pub(crate) use text_newtype;

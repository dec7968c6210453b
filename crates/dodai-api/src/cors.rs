//! Which pages of other origins may call, shaped like the Gateway API's HTTPCORSFilter.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which pages of other origins may call. Preflights are answered by the base, and what the app says of it is
/// replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// Origins, `https://shop.example.com`; `https://*.example.com` for all below a domain; `*` for all. At least one.
    pub allow_origins: Vec<String>,
    /// Methods beside GET, HEAD and POST, which need no leave; `*` for all. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    /// Headers of calls that need leave; `*` for all. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    /// Headers of answers that a page may read; `*` for all. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// Whether calls may carry cookies. Not with an origin of `*`. Default: `false`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_credentials: bool,
    /// How long a browser remembers the answer to a preflight, in seconds. Default: 5.
    #[serde(default = "five")]
    #[schemars(range(min = 1, max = 86400))]
    pub max_age: u32,
}

fn five() -> u32 {
    5
}

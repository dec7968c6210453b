//! Who answers: what each app of the shop says under `/info`.

use serde::{Deserialize, Serialize};

/// One running app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The app's name.
    pub app: String,
    /// `module`, `process` or `external`.
    pub shape: String,
    /// The revision that answered.
    pub revision: String,
    /// The version of the code.
    pub version: String,
}

impl Info {
    /// This module, as the base named it in its environment.
    #[allow(
        clippy::disallowed_methods,
        reason = "a module's environment is what the base hands this instance"
    )]
    pub fn of_module(app: &str, version: &str) -> Info {
        let revision = std::env::var("DODAI_REVISION").unwrap_or_else(|_| "unknown".into());
        Info { app: app.into(), shape: "module".into(), revision, version: version.into() }
    }
}

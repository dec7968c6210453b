//! Drivers that keep their data outside the process. A cargo feature per group; the only home of vendors' clients.
//!
//! [`register`] makes them known to a registry; nothing starts and nothing is opened before a component is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dodai_capability::component::Registry;

#[cfg(feature = "bindings")]
pub mod bindings;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "postgresql")]
pub mod postgresql;
#[cfg(feature = "redis")]
pub mod rates;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(feature = "bindings", feature = "postgresql", feature = "redis"))]
mod server;
#[cfg(feature = "sqlite")]
pub mod sqlite;

/// Where relative file names begin.
#[derive(Clone, Debug)]
pub struct Folders {
    /// For what drivers write: databases.
    pub data: PathBuf,
    /// For what users write: secret files.
    pub project: PathBuf,
}

/// Makes all drivers that are built in known. `environment` is what `secretstores.local.env` may show, and says where
/// the roots are that servers with TLS are checked against (`SSL_CERT_FILE`, `SSL_CERT_DIR`).
#[cfg_attr(
    not(any(feature = "bindings", feature = "local", feature = "postgresql", feature = "redis")),
    expect(unused_variables, reason = "only these groups read the environment")
)]
pub fn register(registry: &mut Registry, environment: Arc<BTreeMap<String, String>>, folders: &Folders) {
    #[cfg(any(feature = "bindings", feature = "postgresql", feature = "redis"))]
    let roots = dodai_transport::tls::public::RootsFrom::environment(|name| environment.get(name).cloned());
    #[cfg(feature = "bindings")]
    bindings::register(registry, &roots, &folders.data);
    #[cfg(feature = "postgresql")]
    postgresql::register(registry, &roots);
    #[cfg(feature = "redis")]
    redis::register(registry, &roots);
    #[cfg(feature = "sqlite")]
    sqlite::register(registry, &folders.data);
    #[cfg(feature = "local")]
    local::register(registry, environment, &folders.project);
}

//! Drivers that keep their data outside the process. A cargo feature per group; the only home of vendors' clients.
//!
//! [`register`] makes them known to a registry; nothing starts and nothing is opened before a component is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dodai_capability::component::Registry;

#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "sqlite")]
pub mod sqlite;

/// Makes all drivers that are built in known. `environment` is what `secretstores.local.env` may show;
/// relative file names begin at `data_dir`.
#[cfg_attr(
    not(feature = "local"),
    expect(unused_variables, reason = "only the local group reads the environment")
)]
pub fn register(registry: &mut Registry, environment: Arc<BTreeMap<String, String>>, data_dir: PathBuf) {
    #[cfg(feature = "sqlite")]
    sqlite::register(registry, &data_dir);
    #[cfg(feature = "local")]
    local::register(registry, environment, &data_dir);
}

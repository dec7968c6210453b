//! Secrets that are on this machine: a JSON file, or variables of the environment.

mod env;
mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dodai_capability::component::{Capabilities, Context, Error, Opening, Registry, Spec};
use dodai_capability::secrets::Features;
use dodai_core::features::Blocks;
use futures_core::future::BoxFuture;

pub use env::Environment;
pub use file::JsonFile;

/// Makes `secretstores.local.file` and `secretstores.local.env` known.
pub fn register(registry: &mut Registry, environment: Arc<BTreeMap<String, String>>, data_dir: &Path) {
    let blocks =
        |multiple_values| Blocks { secrets: Some(Features { multiple_values }), ..Blocks::default() };
    registry.register("secretstores.local.env", "v1", blocks(false), EnvironmentDriver { environment });
    // Where its setting says so.
    let driver = FileDriver { data_dir: data_dir.to_owned() };
    registry.register("secretstores.local.file", "v1", blocks(true), driver);
}

struct EnvironmentDriver {
    environment: Arc<BTreeMap<String, String>>,
}

impl dodai_capability::component::Factory for EnvironmentDriver {
    fn open<'a>(&'a self, spec: &'a Spec, _: &'a Context) -> BoxFuture<'a, Result<Opening, Error>> {
        Box::pin(async move {
            let mut read = spec.read();
            let prefix = read.text(&["prefix"]).unwrap_or_default();
            let store = Environment::new(self.environment.clone(), prefix);
            Ok((Capabilities { secrets: Some(Arc::new(store)), ..Capabilities::default() }, read.finish()))
        })
    }
}

struct FileDriver {
    data_dir: PathBuf,
}

impl dodai_capability::component::Factory for FileDriver {
    fn open<'a>(&'a self, spec: &'a Spec, _: &'a Context) -> BoxFuture<'a, Result<Opening, Error>> {
        Box::pin(async move {
            let mut read = spec.read();
            let path = self.data_dir.join(read.required(&["secretsFile"])?);
            let separator = read.text(&["nestedSeparator"]).unwrap_or(":");
            let multi_valued = read.truth(&["multiValued"], false)?;
            let store =
                JsonFile::open(path, separator, multi_valued).await.map_err(|fault| read.fault(fault))?;
            Ok((Capabilities { secrets: Some(Arc::new(store)), ..Capabilities::default() }, read.finish()))
        })
    }
}

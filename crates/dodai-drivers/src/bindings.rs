//! Bindings: HTTP endpoints, the clock, and a folder, with the operations and settings of Dapr's components.

mod cron;
mod http;
mod localstorage;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dodai_capability::binding::{Features, features};
use dodai_capability::component::{Capabilities, Context, Error, Factory, Opening, Registry, Spec};
use dodai_core::features::Blocks;
use dodai_transport::tls::public::RootsFrom;
use futures_core::future::BoxFuture;

/// Makes `bindings.http`, `bindings.cron` and `bindings.localstorage` known. Relative folders begin at `data_dir`.
pub fn register(registry: &mut Registry, roots: &RootsFrom, data_dir: &Path) {
    for kind in [Kind::Http, Kind::Cron, Kind::LocalStorage] {
        registry.register(
            kind.name(),
            "v1",
            Blocks { bindings: Some(kind.features()), ..Blocks::default() },
            Driver { kind, roots: roots.clone(), data_dir: data_dir.to_owned() },
        );
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Http,
    Cron,
    LocalStorage,
}

impl Kind {
    fn features(self) -> Features {
        match self {
            Kind::Http => features(false, &http::OPERATIONS),
            Kind::Cron => features(true, &[]),
            Kind::LocalStorage => features(false, &localstorage::OPERATIONS),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Http => "bindings.http",
            Kind::Cron => "bindings.cron",
            Kind::LocalStorage => "bindings.localstorage",
        }
    }
}

struct Driver {
    kind: Kind,
    roots: RootsFrom,
    data_dir: PathBuf,
}

impl Factory for Driver {
    fn open<'a>(&'a self, spec: &'a Spec, context: &'a Context) -> BoxFuture<'a, Result<Opening, Error>> {
        Box::pin(async move {
            let mut read = spec.read();
            let mut serves = Capabilities::default();
            match self.kind {
                Kind::Http => {
                    let binding = http::Http::read(&mut read, &self.roots, context).await?;
                    serves.output = Some(Arc::new(binding));
                }
                Kind::Cron => {
                    let binding = Arc::new(cron::Cron::read(&mut read, context)?);
                    serves.input = Some(binding.clone());
                    serves.lifecycle = Some(binding);
                }
                Kind::LocalStorage => {
                    let binding = localstorage::Folder::read(&mut read, &self.data_dir).await?;
                    serves.output = Some(Arc::new(binding));
                }
            }
            Ok((serves, read.finish()))
        })
    }
}

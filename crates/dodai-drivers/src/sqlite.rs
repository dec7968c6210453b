//! SQLite: state, pub/sub, configuration and locks in one or several files.
//!
//! Components that name the same file share its threads and connections (`file::File`). What was acknowledged
//! to a caller survives a crash of the process, and writes of state, messages and configuration also a loss of
//! power. Other processes may use the same file at the same time.

mod configuration;
mod file;
mod jobs;
mod lock;
mod pubsub;
mod settings;
mod state;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dodai_capability::component::{Capabilities, Context, Error, Factory, Opening, Registry, Spec};
use dodai_core::features::{Blocks, Configuration};
use futures_core::future::BoxFuture;

use self::file::Files;
pub use self::jobs::Jobs;

/// Makes `state.sqlite`, `pubsub.sqlite`, `configuration.sqlite` and `lock.sqlite` known.
pub fn register(registry: &mut Registry, data_dir: &Path) {
    let files = Arc::new(Files::default());
    for kind in [Kind::State, Kind::Pubsub, Kind::Configuration, Kind::Lock] {
        registry.register(
            kind.name(),
            "v1",
            kind.blocks(),
            Driver { kind, files: files.clone(), data_dir: data_dir.to_owned() },
        );
    }
}

#[derive(Clone, Copy)]
enum Kind {
    State,
    Pubsub,
    Configuration,
    Lock,
}

impl Kind {
    fn blocks(self) -> Blocks {
        let mut blocks = Blocks::default();
        match self {
            Kind::State => blocks.state = Some(state::FEATURES),
            Kind::Pubsub => blocks.pubsub = Some(pubsub::FEATURES),
            Kind::Configuration => blocks.configuration = Some(Configuration { write: true }),
            Kind::Lock => blocks.lock = Some(lock::FEATURES),
        }
        blocks
    }

    fn name(self) -> &'static str {
        match self {
            Kind::State => "state.sqlite",
            Kind::Pubsub => "pubsub.sqlite",
            Kind::Configuration => "configuration.sqlite",
            Kind::Lock => "lock.sqlite",
        }
    }
}

struct Driver {
    kind: Kind,
    files: Arc<Files>,
    data_dir: PathBuf,
}

impl Factory for Driver {
    fn open<'a>(&'a self, spec: &'a Spec, context: &'a Context) -> BoxFuture<'a, Result<Opening, Error>> {
        Box::pin(async move {
            let mut read = spec.read();
            let mut serves = Capabilities::default();
            let settings = settings::Settings::read(&mut read, &self.data_dir)?;
            match self.kind {
                Kind::State => {
                    let options = state::Options::read(&mut read)?;
                    let access = settings.open(&self.files).await.map_err(|fault| read.fault(fault))?;
                    let store = state::Sqlite::open(access, options, context).await;
                    let store = Arc::new(store.map_err(|fault| read.fault(fault))?);
                    serves.state = Some(store.clone());
                    serves.lifecycle = Some(store);
                }
                Kind::Pubsub => {
                    let options = pubsub::Options::read(&mut read)?;
                    let access = settings.open(&self.files).await.map_err(|fault| read.fault(fault))?;
                    let broker = pubsub::Sqlite::open(access, options, context).await;
                    let broker = Arc::new(broker.map_err(|fault| read.fault(fault))?);
                    serves.pubsub = Some(broker.clone());
                    serves.lifecycle = Some(broker);
                }
                Kind::Configuration => {
                    let options = configuration::Options::read(&mut read)?;
                    let access = settings.open(&self.files).await.map_err(|fault| read.fault(fault))?;
                    let store = configuration::Sqlite::open(access, options, context).await;
                    let store = Arc::new(store.map_err(|fault| read.fault(fault))?);
                    serves.configuration = Some(store.clone());
                    serves.configuration_writer = Some(store.clone());
                    serves.lifecycle = Some(store);
                }
                Kind::Lock => {
                    let table = settings::table(&mut read, &["tableName"], "locks")?;
                    let access = settings.open(&self.files).await.map_err(|fault| read.fault(fault))?;
                    let store = lock::Sqlite::open(access, &table, context).await;
                    let store = Arc::new(store.map_err(|fault| read.fault(fault))?);
                    serves.lock = Some(store.clone());
                    serves.lifecycle = Some(store);
                }
            }
            let mut warnings = settings.warnings;
            warnings.extend(read.finish());
            Ok((serves, warnings))
        })
    }
}

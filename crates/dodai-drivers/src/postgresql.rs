//! PostgreSQL: state in the tables of Dapr's components, version 1 (`jsonb`) and 2 (`bytea`), and configuration.
//!
//! A few connections of a component (`pool`) carry statements that are sent in one exchange and leave nothing on the
//! server, so poolers between are fine. Rejected: sqlx, whose macros, pool and TLS would stand beside ours.

mod configuration;
mod login;
mod pool;
mod state;

use std::sync::Arc;

use dodai_capability::component::{Capabilities, Context, Error, Factory, Opening, Registry, Spec};
use dodai_core::features::{Blocks, Configuration};
use dodai_transport::tls::public::RootsFrom;
use futures_core::future::BoxFuture;

use self::pool::Pool;

/// Makes `state.postgresql` (v1, v2) and `configuration.postgresql` known. Without roots of its own a component with TLS
/// trusts those that `roots` says.
pub fn register(registry: &mut Registry, roots: &RootsFrom) {
    for (kind, version) in
        [(Kind::State(state::Layout::Json), "v1"), (Kind::State(state::Layout::Bytes), "v2")]
    {
        for name in ["state.postgresql", "state.postgres"] {
            let blocks = Blocks { state: Some(state::FEATURES), ..Blocks::default() };
            registry.register(name, version, blocks, Driver { kind, roots: roots.clone() });
        }
    }
    for name in ["configuration.postgresql", "configuration.postgres"] {
        let blocks = Blocks { configuration: Some(Configuration { write: true }), ..Blocks::default() };
        let driver = Driver { kind: Kind::Configuration, roots: roots.clone() };
        registry.register(name, "v1", blocks, driver);
    }
}

#[derive(Clone, Copy)]
enum Kind {
    State(state::Layout),
    Configuration,
}

struct Driver {
    kind: Kind,
    roots: RootsFrom,
}

impl Factory for Driver {
    fn open<'a>(&'a self, spec: &'a Spec, context: &'a Context) -> BoxFuture<'a, Result<Opening, Error>> {
        Box::pin(async move {
            let mut read = spec.read();
            let (settings, mut warnings) = login::Settings::read(&mut read)?;
            let pool = |settings| {
                Arc::new(Pool::new(&spec.name, settings, self.roots.clone(), context.tasks.clone()))
            };
            let mut serves = Capabilities::default();
            match self.kind {
                Kind::State(layout) => {
                    let options = state::Options::read(&mut read, layout)?;
                    let store = state::Postgresql::open(pool(settings), options, context).await;
                    let store = Arc::new(store.map_err(|fault| read.fault(fault))?);
                    serves.state = Some(store.clone());
                    serves.lifecycle = Some(store);
                }
                Kind::Configuration => {
                    let options = configuration::Options::read(&mut read)?;
                    let store = configuration::Postgresql::open(pool(settings), options, context).await;
                    let store = Arc::new(store.map_err(|fault| read.fault(fault))?);
                    serves.configuration = Some(store.clone());
                    serves.configuration_writer = Some(store.clone());
                    serves.lifecycle = Some(store);
                }
            }
            warnings.extend(read.finish());
            Ok((serves, warnings))
        })
    }
}

/// Reads the name of a table, with its schema if that is said, as it stands in statements.
///
/// # Errors
/// It is no plain identifier.
fn table(
    read: &mut dodai_capability::component::Reader<'_>,
    name: &'static str,
    default: &str,
) -> Result<String, Error> {
    let wanted = "a table name of letters, digits and `_`, perhaps with a schema before it (`public.state`)";
    read.typed(&[name], default.to_owned(), wanted, |text| {
        let plain = |part: &str| {
            let first = part.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
            first && part.len() <= 63 && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        let mut parts = text.split('.');
        let fits = parts.by_ref().take(2).all(plain) && parts.next().is_none();
        fits.then(|| text.to_owned())
    })
}

//! Redis: state, pub/sub by streams, configuration and locks, in the layouts of Dapr's components, so that either can
//! go on with what the other wrote.
//!
//! One connection carries the requests of a component (`link`). Versions 6.2 and later; no clusters and no Sentinels.

mod configuration;
mod link;
mod lock;
mod pubsub;
mod settings;
mod state;

use std::sync::Arc;

use dodai_capability::component::{Capabilities, Context, Error, Factory, Opening, Registry, Spec};
use dodai_core::features::{Blocks, Configuration};
use dodai_transport::tls::public::RootsFrom;
use futures_core::future::BoxFuture;

use self::link::Link;
use self::settings::Settings;

/// Makes `state.redis`, `pubsub.redis`, `configuration.redis` and `lock.redis` known. Without roots of its own a
/// component with TLS trusts those that `roots` says.
pub fn register(registry: &mut Registry, roots: &RootsFrom) {
    for kind in [Kind::State, Kind::Pubsub, Kind::Configuration, Kind::Lock] {
        registry.register(kind.name(), "v1", kind.blocks(), Driver { kind, roots: roots.clone() });
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
            Kind::State => "state.redis",
            Kind::Pubsub => "pubsub.redis",
            Kind::Configuration => "configuration.redis",
            Kind::Lock => "lock.redis",
        }
    }
}

struct Driver {
    kind: Kind,
    roots: RootsFrom,
}

impl Factory for Driver {
    fn open<'a>(&'a self, spec: &'a Spec, context: &'a Context) -> BoxFuture<'a, Result<Opening, Error>> {
        Box::pin(async move {
            let mut read = spec.read();
            let settings = Settings::read(&mut read)?;
            let link = |settings| {
                Arc::new(Link::new(&spec.name, settings, self.roots.clone(), context.tasks.clone()))
            };
            let mut serves = Capabilities::default();
            match self.kind {
                Kind::State => {
                    let options = state::Options::read(&mut read)?;
                    let store = state::Redis::open(link(settings), &options, context).await;
                    let store = Arc::new(store.map_err(|fault| read.fault(fault))?);
                    serves.state = Some(store.clone());
                    serves.lifecycle = Some(store);
                }
                Kind::Pubsub => {
                    let options = pubsub::Options::read(&mut read)?;
                    let broker = pubsub::Redis::open(link(settings), options, context).await;
                    let broker = Arc::new(broker.map_err(|fault| read.fault(fault))?);
                    serves.pubsub = Some(broker.clone());
                    serves.lifecycle = Some(broker);
                }
                Kind::Configuration => {
                    let options = configuration::Options::read(&mut read)?;
                    let store = configuration::Redis::open(link(settings), options, context).await;
                    let store = Arc::new(store.map_err(|fault| read.fault(fault))?);
                    serves.configuration = Some(store.clone());
                    serves.configuration_writer = Some(store.clone());
                    serves.lifecycle = Some(store);
                }
                Kind::Lock => {
                    let link = link(settings);
                    link.greet().await.map_err(|fault| read.fault(fault))?;
                    let store = Arc::new(lock::Redis::new(link));
                    serves.lock = Some(store.clone());
                    serves.lifecycle = Some(store);
                }
            }
            Ok((serves, read.finish()))
        })
    }
}

/// A pattern for all keys that begin with `prefix`.
fn pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for letter in prefix.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('*');
    pattern
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_prefix_stands_for_itself_in_a_pattern() {
        assert_eq!(super::pattern("app||a*[b]?"), r"app||a\*\[b\]\?*");
    }
}

//! The drivers pass the suites that all drivers pass, and keep their word when the process is killed.

mod bindings;
mod crash;
mod dapr;
mod exchange;
mod jobs;
mod model;
mod peer;
mod postgresql;
mod redis;
mod servers;
mod suites;
mod two_processes;
mod upsets;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dodai_capability::component::{Component, Context, Registry, Spec};

/// A registry of all drivers over a folder.
fn registry(dir: &Path, environment: &[(&str, &str)]) -> Registry {
    let environment: BTreeMap<String, String> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut registry = Registry::new();
    let folders = dodai_drivers::Folders { data: dir.to_owned(), project: dir.to_owned() };
    dodai_drivers::register(&mut registry, Arc::new(environment), &folders);
    registry
}

/// An open component can do what its type says, no less and no more.
fn does_as_its_type_says(registry: &Registry, component: &Component) {
    let Spec { kind, version, .. } = &*component.spec;
    let told = registry.types().find(|one| one.kind == *kind && one.version == *version);
    assert_eq!(told.map(|one| one.blocks), Some(component.serves.blocks()), "{kind}/{version}");
}

/// A component of `kind` in `shop.db` of a folder.
async fn sqlite(dir: &Path, kind: &str, context: &Context) -> Component {
    let spec = Spec::new("under-test", kind).with("connectionString", "shop.db");
    let component = registry(dir, &[]).open(spec, context).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(component.warnings.is_empty(), "{:?}", component.warnings);
    component
}

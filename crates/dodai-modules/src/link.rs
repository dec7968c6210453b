//! Links a component against what this host offers, and says what is missing by name.

use std::sync::Arc;

use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime_wasi_http::{p2, p3};

use crate::engine::{Flavour, Started};
use crate::error::Unlinkable;
use crate::guest::Guest;
use crate::{config, keyvalue};

/// The interfaces that modules may import, with the newest version of each that is served. Older versions
/// of the same minor line link too, and newer ones as far as they add nothing that is used. Files and sockets are there because common guests import them, but no
/// folder is opened and every address is refused.
pub(crate) const OFFERED: &[&str] = &[
    "wasi:cli/environment@0.2.12",
    "wasi:cli/exit@0.2.12",
    "wasi:cli/stderr@0.2.12",
    "wasi:cli/stdin@0.2.12",
    "wasi:cli/stdout@0.2.12",
    "wasi:cli/terminal-input@0.2.12",
    "wasi:cli/terminal-output@0.2.12",
    "wasi:cli/terminal-stderr@0.2.12",
    "wasi:cli/terminal-stdin@0.2.12",
    "wasi:cli/terminal-stdout@0.2.12",
    "wasi:clocks/monotonic-clock@0.2.12",
    "wasi:clocks/wall-clock@0.2.12",
    "wasi:config/store@0.2.0-rc.1",
    "wasi:filesystem/preopens@0.2.12",
    "wasi:filesystem/types@0.2.12",
    "wasi:http/outgoing-handler@0.2.12",
    "wasi:http/types@0.2.12",
    "wasi:io/error@0.2.12",
    "wasi:io/poll@0.2.12",
    "wasi:io/streams@0.2.12",
    "wasi:keyvalue/atomics@0.2.0-draft",
    "wasi:keyvalue/batch@0.2.0-draft",
    "wasi:keyvalue/store@0.2.0-draft",
    "wasi:random/insecure-seed@0.2.12",
    "wasi:random/insecure@0.2.12",
    "wasi:random/random@0.2.12",
    "wasi:sockets/instance-network@0.2.12",
    "wasi:sockets/ip-name-lookup@0.2.12",
    "wasi:sockets/network@0.2.12",
    "wasi:sockets/tcp-create-socket@0.2.12",
    "wasi:sockets/tcp@0.2.12",
    "wasi:sockets/udp-create-socket@0.2.12",
    "wasi:sockets/udp@0.2.12",
    "wasi:cli/environment@0.3.0",
    "wasi:cli/exit@0.3.0",
    "wasi:cli/stderr@0.3.0",
    "wasi:cli/stdin@0.3.0",
    "wasi:cli/stdout@0.3.0",
    "wasi:cli/terminal-input@0.3.0",
    "wasi:cli/terminal-output@0.3.0",
    "wasi:cli/terminal-stderr@0.3.0",
    "wasi:cli/terminal-stdin@0.3.0",
    "wasi:cli/terminal-stdout@0.3.0",
    "wasi:cli/types@0.3.0",
    "wasi:clocks/monotonic-clock@0.3.0",
    "wasi:clocks/system-clock@0.3.0",
    "wasi:clocks/types@0.3.0",
    "wasi:filesystem/preopens@0.3.0",
    "wasi:filesystem/types@0.3.0",
    "wasi:http/client@0.3.0",
    "wasi:http/types@0.3.0",
    "wasi:random/insecure-seed@0.3.0",
    "wasi:random/insecure@0.3.0",
    "wasi:random/random@0.3.0",
    "wasi:sockets/ip-name-lookup@0.3.0",
    "wasi:sockets/types@0.3.0",
];

/// What takes the calls of a linked component.
pub(crate) enum Entry {
    /// `wasi:http/incoming-handler@0.2`.
    Preview2(p2::bindings::ProxyPre<Guest>),
    /// `wasi:http/handler@0.3`.
    Preview3(p3::bindings::ServicePre<Guest>),
}

/// A component that can be instantiated, and where.
pub(crate) struct Linked {
    pub(crate) engine: Arc<Started>,
    pub(crate) entry: Entry,
}

/// A linker with everything in [`OFFERED`] that an engine of `flavour` can link. What is of 0.3 is only
/// imported by components for the concurrent one.
pub(crate) fn linker(engine: &wasmtime::Engine, flavour: Flavour) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    p2::add_only_http_to_linker_async(&mut linker)?;
    if flavour == Flavour::Concurrent {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        p3::add_to_linker(&mut linker)?;
    }
    config::add_to_linker(&mut linker)?;
    keyvalue::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Checks all imports and the entry of `component`, which is loaded in `engine`. `name` is what messages
/// call it.
pub(crate) fn link(name: &str, engine: Arc<Started>, component: &Component) -> Result<Linked, Unlinkable> {
    check_imports(name, component)?;
    let is_preview3 = check_entry(name, component)?;
    let types =
        |error: wasmtime::Error| Unlinkable::Types { name: name.to_owned(), reason: format!("{error:#}") };
    let pre: InstancePre<Guest> = engine.linker.instantiate_pre(component).map_err(types)?;
    let entry = if is_preview3 {
        Entry::Preview3(p3::bindings::ServicePre::new(pre).map_err(types)?)
    } else {
        Entry::Preview2(p2::bindings::ProxyPre::new(pre).map_err(types)?)
    };
    Ok(Linked { engine, entry })
}

fn check_imports(name: &str, component: &Component) -> Result<(), Unlinkable> {
    let wanted = component.component_type();
    let missing: Vec<String> = wanted
        .imports(component.engine())
        .map(|(import, _)| import.to_owned())
        .filter(|import| !OFFERED.iter().any(|offered| serves(offered, import)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let offered = packages();
    Err(Unlinkable::Imports { name: name.to_owned(), missing, offered })
}

/// The packages of [`OFFERED`] with their interfaces folded away, for messages.
fn packages() -> Vec<String> {
    let mut packages: Vec<String> = OFFERED
        .iter()
        .filter_map(|offered| {
            let (path, version) = offered.split_once('@')?;
            Some(format!("{}@{version}", path.split_once('/')?.0))
        })
        .collect();
    packages.dedup();
    packages
}

/// Whether the component takes calls in the way of 0.3; an error if in no way. One that knows both is called
/// in the newer.
fn check_entry(name: &str, component: &Component) -> Result<bool, Unlinkable> {
    let component_type = component.component_type();
    let exports: Vec<&str> = component_type.exports(component.engine()).map(|(export, _)| export).collect();
    let has = |entry: &str| exports.iter().any(|export| export.starts_with(entry));
    if has("wasi:http/handler@0.3.") {
        return Ok(true);
    }
    if has("wasi:http/incoming-handler@0.2.") {
        return Ok(false);
    }
    let exports = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
    Err(Unlinkable::NoEntry { name: name.to_owned(), exports })
}

/// Whether an interface `offered` serves an `import`: the same path and, for release versions, the same
/// 0.minor line. Whether the import's own functions are all there is the linker's question.
fn serves(offered: &str, import: &str) -> bool {
    let (Some((path, version)), Some((wanted_path, wanted))) =
        (offered.split_once('@'), import.split_once('@'))
    else {
        return false;
    };
    if path != wanted_path {
        return false;
    }
    if version.contains('-') || wanted.contains('-') {
        return version == wanted;
    }
    let line = |version: &str| version.rsplit_once('.').map(|(line, _)| line.to_owned());
    line(version) == line(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_line_are_served() {
        let check = |offered: &str, import: &str, expect: bool| {
            assert_eq!(serves(offered, import), expect, "{offered} {import}");
        };
        check("wasi:io/poll@0.2.12", "wasi:io/poll@0.2.0", true);
        check("wasi:io/poll@0.2.12", "wasi:io/poll@0.3.0", false);
        check("wasi:io/poll@0.2.12", "wasi:io/streams@0.2.12", false);
        check("wasi:config/store@0.2.0-rc.1", "wasi:config/store@0.2.0-rc.1", true);
        check("wasi:config/store@0.2.0-rc.1", "wasi:config/store@0.2.0", false);
        check("wasi:io/poll@0.2.12", "host", false);
        check("wasi:http/types@0.3.0", "wasi:http/types@0.3.2", true);
        check("wasi:http/types@0.3.0", "wasi:http/types@0.3.0-rc-2026-01-06", false);
    }

    #[test]
    fn everything_offered_is_linked_and_nothing_else_is_promised() {
        let engine = crate::engine::compiler(Flavour::Concurrent).expect("an engine");
        let linker = linker(&engine, Flavour::Concurrent).expect("no name is defined twice");
        for offered in OFFERED {
            let text = format!("(component (import \"{offered}\" (instance)))");
            let component = Component::new(&engine, wat::parse_str(&text).expect("text")).expect("valid");
            linker.instantiate_pre(&component).unwrap_or_else(|error| panic!("{offered}: {error:#}"));
        }
        let missing = "(component (import \"wasi:nn/graph@0.2.0\" (instance)))";
        let component = Component::new(&engine, wat::parse_str(missing).expect("text")).expect("valid");
        assert!(matches!(check_imports("x", &component), Err(Unlinkable::Imports { .. })));
    }
}

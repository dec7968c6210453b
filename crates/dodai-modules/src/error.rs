//! What can go wrong outside of a call: starting the engine, storing, compiling, linking, warming.
//!
//! Failures of calls are `dodai_core::failure::Failure`. Messages name the file or app and, where a user
//! can mend it, how.

use std::path::{Path, PathBuf};

use dodai_core::id::Digest;
use thiserror::Error;

/// An error of the module host.
#[derive(Debug, Error)]
pub enum Error {
    /// The engine did not start.
    #[error("the WebAssembly engine did not start: {reason}")]
    Engine {
        /// Why, in the engine's words.
        reason: String,
    },
    /// The file is not a module this host can run.
    #[error(transparent)]
    BadModule(#[from] BadModule),
    /// The module does not fit this host.
    #[error(transparent)]
    Unlinkable(#[from] Unlinkable),
    /// No artefact has that digest here.
    #[error("the artefact {digest} is not in {folder}; fetch it from the server first")]
    Missing {
        /// What was asked for.
        digest: Digest,
        /// Where it should be.
        folder: PathBuf,
    },
    /// A stored artefact is not what its name says.
    #[error("the artefact {digest} is damaged: its bytes hash to {found}; it was set aside, fetch it again")]
    Damaged {
        /// Its name.
        digest: Digest,
        /// What its bytes hash to.
        found: Digest,
    },
    /// A digest of another form.
    #[error("`{0}` is not a digest of the form sha256:<64 hex digits>")]
    BadDigest(String),
    /// A file operation failed.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Others could put machine code into the folder.
    #[error("the folder for compiled code {} {problem}: what is in it would be run; {remedy}", folder.display())]
    NotPrivate {
        /// The folder, or the one that it is in.
        folder: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// How to mend it.
        remedy: String,
    },
    /// The compiler process failed for a reason that is not the module's.
    #[error("compiling {name} failed: {reason}")]
    Compiler {
        /// The module.
        name: String,
        /// What happened.
        reason: String,
    },
    /// The first instance could not be made.
    #[error("{name} does not start: {reason}")]
    Start {
        /// The app.
        name: String,
        /// What happened.
        reason: String,
    },
    /// An instance of that id is installed already.
    #[error("the module instance {0} is installed already; drain it first")]
    Installed(dodai_core::id::InstanceId),
    /// The host has been shut down.
    #[error("the module host is shutting down")]
    ShuttingDown,
}

impl Error {
    pub(crate) fn file(operation: &'static str, path: &Path, source: std::io::Error) -> Error {
        Error::File { operation, path: path.to_owned(), source }
    }
}

/// Why bytes are not a module that this host can run.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadModule {
    /// No bytes.
    #[error("{0} is empty; it was perhaps cut in transfer, send it again")]
    Empty(String),
    /// Another kind of file.
    #[error("{name} is not WebAssembly but starts with {start}; hand in the .wasm file that the build wrote")]
    NotWasm {
        /// The file.
        name: String,
        /// Its first bytes, printable.
        start: String,
    },
    /// The text format.
    #[error("{0} is WebAssembly text; turn it into a binary with `wasm-tools parse`")]
    Text(String),
    /// Machine code from some `wasmtime compile`.
    #[error(
        "{0} is compiled machine code, which is only accepted from this base's own compiler; hand in the .wasm"
    )]
    Compiled(String),
    /// A core module.
    #[error(
        "{0} is not a component but a core module; build it for wasm32-wasip2, or wrap it with `wasm-tools component new`"
    )]
    CoreModule(String),
    /// A version of the format that we do not know.
    #[error("{name} is WebAssembly of version {version}, layer {layer}; this base reads components (13, 1)")]
    Version {
        /// The file.
        name: String,
        /// The version field.
        version: u16,
        /// The layer field.
        layer: u16,
    },
    /// The compiler refused it; a whole sentence.
    #[error("{0}")]
    Invalid(String),
}

/// Why a component does not fit this host.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unlinkable {
    /// It wants interfaces that we do not have.
    #[error("{name} imports what this base does not offer: {}; offered are {}", .missing.join(", "), .offered.join(", "))]
    Imports {
        /// The module.
        name: String,
        /// The imports.
        missing: Vec<String>,
        /// What there is.
        offered: Vec<String>,
    },
    /// It has no entry for calls.
    #[error(
        "{name} exports neither wasi:http/incoming-handler@0.2 nor wasi:http/handler@0.3; it exports {exports}. Build it for the world wasi:http/proxy@0.2 or wasi:http/service@0.3"
    )]
    NoEntry {
        /// The module.
        name: String,
        /// What it exports instead.
        exports: String,
    },
    /// An import exists here with another type.
    #[error("{name} does not fit this base: {reason}")]
    Types {
        /// The module.
        name: String,
        /// The linker's words.
        reason: String,
    },
}

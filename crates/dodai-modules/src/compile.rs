//! From an artefact to machine code: in this process, or better in a child that is slow, bounded and may
//! crash without harm.
//!
//! Compiling a large guest takes tens of CPU seconds and hundreds of megabytes; a defect in the compiler
//! should cost a deployment, never a base. The child is the same binary's `compile-module` command; it
//! gives itself a low priority and a memory limit, and writes one file.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, nice, setrlimit};
use tokio::process::Command;

use crate::engine;
use crate::error::{BadModule, Error};
use crate::inspect;

/// The exit code of the child when the module is at fault; its message is on standard error.
const EXIT_BAD_MODULE: u8 = 65;
/// The exit code of the child for any other failure.
const EXIT_FAILED: u8 = 70;
/// Wrong arguments.
const EXIT_USAGE: u8 = 64;

/// The most of the child's standard error that is read.
const MAX_MESSAGE: usize = 16 * 1024;

/// Who compiles.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// This process, on a blocking thread.
    InProcess,
    /// A child process. Installing then needs a runtime with I/O enabled.
    Child(Child),
}

/// How the compiling child is run.
#[derive(Clone, Debug)]
pub struct Child {
    /// Program and leading arguments, to which the arguments of [`compile_main`] are added: usually this
    /// executable and `compile-module`.
    pub command: Vec<OsString>,
    /// How long it may take.
    pub timeout: Duration,
    /// How much address space it may use, in bytes.
    pub memory: u64,
}

impl Child {
    /// A child with the usual bounds: two minutes, 4 GiB.
    pub fn new(command: Vec<OsString>) -> Child {
        Child { command, timeout: Duration::from_secs(120), memory: 4 << 30 }
    }
}

/// Compiles `wasm` with `engine`, in this process.
pub(crate) fn compile(engine: &wasmtime::Engine, name: &str, wasm: &[u8]) -> Result<Vec<u8>, BadModule> {
    inspect::check_header(name, wasm)?;
    engine.precompile_component(wasm).map_err(|error| inspect::refusal(name, wasm.len(), &error))
}

/// Runs the child on `wasm` and returns the code. `scratch` is where files for it may be made.
pub(crate) async fn compile_in_child(
    child: &Child,
    name: &str,
    wasm: &[u8],
    scratch: PathBuf,
) -> Result<Vec<u8>, Error> {
    let failed = |reason: String| Error::Compiler { name: name.to_owned(), reason };
    let files = Scratch { input: scratch.with_extension("in.part"), output: scratch };
    fs::write(&files.input, wasm).map_err(|error| Error::file("write", &files.input, error))?;
    let [program, arguments @ ..] = child.command.as_slice() else {
        return Err(failed("no compiler command is configured".to_owned()));
    };
    let running = Command::new(program)
        .args(arguments)
        .arg(child.memory.to_string())
        .arg(name)
        .arg(&files.input)
        .arg(&files.output)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("cannot start {}: {error}", program.to_string_lossy())))?;
    let ended = tokio::time::timeout(child.timeout, running.wait_with_output())
        .await
        .map_err(|_| failed(format!("it took longer than {:?}; it was stopped", child.timeout)))?
        .map_err(|error| failed(format!("cannot wait for the compiler: {error}")))?;
    let message = String::from_utf8_lossy(&ended.stderr[..ended.stderr.len().min(MAX_MESSAGE)]);
    let message = message.trim();
    match ended.status.code() {
        Some(0) => fs::read(&files.output).map_err(|error| Error::file("read", &files.output, error)),
        Some(code) if code == i32::from(EXIT_BAD_MODULE) => {
            Err(BadModule::Invalid(message.to_owned()).into())
        }
        Some(code) => Err(failed(format!("the compiler ended with code {code}: {message}"))),
        None => Err(failed(format!(
            "the compiler was killed ({}); it may have needed more than {}",
            ended.status,
            crate::limits::size(child.memory)
        ))),
    }
}

/// The two files of one run; gone when it is over.
struct Scratch {
    input: PathBuf,
    output: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.input);
        let _ = fs::remove_file(&self.output);
    }
}

/// The child's side: `MEMORY NAME IN OUT`. Reads the component IN (called NAME in messages), compiles it
/// with at most MEMORY bytes of address space, writes the machine code to OUT. Returns the exit code; the
/// message of a failure goes to standard error.
pub fn compile_main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let [memory, name, input, output] = arguments.as_slice() else {
        eprintln!("usage: compile-module MEMORY NAME IN OUT");
        return EXIT_USAGE;
    };
    let Some(memory) = memory.to_str().and_then(|memory| memory.parse().ok()) else {
        eprintln!("MEMORY is a number of bytes");
        return EXIT_USAGE;
    };
    match run_child(memory, &name.to_string_lossy(), Path::new(input), Path::new(output)) {
        Ok(()) => 0,
        Err(Error::BadModule(bad)) => {
            eprintln!("{bad}");
            EXIT_BAD_MODULE
        }
        Err(error) => {
            eprintln!("{error}");
            EXIT_FAILED
        }
    }
}

fn run_child(memory: u64, name: &str, input: &Path, output: &Path) -> Result<(), Error> {
    let failed = |reason: String| Error::Compiler { name: name.to_owned(), reason };
    let bound = |resource, limit| {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })
            .map_err(|errno| failed(format!("cannot limit {resource:?} to {limit}: {errno}")))
    };
    bound(Resource::As, memory)?;
    bound(Resource::Core, 0)?;
    // Behind what serves, but not so far that a busy machine never gets to a deploy. Where it cannot be had, the usual
    // priority is right too.
    let _ = nice(10);
    let wasm = fs::read(input).map_err(|error| Error::file("read", input, error))?;
    let engine = engine::compiler(inspect::flavour_of(&wasm))
        .map_err(|error| Error::Engine { reason: format!("{error:#}") })?;
    let code = compile(&engine, name, &wasm)?;
    fs::write(output, code).map_err(|error| Error::file("write", output, error))
}

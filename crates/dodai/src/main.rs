//! The `dodai` binary: one entry point, many roles.
//!
//! Reads as a story: helpers that must stay tiny come first (they run before any thread or runtime exists),
//! then the environment is read once, arguments become a command, the command runs, and its end becomes an
//! exit code.

mod admin;
mod cli;
mod client;
mod daprd;
mod detach;
mod environment;
mod exit;
mod fleet;
mod intercept;
mod local;
mod metrics;
mod output;
mod progress;
mod run_file;
mod serve;
mod signals;
mod sweep;
mod telemetry;
mod tools;
mod up;
mod validate;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::environment::Environment;
use crate::output::Output;

fn main() -> ExitCode {
    if let Some(arguments) = daprd::arguments(std::env::args_os()) {
        let environment = Environment::read();
        return block_on(async { Ok(daprd::run(arguments, &environment).await) })
            .unwrap_or(ExitCode::FAILURE);
    }
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_deref().and_then(|word| word.to_str()) {
        Some("shim") => dodai_base::shim::run(),
        Some("compile-module") => return ExitCode::from(dodai_modules::compile_main(arguments)),
        Some(_) | None => {}
    }
    let environment = Environment::read();
    let cli = Cli::parse();
    let output = Output::new(&cli.global, &environment);
    environment::start_logging(&cli.global, &environment);
    dodai_transport::tls::install_provider();
    match run(cli, &environment, &output) {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            exit::code_of(&error)
        }
    }
}

fn run(cli: Cli, environment: &Environment, output: &Output) -> anyhow::Result<ExitCode> {
    block_on(async {
        match cli.command {
            Command::Up(arguments) => up::run(arguments, environment, output).await,
            Command::Server(arguments) => fleet::serve(arguments, output).await,
            Command::Base(arguments) => match arguments.join.clone() {
                Some(server) => fleet::join::run(&arguments, &server, environment, output).await,
                None => up::run_base(arguments, environment, output).await,
            },
            Command::Serve(arguments) => serve::run(arguments, environment, output).await,
            Command::Daprd(arguments) => Ok(daprd::run(arguments.list, environment).await),
            Command::Intercept(arguments) => intercept::run(arguments, environment, output),
            Command::Validate(arguments) => validate::run(&arguments, environment, output),
            Command::Client(command) => client::run(command, &cli.global.server, environment, output).await,
            Command::Completion(arguments) => Ok(cli::completion(&arguments)),
            Command::Version => Ok(output.version()),
        }
    })
}

/// Runs a command to its end.
fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("dodai")
        .build()?;
    let result = runtime.block_on(command);
    // Threads that wait for a disk or a name server must not hold the exit up.
    runtime.shutdown_background();
    result
}

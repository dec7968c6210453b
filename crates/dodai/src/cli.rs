//! The command line: every flag with its default and an example.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use dodai_api::TimeSpan;

use crate::{client, intercept};

/// One binary that business code of any kind stands on: mesh, runtime, module host, control plane.
#[derive(Debug, Parser)]
#[command(name = "dodai", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 a document is not valid, 4 not found, \
5 the server cannot be reached, 6 `diff --exit-code` found differences, 130 interrupted: by Ctrl-C, or by a second \
signal while a long-running command finished its work (the first one ends it in order, with 0).";

/// Flags of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// What is logged to standard error, such as `info` or `dodai_base=debug`.
    #[arg(long, global = true, default_value = "warn", value_name = "FILTER")]
    pub log: String,
    /// Write log lines as JSON.
    #[arg(long, global = true)]
    pub log_json: bool,
    /// How a running server is found.
    #[command(flatten)]
    pub server: client::arguments::Server,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON value.
    Json,
    /// YAML documents.
    Yaml,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in a folder: apps, gateways, components, control plane, in one process.
    #[command(
        after_help = "Example:\n  dodai up examples/shop\n  dodai up examples/shop --data /var/lib/shop\n  dodai up -f dapr.yaml"
    )]
    Up(Up),
    /// Run the control plane for bases on other machines: documents, certificates, the management API.
    #[command(
        after_help = "Example:\n  dodai server\n  dodai server --data /var/lib/dodai --listen 10.0.0.1:7443"
    )]
    Server(Server),
    /// Run one base (node): told by a server, or alone with a folder of documents.
    #[command(
        after_help = "Example:\n  dodai base --join 10.0.0.1:7443 --token TOKEN --pin PIN\n  dodai base --from /etc/dodai"
    )]
    Base(Base),
    /// Serve one WASM component over HTTP. Prints its URL as the first line on standard error.
    #[command(after_help = "Example:\n  dodai serve --addr 127.0.0.1:0 hello.wasm")]
    Serve(Serve),
    /// Run one stand-alone sidecar with daprd's flags; `dodai daprd --help` lists them.
    #[command(
        disable_help_flag = true,
        disable_version_flag = true,
        after_help = "Example:\n  dodai daprd --app-id orders --app-port 8000 --resources-path ./components"
    )]
    Daprd(Daprd),
    /// Lead connections of programs that know nothing of Dodai to a base on this machine, by rules of the kernel.
    #[command(
        after_help = "Example:\n  dodai intercept install --exclude-users dodai\n  dodai intercept show\n  dodai intercept remove"
    )]
    Intercept(intercept::Intercept),
    /// Check documents without applying them.
    #[command(after_help = "Example:\n  dodai validate examples/shop")]
    Validate(Validate),
    /// Commands that talk to a running server.
    #[command(flatten)]
    Client(client::Command),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  dodai completion bash > /etc/bash_completion.d/dodai")]
    Completion(Completion),
    /// Print the version.
    Version,
}

/// `dodai up`.
#[derive(Args, Debug)]
pub struct Up {
    /// The folder with the documents, or a `dapr.yaml`: Dapr's file of several apps.
    #[arg(default_value = ".", value_name = "PATH")]
    folder: PathBuf,
    /// The same.
    #[arg(short = 'f', long = "file", value_name = "PATH", conflicts_with = "folder")]
    file: Option<PathBuf>,
    /// Where data is kept; default: `.dodai` in the folder.
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Data-plane threads; default: one per core, at most 4.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Do not build apps first.
    #[arg(long)]
    pub no_build: bool,
    /// Watch the folder and apply what changes: documents, artefacts of modules, programs and scripts of processes,
    /// and what builds are made from.
    #[arg(long)]
    pub watch: bool,
    /// How long calls may take to finish at the end, in seconds.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub drain: u64,
    /// Return when everything is ready and go on in the background; the log is `up.log` in the data folder.
    #[arg(short, long)]
    pub detach: bool,
    /// Where the management API is reached.
    #[command(flatten)]
    pub admin: crate::admin::Flags,
    /// What is told about calls.
    #[command(flatten)]
    pub telemetry: crate::telemetry::Flags,
    /// Where metrics are served.
    #[command(flatten)]
    pub metrics: crate::metrics::Flags,
    /// This process is the one in the background.
    #[arg(long, hide = true)]
    pub detached: bool,
}

impl Up {
    /// What is to be run.
    pub fn path(&self) -> &Path {
        self.file.as_ref().unwrap_or(&self.folder)
    }
}

/// `dodai server`.
#[derive(Args, Debug)]
pub struct Server {
    /// Where data is kept; default: `.dodai` in the current folder.
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Start without documents where the store of a server that ran is lost. Its bases end what they run.
    #[arg(long)]
    pub fresh_store: bool,
    /// Where bases come in.
    #[arg(long, default_value = "127.0.0.1:7443", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// What bases are told to join; default: the address that it listens on, or this host's name.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Where the management API is reached.
    #[command(flatten)]
    pub admin: crate::admin::Flags,
    /// The trust domain of the mesh. It is in every certificate and stays for good.
    #[arg(long, default_value = "cluster.local", value_name = "NAME")]
    pub trust_domain: String,
    /// How long the certificates of bases and apps live; they are renewed after half of it.
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = certificate_life)]
    pub certificate_life: TimeSpan,
    /// Where metrics are served.
    #[command(flatten)]
    pub metrics: crate::metrics::Flags,
}

/// `dodai base`.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("told by").required(true).args(["from", "join"])))]
pub struct Base {
    /// Stand-alone: take the documents from this folder.
    #[arg(long, value_name = "FOLDER")]
    pub from: Option<PathBuf>,
    /// Be told by this server; the first time with --token and --pin.
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<String>,
    /// The join token, from `dodai token create` on the server. Needed once.
    #[arg(long, requires = "join", value_name = "TOKEN")]
    pub token: Option<String>,
    /// The pin of the server's certificate authority, which comes with the token.
    #[arg(long, requires = "join", value_name = "PIN")]
    pub pin: Option<String>,
    /// Where it listens for other bases; port 0 takes a free one.
    #[arg(long, requires = "join", default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub mesh: SocketAddr,
    /// Where other bases reach it, if not where it listens; port 0 for the port that it listens on.
    #[arg(long, requires = "join", value_name = "ADDRESS")]
    pub advertise: Option<SocketAddr>,
    /// What relative paths in documents begin at here, such as programs; default: the data folder.
    #[arg(long, requires = "join", value_name = "FOLDER")]
    pub project: Option<PathBuf>,
    /// The trust domain of the server.
    #[arg(long, requires = "join", default_value = "cluster.local", value_name = "NAME")]
    pub trust_domain: String,
    /// Where data is kept; default: `.dodai` in the folder, or `.dodai/bases/NAME` in the current one.
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// The base's name; default: `local`, or the host's name where it joins.
    #[arg(long)]
    pub name: Option<String>,
    /// Data-plane threads; default: one per core, at most 4.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// How long calls may take to finish at the end, in seconds.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub drain: u64,
    /// Where the management API is reached.
    #[command(flatten)]
    pub admin: crate::admin::Flags,
    /// What is told about calls.
    #[command(flatten)]
    pub telemetry: crate::telemetry::Flags,
    /// Where metrics are served.
    #[command(flatten)]
    pub metrics: crate::metrics::Flags,
}

/// `dodai serve`.
#[derive(Args, Debug)]
pub struct Serve {
    /// The component.
    pub component: PathBuf,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub addr: SocketAddr,
    /// Hosts it may call (repeat; `*` for all).
    #[arg(long = "allow-host", value_name = "HOST")]
    pub allow_hosts: Vec<String>,
    /// A value for `wasi:config` (repeat).
    #[arg(long = "config", value_name = "KEY=VALUE")]
    pub config: Vec<String>,
    /// Use instances again for later calls instead of a new one per call.
    #[arg(long)]
    pub reuse: bool,
    /// Data-plane threads.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: usize,
    /// Where compiled code is kept; default: a folder that is removed at the end.
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
}

/// `dodai daprd`.
#[derive(Args, Debug)]
pub struct Daprd {
    /// daprd's flags, with one dash or two.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub list: Vec<std::ffi::OsString>,
}

/// `dodai validate`.
#[derive(Args, Debug)]
pub struct Validate {
    /// What to check.
    #[command(flatten)]
    pub paths: crate::validate::Paths,
}

/// How short certificates may live: a base renews its own after half of that, and its apps' beside.
const LEAST_LIFE: TimeSpan = TimeSpan::from_secs(10);
/// How long: much less than their root.
const MOST_LIFE: TimeSpan = TimeSpan::from_secs(365 * 24 * 3600);

fn certificate_life(text: &str) -> Result<TimeSpan, String> {
    let life: TimeSpan = text.parse().map_err(|error: dodai_api::Invalid| error.to_string())?;
    if (LEAST_LIFE.get()..=MOST_LIFE.get()).contains(&life.get()) {
        return Ok(life);
    }
    Err(format!("certificates live {LEAST_LIFE} to {MOST_LIFE}; write `24h`, or leave it out"))
}

/// `dodai completion`.
#[derive(Args, Debug)]
pub struct Completion {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// Prints the completion script.
pub fn completion(arguments: &Completion) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "dodai", &mut script);
    // A reader that has seen enough (`| head`) is no reason to fail.
    let _gone = std::io::Write::write_all(&mut std::io::stdout(), &script);
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_live_neither_too_short_nor_too_long() {
        for (life, expect) in
            [("0", false), ("1ns", false), ("9s", false), ("10s", true), ("8760h", true), ("8761h", false)]
        {
            assert_eq!(certificate_life(life).is_ok(), expect, "{life}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}

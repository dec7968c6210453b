//! The flags of the commands that talk to a running server.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use dodai_api::Kind;

use super::wanted::{Wanted, kind};
use crate::validate::Paths;

/// How a running server is found.
#[derive(Args, Clone, Debug, Default)]
pub struct Server {
    /// The server, such as `http://127.0.0.1:7070`; default: DODAI_SERVER, then the project around the current folder.
    #[arg(long, global = true, value_name = "URL", help_heading = "Server")]
    pub server: Option<String>,
    /// The token for it; default: DODAI_TOKEN.
    #[arg(long, global = true, value_name = "TOKEN", help_heading = "Server")]
    pub token: Option<String>,
    /// The project folder whose server is meant; default: the current folder or one above it.
    #[arg(long = "folder", global = true, value_name = "FOLDER", help_heading = "Server")]
    pub project_folder: Option<PathBuf>,
    /// The data folder of the server, if it was started with --data.
    #[arg(long = "data-folder", global = true, value_name = "FOLDER", help_heading = "Server")]
    pub data_folder: Option<PathBuf>,
}

/// Commands that talk to a running server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List instances (revision, state, restarts, process, ports, age, use), and where other apps run.
    #[command(after_help = "Example:\n  dodai ps\n  dodai ps -o json")]
    Ps(Ps),
    /// Stop the running `up` of this folder and wait until it is gone.
    #[command(after_help = "Example:\n  dodai down\n  dodai down --folder examples/shop")]
    Down(Down),
    /// Write documents to the server.
    #[command(
        after_help = "Example:\n  dodai apply route.yaml\n  dodai apply -f . --prune --dry-run\n  dodai get app shop -o yaml | dodai apply -f -"
    )]
    Apply(Apply),
    /// Show what `apply` would change.
    #[command(
        after_help = "Example:\n  dodai diff route.yaml\n  dodai diff -f . --exit-code || echo differs"
    )]
    Diff(Diff),
    /// List documents of a kind, or show one.
    #[command(after_help = "Example:\n  dodai get apps,routes\n  dodai get route/shop -o yaml")]
    Get(Get),
    /// Show one document with its conditions, instances and events.
    #[command(after_help = "Example:\n  dodai describe app shop")]
    Describe(One),
    /// Remove one document, or those that files name.
    #[command(after_help = "Example:\n  dodai delete route shop\n  dodai delete -f route.yaml")]
    Delete(Delete),
    /// Follow documents of a kind as they change.
    #[command(after_help = "Example:\n  dodai watch apps\n  dodai watch apps -o json")]
    Watch(Watch),
    /// Put a new component into a running app.
    #[command(after_help = "Example:\n  dodai deploy hello target/hello.wasm --wait")]
    Deploy(Deploy),
    /// Start an app anew: new instances come up beside the old, get the calls, and the old ones drain.
    #[command(after_help = "Example:\n  dodai restart shop --wait")]
    Restart(super::restart::Restart),
    /// Make an app what an earlier revision of it was: the one that served before, or a given one.
    #[command(
        after_help = "Example:\n  dodai rollback shop --wait\n  dodai get revisions\n  dodai rollback shop --to 0123456789"
    )]
    Rollback(super::rollback::Rollback),
    /// Show what an app wrote.
    #[command(after_help = "Example:\n  dodai logs shop -f\n  dodai logs shop --tail 10 -o json")]
    Logs(Logs),
    /// Call an app through the mesh, as a user would.
    #[command(
        after_help = "Example:\n  dodai call shop /orders -X POST -d '{\"item\":1}' -H 'content-type: application/json'"
    )]
    Call(Call),
    /// Publish a message.
    #[command(after_help = "Example:\n  dodai publish bus orders '{\"id\":1}'")]
    Publish(Publish),
    /// Read and write configuration values.
    #[command(subcommand, after_help = "Example:\n  dodai config set shop-config banner Hello")]
    Config(Config),
    /// Look into topics: groups, messages that wait, and moving them to another topic.
    #[command(
        subcommand,
        after_help = "Example:\n  dodai topic list bus\n  dodai topic peek bus dead-letters\n  dodai topic replay bus dead-letters --all --to orders"
    )]
    Topic(super::inside::Topic),
    /// Look into state stores: keys that an app keeps, and their values.
    #[command(
        subcommand,
        after_help = "Example:\n  dodai state list shop-state --app orders --prefix cart-\n  dodai state get shop-state cart-7 --app orders"
    )]
    State(super::inside::State),
    /// List locks that apps hold, and take one away.
    #[command(
        subcommand,
        after_help = "Example:\n  dodai lock list locks\n  dodai lock release locks 'lock||shop||door' --owner shop-1"
    )]
    Lock(super::inside::Lock),
    /// List jobs that apps have scheduled, and delete one.
    #[command(subcommand, after_help = "Example:\n  dodai job list shop\n  dodai job delete shop report")]
    Job(super::inside::Job),
    /// Follow calls as they end: who called what, how it ended, how long it took.
    #[command(
        after_help = "Example:\n  dodai tap\n  dodai tap shop --status 5xx --tree\n  dodai tap --path /api --slower-than 250ms --header x-lane:blue -o json"
    )]
    Tap(super::tap::Tap),
    /// Show what a running base is at this moment: its rules, services, connections, certificates.
    #[command(
        after_help = "Example:\n  dodai debug clusters\n  dodai debug connections --only web --limit 20\n  dodai debug table -o json"
    )]
    Debug(super::debug::Debug),
    /// Print the link that opens the console of a running server in a browser. It holds the token: click or paste it; as an
    /// argument of another program everybody on the machine could read it.
    #[command(after_help = "Example:\n  dodai console")]
    Console,
    /// Show what instances use, refreshed on a terminal.
    #[command(after_help = "Example:\n  dodai top\n  dodai top -o json")]
    Top(Top),
    /// Let bases join a server.
    #[command(
        subcommand,
        after_help = "Example:\n  dodai token create\n  dodai token create --base one --ttl 1h"
    )]
    Token(Token),
    /// Exchange the root certificate of a server's mesh while it runs, and revoke certificates.
    #[command(
        subcommand,
        after_help = "Example:\n  dodai ca rotate --wait && dodai ca issue --wait && dodai ca finish\n  dodai ca revoke base/one"
    )]
    Ca(super::ca::Ca),
    /// Back up, restore and check the document store.
    #[command(
        subcommand,
        after_help = "Example:\n  dodai store backup shop.backup\n  dodai store verify shop.backup"
    )]
    Store(Store),
    /// Build the apps of a project whose product is missing or older than its inputs.
    #[command(after_help = "Example:\n  dodai build examples/shop")]
    Build(Build),
    /// Make a small project that runs at once.
    #[command(after_help = "Example:\n  dodai new hello --template process\n  dodai up hello")]
    New(New),
    /// Show what happened.
    #[command(after_help = "Example:\n  dodai events\n  dodai events -f")]
    Events(Events),
}

/// `dodai ps`.
#[derive(Args, Debug)]
pub struct Ps {
    /// Only this app: `name` or `namespace/name`.
    pub app: Option<String>,
}

/// `dodai down`.
#[derive(Args, Debug)]
pub struct Down {
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
}

/// `dodai apply`.
#[derive(Args, Debug)]
pub struct Apply {
    /// What to write.
    #[command(flatten)]
    pub paths: Paths,
    /// Only say what would happen.
    #[arg(long)]
    pub dry_run: bool,
    /// Remove what was applied from these paths earlier and is no longer there.
    #[arg(long)]
    pub prune: bool,
    /// Whose the documents are from now on: what a file of a project says, or a change by hand. After one by hand, what
    /// was deployed or gone back to stays where it says nothing else, and the next apply of the file brings back what that
    /// says otherwise.
    #[arg(long, value_enum, default_value_t = Owner::File)]
    pub owner: Owner,
}

/// Who writes documents by `dodai apply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Owner {
    /// A file of a project.
    File,
    /// Somebody on the command line.
    Cli,
}

impl Owner {
    /// The word for it in the management API.
    pub fn as_str(self) -> &'static str {
        match self {
            Owner::File => "file",
            Owner::Cli => "cli",
        }
    }
}

/// `dodai diff`.
#[derive(Args, Debug)]
pub struct Diff {
    /// What to compare.
    #[command(flatten)]
    pub paths: Paths,
    /// End with exit code 6 if something would change.
    #[arg(long)]
    pub exit_code: bool,
}

/// `dodai delete`.
#[derive(Args, Debug)]
pub struct Delete {
    /// The kind, or kind and name: `route`, `route/shop`.
    #[arg(value_name = "KIND", required_unless_present = "paths")]
    pub wanted: Option<Wanted>,
    /// The name.
    pub name: Option<String>,
    /// The namespace.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Remove the documents that this file or folder names (repeat); `-` for standard input.
    #[arg(short = 'f', long = "file", conflicts_with = "wanted", value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// `dodai get`.
#[derive(Args, Debug)]
pub struct Get {
    /// The kind (`app`, `apps`, `route`, ...), several (`apps,routes`), or kind and name (`app/shop`).
    #[arg(value_name = "KIND")]
    pub wanted: Wanted,
    /// The name; default: all of the kind.
    pub name: Option<String>,
    /// The namespace.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub all_namespaces: bool,
}

/// `dodai describe`.
#[derive(Args, Debug)]
pub struct One {
    /// The kind, or kind and name: `app`, `app/shop`.
    #[arg(value_name = "KIND")]
    pub wanted: Wanted,
    /// The name.
    pub name: Option<String>,
    /// The namespace.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

/// `dodai watch`.
#[derive(Args, Debug)]
pub struct Watch {
    /// The kind; default: all.
    #[arg(value_parser = kind)]
    pub kind: Option<Kind>,
    /// The namespace; default: all.
    #[arg(short, long)]
    pub namespace: Option<String>,
}

/// `dodai deploy`.
#[derive(Args, Debug)]
pub struct Deploy {
    /// The app: `name`, `app/name` or `namespace/name`.
    pub app: String,
    /// The component, or the `sha256:` digest of one that the server has.
    pub artifact: PathBuf,
    /// Wait until the new revision has all traffic and the old one is gone.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
}

/// `dodai logs`.
#[derive(Args, Debug)]
pub struct Logs {
    /// The app: `name` or `namespace/name`.
    pub app: String,
    /// Go on with new lines as they come.
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// How many lines of the past.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub tail: usize,
    /// Only this instance.
    #[arg(long)]
    pub instance: Option<String>,
}

/// `dodai call`.
#[derive(Args, Debug)]
pub struct Call {
    /// The app: `name` or `namespace/name`.
    pub app: String,
    /// The path, with its query.
    #[arg(default_value = "/")]
    pub path: String,
    /// The method; default: GET, or POST with a body.
    #[arg(short = 'X', long)]
    pub method: Option<String>,
    /// The body; `@FILE` for a file's content, `@@` for what begins with one `@`.
    #[arg(short, long)]
    pub data: Option<String>,
    /// A header, `name: value` (repeat).
    #[arg(short = 'H', long = "header")]
    pub headers: Vec<String>,
    /// Print the status and headers of the answer too.
    #[arg(short, long)]
    pub include: bool,
}

/// `dodai publish`.
#[derive(Args, Debug)]
pub struct Publish {
    /// The pub/sub component.
    pub pubsub: String,
    /// The topic.
    pub topic: String,
    /// The data; `@FILE` for a file's content, `@@` for what begins with one `@`. After `--` it may begin with `-`.
    pub data: String,
    /// The content type; default: JSON if the data is JSON, plain text otherwise.
    #[arg(long)]
    pub content_type: Option<String>,
    /// The namespace.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

/// `dodai config`.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print a value.
    Get(ConfigKey),
    /// Write a value.
    Set {
        /// Where.
        #[command(flatten)]
        key: ConfigKey,
        /// The value; `@FILE` for a file's content, `@@` for what begins with one `@`. After `--` it may begin with `-`.
        value: String,
    },
    /// Remove a value.
    Delete(ConfigKey),
}

/// One key of a configuration store.
#[derive(Args, Debug)]
pub struct ConfigKey {
    /// The configuration store component.
    pub store: String,
    /// The key.
    pub key: String,
    /// The namespace.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

/// `dodai top`.
#[derive(Args, Debug)]
pub struct Top {
    /// Print once.
    #[arg(long)]
    pub once: bool,
}

/// `dodai token`.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token with which one base can join, once, and print the command to run there.
    Create(TokenCreate),
}

/// `dodai token create`.
#[derive(Args, Debug)]
pub struct TokenCreate {
    /// Only for the base of this name; needed for one that joined before.
    #[arg(long, value_name = "NAME")]
    pub base: Option<String>,
    /// How long it is good.
    #[arg(long, default_value = "15m", value_name = "TIME")]
    pub ttl: dodai_api::TimeSpan,
}

/// `dodai store`.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Write a copy of the running store to a new file.
    Backup {
        /// The file.
        path: PathBuf,
    },
    /// Put a backup in the place of the store of this folder, which must not be running.
    Restore {
        /// The backup.
        path: PathBuf,
    },
    /// Check a store or backup file.
    Verify {
        /// The file.
        path: PathBuf,
    },
    /// Show what the running store is and how far it got.
    Status,
}

/// `dodai build`.
#[derive(Args, Debug)]
pub struct Build {
    /// The project folder.
    #[arg(default_value = ".")]
    pub path: PathBuf,
}

/// `dodai new`.
#[derive(Args, Debug)]
pub struct New {
    /// The app's name; also the folder that is made.
    pub name: String,
    /// What kind of project.
    #[arg(long, value_enum, default_value_t = Template::Process)]
    pub template: Template,
}

/// What `dodai new` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// A WASM component in Rust.
    Module,
    /// A native program, in Python.
    Process,
    /// Something that you start yourself, in Python.
    External,
}

/// `dodai events`.
#[derive(Args, Debug)]
pub struct Events {
    /// Go on as things happen.
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// Show the store's change log (who changed what) instead.
    #[arg(long, conflicts_with = "follow")]
    pub changes: bool,
}

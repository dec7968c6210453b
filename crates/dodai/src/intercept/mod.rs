//! `dodai intercept`: rules of the kernel that lead connections of programs which know nothing of Dodai to a base.
//!
//! What is wanted becomes [`rules::Rules`]; `nft` and `iptables` turn them into the text of their tool, purely, and
//! `tool` runs it. Everything lies in a table, or chains, of our own: taking it away leaves nothing.

mod iptables;
mod nft;
mod routes;
mod rules;
mod tool;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use dodai_api::{INBOUND_PORT, OUTBOUND_PORT};
use serde_json::{Value, json};

use crate::environment::Environment;
use crate::output::Output;
use rules::{Account, Mode, Network, Ports, Rules};
use tool::Tools;

/// `dodai intercept`.
#[derive(Args, Debug)]
pub struct Intercept {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What is done with the rules.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Lead connections to a base; what was installed before is replaced.
    #[command(after_help = "Examples:\n  dodai intercept install --users www-data\n  \
dodai intercept install --exclude-users dodai --exclude-cidrs 10.1.0.0/16 --exclude-ports 5432\n  \
dodai intercept install --inbound-ports 80,8000-8100\n  \
dodai intercept install --mode tproxy --dry-run")]
    Install(Box<Install>),
    /// Take everything away that `install` did. Nothing there is fine.
    #[command(after_help = "Example:\n  dodai intercept remove")]
    Remove(Remove),
    /// Tell what is installed, and what it did.
    #[command(after_help = "Examples:\n  dodai intercept show\n  dodai intercept show -o json")]
    Show,
}

/// `dodai intercept install`.
#[derive(Args, Debug)]
pub struct Install {
    /// How the base learns where a connection was meant to go: by redirection, or because the connection keeps its
    /// address (needs rules of routing too).
    #[arg(long, value_enum, default_value_t = Mode::Redirect)]
    pub mode: Mode,
    /// The port of the base that takes what leaves the machine; `interception.outbound.port` of its document.
    #[arg(long, default_value_t = OUTBOUND_PORT, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub outbound_port: u16,
    /// The port of the base that takes what comes to the machine; `interception.inbound.port` of its document.
    #[arg(long, default_value_t = INBOUND_PORT, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub inbound_port: u16,
    /// Leave alone what leaves the machine.
    #[arg(long, requires = "inbound_ports")]
    pub no_outbound: bool,
    /// Only connections of these users, by name or number.
    #[arg(long, value_delimiter = ',', value_name = "USERS")]
    pub users: Vec<Account>,
    /// Not those of these users: such as that of a base which may not mark its connections.
    #[arg(long, value_delimiter = ',', value_name = "USERS")]
    pub exclude_users: Vec<Account>,
    /// Only connections of these groups, by name or number.
    #[arg(long, value_delimiter = ',', value_name = "GROUPS")]
    pub groups: Vec<Account>,
    /// Not those of these groups.
    #[arg(long, value_delimiter = ',', value_name = "GROUPS")]
    pub exclude_groups: Vec<Account>,
    /// Only connections to these ports, such as `80,8000-8100`.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    pub ports: Vec<Ports>,
    /// Not those to these ports.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    pub exclude_ports: Vec<Ports>,
    /// Only connections to these networks, such as `10.0.0.0/8,fd00::/8`.
    #[arg(long, value_delimiter = ',', value_name = "NETWORKS")]
    pub cidrs: Vec<Network>,
    /// Not those to these networks. Loopback never is taken.
    #[arg(long, value_delimiter = ',', value_name = "NETWORKS")]
    pub exclude_cidrs: Vec<Network>,
    /// Ports of this machine of which the connections from elsewhere are taken; `1-65535` for all. Default: none.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    pub inbound_ports: Vec<Ports>,
    /// Not those to these ports. 22 is always one of them, unless `--inbound-ports` names just it.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    pub exclude_inbound_ports: Vec<Ports>,
    /// What installs the rules.
    #[arg(long, value_enum, default_value_t = Tool::Auto)]
    pub tool: Tool,
    /// Print what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// `dodai intercept remove`.
#[derive(Args, Debug)]
pub struct Remove {
    /// Print what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// What installs rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tool {
    /// nft where it is, else iptables.
    Auto,
    /// nft, of the package nftables.
    Nft,
    /// iptables and ip6tables.
    Iptables,
}

/// Runs `dodai intercept`.
pub fn run(arguments: Intercept, environment: &Environment, output: &Output) -> anyhow::Result<ExitCode> {
    let tools = Tools::find(environment);
    match arguments.action {
        Action::Install(install) => self::install(&install, &tools, output)?,
        Action::Remove(remove) => {
            if !remove.dry_run {
                tool::needs_privilege()?;
            }
            let done = self::remove(&tools, remove.dry_run, output)?;
            let say = if done { "nothing is intercepted any more" } else { "nothing was installed" };
            if !remove.dry_run {
                output.say(say);
            }
        }
        Action::Show => show(&tools, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn install(arguments: &Install, tools: &Tools, output: &Output) -> anyhow::Result<()> {
    let rules = Rules::of(arguments)?;
    let with_nft = match (arguments.tool, &tools.nft) {
        (Tool::Auto, found) => found.is_some(),
        (Tool::Nft, _) => true,
        (Tool::Iptables, _) => false,
    };
    if arguments.dry_run {
        let text = if with_nft { nft::text(&rules) } else { iptables::script(&rules) };
        let mut all = text;
        if rules.mode == Mode::Tproxy {
            all.push_str(&routes::script());
        }
        output.say(all.trim_end());
        return Ok(());
    }
    tool::needs_privilege()?;
    if let Err(error) = lead(&rules, with_nft, tools) {
        // What was installed before stays as it was; without such rules nobody needs the routes.
        let uses_routes =
            |found: &Installed| found.settings.starts_with(&format!("mode={}", Mode::Tproxy.as_str()));
        if rules.mode == Mode::Tproxy && !installed(tools)?.as_ref().is_some_and(uses_routes) {
            routes::remove(tools)?;
        }
        return Err(error);
    }
    // Of one tool and one mode at a time.
    if with_nft {
        iptables::remove(tools)?;
    } else {
        nft::remove(tools)?;
    }
    if rules.mode == Mode::Redirect {
        routes::remove(tools)?;
    }
    let ports: Vec<String> = rules.ports().iter().map(u16::to_string).collect();
    output.say(&format!(
        "connections are led to port {} from now on; they are refused while no base listens there",
        ports.join(" and port ")
    ));
    output.note("`dodai intercept show` tells what was taken, `dodai intercept remove` ends it");
    Ok(())
}

/// Lets the kernel lead connections so: routes first, since a rule without them loses what it takes.
fn lead(rules: &Rules, with_nft: bool, tools: &Tools) -> anyhow::Result<()> {
    if rules.mode == Mode::Tproxy {
        routes::add(tools)?;
    }
    if with_nft { nft::install(tools, rules) } else { iptables::install(tools, rules) }
}

/// Takes all away; says whether there was something.
fn remove(tools: &Tools, dry_run: bool, output: &Output) -> anyhow::Result<bool> {
    if dry_run {
        let steps = [nft::REMOVAL.to_owned(), iptables::removal(), routes::removal()];
        output.say(steps.concat().trim_end());
        return Ok(false);
    }
    let (by_nft, by_iptables, routes) =
        (nft::remove(tools)?, iptables::remove(tools)?, routes::remove(tools)?);
    Ok(by_nft || by_iptables || routes)
}

/// One of our rules and what it did.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    /// What it does, in words.
    rule: String,
    packets: u64,
    bytes: u64,
}

/// What is installed.
#[derive(Debug, PartialEq, Eq)]
struct Installed {
    tool: &'static str,
    /// What it was installed with: `mode=redirect outbound=15001`.
    settings: String,
    rules: Vec<Counted>,
}

fn installed(tools: &Tools) -> anyhow::Result<Option<Installed>> {
    if let Some(found) = nft::installed(tools)? {
        return Ok(Some(found));
    }
    iptables::installed(tools)
}

fn show(tools: &Tools, output: &Output) -> anyhow::Result<()> {
    tool::needs_privilege()?;
    if tools.nft.is_none() && tools.iptables.is_none() {
        bail!("neither nft (package nftables) nor iptables is here, so nothing can be installed by them");
    }
    let found = installed(tools)?;
    let settings = |found: &Installed| -> serde_json::Map<String, Value> {
        let pairs = found.settings.split(' ').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), Value::from(value))).collect()
    };
    let value = match &found {
        None => json!({"installed": false}),
        Some(found) => {
            let rules: Vec<Value> = found
                .rules
                .iter()
                .map(|one| json!({"rule": one.rule, "packets": one.packets, "bytes": one.bytes}))
                .collect();
            json!({"installed": true, "tool": found.tool, "settings": settings(found), "rules": rules})
        }
    };
    if output.value(&value) {
        return Ok(());
    }
    let Some(found) = found else {
        output.say("nothing is installed");
        return Ok(());
    };
    output.say(&format!("installed with {}: {}", found.tool, found.settings));
    for Counted { rule, packets, bytes } in &found.rules {
        output.say(&format!("  {packets:>10} packets {bytes:>12} bytes  {rule}"));
    }
    Ok(())
}

/// The settings as they are kept beside the rules.
fn settings(rules: &Rules) -> String {
    let mut text = format!("mode={}", rules.mode.as_str());
    if let Some(outbound) = &rules.outbound {
        text.push_str(&format!(" outbound={}", outbound.port));
    }
    if let Some(inbound) = &rules.inbound {
        text.push_str(&format!(" inbound={}", inbound.port));
    }
    text
}

/// Reads a number that a tool wrote.
fn number(text: &str) -> anyhow::Result<u64> {
    text.parse().with_context(|| format!("`{text}` is no count"))
}

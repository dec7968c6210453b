//! The rules in the words of iptables, for machines without nft: chains of our own, one jump to each from the kernel's.
//!
//! A chain holds what is left alone; what is left over passes one chain for each thing that was asked for, and the last
//! one takes it.

use std::path::Path;

use anyhow::Context;
use dodai_transport::origin::OWN_MARK;

use super::routes::TAKEN_MARK;
use super::rules::{Inbound, Mode, Outbound, Rules};
use super::tool::{self, Tools, beside};
use super::{Counted, Installed, number, settings};

const OUTPUT: &str = "DODAI_OUTPUT";
const INPUT: &str = "DODAI_INPUT";
const TAKE: &str = "DODAI_TAKE";
const ONLY: [&str; 4] = ["DODAI_ONLY_1", "DODAI_ONLY_2", "DODAI_ONLY_3", "DODAI_ONLY_4"];
const CHAINS: [&str; 3] = [OUTPUT, INPUT, TAKE];
/// From a chain of the kernel to one of ours.
type Jump = (&'static str, &'static str);
const JUMPS: [Jump; 2] = [("OUTPUT", OUTPUT), ("PREROUTING", INPUT)];
const TABLES: [&str; 2] = ["nat", "mangle"];
/// How long to wait for others that change rules, in seconds: without it, one that is at it makes the tool give up.
const WAIT: [&str; 2] = ["-w", "10"];

/// One family of addresses and its tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Family; 2] = [Family::V4, Family::V6];

    fn tool(self) -> &'static str {
        match self {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        }
    }

    fn loopback(self) -> (&'static str, &'static str) {
        match self {
            Family::V4 => ("127.0.0.0/8", "127.0.0.1"),
            Family::V6 => ("::1/128", "::1"),
        }
    }
}

/// What [`install`] does, for people.
pub fn script(rules: &Rules) -> String {
    let one = |family: Family| {
        let (wait, text) = (WAIT.join(" "), text(rules, family, &JUMPS));
        format!("{}-restore {wait} --noflush <<END\n{text}END\n", family.tool())
    };
    Family::ALL.map(one).concat()
}

/// What [`remove`] does, for people.
pub fn removal() -> String {
    let of_table = |tool: &str, table: &str| {
        let start = format!("{tool} {} -t {table}", WAIT.join(" "));
        let mut out = JUMPS.map(|(from, to)| format!("{start} -D {from} -p tcp -j {to}\n")).concat();
        for step in ["-F", "-X"] {
            CHAINS
                .into_iter()
                .chain(ONLY)
                .for_each(|chain| out.push_str(&format!("{start} {step} {chain}\n")));
        }
        out
    };
    let of_family = |family: Family| TABLES.map(|table| of_table(family.tool(), table)).concat();
    Family::ALL.map(of_family).concat()
}

/// The input of `iptables-restore --noflush` for one family: it empties our chains, or makes them, and adds `jumps`.
fn text(rules: &Rules, family: Family, jumps: &[Jump]) -> String {
    let mut out = format!("*{}\n", table_of(rules.mode));
    for chain in CHAINS.into_iter().chain(ONLY) {
        out.push_str(&format!(":{chain} - [0:0]\n"));
    }
    let mut add = |chain: &str, rule: String| out.push_str(&format!("-A {chain} -p tcp {rule}\n"));
    add(OUTPUT, format!("-m comment --comment \"{}\"", settings(rules)));
    if let Some(outbound) = &rules.outbound {
        leaving(&mut add, rules.mode, outbound, family);
    }
    coming(&mut add, rules, family);
    for (from, to) in jumps {
        add(from, format!("-j {to}"));
    }
    out.push_str("COMMIT\n");
    out
}

fn leave(what: &str, why: &str) -> String {
    format!("{what} -m comment --comment \"{why}\" -j RETURN")
}

/// What leaves the machine.
fn leaving(add: &mut impl FnMut(&str, String), mode: Mode, outbound: &Outbound, family: Family) {
    if mode == Mode::Tproxy {
        add(OUTPUT, "-m conntrack --ctdir REPLY -j RETURN".to_owned());
    }
    add(OUTPUT, leave(&format!("-m mark --mark {OWN_MARK:#x}"), "of the base itself"));
    if mode == Mode::Tproxy {
        // Every packet of a connection goes the way of its first one.
        add(OUTPUT, format!("-m connmark --mark {TAKEN_MARK:#x} -j MARK --set-mark {TAKEN_MARK:#x}"));
        add(OUTPUT, format!("-m mark --mark {TAKEN_MARK:#x} -j RETURN"));
        add(OUTPUT, "-m conntrack ! --ctstate NEW -j RETURN".to_owned());
    }
    add(OUTPUT, leave(&format!("-d {}", family.loopback().0), "to loopback"));
    let of_family = |network: &&super::rules::Network| network.is_v4() == (family == Family::V4);
    let user = |user: &super::rules::Account| format!("-m owner --uid-owner {user}");
    let group = |group: &super::rules::Account| format!("-m owner --gid-owner {group}");
    let port = |ports: &super::rules::Ports| format!("--dport {}", ports.text(':'));
    let network = |network: &super::rules::Network| format!("-d {network}");
    let lists: [(Vec<String>, &str); 4] = [
        (outbound.users.not.iter().map(user).collect(), "of users that are left alone"),
        (outbound.groups.not.iter().map(group).collect(), "of groups that are left alone"),
        (outbound.ports.not.iter().map(port).collect(), "to ports that are left alone"),
        (
            outbound.networks.not.iter().filter(of_family).map(network).collect(),
            "to networks that are left alone",
        ),
    ];
    for (list, why) in lists {
        for what in list {
            add(OUTPUT, leave(&what, why));
        }
    }
    let wanted: [(bool, Vec<String>); 4] = [
        (outbound.users.only.is_empty(), outbound.users.only.iter().map(user).collect()),
        (outbound.groups.only.is_empty(), outbound.groups.only.iter().map(group).collect()),
        (outbound.ports.only.is_empty(), outbound.ports.only.iter().map(port).collect()),
        (
            outbound.networks.only.is_empty(),
            outbound.networks.only.iter().filter(of_family).map(network).collect(),
        ),
    ];
    let lists: Vec<Vec<String>> = wanted.into_iter().filter(|(all, _)| !all).map(|(_, list)| list).collect();
    let chain = |at: usize| if at < lists.len() { ONLY[at] } else { TAKE };
    add(OUTPUT, format!("-j {}", chain(0)));
    for (at, list) in lists.iter().enumerate() {
        for what in list {
            add(ONLY[at], format!("{what} -j {}", chain(at + 1)));
        }
    }
    take(add, mode, outbound.port);
}

fn take(add: &mut impl FnMut(&str, String), mode: Mode, port: u16) {
    let comment = "-m comment --comment \"taken: leaves the machine\"";
    match mode {
        Mode::Redirect => add(TAKE, format!("{comment} -j REDIRECT --to-ports {port}")),
        Mode::Tproxy => {
            add(TAKE, format!("{comment} -j CONNMARK --set-mark {TAKEN_MARK:#x}"));
            add(TAKE, format!("-j MARK --set-mark {TAKEN_MARK:#x}"));
        }
    }
}

/// What comes to the machine, and what comes back to it by loopback to be taken.
fn coming(add: &mut impl FnMut(&str, String), rules: &Rules, family: Family) {
    if let (Mode::Tproxy, Some(outbound)) = (rules.mode, &rules.outbound) {
        let to = format!("-j TPROXY --on-ip {} --on-port {}", family.loopback().1, outbound.port);
        add(INPUT, format!("-i lo -m mark --mark {TAKEN_MARK:#x} {to}"));
    }
    let Some(Inbound { port, ports }) = &rules.inbound else { return };
    add(INPUT, "-i lo -j RETURN".to_owned());
    add(INPUT, "-m addrtype ! --dst-type LOCAL -j RETURN".to_owned());
    for ports in &ports.not {
        let what = format!("--dport {}", ports.text(':'));
        add(INPUT, leave(&what, "to ports that are left alone"));
    }
    let to = match rules.mode {
        Mode::Redirect => format!("-j REDIRECT --to-ports {port}"),
        Mode::Tproxy => format!("-j TPROXY --on-port {port}"),
    };
    for ports in &ports.only {
        let what = format!("--dport {}", ports.text(':'));
        add(INPUT, format!("{what} -m comment --comment \"taken: comes to the machine\" {to}"));
    }
}

/// Replaces what there was, family by family and each at one go: what is taken is taken throughout, and a family that
/// cannot be served leaves both as they were.
pub fn install(tools: &Tools, rules: &Rules) -> anyhow::Result<()> {
    let iptables = tool::need(tools.iptables.as_ref(), "iptables", "iptables")?;
    let table = table_of(rules.mode);
    let mut undo = Vec::new();
    for family in Family::ALL {
        if family == Family::V6
            && let Some(error) = missing(iptables, table)?
        {
            tracing::warn!(%error, "connections over IPv6 are not intercepted");
            continue;
        }
        let before = ours(iptables, family, table);
        let done = before.and_then(|before| {
            undo.push((family, before));
            let missing = missing_jumps(iptables, family, table)?;
            restore(iptables, family, &text(rules, family, &missing))
        });
        if let Err(error) = done {
            // The family that failed is as it was: its text is taken as a whole or not at all.
            undo.pop();
            for (family, before) in undo {
                put_back(iptables, family, table, &before)?;
            }
            return Err(error).context("the rules could not be installed");
        }
    }
    for family in Family::ALL {
        for other in TABLES.into_iter().filter(|other| *other != table) {
            clear(iptables, family, other)?;
        }
    }
    Ok(())
}

fn table_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Redirect => "nat",
        Mode::Tproxy => "mangle",
    }
}

fn restore(iptables: &Path, family: Family, text: &str) -> anyhow::Result<()> {
    let restore = beside(iptables, &format!("{}-restore", family.tool()));
    tool::run(&restore, &[WAIT[0], WAIT[1], "--noflush"], text).map(drop)
}

/// Why this machine has no such table for IPv6, if it has none. That another program holds the lock is no reason to go
/// on without.
fn missing(iptables: &Path, table: &str) -> anyhow::Result<Option<anyhow::Error>> {
    let tool = beside(iptables, Family::V6.tool());
    if !tool.is_file() {
        return Ok(Some(anyhow::anyhow!("{} is not here", tool.display())));
    }
    match tool::run(&tool, &[WAIT[0], WAIT[1], "-t", table, "-S"], "") {
        Ok(_) => Ok(None),
        Err(error) => {
            let said = error.to_string();
            let is_missing = ["does not exist", "can't initialize", "not supported"];
            if is_missing.iter().any(|words| said.contains(words)) { Ok(Some(error)) } else { Err(error) }
        }
    }
}

/// The jumps to our chains that are not there yet.
fn missing_jumps(iptables: &Path, family: Family, table: &str) -> anyhow::Result<Vec<Jump>> {
    let tool = beside(iptables, family.tool());
    let mut missing = Vec::new();
    for (from, to) in JUMPS {
        if !tool::succeeds(&tool, &[WAIT[0], WAIT[1], "-t", table, "-C", from, "-p", "tcp", "-j", to])? {
            missing.push((from, to));
        }
    }
    Ok(missing)
}

/// Our part of a table, as `iptables-restore` takes it: the chains and what is in them, without the jumps.
fn ours(iptables: &Path, family: Family, table: &str) -> anyhow::Result<String> {
    let listed = tool::run(&beside(iptables, &format!("{}-save", family.tool())), &["-t", table], "")?;
    let own = |line: &&str| line.starts_with(":DODAI_") || line.starts_with("-A DODAI_");
    Ok(listed.lines().filter(own).map(|line| format!("{line}\n")).collect())
}

/// Makes a table hold of ours what it did before.
fn put_back(iptables: &Path, family: Family, table: &str, before: &str) -> anyhow::Result<()> {
    if before.is_empty() {
        return clear(iptables, family, table).map(drop);
    }
    restore(iptables, family, &format!("*{table}\n{before}COMMIT\n"))
}

/// Takes the chains away; says whether there were any.
pub fn remove(tools: &Tools) -> anyhow::Result<bool> {
    let Some(iptables) = &tools.iptables else { return Ok(false) };
    let mut any = false;
    for family in Family::ALL {
        for table in TABLES {
            any |= clear(iptables, family, table)?;
        }
    }
    Ok(any)
}

/// Takes our chains out of one table; says whether there were any.
fn clear(iptables: &Path, family: Family, table: &str) -> anyhow::Result<bool> {
    let tool = beside(iptables, family.tool());
    if !tool.is_file() {
        return Ok(false);
    }
    let mut any = false;
    let does = |step: &[&str]| tool::succeeds(&tool, &[&[WAIT[0], WAIT[1], "-t", table], step].concat());
    for (from, to) in JUMPS {
        while does(&["-D", from, "-p", "tcp", "-j", to])? {
            any = true;
        }
    }
    // A chain goes when nothing leads to it any more.
    for step in ["-F", "-X"] {
        for chain in CHAINS.into_iter().chain(ONLY) {
            any |= does(&[step, chain])?;
        }
    }
    Ok(any)
}

/// What is installed, if anything is.
pub fn installed(tools: &Tools) -> anyhow::Result<Option<Installed>> {
    let Some(iptables) = &tools.iptables else { return Ok(None) };
    let mut found = Installed { tool: "iptables", settings: String::new(), rules: Vec::new() };
    for family in Family::ALL {
        let save = beside(iptables, &format!("{}-save", family.tool()));
        if !save.is_file() {
            continue;
        }
        for table in TABLES {
            // A kernel without the table has none of our rules in it.
            let listed = tool::run(&save, &["-c", "-t", table], "").unwrap_or_default();
            read(&listed, family, &mut found)?;
        }
    }
    Ok((!found.settings.is_empty()).then_some(found))
}

/// Reads what `iptables-save -c` wrote.
fn read(listed: &str, family: Family, found: &mut Installed) -> anyhow::Result<()> {
    for line in listed.lines().filter(|line| line.contains(" -A DODAI_")) {
        let Some((_, comment)) = line.split_once("--comment \"") else { continue };
        let comment = comment.split('"').next().unwrap_or(comment);
        if comment.starts_with("mode=") {
            comment.clone_into(&mut found.settings);
            continue;
        }
        let counts = line.trim_start_matches('[').split(']').next().unwrap_or_default();
        let Some((packets, bytes)) = counts.split_once(':') else { continue };
        let rule = match family {
            Family::V4 => format!("{comment} (IPv4)"),
            Family::V6 => format!("{comment} (IPv6)"),
        };
        found.rules.push(Counted { rule, packets: number(packets)?, bytes: number(bytes)? });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::rules::Choice;
    use super::*;

    /// Stands for every tool of iptables: it writes down how it is called, keeps nothing, and fails where a file beside
    /// it says so. It is in the tree, since a program that was just written may be busy when it is run.
    const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/iptables.sh");

    /// Installs with such programs and these files beside them; what came of it, and all calls.
    fn installs(files: &[(&str, &str)]) -> (anyhow::Result<()>, Vec<String>, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        for family in Family::ALL {
            for name in ["", "-restore", "-save"] {
                let path = folder.path().join(format!("{}{name}", family.tool()));
                std::os::unix::fs::symlink(FAKE, &path).expect("linked");
            }
        }
        files
            .iter()
            .for_each(|(name, text)| std::fs::write(folder.path().join(name), text).expect("written"));
        let tools = Tools { nft: None, iptables: Some(folder.path().join("iptables")), ip: None };
        let all = || Choice { only: Default::default(), not: Default::default() };
        let accounts = || Choice { only: Default::default(), not: Default::default() };
        let networks = Choice { only: Default::default(), not: Default::default() };
        let outbound =
            Outbound { port: 15001, users: accounts(), groups: accounts(), ports: all(), networks };
        let rules = Rules { mode: Mode::Redirect, outbound: Some(outbound), inbound: None };
        let done = install(&tools, &rules);
        let calls = std::fs::read_to_string(folder.path().join("calls")).expect("they were called");
        (done, calls.lines().map(ToOwned::to_owned).collect(), folder)
    }

    fn text_of(folder: &tempfile::TempDir, tool: &str) -> String {
        std::fs::read_to_string(folder.path().join(format!("{tool}-restore.text"))).expect("it was called")
    }

    #[test]
    fn what_is_installed_already_is_replaced_and_never_taken_away() {
        let (done, calls, folder) = installs(&[("found", "")]);
        done.expect("installed");
        assert!(
            !calls.iter().any(|call| call.contains("-t nat -D") || call.contains("-t nat -F")),
            "{calls:?}"
        );
        assert!(calls.iter().any(|call| call.contains("-t mangle -D")), "the other mode's goes: {calls:?}");
        let changes = calls.iter().filter(|call| !call.contains("-save"));
        assert!(changes.clone().all(|call| call.contains(" -w 10 ")), "{calls:?}");
        assert!(calls.contains(&"iptables-restore -w 10 --noflush".to_owned()), "{calls:?}");
        let text = text_of(&folder, "iptables");
        assert!(text.contains(":DODAI_OUTPUT - [0:0]\n") && !text.contains("-A OUTPUT"), "{text}");
        let (done, _, folder) = installs(&[]);
        done.expect("installed");
        assert!(text_of(&folder, "ip6tables").contains("-A OUTPUT -p tcp -j DODAI_OUTPUT\n"));
    }

    #[test]
    fn a_family_that_fails_leaves_both_as_they_were() {
        let (done, calls, folder) = installs(&[("found", ""), ("ip6tables-restore.fails", "")]);
        assert!(format!("{:#}", done.expect_err("refused")).contains("refused"), "{calls:?}");
        let before = "*nat\n:DODAI_OUTPUT - [0:0]\n-A DODAI_OUTPUT -j RETURN\nCOMMIT\n";
        assert_eq!(text_of(&folder, "iptables"), before, "what there was is there again");
        let (done, calls, _folder) = installs(&[("ip6tables-restore.fails", "")]);
        done.expect_err("refused");
        assert!(calls.iter().any(|call| call.starts_with("iptables -w 10 -t nat -X")), "undone: {calls:?}");
        let (done, ..) = installs(&[("iptables-restore.fails", "")]);
        done.expect_err("refused");
    }

    #[test]
    fn only_a_machine_without_the_table_is_served_without_ipv6() {
        let says = |text| installs(&[("ip6tables.says", text)]);
        let (done, calls, _folder) =
            says("ip6tables: can't initialize ip6tables table `nat': Table does not exist");
        done.expect("served by IPv4");
        assert!(!calls.iter().any(|call| call.starts_with("ip6tables-restore")), "{calls:?}");
        let (done, ..) = says("Another app is currently holding the xtables lock");
        done.expect_err("not installed by half");
    }

    #[test]
    fn a_listing_is_read() {
        let listed = "*nat\n:DODAI_OUTPUT - [0:0]\n[5:300] -A OUTPUT -p tcp -j DODAI_OUTPUT\n\
            [5:300] -A DODAI_OUTPUT -p tcp -m comment --comment \"mode=redirect outbound=15001\"\n\
            [2:120] -A DODAI_OUTPUT -d 127.0.0.0/8 -p tcp -m comment --comment \"to loopback\" -j RETURN\n\
            [3:180] -A DODAI_OUTPUT -p tcp -j DODAI_TAKE\nCOMMIT\n";
        let mut found = Installed { tool: "iptables", settings: String::new(), rules: Vec::new() };
        read(listed, Family::V4, &mut found).expect("reads");
        assert_eq!(found.settings, "mode=redirect outbound=15001");
        let expect = Counted { rule: "to loopback (IPv4)".to_owned(), packets: 2, bytes: 120 };
        assert_eq!(found.rules, [expect]);
    }
}

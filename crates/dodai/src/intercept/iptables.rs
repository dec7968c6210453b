//! The rules in the words of iptables, for machines without nft: chains of our own, one jump to each from the kernel's.
//!
//! A chain holds what is left alone; what is left over passes one chain for each thing that was asked for, and the last
//! one takes it.

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
const JUMPS: [(&str, &str); 2] = [("OUTPUT", OUTPUT), ("PREROUTING", INPUT)];
const TABLES: [&str; 2] = ["nat", "mangle"];

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
    let one =
        |family: Family| format!("{}-restore --noflush <<END\n{}END\n", family.tool(), text(rules, family));
    Family::ALL.map(one).concat()
}

/// What [`remove`] does, for people.
pub fn removal() -> String {
    let jump = |tool: &str, table: &str| {
        JUMPS.map(|(from, to)| format!("{tool} -t {table} -D {from} -p tcp -j {to}\n")).concat()
    };
    let table = |tool: &'static str| TABLES.map(|table| jump(tool, table)).concat();
    Family::ALL.map(|family| table(family.tool())).concat()
}

/// The input of `iptables-restore --noflush` for one family.
fn text(rules: &Rules, family: Family) -> String {
    let mut out = String::from(match rules.mode {
        Mode::Redirect => "*nat\n",
        Mode::Tproxy => "*mangle\n",
    });
    for chain in [OUTPUT, INPUT, TAKE].into_iter().chain(ONLY) {
        out.push_str(&format!(":{chain} - [0:0]\n"));
    }
    let mut add = |chain: &str, rule: String| out.push_str(&format!("-A {chain} -p tcp {rule}\n"));
    add(OUTPUT, format!("-m comment --comment \"{}\"", settings(rules)));
    if let Some(outbound) = &rules.outbound {
        leaving(&mut add, rules.mode, outbound, family);
    }
    coming(&mut add, rules, family);
    for (from, to) in JUMPS {
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

/// Replaces what there was.
pub fn install(tools: &Tools, rules: &Rules) -> anyhow::Result<()> {
    let iptables = tool::need(tools.iptables.as_ref(), "iptables", "iptables")?;
    remove(tools)?;
    for family in Family::ALL {
        let restore = beside(iptables, &format!("{}-restore", family.tool()));
        let done = tool::run(&restore, &["--noflush"], &text(rules, family));
        match (done, family) {
            (Ok(_), _) => {}
            (Err(error), Family::V4) => {
                return Err(error).context("the rules could not be installed");
            }
            (Err(error), Family::V6) => {
                tracing::warn!(%error, "connections over IPv6 are not intercepted");
            }
        }
    }
    Ok(())
}

/// Takes the chains away; says whether there were any.
pub fn remove(tools: &Tools) -> anyhow::Result<bool> {
    let Some(iptables) = &tools.iptables else { return Ok(false) };
    let mut any = false;
    for family in Family::ALL {
        let tool = beside(iptables, family.tool());
        if !tool.is_file() {
            continue;
        }
        for table in TABLES {
            for (from, to) in JUMPS {
                while tool::succeeds(&tool, &["-w", "-t", table, "-D", from, "-p", "tcp", "-j", to])? {
                    any = true;
                }
            }
            // A chain goes when nothing leads to it any more.
            for step in ["-F", "-X"] {
                for chain in [OUTPUT, INPUT, TAKE].into_iter().chain(ONLY) {
                    any |= tool::succeeds(&tool, &["-w", "-t", table, step, chain])?;
                }
            }
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
    use super::*;

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

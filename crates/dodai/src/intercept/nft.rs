//! The rules in the words of nft: one table of our own, replaced and removed whole.

use std::fmt::Display;

use anyhow::Context;
use dodai_transport::origin::OWN_MARK;
use serde_json::Value;

use super::routes::TAKEN_MARK;
use super::rules::{Choice, Inbound, Mode, Network, Outbound, Ports, Rules};
use super::tool::{self, Tools};
use super::{Counted, Installed, settings};

const TABLE: &str = "inet dodai_intercept";
/// How it is taken away, for people.
pub const REMOVAL: &str = "nft delete table inet dodai_intercept\n";

/// The whole table, made anew whether there was one or not.
pub fn text(rules: &Rules) -> String {
    let mut out = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    let mut chain = |name: &str, kind: &str, lines: Vec<String>| {
        out.push_str(&format!("  chain {name} {{\n"));
        for line in (!kind.is_empty()).then(|| kind.to_owned()).into_iter().chain(lines) {
            out.push_str(&format!("    {line}\n"));
        }
        out.push_str("  }\n");
    };
    chain("settings", "", vec![format!("counter comment \"{}\"", settings(rules))]);
    let (out_hook, in_hook) = match rules.mode {
        Mode::Redirect => (
            "type nat hook output priority -100; policy accept;",
            "type nat hook prerouting priority -100; policy accept;",
        ),
        Mode::Tproxy => (
            "type route hook output priority -150; policy accept;",
            "type filter hook prerouting priority -150; policy accept;",
        ),
    };
    if let Some(outbound) = &rules.outbound {
        chain("output", out_hook, leaving(rules.mode, outbound));
    }
    let coming = coming(rules);
    if !coming.is_empty() {
        chain("prerouting", in_hook, coming);
    }
    out.push_str("}\n");
    out
}

/// A rule that ends the way through the chain.
fn leave(what: &str, why: &str) -> String {
    format!("{what} counter return comment \"{why}\"")
}

fn set<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("{{ {} }}", items.join(", "))
}

/// What leaves the machine.
fn leaving(mode: Mode, outbound: &Outbound) -> Vec<String> {
    let mut lines = vec!["meta l4proto != tcp return".to_owned()];
    let own = leave(&format!("meta mark {OWN_MARK:#x}"), "of the base itself");
    match mode {
        Mode::Redirect => lines.push(own),
        Mode::Tproxy => lines.extend([
            "ct direction reply return".to_owned(),
            own,
            // Every packet of a connection goes the way of its first one.
            format!("ct mark {TAKEN_MARK:#x} meta mark set {TAKEN_MARK:#x} return"),
            "ct state != new return".to_owned(),
        ]),
    }
    lines.push(leave("ip daddr 127.0.0.0/8", "to loopback"));
    lines.push(leave("ip6 daddr ::1", "to loopback"));
    accounts(&mut lines, "meta skuid", &outbound.users, "users");
    accounts(&mut lines, "meta skgid", &outbound.groups, "groups");
    ports(&mut lines, &outbound.ports);
    networks(&mut lines, &outbound.networks);
    lines.push(match mode {
        Mode::Redirect => format!(
            "meta l4proto tcp counter redirect to :{} comment \"taken: leaves the machine\"",
            outbound.port
        ),
        Mode::Tproxy => format!(
            "counter ct mark set {TAKEN_MARK:#x} meta mark set {TAKEN_MARK:#x} comment \"taken: leaves the machine\""
        ),
    });
    lines
}

fn accounts<T: Display + Ord>(lines: &mut Vec<String>, key: &str, choice: &Choice<T>, what: &str) {
    if !choice.not.is_empty() {
        lines.push(leave(&format!("{key} {}", set(&choice.not)), &format!("of {what} that are left alone")));
    }
    if !choice.only.is_empty() {
        lines.push(leave(&format!("{key} != {}", set(&choice.only)), &format!("of other {what}")));
    }
}

fn ports(lines: &mut Vec<String>, choice: &Choice<Ports>) {
    let list = |ports: &std::collections::BTreeSet<Ports>| set(ports.iter().map(|ports| ports.text('-')));
    if !choice.not.is_empty() {
        lines.push(leave(&format!("tcp dport {}", list(&choice.not)), "to ports that are left alone"));
    }
    if !choice.only.is_empty() {
        lines.push(leave(&format!("tcp dport != {}", list(&choice.only)), "to other ports"));
    }
}

fn networks(lines: &mut Vec<String>, choice: &Choice<Network>) {
    for (key, family, is_v4) in [("ip daddr", "ipv4", true), ("ip6 daddr", "ipv6", false)] {
        let of_family = |networks: &std::collections::BTreeSet<Network>| {
            networks.iter().filter(|network| network.is_v4() == is_v4).copied().collect::<Vec<_>>()
        };
        let (not, only) = (of_family(&choice.not), of_family(&choice.only));
        if !not.is_empty() {
            lines.push(leave(&format!("{key} {}", set(not)), "to networks that are left alone"));
        }
        if !only.is_empty() {
            lines.push(leave(&format!("{key} != {}", set(only)), "to other networks"));
        } else if !choice.only.is_empty() {
            lines.push(leave(&format!("meta nfproto {family}"), "to other networks"));
        }
    }
}

/// What comes to the machine, and what comes back to it by loopback to be taken.
fn coming(rules: &Rules) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Mode::Tproxy, Some(outbound)) = (rules.mode, &rules.outbound) {
        let port = outbound.port;
        for (family, to) in
            [("ipv4", format!("ip to 127.0.0.1:{port}")), ("ipv6", format!("ip6 to [::1]:{port}"))]
        {
            lines.push(format!(
                "iifname \"lo\" meta mark {TAKEN_MARK:#x} meta nfproto {family} meta l4proto tcp tproxy {to} accept"
            ));
        }
    }
    let Some(Inbound { port, ports: wanted }) = &rules.inbound else { return lines };
    lines.push("meta l4proto != tcp return".to_owned());
    lines.push("iifname \"lo\" return".to_owned());
    lines.push("fib daddr type != local return".to_owned());
    ports(&mut lines, wanted);
    lines.push(match rules.mode {
        Mode::Redirect => {
            format!("meta l4proto tcp counter redirect to :{port} comment \"taken: comes to the machine\"")
        }
        Mode::Tproxy => {
            format!(
                "meta l4proto tcp counter tproxy to :{port} accept comment \"taken: comes to the machine\""
            )
        }
    });
    lines
}

/// Replaces what there was, at one go.
pub fn install(tools: &Tools, rules: &Rules) -> anyhow::Result<()> {
    let nft = tool::need(tools.nft.as_ref(), "nft", "nftables")?;
    tool::run(nft, &["-f", "-"], &text(rules)).map(drop).context("the rules could not be installed")
}

/// Takes the table away; says whether there was one.
pub fn remove(tools: &Tools) -> anyhow::Result<bool> {
    let Some(nft) = &tools.nft else { return Ok(false) };
    if !tool::succeeds(nft, &["list", "table", "inet", "dodai_intercept"])? {
        return Ok(false);
    }
    tool::run(nft, &["delete", "table", "inet", "dodai_intercept"], "")?;
    Ok(true)
}

/// What is installed, if anything is.
pub fn installed(tools: &Tools) -> anyhow::Result<Option<Installed>> {
    let Some(nft) = &tools.nft else { return Ok(None) };
    if !tool::succeeds(nft, &["list", "table", "inet", "dodai_intercept"])? {
        return Ok(None);
    }
    let listed = tool::run(nft, &["-j", "list", "table", "inet", "dodai_intercept"], "")?;
    let listed: Value = serde_json::from_str(&listed).context("nft answers no JSON")?;
    Ok(Some(read(&listed)))
}

fn read(listed: &Value) -> Installed {
    let mut found = Installed { tool: "nft", settings: String::new(), rules: Vec::new() };
    for rule in listed["nftables"].as_array().into_iter().flatten().filter_map(|one| one.get("rule")) {
        let Some(comment) = rule["comment"].as_str() else { continue };
        if rule["chain"] == "settings" {
            comment.clone_into(&mut found.settings);
            continue;
        }
        let parts = rule["expr"].as_array().into_iter().flatten();
        let counter = parts.filter_map(|part| part.get("counter")).next();
        let count = |key: &str| counter.and_then(|counter| counter[key].as_u64()).unwrap_or(0);
        let (packets, bytes) = (count("packets"), count("bytes"));
        found.rules.push(Counted { rule: comment.to_owned(), packets, bytes });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_listing_is_read() {
        let listed = json!({"nftables": [
            {"metainfo": {"version": "1.0"}},
            {"table": {"family": "inet", "name": "dodai_intercept"}},
            {"rule": {"chain": "settings", "comment": "mode=redirect outbound=15001", "expr": [{"counter": {"packets": 0, "bytes": 0}}]}},
            {"rule": {"chain": "output", "expr": [{"return": null}]}},
            {"rule": {"chain": "output", "comment": "to loopback", "expr": [{"match": {}}, {"counter": {"packets": 3, "bytes": 180}}, {"return": null}]}},
        ]});
        let expect = Installed {
            tool: "nft",
            settings: "mode=redirect outbound=15001".to_owned(),
            rules: vec![Counted { rule: "to loopback".to_owned(), packets: 3, bytes: 180 }],
        };
        assert_eq!(read(&listed), expect);
    }
}

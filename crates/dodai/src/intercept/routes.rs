//! Rules of routing for TPROXY: connections of this machine that are to be taken come back to it by loopback.

use super::rules::Mode;
use super::tool::{self, Tools};

/// The mark of connections that leave the machine and are taken, and the table of routes that it asks for.
pub const TAKEN_MARK: u32 = 0xd0db;
const TABLE: &str = "53467";
const FAMILIES: [(&str, &str); 2] = [("-4", "0.0.0.0/0"), ("-6", "::/0")];

fn mark() -> String {
    format!("{TAKEN_MARK:#x}")
}

/// What [`add`] does, for people.
pub fn script() -> String {
    let lines = FAMILIES.map(|(family, all)| {
        format!(
            "ip {family} route replace local {all} dev lo table {TABLE}\nip {family} rule add fwmark {} lookup {TABLE}\n",
            mark()
        )
    });
    lines.concat()
}

/// What [`remove`] does, for people.
pub fn removal() -> String {
    let lines = FAMILIES.map(|(family, _)| {
        format!(
            "ip {family} rule del fwmark {} lookup {TABLE}\nip {family} route flush table {TABLE}\n",
            mark()
        )
    });
    lines.concat()
}

/// Makes the rules, once: what is there stays, so that connections which go by it do not notice.
pub fn add(tools: &Tools) -> anyhow::Result<()> {
    let ip = tool::need(tools.ip.as_ref(), "ip", "iproute2")?;
    for (family, all) in FAMILIES {
        let route = [family, "route", "replace", "local", all, "dev", "lo", "table", TABLE];
        match tool::run(ip, &route, "") {
            Ok(_) => {}
            Err(error) if family == "-6" => {
                tracing::warn!(%error, mode = Mode::Tproxy.as_str(), "connections over IPv6 are not intercepted");
                continue;
            }
            Err(error) => return Err(error),
        }
        let rule = format!("fwmark {} lookup {TABLE}", mark());
        let there = tool::run(ip, &[family, "rule", "show"], "")?;
        if !there.lines().any(|line| line.trim_end().ends_with(&rule)) {
            tool::run(ip, &[family, "rule", "add", "fwmark", &mark(), "lookup", TABLE], "")?;
        }
    }
    Ok(())
}

/// Takes them away; says whether there were any.
pub fn remove(tools: &Tools) -> anyhow::Result<bool> {
    // Without the tool nothing can have been done by it.
    let Some(ip) = &tools.ip else { return Ok(false) };
    let mut any = false;
    for (family, _) in FAMILIES {
        while tool::succeeds(ip, &[family, "rule", "del", "fwmark", &mark(), "lookup", TABLE])? {
            any = true;
        }
        // Also without a rule: an installation may have been cut between the two. Without a table it fails.
        tool::succeeds(ip, &[family, "route", "flush", "table", TABLE])?;
    }
    Ok(any)
}

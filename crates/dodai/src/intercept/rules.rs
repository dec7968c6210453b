//! What is to be intercepted, checked, in no tool's words yet.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::bail;
use clap::ValueEnum;

use super::Install;
use crate::exit::Failed;

/// How a connection is led to the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Its destination becomes the base; the kernel remembers the one before.
    Redirect,
    /// It keeps its destination, and the base takes it all the same.
    Tproxy,
}

impl Mode {
    /// As it is written on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Redirect => "redirect",
            Mode::Tproxy => "tproxy",
        }
    }
}

/// A user or group, by name or number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account(String);

impl FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Account, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if text.is_empty() || !text.chars().all(plain) || text.starts_with('-') {
            return Err("a user or group is a name or a number".to_owned());
        }
        Ok(Account(text.to_owned()))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A port, or all from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

/// The port of ssh: by it people come back to a machine on which nothing else answers.
const SSH: Ports = Ports { first: 22, last: 22 };

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Ports, String> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Ports { first, last }),
            _ => Err("a port is a number from 1 to 65535, several are `8000-8100`".to_owned()),
        }
    }
}

impl Ports {
    /// The port, or the first and the last with `between` in between.
    pub fn text(self, between: char) -> String {
        if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}{between}{}", self.first, self.last)
        }
    }
}

/// A network of addresses, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    ip: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether all of `other` is in it.
    fn holds(&self, other: &Network) -> bool {
        self.is_v4() == other.is_v4() && self.bits <= other.bits && first_of(other.ip, self.bits) == self.ip
    }

    /// Whether it is of IPv4.
    pub fn is_v4(&self) -> bool {
        self.ip.is_ipv4()
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits)),
            None => (text, None),
        };
        let wrong = || "a network is an address with a length, such as `10.0.0.0/8` or `fd00::/8`".to_owned();
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits: u8 = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| wrong()))?;
        if bits > most {
            return Err(wrong());
        }
        Ok(Network { ip: first_of(ip, bits), bits })
    }
}

/// The address without what is beyond the first `bits`.
fn first_of(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.bits)
    }
}

/// Which ones: those of `only`, if there are any, but for those of `not`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<T> {
    /// Empty for all.
    pub only: BTreeSet<T>,
    /// Never these.
    pub not: BTreeSet<T>,
}

impl Choice<Account> {
    fn of(only: &[Account], not: &[Account]) -> Choice<Account> {
        Choice { only: only.iter().cloned().collect(), not: not.iter().cloned().collect() }
    }
}

/// Tools do not take sets of ranges that overlap.
impl Choice<Ports> {
    fn of(only: &[Ports], not: &[Ports]) -> Choice<Ports> {
        let apart = |list: &[Ports]| {
            let sorted: BTreeSet<Ports> = list.iter().copied().collect();
            let mut apart: Vec<Ports> = Vec::new();
            for ports in sorted {
                match apart.last_mut() {
                    Some(before) if ports.first <= before.last => before.last = before.last.max(ports.last),
                    Some(_) | None => apart.push(ports),
                }
            }
            apart.into_iter().collect()
        };
        Choice { only: apart(only), not: apart(not) }
    }
}

impl Choice<Network> {
    fn of(only: &[Network], not: &[Network]) -> Choice<Network> {
        let outermost = |list: &[Network]| {
            let within = |one: &Network| list.iter().any(|other| other != one && other.holds(one));
            list.iter().filter(|one| !within(one)).copied().collect()
        };
        Choice { only: outermost(only), not: outermost(not) }
    }
}

/// Connections that leave the machine. Everything that is asked for must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Where the base takes them.
    pub port: u16,
    /// Whose they are.
    pub users: Choice<Account>,
    /// The same by group.
    pub groups: Choice<Account>,
    /// The ports they are for.
    pub ports: Choice<Ports>,
    /// The networks they are for.
    pub networks: Choice<Network>,
}

/// Connections that come to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Where the base takes them.
    pub port: u16,
    /// The ports they are for; never all.
    pub ports: Choice<Ports>,
}

/// What is to be intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How.
    pub mode: Mode,
    /// What leaves the machine.
    pub outbound: Option<Outbound>,
    /// What comes to it.
    pub inbound: Option<Inbound>,
}

impl Rules {
    /// What the arguments ask for.
    pub fn of(arguments: &Install) -> anyhow::Result<Rules> {
        let outbound = (!arguments.no_outbound).then(|| Outbound {
            port: arguments.outbound_port,
            users: Choice::<Account>::of(&arguments.users, &arguments.exclude_users),
            groups: Choice::<Account>::of(&arguments.groups, &arguments.exclude_groups),
            ports: Choice::<Ports>::of(&arguments.ports, &arguments.exclude_ports),
            networks: Choice::<Network>::of(&arguments.cidrs, &arguments.exclude_cidrs),
        });
        let inbound = (!arguments.inbound_ports.is_empty()).then(|| {
            let mut not = arguments.exclude_inbound_ports.clone();
            // Who takes a range, or all, is not to lose the way back into the machine.
            if !arguments.inbound_ports.contains(&SSH) {
                not.push(SSH);
            }
            let ports = Choice::<Ports>::of(&arguments.inbound_ports, &not);
            Inbound { port: arguments.inbound_port, ports }
        });
        if outbound.is_some() && inbound.is_some() && arguments.outbound_port == arguments.inbound_port {
            let text = format!(
                "port {} cannot take what leaves the machine and what comes to it; give another --inbound-port",
                arguments.inbound_port
            );
            bail!(anyhow::Error::new(Failed::Arguments).context(text));
        }
        Ok(Rules { mode: arguments.mode, outbound, inbound })
    }

    /// Where the base takes connections.
    pub fn ports(&self) -> Vec<u16> {
        let outbound = self.outbound.iter().map(|outbound| outbound.port);
        outbound.chain(self.inbound.iter().map(|inbound| inbound.port)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn the_port_of_ssh_is_taken_only_if_it_is_named_by_itself() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            install: Install,
        }
        let check = |arguments: &[&str], expect: &[&str]| {
            let line = Line::try_parse_from([&["install"], arguments].concat()).expect("they are read");
            let inbound = Rules::of(&line.install).expect("they fit").inbound.expect("asked for");
            let not: Vec<String> = inbound.ports.not.iter().map(|ports| ports.text('-')).collect();
            assert_eq!(not, expect, "{arguments:?}");
        };
        check(&["--inbound-ports", "1-65535"], &["22"]);
        check(&["--inbound-ports", "1-65535", "--exclude-inbound-ports", "9000"], &["22", "9000"]);
        check(&["--inbound-ports", "80", "--exclude-inbound-ports", "20-25"], &["20-25"]);
        check(&["--inbound-ports", "22,80"], &[]);
        check(&["--inbound-ports", "22", "--exclude-inbound-ports", "22"], &["22"]);
    }

    #[test]
    fn ports_and_networks_are_read_or_refused() {
        let ports = |text: &str| text.parse::<Ports>().map(|ports| ports.text(':')).ok();
        for (text, expect) in [
            ("80", Some("80")),
            ("8000-8100", Some("8000:8100")),
            ("80-80", Some("80")),
            ("0", None),
            ("65536", None),
            ("9-8", None),
            ("80;drop", None),
            ("", None),
        ] {
            assert_eq!(ports(text).as_deref(), expect, "{text}");
        }
        let network = |text: &str| text.parse::<Network>().map(|network| network.to_string()).ok();
        for (text, expect) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.0.0.1", Some("10.0.0.1/32")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("10.1.2.3/0", Some("0.0.0.0/0")),
            ("fd00:1::/16", Some("fd00::/16")),
            ("fd00::/8", Some("fd00::/8")),
            ("::1", Some("::1/128")),
            ("10.0.0.0/33", None),
            ("10.0.0/8", None),
            ("0.0.0.0/0 accept", None),
        ] {
            assert_eq!(network(text).as_deref(), expect, "{text}");
        }
        let parse = |text: &str| text.parse::<Network>().expect("a network");
        let networks = ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "fd00::/8", "192.168.0.0/24"].map(parse);
        let choice = Choice::<Network>::of(&networks, &[]);
        assert_eq!(choice.only, [networks[0], networks[3], networks[4]].into());
        let all = ["80", "70-85", "90", "80-81"].map(|text| text.parse::<Ports>().expect("ports"));
        let choice = Choice::<Ports>::of(&[], &all);
        assert_eq!(choice.not, [Ports { first: 70, last: 85 }, Ports { first: 90, last: 90 }].into());
        let account = |text: &str| text.parse::<Account>().is_ok();
        assert!(account("www-data") && account("1000") && account("_x.y"));
        assert!(!account("") && !account("a b") && !account("a;b") && !account("-x") && !account("a}"));
    }
}

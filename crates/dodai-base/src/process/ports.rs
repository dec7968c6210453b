//! Ports for processes that must be told where to listen. Between the moment a port is found free and the
//! moment an app binds it, anybody may take it; nothing short of passing a socket prevents that. What is
//! done about it: ports come from a range below the kernel's ephemeral one, so that no outgoing connection
//! lands there; a port given out is not given out again while its guard lives; and a start that failed can
//! ask [`Port::is_taken`] and take another. Rejected: holding the port bound until the app is up, which
//! makes every app fail that does not set `SO_REUSEADDR`.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use super::Error;

/// Below the ephemeral range (32768 and up) and below Kubernetes' node ports (30000 and up).
const RANGE: RangeInclusive<u16> = 20000..=29999;

struct Pool {
    given: BTreeSet<u16>,
    next: u16,
}

/// A source of free ports. Cheap to clone; clones share one set.
#[derive(Clone)]
pub struct Ports {
    range: RangeInclusive<u16>,
    pool: Arc<Mutex<Pool>>,
}

impl Default for Ports {
    fn default() -> Ports {
        Ports::within(RANGE)
    }
}

impl Ports {
    /// Ports of a range. Each process of the base begins at another place in it, so that two bases on one
    /// host rarely try the same port.
    pub fn within(range: RangeInclusive<u16>) -> Ports {
        let size = u32::from(range.end().saturating_sub(*range.start())) + 1;
        let offset = std::process::id().wrapping_mul(61) % size;
        let next = range.start().saturating_add(u16::try_from(offset).unwrap_or(0));
        Ports { range, pool: Arc::new(Mutex::new(Pool { given: BTreeSet::new(), next })) }
    }

    /// A port on which nobody listens at this address now.
    pub fn free_port(&self, address: IpAddr) -> Result<Port, Error> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in self.range.clone() {
            let number = pool.next;
            pool.next = if number >= *self.range.end() { *self.range.start() } else { number + 1 };
            if !pool.given.contains(&number) && !is_taken(address, number) {
                pool.given.insert(number);
                return Ok(Port { number, address, pool: self.pool.clone() });
            }
        }
        Err(Error::NoPort { address, first: *self.range.start(), last: *self.range.end() })
    }
}

/// A port given to one user; dropping it lets it be given again.
pub struct Port {
    number: u16,
    address: IpAddr,
    pool: Arc<Mutex<Pool>>,
}

impl Port {
    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Whether somebody listens there. After an app failed to start this tells a port conflict from other
    /// reasons: if it is taken although the app is gone, ask for another port and start again.
    pub fn is_taken(&self) -> bool {
        is_taken(self.address, self.number)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).given.remove(&self.number);
    }
}

fn is_taken(address: IpAddr, number: u16) -> bool {
    // The standard library sets SO_REUSEADDR, so connections in TIME_WAIT do not count as taken.
    let bound = TcpListener::bind(SocketAddr::new(address, number));
    bound.is_err_and(|error| {
        matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_port_is_given_once_while_its_guard_lives() {
        let ports = Ports::within(27310..=27349);
        let one = ports.free_port(LOOPBACK).unwrap();
        let two = ports.free_port(LOOPBACK).unwrap();
        assert_ne!(one.number(), two.number());
        let listener = TcpListener::bind((LOOPBACK, one.number())).unwrap();
        assert!(one.is_taken() && !two.is_taken());
        let number = one.number();
        drop(one);
        let all: Vec<Port> = std::iter::from_fn(|| ports.free_port(LOOPBACK).ok()).collect();
        assert!(all.iter().all(|port| port.number() != number), "a port with a listener was given out");
        let error = ports.free_port(LOOPBACK).err().unwrap().to_string();
        assert!(error.contains("27310"), "{error}");
        drop((listener, all));
        assert!(ports.free_port(LOOPBACK).is_ok());
    }
}

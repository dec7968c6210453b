//! Rules within `loadBalancing`, wherever it stands.

use super::Findings;
use crate::balancing::{Algorithm, HashOn, LoadBalancing, Locality, SameSite, Sticky};
use crate::read::Code;

pub(super) fn check(path: &str, balancing: &LoadBalancing, found: &mut Findings) {
    let hashes = matches!(balancing.algorithm, Algorithm::RingHash | Algorithm::Maglev);
    match (&balancing.hash_on, hashes) {
        (None, true) => {
            let message = "the algorithm needs to know what calls are told apart by";
            let remedy = "add `hashOn`, for example `hashOn: {header: x-user}` or `hashOn: {call: source}`";
            found.error(Code::MissingKey, format!("{path}.hashOn"), message, remedy);
        }
        (Some(_), false) => {
            let message = "this algorithm does not look at it";
            let remedy = "use `ring_hash` or `maglev`, or leave it out";
            found.error(Code::Conflict, format!("{path}.hashOn"), message, remedy);
        }
        (Some(key), true) => check_key(&format!("{path}.hashOn"), key, found),
        (None, false) => {}
    }
    if balancing.slow_start.is_some() && hashes {
        let message = "a new instance gets the calls of its keys at once";
        found.warning(
            Code::NoEffect,
            format!("{path}.slowStart"),
            message,
            "use another algorithm, or leave it out",
        );
    }
    if let Some(locality) = balancing.locality.as_ref().filter(|one| !(1..=100).contains(&one.spill_below)) {
        let message = format!("{} is not a share", locality.spill_below);
        found.error(Code::InvalidValue, format!("{path}.locality.spillBelow"), message, "write 1 to 100");
    }
    if let Some(locality) = &balancing.locality {
        check_failover(&format!("{path}.locality.failover"), &locality.failover, found);
    }
    if let Some(sticky) = &balancing.sticky {
        check_sticky(&format!("{path}.sticky"), sticky, found);
    }
}

fn check_key(path: &str, key: &HashOn, found: &mut Findings) {
    let given = [
        ("header", key.header.is_some()),
        ("cookie", key.cookie.is_some()),
        ("queryParam", key.query_param.is_some()),
        ("call", key.call.is_some()),
    ];
    found.exactly_one(path, &given);
    if let Some(header) = &key.header {
        found.header_name(&format!("{path}.header"), header);
    }
    if let Some(cookie) = &key.cookie {
        found.cookie_name(&format!("{path}.cookie"), cookie);
    }
    if key.query_param.as_ref().is_some_and(String::is_empty) {
        found.error(
            Code::InvalidValue,
            format!("{path}.queryParam"),
            "the name is empty",
            "name the parameter",
        );
    }
}

fn check_failover(path: &str, regions: &[String], found: &mut Findings) {
    if regions.len() > usize::from(Locality::MAX_FAILOVER) {
        let message = format!("{} regions are too many", regions.len());
        let remedy = format!("name the {} that matter; all others come last", Locality::MAX_FAILOVER);
        found.error(Code::InvalidValue, path.to_owned(), message, remedy);
    }
    for (index, region) in regions.iter().enumerate() {
        if region.is_empty() || regions[..index].contains(region) {
            let message = format!("`{}` is empty or stands there twice", crate::Invalid::shorten(region));
            let remedy = "name each region once, as the label `dodai.dev/region` of its bases does";
            found.error(Code::InvalidValue, format!("{path}[{index}]"), message, remedy);
        }
    }
}

fn check_sticky(path: &str, sticky: &Sticky, found: &mut Findings) {
    found.cookie_name(&format!("{path}.cookie"), &sticky.cookie);
    if sticky.ttl.is_some_and(|ttl| ttl.get().as_secs() == 0) {
        let message = "a cookie that is gone at once keeps nobody";
        found.error(
            Code::InvalidValue,
            format!("{path}.ttl"),
            message,
            "write `1s` or more, or leave it out",
        );
    }
    let plain = |c: char| c.is_ascii_graphic() && c != ';';
    if !sticky.path.starts_with('/') || !sticky.path.chars().all(plain) {
        let message = format!("`{}` is not a cookie's path", crate::Invalid::shorten(&sticky.path));
        found.error(
            Code::InvalidValue,
            format!("{path}.path"),
            message,
            "begin it with `/`, without `;` and blanks",
        );
    }
    if sticky.same_site == SameSite::None {
        let message = "browsers take such a cookie only from sites with TLS";
        let remedy = "serve the site by HTTPS; where it is, this is as it should be";
        found.warning(Code::NoEffect, format!("{path}.sameSite"), message, remedy);
    }
}

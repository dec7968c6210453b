//! Rules within a Gateway and a Service.

use super::Findings;
use crate::gateway::{
    GatewaySpec, Listener, ListenerProtocol, ProxyProtocol, ProxyProtocolMode, TlsMode, TlsVersion,
};
use crate::read::Code;
use crate::service::ServiceSpec;

pub(super) fn check(spec: &GatewaySpec, found: &mut Findings) {
    found.not_empty("spec.listeners", "listener", &spec.listeners);
    let names = spec.listeners.iter().enumerate();
    found.unique("the listener", names.map(|(i, l)| (format!("spec.listeners[{i}].name"), l.name.clone())));
    for (i, listener) in spec.listeners.iter().enumerate() {
        let path = format!("spec.listeners[{i}]");
        check_listener(&path, listener, found);
        if let Some(other) = spec.listeners[..i].iter().find(|other| clash(other, listener)) {
            let message = format!("port {} is taken by the listener `{}`", listener.port, other.name);
            found.error(Code::PortClash, format!("{path}.port"), message, CLASH_REMEDY);
        }
        for other in &spec.listeners[..i] {
            let Some(key) = differ(other, listener) else { continue };
            let message =
                format!("the listener `{}` says something else of `{key}` on the same port", other.name);
            found.error(Code::Conflict, format!("{path}.{key}"), message, DIFFER_REMEDY);
            break;
        }
    }
}

pub(super) const CLASH_REMEDY: &str = "use another port or address, or host names that tell the two apart";

fn check_listener(path: &str, listener: &Listener, found: &mut Findings) {
    if listener.address.parse::<std::net::IpAddr>().is_err() {
        let message = format!("`{}` is not an IP address", crate::Invalid::shorten(&listener.address));
        let remedy = "write for example `127.0.0.1`, `0.0.0.0` for every address, or `::`";
        found.error(Code::InvalidValue, format!("{path}.address"), message, remedy);
    }
    if let Some(host) = &listener.hostname {
        found.hostname(&format!("{path}.hostname"), host);
        if listener.protocol == ListenerProtocol::Udp {
            let message = "a UDP listener cannot tell host names apart";
            found.error(Code::Conflict, format!("{path}.hostname"), message, "leave it out");
        } else if listener.protocol == ListenerProtocol::Tcp {
            let message = "a TCP listener cannot tell host names apart";
            found.error(Code::Conflict, format!("{path}.hostname"), message, "leave it out, or use `TLS`");
        }
    }
    if let Some(proxy) = &listener.proxy_protocol {
        check_proxy(&format!("{path}.proxyProtocol"), listener, proxy, found);
    }
    let trusted_path = format!("{path}.trustedProxies");
    for (i, network) in listener.trusted_proxies.iter().enumerate() {
        super::access::check_network(&format!("{trusted_path}[{i}]"), network, found);
    }
    if !(listener.trusted_proxies.is_empty() || speaks_http(listener)) {
        let message = "`X-Forwarded-For` is of HTTP, which this protocol does not carry";
        found.error(Code::Conflict, trusted_path, message, "use `HTTP` or `HTTPS`, or `proxyProtocol`");
    }
    if listener.request_id.is_some() && !speaks_http(listener) {
        let message = "what this protocol carries has no headers";
        found.error(Code::Conflict, format!("{path}.requestId"), message, "use `HTTP` or `HTTPS`");
    }
    if let Some(age) = listener.max_connection_age {
        let path = format!("{path}.maxConnectionAge");
        if !speaks_http(listener) {
            let message = "this protocol cannot tell a client to connect anew";
            found.error(Code::Conflict, path, message, "use `HTTP` or `HTTPS`");
        } else {
            super::bounds::connection_age(path, age, found);
        }
    }
    check_tls(&format!("{path}.tls"), listener, found);
}

fn check_tls(tls_path: &str, listener: &Listener, found: &mut Findings) {
    match (listener.protocol, &listener.tls) {
        (ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::Udp, Some(_)) => {
            let message = "this protocol has no TLS";
            found.error(Code::Conflict, tls_path, message, "use `HTTPS` or `TLS`, or leave `tls` out");
        }
        (ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::Udp, None) => {}
        (ListenerProtocol::Https | ListenerProtocol::Tls, None) => {
            let remedy = "add `tls:` with `certificateFile` and `keyFile`";
            found.error(Code::MissingKey, tls_path, "this protocol needs TLS settings", remedy);
        }
        (protocol, Some(tls)) => {
            let certified = tls.certificate_file.is_some() || !tls.certificate_refs.is_empty();
            match tls.mode {
                TlsMode::Passthrough if protocol == ListenerProtocol::Https => {
                    let message = "HTTPS ends here, so TLS cannot pass through";
                    found.error(Code::Conflict, format!("{tls_path}.mode"), message, "use protocol `TLS`");
                }
                TlsMode::Passthrough if certified => {
                    let message = "a certificate has no use when TLS passes through";
                    found.error(
                        Code::Conflict,
                        tls_path,
                        message,
                        "leave the certificate out, or use `Terminate`",
                    );
                }
                TlsMode::Passthrough if tls.min_version != TlsVersion::default() => {
                    let message = "the app says which versions it speaks when TLS passes through";
                    found.error(
                        Code::Conflict,
                        format!("{tls_path}.minVersion"),
                        message,
                        "leave it out, or use `Terminate`",
                    );
                }
                TlsMode::Passthrough if tls.frontend_validation.is_some() => {
                    let message = "the app asks for certificates when TLS passes through";
                    found.error(
                        Code::Conflict,
                        format!("{tls_path}.frontendValidation"),
                        message,
                        "leave it out, or use `Terminate`",
                    );
                }
                TlsMode::Terminate if tls.certificate_file.is_some() != tls.key_file.is_some() => {
                    let message = "`certificateFile` and `keyFile` go together";
                    found.error(Code::MissingKey, tls_path, message, "add the other one");
                }
                TlsMode::Terminate if !certified => {
                    let remedy = "add `certificateFile` and `keyFile`, or `certificateRefs`";
                    found.error(Code::MissingKey, tls_path, "TLS that ends here needs a certificate", remedy);
                }
                TlsMode::Passthrough | TlsMode::Terminate => {}
            }
            if let Some(clients) = &tls.frontend_validation
                && clients.ca_certificate_file.is_none()
                && clients.ca_certificate_refs.is_empty()
            {
                let remedy = "add `caCertificateFile` or `caCertificateRefs`";
                let message = "no authority is named, so no client's certificate would count";
                found.error(Code::MissingKey, format!("{tls_path}.frontendValidation"), message, remedy);
            }
        }
    }
}

pub(super) const DIFFER_REMEDY: &str =
    "say the same on all listeners of a port: it counts before it is known which of them is meant";

/// What two listeners that share a port disagree on, and may not.
pub(super) fn differ(a: &Listener, b: &Listener) -> Option<&'static str> {
    if apart(a, b) || a.port != b.port || !overlap(&a.address, &b.address) {
        return None;
    }
    if a.proxy_protocol != b.proxy_protocol {
        return Some("proxyProtocol");
    }
    if speaks_http(a) && speaks_http(b) {
        if a.trusted_proxies != b.trusted_proxies {
            return Some("trustedProxies");
        }
        if a.request_id != b.request_id {
            return Some("requestId");
        }
        if a.max_connection_age != b.max_connection_age {
            return Some("maxConnectionAge");
        }
    }
    let asks = |one: &Listener| one.tls.as_ref().and_then(|tls| tls.frontend_validation.clone());
    let both_end = [a, b].iter().all(|one| one.tls.is_some() && !passes(one));
    (both_end && asks(a) != asks(b)).then_some("tls.frontendValidation")
}

fn speaks_http(listener: &Listener) -> bool {
    matches!(listener.protocol, ListenerProtocol::Http | ListenerProtocol::Https)
}

fn check_proxy(path: &str, listener: &Listener, proxy: &ProxyProtocol, found: &mut Findings) {
    if listener.protocol == ListenerProtocol::Udp {
        let message = "the PROXY protocol goes ahead of connections, and UDP has none";
        found.error(Code::Conflict, path, message, "leave it out");
    }
    found.not_empty(&format!("{path}.trusted"), "proxy", &proxy.trusted);
    for (i, network) in proxy.trusted.iter().enumerate() {
        super::access::check_network(&format!("{path}.trusted[{i}]"), network, found);
    }
    if proxy.mode == ProxyProtocolMode::Accept && listener.protocol == ListenerProtocol::Tcp {
        let message =
            "a TCP listener cannot wait to see whether the header comes: the server may have to speak first";
        found.error(Code::Conflict, format!("{path}.mode"), message, "use `mode: require`");
    }
}

/// Whether two listeners have nothing to do with each other: TCP and UDP have ports of their own.
fn apart(a: &Listener, b: &Listener) -> bool {
    (a.protocol == ListenerProtocol::Udp) != (b.protocol == ListenerProtocol::Udp)
}

/// Whether two listeners cannot both have their port.
pub(super) fn clash(a: &Listener, b: &Listener) -> bool {
    if apart(a, b) || a.port != b.port || !overlap(&a.address, &b.address) {
        return false;
    }
    // A port does one thing with what is in TLS that ends here; only then can names tell listeners apart.
    let together = match (a.protocol, b.protocol) {
        (ListenerProtocol::Http, other) | (other, ListenerProtocol::Http) => other == ListenerProtocol::Http,
        (ListenerProtocol::Tcp | ListenerProtocol::Udp, _)
        | (_, ListenerProtocol::Tcp | ListenerProtocol::Udp) => false,
        (a_protocol, b_protocol) => a_protocol == b_protocol || passes(a) || passes(b),
    };
    !together || same_host(a, b)
}

fn passes(listener: &Listener) -> bool {
    listener.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough)
}

fn same_host(a: &Listener, b: &Listener) -> bool {
    match (&a.hostname, &b.hostname) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Whether two addresses to listen on are one, or one of them stands for all.
fn overlap(a: &str, b: &str) -> bool {
    let every = |address: &str| matches!(address, "0.0.0.0" | "::");
    a == b || every(a) || every(b)
}

pub(super) fn check_service(spec: &ServiceSpec, found: &mut Findings) {
    let names = spec.ports.iter().enumerate();
    found.unique("the port", names.map(|(i, p)| (format!("spec.ports[{i}].name"), p.name.clone())));
    let numbers = spec.ports.iter().enumerate();
    found.unique("the port", numbers.map(|(i, p)| (format!("spec.ports[{i}].port"), p.port)));
    if let Some(balancing) = &spec.load_balancing {
        super::balancing::check("spec.loadBalancing", balancing, found);
    }
    if let Some(selector) = &spec.selector
        && selector.app.is_none()
        && selector.labels.is_empty()
    {
        let message = "an empty selector would select every app";
        found.error(
            Code::MissingKey,
            "spec.selector",
            message,
            "add `app:` or `labels:`, or leave `selector` out",
        );
    }
    if spec.selector.is_none() && spec.ports.is_empty() && spec.load_balancing.is_none() {
        let remedy = "add `selector`, `ports` or `loadBalancing`, or delete the document";
        found.warning(Code::NoEffect, "spec", "this changes nothing about the app's own service", remedy);
    }
}

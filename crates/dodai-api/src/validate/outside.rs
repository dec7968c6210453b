//! Rules for what is outside the mesh: TLS towards external apps and HTTPEndpoints, and the headers of the latter.

use super::{Findings, is_token};
use crate::dapr::{ClientTls, HttpEndpoint, TlsItem};
use crate::read::Code;
use crate::workload::ExternalTls;

/// TLS towards an external app.
pub(super) fn check_tls(path: &str, tls: &ExternalTls, found: &mut Findings) {
    if let Some(name) = &tls.server_name
        && name.parse::<std::net::IpAddr>().is_err()
    {
        let path = format!("{path}.serverName");
        if name.contains('*') {
            let message =
                format!("`{}` is no name that one certificate is asked for", crate::Invalid::shorten(name));
            found.error(Code::InvalidValue, path, message, "write one of the names it covers");
        } else {
            found.hostname(&path, name);
        }
    }
    if tls.ca.as_ref().is_some_and(|file| file.trim().is_empty()) {
        let remedy = "write the path of a PEM file, or leave `ca` out to trust what the system trusts";
        found.error(Code::InvalidValue, format!("{path}.ca"), "no file is named", remedy);
    }
    let own = [("certificateFile", &tls.certificate_file), ("keyFile", &tls.key_file)];
    for (key, file) in own {
        if file.as_ref().is_some_and(|file| file.trim().is_empty()) {
            let remedy = "write the path of a PEM file, or leave both out";
            found.error(Code::InvalidValue, format!("{path}.{key}"), "no file is named", remedy);
        }
    }
    if tls.certificate_file.is_some() != tls.key_file.is_some() {
        let message = "`certificateFile` and `keyFile` go together";
        found.error(Code::MissingKey, path, message, "add the other one");
    }
}

/// An HTTPEndpoint, beside what Dapr itself asks of it.
pub(super) fn check_endpoint(endpoint: &HttpEndpoint, found: &mut Findings) {
    let spec = &endpoint.spec;
    if endpoint.metadata.name.as_str().parse::<crate::Name>().is_err() {
        let message = "the name is no host name that an app could call";
        found.warning(Code::NoEffect, "metadata.name", message, "use small letters, digits and `-`");
    }
    let (authority, rest) = parts(&spec.base_url);
    if authority.contains('@') || authority.contains(char::is_whitespace) {
        let message = "the URL holds more than scheme, host, port and path";
        let remedy = "write credentials as a header `Authorization` with a `secretKeyRef`";
        found.error(Code::InvalidValue, "spec.baseUrl", message, remedy);
    }
    if rest.contains(['?', '#']) {
        let message = "what follows `?` or `#` is not part of the calls";
        found.warning(Code::NoEffect, "spec.baseUrl", message, "leave it out");
    }
    let mut secrets = Vec::new();
    for (i, header) in spec.headers.iter().enumerate() {
        let path = format!("spec.headers[{i}]");
        if !is_token(&header.name) {
            let message = format!("`{}` is no name of a header", crate::Invalid::shorten(&header.name));
            found.error(Code::InvalidValue, format!("{path}.name"), message, "use letters, digits and `-`");
        }
        if header.text().is_some_and(|text| !is_header_value(&text)) {
            let message = format!("the value of `{}` cannot stand in a header", header.name);
            found.error(Code::InvalidValue, format!("{path}.value"), message, "write it in one line");
        }
        secrets.extend(header.secret_key_ref.is_some().then(|| format!("{path}.secretKeyRef")));
    }
    if let Some(tls) = &spec.client_tls {
        check_client_tls(tls, spec.base_url.starts_with("http://"), &mut secrets, found);
    }
    if let Some(path) = secrets.into_iter().next().filter(|_| endpoint.auth.is_none()) {
        let message = "no secret store is named to look this up in: it is read from the base's environment";
        found.warning(Code::NoEffect, path, message, "add `auth.secretStore`");
    }
}

/// Authority, and what follows it.
fn parts(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

fn check_client_tls(tls: &ClientTls, plain: bool, secrets: &mut Vec<String>, found: &mut Findings) {
    const PATH: &str = "spec.clientTLS";
    if plain {
        let remedy = "write `https://` in `baseUrl`, or leave `clientTLS` out";
        found.warning(Code::NoEffect, PATH, "the endpoint is not called in TLS", remedy);
    }
    if tls.certificate.is_some() != tls.private_key.is_some() {
        let message = "`certificate` and `privateKey` go together";
        found.error(Code::MissingKey, PATH, message, "add the other one");
    }
    if tls.renegotiation.as_deref().is_some_and(|how| how != "RenegotiateNever") {
        let message = "TLS 1.3 has no renegotiation, and none is done in TLS 1.2";
        found.warning(Code::NoEffect, format!("{PATH}.renegotiation"), message, "leave it out");
    }
    let items =
        [("rootCA", &tls.root_ca), ("certificate", &tls.certificate), ("privateKey", &tls.private_key)];
    for (key, item) in items {
        let Some(TlsItem { value, secret_key_ref }) = item else { continue };
        let path = format!("{PATH}.{key}");
        match (value, secret_key_ref) {
            (Some(_), Some(_)) => {
                let message = format!("`{key}` has more than one source");
                found.error(Code::Conflict, path, message, "keep one of `value` and `secretKeyRef`");
            }
            (Some(value), None) if !value.as_str().is_some_and(|text| text.contains("-----BEGIN ")) => {
                let message = format!("`{key}` is no PEM text");
                let remedy = "write the text itself, from `-----BEGIN` on, or a `secretKeyRef`";
                found.error(Code::InvalidValue, format!("{path}.value"), message, remedy);
            }
            (Some(_), None) => {}
            (None, Some(_)) => secrets.push(format!("{path}.secretKeyRef")),
            (None, None) => {
                let message = format!("`{key}` has neither `value` nor `secretKeyRef`");
                found.error(Code::MissingKey, path, message, "add one of the two, or leave it out");
            }
        }
    }
}

/// What HTTP allows in a value (RFC 9110, 5.5).
fn is_header_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 127))
}

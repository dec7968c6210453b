//! What went wrong in a handshake, in words an operator can act on.

use std::io;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

/// The peer's certificate leads up to no root of ours.
pub const UNTRUSTED: &str = "the peer's certificate is not signed by a root that is trusted here";
/// Ours leads up to no root of the peer's.
pub const STRANGER: &str = "the peer does not trust the root that signed our certificate";
/// The peer says that ours is revoked.
pub const REVOKED: &str = "our certificate is revoked";

/// The peer's certificate may sign others and is not one that was given for it.
const AUTHORITY: &str = "the peer shows the certificate of an authority (CA:TRUE, as `openssl req -x509` makes it): trust \
    exactly that one for it, or give it one that an authority has signed";

/// Why a handshake failed, by kind: a closed set, for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was not finished in time.
    TimedOut,
    /// The connection ended.
    Gone,
    /// The other side does not speak TLS.
    NotTls,
    /// A certificate was asked for, and none came.
    NoCertificate,
    /// A certificate of a root that is not trusted here.
    UnknownIssuer,
    /// A certificate that is valid no more, or not yet.
    Expired,
    /// A certificate for somebody else, or one that proves nothing.
    BadCertificate,
    /// No version, cipher or application protocol in common.
    NothingInCommon,
    /// The other side refused, with an alert.
    Alert,
    /// The client wants a name that is not served here.
    Name,
    /// Anything else.
    Other,
}

impl Why {
    /// Every kind.
    pub const ALL: [Why; 11] = [
        Why::TimedOut,
        Why::Gone,
        Why::NotTls,
        Why::NoCertificate,
        Why::UnknownIssuer,
        Why::Expired,
        Why::BadCertificate,
        Why::NothingInCommon,
        Why::Alert,
        Why::Name,
        Why::Other,
    ];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::TimedOut => "timeout",
            Why::Gone => "gone",
            Why::NotTls => "not_tls",
            Why::NoCertificate => "no_certificate",
            Why::UnknownIssuer => "unknown_issuer",
            Why::Expired => "expired",
            Why::BadCertificate => "bad_certificate",
            Why::NothingInCommon => "nothing_in_common",
            Why::Alert => "alert",
            Why::Name => "name",
            Why::Other => "other",
        }
    }
}

/// The kind of an error.
pub(crate) fn why(error: &Error) -> Why {
    #[expect(clippy::wildcard_enum_match_arm, reason = "foreign enums, most of which are seldom met")]
    match error {
        Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer => Why::UnknownIssuer,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Why::Expired,
            _ => Why::BadCertificate,
        },
        Error::InvalidMessage(_) => Why::NotTls,
        Error::NoCertificatesPresented => Why::NoCertificate,
        Error::NoApplicationProtocol | Error::PeerIncompatible(_) => Why::NothingInCommon,
        Error::AlertReceived(_) => Why::Alert,
        _ => Why::Other,
    }
}

/// The reason of a failed handshake, or of a failed read or write on a TLS stream.
pub fn reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the peer closed the connection; is it a TLS port?".to_owned()
        }
        None => error.to_string(),
    }
}

pub(crate) fn of(error: &Error) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "foreign enums, most of which speak for themselves")]
    match error {
        Error::InvalidCertificate(problem) => certificate(problem),
        Error::InvalidMessage(_) => "the peer does not speak TLS; is it a plain-text port?".to_owned(),
        Error::NoCertificatesPresented => {
            "the peer presented no certificate, which this port requires".to_owned()
        }
        Error::NoApplicationProtocol => "no application protocol in common (ALPN)".to_owned(),
        Error::AlertReceived(alert) => refused(*alert),
        other => other.to_string(),
    }
}

fn certificate(problem: &CertificateError) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "foreign enum, most of which speaks for itself")]
    match problem {
        CertificateError::Other(inner) => match inner.0.downcast_ref::<webpki::Error>() {
            Some(webpki::Error::CaUsedAsEndEntity) => AUTHORITY.to_owned(),
            _ => inner.0.to_string(),
        },
        CertificateError::Revoked => "the peer's certificate is revoked".to_owned(),
        CertificateError::UnknownIssuer => UNTRUSTED.to_owned(),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the peer's certificate expired {:?} ago; renew it, or set the clocks right",
            apart(*time, *not_after)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the peer's certificate is valid only in {:?}; set the clocks right",
            apart(*not_before, *time)
        ),
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the peer's certificate is not for {} but for {}",
            expected.to_str(),
            presented.join(", ")
        ),
        other => format!("the peer's certificate is not acceptable: {other}"),
    }
}

fn apart(later: UnixTime, earlier: UnixTime) -> Duration {
    Duration::from_secs(later.as_secs().saturating_sub(earlier.as_secs()))
}

fn refused(alert: AlertDescription) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "foreign enum; the rest speaks for itself")]
    match alert {
        AlertDescription::UnknownCA => STRANGER.to_owned(),
        AlertDescription::CertificateExpired => {
            "the peer says that our certificate has expired; compare the clocks".to_owned()
        }
        AlertDescription::CertificateRevoked => REVOKED.to_owned(),
        AlertDescription::CertificateRequired => "the peer requires a certificate of us".to_owned(),
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => "the peer refused our certificate".to_owned(),
        AlertDescription::NoApplicationProtocol => "no application protocol in common (ALPN)".to_owned(),
        AlertDescription::ProtocolVersion => "no TLS version in common".to_owned(),
        AlertDescription::UnrecognisedName => "the peer has no certificate for that name".to_owned(),
        other => format!("the peer refused with alert {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_a_kind_and_kinds_have_names_of_their_own() {
        for (error, expect) in [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), Why::UnknownIssuer),
            (Error::InvalidCertificate(CertificateError::Expired), Why::Expired),
            (Error::InvalidCertificate(CertificateError::BadSignature), Why::BadCertificate),
            (Error::NoCertificatesPresented, Why::NoCertificate),
            (Error::NoApplicationProtocol, Why::NothingInCommon),
            (Error::AlertReceived(AlertDescription::UnknownCA), Why::Alert),
            (Error::EncryptError, Why::Other),
        ] {
            assert_eq!(why(&error), expect, "{error}");
        }
        let names: std::collections::BTreeSet<&str> = Why::ALL.iter().map(|why| why.as_str()).collect();
        assert_eq!(names.len(), Why::ALL.len());
        assert!(
            Why::ALL.iter().enumerate().all(|(at, why)| *why as usize == at),
            "counters are indexed by it"
        );
    }
}

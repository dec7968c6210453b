//! Request metadata: the string map that travels beside a request, and the names in it that drivers read.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::fault::{Fault, Kind};

/// String pairs beside a request or an answer.
pub type Metadata = BTreeMap<String, String>;

/// Seconds that a value or message lives; `-1` clears an earlier limit.
pub const TTL_IN_SECONDS: &str = "ttlInSeconds";
/// When a value will expire (RFC 3339), in answers.
pub const TTL_EXPIRE_TIME: &str = "ttlExpireTime";
/// Whether a message travels without an event envelope.
pub const RAW_PAYLOAD: &str = "rawPayload";
/// The media type of a value.
pub const CONTENT_TYPE: &str = "contentType";

/// How long a value lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// Nothing was said: the store's default, which for our drivers is for ever.
    #[default]
    Unset,
    /// For ever; an earlier limit is cleared.
    Never,
    /// This long from now.
    After(Duration),
}

impl Ttl {
    /// The limit, if there is one.
    pub fn limit(self) -> Option<Duration> {
        match self {
            Ttl::Unset | Ttl::Never => None,
            Ttl::After(limit) => Some(limit),
        }
    }

    /// Reads `ttlInSeconds`. Zero means unset, `-1` never.
    ///
    /// # Errors
    /// The value is no whole number, is below -1, or is beyond `i32::MAX` seconds (68 years).
    pub fn from_metadata(metadata: &Metadata) -> Result<Ttl, Fault> {
        let Some(text) = lookup(metadata, TTL_IN_SECONDS).filter(|text| !text.is_empty()) else {
            return Ok(Ttl::Unset);
        };
        let wrong = || {
            Fault::new(
                Kind::Invalid,
                format!(
                    "ttlInSeconds is `{text}`; give whole seconds (1 to {}), or -1 for no limit",
                    i32::MAX
                ),
            )
        };
        match text.trim().parse::<i32>().map_err(|_| wrong())? {
            -1 => Ok(Ttl::Never),
            0 => Ok(Ttl::Unset),
            seconds => u64::try_from(seconds).map(Duration::from_secs).map(Ttl::After).map_err(|_| wrong()),
        }
    }
}

/// A value by name: exactly as written first, then without regard to case.
pub fn lookup<'a>(metadata: &'a Metadata, name: &str) -> Option<&'a str> {
    if let Some(value) = metadata.get(name) {
        return Some(value);
    }
    metadata.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Whether a truth value is set: `true`, `1`, `t`, `y`, `yes`, `on` in any case.
pub fn is_true(text: &str) -> bool {
    ["true", "1", "t", "y", "yes", "on"].iter().any(|word| text.trim().eq_ignore_ascii_case(word))
}

/// A point in time as metadata carries it: RFC 3339 in UTC, whole seconds.
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(_) => 0,
    };
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ttls() {
        let ttl = |text: &str| Ttl::from_metadata(&Metadata::from([("ttlInSeconds".into(), text.into())]));
        assert_eq!(Ttl::from_metadata(&Metadata::new()).unwrap(), Ttl::Unset);
        assert_eq!(ttl("").unwrap(), Ttl::Unset);
        assert_eq!(ttl("0").unwrap(), Ttl::Unset);
        assert_eq!(ttl("-1").unwrap(), Ttl::Never);
        assert_eq!(ttl("90").unwrap(), Ttl::After(Duration::from_secs(90)));
        for bad in ["-2", "1.5", "soon", "2147483648"] {
            let fault = ttl(bad).expect_err("refused");
            assert_eq!(fault.kind(), Kind::Invalid);
            assert!(fault.to_string().contains(bad), "{fault}");
        }
    }

    #[test]
    fn names_match_without_regard_to_case() {
        let metadata = Metadata::from([("TTLINSECONDS".into(), "5".into())]);
        assert_eq!(Ttl::from_metadata(&metadata).unwrap(), Ttl::After(Duration::from_secs(5)));
    }

    #[test]
    fn writes_times() {
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)), "1970-01-02T00:00:00Z");
    }
}

//! Properties that all Redis components share, under the names that Dapr's components give them.

use std::time::Duration;

use dodai_capability::component::{Error, Reader};
use redis::{ProtocolVersion, RedisConnectionInfo};

use crate::server::{Place, Security};

/// Names that Dapr's components know and that say nothing here: one connection carries all commands, so there is no
/// pool to size and no idle connection to check.
const WITHOUT_EFFECT: [&str; 7] = [
    "poolSize",
    "poolTimeout",
    "minIdleConns",
    "maxConnAge",
    "idleCheckFrequency",
    "idleTimeout",
    "writeTimeout",
];

/// Where the Redis is and how to use it.
#[derive(Clone)]
pub struct Settings {
    /// Where it is.
    pub place: Place,
    /// Database, user and password.
    pub login: RedisConnectionInfo,
    /// The number of the database.
    pub database: u16,
    /// With TLS, if so.
    pub security: Option<Security>,
    /// How long a connection may take, greeting included.
    pub dial_timeout: Duration,
    /// How long an answer may take.
    pub answer_timeout: Duration,
    /// Tries after the first, of what was not sent or is harmless to repeat.
    pub retries: u32,
    /// The first pause between tries.
    pub first_pause: Duration,
    /// The longest pause between tries.
    pub longest_pause: Duration,
}

impl Settings {
    /// Reads `redisHost`, `redisPort`, `redisUsername`, `redisPassword`, `redisDB`, `enableTLS` and the rest.
    ///
    /// # Errors
    /// The host is missing, a value cannot be read, or it asks for a cluster, a Sentinel or TLS without checks.
    pub fn read(read: &mut Reader<'_>) -> Result<Settings, Error> {
        read.required(&["redisHost"])?;
        let port = read.typed(&["redisPort"], 6379, "a port", |text| text.parse().ok())?;
        let wanted = "the `HOST:PORT` of one Redis; clusters and Sentinels are not offered yet";
        let place = read.typed(&["redisHost"], None, wanted, |text| Place::parse(text, port).map(Some))?;
        let Some(place) = place else { return Err(read.missing("redisHost")) };
        let node = "`node`; clusters are not offered yet";
        read.typed(&["redisType"], (), node, |text| text.eq_ignore_ascii_case("node").then_some(()))?;
        let single = "false; Sentinels are not offered yet, name the Redis itself";
        read.typed(&["failover"], (), single, no)?;
        let checked = "false; a certificate is always checked: give the one to trust in `caCert`";
        read.typed(&["insecureSkipTLSVerify"], (), checked, no)?;
        let database =
            read.typed(&["redisDB"], 0_u16, "the number of a database", |text| text.parse().ok())?;
        let mut login = RedisConnectionInfo::default()
            .set_db(i64::from(database))
            .set_protocol(ProtocolVersion::RESP2)
            .set_lib_name("dodai", env!("CARGO_PKG_VERSION"));
        if let Some(username) = read.text(&["redisUsername"]) {
            login = login.set_username(username);
        }
        if let Some(password) = read.text(&["redisPassword"]) {
            login = login.set_password(password);
        }
        let tls = read.truth(&["enableTLS"], false)?;
        let security = Security::read(read)?;
        for name in WITHOUT_EFFECT {
            read.text(&[name]);
        }
        Ok(Settings {
            place,
            login,
            database,
            security: tls.then_some(security),
            dial_timeout: milliseconds(read, "dialTimeout", Duration::from_secs(5))?,
            answer_timeout: milliseconds(read, "readTimeout", Duration::from_secs(3))?,
            retries: read.typed(&["redisMaxRetries"], 3, "a whole number, -1 for none", |text| {
                if text == "-1" { Some(0) } else { text.parse().ok().filter(|tries| *tries <= 100) }
            })?,
            first_pause: milliseconds(read, "redisMinRetryInterval", Duration::from_millis(8))?,
            longest_pause: milliseconds(read, "redisMaxRetryInterval", Duration::from_millis(512))?,
        })
    }
}

fn no(text: &str) -> Option<()> {
    ["false", "0", "f", "n", "no", "off"].iter().any(|word| text.eq_ignore_ascii_case(word)).then_some(())
}

/// A duration that is not nothing; -1 stands for the default, too: no wait is unbounded.
fn milliseconds(read: &mut Reader<'_>, name: &'static str, default: Duration) -> Result<Duration, Error> {
    let minus = read.text(&[name]).is_some_and(|text| text.trim() == "-1");
    let given = if minus { None } else { duration(read, name)? };
    Ok(given.filter(|duration| !duration.is_zero()).unwrap_or(default))
}

/// A duration, if it is given; a bare number is milliseconds, as Dapr's Redis components read all of theirs.
///
/// # Errors
/// It cannot be read.
pub fn duration(read: &mut Reader<'_>, name: &'static str) -> Result<Option<Duration>, Error> {
    let wanted = "a duration such as 500ms or 3s, or a number of milliseconds";
    let bare = read.typed(&[name], Some(None), wanted, |text| match text.parse::<i64>() {
        Ok(count) => u64::try_from(count).ok().map(|count| Some(Some(Duration::from_millis(count)))),
        Err(_) => Some(None),
    })?;
    match bare {
        Some(given) => Ok(given),
        None => read.duration(&[name], Duration::ZERO).map(Some),
    }
}

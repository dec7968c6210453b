//! What is asked of limits that several bases keep together, told from one to the other through a Redis.
//!
//! Each limit is a hash there: a base writes what is asked of it with the time, by the clock of the Redis, and hears what
//! is asked of all that were heard of lately. One round is one exchange, whatever the number of limits.

use redis::aio::MultiplexedConnection;
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo, RedisError,
};

/// How long a base counts after it was last heard of, in seconds.
pub const LEASE_SECONDS: u64 = 5;
/// Where limits are, before their names.
const PREFIX: &str = "dodai:rate:";

/// Writes what is asked of one base; answers how many bases there are and what is asked of all of them.
const TELL: &str = "\
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. now)
redis.call('EXPIRE', KEYS[1], 60)
local count, total = 0, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local asked, seen = string.match(all[i + 1], '^(%d+) (%d+)$')
  if seen and now - tonumber(seen) <= tonumber(ARGV[3]) then
    count = count + 1
    total = total + tonumber(asked)
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return {count, total}";

/// What is asked of all bases that keep a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// How many bases keep it.
    pub bases: u64,
    /// Calls per second, all bases together.
    pub total: u64,
}

/// Why bases could not be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Redis cannot be reached or refuses.
    #[error("the Redis at {address}: {source}")]
    Redis {
        /// Where it is.
        address: String,
        /// What went wrong.
        source: RedisError,
    },
}

/// A Redis by which bases share limits.
pub struct Rates {
    address: String,
    client: Client,
    connection: Option<MultiplexedConnection>,
}

impl Rates {
    /// The Redis at `address`, `host:port`. Nothing is connected yet.
    ///
    /// # Errors
    /// The address cannot be read.
    pub fn new(
        address: &str,
        database: u16,
        username: Option<&str>,
        password: Option<&str>,
    ) -> Result<Rates, Error> {
        let failed = |source| Error::Redis { address: address.to_owned(), source };
        let info = connection_info(address, database, username, password).map_err(failed)?;
        let client = Client::open(info).map_err(failed)?;
        Ok(Rates { address: address.to_owned(), client, connection: None })
    }

    /// Tells what is asked of `member`, by limit in calls per second, and hears what is asked of all, in the same order.
    /// A member is one base of all that share by this Redis: two of one name would count as one.
    /// Cancel safe: what was told counts, and the next round connects anew.
    ///
    /// # Errors
    /// The Redis cannot be reached or refuses; the next round tries again.
    pub async fn tell(&mut self, member: &str, asked: &[(&str, u64)]) -> Result<Vec<Asked>, Error> {
        // Taken for the round: one that was given up on in the middle of it is not used again.
        let connection = self.connection.take();
        let failed = |source| Error::Redis { address: self.address.clone(), source };
        let mut connection = match connection {
            Some(connection) => connection,
            None => self.client.get_multiplexed_async_connection().await.map_err(failed)?,
        };
        let mut pipe = redis::pipe();
        for (limit, rate) in asked {
            let key = format!("{PREFIX}{limit}");
            pipe.cmd("EVAL").arg(TELL).arg(1).arg(key).arg(member).arg(*rate).arg(LEASE_SECONDS);
        }
        let all: Vec<(u64, u64)> = pipe.query_async(&mut connection).await.map_err(failed)?;
        self.connection = Some(connection);
        Ok(all.into_iter().map(|(bases, total)| Asked { bases, total }).collect())
    }
}

fn connection_info(
    address: &str,
    database: u16,
    username: Option<&str>,
    password: Option<&str>,
) -> Result<ConnectionInfo, RedisError> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "6379"));
    let bad = |_| RedisError::from((redis::ErrorKind::InvalidClientConfig, "the port is no number"));
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let at = ConnectionAddr::Tcp(host, port.parse().map_err(bad)?);
    let mut settings = RedisConnectionInfo::default().set_db(i64::from(database));
    if let Some(username) = username {
        settings = settings.set_username(username);
    }
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    Ok(at.into_connection_info()?.set_redis_settings(settings))
}

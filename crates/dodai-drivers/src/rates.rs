//! What is asked of limits that several bases keep together, told from one to the other through a Redis.
//!
//! Each limit is a hash there: a base writes what is asked of it with the time, by the clock of the Redis, and hears what
//! is asked of all that were heard of lately. One round is one exchange, whatever the number of limits. Whoever calls opens
//! the bytes to the Redis, so that there is one way to dial and one TLS, and none of it here.

use std::pin::Pin;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};
use tokio::io::{AsyncRead, AsyncWrite};

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
    /// There is no connection to it.
    #[error("{0}")]
    Away(String),
    /// It refuses, or the connection broke.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// It closed the connection.
    #[error("it closed the connection")]
    Closed,
}

/// A Redis by which bases share limits.
pub struct Rates {
    settings: RedisConnectionInfo,
    connection: Option<Connection>,
}

/// A connection and the work that it is, which goes on only during rounds.
struct Connection {
    redis: MultiplexedConnection,
    work: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Rates {
    /// Of this database. Nothing is connected yet.
    pub fn new(database: u16, username: Option<&str>, password: Option<&str>) -> Rates {
        let mut settings = RedisConnectionInfo::default().set_db(i64::from(database));
        if let Some(username) = username {
            settings = settings.set_username(username);
        }
        if let Some(password) = password {
            settings = settings.set_password(password);
        }
        Rates { settings, connection: None }
    }

    /// Tells what is asked of `member`, by limit in calls per second, and hears what is asked of all, in the same order.
    /// A member is one base of all that share by this Redis: two of one name would count as one.
    /// `open` makes a connection, if one is needed. Cancel safe: what was told counts, and the next round connects anew.
    ///
    /// # Errors
    /// The Redis cannot be reached or refuses; the next round tries again.
    pub async fn tell<S>(
        &mut self,
        member: &str,
        asked: &[(&str, u64)],
        open: impl Future<Output = Result<S, String>>,
    ) -> Result<Vec<Asked>, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // Taken for the round: one that was given up on in the middle of it is not used again.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let (socket, config) = (open.await.map_err(Error::Away)?, AsyncConnectionConfig::new());
                let greeted = MultiplexedConnection::new_with_config(&self.settings, socket, config).await;
                let (redis, work) = greeted?;
                Connection { redis, work: Box::pin(work) }
            }
        };
        let mut pipe = redis::pipe();
        for (limit, rate) in asked {
            let key = format!("{PREFIX}{limit}");
            pipe.cmd("EVAL").arg(TELL).arg(1).arg(key).arg(member).arg(*rate).arg(LEASE_SECONDS);
        }
        let all: Vec<(u64, u64)> = tokio::select! {
            // Both are polled on; what ends first ends the round.
            all = pipe.query_async(&mut connection.redis) => all?,
            () = &mut connection.work => return Err(Error::Closed),
        };
        self.connection = Some(connection);
        Ok(all.into_iter().map(|(bases, total)| Asked { bases, total }).collect())
    }
}

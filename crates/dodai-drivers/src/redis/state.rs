//! `state.redis`: each value a hash with the fields `data` and `version`, as Dapr's component writes it; a value of
//! `first-write` makes Dapr refuse writes without an etag, and ours leave it be.
//!
//! Writes are one script, so a transaction is all or nothing and checks see what its own steps have done. The first
//! version of a key is the time in microseconds: an etag does not come again after a deletion, and Dapr counts on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dodai_capability::component::{Context, Error as Refusal, Lifecycle, Reader};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::metadata::Ttl;
use dodai_capability::state::{
    Concurrency, Consistency, Delete, Error, Etag, Features, Get, Item, List, Operation, Page, Set, Store,
    wanted,
};
use dodai_capability::{Answer, Metadata};
use redis::{FromRedisValue, Pipeline, Value};
use tokio::sync::Mutex;

use super::link::{Again, Each, Link};

/// What it can do.
pub(super) const FEATURES: Features = Features {
    etag: true,
    first_write: true,
    transaction: true,
    ttl: true,
    list: true,
    content_type: false,
    durable: true,
    max_operations: None,
};

/// Commands that travel together at most.
const BATCH: usize = 500;
/// Keys that a scan looks at in one go.
const SCAN: usize = 1_000;
/// How long replicas may take for a write of strong consistency, as with Dapr.
const REPLICAS_WITHIN: Duration = Duration::from_secs(1);

/// Checks all steps, then does them. For each key five arguments: what (`set`, `del`), the etag or nothing, whether
/// without one it must not exist, milliseconds to live or nothing, the bytes. Answers 0, or which step may not be. What
/// writes memory comes first: a server without memory lets a script go on that has changed something.
const APPLY: &str = "\
local now, versions, known, writes = false, {}, {}, {}
for at, key in ipairs(KEYS) do
  local base = (at - 1) * 5
  local what, etag, first = ARGV[base + 1], ARGV[base + 2], ARGV[base + 3]
  if not known[key] then
    known[key] = true
    local kind = redis.call('TYPE', key).ok
    if kind == 'hash' then versions[key] = redis.call('HGET', key, 'version') or ''
    elseif kind ~= 'none' then versions[key] = '' end
  end
  local version = versions[key]
  if etag ~= '' then
    if version ~= etag then return at end
  elseif version and first == '1' then
    return at
  end
  if what == 'del' then
    versions[key] = nil
    writes[at] = false
  else
    local number = version and tonumber(version)
    if number then
      writes[at] = string.format('%.0f', number + 1)
    else
      if not now then
        local time = redis.call('TIME')
        now = tonumber(time[1]) * 1000000 + tonumber(time[2])
      else
        now = now + 1
      end
      writes[at] = string.format('%.0f', now)
    end
    versions[key] = writes[at]
  end
end
for at, key in ipairs(KEYS) do
  local base = (at - 1) * 5
  if not writes[at] then
    redis.call('DEL', key)
  else
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', key) end
    redis.call('HSET', key, 'data', ARGV[base + 5], 'version', writes[at])
    if ARGV[base + 3] == '1' then redis.call('HSET', key, 'first-write', 0) end
    if ARGV[base + 4] == '' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, ARGV[base + 4]) end
  end
end
return 0";

/// What a user may set.
pub struct Options {
    ttl: Option<Duration>,
}

impl Options {
    /// Reads `ttlInSeconds`: how long values live that were written without a limit.
    ///
    /// # Errors
    /// It is no whole number.
    pub fn read(read: &mut Reader<'_>) -> Result<Options, Refusal> {
        let ttl = read.typed(&["ttlInSeconds"], None, "a number of seconds, -1 for no limit", |text| {
            let seconds: i64 = text.parse().ok().filter(|seconds| *seconds <= i64::from(i32::MAX))?;
            Some(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs))
        })?;
        // For searches in values, which is not offered.
        read.text(&["queryIndexes"]);
        Ok(Options { ttl })
    }
}

/// A state store in a Redis.
pub struct Redis {
    link: Arc<Link>,
    /// Carries writes that wait for replicas, one exchange at a time: the server answers nothing else on a connection
    /// meanwhile, and counts the replicas that have what came over the same one.
    strong: Link,
    turn: Mutex<()>,
    ttl: Option<Duration>,
    replicas: u64,
    clock: dodai_capability::clock::Clock,
}

type Found = ((Option<Bytes>, Option<String>), i64);

/// One step as the script takes it.
struct Step<'a> {
    key: &'a str,
    etag: Option<&'a Etag>,
    first: bool,
    /// `None` deletes.
    value: Option<(&'a Bytes, Option<u64>)>,
}

impl Redis {
    /// Over this connection; asks it how many replicas it has.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn open(link: Arc<Link>, options: &Options, context: &Context) -> Result<Redis, Fault> {
        let info = link.greet().await?;
        let replicas =
            info.lines().find_map(|line| line.strip_prefix("connected_slaves:")?.trim().parse().ok());
        let (ttl, clock) = (options.ttl, context.clock.clone());
        let (strong, turn) = (link.beside(), Mutex::default());
        Ok(Redis { link, strong, turn, ttl, replicas: replicas.unwrap_or(0), clock })
    }

    fn step<'a>(&self, operation: &'a Operation) -> Result<Step<'a>, Error> {
        let (key, etag, concurrency, value) = match operation {
            Operation::Upsert(set) => {
                let limit = match set.ttl {
                    Ttl::Unset => self.ttl,
                    Ttl::Never => None,
                    Ttl::After(limit) => Some(limit),
                };
                let limit = limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1));
                (&set.key, &set.etag, set.concurrency, Some((&set.value, limit)))
            }
            Operation::Delete(delete) => (&delete.key, &delete.etag, delete.concurrency, None),
        };
        let etag = wanted(etag);
        if let Some(etag) = etag.filter(|etag| etag.as_str().parse::<i64>().is_err()) {
            return Err(Error::EtagMalformed { key: key.clone(), etag: etag.to_string() });
        }
        Ok(Step { key, etag, first: concurrency == Concurrency::FirstWrite, value })
    }

    fn write(&self, operations: &[Operation]) -> Result<Pipeline, Error> {
        let steps: Vec<Step<'_>> =
            operations.iter().map(|operation| self.step(operation)).collect::<Result<_, _>>()?;
        let mut pipe = redis::pipe();
        let eval = pipe.cmd("EVAL").arg(APPLY).arg(steps.len());
        steps.iter().for_each(|step| {
            eval.arg(step.key);
        });
        for step in &steps {
            let (what, limit, bytes): (&str, String, &[u8]) = match step.value {
                None => ("del", String::new(), &[]),
                Some((bytes, limit)) => {
                    ("set", limit.map_or_else(String::new, |limit| limit.to_string()), bytes)
                }
            };
            let etag = step.etag.map_or("", Etag::as_str);
            eval.arg(what).arg(etag).arg(u8::from(step.first)).arg(limit).arg(bytes);
        }
        Ok(pipe)
    }

    /// Sends writes, and what became of each. If `strong`, those that were done have failed where replicas lack them.
    async fn send(
        &self,
        mut pipe: Pipeline,
        strong: bool,
        what: &(dyn Fn() -> String + Sync),
    ) -> Result<Vec<Each>, Fault> {
        if !strong || self.replicas == 0 {
            return self.link.ask_each(what, &mut pipe).await;
        }
        let patience = self.link.settings().answer_timeout;
        let Ok(turn) = tokio::time::timeout(patience, self.turn.lock()).await else {
            let what = format!(
                "{} was not sent: for {patience:?} component `{}` has waited for replicas on behalf of other writes",
                what(),
                self.link.component()
            );
            return Err(Fault::new(Kind::Busy, what));
        };
        // The answer must come before the connection is given up for want of one.
        let within = REPLICAS_WITHIN.min(patience / 2);
        pipe.cmd("WAIT").arg(self.replicas).arg(within.as_millis().max(1).to_string());
        let mut answers = self.strong.ask_each(what, &mut pipe).await?;
        drop(turn);
        let have: Result<u64, Fault> = match answers.pop() {
            Some(answer) => answer.and_then(|have| self.read_as(have, what)),
            None => Ok(0),
        };
        let lacking = match have {
            Ok(have) if have >= self.replicas => return Ok(answers),
            Ok(have) => {
                let (all, component) = (self.replicas, self.link.component());
                format!(
                    "written, but only {have} of {all} replicas of component `{component}` had it within {within:?}"
                )
            }
            Err(fault) => format!("written, but whether replicas have it is not known: {fault}"),
        };
        let told = |done: Value| {
            // Nothing was written.
            let refused = matches!(done, Value::Int(refused) if refused != 0);
            if refused { Ok(done) } else { Err(Fault::new(Kind::Timeout, lacking.clone())) }
        };
        Ok(answers.into_iter().map(|answer| answer.and_then(told)).collect())
    }

    fn read_as<T: FromRedisValue>(
        &self,
        value: Value,
        what: &(dyn Fn() -> String + Sync),
    ) -> Result<T, Fault> {
        redis::from_redis_value(value).map_err(|error| {
            let (what, component) = (what(), self.link.component());
            Fault::new(Kind::Corrupt, format!("{what} failed: component `{component}`: {error}"))
        })
    }

    async fn apply(
        &self,
        operations: Vec<Operation>,
        what: &(dyn Fn() -> String + Sync),
    ) -> Result<(), Error> {
        if operations.is_empty() {
            return Ok(());
        }
        let pipe = self.write(&operations)?;
        let refused: usize = if self.replicas > 0 && operations.iter().any(is_strong) {
            let answer = self.send(pipe, true, what).await?.pop();
            self.read_as(answer.unwrap_or(Ok(Value::Nil))?, what)?
        } else {
            let (refused,) = self.link.ask(what, &pipe, Again::Unsent).await?;
            refused
        };
        outcome(&operations, refused)
    }

    /// Writes each on its own, many in one exchange.
    async fn apply_each(&self, operations: Vec<Operation>) -> Vec<Result<(), Error>> {
        let mut outcomes = Vec::with_capacity(operations.len());
        for chunk in operations.chunks(BATCH) {
            let mut all = redis::pipe();
            let known: Vec<Result<(), Error>> = chunk
                .iter()
                .map(|operation| {
                    let one = self.write(std::slice::from_ref(operation))?;
                    one.cmd_iter().for_each(|command| {
                        all.add_command(command.clone());
                    });
                    Ok(())
                })
                .collect();
            if all.is_empty() {
                outcomes.extend(known);
                continue;
            }
            let what = || format!("a write of {} keys", chunk.len());
            let strong = chunk.iter().any(is_strong);
            let mut answers = self.send(all, strong, &what).await.map(Vec::into_iter);
            for (operation, one) in chunk.iter().zip(known) {
                outcomes.push(one.and_then(|()| {
                    let refused = match &mut answers {
                        Ok(answers) => answers.next().unwrap_or(Ok(Value::Nil))?,
                        Err(fault) => return Err(Fault::new(fault.kind(), fault.to_string()).into()),
                    };
                    outcome(std::slice::from_ref(operation), self.read_as(refused, &what)?)
                }));
            }
        }
        outcomes
    }

    fn item(&self, ((data, version), left): Found) -> Option<Item> {
        let left = u64::try_from(left).ok().map(Duration::from_millis);
        Some(Item {
            value: data?,
            etag: version.map(Etag::from),
            content_type: None,
            expires: left.map(|left| self.clock.now() + left),
        })
    }

    async fn read(&self, key: &str) -> Result<Option<Item>, Error> {
        let mut pipe = redis::pipe();
        ask_for(&mut pipe, key);
        let what = || format!("reading key `{key}`");
        match self.link.ask::<Found>(&what, &pipe, Again::Harmless).await {
            Ok(found) => Ok(self.item(found)),
            // What was written before there were hashes, or by somebody else, is a plain value.
            Err(fault) if fault.to_string().contains("WRONGTYPE") => {
                let mut pipe = redis::pipe();
                pipe.cmd("GET").arg(key);
                pipe.cmd("PTTL").arg(key);
                let (data, left): (Option<Bytes>, i64) = self.link.ask(&what, &pipe, Again::Harmless).await?;
                Ok(self.item(((data, None), left)))
            }
            Err(fault) => Err(fault.into()),
        }
    }
}

fn is_strong(operation: &Operation) -> bool {
    let (Operation::Upsert(Set { consistency, .. }) | Operation::Delete(Delete { consistency, .. })) =
        operation;
    *consistency == Consistency::Strong
}

fn ask_for(pipe: &mut Pipeline, key: &str) {
    pipe.cmd("HMGET").arg(key).arg("data").arg("version");
    pipe.cmd("PTTL").arg(key);
}

/// What the script answered, of these operations.
fn outcome(operations: &[Operation], refused: usize) -> Result<(), Error> {
    match refused.checked_sub(1).and_then(|at| operations.get(at)) {
        None => Ok(()),
        Some(Operation::Upsert(Set { key, .. }) | Operation::Delete(Delete { key, .. })) => {
            Err(Error::EtagMismatch { key: key.clone() })
        }
    }
}

impl Store for Redis {
    fn features(&self) -> Features {
        FEATURES
    }

    fn get<'a>(&'a self, request: &'a Get) -> Answer<'a, Result<Option<Item>, Error>> {
        Answer::later(self.read(&request.key))
    }

    fn get_many<'a>(&'a self, requests: &'a [Get], _: usize) -> Answer<'a, Vec<Result<Option<Item>, Error>>> {
        Answer::later(async move {
            let mut answers = Vec::with_capacity(requests.len());
            for chunk in requests.chunks(BATCH) {
                let mut pipe = redis::pipe();
                chunk.iter().for_each(|request| ask_for(&mut pipe, &request.key));
                let what = || format!("reading {} keys", chunk.len());
                let found = match self.link.ask_each(&what, &mut pipe).await {
                    Ok(found) => found,
                    Err(fault) => {
                        let same = || Err(Fault::new(fault.kind(), fault.to_string()).into());
                        answers.extend(chunk.iter().map(|_| same()));
                        continue;
                    }
                };
                let mut found = found.into_iter();
                for request in chunk {
                    let one: Option<Found> = match (found.next(), found.next()) {
                        (Some(Ok(fields)), Some(Ok(left))) => {
                            redis::from_redis_value(Value::Array(vec![fields, left])).ok()
                        }
                        _ => None,
                    };
                    // What is no hash, or could not be read, is asked for alone.
                    answers.push(match one {
                        Some(found) => Ok(self.item(found)),
                        None => self.read(&request.key).await,
                    });
                }
            }
            answers
        })
    }

    fn set(&self, request: Set) -> Answer<'_, Result<(), Error>> {
        Answer::later(async move {
            let key = request.key.clone();
            self.apply(vec![Operation::Upsert(request)], &|| format!("writing key `{key}`")).await
        })
    }

    fn delete(&self, request: Delete) -> Answer<'_, Result<(), Error>> {
        Answer::later(async move {
            let key = request.key.clone();
            self.apply(vec![Operation::Delete(request)], &|| format!("deleting key `{key}`")).await
        })
    }

    fn set_many(&self, requests: Vec<Set>) -> Answer<'_, Vec<Result<(), Error>>> {
        Answer::later(self.apply_each(requests.into_iter().map(Operation::Upsert).collect()))
    }

    fn delete_many(&self, requests: Vec<Delete>) -> Answer<'_, Vec<Result<(), Error>>> {
        Answer::later(self.apply_each(requests.into_iter().map(Operation::Delete).collect()))
    }

    fn transact(&self, operations: Vec<Operation>, _: Metadata) -> Answer<'_, Result<(), Error>> {
        Answer::later(async move {
            let count = operations.len();
            self.apply(operations, &|| format!("a transaction of {count} operations")).await
        })
    }

    fn list<'a>(&'a self, request: &'a List) -> Answer<'a, Result<Page, Error>> {
        Answer::later(async move {
            // A scan comes in no order and may tell a key twice: the smallest are kept.
            let mut smallest: BTreeSet<String> = BTreeSet::new();
            let (mut cursor, pattern) = ("0".to_owned(), super::pattern(&request.prefix));
            loop {
                let mut pipe = redis::pipe();
                let scan = pipe.cmd("SCAN").arg(&cursor).arg("MATCH").arg(&pattern);
                scan.arg("COUNT").arg(SCAN).arg("TYPE").arg("hash");
                let what = || format!("listing keys that begin with `{}`", request.prefix);
                let ((next, keys),): ((String, Vec<String>),) =
                    self.link.ask(&what, &pipe, Again::Harmless).await?;
                for key in keys {
                    let behind = request.after.as_ref().is_none_or(|after| key > *after);
                    if behind && key.starts_with(&request.prefix) {
                        smallest.insert(key);
                        if smallest.len() > request.limit.saturating_add(1) {
                            smallest.pop_last();
                        }
                    }
                }
                cursor = next;
                if cursor == "0" {
                    break;
                }
            }
            let mut keys: Vec<String> = smallest.into_iter().collect();
            let more = keys.len() > request.limit;
            keys.truncate(request.limit);
            Ok(Page { next: keys.last().filter(|_| more).cloned(), keys })
        })
    }
}

impl Lifecycle for Redis {
    fn ping(&self) -> Answer<'_, Result<(), Fault>> {
        Answer::later(self.link.ping())
    }

    fn close(&self) -> Answer<'_, ()> {
        Answer::later(async {
            self.link.close().await;
            self.strong.close().await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_their_key() {
        let operations = [Operation::Upsert(Set::new("a", "1")), Operation::Delete(Delete::new("b"))];
        assert!(outcome(&operations, 0).is_ok());
        let refused = outcome(&operations, 2).expect_err("refused");
        assert!(matches!(refused, Error::EtagMismatch { key } if key == "b"));
    }
}

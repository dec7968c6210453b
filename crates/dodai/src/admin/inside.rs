//! Looking into components of this base: messages that wait, dead letters that go back, locks.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use dodai_admin::Refusal;
use dodai_admin::seam::{Done, Lock, Locks, Place, TopicGroup, Topics, Waiting, WaitingPage, Wish};
use dodai_base::node::Parts;
use dodai_capability::lock::Release;
use dodai_capability::pubsub::{Peek, Peeked, Replay, Replayed};
use dodai_core::id::Name;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

/// The most bytes of a message that are shown.
const MAX_SHOWN: usize = 64 << 10;
/// The most bytes of messages in one answer; those that do not go into it come with the next page.
const MAX_PAGE: usize = 1 << 20;

/// What is answered to a wish.
pub async fn inside(base: &Parts, place: &Place, wish: Wish) -> Result<Value, Refusal> {
    let namespace = Name::new(&place.namespace).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let missing =
        |error: dodai_runtime::Error| match matches!(error, dodai_runtime::Error::NoComponent { .. }) {
            true => Refusal::not_found(error.to_string()),
            false => Refusal::new(StatusCode::CONFLICT, "component", error.to_string()),
        };
    let broker = || base.runtime.broker(&namespace, &place.name).map_err(missing);
    let locks = || base.runtime.locks(&namespace, &place.name).map_err(missing);
    match wish {
        Wish::Topics => {
            let opened = broker()?;
            let found = opened.serves.standings().await;
            let found = found.map_err(|error| refused(error.code(), &error))?;
            let of = base.runtime.dead_letters(&namespace, &place.name);
            let items = found.into_iter().map(|one| TopicGroup {
                base: None,
                dead_letters_of: of.get(&one.topic).into_iter().flatten().cloned().collect(),
                topic: one.topic,
                group: one.group,
                pending: one.pending,
                in_delivery: one.in_delivery,
            });
            told(&Topics { items: items.collect(), failed: BTreeMap::new() })
        }
        Wish::Peek { topic, group, after, limit } => {
            let opened = broker()?;
            let found = opened.serves.peek(Peek { topic, group, after, limit, most: MAX_SHOWN }).await;
            let found = found.map_err(|error| refused(error.code(), &error))?;
            let (items, next) = page(found, limit);
            told(&WaitingPage { items, next })
        }
        Wish::Replay { topic, group, id, to } => {
            let opened = broker()?;
            let wanted = Replay { topic: topic.clone(), group: group.clone(), id: id.clone(), to };
            let moved = opened.serves.replay(wanted).await;
            match moved.map_err(|error| refused(error.code(), &error))? {
                Replayed::Moved => told(&Done {}),
                Replayed::Gone => {
                    let text =
                        format!("group `{group}` of topic `{topic}` has no message {id} to settle any more");
                    Err(Refusal::not_found(text).remedy("look again at what waits"))
                }
                Replayed::Held => {
                    let text = format!("a consumer of group `{group}` holds message {id} now");
                    let refusal = Refusal::new(StatusCode::CONFLICT, "conflict", text);
                    Err(refusal.remedy("try again when it has settled it, or its lease is over"))
                }
            }
        }
        Wish::Locks { after, limit } => {
            let opened = locks()?;
            let found = opened.serves.held(after.as_deref(), limit).await;
            let found = found.map_err(|error| refused(error.code(), &error))?;
            let next = (found.len() >= limit).then(|| found.last().map(|one| one.resource.clone()));
            let items = found.into_iter().map(|one| Lock {
                base: None,
                resource: one.resource,
                owner: one.owner,
                left_ms: u64::try_from(one.left.as_millis()).unwrap_or(u64::MAX),
            });
            told(&Locks { items: items.collect(), next: next.flatten(), failed: BTreeMap::new() })
        }
        Wish::Unlock { resource, owner } => {
            let opened = locks()?;
            let released = opened.serves.unlock(&resource, &owner).await;
            match released.map_err(|error| refused(error.code(), &error))? {
                Release::Success => told(&Done {}),
                Release::DoesNotExist => Err(Refusal::not_found(format!("nobody holds `{resource}` now"))),
                Release::BelongsToOthers => {
                    let text = format!("`{resource}` is no longer held by `{owner}` but by another owner");
                    Err(Refusal::new(StatusCode::CONFLICT, "conflict", text))
                }
            }
        }
    }
}

fn told(answer: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(answer).map_err(|error| Refusal::internal(error.to_string()))
}

/// As many of the messages that were found as go into one answer, at least one, and the last of them if there may be more.
fn page(found: Vec<Peeked>, limit: usize) -> (Vec<Waiting>, Option<String>) {
    let (count, mut bytes) = (found.len(), 0);
    let mut items: Vec<Waiting> = Vec::new();
    for one in found.into_iter().map(shown) {
        let of = |pair: (&String, &String)| pair.0.len() + pair.1.len();
        bytes += one.text.as_ref().map_or(0, String::len) + one.metadata.iter().map(of).sum::<usize>();
        if bytes > MAX_PAGE && !items.is_empty() {
            break;
        }
        items.push(one);
    }
    let has_more = count >= limit || items.len() < count;
    let next = items.last().filter(|_| has_more).map(|one| one.id.clone());
    (items, next)
}

fn shown(one: Peeked) -> Waiting {
    let Peeked { message, bytes, attempt, in_delivery } = one;
    let text = match std::str::from_utf8(&message.data) {
        Ok(text) => Some(text),
        // What is cut off may end within a character.
        Err(error) if error.error_len().is_none() && message.data.len() < bytes => {
            std::str::from_utf8(&message.data[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    let published = message.published.duration_since(UNIX_EPOCH).unwrap_or_default();
    Waiting {
        text: text.map(str::to_owned),
        bytes,
        id: message.id,
        content_type: message.content_type,
        metadata: message.metadata.into_iter().collect(),
        published_ms: u64::try_from(published.as_millis()).unwrap_or(u64::MAX),
        attempt,
        in_delivery,
    }
}

/// A driver's refusal: 501 where it cannot do this at all.
fn refused(code: &str, error: &dyn std::fmt::Display) -> Refusal {
    match code {
        "unsupported" => Refusal::new(StatusCode::NOT_IMPLEMENTED, "unsupported", error.to_string()),
        _ => Refusal::new(StatusCode::CONFLICT, "component", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use dodai_capability::pubsub;

    use super::*;

    #[test]
    fn a_page_of_large_messages_ends_early_and_says_where_the_next_begins() {
        let message = |id: usize, bytes: usize| Peeked {
            message: pubsub::Message {
                id: id.to_string(),
                topic: "t".to_owned(),
                data: vec![b'x'; bytes.min(MAX_SHOWN)].into(),
                content_type: None,
                metadata: Default::default(),
                published: SystemTime::now(),
            },
            bytes,
            attempt: 0,
            in_delivery: false,
        };
        let cut = |data: &'static [u8], bytes: usize| {
            let mut one = message(1, 0);
            (one.message.data, one.bytes) = (data.into(), bytes);
            shown(one).text
        };
        assert_eq!(cut(b"a\xe2\x82", 9).as_deref(), Some("a"), "the rest of the character was cut off");
        assert_eq!((cut(b"a\xe2\x82", 3), cut(b"\xffa", 9)), (None, None), "no text");
        let check = |count: usize, bytes: usize, expect: usize, next: Option<&str>| {
            let (items, found) = page((1..=count).map(|id| message(id, bytes)).collect(), 500);
            assert_eq!((items.len(), found.as_deref()), (expect, next), "{count} of {bytes}");
        };
        check(0, 0, 0, None);
        check(20, 1000, 20, None);
        check(500, 10, 500, Some("500"));
        check(500, 2 * MAX_SHOWN, 16, Some("16"));
    }
}

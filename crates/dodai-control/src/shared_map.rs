//! An ordered map whose copies share what they have in common.
//!
//! Entries stand in order in chunks, each behind an `Arc`. A copy costs nothing; a change of a copy costs one chunk and
//! the list of chunks; what two copies differ in is found without looking at what they share. The world is copied for
//! each plan and compared with the one before, so both must cost what changed, not what there is. Rejected: a balanced
//! tree, which compares no better, and a journal of changes, which every reader would have to keep up with.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

/// The most entries of one chunk; one that grows beyond is split in two.
const MOST: usize = 48;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// A map. Its clones are cheap.
#[derive(Debug)]
pub struct SharedMap<K, V> {
    /// None is empty.
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        SharedMap { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        SharedMap { chunks: Arc::default(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let mut same = self.len == other.len;
        self.differences(other, |_, old, new| same &= old == new);
        same
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = SharedMap::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(key, value)| (key, value))
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// The values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The entries from `first` on, as long as `holds` is true of their keys.
    pub fn from<'a>(
        &'a self,
        first: &K,
        holds: impl Fn(&K) -> bool + 'a,
    ) -> impl Iterator<Item = (&'a K, &'a V)> {
        let (at, place) = match self.find(first) {
            Ok(found) | Err(found) => found,
        };
        let rest = self.chunks.get(at..).unwrap_or_default();
        rest.iter()
            .flat_map(|chunk| chunk.iter())
            .skip(place)
            .map(|(key, value)| (key, value))
            .take_while(move |(key, _)| holds(key))
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (at, place) = self.find(key).ok()?;
        self.chunks.get(at)?.get(place).map(|(_, value)| value)
    }

    /// Whether there is such a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    /// Adds or replaces an entry; what it replaced.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let found = self.find(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let (at, place) = match found {
            Ok((at, place)) => {
                let entry = &mut Arc::make_mut(&mut chunks[at])[place];
                return Some(std::mem::replace(&mut entry.1, value));
            }
            Err(free) => free,
        };
        self.len += 1;
        let Some(chunk) = chunks.get_mut(at) else {
            chunks.push(Arc::new(vec![(key, value)]));
            return None;
        };
        let chunk = Arc::make_mut(chunk);
        chunk.insert(place, (key, value));
        if chunk.len() > MOST {
            let upper = chunk.split_off(MOST / 2);
            chunks.insert(at + 1, Arc::new(upper));
        }
        None
    }

    /// Removes an entry; what it was.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (at, place) = self.find(key).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let (_, gone) = Arc::make_mut(&mut chunks[at]).remove(place);
        self.len -= 1;
        let left = chunks[at].len();
        if left == 0 {
            chunks.remove(at);
        } else if let Some(next) = chunks.get(at + 1)
            && left + next.len() <= MOST / 2
        {
            let next = chunks.remove(at + 1);
            Arc::make_mut(&mut chunks[at]).extend(next.iter().cloned());
        }
        Some(gone)
    }

    /// Keeps the entries for which `stays` is true.
    pub fn retain(&mut self, stays: impl Fn(&K, &V) -> bool) {
        let gone: Vec<K> =
            self.iter().filter(|(key, value)| !stays(key, value)).map(|(key, _)| key.clone()).collect();
        for key in &gone {
            self.remove(key);
        }
    }

    /// Tells the entries in which `to` may differ from this map, in order, with what they are here and there. What the
    /// two share is not told; what is told may be equal nevertheless.
    pub fn differences(&self, to: &Self, mut tell: impl FnMut(&K, Option<&V>, Option<&V>)) {
        if Arc::ptr_eq(&self.chunks, &to.chunks) {
            return;
        }
        let (mut old, mut new) = (Cursor::of(self), Cursor::of(to));
        loop {
            if let (Some(here), Some(there)) = (old.chunk(), new.chunk())
                && Arc::ptr_eq(here, there)
            {
                old.skip();
                new.skip();
                continue;
            }
            let order = match (old.entry(), new.entry()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
            };
            let gone = if order.is_le() { old.next() } else { None };
            let come = if order.is_ge() { new.next() } else { None };
            let key = gone.or(come).map(|(key, _)| key);
            if let Some(key) = key {
                tell(key, gone.map(|(_, value)| value), come.map(|(_, value)| value));
            }
        }
    }

    /// Where a key stands, or where it would: its chunk, and its place there.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<(usize, usize), (usize, usize)>
    where
        K: Borrow<Q>,
    {
        let first = |chunk: &Chunk<K, V>| chunk.first().is_some_and(|(first, _)| first.borrow() <= key);
        let at = self.chunks.partition_point(first).saturating_sub(1);
        let Some(chunk) = self.chunks.get(at) else { return Err((at, 0)) };
        let place = chunk.binary_search_by(|(own, _)| own.borrow().cmp(key));
        place.map(|place| (at, place)).map_err(|place| (at, place))
    }
}

/// Whether two values are one: by where they are if that is enough.
pub(crate) fn same<T: PartialEq>(old: Option<&Arc<T>>, new: Option<&Arc<T>>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new) || old == new,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// A place in a map, on the way through it.
struct Cursor<'a, K, V> {
    chunks: &'a [Chunk<K, V>],
    place: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn of(map: &'a SharedMap<K, V>) -> Self {
        Cursor { chunks: &map.chunks, place: 0 }
    }

    /// The chunk that begins here.
    fn chunk(&self) -> Option<&'a Chunk<K, V>> {
        self.chunks.first().filter(|_| self.place == 0)
    }

    fn skip(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
    }

    fn entry(&self) -> Option<&'a (K, V)> {
        self.chunks.first()?.get(self.place)
    }

    fn next(&mut self) -> Option<&'a (K, V)> {
        let entry = self.entry()?;
        self.place += 1;
        if self.chunks.first().is_some_and(|chunk| self.place == chunk.len()) {
            self.skip();
            self.place = 0;
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys to write, or to remove.
    fn steps() -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
        proptest::collection::vec((0u16..400, proptest::option::weighted(0.6, any::<u8>())), 0..600)
    }

    fn take(map: &mut SharedMap<u16, u8>, model: &mut BTreeMap<u16, u8>, steps: &[(u16, Option<u8>)]) {
        for (key, value) in steps {
            let (did, should) = match value {
                Some(value) => (map.insert(*key, *value), model.insert(*key, *value)),
                None => (map.remove(key), model.remove(key)),
            };
            assert_eq!(did, should, "{key}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in steps(), asked in 0u16..400) {
            let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
            take(&mut map, &mut model, &steps);
            prop_assert!(map.iter().eq(model.iter()));
            prop_assert_eq!(map.len(), model.len());
            prop_assert_eq!(map.get(&asked), model.get(&asked));
            let from = map.from(&asked, |key| *key < 300);
            prop_assert!(from.eq(model.range(asked..).take_while(|(key, _)| **key < 300)));
        }

        #[test]
        fn copies_do_not_touch_each_other_and_their_differences_are_found(first in steps(), then in steps()) {
            let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
            take(&mut map, &mut model, &first);
            let (old, old_model) = (map.clone(), model.clone());
            take(&mut map, &mut model, &then);
            prop_assert!(old.iter().eq(old_model.iter()));
            let mut found = old_model.clone();
            old.differences(&map, |key, before, after| {
                assert_eq!((before, after), (old_model.get(key), model.get(key)), "{key}");
                match after {
                    Some(value) => found.insert(*key, *value),
                    None => found.remove(key),
                };
            });
            prop_assert_eq!(&found, &model);
            prop_assert_eq!(old == map, old_model == model);
        }
    }

    #[test]
    fn what_is_shared_is_not_looked_at() {
        let old: SharedMap<u32, u32> = (0..10_000).map(|key| (key, key)).collect();
        let mut new = old.clone();
        new.insert(5_000, 0);
        new.remove(&9_000);
        let mut told = 0;
        old.differences(&new, |_, _, _| told += 1);
        assert!((2..=2 * MOST).contains(&told), "{told} entries were looked at");
    }
}

//! Jobs as long as the process: for tests, and where nothing durable is at hand.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Due, Error, Hold, Holds, Progress, Record, Store, Which};
use crate::answer::Answer;
use crate::fault::Fault;

/// Jobs in memory, by app and name.
#[derive(Default)]
pub struct Memory {
    records: Mutex<BTreeMap<(String, String), Record>>,
    holds: Holds,
}

impl Memory {
    fn all(&self) -> MutexGuard<'_, BTreeMap<(String, String), Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(app: &str, name: &str) -> (String, String) {
    (app.to_owned(), name.to_owned())
}

impl Store for Memory {
    fn put(&self, app: &str, record: Record, overwrite: bool, most: usize) -> Answer<'_, Result<(), Error>> {
        let mut all = self.all();
        let place = key(app, &record.job.name);
        let is_there = all.contains_key(&place);
        if is_there && !overwrite {
            return Answer::ready(Err(Error::Exists(record.job.name)));
        }
        if !is_there && all.keys().filter(|(owner, _)| owner == app).count() >= most {
            return Answer::ready(Err(Error::Full(most)));
        }
        all.insert(place, record);
        Answer::ready(Ok(()))
    }

    fn get(&self, app: &str, name: &str) -> Answer<'_, Result<Option<Record>, Fault>> {
        Answer::ready(Ok(self.all().get(&key(app, name)).cloned()))
    }

    fn list(&self, app: &str, data: Option<usize>) -> Answer<'_, Result<Vec<Record>, Error>> {
        let all = self.all();
        let mine = all.iter().filter(|((owner, _), _)| owner == app).map(|(_, record)| record);
        let length: usize = mine.clone().map(|record| record.job.len()).sum();
        if let Some(most) = data.filter(|most| length > *most) {
            return Answer::ready(Err(Error::TooLarge(most)));
        }
        let mut mine: Vec<Record> = mine.cloned().collect();
        if data.is_none() {
            mine.iter_mut().for_each(|record| record.job.data = None);
        }
        Answer::ready(Ok(mine))
    }

    fn apps(&self) -> Answer<'_, Result<Vec<String>, Fault>> {
        let mut apps: Vec<String> = self.all().keys().map(|(owner, _)| owner.clone()).collect();
        apps.dedup();
        Answer::ready(Ok(apps))
    }

    fn delete(&self, app: &str, which: Which) -> Answer<'_, Result<(), Fault>> {
        self.all().retain(|(owner, name), _| {
            let goes = match &which {
                Which::Name(gone) => name == gone,
                Which::Prefix(prefix) => name.starts_with(prefix),
            };
            owner != app || !goes
        });
        Answer::ready(Ok(()))
    }

    fn due(&self, app: &str, now_ms: i64, most: usize, but: Vec<String>) -> Answer<'_, Result<Due, Fault>> {
        let all = self.all();
        let mine = all.iter().filter(|((owner, _), _)| owner == app).map(|(_, record)| record);
        let (now, later): (Vec<_>, Vec<_>) = mine.partition(|record| record.progress.due_ms <= now_ms);
        let mut now: Vec<Record> =
            now.into_iter().filter(|record| !but.contains(&record.job.name)).cloned().collect();
        now.sort_by_key(|record| record.progress.due_ms);
        now.truncate(most);
        let next_ms = later.iter().map(|record| record.progress.due_ms).min();
        Answer::ready(Ok(Due { now, next_ms }))
    }

    fn settle(
        &self,
        app: &str,
        record: &Record,
        progress: Option<Progress>,
    ) -> Answer<'_, Result<(), Fault>> {
        let mut all = self.all();
        let place = key(app, &record.job.name);
        let same = |kept: &&mut Record| kept.id == record.id && kept.progress.is_at(&record.progress);
        if let Some(kept) = all.get_mut(&place).filter(same) {
            match progress {
                Some(progress) => kept.progress = progress,
                None => drop(all.remove(&place)),
            }
        }
        Answer::ready(Ok(()))
    }

    fn hold(&self, app: &str) -> Answer<'_, Result<Option<Hold>, Fault>> {
        Answer::ready(Ok(self.holds.take(app)))
    }
}

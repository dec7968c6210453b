//! `secretstores.local.file`: a JSON file, read again when it has changed.
//!
//! Nested objects and lists become names joined by a separator; with `multiValued` each name at the top is one
//! secret of several values. A file that has become unreadable is an error to callers, never stale secrets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use dodai_capability::fault::{Fault, Kind};
use dodai_capability::secrets::{Error, Features, Store, Values};
use dodai_capability::{Answer, Metadata};
use serde_json::Value;

type All = BTreeMap<String, Values>;

/// What tells one content of the file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

struct Shared {
    path: PathBuf,
    separator: String,
    multi_valued: bool,
    read: Mutex<Option<(Stamp, Arc<All>)>>,
}

/// Secrets from a file.
pub struct JsonFile(Arc<Shared>);

impl JsonFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// It cannot be read, or is no JSON object.
    pub async fn open(path: PathBuf, separator: &str, multi_valued: bool) -> Result<JsonFile, Fault> {
        let shared = Shared { path, separator: separator.to_owned(), multi_valued, read: Mutex::default() };
        let store = JsonFile(Arc::new(shared));
        store.current().await?;
        Ok(store)
    }

    async fn current(&self) -> Result<Arc<All>, Fault> {
        let shared = self.0.clone();
        let read = tokio::task::spawn_blocking(move || shared.current()).await;
        read.map_err(|error| Fault::new(Kind::Closed, "reading secrets was broken off").because(error))?
    }
}

impl Shared {
    fn current(&self) -> Result<Arc<All>, Fault> {
        let unreadable = |error: std::io::Error| {
            let what = format!(
                "the secrets file {} cannot be read; see that it exists and may be read",
                self.path.display()
            );
            Fault::new(Kind::Unavailable, what).because(error)
        };
        let about = std::fs::metadata(&self.path).map_err(unreadable)?;
        let stamp = Stamp { modified: about.modified().ok(), length: about.len() };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, all)) = &*read
            && *known == stamp
        {
            return Ok(all.clone());
        }
        let bytes = dodai_core::file::read_text(&self.path).map_err(unreadable)?;
        let all = Arc::new(parse(&self.path, &bytes, &self.separator, self.multi_valued)?);
        *read = Some((stamp, all.clone()));
        Ok(all)
    }
}

fn parse(path: &Path, bytes: &[u8], separator: &str, multi_valued: bool) -> Result<All, Fault> {
    let wrong =
        |what: String| Fault::new(Kind::Invalid, format!("the secrets file {}: {what}", path.display()));
    // The parser's message may quote what is there, so only the place is told.
    let top: Value = serde_json::from_slice(bytes)
        .map_err(|error| wrong(format!("no JSON at line {}, column {}", error.line(), error.column())))?;
    let Value::Object(top) = top else { return Err(wrong("give a JSON object of secrets".to_owned())) };
    let twice = |name: String| {
        wrong(format!("`{name}` is there twice once nested names are joined by `{separator}`"))
    };
    let mut all = All::new();
    if multi_valued {
        for (name, value) in top {
            let mut values = Values::new();
            match value {
                Value::Object(nested) => {
                    for (key, value) in nested {
                        flatten(key, value, separator, &mut values).map_err(twice)?;
                    }
                }
                other @ (Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Array(_)) => flatten(name.clone(), other, separator, &mut values).map_err(twice)?,
            }
            all.insert(name, values);
        }
    } else {
        let mut flat = Values::new();
        for (name, value) in top {
            flatten(name, value, separator, &mut flat).map_err(twice)?;
        }
        all.extend(flat.into_iter().map(|(name, value)| (name.clone(), Values::from([(name, value)]))));
    }
    Ok(all)
}

/// Puts a value under its joined name; gives the name back if it is taken.
fn flatten(name: String, value: Value, separator: &str, into: &mut Values) -> Result<(), String> {
    let join = |key: &str| [name.as_str(), separator, key].concat();
    let text = match value {
        Value::Object(nested) => {
            return nested
                .into_iter()
                .try_for_each(|(key, value)| flatten(join(&key), value, separator, into));
        }
        Value::Array(list) => {
            let mut list = list.into_iter().enumerate();
            return list.try_for_each(|(at, value)| flatten(join(&at.to_string()), value, separator, into));
        }
        Value::String(text) => text,
        Value::Null => String::new(),
        other @ (Value::Bool(_) | Value::Number(_)) => other.to_string(),
    };
    if into.contains_key(&name) {
        return Err(name);
    }
    into.insert(name, text.into());
    Ok(())
}

impl Store for JsonFile {
    fn features(&self) -> Features {
        Features { multiple_values: self.0.multi_valued }
    }

    fn get<'a>(&'a self, name: &'a str, _: &'a Metadata) -> Answer<'a, Result<Values, Error>> {
        Answer::later(async move {
            let all = self.current().await?;
            all.get(name).cloned().ok_or_else(|| Error::NotFound { name: name.to_owned() })
        })
    }

    fn get_all<'a>(&'a self, _: &'a Metadata) -> Answer<'a, Result<BTreeMap<String, Values>, Error>> {
        Answer::later(async move { Ok(self.current().await?.as_ref().clone()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        r#"{"redis":"r","db":{"user":"u","pass":{"old":"o","n":1.50}},"list":["a",true,null]}"#;

    fn plain(all: &All) -> Vec<(String, String)> {
        let pairs =
            all.iter().flat_map(|(name, values)| values.iter().map(move |(key, value)| (name, key, value)));
        pairs.map(|(name, key, value)| (format!("{name}/{key}"), value.reveal().to_owned())).collect()
    }

    fn pairs(expect: &[(&str, &str)]) -> Vec<(String, String)> {
        expect.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn nested_names_are_joined() {
        let all = parse(Path::new("s.json"), FILE.as_bytes(), ":", false).unwrap();
        let expect = [
            ("db:pass:n/db:pass:n", "1.5"),
            ("db:pass:old/db:pass:old", "o"),
            ("db:user/db:user", "u"),
            ("list:0/list:0", "a"),
            ("list:1/list:1", "true"),
            ("list:2/list:2", ""),
            ("redis/redis", "r"),
        ];
        assert_eq!(plain(&all), pairs(&expect));
    }

    #[test]
    fn with_many_values_the_top_names_are_secrets() {
        let file = r#"{"redis":"r","db":{"user":"u","pass":{"old":"o"}}}"#;
        let all = parse(Path::new("s.json"), file.as_bytes(), ".", true).unwrap();
        assert_eq!(plain(&all), pairs(&[("db/pass.old", "o"), ("db/user", "u"), ("redis/redis", "r")]));
    }

    #[test]
    fn a_broken_file_is_told_without_its_content() {
        let told = |text: &str| {
            parse(Path::new("s.json"), text.as_bytes(), ":", false).expect_err("refused").to_string()
        };
        let broken = told("{\"a\":\"hunter2\",\n \"b\": hunter2}");
        assert!(broken.contains("line 2") && !broken.contains("hunter2"), "{broken}");
        assert!(told("[]").contains("JSON object"));
        assert!(told(r#"{"a:b":"1","a":{"b":"2"}}"#).contains("`a:b` is there twice"));
    }

    #[tokio::test]
    async fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.json");
        std::fs::write(&path, r#"{"a":"old"}"#).unwrap();
        let store = JsonFile::open(path.clone(), ":", false).await.unwrap();
        let none = Metadata::new();
        assert_eq!(store.get("a", &none).await.unwrap()["a"].reveal(), "old");
        std::fs::write(&path, r#"{"a":"newer"}"#).unwrap();
        assert_eq!(store.get("a", &none).await.unwrap()["a"].reveal(), "newer");
        assert_eq!(store.get("b", &none).await.expect_err("not there").code(), "secret_not_found");
        std::fs::remove_file(&path).unwrap();
        let error = store.get_all(&none).await.expect_err("gone");
        assert!(error.to_string().contains("s.json"), "{error}");
        assert!(JsonFile::open(path, ":", false).await.is_err());
    }
}

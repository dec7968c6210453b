//! What a command is about, in the ways people write it: `apps`, `apps,routes`, `app shop`, `app/shop`.

use std::str::FromStr;

use dodai_api::Kind;

use crate::exit::Failed;

/// What the first word after a command names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One kind or several: `app`, `apps,routes`.
    Kinds(Vec<Kind>),
    /// One document: `app/shop`.
    One(Kind, String),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Wanted, String> {
        if let Some((of, name)) = text.split_once('/') {
            let kind = kind(of)?;
            let is_name = !name.is_empty() && !name.contains(['/', ',']);
            return if is_name {
                Ok(Wanted::One(kind, name.to_owned()))
            } else {
                Err(format!("`{text}` names no document; write kind and name, such as `{of}/NAME`"))
            };
        }
        text.split(',').map(kind).collect::<Result<_, _>>().map(Wanted::Kinds)
    }
}

impl Wanted {
    /// What is meant together with the name beside it: kinds, and the one document of the only one.
    ///
    /// # Errors
    /// A name beside several kinds, or beside a name.
    pub fn with(&self, name: Option<&str>) -> anyhow::Result<(Vec<Kind>, Option<String>)> {
        match (self, name) {
            (Wanted::Kinds(kinds), None) => Ok((kinds.clone(), None)),
            (Wanted::Kinds(kinds), Some(name)) if kinds.len() == 1 => {
                Ok((kinds.clone(), Some(name.to_owned())))
            }
            (Wanted::Kinds(_), Some(name)) => {
                Err(wrong(format!("`{name}` is a name of one kind; name one kind with it")))
            }
            (Wanted::One(kind, own), None) => Ok((vec![*kind], Some(own.clone()))),
            (Wanted::One(kind, own), Some(name)) => {
                Err(wrong(format!("`{kind}/{own}` and `{name}` are two names; name one document")))
            }
        }
    }

    /// The one document that is meant.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn one(&self, name: Option<&str>) -> anyhow::Result<(Kind, String)> {
        match self.with(name)? {
            (kinds, Some(name)) => Ok((kinds[0], name)),
            (kinds, None) => {
                let kind = kinds[0].as_str().to_lowercase();
                Err(wrong(format!("no document is named; write `{kind} NAME` or `{kind}/NAME`")))
            }
        }
    }
}

/// Arguments that do not go together.
pub fn wrong(text: String) -> anyhow::Error {
    anyhow::Error::new(Failed::Arguments).context(text)
}

/// Reads a kind in any case, in singular or plural.
pub fn kind(text: &str) -> Result<Kind, String> {
    let singular = text.strip_suffix("ies").map(|stem| format!("{stem}y"));
    let candidates = [Some(text), singular.as_deref(), text.strip_suffix('s')];
    let found = candidates.into_iter().flatten().find_map(|word| word.parse().ok());
    found.map_or_else(|| text.parse::<Kind>().map_err(|error| error.to_string()), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_as_people_write_them() {
        for (text, expect) in [
            ("App", Kind::App),
            ("apps", Kind::App),
            ("policies", Kind::Policy),
            ("bases", Kind::Base),
            ("httpendpoints", Kind::HttpEndpoint),
        ] {
            assert_eq!(kind(text), Ok(expect), "{text}");
        }
        assert!(kind("rout").unwrap_err().contains("Route"));
    }

    #[test]
    fn documents_are_named_as_people_name_them() {
        let read = |text: &str, name| text.parse::<Wanted>().unwrap().with(name).map_err(|e| e.to_string());
        let shop = Some("shop".to_owned());
        assert_eq!(read("apps", None), Ok((vec![Kind::App], None)));
        assert_eq!(read("apps,Routes", None), Ok((vec![Kind::App, Kind::Route], None)));
        assert_eq!(read("app", Some("shop")), Ok((vec![Kind::App], shop.clone())));
        assert_eq!(read("app/shop", None), Ok((vec![Kind::App], shop)));
        assert!(read("app/shop", Some("x")).unwrap_err().contains("two names"));
        assert!(read("app,route", Some("x")).unwrap_err().contains("one kind"));
        let one = |text: &str| text.parse::<Wanted>().unwrap().one(None);
        let error = one("app").unwrap_err();
        assert_eq!(error.downcast_ref::<Failed>(), Some(&Failed::Arguments));
        assert!(error.to_string().contains("`app/NAME`"), "{error}");
        assert_eq!(one("route/all").unwrap(), (Kind::Route, "all".to_owned()));
        for (text, words) in
            [("pods", "kinds are"), ("app/", "app/NAME"), ("app/a/b", "names no document"), ("app,", "kind")]
        {
            assert!(text.parse::<Wanted>().unwrap_err().contains(words), "{text}");
        }
    }
}

//! What operators say of access logs, in flags and in documents: how lines look and which calls get one.
//!
//! Pure readers from text, so that a document is refused where it is written, by the very code that a base uses later. What
//! a condition means of a call is for whoever has calls. A crate of its own, because documents know nothing of calls, and
//! those who have calls nothing of documents.

pub mod filter;
pub mod line_format;

use std::collections::BTreeSet;
use std::str::FromStr;

pub use filter::{BadFilter, Filter, Filters, Term};
use line_format::{BadFormat, ENVOY, LineFormat};

/// How lines look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// Words, for people.
    Text,
    /// As the operator writes it.
    Custom(LineFormat),
}

impl FromStr for Format {
    type Err = BadFormat;

    /// `json`, `text`, `envoy` for the format that Envoy has by itself, or a format string.
    fn from_str(text: &str) -> Result<Format, BadFormat> {
        match text {
            "json" => Ok(Format::Json),
            "text" => Ok(Format::Text),
            "envoy" => LineFormat::parse(ENVOY).map(Format::Custom),
            text if text.contains('%') => LineFormat::parse(text).map(Format::Custom),
            text => {
                let what = format!(
                    "`{text}` is no format; use json, text, envoy, or a format string such as `%START_TIME% %RESPONSE_CODE%`"
                );
                Err(BadFormat { at: 1, what })
            }
        }
    }
}

/// Headers that lines carry because they were named, in small letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Of requests.
    pub request: BTreeSet<String>,
    /// Of responses.
    pub response: BTreeSet<String>,
}

impl Headers {
    /// Adds those that a format and filters name.
    pub fn add_named(&mut self, format: Option<&Format>, filters: Option<&Filters>) {
        if let Some(Format::Custom(format)) = format {
            self.request.extend(format.request_headers().map(str::to_owned));
            self.response.extend(format.response_headers().map(str::to_owned));
        }
        let filters = filters.into_iter().flat_map(|all| all.0.iter());
        self.request.extend(filters.flat_map(Filter::headers).map(str::to_owned));
    }
}

/// What is said of the access log of some calls. What is not said is as the base has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// How their lines look.
    pub format: Option<Format>,
    /// Which of them are logged.
    pub filters: Option<Filters>,
    /// Headers that are needed for it.
    pub headers: Headers,
}

impl Logging {
    /// Reads what is said in text.
    ///
    /// # Errors
    /// A format or filter cannot be understood; says where and how to mend it.
    pub fn read(format: Option<&str>, filters: &[String], headers: Headers) -> Result<Logging, String> {
        let format = format.map(Format::from_str).transpose().map_err(|bad| bad.to_string())?;
        let filters = filters.iter().map(|text| text.parse());
        let filters: Vec<Filter> =
            filters.collect::<Result<_, BadFilter>>().map_err(|bad| bad.to_string())?;
        let filters = if filters.is_empty() { None } else { Some(Filters(filters.into())) };
        let mut headers = headers;
        headers.add_named(format.as_ref(), filters.as_ref());
        Ok(Logging { format, filters, headers })
    }
}

/// Whether a text can be the name of a header.
pub fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$&'*+-.^_`|~".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_named_or_written_out() {
        assert_eq!("json".parse(), Ok(Format::Json));
        assert!(matches!("envoy".parse(), Ok(Format::Custom(_))));
        assert!(matches!("%PROTOCOL%".parse(), Ok(Format::Custom(_))));
        let wrong = "xml".parse::<Format>().unwrap_err().to_string();
        assert!(wrong.contains("json, text, envoy"), "{wrong}");
        let wrong = "a %PROTOCL%".parse::<Format>().unwrap_err().to_string();
        assert!(wrong.contains("character 3") && wrong.contains("%PROTOCOL%?"), "{wrong}");
    }

    #[test]
    fn what_format_and_filters_name_is_needed() {
        let filters = ["header:X-Lane=blue && failures".to_owned(), "status=404".to_owned()];
        let headers = Headers { request: ["x-own".to_owned()].into(), ..Headers::default() };
        let read = Logging::read(Some("%REQ(X-Request-Id)% %RESP(Server)%"), &filters, headers).unwrap();
        let [request, response] = [&read.headers.request, &read.headers.response];
        assert_eq!(request.iter().collect::<Vec<_>>(), ["x-lane", "x-own", "x-request-id"]);
        assert_eq!(response.iter().collect::<Vec<_>>(), ["server"]);
        assert_eq!(read.filters.map(|all| all.0.len()), Some(2));
        let nothing = Logging::read(None, &[], Headers::default());
        assert_eq!(nothing, Ok(Logging::default()));
        assert!(Logging::read(Some("%NO%"), &[], Headers::default()).unwrap_err().contains("character 1"));
        assert!(Logging::read(None, &["no".to_owned()], Headers::default()).unwrap_err().contains("`no`"));
    }
}

//! A request as plain data, and the answer to it.

use crate::bindings::wasi::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use crate::stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// The longest request body a shop module reads.
const BODY_LIMIT: usize = 1024 * 1024;

/// One request, read to its end.
#[derive(Debug, Default)]
pub struct Request {
    /// `GET`, `POST`, ... in capitals.
    pub method: String,
    /// The path without its query, percent-decoding left to the reader.
    pub path: String,
    /// The query without its question mark.
    pub query: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body; empty if there was none.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The path's segments, for matching: `("GET", ["products", id])`.
    pub fn route(&self) -> (&str, Vec<&str>) {
        (&self.method, self.path.split('/').filter(|part| !part.is_empty()).collect())
    }

    /// The cookie of this name.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let cookies = self.header("cookie")?.split(';');
        cookies
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    /// The body as JSON; a failure that tells the caller what is wrong with it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::new(400, "bad-body", format!("the body is not what {} takes: {error}", self.path))
        })
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer of any media type.
    pub fn new(status: u16, media_type: &str, body: impl Into<Vec<u8>>) -> Response {
        Response { status, headers: vec![("content-type".into(), media_type.into())], body: body.into() }
    }

    /// A JSON answer.
    pub fn json(status: u16, value: &impl Serialize) -> Response {
        match serde_json::to_vec(value) {
            Ok(body) => Response::new(status, "application/json", body),
            Err(error) => Failure::new(500, "encoding", error.to_string()).into(),
        }
    }

    /// An answer without a body.
    pub fn empty(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Vec::new() }
    }

    /// The same answer with one more header.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Response {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Why a request got no proper answer: a status, a word for programs and a sentence for people.
#[derive(Debug)]
pub struct Failure {
    /// The status code.
    pub status: u16,
    /// A stable word.
    pub code: &'static str,
    /// What happened, and what would help.
    pub message: String,
}

impl Failure {
    /// A failure.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Failure {
        Failure { status, code, message: message.into() }
    }

    /// No such path, or not with this method.
    pub fn no_route(request: &Request) -> Failure {
        Failure::new(404, "no-route", format!("nothing answers {} {} here", request.method, request.path))
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Response {
        let body = json!({ "error": failure.code, "message": failure.message });
        Response::new(failure.status, "application/json", body.to_string())
    }
}

/// Reads the request, asks `answer`, sends what it says. [`crate::serve!`] calls it.
pub fn respond(
    incoming: IncomingRequest,
    out: ResponseOutparam,
    answer: fn(&Request) -> Result<Response, Failure>,
) {
    let response = match receive(&incoming) {
        Ok(request) => answer(&request).unwrap_or_else(Response::from),
        Err(failure) => failure.into(),
    };
    send(response, out);
}

fn receive(incoming: &IncomingRequest) -> Result<Request, Failure> {
    let target = incoming.path_with_query().unwrap_or_else(|| "/".into());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let headers = incoming
        .headers()
        .entries()
        .into_iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), String::from_utf8_lossy(&value).into_owned()))
        .collect();
    let body = match incoming.consume() {
        Ok(body) => stream::read(body, BODY_LIMIT).map_err(|unread| match unread {
            stream::Unread::TooLong => {
                Failure::new(413, "too-long", format!("a body may have {BODY_LIMIT} bytes"))
            }
            stream::Unread::Broken => Failure::new(400, "broken-body", "the body broke off"),
        })?,
        Err(()) => Vec::new(),
    };
    Ok(Request {
        method: method_name(incoming.method()),
        path: path.into(),
        query: query.into(),
        headers,
        body,
    })
}

fn method_name(method: Method) -> String {
    match method {
        Method::Get => "GET".into(),
        Method::Head => "HEAD".into(),
        Method::Post => "POST".into(),
        Method::Put => "PUT".into(),
        Method::Delete => "DELETE".into(),
        Method::Connect => "CONNECT".into(),
        Method::Options => "OPTIONS".into(),
        Method::Trace => "TRACE".into(),
        Method::Patch => "PATCH".into(),
        Method::Other(name) => name,
    }
}

fn send(response: Response, out: ResponseOutparam) {
    let headers = Fields::new();
    for (name, value) in &response.headers {
        let _ = headers.append(name, value.as_bytes());
    }
    if response.status != 204 && response.status != 304 {
        let _ = headers.set("content-length", &[response.body.len().to_string().into_bytes()]);
    }
    let outgoing = OutgoingResponse::new(headers);
    let _ = outgoing.set_status_code(response.status);
    let Ok(body) = outgoing.body() else { return };
    ResponseOutparam::set(out, Ok(outgoing));
    if response.body.is_empty() {
        let _ = OutgoingBody::finish(body, None);
    } else {
        stream::write(body, &response.body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Request { method: "GET".into(), path: "/products//p-1/".into(), headers, ..Request::default() }
    }

    #[test]
    fn a_route_has_no_empty_segments() {
        assert_eq!(request(&[]).route(), ("GET", vec!["products", "p-1"]));
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let request = request(&[("cookie", "xshop=1; shop=abc; other=2")]);
        assert_eq!(request.cookie("shop"), Some("abc"));
        assert_eq!(request.cookie("op"), None);
    }

    #[test]
    fn a_failure_is_json_with_a_word_and_a_sentence() {
        let response = Response::from(Failure::new(409, "sold-out", "only 1 \"left\""));
        assert_eq!(response.status, 409);
        assert_eq!(response.body, br#"{"error":"sold-out","message":"only 1 \"left\""}"#);
    }
}

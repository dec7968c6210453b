//! Finding the running server and talking to it.
//!
//! The order: `--server`, `DODAI_SERVER`, then `admin.json` in the data folder that was named, of the folder
//! that was named, or of the first folder upwards that has one. That file is written by `dodai up`.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Context as _;
use bytes::Bytes;
use dodai_core::task::{Kind, Tasks};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arguments::Server;
use crate::environment::Environment;
use crate::exit::Failed;
use crate::progress::{Progress, Share};

/// The file's name in the data folder.
pub const FILE: &str = "admin.json";
/// The most bytes of an answer that is read whole.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// The most bytes of an upload that go out at once.
const PIECE_BYTES: usize = 64 << 10;

/// What `admin.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminFile {
    /// Where the API listens.
    pub address: String,
    /// What opens it.
    pub token: String,
    /// The process.
    pub pid: u32,
    /// The program's version.
    pub version: String,
}

/// A way to a server.
#[derive(Clone)]
pub struct Connection {
    address: String,
    token: String,
    actor: String,
    tasks: Tasks,
    /// What starts such a server.
    starts: &'static str,
}

/// Whether a process lives. One that ended and that nobody collected is gone.
pub fn is_alive(pid: u32) -> bool {
    let path = format!("/proc/{pid}/stat");
    match std::fs::read_to_string(path) {
        Ok(stat) => stat.rsplit_once(')').is_none_or(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) if Path::new("/proc/self").exists() => false,
        Err(_) => {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
        }
    }
}

/// The data folder that the flags and the current folder mean, if there is one.
pub fn data_folder(server: &Server) -> Option<PathBuf> {
    if let Some(folder) = &server.data_folder {
        return Some(folder.clone());
    }
    if let Some(folder) = &server.project_folder {
        return Some(folder.join(".dodai"));
    }
    let here = std::env::current_dir().ok()?;
    here.ancestors().map(|folder| folder.join(".dodai")).find(|folder| folder.join(FILE).exists())
}

/// Reads `admin.json` of a data folder. `None` if nothing runs there.
pub fn running(data: &Path) -> anyhow::Result<Option<AdminFile>> {
    let path = data.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let file: AdminFile = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged; stop the server and remove it", path.display()))?;
    Ok(is_alive(file.pid).then_some(file))
}

/// What starts what keeps its data there: only a server has a certificate authority.
fn starts(data: Option<&Path>) -> &'static str {
    let is_server = data.is_some_and(|data| data.join(crate::fleet::AUTHORITY).is_dir());
    if is_server { "`dodai server`" } else { "`dodai up`" }
}

impl Connection {
    /// What opens the console in a browser. It holds the token.
    pub fn console(&self) -> String {
        crate::admin::link(&self.address, &self.token)
    }

    /// Finds the server.
    pub fn find(server: &Server, environment: &Environment) -> anyhow::Result<Connection> {
        let actor = format!("user:{}", environment.get("USER").unwrap_or("unknown"));
        let tasks = Tasks::new();
        if let Some(url) = server.server.as_deref().or_else(|| environment.get("DODAI_SERVER")) {
            let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/').to_owned();
            anyhow::ensure!(!address.contains('/'), "`{url}` is no server; write http://HOST:PORT");
            let token = server.token.as_deref().or_else(|| environment.get("DODAI_TOKEN"));
            let token = token
                .context("a token is needed beside the server; set DODAI_TOKEN or pass --token")?
                .to_owned();
            return Ok(Connection {
                address,
                token,
                actor,
                tasks,
                starts: "`dodai server` or `dodai up` there",
            });
        }
        let nothing = |place: String, data: Option<&Path>| {
            let starts = starts(data);
            anyhow::Error::new(Failed::Unreachable)
                .context(format!("nothing is running {place}; start it with {starts}, or name where it runs: --folder, --data-folder, --server"))
        };
        let Some(data) = data_folder(server) else {
            return Err(nothing("in this folder or above it".to_owned(), None));
        };
        let file = running(&data)?.ok_or_else(|| nothing(format!("on {}", data.display()), Some(&data)))?;
        Ok(Connection { address: file.address, token: file.token, actor, tasks, starts: starts(Some(&data)) })
    }

    /// Sends a request; the answer has any status.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        self.exchange(method, path, headers, Full::new(body)).await
    }

    /// Uploads an artefact, showing how far it is. Its digest.
    ///
    /// # Errors
    /// The server cannot be reached or does not take it.
    pub async fn upload(&self, artifact: Bytes, progress: Progress) -> anyhow::Result<String> {
        let share = Arc::new(Share::of(artifact.len() as u64));
        let length = artifact.len().to_string();
        let body = Pieces { rest: artifact, share: share.clone() };
        let headers = [(http::header::CONTENT_LENGTH.as_str(), length.as_str())];
        let sent = self.exchange(Method::POST, "/v1/artifacts", &headers, body);
        let answer = progress.during(|| format!("uploading {}", share.bar()), sent).await?;
        let answer = read_json(answer).await?;
        Ok(answer["digest"].as_str().context("the server gave no digest")?.to_owned())
    }

    async fn exchange<B>(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: B,
    ) -> anyhow::Result<Response<Incoming>>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        let unreachable = |error: &dyn std::fmt::Display| {
            let text = format!(
                "no answer from {}: {error}; start it with {}, or name another with --server",
                self.address, self.starts
            );
            anyhow::Error::new(Failed::Unreachable).context(text)
        };
        let stream =
            tokio::net::TcpStream::connect(&self.address).await.map_err(|error| unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        self.tasks.spawn(Kind::OutboundConnection, async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the server ended badly");
            }
        });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, &self.address)
            .header(http::header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header("dodai-actor", &self.actor);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).context("the request cannot be written")?;
        sender.send_request(request).await.map_err(|error| unreachable(&error))
    }

    /// Sends a request and reads a JSON answer; a refusal is an error.
    pub async fn json(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Value> {
        self.json_as(method, path, &[], body).await
    }

    /// The same with headers.
    pub async fn json_as(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Value> {
        read_json(self.send(method, path, headers, body).await?).await
    }

    /// Reads a path.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    /// Reads an answer without end.
    pub async fn events(&self, path: &str) -> anyhow::Result<Events> {
        let response = accepted(self.send(Method::GET, path, &[], Bytes::new()).await?).await?;
        Ok(Events { server: self.address.clone(), body: response.into_body(), rest: Vec::new() })
    }
}

/// Bytes that are sent piece by piece, counted as they go.
struct Pieces {
    rest: Bytes,
    share: Arc<Share>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let most = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(most);
        self.share.add(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// The JSON of a good answer.
async fn read_json(response: Response<Incoming>) -> anyhow::Result<Value> {
    let bytes = whole(accepted(response).await?.into_body()).await?;
    serde_json::from_slice(&bytes).context("the server's answer is no JSON; is it another version?")
}

/// A response with a good status; any other is an error with the server's words.
pub async fn accepted(response: Response<Incoming>) -> anyhow::Result<Response<Incoming>> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = whole(response.into_body()).await?;
    Err(refusal(status, &bytes))
}

/// The error of a refused request.
fn refusal(status: StatusCode, body: &[u8]) -> anyhow::Error {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(message) = value["message"].as_str() else {
        return anyhow::anyhow!("the server answered {status}");
    };
    let mut text = String::new();
    for problem in value["problems"].as_array().into_iter().flatten() {
        text.push_str(&super::show::problem(problem));
        text.push('\n');
    }
    text.push_str(message);
    if let Some(remedy) = value["remedy"].as_str() {
        text.push_str("; ");
        text.push_str(remedy);
    }
    let failed = match status {
        StatusCode::UNPROCESSABLE_ENTITY if value["code"] == "invalid_documents" => Failed::Invalid,
        StatusCode::NOT_FOUND => Failed::NotFound,
        _ => return anyhow::anyhow!(text),
    };
    anyhow::Error::new(failed).context(text)
}

/// A whole body.
pub async fn whole(body: Incoming) -> anyhow::Result<Bytes> {
    let limited = http_body_util::Limited::new(body, MAX_ANSWER_BYTES);
    let all = limited.collect().await.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
    Ok(all.to_bytes())
}

/// Server-sent events as they come.
pub struct Events {
    server: String,
    body: Incoming,
    rest: Vec<u8>,
}

impl Events {
    /// The next one; `None` when the server has no more. Cancel safe.
    ///
    /// # Errors
    /// The server went away in the middle.
    pub async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                if let Some(Ok(value)) = line.strip_prefix(b"data: ").map(serde_json::from_slice) {
                    return Ok(Some(value));
                }
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    let text = format!(
                        "the server at {} went away while it was telling ({error}); what came after is not known",
                        self.server
                    );
                    return Err(anyhow::Error::new(Failed::Unreachable).context(text));
                }
            }
        }
    }
}

/// Text as a part of a path or query.
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_become_errors_with_codes_of_their_own() {
        let body = br#"{"code":"invalid_documents","message":"1 problem in documents","problems":[
            {"file":"a.yaml","line":3,"column":5,"path":"spec.x","message":"unknown key","remedy":"did you mean `y`?"}]}"#;
        let error = refusal(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(error.downcast_ref::<Failed>(), Some(&Failed::Invalid));
        assert!(error.to_string().starts_with("a.yaml:3:5: spec.x: unknown key; did you mean"), "{error}");
        let error = refusal(StatusCode::NOT_FOUND, br#"{"message":"no app","remedy":"look"}"#);
        assert_eq!(
            (error.downcast_ref::<Failed>(), error.to_string()),
            (Some(&Failed::NotFound), "no app; look".into())
        );
        assert!(refusal(StatusCode::BAD_GATEWAY, b"oops").downcast_ref::<Failed>().is_none());
    }

    #[test]
    fn a_stale_file_is_nothing_running() {
        let folder = std::env::temp_dir().join(format!("dodai-stale-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(running(&folder).unwrap(), None);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let mut file = AdminFile {
            address: "127.0.0.1:1".into(),
            token: "t".into(),
            pid: child.id(),
            version: "1".into(),
        };
        let write =
            |file: &AdminFile| std::fs::write(folder.join(FILE), serde_json::to_vec(file).unwrap()).unwrap();
        write(&file);
        assert_eq!(running(&folder).unwrap(), None);
        file.pid = std::process::id();
        write(&file);
        assert_eq!(running(&folder).unwrap(), Some(file));
        std::fs::write(folder.join(FILE), "{").unwrap();
        assert!(running(&folder).unwrap_err().to_string().contains("damaged"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn text_is_encoded() {
        assert_eq!(encode("/a b?c=é"), "%2Fa%20b%3Fc%3D%C3%A9");
    }
}

//! What the management API of a server answers about bases that run elsewhere.
//!
//! Calls go to a base's mesh port with the server's certificate, as somebody outside: policy holds for them.
//! Outputs, live records, messages and configuration values are the bases'; they are asked on their streams.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dodai_admin::Refusal;
use dodai_admin::seam::{
    self, CallFilter, ConfigKey, Flow, Job, Jobs, Kept, Keys, LogLine, Look, Message, NodeState, Own,
    Pending, Place, Shelf, Traffic, Usage, Wish,
};
use dodai_control::control::Control;
use dodai_control::records::InstanceRecord;
use dodai_control::stream::{Asker, Told};
use dodai_core::body::Body;
use dodai_core::call::{Answer, Call, Door, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::host_of;
use dodai_core::id::{AppId, BaseId, InstanceId, Name, ServiceId};
use dodai_core::task::{self, Tasks};
use dodai_transport::identity::{MeshName, PeerIdentity};
use dodai_transport::network::Network;
use dodai_transport::tls::Clock;
use dodai_transport::tls::mesh::{Connector, LiveSvid};
use dodai_transport::trust::Trust;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll, iter, unfold};
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::kept::Desk;
use super::measures::Gathered;
use super::questions::{Question, refusal};
use super::tapped::tapped;
use crate::admin::latest;

/// How long a base may take to be connected to.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an app may take to answer a call that has no deadline of its own.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a base may take to answer a question.
const ANSWER: Duration = Duration::from_secs(10);

/// The bases, seen from the server.
pub struct Fleet {
    pub(super) control: Control,
    connector: Connector,
    trust: Trust,
    asker: Asker,
    pub(super) desk: Desk,
    pub(super) gathered: Gathered,
    tasks: Tasks,
}

impl Fleet {
    /// Sees what `control` sees; calls bases with the server's certificate.
    pub fn new(control: Control, own: LiveSvid, trust: Trust, asker: Asker, tasks: &Tasks) -> Fleet {
        let connector = Connector::new(own, trust.clone(), &[], Clock::system());
        Fleet {
            control,
            connector,
            trust,
            asker,
            desk: Desk::default(),
            gathered: Gathered::default(),
            tasks: tasks.clone(),
        }
    }

    /// A base with a ready instance of an app, its mesh address, and the app's first service.
    fn place(&self, app: &AppId) -> Result<(BaseId, SocketAddr, ServiceId), Failure> {
        let none = |text: String| Failure::new(Kind::NoEndpoint, text);
        let view = self.control.view();
        let document = view.documents.app(app);
        let document =
            document.ok_or_else(|| Failure::new(Kind::NoRoute, format!("there is no app {app}")))?;
        let service = document.spec.services.first().map(|service| service.name.as_str());
        let port = service.and_then(|name| Name::new(name).ok());
        let port = port.ok_or_else(|| none(format!("{app} has no service to call")))?;
        let observed = self.control.observed();
        let mut ready = view.records.of(app).filter(|one| observed.is_ready(one)).peekable();
        if ready.peek().is_none() {
            return Err(none(format!("{app} has no ready instance on any base")));
        }
        let found = ready.find_map(|one| {
            let sighting = observed.base(&one.base).filter(|base| base.connected)?;
            Some((one.base.clone(), sighting.status.mesh?))
        });
        let (base, address) = found.ok_or_else(|| {
            none(format!("no connected base with an instance of {app} has told its mesh address"))
        })?;
        Ok((base, address, ServiceId { owner: app.clone(), port }))
    }

    /// The app that a call names.
    fn called(call: &Call) -> Result<AppId, Failure> {
        let authority = call.head.uri.authority().map_or("", http::uri::Authority::as_str);
        let (name, namespace) = host_of(authority).split_once('.').unwrap_or((authority, "default"));
        AppId::parse(&format!("{namespace}/{name}"))
            .map_err(|error| Failure::new(Kind::NoRoute, error.to_string()))
    }

    async fn carry(&self, call: Call) -> Result<Reply, Failure> {
        let authority = call.head.uri.authority().map(ToString::to_string).unwrap_or_default();
        let app = Fleet::called(&call)?;
        let (base, address, service) = self.place(&app)?;
        let plain = Network::system().connect_addr(address, CONNECT).await?;
        let sni = MeshName {
            service,
            zone: Name::new("default").expect("it is a name"),
            mesh: self.trust.domain().clone(),
        };
        let sni = sni.server_name().map_err(|error| Failure::new(Kind::Tls, error.to_string()))?;
        let stream = self.connector.connect(plain, sni, &[PeerIdentity::App(app)]).await?;
        let broken = |error: hyper::Error| {
            Failure::new(Kind::Connect, format!("the call to base {base} broke off: {error}"))
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        self.tasks.spawn(task::Kind::OutboundConnection, async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a call to a base ended badly");
            }
        });
        let mut head = call.head;
        if let Ok(host) = HeaderValue::from_str(&authority) {
            head.headers.insert(header::HOST, host);
        }
        let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        head.uri = path.parse().map_err(|_| Failure::new(Kind::NoRoute, format!("`{path}` is no path")))?;
        let request = http::Request::from_parts(head, call.body);
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = body.map_err(|error| Failure::new(Kind::Reset, error.to_string()));
        Ok(Reply { head, body: Body::boxed(body) })
    }

    pub(super) fn connected(&self) -> Vec<BaseId> {
        connected(&self.control)
    }

    /// What a base answers to a question, one after the other.
    pub(super) fn answers<T: DeserializeOwned + Send + 'static>(
        &self,
        base: &BaseId,
        question: &Question,
    ) -> BoxStream<'static, Result<T, Refusal>> {
        answers(&self.asker, base, question, |count| {
            let text = format!("{count} answers were missed: this reader is too slow");
            Err(Refusal::new(StatusCode::BAD_GATEWAY, "base", text))
        })
    }

    /// One answer of one base, within bounds.
    pub(super) async fn answer<T: DeserializeOwned + Send + 'static>(
        &self,
        base: &BaseId,
        question: &Question,
    ) -> Result<T, Refusal> {
        let mut answers = self.answers(base, question);
        let left = || Refusal::new(StatusCode::BAD_GATEWAY, "base", format!("base {base} did not answer"));
        tokio::time::timeout(ANSWER, answers.next()).await.ok().flatten().ok_or_else(left)?
    }

    /// The base that is meant: the one of this name, or the only one.
    fn named(&self, wanted: Option<&str>) -> Result<BaseId, Refusal> {
        let connected = self.connected();
        match (wanted, connected.as_slice()) {
            (Some(wanted), all) => {
                let found = all.iter().find(|base| base.as_str() == wanted).cloned();
                found
                    .ok_or_else(|| Refusal::not_found(format!("there is no base {wanted} that is connected")))
            }
            (None, [only]) => Ok(only.clone()),
            (None, []) => Err(nobody()),
            (None, several) => {
                let names: Vec<&str> = several.iter().take(20).map(BaseId::as_str).collect();
                let text = format!("several bases are connected: {}", names.join(", "));
                Err(Refusal::bad_request(text).remedy("name one, with `--base NAME` or `?base=NAME`"))
            }
        }
    }

    /// A list of several bases, each item with its base. One that failed is named, one without the component is not.
    async fn list(
        &self,
        bases: Vec<BaseId>,
        question: Question,
        order: Option<Order>,
    ) -> Result<Value, Refusal> {
        let (mut pages, mut failed, mut why) = (Vec::new(), BTreeMap::new(), nobody());
        let asked = bases.into_iter().map(|base| {
            let question = question.clone();
            async move { (self.answer::<Value>(&base, &question).await, base) }
        });
        for (told, base) in futures_util::future::join_all(asked).await {
            match told {
                Ok(page) => pages.push((base, page)),
                Err(refusal) => {
                    if refusal.status != StatusCode::NOT_FOUND {
                        failed.insert(base.to_string(), refusal.message.clone());
                    }
                    why = refusal;
                }
            }
        }
        if pages.is_empty() {
            return Err(why);
        }
        let (items, next) = together(pages, order);
        Ok(json!({ "items": items, "next": next, "failed": failed }))
    }

    /// The answer of the first base that has what is asked about.
    async fn first<T: DeserializeOwned + Send + 'static>(&self, question: &Question) -> Result<T, Refusal> {
        let mut why = nobody();
        for base in self.connected() {
            match self.answer(&base, question).await {
                Ok(answer) => return Ok(answer),
                Err(refusal) => why = refusal,
            }
        }
        Err(why)
    }

    /// What the server knows of its bases, in the format of Prometheus. Each base has metrics of its own.
    pub fn metrics(&self) -> String {
        let observed = self.control.observed();
        let connected = observed.bases().filter(|(_, base)| base.connected).count();
        let away = observed.names().count() - connected;
        let mut text = String::from("# HELP dodai_bases Bases that joined and were seen since the start.\n");
        text.push_str("# TYPE dodai_bases gauge\n");
        text.push_str(&format!("dodai_bases{{state=\"connected\"}} {connected}\n"));
        text.push_str(&format!("dodai_bases{{state=\"away\"}} {away}\n"));
        let mut phases: BTreeMap<&'static str, usize> = BTreeMap::new();
        for instance in self.control.view().records.instances() {
            let ready = if observed.is_ready(instance) { "ready" } else { "not_ready" };
            *phases.entry(ready).or_default() += 1;
        }
        text.push_str("# HELP dodai_placed_instances Instances that are placed on bases.\n");
        text.push_str("# TYPE dodai_placed_instances gauge\n");
        for (phase, count) in phases {
            text.push_str(&format!("dodai_placed_instances{{state=\"{phase}\"}} {count}\n"));
        }
        text
    }
}

/// In which order the items of several bases become one list: by this text of each, and so many at most.
#[derive(Clone, Copy)]
struct Order {
    place: fn(&Value) -> String,
    limit: usize,
}

fn text(item: &Value, name: &str) -> String {
    item[name].as_str().unwrap_or_default().to_owned()
}

fn place_of_lock(lock: &Value) -> String {
    text(lock, "resource")
}

fn place_of_job(job: &Value) -> String {
    Job::place(&text(job, "app"), &text(job, "name"))
}

/// The items of several bases, each with its base. In an order they come page by page, with where the next one begins.
/// Those of one place stay on one page, for the next one begins after the place.
fn together(pages: Vec<(BaseId, Value)>, order: Option<Order>) -> (Vec<Value>, Option<String>) {
    let mut items = Vec::new();
    let mut has_more = false;
    for (base, mut page) in pages {
        has_more |= page["next"].is_string();
        for mut item in page["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
            item["base"] = base.as_str().into();
            items.push(item);
        }
    }
    let Some(Order { place, limit }) = order else { return (items, None) };
    items.sort_by_cached_key(|item| (place(item), text(item, "base")));
    if let Some(last) = items.get(limit.saturating_sub(1)).map(place) {
        let end = items.partition_point(|item| place(item) <= last);
        has_more |= end < items.len();
        items.truncate(end);
    }
    let next = items.last().filter(|_| has_more).map(place);
    (items, next)
}

/// The bases that are there now.
pub(super) fn connected(control: &Control) -> Vec<BaseId> {
    let observed = control.observed();
    observed.bases().filter(|(_, base)| base.connected).map(|(id, _)| id.clone()).collect()
}

/// What a base answers to a question, one after the other; `missed` says what stands for those that the reader was too
/// slow for.
pub(super) fn answers<T: DeserializeOwned + Send + 'static>(
    asker: &Asker,
    base: &BaseId,
    question: &Question,
    missed: fn(u64) -> Result<T, Refusal>,
) -> BoxStream<'static, Result<T, Refusal>> {
    let name = base.to_string();
    let json = serde_json::to_vec(question).expect("questions have text keys only");
    let answers = match asker.ask(base, json) {
        Ok(answers) => answers,
        Err(error) => {
            let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "base", error);
            return iter([Err(refusal)]).boxed();
        }
    };
    let read = move |told: Told| match told {
        Told::Missed(count) => missed(count),
        Told::Answer(answer) => {
            let json = answer.map_err(|text| refusal(&name, &text))?;
            serde_json::from_slice(&json).map_err(|error| refusal(&name, &error.to_string()))
        }
    };
    unfold(answers, |mut answers| async move { answers.recv().await.map(|one| (one, answers)) })
        .map(read)
        .boxed()
}

fn nobody() -> Refusal {
    let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_base", "no base is connected");
    refusal.remedy("let one join; `dodai token create` says how")
}

impl Door for Fleet {
    fn enter(&self, call: Call) -> Answer<'_> {
        Box::pin(async move {
            let left = call.context.deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let late = |_| Failure::new(Kind::Timeout, "no answer in time");
            let (app, start) = (Fleet::called(&call).ok(), Instant::now());
            let answered = tokio::time::timeout(left.unwrap_or(PATIENCE), self.carry(call)).await;
            let answered = answered.map_err(late).flatten();
            // No base begins this call, so none counts it.
            if let Some(app) = app {
                let is_error = answered.as_ref().map_or(true, |reply| reply.head.status.is_server_error());
                self.gathered.count(&app.to_string(), is_error, start.elapsed());
            }
            answered
        })
    }
}

impl seam::Node for Fleet {
    fn usages(&self) -> HashMap<InstanceId, Usage> {
        self.gathered.usages(Instant::now())
    }

    fn traffic(&self) -> Option<Traffic> {
        self.gathered.traffic(Instant::now())
    }

    fn silent(&self) -> Vec<String> {
        self.gathered.silent(&self.connected(), Instant::now())
    }

    fn subscriptions(&self) -> BTreeMap<String, Option<String>> {
        self.gathered.subscriptions(Instant::now())
    }

    fn own<'a>(&'a self, base: &'a str) -> Pending<'a, Option<Own>> {
        Box::pin(async move { self.answer(&BaseId::new(base), &Question::Own).await })
    }

    fn keys(&self, shelf: Shelf, prefix: String, after: Option<String>, limit: usize) -> Pending<'_, Keys> {
        let Shelf { app, store } = shelf;
        Box::pin(async move { self.first(&Question::Keys { app, store, prefix, after, limit }).await })
    }

    fn value(&self, shelf: Shelf, key: String) -> Pending<'_, Option<Kept>> {
        let Shelf { app, store } = shelf;
        Box::pin(async move { self.first(&Question::Kept { app, store, key }).await })
    }

    fn state(&self) -> NodeState {
        let mut state = NodeState::default();
        for (base, sighting) in self.control.observed().bases() {
            let status = &sighting.status;
            state.applied = state.applied.max(status.applied);
            if let Some(refusal) = &status.refused {
                state.refused.get_or_insert(format!("base {base}: {}", refusal.reason));
            }
            let told = status.not_open.iter().map(|(name, why)| (format!("{base}: {name}"), why.clone()));
            state.not_open.extend(told);
            let named = status.listeners.iter().map(|(name, at)| (format!("{base}: {name}"), *at));
            state.listeners.extend(named);
            let told = status.components.iter().map(|(name, one)| (format!("{base}: {name}"), one.clone()));
            state.components.extend(told);
            let told = status.blocks.iter().map(|(name, blocks)| (format!("{base}: {name}"), blocks.clone()));
            state.blocks.extend(told);
        }
        state
    }

    fn logs(&self, app: &AppId, only: Option<&InstanceId>, tail: usize, follow: bool) -> Flow<LogLine> {
        let view = self.control.view();
        let wanted = |one: &&InstanceRecord| only.is_none_or(|only| *only == one.id);
        let mut bases: BTreeMap<BaseId, InstanceId> = BTreeMap::new();
        for one in view.records.of(app).filter(wanted) {
            bases.entry(one.base.clone()).or_insert_with(|| one.id.clone());
        }
        let mut all = SelectAll::new();
        for (base, instance) in bases {
            let question = Question::Logs { app: app.clone(), instance: only.cloned(), tail, follow };
            let lines = self.answers(&base, &question).map(move |line| {
                line.unwrap_or_else(|why| LogLine {
                    instance: instance.to_string(),
                    time_ms: 0,
                    stream: "note".to_owned(),
                    text: format!("its output is on its base, which does not tell it: {why}"),
                })
            });
            all.push(lines.boxed());
        }
        if follow {
            return all.boxed();
        }
        let sorted = async move { futures_util::stream::iter(latest(all.collect().await, tail)) };
        futures_util::stream::once(sorted).flatten().boxed()
    }

    fn calls(&self, filter: CallFilter) -> Flow<seam::Told> {
        tapped(self.control.clone(), self.asker.clone(), filter)
    }

    fn look(&self, look: Look) -> Pending<'_, Value> {
        Box::pin(async move {
            let base = self.named(look.base.as_deref())?;
            let mut page: Value = self.answer(&base, &Question::Look(look)).await?;
            let Some(fields) = page.as_object_mut() else {
                return Err(Refusal::internal(format!("base {base} answered something that is no page")));
            };
            fields.insert("base".to_owned(), base.as_str().into());
            Ok(page)
        })
    }

    fn inside(&self, place: Place, wish: Wish) -> Pending<'_, Value> {
        Box::pin(async move {
            if wish.is_list() && place.base.is_none() {
                let order = match &wish {
                    Wish::Locks { limit, .. } => Some(Order { place: place_of_lock, limit: *limit }),
                    Wish::Topics | Wish::Peek { .. } | Wish::Replay { .. } | Wish::Unlock { .. } => None,
                };
                return self.list(self.connected(), Question::Inside { place, wish }, order).await;
            }
            let base = self.named(place.base.as_deref())?;
            self.answer(&base, &Question::Inside { place, wish }).await
        })
    }

    fn jobs(&self, wanted: Jobs) -> Pending<'_, Value> {
        Box::pin(async move {
            let bases = match &wanted.base {
                Some(base) => vec![self.named(Some(base))?],
                None => self.connected(),
            };
            let order = Order { place: place_of_job, limit: wanted.limit };
            self.list(bases, Question::Jobs(wanted), Some(order)).await
        })
    }

    fn forget_job(&self, app: AppId, name: String, base: Option<String>) -> Pending<'_, ()> {
        Box::pin(async move {
            let base = self.named(base.as_deref())?;
            self.answer(&base, &Question::ForgetJob { app, name }).await
        })
    }

    fn publish(&self, message: Message) -> Pending<'_, ()> {
        let Message { namespace, pubsub, topic, content_type, data } = message;
        let question = Question::Publish { namespace, pubsub, topic, content_type, data: data.to_vec() };
        Box::pin(async move { self.first(&question).await })
    }

    fn config_get(&self, key: ConfigKey) -> Pending<'_, Option<String>> {
        let ConfigKey { namespace, store, key: name } = key.clone();
        Box::pin(async move {
            let asked = self.first(&Question::ConfigGet { namespace, store, key: name }).await;
            match (asked, self.kept(&key).await?) {
                (Ok(Some(value)), _) => Ok(Some(value)),
                // It is on its way to the bases, or there are none yet.
                (Ok(None) | Err(_), Some(kept)) => Ok(Some(kept)),
                (asked, None) => asked,
            }
        })
    }

    fn config_set(&self, key: ConfigKey, value: Option<String>) -> Pending<'_, bool> {
        Box::pin(self.keep(key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_of_all_bases_come_page_by_page() {
        let all = [("one", vec!["a", "c", "e"]), ("two", vec!["b", "c", "f"]), ("three", vec![])];
        let page = |after: &str| {
            let told = all.iter().map(|(base, locks)| {
                let rest: Vec<&str> = locks.iter().copied().filter(|lock| *lock > after).collect();
                let own = &rest[..rest.len().min(2)];
                let items: Vec<Value> = own.iter().map(|lock| json!({ "resource": lock })).collect();
                let next = own.last().filter(|_| own.len() == 2);
                (BaseId::new(*base), json!({ "items": items, "next": next }))
            });
            let (items, next) = together(told.collect(), Some(Order { place: place_of_lock, limit: 2 }));
            let names =
                items.iter().map(|one| format!("{}@{}", one["resource"], one["base"]).replace('"', ""));
            (names.collect::<Vec<_>>().join(" "), next)
        };
        assert_eq!(page(""), ("a@one b@two".to_owned(), Some("b".to_owned())));
        assert_eq!(page("b"), ("c@one c@two".to_owned(), Some("c".to_owned())));
        assert_eq!(page("c"), ("e@one f@two".to_owned(), None));
        assert_eq!(page("f"), (String::new(), None));
    }
}

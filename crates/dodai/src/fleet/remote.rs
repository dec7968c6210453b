//! What the management API of a server answers about bases that run elsewhere.
//!
//! Calls go to a base's mesh port with the server's certificate, as somebody outside: policy holds for them.
//! Outputs, messages and configuration values live on the bases; what cannot be had from here says where it is.

use std::time::Duration;

use dodai_admin::Refusal;
use dodai_admin::seam::{self, CallFilter, ConfigKey, Flow, LogLine, Message, NodeState, Pending, Usage};
use dodai_control::control::Control;
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
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;

/// How long a base may take to be connected to.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an app may take to answer a call that has no deadline of its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bases, seen from the server.
pub struct Fleet {
    control: Control,
    connector: Connector,
    trust: Trust,
    tasks: Tasks,
}

impl Fleet {
    /// Sees what `control` sees; calls bases with the server's certificate.
    pub fn new(control: Control, own: LiveSvid, trust: Trust, tasks: &Tasks) -> Fleet {
        let connector = Connector::new(own, trust.clone(), &[], Clock::system());
        Fleet { control, connector, trust, tasks: tasks.clone() }
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
            let sighting = observed.bases.get(&one.base).filter(|base| base.connected)?;
            Some((one.base.clone(), sighting.status.mesh?))
        });
        let (base, address) = found.ok_or_else(|| {
            none(format!("no connected base with an instance of {app} has told its mesh address"))
        })?;
        Ok((base, address, ServiceId { owner: app.clone(), port }))
    }

    async fn carry(&self, call: Call) -> Result<Reply, Failure> {
        let authority = call.head.uri.authority().map(ToString::to_string).unwrap_or_default();
        let (name, namespace) = host_of(&authority).split_once('.').unwrap_or((&authority, "default"));
        let app = AppId::parse(&format!("{namespace}/{name}"))
            .map_err(|error| Failure::new(Kind::NoRoute, error.to_string()))?;
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
        let body = body.map_err(|error| Failure::new(Kind::Connect, error.to_string()));
        Ok(Reply { head, body: Body::boxed(body) })
    }

    /// The bases that run an app, for people.
    fn where_is(&self, app: &AppId) -> String {
        let view = self.control.view();
        let mut bases: Vec<String> = view.records.of(app).map(|one| one.base.to_string()).collect();
        bases.sort();
        bases.dedup();
        if bases.is_empty() { "no base yet".to_owned() } else { bases.join(", ") }
    }
}

impl Door for Fleet {
    fn enter(&self, call: Call) -> Answer<'_> {
        Box::pin(async move {
            let left =
                call.context.deadline.map(|at| at.saturating_duration_since(std::time::Instant::now()));
            let late = |_| Failure::new(Kind::Timeout, "no answer in time");
            tokio::time::timeout(left.unwrap_or(PATIENCE), self.carry(call)).await.map_err(late)?
        })
    }
}

fn elsewhere<T>(what: &'static str) -> Pending<'static, T> {
    let remedy = "ask the base that holds it: call the runtime API of an app that runs there";
    let text = format!("{what} live on the bases, and this server cannot reach into them");
    let refusal = Refusal::new(StatusCode::NOT_IMPLEMENTED, "elsewhere", text).remedy(remedy);
    Box::pin(async move { Err(refusal) })
}

impl seam::Node for Fleet {
    fn usage(&self, _instance: &InstanceId) -> Usage {
        Usage::default()
    }

    fn state(&self) -> NodeState {
        let mut state = NodeState::default();
        for (base, sighting) in self.control.observed().bases {
            let status = sighting.status;
            state.applied = state.applied.max(status.applied);
            if let Some(refusal) = status.refused {
                state.refused.get_or_insert(format!("base {base}: {}", refusal.reason));
            }
            let named = status.listeners.into_iter().map(|(name, at)| (format!("{base}: {name}"), at));
            state.listeners.extend(named);
            for (name, health) in status.components {
                let problem = (!health.ready).then_some(health.reason);
                state.components.insert(format!("{base}: {name}"), problem);
            }
        }
        state
    }

    fn logs(&self, app: &AppId, _: Option<&InstanceId>, _: usize, _: bool) -> Flow<LogLine> {
        let text = format!(
            "the output of {app} is on its bases ({}), in `logs/` of their data folders",
            self.where_is(app)
        );
        let line = LogLine { instance: String::new(), time_ms: 0, stream: "note".to_owned(), text };
        futures_util::stream::iter([line]).boxed()
    }

    fn calls(&self, _: CallFilter) -> Flow<serde_json::Value> {
        futures_util::stream::empty().boxed()
    }

    fn publish(&self, _: Message) -> Pending<'_, ()> {
        elsewhere("pub/sub components")
    }

    fn config_get(&self, _: ConfigKey) -> Pending<'_, Option<String>> {
        elsewhere("configuration stores")
    }

    fn config_set(&self, _: ConfigKey, _: Option<String>) -> Pending<'_, bool> {
        elsewhere("configuration stores")
    }
}

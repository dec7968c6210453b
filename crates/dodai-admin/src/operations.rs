//! The operations of the API: one table, from which the router and the description are made.
//!
//! To add one, write its handler with types of `wire` and a row here; then `cargo xtask schema` and
//! `cargo xtask console`.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use http::StatusCode;

use crate::api::Parts;
use crate::wire::Described;
use crate::{
    apps, backup, components, debug, documents, externals, inside, jobs, joining, live, node, roots, session,
};

/// How something is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`.
    Get,
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
}

impl Method {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        }
    }

    fn filter(self) -> MethodFilter {
        match self {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
            Method::Put => MethodFilter::PUT,
            Method::Delete => MethodFilter::DELETE,
        }
    }
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever has the token, or a session of the console.
    Session,
    /// Only who has the token itself.
    Token,
    /// Everybody who reaches the listener.
    Everybody,
}

/// The status and the code of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub StatusCode, pub &'static str);

/// What the gate refuses before any operation, the first but not from those that are for everybody.
pub const EVERY: &[Reason] = &[
    Reason(StatusCode::UNAUTHORIZED, "unauthorized"),
    Reason(StatusCode::FORBIDDEN, "foreign_origin"),
    Reason(StatusCode::MISDIRECTED_REQUEST, "unknown_host"),
];

const BAD_REQUEST: Reason = Reason(StatusCode::BAD_REQUEST, "bad_request");
const NOT_FOUND: Reason = Reason(StatusCode::NOT_FOUND, "not_found");
const TOO_LARGE: Reason = Reason(StatusCode::PAYLOAD_TOO_LARGE, "too_large");
const INVALID: Reason = Reason(StatusCode::UNPROCESSABLE_ENTITY, "invalid_documents");
const ARTIFACT: Reason = Reason(StatusCode::UNPROCESSABLE_ENTITY, "artifact");
const CONFLICT: Reason = Reason(StatusCode::CONFLICT, "conflict");
const NOT_RESTARTED: Reason = Reason(StatusCode::CONFLICT, "not_restarted");
const NOT_ROLLED_BACK: Reason = Reason(StatusCode::CONFLICT, "not_rolled_back");
const STATE: Reason = Reason(StatusCode::CONFLICT, "state");
const PUBLISH_REFUSED: Reason = Reason(StatusCode::BAD_REQUEST, "publish");
const PUBLISH_FAILED: Reason = Reason(StatusCode::BAD_GATEWAY, "publish");
const COMPONENT: Reason = Reason(StatusCode::CONFLICT, "component");
const NOT_A_SERVER: Reason = Reason(StatusCode::CONFLICT, "not_a_server");
const NOT_CONFIRMED: Reason = Reason(StatusCode::CONFLICT, "not_confirmed");
const ROTATION: Reason = Reason(StatusCode::CONFLICT, "rotation");
const UNSUPPORTED: Reason = Reason(StatusCode::NOT_IMPLEMENTED, "unsupported");
const STORE: Reason = Reason(StatusCode::SERVICE_UNAVAILABLE, "store");
const NO_BASE: Reason = Reason(StatusCode::SERVICE_UNAVAILABLE, "no_base");

/// What of an operation its handler does not say.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// How it is asked for.
    pub method: Method,
    /// Where, as the router has it: `{name}` is one segment, `{*name}` all that are left.
    pub path: &'static str,
    /// Its name for programs.
    pub id: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Who may ask.
    pub access: Access,
    /// Why it refuses, beside [`EVERY`].
    pub refuses: &'static [Reason],
}

impl Operation {
    const fn new(method: Method, path: &'static str, id: &'static str, summary: &'static str) -> Operation {
        Operation { method, path, id, summary, access: Access::Session, refuses: &[] }
    }

    const fn access(mut self, access: Access) -> Operation {
        self.access = access;
        self
    }

    const fn refuses(mut self, refuses: &'static [Reason]) -> Operation {
        self.refuses = refuses;
        self
    }

    /// Where, as OpenAPI has it, which knows no places of several segments.
    pub fn described_path(&self) -> String {
        self.path.replace("{*", "{")
    }
}

const fn get(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::Get, path, id, summary)
}

const fn post(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::Post, path, id, summary)
}

const fn put(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::Put, path, id, summary)
}

const fn delete(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::Delete, path, id, summary)
}

/// What is told the operations.
pub(crate) trait Table {
    /// One of them.
    fn add<H, M, A>(&mut self, operation: Operation, handler: H)
    where
        H: Handler<M, Arc<Parts>> + Described<A>,
        M: 'static;
}

/// The router of all operations.
pub(crate) fn routes() -> Router<Arc<Parts>> {
    struct Routes(Router<Arc<Parts>>);

    impl Table for Routes {
        fn add<H, M, A>(&mut self, operation: Operation, handler: H)
        where
            H: Handler<M, Arc<Parts>> + Described<A>,
            M: 'static,
        {
            let router = std::mem::take(&mut self.0);
            self.0 = router.route(operation.path, on(operation.method.filter(), handler));
        }
    }

    let mut routes = Routes(Router::new());
    operations(&mut routes);
    routes.0
}

/// Every operation, without its handler.
pub fn list() -> Vec<Operation> {
    struct List(Vec<Operation>);

    impl Table for List {
        fn add<H, M, A>(&mut self, operation: Operation, _handler: H) {
            self.0.push(operation);
        }
    }

    let mut list = List(Vec::new());
    operations(&mut list);
    list.0
}

/// Tells every operation.
pub(crate) fn operations(table: &mut impl Table) {
    server(table);
    of_documents(table);
    of_apps(table);
    of_calls(table);
    of_components(table);
    of_trust(table);
}

fn server(table: &mut impl Table) {
    let health = get("/healthz", "health", "Whether it is there; needs no token.").access(Access::Everybody);
    table.add(health, node::health);
    table.add(get("/metrics", "metrics", "The metrics page."), node::metrics);
    table.add(get("/v1/session", "session", "Whether a session goes on."), session::show);
    let text = "Begins a session of the console: a token for a cookie and a key.";
    let begin = post("/v1/session", "beginSession", text).access(Access::Token).refuses(&[BAD_REQUEST]);
    table.add(begin, session::begin);
    table.add(delete("/v1/session", "endSession", "Ends a session."), session::end);
    let text = "The server: version, what is not ready, listeners, store.";
    table.add(get("/v1/status", "status", text).refuses(&[STORE]), node::status);
    table
        .add(post("/v1/shutdown", "shutdown", "Begins an orderly stop and answers at once."), node::shutdown);
    let text = "What is new, once a second. `beat` events have an id to go on after; `anew` says that some were missed.";
    table.add(get("/v1/live", "live", text).refuses(&[BAD_REQUEST]), live::live);
    table.add(get("/v1/store", "store", "The store.").refuses(&[STORE]), node::store);
    let backup = post("/v1/store/backup", "backup", "A copy of the store.");
    table.add(backup.refuses(&[BAD_REQUEST, TOO_LARGE, STORE]), backup::backup);
    table.add(get("/v1/bases", "bases", "Every base that was seen."), node::bases);
    let text = "What a base is at this moment: table, clusters, connections or certificates.";
    table.add(get("/debug/{view}", "look", text).refuses(&[BAD_REQUEST, NOT_FOUND, NO_BASE]), debug::look);
}

fn of_documents(table: &mut impl Table) {
    let kinds = get("/v1/kinds", "kinds", "Every kind of document, and which there are.");
    table.add(kinds, documents::kinds);
    let schema = get("/v1/schema/{kind}", "schema", "The JSON schema of a kind.");
    table.add(schema.refuses(&[BAD_REQUEST]), documents::schema);
    let list = get("/v1/documents", "documents", "Documents of a kind.");
    table.add(list.refuses(&[BAD_REQUEST, STORE]), documents::list);
    let text = "Applies documents, all or none. The body is YAML, or JSON with files.";
    let apply = post("/v1/documents", "apply", text);
    table.add(apply.refuses(&[BAD_REQUEST, TOO_LARGE, INVALID, CONFLICT, STORE]), documents::apply);
    let one = "/v1/documents/{kind}/{namespace}/{name}";
    let get_one = get(one, "document", "One document.");
    table.add(get_one.refuses(&[BAD_REQUEST, NOT_FOUND, STORE]), documents::get);
    let delete_one = delete(one, "deleteDocument", "Removes a document.");
    table.add(delete_one.refuses(&[BAD_REQUEST, NOT_FOUND, INVALID, CONFLICT, STORE]), documents::delete);
    let text =
        "The last versions of a document, newest first, with who made them; also when it is there no more.";
    let history = get("/v1/history/{kind}/{namespace}/{name}", "history", text);
    table.add(history.refuses(&[BAD_REQUEST, STORE]), documents::history);
    let text = "Documents that there are, and then every change of them.";
    table.add(get("/v1/watch", "watch", text).refuses(&[BAD_REQUEST]), documents::watch);
    let text = "What happened, oldest first; with `follow` also what comes.";
    table.add(get("/v1/events", "events", text).refuses(&[BAD_REQUEST]), node::events);
    let text = "The change log of the store, oldest first.";
    table.add(get("/v1/changes", "changes", text).refuses(&[BAD_REQUEST, STORE]), node::changes);
}

fn of_apps(table: &mut impl Table) {
    table.add(get("/v1/instances", "instances", "Every instance, by app and age."), apps::instances);
    table.add(
        get("/v1/externals", "externals", "Apps that run elsewhere, each address tried."),
        externals::list,
    );
    let upload = post("/v1/artifacts", "upload", "Keeps a WASM component.");
    table.add(upload.refuses(&[BAD_REQUEST, TOO_LARGE, ARTIFACT]), apps::upload);
    let prepare = post("/v1/artifacts/{digest}/prepare", "prepare", "Compiles an artefact.");
    table.add(prepare.refuses(&[ARTIFACT]), apps::prepare);
    let text =
        "Makes a component the artefact of an app. The body is the component, or JSON with its digest.";
    let deploy = post("/v1/apps/{namespace}/{name}/deploy", "deploy", text);
    let refuses = &[BAD_REQUEST, NOT_FOUND, TOO_LARGE, ARTIFACT, INVALID, CONFLICT, STORE];
    table.add(deploy.refuses(refuses), apps::deploy);
    let text = "New instances beside the old, then in their place.";
    let restart = post("/v1/apps/{namespace}/{name}/restart", "restart", text);
    table.add(restart.refuses(&[BAD_REQUEST, NOT_FOUND, NOT_RESTARTED, STORE]), apps::restart);
    let text = "Goes back to a revision, or to the one that served before.";
    let rollback = post("/v1/apps/{namespace}/{name}/rollback", "rollback", text);
    table.add(rollback.refuses(&[BAD_REQUEST, NOT_FOUND, TOO_LARGE, NOT_ROLLED_BACK, STORE]), apps::rollback);
    let logs = get("/v1/apps/{namespace}/{name}/logs", "logs", "Lines of output.");
    table.add(logs.refuses(&[BAD_REQUEST, NOT_FOUND]), apps::logs);
    let keys = "/v1/apps/{namespace}/{name}/state/{store}";
    let keys = get(keys, "keys", "Keys that an app keeps in a state store.");
    table.add(keys.refuses(&[BAD_REQUEST, NOT_FOUND, STATE, NO_BASE]), components::keys);
    let kept =
        get("/v1/apps/{namespace}/{name}/state/{store}/{*key}", "kept", "One value that an app keeps.");
    table.add(kept.refuses(&[BAD_REQUEST, NOT_FOUND, STATE, NO_BASE]), components::kept);
}

fn of_calls(table: &mut impl Table) {
    let text = "A call through the mesh as somebody outside. Headers travel both ways in `dodai-call-header: name: \
                value`, the status comes in `dodai-call-status`. What fails on its way to the app is a refusal with \
                the failure's status and code.";
    table.add(post("/v1/call", "call", text).refuses(&[BAD_REQUEST, NOT_FOUND, TOO_LARGE]), apps::call);
    let text = "Calls as they end, without end. What is given must all hold.";
    table.add(get("/v1/calls", "calls", text).refuses(&[BAD_REQUEST]), node::calls);
    let text = "Rates, errors and latencies of apps and edges.";
    table.add(get("/v1/traffic", "traffic", text).refuses(&[BAD_REQUEST]), live::traffic);
}

fn of_components(table: &mut impl Table) {
    table.add(get("/v1/components", "components", "Components as they stand."), components::list);
    let key = "/v1/config/{store}/{key}";
    let config_get = get(key, "configGet", "A configuration value.");
    table.add(config_get.refuses(&[BAD_REQUEST, NOT_FOUND, NO_BASE]), node::config_get);
    let config_set = put(key, "configSet", "Writes a configuration value.");
    table.add(config_set.refuses(&[BAD_REQUEST, NOT_FOUND, TOO_LARGE, NO_BASE]), node::config_set);
    let config_delete = delete(key, "configDelete", "Removes a configuration value.");
    table.add(config_delete.refuses(&[BAD_REQUEST, NOT_FOUND, NO_BASE]), node::config_delete);
    let publish = post("/v1/publish/{pubsub}/{topic}", "publish", "Publishes a message.");
    table.add(
        publish.refuses(&[BAD_REQUEST, TOO_LARGE, PUBLISH_REFUSED, PUBLISH_FAILED, NO_BASE]),
        node::publish,
    );
    const INSIDE: &[Reason] = &[BAD_REQUEST, NOT_FOUND, COMPONENT, UNSUPPORTED, NO_BASE];
    const INSIDE_CONFLICT: &[Reason] =
        &[BAD_REQUEST, NOT_FOUND, TOO_LARGE, COMPONENT, CONFLICT, UNSUPPORTED, NO_BASE];
    let topics = get("/v1/topics/{pubsub}", "topics", "How the groups of a component's topics stand.");
    table.add(topics.refuses(INSIDE), inside::topics);
    let text =
        "Messages that a group has yet to settle, oldest first. Nothing is taken or counted by looking.";
    table.add(get("/v1/topics/{pubsub}/{topic}", "peek", text).refuses(INSIDE), inside::peek);
    let text = "Moves a message that a group has yet to settle to another topic, in one step: afterwards it is in \
                exactly one of the two.";
    let replay = post("/v1/topics/{pubsub}/{topic}/replay", "replay", text);
    table.add(replay.refuses(INSIDE_CONFLICT), inside::replay);
    table.add(get("/v1/locks/{store}", "locks", "Locks that are held.").refuses(INSIDE), inside::locks);
    let unlock = delete("/v1/locks/{store}/{*resource}", "unlock", "Takes a lock away from its owner.");
    table.add(unlock.refuses(INSIDE_CONFLICT), inside::unlock);
    let list = get("/v1/jobs", "jobs", "Jobs of apps as they stand, by app and name.");
    table.add(list.refuses(&[BAD_REQUEST, NOT_FOUND, STORE, NO_BASE]), jobs::list);
    let text = "Forgets a job of an app. A run that is under way goes on.";
    let forget = delete("/v1/jobs/{namespace}/{app}/{job}", "deleteJob", text);
    table.add(forget.refuses(&[BAD_REQUEST, NOT_FOUND, STORE, NO_BASE]), jobs::delete);
}

fn of_trust(table: &mut impl Table) {
    let text = "A token with which a base joins. It is shown this once.";
    let create = post("/v1/tokens", "createToken", text);
    table.add(create.refuses(&[BAD_REQUEST, TOO_LARGE, NOT_A_SERVER, STORE]), joining::create);
    let show = get("/v1/ca", "roots", "The roots of the mesh, how far each base is, and what is revoked.");
    table.add(show.refuses(&[NOT_A_SERVER, STORE]), roots::show);
    let step = post("/v1/ca/steps/{step}", "rootStep", "Takes a step of a rotation of the root.");
    let refuses = &[BAD_REQUEST, NOT_FOUND, NOT_A_SERVER, NOT_CONFIRMED, ROTATION, STORE];
    table.add(step.refuses(refuses), roots::step);
    let whose = "/v1/ca/revoked/{*whose}";
    let revoke = put(whose, "revoke", "Makes certificates void.");
    table.add(revoke.refuses(&[BAD_REQUEST, NOT_A_SERVER, STORE]), roots::revoke);
    let reinstate = delete(whose, "reinstate", "Takes that back.");
    table.add(reinstate.refuses(&[BAD_REQUEST, NOT_FOUND, NOT_A_SERVER, STORE]), roots::reinstate);
}

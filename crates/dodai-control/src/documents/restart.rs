//! `restart`: an app started anew without a change to it.
//!
//! The time of the restart goes into the id of the app's revision, so that a restart is a rollout like any other:
//! new instances come up beside the old, calls move, the old drain. If the new ones do not start, the old stay.

use dodai_api::{App, Document, DocumentKey, RevisionChoice, Workload};
use dodai_core::id::AppId;
use dodai_store::{Cause, Check, Ordering, Txn};

use super::merge::{ARTIFACT_DIGEST, RESTARTED};
use super::{ATTEMPTS, DocumentStore, busy, decode, encode, store_key};
use crate::error::{Error, Result};

impl DocumentStore {
    /// Lets an app be started anew. Returns the document as written.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::NotRestarted`] for apps that nothing here starts.
    pub async fn restart(&self, app: &AppId, actor: &str) -> Result<Document> {
        let key: DocumentKey = format!("App/{app}").parse().expect("an app's id names a document");
        for _ in 0..ATTEMPTS {
            let found = self.store().get(&store_key(&key)).await?.kv;
            let kv = found.ok_or_else(|| Error::NotFound(key.clone()))?;
            let mut next = decode(&kv)?;
            let Document::App(document) = &mut next else { return Err(Error::NotFound(key)) };
            if let Some(reason) = refusal(document) {
                return Err(Error::NotRestarted { app: app.to_string(), reason });
            }
            let metadata = &mut document.metadata;
            metadata.annotations.insert(RESTARTED.to_owned(), self.now());
            metadata.generation = Some(metadata.generation.unwrap_or(0) + 1);
            let txn = Txn::new(Cause::new(actor, format!("restart {app}")))
                .when(&kv.key, Check::ModRevision(Ordering::Equal, kv.mod_revision))
                .put(&kv.key, encode(&next));
            if self.store().txn(txn).await?.held {
                return Ok(next);
            }
        }
        Err(busy(&key.to_string()))
    }
}

/// Why a restart would do nothing.
fn refusal(app: &App) -> Option<String> {
    if let Some(Workload::External(external)) = app.spec.workload() {
        let how = match &external.start {
            Some(start) => format!("restart it there, with: {start}"),
            None => "restart it there".to_owned(),
        };
        return Some(format!("it runs elsewhere, and nothing here starts it; {how}"));
    }
    if app.spec.module.is_some() && !app.metadata.annotations.contains_key(ARTIFACT_DIGEST) {
        return Some(
            "its artefact has not been uploaded; run `dodai up` or `dodai apply` in the project".to_owned(),
        );
    }
    gives_latest_nothing(app).then(|| {
        "its `spec.traffic` names revisions, and the new one would get none; give `latest` a weight first"
            .to_owned()
    })
}

/// Whether an app says who gets its calls, and a new revision would not.
pub(super) fn gives_latest_nothing(app: &App) -> bool {
    let mut shares = app.spec.traffic.iter().filter(|share| share.weight.0 > 0).peekable();
    shares.peek().is_some() && !shares.any(|share| share.revision == RevisionChoice::Latest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_do_nothing_is_refused_with_what_helps() {
        let check = |spec: &str, expect: Option<&str>| {
            let spec: serde_json::Value = serde_json::from_str(spec).expect("JSON");
            let app = serde_json::json!({
                "apiVersion": "dodai.dev/v1", "kind": "App", "metadata": {"name": "shop"}, "spec": spec
            });
            let Ok(Document::App(app)) = Document::from_value(&app) else { panic!("{app} is no app") };
            let found = refusal(&app);
            assert_eq!(found.is_some(), expect.is_some(), "{spec}: {found:?}");
            assert!(found.unwrap_or_default().contains(expect.unwrap_or_default()), "{spec}");
        };
        let process = |traffic: &str| {
            format!(r#"{{"process": {{"command": ["python3", "a.py"]}}, "traffic": [{traffic}]}}"#)
        };
        check(&process(""), None);
        check(&process(r#"{"revision": "latest", "weight": 1}"#), None);
        check(&process(r#"{"revision": "0123456789", "weight": 1}"#), Some("give `latest`"));
        check(r#"{"module": {"artifact": "a.wasm"}}"#, Some("dodai apply"));
        check(
            r#"{"external": {"addresses": ["127.0.0.1:1"], "start": "make run"}, "services": [{"name": "http"}]}"#,
            Some("with: make run"),
        );
    }
}

//! Why an app does not run, in its condition: base by base.

use std::sync::Arc;
use std::time::Duration;

use dodai_api::{Document, DocumentKey};
use dodai_control::control::Control;
use dodai_control::documents::FieldOwner;
use dodai_control::snapshot::BaseSettings;
use dodai_core::id::BaseId;
use dodai_core::task::{Kind, Tasks};
use dodai_store::MemoryStore;

use super::played::{apply, play, settings, yaml};

/// Two bases that obey, `small` and `edge`; a third that never came.
async fn condition(text: &str, app: &str) -> (String, String) {
    let tasks = Tasks::new();
    let control =
        Control::start(Arc::new(MemoryStore::new(&tasks)), settings(), &tasks).await.expect("starts");
    for base in ["edge", "small"] {
        let link = control.link(BaseId::new(base), BaseSettings::default()).await.expect("links");
        tasks.spawn(Kind::Loop, play(link, None));
    }
    let bases = "apiVersion: dodai.dev/v1
kind: Base
metadata: {name: small}
spec: {capacity: {memory: 1Gi}}
---
apiVersion: dodai.dev/v1
kind: Base
metadata: {name: edge}
spec: {labels: {site: berlin}}
---
apiVersion: dodai.dev/v1
kind: Base
metadata: {name: gone}
spec: {}
---
";
    let documents = yaml(&(bases.to_owned() + text));
    control.apply(&apply(&documents, FieldOwner::Cli, None)).await.expect("applies");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let key: DocumentKey = format!("App/default/{app}").parse().expect("a key");
    let Ok(Document::App(app)) = control.get(&key).await else { panic!("{key} is there") };
    let one = app.status.expect("it has a status").conditions[0].clone();
    (one.reason, one.message)
}

fn process(name: &str, more: &str) -> String {
    format!(
        "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: {name}}}\nspec: {{process: {{command: [./run]}}, {more}}}\n---\n"
    )
}

#[tokio::test(start_paused = true)]
async fn an_app_that_no_base_takes_says_why_for_each() {
    let placed = process("a", "placement: {labels: {site: berlin}}, limits: {memory: 2Gi}");
    let (reason, message) = condition(&placed.replace("berlin", "bonn"), "a").await;
    assert_eq!(reason, "NoBase");
    for part in [
        "base edge has no label `site: bonn`",
        "base small has no label `site: bonn`",
        "base gone is not connected",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let large = process("a", "limits: {memory: 2Gi}, placement: {labels: {}}");
    assert_eq!(condition(&large, "a").await.0, "InstancesReady", "`edge` bounds nothing");
    let two = process("a", "limits: {memory: 700Mi}, scale: {min: 2}, services: [{name: http, port: 8080}]");
    assert_eq!(condition(&two, "a").await.0, "InstancesReady", "one on each");
    let three = two.replace("min: 2", "min: 3");
    let (reason, message) = condition(&three, "a").await;
    assert_eq!(reason, "Progressing", "two of three run: {message}");
    for part in
        ["2 of 3", "base edge has port 8080 taken by default/a", "base small has 324Mi of its memory left"]
    {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_runs_elsewhere_says_how_it_is_started() {
    let text = "apiVersion: dodai.dev/v1
kind: App
metadata: {name: old}
spec: {external: {addresses: ['127.0.0.1:9'], start: ./old.sh}, services: [{name: http}]}
";
    let (reason, message) = condition(text, "old").await;
    assert_eq!(reason, "External");
    assert!(message.ends_with("start it: ./old.sh"), "{message}");
}

const REFERRING: &str = "apiVersion: dodai.dev/v1
kind: Policy
metadata: {name: p}
spec: {targetRefs: [{kind: App, name: a}], timeouts: {request: 1s}}
---
apiVersion: dodai.dev/v1
kind: Service
metadata: {name: front}
spec: {selector: {app: a}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec: {type: pubsub.in-memory, version: v1}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: s}
spec: {pubsubname: bus, topic: t, routes: {default: /t}}
---
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: c}
spec: {}
---
apiVersion: dapr.io/v1alpha1
kind: HTTPEndpoint
metadata: {name: out}
spec: {baseUrl: 'http://a.example'}
---
";

#[tokio::test(start_paused = true)]
async fn what_refers_to_something_that_is_deleted_says_so() {
    let tasks = Tasks::new();
    let control =
        Control::start(Arc::new(MemoryStore::new(&tasks)), settings(), &tasks).await.expect("starts");
    let documents = yaml(&(REFERRING.to_owned() + &process("a", "dapr: {configuration: c}")));
    control.apply(&apply(&documents, FieldOwner::Cli, None)).await.expect("applies");
    let keys = [
        "Policy/default/p",
        "Service/default/front",
        "Subscription/default/s",
        "Configuration/default/c",
        "HTTPEndpoint/default/out",
    ];
    let reasons = async || {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut all = Vec::new();
        for key in keys {
            let document = control.get(&key.parse().expect("a key")).await.expect("it is there").to_value();
            let condition = &document["status"]["conditions"][0];
            assert_eq!(condition["type"], "Accepted", "{key}");
            all.push(condition["reason"].as_str().expect("a word").to_owned());
        }
        all
    };
    assert_eq!(reasons().await, ["Accepted"; 5]);
    for key in ["App/default/a", "Component/default/bus"] {
        control.delete(&key.parse().expect("a key"), "test").await.expect("it is there");
    }
    assert_eq!(reasons().await, ["TargetNotFound", "NoApps", "ComponentNotFound", "NotUsed", "Accepted"]);
}

//! Health checks of modules as a user has them: what is not ready gets nothing.

use crate::project::{Project, get, until};

/// The project's module in its second version, ready when `path` is answered with success.
fn second(path: &str) -> String {
    format!(
        "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: hello}}\nspec:\n  module: {{artifact: artifacts/hello-v2.wasm, isolation: reuse}}\n  services: [{{name: http}}]\n  probes: {{readiness: {{httpGet: {{path: {path}}}, period: 100ms}}}}\n"
    )
}

fn apply(project: &Project, path: &str) {
    project.write("second.txt", &second(path));
    let applied = project.dodai(&["apply", "-f", "second.txt"]);
    assert!(applied.status.success(), "{}", applied.all());
}

#[test]
fn a_revision_that_is_never_ready_leaves_the_traffic_with_the_old_one() {
    let project = Project::new("probes");
    let up = project.dodai(&["up", &project.path(), "-d", "--threads", "1", "--admin", "127.0.0.1:0"]);
    assert!(up.status.success(), "{}", up.all());
    apply(&project, "/nothing");
    until("the new revision is asked and does not pass", || {
        let told = project.json(&["ps"]);
        told["items"].as_array().unwrap().iter().any(|one| {
            one["app"] == "default/hello"
                && one["phase"] == "unready"
                && one["reason"].as_str().is_some_and(|why| why.contains("GET /nothing answered 404"))
        })
    });
    for _ in 0..20 {
        assert_eq!(get(project.port, "/"), Ok("hello from v1\n".to_owned()), "the old one goes on");
    }
    apply(&project, "/");
    until("the next one passes and is switched to", || {
        get(project.port, "/") == Ok("hello from v2\n".to_owned())
    });
    let down = project.dodai(&["down"]);
    assert!(down.status.success(), "{}", down.all());
}

use dodai_api::Located;

use super::*;

fn component(name: &str, kind: &str, setting: &str, value: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\nspec: {{type: {kind}, version: v1, \
         metadata: [{{name: {setting}, value: '{value}'}}]}}\n"
    )
}

/// A folder with these files, and what its `dapr.yaml` comes to.
fn check(files: &[(&str, &str)]) -> (PathBuf, Checked) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let path = RunPath {
        file: root.join("dapr.yaml"),
        home: Some(root.join("home")),
        runtime: Some(root.join("runtime")).filter(|path| path.is_dir()),
    };
    let checked = path.check().unwrap();
    (root, checked)
}

fn read(files: &[(&str, &str)]) -> (PathBuf, Vec<Located<Document>>) {
    let (root, checked) = check(files);
    assert_eq!(checked.read.errors, Vec::new());
    (root, checked.read.documents)
}

/// Every problem of a `dapr.yaml` with these files beside it, by paths from its folder.
fn told(files: &[(&str, &str)]) -> String {
    let (root, Checked { read, .. }) = check(files);
    let all = read.errors.iter().chain(&read.warnings).map(|problem| format!("{problem}\n"));
    all.collect::<String>().replace(&format!("{}/", root.display()), "")
}

/// The first setting of each component by its name.
fn settings(documents: &[Located<Document>]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for one in documents {
        if let Document::Component(it) = &one.value {
            found.insert(it.metadata.name.to_string(), it.spec.metadata[0].text().unwrap());
        }
    }
    found
}

#[test]
fn paths_of_components_begin_in_the_folder_of_the_app() {
    let shared = component("shared", "state.sqlite", "connectionString", "shared.db");
    let of_one = component("of-one", "bindings.localstorage", "rootPath", "./files") + "scopes: [one]\n";
    let file = "version: 1
common: {resourcesPath: all}
apps: [{appDirPath: one}, {appDirPath: two, resourcesPaths: [../all, own]}]
";
    let (root, documents) = read(&[
        ("dapr.yaml", file),
        ("one/app.py", ""),
        ("all/shared.yaml", &shared),
        ("all/of-one.yaml", &of_one),
        ("two/own/a.yaml", &component("a", "secretstores.local.file", "SecretsFile", "s/secrets.json")),
        ("two/own/b.yaml", &component("b", "state.sqlite", "connectionString", "file:b.db?mode=rwc")),
        ("two/own/c.yaml", &component("c", "state.sqlite", "connectionString", ":memory:")),
        ("two/own/d.yaml", &component("d", "state.sqlite", "connectionString", "file:d?mode=memory")),
        ("two/own/e.yaml", &component("e", "state.sqlite", "connectionString", "/e.db")),
        ("two/own/f.yaml", &component("f", "pubsub.redis", "rootPath", "f")),
    ]);
    let expect = [
        ("a", format!("{}/two/s/secrets.json", root.display())),
        ("b", format!("file:{}/two/b.db?mode=rwc", root.display())),
        ("c", ":memory:".to_owned()),
        ("d", "file:d?mode=memory".to_owned()),
        ("e", "/e.db".to_owned()),
        ("f", "f".to_owned()),
        ("of-one", format!("{}/one/files", root.display())),
        // No one app's folder is meant.
        ("shared", format!("{}/shared.db", root.display())),
    ];
    assert_eq!(settings(&documents), expect.map(|(name, value)| (name.to_owned(), value)).into());
}

#[test]
fn the_runtime_path_of_all_begins_at_the_file() {
    let own = |name: &str| component(name, "state.redis", "redisHost", "localhost");
    let names = |common: &str, of_app: &str, more: &[(&str, &str)]| {
        let file = format!("version: 1\ncommon: {{{common}}}\napps: [{{appDirPath: app{of_app}}}]\n");
        let files = [
            ("dapr.yaml", file),
            ("app/app.py", String::new()),
            ("tools/.dapr/components/a.yaml", own("of-file")),
            ("app/tools/.dapr/components/a.yaml", own("of-app")),
            ("home/.dapr/components/a.yaml", own("of-home")),
        ];
        let files = files.iter().map(|(path, text)| (*path, text.as_str()));
        let files: Vec<(&str, &str)> = files.chain(more.iter().copied()).collect();
        settings(&read(&files).1).into_keys().collect::<Vec<_>>()
    };
    assert_eq!(names("runtimePath: ./tools", "", &[]), ["of-file"]);
    assert_eq!(names("runtimePath: nowhere", ", runtimePath: tools", &[]), ["of-app"]);
    assert_eq!(names("", "", &[]), ["of-home"]);
    let environment = own("of-environment");
    assert_eq!(names("", "", &[("runtime/.dapr/components/a.yaml", &environment)]), ["of-environment"]);
}

#[test]
fn what_it_is_made_of_is_watched_wherever_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let write = |path: &str, text: &str| {
        std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        std::fs::write(root.join(path), text).unwrap();
    };
    let apps = "apps: [{appDirPath: a}, {appDirPath: b, configFilePath: ../../config.yaml}]";
    write("shop/dapr.yaml", &format!("version: 1\ncommon: {{resourcesPath: ../outside}}\n{apps}\n"));
    for path in
        ["shop/a/.dapr/resources/a.yaml", "outside/b.yaml", "config.yaml", "shop/b/no.txt", "shop/b/no.yaml"]
    {
        write(path, "");
    }
    let path = RunPath { file: root.join("shop/dapr.yaml"), home: None, runtime: None };
    let mut expect = ["shop/dapr.yaml", "outside/b.yaml", "shop/a/.dapr/resources/a.yaml", "config.yaml"]
        .map(|path| root.join(path));
    let mut files: Vec<PathBuf> = path.files().iter().map(|path| path.canonicalize().unwrap()).collect();
    files.sort();
    expect.sort();
    assert_eq!(files, expect);
    write("shop/dapr.yaml", "version: 9\n");
    assert_eq!(path.files(), std::slice::from_ref(&path.file));
}

#[test]
fn every_problem_is_told_at_once_with_its_line() {
    let file = "version: 1
common: {resourcesPath: none, configFilePath: none.yaml}
apps:
  - {appID: a, appDirPath: one}
  - appID: My_App
    appDirPath: one
  - appDirPath: nowhere
  - {appID: a, appDirPath: one}
  - {appID: b, appDirPath: one, resourcesPaths: [own, gone], configFilePath: gone.yaml, command: ['']}
  - {appID: c, appDirPath: one, resourcesPath: own}
  - {appID: d, appDirPath: one, env: {APP_API_TOKEN: x}}
";
    let files = [
        ("dapr.yaml", file),
        ("one/own/a.yaml", "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: a}\nspec: {}\n"),
    ];
    let expect = r#"dapr.yaml:2:25: common.resourcesPath: there is no folder none; write its path from the folder of this file
dapr.yaml:2:47: common.configFilePath: there is no file none.yaml
dapr.yaml:5:12: apps[1].appID: appID My_App: an app's name stands in host names here; write appID my-app, and invoke it by that name
dapr.yaml:7:17: apps[2].appDirPath: there is no folder nowhere; write its path from the folder of this file
dapr.yaml:8:13: apps[3].appID: there are two apps `a`, the first is `apps[0]`; give one another `appID`
dapr.yaml:9:55: apps[4].resourcesPaths[1]: there is no folder one/gone; write its path from the folder of the app
dapr.yaml:9:78: apps[4].configFilePath: there is no file one/gone.yaml
dapr.yaml:9:98: apps[4].command: the command is empty; write the program and its arguments as a list, for example `["./server", "--port", "80"]`
one/own/a.yaml:4:1: spec.type: this key is missing; add `type:`
dapr.yaml:11:38: warning: apps[6].env: calls of the app bring no token: the program has the variable, and that is all; let the app take calls without one, or run it with `dodai daprd`, which sends it
"#;
    assert_eq!(told(&files), expect);
}

#[test]
fn what_an_app_names_must_be_in_what_it_reads() {
    let subscription = |topic: &str, pubsub: &str, more: &str| {
        format!(
            "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {{name: {topic}}}\nspec: {{topic: {topic}, \
             pubsubname: {pubsub}, routes: {{default: /}}}}\n{more}"
        )
    };
    let pubsub = component("pubsub", "pubsub.in-memory", "a", "b");
    let secret = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: keyed}\nspec: {type: state.redis, \
                  version: v1, metadata: [{name: redisPassword, secretKeyRef: {name: a, key: b}}]}\nauth: {secretStore: vault}\n";
    let file = "version: 1
common: {resourcesPath: all}
apps: [{appDirPath: one}, {appDirPath: two, resourcesPath: own}, {appDirPath: three}]
";
    let files = [
        ("dapr.yaml", file),
        ("one/app.py", ""),
        ("three/app.py", ""),
        ("all/pubsub.yaml", &(pubsub.clone() + "scopes: [one, three, tow]\n")),
        ("all/orders.yaml", &subscription("orders", "pubsub", "scopes: [one]\n")),
        ("all/typo.yaml", &subscription("typo", "pubsubb", "")),
        ("all/keyed.yaml", secret),
        ("two/own/late.yaml", &subscription("late", "pubsub", "scopes: [two, one]\n")),
        ("two/own/vault.yaml", &component("vault", "secretstores.local.env", "a", "b")),
        ("two/own/odd.yaml", &component("odd", "state.odd", "a", "b")),
    ];
    let expect = "all/keyed.yaml:5:21: warning: auth.secretStore: for `one`, `three`: there is no Component `vault` in namespace `default`; it is at two/own/vault.yaml:3, which `two` may use: name its folder in `resourcesPaths`, and the app in its `scopes` if it has any
all/pubsub.yaml:5:22: warning: scopes[2]: there is no app `tow` in the file; its apps are `one`, `three`, `two`
all/typo.yaml:4:33: warning: spec.pubsubname: for `one`, `three`: there is no Component `pubsubb` in namespace `default`; did you mean `pubsub`?
two/own/late.yaml:4:33: warning: spec.pubsubname: for `two`: there is no Component `pubsub` in namespace `default`; it is at all/pubsub.yaml:3, which `one`, `three` may use: name its folder in `resourcesPaths`, and the app in its `scopes` if it has any
two/own/late.yaml:5:15: warning: scopes[1]: the app `one` does not read the folder that this lies in; name the folder in its `resourcesPaths`, or take it out of `scopes`
two/own/odd.yaml:4:14: warning: spec.type: no driver of this build serves `state.odd`: the component will not come up; of `state` there are ";
    let told_of_it = told(&files);
    assert_eq!(told_of_it.get(..expect.len()), Some(expect), "{told_of_it}");
    // What each app reads twice, in folders of its own, is one document if it is the same.
    let twice = "version: 1\napps: [{appDirPath: one, resourcesPaths: [x, y]}, {appDirPath: two, resourcesPath: ../one/x}]\n";
    let other = component("pubsub", "pubsub.redis", "a", "b");
    let both = |second: &str| {
        told(&[
            ("dapr.yaml", twice),
            ("two/app.py", ""),
            ("one/x/pubsub.yaml", &pubsub),
            ("one/y/again.yaml", second),
        ])
    };
    assert_eq!(both(&pubsub), "");
    let expect = "one/y/again.yaml:3:18: metadata.name: Component/default/pubsub is not the one of one/x/pubsub.yaml:3; app `one` reads both: remove one, or give it another name
";
    assert_eq!(both(&other), expect);
}

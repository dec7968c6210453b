use crate::environment::Environment;

use super::*;

fn component(name: &str, kind: &str, setting: &str, value: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\nspec: {{type: {kind}, version: v1, \
         metadata: [{{name: {setting}, value: '{value}'}}]}}\n"
    )
}

/// A folder with these files, and what is read of its `dapr.yaml`.
fn read(files: &[(&str, &str)]) -> (PathBuf, Vec<Located<Document>>) {
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
    let output = Output::plain(&Environment([].into()));
    (root, path.read(&output).unwrap().read.documents)
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

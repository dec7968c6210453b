//! Dapr's run file, as its users write it.

use crate::told;
use dodai_api::{RunFile, RunSettings, Source, has_own_kinds, mentions_us, read_all};

fn read(text: &str) -> (Option<RunFile>, dodai_api::Read) {
    RunFile::read(&Source { name: "dapr.yaml", bytes: text.as_bytes() })
}

#[test]
fn an_app_has_what_it_says_and_what_all_share() {
    let (file, read) = read(
        r"version: 1
common:
  resourcesPath: ./components
  appProtocol: http
  env: { DEBUG: true, REGION: eu }
apps:
  - appID: orders
    appDirPath: ./orders
    appPort: 6001
    daprHTTPPort: 3501
    command: [python3, app.py]
    env: { DEBUG: false, RETRIES: 3 }
  - appDirPath: ./checkout
    appProtocol: grpc
    resourcesPaths: [a, b]
",
    );
    assert!(read.is_clean() && read.warnings.is_empty(), "{}", told(&read));
    let apps: Vec<(String, RunSettings)> = file.unwrap().settled().collect();
    let (place, orders) = &apps[0];
    assert_eq!((place.as_str(), orders.app_id.as_deref()), ("apps[0]", Some("orders")));
    assert_eq!((orders.app_port, orders.dapr_http_port), (Some(6001), Some(3501)));
    assert_eq!(orders.resources_path, None, "what lies beside the app comes first");
    let env = orders.env.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()));
    assert_eq!(env.collect::<Vec<_>>(), [("DEBUG", "false"), ("REGION", "eu"), ("RETRIES", "3")]);
    let (_, checkout) = &apps[1];
    assert_eq!((checkout.app_id.as_deref(), checkout.app_protocol.as_deref()), (None, Some("grpc")));
    assert_eq!(checkout.resources_paths, Some(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(checkout.env.as_ref().unwrap().len(), 2);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let check = |name: &str, text: &str| {
        let (_, read) = read(text);
        insta::assert_snapshot!(name, told(&read));
    };
    check(
        "run_file_keys",
        r"version: 1
name: shop
commn: {}
common:
  appID: orders
  logLevel: debug
apps:
  - appID: orders
    appDirPath: ./orders
    daprHttpPort: 3500
    appPort: '6001'
    command: python3 app.py
    env: { A: [1] }
",
    );
    check(
        "run_file_rules",
        r"version: 2
apps:
  - appID: orders
    appPort: 6001
    appProtocol: https
    appSSL: true
    appChannelAddress: 10.0.0.1
    metricsPort: 9091
    unixDomainSocket: /tmp
  - { appDirPath: ., appChannelAddress: localhost, daprdLogDestination: file, metricsPort: 9092 }
  - { appDirPath: ., metricsPort: 9093 }
",
    );
    check(
        "run_file_ports",
        r"version: 1
apps:
  - { appDirPath: a, appPort: 6001, daprHTTPPort: 3500 }
  - { appDirPath: b, appPort: 3500, daprHTTPPort: 3501, daprGRPCPort: 3501 }
  - { appDirPath: c, appPort: 6001 }
",
    );
    check("run_file_port", "version: 1\napps: [{ appDirPath: a, appPort: 70000 }]\n");
    check("run_file_empty", "");
    check("run_file_no_apps", "version: 1\napps: []\n");
    check("run_file_two", "version: 1\n---\nversion: 1\n");
}

#[test]
fn a_variable_is_the_text_that_was_written() {
    let written =
        ["1.10", "012345678901", "0x1F", "1e3", "True", "'quoted'", "", "~", "null", "on", "2026-01-01"];
    let lines: String =
        written.iter().enumerate().map(|(i, text)| format!("    V{i:02}: {text}\n")).collect();
    let (file, read) = read(&format!("version: 1\napps:\n- appDirPath: .\n  env:\n{lines}"));
    assert!(read.is_clean(), "{}", told(&read));
    let (_, app) = file.unwrap().settled().next().unwrap();
    let env: Vec<String> = app.env.unwrap().into_values().collect();
    let expect = ["1.10", "012345678901", "0x1F", "1e3", "True", "quoted", "", "", "", "on", "2026-01-01"];
    assert_eq!(env, expect);
}

#[test]
fn what_says_nothing_is_as_if_it_were_not_there() {
    let (file, read) = read(
        r"version: 1
apps:
  - { appID: '', appDirPath: a, appPort: -1, daprHTTPPort: 0, daprGRPCPort: -1, metricsPort: -1, appProtocol: GRPC }
  - { appDirPath: b, configFilePath: '', resourcesPath: '', runtimePath: '', appProtocol: '', daprHTTPPort: 0 }
  - { appDirPath: c, command: [sleep, 1.50, 010, true] }
",
    );
    assert!(read.is_clean() && read.warnings.is_empty(), "{}", told(&read));
    let apps: Vec<RunSettings> = file.unwrap().settled().map(|(_, app)| app).collect();
    let (a, b, c) = (&apps[0], &apps[1], &apps[2]);
    assert_eq!((&a.app_id, a.app_port, a.dapr_http_port, a.dapr_grpc_port), (&None, None, None, None));
    assert_eq!((a.app_protocol.as_deref(), &b.app_protocol), (Some("grpc"), &None));
    assert_eq!((&b.config_file_path, &b.resources_path, &b.runtime_path), (&None, &None, &None));
    assert_eq!(c.command, Some(["sleep", "1.50", "010", "true"].map(str::to_owned).into()));
}

#[test]
fn a_run_file_is_known_by_its_form_and_not_by_its_words() {
    let run = "# see https://docs.dapr.io/developing\nversion: 1\napps:\n- appDirPath: .\n";
    let own = "apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: { name: a }\n";
    for (text, ours, own_kinds) in [
        (run, false, false),
        ("# apiVersion: dodai.dev/v1\nversion: 1\napps: []\n", false, false),
        (own, true, true),
        ("apiVersion: dapr.io/v1alpha1\nkind: Component\n", true, false),
        ("apiVersion: dodai.dev/v1\nkind: App\napps: []\n", true, true),
        ("replicas: 2\n", false, false),
    ] {
        assert_eq!(mentions_us(text.as_bytes()), ours, "{text}");
        assert_eq!(has_own_kinds(text.as_bytes()), own_kinds, "{text}");
    }
    let files = [("dodai.yaml", own), ("dapr.yaml", run)];
    let files = files.map(|(name, text)| Source { name, bytes: text.as_bytes() });
    let project = read_all(&files);
    assert_eq!(project.read.errors, Vec::new());
    assert_eq!((project.read.documents.len(), project.skipped), (1, vec!["dapr.yaml".to_owned()]));
}

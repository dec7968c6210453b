//! Dapr's run file, as its users write it.

use crate::told;
use dodai_api::{RunFile, RunSettings, Source};

fn read(text: &str) -> (Option<RunFile>, dodai_api::Read) {
    RunFile::read(&Source { name: "dapr.yaml", bytes: text.as_bytes() })
}

#[test]
fn an_app_has_what_it_says_and_what_all_share() {
    let (file, read) = read(
        r"version: 1
name: shop
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
    let env = serde_json::to_string(orders.env.as_ref().unwrap()).unwrap();
    assert_eq!(env, r#"{"DEBUG":false,"REGION":"eu","RETRIES":3}"#);
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
    env: { A: [1] }
  - { appDirPath: ., appChannelAddress: localhost, daprdLogDestination: file }
",
    );
    check("run_file_empty", "");
    check("run_file_no_apps", "version: 1\napps: []\n");
    check("run_file_two", "version: 1\n---\nversion: 1\n");
}

//! Interception as a user has it: rules of the kernel, a base, and programs that know nothing of either, in network
//! namespaces. It needs root; where that is missing the tests fail and say so.

mod lab;
mod legacy;

use lab::{FAMILIES, Lab, On};
use serde_json::Value;

use crate::project::Done;
use crate::site::PYTHON;

/// A user that is nobody else.
const TILL: &str = "54321";

/// The catalog has port 8000 of `there`, in both families, and does not let `till` in.
const LEAVING: &str = "
apiVersion: dodai.dev/v1
kind: Base
metadata: {name: local}
spec:
  interception:
    outbound:
      callers: [{app: till, user: 54321}, {app: client}]
---
apiVersion: dodai.dev/v1
kind: App
metadata: {name: catalog}
spec: {services: [{name: http}], external: {addresses: ['10.91.0.2:8000', '[fd91::2]:8000']}}
---
apiVersion: dodai.dev/v1
kind: Policy
metadata: {name: guard}
spec:
  targetRefs: [{kind: App, name: catalog}]
  access: {default: allow, rules: [{action: deny, from: {apps: [till]}}]}
";

/// What comes to port 8000 of `there` may not see `/secret`.
const COMING: &str = "
apiVersion: dodai.dev/v1
kind: Base
metadata: {name: local}
spec: {interception: {inbound: {}}}
---
apiVersion: dodai.dev/v1
kind: App
metadata: {name: catalog}
spec: {services: [{name: http}], external: {addresses: ['10.91.0.2:8000', '[fd91::2]:8000']}}
---
apiVersion: dodai.dev/v1
kind: Policy
metadata: {name: guard}
spec:
  targetRefs: [{kind: App, name: catalog}]
  access: {default: allow, rules: [{action: deny, paths: [/secret]}]}
";

const PORTS: [&str; 4] = ["8000", "8001/line", "8002", "8003"];

/// What is said to be installed.
fn show(lab: &Lab, on: On) -> Value {
    serde_json::from_str(&lab.does(on, &["intercept", "show", "-o", "json"])).unwrap()
}

/// How many packets a rule counted.
fn packets(shown: &Value, rule: &str) -> u64 {
    let rules = shown["rules"].as_array().unwrap_or_else(|| panic!("{shown}"));
    let of = |one: &&Value| one["rule"].as_str().unwrap().starts_with(rule);
    rules.iter().filter(of).map(|one| one["packets"].as_u64().unwrap()).sum()
}

/// A client that is greeted before it says anything.
fn greeted(lab: &Lab, url_host: &str) -> Done {
    let host = url_host.trim_matches(['[', ']']);
    lab.run(On::Here, PYTHON, &["listens_first.py", host, "8001"])
}

fn leaving(lab: &Lab) {
    for host in FAMILIES {
        let routed = lab.curl(On::Here, &[&format!("http://{host}:8000/")]);
        assert!(routed.starts_with("port 8000 ") && routed.contains("traceparent: "), "{host}: {routed}");
        let url = format!("http://{host}:8000/");
        let till =
            ["--reuid", TILL, "--regid", TILL, "--clear-groups", "curl", "-sSg", "-w", "%{http_code}", &url];
        let refused = lab.run(On::Here, "setpriv", &till);
        assert!(refused.out().contains("denied") && refused.out().ends_with("403"), "{}", refused.all());
        let by_name = lab.curl(On::Here, &["-H", "Host: catalog", &format!("http://{host}:8002/")]);
        assert!(by_name.starts_with("port 8000 "), "{host}: {by_name}");
        let unknown = lab.curl(On::Here, &[&format!("http://{host}:8002/")]);
        assert!(unknown.starts_with("port 8002 ") && !unknown.contains("traceparent"), "{host}: {unknown}");
        let first = greeted(lab, host);
        assert_eq!(first.out(), "220 ready\nyou said hello\n", "{host}: {}", first.all());
        let big = lab.curl(
            On::Here,
            &["-o", "/dev/null", "-w", "%{size_download}", &format!("http://{host}:8002/big/4194304")],
        );
        assert_eq!(big, "4194304", "{host}");
        let refused =
            lab.run(On::Here, "curl", &["-sSg", "--max-time", "5", &format!("http://{host}:8009/")]);
        assert!(!refused.status.success(), "nobody listens there: {}", refused.all());
        let alone = lab.curl(On::Here, &[&format!("http://{host}:8003/")]);
        assert!(alone.starts_with("port 8003 "), "{host}: {alone}");
    }
    // The way in itself is nobody's destination.
    for own in ["127.0.0.1", "[::1]"] {
        let itself = lab.run(On::Here, "curl", &["-sSg", "--max-time", "5", &format!("http://{own}:15001/")]);
        assert!(!itself.status.success(), "{own}: {}", itself.all());
    }
    assert_eq!(lab.fate(On::Here, "outbound", "routed"), 6);
    assert_eq!(lab.fate(On::Here, "outbound", "passed"), 6, "nothing was taken twice");
    assert_eq!(lab.fate(On::Here, "outbound", "refused"), 4);
    let metrics = lab.metrics(On::Here);
    for (caller, class) in [("client", "2xx"), ("till", "4xx")] {
        let calls = format!(
            "dodai_calls_total{{direction=\"outbound\",caller=\"default/{caller}\",service=\"default/catalog/http\",route=\"\",class=\"{class}\"}}"
        );
        assert!(metrics.contains(&calls), "no {calls} in {metrics}");
    }
}

/// Everything that leaves, by one tool in one mode, from nothing to nothing.
fn outbound(name: &str, tool: &str, mode: &str) {
    let mut lab = Lab::new(name);
    lab.serve(&PORTS);
    let install = ["intercept", "install", "--tool", tool, "--mode", mode, "--exclude-ports", "8003"];
    lab.does(On::Here, &install);
    let once = lab.run(On::Here, "nft", &["list", "ruleset"]).out().lines().count();
    lab.does(On::Here, &install);
    let twice = lab.run(On::Here, "nft", &["list", "ruleset"]).out().lines().count();
    assert_eq!(once, twice, "installing again changes nothing");
    let shown = show(&lab, On::Here);
    assert_eq!(
        (shown["tool"].as_str(), shown["settings"]["mode"].as_str()),
        (Some(tool), Some(mode)),
        "{shown}"
    );
    let refused = lab.run(On::Here, "curl", &["-sS", "--max-time", "5", "http://10.91.0.2:8000/"]);
    assert!(!refused.status.success(), "no base listens: {}", refused.all());

    lab.base(On::Here, LEAVING);
    leaving(&lab);
    let shown = show(&lab, On::Here);
    assert!(packets(&shown, "taken: leaves the machine") > 0, "{shown}");
    assert!(packets(&shown, "of the base itself") > 0, "{shown}");
    assert!(packets(&shown, "to ports that are left alone") >= 2, "{shown}");

    lab.does(On::Here, &["intercept", "remove"]);
    lab.end_last();
    assert_eq!(show(&lab, On::Here)["installed"], false);
    let left = lab.run(On::Here, "nft", &["list", "ruleset"]).out().to_lowercase();
    assert!(!left.contains("dodai"), "{left}");
    for family in ["-4", "-6"] {
        let rules = lab.run(On::Here, "ip", &[family, "rule"]);
        assert!(!rules.out().contains("53467") && !rules.out().contains("0xd0db"), "{}", rules.all());
    }
    for host in FAMILIES {
        let direct = lab.curl(On::Here, &[&format!("http://{host}:8000/")]);
        assert!(direct.starts_with("port 8000 ") && !direct.contains("traceparent"), "{direct}");
    }
    assert!(lab.does(On::Here, &["intercept", "remove"]).contains("nothing was installed"));
}

#[test]
fn what_leaves_is_redirected_by_nft() {
    outbound("redirect", "nft", "redirect");
}

#[test]
fn what_leaves_keeps_its_destination_by_nft() {
    outbound("tproxy", "nft", "tproxy");
}

#[test]
fn what_leaves_is_redirected_by_iptables() {
    outbound("iptredirect", "iptables", "redirect");
}

#[test]
fn what_leaves_keeps_its_destination_by_iptables() {
    outbound("ipttproxy", "iptables", "tproxy");
}

#[test]
fn what_comes_passes_the_stations_of_its_app() {
    for (tool, mode) in
        [("nft", "redirect"), ("nft", "tproxy"), ("iptables", "redirect"), ("iptables", "tproxy")]
    {
        let mut lab = Lab::new(&format!("in{tool}{mode}"));
        lab.serve(&PORTS);
        lab.base(On::There, COMING);
        let install = ["intercept", "install", "--tool", tool, "--mode", mode, "--no-outbound"];
        let ports = ["--inbound-ports", "8000-8002,9000"];
        lab.does(On::There, &[&install[..], &ports].concat());
        lab.does(On::There, &[&install[..], &ports].concat());
        for host in FAMILIES {
            let allowed = lab.curl(On::Here, &[&format!("http://{host}:8000/")]);
            assert!(allowed.starts_with("port 8000 ") && allowed.contains("traceparent"), "{allowed}");
            let secret = lab.status(On::Here, &[&format!("http://{host}:8000/secret")]);
            assert_eq!(secret, "403", "{tool} {mode} {host}");
            let unknown = lab.curl(On::Here, &[&format!("http://{host}:8002/")]);
            assert!(unknown.starts_with("port 8002 ") && !unknown.contains("traceparent"), "{unknown}");
            let alone = lab.curl(On::Here, &[&format!("http://{host}:8003/")]);
            let own = if host.starts_with('[') { "fd91::1" } else { "10.91.0.1" };
            assert!(alone.starts_with(&format!("port 8003 peer {own}")), "left alone: {alone}");
            assert_eq!(greeted(&lab, host).out(), "220 ready\nyou said hello\n", "{tool} {mode} {host}");
            let itself =
                lab.run(On::Here, "curl", &["-sSg", "--max-time", "5", &format!("http://{host}:15006/")]);
            assert!(!itself.status.success(), "the way in is no destination: {}", itself.all());
        }
        assert_eq!(lab.fate(On::There, "inbound", "routed"), 4, "{tool} {mode}");
        assert_eq!(lab.fate(On::There, "inbound", "passed"), 4, "{tool} {mode}");
        assert_eq!(lab.fate(On::There, "inbound", "refused"), 2, "{tool} {mode}");
        assert!(packets(&show(&lab, On::There), "taken: comes to the machine") > 0);
        lab.does(On::There, &["intercept", "remove"]);
        lab.end_last();
        let direct = lab.curl(On::Here, &["http://10.91.0.2:8000/secret"]);
        assert!(direct.starts_with("port 8000 "), "{direct}");
    }
}

#[test]
fn choices_hold_and_a_mode_replaces_the_other() {
    let mut lab = Lab::new("choices");
    lab.serve(&PORTS);
    lab.base(On::Here, LEAVING);
    let install = |more: &[&str]| lab.does(On::Here, &[&["intercept", "install"], more].concat());
    let taken = || {
        let before = lab.fate(On::Here, "outbound", "passed");
        for host in FAMILIES {
            let answer = lab.curl(On::Here, &[&format!("http://{host}:8002/")]);
            assert!(answer.starts_with("port 8002 "), "{answer}");
        }
        lab.fate(On::Here, "outbound", "passed") - before
    };
    for tool in ["nft", "iptables"] {
        for (more, expect) in [
            (
                &[
                    "--users",
                    "0",
                    "--groups",
                    "0,7",
                    "--ports",
                    "80,8000-8002",
                    "--cidrs",
                    "10.91.0.0/16,fd91::/16",
                ][..],
                2,
            ),
            (&["--users", "0,54321"], 2),
            (&["--users", "54321"], 0),
            (&["--groups", "54321"], 0),
            (&["--exclude-users", "root"], 0),
            (&["--exclude-groups", "root"], 0),
            (&["--ports", "8000,8001"], 0),
            (&["--exclude-ports", "8000-9000,8002"], 0),
            (&["--cidrs", "10.91.0.0/24"], 1),
            (&["--exclude-cidrs", "10.0.0.0/8,10.91.0.0/24"], 1),
            (&["--mode", "tproxy", "--cidrs", "fd00::/8"], 1),
            (&["--mode", "tproxy", "--exclude-users", "0"], 0),
        ] {
            install(&[&["--tool", tool][..], more].concat());
            assert_eq!(show(&lab, On::Here)["tool"], *tool);
            assert_eq!(taken(), expect, "{tool} {more:?}");
        }
    }
    install(&[]);
    let rules = lab.run(On::Here, "ip", &["rule"]);
    assert!(!rules.out().contains("53467"), "the other mode's rules are gone: {}", rules.all());
    let saved = lab.run(On::Here, "iptables-save", &[]);
    assert!(!saved.out().contains("DODAI"), "and the other tool's: {}", saved.all());
    lab.does(On::Here, &["intercept", "remove"]);
    assert_eq!(taken(), 0);
}

#[test]
fn a_dry_run_tells_and_does_nothing_and_who_may_not_is_told() {
    let lab = Lab::new("dry");
    let text = lab.does(On::Here, &["intercept", "install", "--dry-run", "--exclude-users", "dodai"]);
    assert!(text.contains("redirect to :15001") && text.contains("meta skuid { dodai }"), "{text}");
    let text =
        lab.does(On::Here, &["intercept", "install", "--dry-run", "--tool", "iptables", "--mode", "tproxy"]);
    assert!(text.contains("TPROXY --on-ip ::1") && text.contains("rule add fwmark 0xd0db"), "{text}");
    assert!(lab.does(On::Here, &["intercept", "remove", "--dry-run"]).contains("delete table"));
    assert_eq!(lab.run(On::Here, "nft", &["list", "ruleset"]).out(), "");
    assert_eq!(show(&lab, On::Here), serde_json::json!({"installed": false}));

    let program = crate::project::binary().display().to_string();
    for action in ["install", "remove", "show"] {
        let weak =
            ["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", &program, "intercept", action];
        let done = lab.run(On::Here, "setpriv", &weak);
        assert_eq!(done.status.code(), Some(1), "{action}: {}", done.all());
        assert!(done.all().contains("CAP_NET_ADMIN"), "{action}: {}", done.all());
    }
    let unknown = lab.dodai(On::Here, &["intercept", "install", "--users", "nobody-of-that-name"]);
    assert!(!unknown.status.success() && unknown.all().contains("nobody-of-that-name"), "{}", unknown.all());
    let wrong = lab.dodai(On::Here, &["intercept", "install", "--ports", "80;drop"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", wrong.all());
    let same = ["intercept", "install", "--inbound-ports", "80", "--inbound-port", "15001"];
    assert_eq!(lab.dodai(On::Here, &same).status.code(), Some(2));
}

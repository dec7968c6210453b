//! What a base is told of connections that rules of the kernel lead to it.

use std::net::SocketAddr;

use dodai_control::documents::Documents;
use dodai_control::records::{Observed, Records};
use dodai_control::snapshot::{BaseSettings, Input, build};
use dodai_core::id::{AppId, BaseId};
use dodai_core::snapshot::{Capture, CaptureWay, CapturedCaller, Role, Snapshot};

use super::played::yaml;

/// The snapshot of base `one`, which is told only what it uses.
fn snapshot(interception: &str) -> Snapshot {
    let text = format!(
        "apiVersion: dodai.dev/v1\nkind: Base\nmetadata: {{name: one}}\nspec: {{{interception}}}\n---\n\
         apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: legacy}}\n\
         spec: {{services: [{{name: http}}], external: {{addresses: ['10.0.0.7:80']}}}}\n"
    );
    snapshot_of(&text)
}

fn snapshot_of(text: &str) -> Snapshot {
    let documents: Documents = yaml(text).into_iter().map(|one| one.value).collect();
    let (records, base, settings) = (Records::default(), BaseId::new("one"), BaseSettings::default());
    let observed = Observed::default();
    let input = Input {
        documents: &documents,
        records: &records,
        observed: &observed,
        base: &base,
        settings: &settings,
    };
    build(&input, 1)
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn connections_that_are_led_here_are_taken_in_both_families() {
    let told = snapshot(
        "interception: {outbound: {port: 16001, callers: [{app: web, namespace: shop, user: 33}, {app: all}], unknown: deny}, inbound: {}}",
    );
    let caller = |user, app: &str| CapturedCaller { user, app: AppId::parse(app).expect("an app") };
    let callers = vec![caller(Some(33), "shop/web"), caller(None, "default/all")];
    let outbound = Capture { way: CaptureWay::Outbound { callers }, allow_unknown: false };
    let inbound = Capture { way: CaptureWay::Inbound, allow_unknown: true };
    let found: Vec<_> = told.listeners().map(|one| (one.name.as_str(), one.address, &one.role)).collect();
    let (outbound, inbound) = (Role::Captured(outbound), Role::Captured(inbound));
    assert_eq!(
        found,
        [
            ("intercept/inbound/ipv4", at("0.0.0.0:15006"), &inbound),
            ("intercept/inbound/ipv6", at("[::]:15006"), &inbound),
            ("intercept/outbound/ipv4", at("127.0.0.1:16001"), &outbound),
            ("intercept/outbound/ipv6", at("[::1]:16001"), &outbound),
        ]
    );
    assert_eq!(told.services().count(), 1, "who has which address is known");
}

#[test]
fn a_base_that_takes_none_is_told_nothing_of_them() {
    let told = snapshot("labels: {a: b}");
    assert_eq!((told.listeners().count(), told.services().count()), (0, 0));
    assert_eq!(snapshot("interception: {outbound: {}}").listeners().count(), 2);
}

/// Of an app in `shop` with this `mtls` and this label of the namespace: whether plain callers come in at the mesh
/// port, and whether interception lets none in.
fn mutual_tls(app: &str, label: &str) -> (bool, bool) {
    let text = format!(
        "apiVersion: dodai.dev/v1\nkind: Base\nmetadata: {{name: one}}\nspec: {{interception: {{inbound: {{}}}}}}\n---\n\
         apiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{label}}}}}\n---\n\
         apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: legacy, namespace: shop}}\n\
         spec: {{{app}services: [{{name: http}}], external: {{addresses: ['10.0.0.7:80']}}}}\n"
    );
    let told = snapshot_of(&text);
    let service = told.services().next().expect("it is known");
    (service.plain, service.strict)
}

#[test]
fn who_intercepts_takes_plain_callers_unless_strict_is_said() {
    for (app, label, expect) in [
        ("", "", (false, false)),
        ("mtls: strict, ", "", (false, true)),
        ("mtls: permissive, ", "", (true, false)),
        ("", "dodai.dev/mtls: strict", (false, true)),
        ("", "dodai.dev/mtls: permissive", (true, false)),
        ("mtls: permissive, ", "dodai.dev/mtls: strict", (true, false)),
        ("mtls: strict, ", "dodai.dev/mtls: permissive", (false, true)),
    ] {
        assert_eq!(mutual_tls(app, label), expect, "{app} {label}");
    }
}

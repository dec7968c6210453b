use super::*;

fn origin<'a>(content_type: &'a str, metadata: &'a Metadata) -> Origin<'a> {
    Origin {
        id: "id-1",
        source: "shop",
        topic: "orders",
        pubsub: "bus",
        content_type,
        trace_parent: "00-aa-bb-01",
        trace_state: "v=1",
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(60),
        ttl: None,
        metadata,
    }
}

#[test]
fn the_id_of_a_message_is_its_own_and_lasts() {
    let message = |id: &str, topic: &str, at| Message {
        id: id.to_owned(),
        topic: topic.to_owned(),
        data: Bytes::from_static(b"raw"),
        content_type: None,
        metadata: Metadata::new(),
        published: SystemTime::UNIX_EPOCH + Duration::from_millis(at),
    };
    let first = id_of(&message("3", "orders", 5), "bus");
    assert_eq!(first, id_of(&message("3", "orders", 5), "bus"), "a redelivery");
    assert_eq!(uuid::Uuid::parse_str(&first).expect("a UUID").get_version_num(), 8);
    for (other, bus) in [
        (message("4", "orders", 5), "bus"),
        (message("3", "paid", 5), "bus"),
        (message("3", "orders", 5), "other"),
        (message("3", "orders", 6), "bus"),
    ] {
        assert_ne!(first, id_of(&other, bus));
    }
}

fn published(data: &[u8], content_type: &str, metadata: &Metadata) -> String {
    let event = Event::publish(data, &origin(content_type, metadata)).unwrap();
    String::from_utf8(event.to_bytes().to_vec()).unwrap()
}

#[test]
fn json_is_wrapped_as_it_is() {
    let data = br#" {"big":12345678901234567890123,"f":1.10,"html":"<&>"} "#;
    assert_eq!(
        published(data, "application/json; charset=utf-8", &Metadata::new()),
        concat!(
            r#"{"data":{"big":12345678901234567890123,"f":1.10,"html":"<&>"},"#,
            r#""datacontenttype":"application/json; charset=utf-8","id":"id-1","pubsubname":"bus","source":"shop","#,
            r#""specversion":"1.0","time":"1970-01-01T00:01:00Z","topic":"orders","traceid":"00-aa-bb-01","#,
            r#""traceparent":"00-aa-bb-01","tracestate":"v=1","type":"com.dapr.event.sent"}"#
        )
    );
}

#[test]
fn data_by_media_type() {
    let table: [(&[u8], &str, Data); 8] = [
        (b"hello", "", Data::Text("hello".into())),
        (b"1", "text/plain", Data::Text("1".into())),
        (b"1", "application/json", Data::Json("1".into())),
        (b"\"x\"", "application/json", Data::Json("\"x\"".into())),
        (b"[1]", "application/vnd.shop+json", Data::Json("[1]".into())),
        (b"plain", "application/octet-stream", Data::Binary(b"plain".to_vec())),
        (b"\xff\xd8", "image/jpeg", Data::Binary(b"\xff\xd8".to_vec())),
        (b"<a/>", "application/xml", Data::Text("<a/>".into())),
    ];
    for (data, content_type, expect) in table {
        let event = Event::publish(data, &origin(content_type, &Metadata::new())).unwrap();
        let event = Event::parse(&event.to_bytes()).unwrap();
        let seen = event.data().expect("data");
        assert_eq!(seen, expect, "{content_type}");
        assert_eq!(seen.into_bytes(), data, "{content_type}");
        let data_type = event.text("datacontenttype").unwrap();
        assert_eq!(data_type, if content_type.is_empty() { "text/plain" } else { content_type });
    }
}

#[test]
fn broken_json_becomes_text() {
    let event = Event::publish(b"{oops", &origin("application/json", &Metadata::new())).unwrap();
    assert_eq!(event.json("data"), Some("\"{oops\""));
}

#[test]
fn metadata_overrides_the_envelope() {
    let metadata = Metadata::from(
        [
            ("cloudevent.id", "mine"),
            ("CloudEvent.Source", "elsewhere"),
            ("cloudevent.type", "order.placed"),
            ("cloudevent.subject", "order/7"),
            ("cloudevent.traceid", "ignored"),
            ("cloudevent.traceparent", "00-cc-dd-00"),
            ("cloudevent.topic", "not this"),
            ("cloudevent.datacontenttype", "nor this"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let event = Event::publish(b"x", &origin("", &metadata)).unwrap();
    let text = |name: &str| event.text(name).unwrap_or_default();
    assert_eq!([text("id"), text("source"), text("type")], ["mine", "elsewhere", "order.placed"]);
    assert_eq!([text("traceid"), text("traceparent")], ["00-cc-dd-00", "00-cc-dd-00"]);
    assert_eq!([text("subject"), text("topic")], ["order/7", "orders"]);
    assert_eq!(text("datacontenttype"), "text/plain");
}

#[test]
fn an_event_of_the_apps_own_is_completed() {
    let own = br#"{"id":"own","type":"t","data":{"n":12345678901234567890123},"topic":"wrong","extra":[1],"source":null}"#;
    let event = Event::publish(own, &origin("application/cloudevents+json", &Metadata::new())).unwrap();
    let text = |name: &str| event.text(name).unwrap_or_default();
    assert_eq!([text("id"), text("type"), text("source"), text("specversion")], ["own", "t", "shop", "1.0"]);
    assert_eq!([text("topic"), text("pubsubname"), text("traceparent")], ["orders", "bus", "00-aa-bb-01"]);
    assert_eq!(event.json("extra"), Some("[1]"));
    assert_eq!(event.data(), Some(Data::Json(r#"{"n":12345678901234567890123}"#.into())));
    let error = Event::publish(b"[]", &origin("application/cloudevents+json", &Metadata::new()))
        .expect_err("refused");
    assert!(error.to_string().contains("no JSON object"), "{error}");
}

#[test]
fn expiry() {
    let metadata = Metadata::new();
    let origin = Origin { ttl: Some(Duration::from_secs(30)), ..origin("", &metadata) };
    let event = Event::publish(b"x", &origin).unwrap();
    assert_eq!(event.text("expiration").unwrap(), "1970-01-01T00:01:30Z");
    assert!(!event.has_expired(origin.now + Duration::from_secs(30)));
    assert!(event.has_expired(origin.now + Duration::from_secs(31)));
    let unreadable = Event::parse(br#"{"expiration":"soon"}"#).unwrap();
    assert!(!unreadable.has_expired(SystemTime::now()));
}

#[test]
fn a_raw_message_is_shown_as_base64() {
    let event = Event::from_raw(b"raw", "7", "orders", "bus");
    assert_eq!(event.data(), Some(Data::Binary(b"raw".to_vec())));
    assert_eq!(event.text("datacontenttype").unwrap(), "application/octet-stream");
}

proptest::proptest! {
    #[test]
    fn whatever_is_published_comes_out_again(data: Vec<u8>, content_type in "(text/plain|application/octet-stream|image/png|)") {
        let event = Event::publish(&data, &origin(&content_type, &Metadata::new())).unwrap();
        let seen = Event::parse(&event.to_bytes()).unwrap().data().expect("data").into_bytes();
        proptest::prop_assert_eq!(seen, data);
    }
}

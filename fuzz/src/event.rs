//! CloudEvents: any bytes either are no event or survive being written and read again, however an app may ask.

use dodai_capability::event::{Data, Event};

/// Reads the bytes as a structured event, and wraps them as a raw payload.
pub fn target(data: &[u8]) {
    if let Ok(event) = Event::parse(data) {
        let again = Event::parse(&event.to_bytes()).expect("what we wrote is readable");
        assert!(event.names().eq(again.names()));
        for name in event.names() {
            assert_eq!(event.text(name), again.text(name));
        }
        let _ = event.data();
        let _ = event.has_expired(std::time::SystemTime::UNIX_EPOCH);
    }
    let raw = Event::from_raw(data, "1", "orders", "pubsub");
    match raw.data() {
        Some(Data::Binary(bytes)) => assert_eq!(&bytes[..], data),
        Some(_) | None => panic!("a payload of bytes stays one"),
    }
}

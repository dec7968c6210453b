//! WebSockets from HTTP/2 to HTTP/1 and back: a head that is let in is one request of HTTP/1 without a body, nothing is
//! said in it that was not said before, and on the way back to HTTP/2 it is the same again.

use std::collections::BTreeMap;

use dodai_dataplane::h1::{Framing, HeaderList, parse_request};
use dodai_dataplane::h2::{Block, Decoder, Encoder, Pseudo, check_request};
use dodai_dataplane::{h2_tunnel, h2_upgrade};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

/// Each line is a field; `:method` is always CONNECT. A first line `+` asks for a WebSocket.
pub fn target(data: &[u8]) {
    let mut block = Block::new();
    block.push(b":method", b"CONNECT", false);
    let data = match data.strip_prefix(b"+\n") {
        Some(rest) => {
            block.push(b":protocol", b"websocket", false);
            block.push(b":scheme", b"https", false);
            rest
        }
        None => data,
    };
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let colon = line.iter().skip(1).position(|byte| *byte == b':').map(|at| at + 1);
        let Some(colon) = colon else { continue };
        block.push(&line[..colon], &line[colon + 1..], false);
    }
    if check_request(&block).is_err() {
        return;
    }
    let pseudo = Pseudo::of(&block);
    let text = h2_tunnel::written(&block);
    let mut headers = HeaderList::new();
    // What HTTP/1 is stricter in is refused, as one request.
    let Ok(Some((line, parsed))) = parse_request(&text, &mut headers) else { return };
    assert_eq!(parsed.len, text.len(), "one head, and nothing after it");
    assert_eq!(parsed.framing, Framing::Empty, "what follows is the tunnel");
    assert_eq!(line.authority, pseudo.authority);
    let Some(protocol) = pseudo.protocol else {
        assert_eq!((line.method, line.target), ("CONNECT", pseudo.authority));
        return;
    };
    assert_eq!((line.method, line.target), ("GET", pseudo.path));
    assert!(parsed.upgrade);
    if !protocol.eq_ignore_ascii_case("websocket") {
        return;
    }
    let Ok(mut request) = Request::builder().method(Method::GET).uri(line.target).body(()) else { return };
    for header in headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).expect("it was a field before");
        let value = HeaderValue::from_bytes(header.value).expect("it was a field before");
        request.headers_mut().append(name, value);
    }
    let (head, ()) = request.into_parts();
    let (mut encoder, mut out) = (Encoder::new(true), Vec::new());
    encoder.begin(&mut out);
    h2_upgrade::asking(&head, pseudo.scheme == "https").write(&mut encoder, &mut out);
    let mut again = Block::new();
    Decoder::default().decode(&out, &mut again, usize::MAX).expect("we read what we write");
    assert_eq!(check_request(&again), Ok(()));
    let back = Pseudo::of(&again);
    assert_eq!((back.method, back.authority, back.path), ("CONNECT", pseudo.authority, pseudo.path));
    assert_eq!(back.protocol, Some("websocket"));
    assert_eq!(fields(&again), fields(&block));
}

/// What passes: fields by name, those that a hop has for itself left out.
fn fields(block: &Block) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut map = HeaderMap::new();
    for (name, value, _) in block.iter().filter(|(name, ..)| !name.starts_with(b":")) {
        let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()));
        map.append(name.expect("checked"), value.expect("checked"));
    }
    for own in ["host", "te", "content-length", "sec-websocket-key"] {
        map.remove(own);
    }
    let values = |name: &HeaderName| map.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect();
    map.keys().map(|name| (name.as_str().to_owned(), values(name))).collect()
}

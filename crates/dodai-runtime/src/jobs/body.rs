//! What a job brings, in the forms in which apps give and get it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dodai_capability::jobs::Data;
use prost::Message as _;
use prost_types::Any;
use prost_types::value::Kind;
use serde_json::{Map, Number, Value, json};

use crate::delivery::value_of;

const JSON: &str = "application/json";
/// JSON values over gRPC, as daprd makes them of what came over HTTP.
const VALUE: &str = "type.googleapis.com/google.protobuf.Value";
const STRING: &str = "type.googleapis.com/google.protobuf.StringValue";
const BYTES: &str = "type.googleapis.com/google.protobuf.BytesValue";

/// Media type and body of the request that brings it to an app that speaks HTTP. Wrapped values are taken out; bytes of
/// any other type are as they were given.
pub(super) fn of(data: Option<&Data>) -> (&'static str, Bytes) {
    let bytes = match data {
        None => return (JSON, Bytes::new()),
        Some(Data::Json(text)) => return (JSON, Bytes::from(text.clone())),
        Some(Data::Any { type_url, value }) => match decoded(type_url, value) {
            Some(Decoded::Value(value)) => return (JSON, Bytes::from(value.to_string())),
            Some(Decoded::Text(text)) => Bytes::from(text),
            Some(Decoded::Bytes(bytes)) => Bytes::from(bytes),
            None => value.clone(),
        },
    };
    let is_json = bytes.is_empty() || serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
    (if is_json { JSON } else { "application/octet-stream" }, bytes)
}

/// It as a message of Protocol Buffers.
pub(crate) fn as_any(data: &Data) -> Any {
    match data {
        Data::Json(text) => {
            let json = serde_json::from_str(text).unwrap_or(Value::Null);
            Any { type_url: VALUE.to_owned(), value: value_of(json).encode_to_vec() }
        }
        Data::Any { type_url, value } => Any { type_url: type_url.clone(), value: value.to_vec() },
    }
}

/// It as the JSON of a message in `Any`.
pub(crate) fn as_json(data: &Data) -> Value {
    match data {
        Data::Json(text) => {
            json!({ "@type": VALUE, "value": serde_json::from_str::<Value>(text).unwrap_or(Value::Null) })
        }
        Data::Any { type_url, value } => {
            let value = match decoded(type_url, value) {
                Some(Decoded::Value(value)) => value,
                Some(Decoded::Text(text)) => Value::from(text),
                Some(Decoded::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
                None => Value::from(STANDARD.encode(value)),
            };
            json!({ "@type": type_url, "value": value })
        }
    }
}

enum Decoded {
    Value(Value),
    Text(String),
    Bytes(Vec<u8>),
}

fn decoded(type_url: &str, value: &[u8]) -> Option<Decoded> {
    match type_url {
        VALUE => prost_types::Value::decode(value).ok().map(|value| Decoded::Value(to_json(value))),
        // prost knows these wrappers as plain types.
        STRING => String::decode(value).ok().map(Decoded::Text),
        BYTES => Vec::<u8>::decode(value).ok().map(Decoded::Bytes),
        _ => None,
    }
}

fn to_json(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(truth)) => Value::from(truth),
        Some(Kind::NumberValue(number)) => number_of(number).map_or(Value::Null, Value::Number),
        Some(Kind::StringValue(text)) => Value::from(text),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(to_json).collect(),
        Some(Kind::StructValue(fields)) => {
            let fields = fields.fields.into_iter().map(|(name, value)| (name, to_json(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
    }
}

/// A number as it is written without a fraction if it has none.
fn number_of(number: f64) -> Option<Number> {
    /// From here on not every whole number has a form of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT {
        return Some(Number::from(number as i64));
    }
    Number::from_f64(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Data {
        Data::Any { type_url: type_url.to_owned(), value: value.into() }
    }

    #[test]
    fn an_app_that_speaks_http_gets_what_was_meant() {
        let check = |data: Data, kind: &str, expect: &[u8]| {
            assert_eq!(of(Some(&data)), (kind, Bytes::copy_from_slice(expect)), "{data:?}");
        };
        let text = |text: &str| Data::Json(text.to_owned());
        check(text(r#"{"n": 1.50}"#), JSON, br#"{"n": 1.50}"#);
        check(any(VALUE, as_any(&text("123")).value), JSON, b"123");
        check(
            any(VALUE, as_any(&text(r#"{"a":[true,null,1.5,"x"]}"#)).value),
            JSON,
            br#"{"a":[true,null,1.5,"x"]}"#,
        );
        check(
            any(STRING, "hello world".to_owned().encode_to_vec()),
            "application/octet-stream",
            b"hello world",
        );
        check(any(BYTES, b"{}".to_vec().encode_to_vec()), JSON, b"{}");
        check(any("", br#"{"from":"python"}"#.to_vec()), JSON, br#"{"from":"python"}"#);
        check(any("type.googleapis.com/some.Message", vec![8, 255]), "application/octet-stream", &[8, 255]);
        assert_eq!(of(None), (JSON, Bytes::new()));
    }

    #[test]
    fn what_came_over_http_is_a_value_over_grpc() {
        let data = Data::Json(r#""xyz""#.to_owned());
        assert_eq!(as_any(&data).type_url, VALUE);
        assert_eq!(as_json(&any(VALUE, as_any(&data).value)), as_json(&data));
        assert_eq!(as_json(&any("x.y/Z", b"hi".to_vec())), json!({ "@type": "x.y/Z", "value": "aGk=" }));
    }
}

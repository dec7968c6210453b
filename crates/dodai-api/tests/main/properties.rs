//! Laws: no input panics, every problem has its place, and a document survives its canonical form.

use dodai_api::{ByteSize, Document, Source, TimeSpan, diff, read, read_all};
use proptest::prelude::*;

use crate::reading::{APP, MODULE, OTHERS, ROUTE};

fn read_bytes(bytes: &[u8]) {
    let read = read(&Source { name: "x.yaml", bytes });
    for problem in read.errors.iter().chain(&read.warnings) {
        assert_eq!(problem.file, "x.yaml");
        if let Ok(text) = std::str::from_utf8(bytes) {
            assert!(problem.line as usize <= text.lines().count() + 1, "{problem}");
            let _ = problem.render(text);
        }
    }
    for located in &read.documents {
        let value = located.value.to_value();
        assert_eq!(Document::from_value(&value).as_ref(), Ok(&located.value));
    }
}

/// Pieces that YAML gives a meaning to, and words of documents.
fn yamlish() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        ": ",
        ":",
        "? ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "&a ",
        "*a",
        "!t ",
        "!!str ",
        "|\n",
        ">-\n",
        "'",
        "\"",
        "\\",
        "#",
        "---\n",
        "...\n",
        "%",
        "@",
        "`",
        "<<: ",
        "\t",
        "~",
        "null",
        "true",
        "0x1f",
        "1e3",
        "-1",
        ".5",
        "apiVersion",
        "dodai.dev/v1",
        "dapr.io/v1alpha1",
        "kind",
        "App",
        "Component",
        "metadata",
        "name",
        "spec",
        "x",
        "é",
        "\u{0}",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// A good document with a few bytes changed.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let texts: Vec<&'static str> = [APP, MODULE, ROUTE].into_iter().chain(OTHERS).collect();
    let change =
        (any::<prop::sample::Index>(), prop::sample::select(b"\n :-{}[]'\"#&*!|xX09\xff".to_vec()), 0..3_u8);
    (prop::sample::select(texts), prop::collection::vec(change, 1..6)).prop_map(|(text, changes)| {
        let mut bytes = text.as_bytes().to_vec();
        for (index, byte, how) in changes {
            let at = index.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_bytes(&bytes);
    }

    #[test]
    fn any_yaml_is_read(text in yamlish()) {
        read_bytes(text.as_bytes());
    }

    #[test]
    fn damaged_documents_are_read(bytes in damaged()) {
        read_bytes(&bytes);
        read_all(&[Source { name: "dodai.yaml", bytes: &bytes }]);
    }

    #[test]
    fn durations_come_back(nanos in 0_u64..3_000_000_000_000_000_000) {
        let span: TimeSpan = format!("{nanos}ns").parse().unwrap();
        prop_assert_eq!(span.to_string().parse::<TimeSpan>().unwrap(), span);
        prop_assert_eq!(span.get().as_nanos(), u128::from(nanos));
    }

    #[test]
    fn sizes_come_back(bytes in any::<u64>()) {
        let size = ByteSize::from_bytes(bytes);
        prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
    }

    #[test]
    fn labels_of_any_text_come_back(value in "[^\\p{Cc}]{0,40}", key in "[a-z./-]{1,20}") {
        let document = serde_json::json!({
            "apiVersion": "dodai.dev/v1", "kind": "Namespace",
            "metadata": { "name": "a", "namespace": "default", "labels": { key: value } },
        });
        let read = read(&Source { name: "x.json", bytes: document.to_string().as_bytes() });
        prop_assert!(read.errors.is_empty(), "{:?}", read.errors);
        prop_assert!(diff(&read.documents[0].value.to_value(), &document).is_empty());
    }
}

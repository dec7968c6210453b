//! The bounds of a file of documents: what is as large as allowed is taken, and one more is told in these words.

use dodai_api::Code;

use crate::{good, read_text, told};

/// What `file` makes of `most` is not too large; of one more it is, and nothing else is said of that.
fn check(file: impl Fn(usize) -> String, most: usize, expect: &str) {
    let too_large = |count: usize| {
        let mut read = read_text(&file(count));
        read.errors.retain(|problem| problem.code == Code::TooLarge);
        read.warnings.clear();
        told(&read)
    };
    assert_eq!(too_large(most), "");
    assert_eq!(too_large(most + 1), format!("shop.yaml{expect} [too_large]\n"));
}

#[test]
fn a_document_is_as_large_as_the_store_takes() {
    let text = |bytes: usize| {
        format!(
            "---\napiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: {{ name: a, annotations: {{ n: {} }} }}\n",
            "b".repeat(bytes)
        )
    };
    let stored = |document: &dodai_api::Document| dodai_api::canonical_json(&document.to_value()).len();
    let rest = stored(&good(&text(1))) - 1;
    check(
        |bytes| text(bytes - rest),
        1 << 20,
        ":2:1: the document has 1048577 bytes, and 1048576 are taken; make several of it, or serve large texts \
         from an app",
    );
}

#[test]
fn every_bound_is_met() {
    check(|bytes| " ".repeat(bytes), 4 << 20, ": the file has more than 4194304 bytes; split the file");
    check(
        |documents| {
            (0..documents)
                .map(|at| {
                    format!("---\napiVersion: dodai.dev/v1\nkind: Namespace\nmetadata: {{ name: n{at} }}\n")
                })
                .collect()
        },
        2000,
        ":8005:1: more than 2000 documents in one file; split the file",
    );
    check(
        |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels)),
        64,
        ":1:65: nested more than 64 levels deep; flatten the document",
    );
    // The mapping and the list are values, too.
    check(
        |values| format!("a: [{}]", "1,".repeat(values - 2)),
        200_000,
        ":1:400001: more than 200000 values in one file; split the file, or use fewer aliases",
    );
    check(
        |bytes| format!("? {}\n: 1\n", "k".repeat(bytes)),
        1024,
        ":1:3: a key of more than 1024 bytes; put long text into a value",
    );
    check(
        |bytes| {
            format!(
                "apiVersion: dodai.dev/v1\nkind: Route\nmetadata: {{ name: a }}\nspec:\n  parentRefs: [{{ name: g }}]\n  \
                 rules:\n    - filters:\n        - type: DirectResponse\n          directResponse:\n            \
                 statusCode: 200\n            body: {}\n",
                "b".repeat(bytes)
            )
        },
        64 << 10,
        ":11:19: spec.rules[0].filters[0].directResponse.body: the body has more than 65536 bytes; \
         serve it from an app",
    );
}

//! Programs against events: what holds, what does not, what has no answer, what is refused.

use proptest::prelude::*;
use serde_json::json;

use super::{Program, Value};

fn event() -> Value {
    Value::of(&json!({
        "type": "order.placed", "source": "shop", "id": "a1",
        "data": {
            "important": true, "amount": 12, "price": 2.5, "big": 18_446_744_073_709_551_615_u64,
            "tags": ["new", "gift"], "items": [{"n": 1}, {"n": 3}], "none": null, "empty": [],
            "name": "Ada \"Countess\"", "a-b": "dash"
        }
    }))
}

/// Whether it holds; `None` if there is no answer.
fn holds(source: &str) -> Option<bool> {
    let program = Program::parse(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    program.holds(&event()).ok()
}

#[test]
fn what_holds() {
    for source in [
        "true",
        r#"event.type == "order.placed""#,
        r#"event.type=='order.placed' // a comment"#,
        r#"event.type == "x" || event.source == "shop""#,
        r#"event.type != "x" && event.data.important"#,
        r#"event.data.important == true"#,
        "!(event.data.amount > 12)",
        "!!event.data.important",
        "event.data.amount >= 12 && event.data.amount < 12.5",
        "event.data.amount == 12.0 && event.data.amount == 12u",
        "event.data.price * 2.0 == 5.0",
        "event.data.amount % 5 == 2 && 7 / 2 == 3 && -7 / 2 == -3",
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && 10 - 3 - 2 == 5",
        "--1 == 1 && -event.data.amount == -12",
        "event.data.big == 18446744073709551615u && event.data.big > 1",
        r#"event.type.startsWith("order.") && event.type.endsWith("placed")"#,
        r#"event.type.contains("r.p") && event.type.matches("^order\\.[a-z]+$")"#,
        r#"event.type.matches(r'^order\.')"#,
        r#"matches(event.id, "[a-z]" + "[0-9]")"#,
        r#""gift" in event.data.tags && !("old" in event.data.tags)"#,
        r#""tags" in event.data && event.id in ["a1", "a2"]"#,
        r#"event.data["a-b"] == "dash" && event.data.tags[0] == "new""#,
        "has(event.data.amount) && !has(event.data.missing)",
        "event.data.none == null && event.data.amount != null",
        "size(event.data.tags) == 2 && event.type.size() == 12 && size(event.data.empty) == 0",
        "event.data.items.all(i, i.n > 0) && event.data.items.exists(i, i.n == 3)",
        "event.data.items.exists_one(i, i.n > 1) && [1, 2, 3].filter(x, x > 1).size() == 2",
        "[1, 2].map(x, x * 2) == [2, 4] && {'a': 1}.all(k, k == 'a') && {'a': 1} == {'a': 1.0}",
        "[[1], [2]].all(x, x.exists(y, y > 0))",
        "event.data.amount > 10 ? event.source == 'shop' : false",
        "int('12') == event.data.amount && string(12) == '12' && double('2.5') == 2.5 && bool('true')",
        "uint(3) == 3u && int(3.9) == 3 && int(-3.9) == -3 && type(event.data.tags) == 'list'",
        r#"event.data.name == "Ada \"Countess\"" && '\u0041\x42\103' == 'ABC' && '''it's''' == "it's""#,
        "0x1F == 31 && 1e3 == 1000.0 && .5 == 0.5 && -9223372036854775808 < 0",
        "'abc' < 'abd' && [1] + [2] == [1, 2] && 'a' + 'b' == 'ab'",
        // One side decides, whatever is wrong with the other.
        "event.data.missing == 1 || true",
        "true || event.data.missing == 1",
        "!(false && event.data.missing == 1) && !(event.data.missing == 1 && false)",
        "[1, 'a', 3].exists(x, x > 2)",
    ] {
        assert_eq!(holds(source), Some(true), "{source}");
    }
}

#[test]
fn what_does_not_hold() {
    for source in [
        "false",
        r#"event.type == "a" || event.type == "b""#,
        r#"event.data.amount == "12""#,
        "event.data.tags == event.data.empty",
        "[].exists(x, x == 1) || ![].all(x, false)",
        "0.0 / 0.0 == 0.0 / 0.0 || 0.0 / 0.0 < 1.0",
    ] {
        assert_eq!(holds(source), Some(false), "{source}");
    }
}

#[test]
fn what_has_no_answer() {
    for source in [
        "event.data.missing == 1",
        "event.data.missing == 1 || false",
        "event.missing.deeper",
        "event.type",
        "event.data.amount + 'x' == 'x'",
        "event.data.amount + 1.5 > 0.0",
        "event.data.tags[2] == 'x'",
        "event.data.tags['x'] == 'x'",
        "event.type.n == 1",
        "1 / 0 == 1",
        "1 % 0 == 1",
        "9223372036854775807 + 1 > 0",
        "-(-9223372036854775808) > 0",
        "!event.type",
        "event.type > 1",
        "event.type.matches('(' + 'a') ",
        "int('x') == 1",
        "int(1e30) == 1",
        "size(1) == 1",
        "1 in 2",
        "[1, 'a'].all(x, x > 0)",
    ] {
        assert_eq!(holds(source), None, "{source}");
    }
}

#[test]
fn what_is_refused_says_where_and_why() {
    for (source, at, word) in [
        ("", 1, "the end"),
        ("event.type == ", 15, "the end"),
        ("type == 'a'", 1, "event.type"),
        ("event.type = 'a'", 12, "means nothing"),
        ("event.type == 'a", 15, "close its quotes"),
        ("event. == 'a'", 8, "field"),
        ("(event.type == 'a'", 19, "`)` is missing"),
        ("event.type == 'a' event", 19, "not expected"),
        ("event.data.lower()", 12, "no function `lower`"),
        ("startsWith('a', 'b')", 1, "takes 2 values"),
        ("event.type.startsWith()", 12, "takes 2 values"),
        ("event.type.matches('(')", 12, "pattern"),
        ("has(event)", 1, "asks for a field"),
        ("event.data.all(1, true)", 12, "needs a variable"),
        ("[1].all(x, x > 0) && x > 0", 22, "`x` is not known"),
        ("b'bytes' == b'bytes'", 1, "byte strings"),
        ("9223372036854775808 > 0", 1, "too large"),
        (r"'\q' == 'q'", 2, "escape"),
    ] {
        let error = Program::parse(source).expect_err(source);
        assert!(error.what.contains(word), "{source}: {error}");
        assert_eq!(error.at, at, "{source}: {error}");
    }
}

#[test]
fn a_rule_has_so_many_bytes_and_levels_and_no_more() {
    // What is within the brackets is a level, too.
    let deep = |levels: usize| format!("{}true{}", "(".repeat(levels - 1), ")".repeat(levels - 1));
    assert!(Program::parse(&deep(48)).is_ok());
    let error = Program::parse(&deep(49)).expect_err("deep");
    assert_eq!((error.at, error.what.as_str()), (49, "too deep; write fewer brackets"));
    let long = |bytes: usize| format!("true{}", " ".repeat(bytes - 4));
    assert!(Program::parse(&long(4096)).is_ok());
    let error = Program::parse(&long(4097)).expect_err("long");
    assert_eq!((error.at, error.what.as_str()), (4097, "longer than 4096 bytes; write less"));
}

#[test]
fn running_ends_within_bounds() {
    let many: Vec<i64> = (0..2000).collect();
    let event = Value::of(&json!({ "many": many }));
    let program =
        Program::parse("event.many.all(a, event.many.all(b, event.many.all(c, true)))").expect("read");
    assert!(program.holds(&event).expect_err("too much").to_string().contains("too many steps"));
    // Three steps come before those of the values: `all`, the field, and the event that has it.
    let program = Program::parse("event.many.all(a, true)").expect("read");
    let runs = |values: usize| program.holds(&Value::of(&json!({ "many": vec![1; values] }))).is_ok();
    assert_eq!((runs(99_997), runs(99_998)), (true, false));
}

proptest! {
    #[test]
    fn no_text_is_too_strange(source in r#"[a-z0-9.,()\[\]{}<>=!&|?:+*/%'" \\-]{0,60}"#) {
        if let Ok(program) = Program::parse(&source) {
            let _answer = program.holds(&event());
        }
    }

    #[test]
    fn whole_numbers_calculate_like_numbers(a in -1000_i64..1000, b in -1000_i64..1000) {
        let truth = format!("{a} + {b} == {} && {a} * {b} == {} && ({a} < {b}) == {}", a + b, a * b, a < b);
        let program = Program::parse(&truth).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(program.holds(&event()).ok(), Some(true), "{}", truth);
    }
}

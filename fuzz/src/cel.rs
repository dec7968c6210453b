//! Routing rules: a program that is read runs to an end within its bounds, whatever the event holds.

use dodai_cel::{Program, Value};

/// The first line is the program; the rest is the event, as JSON.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (source, event) = text.split_once('\n').unwrap_or((text, "null"));
    let Ok(program) = Program::parse(source) else { return };
    let Ok(event) = serde_json::from_str::<serde_json::Value>(event) else { return };
    let event = Value::of(&event);
    assert_eq!(program.holds(&event), program.holds(&event), "a rule is a function of the event");
}

//! Documents as users write them: any bytes are read without a panic, problems have places that exist, and what was
//! accepted can be written as JSON and is accepted again, unchanged.

use dodai_api::{Document, Problem, Source, read};

/// Reads the bytes as a file of documents.
pub fn target(data: &[u8]) {
    let first = read(&Source { name: "input.yaml", bytes: data });
    for problem in first.errors.iter().chain(&first.warnings) {
        check_place(problem, data);
    }
    for located in &first.documents {
        let value = located.value.to_value();
        assert_eq!(Document::from_value(&value).as_ref(), Ok(&located.value), "{value}");
        let again = read(&Source { name: "input.json", bytes: value.to_string().as_bytes() });
        let [same] = again.documents.as_slice() else { panic!("{value} gives {:?}", again.errors) };
        assert_eq!(same.value, located.value);
    }
}

fn check_place(problem: &Problem, data: &[u8]) {
    // The line behind the last is where the parser sees the end of the file.
    let lines = data.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 2;
    assert!(problem.line as usize <= lines, "line {} of {lines}: {problem}", problem.line);
    assert!(!problem.message.is_empty(), "a problem without a word");
}

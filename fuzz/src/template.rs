//! Path templates: what is read is what it says, whatever stands in it.

use dodai_api::{Segment, Template};

/// The whole input is a template.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(template) = text.parse::<Template>() else { return };
    let Some((_, before)) = template.segments.split_last() else { panic!("a template without segments") };
    assert!(!before.iter().any(|one| matches!(one, Segment::Rest(_))), "`**` stands at the end");
    // A rewrite may name each of its variables, and the expression has a group for each.
    let to: String = template.variables.iter().map(|name| format!("/{{{name}}}")).collect();
    let (pattern, _) = template.rewriting(&format!("/{to}")).expect("its own variables");
    let groups = regex::Regex::new(pattern).expect("an expression").captures_len();
    assert_eq!(groups, template.variables.len() + 1, "{pattern}");
    // Written without its variables it has the same segments.
    let written: String = template.segments.iter().fold(String::new(), |mut all, one| {
        let text = match one {
            Segment::Literal(text) => text.clone(),
            Segment::One(end) => format!("*{end}"),
            Segment::Rest(end) => format!("**{end}"),
        };
        all.push('/');
        all.push_str(&text);
        all
    });
    let again: Template = written.parse().expect("what a template says is a template");
    assert_eq!(again.segments, template.segments, "{written}");
}

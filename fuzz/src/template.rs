//! Path templates: what is read is what it says, whatever stands in it.

use dodai_api::{Segment, Template};

/// The whole input is a template.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(template) = text.parse::<Template>() else { return };
    let Some((_, before)) = template.segments.split_last() else { panic!("a template without segments") };
    assert!(!before.iter().any(|one| matches!(one, Segment::Rest(_))), "`**` stands at the end");
    // Written without its variables it is the same template.
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
    assert_eq!(written.parse::<Template>().as_ref(), Ok(&template), "{written}");
}

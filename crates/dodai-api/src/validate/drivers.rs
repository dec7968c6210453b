//! Components of types that no driver serves. What drivers there are is not known here: a caller says it.

use crate::document::Document;
use crate::read::{Code, Located, Problem, suggest};

/// A warning for each component whose type is not among `known`. Such a document is a right one, so it is taken;
/// its component never comes up.
pub fn unknown_drivers(documents: &[Located<Document>], known: &[&str]) -> Vec<Problem> {
    let problem = |located: &Located<Document>| {
        let Document::Component(component) = &located.value else { return None };
        let kind = component.spec.kind.as_str();
        if known.contains(&kind) {
            return None;
        }
        let message = format!(
            "no driver of this build serves `{}`: the component will not come up",
            crate::Invalid::shorten(kind)
        );
        let problem = Problem::new(Code::UnknownReference, "spec.type", message);
        Some(located.locate(problem.remedy(remedy(kind, known)).warning()))
    };
    documents.iter().filter_map(problem).collect()
}

/// The type that was meant, or those that do the same.
fn remedy(kind: &str, known: &[&str]) -> String {
    if let Some(nearest) = suggest(kind, known) {
        return nearest;
    }
    let listed = |types: &[&str]| types.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", ");
    let block = kind.split('.').next().unwrap_or_default();
    let same = |one: &&str| one.split('.').next() == Some(block);
    let same: Vec<&str> = known.iter().copied().filter(same).collect();
    match same.as_slice() {
        [] => format!("there are {}", listed(known)),
        same => format!("of `{block}` there are {}", listed(same)),
    }
}

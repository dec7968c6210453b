//! What the types cannot say: rules within one document, and between documents.

use crate::document::Document;
use crate::read::Problem;

/// Checks one document by itself. Paths are set, places are not: see [`crate::Located::locate`].
pub fn validate(document: &Document) -> Vec<Problem> {
    let _ = document;
    Vec::new()
}

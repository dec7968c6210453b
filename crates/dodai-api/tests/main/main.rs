//! Tests of the documents as a user meets them: text in, documents and problems out.

mod bounds;
mod errors;
mod guards;
mod pages;
mod policies;
mod properties;
mod reading;
mod rewrites;
mod run_file;
mod schemas;
mod sets;

use dodai_api::{Code, Document, Read, Source, read};

/// Reads one file of the given text.
fn read_text(text: &str) -> Read {
    read(&Source { name: "shop.yaml", bytes: text.as_bytes() })
}

/// The one document of a text that has no problem at all.
fn good(text: &str) -> Document {
    let read = read_text(text);
    assert!(read.errors.is_empty() && read.warnings.is_empty(), "{:#?} {:#?}", read.errors, read.warnings);
    let mut documents = read.documents;
    assert_eq!(documents.len(), 1);
    documents.remove(0).value
}

/// The one document of a text that may say what has no effect.
fn accepted(text: &str) -> Document {
    let read = read_text(text);
    let idle = read.warnings.iter().all(|problem| problem.code == Code::NoEffect);
    assert!(read.errors.is_empty() && idle, "{:#?} {:#?}", read.errors, read.warnings);
    let mut documents = read.documents;
    assert_eq!(documents.len(), 1);
    documents.remove(0).value
}

/// Errors and warnings as a user sees them, one a line.
fn told(read: &Read) -> String {
    let all = read.errors.iter().chain(&read.warnings);
    all.map(|problem| format!("{problem} [{}]\n", problem.code)).collect()
}

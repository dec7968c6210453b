//! The resources of a run file's apps put together: what each sidecar would read for itself is one project here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::ensure;
use dodai_api::dapr::Component;
use dodai_api::{Document, DocumentKey, Located, Name};
use dodai_core::id::AppId;

use crate::output::Output;

/// The resources of all folders, each once, with the apps whose folders hold it.
#[derive(Default)]
pub(super) struct Scoped(BTreeMap<DocumentKey, (Located<Document>, BTreeSet<AppId>)>);

impl Scoped {
    pub(super) fn add(
        &mut self,
        found: Vec<Located<Document>>,
        users: &BTreeSet<AppId>,
    ) -> anyhow::Result<()> {
        for mut one in found {
            let own = Name::default_namespace();
            let metadata = one.value.metadata_mut();
            if metadata.namespace != own {
                tracing::info!(file = %one.file, "a document of another namespace is left out");
                continue;
            }
            let key = one.value.key();
            if let Some((known, of)) = self.0.get_mut(&key) {
                ensure!(
                    known.value == one.value,
                    "{}: {key} is not the one of {}; apps of one file share their resources, so give one another name",
                    one.file,
                    known.file
                );
                of.extend(users.iter().cloned());
            } else {
                self.0.insert(key, (one, users.clone()));
            }
        }
        Ok(())
    }

    /// The documents, each for the apps whose folders hold it. `folders` are those of all apps; paths of what apps of
    /// several folders share begin at `file_folder`.
    pub(super) fn into_documents(
        self,
        folders: &BTreeMap<AppId, &Path>,
        file_folder: &Path,
        output: &Output,
    ) -> Vec<Located<Document>> {
        let documents = self.0.into_values().filter_map(|(mut one, users)| {
            if let Document::Component(component) = &mut one.value {
                settle_paths(component, &users, folders, file_folder, output);
            }
            let scopes = match &mut one.value {
                Document::Component(it) => &mut it.scopes,
                Document::Subscription(it) => &mut it.scopes,
                Document::Resiliency(it) => &mut it.scopes,
                Document::HttpEndpoint(it) => &mut it.scopes,
                Document::Configuration(_)
                | Document::Namespace(_)
                | Document::App(_)
                | Document::Revision(_)
                | Document::Service(_)
                | Document::Gateway(_)
                | Document::Route(_)
                | Document::Policy(_)
                | Document::Base(_) => return Some(one),
            };
            if users.len() < folders.len() {
                let users = users.iter().map(|user| user.name.as_str().to_owned());
                let users: Vec<String> = if scopes.is_empty() {
                    users.collect()
                } else {
                    users.filter(|user| scopes.contains(user)).collect()
                };
                // One that is for none of them is for nobody.
                (!users.is_empty()).then(|| *scopes = users)?;
            }
            Some(one)
        });
        documents.collect()
    }
}

/// Makes relative paths of a component begin where Dapr begins them: it starts a sidecar in its app's folder. Apps of
/// several folders share one component here, whose paths begin at the folder of the file, with a warning.
fn settle_paths(
    component: &mut Component,
    users: &BTreeSet<AppId>,
    folders: &BTreeMap<AppId, &Path>,
    file_folder: &Path,
    output: &Output,
) {
    let scopes = &component.scopes;
    let uses = |app: &&AppId| scopes.is_empty() || scopes.iter().any(|scope| scope == app.name.as_str());
    let bases: BTreeSet<&Path> =
        users.iter().filter(uses).filter_map(|app| folders.get(app).copied()).collect();
    let base = bases.first().copied().filter(|_| bases.len() == 1).unwrap_or(file_folder);
    for name in begin_at(base, component).iter().filter(|_| bases.len() > 1) {
        output.warn(&format!(
            "component {}: {name} begins at {}, since apps of several folders share it; Dapr begins at the folder of \
             each app: write an absolute path to say which is meant",
            component.metadata.name,
            base.display()
        ));
    }
}

/// Makes the paths in a component's metadata absolute; the names of those that were not.
fn begin_at(base: &Path, component: &mut Component) -> Vec<String> {
    let kind = component.spec.kind.to_ascii_lowercase();
    let known = match kind.as_str() {
        "secretstores.local.file" => "secretsFile",
        "bindings.localstorage" => "rootPath",
        _ if kind.ends_with(".sqlite") => "connectionString",
        _ => return Vec::new(),
    };
    let mut changed = Vec::new();
    for item in component.spec.metadata.iter_mut().filter(|item| item.name.eq_ignore_ascii_case(known)) {
        let Some(text) = item.text() else { continue };
        let (scheme, path, options) =
            if known == "connectionString" { sqlite(&text) } else { ("", &*text, "") };
        if path.is_empty() || path == ":memory:" || Path::new(path).is_absolute() {
            continue;
        }
        let path = base.join(path.strip_prefix("./").unwrap_or(path));
        item.value = Some(format!("{scheme}{}{options}", path.display()).into());
        changed.push(item.name.clone());
    }
    changed
}

/// `file:shop.db?mode=rwc` in its three parts. What is only in memory has no path.
fn sqlite(text: &str) -> (&str, &str, &str) {
    let (path, options) = text.split_at(text.find('?').unwrap_or(text.len()));
    if options.contains("mode=memory") {
        return ("", "", options);
    }
    let (scheme, path) = path.split_at(if path.starts_with("file:") { "file:".len() } else { 0 });
    (scheme, path, options)
}

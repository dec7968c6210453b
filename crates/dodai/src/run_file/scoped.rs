//! The resources of a run file's apps put together: what each sidecar would read for itself is one project here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dodai_api::dapr::Component;
use dodai_api::{Code, Document, DocumentKey, Located, Name, Problem};
use dodai_base::node::component_types;
use dodai_core::id::AppId;

use super::Checked;

/// The resources of all folders, each once, with the apps whose folders hold it.
#[derive(Default)]
pub(super) struct Scoped(BTreeMap<DocumentKey, (Located<Document>, BTreeSet<AppId>)>);

impl Scoped {
    pub(super) fn add(
        &mut self,
        documents: Vec<Located<Document>>,
        users: &BTreeSet<AppId>,
        found: &mut Checked,
    ) {
        for mut one in documents {
            let own = Name::default_namespace();
            let metadata = one.value.metadata_mut();
            if metadata.namespace != own {
                tracing::info!(file = %one.file, "a document of another namespace is left out");
                continue;
            }
            let key = one.value.key();
            match self.0.get_mut(&key) {
                Some((known, of)) if known.value == one.value => of.extend(users.iter().cloned()),
                Some((known, of)) => found.add(differ(&one, users, known, of)),
                None => {
                    self.0.insert(key, (one, users.clone()));
                }
            }
        }
    }

    /// Checks what each app gets together: what a document names must be among what the same app reads. `apps` are the
    /// documents of the apps.
    pub(super) fn check_together(&self, apps: &[Located<Document>], found: &mut Checked) {
        let ids: BTreeSet<&str> = apps.iter().map(|app| app.value.metadata().name.as_str()).collect();
        self.0.values().for_each(|(one, users)| check_scopes(one, users, &ids, found));
        let mut told: Vec<(Problem, BTreeSet<&str>)> = Vec::new();
        for id in &ids {
            for problem in dodai_api::validate_set(&self.of(id, apps), &BTreeMap::new()) {
                match told.iter_mut().find(|(known, _)| *known == problem) {
                    Some((_, of)) => {
                        of.insert(id);
                    }
                    None => told.push((problem, [*id].into())),
                }
            }
        }
        for (mut problem, of) in told {
            let of: Vec<String> = of.into_iter().map(|id| format!("`{id}`")).collect();
            if of.len() < ids.len() {
                problem.message = format!("for {}: {}", of.join(", "), problem.message);
            }
            if let Some(remedy) = self.elsewhere(&problem) {
                problem.remedy = Some(remedy);
            }
            found.add(problem);
        }
        let types = component_types();
        let types: Vec<&str> = types.iter().map(|one| one.kind.as_str()).collect();
        let documents: Vec<Located<Document>> = self.0.values().map(|(one, _)| one.clone()).collect();
        dodai_api::unknown_drivers(&documents, &types).into_iter().for_each(|problem| found.add(problem));
    }

    /// What one app gets, each as if it were for that app alone, and all apps.
    fn of(&self, id: &str, apps: &[Located<Document>]) -> Vec<Located<Document>> {
        let mut all = apps.to_vec();
        for (one, users) in self.0.values() {
            let mut one = one.clone();
            let reads = users.iter().any(|user| user.name.as_str() == id);
            match scopes_of(&mut one.value) {
                // Any app's Configuration is named by its document.
                None => all.push(one),
                Some(scopes) if reads && (scopes.is_empty() || scopes.iter().any(|scope| scope == id)) => {
                    *scopes = vec![id.to_owned()];
                    all.push(one);
                }
                Some(_) => {}
            }
        }
        all
    }

    /// Where what an app misses is: in a folder that it does not read, or for others by its `scopes`.
    fn elsewhere(&self, problem: &Problem) -> Option<String> {
        if problem.code != Code::UnknownReference {
            return None;
        }
        let is_named = |one: &Located<Document>| {
            matches!(one.value, Document::Component(_))
                && problem.message.contains(&format!("no Component `{}`", one.value.metadata().name))
        };
        let (one, users) = self.0.values().find(|(one, _)| is_named(one))?;
        let users: Vec<String> = users.iter().map(|user| format!("`{}`", user.name)).collect();
        let place = at(one);
        Some(format!(
            "it is at {place}, which {} may use: name its folder in `resourcesPaths`, and the app in its `scopes` if it has any",
            users.join(", ")
        ))
    }

    /// The documents, each for the apps whose folders hold it. `folders` are those of all apps; paths of what apps of
    /// several folders share begin at `file_folder`.
    pub(super) fn into_documents(
        self,
        folders: &BTreeMap<AppId, &Path>,
        file_folder: &Path,
        found: &mut Checked,
    ) -> Vec<Located<Document>> {
        let documents = self.0.into_values().filter_map(|(mut one, users)| {
            if let Document::Component(component) = &mut one.value {
                let warnings = settle_paths(component, &users, folders, file_folder);
                warnings.into_iter().for_each(|problem| found.add(one.locate(problem)));
            }
            let Some(scopes) = scopes_of(&mut one.value) else { return Some(one) };
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

/// For which apps a document is, of the kinds that say so.
fn scopes_of(document: &mut Document) -> Option<&mut Vec<String>> {
    match document {
        Document::Component(it) => Some(&mut it.scopes),
        Document::Subscription(it) => Some(&mut it.scopes),
        Document::Resiliency(it) => Some(&mut it.scopes),
        Document::HttpEndpoint(it) => Some(&mut it.scopes),
        Document::Configuration(_)
        | Document::Namespace(_)
        | Document::App(_)
        | Document::Revision(_)
        | Document::Service(_)
        | Document::Gateway(_)
        | Document::Route(_)
        | Document::Policy(_)
        | Document::Base(_) => None,
    }
}

/// Where a document begins.
fn at(one: &Located<Document>) -> String {
    let line = one.place("metadata.name").map(|(line, _)| format!(":{line}")).unwrap_or_default();
    format!("{}{line}", one.file)
}

/// The problem of a second document of one kind and name that is not the first.
fn differ(
    one: &Located<Document>,
    users: &BTreeSet<AppId>,
    known: &Located<Document>,
    of: &BTreeSet<AppId>,
) -> Problem {
    let message = format!("{} is not the one of {}", one.value.key(), at(known));
    let remedy = match users.intersection(of).next() {
        Some(both) => format!("app `{}` reads both: remove one, or give it another name", both.name),
        None => "apps of one file share their resources, so give one another name".to_owned(),
    };
    one.locate(Problem::new(Code::DuplicateDocument, "metadata.name", message).remedy(remedy))
}

/// Warns of scopes that name no app of the file, or one that does not read the document.
fn check_scopes(one: &Located<Document>, users: &BTreeSet<AppId>, ids: &BTreeSet<&str>, found: &mut Checked) {
    let mut own = one.value.clone();
    for (i, scope) in scopes_of(&mut own).into_iter().flatten().enumerate() {
        let (message, remedy) = if !ids.contains(scope.as_str()) {
            let ids: Vec<String> = ids.iter().map(|id| format!("`{id}`")).collect();
            (format!("there is no app `{scope}` in the file"), format!("its apps are {}", ids.join(", ")))
        } else if users.iter().all(|user| user.name.as_str() != scope) {
            let message = format!("the app `{scope}` does not read the folder that this lies in");
            (message, "name the folder in its `resourcesPaths`, or take it out of `scopes`".to_owned())
        } else {
            continue;
        };
        let problem = Problem::new(Code::UnknownReference, format!("scopes[{i}]"), message);
        found.add(one.locate(problem.remedy(remedy).warning()));
    }
}

/// Makes relative paths of a component begin where Dapr begins them: it starts a sidecar in its app's folder. Apps of
/// several folders share one component here, whose paths begin at the folder of the file, with a warning.
fn settle_paths(
    component: &mut Component,
    users: &BTreeSet<AppId>,
    folders: &BTreeMap<AppId, &Path>,
    file_folder: &Path,
) -> Vec<Problem> {
    let scopes = &component.scopes;
    let uses = |app: &&AppId| scopes.is_empty() || scopes.iter().any(|scope| scope == app.name.as_str());
    let bases: BTreeSet<&Path> =
        users.iter().filter(uses).filter_map(|app| folders.get(app).copied()).collect();
    let base = bases.first().copied().filter(|_| bases.len() == 1).unwrap_or(file_folder);
    let changed = begin_at(base, component);
    let warn = |index: usize| {
        let message = format!(
            "this begins at {}, since apps of several folders share it; Dapr begins at the folder of each app",
            base.display()
        );
        let problem = Problem::new(Code::Conflict, format!("spec.metadata[{index}].value"), message);
        problem.remedy("write an absolute path to say which is meant").warning()
    };
    changed.into_iter().filter(|_| bases.len() > 1).map(warn).collect()
}

/// Makes the paths in a component's metadata absolute; the places of those that were not.
fn begin_at(base: &Path, component: &mut Component) -> Vec<usize> {
    let kind = component.spec.kind.to_ascii_lowercase();
    let known = match kind.as_str() {
        "secretstores.local.file" => "secretsFile",
        "bindings.localstorage" => "rootPath",
        _ if kind.ends_with(".sqlite") => "connectionString",
        _ => return Vec::new(),
    };
    let mut changed = Vec::new();
    let items = component.spec.metadata.iter_mut().enumerate();
    for (index, item) in items.filter(|(_, item)| item.name.eq_ignore_ascii_case(known)) {
        let Some(text) = item.text() else { continue };
        let (scheme, path, options) =
            if known == "connectionString" { sqlite(&text) } else { ("", &*text, "") };
        if path.is_empty() || path == ":memory:" || Path::new(path).is_absolute() {
            continue;
        }
        let path = base.join(path.strip_prefix("./").unwrap_or(path));
        item.value = Some(format!("{scheme}{}{options}", path.display()).into());
        changed.push(index);
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

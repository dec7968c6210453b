//! `dodai up --watch`: builds and applies again what changed in the folder: documents, artefacts of modules,
//! programs and scripts of processes, and the inputs of what it builds.
//!
//! It looks at modification times once a second. Rejected: file system notifications, which miss network
//! folders and container mounts and need a fall-back like this one anyway.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use dodai_control::control::Control;
use dodai_control::documents::{Apply, FieldOwner, Verdict};
use dodai_core::task::Tasks;

use crate::environment::Environment;
use crate::local::{Project, newest};
use crate::output::Output;
use crate::run_file::RunPath;
use crate::validate;

const LOOK: Duration = Duration::from_secs(1);

/// When the things that matter last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fingerprint(Vec<(PathBuf, Option<SystemTime>)>);

fn fingerprint(project: &Project, documents: &dodai_api::Project) -> Fingerprint {
    let changed = |path: &PathBuf| path.metadata().ok().and_then(|metadata| metadata.modified().ok());
    let mut seen = Vec::new();
    // A folder that cannot be read now is looked at again a second later.
    let below = || validate::files_below(&project.folder).unwrap_or_default();
    for path in project.run_file.as_ref().map_or_else(below, RunPath::files) {
        seen.push((path.clone(), changed(&path)));
    }
    for located in &documents.read.documents {
        let dodai_api::Document::App(app) = &located.value else { continue };
        let runs = match app.spec.workload() {
            Some(dodai_api::Workload::Module(module)) => vec![project.folder.join(&module.artifact)],
            Some(dodai_api::Workload::Process(process)) => project.programs(process),
            Some(dodai_api::Workload::External(_)) | None => Vec::new(),
        };
        seen.extend(runs.into_iter().map(|path| (path.clone(), changed(&path))));
        if let Some((build, product)) = project.product(&app.spec) {
            let folder = build.working_directory.as_deref().unwrap_or(".");
            let inputs = if build.inputs.is_empty() { vec![folder.to_owned()] } else { build.inputs.clone() };
            for input in inputs {
                let path = project.folder.join(input);
                let time = newest(&path, &product);
                seen.push((path, time));
            }
            seen.push((product.clone(), changed(&product)));
        }
    }
    Fingerprint(seen)
}

/// Watches until the tasks close. What is wrong is printed; what ran before goes on.
pub async fn run(
    project: &Project,
    mut documents: dodai_api::Project,
    control: &Control,
    environment: &Environment,
    output: &Output,
    tasks: &Tasks,
) {
    let mut seen = fingerprint(project, &documents);
    loop {
        tokio::select! {
            // Both only wait.
            () = tokio::time::sleep(LOOK) => {}
            () = tasks.closing() => return,
        }
        let now = fingerprint(project, &documents);
        if now == seen {
            continue;
        }
        seen = now;
        match again(project, control, environment, output).await {
            Ok(fresh) => documents = fresh,
            Err(error) => output.error(&error),
        }
        // A product that was built meanwhile is seen as one more change, which then applies to nothing new.
    }
}

async fn again(
    project: &Project,
    control: &Control,
    environment: &Environment,
    output: &Output,
) -> anyhow::Result<dodai_api::Project> {
    let documents = project.read(output)?;
    project.build(&documents, environment, output).await?;
    let scope = project.name();
    let apply = Apply {
        documents: &documents.read.documents,
        actor: "up",
        owner: FieldOwner::File,
        prune: Some(&scope),
        dry_run: false,
    };
    let applied = control.apply(&apply).await?;
    for written in applied.written.iter().filter(|written| written.verdict != Verdict::Unchanged) {
        output.say(&format!("{} {}", written.key, written.verdict.as_str()));
    }
    Ok(documents)
}

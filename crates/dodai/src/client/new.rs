//! `dodai new`: a small project that runs at once.

use std::path::Path;

use anyhow::Context;

use super::arguments::{New, Template};
use crate::output::Output;

const GATEWAY: &str = include_str!("templates/gateway.yaml");
const APP: &str = include_str!("templates/app.py");

/// The files of a template: path and content with `NAME` in it.
fn files(template: Template) -> Vec<(&'static str, String)> {
    let manifest = |app: &str| (dodai_api::MANIFEST, format!("{app}{GATEWAY}"));
    let ignore = |more: &str| (".gitignore", format!(".dodai/\n{more}"));
    match template {
        Template::Module => vec![
            manifest(include_str!("templates/module.yaml")),
            ("Cargo.toml", include_str!("templates/Cargo.toml.txt").to_owned()),
            ("src/lib.rs", include_str!("templates/lib.rs.txt").to_owned()),
            ignore("target/\n"),
        ],
        Template::Process => {
            vec![manifest(include_str!("templates/process.yaml")), ("app.py", APP.to_owned()), ignore("")]
        }
        Template::External => {
            vec![manifest(include_str!("templates/external.yaml")), ("app.py", APP.to_owned()), ignore("")]
        }
    }
}

fn fill(text: &str, name: &str) -> String {
    text.replace("NAME_UNDERSCORED", &name.replace('-', "_")).replace("NAME", name)
}

/// Runs the command.
pub fn run(arguments: &New, output: &Output) -> anyhow::Result<()> {
    let name = &arguments.name;
    name.parse::<dodai_api::Name>().map_err(|error| anyhow::anyhow!("{error}"))?;
    let folder = Path::new(name);
    std::fs::create_dir(folder)
        .with_context(|| format!("cannot make the folder {name}; choose another name"))?;
    for (path, text) in files(arguments.template) {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, fill(&text, name)));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        output.say(&format!("wrote {}", path.display()));
    }
    match arguments.template {
        Template::Module => output.say(&format!("next: rustup target add wasm32-wasip2; dodai up {name}")),
        Template::Process => output.say(&format!("next: dodai up {name}")),
        Template::External => {
            output.say(&format!("next: python3 {name}/app.py --port 9000 &  dodai up {name}"))
        }
    }
    let _for_people = output.value(&serde_json::json!({ "folder": name }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_valid() {
        for template in [Template::Module, Template::Process, Template::External] {
            let files = files(template);
            let manifest = fill(&files[0].1, "my-shop");
            let source = dodai_api::Source { name: files[0].0, bytes: manifest.as_bytes() };
            let project = dodai_api::read_all(&[source]);
            assert_eq!(
                (&project.read.errors, &project.read.warnings),
                (&Vec::new(), &Vec::new()),
                "{template:?}"
            );
            assert_eq!(project.read.documents.len(), 3, "{template:?}");
            for (path, text) in files {
                assert!(!fill(&text, "my-shop").contains("NAME"), "{path} of {template:?}");
            }
        }
    }
}

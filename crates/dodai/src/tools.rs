//! Programs that bring a language, and which version of them a project needs by its own words: `go.mod`, `package.json`,
//! `pyproject.toml`, `pom.xml`. What is missing or too old is told before it fails with words of its own.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dodai_api::{Document, Process};

use crate::environment::Environment;
use crate::local::Project;
use crate::output::Output;

/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest file that is read for a version.
const MAX_FILE: u64 = 1 << 20;

/// A language's programs.
struct Tool {
    /// By which names they are called.
    programs: &'static [&'static str],
    /// What brings them.
    brings: &'static str,
    /// What says its version, how it is asked, and what stands before the version in the answer.
    asked: (&'static str, &'static str, &'static str),
    /// The file of a project that says which version it needs.
    file: &'static str,
    /// What it says.
    least: fn(&str) -> Option<Version>,
}

const TOOLS: [Tool; 4] = [
    Tool {
        programs: &["go"],
        brings: "Go",
        asked: ("go", "version", "go version go"),
        file: "go.mod",
        least: |text| text.lines().find_map(|line| Version::read(line.trim().strip_prefix("go ")?)),
    },
    Tool {
        programs: &["node", "npm", "npx"],
        brings: "Node.js",
        asked: ("node", "--version", "v"),
        file: "package.json",
        least: |text| {
            let about: serde_json::Value = serde_json::from_str(text).ok()?;
            Version::bound(about.pointer("/engines/node")?.as_str()?)
        },
    },
    Tool {
        programs: &["python3", "python"],
        brings: "Python",
        asked: ("python3", "--version", "Python "),
        file: "pyproject.toml",
        least: |text| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix("requires-python"))?;
            Version::bound(line.trim_start_matches([' ', '=', '"', '\'']).trim_start())
        },
    },
    Tool {
        programs: &["java", "mvn"],
        brings: "a JDK",
        asked: ("java", "-version", "version \""),
        file: "pom.xml",
        least: |text| {
            let tags = ["<maven.compiler.release>", "<java.version>", "<release>", "<maven.compiler.source>"];
            tags.iter().find_map(|tag| Version::read(text.split_once(tag)?.1))
        },
    },
];

/// Numbers with points between them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version(Vec<u32>);

impl Version {
    /// What a text begins with.
    fn read(text: &str) -> Option<Version> {
        let text = text.trim_start();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let parts = text[..end].split('.').filter(|part| !part.is_empty()).take(3);
        let parts: Vec<u32> = parts.map(|part| part.parse().ok()).collect::<Option<_>>()?;
        (!parts.is_empty()).then_some(Version(parts))
    }

    /// The least version of `>=20`, `^18.2`, `~=3.10` or `20.x`. One of several that are good is none: who knows which.
    fn bound(text: &str) -> Option<Version> {
        if text.contains("||") || text.starts_with(['<', '!']) {
            return None;
        }
        Version::read(text.trim_start_matches(['>', '=', '^', '~', 'v', ' ']))
    }

    /// Java 8 calls itself 1.8.
    fn of_java(self) -> Version {
        match self.0.as_slice() {
            [1, rest @ ..] if !rest.is_empty() => Version(rest.to_vec()),
            _ => self,
        }
    }

    fn is_before(&self, least: &Version) -> bool {
        let parts = self.0.iter().chain(std::iter::repeat(&0)).zip(&least.0);
        let decided = parts.map(|(own, least)| own.cmp(least)).find(|one| one.is_ne());
        decided == Some(Ordering::Less)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&parts.join("."))
    }
}

/// What a project says of the version that it needs.
struct Needed {
    tool: &'static Tool,
    least: Option<(Version, PathBuf)>,
}

impl Needed {
    /// For a program that is started in a folder of a project; none for programs that are of no language.
    fn of(program: &str, folder: &Path, project: &Path) -> Option<Needed> {
        let tool = TOOLS.iter().find(|tool| tool.programs.contains(&program))?;
        let above = folder.ancestors().take_while(|above| above.starts_with(project));
        let said = |above: &Path| {
            let file = above.join(tool.file);
            let text = dodai_core::file::read(&file, MAX_FILE).ok()?;
            let least = (tool.least)(std::str::from_utf8(&text).ok()?)?;
            Some((if tool.brings == "a JDK" { least.of_java() } else { least }, file))
        };
        Some(Needed { tool, least: above.filter_map(said).next() })
    }

    fn install(&self) -> String {
        let brings = self.tool.brings;
        match &self.least {
            Some((least, file)) => {
                format!("install {brings} {least} or later, which {} asks for", file.display())
            }
            None => format!("install {brings}"),
        }
    }
}

/// How to get a program that is missing, which a project starts in a folder.
pub fn remedy(program: &str, folder: &Path, project: &Path) -> String {
    Needed::of(program, folder, project).map_or_else(|| "install it".to_owned(), |needed| needed.install())
}

/// Warns of programs that apps are run by, and built by if they are, and that are missing or older than the project
/// asks for.
pub async fn check(
    project: &Project,
    documents: &dodai_api::Project,
    builds: bool,
    environment: &Environment,
    output: &Output,
) {
    for problem in problems(project, documents, builds, environment).await {
        output.warn(&problem);
    }
}

async fn problems(
    project: &Project,
    documents: &dodai_api::Project,
    builds: bool,
    environment: &Environment,
) -> BTreeSet<String> {
    let mut looked = Vec::new();
    for located in &documents.read.documents {
        let Document::App(app) = &located.value else { continue };
        let Some(dodai_api::Workload::Process(process)) = app.spec.workload() else { continue };
        // Who says where programs are knows better.
        if app.spec.env.iter().any(|variable| variable.name == "PATH") {
            continue;
        }
        for (program, folder) in started(process, project, builds) {
            let Some(needed) = Needed::of(&program, &folder, &project.folder) else { continue };
            looked.push(async move {
                let why = why_not(&needed, &program, &folder, environment).await?;
                Some(format!("app {}: {why}; {}", app.metadata.name, needed.install()))
            });
        }
    }
    futures_util::future::join_all(looked).await.into_iter().flatten().collect()
}

/// The programs of an app that are looked up, with the folder that each starts in.
fn started(process: &Process, project: &Project, builds: bool) -> Vec<(String, PathBuf)> {
    let folder =
        |named: Option<&String>| named.map_or(project.folder.clone(), |name| project.folder.join(name));
    let build = process.build.as_ref().filter(|_| builds);
    let build =
        build.and_then(|one| Some((one.command.first()?.clone(), folder(one.working_directory.as_ref()))));
    let own = process.command.first().map(|one| (one.clone(), folder(process.working_directory.as_ref())));
    build.into_iter().chain(own).filter(|(program, _)| !program.contains('/')).collect()
}

/// Why a program will not do that is started in a folder, where its version may depend on what lies there.
async fn why_not(needed: &Needed, program: &str, folder: &Path, environment: &Environment) -> Option<String> {
    let path = environment.get("PATH").unwrap_or_default();
    let is_program = |file: PathBuf| {
        file.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    if !std::env::split_paths(path).any(|folder| is_program(folder.join(program))) {
        return Some(format!("there is no `{program}` in PATH"));
    }
    let (least, _) = needed.least.as_ref()?;
    let (asked, how, before) = needed.tool.asked;
    let asked = if asked == "python3" { program } else { asked };
    let mut command = tokio::process::Command::new(asked);
    command
        .arg(how)
        .current_dir(folder)
        .env_clear()
        .envs(&environment.0)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // One that does not say its version is let alone.
    let said = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    let said = [said.stdout, said.stderr].concat();
    let version = Version::read(String::from_utf8_lossy(&said).split_once(before)?.1)?;
    let version = if needed.tool.brings == "a JDK" { version.of_java() } else { version };
    version.is_before(least).then(|| format!("`{asked}` is of version {version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_says_the_least_version() {
        for (program, text, expect) in [
            ("go", "module a\n\ngo 1.24.9\n\nrequire x v1.2.3\n", Some("1.24.9")),
            ("go", "module a\n", None),
            ("npm", r#"{"engines": {"node": ">=20"}}"#, Some("20")),
            ("node", r#"{"engines": {"node": "^18.2.0"}}"#, Some("18.2.0")),
            ("node", r#"{"engines": {"node": "20.x"}}"#, Some("20")),
            ("node", r#"{"engines": {"node": "18 || 20"}}"#, None),
            ("node", r#"{"engines": {"node": "*"}}"#, None),
            ("node", "{}", None),
            ("python3", "[project]\nrequires-python = \">=3.10,<4\"\n", Some("3.10")),
            ("python", "requires-python='~=3.9'", Some("3.9")),
            ("mvn", "<properties><maven.compiler.release>17</maven.compiler.release>", Some("17")),
            ("java", "<java.version>1.8</java.version>", Some("8")),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let tool = TOOLS.iter().find(|tool| tool.programs.contains(&program)).unwrap();
            std::fs::write(folder.path().join(tool.file), text).unwrap();
            let below = folder.path().join("cmd/app");
            let needed = Needed::of(program, &below, folder.path()).unwrap();
            let least = needed.least.map(|(least, _)| least.to_string());
            assert_eq!(least.as_deref(), expect, "{program}: {text}");
        }
        assert!(Needed::of("sleep", Path::new("/"), Path::new("/")).is_none());
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let version = |text| Version::read(text).unwrap();
        for (own, least, expect) in
            [("1.9", "1.24", true), ("1.24", "1.24", false), ("1.24.1", "1.24", false), ("3", "3.10", true)]
        {
            assert_eq!(version(own).is_before(&version(least)), expect, "{own} {least}");
        }
    }

    #[tokio::test]
    async fn what_is_missing_or_too_old_is_told_with_the_least_version() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str, mode: u32| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        // Written by others: what this process has open for writing nobody may run, and forks keep it open.
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        let script = |name: &str, says: &str| {
            let path = folder.path().join("bin").join(name).display().to_string();
            let write = "printf '#!/bin/sh\\necho \"%s\" >&2\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
            let done = std::process::Command::new("/bin/sh").args(["-c", write, "sh", &path, says]).status();
            assert!(done.unwrap().success());
        };
        script("node", "v16.20.2");
        script("python3", "Python 3.11.2");
        script("java", "openjdk version \\\"11.0.2\\\"");
        write("bin/go", "no program", 0o644);
        write("js/package.json", r#"{"engines": {"node": ">=20"}}"#, 0o644);
        write("py/pyproject.toml", "requires-python = '>=3.10'", 0o644);
        write("java/pom.xml", "<release>17</release>", 0o644);
        write("go.mod", "go 1.24\n", 0o644);
        let app = |name: &str, command: &str, more: &str| {
            format!(
                "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: {name}}}\n\
                 spec: {{process: {{command: [{command}, x], workingDirectory: {name}{more}}}}}\n---\n"
            )
        };
        let build = ", build: {command: [mvn, package], workingDirectory: java, product: java/a.jar}";
        let text = [
            app("js", "node", ""),
            app("py", "python3", ""),
            app("go", "go", ""),
            app("java", "java", build),
        ];
        std::fs::create_dir(folder.path().join("go")).unwrap();
        write("dodai.yaml", &text.concat(), 0o644);
        let path = folder.path().join("bin").display().to_string();
        let environment = Environment([("PATH".to_owned(), format!("{path}:/usr/bin:/bin"))].into());
        let output = Output::plain(&environment);
        let project = Project::open(folder.path(), &environment, &output).unwrap();
        let documents = project.read(&output).unwrap();
        let environment = Environment([("PATH".to_owned(), path)].into());
        let found: Vec<String> =
            problems(&project, &documents, true, &environment).await.into_iter().collect();
        let root = project.folder.display();
        assert_eq!(
            found,
            [
                format!(
                    "app go: there is no `go` in PATH; install Go 1.24 or later, which {root}/go.mod asks for"
                ),
                format!(
                    "app java: `java` is of version 11.0.2; install a JDK 17 or later, which {root}/java/pom.xml asks for"
                ),
                format!(
                    "app java: there is no `mvn` in PATH; install a JDK 17 or later, which {root}/java/pom.xml asks for"
                ),
                format!(
                    "app js: `node` is of version 16.20.2; install Node.js 20 or later, which {root}/js/package.json asks for"
                ),
            ]
        );
    }
}

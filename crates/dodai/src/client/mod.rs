//! Commands that talk to a running server, and those around a project that need none.

pub mod arguments;
mod ca;
mod change;
pub mod connection;
mod debug;
mod deploy;
mod inside;
mod instances;
mod new;
mod restart;
mod rollback;
pub mod show;
mod store;
mod talk;
mod tap;
mod token;
pub mod wanted;
mod yaml;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::Method;

pub use arguments::Command;
use arguments::{Down, Server};
pub use connection::Connection;
pub use yaml::to_yaml;

use crate::environment::Environment;
use crate::exit::Failed;
use crate::local::Project;
use crate::output::Output;
use crate::progress::Progress;

/// How often a command looks again while it waits.
const LOOK: Duration = Duration::from_millis(50);

/// Runs a command.
pub async fn run(
    command: Command,
    server: &Server,
    environment: &Environment,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    let find = || Connection::find(server, environment);
    match command {
        Command::Ps(arguments) => instances::ps(&find()?, &arguments, output).await?,
        Command::Down(arguments) => down(server, &arguments, output).await?,
        Command::Apply(arguments) => change::apply(&find()?, &arguments, output).await?,
        Command::Diff(arguments) => return change::diff(&find()?, &arguments, output).await,
        Command::Get(arguments) => show::get(&find()?, &arguments, output).await?,
        Command::Describe(arguments) => show::describe(&find()?, &arguments, output).await?,
        Command::Delete(arguments) => change::delete(&find()?, &arguments, output).await?,
        Command::Watch(arguments) => show::watch(&find()?, &arguments, output).await?,
        Command::Deploy(arguments) => deploy::run(&find()?, &arguments, output).await?,
        Command::Restart(arguments) => restart::run(&find()?, &arguments, output).await?,
        Command::Rollback(arguments) => rollback::run(&find()?, &arguments, output).await?,
        Command::Logs(arguments) => talk::logs(&find()?, &arguments, output).await?,
        Command::Call(arguments) => return talk::call(&find()?, &arguments, output).await,
        Command::Publish(arguments) => talk::publish(&find()?, &arguments, output).await?,
        Command::Config(arguments) => talk::config(&find()?, &arguments, output).await?,
        Command::Topic(arguments) => inside::topic(&find()?, &arguments, output).await?,
        Command::State(arguments) => inside::state(&find()?, &arguments, output).await?,
        Command::Lock(arguments) => inside::lock(&find()?, &arguments, output).await?,
        Command::Job(arguments) => inside::job(&find()?, &arguments, output).await?,
        Command::Tap(arguments) => tap::run(&find()?, &arguments, output).await?,
        Command::Debug(arguments) => debug::run(&find()?, &arguments, output).await?,
        Command::Console => {
            let link = find()?.console();
            if !output.value(&serde_json::json!({ "url": link })) {
                output.say(&link);
            }
        }
        Command::Top(arguments) => instances::top(&find()?, &arguments, output).await?,
        Command::Token(arguments) => token::run(&find()?, &arguments, output).await?,
        Command::Ca(arguments) => ca::run(&find()?, &arguments, output).await?,
        Command::Store(arguments) => store::run(arguments, server, environment, output).await?,
        Command::Build(arguments) => {
            let project = Project::open(&arguments.path, environment, output)?;
            let documents = project.read(output)?;
            let built = project.build(&documents, environment, output).await?;
            if !output.value(&serde_json::json!({ "built": built })) {
                output.say("everything is built");
            }
        }
        Command::New(arguments) => new::run(&arguments, output)?,
        Command::Events(arguments) => show::events(&find()?, &arguments, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// An app as `namespace/name`.
fn app_id(text: &str) -> String {
    if text.contains('/') { text.to_owned() } else { format!("default/{text}") }
}

/// The app that a command is to change, as `namespace/name`. `app/name` is taken as `get` takes it, unless there is a
/// namespace of that name with such an app.
async fn app_to_change(connection: &Connection, text: &str) -> anyhow::Result<String> {
    let Some(rest) = text.strip_prefix("app/") else { return Ok(app_id(text)) };
    if rest.contains('/') {
        return Ok(rest.to_owned());
    }
    match connection.get(&format!("/v1/documents/App/app/{}", connection::encode(rest))).await {
        Ok(_) => Ok(text.to_owned()),
        Err(error) if error.downcast_ref::<Failed>() == Some(&Failed::NotFound) => Ok(app_id(rest)),
        Err(error) => Err(error),
    }
}

/// What was given, or the content of the file that `@FILE` names. What begins with `@@` is given, less the first `@`.
fn data(text: &str) -> anyhow::Result<Bytes> {
    match text.strip_prefix('@') {
        Some(given) if given.starts_with('@') => Ok(Bytes::copy_from_slice(given.as_bytes())),
        Some(path) => Ok(std::fs::read(path).with_context(|| format!("cannot read {path}"))?.into()),
        None => Ok(Bytes::copy_from_slice(text.as_bytes())),
    }
}

/// `dodai down`.
async fn down(server: &Server, arguments: &Down, output: &Output) -> anyhow::Result<()> {
    let data = connection::data_folder(server);
    let running = data.as_deref().map(connection::running).transpose()?.flatten();
    let Some(file) = running else {
        let text = "nothing is running here; `dodai up` starts it";
        return Err(anyhow::Error::new(Failed::Unreachable).context(text));
    };
    let server =
        Server { server: Some(file.address.clone()), token: Some(file.token.clone()), ..Server::default() };
    let connection = Connection::find(&server, &Environment(std::collections::BTreeMap::new()))?;
    connection.json(Method::POST, "/v1/shutdown", Bytes::new()).await?;
    output.say(&format!("stopping process {}: finishing calls, then the apps", file.pid));
    let gone = async {
        while connection::is_alive(file.pid) {
            tokio::time::sleep(LOOK).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(arguments.timeout), gone);
    let gone = Progress::on(output).during(|| "waiting until it is gone".to_owned(), gone).await;
    gone.with_context(|| {
        format!(
            "process {} still runs after {} s; look at its log, or end it with `kill {}`",
            file.pid, arguments.timeout, file.pid
        )
    })?;
    if !output.value(&serde_json::json!({ "stopped": file.pid })) {
        output.say("stopped");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::data;

    #[test]
    fn data_is_given_or_read_from_a_file() {
        for (text, expect) in [("", ""), ("a@b", "a@b"), ("@@", "@"), ("@@home", "@home"), ("@@@x", "@@x")] {
            assert_eq!(data(text).expect(text), expect.as_bytes(), "{text}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data.json");
        std::fs::write(&path, "{}").expect("writes");
        assert_eq!(data(&format!("@{}", path.display())).expect("reads"), "{}");
        assert!(data("@nowhere").expect_err("there is none").to_string().contains("cannot read nowhere"));
    }
}

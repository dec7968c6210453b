//! `cargo xtask`: everything the project does to itself, on any machine, with one word each.
//!
//! Arguments are read by hand and dependencies kept few, because this binary is compiled before anything else in
//! every run. It never links the product: a tree that does not compile can still be checked and reported on.
//! CI has no steps of its own; `cargo xtask ci` is the whole of it and runs the same here and there.

mod bench;
mod ci;
mod conformance;
mod console;
mod cost;
mod defaults;
mod deny;
mod dist;
mod fuzz;
mod guests;
mod packages;
mod process;
mod release;
mod schema;
mod spelling;
mod testing;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  ci [--stage NAME] [--list]      every check, or one; each stage also stands alone
  test [-- CARGO TEST ARGUMENTS]  install what the tests need, then run them all
  tidy                            the house rules, as tests over sources and `cargo metadata`
  deny                            banned crates, licences and sources, read from deny.toml
  typos                           spelling, with the words allowed in typos.toml
  schema [--check]                write schema/*.json from the types of documents and of the API, or compare
  defaults [--check]              write the limits in docs/defaults.md from the code, or compare
  fuzz [--seconds N] [TARGET]     build the fuzz targets and run one or all of them
  guests [--check]                rebuild the example modules, or compare their digests
  console [--check]               rebuild the web console into console/dist, or compare
  console --try [--shots FOLDER]  drive its pages in a browser against the shop; pictures of them go to a folder
  release [--no-test]             the release build with no C toolchain extras, then the tests against it
  dist                            the binary that is shipped, optimised by how it ran under load
  bench [--quick] [NAME...]       build and run the comparisons under bench/, all or those named
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let Some((command, rest)) = args.split_first() else {
        bail!("no command given\n\n{USAGE}");
    };
    if matches!(command.as_str(), "help" | "--help" | "-h") {
        print!("{USAGE}");
        return Ok(());
    }
    let workspace = Workspace::locate()?;
    let mut words = Words::new(rest);
    match command.as_str() {
        "ci" => {
            let list = words.flag("--list");
            let stage = words.value("--stage")?;
            words.finish()?;
            if list { ci::list() } else { ci::run(&workspace, stage.as_deref()) }
        }
        "test" => {
            let extra = words.after_dashes();
            words.finish()?;
            testing::run(&workspace, &extra)
        }
        "tidy" => words.finish().and_then(|()| tidy::run(&workspace)),
        "deny" => words.finish().and_then(|()| deny::run(&workspace)),
        "typos" => words.finish().and_then(|()| spelling::run(&workspace)),
        "schema" => {
            let mode = if words.flag("--check") { schema::Mode::Check } else { schema::Mode::Write };
            words.finish()?;
            schema::run(&workspace, mode)
        }
        "defaults" => {
            let mode = if words.flag("--check") { defaults::Mode::Check } else { defaults::Mode::Write };
            words.finish()?;
            defaults::run(&workspace, mode)
        }
        "fuzz" => {
            let seconds = match words.value("--seconds")? {
                Some(text) => text.parse().with_context(|| format!("--seconds {text} is not a number"))?,
                None => fuzz::DEFAULT_SECONDS,
            };
            let target = words.positional();
            words.finish()?;
            fuzz::run(&workspace, target.as_deref(), seconds)
        }
        "guests" => {
            let mode = if words.flag("--check") { guests::Mode::Check } else { guests::Mode::Write };
            words.finish()?;
            guests::run(&workspace, mode)
        }
        "console" => {
            let (is_check, is_try) = (words.flag("--check"), words.flag("--try"));
            let shots = words.value("--shots")?;
            words.finish()?;
            match (is_check, is_try) {
                (_, true) => console::try_out(&workspace, shots.as_deref()),
                (true, false) => console::check(&workspace).map(|outcome| outcome.say("console")),
                (false, false) => console::write(&workspace),
            }
        }
        "release" => {
            let tests = if words.flag("--no-test") { release::Tests::Skip } else { release::Tests::Run };
            words.finish()?;
            release::run(&workspace, tests)
        }
        "dist" => words.finish().and_then(|()| dist::run(&workspace).map(drop)),
        "bench" => {
            let extra = words.after_dashes();
            let length = if words.flag("--quick") { bench::Length::Quick } else { bench::Length::Full };
            let names: Vec<String> = std::iter::from_fn(|| words.positional()).collect();
            words.finish()?;
            bench::run(&workspace, &names, length, &extra)
        }
        other => bail!("there is no command `{other}`\n\n{USAGE}"),
    }
}

/// The words after the command; each reader takes what it knows, and `finish` refuses what is left.
struct Words(Vec<String>);

impl Words {
    fn new(words: &[String]) -> Self {
        Self(words.to_vec())
    }

    fn flag(&mut self, name: &str) -> bool {
        let at = self.0.iter().position(|word| word == name);
        at.map(|at| self.0.remove(at)).is_some()
    }

    fn value(&mut self, name: &str) -> Result<Option<String>> {
        let Some(at) = self.0.iter().position(|word| word == name) else { return Ok(None) };
        if at + 1 >= self.0.len() {
            bail!("{name} needs a value");
        }
        self.0.remove(at);
        Ok(Some(self.0.remove(at)))
    }

    fn positional(&mut self) -> Option<String> {
        let at = self.0.iter().position(|word| !word.starts_with('-'))?;
        Some(self.0.remove(at))
    }

    /// Everything behind a lone `--`; call it before `positional`.
    fn after_dashes(&mut self) -> Vec<String> {
        let Some(at) = self.0.iter().position(|word| word == "--") else { return Vec::new() };
        let tail = self.0.split_off(at + 1);
        self.0.truncate(at);
        tail
    }

    fn finish(self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        bail!("not understood: {}\n\n{USAGE}", self.0.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::Words;

    fn words(line: &str) -> Words {
        Words::new(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn every_word_is_read_or_refused() {
        let mut line = words("--seconds 3 head -- --nocapture x");
        assert_eq!(line.after_dashes(), ["--nocapture", "x"]);
        assert_eq!(line.value("--seconds").expect("has a value").as_deref(), Some("3"));
        assert_eq!(line.positional().as_deref(), Some("head"));
        assert!(line.finish().is_ok());
        assert!(words("--wrong").finish().is_err());
        assert!(words("--seconds").value("--seconds").is_err());
    }
}

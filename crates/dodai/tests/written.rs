//! What `dodai new` writes runs at once. The module is built where its target can be had: `cargo xtask guests --check`.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::project::{Done, binary, get, until};
use crate::site::free_ports;

/// What a user has to start, ended with the test.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _seen = self.0.wait();
    }
}

fn dodai(folder: &Path, arguments: &[&str]) -> Done {
    let done = Done::of(Command::new(binary()).args(arguments).current_dir(folder));
    assert!(done.status.success(), "{arguments:?}: {}", done.all());
    done
}

/// Writes a project, gives it ports that are free, and calls it.
fn check(template: &str) {
    let folder = tempfile::tempdir().unwrap();
    let said = dodai(folder.path(), &["new", "mine", "--template", template]);
    assert!(said.all().contains("next: "), "{}", said.all());
    let project = folder.path().join("mine");
    let [front, outside] = free_ports();
    let manifest = std::fs::read_to_string(project.join("dodai.yaml")).unwrap();
    let manifest = manifest.replace("8080", &front.to_string()).replace("9000", &outside.to_string());
    std::fs::write(project.join("dodai.yaml"), manifest).unwrap();
    let _beside = (template == "external").then(|| {
        let mut app = Command::new("python3");
        app.args(["app.py", "--port", &outside.to_string()]).current_dir(&project);
        let app =
            Beside(app.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("python3 is installed"));
        until("it listens", || get(outside, "/").is_ok());
        app
    });
    dodai(&project, &["up", "-d", "--threads", "1", "--admin", "127.0.0.1:0"]);
    assert_eq!(get(front, "/"), Ok("hello from mine\n".to_owned()), "{template}");
    dodai(&project, &["down"]);
}

#[test]
fn a_process_that_new_wrote_runs() {
    check("process");
}

#[test]
fn an_external_app_that_new_wrote_is_reached() {
    check("external");
}

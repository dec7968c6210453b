//! Properties that all SQLite components share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dodai_capability::Fault;
use dodai_capability::component::{Error, Reader};

use super::file::{Access, Files, Place, Tuning};

/// Where the file is and how to use it.
pub struct Settings {
    place: Place,
    tuning: Tuning,
    timeout: Duration,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads `connectionString` (or `url`), `timeout`, `busyTimeout` and `disableWAL`.
    ///
    /// # Errors
    /// The connection string is missing, or a value cannot be read.
    pub fn read(read: &mut Reader<'_>, data_dir: &Path) -> Result<Settings, Error> {
        let text = read.required(&["connectionString", "url"])?;
        if text.contains("://") && !text.starts_with("file://") {
            // The address of a server would become the name of a folder, with the password in it.
            return Err(read.refuse("connectionString", "the name of a file, `file:NAME` or `:memory:`"));
        }
        let timeout = read.duration(&["timeout", "timeoutInSeconds"], Duration::from_secs(20))?;
        let busy_timeout = read.duration(&["busyTimeout"], Duration::from_secs(2))?;
        let wal = !read.truth(&["disableWAL"], false)?;
        let (place, warnings) = place(text, data_dir);
        Ok(Settings { place, tuning: Tuning { busy_timeout, wal }, timeout, warnings })
    }

    /// Opens the file, or joins those that have it open.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn open(&self, files: &Files) -> Result<Access, Fault> {
        let file = files.open(&self.place, self.tuning).await?;
        Ok(Access::new(file, self.timeout))
    }
}

/// Reads `shop.db`, `/var/lib/shop.db`, `file:shop.db?mode=rwc` or `:memory:`.
fn place(text: &str, data_dir: &Path) -> (Place, Vec<String>) {
    let (path, options) = text.split_once('?').unwrap_or((text, ""));
    let path = path.strip_prefix("file:").unwrap_or(path);
    let path = path.strip_prefix("//").unwrap_or(path);
    let mut warnings = Vec::new();
    let mut in_memory = path == ":memory:";
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option {
            "mode=memory" => in_memory = true,
            "cache=shared" | "cache=private" | "mode=rwc" | "mode=rw" => {}
            other => warnings.push(format!(
                "connectionString: option `{}` is ignored; use the properties busyTimeout, timeout and disableWAL",
                other.split('=').next().unwrap_or_default()
            )),
        }
    }
    let place = if in_memory { Place::Memory } else { Place::File(data_dir.join(PathBuf::from(path))) };
    (place, warnings)
}

/// Reads the name of a table.
///
/// # Errors
/// It is no plain identifier.
pub fn table(read: &mut Reader<'_>, names: &[&'static str], default: &str) -> Result<String, Error> {
    read.typed(
        names,
        default.to_owned(),
        "a table name of letters, digits and `_`, not beginning with a digit",
        |text| {
            let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let fits = plain && text.len() <= 64 && !text.starts_with(|c: char| c.is_ascii_digit());
            fits.then(|| text.to_owned())
        },
    )
}

#[cfg(test)]
mod tests {
    use dodai_capability::component::Spec;

    use super::*;

    #[test]
    fn the_address_of_a_server_is_no_file_and_does_not_print() {
        let spec =
            Spec::new("orders", "state.sqlite").with("connectionString", "postgresql://app:S3cret@db/orders");
        let refused = Settings::read(&mut spec.read(), Path::new("/data")).err().expect("refused");
        let said = refused.to_string();
        assert!(said.contains("`connectionString` is ***; give the name of a file"), "{said}");
        let (_, warnings) = place("shop.db?_auth_pass=S3cret", Path::new("/data"));
        assert!(warnings[0].contains("`_auth_pass`") && !warnings[0].contains("S3cret"), "{warnings:?}");
    }

    #[test]
    fn connection_strings() {
        let dir = Path::new("/data");
        let table = [
            ("shop.db", Place::File("/data/shop.db".into()), 0),
            ("/srv/shop.db", Place::File("/srv/shop.db".into()), 0),
            ("file:shop.db?mode=rwc", Place::File("/data/shop.db".into()), 0),
            (
                "file:///srv/shop.db?_pragma=busy_timeout(5)&cache=shared",
                Place::File("/srv/shop.db".into()),
                1,
            ),
            (":memory:", Place::Memory, 0),
            ("file::memory:?cache=shared", Place::Memory, 0),
            ("file:any?mode=memory", Place::Memory, 0),
        ];
        for (text, expect, warnings) in table {
            let (place, warned) = place(text, dir);
            assert_eq!((place, warned.len()), (expect, warnings), "{text}");
        }
    }
}

//! Which names say that their value is secret, and which values look so whatever their name.
//!
//! One rule for everything that is shown, logged or exported; who masks a certain kind of names adds its own words.
//! In doubt a name is secret: a value too few is shown, and nothing is lost. The shape of a value only adds to what
//! its name says: alone it would miss short passwords.

/// A name with one of these anywhere is of a secret.
const ANYWHERE: [&str; 9] =
    ["token", "passw", "passphrase", "secret", "credential", "signature", "session", "apikey", "privatekey"];

/// A name with one of these as a word is of a secret: `api_key` and `accessKey`, not `monkey`.
const AS_WORD: [&str; 9] =
    ["key", "auth", "authorization", "authentication", "jwt", "otp", "pin", "pwd", "pass"];

/// Whether a name says that its value is secret, by the words that always do or one of `own`.
///
/// `own` are whole words in small letters that mean a secret among the names at hand: `code` in a query string.
/// A name's words end where a character is no letter or digit, and where a capital follows a small letter.
pub fn is_secret_name(name: &str, own: &[&str]) -> bool {
    let whole: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    ANYWHERE.iter().any(|part| whole.contains(part))
        || words(name).iter().any(|word| AS_WORD.contains(&word.as_str()) || own.contains(&word.as_str()))
}

/// What says among settings, variables and headers, beside the words that always do, that a value is secret.
const OWN_OF_SETTINGS: [&str; 5] = ["keys", "cookie", "sid", "sas", "dsn"];
/// Settings that have such a word and are none: what keys of a store begin with.
const PUBLIC: [&str; 1] = ["keyprefix"];

/// Whether a setting, a variable or a header of this name holds a secret.
pub fn is_secret_setting(name: &str) -> bool {
    let whole = name.to_ascii_lowercase().replace(['-', '_', '.'], "");
    // Connection strings have credentials among their parts more often than not.
    whole.contains("connectionstring")
        || (is_secret_name(name, &OWN_OF_SETTINGS) && !PUBLIC.contains(&whole.as_str()))
}

/// Whether a value looks like credentials whatever its name: an address with a password, `password=...` in a list of
/// settings, a private key, the value of an `Authorization` header.
pub fn is_secret_value(text: &str) -> bool {
    let scheme = text.split_once(' ').map(|(scheme, _)| scheme.to_ascii_lowercase());
    let authorization = matches!(scheme.as_deref(), Some("bearer" | "basic" | "digest"));
    authorization || text.contains("PRIVATE KEY-----") || has_user_info(text) || has_secret_pair(text)
}

/// Whether there is a `USER:PASSWORD@`, also where the password has letters that a URL may not have there.
fn has_user_info(text: &str) -> bool {
    let Some((before, _)) = text.rsplit_once('@') else { return false };
    let authorities = before.split("://").skip(usize::from(before.contains("://")));
    authorities.filter_map(|rest| rest.split_once(':')).any(|(_, password)| !is_port_and_path(password))
}

/// Whether this is what follows the colon of `HOST:PORT/PATH`; a path may have any letters.
fn is_port_and_path(text: &str) -> bool {
    let port = text.find(['/', '?', '#']).map(|end| &text[..end]);
    port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether one of `name=value`, also with spaces around the sign, has the name of a secret.
fn has_secret_pair(text: &str) -> bool {
    text.match_indices('=').any(|(at, _)| {
        let (before, after) = (text[..at].trim_end(), text[at + 1..].trim_start());
        let name = before.rsplit([';', '&', '?', ',', ' ', '\n', '=']).next().unwrap_or_default();
        !after.is_empty() && !after.starts_with([';', '&', ',']) && is_secret_setting(name)
    })
}

fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut small = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || (small && c.is_uppercase()) {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        small = c.is_lowercase() || c.is_numeric();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_known_and_others_are_not() {
        for name in
            ["DB_PASSWORD", "accessKey", "api-token", "AUTH", "X-Api-Key", "saslPwd", "Proxy-Authorization"]
        {
            assert!(is_secret_name(name, &[]), "{name}");
        }
        for name in ["LOG_LEVEL", "monkey", "keyboard", "redisHost", "author", "passenger_count", "code", ""]
        {
            assert!(!is_secret_name(name, &[]), "{name}");
        }
        assert!(is_secret_name("auth.code", &["code"]) && is_secret_name("Code", &["code"]));
        assert!(!is_secret_name("barcode", &["code"]), "own words are whole ones");
    }

    #[test]
    fn settings_are_judged_by_name() {
        for name in ["DB_PASSWORD", "accessKey", "api-token", "AUTH", "connectionString", "saslPwd", "dsn"] {
            assert!(is_secret_setting(name), "{name}");
        }
        for name in ["LOG_LEVEL", "monkey", "redisHost", "author", "passenger_count", "shipping", "keyPrefix"]
        {
            assert!(!is_secret_setting(name), "{name}");
        }
    }

    #[test]
    fn the_form_of_a_value_makes_a_secret() {
        for value in [
            "postgres://me:pw@db/shop",
            "postgres://me:p/w@db/shop",
            "postgres://me:p:w@db:1",
            "me:pw@db:1",
            "https://proxy/?to=https://me:pw@db",
            "host=db password=pw",
            "host=db password = pw",
            "host=db user=app password=S3cret Space dbname=x",
            "AccountName=a;AccountKey=pw",
            "https://hook/?token=pw",
            "Bearer abc",
            "-----BEGIN PRIVATE KEY-----\nabc",
        ] {
            assert!(is_secret_value(value), "{value}");
        }
        for value in [
            "info",
            "http://db:80/@me",
            "http://db/@me",
            "a@b",
            "a=b",
            "host=db user=me",
            "password=",
            "password=;a=b",
            "redis://cache:6379",
            "",
        ] {
            assert!(!is_secret_value(value), "{value}");
        }
    }
}

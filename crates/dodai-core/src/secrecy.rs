//! Which names say that their value is secret.
//!
//! One rule for everything that is shown, logged or exported; who masks a certain kind of names adds its own words.
//! In doubt a name is secret: a value too few is shown, and nothing is lost. Rejected: judging by the shape of
//! values, which misses short passwords and eats ids.

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
}

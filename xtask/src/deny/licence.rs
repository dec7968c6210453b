//! SPDX licence expressions, as far as packages use them: identifiers, `WITH`, `AND`, `OR`, parentheses, and the old `/`.

/// Whether the expression can be met with allowed licences. `A WITH B` is asked for as one name.
pub fn satisfied(expression: &str, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let value = any_of(&tokens, &mut at, allowed)?;
    match tokens.get(at) {
        None => Ok(value),
        Some(token) => Err(format!("`{token}` is not expected here")),
    }
}

fn any_of(tokens: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut value = all_of(tokens, at, allowed)?;
    while takes(tokens, at, "OR") {
        // Both sides are always read, so that a fault in the second is told.
        value |= all_of(tokens, at, allowed)?;
    }
    Ok(value)
}

fn all_of(tokens: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut value = one(tokens, at, allowed)?;
    while takes(tokens, at, "AND") {
        value &= one(tokens, at, allowed)?;
    }
    Ok(value)
}

fn one(tokens: &[&str], at: &mut usize, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    if takes(tokens, at, "(") {
        let value = any_of(tokens, at, allowed)?;
        return if takes(tokens, at, ")") { Ok(value) } else { Err("a `)` is missing".to_owned()) };
    }
    let name = licence_name(tokens, at)?;
    if takes(tokens, at, "WITH") {
        let exception = licence_name(tokens, at)?;
        return Ok(allowed(&format!("{name} WITH {exception}")));
    }
    Ok(allowed(name))
}

fn licence_name<'a>(tokens: &[&'a str], at: &mut usize) -> Result<&'a str, String> {
    match tokens.get(*at) {
        Some(&("AND" | "OR" | "WITH" | "(" | ")")) | None => Err("a licence name is missing".to_owned()),
        Some(name) => {
            *at += 1;
            Ok(name)
        }
    }
}

fn takes(tokens: &[&str], at: &mut usize, word: &str) -> bool {
    let found = tokens.get(*at) == Some(&word);
    *at += usize::from(found);
    found
}

#[cfg(test)]
mod tests {
    use super::satisfied;

    fn check(expression: &str) -> Result<bool, String> {
        satisfied(expression, &|id| ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].contains(&id))
    }

    #[test]
    fn expressions_are_read_with_their_precedence() {
        for (expression, expect) in [
            ("MIT", true),
            ("GPL-2.0", false),
            ("MIT OR GPL-2.0", true),
            ("MIT/GPL-2.0", true),
            ("MIT AND GPL-2.0", false),
            ("(MIT OR GPL-2.0) AND Apache-2.0", true),
            ("MIT OR GPL-2.0 AND GPL-3.0", true),
            ("(MIT OR GPL-2.0) AND GPL-3.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("MIT WITH LLVM-exception", false),
        ] {
            assert_eq!(check(expression), Ok(expect), "{expression}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for expression in ["", "MIT OR", "(MIT", "MIT)", "MIT MIT", "AND MIT"] {
            assert!(check(expression).is_err(), "{expression}");
        }
    }
}

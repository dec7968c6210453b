//! Live configuration, through `wasi:config`: read at each request, so that a change shows at the next one.

use crate::bindings::wasi::config::store;

/// The value of `key`; `None` if it is not set or the configuration cannot be read just now.
pub fn text(key: &str) -> Option<String> {
    store::get(key).ok().flatten()
}

/// The value of `key` as a percentage that leaves a price above zero; zero if it is not one.
pub fn percent(key: &str) -> u8 {
    text(key).map_or(0, |text| parse_percent(&text))
}

/// Reads "15" or "15%"; anything outside 0 to 90 counts as no discount rather than as a gift.
pub fn parse_percent(text: &str) -> u8 {
    match text.trim().trim_end_matches('%').trim_end().parse() {
        Ok(percent) if percent <= 90 => percent,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::parse_percent;

    #[test]
    fn a_percentage_is_bounded() {
        for (text, percent) in
            [("15", 15), (" 15 % ", 15), ("90", 90), ("91", 0), ("-5", 0), ("", 0), ("ten", 0)]
        {
            assert_eq!(parse_percent(text), percent, "{text:?}");
        }
    }
}

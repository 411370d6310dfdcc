//! Foreign texts (names in exports, tables and plans, paths, messages of libraries) made safe for a terminal: characters that
//! would control it are shown as escapes.

use std::borrow::Cow;

/// Whether a character affects other parts of a terminal: control characters (ESC, BEL, the one-character CSI U+009B
/// and the like), and those that change the direction of text.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn shown(text: &str, harmless: impl Fn(char) -> bool, show: impl Fn(char) -> String) -> Cow<'_, str> {
    let is_to_show = |character: char| steers(character) && !harmless(character);
    if !text.contains(is_to_show) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match is_to_show(character) {
            true => plain += &show(character),
            false => plain.push(character),
        }
    }
    Cow::Owned(plain)
}

fn escaped(character: char) -> String {
    character.escape_default().to_string()
}

/// Text of several lines, made safe.
pub(crate) fn plain_text(text: &str) -> Cow<'_, str> {
    shown(text, |character| matches!(character, '\n' | '\t'), escaped)
}

/// Text of one line, made safe.
pub(crate) fn plain_line(text: &str) -> Cow<'_, str> {
    shown(text, |character| character == '\t', escaped)
}

/// JSON of several lines, made safe: its strings contain no control characters below U+0020, and may contain these escapes.
pub(crate) fn plain_json(text: &str) -> Cow<'_, str> {
    shown(text, |character| character == '\n', |character| format!("\\u{:04x}", u32::from(character)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown() {
        let title = "a\u{1b}]0;owned\u{7}b\u{1b}[2J\u{9b}31m\r\u{202e}c é 漢字 “x” 1–2 ×";
        let expected = "a\\u{1b}]0;owned\\u{7}b\\u{1b}[2J\\u{9b}31m\\r\\u{202e}c é 漢字 “x” 1–2 ×";
        assert_eq!(plain_text(title), expected);
        assert_eq!(plain_line(title), expected);
        assert_eq!(plain_text("one\ntwo\tthree"), "one\ntwo\tthree");
        assert_eq!(plain_line("one\ntwo\tthree"), "one\\ntwo\tthree");
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({ "a\u{9b}": "\u{1b}[2J\u{7f}\u{202e}\n" });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let plain = plain_json(&text);
        assert!(!plain.contains(|character| steers(character) && character != '\n'), "{plain}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&plain).unwrap(), value);
    }
}

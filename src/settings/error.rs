//! What is wrong with a configuration, in one line: file, line, key, cure.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::files::FileError;
use crate::settings_value::{SettingError, did_you_mean};

/// What can be wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The configuration has an invalid section, key or value.
    #[error("{}{}: {found}; {cure}", path.display(), InLine(*line))]
    Invalid {
        /// Path of the configuration.
        path: PathBuf,
        /// Line, from 1, if known.
        line: Option<usize>,
        /// What was found, for the message.
        found: String,
        /// What the user should do.
        cure: String,
    },
}

impl ConfigError {
    /// The error for a value of a section that makes no sense.
    pub(super) fn of_setting(path: &Path, text: &str, section: &str, refused: SettingError) -> Self {
        let SettingError { key, found, cure } = refused;
        let line = line_of(text, section, key);
        let place = if line.is_none() { format!("[{section}] ") } else { String::new() };
        ConfigError::Invalid { path: path.into(), line, found: format!("{place}`{key}` {found}"), cure }
    }
}

struct InLine(Option<usize>);

impl fmt::Display for InLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(formatter, ", line {line}"))
    }
}

/// Condenses the message of the TOML reader into one clear line.
pub(super) fn explain(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let start = error.span().map(|span| span.start.min(text.len()));
    let line = start.map(|start| 1 + text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count());
    let section = line.and_then(|line| section_at(text, line));
    let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    let key = line.and_then(|line| key_of(text.lines().nth(line - 1)?));
    let named = key.map(|key| format!("`{key}`: ")).unwrap_or_default();
    let (found, cure) = if let Some(rest) = message.strip_prefix("unknown field ") {
        unknown_key(rest, section)
    } else if let Some(name) = message.strip_prefix("missing field ") {
        missing(name.trim_matches('`'), section)
    } else if let Some(rest) = message.strip_prefix("unknown variant ") {
        let (found, known) = quoted_words(rest);
        (format!("{named}unknown value `{found}`"), did_you_mean(found, &known, "choose one of"))
    } else if message.starts_with("invalid type") || message.starts_with("invalid value") {
        (format!("{named}{}", in_plain_words(&message)), "mend the value".to_owned())
    } else if let Some((found, cure)) = message.split_once("; ") {
        // A phrase that begins with a verb needs no colon before it.
        let named = if found.starts_with("is ") { named.replacen(": ", " ", 1) } else { named };
        (format!("{named}{found}"), cure.to_owned())
    } else if message == "duplicate key" {
        (format!("{named}given twice"), "keep one of them".to_owned())
    } else {
        (format!("{named}{message}"), "mend the TOML".to_owned())
    };
    // A missing section has no line.
    let line = line.filter(|_| !found.starts_with("section "));
    ConfigError::Invalid { path: path.into(), line, found, cure }
}

fn missing(name: &str, section: Option<&str>) -> (String, String) {
    let is_section = SECTIONS.iter().any(|(section, _)| *section == name);
    let what = if is_section {
        format!("section [{name}] is missing")
    } else {
        format!("`{name}` is missing{}", place(section))
    };
    (what, "add it".into())
}

fn unknown_key(rest: &str, section: Option<&str>) -> (String, String) {
    let (found, known) = quoted_words(rest);
    if known.contains(&"model") {
        return (format!("unknown section [{found}]"), did_you_mean(found, &known, "choose one of"));
    }
    let home = SECTIONS.iter().find(|(_, keys)| keys().iter().any(|key| key == found));
    let cure = match home {
        Some((home, _)) => format!("it belongs in [{home}]"),
        None => did_you_mean(found, &known, "choose one of"),
    };
    (format!("unknown key `{found}`{}", place(section)), cure)
}

/// Returns the keys of a section.
type Keys = fn() -> Vec<String>;

/// The sections, and a function for the keys of each.
const SECTIONS: &[(&str, Keys)] = &[
    ("model", keys::<super::ModelSettings>),
    ("data", keys::<super::DataSettings>),
    ("plan", keys::<super::PlanSettings>),
    ("train", keys::<super::TrainSettings>),
    ("output", keys::<super::OutputSettings>),
    ("device", keys::<super::DeviceSettings>),
];

/// The keys of all sections.
#[cfg(test)]
pub(super) fn every_key() -> impl Iterator<Item = String> {
    SECTIONS.iter().flat_map(|(_, keys)| keys())
}

/// The keys of a section, taken from its own error about an unknown key.
fn keys<T: serde::de::DeserializeOwned>() -> Vec<String> {
    match toml::from_str::<T>("\"?\" = 0") {
        Err(error) => quoted_words(error.message()).1.into_iter().map(str::to_owned).collect(),
        Ok(_) => Vec::new(),
    }
}

fn place(section: Option<&str>) -> String {
    section.map(|section| format!(" in [{section}]")).unwrap_or_default()
}

/// "`found`, expected one of `a`, `b`" → found, [a, b].
fn quoted_words(text: &str) -> (&str, Vec<&str>) {
    let mut words = text.split('`').skip(1).step_by(2);
    (words.next().unwrap_or_default(), words.collect())
}

/// Replaces the names of Rust's types, which mean nothing to a user.
fn in_plain_words(message: &str) -> String {
    let message = message.replacen("invalid type: ", "", 1).replacen("invalid value: ", "", 1);
    let Some((found, expected)) = message.split_once(", expected ") else { return message };
    let expected = match expected {
        "f64" | "f32" => "a number",
        "usize" | "u64" | "u32" => "a whole number, 0 or more",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a string" | "path string" => "a text in quotes",
        other => other,
    };
    format!("{found} where {expected} is expected")
}

/// The line of a key, if it is on a line of its own below the header of its section.
fn line_of(text: &str, section: &str, key: &str) -> Option<usize> {
    let mut current = None;
    for (number, line) in text.lines().enumerate() {
        if let Some(name) = header(line) {
            current = Some(name);
        } else if current == Some(section) && key_of(line) == Some(key) {
            return Some(number + 1);
        }
    }
    None
}

/// The section that a line belongs to.
fn section_at(text: &str, line: usize) -> Option<&str> {
    text.lines().take(line).filter_map(header).last()
}

fn header(line: &str) -> Option<&str> {
    Some(line.trim().strip_prefix('[')?.split_once(']')?.0.trim())
}

fn key_of(line: &str) -> Option<&str> {
    let key = line.split_once('=')?.0.trim();
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    (!key.is_empty() && key.chars().all(plain)).then_some(key)
}

//! Colours, on a terminal that supports them.

use std::io::IsTerminal;

/// Whether to write colours to a stream: it is a terminal, not a dumb one, and `NO_COLOR` is not set (<https://no-color.org>).
pub(crate) fn wants_colour(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The text styles that gelora uses.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Style {
    Error,
    Warning,
    Notice,
}

/// The text in a style, or unchanged without `colour`.
pub(crate) fn paint(text: &str, style: Style, colour: bool) -> String {
    let code = match style {
        Style::Error => "1;31",
        Style::Warning => "1;33",
        Style::Notice => "1;36",
    };
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

//! Cures for tables that cannot be used as they are.

use std::borrow::Cow;

use super::wanted::Wanted;
use crate::hint::Hint;

/// Cure for a build that cannot read Parquet.
pub(super) const NO_PARQUET: &str = "use a gelora that was built with the feature `parquet`, or write the table as JSON \
                                     lines (pandas: to_json(name, orient=\"records\", lines=True))";

/// Cure for a value that is not a list of labels.
pub(super) const LABEL_LIST: &str = "the labels of a text are a list of strings or numbers ([] for none)";

/// Cure for a list where a label is expected.
pub(super) fn listed_labels() -> Cow<'static, str> {
    let task = Hint::Task.with("multi-label");
    format!(
        "a label is one string or one number per text: several labels per text are the task multi-label ({task}), a label per \
         word (entities) is the task ner"
    )
    .into()
}

/// Cure for a list where a text is expected.
pub(super) fn listed_text() -> Cow<'static, str> {
    let task = Hint::Task.with("ner");
    format!("a text is a string: join its words, or give {task} if the words have tags (entities)").into()
}

/// Cure for a Parquet file that is read as another format.
pub(super) fn parquet_cure() -> Cow<'static, str> {
    match cfg!(feature = "parquet") {
        true => format!("say so ({})", Hint::Format.with("parquet")).into(),
        false => NO_PARQUET.into(),
    }
}

/// Cure for a text without columns.
pub(super) fn plain_text_cure() -> Cow<'static, str> {
    let task = Hint::Task.with("causal-lm");
    format!("write the rows as .tsv, .csv, .jsonl or .parquet, or add {task} for a language model").into()
}

/// Cure for a header that lacks a column.
pub(super) fn header_cure(header: &[&str], column: &Wanted<'_>, wanted: &[Wanted<'_>]) -> Cow<'static, str> {
    let is_quoted = |name: &&str| name.len() > 1 && name.starts_with('"') && name.ends_with('"');
    match header {
        [only] if only.contains(';') => {
            "semicolons seem to separate them: save the table with commas, or with tabs as .tsv".into()
        }
        [only] if only.contains('\t') => {
            format!("tabs seem to separate them: say so ({})", Hint::Format.with("tsv")).into()
        }
        [only] if only.contains(',') && wanted.len() > 1 => {
            format!("commas seem to separate them: say so ({})", Hint::Format.with("csv")).into()
        }
        _ if header.iter().all(is_quoted) => {
            format!("quotes seem to enclose fields: say so ({})", Hint::Quoting.with(true)).into()
        }
        _ => missing_cure(column, wanted, "name one of them, or give the file a header line if that is a row").into(),
    }
}

/// Cure for a table that lacks a column: the one for missing labels of pairs, or `other`.
pub(super) fn missing_cure(column: &Wanted<'_>, wanted: &[Wanted<'_>], other: &'static str) -> &'static str {
    match column.scalar && wanted.len() > 2 {
        true => {
            "name the column of the labels; pairs without labels (similarity, ranking, retrieval) cannot be learnt yet"
        }
        false => other,
    }
}

/// Cure for a row with more or fewer fields than the header.
pub(super) fn ragged_cure(raw: &str, quoting: bool) -> Cow<'static, str> {
    match (quoting, raw.contains('"'), raw.trim().is_empty()) {
        (_, _, true) => "remove the empty line".into(),
        (false, true, _) => {
            format!("mend the row, or say that `\"` quotes fields ({})", Hint::Quoting.with(true)).into()
        }
        (true, true, _) => {
            format!("mend the row, or say that `\"` is an ordinary character ({})", Hint::Quoting.with(false)).into()
        }
        _ => "mend the row".into(),
    }
}

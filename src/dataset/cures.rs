//! What to do about a table that is not as wanted.

use std::borrow::Cow;

use super::table::Wanted;
use crate::hint::Hint;

/// Where Parquet cannot be read.
pub(super) const NO_PARQUET: &str = "use a gelora that was built with the feature `parquet`, or write the table as JSON \
                                     lines (pandas: to_json(name, orient=\"records\", lines=True))";

/// Where something else stands than a list of labels.
pub(super) const LABEL_LIST: &str = "the labels of a text are a list of strings or numbers ([] for none)";

/// Where a list stands for a label.
pub(super) fn listed_labels() -> Cow<'static, str> {
    let task = Hint::Task.with("multi-label");
    format!(
        "a label is one string or one number per text: several labels per text are the task multi-label ({task}), a label per \
         word (entities) is the task ner"
    )
    .into()
}

/// Where a list stands for a text.
pub(super) fn listed_text() -> Cow<'static, str> {
    let task = Hint::Task.with("ner");
    format!("a text is a string: join its words, or give {task} if the words have tags (entities)").into()
}

/// For a Parquet file that is read as something else.
pub(super) fn parquet_cure() -> Cow<'static, str> {
    match cfg!(feature = "parquet") {
        true => format!("say so ({})", Hint::Format.with("parquet")).into(),
        false => NO_PARQUET.into(),
    }
}

/// For a text without columns.
pub(super) fn plain_text_cure() -> Cow<'static, str> {
    let task = Hint::Task.with("causal-lm");
    format!("write the rows as .tsv, .csv, .jsonl or .parquet, or add {task} for a language model").into()
}

/// Where a header lacks a column.
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

/// Where a table lacks a column: the labels of its pairs, or another.
pub(super) fn missing_cure(column: &Wanted<'_>, wanted: &[Wanted<'_>], other: &'static str) -> &'static str {
    match column.scalar && wanted.len() > 2 {
        true => {
            "name the column of the labels; pairs without labels (similarity, ranking, retrieval) cannot be learnt yet"
        }
        false => other,
    }
}

/// For a row of more or fewer fields than the header.
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

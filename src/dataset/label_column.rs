//! The label column of a table: what its words and numbers mean.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::DatasetError;
use super::error::{Place, quoted, quoted_list};
use super::example::LoadSettings;
use super::labels::{LabelKind, Labels};
use crate::hint::Hint;

/// A label as written in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawLabel<'a> {
    pub place: Place,
    pub text: &'a str,
}

/// Determines what the labels of a file mean, and reads them.
///
/// Their kind comes from the settings, else from the labels: all integers are classes, other numbers are values, words are
/// classes. Nothing is guessed where two interpretations are possible.
pub(super) fn read(
    path: &Path,
    settings: &LoadSettings,
    column: &str,
    raw: &[RawLabel<'_>],
) -> Result<Labels, DatasetError> {
    if let Some(row) = raw.iter().find(|row| row.text.trim().is_empty()) {
        return Err(DatasetError::EmptyLabel { path: path.into(), place: row.place, column: column.into() });
    }
    let kind = match (settings.kind, &settings.labels) {
        (Some(kind), _) => kind,
        (None, Some(_)) => LabelKind::Classes,
        (None, None) => kind_of(path, raw)?,
    };
    if kind == LabelKind::Values {
        return values(path, raw).map(Labels::Values);
    }
    let names = match &settings.labels {
        Some(labels) => labels.clone(),
        None => class_names(path, raw)?,
    };
    let rows = classes(path, &names, settings.accept_class_numbers, raw)?;
    Ok(Labels::Classes { names, rows })
}

/// An integer, also when written as `1.0`: a data-frame column with missing values is saved that way.
fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(value) = text.parse() {
        return Some(value);
    }
    let (whole, fraction) = text.split_once('.')?;
    if !fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0') { whole.parse().ok() } else { None }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|value: &f64| value.is_finite())
}

fn kind_of(path: &Path, raw: &[RawLabel<'_>]) -> Result<LabelKind, DatasetError> {
    let numbers = raw.iter().filter(|row| number(row.text).is_some()).count();
    if numbers == 0 {
        return Ok(LabelKind::Classes);
    }
    if numbers < raw.len() {
        let odd = raw.iter().find(|row| number(row.text).is_none());
        let (place, text) = odd.map_or((Place::Line(0), ""), |row| (row.place, row.text));
        return Err(DatasetError::NotANumber {
            path: path.into(),
            place,
            found: quoted(text),
            why: "other labels of the file are",
            other: format!(", or list all labels ({})", Hint::Labels.with("A,B,…")),
        });
    }
    if raw.iter().all(|row| row.text.trim().parse::<i64>().is_ok()) {
        return Ok(LabelKind::Classes);
    }
    if raw.iter().all(|row| integer(row.text).is_some()) {
        return Err(DatasetError::UnclearLabels {
            path: path.into(),
            found: format!("labels such as {} can be classes or values", quoted(raw[0].text)),
            cure: format!("say which ({})", Hint::Objective.one_of(&["classification", "regression"])),
        });
    }
    Ok(LabelKind::Values)
}

fn values(path: &Path, raw: &[RawLabel<'_>]) -> Result<Vec<f32>, DatasetError> {
    let value = |row: &RawLabel<'_>| match number(row.text).map(|value| value as f32) {
        Some(value) if value.is_finite() => Ok(value),
        _ => Err(DatasetError::NotANumber {
            path: path.into(),
            place: row.place,
            found: quoted(row.text),
            why: "regression needs",
            other: format!(", or say that labels are classes ({})", Hint::Objective.with("classification")),
        }),
    };
    raw.iter().map(value).collect()
}

/// Class names where none are given: words sorted; integers themselves, which must run from 0 without gaps.
fn class_names(path: &Path, raw: &[RawLabel<'_>]) -> Result<Vec<String>, DatasetError> {
    let found: BTreeSet<&str> = raw.iter().map(|row| row.text.trim()).collect();
    let unclear = |found: String, cure: String| Err(DatasetError::UnclearLabels { path: path.into(), found, cure });
    let integers: BTreeSet<i64> = found.iter().filter_map(|text| integer(text)).collect();
    let names: Vec<String> = if found.iter().all(|text| integer(text).is_some()) {
        integers.iter().map(i64::to_string).collect()
    } else {
        found.iter().map(|&text| text.to_owned()).collect()
    };
    if names.len() < 2 {
        return unclear(
            format!("every label is {}, and one class alone cannot be learnt", quoted(&names[0])),
            format!("check the label column, or list all labels ({})", Hint::Labels.with("A,B,…")),
        );
    }
    if let Some(&last) = integers.last()
        && integers.len() == names.len()
        && (integers.first() != Some(&0) || last as usize + 1 != names.len())
    {
        return unclear(
            format!("the labels are {}, not 0, 1, 2 … without gaps", quoted_list(&names)),
            format!("list all labels in the order of the classes ({})", Hint::Labels.with("A,B,…")),
        );
    }
    Ok(names)
}

fn classes(path: &Path, labels: &[String], numbers: bool, raw: &[RawLabel<'_>]) -> Result<Vec<usize>, DatasetError> {
    // The first of equal names counts. A map, because with a class per row a linear search would be quadratic in the rows.
    let places: HashMap<&str, usize> = labels.iter().enumerate().rev().map(|(i, name)| (name.as_str(), i)).collect();
    let class = |text: &str| {
        let by_name = |name: &str| places.get(name).copied();
        by_name(text.trim()).or_else(|| {
            let value = integer(text)?;
            by_name(&value.to_string())
                .or_else(|| usize::try_from(value).ok().filter(|&class| numbers && class < labels.len()))
        })
    };
    let label = |row: &RawLabel<'_>| {
        class(row.text).ok_or_else(|| DatasetError::UnknownLabel {
            path: path.into(),
            place: row.place,
            found: quoted(row.text),
            known: quoted_list(labels),
        })
    };
    raw.iter().map(label).collect()
}

//! Several labels for every row of a table: listed in one column, or in one column of 0 and 1 per label.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::error::{Place, quoted, quoted_list};
use super::example::LoadSettings;
use super::table::{Row, Wanted};
use super::{Dataset, DatasetError};
use crate::hint::Hint;

/// Labels numbered beyond this must be listed.
const MOST_NUMBERED: u64 = 100_000;

/// The labels of every row.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelSets {
    /// Names of the labels, in order.
    pub names: Vec<String>,
    /// For every row and label, whether the row has the label: `[rows][labels]`.
    pub rows: Vec<Vec<bool>>,
}

impl LabelSets {
    /// Reads texts with their labels listed in the label column: in JSON and Parquet a list of names or numbers, in a text
    /// field the same separated by commas, or as a JSON list. An empty field means no label.
    ///
    /// Without known names the labels are the names found, sorted; or 0, 1, 2 … to the largest where all are numbers. Numbers
    /// are indices into `settings.labels` where none of these names is a number and `accept_class_numbers` allows it.
    ///
    /// # Errors
    /// Those of [`Dataset::load`]; a label that is not one of the names.
    pub fn load(path: &Path, settings: &LoadSettings, column: &str) -> Result<(Dataset, LabelSets), DatasetError> {
        let wanted = Wanted { scalar: true, list: true, ..Wanted::text(column) };
        let (dataset, cells) = Dataset::load_beside(path, settings, &[wanted])?;
        let listed = cells.iter().map(|row| Listed::read(path, column, row)).collect::<Result<Vec<_>, _>>()?;
        let names = match &settings.labels {
            Some(names) => names.clone(),
            None => names_of(path, column, &listed)?,
        };
        let places = Places::new(&names, settings.accept_class_numbers);
        let set = |row: &Listed| {
            let mut set = vec![false; names.len()];
            for label in &row.labels {
                let place = places.of(label).ok_or_else(|| DatasetError::UnknownLabel {
                    path: path.into(),
                    place: row.place,
                    found: quoted(label),
                    known: quoted_list(&names),
                })?;
                set[place] = true;
            }
            Ok(set)
        };
        let rows = listed.iter().map(set).collect::<Result<_, DatasetError>>()?;
        Ok((dataset, LabelSets { names, rows }))
    }

    /// Reads texts with one column of 0 and 1 per label, named after the label.
    ///
    /// # Errors
    /// Those of [`Dataset::load`]; a value other than 0, 1, `true` and `false`.
    pub fn load_columns(
        path: &Path,
        settings: &LoadSettings,
        names: &[String],
    ) -> Result<(Dataset, LabelSets), DatasetError> {
        let columns: Vec<_> = names.iter().map(|name| Wanted { scalar: true, ..Wanted::text(name) }).collect();
        let (dataset, cells) = Dataset::load_beside(path, settings, &columns)?;
        let has = |place: Place, (name, text): (&String, &String)| match text.trim() {
            "0" | "0.0" | "false" | "False" => Ok(false),
            "1" | "1.0" | "true" | "True" => Ok(true),
            _ => Err(DatasetError::NotALabelSet {
                path: path.into(),
                place,
                column: name.clone(),
                found: format!("has {}", quoted(text)),
                cure: "write 1 where the text has this label, and 0 where not",
            }),
        };
        let row = |row: &Row| names.iter().zip(&row.values).map(|cell| has(row.place, cell)).collect();
        let rows = cells.iter().map(row).collect::<Result<_, DatasetError>>()?;
        Ok((dataset, LabelSets { names: names.to_vec(), rows }))
    }
}

/// The labels of a row as written in the file.
struct Listed {
    place: Place,
    labels: Vec<String>,
}

impl Listed {
    fn read(path: &Path, column: &str, row: &Row) -> Result<Self, DatasetError> {
        let refused = |found: String, cure| DatasetError::NotALabelSet {
            path: path.into(),
            place: row.place,
            column: column.into(),
            found,
            cure,
        };
        let text = row.values.first().map_or("", |text| text.trim());
        let labels: Vec<String> = match serde_json::from_str(text) {
            Ok(serde_json::Value::Array(items)) => items.iter().map(in_words).collect(),
            _ if text.starts_with('[') && text.ends_with(']') => {
                let cure = "write the labels between commas (a,b), or as a JSON list ([\"a\", \"b\"])";
                return Err(refused(format!("has {}, which is no JSON list", quoted(text)), cure));
            }
            _ if text.is_empty() => Vec::new(),
            _ => text.split(',').map(|label| label.trim().to_owned()).collect(),
        };
        if labels.iter().any(|label| label.trim().is_empty()) {
            let cure = "name a label between all commas, or write nothing at all where a text has none";
            return Err(refused(format!("has an empty label in {}", quoted(text)), cure));
        }
        Ok(Listed { place: row.place, labels })
    }
}

fn in_words(item: &serde_json::Value) -> String {
    item.as_str().map_or_else(|| item.to_string(), |text| text.trim().to_owned())
}

/// A label index, also when written as `1.0`.
fn number(label: &str) -> Option<u64> {
    let whole = match label.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0') => whole,
        _ => label,
    };
    whole.parse().ok()
}

/// Names of the labels where none are given.
fn names_of(path: &Path, column: &str, rows: &[Listed]) -> Result<Vec<String>, DatasetError> {
    let unclear = |found: String, cure: &str| {
        let cure = format!("{cure}list all labels ({})", Hint::Labels.with("A,B,…"));
        DatasetError::UnclearLabels { path: path.into(), found, cure }
    };
    let labels: BTreeSet<&str> = rows.iter().flat_map(|row| &row.labels).map(String::as_str).collect();
    if labels.is_empty() {
        return Err(unclear(format!("no row has a label in column {}", quoted(column)), "check the column, or "));
    }
    let numbers: Vec<u64> = labels.iter().filter_map(|label| number(label)).collect();
    if numbers.is_empty() {
        return Ok(labels.into_iter().map(str::to_owned).collect());
    }
    if numbers.len() < labels.len() {
        let word = labels.iter().find(|label| number(label).is_none()).copied().unwrap_or_default();
        let found = format!("some labels are numbers, and others, such as {}, are not", quoted(word));
        return Err(unclear(found, "mend the rows, or "));
    }
    match numbers.into_iter().max() {
        Some(last) if last <= MOST_NUMBERED => Ok((0..=last).map(|label| label.to_string()).collect()),
        last => Err(unclear(format!("a label has the number {}", last.unwrap_or_default()), "mend the row, or ")),
    }
}

/// Index of every label.
struct Places<'a> {
    by_name: HashMap<&'a str, usize>,
    /// Whether numbers index the names.
    numbers: bool,
}

impl<'a> Places<'a> {
    fn new(names: &'a [String], numbers: bool) -> Self {
        let by_name = names.iter().enumerate().rev().map(|(at, name)| (name.as_str(), at)).collect();
        Places { by_name, numbers: numbers && names.iter().all(|name| number(name).is_none()) }
    }

    fn of(&self, label: &str) -> Option<usize> {
        self.by_name.get(label).copied().or_else(|| {
            let number = number(label)?;
            let named = || self.by_name.get(number.to_string().as_str()).copied();
            match self.numbers {
                true => usize::try_from(number).ok().filter(|at| *at < self.by_name.len()),
                false => named(),
            }
        })
    }
}

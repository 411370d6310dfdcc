//! The files that accompany the weights of a merged model: configuration, tokenizer, vocabulary, licence texts.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::settings::MergeSettings;
use super::targets::Targets;
use super::{Base, MergeError, REPORT_FILE};
use crate::checkpoint::{ModelTask, model_class};
use crate::files::{FileError, read_file, write_atomically, write_json};

/// Largest configuration or tokenizer file, in bytes; a larger file holds somebody's weights.
const LARGEST_COMPANION: u64 = 100_000_000;

/// Copies the files that accompany the weights: configuration, tokenizer, vocabulary, licence texts.
pub(super) fn copy(
    base: Base<'_>,
    targets: &Targets,
    settings: &MergeSettings,
    out: &Path,
    files: &mut Vec<String>,
) -> Result<(), MergeError> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(base.folder).map_err(FileError::new("read", base.folder))? {
        paths.push(entry.map_err(FileError::new("read", base.folder))?.path());
    }
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let known = ["json", "txt", "model", "jinja", "md", "py", "tiktoken"];
        let wanted = path.extension().is_some_and(|extension| known.iter().any(|known| extension == *known));
        let small = std::fs::metadata(&path).is_ok_and(|data| data.is_file() && data.len() <= LARGEST_COMPANION);
        // macOS keeps `._*` beside a file on other file systems.
        let other = name.ends_with(".safetensors.index.json") || name == REPORT_FILE || name.starts_with("._");
        if !wanted || !small || other {
            continue;
        }
        let bytes = read_file(&path)?;
        let thresholds =
            targets.thresholds.is_some() || base.config.is_some_and(|config| config.get(THRESHOLDS).is_some());
        let problem = base.config.and_then(|config| other_problem(config, targets));
        let changes = targets.added_head.is_some()
            || targets.labels.is_some()
            || targets.appended
            || problem.is_some()
            || thresholds
            || settings.dtype.is_some();
        match (name.as_str(), changes, base.config) {
            ("config.json", true, Some(config)) => {
                write_json(&out.join(&name), &with_type(with_head(config, targets), settings))?
            }
            _ => write_atomically(&out.join(&name), |writer| writer.write_all(&bytes))?,
        }
        files.push(name);
    }
    let says = targets.labels.is_some() || other_problem(&Value::Null, targets).is_some();
    if base.config.is_none() && says {
        // The export alone would not show the names of its classes, or that a text may have several.
        let name = "config.json".to_owned();
        write_json(&out.join(&name), &with_type(with_head(&json!({}), targets), settings))?;
        files.push(name);
    }
    Ok(())
}

/// The configuration with the type of the weights, under the keys of transformers 5 and of earlier versions where they are there.
fn with_type(mut config: Value, settings: &MergeSettings) -> Value {
    if let (Some(dtype), Value::Object(fields)) = (settings.dtype, &mut config) {
        let known = ["dtype", "torch_dtype"].into_iter().filter(|key| fields.contains_key(*key)).collect::<Vec<_>>();
        for key in if known.is_empty() { vec!["dtype"] } else { known } {
            fields.insert(key.into(), json!(dtype.name()));
        }
    }
    config
}

/// Key of the probability threshold of every label.
const THRESHOLDS: &str = "gelora_thresholds";
/// transformers' `problem_type` for several labels per text.
const MULTI_LABEL: &str = "multi_label_classification";
/// Number of labels that transformers assumes where a configuration does not give it.
const DEFAULT_LABELS: usize = 2;

/// What the head was trained for, if the base says something else. Several labels are always written: nothing else distinguishes
/// them from classes.
fn other_problem(config: &Value, targets: &Targets) -> Option<String> {
    let found = config.get("problem_type").and_then(Value::as_str);
    let other = |problem: &String| found.map_or(problem == MULTI_LABEL, |found| found != problem);
    targets.problem.clone().filter(other)
}

/// The configuration with the names of the classes; for a checkpoint that got a head, also with its class, its width and its
/// purpose; for an export that got a head, with the pooling of that head.
fn with_head(config: &Value, targets: &Targets) -> Value {
    let mut config = config.clone();
    let class = model_class(&config, targets.task()).filter(|_| targets.appended);
    let other = other_problem(&config, targets);
    let Value::Object(fields) = &mut config else { return config };
    let labels = labels(fields, targets);
    if let Some(names) = labels {
        let named = names.iter().enumerate();
        fields.insert("id2label".into(), named.clone().map(|(i, name)| (i.to_string(), json!(name))).collect());
        fields.insert("label2id".into(), named.map(|(i, name)| (name.clone(), json!(i))).collect());
        fields.shift_remove("num_labels");
    }
    let of_one = (targets.outputs == Some(1)).then(|| "regression".to_owned());
    let appended = targets.problem.clone().or(of_one).filter(|_| targets.appended);
    if let Some(problem) = other.or(appended)
        && targets.task() == ModelTask::SequenceClassification
    {
        fields.insert("problem_type".into(), json!(problem));
    }
    // The thresholds of the base belong to its old head.
    fields.shift_remove(THRESHOLDS);
    if let Some(thresholds) = &targets.thresholds {
        fields.insert(THRESHOLDS.into(), json!(thresholds));
    }
    if let Some(class) = class {
        // The head is that of the class, whatever head an earlier export had.
        fields.shift_remove("gelora_head");
        fields.insert("architectures".into(), json!([class.name]));
    }
    if let Some(pooling) = targets.added_head {
        fields.insert("gelora_head".into(), json!({"pooling": pooling.as_str()}));
    }
    config
}

/// The names of the classes to write; `None` where those of the base are right. For a new head there are as many as its outputs:
/// transformers makes the head as wide as there are names.
fn labels(fields: &serde_json::Map<String, Value>, targets: &Targets) -> Option<Vec<String>> {
    if targets.labels.is_some() {
        return targets.labels.clone();
    }
    let outputs = targets.outputs.filter(|_| targets.added_head.is_some() || targets.appended)?;
    let named = fields.get("id2label").and_then(Value::as_object).map(serde_json::Map::len);
    let known = match targets.task() {
        // The names of another head do not apply to the added one.
        _ if targets.added_head.is_some() => None,
        ModelTask::SequenceClassification | ModelTask::TokenClassification => named,
        ModelTask::QuestionAnswering => {
            let counted = fields.get("num_labels").and_then(Value::as_u64).and_then(|count| count.try_into().ok());
            Some(named.or(counted).unwrap_or(DEFAULT_LABELS))
        }
    };
    (known != Some(outputs)).then(|| (0..outputs).map(|i| format!("LABEL_{i}")).collect())
}

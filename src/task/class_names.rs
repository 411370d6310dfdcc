//! The names a model gives its classes, and whether the data numbers them in the same order.

use super::{Lines, MultiLabel, Objective, TaskError};
use crate::hint::Hint;

/// The names of the classes in a model's `config.json` (`id2label`), in order; `None` where there are only the
/// placeholders `LABEL_0`, `LABEL_1` …
pub fn label_names(config: &serde_json::Value) -> Option<Vec<String>> {
    let names = config.get("id2label")?.as_object()?;
    let in_order: Option<Vec<String>> =
        (0..names.len()).map(|class| Some(names.get(&class.to_string())?.as_str()?.to_owned())).collect();
    in_order.filter(|names| !names.iter().enumerate().all(|(class, name)| *name == format!("LABEL_{class}")))
}

/// The number of classes of a model, from its `config.json`: transformers writes no names for two.
pub fn class_count(config: &serde_json::Value) -> Option<usize> {
    let named = config.get("id2label").and_then(|names| Some(names.as_object()?.len()));
    let counted = || config.get("num_labels").and_then(|count| usize::try_from(count.as_u64()?).ok());
    let usual = || {
        let architecture = config.get("architectures")?.get(0)?.as_str()?;
        architecture.ends_with("ForSequenceClassification").then_some(2)
    };
    let count = named.or_else(counted).or_else(usual)?;
    (count > 1 && config.get("problem_type").and_then(|kind| kind.as_str()) != Some("regression")).then_some(count)
}

/// A warning where a model's `config.json` says that it assigns several labels to a text (`problem_type`) but it is scored
/// on one class or number, or the reverse.
pub fn other_problem(config: &serde_json::Value, objective: &Objective) -> Option<String> {
    let found = config.get("problem_type")?.as_str()?;
    match (found == MultiLabel::PROBLEM_TYPE, objective.problem_type() == Some(MultiLabel::PROBLEM_TYPE)) {
        (true, false) if objective.head().lines == Lines::Row => Some(format!(
            "config.json says that the model gives a text several labels (`problem_type`), and it is judged by {} here: if the \
             rows have several labels, say so ({})",
            objective.target(),
            Hint::Task.with("multi-label")
        )),
        (false, true) => Some(format!(
            "config.json says that the model's `problem_type` is {found}, and several labels per text are read off its logits: use \
             a model that was trained for them"
        )),
        _ => None,
    }
}

/// Checks that model and data, where they use the same names, order them in the same way. Case is ignored.
///
/// A model for textual inference may number contradiction, neutral, entailment where the data uses the reverse order; its
/// accuracy is then that of a model that has learnt nothing.
///
/// # Errors
/// If the orders differ, with both orders.
pub fn check_label_order(model: &[String], objective: &Objective) -> Result<(), TaskError> {
    let Some(data) = objective.classes() else { return Ok(()) };
    let plain = |names: &[String]| names.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>();
    let (ours, theirs) = (plain(data), plain(model));
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names
    };
    if ours != theirs && sorted(&ours) == sorted(&theirs) {
        return Err(TaskError::LabelOrder { model: model.join(", "), data: data.join(", ") });
    }
    Ok(())
}

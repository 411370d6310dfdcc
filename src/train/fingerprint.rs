//! What must stay the same for a saved run to be resumed.

use super::input::TrainInput;
use super::order::epochs;
use super::rows::LabelledRows;
use super::state::Fingerprint;
use crate::files::sha256;
use crate::settings::{Batching, Method, TrainSettings};

/// Settings that have an entry of their own below, or that do not affect the result: how often something is written, what fits
/// into memory. The rows for the thresholds are excluded from the training rows, which have an entry.
const TOLD_OR_IDLE: [&str; 25] = [
    "method",
    "epochs",
    "maximum_steps",
    "batch_size",
    "accumulation",
    "learning_rate",
    "schedule",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
    "clip_norm",
    "dropout",
    "seed",
    "batching",
    "head",
    "class_weights",
    "threshold_rows",
    "linear",
    "evaluation_tokens",
    "patience",
    "log_every",
    "save_every",
    "evaluate_before",
    "betas",
    "epsilon",
];

/// Settings added in later versions, by key, where they differ from their defaults: earlier versions behaved like the defaults.
fn later(settings: &TrainSettings) -> Vec<(String, String)> {
    let keys = |settings: &TrainSettings| match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(keys)) => keys,
        _ => serde_json::Map::new(),
    };
    let usual = keys(&TrainSettings::default());
    let differs = |(key, value): &(String, serde_json::Value)| {
        !TOLD_OR_IDLE.contains(&key.as_str()) && usual.get(key) != Some(value)
    };
    let entry = |(key, value): (String, serde_json::Value)| (key.replace('_', " "), value.to_string());
    keys(settings).into_iter().filter(differs).map(entry).collect()
}

/// Everything that decides the result, under names that an error can show. Device and threads are left out: a run can be
/// resumed with others, though not to the same bits.
pub(super) fn fingerprint(input: &TrainInput<'_>, settings: &TrainSettings) -> Fingerprint {
    let optional = |value: Option<String>| value.unwrap_or_else(|| "none".into());
    let metrics: Vec<&str> = input.metrics.iter().map(|metric| metric.name()).collect();
    let rows = |rows: Option<LabelledRows<'_>>| optional(rows.map(|rows| short(&rows.sha256())));
    let entries = [
        ("model", short(input.model_sha256)),
        ("plan", plan(input)),
        ("set of training rows", rows(Some(input.train))),
        ("set of validation rows", rows(input.validation)),
        ("metric", metrics.join(", ")),
        ("starting adapter", optional(input.initial.map(|adapter| short(&adapter.sha256())))),
        ("number of epochs", epochs(settings).to_string()),
        ("maximum of steps", optional(settings.maximum_steps.map(|steps| steps.to_string()))),
        ("batch size", settings.batch_size.to_string()),
        ("accumulation", settings.accumulation.to_string()),
        ("learning rate", settings.learning_rate.to_string()),
        ("weight decay", settings.weight_decay.to_string()),
        ("pair of betas", format!("{}, {}", settings.betas.0, settings.betas.1)),
        ("epsilon", settings.epsilon.to_string()),
        ("schedule", format!("{:?}", settings.schedule).to_lowercase()),
        ("warm-up", settings.warmup_in_words()),
        ("clip norm", optional(settings.largest_norm().map(|norm| norm.to_string()))),
        ("dropout", settings.dropout.to_string()),
        ("seed", settings.seed.to_string()),
        ("choice of kernels", settings.linear.as_str().to_owned()),
        ("batching", batching(&settings.batching)),
        ("head", optional(settings.head.map(|head| head.as_str().to_owned()))),
        ("evaluation before the first step", settings.evaluate_before.to_string()),
        ("patience", optional(settings.patience.map(|epochs| epochs.to_string()))),
        ("logging interval", settings.log_every.to_string()),
        ("treatment of padding", if input.padding_is_safe { "padded" } else { "equal lengths" }.to_owned()),
    ];
    let judge = input.judge.map(|judge| judge.identity());
    // Absent for LoRA: states saved before there was a second method lack it.
    let method = (settings.method != Method::Lora).then(|| ("method", settings.method.to_string()));
    let weights = settings.class_weights.as_ref().map(|weights| ("class weights", weights.to_string()));
    entries
        .into_iter()
        .chain(judge)
        .chain(method)
        .chain(weights)
        .map(|(name, value)| (name.to_owned(), value))
        .chain(later(settings))
        .collect()
}

/// Only what matters for training: a plan with the same ranks and other notes is the same plan.
fn plan(input: &TrainInput<'_>) -> String {
    let modules = input.plan.iter().flat_map(|plan| &plan.blocks).flat_map(|block| &block.modules);
    let lines = modules.map(|module| format!("{} {} {} {}\n", module.module, module.weight, module.rank, module.alpha));
    short(&sha256(lines.collect::<String>().as_bytes()))
}

fn batching(batching: &Batching) -> String {
    match batching {
        Batching::Shuffled => "shuffled".into(),
        Batching::Bucketed => "bucketed".into(),
        Batching::Given(batches) => format!("given list {}", short(&sha256(format!("{batches:?}").as_bytes()))),
    }
}

fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ClassWeights;

    #[test]
    fn settings_with_an_entry_of_their_own_are_those_that_there_are() {
        // What is as usual is not always written.
        let settings = TrainSettings {
            method: Method::Bitfit,
            betas: (0.5, 0.5),
            epsilon: 1e-6,
            class_weights: Some(ClassWeights::Balanced),
            threshold_rows: Some(0.1),
            ..TrainSettings::default()
        };
        let keys = serde_json::to_value(&settings).unwrap();
        for key in TOLD_OR_IDLE {
            assert!(keys.get(key).is_some(), "{key}");
        }
        assert!(later(&settings).is_empty(), "each is told once");
    }
}

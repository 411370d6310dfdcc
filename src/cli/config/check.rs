//! Ranges of values, and settings that contradict each other.

use std::path::Path;

use super::error::{ConfigError, did_you_mean, line_of};
use super::{Config, DataSection};
use crate::dataset::{
    LoadSettings, Metric, ObjectiveKind, PRESETS, SPAN_TASKS, Template, missing_task, preset, span_task,
};

/// Where an error is to be reported.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn refuse(&self, section: &str, key: &str, found: String, cure: impl Into<String>) -> Result<(), ConfigError> {
        let line = line_of(self.text, section, key);
        let place = if line.is_none() { format!("[{section}] ") } else { String::new() };
        let found = format!("{place}`{key}` {found}");
        Err(ConfigError::Invalid { path: self.path.into(), line, found, cure: cure.into() })
    }

    fn whole(&self, section: &str, key: &str, value: Option<u64>, least: u64) -> Result<(), ConfigError> {
        match value {
            Some(value) if value < least => {
                self.refuse(section, key, format!("is {value}"), format!("give at least {least}"))
            }
            _ => Ok(()),
        }
    }

    fn number(
        &self,
        section: &str,
        key: &str,
        value: f64,
        fits: impl Fn(f64) -> bool,
        cure: &str,
    ) -> Result<(), ConfigError> {
        if value.is_finite() && fits(value) { Ok(()) } else { self.refuse(section, key, format!("is {value}"), cure) }
    }
}

/// Checks every value.
pub(super) fn values(path: &Path, text: &str, config: &Config) -> Result<(), ConfigError> {
    let file = File { path, text };
    data(&file, &config.data)?;
    plan(&file, config)?;
    train(&file, config)?;
    file.whole("device", "threads", config.device.threads.map(|n| n as u64), 1)
}

fn data(file: &File<'_>, data: &DataSection) -> Result<(), ConfigError> {
    if let Some(task) = &data.task
        && preset(task).is_none()
        && span_task(task).is_none()
    {
        if let Some(reason) = missing_task(task) {
            return file.refuse("data", "task", format!("is `{task}`"), reason);
        }
        let known: Vec<_> = PRESETS.iter().map(|preset| preset.name).chain(SPAN_TASKS).collect();
        return file.refuse("data", "task", format!("is `{task}`"), did_you_mean(task, &known, "choose one of"));
    }
    file.whole("data", "max_length", Some(data.max_length() as u64), 2)?;
    file.whole("data", "limit", data.limit.map(|n| n as u64), 1)?;
    file.whole("data", "max_answer_length", data.max_answer_length.map(|n| n as u64), 1)?;
    file.whole("data", "n_best", data.n_best.map(|n| n as u64), 1)?;
    if let Some(threshold) = data.null_threshold {
        file.number("data", "null_threshold", threshold.into(), |_| true, "give a number")?;
    }
    if let Some((key, reason)) = data.misfit() {
        return file.refuse("data", key, reason.into(), "leave it out");
    }
    let settings = data.load_settings();
    if settings.pair.as_ref() == Some(&settings.text) {
        return file.refuse("data", "pair", "is the column of the first text too".into(), "name two columns");
    }
    language(file, data, &settings)?;
    if let Some(labels) = &data.labels {
        if let Some(twice) = (1..labels.len()).find(|&i| labels[..i].contains(&labels[i])) {
            return file.refuse("data", "labels", format!("has `{}` twice", labels[twice]), "name every class once");
        }
        if labels.len() < 2 {
            return file.refuse("data", "labels", "names fewer than two classes".into(), "name every class");
        }
        if settings.objective == Some(ObjectiveKind::Regression) {
            return file.refuse("data", "labels", "are given, but a regression has none".into(), "leave them out");
        }
    }
    metrics(file, data, settings.objective)
}

/// What only language models have, and what they do not have.
fn language(file: &File<'_>, data: &DataSection, settings: &LoadSettings) -> Result<(), ConfigError> {
    let is_language = settings.objective == Some(ObjectiveKind::CausalLm);
    if data.packing && !is_language {
        let cure = "leave it out, or take `task = \"causal-lm\"` or \"instruct\"";
        return file.refuse("data", "packing", "is for language models".into(), cure);
    }
    for (key, value) in [("template", &data.template), ("template_without_input", &data.template_without_input)] {
        if value.is_some() && settings.template.is_none() {
            let cure = "leave it out, or take `task = \"instruct\"`";
            return file.refuse("data", key, "is for instructions".into(), cure);
        }
    }
    if let Some(Err(error)) = settings.template.as_ref().map(Template::check) {
        let key = if data.template.is_some() { "template" } else { "template_without_input" };
        return file.refuse("data", key, "cannot be filled".into(), error.to_string());
    }
    if is_language && data.labels.is_some() {
        return file.refuse("data", "labels", "are given, but a language model has none".into(), "leave them out");
    }
    Ok(())
}

fn metrics(file: &File<'_>, data: &DataSection, objective: Option<ObjectiveKind>) -> Result<(), ConfigError> {
    let Some(metrics) = &data.metrics else { return Ok(()) };
    if metrics.is_empty() {
        return file.refuse("data", "metrics", "is empty".into(), "name at least one, or leave it out");
    }
    let fits = |metric: &&Metric| objective.is_none_or(|objective| metric.kind() == objective);
    match metrics.iter().find(|metric| !fits(metric)) {
        Some(misfit) => {
            let known: Vec<_> = Metric::ALL.iter().filter(fits).map(|metric| metric.name()).collect();
            let task = match objective {
                Some(ObjectiveKind::Regression) => "a regression",
                Some(ObjectiveKind::CausalLm) => "a language model",
                _ => "classes",
            };
            let cure = format!("choose among {}", known.join(", "));
            file.refuse("data", "metrics", format!("has `{misfit}`, which does not fit {task}"), cure)
        }
        None => Ok(()),
    }
}

fn plan(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    let plan = &config.plan;
    file.whole("plan", "tokens_per_text", Some(plan.tokens_per_text as u64), 1)?;
    file.whole("plan", "rows", plan.rows.map(|n| n as u64), 50)?;
    file.whole("plan", "mini_batch", plan.mini_batch.map(|rows| rows as u64), 100)?;
    if let Some(until) = plan.until {
        file.number("plan", "until", until, |v| v > 0.0, "give the widest interval, above 0, or leave it out")?;
        if plan.subsamples == 0 && plan.mini_batch.is_none() {
            let cure = "give some, or leave `until` out";
            return file.refuse("plan", "subsamples", "is 0, and `until` needs them".into(), cure);
        }
    }
    if plan.stratified && plan.rows.is_none() {
        return file.refuse("plan", "stratified", "needs a number of rows".into(), "give `rows`, or leave it out");
    }
    file.whole("plan", "batch_tokens", plan.batch_tokens.map(|tokens| tokens as u64), 1)?;
    file.number("plan", "discard", plan.discard, |v| (0.0..1.0).contains(&v), "give a share from 0 to below 1")?;
    if plan.scale.is_some() && plan.scale().is_none() {
        let found = format!("is {}", plan.scale.unwrap_or_default());
        return file.refuse("plan", "scale", found, "give 1, 2, 4, 8 or 16, or leave it out");
    }
    if let Some(confidence) = plan.confidence {
        let cure = "give a share from 0.5 to below 1, or leave it out";
        file.number("plan", "confidence", confidence, |v| (0.5..1.0).contains(&v), cure)?;
        if plan.subsamples == 0 {
            let cure = "give some, or leave `confidence` out";
            return file.refuse("plan", "subsamples", "is 0, and `confidence` needs them".into(), cure);
        }
    }
    file.number("plan", "scaling", plan.scaling, |v| v > 0.0, "give a number above 0")?;
    file.whole("plan", "maximum_rank", plan.maximum_rank.map(|n| n as u64), plan.minimum_rank.max(1) as u64)?;
    file.whole("plan", "budget", plan.budget, 1)?;
    if plan.projections.is_empty() {
        return file.refuse("plan", "projections", "is empty".into(), "name at least one, or leave it out");
    }
    Ok(())
}

fn train(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    let train = &config.train;
    for (key, value) in [
        ("epochs", Some(train.epochs)),
        ("maximum_steps", train.maximum_steps),
        ("batch_size", Some(train.batch_size as u64)),
        ("accumulation", Some(train.accumulation as u64)),
        ("evaluation_tokens", Some(train.evaluation_tokens as u64)),
        ("patience", train.patience),
        ("log_every", Some(train.log_every)),
        ("save_every", Some(train.save_every)),
    ] {
        file.whole("train", key, value, 1)?;
    }
    file.number("train", "learning_rate", train.learning_rate, |v| v > 0.0, "give a number above 0, such as 5e-4")?;
    file.number("train", "weight_decay", train.weight_decay, |v| v >= 0.0, "give 0 or more")?;
    file.number("train", "clip_norm", train.clip_norm, |v| v >= 0.0, "give a number above 0, or 0 for no clipping")?;
    file.number("train", "dropout", train.dropout, |v| (0.0..1.0).contains(&v), "give a share from 0 to below 1")?;
    if let Some(ratio) = train.warmup_ratio {
        file.number("train", "warmup_ratio", ratio, |v| (0.0..=1.0).contains(&v), "give a share from 0 to 1")?;
        if train.warmup_steps.is_some() {
            return file.refuse(
                "train",
                "warmup_steps",
                "and `warmup_ratio` are both given".into(),
                "keep one of them",
            );
        }
    }
    if train.patience.is_some() && config.data.dev.is_none() {
        return file.refuse("train", "patience", "needs rows to evaluate on".into(), "name a `dev` file in [data]");
    }
    Ok(())
}

/// Checks that the inputs are there: better now than after hours of work.
pub(super) fn files(path: &Path, text: &str, config: &Config) -> Result<(), ConfigError> {
    let file = File { path, text };
    let inputs = [
        ("model", "path", Some(&config.model.path)),
        ("data", "train", Some(&config.data.train)),
        ("data", "dev", config.data.dev.as_ref()),
        ("data", "test", config.data.test.as_ref()),
        ("device", "ort_lib", config.device.ort_lib.as_ref()),
    ];
    for (section, key, name) in inputs {
        if let Some(name) = name
            && let Err(error) = std::fs::metadata(name)
        {
            let found = format!("is {}, which cannot be opened ({error})", name.display());
            return file.refuse(section, key, found, "mend the path; it is relative to the configuration");
        }
    }
    Ok(())
}

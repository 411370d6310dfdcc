//! Language modelling: the next token of every text.

use std::borrow::Cow;
use std::path::Path;

use serde_json::json;

use super::{
    DataSettings, Encoded, Figure, HeadSpec, Lines, Objective, Outputs, Preset, Reader, Request, Rows, Source, Targets,
    Task, TaskError,
};
use crate::dataset::metric::perplexity;
use crate::dataset::{DatasetError, Documents, Metric, Template, Tokenizer};
use crate::hint::Hint;
use crate::progress::{Event, Observer};
use crate::settings_value::SettingError;

/// The task of predicting the next token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CausalLm;

const HEAD: HeadSpec = HeadSpec {
    outputs: &["logits"],
    lines: Lines::Vocabulary,
    width: None,
    trained: false,
    counts_padding: false,
    cure: "export it with its language-model head (scripts/export_onnx.py --head lm)",
};

impl Task for CausalLm {
    fn head(&self) -> HeadSpec {
        HEAD
    }

    fn target(&self) -> &'static str {
        "the next token"
    }

    fn in_words(&self) -> String {
        "tokens".into()
    }

    fn fitting_metrics(&self) -> Vec<Metric> {
        vec![Metric::Perplexity]
    }

    fn usual_metrics(&self) -> &'static [Metric] {
        &[Metric::Perplexity]
    }

    fn score(&self, targets: &Targets, outputs: &Outputs, metrics: &[Metric]) -> Result<Vec<Figure>, TaskError> {
        if !self.fits(targets) {
            return Err(self.other_targets(targets));
        }
        self.check_metrics(metrics)?;
        let Outputs::Loss(loss) = outputs else { return Err(TaskError::NoTokenLoss) };
        let value = perplexity(loss.mean());
        let note = value.is_none().then(|| "beyond what a number can hold".to_owned());
        Ok(vec![Figure { name: Metric::Perplexity.to_string(), value, note }])
    }
}

/// Reader of texts, or of instructions with the output they ask for.
#[derive(Debug)]
pub(super) struct Texts;

const fn language(
    name: &'static str,
    text: &'static str,
    pair: Option<&'static str>,
    label: Option<&'static str>,
    keys: &'static [&'static str],
) -> Preset {
    let (metrics, train_file, dev_file) = (&[Metric::Perplexity], "train.jsonl", "dev.jsonl");
    Preset { name, text, pair, label, kind: None, labels: &[], metrics, keys, train_file, dev_file }
}

const PRESETS: [Preset; 2] = [
    language("causal-lm", "text", None, None, &["text", "format", "quoting", "packing"]),
    language(
        "instruct",
        "instruction",
        Some("input"),
        Some("output"),
        &["text", "pair", "label", "format", "quoting", "packing", "template", "template_without_input"],
    ),
];

/// The template that turns instructions into texts; `None` for plain texts.
fn template(settings: &DataSettings) -> Option<Template> {
    let instructs = settings.preset().is_some_and(|preset| preset.label.is_some());
    let usual = Template::default();
    instructs.then(|| match &settings.template {
        Some(text) => Template { text: text.clone(), without_input: settings.template_without_input.clone() },
        None => Template { without_input: settings.template_without_input.clone().or(usual.without_input), ..usual },
    })
}

impl Reader for Texts {
    fn presets(&self) -> &'static [Preset] {
        &PRESETS
    }

    fn head(&self) -> HeadSpec {
        HEAD
    }

    fn check(&self, settings: &DataSettings) -> Result<(), SettingError> {
        if let Some(Err(error)) = template(settings).as_ref().map(Template::check) {
            let key = if settings.template.is_some() { "template" } else { "template_without_input" };
            return Err(SettingError::new(key, "cannot be filled".into(), error.to_string()));
        }
        Ok(())
    }

    fn read(&self, request: &Request<'_>) -> Result<Box<dyn Rows>, TaskError> {
        let settings = request.settings;
        let load = crate::dataset::LoadSettings { limit: request.limit(), ..settings.load_settings() };
        let documents = Documents::load(request.path, &load, template(settings).as_ref())?;
        for warning in &documents.warnings {
            request.observer.observe(Event::Warning(warning));
        }
        let columns = std::iter::once(load.text).chain(load.pair).collect();
        Ok(Box::new(TextsOfFile { documents, packing: settings.packing, columns }))
    }

    fn check_predictions(&self, _path: &Path) -> Result<(), TaskError> {
        let reason = format!("a language model predicts tokens, not rows; leave out {}", Hint::Predictions);
        Err(TaskError::Predictions(reason))
    }

    fn identity(&self, settings: &DataSettings, learning: bool) -> Option<(&'static str, serde_json::Value)> {
        let template = template(settings).map(|template| (template.text, template.without_input));
        Some(match learning {
            true => ("texts", json!({ "packing": settings.packing, "template": template })),
            false => ("template", json!(template)),
        })
    }
}

/// Rows of a file of texts.
struct TextsOfFile {
    documents: Documents,
    packing: bool,
    columns: Vec<String>,
}

impl Rows for TextsOfFile {
    fn path(&self) -> &Path {
        &self.documents.path
    }

    fn sha256(&self) -> &str {
        &self.documents.sha256
    }

    fn source(&self) -> Source<'_> {
        Source::Examples(&self.documents.examples)
    }

    fn text(&self, row: usize) -> Option<String> {
        Some(self.documents.examples.get(row)?.text.clone())
    }

    fn columns(&self) -> Vec<String> {
        self.columns.clone()
    }

    fn objective(&self) -> Option<&Objective> {
        Some(&Objective::CausalLm)
    }

    fn strata(&self) -> Result<Vec<Vec<usize>>, String> {
        Err("texts have none; leave it out".into())
    }

    fn encode(&self, tokenizer: &Tokenizer, observer: &dyn Observer) -> Result<Encoded<'_>, DatasetError> {
        let rows = tokenizer.encode_texts(&self.documents, self.packing, observer)?;
        Ok(Encoded { encodings: Cow::Owned(rows.encodings), targets: Some(Targets::Tokens(rows.counted)) })
    }

    fn score(&self, encoded: &Encoded<'_>, outputs: &Outputs, metrics: &[Metric]) -> Result<Vec<Figure>, TaskError> {
        encoded.targets.as_ref().map_or(Ok(Vec::new()), |targets| CausalLm.score(targets, outputs, metrics))
    }

    fn write_predictions(&self, path: &Path, _outputs: &Outputs) -> Result<(), TaskError> {
        Texts.check_predictions(path)
    }
}

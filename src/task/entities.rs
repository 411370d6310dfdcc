//! Entities: a tag for every word of a text (token classification), scored by the entities that the tags mark.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::class_names::{check_label_order, label_names};
use super::{
    DataSettings, Encoded, Figure, HeadSpec, Judge, Lines, Objective, Outputs, Preset, Purpose, Reader, Request, Rows,
    Source, Targets, Task, TaskError,
};
use crate::dataset::metric::EntityScores;
use crate::dataset::{
    DatasetError, Encoding, Format, Metric, TagScheme, TaggedFile, TaggedFormat, TaggedSettings, Tokenizer, WordWindow,
    WordWindows, write_conll, write_json_lines,
};
use crate::progress::{Event, Observer};
use crate::settings_value::SettingError;

/// The task of predicting a tag for every word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entities {
    /// The tags in the order of the logits.
    pub labels: Vec<String>,
    /// The scheme by which tags mark entities.
    pub scheme: TagScheme,
}

const OUTSIDE: &str = "O";

const HEAD: HeadSpec = HeadSpec {
    outputs: &["logits"],
    lines: Lines::Token,
    width: None,
    trained: true,
    counts_padding: false,
    cure: "export it with a head for token classification (scripts/export_onnx.py --head tokens --labels N)",
};

impl Task for Entities {
    fn head(&self) -> HeadSpec {
        HeadSpec { width: Some(self.labels.len()), ..HEAD }
    }

    fn target(&self) -> &'static str {
        "a class per word"
    }

    fn in_words(&self) -> String {
        "entities".into()
    }

    fn classes(&self) -> Option<&[String]> {
        Some(&self.labels)
    }

    fn unit(&self) -> &'static str {
        "texts"
    }
}

const KEYS: &[&str] = &["text", "label", "labels", "format", "scheme", "strict"];

const PRESETS: [Preset; 1] = [Preset {
    name: "ner",
    // CoNLL has no column names; these appear in the journals of runs.
    text: "text",
    pair: None,
    label: Some("label"),
    kind: None,
    labels: &[],
    metrics: &[],
    keys: KEYS,
    train_file: "train.conll",
    dev_file: "dev.conll",
}];

/// Reader of tagged words.
#[derive(Debug)]
pub(super) struct Words;

impl Reader for Words {
    fn presets(&self) -> &'static [Preset] {
        &PRESETS
    }

    fn head(&self) -> HeadSpec {
        HEAD
    }

    fn check(&self, settings: &DataSettings) -> Result<(), SettingError> {
        if settings.format == Some(Format::Csv) {
            let cure = "write CoNLL (format txt), jsonl or parquet";
            return Err(SettingError::new("format", "is csv, which has no place for words with tags".into(), cure));
        }
        let Some(labels) = &settings.labels else { return Ok(()) };
        if let Some(twice) = (1..labels.len()).find(|&i| labels[..i].contains(&labels[i])) {
            let found = format!("has `{}` twice", labels[twice]);
            return Err(SettingError::new("labels", found, "name every tag once"));
        }
        if !labels.iter().any(|label| label == OUTSIDE) {
            return Err(SettingError::new("labels", "lacks the tag O".into(), "name every tag, O too"));
        }
        Ok(())
    }

    fn read(&self, request: &Request<'_>) -> Result<Box<dyn Rows>, TaskError> {
        Ok(Box::new(EntityRows::read(request)?))
    }

    fn check_predictions(&self, path: &Path) -> Result<(), TaskError> {
        match TaggedFormat::of(path) {
            Some(TaggedFormat::Conll | TaggedFormat::Jsonl) if !is_packed(path) => Ok(()),
            _ => Err(TaskError::Predictions(format!(
                "{}: tags are written as words with their tags, or as JSON lines; give the ending .conll or .jsonl",
                path.display()
            ))),
        }
    }

    fn identity(&self, settings: &DataSettings, learning: bool) -> Option<(&'static str, Value)> {
        learning.then(|| ("entities", json!({ "scheme": settings.scheme, "strict": settings.strict })))
    }
}

fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"))
}

/// Rows of words with or without tags, tokenized into windows.
pub struct EntityRows {
    file: TaggedFile,
    encodings: Vec<Encoding>,
    windows: Vec<WordWindow>,
    objective: Option<Objective>,
    strict: bool,
}

impl EntityRows {
    fn read(request: &Request<'_>) -> Result<Self, TaskError> {
        let (path, settings) = (request.path, request.settings);
        let like = match request.like {
            Some(Objective::Entities(task)) => Some(task),
            _ => None,
        };
        let of_model = request.model_config.and_then(label_names);
        let given = like.map(|task| task.labels.clone()).or_else(|| settings.labels.clone());
        let need_tags =
            request.purpose == Purpose::Train || (request.purpose == Purpose::Evaluate && !request.predictions);
        let wanted = TaggedSettings {
            words: settings.text.clone(),
            tags: settings.label.clone(),
            need_tags,
            labels: given,
            numbered: true,
            scheme: settings.scheme.or(like.map(|task| task.scheme)),
            format: settings.format.and_then(TaggedFormat::of_table),
            limit: request.limit(),
        };
        // Tags are numbered as in the model's class names, if it has any; in training they may be others.
        let named =
            of_model.clone().filter(|names| wanted.labels.is_none() && names.iter().any(|name| name == OUTSIDE));
        let file = match named {
            Some(names) => {
                match TaggedFile::load(
                    path,
                    &TaggedSettings { labels: Some(names.clone()), numbered: false, ..wanted.clone() },
                ) {
                    Ok(file) => (file, Some(names)),
                    Err(DatasetError::UnknownLabel { .. }) if request.purpose != Purpose::Evaluate => {
                        (TaggedFile::load(path, &wanted)?, None)
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            None => (TaggedFile::load(path, &wanted)?, wanted.labels.clone()),
        };
        let (file, names) = file;
        for warning in &file.warnings {
            request.observer.observe(Event::Warning(warning));
        }
        let objective = objective(&file, names, request)?;
        if let (Some(objective), Some(names)) = (&objective, &of_model) {
            check_label_order(names, objective)?;
        }
        let made = WordWindows::new(&file, request.tokenizer, request.observer)?;
        let told = [
            (&made.without_tokens, "give no token, are not learnt and are tagged O"),
            (&made.cut_words, "have more tokens than a window holds, and keep the first ones"),
        ];
        for (words, what) in told {
            let Some(&(sentence, word)) = words.first() else { continue };
            request.observer.observe(Event::Warning(&format!(
                "{}: {} words {what}; the first is word {} of the text in line {}",
                path.display(),
                words.len(),
                word + 1,
                file.sentences[sentence].line
            )));
        }
        let WordWindows { encodings, windows, .. } = made;
        if encodings.is_empty() {
            return Err(TaskError::NoTokens { path: path.into() });
        }
        Ok(EntityRows { file, encodings, windows, objective, strict: settings.strict })
    }

    fn task(&self) -> Option<&Entities> {
        match &self.objective {
            Some(Objective::Entities(task)) => Some(task),
            _ => None,
        }
    }

    /// The predicted tag of every word: that of its first token. A word without tokens is tagged as outside.
    fn predictions(&self, outputs: &Outputs) -> Result<Vec<Vec<&str>>, TaskError> {
        let (found, expected) = (outputs.rows().len(), self.windows.len());
        if found != expected {
            return Err(TaskError::Lengths { what: "windows with logits", found, expected });
        }
        let Some(task) = self.task() else { return Ok(Vec::new()) };
        let outside: Vec<Vec<&str>> =
            self.file.sentences.iter().map(|sentence| vec![OUTSIDE; sentence.words.len()]).collect();
        let mut tags = outside;
        let width = task.labels.len();
        for ((window, encoding), logits) in self.windows.iter().zip(&self.encodings).zip(outputs.rows()) {
            if logits.len() != encoding.len() * width {
                let found = logits.len() / encoding.len().max(1);
                return Err(TaskError::Width { found, expected: width, task: "a tag per word".into() });
            }
            for (word, token) in window.first_tokens() {
                let line = &logits[token * width..(token + 1) * width];
                let best = (1..width).fold(0, |best, at| if line[at] > line[best] { at } else { best });
                tags[window.sentence][word] = &task.labels[best];
            }
        }
        Ok(tags)
    }
}

/// The objective: the names that are given, else the tags of the file, completed by those that their scheme allows.
fn objective(
    file: &TaggedFile,
    names: Option<Vec<String>>,
    request: &Request<'_>,
) -> Result<Option<Objective>, TaskError> {
    let settings = request.settings;
    let tags = file.tag_names();
    if names.is_none() && tags.is_empty() {
        return Ok(None);
    }
    if !tags.is_empty() && file.scheme.is_none() {
        return Err(TaskError::NumberedTags { path: file.path.clone() });
    }
    let of_names = |names: &[String]| {
        let begins =
            |letters: [&str; 2]| names.iter().any(|name| letters.iter().any(|letter| begins_with(name, letter)));
        match (begins(["L", "U"]), begins(["E", "S"])) {
            (true, _) => Some(TagScheme::Bilou),
            (_, true) => Some(TagScheme::Iobes),
            _ => None,
        }
    };
    let like = match request.like {
        Some(Objective::Entities(task)) => Some(task.scheme),
        _ => None,
    };
    let given = like.or(settings.scheme);
    let scheme = given.or(names.as_deref().and_then(of_names)).or(file.scheme).unwrap_or(TagScheme::Iob2);
    let labels = match names {
        Some(names) => names,
        None if request.purpose == Purpose::Evaluate => {
            return Err(TaskError::TagOrder { path: file.path.clone() });
        }
        None => {
            let kinds: BTreeSet<&str> = tags.iter().filter_map(|tag| Some(tag.split_once('-')?.1)).collect();
            let bare = tags.iter().any(|tag| tag != OUTSIDE && !tag.contains('-'));
            let bare = scheme.letters().iter().filter(|_| bare).map(char::to_string);
            let of_kind =
                |kind: &&str| scheme.letters().iter().map(|letter| format!("{letter}-{kind}")).collect::<Vec<_>>();
            std::iter::once(OUTSIDE.to_owned()).chain(bare).chain(kinds.iter().flat_map(of_kind)).collect()
        }
    };
    if let Some(label) = labels.iter().find(|label| counts_strictly(settings.strict, scheme) && !scheme.has(label)) {
        return Err(TaskError::TagOfOtherScheme { tag: label.clone(), scheme });
    }
    Ok(Some(Objective::Entities(Entities { labels, scheme })))
}

fn begins_with(tag: &str, letter: &str) -> bool {
    tag.strip_prefix(letter).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Whether entities are counted strictly: seqeval's default mode does not know the letters of BILOU.
fn counts_strictly(strict: bool, scheme: TagScheme) -> bool {
    strict || scheme == TagScheme::Bilou
}

impl Rows for EntityRows {
    fn path(&self) -> &Path {
        &self.file.path
    }

    fn sha256(&self) -> &str {
        &self.file.sha256
    }

    fn source(&self) -> Source<'_> {
        Source::Encodings(&self.encodings)
    }

    fn text(&self, row: usize) -> Option<String> {
        let sentence = self.windows.get(row)?.sentence;
        Some(self.file.sentences.get(sentence)?.words.join(" "))
    }

    fn columns(&self) -> Vec<String> {
        vec!["words".into(), "tags".into()]
    }

    fn objective(&self) -> Option<&Objective> {
        self.objective.as_ref()
    }

    fn lacks(&self) -> Option<Cow<'static, str>> {
        Rows::judge(self).is_none().then_some("holds no tags to compare with; name a file that does".into())
    }

    fn strata(&self) -> Result<Vec<Vec<usize>>, String> {
        Err("texts of words have none; leave it out".into())
    }

    fn encode(&self, _tokenizer: &Tokenizer, _observer: &dyn Observer) -> Result<Encoded<'_>, DatasetError> {
        let classes = |window: &WordWindow, encoding: &Encoding| {
            let mut classes = vec![None; encoding.len()];
            let tags = self.file.sentences[window.sentence].tags.as_ref();
            for (word, token) in window.first_tokens() {
                let class = |tag: &String| self.task()?.labels.iter().position(|label| label == tag);
                classes[token] = tags.and_then(|tags| tags.get(word)).and_then(class);
            }
            classes
        };
        let has_tags = self.file.sentences.iter().any(|sentence| sentence.tags.is_some());
        let rows = || self.windows.iter().zip(&self.encodings).map(|(window, encoding)| classes(window, encoding));
        let targets = (has_tags && self.objective.is_some()).then(|| Targets::TokenClasses(rows().collect()));
        Ok(Encoded { encodings: Cow::Borrowed(&self.encodings), targets })
    }

    fn score(&self, _encoded: &Encoded<'_>, outputs: &Outputs, _metrics: &[Metric]) -> Result<Vec<Figure>, TaskError> {
        Rows::judge(self).map_or(Ok(Vec::new()), |judge| judge.judge(outputs))
    }

    fn write_predictions(&self, path: &Path, outputs: &Outputs) -> Result<(), TaskError> {
        Words.check_predictions(path)?;
        let owned = |tags: Vec<&str>| tags.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let predicted: Vec<Vec<String>> = self.predictions(outputs)?.into_iter().map(owned).collect();
        let write = match TaggedFormat::of(path) {
            Some(TaggedFormat::Jsonl) => write_json_lines,
            _ => write_conll,
        };
        Ok(write(path, &self.file.sentences, &predicted)?)
    }

    fn judged(&self) -> Option<usize> {
        Some(self.file.sentences.len())
    }

    fn judge(&self) -> Option<&dyn Judge> {
        let complete = self.file.sentences.iter().all(|sentence| sentence.tags.is_some());
        (complete && self.objective.is_some()).then_some(self as &dyn Judge)
    }
}

impl Judge for EntityRows {
    fn rows(&self) -> usize {
        self.windows.len()
    }

    /// F1, precision and recall over all entities, then F1 of every kind.
    fn judge(&self, outputs: &Outputs) -> Result<Vec<Figure>, TaskError> {
        let truth: Vec<Vec<&str>> = self
            .file
            .sentences
            .iter()
            .map(|sentence| sentence.tags.iter().flatten().map(String::as_str).collect())
            .collect();
        let scheme = self.task().map_or(TagScheme::Iob2, |task| task.scheme);
        let strict = counts_strictly(self.strict, scheme);
        let scores = EntityScores::new(&truth, &self.predictions(outputs)?, scheme, strict)?;
        let figure =
            |name: &str, value: f64, note: Option<String>| Figure { name: name.to_owned(), value: Some(value), note };
        let all = scores.overall;
        let entities = Some(format!("{} entities", all.support));
        let mut figures = vec![
            figure("f1", all.f1, entities),
            figure("precision", all.precision, None),
            figure("recall", all.recall, None),
        ];
        for (kind, found) in &scores.kinds {
            figures.push(figure(&format!("f1 {kind}"), found.f1, Some(format!("{} entities", found.support))));
        }
        Ok(figures)
    }

    fn identity(&self) -> (&'static str, String) {
        let file: String = self.file.sha256.chars().take(12).collect();
        let scheme = self.task().map_or("no scheme", |task| task.scheme.name());
        ("counting of entities", format!("{scheme}, {}, file {file}", if self.strict { "strict" } else { "default" }))
    }
}

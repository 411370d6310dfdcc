//! Precision, recall and F1 of entities, as the Python package seqeval 1.2.2 counts them: an entity is right if its kind,
//! first and last word are.

use std::collections::{BTreeMap, HashSet};

use super::MetricError;
use crate::dataset::tag_scheme::{Entity, TagScheme, lenient_spans, spans};

/// How well entities were found. A value whose denominator is 0 is 0, as is seqeval's default.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct PrecisionRecall {
    /// Share of the predicted entities that are true.
    pub precision: f64,
    /// Share of the true entities that were predicted.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Number of true entities.
    pub support: usize,
}

/// Scores of the entities of several sentences.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct EntityScores {
    /// Over all entities (micro average).
    pub overall: PrecisionRecall,
    /// Mean over the kinds (macro average); 0 where there is no kind.
    pub macro_average: PrecisionRecall,
    /// Scores of every kind that is predicted or true, by its name.
    pub kinds: BTreeMap<String, PrecisionRecall>,
    /// Share of words with the right tag; 0 where there are no words.
    pub accuracy: f64,
}

/// Counts for one kind.
#[derive(Clone, Copy, Default)]
struct Counts {
    right: usize,
    predicted: usize,
    truth: usize,
}

impl EntityScores {
    /// Compares predicted tags with the true ones, one list per sentence. For `strict` see [`spans`]; where it is off,
    /// the scheme is ignored.
    ///
    /// # Errors
    /// Different numbers of sentences, or of tags in a sentence; in strict mode, a tag that the scheme does not have.
    pub fn new<T: AsRef<str>, P: AsRef<str>>(
        truth: &[Vec<T>],
        predicted: &[Vec<P>],
        scheme: TagScheme,
        strict: bool,
    ) -> Result<Self, MetricError> {
        super::lengths(predicted.len(), truth.len())?;
        for (truth, predicted) in truth.iter().zip(predicted) {
            super::lengths(predicted.len(), truth.len())?;
        }
        let (true_entities, found) = (entities(truth, scheme, strict)?, entities(predicted, scheme, strict)?);
        let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
        for entity in &true_entities {
            counts.entry(&entity.1.kind).or_default().truth += 1;
        }
        for entity in &found {
            let count = counts.entry(&entity.1.kind).or_default();
            count.predicted += 1;
            count.right += usize::from(true_entities.contains(entity));
        }
        let mut sum = Counts::default();
        for count in counts.values() {
            sum.right += count.right;
            sum.predicted += count.predicted;
            sum.truth += count.truth;
        }
        let kinds: BTreeMap<String, PrecisionRecall> =
            counts.into_iter().map(|(kind, counts)| (kind.to_owned(), counts.scores())).collect();
        let mean = |part: fn(&PrecisionRecall) -> f64| match kinds.len() {
            0 => 0.0,
            number => kinds.values().map(part).sum::<f64>() / number as f64,
        };
        let macro_average = PrecisionRecall {
            precision: mean(|scores| scores.precision),
            recall: mean(|scores| scores.recall),
            f1: mean(|scores| scores.f1),
            support: sum.truth,
        };
        let tags = truth.iter().flatten().zip(predicted.iter().flatten());
        let right = tags.filter(|(truth, predicted)| truth.as_ref() == predicted.as_ref()).count();
        let accuracy = share(right, truth.iter().map(Vec::len).sum());
        Ok(EntityScores { overall: sum.scores(), macro_average, kinds, accuracy })
    }
}

/// The entities of all sentences, each with the index of its sentence.
fn entities<S: AsRef<str>>(
    sentences: &[Vec<S>],
    scheme: TagScheme,
    strict: bool,
) -> Result<HashSet<(usize, Entity)>, MetricError> {
    if !strict {
        // seqeval joins the sentences with an `O` after each.
        let joined = sentences.iter().flat_map(|tags| tags.iter().map(AsRef::as_ref).chain(["O"]));
        return Ok(lenient_spans(joined).into_iter().map(|entity| (0, entity)).collect());
    }
    let mut all = HashSet::new();
    for (sentence, tags) in sentences.iter().enumerate() {
        all.extend(spans(tags, scheme, true)?.into_iter().map(|entity| (sentence, entity)));
    }
    Ok(all)
}

impl Counts {
    fn scores(self) -> PrecisionRecall {
        let (precision, recall) = (share(self.right, self.predicted), share(self.right, self.truth));
        let sum = precision + recall;
        let f1 = if sum == 0.0 { 0.0 } else { 2.0 * precision * recall / sum };
        PrecisionRecall { precision, recall, f1, support: self.truth }
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

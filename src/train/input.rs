//! The input of a training run, checked before anything is computed.

use std::collections::HashSet;
use std::path::Path;

use super::error::TrainError;
use super::head::{HEAD_BIAS, HEAD_WEIGHT};
use super::rows::LabelledRows;
use crate::adapter::Adapter;
use crate::checkpoint::{Checkpoint, folded_products, trained_head};
use crate::dataset::{Encoding, Metric, Padding};
use crate::onnx::{Head, HeadPooling, Model, Transformer};
use crate::rank::{Plan, PlannedModule};
use crate::task::{Judge, Lines, Objective};

/// The input of a training run.
#[derive(Clone, Copy)]
pub struct TrainInput<'a> {
    /// The export.
    pub model: &'a Transformer,
    /// SHA-256 of its `.onnx` file; must be that of the plan.
    pub model_sha256: &'a str,
    /// Its checkpoint, if there is one: a trained head gets the names used there.
    pub checkpoint: Option<&'a Checkpoint>,
    /// Content of `config.json`, if there is one: its class shows which tensors of a head are trained that the checkpoint lacks.
    pub config: Option<&'a serde_json::Value>,
    /// Which weights get adapters of which rank; methods without ranks need none.
    pub plan: Option<&'a Plan>,
    /// The objective: what is learnt.
    pub objective: &'a Objective,
    /// Rows to learn from.
    pub train: LabelledRows<'a>,
    /// Rows for choosing the best epoch.
    pub validation: Option<LabelledRows<'a>>,
    /// Scores the validation rows where their targets alone do not suffice.
    pub judge: Option<&'a dyn Judge>,
    /// Metrics of the validation rows; the first decides which epoch is the best.
    pub metrics: &'a [Metric],
    /// How rows are padded, and how the model counts positions.
    pub padding: Padding,
    /// Whether padding leaves the results unchanged. If not (the export ignores its mask), only rows of equal length
    /// are computed together.
    pub padding_is_safe: bool,
    /// The adapter to start from; without one, a fresh adapter (A random, B zero) and the head unchanged.
    pub initial: Option<&'a Adapter>,
    /// Folder of `metrics.jsonl` and of `state/`.
    pub folder: &'a Path,
}

/// A tensor that is trained as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SavedName {
    /// Name of the initializer in the graph; empty for a new head.
    pub initializer: String,
    /// Names of further initializers that hold the same tensor.
    pub copies: Vec<String>,
    /// Name of the tensor in the checkpoint.
    pub name: String,
    /// Whether the initializer is the transposed checkpoint tensor.
    pub transposed: bool,
}

/// The head: its tensors, and the values of the graph to compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SavedNames {
    pub tensors: Vec<SavedName>,
    pub outputs: Vec<String>,
}

impl<'a> TrainInput<'a> {
    /// Refuses an input whose parts do not fit together.
    pub(super) fn check(&self) -> Result<(), TrainError> {
        if let Some(plan) = self.plan {
            check_plan(plan, self.model, self.model_sha256)?;
            plan.check()?;
            plan.check_weights(self.model.linears())?;
        }
        self.refuse_folded()?;
        let named = [("training", Some(self.train)), ("validation", self.validation)];
        for (what, rows) in named.into_iter().filter_map(|(what, rows)| rows.map(|rows| (what, rows))) {
            rows.check(what)?;
        }
        if let Some(vocabulary) = self.model.vocabulary() {
            for rows in [Some(self.train), self.validation].into_iter().flatten() {
                check_tokens(rows.encodings, vocabulary)?;
            }
        }
        // Windows are scored together, by question.
        let together = self.judge.is_some() || matches!(self.objective.head().lines, Lines::Ends | Lines::Token);
        if let (true, Some(rows)) = (together, self.validation) {
            let (rows, labels) = (rows.encodings.len(), self.judge.map_or(0, |judge| judge.rows()));
            if rows != labels {
                return Err(TrainError::Labels { what: "validation", rows, labels });
            }
        }
        self.objective.check_metrics(self.metrics)?;
        Ok(())
    }

    /// A weight that was also multiplied into a constant would be trained in only half of its uses: refused.
    fn refuse_folded(&self) -> Result<(), TrainError> {
        let planned = |block: usize| {
            let Some(plan) = self.plan else { return true };
            let block = plan.blocks.iter().find(|known| known.block == block);
            block.is_some_and(|block| block.modules.iter().any(|module| module.rank > 0))
        };
        let folded = folded_products(self.model, self.model.blocks()?, self.checkpoint)?;
        match folded.into_iter().find(|found| planned(found.block)) {
            Some(found) => Err(TrainError::Folded { onnx: self.model.path().into(), found }),
            None => Ok(()),
        }
    }

    /// The weights to adapt: those with a rank, each exactly once.
    pub(super) fn planned_modules(&self) -> Result<Vec<&'a PlannedModule>, TrainError> {
        let Some(plan) = self.plan else { return Err(TrainError::NoPlan) };
        let modules = plan.blocks.iter().flat_map(|block| &block.modules).filter(|module| module.rank > 0);
        let mut seen = HashSet::new();
        let mut kept = Vec::new();
        for module in modules {
            if !seen.insert(module.weight.as_str()) {
                return Err(TrainError::Weight {
                    weight: module.weight.clone(),
                    reason:
                        "several planned modules share it, and an adapter would change all of them; leave it out of \
                             the plan"
                            .into(),
                });
            }
            kept.push(module);
        }
        Ok(kept)
    }

    /// The tensors of the head, and the names of the values that the program computes.
    pub(super) fn saved_names(&self, pooling: Option<HeadPooling>) -> Result<SavedNames, TrainError> {
        let spec = self.objective.head();
        match (self.model.head()?, pooling) {
            (found, _) if spec.lines == Lines::Vocabulary => {
                let output = self.token_output(found, pooling)?;
                Ok(SavedNames { tensors: Vec::new(), outputs: vec![output] })
            }
            (None, _) if spec.lines == Lines::Ends => Err(TrainError::NoSpanHead { found: "none of a head".into() }),
            (Some(head), None) if spec.lines == Lines::Ends => {
                if head.outputs != spec.outputs {
                    return Err(TrainError::NoSpanHead { found: head.outputs.join(", ") });
                }
                check_width(head, spec.width)?;
                Ok(SavedNames { tensors: self.head_tensors(head)?, outputs: head.outputs.clone() })
            }
            (None, None) => Err(TrainError::NoHead { model: self.model.path().to_owned() }),
            (Some(head), Some(_)) => {
                Err(TrainError::HasHead { model: self.model.path().to_owned(), output: head.output.clone() })
            }
            (None, Some(head)) => {
                check_new_head(head, spec.lines)?;
                let tensor = |name: &str| SavedName {
                    initializer: String::new(),
                    copies: Vec::new(),
                    name: name.to_owned(),
                    transposed: false,
                };
                Ok(SavedNames {
                    tensors: vec![tensor(HEAD_WEIGHT), tensor(HEAD_BIAS)],
                    outputs: self.model.states()?.values.last().cloned().into_iter().collect(),
                })
            }
            (Some(head), None) => {
                if head.outputs.len() > 1 {
                    return Err(TrainError::SeveralOutputs { outputs: head.outputs.join(", ") });
                }
                check_width(head, spec.width)?;
                Ok(SavedNames { tensors: self.head_tensors(head)?, outputs: vec![head.output.clone()] })
            }
        }
    }

    /// The output of the export that holds the logits of the tokens.
    fn token_output(&self, head: Option<&Head>, pooling: Option<HeadPooling>) -> Result<String, TrainError> {
        let refuse = |found: String| Err(TrainError::NoLanguageHead { model: self.model.path().to_owned(), found });
        match head {
            None => refuse("makes no logits".into()),
            Some(head) if !head.predicts_tokens => {
                let width = head.linears.last().map_or(0, |last| last.out_features);
                refuse(format!("makes {width} logits (`{}`), not one for every token of the vocabulary", head.output))
            }
            Some(head) if pooling.is_some() => {
                Err(TrainError::HasHead { model: self.model.path().to_owned(), output: head.output.clone() })
            }
            Some(head) => Ok(head.output.clone()),
        }
    }

    /// The trained tensors of the export's head, under their checkpoint names where known.
    fn head_tensors(&self, head: &Head) -> Result<Vec<SavedName>, TrainError> {
        let known = trained_head(self.model, self.checkpoint, self.config, head)?;
        if let Some((tensor, _)) = known.iter().find(|(tensor, _)| tensor.shared) {
            return Err(TrainError::Weight {
                weight: tensor.initializer.clone(),
                reason: match self.checkpoint {
                    Some(_) => {
                        "the head shares it with the rest of the model, and training it would change both; export the \
                         model with a head of its own"
                    }
                    None => {
                        "the head shares it with the rest of the model; put the model.safetensors of the export beside it, \
                         which tells tensors apart that the exporter stored once because their values are equal, or export \
                         the model with a head of its own"
                    }
                }
                .into(),
            });
        }
        let tensors = known.into_iter().map(|(tensor, known)| SavedName {
            initializer: tensor.initializer.clone(),
            copies: Vec::new(),
            transposed: known.as_ref().map_or(tensor.transposed, |known| known.transposed),
            name: known.map_or_else(|| tensor.name.clone(), |known| known.tensor),
        });
        Ok(tensors.collect())
    }
}

/// Refuses to add a head whose outputs are not those that the task needs.
///
/// # Errors
/// [`TrainError::NewHeadOfOtherTask`] if the head does not fit.
pub fn check_new_head(head: HeadPooling, lines: Lines) -> Result<(), TrainError> {
    match (head == HeadPooling::Tokens, lines == Lines::Token) {
        (true, false) => Err(TrainError::NewHeadOfOtherTask { head: "tokens", fitting: "first, mean or last" }),
        (false, true) => Err(TrainError::NewHeadOfOtherTask { head: head.as_str(), fitting: "tokens" }),
        _ => Ok(()),
    }
}

/// Refuses a head of another width than the task needs.
fn check_width(head: &Head, wanted: Option<usize>) -> Result<(), TrainError> {
    match (head.linears.last(), wanted) {
        (Some(last), Some(expected)) if last.out_features != expected => {
            Err(TrainError::HeadWidth { found: last.out_features, expected })
        }
        _ => Ok(()),
    }
}

/// Checks that a plan was made for this export.
///
/// # Errors
/// [`TrainError::PlanOfOtherModel`] if it was not.
pub fn check_plan(plan: &Plan, model: &Model, model_sha256: &str) -> Result<(), TrainError> {
    if plan.model.onnx_sha256 == model_sha256 {
        return Ok(());
    }
    Err(TrainError::PlanOfOtherModel { model: model.path().to_owned(), planned: plan.model.onnx.clone() })
}

/// Every token id must be in the model's vocabulary.
fn check_tokens(encodings: &[Encoding], vocabulary: usize) -> Result<(), TrainError> {
    for (row, encoding) in encodings.iter().enumerate() {
        if let Some(&id) = encoding.ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(TrainError::TokenOutOfRange { row, id, vocabulary });
        }
    }
    Ok(())
}

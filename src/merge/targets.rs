//! Where each change of an adapter is applied: the tensor of the checkpoint and the constants of the export.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::finder::Finder;
use super::several::{Named, leading};
use super::{Base, MergeError, saved};
use crate::adapter::{
    Adapter, AdapterFolder, HEAD_FILE, Initialization, LoraFactors, Provenance, SavedTensor, TENSOR_FILE,
};
use crate::checkpoint::{
    Checkpoint, MatchedBy, ModelTask, StoredTensor, TensorInfo, WeightMatch, folded_products, match_head, match_weights,
};
use crate::onnx::{HeadPooling, LinearLayer, Transformer, WeightLayout};

/// Names of the tensors of a head that training adds.
const ADDED_HEAD: [&str; 2] = ["classifier.weight", "classifier.bias"];

/// All changes of an adapter, and where they are applied.
#[derive(Debug)]
pub(super) struct Targets<'a> {
    pub list: Vec<Target<'a>>,
    /// The kind of task of the head's class, where adapter or export give it.
    pub task: Option<ModelTask>,
    /// Pooling of the head that is added to the export.
    pub added_head: Option<HeadPooling>,
    /// Names of the classes that the adapter was trained with, if they are more than numbers.
    pub labels: Option<Vec<String>>,
    /// Prefix for the names in the checkpoint, so that a class with the trained head finds the base model.
    pub prefix: Option<String>,
    /// Whether the head is written to a file of its own where the checkpoint lacks it.
    pub head_apart: bool,
    /// Whether tensors of the head are appended to the checkpoint, which lacks them.
    pub appended: bool,
    /// The kind of problem that the logits solve (transformers' `problem_type`), where the adapter gives it.
    pub problem: Option<String>,
    /// For every label the probability threshold from which a text has it, where thresholds were chosen.
    pub thresholds: Option<Vec<f64>>,
    /// Width of the logits of the export, or of the added head.
    pub outputs: Option<usize>,
    pub warnings: Vec<String>,
}

/// One change, and where it is applied.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// Name of the tensor in the checkpoint; without a checkpoint, by the module.
    pub name: String,
    pub change: Change<'a>,
    /// How the factors were initialised.
    pub initialization: Initialization,
    /// Whether the checkpoint stores the matrix as `[in, out]` (GPT-2's `Conv1D`).
    pub stored_in_out: bool,
    /// The rows of the tensor that change, where the checkpoint stores several matrices as one.
    pub rows: Option<Range<usize>>,
    /// The initializers of the export that hold the tensor.
    pub places: Vec<StoredTensor>,
    /// Whether it belongs to a head that training added: a checkpoint tensor of the same name is then one of another head.
    pub added: bool,
}

impl Target<'_> {
    /// Whether it changes this tensor of the checkpoint.
    pub fn changes(&self, tensor: &TensorInfo) -> bool {
        !self.added && self.name == tensor.name
    }

    /// Whether it replaces a tensor of the checkpoint.
    pub fn is_in(&self, checkpoint: &Checkpoint) -> bool {
        !self.added && checkpoint.tensor(&self.name).is_some()
    }

    /// Name of the tensor, and its rows if it is only a part.
    pub fn place(&self) -> String {
        match &self.rows {
            Some(rows) => format!("{} [{}..{}]", self.name, rows.start, rows.end),
            None => self.name.clone(),
        }
    }

    /// Byte range of the tensor that changes.
    pub fn bytes_of(&self, tensor: &TensorInfo) -> Range<usize> {
        let length = tensor.range.len();
        match (&self.rows, tensor.shape.first()) {
            (Some(rows), Some(&all)) if all > 0 => rows.start * (length / all)..rows.end * (length / all),
            _ => 0..length,
        }
    }
}

/// The change of a tensor.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change<'a> {
    /// A product of factors is added.
    Factors(&'a LoraFactors),
    /// New values replace the old ones.
    Values(&'a SavedTensor),
}

/// The adapter under the names of the base: those of its checkpoint, or of the export where there is none.
pub(super) fn named_as_base(
    base: Base<'_>,
    model: Option<&Transformer>,
    folder: &AdapterFolder,
) -> Result<Adapter, MergeError> {
    let mut known: HashSet<String> = HashSet::new();
    match base.checkpoint {
        Some(checkpoint) => {
            known.extend(checkpoint.tensors().iter().map(|tensor| tensor.name.clone()));
            known.extend(
                checkpoint.tensors().iter().filter_map(|tensor| tensor.name.strip_suffix(".weight").map(str::to_owned)),
            );
        }
        None => {
            let layers = model.iter().flat_map(|model| model.linears());
            known.extend(layers.filter_map(|layer| layer.module.clone()));
        }
    }
    // An added head has these names, whatever the checkpoint has under them (`mask_predictions.classifier`).
    if folder.provenance.as_ref().is_some_and(|provenance| provenance.added_head.is_some()) {
        known.extend(ADDED_HEAD.map(str::to_owned));
    }
    // A head that the checkpoint lacks keeps its name, whatever wrapper prefix it has in the export.
    if let Some(head) = model.map(|model| model.head()).transpose()?.flatten() {
        let tensors = head.tensors.iter().map(|tensor| &tensor.name);
        let saved =
            folder.adapter.saved.iter().filter(|saved| tensors.clone().any(|name| saved::is_called(name, &saved.name)));
        known.extend(saved.map(|saved| saved.name.clone()));
    }
    Ok(folder.named_as(known.iter().map(String::as_str)))
}

impl<'a> Targets<'a> {
    /// Finds where every change is applied, and refuses those that do not fit.
    pub fn find(
        base: Base<'_>,
        model: &Transformer,
        adapters: &[Named<'_>],
        adapter: &'a Adapter,
    ) -> Result<Self, MergeError> {
        let layers = model.linears();
        let wanted: Vec<&LinearLayer> = layers.iter().collect();
        let matches = match base.checkpoint {
            Some(checkpoint) => match_weights(model, checkpoint, &wanted)?,
            None => vec![None; layers.len()],
        };
        let finder = Finder { base, model, layers, matches: &matches };
        for Named { path, folder, adapter } in adapters {
            finder.refuse_incomplete(path, folder, adapter)?;
            finder.refuse_changed(path, folder, adapter)?;
        }
        let leading = leading(adapters).map(|named| named.folder);
        let provenance = leading.and_then(|folder| folder.provenance.as_ref());
        let in_own_file = adapters.iter().any(|named| named.folder.head_apart);
        finder.refuse_folded(adapter)?;
        let mut warnings = finder.warnings(adapter);
        let mut list = Vec::new();
        for factors in &adapter.factors {
            list.push(finder.factors(factors, super::initialization(adapters))?);
        }
        let known = model.head()?;
        let again = known.as_ref().is_some_and(|head| head.added);
        if again && !in_own_file && adapter.saved.iter().any(|saved| ADDED_HEAD.contains(&saved.name.as_str())) {
            return finder.does_not_fit(format!(
                "the export has a head that gelora added, and the adapter claims another as its own ({TENSOR_FILE}): train it again"
            ));
        }
        let places = finder.head_places()?;
        let pooling = provenance.map(Provenance::head_pooling).transpose()?.flatten();
        for saved in &adapter.saved {
            let named = (pooling.is_some() || again) && ADDED_HEAD.contains(&saved.name.as_str());
            let added = named || in_own_file && base.claims_a_head();
            list.push(finder.saved(saved, &places, added)?);
        }
        let added = pooling.and(adapter.saved.iter().find(|saved| saved.name == ADDED_HEAD[0]));
        let outputs = match added {
            Some(weight) => weight.values.shape().first().copied(),
            None => known.and_then(|head| Some(head.linears.last()?.out_features)),
        };
        warnings.extend(finder.lacking(adapter)?);
        let added_head = pooling.filter(|_| added.is_some());
        let head_apart = added_head.is_some() || in_own_file;
        if let Some(target) = list.iter().find(|target| finder.has_another(target)) {
            warnings.push(format!(
                "the checkpoint keeps a head of its own (`{}`), which is not the one that was trained: that lies in {HEAD_FILE}",
                target.name
            ));
        }
        let of_tokens = known.is_some_and(|head| head.labels_tokens()) || added_head == Some(HeadPooling::Tokens);
        let of_tokens = of_tokens.then_some(ModelTask::TokenClassification);
        let lacks = |checkpoint: &Checkpoint| list.iter().any(|target| !target.is_in(checkpoint));
        let appended = !head_apart && base.checkpoint.is_some_and(lacks);
        let known = provenance;
        let classes = known.and_then(|known| known.labels.as_ref()).map(|_| "single_label_classification".to_owned());
        Ok(Targets {
            prefix: base.new_prefix().filter(|_| appended),
            task: leading
                .and_then(|folder| folder.config.task_type.as_deref())
                .and_then(ModelTask::of_task_type)
                .or(of_tokens),
            list,
            added_head,
            appended,
            problem: known.and_then(|known| known.problem_type.clone()).or(classes),
            thresholds: known.and_then(|known| known.thresholds.clone()),
            labels: super::labels(provenance),
            head_apart,
            outputs,
            warnings,
        })
    }

    /// The kind of task of the head.
    pub fn task(&self) -> ModelTask {
        let answers = || self.list.iter().any(|target| target.name.split('.').any(|part| part == "qa_outputs"));
        self.task.unwrap_or_else(|| match answers() {
            true => ModelTask::QuestionAnswering,
            false => ModelTask::SequenceClassification,
        })
    }

    /// Number of tensors to write, in the checkpoint and in the export.
    pub fn steps(&self) -> u64 {
        self.list.iter().map(|target| 1 + target.places.len() as u64).sum()
    }
}

impl Finder<'_> {
    fn does_not_fit<T>(&self, reason: String) -> Result<T, MergeError> {
        Err(MergeError::DoesNotFit { base: self.base.folder.into(), reason })
    }

    fn factors<'a>(&self, factors: &'a LoraFactors, initialization: Initialization) -> Result<Target<'a>, MergeError> {
        let module = &factors.module;
        let (inputs, outputs) = (factors.a.ncols(), factors.b.nrows());
        let mut places: Vec<StoredTensor> = Vec::new();
        for (layer, found) in self.layers_of(module) {
            if (layer.in_features, layer.out_features) != (inputs, outputs) {
                let found = (layer.in_features, layer.out_features);
                return self.does_not_fit(format!("`{module}` is {found:?} wide, its factors ({inputs}, {outputs})"));
            }
            self.refuse_tied(module, layer)?;
            if places.iter().all(|place| place.index != layer.weight_index) {
                places.push(StoredTensor {
                    index: layer.weight_index,
                    initializer: layer.weight.clone(),
                    transposed: layer.layout == WeightLayout::InOut,
                    of_checkpoint: found.is_some_and(|found| found.how == MatchedBy::Content),
                });
            }
        }
        if places.is_empty() {
            return self.does_not_fit(format!("the export has no linear layer `{module}`"));
        }
        let known = self.layers_of(module).find_map(|(layer, found)| Some((layer, found?)));
        let name = known.map_or_else(|| format!("{module}.weight"), |(_, found)| found.tensor.clone());
        let rows = known.and_then(|(_, found)| found.rows.clone());
        let mut stored_in_out = false;
        if let Some(checkpoint) = self.base.checkpoint {
            let Some(tensor) = checkpoint.tensor(&name) else {
                return self.does_not_fit(format!("the checkpoint has no tensor `{name}`"));
            };
            // For a square matrix only the comparison with the export shows the layout.
            let turned = known.map(|(layer, found)| (layer.layout == WeightLayout::InOut) != found.transposed);
            stored_in_out = turned.unwrap_or(false);
            if stored_in_out && initialization == Initialization::Olora {
                // PEFT decomposes the matrix as stored in the checkpoint, which does not give factors of these shapes.
                let reason = format!("`{name}` is stored as [in, out] (Conv1D), for which PEFT has no OLoRA");
                return self.does_not_fit(reason);
            }
            let expected = match &rows {
                Some(rows) if rows.len() == outputs => [tensor.shape[0], inputs],
                _ if stored_in_out => [inputs, outputs],
                _ => [outputs, inputs],
            };
            if tensor.shape != expected {
                return self.does_not_fit(format!("`{name}` has shape {:?}, not {expected:?}", tensor.shape));
            }
        }
        Ok(Target { name, change: Change::Factors(factors), initialization, stored_in_out, rows, places, added: false })
    }

    /// A weight that was also multiplied into a constant would be merged into only half of its uses: refused.
    fn refuse_folded(&self, adapter: &Adapter) -> Result<(), MergeError> {
        let blocks = self.model.blocks()?;
        let adapted = adapter.factors.iter().flat_map(|factors| self.layers_of(&factors.module));
        let nodes: HashSet<usize> = adapted.map(|(layer, _)| layer.node).collect();
        let touched = |block: usize| {
            let block = blocks.iter().find(|known| known.index == block);
            block.is_some_and(|block| block.linears.iter().any(|linear| nodes.contains(&linear.node)))
        };
        let folded = folded_products(self.model, blocks, self.base.checkpoint)?;
        match folded.into_iter().find(|found| touched(found.block)) {
            Some(found) => Err(MergeError::Folded { onnx: self.model.path().into(), found }),
            None => Ok(()),
        }
    }

    /// Refuses a tied weight: one that is also used as a lookup table, or for another tensor of the checkpoint.
    fn refuse_tied(&self, module: &str, layer: &LinearLayer) -> Result<(), MergeError> {
        let linear: HashMap<usize, &LinearLayer> = self.layers.iter().map(|layer| (layer.node, layer)).collect();
        for user in &layer.shared_with {
            let node = &self.model.graph.nodes[*user];
            let same = linear.get(user).is_some_and(|other| other.layout == layer.layout);
            if !same {
                let with = format!("node `{}` ({})", node.label(), node.op_type);
                return Err(MergeError::Tied { module: module.into(), with });
            }
        }
        Ok(())
    }

    /// The initializers of the head, by the names of their checkpoint tensors.
    fn head_places(&self) -> Result<HashMap<String, (StoredTensor, bool)>, MergeError> {
        let Some(head) = self.model.head()? else { return Ok(HashMap::new()) };
        let matches = match self.base.checkpoint {
            // A checkpoint tensor with the name of one of an added head belongs to another head.
            _ if head.added => vec![None; head.tensors.len()],
            Some(checkpoint) => match_head(self.model, checkpoint, head)?,
            None => vec![None; head.tensors.len()],
        };
        let mut places = HashMap::new();
        for (tensor, found) in head.tensors.iter().zip(matches) {
            let transposed = found.as_ref().map_or(tensor.transposed, |found| found.transposed);
            let name = found.map_or_else(|| tensor.name.clone(), |found| found.tensor);
            let place = StoredTensor {
                index: tensor.index,
                initializer: tensor.initializer.clone(),
                transposed,
                of_checkpoint: false,
            };
            places.insert(name, (place, tensor.shared));
        }
        Ok(places)
    }

    fn saved<'a>(
        &self,
        saved: &'a SavedTensor,
        places: &HashMap<String, (StoredTensor, bool)>,
        added: bool,
    ) -> Result<Target<'a>, MergeError> {
        let in_checkpoint = self.base.checkpoint.and_then(|checkpoint| checkpoint.tensor(&saved.name));
        if let Some(tensor) = in_checkpoint.filter(|_| !added)
            && tensor.shape != saved.values.shape()
        {
            let found = saved.values.shape();
            return self
                .does_not_fit(format!("`{}` has shape {:?}, the adapter's {found:?}", saved.name, tensor.shape));
        }
        let change = Change::Values(saved);
        let mut target = Target {
            name: saved.name.clone(),
            change,
            initialization: Initialization::Plain,
            stored_in_out: false,
            rows: None,
            places: vec![],
            added,
        };
        // A tensor of the head that is missing here or shared gets an initializer of its own when the export is written.
        let own = places.get(&saved.name).or_else(|| {
            let mut found = places.iter().filter(|(name, _)| saved::is_called(name, &saved.name));
            found.next().filter(|_| found.next().is_none()).map(|(_, place)| place)
        });
        match own {
            Some((place, false)) => {
                target.places.push(StoredTensor { initializer: place.initializer.clone(), ..*place })
            }
            Some((_, true)) => {}
            None if added => {}
            None => target.places = saved::places(self.base, self.model, &saved.name)?,
        }
        for place in &target.places {
            let size: usize = self.model.graph.initializers[place.index].dims.iter().product();
            if size != saved.values.len() {
                return self.does_not_fit(format!("`{}` has {size} values, not {}", saved.name, saved.values.len()));
            }
        }
        Ok(target)
    }

    /// Whether the checkpoint has a tensor of another head under the name of one that was added.
    fn has_another(&self, target: &Target) -> bool {
        target.added && self.base.checkpoint.is_some_and(|known| known.tensor(&target.name).is_some())
    }

    /// Reports what of the head exists in the export alone: a pooler that the exported model initialised, say.
    fn lacking(&self, adapter: &Adapter) -> Result<Option<String>, MergeError> {
        let (Some(checkpoint), Some(head)) = (self.base.checkpoint, self.model.head()?) else {
            return Ok(None);
        };
        let linears: Vec<&LinearLayer> = head.linears.iter().filter(|layer| !layer.quantized).collect();
        let found = match_weights(self.model, checkpoint, &linears)?;
        let unknown = linears.iter().zip(found).filter(|(_, found)| found.is_none()).map(|(layer, _)| layer);
        let trained =
            |path: &str| adapter.saved.iter().any(|saved| saved::is_called(&format!("{path}.weight"), &saved.name));
        let mut lacking = unknown.filter_map(|layer| layer.module.as_deref()).filter(|path| !trained(path));
        Ok(lacking.next().map(|path| {
            format!(
                "the export has `{path}`, which the checkpoint lacks and training left as it is: the merged checkpoint lacks it too, \
                 and transformers fills it with random values; deploy the merged export, or begin with a folder that has the \
                 exported model's own checkpoint (`save_pretrained`)"
            )
        }))
    }

    fn warnings(&self, adapter: &Adapter) -> Vec<String> {
        let adapted = |found: &&WeightMatch| adapter.factors.iter().any(|factors| factors.module == found.module());
        let by_name =
            self.matches.iter().flatten().filter(adapted).filter(|found| found.how == MatchedBy::Name).count();
        match by_name {
            0 => vec![],
            n => vec![format!(
                "{n} adapted weights of the export differ from the checkpoint's: both are merged, but they are not the same model"
            )],
        }
    }
}

/// Whether a trained tensor still has the value of the checkpoint.
pub(super) fn unchanged(checkpoint: Option<&Checkpoint>, saved: &SavedTensor) -> bool {
    let base = checkpoint.and_then(|checkpoint| checkpoint.to_f32(&saved.name).ok());
    base.is_some_and(|base| base.iter().eq(saved.values.iter()))
}

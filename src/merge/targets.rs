//! Where each change of an adapter goes: the tensor of the checkpoint and the constants of the export.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::MergeError;
use crate::adapter::{Adapter, LoraFactors, SavedTensor};
use crate::checkpoint::{
    Checkpoint, MatchedBy, ModelFolder, TensorInfo, WeightMatch, folded_products, match_head, match_weights,
};
use crate::onnx::{HeadPooling, HiddenStates, LinearLayer, Model, WeightLayout, blocks, head, linear_layers};

/// All changes and their places.
pub(super) struct Targets<'a> {
    pub list: Vec<Target<'a>>,
    /// The head that is added to the export.
    pub added_head: Option<HeadPooling>,
    /// Names of the classes that the adapter was trained on, where they say more than their numbers.
    pub labels: Option<Vec<String>>,
    pub warnings: Vec<String>,
}

/// One change and its places.
pub(super) struct Target<'a> {
    /// The tensor in the checkpoint, or by the module where there is none.
    pub name: String,
    pub change: Change<'a>,
    /// Whether the checkpoint keeps the matrix as `[in, out]` (GPT-2's `Conv1D`).
    pub stored_in_out: bool,
    /// The rows of the tensor that change, where the checkpoint stores several matrices as one.
    pub rows: Option<Range<usize>>,
    /// The initializers of the export that hold it.
    pub places: Vec<Place>,
}

impl Target<'_> {
    /// The tensor, and which rows of it.
    pub fn place(&self) -> String {
        match &self.rows {
            Some(rows) => format!("{} [{}..{}]", self.name, rows.start, rows.end),
            None => self.name.clone(),
        }
    }

    /// The bytes of the tensor that change.
    pub fn bytes_of(&self, tensor: &TensorInfo) -> Range<usize> {
        let length = tensor.range.len();
        match (&self.rows, tensor.shape.first()) {
            (Some(rows), Some(&all)) if all > 0 => rows.start * (length / all)..rows.end * (length / all),
            _ => 0..length,
        }
    }
}

/// What is done to a tensor.
#[derive(Clone, Copy)]
pub(super) enum Change<'a> {
    /// A product is added.
    Factors(&'a LoraFactors),
    /// New values take the place of the old.
    Values(&'a SavedTensor),
}

/// An initializer of the export.
pub(super) struct Place {
    pub index: usize,
    pub initializer: String,
    /// Factors: whether it is stored as `[in, out]`. Values: whether it is the transposed checkpoint tensor.
    pub transposed: bool,
}

impl<'a> Targets<'a> {
    /// Finds every place, and refuses what does not fit.
    pub fn find(
        base: &ModelFolder,
        model: &Model,
        states: &HiddenStates,
        adapter: &'a Adapter,
        pooling: Option<HeadPooling>,
    ) -> Result<Self, MergeError> {
        let layers = linear_layers(model);
        let wanted: Vec<&LinearLayer> = layers.iter().collect();
        let matches = match &base.checkpoint {
            Some(checkpoint) => match_weights(model, checkpoint, &wanted)?,
            None => vec![None; layers.len()],
        };
        let finder = Finder { base, model, layers: &layers, matches: &matches };
        finder.refuse_folded(states, adapter)?;
        let warnings = finder.warnings(adapter);
        let mut list = Vec::new();
        for factors in &adapter.factors {
            list.push(finder.factors(factors)?);
        }
        let places = finder.head_places(states)?;
        for saved in &adapter.saved {
            list.push(finder.saved(saved, &places)?);
        }
        let added_head = pooling.filter(|_| adapter.saved.iter().any(|saved| saved.name == "classifier.weight"));
        Ok(Targets { list, added_head, labels: None, warnings })
    }

    /// Tensors to write, in the checkpoint and in the export.
    pub fn steps(&self) -> u64 {
        self.list.iter().map(|target| 1 + target.places.len() as u64).sum()
    }
}

struct Finder<'b> {
    base: &'b ModelFolder,
    model: &'b Model,
    layers: &'b [LinearLayer],
    matches: &'b [Option<WeightMatch>],
}

impl Finder<'_> {
    fn does_not_fit<T>(&self, reason: String) -> Result<T, MergeError> {
        Err(MergeError::DoesNotFit { base: self.base.folder.clone(), reason })
    }

    /// The linear layers of a module, with the checkpoint's word on their names where there is one.
    fn layers_of<'s>(&'s self, module: &'s str) -> impl Iterator<Item = (&'s LinearLayer, Option<&'s WeightMatch>)> {
        let all = self.layers.iter().zip(self.matches).map(|(layer, found)| (layer, found.as_ref()));
        all.filter(move |(layer, found)| match found {
            Some(found) => found.module() == module,
            None => layer.module.as_deref().is_some_and(|path| path == module || path.ends_with(&format!(".{module}"))),
        })
    }

    fn factors<'a>(&self, factors: &'a LoraFactors) -> Result<Target<'a>, MergeError> {
        let module = &factors.module;
        let (inputs, outputs) = (factors.a.ncols(), factors.b.nrows());
        let mut places: Vec<Place> = Vec::new();
        for (layer, _) in self.layers_of(module) {
            if (layer.in_features, layer.out_features) != (inputs, outputs) {
                let found = (layer.in_features, layer.out_features);
                return self.does_not_fit(format!("`{module}` is {found:?} wide, its factors ({inputs}, {outputs})"));
            }
            self.refuse_tied(module, layer)?;
            if places.iter().all(|place| place.index != layer.weight_index) {
                places.push(Place {
                    index: layer.weight_index,
                    initializer: layer.weight.clone(),
                    transposed: layer.layout == WeightLayout::InOut,
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
        if let Some(checkpoint) = &self.base.checkpoint {
            let Some(tensor) = checkpoint.tensor(&name) else {
                return self.does_not_fit(format!("the checkpoint has no tensor `{name}`"));
            };
            // For a square matrix only the comparison with the export tells which way it lies.
            let turned = known.map(|(layer, found)| (layer.layout == WeightLayout::InOut) != found.transposed);
            stored_in_out = turned.unwrap_or(false);
            let expected = match &rows {
                Some(rows) if rows.len() == outputs => [tensor.shape[0], inputs],
                _ if stored_in_out => [inputs, outputs],
                _ => [outputs, inputs],
            };
            if tensor.shape != expected {
                return self.does_not_fit(format!("`{name}` has shape {:?}, not {expected:?}", tensor.shape));
            }
        }
        Ok(Target { name, change: Change::Factors(factors), stored_in_out, rows, places })
    }

    /// A weight that was multiplied into a constant would be merged into half of its places.
    fn refuse_folded(&self, states: &HiddenStates, adapter: &Adapter) -> Result<(), MergeError> {
        let blocks = blocks(self.model, states)?;
        let adapted = adapter.factors.iter().flat_map(|factors| self.layers_of(&factors.module));
        let nodes: HashSet<usize> = adapted.map(|(layer, _)| layer.node).collect();
        let touched = |block: usize| {
            let block = blocks.iter().find(|known| known.index == block);
            block.is_some_and(|block| block.linears.iter().any(|linear| nodes.contains(&linear.node)))
        };
        let folded = folded_products(self.model, &blocks, self.base.checkpoint.as_ref())?;
        match folded.into_iter().find(|found| touched(found.block)) {
            Some(found) => Err(MergeError::Folded { onnx: self.model.path().into(), found }),
            None => Ok(()),
        }
    }

    /// A weight that is looked up as a table, or belongs to another tensor of the checkpoint too, is tied.
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

    /// The initializers of the head by the name of their checkpoint tensor.
    fn head_places(&self, states: &HiddenStates) -> Result<HashMap<String, (Place, bool)>, MergeError> {
        let Some(head) = head(self.model, states)? else { return Ok(HashMap::new()) };
        let matches = match &self.base.checkpoint {
            Some(checkpoint) => match_head(self.model, checkpoint, &head)?,
            None => vec![None; head.tensors.len()],
        };
        let mut places = HashMap::new();
        for (tensor, found) in head.tensors.iter().zip(matches) {
            let transposed = found.as_ref().map_or(tensor.transposed, |found| found.transposed);
            let name = found.map_or_else(|| tensor.name.clone(), |found| found.tensor);
            let place = Place { index: tensor.index, initializer: tensor.initializer.clone(), transposed };
            places.insert(name, (place, tensor.shared));
        }
        Ok(places)
    }

    fn saved<'a>(
        &self,
        saved: &'a SavedTensor,
        places: &HashMap<String, (Place, bool)>,
    ) -> Result<Target<'a>, MergeError> {
        let in_checkpoint = self.base.checkpoint.as_ref().and_then(|checkpoint| checkpoint.tensor(&saved.name));
        if let Some(tensor) = in_checkpoint
            && tensor.shape != saved.values.shape()
        {
            let found = saved.values.shape();
            return self
                .does_not_fit(format!("`{}` has shape {:?}, the adapter's {found:?}", saved.name, tensor.shape));
        }
        let change = Change::Values(saved);
        let mut target = Target { name: saved.name.clone(), change, stored_in_out: false, rows: None, places: vec![] };
        // A tensor without a place here, or that shares one, gets its own when the export is written.
        if let Some((place, false)) = places.get(&saved.name) {
            let size: usize = self.model.graph.initializers[place.index].dims.iter().product();
            if size != saved.values.len() {
                return self.does_not_fit(format!("`{}` has {size} values, not {}", saved.name, saved.values.len()));
            }
            target.places.push(Place { initializer: place.initializer.clone(), ..*place });
        }
        Ok(target)
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

/// Whether a trained tensor still is what the checkpoint has.
pub(super) fn unchanged(checkpoint: Option<&Checkpoint>, saved: &SavedTensor) -> bool {
    let base = checkpoint.and_then(|checkpoint| checkpoint.to_f32(&saved.name).ok());
    base.is_some_and(|base| base.iter().eq(saved.values.iter()))
}

//! The part of a [`Learner`](super::learner::Learner) that computes: the graph with its adapters and its head, from a batch to
//! logits and gradients. Every thread that computes has one of its own, and all of them share the tensors.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::error::TrainError;
use super::head::NewHead;
use super::input::{SavedName, TrainInput};
use super::losses::Loss;
use super::parameters::flat_gradient;
use super::program::{LinearBackend, Precision, Program, ProgramOptions, Trainable, TrainableKind};
use crate::dataset::{Batch, Encoding, Padding};
use crate::rank::PlannedModule;
use crate::runtime::{Feeder, InputTensor, Tokens, filled_batch, part_of, widened};
use crate::settings::TrainSettings;
use crate::task::Lines;

/// The part of the adapter that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdapterPart {
    /// Factor A of `modules[i]`.
    A(usize),
    /// Factor B of `modules[i]`.
    B(usize),
    /// The saved tensor `saved[i]`.
    Saved(usize),
}

/// A leaf tensor with its name, and the part of the adapter that it holds.
pub(super) type Leaf = (AdapterPart, (String, Tensor));

/// The graph with its adapters and its head.
#[derive(Debug)]
pub(super) struct Body {
    program: Program,
    feeder: Feeder,
    head: Option<NewHead>,
    lines: Lines,
    /// Names of the values to compute: the logits, those of start and end for a span, or the last hidden state for a
    /// new head.
    outputs: Vec<String>,
    padding: Padding,
    device: Device,
    /// Whether the loss of a row depends on the padding beside it.
    counts_padding: bool,
}

/// Rows that are computed together, as they are given to the program.
#[derive(Debug)]
pub(super) struct Piece {
    pub rows: Vec<usize>,
    batch: Batch,
}

/// The most tokens of a row in the trial of [`Body::settle`].
const TRIAL_TOKENS: usize = 32;

impl Body {
    /// Reads the graph.
    pub fn new(
        input: &TrainInput<'_>,
        outputs: Vec<String>,
        device: Device,
        (linear, precision): (LinearBackend, Precision),
    ) -> Result<Self, TrainError> {
        // A head of our own reads real tokens only; the loss of a span covers padding too.
        let head = input.objective.head();
        let options =
            ProgramOptions { linear, precision, padding_unused: !head.counts_padding, ..ProgramOptions::default() };
        Ok(Body {
            program: Program::new(input.model, device, options)?,
            feeder: Feeder::new(&free_inputs(input), &[])?,
            head: None,
            lines: head.lines,
            outputs,
            padding: input.padding,
            device,
            counts_padding: head.counts_padding,
        })
    }

    /// The same, for another thread: all tensors are shared, and the leaves of the copy hold the same values. Call
    /// [`Body::settle`] first, so that what is decided by a trial is the same in both.
    pub fn twin(&self) -> Result<Self, TrainError> {
        Ok(Body {
            program: self.program.twin()?,
            feeder: self.feeder.clone(),
            head: self.head.as_ref().map(NewHead::twin).transpose()?,
            lines: self.lines,
            outputs: self.outputs.clone(),
            padding: self.padding,
            device: self.device,
            counts_padding: self.counts_padding,
        })
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    pub fn program_mut(&mut self) -> &mut Program {
        &mut self.program
    }

    pub fn device(&self) -> Device {
        self.device
    }

    pub fn lines(&self) -> Lines {
        self.lines
    }

    /// Sizes that the export fixes, and how batches fit them.
    pub fn feeder(&self) -> &Feeder {
        &self.feeder
    }

    /// Whether rows must be padded to the longest row of their whole batch to give the same loss as there.
    pub fn sees_padding(&self) -> bool {
        self.counts_padding || self.program.padding_matters()
    }

    /// Compiles the graph, and decides by a trial on a padded batch whether padding can be left out: with the longest row and
    /// a part of it, cut to a few tokens.
    pub fn settle(&self, encodings: &[Encoding]) -> Result<(), TrainError> {
        let Some(longest) = encodings.iter().max_by_key(|encoding| encoding.len()) else { return Ok(()) };
        let cut = |tokens: usize| Encoding {
            ids: longest.ids[..tokens].to_vec(),
            type_ids: longest.type_ids[..tokens.min(longest.type_ids.len())].to_vec(),
        };
        let tokens = longest.len().min(TRIAL_TOKENS);
        let piece = self.piece(&[cut(tokens), cut(tokens.div_ceil(2))], vec![0, 1], 0)?;
        tch::no_grad(|| self.run(&piece.batch)).map(drop)
    }

    /// Makes the head of the export trainable, or adds a new one; likewise the tensors that the method trains as a whole.
    pub fn make_head(
        &mut self,
        input: &TrainInput<'_>,
        settings: &TrainSettings,
        saved: &[SavedName],
    ) -> Result<(), TrainError> {
        // The tensors of a new head are not in the graph.
        let in_graph = || saved.iter().filter(|saved| !saved.initializer.is_empty());
        let initializers: Vec<&str> = in_graph().map(|saved| saved.initializer.as_str()).collect();
        self.program.train_whole(&initializers)?;
        in_graph().try_for_each(|saved| self.program.train_copies(&saved.initializer, &saved.copies))?;
        let Some(pooling) = settings.head else { return Ok(()) };
        let hidden = tch::no_grad(|| self.hidden_width(input.train.encodings))?;
        self.head =
            Some(NewHead::new(pooling, hidden, input.objective.head().width.unwrap_or(1), settings.seed, self.device)?);
        Ok(())
    }

    fn hidden_width(&self, encodings: &[Encoding]) -> Result<usize, TrainError> {
        let batch = self.piece(encodings, vec![0], 0)?.batch;
        let size = self.run(&batch)?.size();
        match size.as_slice() {
            &[1, length, width] if length == batch.length as i64 => Ok(width as usize),
            _ => Err(TrainError::Shape {
                value: self.outputs.join(", "),
                found: size,
                expected: "[rows, tokens, width]",
            }),
        }
    }

    /// All leaf tensors with their names, and the part of the adapter that each belongs to.
    pub fn leaves(&self, modules: &[&PlannedModule], saved: &[SavedName]) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        for Trainable { name, kind, tensor } in self.program.trainables() {
            let module = modules.iter().position(|module| module.weight == name);
            let (place, suffix) = match kind {
                TrainableKind::LoraA => (module.map(AdapterPart::A), ".lora_A"),
                TrainableKind::LoraB => (module.map(AdapterPart::B), ".lora_B"),
                TrainableKind::Whole => {
                    (saved.iter().position(|saved| saved.initializer == name).map(AdapterPart::Saved), "")
                }
            };
            leaves.extend(place.map(|place| (place, (name + suffix, tensor))));
        }
        for (name, tensor) in self.head.iter().flat_map(NewHead::trainables) {
            let place = saved.iter().position(|saved| saved.name == name).map(AdapterPart::Saved);
            leaves.extend(place.map(|place| (place, (name, tensor))));
        }
        leaves
    }

    /// The rows as one batch, padded to its longest row, to `length` or to the length that the export needs, whichever is
    /// most.
    pub fn piece(&self, encodings: &[Encoding], rows: Vec<usize>, length: usize) -> Result<Piece, TrainError> {
        let batch = self.feeder.sizes().batch(encodings, &rows, self.padding)?;
        Ok(Piece { rows, batch: widened(batch, length, self.padding) })
    }

    /// Logits of the rows, in their order: `[rows, outputs]`; for labels of tokens `[rows, length, labels]`; for spans
    /// `[rows, 2 × length]` with the starts first; for a language model `[rows, length, vocabulary]`.
    pub fn logits(&self, piece: &Piece) -> Result<Tensor, TrainError> {
        let batch = &piece.batch;
        let value = self.run(batch)?;
        let logits = match &self.head {
            None => value,
            Some(head) => {
                let shape = [batch.rows.len() as i64, batch.length as i64];
                let mask = Tensor::f_from_slice(&batch.mask)?.f_reshape(shape)?.f_to_device(self.device)?;
                head.logits(&value, &mask)?
            }
        };
        let (count, length) = (batch.rows.len() as i64, batch.length as i64);
        match (self.lines, logits.size().as_slice()) {
            (Lines::Token | Lines::Vocabulary, &[found, tokens, _]) if (found, tokens) == (count, length) => Ok(logits),
            (Lines::Row | Lines::Ends, &[found, _]) if found == count => Ok(logits),
            (lines, size) => Err(TrainError::Shape {
                value: self.outputs.join(", "),
                found: size.to_vec(),
                expected: match lines {
                    Lines::Token => "[rows, tokens, labels], one line of logits for every token",
                    Lines::Vocabulary => "[rows, tokens, vocabulary], one line of logits for every token",
                    Lines::Row | Lines::Ends => "[rows, outputs], one line of logits for every row",
                },
            }),
        }
    }

    /// Loss of the rows, **summed** over them (over their tokens for a language model), with gradients unless they are switched
    /// off.
    pub fn loss(&self, piece: &Piece, loss: &dyn Loss) -> Result<Tensor, TrainError> {
        let logits = self.logits(piece)?;
        // The loss of a language model converts a part at a time: all logits would be held twice.
        let logits = if self.lines == Lines::Vocabulary { logits } else { logits.f_to_kind(Kind::Float)? };
        loss.sum(&logits, &piece.rows)
    }

    /// The output for every row, in as many batches as the export needs.
    fn run(&self, batch: &Batch) -> Result<Tensor, TrainError> {
        let Some(most) = self.feeder.sizes().rows else { return self.run_once(batch) };
        let mut parts = Vec::new();
        for start in (0..batch.rows.len()).step_by(most.max(1)) {
            let part = part_of(batch, start..batch.rows.len().min(start + most));
            let output = self.run_once(&filled_batch(&part, most))?;
            parts.push(output.f_narrow(0, 0, part.rows.len() as i64)?);
        }
        Ok(Tensor::f_cat(&parts, 0)?)
    }

    fn run_once(&self, batch: &Batch) -> Result<Tensor, TrainError> {
        let feed = self.feeder.feed(&Tokens::from(batch));
        let mut inputs = Vec::new();
        for (name, tensor) in feed.tensors() {
            inputs.push((name, to_torch(&tensor)?.f_to_device(self.device)?));
        }
        let wanted: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        let mut outputs = self.program.run(&inputs, &wanted)?;
        if outputs.len() > 1 {
            return Ok(Tensor::f_cat(&outputs, 1)?);
        }
        outputs.pop().ok_or_else(|| TrainError::UnknownValue { name: self.outputs.join(", "), known: String::new() })
    }
}

/// A [`Body`] with its leaves, in the order of the flat vector of parameters.
#[derive(Debug)]
pub(super) struct Replica {
    body: Body,
    leaves: Vec<Tensor>,
}

/// What a piece adds to a step.
#[derive(Debug)]
pub(super) struct Part {
    /// Its gradient, as a flat vector.
    pub gradient: Tensor,
    /// Its loss, a scalar.
    pub loss: Tensor,
}

impl Part {
    /// Adds another part to this one.
    pub fn add(&mut self, other: &Part) -> Result<(), TrainError> {
        let _ = self.gradient.f_add_(&other.gradient)?;
        let _ = self.loss.f_add_(&other.loss)?;
        Ok(())
    }
}

impl Replica {
    pub fn new(body: Body, leaves: Vec<Tensor>) -> Self {
        Replica { body, leaves }
    }

    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The share of a piece in the mean loss over all that weighs `weight`, and its gradient. `seed` is that of dropout.
    pub fn part(&mut self, piece: &Piece, loss: &Arc<dyn Loss>, weight: f64, seed: i64) -> Result<Part, TrainError> {
        self.body.program.set_dropout(Some(seed));
        let loss = self.body.loss(piece, loss.as_ref())?.f_div_scalar(weight)?;
        let gradient = flat_gradient(&loss, &self.leaves)?;
        Ok(Part { gradient, loss: loss.f_detach()? })
    }

    /// Logits of a piece, as [`Body::logits`] gives them, without dropout and gradients.
    pub fn logits(&mut self, piece: &Piece) -> Result<Tensor, TrainError> {
        self.body.program.set_dropout(None);
        tch::no_grad(|| self.body.logits(piece))
    }

    /// Loss of a piece, summed, without dropout and gradients.
    pub fn loss(&mut self, piece: &Piece, loss: &dyn Loss) -> Result<Tensor, TrainError> {
        self.body.program.set_dropout(None);
        tch::no_grad(|| self.body.loss(piece, loss))
    }
}

/// The inputs of the graph that are not initializers (old exports list those too).
fn free_inputs(input: &TrainInput<'_>) -> Vec<crate::onnx::ValueInfo> {
    let graph = &input.model.graph;
    let constant = |name: &str| graph.initializers.iter().any(|tensor| tensor.name == name);
    graph.inputs.iter().filter(|value| !constant(&value.name)).cloned().collect()
}

fn to_torch(tensor: &InputTensor<'_>) -> Result<Tensor, TrainError> {
    let shape: Vec<i64> = tensor.shape().iter().map(|&size| size as i64).collect();
    let bytes = |data: &[u8], kind: Kind| Tensor::f_from_data_size(data, &shape, kind);
    Ok(match tensor {
        InputTensor::I64 { data, .. } => bytes(bytemuck::cast_slice(data), Kind::Int64)?,
        InputTensor::I32 { data, .. } => bytes(bytemuck::cast_slice(data), Kind::Int)?,
        InputTensor::F32 { data, .. } => bytes(bytemuck::cast_slice(data), Kind::Float)?,
        InputTensor::F16 { data, .. } => bytes(bytemuck::cast_slice(data), Kind::Half)?,
        InputTensor::Bool { data, .. } => {
            let data: Vec<u8> = data.iter().map(|&value| u8::from(value)).collect();
            bytes(&data, Kind::Bool)?
        }
    })
}

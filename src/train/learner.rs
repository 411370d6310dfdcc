//! The graph with its adapters and its head: from a batch to logits, from trained parameters to an [`Adapter`].

use std::collections::HashSet;

use ndarray::{Array2, ArrayD, IxDyn};
use tch::{Device, Kind, Tensor};

use super::error::TrainError;
use super::head::NewHead;
use super::input::{SavedName, TrainInput};
use super::losses::Loss;
use super::methods::{Method, Whole, method};
use super::parameters::Parameters;
use super::program::{LinearBackend, LinearChoice, Program, ProgramOptions, Trainable, TrainableKind};
use crate::adapter::{Adapter, LoraFactors, SavedTensor};
use crate::dataset::{Batch, Encoding, Padding};
use crate::rank::PlannedModule;
use crate::runtime::{Feeder, InputTensor, Tokens, filled_batch, part_of};
use crate::settings::TrainSettings;
use crate::task::Lines;

/// The part of the adapter that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AdapterPart {
    /// Factor A of `modules[i]`.
    A(usize),
    /// Factor B of `modules[i]`.
    B(usize),
    /// The saved tensor `saved[i]`.
    Saved(usize),
}

/// A program with trainable parameters.
#[derive(Debug)]
pub(super) struct Learner<'a> {
    body: Body,
    parameters: Parameters,
    places: Vec<AdapterPart>,
    modules: Vec<&'a PlannedModule>,
    saved: Vec<SavedName>,
    method: Box<dyn Method>,
    /// Names of checkpoint tensors that the method would train and the export does not hold.
    missing: Vec<String>,
}

/// The part that computes logits.
#[derive(Debug)]
struct Body {
    program: Program,
    feeder: Feeder,
    head: Option<NewHead>,
    lines: Lines,
    /// Names of the values to compute: the logits, those of start and end for a span, or the last hidden state for a
    /// new head.
    outputs: Vec<String>,
    padding: Padding,
    device: Device,
    equal_lengths: bool,
}

impl<'a> Learner<'a> {
    /// Reads the graph, inserts the planned adapters, and finds or creates the head.
    pub fn new(
        input: &TrainInput<'a>,
        settings: &TrainSettings,
        device: Device,
        linear: LinearBackend,
    ) -> Result<Self, TrainError> {
        let mut names = input.saved_names(settings.head)?;
        let method = method(settings.method);
        let adapters = method.adapters(input, settings)?;
        let modules = if adapters.is_empty() { Vec::new() } else { input.planned_modules()? };
        let of_head: HashSet<String> = names.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        let Whole { tensors, missing } = method.whole(input, &of_head)?;
        names.tensors.extend(tensors);
        // A head of our own reads real tokens only; the loss of a span covers padding too.
        let head = input.objective.head();
        let padding_unused = !head.counts_padding;
        let options = ProgramOptions { linear, padding_unused, ..ProgramOptions::default() };
        let mut program = Program::new(input.model, device, options)?;
        program.attach(adapters)?;
        let mut body = Body {
            program,
            feeder: Feeder::new(&free_inputs(input), &[])?,
            head: None,
            lines: head.lines,
            outputs: names.outputs,
            padding: input.padding,
            device,
            equal_lengths: !input.padding_is_safe,
        };
        body.make_head(input, settings, &names.tensors)?;
        let (places, leaves) = body.trainables(&modules, &names.tensors).into_iter().unzip();
        let parameters = Parameters::gather(leaves)?;
        let mut learner = Learner { body, parameters, places, modules, saved: names.tensors, method, missing };
        if let Some(initial) = input.initial {
            learner.load(initial)?;
        }
        Ok(learner)
    }

    /// Switches dropout on or off.
    pub fn set_training(&mut self, training: bool) {
        self.body.program.set_training(training);
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Names of checkpoint tensors that the method would train and the export does not hold.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Lets the method act after an optimizer step.
    pub fn after_step(&mut self, step: u64) -> Result<(), TrainError> {
        self.method.after_step(step, &mut self.parameters)
    }

    pub fn linear_choices(&self) -> Vec<LinearChoice> {
        self.body.program.linear_choices()
    }

    /// Splits rows into groups that may share a padded batch: all in one, or by length where the export ignores its mask.
    pub fn groups(&self, encodings: &[Encoding], rows: &[usize]) -> Vec<Vec<usize>> {
        if !self.body.equal_lengths {
            return vec![rows.to_vec()];
        }
        let length = |row: usize| self.body.feeder.sizes().padded_length(encodings[row].len());
        let mut sorted = rows.to_vec();
        sorted.sort_by_key(|&row| length(row));
        sorted.chunk_by(|&a, &b| length(a) == length(b)).map(<[usize]>::to_vec).collect()
    }

    /// All rows in batches of at most `budget_tokens` tokens, padding included, for a pass without gradients.
    pub fn batches(&self, encodings: &[Encoding], budget_tokens: usize) -> Vec<Vec<usize>> {
        let lengths: Vec<usize> = encodings.iter().map(Encoding::len).collect();
        let all: Vec<usize> = (0..lengths.len()).collect();
        self.body.feeder.sizes().batches(&lengths, &all, budget_tokens, self.body.equal_lengths)
    }

    /// Whether the logits of a row were found to change with the padding of its batch. Known after the first padded batch.
    pub fn padding_matters(&self) -> bool {
        self.body.program.padding_matters()
    }

    /// Loss of some rows, **summed** over them (over their tokens for a language model), with gradients unless they are
    /// switched off.
    pub fn loss(&self, encodings: &[Encoding], rows: &[usize], loss: &dyn Loss) -> Result<Tensor, TrainError> {
        let float = |logits: Tensor| logits.f_to_kind(Kind::Float);
        if self.body.lines != Lines::Vocabulary {
            return loss.sum(&float(self.logits(encodings, rows)?)?, rows);
        }
        // The logits of a large vocabulary are not restored to the order of the rows: the sum does not need it.
        let sorted = by_length(encodings, rows).into_iter().map(|place| rows[place]).collect::<Vec<_>>();
        loss.sum(&self.body.token_logits(encodings, &sorted)?, &sorted)
    }

    /// Logits of some rows, `[rows, outputs]`; for labels of tokens `[rows, length, labels]`; for spans `[rows, 2 × length]` with
    /// the starts first, with gradients unless they are switched off.
    pub fn logits(&self, encodings: &[Encoding], rows: &[usize]) -> Result<Tensor, TrainError> {
        self.body.logits(encodings, rows)
    }

    /// The adapter with these parameter values (flat).
    pub fn adapter(&self, values: &[f32]) -> Adapter {
        let parts = self.parameters.split(values);
        let find = |wanted: AdapterPart| self.places.iter().position(|place| *place == wanted).map(|at| &parts[at]);
        let matrix = |place: AdapterPart| {
            let (entry, values) = find(place)?;
            let shape = (*entry.shape.first()? as usize, *entry.shape.get(1)? as usize);
            Array2::from_shape_vec(shape, values.to_vec()).ok()
        };
        let factors = self.modules.iter().enumerate().filter_map(|(index, module)| {
            let (a, b) = (matrix(AdapterPart::A(index))?, matrix(AdapterPart::B(index))?);
            Some(LoraFactors { module: module.module.clone(), alpha: module.alpha, a, b })
        });
        let saved = self.saved.iter().enumerate().filter_map(|(index, saved)| {
            let (entry, values) = find(AdapterPart::Saved(index))?;
            let shape: Vec<usize> = entry.shape.iter().map(|&size| size as usize).collect();
            let values = ArrayD::from_shape_vec(IxDyn(&shape), values.to_vec()).ok()?;
            let values = if saved.transposed { values.t().as_standard_layout().into_owned() } else { values };
            Some(SavedTensor { name: saved.name.clone(), values })
        });
        Adapter { factors: factors.collect(), saved: saved.collect() }
    }

    /// Sets the parameters to those of an adapter, which must have all of them.
    pub fn load(&mut self, adapter: &Adapter) -> Result<(), TrainError> {
        let mut flat = Vec::with_capacity(self.parameters.len());
        for (place, entry) in self.places.iter().zip(self.parameters.entries()) {
            let values = self
                .values_in(adapter, *place)
                .ok_or_else(|| TrainError::AdapterLacks { tensor: self.name_of(*place) })?;
            let expected: Vec<usize> = entry.shape.iter().map(|&size| size as usize).collect();
            if values.shape() != expected {
                return Err(TrainError::AdapterShape {
                    tensor: self.name_of(*place),
                    found: values.shape().to_vec(),
                    expected,
                });
            }
            flat.extend(values.iter());
        }
        self.parameters.write(&flat)
    }

    fn values_in(&self, adapter: &Adapter, place: AdapterPart) -> Option<ArrayD<f32>> {
        let factors =
            |index: usize| adapter.factors.iter().find(|factors| factors.module == self.modules[index].module);
        match place {
            AdapterPart::A(index) => factors(index).map(|factors| factors.a.clone().into_dyn()),
            AdapterPart::B(index) => factors(index).map(|factors| factors.b.clone().into_dyn()),
            AdapterPart::Saved(index) => {
                let saved = &self.saved[index];
                let found = adapter.saved.iter().find(|tensor| tensor.name == saved.name)?;
                Some(if saved.transposed { found.values.t().to_owned() } else { found.values.clone() })
            }
        }
    }

    fn name_of(&self, place: AdapterPart) -> String {
        match place {
            AdapterPart::A(index) => format!("{}.lora_A.weight", self.modules[index].module),
            AdapterPart::B(index) => format!("{}.lora_B.weight", self.modules[index].module),
            AdapterPart::Saved(index) => self.saved[index].name.clone(),
        }
    }
}

impl Body {
    /// Makes the head of the export trainable, or adds a new one; likewise the tensors that the method trains as a whole.
    fn make_head(
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
        let batch = self.batch(encodings, &[0])?;
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
    fn trainables(&self, modules: &[&PlannedModule], saved: &[SavedName]) -> Vec<(AdapterPart, (String, Tensor))> {
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

    fn logits(&self, encodings: &[Encoding], rows: &[usize]) -> Result<Tensor, TrainError> {
        let order = by_length(encodings, rows);
        let sorted: Vec<usize> = order.iter().map(|&place| rows[place]).collect();
        let logits = self.logits_in_order(encodings, &sorted)?;
        let mut places = vec![0i64; order.len()];
        for (now, &before) in order.iter().enumerate() {
            places[before] = now as i64;
        }
        Ok(logits.f_index_select(0, &Tensor::f_from_slice(&places)?.f_to_device(self.device)?)?)
    }

    fn logits_in_order(&self, encodings: &[Encoding], rows: &[usize]) -> Result<Tensor, TrainError> {
        let batch = self.batch(encodings, rows)?;
        let value = self.run(&batch)?;
        let logits = match &self.head {
            None => value,
            Some(head) => {
                let shape = [batch.rows.len() as i64, batch.length as i64];
                let mask = Tensor::f_from_slice(&batch.mask)?.f_reshape(shape)?.f_to_device(self.device)?;
                head.logits(&value, &mask)?
            }
        };
        let (count, length) = (rows.len() as i64, batch.length as i64);
        match (self.lines, logits.size().as_slice()) {
            (Lines::Token, &[found, tokens, _]) if (found, tokens) == (count, length) => Ok(logits),
            (Lines::Row | Lines::Ends, &[found, _]) if found == count => Ok(logits),
            (lines, size) => Err(TrainError::Shape {
                value: self.outputs.join(", "),
                found: size.to_vec(),
                expected: match lines {
                    Lines::Token => "[rows, tokens, labels], one line of logits for every token",
                    _ => "[rows, outputs], one line of logits for every row",
                },
            }),
        }
    }

    /// Logits of a language model, `[rows, tokens, vocabulary]`, in the order of the rows.
    fn token_logits(&self, encodings: &[Encoding], rows: &[usize]) -> Result<Tensor, TrainError> {
        let batch = self.batch(encodings, rows)?;
        let logits = self.run(&batch)?;
        match *logits.size().as_slice() {
            [count, length, _] if (count, length) == (rows.len() as i64, batch.length as i64) => Ok(logits),
            ref size => Err(TrainError::Shape {
                value: self.outputs.join(", "),
                found: size.to_vec(),
                expected: "[rows, tokens, vocabulary], one line of logits for every token",
            }),
        }
    }

    /// The rows as one batch, padded to the length that the export needs.
    fn batch(&self, encodings: &[Encoding], rows: &[usize]) -> Result<Batch, TrainError> {
        Ok(self.feeder.sizes().batch(encodings, rows, self.padding)?)
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

/// Indices of the rows, sorted by length. With rows of similar length side by side, attention has less padding to process.
fn by_length(encodings: &[Encoding], rows: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&place| encodings[rows[place]].len());
    order
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

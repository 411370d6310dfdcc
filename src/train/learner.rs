//! The program with trainable parameters: gradients and logits of batches, computed piece by piece, and from trained parameters to
//! an [`Adapter`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ndarray::{Array2, ArrayD, IxDyn};
use tch::{Device, Tensor};

use super::body::{AdapterPart, Body, Part, Piece, Replica};
use super::error::TrainError;
use super::input::{SavedName, TrainInput};
use super::losses::Loss;
use super::methods::{Method, Whole, method};
use super::parameters::Parameters;
use super::pieces::pieces;
use super::program::{LinearBackend, LinearChoice, Precision};
use super::workers::Workers;
use crate::adapter::{Adapter, LoraFactors, SavedTensor};
use crate::dataset::Encoding;
use crate::rank::PlannedModule;
use crate::settings::TrainSettings;
use crate::task::Lines;

/// Working time after which the share of the cores says something.
const LONG_ENOUGH: Duration = Duration::from_secs(20);

/// A program with trainable parameters.
#[derive(Debug)]
pub(super) struct Learner<'a> {
    replica: Replica,
    /// Other threads with the same program; without them, pieces are computed one after the other.
    workers: Option<Workers>,
    parameters: Parameters,
    places: Vec<AdapterPart>,
    modules: Vec<&'a PlannedModule>,
    saved: Vec<SavedName>,
    method: Box<dyn Method>,
    /// Names of checkpoint tensors that the method would train and the export does not hold.
    missing: Vec<String>,
    equal_lengths: bool,
}

impl<'a> Learner<'a> {
    /// Reads the graph, inserts the planned adapters, and finds or creates the head.
    pub fn new(
        input: &TrainInput<'a>,
        settings: &TrainSettings,
        device: Device,
        kernels: (LinearBackend, Precision),
    ) -> Result<Self, TrainError> {
        let mut names = input.saved_names(settings.head)?;
        let method = method(settings.method);
        let adapters = method.adapters(input, settings)?;
        let modules = if adapters.is_empty() { Vec::new() } else { input.planned_modules()? };
        let of_head: HashSet<String> = names.tensors.iter().map(|tensor| tensor.name.clone()).collect();
        let Whole { tensors, missing } = method.whole(input, &of_head)?;
        names.tensors.extend(tensors);
        let mut body = Body::new(input, names.outputs, device, kernels)?;
        body.program_mut().attach(adapters)?;
        body.make_head(input, settings, &names.tensors)?;
        let (places, leaves): (_, Vec<_>) = body.leaves(&modules, &names.tensors).into_iter().unzip();
        let own = leaves.iter().map(|(_, leaf)| leaf.shallow_clone()).collect();
        let mut learner = Learner {
            replica: Replica::new(body, own),
            workers: None,
            parameters: Parameters::gather(leaves)?,
            places,
            modules,
            saved: names.tensors,
            method,
            missing,
            equal_lengths: !input.padding_is_safe,
        };
        if let Some(initial) = input.initial {
            learner.load(initial)?;
        }
        Ok(learner)
    }

    /// Decides by a trial what is decided by one, and starts `threads` threads where that is more than one and the device is the
    /// CPU. The result does not depend on their number.
    pub fn start(&mut self, encodings: &[Encoding], threads: usize) -> Result<(), TrainError> {
        if self.body().device() == Device::Cpu {
            // Before the trial: what is faster with one thread is what counts.
            tch::set_num_threads(1);
        }
        self.body().settle(encodings)?;
        if self.body().device() != Device::Cpu || threads < 2 {
            return Ok(());
        }
        let replica = |_| {
            let body = self.body().twin()?;
            let leaves = body.leaves(&self.modules, &self.saved).into_iter().map(|(_, (_, leaf))| leaf).collect();
            Ok(Replica::new(body, leaves))
        };
        let replicas = (0..threads).map(replica).collect::<Result<Vec<_>, TrainError>>()?;
        self.workers = Some(Workers::start(replicas)?);
        Ok(())
    }

    /// The share of their working time for which the threads had a core, once they have worked long enough to tell.
    pub fn share_of_cores(&self) -> Option<f64> {
        self.workers.as_ref()?.share_of_cores(LONG_ENOUGH)
    }

    fn body(&self) -> &Body {
        self.replica.body()
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
        self.body().program().linear_choices()
    }

    /// Splits rows into groups that may share a padded batch: all in one, or by length where the export ignores its mask.
    fn groups(&self, encodings: &[Encoding], rows: &[usize]) -> Vec<Vec<usize>> {
        let length = |row: usize| self.body().feeder().sizes().padded_length(encodings[row].len());
        let mut sorted = rows.to_vec();
        // Side by side with rows of similar length, attention has less padding to process.
        sorted.sort_by_key(|&row| encodings[row].len());
        if !self.equal_lengths {
            return vec![sorted];
        }
        sorted.chunk_by(|&a, &b| length(a) == length(b)).map(<[usize]>::to_vec).collect()
    }

    /// The rows of a batch in pieces, sorted by length. With `same_length`, all are padded to the longest row.
    fn pieces(&self, encodings: &[Encoding], rows: &[usize], same_length: bool) -> Result<Vec<Piece>, TrainError> {
        let body = self.body();
        let mut made = Vec::new();
        for group in self.groups(encodings, rows) {
            let lengths: Vec<usize> = group.iter().map(|&row| encodings[row].len()).collect();
            let longest = lengths.last().copied().unwrap_or(0);
            let length = if same_length || body.sees_padding() { longest } else { 0 };
            let stretches = match body.feeder().sizes().rows {
                _ if body.device() != Device::Cpu => std::iter::once(0..group.len()).collect(),
                Some(most) => (0..group.len()).step_by(most.max(1)).map(|at| at..group.len().min(at + most)).collect(),
                None => pieces(&lengths, self.parameters.len()),
            };
            for stretch in stretches {
                made.push(body.piece(encodings, group[stretch].to_vec(), length)?);
            }
        }
        Ok(made)
    }

    /// All rows in batches of at most `budget_tokens` tokens, padding included, for a pass without gradients.
    pub fn batches(&self, encodings: &[Encoding], budget_tokens: usize) -> Vec<Vec<usize>> {
        let lengths: Vec<usize> = encodings.iter().map(Encoding::len).collect();
        let all: Vec<usize> = (0..lengths.len()).collect();
        self.body().feeder().sizes().batches(&lengths, &all, budget_tokens, self.equal_lengths)
    }

    /// Whether the logits of a row were found to change with the padding of its batch. Known after [`Learner::start`].
    pub fn padding_matters(&self) -> bool {
        self.body().program().padding_matters()
    }

    /// Mean loss over the rows of some batches, a scalar, and its gradient, as a flat vector. `weight` is the denominator of the
    /// mean; `seed` gives the seed of dropout for the number of a piece.
    pub fn gradient(
        &mut self,
        encodings: &[Encoding],
        batches: &[Vec<usize>],
        (loss, weight): (&Arc<dyn Loss>, f64),
        seed: impl Fn(u64) -> i64,
    ) -> Result<Option<Part>, TrainError> {
        let mut all = Vec::new();
        for batch in batches {
            all.extend(self.pieces(encodings, batch, false)?);
        }
        let items = all.into_iter().enumerate().map(|(number, piece)| (piece, seed(number as u64))).collect();
        let loss = Arc::clone(loss);
        let part = move |replica: &mut Replica, (piece, seed)| replica.part(&piece, &loss, weight, seed);
        let mut sum: Option<Part> = None;
        self.compute(items, part, |part| {
            match &mut sum {
                None => sum = Some(part),
                Some(sum) => sum.add(&part)?,
            }
            Ok(())
        })?;
        Ok(sum)
    }

    /// Loss of some rows, **summed** over them (over their tokens for a language model), without gradients.
    pub fn loss(&mut self, encodings: &[Encoding], rows: &[usize], loss: &Arc<dyn Loss>) -> Result<f64, TrainError> {
        let pieces = self.pieces(encodings, rows, false)?;
        let loss = Arc::clone(loss);
        let mut sum = 0.0;
        let one = move |replica: &mut Replica, piece: Piece| replica.loss(&piece, loss.as_ref());
        self.compute(pieces, one, |part| {
            sum += part.f_to_kind(tch::Kind::Double)?.f_double_value(&[])?;
            Ok(())
        })?;
        Ok(sum)
    }

    /// Logits of some rows without gradients, `[rows, outputs]`; for labels of tokens `[rows, length, labels]`; for spans
    /// `[rows, 2 × length]` with the starts first.
    pub fn logits(&mut self, encodings: &[Encoding], rows: &[usize]) -> Result<Tensor, TrainError> {
        let pieces = self.pieces(encodings, rows, self.body().lines() != Lines::Row)?;
        let order: Vec<usize> = pieces.iter().flat_map(|piece| piece.rows.iter().copied()).collect();
        let mut parts = Vec::with_capacity(pieces.len());
        self.compute(
            pieces,
            |replica, piece| replica.logits(&piece),
            |part| {
                parts.push(part);
                Ok(())
            },
        )?;
        let place = |row: &usize| order.iter().position(|other| other == row).map_or(-1, |place| place as i64);
        let places = Tensor::f_from_slice(&rows.iter().map(place).collect::<Vec<_>>())?;
        Ok(Tensor::f_cat(&parts, 0)?.f_index_select(0, &places.f_to_device(self.body().device())?)?)
    }

    /// Computes all items, on the threads where there are any, and gives the results to `take` in their order.
    fn compute<I: Send + 'static, T: Send + 'static>(
        &mut self,
        items: Vec<I>,
        compute: impl Fn(&mut Replica, I) -> Result<T, TrainError> + Clone + Send + 'static,
        mut take: impl FnMut(T) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        match &self.workers {
            Some(workers) => workers.run(items, compute, take),
            None => items.into_iter().try_for_each(|item| take(compute(&mut self.replica, item)?)),
        }
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
            Some(LoraFactors { module: module.module.clone(), alpha: module.alpha, a, b, magnitude: None })
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

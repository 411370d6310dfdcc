//! One export: structure, hidden states, logits and gradients, and the merge of PEFT's adapter.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gelora::checkpoint::{
    self, ModelFolder, Parts, folded_products, match_weights, structure as structure_of, with_own_head,
};
use gelora::dataset::Positions;
use gelora::merge::{MergeSettings, merge};
use gelora::onnx::{HeadTensor, LinearLayer, Model, Transformer, expose};
use gelora::progress::Silent;
use gelora::rank::{BlockToAdapt, Layers, ModuleToAdapt};
use gelora::runtime::{Device, Feeder, InferenceSession, Library, SessionSettings, Tokens};
use gelora::train::{AdapterSpec, Program, ProgramOptions, TrainableKind};
use tch::{Kind, Tensor};

use crate::program::{inputs_of, read, relative_difference};

/// Largest relative difference that rounding explains in float32.
const FLOAT32: f64 = 1e-4;
const HALF: f64 = 2e-2;
/// The same where 8-bit integers encode the weights: how far the states are off is not gelora's doing.
const INTEGER: f64 = 0.2;

pub struct Fixture {
    folder: PathBuf,
    pub name: String,
}

/// Reference values of a fixture.
struct Reference {
    tensors: BTreeMap<String, Tensor>,
    layers: usize,
    modules: BTreeSet<String>,
}

impl Fixture {
    /// `None` where the form does not exist for the family.
    pub fn open(folder: &Path, name: String) -> Option<Self> {
        folder.exists().then(|| Fixture { folder: folder.into(), name })
    }

    pub fn form(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }

    fn tolerance(&self) -> f64 {
        match self.form() {
            "float16" | "float16-base" | "float16-inside" | "bfloat16" => HALF,
            "int8" => INTEGER,
            _ => FLOAT32,
        }
    }

    fn reference(&self) -> Reference {
        let (tensors, metadata) = read(&self.folder.join("reference.safetensors"));
        let layers = metadata["layers"].parse().expect("a number");
        Reference { tensors, layers, modules: metadata["modules"].lines().map(str::to_owned).collect() }
    }
}

/// The outcome of one step.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Correct; the difference from the reference.
    Right(f64),
    /// Refused, with the reason.
    Refused(String),
    /// Not refused, and incorrect; the reason.
    Wrong(String),
}

impl Verdict {
    fn of(result: Result<f64, Verdict>, tolerance: f64) -> Self {
        match result {
            Ok(difference) if difference <= tolerance => Verdict::Right(difference),
            Ok(difference) => Verdict::Wrong(format!("{difference:.1e} from the reference")),
            Err(verdict) => verdict,
        }
    }
}

fn refused(error: &impl std::fmt::Display) -> Verdict {
    Verdict::Refused(error.to_string())
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Right(difference) => write!(formatter, "{difference:.0e}"),
            Verdict::Refused(reason) => write!(formatter, "refused: {reason:.110}"),
            Verdict::Wrong(reason) => write!(formatter, "WRONG: {reason}"),
        }
    }
}

/// The outcome for one fixture.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub plans: Verdict,
    pub trains: Verdict,
    pub merges: Verdict,
    tolerance: f64,
}

impl Outcome {
    fn nothing(verdict: Verdict) -> Self {
        Outcome { plans: verdict.clone(), trains: verdict.clone(), merges: verdict, tolerance: 0.0 }
    }

    /// Adds the results of transformers and ONNX Runtime for the merged model.
    pub fn merged(&mut self, differences: Option<&[f64]>) {
        let largest = differences.map(|differences| differences.iter().copied().fold(0.0, f64::max));
        self.merges = match largest {
            Some(largest) => Verdict::of(Ok(largest), self.tolerance),
            None => Verdict::Refused("ONNX Runtime cannot run the export on a CPU".into()),
        };
    }

    /// What is wrong, if anything.
    pub fn wrong(&self) -> Option<String> {
        let steps = [("plan", &self.plans), ("training", &self.trains), ("merge", &self.merges)];
        steps.into_iter().find_map(|(step, verdict)| match verdict {
            Verdict::Wrong(reason) => Some(format!("{step}: {reason}")),
            _ => None,
        })
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "plan {} | training {} | merge {}", self.plans, self.trains, self.merges)
    }
}

/// Examines a fixture; the merged folder is written to `out`.
pub fn examine(library: &Library, fixture: &Fixture, out: &Path) -> Outcome {
    if let Ok(reason) = std::fs::read_to_string(fixture.folder.join("failed.txt")) {
        return Outcome::nothing(Verdict::Refused(format!("the exporter fails: {reason}")));
    }
    let model = match Transformer::open(fixture.folder.join("model.onnx")) {
        Ok(model) => model,
        Err(error) => return Outcome::nothing(refused(&error)),
    };
    if fixture.folder.join("refused.txt").exists() {
        let verdict = match agreed(fixture, &model) {
            Ok(_) => Verdict::Wrong("it is planned for".into()),
            Err(verdict) => verdict,
        };
        return Outcome::nothing(verdict);
    }
    let reference = fixture.reference();
    let blocks = match structure(fixture, &model, &reference) {
        Ok(found) => found,
        Err(verdict) => return Outcome::nothing(verdict),
    };
    let tolerance = fixture.tolerance();
    let folder = ModelFolder::open(&fixture.folder).expect("it was opened before");
    let bare = model.blocks().expect("it was done before");
    let folded = folded_products(&model, bare, folder.checkpoint.as_ref()).expect("readable").into_iter().next();
    let merges = if fixture.folder.join("adapter").exists() {
        match merge(&folder, &fixture.folder.join("adapter"), out, &MergeSettings::default(), &Silent) {
            Ok(_) => Verdict::Wrong("the merged model was not checked".into()),
            Err(error) => refused(&error),
        }
    } else {
        Verdict::Refused("the weights are integers".into())
    };
    Outcome {
        plans: Verdict::of(states_differ(library, &model, &reference), tolerance),
        // The check that training begins with.
        trains: match folded {
            Some(folded) => refused(&folded),
            None => Verdict::of(trains(fixture, &model, &blocks, &reference, tolerance), tolerance),
        },
        merges,
        tolerance,
    }
}

fn structure(fixture: &Fixture, model: &Transformer, reference: &Reference) -> Result<Vec<BlockToAdapt>, Verdict> {
    let blocks = agreed(fixture, model)?;
    if blocks.len() != reference.layers {
        return Err(Verdict::Wrong(format!("{} blocks instead of {}", blocks.len(), reference.layers)));
    }
    let modules = || blocks.iter().flat_map(|block| &block.modules);
    if let Some(unknown) = modules().find(|module| module.checkpoint_tensor.is_none()) {
        return Err(Verdict::Wrong(format!("`{}` is no tensor of the checkpoint", unknown.weight)));
    }
    let found: BTreeSet<String> = modules().map(|module| module.module.clone()).collect();
    if found != reference.modules {
        let missing: Vec<&String> = reference.modules.difference(&found).collect();
        let surplus: Vec<&String> = found.difference(&reference.modules).collect();
        return Err(Verdict::Wrong(format!("weights missing: {missing:?}, not expected: {surplus:?}")));
    }
    Ok(blocks)
}

/// The blocks of an export that a plan uses: where graph, checkpoint and configuration agree on them.
fn agreed(fixture: &Fixture, model: &Transformer) -> Result<Vec<BlockToAdapt>, Verdict> {
    let blocks = model.blocks().map_err(|error| refused(&error))?;
    let folder = ModelFolder::open(&fixture.folder).map_err(|error| refused(&error))?;
    let checkpoint = folder.checkpoint.as_ref().expect("the script wrote one");
    let linears = model.linears();
    let wanted: Vec<&LinearLayer> = linears.iter().collect();
    let matches = match_weights(model, checkpoint, &wanted).map_err(|error| refused(&error))?;
    let parts =
        Parts::new(model, &matches, Some(checkpoint), folder.config.as_ref()).map_err(|error| refused(&error))?;
    let found = structure_of(&parts).map_err(|error| refused(&error))?;
    if let Some(obstacle) = found.obstacles.into_iter().next() {
        return Err(Verdict::Refused(obstacle));
    }
    if !found.notes.is_empty() {
        println!("{}: {}", fixture.name, found.notes.join("; "));
    }
    let first_copies = model.first_copies().map_err(|error| refused(&error))?;
    Ok(BlockToAdapt::all(blocks, Layers { linears, matches: &matches, first_copies }))
}

/// Largest difference from the hidden states of transformers at real tokens, relative to the largest value. Where the
/// hidden states are inner values, the exposed copy is run.
fn states_differ(library: &Library, model: &Transformer, reference: &Reference) -> Result<f64, Verdict> {
    let states = model.states().map_err(|error| refused(&error))?;
    let names: Vec<String> = (0..states.values.len()).map(|index| format!("hidden_states.{index}")).collect();
    let bytes = if names == states.values {
        model.file_bytes().to_vec()
    } else {
        expose(model, states).and_then(|edit| edit.apply_to_bytes(model)).map_err(|error| refused(&error))?
    };
    let settings = SessionSettings { device: Device::Cpu, threads: Some(1), ..Default::default() };
    let folder = model.path().parent().unwrap_or(Path::new("."));
    let mut session =
        InferenceSession::from_bytes(library, &bytes, folder, &settings).map_err(|error| refused(&error))?;
    let feeder = Feeder::new(session.inputs(), &[]).map_err(|error| refused(&error))?;
    let mut largest = 0f64;
    for case in ["0", "1"] {
        let values = |name: &str| -> Vec<i64> {
            let tensor = reference.tensors.get(&format!("{case}.in.{name}"));
            tensor.map_or_else(Vec::new, |tensor| Vec::try_from(tensor.reshape([-1])).expect("integers"))
        };
        let size = reference.tensors[&format!("{case}.in.input_ids")].size();
        let (ids, mask, types) = (values("input_ids"), values("attention_mask"), values("token_type_ids"));
        let (rows, length) = (size[0] as usize, size[1] as usize);
        let positions = Positions::FromZero;
        let feed = feeder.feed(&Tokens { rows, length, ids: &ids, mask: &mask, type_ids: &types, positions });
        let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        let found = session.run(&feed.tensors(), &wanted).map_err(|error| refused(&error))?;
        let real = reference.tensors[&format!("{case}.in.attention_mask")].to_kind(Kind::Bool);
        for (index, array) in found.iter().enumerate() {
            let shape: Vec<i64> = array.shape().iter().map(|d| *d as i64).collect();
            let array = Tensor::from_slice(array.as_slice().expect("row-major")).reshape(&shape);
            let expected = &reference.tensors[&format!("{case}.state.{index}")];
            if expected.size() != shape {
                let expected = expected.size();
                return Err(Verdict::Wrong(format!("hidden state {index} is {shape:?}, not {expected:?}")));
            }
            let at_tokens = |tensor: &Tensor| tensor.index(&[Some(&real)]);
            largest = largest.max(relative_difference(&at_tokens(&array), &at_tokens(expected)));
        }
    }
    Ok(largest)
}

/// Largest relative difference of the libtorch program from ONNX Runtime's outputs, and of gradients from PEFT's: those of the
/// adapters, and of the head that is trained with them.
fn trains(
    fixture: &Fixture,
    model: &Model,
    blocks: &[BlockToAdapt],
    reference: &Reference,
    tolerance: f64,
) -> Result<f64, Verdict> {
    let device = tch::Device::Cpu;
    let (trained, head) = trained_head(fixture)?;
    let mut program = Program::new(&trained, device, ProgramOptions::default()).map_err(|error| refused(&error))?;
    let mut largest = 0f64;
    // Where ONNX Runtime has no kernels the reference is transformers in float32, and twice what half precision loses there,
    // or in the ONNX project's interpreter, is allowed.
    let lost = |what: &str| reference.tensors.get(what).map_or(0.0, |lost| lost.double_value(&[]));
    let within = |difference: f64, lost: f64| if difference <= 2.0 * lost { 0.0 } else { difference };
    for case in ["0", "1"] {
        for output in ["logits", "last_hidden_state"] {
            let Some(expected) = reference.tensors.get(&format!("{case}.out.{output}")) else { continue };
            let found = tch::no_grad(|| program.run(&given(model, reference, case), &[output]));
            let found = found.map_err(|error| refused(&error))?.remove(0).to_kind(Kind::Float);
            let difference =
                relative_difference(&at_tokens(&found, reference, case), &at_tokens(expected, reference, case));
            largest = largest.max(within(difference, lost("output.rounding")));
        }
    }
    // A weight that several blocks share is listed in each of them.
    let modules: BTreeMap<&str, &ModuleToAdapt> =
        blocks.iter().flat_map(|block| &block.modules).map(|module| (module.weight.as_str(), module)).collect();
    let adapters = modules.values().map(|module| AdapterSpec {
        weight: module.weight.clone(),
        copies: module.copies.clone(),
        alpha: 9.0,
        dropout: 0.0,
        a: reference.tensors[&format!("value.{}.lora_A.weight", module.module)].shallow_clone(),
        b: reference.tensors[&format!("value.{}.lora_B.weight", module.module)].shallow_clone(),
    });
    program.attach(adapters.collect()).map_err(|error| refused(&error))?;
    let whole: Vec<&str> = head.iter().map(|tensor| tensor.initializer.as_str()).collect();
    program.train_whole(&whole).map_err(|error| refused(&error))?;
    let output = if model.graph.outputs.iter().any(|o| o.name == "logits") { "logits" } else { "last_hidden_state" };
    let answers = program.run(&given(model, reference, "0"), &[output]).map_err(|error| refused(&error))?.remove(0);
    let answers = answers.to_kind(Kind::Float);
    let expected = at_tokens(&reference.tensors["peft.logits"], reference, "0");
    let difference = relative_difference(&at_tokens(&answers, reference, "0"), &expected);
    // They pass through the export like the outputs without an adapter, and through PEFT's model.
    largest = largest.max(within(difference, lost("peft.logits_rounding").max(lost("output.rounding"))));
    let chosen = if answers.dim() == 3 {
        let last = reference.tensors["0.in.attention_mask"].sum_dim_intlist(1i64, false, Kind::Int64) - 1;
        let rows = Tensor::arange(answers.size()[0], (Kind::Int64, device));
        answers.index(&[Some(&rows), Some(&last)])
    } else {
        answers
    };
    // In half precision, gradients may differ from those in float32 by at most twice as much as PEFT's own.
    let gradient_tolerance = tolerance.max(2.0 * lost("peft.rounding"));
    chosen.cross_entropy_for_logits(&reference.tensors["labels"]).backward();
    for trainable in program.trainables() {
        let factor = if trainable.kind == TrainableKind::LoraA { "A" } else { "B" };
        let mut gradient = trainable.tensor.grad();
        let name = match head.iter().find(|tensor| tensor.initializer == trainable.name) {
            Some(tensor) if trainable.kind == TrainableKind::Whole => {
                if tensor.transposed && gradient.defined() {
                    gradient = gradient.transpose(0, 1);
                }
                format!("gradient.{}", tensor.name)
            }
            _ => format!("gradient.{}.lora_{factor}.weight", modules[trainable.name.as_str()].module),
        };
        if !gradient.defined() {
            return Err(Verdict::Wrong(format!("{name}: there is none")));
        }
        let difference = relative_difference(&gradient, &reference.tensors[&name]);
        if difference > gradient_tolerance {
            return Err(Verdict::Wrong(format!("{name}: {difference:.1e} from PEFT's")));
        }
        if difference <= tolerance {
            largest = largest.max(difference);
        }
    }
    Ok(largest)
}

/// Of outputs with a position for every token, those at real tokens: values at padding are never used, and may overflow
/// in half precision.
fn at_tokens(output: &Tensor, reference: &Reference, case: &str) -> Tensor {
    let real = &reference.tensors[&format!("{case}.in.attention_mask")];
    match output.dim() == 3 && output.size()[..2] == real.size()[..] {
        true => output.index(&[Some(&real.to_kind(Kind::Bool))]),
        false => output.shallow_clone(),
    }
}

/// The export as it is trained, with a place of its own for every tensor of the head, and these tensors under the names of the
/// checkpoint.
fn trained_head(fixture: &Fixture) -> Result<(Transformer, Vec<HeadTensor>), Verdict> {
    let folder = ModelFolder::open(&fixture.folder).map_err(|error| refused(&error))?;
    let model = Transformer::open(&folder.onnx).map_err(|error| refused(&error))?;
    let checkpoint = folder.checkpoint.expect("the script wrote one");
    let model = with_own_head(model, &checkpoint).map_err(|error| refused(&error))?;
    let mut tensors = Vec::new();
    let Some(head) = model.head().map_err(|error| refused(&error))? else { return Ok((model, tensors)) };
    let trained = checkpoint::trained_head(&model, Some(&checkpoint), folder.config.as_ref(), head);
    for (tensor, found) in trained.map_err(|error| refused(&error))? {
        let mut tensor = tensor.clone();
        let Some(found) = found else {
            return Err(Verdict::Wrong(format!("`{}` of the head is no tensor of the checkpoint", tensor.name)));
        };
        (tensor.name, tensor.transposed) = (found.tensor, found.transposed);
        tensors.push(tensor);
    }
    Ok((model, tensors))
}

/// The inputs of a case, and empty past keys and values where the export needs them.
fn given<'a>(model: &'a Model, reference: &'a Reference, case: &str) -> Vec<(&'a str, Tensor)> {
    let mut inputs = inputs_of(&reference.tensors, case);
    let rows = reference.tensors[&format!("{case}.in.input_ids")].size()[0] as usize;
    let feeder = Feeder::new(&model.graph.inputs, &["input_ids", "attention_mask", "token_type_ids", "position_ids"]);
    let positions = Positions::FromZero;
    let none = Tokens { rows, length: 0, ids: &[], mask: &[], type_ids: &[], positions };
    let feed = feeder.expect("known inputs").feed(&none);
    let kind = |name: &str| match model.graph.inputs.iter().find(|input| input.name == name).and_then(|i| i.data_type) {
        Some(gelora::onnx::DataType::Float16) => Kind::Half,
        _ => Kind::Float,
    };
    for (name, tensor) in feed.tensors() {
        let shape: Vec<i64> = tensor.shape().iter().map(|d| *d as i64).collect();
        let known = model.graph.inputs.iter().find(|input| input.name == name).expect("it was asked for");
        inputs.push((&known.name, Tensor::zeros(&shape, (kind(name), tch::Device::Cpu))));
    }
    inputs
}

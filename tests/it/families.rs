//! Exports of many families in many forms: what gelora finds in them, and whether it computes what transformers, ONNX Runtime
//! and PEFT compute. The table of the results is `docs/exports.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gelora::checkpoint::{ModelFolder, match_weights};
use gelora::onnx::{HiddenStates, LinearLayer, Model, blocks, expose, first_copies, linear_layers};
use gelora::rank::{BlockToAdapt, Layers, ModuleToAdapt};
use gelora::runtime::{Device, Feeder, Library, Session, SessionSettings, Tokens};
use gelora::train::{AdapterSpec, Program, ProgramOptions, TrainableKind};
use tch::{Kind, Tensor};

use crate::program::{inputs_of, read, relative_difference};
use crate::runtime::library;

/// Reference values of a fixture.
struct Reference {
    tensors: BTreeMap<String, Tensor>,
    layers: usize,
    modules: BTreeSet<String>,
}

struct Fixture {
    folder: PathBuf,
    name: String,
}

impl Fixture {
    fn reference(&self) -> Reference {
        let (tensors, metadata) = read(&self.folder.join("reference.safetensors"));
        let layers = metadata["layers"].parse().expect("a number");
        Reference { tensors, layers, modules: metadata["modules"].lines().map(str::to_owned).collect() }
    }
}

/// What came of one fixture; an error is the reason why not.
#[derive(Debug)]
struct Outcome {
    name: String,
    structure: Result<(), String>,
    states: Result<f64, String>,
    trains: Result<f64, String>,
}

fn structure(
    fixture: &Fixture,
    model: &Model,
    reference: &Reference,
) -> Result<(HiddenStates, Vec<BlockToAdapt>), String> {
    let states = HiddenStates::find(model).map_err(|error| error.to_string())?;
    let blocks = blocks(model, &states).map_err(|error| error.to_string())?;
    if blocks.len() != reference.layers {
        return Err(format!("{} blocks instead of {}", blocks.len(), reference.layers));
    }
    let folder = ModelFolder::open(&fixture.folder).map_err(|error| error.to_string())?;
    let checkpoint = folder.checkpoint.expect("the script wrote one");
    let linears = linear_layers(model);
    let matches = match_weights(model, &checkpoint, &linears.iter().collect::<Vec<&LinearLayer>>());
    let matches = matches.map_err(|error| error.to_string())?;
    let first_copies = first_copies(model, &linears).map_err(|error| error.to_string())?;
    let layers = Layers { linears: &linears, matches: &matches, first_copies: &first_copies };
    let blocks = BlockToAdapt::all(&blocks, layers);
    let modules = || blocks.iter().flat_map(|block| &block.modules);
    if let Some(unknown) = modules().find(|module| module.checkpoint_tensor.is_none()) {
        return Err(format!("`{}` is no tensor of the checkpoint", unknown.weight));
    }
    let found: BTreeSet<String> = modules().map(|module| module.module.clone()).collect();
    if found != reference.modules {
        let missing: Vec<&String> = reference.modules.difference(&found).collect();
        let surplus: Vec<&String> = found.difference(&reference.modules).collect();
        return Err(format!("missing {missing:?}, not expected {surplus:?}"));
    }
    Ok((states, blocks))
}

/// Largest difference from the hidden states of transformers at real tokens, relative to the largest value.
fn states_differ(
    library: &Library,
    model: &Model,
    states: &HiddenStates,
    reference: &Reference,
) -> Result<f64, String> {
    let fail = |error: &dyn std::fmt::Display| error.to_string();
    let names: Vec<String> = match states.values[0].starts_with("hidden_state") {
        true => states.values.clone(),
        false => (0..states.values.len()).map(|index| format!("hidden_states.{index}")).collect(),
    };
    let bytes = match names == states.values {
        true => model.file_bytes().to_vec(),
        false => expose(model, states).and_then(|edit| edit.apply_to_bytes(model)).map_err(|e| fail(&e))?,
    };
    let settings = SessionSettings { device: Device::Cpu, threads: Some(1), ..Default::default() };
    let folder = model.path().parent().unwrap_or(Path::new("."));
    let mut session = Session::from_bytes(library, &bytes, folder, &settings).map_err(|e| fail(&e))?;
    let feeder = Feeder::new(session.inputs(), &[]).map_err(|e| fail(&e))?;
    let mut largest = 0f64;
    for case in ["0", "1"] {
        let values = |name: &str| -> Vec<i64> {
            let tensor = reference.tensors.get(&format!("{case}.in.{name}"));
            tensor.map_or_else(Vec::new, |tensor| Vec::try_from(tensor.reshape([-1])).expect("integers"))
        };
        let size = reference.tensors[&format!("{case}.in.input_ids")].size();
        let (ids, mask, types) = (values("input_ids"), values("attention_mask"), values("token_type_ids"));
        let tokens =
            Tokens { rows: size[0] as usize, length: size[1] as usize, ids: &ids, mask: &mask, type_ids: &types };
        let feed = feeder.feed(&tokens);
        let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        let found = session.run(&feed.tensors(), &wanted).map_err(|e| fail(&e))?;
        let real = reference.tensors[&format!("{case}.in.attention_mask")].to_kind(Kind::Bool);
        for (index, array) in found.iter().enumerate() {
            let shape: Vec<i64> = array.shape().iter().map(|d| *d as i64).collect();
            let array = Tensor::from_slice(array.as_slice().expect("row-major")).reshape(&shape);
            let expected = &reference.tensors[&format!("{case}.state.{index}")];
            if expected.size() != shape {
                return Err(format!("hidden state {index} has shape {shape:?} instead of {:?}", expected.size()));
            }
            let at_tokens = |tensor: &Tensor| tensor.index(&[Some(&real)]);
            largest = largest.max(relative_difference(&at_tokens(&array), &at_tokens(expected)));
        }
    }
    Ok(largest)
}

/// Largest relative difference of the libtorch program from ONNX Runtime's outputs, and of gradients from PEFT's.
fn trains(model: &Model, blocks: &[BlockToAdapt], reference: &Reference) -> Result<f64, String> {
    let mut program =
        Program::new(model, tch::Device::Cpu, ProgramOptions::default()).map_err(|error| error.to_string())?;
    let mut largest = 0f64;
    for case in ["0", "1"] {
        for output in ["logits", "last_hidden_state"] {
            let Some(expected) = reference.tensors.get(&format!("{case}.out.{output}")) else { continue };
            let found = tch::no_grad(|| program.run(&inputs_of(&reference.tensors, case), &[output]));
            largest = largest.max(relative_difference(&found.map_err(|error| error.to_string())?[0], expected));
        }
    }
    if !reference.tensors.contains_key("peft.logits") {
        return Ok(largest);
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
    program.attach(adapters.collect()).map_err(|error| error.to_string())?;
    let inputs = inputs_of(&reference.tensors, "0");
    let logits = program.run(&inputs, &["logits"]).map_err(|error| error.to_string())?.remove(0);
    largest = largest.max(relative_difference(&logits, &reference.tensors["peft.logits"]));
    let chosen = if logits.dim() == 3 {
        let last = reference.tensors["0.in.attention_mask"].sum_dim_intlist(1i64, false, Kind::Int64) - 1;
        let rows = Tensor::arange(logits.size()[0], (Kind::Int64, tch::Device::Cpu));
        logits.index(&[Some(&rows), Some(&last)])
    } else {
        logits
    };
    chosen.cross_entropy_for_logits(&reference.tensors["labels"]).backward();
    for trainable in program.trainables() {
        let factor = if trainable.kind == TrainableKind::LoraA { "A" } else { "B" };
        let name = format!("gradient.{}.lora_{factor}.weight", modules[trainable.name.as_str()].module);
        let gradient = trainable.tensor.grad();
        if !gradient.defined() {
            return Err(format!("{name}: there is no gradient"));
        }
        let difference = relative_difference(&gradient, &reference.tensors[&name]);
        if difference > 1e-4 {
            return Err(format!("{name}: {difference:.1e} from PEFT's"));
        }
        largest = largest.max(difference);
    }
    Ok(largest)
}

fn examine(library: &Library, fixture: &Fixture) -> Outcome {
    let name = fixture.name.clone();
    let none = |reason: String| Outcome {
        name: name.clone(),
        structure: Err(reason),
        states: Err(String::new()),
        trains: Err(String::new()),
    };
    if let Ok(reason) = std::fs::read_to_string(fixture.folder.join("failed.txt")) {
        return none(format!("cannot be exported: {reason}"));
    }
    let reference = fixture.reference();
    let model = match Model::open(fixture.folder.join("model.onnx")) {
        Ok(model) => model,
        Err(error) => return none(error.to_string()),
    };
    let (structure, found) = match structure(fixture, &model, &reference) {
        Ok(found) => (Ok(()), Some(found)),
        Err(reason) => (Err(reason), None),
    };
    let states = HiddenStates::find(&model).map_err(|error| error.to_string());
    let states = states.and_then(|states| states_differ(library, &model, &states, &reference));
    let trains = match &found {
        Some((_, blocks)) => trains(&model, blocks, &reference),
        None => Err("structure".into()),
    };
    Outcome { name, structure, states, trains }
}

#[test]
fn exports_of_many_families_are_understood() {
    let Some(library) = library() else { return };
    let root =
        std::env::var("GELORA_FIXTURES").map_or_else(|_| crate::python::repository("build/fixtures"), PathBuf::from);
    let mut fixtures = Vec::new();
    for family in std::fs::read_dir(&root).expect("fixtures").flatten() {
        for form in std::fs::read_dir(family.path()).into_iter().flatten().flatten() {
            let name = format!("{}/{}", family.file_name().display(), form.file_name().display());
            fixtures.push(Fixture { folder: form.path(), name });
        }
    }
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    for fixture in &fixtures {
        let outcome = examine(library, fixture);
        let short = |reason: &String| reason.chars().take(160).collect::<String>();
        println!(
            "{:32} {:?} {:?} {:?}",
            outcome.name,
            outcome.structure.as_ref().map_err(short),
            outcome.states.as_ref().map(|d| format!("{d:.0e}")).map_err(short),
            outcome.trains.as_ref().map(|d| format!("{d:.0e}")).map_err(short)
        );
    }
}

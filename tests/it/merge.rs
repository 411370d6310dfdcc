//! Adapters and merging on the tiny exports, byte by byte and against transformers, PEFT and ONNX Runtime.

use std::fs;
use std::path::{Path, PathBuf};

use gelora::adapter::{
    self, Adapter, ConfigSettings, Flavour, LoraFactors, Naming, SavedTensor, TrainedHead, WriteSettings,
    adapter_config,
};
use gelora::checkpoint::{Checkpoint, ElementType, ModelFolder, from_f32, match_weights, write_safetensors};
use gelora::files::{sha256_file, write_json};
use gelora::merge::{MergeError, MergeSettings, merge};
use gelora::onnx::{
    DataType, Dimension, Edit, HeadPooling, LinearLayer, Model, NodeSpec, Role, TensorData, Transformer,
};
use gelora::progress::{CancelFlag, Event, Observer, Silent};
use gelora::rank::Plan;
use itertools::Itertools;
use ndarray::Array;
use serde_json::json;

use super::cli::{gelora, mendable};
use super::python::{check, repository, text};

fn fixture(name: &str) -> PathBuf {
    repository("onnx").join(name)
}

fn wave(shape: &[usize], phase: f32) -> ndarray::ArrayD<f32> {
    let mut count = 0;
    Array::from_shape_simple_fn(shape, || {
        count += 1;
        (count as f32 * 0.37 + phase).sin() * 0.2
    })
}

/// A plan for the attention of every block, block `i` at `ranks[i]`, alpha = 2 · rank.
pub fn plan(folder: &ModelFolder, ranks: &[usize]) -> Plan {
    let model = Transformer::open(&folder.onnx).unwrap();
    let blocks = model.blocks().unwrap();
    let checkpoint = folder.checkpoint.as_ref().unwrap();
    let attention = [Role::Query, Role::Key, Role::Value, Role::Output];
    let blocks = blocks.iter().zip_eq(ranks).map(|(block, rank)| {
        let wanted: Vec<&LinearLayer> = block.linears.iter().filter(|linear| linear.role.is_in(&attention)).collect();
        let found = match_weights(&model, checkpoint, &wanted).unwrap();
        let modules = wanted.iter().zip_eq(found).map(|(linear, found)| {
            let found = found.unwrap();
            json!({
                "module": found.module(), "checkpoint_tensor": found.tensor, "node": linear.node_name,
                "weight": linear.weight, "role": linear.role.as_str(), "in_features": linear.in_features,
                "out_features": linear.out_features, "rank": rank, "alpha": 2 * rank,
            })
        });
        json!({
            "block": block.index, "difference": null, "difference_interval": null, "rank": rank, "alpha": 2 * rank,
            "rank_probabilities": [], "reason": "", "modules": modules.collect::<Vec<_>>(),
        })
    });
    let paths = checkpoint.files().iter().map(|file| &file.path);
    let paths = paths.chain(model.external_files().iter().map(|file| &file.path));
    let files: Vec<_> =
        paths.map(|path| json!([path.file_name().unwrap().to_str().unwrap(), sha256_file(path).unwrap()])).collect();
    serde_json::from_value(json!({
        "format_version": 1, "gelora_version": "0",
        "model": {
            "onnx": "model.onnx", "onnx_sha256": sha256_file(&folder.onnx).unwrap(), "other_files": files,
            "producer": "", "opset": 17, "last_state_after_final_norm": null,
        },
        "data": {
            "file": "", "sha256": "", "tokenizer_sha256": "", "task": null, "columns": [], "rows": 0,
            "distinct_rows": 0, "maximum_length": 64,
        },
        "extraction": {"pooling": "mean", "onnxruntime": "", "provider": ""},
        "settings": {}, "hidden_states": [], "blocks": blocks.collect::<Vec<_>>(), "adapter_parameters": 0,
        "warnings": [],
    }))
    .unwrap()
}

fn factors(plan: &Plan) -> Vec<LoraFactors> {
    let modules = plan.blocks.iter().flat_map(|block| &block.modules).filter(|module| module.rank > 0);
    modules
        .enumerate()
        .map(|(i, module)| LoraFactors {
            module: module.module.clone(),
            alpha: module.alpha,
            a: wave(&[module.rank, module.in_features], i as f32).into_dimensionality().unwrap(),
            b: wave(&[module.out_features, module.rank], i as f32 + 0.5).into_dimensionality().unwrap(),
            magnitude: None,
        })
        .collect()
}

fn trained_head() -> Vec<SavedTensor> {
    vec![
        SavedTensor { name: "classifier.weight".into(), values: wave(&[2, 16], 3.0) },
        SavedTensor { name: "classifier.bias".into(), values: wave(&[2], 4.0) },
    ]
}

/// A trained adapter for a folder, written to `dir`.
fn write_adapter(base: &Path, dir: &Path, saved: Vec<SavedTensor>, flavour: Flavour, added: Option<HeadPooling>) {
    let folder = ModelFolder::open(base).unwrap();
    let plan = plan(&folder, &[1, 3]);
    let adapter = Adapter { factors: factors(&plan), saved };
    let names: Vec<String> = adapter.saved.iter().map(|tensor| tensor.name.clone()).collect();
    let head = if added.is_some() { TrainedHead::Added } else { TrainedHead::Own(&names, None) };
    let settings = WriteSettings {
        flavour,
        base_model: None,
        checkpoint: folder.checkpoint.as_ref(),
        added_head: added,
        naming: Naming::new(folder.checkpoint.as_ref(), folder.config.as_ref(), head),
        labels: None,
        problem_type: None,
        thresholds: None,
        base_files: None,
    };
    adapter::write(dir, &plan, &adapter, &settings).unwrap();
}

#[test]
fn four_ways_to_the_logits_agree() {
    for (name, flavour) in [
        ("tiny_encoder", Flavour::Native),
        ("tiny_encoder", Flavour::Uniform),
        ("tiny_encoder_dynamo", Flavour::Native),
    ] {
        let place = tempfile::tempdir().unwrap();
        let (adapter, out) = (place.path().join("adapter"), place.path().join("merged"));
        write_adapter(&fixture(name), &adapter, trained_head(), flavour, None);
        let report =
            merge(&ModelFolder::open(&fixture(name)).unwrap(), &adapter, &out, &MergeSettings::default(), &Silent)
                .unwrap();
        assert_eq!(report.tensors.len(), 10, "eight weights and the head");
        let first = report.tensors[0].checkpoint.unwrap();
        assert!(first.change_norm > 0.1 && first.lost_by_rounding < 1e-5, "{first:?}");
        assert_eq!(report.tensors[0].export.map(|change| change.change_norm > 0.1), Some(true));
        check("merge_checks.py", &["merged", text(&fixture(name)), text(&adapter), text(&out)]);
    }
}

#[test]
fn the_export_differs_only_where_it_was_adapted() {
    for name in ["tiny_encoder", "tiny_encoder_dynamo"] {
        let place = tempfile::tempdir().unwrap();
        let (adapter, out) = (place.path().join("adapter"), place.path().join("merged"));
        let base = ModelFolder::open(&fixture(name)).unwrap();
        write_adapter(&fixture(name), &adapter, trained_head(), Flavour::Native, None);
        merge(&base, &adapter, &out, &MergeSettings::default(), &Silent).unwrap();
        let model = Transformer::open(&base.onnx).unwrap();
        let attention = [Role::Query, Role::Key, Role::Value, Role::Output];
        let blocks = model.blocks().unwrap();
        let linears = blocks.iter().flat_map(|block| &block.linears).filter(|linear| linear.role.is_in(&attention));
        let mut allowed: Vec<usize> = linears.map(|linear| linear.weight_index).collect();
        allowed.extend(model.head().unwrap().unwrap().tensors.iter().map(|tensor| tensor.index));
        assert_eq!(allowed.len(), 10);
        let ranges: Vec<_> = allowed
            .iter()
            .map(|index| match &model.graph.initializers[*index].data {
                TensorData::InFile(range) => range.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        let merged = fs::read(out.join("model.onnx")).unwrap();
        let original = model.file_bytes();
        assert_eq!(merged.len(), original.len());
        for (offset, (a, b)) in original.iter().zip_eq(&merged).enumerate() {
            assert!(a == b || ranges.iter().any(|range| range.contains(&offset)), "byte {offset} differs");
        }
        for range in &ranges {
            assert_ne!(original[range.clone()], merged[range.clone()], "an adapted weight is the same");
        }
        let [old, new] = [base.folder.join("model.safetensors"), out.join("model.safetensors")]
            .map(|path| Checkpoint::open_file(&path).unwrap());
        let changed = old.tensors().iter().zip_eq(new.tensors()).filter(|(a, b)| {
            assert_eq!(a, b, "names, types, shapes and places stay");
            old.bytes(&a.name).unwrap() != new.bytes(&b.name).unwrap()
        });
        assert_eq!(changed.count(), 10);
    }
}

#[test]
fn peft_takes_the_configuration_of_a_plan() {
    let folder = ModelFolder::open(&fixture("tiny_encoder")).unwrap();
    let plan = plan(&folder, &[2, 3]);
    let head = vec!["classifier".to_owned()];
    let naming = Naming::new(
        folder.checkpoint.as_ref(),
        folder.config.as_ref(),
        TrainedHead::Own(&["classifier.weight".to_owned(), "classifier.bias".to_owned()], None),
    );
    let config = adapter_config(&plan, &ConfigSettings { head, naming, ..Default::default() }).unwrap();
    let place = tempfile::tempdir().unwrap();
    write_json(&place.path().join("adapter_config.json"), &config).unwrap();
    let modules = plan.blocks.iter().flat_map(|block| &block.modules);
    let ranks: serde_json::Map<_, _> =
        modules.map(|module| (module.module.clone(), json!([module.rank, 2.0]))).collect();
    let ranks = serde_json::Value::Object(ranks).to_string();
    check("merge_checks.py", &["planned", text(&folder.folder), text(place.path()), &ranks]);
}

#[test]
fn a_new_head_becomes_part_of_checkpoint_and_export() {
    let place = tempfile::tempdir().unwrap();
    let (adapter, out) = (place.path().join("adapter"), place.path().join("merged"));
    let base = fixture("tiny_encoder_base");
    let saved = vec![
        SavedTensor { name: "classifier.weight".into(), values: wave(&[3, 16], 3.0) },
        SavedTensor { name: "classifier.bias".into(), values: wave(&[3], 4.0) },
    ];
    write_adapter(&base, &adapter, saved, Flavour::Native, Some(HeadPooling::Mean));
    merge(&ModelFolder::open(&base).unwrap(), &adapter, &out, &MergeSettings::default(), &Silent).unwrap();
    let [original, merged] = [&base, &out].map(|folder| Checkpoint::open(folder).unwrap().unwrap());
    assert_eq!(merged.tensors(), original.tensors(), "no class of transformers has this head");
    let head = Checkpoint::open_file(&out.join("gelora_head.safetensors")).unwrap();
    assert_eq!(head.tensor("classifier.weight").unwrap().shape, [3, 16]);
    check("merge_checks.py", &["headless", text(&base), text(&out)]);

    // The command reports it, and where to get what the folder lacks.
    let again = place.path().join("again");
    let output = gelora().arg("merge").args([&base, &adapter]).arg("-o").arg(&again).assert().success();
    let said = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(said.contains("apart, in gelora_head.safetensors: transformers does not load it"), "{said}");
    fs::remove_file(again.join("tokenizer.json")).unwrap();
    let evaluate = || mendable(&["evaluate", text(&again), "--data", "rows.tsv"]);
    let (folder, base) = (again.display(), base.display());
    assert_eq!(
        evaluate(),
        format!(
            "there is no tokenizer.json in {folder}; copy it there from {base}, the folder of the model that was merged"
        )
    );
    fs::remove_file(again.join("gelora_merge.json")).unwrap();
    assert!(evaluate().ends_with("copy it there from the folder of the model that was exported"), "{}", evaluate());
}

/// The tiny encoder as shards in bfloat16, with an unknown tensor.
fn sharded(folder: &Path) {
    let original = Checkpoint::open(&fixture("tiny_encoder")).unwrap().unwrap();
    for name in ["model.onnx", "config.json", "tokenizer.json"] {
        fs::copy(fixture("tiny_encoder").join(name), folder.join(name)).unwrap();
    }
    let mut map = serde_json::Map::new();
    for shard in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let mut tensors: Vec<_> = original
            .tensors()
            .iter()
            .enumerate()
            .filter(|(index, _)| index % 2 == shard)
            .map(|(_, tensor)| (tensor.name.clone(), ElementType::Bf16, tensor.shape.clone()))
            .collect();
        tensors.push((format!("unknown.{shard}"), ElementType::Other("I64".into()), vec![3]));
        write_safetensors(&folder.join(&file), &tensors, |index| match &tensors[index].1 {
            ElementType::Bf16 => {
                Ok(from_f32(&original.to_f32(&tensors[index].0).unwrap(), &ElementType::Bf16).unwrap())
            }
            _ => Ok((0..24).collect()),
        })
        .unwrap();
        map.extend(tensors.iter().map(|(name, ..)| (name.clone(), json!(file))));
    }
    write_json(&folder.join("model.safetensors.index.json"), &json!({"metadata": {}, "weight_map": map})).unwrap();
}

#[test]
fn shards_keep_their_layout_and_rounding_is_reported() {
    let place = tempfile::tempdir().unwrap();
    let (base, adapter, out) = (place.path().join("base"), place.path().join("adapter"), place.path().join("merged"));
    fs::create_dir(&base).unwrap();
    sharded(&base);
    write_adapter(&base, &adapter, trained_head(), Flavour::Native, None);
    let report = merge(&ModelFolder::open(&base).unwrap(), &adapter, &out, &MergeSettings::default(), &Silent).unwrap();
    let index = "model.safetensors.index.json";
    assert_eq!(fs::read(base.join(index)).unwrap(), fs::read(out.join(index)).unwrap());
    let [old, new] = [&base, &out].map(|folder| Checkpoint::open(folder).unwrap().unwrap());
    assert_eq!(old.tensors(), new.tensors());
    assert_eq!(old.bytes("unknown.0").unwrap(), new.bytes("unknown.0").unwrap());
    let change = report.tensors[0].checkpoint.unwrap();
    assert!(change.lost_by_rounding > 1e-4 && change.lost_by_rounding < 0.1, "{change:?}");
    // Rounded once: the float32 sum of the stored value and the change.
    let factors = &adapter::read(&adapter).unwrap().factors[0];
    let name = format!("{}.weight", factors.module);
    let delta = factors.b.dot(&factors.a) * factors.scaling() as f32;
    let sum: Vec<f32> = old.to_f32(&name).unwrap().iter().zip_eq(&delta).map(|(w, d)| w + d).collect();
    assert_eq!(new.bytes(&name).unwrap(), from_f32(&sum, &ElementType::Bf16).unwrap());
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let adapter = place.path().join("adapter");
    let out = place.path().join("merged");
    let base = ModelFolder::open(&fixture("tiny_encoder")).unwrap();
    write_adapter(&base.folder, &adapter, trained_head(), Flavour::Native, None);
    let line = |error: MergeError| {
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    };

    let other = ModelFolder::open(&fixture("tiny_encoder_base")).unwrap();
    let error = line(merge(&other, &adapter, &out, &MergeSettings::default(), &Silent).unwrap_err());
    assert!(error.contains("trained on another base"), "{error}");
    fs::remove_file(adapter.join("gelora.json")).unwrap();
    let error = line(merge(&other, &adapter, &out, &MergeSettings::default(), &Silent).unwrap_err());
    assert!(error.contains("neither the checkpoint nor the export's head has it"), "{error}");

    let error = line(merge(&base, &adapter, &base.folder, &MergeSettings::default(), &Silent).unwrap_err());
    assert!(error.contains("write the merged model to another one"), "{error}");
    let error =
        line(merge(&base, &place.path().join("nothing"), &out, &MergeSettings::default(), &Silent).unwrap_err());
    assert!(error.contains("is no adapter folder"), "{error}");
    assert!(!out.exists(), "nothing was written");
}

#[cfg(unix)]
#[test]
fn a_linked_folder_of_exports_is_not_replaced() {
    let place = tempfile::tempdir().unwrap();
    let (model, exports, adapter) =
        (place.path().join("model"), place.path().join("exports"), place.path().join("adapter"));
    fs::create_dir_all(&model).unwrap();
    fs::create_dir_all(&exports).unwrap();
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        fs::copy(fixture("tiny_encoder").join(file), model.join(file)).unwrap();
    }
    fs::copy(fixture("tiny_encoder").join("model.onnx"), exports.join("model.onnx")).unwrap();
    std::os::unix::fs::symlink(&exports, model.join("onnx")).unwrap();
    let base = ModelFolder::open(&model).unwrap();
    write_adapter(&fixture("tiny_encoder"), &adapter, trained_head(), Flavour::Native, None);
    for out in [model.join("onnx"), exports] {
        let error = merge(&base, &adapter, &out, &MergeSettings::default(), &Silent).unwrap_err().to_string();
        assert!(
            error.contains("is the folder of the base model's export; write the merged model to another"),
            "{error}"
        );
    }
}

#[test]
fn external_data_and_biases_left_out_are_merged_too() {
    let place = tempfile::tempdir().unwrap();
    if !check("merge_checks.py", &["variants", text(&fixture("tiny_encoder")), text(place.path())]) {
        return;
    }
    for name in ["bare", "external"] {
        let base = place.path().join(name);
        let [adapter, out] = ["adapter", "merged"].map(|kind| place.path().join(format!("{name}-{kind}")));
        write_adapter(&base, &adapter, trained_head(), Flavour::Native, None);
        merge(&ModelFolder::open(&base).unwrap(), &adapter, &out, &MergeSettings::default(), &Silent).unwrap();
        check("merge_checks.py", &["merged", text(&base), text(&adapter), text(&out)]);
    }
    let [base, out] = ["external", "external-merged"].map(|name| place.path().join(name));
    assert_eq!(fs::read(base.join("model.onnx")).unwrap(), fs::read(out.join("model.onnx")).unwrap());
    let [old, new] = [&base, &out].map(|folder| fs::read(folder.join("model.data")).unwrap());
    assert!(old.len() == new.len() && old != new, "the changed weights are in the external file");
    let cut = base.join("model.data");
    fs::write(&cut, &old[..old.len() / 2]).unwrap();
    let error = Model::open(base.join("model.onnx")).unwrap_err().to_string();
    assert!(error.contains("truncated") && error.contains("copy it again"), "{error}");
    fs::remove_file(cut).unwrap();
    let error = Model::open(base.join("model.onnx")).unwrap_err().to_string();
    assert!(error.contains("copy that file beside the model"), "{error}");
}

/// The files of a folder, relative to it.
fn listed(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(inside) = open.pop() {
        for path in fs::read_dir(inside).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => open.push(path),
                false => files.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn the_report_names_the_files_of_an_export_in_a_folder_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    if !check("merge_checks.py", &["variants", text(&fixture("tiny_encoder")), text(place.path())]) {
        return;
    }
    let [base, adapter, out] = ["external", "adapter", "merged"].map(|name| place.path().join(name));
    fs::create_dir(base.join("onnx")).unwrap();
    for name in ["model.onnx", "model.data"] {
        fs::rename(base.join(name), base.join("onnx").join(name)).unwrap();
    }
    write_adapter(&base, &adapter, trained_head(), Flavour::Native, None);
    let folder = ModelFolder::open(&base).unwrap();
    for _ in 0..2 {
        let report = merge(&folder, &adapter, &out, &MergeSettings::default(), &Silent).unwrap();
        let mut named = report.files;
        assert!(named.contains(&"onnx/model.data".to_owned()), "{named:?}");
        named.push("gelora_merge.json".into());
        named.sort();
        assert_eq!(listed(&out), named);
    }
}

#[test]
fn tied_weights_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let (base, adapter, out) = (place.path().join("base"), place.path().join("adapter"), place.path().join("merged"));
    fs::create_dir(&base).unwrap();
    for name in ["model.safetensors", "config.json"] {
        fs::copy(fixture("tiny_encoder").join(name), base.join(name)).unwrap();
    }
    let model = Transformer::open(fixture("tiny_encoder").join("model.onnx")).unwrap();
    let weight = &model.blocks().unwrap()[0].linears[0].weight.clone();
    let mut edit = Edit::new();
    edit.add_initializer("row", DataType::Int64, &[], &0i64.to_le_bytes());
    edit.add_node(NodeSpec::new("Gather", &[weight, "row"], "looked_up"));
    edit.add_output("looked_up", DataType::Float, &[Dimension::Fixed(16)]);
    edit.write(&model, &base.join("model.onnx")).unwrap();
    write_adapter(&base, &adapter, trained_head(), Flavour::Native, None);
    let error = merge(&ModelFolder::open(&base).unwrap(), &adapter, &out, &MergeSettings::default(), &Silent)
        .unwrap_err()
        .to_string();
    assert!(error.contains("shares its weight with node `looked_up` (Gather)"), "{error}");
    assert!(!out.exists(), "nothing was written");
}

/// An observer that stops after a number of tensors.
struct Stop(CancelFlag, u64);

impl Observer for Stop {
    fn observe(&self, event: Event<'_>) {
        if matches!(event, Event::Advance { done, .. } if done >= self.1) {
            self.0.raise();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_raised()
    }
}

#[test]
fn a_stopped_merge_leaves_the_earlier_result() {
    let place = tempfile::tempdir().unwrap();
    let (adapter, out) = (place.path().join("adapter"), place.path().join("merged"));
    let base = ModelFolder::open(&fixture("tiny_encoder")).unwrap();
    write_adapter(&base.folder, &adapter, trained_head(), Flavour::Native, None);
    merge(&base, &adapter, &out, &MergeSettings::default(), &Silent).unwrap();
    let listing = || {
        let mut files: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = listing();
    let error = merge(&base, &adapter, &out, &MergeSettings::default(), &Stop(CancelFlag::default(), 3)).unwrap_err();
    assert!(matches!(error, MergeError::Cancelled(_)), "{error}");
    assert_eq!(listing(), before);
    let error = merge(&base, &adapter, &out, &MergeSettings::default(), &Stop(CancelFlag::default(), 14)).unwrap_err();
    assert!(matches!(error, MergeError::Cancelled(_)), "{error}");
    assert_eq!(listing(), before);
}

/// Writes files into a folder in the middle of a merge, one of them by its path, as programs do that keep it open.
struct Meanwhile<'a>(&'a Path);

impl Observer for Meanwhile<'_> {
    fn observe(&self, event: Event<'_>) {
        if matches!(event, Event::Advance { done: 3, .. }) {
            fs::create_dir_all(self.0.join("notes")).unwrap();
            fs::write(self.0.join("notes/late.md"), "late").unwrap();
            fs::write(self.0.join("earlier.txt"), "written anew").unwrap();
        }
    }
}

#[test]
fn files_that_appear_during_a_merge_stay() {
    let place = tempfile::tempdir().unwrap();
    let (adapter, out) = (place.path().join("adapter"), place.path().join("merged"));
    let base = ModelFolder::open(&fixture("tiny_encoder")).unwrap();
    write_adapter(&base.folder, &adapter, trained_head(), Flavour::Native, None);
    let again = |observer: &dyn Observer| merge(&base, &adapter, &out, &MergeSettings::default(), observer);
    again(&Silent).unwrap();
    fs::write(out.join("earlier.txt"), "earlier").unwrap();
    again(&Meanwhile(&out)).unwrap();
    assert_eq!(fs::read_to_string(out.join("notes/late.md")).unwrap(), "late");
    assert_eq!(fs::read_to_string(out.join("earlier.txt")).unwrap(), "written anew");
    assert_eq!(listed(place.path()).iter().filter(|file| !file.starts_with("adapter")).count(), listed(&out).len());

    // Without a pause: files that exist when the two folders are exchanged, and later ones.
    let stop = CancelFlag::default();
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = Vec::new();
            while !stop.is_raised() {
                let name = format!("log.{}", written.len());
                fs::write(out.join(&name), &name).unwrap();
                written.push(name);
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
            written
        });
        for _ in 0..4 {
            again(&Silent).unwrap();
        }
        stop.raise();
        writer.join().unwrap()
    });
    assert!(written.len() > 10, "{}", written.len());
    for name in &written {
        assert_eq!(&fs::read_to_string(out.join(name)).unwrap(), name);
    }

    // Something other than a merged model that appears there is not replaced.
    let other = place.path().join("other");
    let error = merge(&base, &adapter, &other, &MergeSettings::default(), &Meanwhile(&other)).unwrap_err().to_string();
    assert!(error.contains("no merged model"), "{error}");
    assert_eq!(listed(&other), ["earlier.txt", "notes/late.md"]);
}

/// How often a merge checks for cancellation, for each tensor that it begins.
#[derive(Default)]
struct Asked(std::sync::Mutex<Vec<(String, usize)>>);

impl Observer for Asked {
    fn observe(&self, event: Event<'_>) {
        if let Event::Advance { detail, .. } = event {
            self.0.lock().unwrap().push((detail.to_owned(), 0));
        }
    }

    fn is_cancelled(&self) -> bool {
        if let Some((_, asked)) = self.0.lock().unwrap().last_mut() {
            *asked += 1;
        }
        false
    }
}

#[test]
fn a_weight_is_decomposed_once_and_can_be_stopped_within() {
    let place = tempfile::tempdir().unwrap();
    let (adapter, out) = (place.path().join("adapter"), place.path().join("merged"));
    let base = ModelFolder::open(&fixture("tiny_encoder")).unwrap();
    write_adapter(&base.folder, &adapter, trained_head(), Flavour::Native, None);
    let path = adapter.join("adapter_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["init_lora_weights"] = json!("pissa");
    write_json(&path, &config).unwrap();
    let asked = Asked::default();
    merge(&base, &adapter, &out, &MergeSettings::default(), &asked).unwrap();
    let asked = asked.0.into_inner().unwrap();
    let factors: Vec<&(String, usize)> = asked.iter().filter(|(name, _)| !name.contains("classifier")).collect();
    assert_eq!(factors.len(), 16, "eight weights in the checkpoint and in the export");
    let (checkpoint, export) = factors.split_at(8);
    // The last one is followed by the end of the file.
    assert!(checkpoint.iter().all(|(_, asked)| *asked >= 15), "once for every column of 16: {checkpoint:?}");
    assert!(export.iter().all(|(_, asked)| *asked <= 3), "known from the checkpoint: {export:?}");
}

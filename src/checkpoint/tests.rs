use std::path::{Path, PathBuf};

use itertools::Itertools;
use proptest::prelude::*;

use super::*;
use crate::onnx::{LinearLayer, Model, Transformer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx").join(name)
}

#[test]
fn weights_of_both_exporters_are_found_by_content() {
    for name in ["tiny_encoder", "tiny_encoder_dynamo", "tiny_encoder_base"] {
        let folder = ModelFolder::open(&fixture(name)).unwrap();
        let checkpoint = folder.checkpoint.expect("a checkpoint");
        let model = Transformer::open(&folder.onnx).unwrap();
        let blocks = model.blocks().unwrap();
        let wanted: Vec<&LinearLayer> = blocks.iter().flat_map(|block| &block.linears).collect();
        let found = match_weights(&model, &checkpoint, &wanted).unwrap();
        for (linear, found) in wanted.iter().zip_eq(&found) {
            let found = found.as_ref().expect("found");
            assert_eq!(found.how, MatchedBy::Content);
            assert!(found.transposed, "the exporters turn 2-D weights of matrix products");
            assert!(linear.module.as_ref().unwrap().ends_with(found.module()), "{linear:?} {found:?}");
        }
        if let Some(head) = model.head().unwrap() {
            let found = match_head(&model, &checkpoint, head).unwrap();
            let names: Vec<String> = found.into_iter().flatten().map(|found| found.tensor).collect();
            assert_eq!(names, ["classifier.weight", "classifier.bias"]);
        }
    }
}

#[test]
fn names_serve_where_the_values_differ() {
    let folder = tempfile::tempdir().unwrap();
    let original = Checkpoint::open(&fixture("tiny_encoder")).unwrap().unwrap();
    let tensors: Vec<_> =
        original.tensors().iter().map(|t| (t.name.clone(), ElementType::Bf16, t.shape.clone())).collect();
    let write = |scale: f32| {
        let bytes = |i: usize| {
            let values = original.to_f32(&tensors[i].0).unwrap();
            let values: Vec<f32> = values.iter().map(|value| value * scale).collect();
            Ok(from_f32(&values, &ElementType::Bf16).unwrap())
        };
        write_safetensors(&folder.path().join("model.safetensors"), &tensors, bytes).unwrap();
        Checkpoint::open(folder.path()).unwrap().unwrap()
    };
    let model = Transformer::open(fixture("tiny_encoder").join("model.onnx")).unwrap();
    let blocks = model.blocks().unwrap();
    let wanted: Vec<&LinearLayer> = blocks.iter().flat_map(|block| &block.linears).collect();
    for (scale, how) in [(1.0, MatchedBy::Content), (2.0, MatchedBy::Name)] {
        let found = match_weights(&model, &write(scale), &wanted).unwrap();
        assert!(found.iter().flatten().all(|found| found.how == how && found.transposed), "{scale} {found:?}");
        assert_eq!(found.iter().flatten().count(), wanted.len());
    }
}

/// The tensors of the tiny encoder with `query`, `key` and `value` of every layer as one tensor, optionally with other
/// names for layers.
fn fused(folder: &Path, other_names: bool) -> Checkpoint {
    let renamed = |name: &str, pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().filter(|_| other_names);
        pairs.fold(name.to_owned(), |name, (old, new)| name.replace(old, new))
    };
    let original = Checkpoint::open(&fixture("tiny_encoder")).unwrap().unwrap();
    let mut tensors = Vec::new();
    let mut bytes = Vec::new();
    for tensor in original.tensors() {
        let name = renamed(&tensor.name, &[("encoder.layer.", "trunk.layers."), ("intermediate.dense", "wide")]);
        let own = original.bytes(&tensor.name).unwrap().to_vec();
        if name.contains("self.key.weight") || name.contains("self.value.weight") {
            continue;
        }
        let whole = |kind: &str| original.bytes(&tensor.name.replace("query", kind)).unwrap().to_vec();
        let (name, shape, own) = match name.strip_suffix("self.query.weight") {
            Some(layer) => {
                let shape = vec![3 * tensor.shape[0], tensor.shape[1]];
                (format!("{layer}self.Wqkv.weight"), shape, [own, whole("key"), whole("value")].concat())
            }
            None => (name, tensor.shape.clone(), own),
        };
        let name = renamed(&name, &[("attention.output.dense", "attention.out"), (".output.dense", ".narrow")]);
        tensors.push((name, tensor.element_type.clone(), shape));
        bytes.push(own);
    }
    let file = folder.join("model.safetensors");
    write_safetensors(&file, &tensors, |index| Ok(bytes[index].clone())).unwrap();
    Checkpoint::open(folder).unwrap().unwrap()
}

#[test]
fn matrices_that_the_checkpoint_stores_as_one_are_found_as_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = fused(folder.path(), true);
    let model = Transformer::open(fixture("tiny_encoder").join("model.onnx")).unwrap();
    let blocks = model.blocks().unwrap();
    for (layer, block) in blocks.iter().enumerate() {
        let wanted: Vec<&LinearLayer> = block.linears.iter().collect();
        let found = match_weights(&model, &checkpoint, &wanted).unwrap();
        let found: Vec<&WeightMatch> = found.iter().map(|found| found.as_ref().expect("found")).collect();
        assert!(found.iter().all(|found| found.how == MatchedBy::Content && found.transposed));
        let width = wanted[0].in_features;
        let trunk = format!("bert.trunk.layers.{layer}.attention.self.Wqkv.weight");
        for (part, found) in found.iter().take(3).enumerate() {
            assert_eq!((found.tensor.as_str(), &found.rows), (trunk.as_str(), &Some(part * width..(part + 1) * width)));
        }
        // The export has the model's module names: none of them is in the checkpoint.
        let modules: Vec<&str> = found.iter().map(|found| found.module()).collect();
        let encoder = format!("bert.encoder.layer.{layer}");
        let expected = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"];
        let expected = expected.into_iter().chain(["intermediate.dense", "output.dense"]);
        assert_eq!(modules, expected.map(|module| format!("{encoder}.{module}")).collect::<Vec<_>>());
    }
}

#[test]
fn an_export_that_splits_modules_of_the_model_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let model = Transformer::open(fixture("tiny_encoder").join("model.onnx")).unwrap();
    let obstacles = |other_names: bool| {
        let checkpoint = fused(folder.path(), other_names);
        let matches = match_weights(&model, &checkpoint, &model.linears().iter().collect::<Vec<_>>()).unwrap();
        let parts = Parts::new(&model, &matches, Some(&checkpoint), None).unwrap();
        structure(&parts).unwrap().obstacles
    };
    // With other names for everything, the checkpoint is one that is converted when it is loaded.
    assert_eq!(obstacles(true), Vec::<String>::new());
    let [told] = obstacles(false).try_into().expect("one obstacle");
    let module = "bert.encoder.layer.0.attention.self.Wqkv";
    assert!(
        told.starts_with(&format!("the export splits 2 modules that the model has whole, `{module}` for")),
        "{told}"
    );
    assert!(told.contains(&format!("is {module}.weight [0..16]")), "{told}");
    assert!(told.contains("Take an export that leaves them whole"), "{told}");
}

#[test]
fn broken_files_are_one_line_with_a_cure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let whole = std::fs::read(fixture("tiny_encoder").join("model.safetensors")).unwrap();
    let header = serde_json::json!({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).to_string();
    let mut wrong_size = (header.len() as u64).to_le_bytes().to_vec();
    wrong_size.extend(header.as_bytes());
    wrong_size.extend([0; 8]);
    // Found by fuzzing: a name may contain a newline.
    let mut two_lines = 9u64.to_le_bytes().to_vec();
    two_lines.extend(br#"{"a\nb":1}"#);
    two_lines[0] = (two_lines.len() - 8) as u8;
    // The reference implementation refuses bytes that belong to no tensor, in between and at the end.
    let of = |header: &serde_json::Value, bytes: usize| {
        let header = header.to_string();
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; bytes]].concat()
    };
    let entry = |offsets: [u64; 2]| serde_json::json!({"dtype": "U8", "shape": [4], "data_offsets": offsets});
    let gap = of(&serde_json::json!({"a": entry([0, 4]), "b": entry([6, 10])}), 10);
    let overlap = of(&serde_json::json!({"a": entry([0, 4]), "b": entry([2, 6])}), 6);
    let rest = of(&serde_json::json!({"a": entry([0, 4])}), 7);
    let cases: [(&[u8], &str); 9] = [
        (&gap, "2 bytes before tensor `b` belong to no tensor"),
        (&overlap, "tensors `a` and `b` overlap"),
        (&rest, "its last 3 bytes belong to no tensor"),
        (&two_lines, r"the entry of tensor `a\nb`"),
        (&whole[..whole.len() - 100], "is truncated"),
        (&whole[..300], "is truncated"),
        (b"", "is truncated"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00[]", "no JSON object"),
        (&wrong_size, "the entry of tensor `a`"),
    ];
    for (bytes, expected) in cases {
        std::fs::write(&path, bytes).unwrap();
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("again") && !error.contains('\n'), "{error}");
    }
    std::fs::write(&path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0").unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("Git LFS pointer") && error.contains("git lfs pull"), "{error}");
}

#[test]
fn folders_without_an_export_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = ModelFolder::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("holds no .onnx file"), "{error}");
    for name in ["a.onnx", "b.onnx"] {
        std::fs::write(folder.path().join(name), b"x").unwrap();
    }
    let error = ModelFolder::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("a.onnx, b.onnx"), "{error}");
    let error = ModelFolder::open(&folder.path().join("c.onnx")).unwrap_err().to_string();
    assert!(error.contains("does not exist"), "{error}");
}

/// `onnx` may be a link to a disk with more space; the files of the model lie above the link.
#[cfg(unix)]
#[test]
fn a_linked_folder_of_exports_belongs_to_the_model_that_links_it() {
    let folder = tempfile::tempdir().unwrap();
    let (model, elsewhere) = (folder.path().join("my-model"), folder.path().join("space/exports"));
    std::fs::create_dir_all(elsewhere.join("fp16")).unwrap();
    std::fs::create_dir(&model).unwrap();
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        std::fs::copy(fixture("tiny_encoder").join(file), model.join(file)).unwrap();
    }
    let export = fixture("tiny_encoder").join("model.onnx");
    std::fs::copy(&export, elsewhere.join("model.onnx")).unwrap();
    std::fs::copy(&export, elsewhere.join("fp16/model.onnx")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, model.join("onnx")).unwrap();
    let whole = |named: &Path| {
        let found = ModelFolder::open(named).unwrap();
        assert_eq!(found.folder, model, "{}", named.display());
        assert_eq!(found.tokenizer, Some(model.join("tokenizer.json")), "{}", named.display());
        assert!(found.checkpoint.is_some() && found.config.is_some(), "{}", named.display());
    };
    for named in ["", "onnx", "onnx/model.onnx", "onnx/fp16", "onnx/fp16/model.onnx"] {
        whole(&model.join(named));
    }
    // Under another name the full path decides.
    let short = folder.path().join("short");
    std::fs::rename(&elsewhere, folder.path().join("space/onnx")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("space/onnx"), &short).unwrap();
    std::fs::copy(fixture("tiny_encoder").join("config.json"), folder.path().join("space/config.json")).unwrap();
    assert!(ModelFolder::open(&short).unwrap().config.is_some());
    assert!(ModelFolder::open(&short.join("../onnx/fp16")).unwrap().config.is_some());
}

#[test]
fn shards_are_read_through_their_index() {
    let folder = tempfile::tempdir().unwrap();
    let shard = |file: &str, name: &str, value: f32| {
        let tensors = [(name.to_owned(), ElementType::F32, vec![2, 1])];
        let bytes = |_: usize| Ok(from_f32(&[value, -value], &ElementType::F32).unwrap());
        write_safetensors(&folder.path().join(file), &tensors, bytes).unwrap();
    };
    shard("model-00001-of-00002.safetensors", "a.weight", 1.5);
    shard("model-00002-of-00002.safetensors", "b.weight", 2.5);
    let index = |map: serde_json::Value| {
        let text = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
        std::fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap();
        Checkpoint::open(folder.path())
    };
    let both = serde_json::json!({"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"});
    let checkpoint = index(both).unwrap().unwrap();
    assert_eq!(checkpoint.files().len(), 2);
    assert_eq!(checkpoint.to_f32("b.weight").unwrap(), [2.5, -2.5]);
    assert_eq!(checkpoint.tensor("b.weight").unwrap().file, 1);
    assert!(checkpoint.bytes("c.weight").unwrap_err().to_string().contains("no tensor `c.weight`"));
    let error = index(serde_json::json!({"c": "model-00001-of-00002.safetensors"})).unwrap_err().to_string();
    assert!(error.contains("lists `c`"), "{error}");
    let error = index(serde_json::json!({"c": "../model-00001-of-00002.safetensors"})).unwrap_err().to_string();
    assert!(error.contains("outside the folder"), "{error}");
}

proptest! {
    /// Whatever the file contains: an answer, never a panic.
    #[test]
    fn any_bytes_give_an_answer(cut in 0usize..3000, place in 0usize..3000, byte: u8) {
        let whole = std::fs::read(fixture("tiny_encoder").join("model.safetensors")).unwrap();
        let mut bytes = whole[..cut.min(whole.len())].to_vec();
        if let Some(slot) = bytes.get_mut(place) {
            *slot = byte;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open_file(&path) {
            for tensor in checkpoint.tensors() {
                checkpoint.bytes(&tensor.name).unwrap();
            }
        }
    }
}

/// The tiny encoder with one input of its classifier replaced or left out.
fn with_classifier_input(position: usize, input: Option<&str>) -> Transformer {
    let model = Transformer::open(fixture("tiny_encoder").join("model.onnx")).unwrap();
    let classifier = model.head().unwrap().unwrap().linears.last().unwrap();
    let changed = crate::onnx::test_support::with_input(&model, classifier.node, position, input);
    Transformer::new(Model::from_bytes(model.path(), changed).unwrap())
}

#[test]
fn a_bias_that_the_exporter_left_out_comes_back() {
    let checkpoint = Checkpoint::open(&fixture("tiny_encoder")).unwrap().unwrap();
    let bare = with_classifier_input(2, None);
    let names = |model: &Transformer| {
        let head = model.head().unwrap().unwrap();
        head.tensors.iter().map(|tensor| tensor.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&bare), ["model.classifier.weight"]);
    let whole = with_own_head(bare, &checkpoint).unwrap();
    assert_eq!(names(&whole), ["model.classifier.weight", "model.classifier.bias"]);
    let tensor = &whole.head().unwrap().unwrap().tensors[1];
    let values = whole.to_f32(&whole.graph.initializers[tensor.index]).unwrap();
    assert_eq!(values, checkpoint.to_f32("classifier.bias").unwrap());
}

#[test]
fn a_shared_tensor_of_the_head_gets_its_own() {
    let checkpoint = Checkpoint::open(&fixture("tiny_encoder")).unwrap().unwrap();
    let table = "model.bert.embeddings.token_type_embeddings.weight";
    let tied = with_classifier_input(1, Some(table));
    let weight = |model: &Transformer| model.head().unwrap().unwrap().tensors[0].clone();
    assert!(weight(&tied).shared);
    let untied = own_head(&tied, &checkpoint, &|_| Some(vec![0.5; 32])).unwrap();
    let untied = Transformer::new(Model::from_bytes(tied.path(), untied.apply_to_bytes(&tied).unwrap()).unwrap());
    let found = weight(&untied);
    assert!(!found.shared && found.name == "model.classifier.weight", "{found:?}");
    assert_eq!(untied.to_f32(&untied.graph.initializers[found.index]).unwrap(), [0.5; 32]);
    assert_eq!(untied.graph.nodes.len(), tied.graph.nodes.len());
}

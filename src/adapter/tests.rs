use std::path::{Path, PathBuf};

use ndarray::Array;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::rank::{BlockRank, DataProvenance, ExtractionProvenance, ModelProvenance, Plan, PlannedModule};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/tiny_encoder")
}

/// A plan for query, key, value and output of the tiny encoder with one rank per block and alpha = 4 · rank.
fn plan(ranks: [usize; 2]) -> Plan {
    let module = |block: usize, name: &str, rank: usize| PlannedModule {
        module: format!("bert.encoder.layer.{block}.attention.{name}"),
        checkpoint_tensor: Some(format!("bert.encoder.layer.{block}.attention.{name}.weight")),
        node: String::new(),
        weight: String::new(),
        copies: Vec::new(),
        role: String::new(),
        in_features: 16,
        out_features: 16,
        rank,
        alpha: 4.0 * rank as f64,
    };
    let block = |(index, &rank): (usize, &usize)| BlockRank {
        block: index + 1,
        difference: None,
        difference_interval: None,
        growth_probability: None,
        rank,
        alpha: 4.0 * rank as f64,
        rank_probabilities: vec![],
        reason: String::new(),
        modules: ["self.query", "self.key", "self.value", "output.dense"].map(|n| module(index, n, rank)).into(),
    };
    Plan {
        format_version: 1,
        gelora_version: "0".into(),
        model: ModelProvenance {
            onnx: "model.onnx".into(),
            onnx_sha256: "0".repeat(64),
            other_files: vec![("model.safetensors".into(), "1".repeat(64))],
            producer: String::new(),
            opset: 17,
            last_state_after_final_norm: None,
        },
        data: DataProvenance {
            file: String::new(),
            sha256: String::new(),
            tokenizer_sha256: String::new(),
            task: None,
            columns: vec![],
            rows: 0,
            distinct_rows: 0,
            maximum_length: 128,
            sampling: None,
        },
        extraction: ExtractionProvenance {
            pooling: "mean".into(),
            onnxruntime: String::new(),
            provider: String::new(),
            equal_lengths: false,
        },
        settings: serde_json::Value::Null,
        scale: Default::default(),
        hidden_states: vec![],
        blocks: ranks.iter().enumerate().map(block).collect(),
        adapter_parameters: 0,
        warnings: vec![],
    }
}

fn trained(plan: &Plan) -> Adapter {
    let wave = |shape: (usize, usize), phase: f32| {
        Array::from_shape_fn(shape, |(i, j)| ((i * 31 + j) as f32 * 0.37 + phase).sin() * 0.1)
    };
    let factors = plan.blocks.iter().flat_map(|block| &block.modules).filter(|module| module.rank > 0);
    Adapter {
        factors: factors
            .map(|module| LoraFactors {
                module: module.module.clone(),
                alpha: module.alpha,
                a: wave((module.rank, 16), 0.5),
                b: wave((16, module.rank), 1.5),
                magnitude: None,
            })
            .collect(),
        saved: vec![SavedTensor { name: "classifier.weight".into(), values: wave((2, 16), 2.5).into_dyn() }],
    }
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan([2, 3]);
    let adapter = trained(&plan);
    write(folder.path(), &plan, &adapter, &WriteSettings::default()).unwrap();
    let mut found = read(folder.path()).unwrap();
    found.factors.sort_by_key(|factors| adapter.factors.iter().position(|known| known.module == factors.module));
    assert_eq!(found, adapter);
    let provenance = Provenance::read(folder.path()).unwrap().unwrap();
    assert_eq!(provenance.onnx_sha256, plan.model.onnx_sha256);
    assert_eq!(provenance.files[0].name, "model.safetensors");
}

#[test]
fn the_uniform_flavour_is_the_same_change_at_one_rank() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan([1, 3]);
    let adapter = trained(&plan);
    let settings = WriteSettings { flavour: Flavour::Uniform, ..Default::default() };
    write(folder.path(), &plan, &adapter, &settings).unwrap();
    let found = read(folder.path()).unwrap();
    for original in &adapter.factors {
        let padded = found.factors.iter().find(|factors| factors.module == original.module).unwrap();
        assert_eq!((padded.rank(), padded.alpha), (3, 12.0));
        let change = |factors: &LoraFactors| factors.b.dot(&factors.a) * factors.scaling() as f32;
        assert!((change(padded) - change(original)).iter().all(|difference| difference.abs() < 1e-7));
    }
}

#[test]
fn the_configuration_names_every_module_in_full() {
    let checkpoint = Checkpoint::open(&fixture()).unwrap().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let plan = plan([2, 3]);
    let names = ["classifier.weight".to_owned()];
    let naming = Naming::new(Some(&checkpoint), None, TrainedHead::Own(&names, None));
    let settings = WriteSettings { checkpoint: Some(&checkpoint), naming, ..Default::default() };
    write(folder.path(), &plan, &trained(&plan), &settings).unwrap();
    insta::assert_snapshot!(std::fs::read_to_string(folder.path().join(CONFIG_FILE)).unwrap());
    // The export held no bias of the classifier; PEFT wants the whole module.
    assert!(read(folder.path()).unwrap().saved.iter().any(|tensor| tensor.name == "classifier.bias"));
}

#[test]
fn blocks_of_rank_zero_are_left_out() {
    let config = adapter_config(&plan([0, 2]), &ConfigSettings::default()).unwrap();
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 4);
    assert_eq!(config["rank_pattern"], serde_json::json!({}));
    assert_eq!(config["task_type"], serde_json::Value::Null);
    let error = adapter_config(&plan([0, 0]), &ConfigSettings::default()).unwrap_err();
    assert!(error.to_string().contains("nothing to adapt"));
}

#[test]
fn heads_that_peft_does_not_know_are_listed() {
    let head = head_modules(["pooler.dense.weight", "pooler.dense.bias", "classifier.weight"]);
    let naming = Naming::new(None, None, TrainedHead::Own(&["pooler.dense.weight".to_owned()], None));
    let config = adapter_config(&plan([1, 1]), &ConfigSettings { head, naming, ..Default::default() }).unwrap();
    assert_eq!(config["modules_to_save"], serde_json::json!(["classifier", "score", "pooler.dense"]));
    assert_eq!(config["task_type"], "SEQ_CLS");
}

#[test]
fn a_module_of_another_model_is_refused() {
    let modules = vec!["roberta.encoder.layer.0.attention.self.query".to_owned()];
    let error = adapter_config(&plan([1, 1]), &ConfigSettings { modules, ..Default::default() }).unwrap_err();
    assert!(error.to_string().contains("has no module"), "{error}");
}

#[test]
fn factors_that_are_not_planned_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan([2, 3]);
    let refuse = |change: &dyn Fn(&mut Adapter), expected: &str| {
        let mut adapter = trained(&plan);
        change(&mut adapter);
        let error = write(folder.path(), &plan, &adapter, &WriteSettings::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refuse(&|adapter| drop(adapter.factors.pop()), "was not trained");
    refuse(&|adapter| adapter.factors[0].module = "other".into(), "was not trained");
    refuse(&|adapter| adapter.factors.push(adapter.factors[0].clone()), "was trained twice");
    refuse(&|adapter| adapter.factors[0].alpha = 1.0, "should have alpha 8");
    refuse(&|adapter| adapter.factors[0].a[(0, 0)] = f32::NAN, "holds NaN or infinity");
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing was written");
}

#[test]
fn broken_folders_are_one_line_with_a_cure() {
    let folder = tempfile::tempdir().unwrap();
    let error = || read(folder.path()).unwrap_err().to_string();
    assert!(error().contains("no adapter folder"));
    let plan = plan([2, 3]);
    write(folder.path(), &plan, &trained(&plan), &WriteSettings::default()).unwrap();
    let tensors = folder.path().join(TENSOR_FILE);
    let whole = std::fs::read(&tensors).unwrap();
    std::fs::write(&tensors, &whole[..whole.len() - 8]).unwrap();
    assert!(error().contains("is truncated"));
    std::fs::write(&tensors, &whole).unwrap();
    std::fs::write(folder.path().join(CONFIG_FILE), r#"{"peft_type": "IA3"}"#).unwrap();
    assert!(error().contains("IA3, not LORA"));
    std::fs::write(folder.path().join(CONFIG_FILE), "{").unwrap();
    assert!(error().contains("adapter_config.json cannot be used: EOF"));
    for (field, wrong, wanted) in [
        ("lora_alpha", r#""x""#, "a number"),
        ("lora_alpha", "[8]", "a number"),
        ("r", r#""8""#, "a whole number"),
        ("r", "1.5", "a whole number"),
    ] {
        let other = if field == "r" { r#""lora_alpha": 8"# } else { r#""r": 8"# };
        let config = format!(r#"{{"peft_type": "LORA", {other}, "{field}": {wrong}}}"#);
        std::fs::write(folder.path().join(CONFIG_FILE), config).unwrap();
        let expected = format!(
            "adapter_config.json cannot be used: `{field}` is {wrong}, and {wanted} is needed; mend it, or copy the folder again"
        );
        assert!(error().ends_with(&expected), "{}", error());
    }
    std::fs::write(folder.path().join(CONFIG_FILE), r#"{"peft_type": "LORA", "r": 8}"#).unwrap();
    assert!(error().ends_with("it has no `lora_alpha`; copy the folder again"));
}

#[test]
fn the_hash_of_an_adapter_holds_every_value_name_shape_and_scaling() {
    // Wider than what the debug text of an array shows.
    let adapter = || Adapter {
        factors: vec![LoraFactors {
            module: "m".into(),
            alpha: 4.0,
            a: Array::from_shape_fn((2, 2000), |(row, column)| (row * 2000 + column) as f32),
            b: Array::zeros((3, 2)),
            magnitude: None,
        }],
        saved: vec![SavedTensor { name: "head".into(), values: Array::zeros((2, 3)).into_dyn() }],
    };
    let changes: [fn(&mut Adapter); 9] = [
        |adapter| adapter.factors[0].a[[1, 1000]] += 1.0,
        |adapter| adapter.factors[0].b[[2, 1]] = f32::MIN_POSITIVE,
        |adapter| adapter.factors[0].alpha = 4.5,
        |adapter| adapter.factors[0].module = "n".into(),
        |adapter| adapter.factors[0].magnitude = Some(Array::ones(3)),
        |adapter| adapter.saved[0].name = "heads".into(),
        |adapter| adapter.saved[0].values = Array::zeros((3, 2)).into_dyn(),
        |adapter| adapter.saved[0].values = Array::from_elem((2, 3), -0.0).into_dyn(),
        |adapter| adapter.saved.clear(),
    ];
    let mut hashes = vec![adapter().sha256()];
    for change in changes {
        let mut changed = adapter();
        change(&mut changed);
        hashes.push(changed.sha256());
    }
    assert_eq!(adapter().sha256(), hashes[0]);
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 1 + changes.len());
}

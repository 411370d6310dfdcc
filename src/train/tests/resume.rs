//! Interrupted runs: asked to stop, or killed at any moment.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::support::{Bench, settings};
use crate::progress::{Event, Observer, Silent};
use crate::train::{TrainError, TrainInput, TrainOutcome, TrainSettings, train};

/// Asks to stop at the n-th check.
struct StopAfter(AtomicU64);

impl Observer for StopAfter {
    fn observe(&self, _: Event<'_>) {}

    fn is_cancelled(&self) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) == 1
    }
}

/// All lines of the journal without the speed, which differs between runs.
fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        for time in ["examples_per_second", "seconds"] {
            line.as_object_mut().unwrap().shift_remove(time);
        }
        line
    };
    text.lines().map(line).collect()
}

fn same(one: &TrainOutcome, other: &TrainOutcome) {
    assert_eq!(one.adapter, other.adapter);
    assert_eq!(one.evaluations, other.evaluations);
    assert_eq!(one.best, other.best);
}

fn long() -> TrainSettings {
    TrainSettings { epochs: 8, dropout: 0.1, accumulation: 2, ..settings() }
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bits() {
    let whole = Bench::new("tiny_encoder");
    let expected = train(&whole.input(), &long(), &Silent).unwrap();
    let bench = Bench::new("tiny_encoder");
    let mut stops = 0;
    let outcome = loop {
        // At the first step, inside an evaluation, right after saving: the numbers have no common factor.
        match train(&bench.input(), &long(), &StopAfter(AtomicU64::new(1 + (stops * 7) % 11))) {
            Err(TrainError::Cancelled(_)) => stops += 1,
            done => break done.unwrap(),
        }
        assert!(stops < 200, "the run never gets on");
    };
    assert!(stops > 4);
    same(&expected, &outcome);
    assert_eq!(lines(whole.out.path()), lines(bench.out.path()));
}

#[test]
fn a_result_does_not_depend_on_the_number_of_threads() {
    // Large batches: each is computed in several pieces.
    let settings = TrainSettings { batch_size: 64, threads: Some(1), dropout: 0.1, ..settings() };
    let one = Bench::new("tiny_encoder");
    let expected = train(&one.input(), &settings, &Silent).unwrap();
    assert_eq!(expected.threads, 1);
    let bench = Bench::new("tiny_encoder");
    // With two threads up to a stop in the third epoch, then with three.
    let two = TrainSettings { threads: Some(2), ..settings.clone() };
    let stopped = train(&bench.input(), &two, &StopAfter(AtomicU64::new(8)));
    assert!(matches!(stopped, Err(TrainError::Cancelled(_))));
    let three = TrainSettings { threads: Some(3), ..settings };
    let outcome = train(&bench.input(), &three, &Silent).unwrap();
    assert!(outcome.resumed_from.is_some_and(|step| step > 0 && step < outcome.steps), "{:?}", outcome.resumed_from);
    assert_eq!(outcome.threads, 3);
    same(&expected, &outcome);
    assert_eq!(lines(one.out.path()), lines(bench.out.path()));
}

#[test]
fn a_finished_run_is_not_repeated() {
    let bench = Bench::new("tiny_encoder");
    let first = train(&bench.input(), &settings(), &Silent).unwrap();
    let again = train(&bench.input(), &settings(), &StopAfter(AtomicU64::new(1))).unwrap();
    same(&first, &again);
    assert_eq!(again.resumed_from, Some(first.steps));
    let anew = train(&bench.input(), &TrainSettings { restart: true, ..settings() }, &Silent).unwrap();
    same(&first, &anew);
    assert_eq!(anew.resumed_from, None);
}

#[test]
fn a_state_of_another_run_is_refused() {
    let bench = Bench::new("tiny_encoder");
    let short = TrainSettings { epochs: 1, ..settings() };
    train(&bench.input(), &short, &Silent).unwrap();
    let before = std::fs::read(bench.out.path().join("metrics.jsonl")).unwrap();
    let refuse = |input: TrainInput<'_>, settings: &TrainSettings| {
        let text = train(&input, settings, &Silent).unwrap_err().to_string();
        text.replace(bench.out.path().to_str().unwrap(), "OUT")
    };
    let other = TrainSettings { learning_rate: 0.5, ..short.clone() };
    insta::assert_snapshot!(refuse(bench.input(), &other), @"OUT/state/training.safetensors was saved with another learning rate (0.01; now 0.5); use the earlier one to resume, or start over with `restart`");
    let mut plan = bench.plan.clone();
    // One module fewer than in the original plan.
    plan.blocks[0].modules.remove(0);
    let mut input = bench.input();
    input.plan = Some(&plan);
    assert!(refuse(input, &short).contains("another plan"));
    let mut input = bench.input();
    input.train = input.validation.unwrap();
    assert!(refuse(input, &short).contains("another set of training rows"));
    assert_eq!(before, std::fs::read(bench.out.path().join("metrics.jsonl")).unwrap());
}

#[test]
fn a_damaged_state_is_refused() {
    let bench = Bench::new("tiny_encoder");
    let short = TrainSettings { epochs: 1, ..settings() };
    train(&bench.input(), &short, &Silent).unwrap();
    let path = bench.out.path().join("state/training.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 5, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = train(&bench.input(), &short, &Silent).unwrap_err();
        assert!(matches!(error, TrainError::BadState { .. }), "{length}: {error}");
        assert!(error.to_string().contains("`restart`"));
    }
}

const CHILD_FOLDER: &str = "GELORA_TEST_TRAINING_FOLDER";

/// Not a test of its own: the process that `a_killed_run_goes_on_to_the_same_bits` kills.
#[test]
fn child_of_the_kill_test() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let bench = Bench::new("tiny_encoder");
    let folder = PathBuf::from(folder);
    let mut input = bench.input();
    input.folder = &folder;
    let outcome = train(&input, &killed(), &Silent).unwrap();
    std::fs::write(folder.join("adapter.txt"), format!("{:?}", outcome.adapter)).unwrap();
}

fn killed() -> TrainSettings {
    TrainSettings { epochs: 20, save_every: 2, ..long() }
}

fn spawn(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "train::tests::resume::child_of_the_kill_test"])
        .env(CHILD_FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits() {
    let whole = tempfile::tempdir().unwrap();
    assert!(spawn(whole.path()).wait().unwrap().success());
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state/training.safetensors");
    let mut kills = 0;
    for milliseconds in [3, 41, 97, 23, 71] {
        let mut child = spawn(folder.path());
        // Wait until this process has saved something (or ended), then kill it some time later.
        let saved = || std::fs::metadata(&state).and_then(|data| data.modified()).ok();
        let before = saved();
        while saved() == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(milliseconds));
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0, "no run was killed");
    assert!(spawn(folder.path()).wait().unwrap().success());
    let adapter = |folder: &Path| std::fs::read_to_string(folder.join("adapter.txt")).unwrap();
    assert!(adapter(whole.path()) == adapter(folder.path()), "the adapters differ");
    assert_eq!(lines(whole.path()), lines(folder.path()));
}

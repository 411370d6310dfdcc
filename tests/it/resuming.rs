//! Extractions that are stopped, killed or run out of space: the next run resumes and ends with the same result.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gelora::activations::{ActivationsError, ExtractSettings, MiniBatch, Pooling, Store, extract, stream};
use gelora::onnx::Transformer;
use gelora::progress::Silent;

use crate::extraction::{Listener, contents, rows, settings, tiny_model};
use crate::runtime::library;
use crate::tiny::Kind;

#[test]
fn what_was_stopped_goes_on_and_ends_the_same() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let rows = rows(200);
    let settings = ExtractSettings { shard_rows: Some(23), batch_tokens: Some(30), ..settings(Pooling::Mean) };
    let whole = tiny.extract(&rows, &settings, "whole").unwrap();
    let folder = tiny.folder.path().join("stopped");
    for steps in [3, 12, 8] {
        let observer = Listener { stop_after: Some(steps), ..Default::default() };
        let error = extract(&tiny.model, &rows, &settings, &folder, &observer).unwrap_err();
        assert!(matches!(error, ActivationsError::Cancelled(_)), "{error:?}");
        let error = Store::open(&folder).unwrap_err();
        assert!(error.to_string().contains("is not complete"), "{error}");
    }
    let finished = extract(&tiny.model, &rows, &settings, &folder, &Silent).unwrap();
    assert_eq!(finished.manifest(), whole.manifest());
    assert_eq!(contents(&folder), contents(whole.path()));

    let observer = Listener::default();
    extract(&tiny.model, &rows, &settings, &folder, &observer).unwrap();
    assert!(observer.said.lock().unwrap()[0].contains("is complete already"));
}

/// A small file system in memory, unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(folder: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&folder).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(&folder).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            _ => {
                println!("skipped: no right to mount a tmpfs");
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_one_line_and_the_next_run_goes_on() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let Some(disk) = Tmpfs::mount(tiny.folder.path().join("disk"), "size=160k") else { return };
    let rows = rows(2000);
    let settings = ExtractSettings { shard_rows: Some(500), ..settings(Pooling::Mean) };
    std::fs::write(disk.0.join("ballast"), vec![1; 80 << 10]).unwrap();
    let store = disk.0.join("store");
    let error = extract(&tiny.model, &rows, &settings, &store, &Silent).unwrap_err().to_string();
    assert!(error.contains("No space left") && error.contains("run the same command again"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    std::fs::remove_file(disk.0.join("ballast")).unwrap();
    let done = extract(&tiny.model, &rows, &settings, &store, &Silent).unwrap();
    let whole = tiny.extract(&rows, &settings, "whole").unwrap();
    assert_eq!(contents(done.path()), contents(whole.path()));
}

const CHILD_FOLDER: &str = "GELORA_TEST_CHILD_FOLDER";

/// Not a test of its own: the process that `killed_runs_go_on` starts and kills.
#[test]
#[ignore = "started by killed_runs_go_on"]
fn child() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER).map(PathBuf::from) else { return };
    let model = Transformer::open(folder.join("model.onnx")).unwrap();
    let settings = ExtractSettings { shard_rows: Some(40), batch_tokens: Some(8), ..settings(Pooling::Mean) };
    extract(&model, &rows(4000), &settings, &folder.join("store"), &Silent).unwrap();
}

#[test]
fn killed_runs_go_on() {
    if library().is_none() {
        return;
    }
    let start = |folder: &Path| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "resuming::child", "--ignored"])
            .env(CHILD_FOLDER, folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let (whole, killed) = (tiny_model(Kind::Good), tiny_model(Kind::Good));
    assert!(start(whole.folder.path()).wait().unwrap().success());
    let store = killed.folder.path().join("store");
    let mut kills = 0;
    for attempt in 1.. {
        let mut child = start(killed.folder.path());
        let began = std::time::Instant::now();
        // Each run is killed when it has finished some more shards than the one before.
        let ended = loop {
            let done = std::fs::read_to_string(store.join("manifest.json"))
                .map_or(0, |text| text.matches("\"first_row\"").count());
            if done >= 17 * attempt || began.elapsed().as_secs() > 60 {
                break false;
            }
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        };
        child.kill().unwrap();
        child.wait().unwrap();
        kills += usize::from(!ended);
        if ended || kills >= 20 {
            break;
        }
    }
    assert!(kills >= 3, "the run was killed {kills} times only");
    let mut expected = contents(&whole.folder.path().join("store"));
    let mut found = contents(&store);
    // The manifest names the model's folder, which differs.
    for files in [&mut expected, &mut found] {
        let manifest = files.remove(Path::new("manifest.json")).unwrap();
        let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        manifest["model"]["path"] = "".into();
        files.insert("manifest.json".into(), manifest.to_string().into_bytes());
    }
    assert!(found == expected, "{:?}\n{:?}", found.keys(), expected.keys());
}

/// First a part of the rows, then all: the result is that of all at once, and with fewer rows nothing is discarded.
#[test]
fn a_store_grows_with_the_rows_that_are_wanted() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let rows = rows(200);
    let settings = ExtractSettings { shard_rows: Some(23), ..settings(Pooling::Mean) };
    let whole = tiny.extract(&rows, &settings, "whole").unwrap();
    let first = |count: usize| {
        let settings = ExtractSettings { first_rows: Some(count), ..settings.clone() };
        tiny.extract(&rows, &settings, "growing").unwrap()
    };
    for (wanted, done) in [(40, 46), (10, 46), (100, 115), (500, 200)] {
        let store = first(wanted);
        assert_eq!(store.manifest().rows_done(), done);
        let layer = store.layer(1).unwrap();
        assert_eq!(layer, whole.layer(1).unwrap().slice(ndarray::s![..layer.nrows(), ..]));
    }
    assert_eq!(first(10).source_rows().unwrap(), whole.source_rows().unwrap());
}

#[test]
fn a_stream_hands_out_what_a_store_would_hold() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let rows = rows(200);
    let whole = tiny.extract(&rows, &settings(Pooling::Mean), "whole").unwrap();
    let streamed = |enough: usize| {
        let mut batches: Vec<MiniBatch> = Vec::new();
        let mut take = |batch: MiniBatch| {
            batches.push(batch);
            Ok(if batches.len() == enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        let settings = settings(Pooling::Mean);
        let manifest = stream(&tiny.model, &rows, &settings, 30, &mut take, &Silent).unwrap();
        (batches, manifest)
    };
    let (batches, manifest) = streamed(usize::MAX);
    assert_eq!((batches.len(), manifest.rows_done(), manifest.points), (7, 200, whole.rows()));
    for state in 0..2 {
        let parts: Vec<_> = batches.iter().map(|batch| batch.layers[state].view()).collect();
        let all = ndarray::concatenate(ndarray::Axis(0), &parts).unwrap();
        assert!((all - whole.layer(state).unwrap()).iter().all(|difference| difference.abs() < 1e-6));
    }
    let sources: Vec<usize> = batches.iter().flat_map(|batch| batch.rows.clone()).collect();
    assert_eq!(sources, whole.source_rows().unwrap());
    let (few, manifest) = streamed(3);
    assert_eq!((few.len(), manifest.rows_done()), (3, 90));
    assert_eq!(few[..], batches[..3]);
}

//! Damaged stores of activations: detected by everything that reads them, and rebuilt.

use std::fs;
use std::path::{Path, PathBuf};

use gelora::activations::{ExtractSettings, Pooling, Store, extract};

use crate::cli::{export, gelora, mendable, write_rows};
use crate::extraction::{Listener, contents, rows, settings, tiny_model};
use crate::runtime::library;
use crate::tiny::Kind;

/// The expected message about a file, and the damage.
type Damage = (&'static str, fn(&Path));

const DAMAGES: [Damage; 4] = [
    ("it is not there", |file| fs::remove_file(file).unwrap()),
    ("bytes, ", |file| {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() - 4]).unwrap();
    }),
    ("its checksum is not that of what was written", |file| {
        let mut bytes = fs::read(file).unwrap();
        let last = bytes.len() - 5;
        bytes[last] ^= 1;
        fs::write(file, bytes).unwrap();
    }),
    ("bytes, ", |file| {
        let mut bytes = fs::read(file).unwrap();
        bytes.extend([0; 8]);
        fs::write(file, bytes).unwrap();
    }),
];

fn read_all(folder: &Path) -> Result<(), String> {
    let store = Store::open(folder).map_err(|error| error.to_string())?;
    for state in 0..store.hidden_states() {
        store.layer(state).map_err(|error| error.to_string())?;
    }
    store.source_rows().map_err(|error| error.to_string())?;
    store.positions().map_err(|error| error.to_string())?;
    Ok(())
}

#[test]
fn every_damage_is_noticed_and_only_its_shard_is_made_anew() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let rows = rows(200);
    let tokens = Pooling::Tokens { per_row: 2, seed: 1 };
    let settings = ExtractSettings { shard_rows: Some(50), ..settings(tokens) };
    let folder = tiny.extract(&rows, &settings, "store").unwrap().path().to_path_buf();
    let whole = contents(&folder);
    read_all(&folder).unwrap();
    for name in ["hidden_state.0.npy", "hidden_state.1.npy", "rows.npy", "positions.npy"] {
        for (words, damage) in DAMAGES {
            let file = folder.join("shard-00002").join(name);
            damage(&file);
            let untouched = fs::metadata(folder.join("shard-00001/rows.npy")).unwrap().modified().unwrap();
            let error = read_all(&folder).unwrap_err();
            assert!(
                error.contains(name) && error.contains(words) && error.contains("makes this shard anew"),
                "{error}"
            );
            let listener = Listener::default();
            extract(&tiny.model, &rows, &settings, &folder, &listener).unwrap();
            assert!(listener.said.lock().unwrap().iter().any(|said| said.contains(name)), "{name}: {words}");
            assert!(contents(&folder) == whole, "{name}: {words}");
            assert_eq!(fs::metadata(folder.join("shard-00001/rows.npy")).unwrap().modified().unwrap(), untouched);
        }
    }
    fs::remove_dir_all(folder.join("shard-00000")).unwrap();
    assert!(read_all(&folder).is_err());
    tiny.extract(&rows, &settings, "store").unwrap();
    assert!(contents(&folder) == whole);
}

/// Shards of later rows do not replace a damaged one if fewer rows are wanted than before.
#[test]
fn a_damaged_shard_is_made_anew_where_fewer_rows_are_wanted() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let rows = rows(200);
    let all = ExtractSettings { shard_rows: Some(50), ..settings(Pooling::Mean) };
    let folder = tiny.extract(&rows, &all, "store").unwrap().path().to_path_buf();
    let shard = || fs::read(folder.join("shard-00000/hidden_state.1.npy")).ok();
    let before = shard();
    fs::remove_dir_all(folder.join("shard-00000")).unwrap();
    let some = ExtractSettings { first_rows: Some(100), ..all };
    let store = tiny.extract(&rows, &some, "store").unwrap();
    let there: Vec<usize> = store.manifest().shards.iter().map(|shard| shard.index).collect();
    assert_eq!(there, [0, 1, 2, 3]);
    assert!(shard() == before);
}

#[test]
fn what_an_earlier_version_began_is_gone_on_with() {
    if library().is_none() {
        return;
    }
    let tiny = tiny_model(Kind::Good);
    let rows = rows(200);
    let settings = ExtractSettings { shard_rows: Some(50), ..settings(Pooling::Mean) };
    let folder = tiny.extract(&rows, &settings, "store").unwrap().path().to_path_buf();
    let file = folder.join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    manifest["format"] = 1.into();
    for shard in manifest["shards"].as_array_mut().unwrap() {
        shard.as_object_mut().unwrap().remove("files");
    }
    fs::write(&file, manifest.to_string()).unwrap();
    read_all(&folder).unwrap();
    // A truncated file is detected without checksums too, and has a checksum from then on.
    let layer = folder.join("shard-00001/hidden_state.0.npy");
    DAMAGES[1].1(&layer);
    assert!(read_all(&folder).unwrap_err().contains("hidden_state.0.npy"));
    let store = tiny.extract(&rows, &settings, "store").unwrap();
    assert_eq!(store.manifest().format, 2);
    let known: Vec<usize> = store.manifest().shards.iter().map(|shard| shard.files.len()).collect();
    assert_eq!(known, [0, 3, 0, 0]);
}

/// A store written by the first version must remain readable.
#[test]
fn stores_of_format_1_are_read() {
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/store_1");
    let folder = tempfile::tempdir().unwrap();
    let copy = || -> PathBuf {
        let copy = folder.path().join("store");
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir_all(copy.join("shard-00000")).unwrap();
        for file in contents(&stored).keys() {
            fs::copy(stored.join(file), copy.join(file)).unwrap();
        }
        copy
    };
    let store = Store::open(&copy()).unwrap();
    assert_eq!((store.manifest().format, store.rows(), store.hidden_states()), (1, 12, 3));
    let layer = store.layer(2).unwrap();
    assert_eq!(layer.dim(), (12, 16));
    let stored: ndarray::Array2<f32> = ndarray_npy::read_npy(stored.join("shard-00000/hidden_state.2.npy")).unwrap();
    assert_eq!(layer, stored);
    for (number, (_, damage)) in DAMAGES.iter().enumerate().filter(|(number, _)| *number != 2) {
        let copy = copy();
        damage(&copy.join("shard-00000/hidden_state.1.npy"));
        let error = read_all(&copy).unwrap_err();
        assert!(error.contains("hidden_state.1.npy is damaged"), "{number}: {error}");
    }
}

#[test]
fn commands_notice_a_damaged_store_and_plan_makes_it_anew() {
    if library().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("rows.tsv"), folder.path().join("out"));
    write_rows(&data, 120);
    let plan = || {
        let mut command = gelora();
        command.arg("plan").arg(export("tiny_encoder")).arg("--data").arg(&data).args(["--task", "cola"]);
        command.args(["--subsamples", "5", "--device", "cpu", "-o"]).arg(&out);
        let output = command.assert().success().get_output().clone();
        (fs::read(out.join("plan.json")).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (first, _) = plan();
    let store = out.join("store");
    let whole = contents(&store);
    for (_, damage) in DAMAGES {
        damage(&store.join("shard-00000/hidden_state.1.npy"));
        let line = mendable(&["dimension", store.to_str().unwrap(), "-q"]);
        assert!(line.contains("hidden_state.1.npy is damaged"), "{line}");
        let (again, said) = plan();
        assert!(again == first);
        assert!(said.contains("hidden_state.1.npy is damaged") && said.contains("made anew"), "{said}");
        assert!(contents(&store) == whole);
    }
}

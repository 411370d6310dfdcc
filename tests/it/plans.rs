//! Dimensions and plans as their user sees them: points of known dimension, rows drawn as needed, plans side by side.

use itertools::Itertools;
use predicates::prelude::*;

use crate::cli::{export, gelora, mendable, write_rows};

/// Runs a command with `--json` and returns its result.
fn json(arguments: &[&str]) -> serde_json::Value {
    let output = gelora().args(arguments).args(["--json", "-q"]).assert().success().get_output().clone();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn points_of_known_dimension_are_made_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("points.npy");
    let path = file.to_str().unwrap();
    let made = json(&["manifold", "ball", "-d", "4", "--columns", "30", "--points", "1500", "--seed", "5", "-o", path]);
    assert_eq!((&made["columns"], &made["dtype"]), (&30.into(), &"float32".into()));
    let points: ndarray::Array2<f32> = ndarray_npy::read_npy(&file).unwrap();
    assert_eq!(points.dim(), (1500, 30));

    let measured = |more: &[&str]| {
        let found = json(&[&["dimension", path], more].concat());
        (found["layers"][0]["dimension"].as_f64().unwrap(), found)
    };
    let (level, found) = measured(&[]);
    assert!((3.5..4.3).contains(&level), "{level}");
    assert_eq!(found["scale"]["chosen"], "plateau");
    assert_eq!(found["layers"][0]["dimension_by_scale"].as_array().unwrap().len(), 6);
    assert_eq!(found["layers"][0]["decimation"].as_array().unwrap().len(), 4);
    // Farther neighbours are less noisy; TwoNN alone has an interval from a formula.
    let width = |found: &serde_json::Value| {
        let interval = &found["layers"][0]["interval"];
        interval[1].as_f64().unwrap() - interval[0].as_f64().unwrap()
    };
    let (_, far) = measured(&["--scale", "8"]);
    let (nearest, near) = measured(&["--scale", "1:2", "--subsamples", "0"]);
    assert_eq!((&far["scale"]["neighbours"][0], &near["scale"]["neighbours"][0]), (&8.into(), &1.into()));
    assert!(width(&far) < 0.6 * width(&near), "{} {}", width(&far), width(&near));
    assert_eq!(near["layers"][0]["two_nn"].as_f64(), Some(nearest));
    assert_eq!(near["layers"][0]["dimension_by_scale"].as_array().unwrap().len(), 1);
    // A ball whitened is a ball; its directions are a sphere.
    let (whitened, _) = measured(&["--representation", "whitened"]);
    let (directions, _) = measured(&["--metric", "cosine", "--representation", "centred"]);
    assert!((whitened / level - 1.0).abs() < 0.1 && (2.4..3.4).contains(&directions), "{whitened} {directions}");

    let line = mendable(&["manifold", "moebius", "-d", "3", "-o", path]);
    assert_eq!(line, "a moebius of dimension 3 does not exist; it has dimension 2");
    let line = mendable(&["manifold", "ball", "-o", "points.csv"]);
    assert_eq!(line, "points.csv is written as a .npy file; give it a name that ends so");
    let line = mendable(&["dimension", path, "--scale", "3"]);
    assert!(
        line.contains("take 1, 2, 4, 8 or 16, the nearer of the two neighbours that are compared, or auto"),
        "{line}"
    );
}

#[test]
fn plans_are_drawn_anew_and_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.tsv");
    write_rows(&data, 200);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for pooling in ["mean", "last"] {
        let mut command = gelora();
        command.arg("plan").arg(export("tiny_encoder")).arg("--data").arg(&data).args(["--task", "cola", "-q"]);
        command.args(["--subsamples", "10", "--pooling", pooling, "-o", &path(pooling)]).assert().success();
    }
    let (mean, last) = (path("mean/plan.json"), path("last/plan.json"));
    let again = path("again.html");
    gelora().args(["report", &mean, "-o", &again]).assert().success().stdout(predicate::str::contains("written"));
    assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(path("mean/report.html")).unwrap());

    let page = path("compare.html");
    let compared = json(&["report", "--compare", &mean, &last, "-o", &page]);
    // Both have the same task: the folders distinguish them.
    assert_eq!((&compared["plans"][0]["name"], &compared["plans"][1]["name"]), (&"mean".into(), &"last".into()));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("plans side by side") && page.contains("last against mean"));

    let line = mendable(&["report", "--compare", &mean, &last, "--names", "a", "-o", &again]);
    assert_eq!(line, "--names gives 1 names for 2 plans; give one for each");
    let line = mendable(&["report", &path("rows.tsv"), "-o", &again]);
    assert!(line.contains("is not a plan"), "{line}");
}

#[test]
fn rows_are_drawn_as_many_as_are_wanted_or_needed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.tsv");
    write_rows(&data, 2400);
    let (model, data) = (export("tiny_encoder"), data.to_str().unwrap().to_owned());
    let common = ["plan", model.to_str().unwrap(), "--data", &data, "--task", "cola", "--subsamples", "10"];
    let plan = |out: &str, more: &[&str]| {
        let out = folder.path().join(out);
        (json(&[&common[..], more, &["-o", out.to_str().unwrap()]].concat()), out)
    };
    let (found, out) = plan("sample", &["--sample", "300", "--stratified"]);
    assert_eq!((&found["data"]["sampling"]["rows"], &found["data"]["rows"]), (&300.into(), &2400.into()));
    assert_eq!(found["data"]["sampling"]["stratified"], true);
    assert!(out.join("store").is_dir());

    // A wide interval is reached with the first rows, a narrow one is not reached at all.
    let (wide, out) = plan("until", &["--until", "5"]);
    let rows = |plan: &serde_json::Value| plan["data"]["sampling"]["rows"].as_u64().unwrap();
    assert!(rows(&wide) < 2400, "{}", rows(&wide));
    assert!(wide["data"]["sampling"]["width"].as_f64().unwrap() <= 5.0);
    let again = plan("until", &["--until", "5"]).0;
    assert_eq!(wide, again);
    let narrow = plan("until", &["--until", "0.001"]).0;
    assert_eq!(rows(&narrow), 2400);
    assert!(out.join("store").is_dir());

    let (batches, out) = plan("batches", &["--mini-batch", "400"]);
    assert_eq!(batches["data"]["sampling"]["mini_batches"], 6);
    assert!(!out.join("store").exists());
    for (one, all) in
        batches["hidden_states"].as_array().unwrap().iter().zip_eq(narrow["hidden_states"].as_array().unwrap())
    {
        assert_eq!(one["width"], all["width"]);
        assert!(one["standard_error"].as_f64().unwrap() > 0.0);
    }
    let line = mendable(&[&common[..], &["--mini-batch", "2000", "-o", out.to_str().unwrap()]].concat());
    assert!(line.starts_with("2400 rows make 1 mini-batches of 2000, but 4 are needed"), "{line}");
    let line = mendable(&[&common[..], &["--stratified", "-o", out.to_str().unwrap()]].concat());
    assert!(line.contains("--sample"), "{line}");

    let store = folder.path().join("until/store");
    let store = store.to_str().unwrap();
    let sampled = json(&["dimension", store, "--sample", "200"]);
    assert_eq!(sampled["layers"][0]["rows"], 200);
    let line = mendable(&["dimension", store, "--mini-batch", "1000"]);
    assert!(line.contains("but 4 are needed"), "{line}");
}

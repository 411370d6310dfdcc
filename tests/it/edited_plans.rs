//! A plan is a file that people edit. Their edits are used, or refused with the line before anything is computed.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::{export, gelora, mendable, write_rows};
use crate::runtime::library;

const QUERY: &str = "bert.encoder.layer.0.attention.self.query";

/// A plan of the tiny encoder, made once.
fn planned(folder: &Path) -> Value {
    let data = folder.join("rows.tsv");
    write_rows(&data, 200);
    let mut command = gelora();
    command.arg("plan").arg(export("tiny_encoder")).arg("--data").arg(&data).args(["--text", "sentence", "-q"]);
    command.args(["--subsamples", "0", "--device", "cpu", "-o"]).arg(folder).assert().success();
    serde_json::from_slice(&fs::read(folder.join("plan.json")).unwrap()).unwrap()
}

/// Writes an edited plan and returns the number of the first line that differs.
fn write(plan: &Value, edited: &Value, file: &Path) -> usize {
    let [before, after] = [plan, edited].map(|plan| serde_json::to_string_pretty(plan).unwrap());
    fs::write(file, &after).unwrap();
    1 + before.lines().zip(after.lines()).position(|(a, b)| a != b).unwrap()
}

/// Name of an edit, the edit, and the expected error.
type Edit = (&'static str, fn(&mut Value), &'static str);

/// Edits that make a plan contradict itself.
const AGAINST_ITSELF: [Edit; 20] = [
    (
        "/blocks/0/modules/0/rank",
        |v| *v = json!(7),
        "block 1, module bert.encoder.layer.0.attention.self.query: rank 7, and block 1 has rank",
    ),
    ("/blocks/0/modules/0/rank", |v| *v = json!(0), "rank 0, and block 1 has rank"),
    ("/blocks/0/rank", |v| *v = json!(0), "and block 1 has rank 0; give both the same rank"),
    ("/blocks/0/rank", |v| *v = json!(16), "and block 1 has rank 16"),
    ("/blocks/0/rank", |v| *v = json!(1_u64 << 31), "rank 2147483648, and its weights have use for 16 at most"),
    ("/blocks/0/rank", |v| *v = json!(1_000_000), "rank 1000000, and its weights have use for 16 at most"),
    ("/blocks/0/rank", |v| *v = json!(-1), "invalid value: integer `-1`"),
    ("/blocks/0/modules/0/in_features", |v| *v = json!(1_u64 << 62), "in_features is 4611686018427387904"),
    ("/blocks/0/modules/0/out_features", |v| *v = json!(0), "out_features is 0"),
    ("/blocks/0/alpha", |v| *v = json!(0), "alpha is 0.0 with rank"),
    ("/blocks/0/alpha", |v| *v = json!(-8), "alpha is -8.0 with rank"),
    ("/blocks/0/modules/0/alpha", |v| *v = json!(0), "alpha is 0.0 with rank"),
    ("/blocks/0/modules/0/alpha", |v| *v = json!(-8), "alpha is -8.0 with rank"),
    ("/blocks/0/modules/0/alpha", |v| *v = json!(1e38), "alpha is 1e38 with rank"),
    ("/blocks/0/modules/0/alpha", |v| *v = json!(1e-38), "alpha is 1e-38 with rank"),
    ("/blocks/0/modules/0/alpha", |v| *v = json!(9.5), "and that of block 1 is"),
    ("/blocks/0/modules/0/alpha", |v| *v = Value::Null, "invalid type: null"),
    ("/blocks/0/modules/1/module", |v| *v = json!(QUERY), "is planned twice"),
    ("/blocks/1/block", |v| *v = json!(3), "its blocks must be numbered from 1 on, and 3 stands at 2"),
    ("/hidden_states/1/index", |v| *v = json!(2), "2 blocks lie between 3 hidden states"),
];

/// Edits that make a plan contradict the export.
#[cfg(feature = "train")]
const AGAINST_THE_EXPORT: [Edit; 8] = [
    ("/blocks/0/modules/0/in_features", |v| *v = json!(17), "in_features is 17, and the weight has 16 in the export"),
    ("/blocks/0/modules/0/weight", |v| *v = json!("nothing"), "the block has no weight nothing in the export"),
    ("/blocks/0/modules/0/node", |v| *v = json!("/nowhere"), "the block has no node /nowhere in the export; it is /"),
    (
        "/blocks/0/modules/0/module",
        |v| *v = json!("bert.query"),
        "belongs to the module bert.encoder.layer.0.attention.self.query",
    ),
    (
        "/blocks/0/modules/0/checkpoint_tensor",
        |v| *v = json!("x.weight"),
        "checkpoint_tensor is x.weight, and the weight is bert.",
    ),
    (
        "/blocks/0/modules/0/checkpoint_tensor",
        |v| *v = Value::Null,
        "checkpoint_tensor is none, and the weight is bert.",
    ),
    ("/blocks/0/modules/0/copies", |v| *v = json!(["x"]), "copies are x, and the weight has none"),
    (
        "/hidden_states/1/tensor",
        |v| *v = json!("nothing"),
        "with the hidden states hidden_states.0, nothing, hidden_states.2",
    ),
];

fn edited(plan: &Value, (pointer, change, _): &Edit) -> Value {
    let mut edited = plan.clone();
    match edited.pointer_mut(pointer) {
        Some(value) => change(value),
        // A field that is left out when empty.
        None => {
            let (object, field) = pointer.rsplit_once('/').unwrap();
            let mut value = Value::Null;
            change(&mut value);
            edited.pointer_mut(object).unwrap()[field] = value;
        }
    }
    edited
}

/// Rank 2 everywhere, consistently: a reference for edits of a few fields.
fn with_rank(plan: &Value, rank: usize) -> Value {
    let mut plan = plan.clone();
    for block in plan["blocks"].as_array_mut().unwrap() {
        (block["rank"], block["alpha"]) = (json!(rank), json!(8.0 * rank as f64));
        for module in block["modules"].as_array_mut().unwrap() {
            (module["rank"], module["alpha"]) = (json!(rank), json!(8.0 * rank as f64));
        }
    }
    plan
}

#[test]
fn a_plan_that_contradicts_itself_is_refused_with_its_line() {
    if library().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let plan = with_rank(&planned(folder.path()), 2);
    let (file, page) = (folder.path().join("edited.json"), folder.path().join("page.html"));
    for edit in &AGAINST_ITSELF {
        let line = write(&plan, &edited(&plan, edit), &file);
        let said = mendable(&["report", file.to_str().unwrap(), "-o", page.to_str().unwrap()]);
        assert!(said.contains(edit.2), "{}: {said}", edit.0);
        // Which of two contradicting values is meant is unknown: the line is that of either.
        let told =
            said.split("line ").nth(1).map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
        let told: usize = told.unwrap_or_else(|| panic!("no line: {said}")).parse().unwrap();
        assert!(
            told.abs_diff(line) < 40 || edit.0.starts_with("/hidden") || edit.0.ends_with("/block"),
            "{line}: {said}"
        );
        assert!(!page.exists());
    }
    // What follows from an edited field is computed again.
    fs::write(&file, with_rank(&plan, 3).to_string()).unwrap();
    let output = gelora().arg("report").arg(&file).arg("-o").arg(&page).args(["--json"]).assert().success();
    let drawn: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(drawn["plans"][0]["adapter_parameters"], 2 * 4 * 3 * (16 + 16));
}

#[cfg(feature = "train")]
#[test]
fn a_plan_that_contradicts_the_export_is_refused_and_one_that_does_not_is_trained() {
    if library().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let plan = with_rank(&planned(folder.path()), 2);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model, data, out) = (export("tiny_encoder"), path("rows.tsv"), path("adapter"));
    let arguments = |plan: &str| -> Vec<String> {
        let words = [
            "train",
            model.to_str().unwrap(),
            "--plan",
            plan,
            "--data",
            &data,
            "--text",
            "sentence",
            "--label",
            "label",
        ];
        words
            .iter()
            .chain(&["--device", "cpu", "--maximum-steps", "2", "-q", "-o", &out])
            .map(|&word| word.to_owned())
            .collect()
    };
    let refused = |name: &str| {
        let arguments = arguments(&path(name));
        mendable(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for edit in &AGAINST_THE_EXPORT {
        let line = write(&plan, &edited(&plan, edit), Path::new(&path("edited.json")));
        let said = refused("edited.json");
        assert!(said.contains(edit.2), "{}: {said}", edit.0);
        let near = |number: usize| said.contains(&format!("edited.json, line {number}:"));
        assert!(edit.0.starts_with("/hidden") || (line.saturating_sub(1)..line + 2).any(near), "{line}: {said}");
        assert!(!Path::new(&out).exists());
    }
    // A folder stands for the plan in it. Contradicting options are reported before the rows are read.
    fs::create_dir(path("empty")).unwrap();
    let said = refused("empty");
    let empty = path("empty");
    assert_eq!(
        said,
        format!(
            "{empty} holds no plan.json; make one with `gelora plan … -o {empty}`, or name the folder that holds it"
        )
    );
    let missing = path("missing.tsv");
    let planned = folder.path().to_str().unwrap();
    let both = ["train", model.to_str().unwrap(), "--plan", planned, "--data", &missing, "-o", &out, "--head", "mean"];
    let said = mendable(&both);
    assert!(said.contains("has a head of its own (`logits`), which is trained; leave out --head"), "{said}");
    // Ranks that agree count: rank 3 everywhere, but for a module that was taken out. The configuration beside is not read.
    let mut good = with_rank(&plan, 3);
    good["blocks"][0]["modules"].as_array_mut().unwrap().remove(0);
    fs::write(path("plan.json"), serde_json::to_string_pretty(&good).unwrap()).unwrap();
    let output = gelora().args(arguments(&path("plan.json"))).assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("adapter_config.json has another ") && said.contains("what is trained is what the plan says"),
        "{said}"
    );
    let config: Value = serde_json::from_slice(&fs::read(path("adapter/adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"], &config["rank_pattern"]), (&json!(3), &json!(24), &json!({})));
    let targets: Vec<&str> =
        config["target_modules"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(targets.len() == 7 && !targets.contains(&QUERY), "{targets:?}");
}

#[test]
fn ranks_stay_within_the_weights() {
    if library().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.tsv");
    write_rows(&data, 200);
    let plan = |more: &[&str]| -> Value {
        let mut command = gelora();
        command
            .arg("plan")
            .arg(export("tiny_encoder"))
            .arg("--data")
            .arg(&data)
            .args(["--text", "sentence", "--json", "-q"]);
        command.args(["--subsamples", "0", "--device", "cpu", "-o"]).arg(folder.path().join("out")).args(more);
        serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
    };
    for more in [&["--offset", "18446744073709551615"][..], &["--minimum-rank", "64"]] {
        let plan = plan(more);
        for block in plan["blocks"].as_array().unwrap() {
            assert_eq!((&block["rank"], &block["modules"][0]["rank"]), (&json!(16), &json!(16)));
            assert!(block["reason"].as_str().unwrap().contains("to 16, as wide as its weights are"), "{block}");
        }
        // gelora reads what it writes.
        gelora()
            .args(["report", "-q"])
            .arg(folder.path().join("out"))
            .arg("-o")
            .arg(folder.path().join("page.html"))
            .assert()
            .success();
    }
}

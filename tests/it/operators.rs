//! The operators against the ONNX project's own node tests: every case of every operator that the program claims runs, or is
//! listed in `operator_skips.txt` with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gelora::onnx::Model;
use gelora::train::{Program, ProgramOptions, supported_operators};
use tch::{Device, Kind, Tensor};

use crate::program::{difference, folder, read};
use crate::python::{check, text};

/// Reasons in brackets, each followed by the cases that it applies to.
const SKIPS: &str = include_str!("operator_skips.txt");

/// The reason of every skipped case.
fn skips() -> BTreeMap<&'static str, &'static str> {
    let mut reason = "";
    let mut skips = BTreeMap::new();
    for line in SKIPS.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(text) => reason = text,
            None => assert!(skips.insert(line, reason).is_none(), "{line} is listed twice"),
        }
        assert!(!reason.is_empty(), "{line} is listed without a reason");
    }
    skips
}

fn run_case(path: &Path) -> Result<(), String> {
    let (tensors, metadata) = read(&path.with_extension("safetensors"));
    let model = Model::open(path).map_err(|e| e.to_string())?;
    let options = ProgramOptions { fuse: false, ..ProgramOptions::default() };
    let program = Program::new(&model, Device::Cpu, options).map_err(|e| e.to_string())?;
    let number = |name: &str| metadata[name].parse::<f64>().expect("a number");
    let outputs: Vec<&str> = model.graph.outputs.iter().map(|o| o.name.as_str()).filter(|n| !n.is_empty()).collect();
    for data_set in 0..number("data_sets") as usize {
        let prefix = if data_set == 0 { String::new() } else { format!("{data_set}.") };
        let named = model.graph.inputs.iter().enumerate().filter(|(_, input)| !input.name.is_empty());
        let inputs: Vec<(&str, Tensor)> = named
            .map(|(i, input)| (input.name.as_str(), tensors[&format!("in.{prefix}{i}")].shallow_clone()))
            .collect();
        // Twice: the second run reads the values that depend on shapes alone from the cache.
        for _ in 0..2 {
            let found = tch::no_grad(|| program.run(&inputs, &outputs)).map_err(|e| e.to_string())?;
            for (index, found) in found.iter().enumerate() {
                let expected = &tensors[&format!("out.{prefix}{index}")];
                // The reference rounds half precision at other points than libtorch: one unit in the last place is allowed.
                let unit = match expected.kind() {
                    Kind::BFloat16 => 2f64.powi(-8),
                    Kind::Half => 2f64.powi(-11),
                    _ => 0.0,
                };
                let (relative, absolute) = (number("rtol").max(2.0 * unit), number("atol").max(unit));
                if let Some(problem) = difference(found, expected, relative, absolute) {
                    return Err(format!("output {index}: {problem}"));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn operators_pass_the_node_tests_of_onnx() {
    let folder = folder("operator_cases");
    // Removes the cases of an earlier version of the package.
    let _ = std::fs::remove_dir_all(&folder);
    let operators = supported_operators();
    let mut arguments = vec![text(&folder)];
    arguments.extend(operators.iter().map(String::as_str));
    if !check("operator_cases.py", &arguments) {
        return;
    }
    let list = std::fs::read(folder.join("cases.json")).expect("the script made it");
    let cases: BTreeMap<String, Option<String>> = serde_json::from_slice(&list).expect("names and reasons");
    let skips = skips();
    let mut problems = Vec::new();
    let mut passed = BTreeSet::new();
    for (name, obstacle) in &cases {
        let result = match obstacle {
            Some(obstacle) => Err(format!("cannot be written: {obstacle}")),
            None => run_case(&folder.join(format!("{name}.onnx"))),
        };
        match (result, skips.get(name.as_str())) {
            (Ok(()), None) => _ = passed.insert(name),
            (Ok(()), Some(reason)) => problems.push(format!("{name}: passes, though it is listed ({reason})")),
            (Err(_), Some(_)) => {}
            (Err(problem), None) => problems.push(format!("{name}: {problem}")),
        }
    }
    let gone = skips.keys().filter(|name| !cases.contains_key(**name));
    problems.extend(gone.map(|name| format!("{name}: is listed and does not exist")));
    println!("{} of {} cases pass, {} are listed in operator_skips.txt", passed.len(), cases.len(), skips.len());
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    assert!(passed.len() > 1000, "only {} cases ran", passed.len());
}

//! The findings of `gelora inspect` as text.

use crate::onnx::Role;
use crate::report;
use crate::runtime::SelfCheck;
use crate::workflow::{BlockFacts, CheckpointFacts, Inspection, ValueFacts, WeightFacts};

/// The findings, with a table of the blocks or, with `weights`, of all their weights.
pub(crate) fn describe(inspection: &Inspection, weights: bool) -> String {
    let mut text = report::facts(&facts(inspection));
    if !inspection.blocks.is_empty() {
        text += "\n\n";
        text += &if weights { weight_table(inspection) } else { block_table(inspection) };
    }
    text
}

fn facts(inspection: &Inspection) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("export", format!("{} ({:.1} MB, {} nodes)", inspection.onnx, inspection.megabytes, inspection.nodes)),
        ("made by", format!("{}, operator set {}", inspection.producer, inspection.opset)),
    ];
    if !inspection.external_files.is_empty() {
        facts.push(("weights in", inspection.external_files.join(", ")));
    }
    facts.push(("checkpoint", inspection.checkpoint.as_ref().map_or_else(|| "none".into(), checkpoint)));
    facts.push(("tokenizer", inspection.tokenizer.clone().unwrap_or_else(|| "none".into())));
    facts.push(("inputs", values(&inspection.inputs)));
    let states: Vec<&str> = inspection.hidden_states.iter().map(|state| state.tensor.as_str()).collect();
    let others = inspection.outputs.iter().filter(|value| !states.contains(&value.name.as_str()));
    facts.push(("outputs", values(others)));
    facts.push(("hidden states", hidden_states(inspection)));
    if !inspection.hidden_states.is_empty() {
        facts.push(("found as", inspection.found.clone()));
    }
    if let Some(head) = &inspection.head {
        let made_from = match head.tensors.as_slice() {
            [] => "no weights of its own that can be trained (tied to the embeddings, or quantized)".to_owned(),
            tensors => tensors.join(", "),
        };
        facts.push(("head", format!("{} from {made_from}", head.outputs.join(", "))));
    }
    if let Some(check) = &inspection.self_check {
        facts.extend(check_facts(check));
    }
    facts.extend(inspection.notes.iter().map(|note| ("note", note.clone())));
    facts.extend(inspection.obstacles.iter().map(|obstacle| ("in the way", obstacle.clone())));
    facts
}

fn hidden_states(inspection: &Inspection) -> String {
    match (inspection.hidden_states.first(), inspection.hidden_states.last()) {
        (Some(first), Some(last)) => {
            let width = last.width.map(|width| format!(", width {width}")).unwrap_or_default();
            format!("{} to {} ({}{width})", first.tensor, last.tensor, inspection.hidden_states.len())
        }
        _ => "none".to_owned(),
    }
}

/// A line for every block, with the roles of its weights.
fn block_table(inspection: &Inspection) -> String {
    let row = |block: &BlockFacts| {
        let parameters: usize = block.weights.iter().map(|weight| weight.in_features * weight.out_features).sum();
        vec![
            block.block.to_string(),
            block.nodes.to_string(),
            block.weights.len().to_string(),
            parameters.to_string(),
            roles(block),
        ]
    };
    let rows: Vec<Vec<String>> = inspection.blocks.iter().map(row).collect();
    report::table(&["block", "nodes", "weights", "parameters", "roles"], &[0, 1, 2, 3], &rows)
}

/// Number of weights per role in a block, in the order of first occurrence.
fn roles(block: &BlockFacts) -> String {
    let mut roles: Vec<(Role, usize)> = Vec::new();
    for weight in &block.weights {
        match roles.iter_mut().find(|(role, _)| *role == weight.role) {
            Some((_, count)) => *count += 1,
            None => roles.push((weight.role, 1)),
        }
    }
    let role = |(role, count): &(Role, usize)| match count {
        1 => role.to_string(),
        _ => format!("{count} × {role}"),
    };
    roles.iter().map(role).collect::<Vec<_>>().join(", ")
}

/// A line for every adaptable weight.
fn weight_table(inspection: &Inspection) -> String {
    let row = |block: &BlockFacts, weight: &WeightFacts| {
        vec![
            block.block.to_string(),
            weight.role.to_string(),
            weight.module.clone().unwrap_or_else(|| weight.node.clone()),
            format!("{} → {}", weight.in_features, weight.out_features),
            weight.checkpoint_tensor.clone().unwrap_or_else(|| "–".into()),
        ]
    };
    let rows: Vec<Vec<String>> =
        inspection.blocks.iter().flat_map(|block| block.weights.iter().map(|weight| row(block, weight))).collect();
    report::table(&["block", "role", "module", "shape", "checkpoint tensor"], &[0], &rows)
}

fn checkpoint(facts: &CheckpointFacts) -> String {
    let all = facts.matched_by_content + facts.matched_by_name + facts.quantized + facts.unmatched;
    let mut text = format!(
        "{} ({} tensors); {} of {all} weights of the blocks found by their values",
        facts.files.join(", "),
        facts.tensors,
        facts.matched_by_content
    );
    if facts.matched_by_name > 0 {
        text += &format!(", {} by their names", facts.matched_by_name);
    }
    if facts.quantized > 0 {
        text += &format!(", {} by their names (quantized)", facts.quantized);
    }
    text
}

/// Inputs or outputs, with their types and shapes.
fn values<'a>(values: impl IntoIterator<Item = &'a ValueFacts>) -> String {
    let value = |value: &ValueFacts| match (&value.data_type, &value.shape) {
        (Some(data_type), Some(shape)) => format!("{} {data_type}[{shape}]", value.name),
        _ => value.name.clone(),
    };
    let values: Vec<String> = values.into_iter().map(value).collect();
    if values.is_empty() { "none".to_owned() } else { values.join(", ") }
}

fn check_facts(check: &SelfCheck) -> Vec<(&'static str, String)> {
    let line = |holds: bool, difference: f32| match (holds, difference == 0.0) {
        _ if check.not_finite.is_some() => "not known: hidden states are infinite or not a number".to_owned(),
        (true, true) => "yes, to the bit".to_owned(),
        (true, false) => format!("yes (largest relative difference {difference:.1e})"),
        (false, _) => format!("no (largest relative difference {difference:.1e})"),
    };
    vec![
        ("deterministic", line(check.deterministic, check.between_runs.relative)),
        ("same with padding", line(check.padding_invariant, check.between_paddings.relative)),
        ("rows independent", line(check.batch_invariant, check.between_batches.relative)),
    ]
}

//! Separate tensors for a head that shares them or lost them on export.
//!
//! A fresh head has a bias of zeros. The classic exporter stores equal tensors once and copies them by `Identity`; the
//! newer one leaves a bias of zeros out. Before such a bias can be trained or merged it needs an initializer in the file.

use std::collections::HashSet;

use super::linear::LinearFinder;
use super::splice::with_input;
use super::{DataType, Edit, Head, LinearLayer, Model, OnnxError, Transformer};

/// Gives head tensor number `tensor` an initializer of its own with these values, in the type of the shared one: every node
/// of the head that reads the shared one then reads the new one. Returns the name of the new initializer.
///
/// # Errors
/// When the number of values differs from that of the tensor.
pub fn own_tensor(
    edit: &mut Edit,
    model: &Transformer,
    head: &Head,
    tensor: usize,
    values: &[f32],
) -> Result<String, OnnxError> {
    let fail = |reason: String| OnnxError::Edit { path: model.path().into(), reason };
    let Some(wanted) = head.tensors.get(tensor) else {
        return Err(fail(format!("its head has no tensor number {tensor}")));
    };
    let dims = &model.graph.initializers[wanted.index].dims;
    if dims.iter().product::<usize>() != values.len() {
        return Err(fail(format!("`{}` has shape {dims:?}, not {} values", wanted.name, values.len())));
    }
    let topology = model.topology();
    let finder = LinearFinder::new(&topology);
    let name = free_name(model, &wanted.name);
    let module = wanted.name.rsplit_once('.').map(|(module, _)| module);
    let mut found = false;
    for &node in &head.nodes {
        let slots = model.graph.nodes[node].inputs.iter().enumerate();
        let slot = slots.filter(|(_, input)| finder.source(input).is_some_and(|s| s.initializer == wanted.index));
        for (slot, _) in slot {
            // Several modules of the head may share the tensor: only the nodes of this one change.
            let own = super::linear::module_of(&model.graph.nodes[node], "");
            if own.as_deref().zip(module).is_some_and(|(own, module)| own != module) {
                continue;
            }
            if edit.rewrites(node) {
                return Err(fail(format!(
                    "two tensors of node {node} are shared; export the model with a head of its own"
                )));
            }
            let encoding = with_input(model, node, slot, Some(&name));
            edit.rewrite_node(node, Some(encoding.ok_or_else(|| fail(format!("node {node} cannot be rewritten")))?));
            found = true;
        }
    }
    if !found {
        return Err(fail(format!("no node of its head reads `{}`", wanted.initializer)));
    }
    let data_type = model.graph.initializers[wanted.index].data_type;
    edit.add_initializer(&name, data_type, dims, &bytes(model, &wanted.name, data_type, values)?);
    Ok(name)
}

/// Gives a linear layer of the head, a `Gemm` without a bias, a bias `[out]`. Returns the name of the new initializer.
///
/// # Errors
/// When the layer has a bias or is not a `Gemm`, or the number of values is not its width.
pub fn own_bias(edit: &mut Edit, model: &Model, linear: &LinearLayer, values: &[f32]) -> Result<String, OnnxError> {
    let fail = |reason: String| OnnxError::Edit { path: model.path().into(), reason };
    let node = &model.graph.nodes[linear.node];
    if edit.rewrites(linear.node) || linear.bias.is_some() || !node.is("Gemm") || values.len() != linear.out_features {
        let reason = format!("node `{}` cannot take a bias of {} values", linear.node_name, values.len());
        return Err(fail(format!("{reason}; export the model with a head whose bias is not zero")));
    }
    let module = linear.module.as_deref().unwrap_or(&linear.weight);
    let name = free_name(model, &format!("{module}.bias"));
    let encoding = with_input(model, linear.node, 2, Some(&name));
    edit.rewrite_node(linear.node, Some(encoding.ok_or_else(|| fail("a node cannot be rewritten".into()))?));
    let data_type = model.graph.initializers[linear.weight_index].data_type;
    edit.add_initializer(&name, data_type, &[linear.out_features], &bytes(model, &name, data_type, values)?);
    Ok(name)
}

/// The values in the type of the tensor they replace: ONNX Runtime refuses operations on mixed types.
fn bytes(model: &Model, name: &str, data_type: DataType, values: &[f32]) -> Result<Vec<u8>, OnnxError> {
    let values = values.iter();
    Ok(match data_type {
        DataType::Float => values.flat_map(|value| value.to_le_bytes()).collect(),
        DataType::Float16 => values.flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
        DataType::BFloat16 => values.flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
        DataType::Double => values.flat_map(|value| f64::from(*value).to_le_bytes()).collect(),
        other => {
            let reason = format!("`{name}` would be stored as {}, which holds no trained values", other.name());
            return Err(OnnxError::Edit { path: model.path().into(), reason });
        }
    })
}

/// The name itself, with a suffix if it is already used.
fn free_name(model: &Model, name: &str) -> String {
    let graph = &model.graph;
    let mut taken: HashSet<&str> = graph.initializers.iter().map(|tensor| tensor.name.as_str()).collect();
    taken.extend(graph.nodes.iter().flat_map(|node| node.outputs.iter().map(String::as_str)));
    taken.extend(graph.inputs.iter().map(|input| input.name.as_str()));
    let mut free = name.to_owned();
    while taken.contains(free.as_str()) {
        free.push_str(".own");
    }
    free
}

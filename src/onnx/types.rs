//! Element types and widths of values that the file does not declare.

use super::graph::{Attribute, Dimension};
use super::linear::LinearFinder;
use super::tensor::DataType;
use super::{Model, Node, OnnxError, Topology, Trait, Transformer};

/// The element type of a value: as declared, else as its producer implies. `None` where that cannot be determined.
pub(super) fn element_type(model: &Model, topology: &Topology, value: &str) -> Option<DataType> {
    let graph = &model.graph;
    let mut value = value;
    // Every step moves one value up, so the number of nodes bounds the path.
    for _ in 0..=graph.nodes.len() {
        let declared = graph.outputs.iter().chain(&graph.value_info).chain(&graph.inputs);
        if let Some(found) = declared.filter(|info| info.name == value).find_map(|info| info.data_type) {
            return Some(found);
        }
        if let Some(tensor) = topology.initializer(value) {
            return Some(tensor.data_type);
        }
        match step(topology.producer_node(value)?, value) {
            Step::Known(found) => return found,
            Step::As(above) => value = above?,
        }
    }
    None
}

enum Step<'a> {
    Known(Option<DataType>),
    /// The type is that of another value.
    As(Option<&'a str>),
}

fn step<'g>(node: &'g Node, value: &str) -> Step<'g> {
    let input = |index: usize| Step::As(node.inputs.get(index).map(String::as_str));
    let known = |data_type| Step::Known(Some(data_type));
    match node.op_type.as_str() {
        "Cast" => Step::Known(i32::try_from(node.int("to", 0)).ok().map(DataType::from_code)),
        "Constant" => Step::Known(match node.attributes.first() {
            Some((_, Attribute::Tensor(tensor))) => Some(tensor.data_type),
            Some((_, Attribute::Float(_) | Attribute::Floats(_))) => Some(DataType::Float),
            Some((_, Attribute::Int(_) | Attribute::Ints(_))) => Some(DataType::Int64),
            _ => None,
        }),
        "ConstantOfShape" => Step::Known(Some(node.tensor("value").map_or(DataType::Float, |value| value.data_type))),
        "DynamicQuantizeLinear" if node.outputs.get(1).is_some_and(|scale| scale == value) => known(DataType::Float),
        "DynamicQuantizeLinear" => known(DataType::Uint8),
        "If" | "Loop" | "Scan" => Step::Known(None),
        _ => node
            .traits()
            .iter()
            .find_map(|own| match own {
                Trait::Gives(data_type) => Some(known(*data_type)),
                Trait::TypeOf(place) => Some(input(*place)),
                _ => None,
            })
            .unwrap_or_else(|| input(0)),
    }
}

/// Machine epsilon of the coarsest element type among the hidden states and what they are copies of.
///
/// # Errors
/// When there are no hidden states.
pub fn precision_of(model: &Transformer) -> Result<f32, OnnxError> {
    let topology = model.topology();
    let names = model.states()?.aliases(&topology);
    let epsilon = |name: &&str| match element_type(model, &topology, name) {
        Some(DataType::Float16) => half::f16::EPSILON.to_f32(),
        Some(DataType::BFloat16) => half::bf16::EPSILON.to_f32(),
        _ => f32::EPSILON,
    };
    Ok(names.iter().flatten().map(epsilon).fold(f32::EPSILON, f32::max))
}

/// Size of the last dimension of a value `[batch, sequence, width]`: as declared, else from the norms and linear layers
/// around it.
pub(super) fn width(model: &Model, topology: &Topology, finder: &LinearFinder, value: &str) -> Option<usize> {
    let graph = &model.graph;
    let declared = graph.outputs.iter().chain(&graph.value_info).filter(|info| info.name == value);
    let shape = declared.filter_map(|info| info.shape.as_deref()).find_map(|shape| match shape.last() {
        Some(Dimension::Fixed(width)) => Some(*width),
        _ => None,
    });
    shape.or_else(|| made_with(topology, finder, value)).or_else(|| {
        let users = topology.consumers(value).iter();
        users.filter_map(|user| taken_by(topology, finder, *user, value)).next()
    })
}

/// The width from the producer of the value: a norm, a linear layer, or a sum with the result of one.
fn made_with(topology: &Topology, finder: &LinearFinder, value: &str) -> Option<usize> {
    const STEPS: usize = 64;
    let mut open = vec![value];
    let mut seen = std::collections::HashSet::new();
    while let Some(value) = open.pop() {
        let Some(index) = topology.producer(value) else { continue };
        let node = &topology.graph.nodes[index];
        if !seen.insert(index) || seen.len() > STEPS {
            continue;
        }
        if let Some(linear) = finder.linear(index) {
            return Some(linear.out_features);
        }
        if let Some(width) = norm_width(topology, finder, node) {
            return Some(width);
        }
        if node.has_any(&[Trait::Arithmetic, Trait::Copies]) || node.is("Dropout") {
            open.extend(node.inputs.iter().map(String::as_str));
        }
    }
    None
}

fn taken_by(topology: &Topology, finder: &LinearFinder, user: usize, value: &str) -> Option<usize> {
    let linear = finder.linear(user).filter(|linear| linear.input == value);
    linear.map(|linear| linear.in_features).or_else(|| norm_width(topology, finder, &topology.graph.nodes[user]))
}

/// The width of the scale of a norm.
fn norm_width(topology: &Topology, finder: &LinearFinder, node: &Node) -> Option<usize> {
    let scale = finder.source(node.norm_scale()?)?;
    topology.graph.initializers[scale.initializer].dims.last().copied()
}

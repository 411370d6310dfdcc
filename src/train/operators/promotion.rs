//! Type promotion where floats of different types meet in one operation.
//!
//! Where an export is in half precision, what is trained in it (a head, the factors of adapters) stays in float32: steps of an
//! optimizer are smaller than half precision can hold. So a float32 weight meets activations in half precision. As PyTorch's
//! autocast does for sums, and PEFT for its factors, the narrower values are widened, and so is the result.

use tch::{Kind, Tensor};

use super::{Building, Built, Call, OpError, Operator};

/// Operators whose float inputs may differ in type by their specification: they handle it themselves.
const OF_MANY_TYPES: [&str; 11] = [
    "Attention",
    "BatchNormalization",
    "CastLike",
    "Dropout",
    "If",
    "Loop",
    "OneHot",
    "Pow",
    "RMSNormalization",
    "Range",
    "SimplifiedLayerNormalization",
];

/// The kernel of a node. Float inputs of different types are converted to the widest of them.
pub(crate) fn build(operator: &Operator, building: &Building<'_>) -> Built {
    let kernel = (operator.make)(building)?;
    if building.node.inputs.len() < 2 || OF_MANY_TYPES.contains(&operator.name) {
        return Ok(kernel);
    }
    Ok(Box::new(move |call| match widest(call.inputs) {
        None => kernel(call),
        Some(kind) => {
            let widened = call.inputs.iter().map(|input| input.map(|input| widen(input, kind)).transpose());
            let widened = widened.collect::<Result<Vec<_>, OpError>>()?;
            let inputs: Vec<Option<&Tensor>> = widened.iter().map(Option::as_ref).collect();
            kernel(&Call { inputs: &inputs, dropout: call.dropout })
        }
    }))
}

/// The widest float type among inputs of several types; `None` where they all have the same.
fn widest(inputs: &[Option<&Tensor>]) -> Option<Kind> {
    let mut kinds = inputs.iter().flatten().map(|input| input.kind()).filter(|kind| width(*kind).is_some());
    let first = kinds.next()?;
    let mut widest = first;
    let mut differ = false;
    for kind in kinds.filter(|kind| *kind != first) {
        differ = true;
        widest = match (widest, kind) {
            // Neither type contains the other.
            (Kind::Half, Kind::BFloat16) | (Kind::BFloat16, Kind::Half) => Kind::Float,
            (wide, kind) if width(kind) > width(wide) => kind,
            (wide, _) => wide,
        };
    }
    differ.then_some(widest)
}

fn width(kind: Kind) -> Option<u8> {
    match kind {
        Kind::Half | Kind::BFloat16 => Some(2),
        Kind::Float => Some(4),
        Kind::Double => Some(8),
        _ => None,
    }
}

fn widen(input: &Tensor, kind: Kind) -> Result<Tensor, OpError> {
    let own = input.f_kind()?;
    Ok(if own == kind || width(own).is_none() { input.shallow_clone() } else { input.f_to_kind(kind)? })
}

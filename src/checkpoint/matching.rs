//! Matching constants of the export to checkpoint tensors: by content, which is certain, else by name.

use super::found::{MatchedBy, WeightMatch};
use super::slices::{match_slices, rename};
use super::values::{Equality, element_type};
use super::{Checkpoint, CheckpointError, ElementType, TensorInfo};
use crate::onnx::{DataType, Head, LinearLayer, Model, WeightLayout};

/// The checkpoint tensors of linear layers. `None` where neither content nor name decides.
///
/// # Errors
/// When the export cannot be read.
pub fn match_weights(
    model: &Model,
    checkpoint: &Checkpoint,
    wanted: &[&LinearLayer],
) -> Result<Vec<Option<WeightMatch>>, CheckpointError> {
    let mut found = Vec::with_capacity(wanted.len());
    for linear in wanted {
        let name = linear.module.as_ref().map(|module| format!("{module}.weight"));
        // Where only names agree and the matrix is square, the shape does not decide: PyTorch's `Linear` is [out, in].
        let turned = linear.layout == WeightLayout::InOut;
        // A packed weight has another shape than the weight that it encodes.
        let shape = if linear.quantized { Some(linear.weight_shape()) } else { None };
        let matched = find(model, checkpoint, linear.weight_index, name.as_deref(), turned, shape)?;
        found.push(matched.map(|matched| match linear.quantized {
            true => WeightMatch { how: MatchedBy::Quantized, ..matched },
            false => matched,
        }));
    }
    match_slices(model, checkpoint, wanted, &mut found)?;
    rename(model, checkpoint, wanted, &mut found);
    Ok(found)
}

/// Whether some tensor of the checkpoint has the values of a constant.
pub(super) fn is_tensor(model: &Model, checkpoint: &Checkpoint, initializer: usize) -> Result<bool, CheckpointError> {
    let tensor = &model.graph.initializers[initializer];
    let constant = Constant { bytes: model.bytes(tensor)?, data_type: tensor.data_type, dims: &tensor.dims };
    for candidate in checkpoint.tensors() {
        if constant.is(checkpoint, candidate)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The initializers that hold the values of a checkpoint tensor, and whether transposed.
///
/// # Errors
/// When the export cannot be read, or there is no such tensor.
pub fn initializers_of(
    model: &Model,
    checkpoint: &Checkpoint,
    name: &str,
) -> Result<Vec<(usize, bool)>, CheckpointError> {
    let Some(tensor) = checkpoint.tensor(name) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (index, initializer) in model.graph.initializers.iter().enumerate() {
        let size: usize = initializer.dims.iter().product();
        if element_type(initializer.data_type).is_none() || size != tensor.shape.iter().product::<usize>() {
            continue;
        }
        let constant =
            Constant { bytes: model.bytes(initializer)?, data_type: initializer.data_type, dims: &initializer.dims };
        if let Some(transposed) = constant.is(checkpoint, tensor)? {
            found.push((index, transposed));
        }
    }
    Ok(found)
}

/// The other tensors of a checkpoint with the shape and the bytes of this one.
///
/// # Errors
/// When the checkpoint has no such tensor.
pub fn equal_tensors(checkpoint: &Checkpoint, name: &str) -> Result<Vec<String>, CheckpointError> {
    let bytes = checkpoint.bytes(name)?;
    let Some(tensor) = checkpoint.tensor(name) else { return Ok(Vec::new()) };
    let mut equal = Vec::new();
    for other in checkpoint.tensors() {
        let alike = other.name != name && (&other.shape, &other.element_type) == (&tensor.shape, &tensor.element_type);
        if alike && checkpoint.bytes(&other.name)? == bytes {
            equal.push(other.name.clone());
        }
    }
    Ok(equal)
}

/// The checkpoint tensors of the head, one per entry of [`Head::tensors`].
///
/// # Errors
/// When the export cannot be read.
pub fn match_head(
    model: &Model,
    checkpoint: &Checkpoint,
    head: &Head,
) -> Result<Vec<Option<WeightMatch>>, CheckpointError> {
    let tensors = head.tensors.iter();
    tensors.map(|tensor| find(model, checkpoint, tensor.index, Some(&tensor.name), tensor.transposed, None)).collect()
}

fn find(
    model: &Model,
    checkpoint: &Checkpoint,
    initializer: usize,
    name: Option<&str>,
    turned: bool,
    shape: Option<[usize; 2]>,
) -> Result<Option<WeightMatch>, CheckpointError> {
    let tensor = &model.graph.initializers[initializer];
    let dims = shape.as_ref().map_or(tensor.dims.as_slice(), |shape| shape.as_slice());
    let constant = Constant { bytes: model.bytes(tensor)?, data_type: tensor.data_type, dims: &tensor.dims };
    let named = name.and_then(|name| by_name(checkpoint, name, dims));
    if let Some(named) = named
        && let Some(transposed) = constant.is(checkpoint, named)?
    {
        return Ok(Some(WeightMatch::whole(named, transposed, MatchedBy::Content)));
    }
    let mut same = Vec::new();
    for candidate in checkpoint.tensors() {
        if let Some(transposed) = constant.is(checkpoint, candidate)? {
            same.push(WeightMatch::whole(candidate, transposed, MatchedBy::Content));
        }
    }
    // Two tensors with the same values (untrained biases, say) cannot be distinguished by content.
    if same.len() == 1 {
        return Ok(same.pop());
    }
    let how = MatchedBy::Name;
    Ok(named.map(|named| {
        let transposed = match (dims, named.shape.as_slice()) {
            ([a, b], [c, d]) if a != b => (a, b) == (d, c) && (a, b) != (c, d),
            ([_, _], _) => turned,
            _ => false,
        };
        WeightMatch::whole(named, transposed, how)
    }))
}

/// The tensor named by the path or by its longest suffix at a dot; else the only one whose name ends with the path.
fn by_name<'c>(checkpoint: &'c Checkpoint, path: &str, dims: &[usize]) -> Option<&'c TensorInfo> {
    let ends_with =
        |long: &str, short: &str| long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let fits = |tensor: &&TensorInfo| same_shape(dims, &tensor.shape) || same_shape(dims, &turned(&tensor.shape));
    let tensors = || checkpoint.tensors().iter().filter(fits);
    let shorter = tensors().filter(|tensor| ends_with(path, &tensor.name)).max_by_key(|tensor| tensor.name.len());
    shorter.or_else(|| {
        let mut longer = tensors().filter(|tensor| ends_with(&tensor.name, path));
        let first = longer.next()?;
        longer.next().is_none().then_some(first)
    })
}

fn same_shape(a: &[usize], b: &[usize]) -> bool {
    a == b
}

fn turned(shape: &[usize]) -> Vec<usize> {
    shape.iter().rev().copied().collect()
}

/// A constant of the export.
struct Constant<'a> {
    bytes: &'a [u8],
    data_type: DataType,
    dims: &'a [usize],
}

impl Constant<'_> {
    /// Whether the constant is this tensor, and whether transposed. Values may be rounded to the other's type.
    fn is(&self, checkpoint: &Checkpoint, tensor: &TensorInfo) -> Result<Option<bool>, CheckpointError> {
        let Some(own) = element_type(self.data_type) else { return Ok(None) };
        if tensor.element_type.size().is_none() || matches!(tensor.element_type, ElementType::Other(_)) {
            return Ok(None);
        }
        let bytes = checkpoint.bytes(&tensor.name)?;
        let equal = Equality { a: self.bytes, a_type: &own, b: bytes, b_type: &tensor.element_type };
        if self.dims == tensor.shape.as_slice() && equal.straight() {
            return Ok(Some(false));
        }
        Ok(match (self.dims, tensor.shape.as_slice()) {
            (&[rows, columns], &[c, d]) if (rows, columns) == (d, c) && equal.transposed(rows, columns) => Some(true),
            _ => None,
        })
    }
}

//! Which checkpoint tensor a constant of the export is: by content, which is certain, else by name.

use super::{Checkpoint, CheckpointError, ElementType, TensorInfo};
use crate::onnx::{DataType, Head, LinearLayer, Model, WeightLayout};

/// How a match was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MatchedBy {
    /// The values are the same.
    Content,
    /// Only the names agree: the values differ, so export and checkpoint are not of the same training state.
    Name,
    /// Only the names can be compared: the export holds integers that stand for the values.
    Quantized,
}

/// The checkpoint tensor of a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightMatch {
    /// Its name.
    pub tensor: String,
    /// Whether the constant of the export is the transposed tensor.
    pub transposed: bool,
    /// How it was found.
    pub how: MatchedBy,
}

impl WeightMatch {
    /// The module: the name without `.weight`.
    pub fn module(&self) -> &str {
        self.tensor.strip_suffix(".weight").unwrap_or(&self.tensor)
    }
}

/// The checkpoint tensors of linear layers. `None` where neither content nor name tells.
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
        // Where only names agree and the matrix is square, the shape does not tell: PyTorch's `Linear` is [out, in].
        let turned = linear.layout == WeightLayout::InOut;
        let matched = find(model, checkpoint, linear.weight_index, name.as_deref(), turned)?;
        found.push(matched.map(|matched| match linear.quantized {
            true => WeightMatch { how: MatchedBy::Quantized, ..matched },
            false => matched,
        }));
    }
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
    tensors.map(|tensor| find(model, checkpoint, tensor.index, Some(&tensor.name), tensor.transposed)).collect()
}

fn find(
    model: &Model,
    checkpoint: &Checkpoint,
    initializer: usize,
    name: Option<&str>,
    turned: bool,
) -> Result<Option<WeightMatch>, CheckpointError> {
    let tensor = &model.graph.initializers[initializer];
    let constant = Constant { bytes: model.bytes(tensor)?, data_type: tensor.data_type, dims: &tensor.dims };
    let named = name.and_then(|name| by_name(checkpoint, name, &tensor.dims));
    if let Some(named) = named
        && let Some(transposed) = constant.is(checkpoint, named)?
    {
        return Ok(Some(WeightMatch { tensor: named.name.clone(), transposed, how: MatchedBy::Content }));
    }
    let mut same = Vec::new();
    for candidate in checkpoint.tensors() {
        if let Some(transposed) = constant.is(checkpoint, candidate)? {
            same.push(WeightMatch { tensor: candidate.name.clone(), transposed, how: MatchedBy::Content });
        }
    }
    // Two tensors of the same values (untrained biases, say) cannot be told apart by content.
    if same.len() == 1 {
        return Ok(same.pop());
    }
    let how = MatchedBy::Name;
    Ok(named.map(|named| {
        let transposed = match (tensor.dims.as_slice(), named.shape.as_slice()) {
            ([a, b], [c, d]) if a != b => (a, b) == (d, c) && (a, b) != (c, d),
            ([_, _], _) => turned,
            _ => false,
        };
        WeightMatch { tensor: named.name.clone(), transposed, how }
    }))
}

/// The tensor whose name is the path, or its longest end at a dot; or whose name ends with the path.
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
    /// Whether it is this tensor, and whether transposed. Values may be rounded to the other's type.
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

/// The checkpoint's name for an ONNX element type.
fn element_type(data_type: DataType) -> Option<ElementType> {
    match data_type {
        DataType::Float => Some(ElementType::F32),
        DataType::Float16 => Some(ElementType::F16),
        DataType::BFloat16 => Some(ElementType::Bf16),
        DataType::Double => Some(ElementType::F64),
        _ => None,
    }
}

/// Compares two arrays of possibly different types. Other weights differ within the first few elements, so only the right
/// tensor is read to its end.
struct Equality<'a> {
    a: &'a [u8],
    a_type: &'a ElementType,
    b: &'a [u8],
    b_type: &'a ElementType,
}

impl Equality<'_> {
    fn straight(&self) -> bool {
        if self.a_type == self.b_type {
            return self.a == self.b;
        }
        let Some((a, b)) = self.sizes() else { return false };
        let count = self.a.len() / a;
        count == self.b.len() / b && (0..count).all(|i| self.element(i * a, i * b))
    }

    /// Whether `a` `[rows, columns]` is `b` `[columns, rows]` transposed; in tiles, so that both stay in the cache.
    fn transposed(&self, rows: usize, columns: usize) -> bool {
        const TILE: usize = 64;
        let Some((a, b)) = self.sizes() else { return false };
        let count = rows * columns;
        if self.a.len() != count * a || self.b.len() != count * b {
            return false;
        }
        for top in (0..rows).step_by(TILE) {
            for left in (0..columns).step_by(TILE) {
                for row in top..rows.min(top + TILE) {
                    for column in left..columns.min(left + TILE) {
                        if !self.element((row * columns + column) * a, (column * rows + row) * b) {
                            return false;
                        }
                    }
                }
            }
        }
        true
    }

    fn sizes(&self) -> Option<(usize, usize)> {
        Some((self.a_type.size()?, self.b_type.size()?))
    }

    /// Equality of one element at these byte offsets: to the bit, or after rounding to the coarser type.
    fn element(&self, a: usize, b: usize) -> bool {
        if self.a_type == self.b_type {
            let size = self.a_type.size().unwrap_or(1);
            return self.a[a..a + size] == self.b[b..b + size];
        }
        let (x, y) = (number(self.a, a, self.a_type), number(self.b, b, self.b_type));
        x == y || round(y, self.a_type) == x || round(x, self.b_type) == y
    }
}

fn number(bytes: &[u8], at: usize, element_type: &ElementType) -> f64 {
    fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        bytes[at..].first_chunk::<N>().copied().unwrap_or([0; N])
    }
    match element_type {
        ElementType::F32 => f64::from(f32::from_le_bytes(take(bytes, at))),
        ElementType::F16 => half::f16::from_le_bytes(take(bytes, at)).to_f64(),
        ElementType::Bf16 => half::bf16::from_le_bytes(take(bytes, at)).to_f64(),
        ElementType::F64 => f64::from_le_bytes(take(bytes, at)),
        ElementType::Other(_) => f64::NAN,
    }
}

fn round(value: f64, element_type: &ElementType) -> f64 {
    match element_type {
        ElementType::F32 => f64::from(value as f32),
        ElementType::F16 => half::f16::from_f32(value as f32).to_f64(),
        ElementType::Bf16 => half::bf16::from_f32(value as f32).to_f64(),
        _ => value,
    }
}

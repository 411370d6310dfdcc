//! Checkpoints whose tensors differ from the modules of the model: several matrices stored as one tensor, or other names.
//! Modern libraries convert such checkpoints on loading and saving (`Wqkv` to `q_proj`, `k_proj`, `v_proj`), so the export
//! and PEFT use the modules of the model, and the checkpoint does not. Also the reverse: exports that pack several tensors
//! into one product.

use std::collections::HashMap;

use super::found::{MatchedBy, WeightMatch};
use super::values::{Equality, element_type};
use super::{Checkpoint, CheckpointError, ElementType, TensorInfo};
use crate::onnx::{LinearLayer, Model, WeightLayout};

/// A constant of the export as a matrix `[out, in]`.
struct Matrix<'a> {
    bytes: &'a [u8],
    element_type: ElementType,
    layout: WeightLayout,
    rows: usize,
    columns: usize,
}

impl<'a> Matrix<'a> {
    /// `None` where its elements are not floats, or there are fewer than its shape requires.
    fn new(model: &'a Model, initializer: usize, layout: WeightLayout) -> Result<Option<Self>, CheckpointError> {
        let tensor = &model.graph.initializers[initializer];
        let (&[first, second], Some(element_type)) = (tensor.dims.as_slice(), element_type(tensor.data_type)) else {
            return Ok(None);
        };
        let (rows, columns) = if layout == WeightLayout::OutIn { (first, second) } else { (second, first) };
        let bytes = model.bytes(tensor)?;
        let whole = element_type.size().is_some_and(|size| bytes.len() == rows * columns * size);
        Ok(whole.then_some(Matrix { bytes, element_type, layout, rows, columns }))
    }

    fn place(&self, row: usize, column: usize) -> usize {
        match self.layout {
            WeightLayout::OutIn => row * self.columns + column,
            WeightLayout::InOut => column * self.rows + row,
        }
    }

    /// Whether `count` rows from `row` on are those of a tensor `[rows, columns]` from `first` on.
    fn rows_are(&self, row: usize, count: usize, checkpoint: &Checkpoint, tensor: &TensorInfo, first: usize) -> bool {
        let (Ok(bytes), Some(own), Some(size)) =
            (checkpoint.bytes(&tensor.name), self.element_type.size(), tensor.element_type.size())
        else {
            return false;
        };
        let &[rows, columns] = tensor.shape.as_slice() else { return false };
        if columns != self.columns
            || first + count > rows
            || row + count > self.rows
            || bytes.len() != rows * columns * size
        {
            return false;
        }
        let equal = Equality { a: self.bytes, a_type: &self.element_type, b: bytes, b_type: &tensor.element_type };
        (0..count).all(|at| {
            (0..columns).all(|column| {
                equal.element(self.place(row + at, column) * own, ((first + at) * columns + column) * size)
            })
        })
    }
}

fn matrices(checkpoint: &Checkpoint) -> impl Iterator<Item = &TensorInfo> {
    let float = |tensor: &&TensorInfo| !matches!(tensor.element_type, ElementType::Other(_));
    checkpoint.tensors().iter().filter(float).filter(|tensor| tensor.shape.len() == 2)
}

/// Looks for weights without a tensor of their own in the checkpoint among the rows of larger ones.
pub(super) fn match_slices(
    model: &Model,
    checkpoint: &Checkpoint,
    wanted: &[&LinearLayer],
    found: &mut [Option<WeightMatch>],
) -> Result<(), CheckpointError> {
    for (linear, found) in wanted.iter().zip(found).filter(|(linear, found)| found.is_none() && !linear.quantized) {
        let Some(matrix) = Matrix::new(model, linear.weight_index, linear.layout)? else { continue };
        let mut places = Vec::new();
        for tensor in matrices(checkpoint).filter(|t| t.shape[1] == matrix.columns && t.shape[0] > matrix.rows) {
            let starts = 0..=tensor.shape[0] - matrix.rows;
            places.extend(
                starts.filter(|s| matrix.rows_are(0, matrix.rows, checkpoint, tensor, *s)).map(|s| (tensor, s)),
            );
        }
        // Rows that occur twice identify nothing.
        if let [(tensor, start)] = places.as_slice() {
            let rows = Some(*start..start + matrix.rows);
            let (transposed, how) = (linear.layout == WeightLayout::InOut, MatchedBy::Content);
            *found = Some(WeightMatch { tensor: tensor.name.clone(), transposed, how, rows, renamed: None });
        }
    }
    Ok(())
}

/// The checkpoint tensors that a constant of the export is packed from, in order; empty where it is not packed.
///
/// # Errors
/// When the export cannot be read.
pub(super) fn parts(
    model: &Model,
    checkpoint: &Checkpoint,
    initializer: usize,
    layout: WeightLayout,
) -> Result<Vec<String>, CheckpointError> {
    let Some(matrix) = Matrix::new(model, initializer, layout)? else { return Ok(Vec::new()) };
    let mut parts = Vec::new();
    let mut row = 0;
    while row < matrix.rows {
        let next = matrices(checkpoint).find(|tensor| {
            let rows = tensor.shape[0];
            rows > 0 && rows < matrix.rows && matrix.rows_are(row, rows, checkpoint, tensor, 0)
        });
        let Some(next) = next else { return Ok(Vec::new()) };
        row += next.shape[0];
        parts.push(next.name.clone());
    }
    Ok(parts)
}

/// Gives weights the names of the export where the checkpoint stores several as one and shares no name with the export: it
/// is then converted when loaded, and the export has the model's module names.
pub(super) fn rename(
    model: &Model,
    checkpoint: &Checkpoint,
    wanted: &[&LinearLayer],
    found: &mut [Option<WeightMatch>],
) {
    let numbered =
        |name: &str| name.split('.').any(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    let by_content = |found: &&WeightMatch| found.how == MatchedBy::Content && numbered(found.module());
    let named = wanted.iter().zip(found.iter());
    let named =
        named.filter_map(|(linear, found)| Some((linear.module.as_deref()?, found.as_ref().filter(by_content)?)));
    let named: Vec<(&str, &WeightMatch)> = named.filter(|(module, _)| numbered(module)).collect();
    let agrees = |(module, found): &(&str, &WeightMatch)| {
        found.rows.is_none() && (ends_with(module, found.module()) || ends_with(found.module(), module))
    };
    let fused = found.iter().flatten().any(|found| found.rows.is_some());
    if !fused || named.iter().any(agrees) {
        return;
    }
    drop(named);
    let wrapper = Wrapper::new(model, checkpoint);
    for (linear, found) in wanted.iter().zip(found.iter_mut()) {
        if let (Some(module), Some(found)) = (linear.module.as_deref(), found.as_mut())
            && numbered(module)
        {
            found.renamed = Some(wrapper.without(module));
        }
    }
}

fn ends_with(long: &str, short: &str) -> bool {
    long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A prefix that the names of the export have in front of those of the model, or the other way round.
enum Wrapper<'a> {
    Export(&'a str),
    Checkpoint(&'a str),
}

impl<'a> Wrapper<'a> {
    /// Determined from the tensors whose names agree: the most common difference.
    fn new(model: &'a Model, checkpoint: &'a Checkpoint) -> Self {
        let mut counts: HashMap<(bool, &str), usize> = HashMap::new();
        for constant in &model.graph.initializers {
            for tensor in checkpoint.tensors() {
                if let Some(rest) =
                    constant.name.strip_suffix(&tensor.name).filter(|_| ends_with(&constant.name, &tensor.name))
                {
                    *counts.entry((true, rest)).or_default() += 1;
                } else if let Some(rest) =
                    tensor.name.strip_suffix(&constant.name).filter(|_| ends_with(&tensor.name, &constant.name))
                {
                    *counts.entry((false, rest)).or_default() += 1;
                }
            }
        }
        match counts.into_iter().max_by_key(|(prefix, count)| (*count, std::cmp::Reverse(*prefix))) {
            Some(((false, prefix), _)) => Wrapper::Checkpoint(prefix),
            Some(((true, prefix), _)) => Wrapper::Export(prefix),
            None => Wrapper::Export(""),
        }
    }

    fn without(&self, module: &str) -> String {
        match self {
            Wrapper::Export(prefix) => module.strip_prefix(prefix).unwrap_or(module).to_owned(),
            Wrapper::Checkpoint(prefix) => format!("{prefix}{module}"),
        }
    }
}

//! One weight, stored several times: an exporter that transposes the weight at every use may write a shared one once per
//! use.

use std::collections::HashMap;

use super::{DataType, LinearLayer, Model, OnnxError, WeightLayout};

/// For every linear layer the index of the first one whose weight holds the same values, transposed or not; its own index
/// where no earlier one does.
///
/// # Errors
/// When a weight cannot be read.
pub(super) fn first_copies(model: &Model, linears: &[LinearLayer]) -> Result<Vec<usize>, OnnxError> {
    let matrices = linears.iter().map(|linear| Matrix::new(model, linear)).collect::<Result<Vec<_>, _>>()?;
    let mut alike: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    let mut first = Vec::with_capacity(matrices.len());
    for (position, matrix) in matrices.iter().enumerate() {
        let candidates = alike.entry(matrix.fingerprint()).or_default();
        let copy = candidates.iter().copied().find(|candidate| matrices[*candidate].equals(matrix));
        first.push(copy.unwrap_or(position));
        if copy.is_none() {
            candidates.push(position);
        }
    }
    Ok(first)
}

/// A weight read as `[out, in]`, whatever its stored layout.
struct Matrix<'m> {
    bytes: &'m [u8],
    data_type: DataType,
    layout: WeightLayout,
    outputs: usize,
    inputs: usize,
}

impl<'m> Matrix<'m> {
    fn new(model: &'m Model, linear: &LinearLayer) -> Result<Self, OnnxError> {
        let tensor = &model.graph.initializers[linear.weight_index];
        let (bytes, layout) = (model.bytes(tensor)?, linear.layout);
        let (outputs, inputs) = (linear.out_features, linear.in_features);
        if tensor.len() == outputs * inputs && tensor.data_type.size().is_some() {
            return Ok(Matrix { bytes, data_type: tensor.data_type, layout, outputs, inputs });
        }
        // Packed: only the bytes can be compared.
        let inputs = bytes.len() / outputs.max(1);
        Ok(Matrix { bytes, data_type: DataType::Uint8, layout: WeightLayout::OutIn, outputs, inputs })
    }

    fn element(&self, output: usize, input: usize) -> &[u8] {
        let size = self.data_type.size().unwrap_or(1);
        let place = match self.layout {
            WeightLayout::OutIn => output * self.inputs + input,
            WeightLayout::InOut => input * self.outputs + output,
        };
        &self.bytes[place * size..(place + 1) * size]
    }

    /// Type, shape and a sample of elements: equal for copies, rarely for other weights.
    fn fingerprint(&self) -> Vec<u8> {
        const ELEMENTS: usize = 16;
        let mut print = self.data_type.code().to_le_bytes().to_vec();
        print.extend((self.outputs as u64).to_le_bytes());
        print.extend((self.inputs as u64).to_le_bytes());
        if self.outputs > 0 {
            (0..self.inputs.min(ELEMENTS)).for_each(|input| print.extend(self.element(self.outputs - 1, input)));
        }
        print
    }

    fn equals(&self, other: &Self) -> bool {
        if self.layout == other.layout {
            return self.bytes == other.bytes;
        }
        (0..self.outputs).all(|o| (0..self.inputs).all(|i| self.element(o, i) == other.element(o, i)))
    }
}

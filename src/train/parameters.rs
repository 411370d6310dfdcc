//! All trained parameters as one flat vector, so that the optimizer and the clipping are a handful of operations however
//! many small tensors there are.

use tch::{Kind, Tensor};

use super::error::TrainError;

/// Name and shape of a parameter in the flat vector.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ParameterEntry {
    /// Its name, unique in a run.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i64>,
}

impl ParameterEntry {
    fn len(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// Leaf tensors whose values are stored one after the other in one flat tensor.
#[derive(Debug)]
pub struct Parameters {
    entries: Vec<ParameterEntry>,
    leaves: Vec<Tensor>,
    values: Tensor,
}

impl Parameters {
    /// Moves the values of these leaf tensors into one flat vector. The tensors remain valid for other holders; only
    /// their storage is shared from now on.
    pub fn gather(leaves: Vec<(String, Tensor)>) -> Result<Self, TrainError> {
        let mut entries = Vec::with_capacity(leaves.len());
        let mut flat = Vec::with_capacity(leaves.len());
        for (name, leaf) in &leaves {
            if leaf.f_kind()? != Kind::Float {
                return Err(TrainError::Weight {
                    weight: name.clone(),
                    reason: "it is not float32, and only float32 can be trained; export the model in float32".into(),
                });
            }
            entries.push(ParameterEntry { name: name.clone(), shape: leaf.size() });
            flat.push(leaf.f_detach()?.f_reshape([-1])?);
        }
        if flat.is_empty() {
            return Err(TrainError::NothingToTrain);
        }
        let values = Tensor::f_cat(&flat, 0)?;
        let mut parameters = Parameters { entries, leaves: leaves.into_iter().map(|(_, leaf)| leaf).collect(), values };
        parameters.share_storage()?;
        Ok(parameters)
    }

    fn share_storage(&mut self) -> Result<(), TrainError> {
        let mut start = 0;
        for (entry, leaf) in self.entries.iter().zip(&mut self.leaves) {
            let view = self.values.f_narrow(0, start, entry.len())?.f_view(entry.shape.as_slice())?;
            tch::no_grad(|| leaf.f_set_data(&view))?;
            start += entry.len();
        }
        Ok(())
    }

    /// Names and shapes, in the order of the flat vector.
    pub fn entries(&self) -> &[ParameterEntry] {
        &self.entries
    }

    /// The flat vector. Changing it in place changes the parameters.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.values.numel()
    }

    /// Copies the flat vector to the CPU.
    pub fn read(&self) -> Result<Vec<f32>, TrainError> {
        read(&self.values)
    }

    /// Sets all parameters.
    pub fn write(&mut self, values: &[f32]) -> Result<(), TrainError> {
        write(&mut self.values, values)
    }

    /// Splits a flat vector into the parameters, in their order: name and shape with the values.
    pub fn split<'v>(&self, values: &'v [f32]) -> Vec<(&ParameterEntry, &'v [f32])> {
        let mut rest = values;
        let mut parts = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let (part, behind) = rest.split_at(rest.len().min(entry.len() as usize));
            parts.push((entry, part));
            rest = behind;
        }
        parts
    }
}

/// Gradient of a scalar with respect to leaf tensors, as a flat vector. It is zero for those that the scalar does not depend on.
pub(super) fn flat_gradient(loss: &Tensor, leaves: &[Tensor]) -> Result<Tensor, TrainError> {
    let gradients = Tensor::f_run_backward(&[loss], leaves, false, false)?;
    let mut flat = Vec::with_capacity(gradients.len());
    for (gradient, leaf) in gradients.iter().zip(leaves) {
        flat.push(match gradient.defined() {
            true => gradient.f_reshape([-1])?,
            false => leaf.f_zeros_like()?.f_reshape([-1])?,
        });
    }
    Ok(tch::no_grad(|| Tensor::f_cat(&flat, 0))?)
}

/// Copies a float tensor to the CPU.
pub(super) fn read(tensor: &Tensor) -> Result<Vec<f32>, TrainError> {
    let flat = tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
    let mut values = vec![0.0; flat.numel()];
    flat.f_copy_data(&mut values, flat.numel())?;
    Ok(values)
}

/// Copies values into a flat tensor.
pub(super) fn write(tensor: &mut Tensor, values: &[f32]) -> Result<(), TrainError> {
    let source = Tensor::f_from_slice(values)?;
    tch::no_grad(|| tensor.f_copy_(&source))?;
    Ok(())
}

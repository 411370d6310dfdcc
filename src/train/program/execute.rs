//! Runs a plan, and caches what depends on input shapes alone.

use std::collections::HashMap;

use tch::{Device, Tensor};

use super::super::dropout::Dropout;
use super::super::error::TrainError;
use super::super::operators::{Call, Outputs};
use super::execution_plan::{ExecutionPlan, Operand, Step, Turn};
use super::graph::{error_of, on_device};

/// The shape values for one set of input shapes, on the host and on the device.
#[derive(Debug, Default)]
pub(super) struct ShapeValues {
    host: Vec<Option<Tensor>>,
    device: Vec<Option<Tensor>>,
    bytes: usize,
}

/// Shape values by input shapes; the least recently used are dropped first.
#[derive(Debug)]
pub(super) struct ShapeCache {
    entries: HashMap<Vec<i64>, (u64, ShapeValues)>,
    clock: u64,
    bytes: usize,
    limit: usize,
}

/// Upper limit of the cache in bytes, however few shapes it holds.
const CACHE_BYTES: usize = 256 << 20;

impl ShapeCache {
    pub fn new(limit: usize) -> Self {
        ShapeCache { entries: HashMap::new(), clock: 0, bytes: 0, limit: limit.max(1) }
    }

    /// Number of sets of shapes in the cache.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes the values out, to be put back by [`ShapeCache::insert`].
    pub fn take(&mut self, key: &[i64]) -> Option<ShapeValues> {
        let (_, values) = self.entries.remove(key)?;
        self.bytes -= values.bytes;
        Some(values)
    }

    pub fn insert(&mut self, key: Vec<i64>, values: ShapeValues) {
        self.clock += 1;
        self.bytes += values.bytes;
        self.entries.insert(key, (self.clock, values));
        while self.entries.len() > 1 && (self.entries.len() > self.limit || self.bytes > CACHE_BYTES) {
            let Some(oldest) = self.entries.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone())
            else {
                return;
            };
            self.take(&oldest);
        }
    }
}

/// The state of one run beside the plan.
pub(super) struct Run<'r> {
    pub plan: &'r ExecutionPlan,
    pub device: Device,
    pub dropout: Option<Dropout>,
}

impl Run<'_> {
    /// Executes the plan on these inputs, which are in the order of `plan.inputs`.
    pub fn execute(&self, inputs: Vec<Tensor>, cache: &mut ShapeCache) -> Result<Vec<Tensor>, TrainError> {
        let plan = self.plan;
        let mut key = Vec::with_capacity(4 * inputs.len());
        for input in &inputs {
            key.push(input.dim() as i64);
            key.extend(input.size());
        }
        let mut slots: Vec<Option<Tensor>> = Vec::new();
        slots.resize_with(plan.slots, || None);
        for (tensor, (_, slot)) in inputs.into_iter().zip(&plan.inputs) {
            slots[*slot] = Some(tensor);
        }
        let values = match cache.take(&key) {
            Some(values) => {
                self.turns(&plan.lean, &mut slots, &mut Shapes::Known(&values))?;
                values
            }
            None => {
                let mut fresh = ShapeValues::default();
                fresh.host.resize_with(plan.shapes, || None);
                fresh.device.resize_with(plan.shapes, || None);
                self.turns(&plan.full, &mut slots, &mut Shapes::Fresh(&mut fresh))?;
                self.only_kept(fresh)
            }
        };
        let outputs = plan.outputs.iter().map(|place| {
            self.find(*place, &slots, &values)
                .map(Tensor::shallow_clone)
                .ok_or_else(|| TrainError::UnknownValue { name: "(an output)".into(), known: "never computed".into() })
        });
        let outputs = outputs.collect();
        cache.insert(key, values);
        outputs
    }

    fn turns(&self, turns: &[Turn], slots: &mut [Option<Tensor>], shapes: &mut Shapes<'_>) -> Result<(), TrainError> {
        for turn in turns {
            let step = &self.plan.steps[turn.step];
            let made = self
                .step(step, slots, shapes.values())
                .map_err(|error| error_of(&step.operator, &step.node, &error))?;
            for (place, tensor) in step.outputs.iter().zip(made) {
                match place {
                    Some(Operand::Slot(slot)) => slots[*slot] = Some(tensor),
                    Some(Operand::Shape(index)) => shapes.insert(*index, tensor, self.device)?,
                    _ => {}
                }
            }
            for slot in &turn.frees {
                slots[*slot] = None;
            }
        }
        Ok(())
    }

    fn step(&self, step: &Step, slots: &[Option<Tensor>], shapes: &ShapeValues) -> Outputs {
        let inputs: Vec<Option<&Tensor>> =
            step.inputs.iter().map(|place| place.and_then(|place| self.find(place, slots, shapes))).collect();
        (step.kernel)(&Call { inputs: &inputs, dropout: self.dropout.as_ref() })
    }

    fn find<'a>(&'a self, place: Operand, slots: &'a [Option<Tensor>], shapes: &'a ShapeValues) -> Option<&'a Tensor> {
        match place {
            Operand::Slot(slot) => slots[slot].as_ref(),
            Operand::Fixed(index) => self.plan.fixed.get(index),
            Operand::Shape(index) => shapes.host[index].as_ref(),
            Operand::ShapeOnDevice(index) => shapes.device[index].as_ref(),
        }
    }

    /// Drops the values that only shape steps read.
    fn only_kept(&self, mut fresh: ShapeValues) -> ShapeValues {
        let mut kept = ShapeValues::default();
        kept.host.resize_with(fresh.host.len(), || None);
        kept.device.resize_with(fresh.host.len(), || None);
        for (index, on_device) in &self.plan.kept {
            kept.host[*index] = fresh.host[*index].take();
            if *on_device {
                kept.device[*index] = fresh.device[*index].take();
            }
            if let Some(tensor) = &kept.host[*index] {
                kept.bytes += tensor.numel() * tensor.kind().elt_size_in_bytes();
            }
        }
        kept
    }
}

/// Shape values while steps run: read from the cache, or new.
enum Shapes<'s> {
    Known(&'s ShapeValues),
    Fresh(&'s mut ShapeValues),
}

impl Shapes<'_> {
    fn values(&self) -> &ShapeValues {
        match self {
            Shapes::Known(values) => values,
            Shapes::Fresh(values) => values,
        }
    }

    fn insert(&mut self, index: usize, tensor: Tensor, device: Device) -> Result<(), TrainError> {
        if let Shapes::Fresh(values) = self {
            values.device[index] = Some(on_device(&tensor, device)?);
            values.host[index] = Some(tensor);
        }
        Ok(())
    }
}

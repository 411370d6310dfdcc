//! Whether a plan is consistent in itself and with the export: users edit the file, and their edits take effect.

use std::collections::BTreeSet;
use std::fmt;

use regex::Regex;

use super::{BlockRank, BlockToAdapt, ModuleToAdapt, Plan, PlannedModule};
use crate::onnx::LinearLayer;

/// Limits of `alpha / rank`: far beyond any useful value, and well within the range of float32.
pub const SCALING: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

/// Matrices wider than this are not weights.
const LARGEST_WIDTH: usize = i32::MAX as usize;

/// The first inconsistency found in a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PlanFault {
    /// The block, from 1; `None` if the fault concerns no block.
    pub block: Option<usize>,
    /// The module; `None` if the fault concerns no single module.
    pub module: Option<String>,
    /// Name of the wrong field.
    pub field: &'static str,
    /// What was found, and what to do.
    pub reason: String,
}

impl fmt::Display for PlanFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.block, &self.module) {
            (Some(block), Some(module)) => write!(f, "block {block}, module {module}: {}", self.reason),
            (Some(block), None) => write!(f, "block {block}: {}", self.reason),
            _ => f.write_str(&self.reason),
        }
    }
}

impl PlanFault {
    /// The line of a plan's text that the fault concerns, counted from 1.
    pub(super) fn line(&self, text: &str) -> Option<usize> {
        let key = |key: &str, value: &str| Regex::new(&format!(r#""{key}"\s*:\s*{value}"#)).ok();
        let mut steps = Vec::new();
        if let Some(block) = self.block {
            steps.push(key("block", &format!(r"{block}\b"))?);
        }
        if let Some(module) = &self.module {
            steps.push(key("module", &regex::escape(&serde_json::to_string(module).ok()?))?);
        }
        steps.push(key(self.field, "")?);
        let place = steps.iter().try_fold(0, |from, step| Some(from + step.find(&text[from..])?.start()))?;
        Some(1 + text[..place].matches('\n').count())
    }
}

/// The largest useful rank for weights of these sizes: a product of rank `min(in, out)` can be any matrix.
pub(super) fn largest_rank(sizes: impl Iterator<Item = (usize, usize)>) -> Option<usize> {
    sizes.map(|(inputs, outputs)| inputs.min(outputs)).max()
}

impl Plan {
    /// Whether the plan is consistent in itself: blocks in order, ranks and alphas in bounds, the same rank for a block and
    /// its modules.
    ///
    /// # Errors
    /// Returns the first fault found.
    pub fn check(&self) -> Result<(), PlanFault> {
        let whole = |field, reason| Err(PlanFault { block: None, module: None, field, reason });
        if let Some((place, block)) = self.blocks.iter().enumerate().find(|(place, block)| block.block != place + 1) {
            return whole(
                "blocks",
                format!("its blocks must be numbered from 1 on, and {} stands at {}", block.block, place + 1),
            );
        }
        let states = self.hidden_states.len();
        let in_order = self.hidden_states.iter().enumerate().all(|(place, state)| state.index == place);
        if states > 0 && (states != self.blocks.len() + 1 || !in_order) {
            let reason = format!(
                "{} blocks lie between {} hidden states, numbered from 0 on, and it has {states}",
                self.blocks.len(),
                self.blocks.len() + 1
            );
            return whole("hidden_states", reason);
        }
        let (mut names, mut weights) = (BTreeSet::new(), BTreeSet::new());
        for block in &self.blocks {
            self.check_block(block)?;
            for module in &block.modules {
                self.check_module(block, module)?;
                for (field, value, seen) in
                    [("module", &module.module, &mut names), ("weight", &module.weight, &mut weights)]
                {
                    // Unknown names are reported when the plan is compared with the export.
                    if !value.is_empty() && !seen.insert(value.as_str()) {
                        let reason = format!("its {field} {value} is planned twice; leave one of them out");
                        return Err(fault(block, Some(module), field, reason));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_block(&self, block: &BlockRank) -> Result<(), PlanFault> {
        let own = largest_rank(block.modules.iter().map(PlannedModule::size));
        let any = || largest_rank(self.blocks.iter().flat_map(|block| &block.modules).map(PlannedModule::size));
        if let Some(largest) = own.or_else(any).filter(|&largest| block.rank > largest) {
            let reason = format!("rank {}, and its weights have use for {largest} at most", block.rank);
            return Err(fault(block, None, "rank", reason));
        }
        check_alpha(block.alpha, block.rank).map_err(|reason| fault(block, None, "alpha", reason))
    }

    fn check_module(&self, block: &BlockRank, module: &PlannedModule) -> Result<(), PlanFault> {
        let wrong = |field, reason| Err(fault(block, Some(module), field, reason));
        for (field, width) in [("in_features", module.in_features), ("out_features", module.out_features)] {
            if !(1..=LARGEST_WIDTH).contains(&width) {
                return wrong(field, format!("{field} is {width}, and no weight is so wide; plan again"));
            }
        }
        // A weight shared by several blocks is listed at the first of them, with the largest of their ranks, and is missing
        // at the others. Whether that is the case here, only the export can show.
        let of_this_role = |other: &BlockRank| other.modules.iter().filter(|found| found.role == module.role).count();
        let may_share = |other: &BlockRank| {
            other.block > block.block && other.rank == module.rank && of_this_role(other) < of_this_role(block)
        };
        if module.rank != block.rank && !(module.rank > block.rank && self.blocks.iter().any(may_share)) {
            let reason = format!(
                "rank {}, and block {} has rank {}; give both the same rank, or take the module out of the list",
                module.rank, block.block, block.rank
            );
            return wrong("rank", reason);
        }
        if let Err(reason) = check_alpha(module.alpha, module.rank) {
            return wrong("alpha", reason);
        }
        let scaling = |alpha: f64, rank: usize| alpha / rank.max(1) as f64;
        let (own, of_block) = (scaling(module.alpha, module.rank), scaling(block.alpha, block.rank));
        if block.rank > 0 && (own - of_block).abs() > 1e-9 * of_block {
            let reason = format!(
                "alpha / rank is {} / {}, and that of block {} is {} / {}; give both the same",
                module.alpha, module.rank, block.block, block.alpha, block.rank
            );
            return wrong("alpha", reason);
        }
        Ok(())
    }

    /// Whether the export has every planned weight, in the planned shape.
    ///
    /// # Errors
    /// Returns the first weight that is missing or has another shape.
    pub fn check_weights(&self, linears: &[LinearLayer]) -> Result<(), PlanFault> {
        for (block, module) in self.modules() {
            let Some(linear) = linears.iter().find(|linear| linear.weight == module.weight) else {
                return Err(fault(block, Some(module), "weight", no_such("weight", &module.weight)));
            };
            check_size(block, module, (linear.in_features, linear.out_features))?;
        }
        Ok(())
    }

    /// Whether the export has every hidden state and every planned module, under the same names. `checkpoint`: whether the
    /// blocks are named by a checkpoint.
    ///
    /// # Errors
    /// Returns the first difference.
    pub fn check_export(&self, states: &[String], blocks: &[BlockToAdapt], checkpoint: bool) -> Result<(), PlanFault> {
        let planned = self.hidden_states.iter().map(|state| state.tensor.as_str());
        if self.blocks.len() != blocks.len() || !planned.eq(states.iter().map(String::as_str)) {
            let names = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let reason = format!(
                "it plans {} blocks with the hidden states {}, and the export has {} with {}; plan again",
                self.blocks.len(),
                names(self.hidden_states.iter().map(|state| state.tensor.as_str()).collect()),
                blocks.len(),
                names(states.iter().map(String::as_str).collect())
            );
            return Err(PlanFault { block: None, module: None, field: "hidden_states", reason });
        }
        for (block, module) in self.modules() {
            let candidates = blocks.iter().filter(|known| known.block == block.block).flat_map(|known| &known.modules);
            let Some(known) = candidates.clone().find(|known| known.weight == module.weight) else {
                return Err(fault(block, Some(module), "weight", no_such("weight", &module.weight)));
            };
            check_size(block, module, (known.in_features, known.out_features))?;
            if !candidates.clone().any(|known| known.weight == module.weight && known.node == module.node) {
                let reason = format!("{}; it is {}", no_such("node", &module.node), known.node);
                return Err(fault(block, Some(module), "node", reason));
            }
            if known.copies != module.copies {
                let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                let (planned, found) = (list(&module.copies), list(&known.copies));
                let reason = format!("copies are {planned}, and the weight has {found} in the export; plan again");
                return Err(fault(block, Some(module), "copies", reason));
            }
            self.check_shared_rank(block, module, blocks)?;
            check_names(block, module, known, checkpoint)?;
        }
        Ok(())
    }

    /// Checks that the rank of a weight is the largest among the blocks that use it.
    fn check_shared_rank(
        &self,
        block: &BlockRank,
        module: &PlannedModule,
        blocks: &[BlockToAdapt],
    ) -> Result<(), PlanFault> {
        let uses = |known: &BlockToAdapt| known.modules.iter().any(|other| other.weight == module.weight);
        let users = self.blocks.iter().zip(blocks).filter(|(_, known)| uses(known));
        let largest = users.map(|(planned, _)| planned).max_by_key(|planned| planned.rank).unwrap_or(block);
        if module.rank == largest.rank {
            return Ok(());
        }
        let reason = format!(
            "rank {}, and block {}, which uses the weight, has rank {}; give both the same rank, or take the module out of \
             the list",
            module.rank, largest.block, largest.rank
        );
        Err(fault(block, Some(module), "rank", reason))
    }

    fn modules(&self) -> impl Iterator<Item = (&BlockRank, &PlannedModule)> {
        self.blocks.iter().flat_map(|block| block.modules.iter().map(move |module| (block, module)))
    }

    /// Number of parameters of the planned adapters.
    pub(super) fn count_parameters(&self) -> u64 {
        let cost = |module: &PlannedModule| {
            (module.rank as u64).saturating_mul((module.in_features as u64).saturating_add(module.out_features as u64))
        };
        self.modules().map(|(_, module)| cost(module)).fold(0, u64::saturating_add)
    }
}

impl PlannedModule {
    fn size(&self) -> (usize, usize) {
        (self.in_features, self.out_features)
    }
}

/// Checks the name of a module, which decides what PEFT adapts. A plan made with a checkpoint keeps its names when the
/// checkpoint is absent.
fn check_names(
    block: &BlockRank,
    module: &PlannedModule,
    known: &ModuleToAdapt,
    checkpoint: bool,
) -> Result<(), PlanFault> {
    let of_checkpoint = module.checkpoint_tensor.as_deref().filter(|_| !checkpoint);
    let expected = match of_checkpoint {
        Some(tensor) => tensor.strip_suffix(".weight").unwrap_or(tensor),
        None => &known.module,
    };
    if of_checkpoint.is_none() && module.checkpoint_tensor != known.checkpoint_tensor {
        let name = |tensor: &Option<String>| tensor.clone().unwrap_or_else(|| "none".into());
        let reason = format!(
            "checkpoint_tensor is {}, and the weight is {} in the checkpoint; plan again with the checkpoint that is there",
            name(&module.checkpoint_tensor),
            name(&known.checkpoint_tensor)
        );
        return Err(fault(block, Some(module), "checkpoint_tensor", reason));
    }
    if module.module != expected {
        let reason = format!("the weight {} belongs to the module {expected}; name that one", module.weight);
        return Err(fault(block, Some(module), "module", reason));
    }
    Ok(())
}

fn check_size(block: &BlockRank, module: &PlannedModule, (inputs, outputs): (usize, usize)) -> Result<(), PlanFault> {
    for (field, planned, found) in
        [("in_features", module.in_features, inputs), ("out_features", module.out_features, outputs)]
    {
        if planned != found {
            let reason = format!("{field} is {planned}, and the weight has {found} in the export; plan again");
            return Err(fault(block, Some(module), field, reason));
        }
    }
    Ok(())
}

fn check_alpha(alpha: f64, rank: usize) -> Result<(), String> {
    if rank == 0 && alpha >= 0.0 && alpha.is_finite() {
        return Ok(());
    }
    let scaling = alpha / rank.max(1) as f64;
    if SCALING.contains(&scaling) && alpha.is_finite() {
        return Ok(());
    }
    let (low, high) = (SCALING.start(), SCALING.end());
    Err(format!("alpha is {alpha:?} with rank {rank}; alpha / rank must be from {low:e} to {high:e}"))
}

fn no_such(what: &str, name: &str) -> String {
    format!("the block has no {what} {name} in the export")
}

fn fault(block: &BlockRank, module: Option<&PlannedModule>, field: &'static str, reason: String) -> PlanFault {
    PlanFault { block: Some(block.block), module: module.map(|module| module.module.clone()), field, reason }
}

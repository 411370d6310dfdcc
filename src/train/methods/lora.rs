//! Low-rank factors at the ranks of a plan (Hu et al. 2021): A random, B zero.

use super::super::error::TrainError;
use super::super::input::TrainInput;
use super::super::lora::{AdapterSpec, LoraInit};
use super::Method;
use crate::settings::TrainSettings;

/// LoRA.
#[derive(Debug)]
pub(super) struct Lora;

impl Method for Lora {
    fn adapters(&self, input: &TrainInput<'_>, settings: &TrainSettings) -> Result<Vec<AdapterSpec>, TrainError> {
        let mut init = LoraInit::new(settings.seed);
        let modules = input.planned_modules()?;
        let adapter = |module: &&crate::rank::PlannedModule| {
            let shape = (module.in_features, module.out_features);
            let spec = init.adapter(&module.weight, shape, module.rank, module.alpha)?;
            Ok(AdapterSpec { copies: module.copies.clone(), dropout: settings.dropout, ..spec })
        };
        modules.iter().map(adapter).collect()
    }
}

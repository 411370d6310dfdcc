//! Reads adapter folders, those of gelora and those of PEFT.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array1, Array2, ArrayD};

use super::{
    Adapter, AdapterError, CONFIG_FILE, HEAD_FILE, Initialization, LoraConfig, LoraFactors, PREFIX, PROVENANCE_FILE,
    Provenance, SavedTensor, TENSOR_FILE, WHOLE_FILE,
};
use crate::checkpoint::Checkpoint;

/// An adapter folder: the tensors, and the content of its other files.
#[derive(Debug)]
pub struct AdapterFolder {
    /// The tensors, under PEFT's names without `base_model.model.`.
    pub adapter: Adapter,
    /// Content of `adapter_config.json`.
    pub config: LoraConfig,
    /// Unchanged weights of the base that PEFT saved beside the factors of their module: that of an output layer.
    pub frozen: Vec<FrozenWeight>,
    /// Whether the head is in a file of its own, because no transformers class has it.
    pub head_apart: bool,
    /// Content of `gelora.json`, if gelora wrote the folder.
    pub provenance: Option<Provenance>,
}

/// A weight of the base that PEFT saved beside the factors on it. It has no effect where the base still has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenWeight {
    /// PEFT's name for the adapted module.
    pub module: String,
    /// Name of the tensor in `adapter_model.safetensors`.
    pub tensor: String,
}

impl AdapterFolder {
    /// Reads an adapter folder.
    ///
    /// # Errors
    /// If a file is missing or damaged, a value is not finite, or gelora cannot merge this kind of adapter.
    pub fn read(dir: &Path) -> Result<Self, AdapterError> {
        if !dir.join(CONFIG_FILE).is_file() {
            return match dir.join(WHOLE_FILE).is_file() {
                true => AdapterFolder::read_whole(dir),
                false => Err(AdapterError::Missing { folder: dir.into(), missing: CONFIG_FILE }),
            };
        }
        let config = LoraConfig::read(&dir.join(CONFIG_FILE))?;
        let path = dir.join(TENSOR_FILE);
        if !path.is_file() {
            return Err(match dir.join(PICKLED_FILE).is_file() {
                true => AdapterError::Pickled { path: dir.join(PICKLED_FILE) },
                false => AdapterError::Missing { folder: dir.into(), missing: TENSOR_FILE },
            });
        }
        let (mut adapter, frozen) = tensors(&path, &config)?;
        let head = dir.join(HEAD_FILE);
        let head_apart = head.is_file();
        if head_apart {
            adapter.saved.extend(saved_tensors(&head)?);
        }
        Ok(AdapterFolder { adapter, config, frozen, head_apart, provenance: Provenance::read(dir)? })
    }

    /// Reads tensors that were trained without factors.
    fn read_whole(dir: &Path) -> Result<Self, AdapterError> {
        let mut adapter = Adapter { factors: Vec::new(), saved: saved_tensors(&dir.join(WHOLE_FILE))? };
        let head = dir.join(HEAD_FILE);
        let head_apart = head.is_file();
        if head_apart {
            adapter.saved.extend(saved_tensors(&head)?);
        }
        let provenance = Provenance::read(dir)?.filter(|provenance| provenance.method.is_some());
        if provenance.is_none() {
            return Err(AdapterError::Missing { folder: dir.into(), missing: PROVENANCE_FILE });
        }
        Ok(AdapterFolder { adapter, config: LoraConfig::of_nothing(), frozen: Vec::new(), head_apart, provenance })
    }

    /// The adapter under the module and tensor names in `known` (those of a checkpoint or a plan), which may lack the
    /// prefix of the base model (`bert.`) or have it where PEFT does not. An unknown name is kept.
    pub fn named_as<'k>(&self, known: impl IntoIterator<Item = &'k str>) -> Adapter {
        let known: std::collections::HashSet<&str> = known.into_iter().collect();
        let mut adapter = self.adapter.clone();
        for factors in &mut adapter.factors {
            factors.module = known_name(&factors.module, &known);
        }
        for saved in &mut adapter.saved {
            saved.name = known_name(&saved.name, &known);
        }
        adapter
    }
}

/// Reads the tensors of an adapter.
///
/// # Errors
/// As for [`read_named`].
pub fn read(dir: &Path) -> Result<Adapter, AdapterError> {
    read_named(dir, [])
}

/// Reads the tensors of an adapter to continue training with, under the names of the plan and of the head.
///
/// # Errors
/// As for [`AdapterFolder::read`], and if PEFT takes a part out of the base weights when it loads the adapter.
pub fn read_named<'k>(dir: &Path, known: impl IntoIterator<Item = &'k str>) -> Result<Adapter, AdapterError> {
    let folder = AdapterFolder::read(dir)?;
    match folder.config.initialization {
        Initialization::Plain if folder.config.dora => Err(AdapterError::Malformed {
            path: dir.join(CONFIG_FILE),
            reason: "it is DoRA (`use_dora`), which gelora merges and does not train; train a LoRA adapter".into(),
        }),
        Initialization::Plain => Ok(folder.named_as(known)),
        other => {
            let reason = format!(
                "its `init_lora_weights` ({other:?}) goes with changed base weights, and training starts from those of the \
                 model; save it with `path_initial_model_for_weight_conversion`"
            );
            Err(AdapterError::Malformed { path: dir.join(CONFIG_FILE), reason })
        }
    }
}

/// Name of the tensor file of older versions of PEFT.
const PICKLED_FILE: &str = "adapter_model.bin";

/// Tensors that only training reads: the noise of Monteclora and the projection of VeLoRA.
const OF_TRAINING: [&str; 2] = [".lora_monteclora_sampler.", ".lora_velora_embed"];

/// Parts of the names of tensors that gelora cannot merge, with a description.
const NOT_MERGED: [(&str, &str); 6] = [
    (".lora_magnitude_vector", "the magnitudes of DoRA"),
    (".lora_embedding_", "an adapter of an embedding table"),
    (".lora_B.bias", "the bias of a factor"),
    (".token_adapter.", "trained rows of an embedding table"),
    (".base_layer.", "an adapter of an expert, or another tensor of the base model"),
    ("lora_", "a factor of another kind than LoRA's A and B"),
];

/// The tensors of `adapter_model.safetensors`, and those that are weights of the base.
fn tensors(path: &Path, config: &LoraConfig) -> Result<(Adapter, Vec<FrozenWeight>), AdapterError> {
    let malformed = |reason: String| AdapterError::Malformed { path: path.into(), reason };
    let file = Checkpoint::open_file(path)?;
    let mut pairs: BTreeMap<String, [Option<Array2<f32>>; 2]> = BTreeMap::new();
    let mut magnitudes: BTreeMap<String, Array1<f32>> = BTreeMap::new();
    let mut saved = Vec::new();
    let mut frozen = Vec::new();
    for tensor in file.tensors() {
        let Some(name) = tensor.name.strip_prefix(PREFIX) else {
            return Err(malformed(format!(
                "tensor `{}` is not named as PEFT does (`{PREFIX}…`); save the adapter with PEFT's `save_pretrained`",
                tensor.name.escape_debug()
            )));
        };
        if OF_TRAINING.iter().any(|part| name.contains(part)) {
            continue;
        }
        // With `bias` = all PEFT also saves the biases of a whole-trained module by their names within its wrapper: the trained one,
        // which the file has under its own name too, and the one of the base, which is not in use.
        let twice = [".modules_to_save.", ".original_module."].into_iter().find(|part| name.contains(part));
        if let Some(part) = twice
            && file.tensor(&format!("{PREFIX}{}", name.replacen(part, ".", 1))).is_some()
        {
            continue;
        }
        let frozen_module = tensor.name.strip_suffix(".base_layer.weight").filter(|module| {
            // Where PEFT adapts parameters instead of modules, the inner part is another layer.
            file.tensor(&format!("{module}.lora_A.weight")).is_some()
        });
        if let Some(module) = frozen_module.and_then(|module| module.strip_prefix(PREFIX)) {
            frozen.push(FrozenWeight { module: module.to_owned(), tensor: tensor.name.clone() });
            continue;
        }
        // The bias of an adapted layer: trained (`bias`), or saved with an output layer.
        let bias = name.strip_suffix(".base_layer.bias").map(|module| format!("{module}.bias"));
        let name = bias.as_deref().unwrap_or(name);
        let factor = [".lora_A.weight", ".lora_B.weight"]
            .into_iter()
            .enumerate()
            .find_map(|(place, suffix)| Some((place, name.strip_suffix(suffix)?)));
        if let Some(module) = name.strip_suffix(".lora_magnitude_vector").filter(|_| config.dora) {
            magnitudes.insert(module.to_owned(), finite(&file, &tensor.name, path)?.into());
            continue;
        }
        let unusual = NOT_MERGED.iter().find(|(part, _)| match factor {
            Some((_, module)) => format!("{module}.").contains(part),
            None => name.contains(part),
        });
        if let Some((_, what)) = unusual {
            let name = name.escape_debug();
            return Err(malformed(format!("it holds `{name}`, {what}, which gelora cannot merge; merge it with PEFT")));
        }
        let values = finite(&file, &tensor.name, path)?;
        let values =
            ArrayD::from_shape_vec(tensor.shape.clone(), values).map_err(|error| malformed(error.to_string()))?;
        match factor {
            Some((place, module)) => {
                let matrix = values
                    .into_dimensionality()
                    .map_err(|_| malformed(format!("`{}` is no matrix", name.escape_debug())))?;
                pairs.entry(module.to_owned()).or_default()[place] = Some(matrix);
            }
            None => saved.push(SavedTensor { name: name.to_owned(), values }),
        }
    }
    let mut factors = Vec::with_capacity(pairs.len());
    for (module, pair) in pairs {
        let magnitude = magnitudes.remove(&module);
        factors.push(self::factors(module, pair, magnitude, config).map_err(malformed)?);
    }
    match magnitudes.keys().next() {
        Some(module) => Err(malformed(format!("module `{module}` has magnitudes and no factors; copy the file again"))),
        None => Ok((Adapter { factors, saved }, frozen)),
    }
}

/// The factors of a module, at the rank and with the scaling that the configuration gives it.
fn factors(
    module: String,
    pair: [Option<Array2<f32>>; 2],
    magnitude: Option<Array1<f32>>,
    config: &LoraConfig,
) -> Result<LoraFactors, String> {
    let [Some(a), Some(b)] = pair else {
        return Err(format!("module `{module}` has only one of its two factors; copy the file again"));
    };
    if a.nrows() != b.ncols() || a.nrows() == 0 {
        return Err(format!("the factors of `{module}` do not fit each other; copy the file again"));
    }
    match &magnitude {
        None if config.dora => {
            return Err(format!(
                "module `{module}` has no magnitudes, and {CONFIG_FILE} says DoRA; copy the file again"
            ));
        }
        Some(lengths) if lengths.len() != b.nrows() => {
            return Err(format!(
                "module `{module}` has {} magnitudes for {} outputs; copy the file again",
                lengths.len(),
                b.nrows()
            ));
        }
        _ => {}
    }
    if let Some(rank) = config.rank(&module)?.filter(|rank| *rank != a.nrows()) {
        return Err(format!(
            "the factors of `{module}` have rank {}, and {CONFIG_FILE} says {rank}: they are not of one adapter; copy the folder again",
            a.nrows()
        ));
    }
    if config.adapts(&module)? == Some(false) {
        return Err(format!(
            "it holds factors of `{module}`, which {CONFIG_FILE} does not adapt: PEFT would leave them out; copy the folder again"
        ));
    }
    let alpha = config.alpha(&module, a.nrows())?;
    if !alpha.is_finite() {
        return Err(format!("the alpha of `{module}` is not a finite number; copy the folder again"));
    }
    Ok(LoraFactors { module, alpha, a, b, magnitude })
}

/// Tensors that are trained whole, with their names.
fn saved_tensors(path: &Path) -> Result<Vec<SavedTensor>, AdapterError> {
    let file = Checkpoint::open_file(path)?;
    let read = |tensor: &crate::checkpoint::TensorInfo| {
        let values = ArrayD::from_shape_vec(tensor.shape.clone(), finite(&file, &tensor.name, path)?);
        let values =
            values.map_err(|error| AdapterError::Malformed { path: path.into(), reason: error.to_string() })?;
        Ok(SavedTensor { name: tensor.name.clone(), values })
    };
    file.tensors().iter().map(read).collect()
}

/// The values of a tensor; an error if any is not finite.
fn finite(file: &Checkpoint, tensor: &str, path: &Path) -> Result<Vec<f32>, AdapterError> {
    let values = file.to_f32(tensor)?;
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(AdapterError::NotFinite { path: path.into(), tensor: tensor.into(), value: *value }),
        None => Ok(values),
    }
}

/// The known name of a module or tensor: its own name, its name without the first part, or with another part in front.
fn known_name(name: &str, known: &std::collections::HashSet<&str>) -> String {
    if known.contains(name) {
        return name.to_owned();
    }
    if let Some((_, rest)) = name.split_once('.')
        && known.contains(rest)
    {
        return rest.to_owned();
    }
    let longer = |known: &&&str| {
        known.strip_suffix(name).and_then(|rest| rest.strip_suffix('.')).is_some_and(|rest| !rest.contains('.'))
    };
    let mut found = known.iter().filter(longer);
    match (found.next(), found.next()) {
        (Some(one), None) => (*one).to_owned(),
        _ => name.to_owned(),
    }
}

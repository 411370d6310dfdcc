//! Every field of `adapter_config.json` as PEFT 0.21 writes it (`LoraConfig`, `PeftConfig`, `PeftConfigMixin`), and what it
//! means for merging. A field that is set and not listed here is refused: it could change what the adapter computes.

use serde_json::{Map, Value};

/// What a field means for merging.
enum Meaning {
    /// [`super::LoraConfig`] reads it.
    Honoured,
    /// Does not affect what an adapter computes at inference.
    Harmless,
    /// If set, makes the adapter something other than `W + scaling · B · A`; the text says what.
    Refused(&'static str),
}

use Meaning::{Harmless, Honoured, Refused};

const FIELDS: [(&str, Meaning); 46] = [
    // PeftConfigMixin and PeftConfig.
    ("peft_type", Honoured),
    // The class that PEFT puts around the model. What it adds to `modules_to_save` is in that field too.
    ("task_type", Harmless),
    // The class of the base model, for AutoPeftModel.
    ("auto_mapping", Harmless),
    ("peft_version", Harmless),
    // Path of the base model: here the command line gives it.
    ("base_model_name_or_path", Harmless),
    ("revision", Harmless),
    // Whether PEFT freezes the adapter.
    ("inference_mode", Harmless),
    // LoraConfig.
    ("r", Honoured),
    ("target_modules", Honoured),
    ("exclude_modules", Honoured),
    ("lora_alpha", Honoured),
    // Dropout is off at inference.
    ("lora_dropout", Harmless),
    // PEFT sets it by the type of the layer (Linear or Conv1D). Merging looks at the layer, and at this for a square matrix of a
    // checkpoint without an export.
    ("fan_in_fan_out", Honoured),
    ("bias", Honoured),
    ("use_rslora", Honoured),
    ("modules_to_save", Honoured),
    ("init_lora_weights", Honoured),
    ("layers_to_transform", Honoured),
    ("layers_pattern", Honoured),
    ("rank_pattern", Honoured),
    ("alpha_pattern", Honoured),
    ("megatron_config", Refused("adapts layers of Megatron, which no export of transformers has")),
    // Which module Megatron's layers are imported from; `megatron_config` decides whether there are any.
    ("megatron_core", Harmless),
    ("trainable_token_indices", Refused("trains single rows of the embeddings")),
    // How an initialization was computed; only the one that `init_lora_weights` names is applied.
    ("loftq_config", Harmless),
    ("eva_config", Harmless),
    ("corda_config", Harmless),
    ("lora_ga_config", Harmless),
    ("use_dora", Honoured),
    // A different gradient in training; the forward pass is that of LoRA.
    ("velora_config", Harmless),
    (
        "alora_invocation_tokens",
        Refused("is aLoRA, which acts on the tokens after its invocation only: PEFT refuses to merge it too"),
    ),
    ("use_qalora", Refused("is QALoRA, which pools its inputs: PEFT refuses to merge it into a quantised model too")),
    // Used only with `use_qalora`.
    ("qalora_group_size", Harmless),
    // Noise in training; in evaluation and in merging PEFT uses A and B alone.
    ("monteclora_config", Harmless),
    ("layer_replication", Refused("repeats layers: the adapted model has others than the base")),
    // Where computations run. PEFT neither saves nor reads it.
    ("runtime_config", Harmless),
    ("lora_bias", Refused("has a bias beside B, which belongs to the bias of the layer")),
    ("target_parameters", Refused("adapts parameters instead of modules (experts of a mixture)")),
    ("use_bdlora", Refused("is BD-LoRA, whose factors are block-diagonal")),
    ("arrow_config", Refused("routes between several adapters, token by token")),
    ("kasa_config", Refused("is KaSA, which cuts singular values off the base weight and scales the factors")),
    // Whether tied weights get tied adapters: adapters on tied weights are refused one by one.
    ("ensure_weight_tying", Harmless),
    // Fields of PEFT before 0.21.
    // Whether the weights were merged in training (0.2 and before); the file holds the factors all the same.
    ("merge_weights", Harmless),
    ("enable_lora", Refused("adapts parts of a fused weight (a PEFT from before 0.3)")),
    // Names of modules tied by `ensure_weight_tying`, recorded by PEFT when it creates the adapter.
    ("modules_to_tie", Harmless),
    ("target_modules_to_tie", Harmless),
];

/// Refuses fields that make the adapter something other than LoRA, and unknown fields.
///
/// # Errors
/// The reason as a sentence, with the name of the field.
pub(super) fn check(config: &Map<String, Value>) -> Result<(), String> {
    for (name, value) in config.iter().filter(|(_, value)| is_set(value)) {
        match FIELDS.iter().find(|(known, _)| known == name).map(|(_, meaning)| meaning) {
            Some(Honoured | Harmless) => {}
            Some(Refused(what)) => {
                return Err(format!(
                    "`{name}` is set: the adapter {what}; merge it with PEFT (`merge_and_unload`) if PEFT can, and export that model"
                ));
            }
            None => {
                let value: String = value.to_string().chars().take(40).collect();
                return Err(format!(
                    "gelora does not know its field `{}` = {}, which may change what the adapter computes; update gelora, or \
                     merge it with PEFT",
                    name.escape_debug(),
                    value.escape_debug()
                ));
            }
        }
    }
    Ok(())
}

/// Whether a value is set: not null, false, 0 or empty.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

"""Writes src/checkpoint/transformers_names.json: what transformers calls the modules of each model type.

For every type with a class for sequence or token classification, span answers or causal language modelling: the attribute under
which a class with a head keeps the base model (`bert`), the tensors of the head outside of it, and the weights of the pooler
inside of it that the head reads through. Models are made without
memory (device meta).
"""

import json
import pathlib
import sys
import warnings

import torch
import transformers
from transformers.models.auto import modeling_auto

TARGET = pathlib.Path(__file__).resolve().parents[1] / "src/checkpoint/transformers_names.json"
TASKS = {
    "SEQ_CLS": (modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, transformers.AutoModelForSequenceClassification),
    "CAUSAL_LM": (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, transformers.AutoModelForCausalLM),
    "TOKEN_CLS": (modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES, transformers.AutoModelForTokenClassification),
    "QUESTION_ANS": (modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES, transformers.AutoModelForQuestionAnswering),
}

# Poolers that a class has and does not use: its head reads the last hidden state.
UNUSED_POOLERS = {("SEQ_CLS", "big_bird"), ("QUESTION_ANS", "canine"), ("QUESTION_ANS", "fnet"), ("QUESTION_ANS", "squeezebert")}


def names(model_type):
    """{"prefix": …, "SEQ_CLS": {"class": …, "head": […], "pooler": […]}, …}, or None where no class can be made of the type's defaults."""
    found = {}
    for task, (classes, auto) in TASKS.items():
        if model_type not in classes:
            continue
        try:
            config = transformers.AutoConfig.for_model(model_type)
            if getattr(config, "pad_token_id", None) is None:
                config.pad_token_id = 0
            with torch.device("meta"):
                model = auto.from_config(config)
        except Exception:
            continue
        prefix = model.base_model_prefix
        inside = [name for name in model.state_dict() if name.startswith(f"{prefix}.")]
        if not prefix or not inside:
            continue
        if found.setdefault("prefix", prefix) != prefix:
            continue
        if task != "CAUSAL_LM":  # the head of a language model is not trained
            head = [name for name in model.state_dict() if not name.startswith(f"{prefix}.")]
            found[task] = {"class": type(model).__name__, "head": sorted(head)}
            pooler = [name for name in inside if ".pooler." in name and name.endswith(".weight")]
            if pooler and task != "TOKEN_CLS" and (task, model_type) not in UNUSED_POOLERS:
                found[task]["pooler"] = sorted(pooler)
    return found or None


def table():
    types = sorted({model_type for classes, _ in TASKS.values() for model_type in classes})
    found = {model_type: names(model_type) for model_type in types}
    return {model_type: entry for model_type, entry in found.items() if entry}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in table().items())
    TARGET.write_text("{\n" + rows + "\n}\n")
    print(TARGET, len(rows), file=sys.stderr)

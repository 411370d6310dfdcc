"""Reference values for the training program: program_cases.py MODEL_FOLDER OUT.safetensors RANK.

ONNX Runtime's values of every output on a batch of mixed lengths, and, from PEFT on the same checkpoint with random
factors on query, key, value and output projections: the logits, the loss and the gradients of all factors and of the head.
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime as ort
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense"]


def batch(vocabulary, lengths):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocabulary, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).long()
    types = torch.zeros_like(ids)
    types[0, lengths[0] // 2:lengths[0]] = 1
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types}


def export_values(folder, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    values = session.run(names, {name: value.numpy() for name, value in feeds.items()})
    return {f"out.{name}": torch.from_numpy(value) for name, value in zip(names, values)}


def adapted(folder, feeds, rank):
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    config = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=3 * rank, lora_dropout=0.0, target_modules=TARGETS)
    model = get_peft_model(model, config).eval()
    result = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    output = model(**feeds)
    labels = torch.arange(len(feeds["input_ids"])) % output.logits.shape[1]
    loss = torch.nn.functional.cross_entropy(output.logits, labels)
    loss.backward()
    result["peft.logits"], result["peft.loss"] = output.logits.detach(), loss.detach()
    result["labels"] = labels
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            short = name.removeprefix("base_model.model.").replace(".default", "").replace("modules_to_save.", "")
            result[f"value.{short}"] = parameter.detach().clone()
            result[f"gradient.{short}"] = parameter.grad
    return result


def main(folder, out, rank):
    folder = pathlib.Path(folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    tensors = {}
    for case, lengths in enumerate([[9, 4, 7, 2], [5, 3], [9, 9, 1, 1]]):
        feeds = batch(vocabulary, lengths)
        tensors |= {f"{case}.in.{name}": value for name, value in feeds.items()}
        tensors |= {f"{case}.{name}": value for name, value in export_values(folder, feeds).items()}
    tensors |= adapted(folder, batch(vocabulary, [9, 4, 7, 2]), int(rank))
    save_file({name: value.contiguous() for name, value in tensors.items()}, out)


main(*sys.argv[1:])

"""Exports of tiny models with random weights, other than BERT: family_cases.py FOLDER.

Per family and exporter FOLDER/NAME.onnx and NAME.safetensors: two padded batches and ONNX Runtime's logits for them.
"""

import os
import sys
import warnings

import onnxruntime as ort
import torch
import transformers
from safetensors.torch import save_file

SIZES = dict(vocab_size=120, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
             max_position_embeddings=64, initializer_range=0.2, pad_token_id=0)
FAMILIES = {
    "deberta": (transformers.DebertaV2ForSequenceClassification, transformers.DebertaV2Config(
        **SIZES, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0, pooler_hidden_size=32)),
    "gpt2": (transformers.GPT2ForSequenceClassification, transformers.GPT2Config(
        vocab_size=120, n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=0, initializer_range=0.2)),
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**SIZES, num_key_value_heads=2)),
}


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def batch(lengths):
    mask = (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(5, 120, mask.shape) * mask, "attention_mask": mask}


def export(model, exporter, path):
    inputs = batch([7, 4])
    common = dict(input_names=list(inputs), output_names=["logits"])
    axes = {0: "batch", 1: "sequence"}
    if exporter == "classic":
        torch.onnx.export(model, tuple(inputs.values()), path, opset_version=17, dynamo=False,
                          dynamic_axes={name: axes for name in inputs}, **common)
    else:
        shapes = ({axis: torch.export.Dim(name) for axis, name in axes.items()},) * 2
        torch.onnx.export(model, tuple(inputs.values()), path, opset_version=20, dynamo=True, dynamic_shapes=shapes,
                          external_data=False, verbose=False, **common)


def main(folder):
    warnings.simplefilter("ignore")
    os.makedirs(folder, exist_ok=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for family, (model_class, config) in FAMILIES.items():
        torch.manual_seed(0)
        config._attn_implementation, config.use_cache = "eager", False
        model = Logits(model_class(config).eval()).eval()
        for exporter in ("classic", "dynamo"):
            path = f"{folder}/{family}_{exporter}"
            export(model, exporter, f"{path}.onnx")
            session = ort.InferenceSession(f"{path}.onnx", options, providers=["CPUExecutionProvider"])
            tensors = {}
            for case, lengths in enumerate([[9, 4, 7], [5, 3]]):
                inputs = batch(lengths)
                tensors |= {f"{case}.in.{name}": value for name, value in inputs.items()}
                logits = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0]
                tensors[f"{case}.out.logits"] = torch.from_numpy(logits)
            save_file(tensors, f"{path}.safetensors")


main(*sys.argv[1:])

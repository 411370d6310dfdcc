#!/usr/bin/env python3
"""Makes the tiny exports that the tests run on: a random BERT of two layers, width 16 and 100 tokens.

    .venv/bin/python onnx/make_tiny_encoder.py            # writes the folders beside this file

tiny_encoder          two-class head, classic exporter (opset 17)
tiny_encoder_dynamo   the same weights through the newer exporter (opset 20)
tiny_encoder_base     the same encoder without pooler and head
tiny_encoder_dropout  exported while in training mode: active dropout, differs from run to run
tiny_encoder_maskless the attention mask is an input that nothing reads
tiny_encoder_plain    tiny_encoder as most exports are: without its hidden states among the outputs
"""

import json
import os
import shutil
import sys
import warnings
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import onnx
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = """the a an and of to in is are was were he she they it not no very good bad film book dog dogs cat cats
walk walks see sees like likes old new man men run runs this that we you on at by for with . , ! ?""".split()


def vocabulary() -> list[str]:
    words = [word for word in WORDS if word not in LETTERS]
    return (SPECIAL + list(LETTERS) + ["##" + letter for letter in LETTERS] + words)[:100]


def make_tokenizer() -> Tokenizer:
    tokens = vocabulary()
    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


class Exported(torch.nn.Module):
    """Fixes the order of inputs and outputs."""

    def __init__(self, model, head: bool, use_mask: bool = True):
        super().__init__()
        self.model, self.head, self.use_mask = model, head, use_mask

    def forward(self, input_ids, attention_mask, token_type_ids):
        mask = attention_mask if self.use_mask else None
        model = self.model if self.head else self.model.bert
        result = model(
            input_ids=input_ids, attention_mask=mask, token_type_ids=token_type_ids, output_hidden_states=True
        )
        first = result.logits if self.head else result.last_hidden_state
        return (first, *result.hidden_states)


def export(folder: Path, module: Exported, dynamo: bool, training: bool = False) -> None:
    layers = module.model.config.num_hidden_layers
    outputs = ["logits" if module.head else "last_hidden_state"] + [f"hidden_states.{i}" for i in range(layers + 1)]
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.randint(5, 100, (2, 7))
    example = (ids, torch.tensor([[1] * 7, [1] * 5 + [0] * 2]), torch.zeros_like(ids))
    path = folder / "model.onnx"
    module.train(training)
    if dynamo:
        batch, sequence = torch.export.Dim("batch", min=1), torch.export.Dim("sequence", min=2)
        shapes = {name: {0: batch, 1: sequence} for name in inputs}
        torch.onnx.export(
            module, example, path, dynamo=True, opset_version=20, input_names=inputs, output_names=outputs,
            dynamic_shapes=shapes, external_data=False, verbose=False,
        )
    else:
        axes = {name: {0: "batch", 1: "sequence"} for name in inputs + outputs}
        if module.head:
            axes["logits"] = {0: "batch"}
        mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
        torch.onnx.export(
            module, example, path, dynamo=False, opset_version=17, input_names=inputs, output_names=outputs,
            dynamic_axes=axes, do_constant_folding=not training, training=mode,
        )
    tidy(path, inputs)


def tidy(path: Path, inputs: list[str]) -> None:
    """Declares inputs that the exporter dropped because nothing reads them; takes out stack traces (paths of this machine)."""
    model = onnx.load(path)
    for place, name in enumerate(inputs):
        if name not in [value.name for value in model.graph.input]:
            shape = ["batch", "sequence"]
            model.graph.input.insert(place, onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, shape))
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        for entry in [entry for entry in node.metadata_props if entry.key.endswith("stack_trace")]:
            node.metadata_props.remove(entry)
    onnx.save(model, path)


def write_folder(folder: Path, model, head: bool, dynamo: bool = False, training: bool = False, use_mask: bool = True):
    folder.mkdir(exist_ok=True)
    export(folder, Exported(model, head, use_mask), dynamo, training)
    source = model if head else model.bert
    weights = {name: tensor.contiguous() for name, tensor in source.state_dict().items() if "position_ids" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = source.config.to_diff_dict()
    config["architectures"] = [type(source).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    make_tokenizer().save(str(folder / "tokenizer.json"), pretty=False)


def write_plain(folder: Path, shown: Path) -> None:
    """The export of another folder with nothing but the logits as outputs; what was shown bears the name of its node."""
    folder.mkdir(exist_ok=True)
    model = onnx.load(shown / "model.onnx")
    hidden = {node.output[0]: f"{node.name}_output_0" for node in model.graph.node if "hidden_states" in node.output[0]}
    for node in model.graph.node:
        node.input[:] = [hidden.get(name, name) for name in node.input]
        node.output[:] = [hidden.get(name, name) for name in node.output]
    for output in [output for output in model.graph.output if output.name != "logits"]:
        model.graph.output.remove(output)
    onnx.save(model, folder / "model.onnx")
    for name in ["config.json", "model.safetensors", "tokenizer.json"]:
        shutil.copy(shown / name, folder / name)


def main() -> None:
    warnings.filterwarnings("ignore")
    here = Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    here = here if here.is_dir() else here.parent
    assert len(vocabulary()) == 100
    config = BertConfig(
        vocab_size=100, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.2, num_labels=2, attn_implementation="eager",
    )

    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():  # zero biases and unit norms would hide mistakes in them
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
            elif "LayerNorm.weight" in name:
                parameter.normal_(1.0, 0.1)
    write_folder(here / "tiny_encoder", model, head=True)
    write_folder(here / "tiny_encoder_dynamo", model, head=True, dynamo=True)
    write_folder(here / "tiny_encoder_base", model, head=False)
    write_folder(here / "tiny_encoder_dropout", model, head=True, training=True)
    write_folder(here / "tiny_encoder_maskless", model, head=True, use_mask=False)
    write_plain(here / "tiny_encoder_plain", here / "tiny_encoder")


if __name__ == "__main__":
    main()

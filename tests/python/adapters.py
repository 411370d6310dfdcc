"""Tiny models with random weights and their exports, for the tests of adapters."""

import contextlib
import io
import json
import pathlib
import shutil
import sys

import numpy
import onnxruntime
import torch
import transformers
from conftest import TINY

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=160)
VOCABULARY = len(json.loads((TINY / "tokenizer.json").read_text())["model"]["vocab"])
IDS = torch.randint(5, 40, (4, 9), generator=torch.Generator().manual_seed(3))
MASK = torch.ones_like(IDS)
MASK[1, 6:] = 0


def config(kind, **more):
    """The configuration of a tiny model of this type."""
    names = dict(SMALL)
    if kind == "distilbert":
        names = dict(dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=160)
    if kind == "gpt2":
        names = dict(n_embd=16, n_layer=2, n_head=2, n_inner=24, n_positions=160)
    return transformers.AutoConfig.for_model(kind, vocab_size=VOCABULARY, pad_token_id=0, **names, **more)


def randomize(model, seed=1):
    """No two tensors alike: an exporter stores equal ones once."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = parameter.data + torch.randn(parameter.shape, generator=generator) * 0.2
    model.config._attn_implementation = "eager"
    return model.eval()


class Outputs(torch.nn.Module):
    def __init__(self, model, outputs):
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, input_ids, attention_mask):
        found = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return tuple(found[name] for name in self.outputs)


@contextlib.contextmanager
def giving(model, outputs):
    """The model itself, giving these outputs only: its export has no name of a wrapper in front (`/classifier/…`)."""
    forward = model.forward
    model.forward = lambda input_ids, attention_mask: tuple(
        forward(input_ids=input_ids, attention_mask=attention_mask)[name] for name in outputs)
    yield model
    model.forward = forward


def export(model, folder, outputs=("logits",), wrapped=True, tokens=False):
    """model.onnx with the tiny tokenizer beside it."""
    names, axes = ["input_ids", "attention_mask"], {0: "batch", 1: "sequence"}
    per_token = lambda name: tokens or name == "last_hidden_state"
    dynamic = {name: axes for name in names} | {name: axes if per_token(name) else {0: "batch"} for name in outputs}
    exported = contextlib.nullcontext(Outputs(model, outputs)) if wrapped else giving(model, outputs)
    with exported as module, torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        torch.onnx.export(module, (IDS[:2, :7], MASK[:2, :7]), str(pathlib.Path(folder) / "model.onnx"),
                          input_names=names, output_names=list(outputs), dynamic_axes=dynamic, opset_version=17, dynamo=False)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (TINY / name).exists():
            shutil.copy(TINY / name, folder)


def onnx_logits(folder, output="logits"):
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run([output], {"input_ids": IDS.numpy(), "attention_mask": MASK.numpy()})[0]


def torch_output(model, name="logits"):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, attention_mask=MASK)[name].numpy()


def opened(folder, auto=transformers.AutoModelForSequenceClassification):
    """The model of a folder and the names of what its class and the file do not share."""
    model, loading = auto.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    return model.eval(), {name: sorted(keys) for name, keys in loading.items() if keys}


def difference(one, other):
    return float(numpy.abs(one - other).max())

"""Exports a module whose opset-13 graph spells out every pattern that fusion knows: pattern_cases.py OUT.onnx OUT.safetensors.

The safetensors file holds token ids, the output, and the gradient of sum(output²) with respect to the embedding table.
"""

import sys
import warnings

import torch
from safetensors.torch import save_file
from torch.nn import functional


class Patterns(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(20, 16)
        self.first, self.second = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)
        self.norm = torch.nn.LayerNorm(16, eps=1e-6)

    def forward(self, ids):
        x = self.norm(self.first(self.table(ids)))
        x = functional.gelu(x) + functional.gelu(self.second(x), approximate="tanh")
        x = 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))
        x = x * 0.5 * (1.0 + torch.erf(x / 2.0**0.5)) + torch.nn.functional.silu(x)
        q = x.view(*ids.shape, 2, 8).transpose(1, 2)
        weights = torch.softmax(q @ q.transpose(2, 3) / 8**0.5, -1)
        return (weights @ q).transpose(1, 2).reshape(*ids.shape, 16)


def main(model, values):
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    module = Patterns().eval()
    ids = torch.randint(0, 20, (3, 7))
    axes = {name: {0: "batch", 1: "sequence"} for name in ("ids", "y")}
    torch.onnx.export(module, (ids,), model, input_names=["ids"], output_names=["y"], dynamic_axes=axes,
                      opset_version=13, dynamo=False)
    y = module(ids)
    y.square().sum().backward()
    save_file({"ids": ids, "y": y.detach(), "gradient": module.table.weight.grad}, values)


main(*sys.argv[1:])

"""Exports one module by the newer exporter at opset 23, where attention is one operator: newer_cases.py OUT.onnx OUT.safetensors

The safetensors file holds inputs of two shapes, the outputs of ONNX Runtime, and the gradient of sum(y²) with respect to the
embedding table, by PyTorch.
"""

import sys
import warnings

import onnxruntime
import torch
from safetensors.torch import save_file
from torch.nn import functional


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(20, 16)
        self.norm = torch.nn.RMSNorm(16)
        self.query, self.rest = torch.nn.Linear(16, 16), torch.nn.Linear(16, 32)

    def forward(self, ids, mask):
        x = self.norm(self.table(ids))
        heads = lambda t: t.view(*t.shape[:2], 2, 8).transpose(1, 2)  # noqa: E731
        key, value = self.rest(x).chunk(2, -1)
        visible = mask[:, None, None, :].bool().expand(-1, 1, ids.shape[1], -1)
        y = functional.scaled_dot_product_attention(heads(self.query(x)), heads(key), heads(value), attn_mask=visible)
        y = y + functional.scaled_dot_product_attention(heads(x), heads(key), heads(value), is_causal=True)
        return y.transpose(1, 2).reshape(x.shape)


def main(path, values):
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    module = Module().eval()
    example = (torch.randint(0, 20, (2, 5)), torch.ones(2, 5, dtype=torch.int64))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    axes = {"ids": {0: batch, 1: length}, "mask": {0: batch, 1: length}}
    torch.onnx.export(module, example, path, input_names=["ids", "mask"], output_names=["y"], dynamic_shapes=axes,
                      opset_version=23, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    tensors = {}
    # The longer one is long enough for libtorch's fused attention.
    for case, (rows, longest) in enumerate([(2, 6), (3, 30)]):
        ids = torch.randint(0, 20, (rows, longest))
        mask = (torch.arange(longest)[None] < torch.tensor([[longest], [longest - 3], [4]][:rows])).long()
        y = module(ids, mask)
        assert torch.allclose(y, torch.tensor(session.run(["y"], {"ids": ids.numpy(), "mask": mask.numpy()})[0]), atol=1e-5)
        module.zero_grad()
        y.square().sum().backward()
        tensors |= {f"{case}.ids": ids, f"{case}.mask": mask, f"{case}.y": y.detach(), f"{case}.gradient": module.table.weight.grad.clone()}
    save_file(tensors, values)


main(*sys.argv[1:])

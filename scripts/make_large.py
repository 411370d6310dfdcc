#!/usr/bin/env python3
"""Makes an export larger than 2 GB: a decoder with random float16 weights in an external file, without hidden states.

    .venv/bin/python scripts/make_large.py build/large

Written node by node, so that it needs little memory and no transformers. What it computes means nothing.
"""

import argparse
import pathlib
import sys

import numpy
import onnx
from onnx import TensorProto, helper

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "onnx"))

WIDTH, HEADS, INNER, VOCABULARY = 2048, 16, 8192, 100


class Writer:
    """Nodes in memory, weights straight to the file."""

    def __init__(self, path: pathlib.Path):
        self.file, self.location = path.open("wb"), path.name
        self.nodes, self.initializers = [], []
        self.random = numpy.random.default_rng(0)

    def weight(self, name: str, shape, scale: float) -> str:
        values = (self.random.standard_normal(shape, dtype=numpy.float32) * scale).astype(numpy.float16)
        return self.external(name, values)

    def external(self, name: str, values) -> str:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=values.shape, data_location=TensorProto.EXTERNAL)
        data = values.tobytes()
        for key, value in (("location", self.location), ("offset", self.file.tell()), ("length", len(data))):
            tensor.external_data.add(key=key, value=str(value))
        self.file.write(data)
        self.initializers.append(tensor)
        return name

    def constant(self, name: str, values, kind) -> str:
        self.initializers.append(helper.make_tensor(name, kind, numpy.shape(values), numpy.ravel(values)))
        return name

    def node(self, operator: str, inputs, output: str, **attributes) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"/{output}", **attributes))
        return output

    def linear(self, x: str, name: str, inputs: int, outputs: int) -> str:
        return self.node("MatMul", [x, self.weight(f"{name}.weight", (inputs, outputs), inputs**-0.5)], f"{name}/MatMul")

    def norm(self, x: str, name: str) -> str:
        scale = self.external(f"{name}.weight", numpy.ones(WIDTH, numpy.float16))
        shift = self.external(f"{name}.bias", numpy.zeros(WIDTH, numpy.float16))
        return self.node("LayerNormalization", [x, scale, shift], f"{name}/norm", axis=-1, epsilon=1e-5)


def block(w: Writer, x: str, number: int) -> str:
    name = f"layers.{number}"
    normed = w.norm(x, f"{name}.input_norm")
    parts = []
    for part in ("q_proj", "k_proj", "v_proj"):
        value = w.linear(normed, f"{name}.attention.{part}", WIDTH, WIDTH)
        value = w.node("Reshape", [value, "heads"], f"{name}.attention.{part}/Reshape")
        order = [0, 2, 3, 1] if part == "k_proj" else [0, 2, 1, 3]
        parts.append(w.node("Transpose", [value], f"{name}.attention.{part}/Transpose", perm=order))
    scores = w.node("MatMul", parts[:2], f"{name}.attention/scores")
    scores = w.node("Mul", [scores, "scale"], f"{name}.attention/scaled")
    scores = w.node("Add", [scores, "bias"], f"{name}.attention/masked")
    weights = w.node("Softmax", [scores], f"{name}.attention/softmax", axis=-1)
    mixed = w.node("MatMul", [weights, parts[2]], f"{name}.attention/mixed")
    mixed = w.node("Transpose", [mixed], f"{name}.attention/back", perm=[0, 2, 1, 3])
    mixed = w.node("Reshape", [mixed, "joined"], f"{name}.attention/joined")
    x = w.node("Add", [x, w.linear(mixed, f"{name}.attention.o_proj", WIDTH, WIDTH)], f"{name}.attention/Add")
    inner = w.linear(w.norm(x, f"{name}.post_norm"), f"{name}.mlp.up_proj", WIDTH, INNER)
    inner = w.node("Relu", [inner], f"{name}.mlp/Relu")
    return w.node("Add", [x, w.linear(inner, f"{name}.mlp.down_proj", INNER, WIDTH)], f"{name}.mlp/Add")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=24, help="100 MB each (default: 24)")
    options = parser.parse_args()
    from make_tiny_encoder import make_tokenizer

    options.out.mkdir(parents=True, exist_ok=True)
    w = Writer(options.out / "model.onnx.data")
    w.constant("heads", [0, 0, HEADS, WIDTH // HEADS], TensorProto.INT64)
    w.constant("joined", [0, 0, WIDTH], TensorProto.INT64)
    w.constant("axes", [1, 2], TensorProto.INT64)
    w.constant("scale", numpy.float16((WIDTH // HEADS) ** -0.5), TensorProto.FLOAT16)
    w.constant("one", numpy.float16(1), TensorProto.FLOAT16)
    w.constant("far", numpy.float16(-1e4), TensorProto.FLOAT16)
    mask = w.node("Cast", ["attention_mask"], "mask", to=TensorProto.FLOAT16)
    mask = w.node("Sub", ["one", mask], "masked")
    mask = w.node("Mul", [mask, "far"], "far_away")
    w.node("Unsqueeze", [mask, "axes"], "bias")
    x = w.node("Gather", [w.weight("embed.weight", (VOCABULARY, WIDTH), 1.0), "input_ids"], "embed/Gather")
    for number in range(options.layers):
        x = block(w, x, number)
    w.node("MatMul", [w.norm(x, "norm"), w.weight("lm_head.weight", (WIDTH, VOCABULARY), WIDTH**-0.5)], "logits")
    axes = ["batch", "sequence"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT16, [*axes, VOCABULARY])]
    graph = helper.make_graph(w.nodes, "large", inputs, outputs, w.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (options.out / "model.onnx").write_bytes(model.SerializeToString())
    w.file.close()
    make_tokenizer().save(str(options.out / "tokenizer.json"), pretty=False)
    print(f"{options.out}: {w.file.name} {(options.out / 'model.onnx.data').stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()

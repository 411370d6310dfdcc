"""Makes product.onnx: one matrix product, with which `gelora doctor` tries out a device.

    .venv/bin/python onnx/make_product.py
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

a = helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", "n"])
b = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", "n"])
product = helper.make_tensor_value_info("product", TensorProto.FLOAT, ["n", "n"])
node = helper.make_node("MatMul", ["a", "b"], ["product"], name="product")
graph = helper.make_graph([node], "product", [a, b], [product])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="gelora", ir_version=8)
onnx.checker.check_model(model)
onnx.save(model, str(Path(__file__).with_name("product.onnx")))

"""Writes a model with functions of its own, branches and a loop: control_cases.py MODEL.onnx VALUES.safetensors

The safetensors file holds inputs of two shapes, what ONNX Runtime makes of them, and the gradient of sum(y²) with respect to
the weight, computed by PyTorch from the same formula.
"""

import sys

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

OWN = "own.functions"


def node(operator, inputs, outputs, domain="", **attributes):
    return helper.make_node(operator, inputs, outputs, name=f"{operator}_{outputs[0]}", domain=domain, **attributes)


def reference(name, attribute, kind):
    return onnx.AttributeProto(name=name, ref_attr_name=attribute, type=kind)


def functions(opsets):
    """`Scaled(x; by, axis = -1)`: softmax of a product; `Layer(x, w, b?)` uses it twice, and so do two calls of it."""
    scaled = [node("Constant", [], ["factor"]), node("Mul", ["x", "factor"], ["inner"]), node("Softmax", ["inner"], ["y"])]
    scaled[0].attribute.append(reference("value_float", "by", onnx.AttributeProto.FLOAT))
    scaled[2].attribute.append(reference("axis", "axis", onnx.AttributeProto.INT))
    axis = helper.make_attribute("axis", -1)
    layer = [
        node("MatMul", ["x", "w"], ["inner"]),
        node("Scaled", ["inner"], ["first"], OWN, by=0.5),
        node("Scaled", ["inner"], ["second"], OWN, by=2.0, axis=1),
        node("Add", ["first", "second"], ["sum"]),
        node("Identity", ["sum"], ["y"]),
    ]
    return [
        helper.make_function(OWN, "Scaled", ["x"], ["y"], scaled, opsets, attributes=["by"], attribute_protos=[axis]),
        helper.make_function(OWN, "Layer", ["x", "w"], ["y"], layer, opsets),
    ]


def graph(nodes, inputs, outputs, initializers=()):
    def info(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    def typed(value):
        return value if isinstance(value, onnx.ValueInfoProto) else info(value)

    return helper.make_graph(nodes, "inner", list(map(typed, inputs)), list(map(typed, outputs)), list(initializers))


def model():
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(OWN, 1)]
    integer = helper.make_tensor_value_info("number", TensorProto.INT64, [])
    on, still = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("on", "still"))
    # One row: only its first axis is taken away and put back; the branch uses what was made outside.
    squeezed = graph([node("Squeeze", ["layer", "zero"], ["flat"]), node("Tanh", ["flat"], ["bent"]),
                      node("Unsqueeze", ["bent", "zero"], ["narrow"])], [], ["narrow"])
    shift = numpy_helper.from_array(np.float32([0.25]), "shift")
    kept = graph([node("Scaled", ["layer"], ["weighted"], OWN, by=3.0), node("Add", ["weighted", "shift"], ["wide"])],
                 [], ["wide"], [shift])
    # An inner branch of known condition.
    known = graph([node("Identity", ["state"], ["as_it_is"])], [], ["as_it_is"])
    other = graph([node("Neg", ["state"], ["negative"])], [], ["negative"])
    body = graph([
        node("MatMul", ["carried", "weight"], ["turned"]), node("Add", ["turned", "x"], ["state"]),
        node("If", ["yes"], ["chosen"], then_branch=known, else_branch=other), node("Sigmoid", ["chosen"], ["next"]),
        node("ReduceMean", ["next"], ["mean"], keepdims=0), node("Identity", ["on"], ["still"]),
    ], [integer, on, "carried"], [still, "next", "mean"])
    nodes = [
        node("Layer", ["x", "weight"], ["layer"], OWN), node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "first"], ["rows"], axis=0), node("Equal", ["rows", "one"], ["is_one"]),
        node("If", ["is_one"], ["branch"], then_branch=squeezed, else_branch=kept),
        node("Layer", ["branch", "weight"], ["again"], OWN), node("Gather", ["shape", "one"], ["length"], axis=0),
        node("Loop", ["length", "", "again"], ["last", "means"], body=body),
        node("If", ["yes"], ["y"], then_branch=graph([node("Mul", ["last", "last"], ["square"])], [], ["square"]),
             else_branch=graph([node("Neg", ["last"], ["minus"])], [], ["minus"])),
    ]
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    initializers = [numpy_helper.from_array(value, name) for name, value in [
        ("weight", weight), ("zero", np.int64([0])), ("first", np.int64(0)), ("one", np.int64(1)), ("yes", np.bool_(True))]]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "length", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "length", 4])
    means = helper.make_tensor_value_info("means", TensorProto.FLOAT, ["length"])
    main = helper.make_graph(nodes, "main", [x], [y, means], initializers)
    made = helper.make_model(main, opset_imports=opsets, functions=functions(opsets), ir_version=9)
    onnx.checker.check_model(made)
    return made, torch.tensor(weight)


def computed(x, weight):
    def layer(x):
        inner = x @ weight
        return torch.softmax(inner * 0.5, -1) + torch.softmax(inner * 2.0, 1)

    made = layer(x)
    state = layer(torch.tanh(made) if len(x) == 1 else torch.softmax(made * 3.0, -1) + 0.25)
    for _ in range(x.shape[1]):
        state = torch.sigmoid(state @ weight + x)
    return state * state


def main(path, values):
    made, weight = model()
    onnx.save(made, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    tensors = {}
    for case, shape in enumerate([(1, 3, 4), (2, 5, 4), (2, 3, 4)]):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(case))
        y, means = session.run(["y", "means"], {"x": x.numpy()})
        leaf = weight.clone().requires_grad_()
        again = computed(x, leaf)
        assert torch.allclose(again.detach(), torch.tensor(y), atol=1e-6), (again, y)
        again.square().sum().backward()
        tensors |= {f"{case}.x": x, f"{case}.y": torch.tensor(y), f"{case}.means": torch.tensor(means), f"{case}.gradient": leaf.grad}
    save_file(tensors, values)


main(*sys.argv[1:])

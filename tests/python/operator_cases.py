"""Writes the ONNX project's own node tests for the given operators: operator_cases.py FOLDER OPERATOR…

Per case FOLDER/NAME.onnx and FOLDER/NAME.safetensors (`in.0`, `out.0` … of the first data set, `in.1.0`, `out.1.0` … of the
second; tolerances in the metadata). FOLDER/cases.json names every case whose model holds no other operators, those inside of
subgraphs and of the model's own functions included, with the reason where the case cannot be written: values that
safetensors or libtorch have no type for.
"""

import json
import os
import sys
import warnings

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx.backend.test.loader import load_model_tests
from safetensors.torch import save_file

TYPES = {np.dtype(t) for t in (np.float32, np.float64, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_,
                               ml_dtypes.bfloat16)}


def tensor(value):
    if value.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(np.array(value.view(np.int16), order="C")).view(torch.bfloat16)
    return torch.from_numpy(np.array(value, order="C"))


def operators_of(graph, functions):
    for node in graph.node:
        function = functions.get((node.domain, node.op_type))
        if function is not None:
            yield from operators_of(function, functions)
        else:
            yield (node.domain + "." if node.domain else "") + node.op_type
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from operators_of(attribute.g, functions)


def as_array(value):
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def obstacle(values):
    """Why these values cannot be handed over."""
    for value in values:
        if value is None or isinstance(value, list):
            return "sequences and optional values are no tensors"
        dtype = np.asarray(value).dtype
        if dtype not in TYPES:
            return "strings are no numbers" if dtype.kind in "OUS" else f"libtorch has no arithmetic for {dtype}"
    return None


def main(folder, *operators):
    warnings.simplefilter("ignore")
    os.makedirs(folder, exist_ok=True)
    operators, cases = set(operators), {}
    for case in load_model_tests(kind="node"):
        model = case.model
        functions = {(f.domain, f.name): f for f in model.functions}
        if not set(operators_of(model.graph, functions)) <= operators:
            continue
        tensors, reason = {}, None
        for number, data_set in enumerate(case.data_sets):
            inputs, outputs = ([as_array(value) for value in values] for values in data_set)
            reason = reason or obstacle([*inputs, *outputs])
            # An input that the case leaves out has no name in the model, and no value.
            named = [i for i, value in enumerate(model.graph.input) if value.name]
            if reason is None and len(inputs) not in (len(named), len(model.graph.input)):
                reason = f"{len(inputs)} values for {len(named)} inputs"
            if reason is None:
                prefix = f"{number}." if number else ""
                places = named if len(inputs) == len(named) else range(len(inputs))
                tensors |= {f"in.{prefix}{i}": tensor(np.asarray(v)) for i, v in zip(places, inputs)}
                tensors |= {f"out.{prefix}{i}": tensor(np.asarray(v)) for i, v in enumerate(outputs)}
        cases[case.name] = reason
        if reason is None:
            onnx.save(model, f"{folder}/{case.name}.onnx")
            numbers = {"rtol": repr(case.rtol), "atol": repr(case.atol), "data_sets": str(len(case.data_sets))}
            save_file(tensors, f"{folder}/{case.name}.safetensors", numbers)
    with open(f"{folder}/cases.json", "w") as file:
        json.dump(cases, file, indent=0, sort_keys=True)
    written = sum(reason is None for reason in cases.values())
    print(f"{written} of {len(cases)} cases written")


main(*sys.argv[1:])

"""Writes the ONNX project's own node tests for the given operators: operator_cases.py FOLDER OPERATOR…

Per case FOLDER/NAME.onnx and FOLDER/NAME.safetensors (`in.0`, `out.0` …; tolerances in the metadata). Cases with values that
safetensors or libtorch have no type for (strings, sequences, complex and 4-bit numbers) are left out.
"""

import os
import sys
import warnings

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests
from safetensors.torch import save_file
import ml_dtypes
import torch

TYPES = {np.dtype(t) for t in (np.float32, np.float64, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_,
                               ml_dtypes.bfloat16)}


def tensor(value):
    if value.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(np.array(value.view(np.int16), order="C")).view(torch.bfloat16)
    return torch.from_numpy(np.array(value, order="C"))


def usable(values):
    return all(isinstance(v, (np.ndarray, np.generic)) and np.asarray(v).dtype in TYPES for v in values)


def main(folder, *operators):
    warnings.simplefilter("ignore")
    os.makedirs(folder, exist_ok=True)
    operators, written = set(operators), 0
    for case in load_model_tests(kind="node"):
        model = case.model
        if not {(n.domain + "." if n.domain else "") + n.op_type for n in model.graph.node} <= operators:
            continue
        if any(not value.name for value in list(model.graph.input) + list(model.graph.output)):
            continue
        inputs, outputs = case.data_sets[0]
        if not usable(inputs) or not usable(outputs) or len(inputs) != len(model.graph.input):
            continue
        tensors = {f"in.{i}": tensor(np.asarray(v)) for i, v in enumerate(inputs)}
        tensors |= {f"out.{i}": tensor(np.asarray(v)) for i, v in enumerate(outputs)}
        onnx.save(model, f"{folder}/{case.name}.onnx")
        save_file(tensors, f"{folder}/{case.name}.safetensors", {"rtol": repr(case.rtol), "atol": repr(case.atol)})
        written += 1
    print(f"{written} cases")


main(*sys.argv[1:])

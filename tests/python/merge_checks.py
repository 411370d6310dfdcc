"""Checks adapters and merged models against transformers, PEFT and ONNX Runtime.

merge_checks.py merged BASE ADAPTER MERGED    all four ways to the logits agree
merge_checks.py planned BASE FOLDER RANKS     PEFT takes the configuration as it is, and makes these ranks
merge_checks.py variants BASE OUT             makes OUT/bare and OUT/external out of a base folder
merge_checks.py headless BASE MERGED          a head that was added: ONNX Runtime against numpy on the checkpoint
"""

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

TOLERANCE = 1e-4


def batch(folder):
    size = AutoConfig.from_pretrained(folder).vocab_size
    generator = np.random.default_rng(0)
    ids = generator.integers(5, size, (4, 9))
    mask = (np.arange(9)[None, :] < np.array([9, 7, 4, 3])[:, None]).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def onnx_run(path, feeds, outputs):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    return session.run(outputs, {name: value for name, value in feeds.items() if name in names})


def torch_logits(model, feeds):
    with torch.no_grad():
        return model.eval()(**{name: torch.from_numpy(value) for name, value in feeds.items()}).logits.numpy()


def classifier(folder):
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.float()


def peft_model(base, adapter):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(classifier(base), adapter)
        result = model.load_adapter(adapter, adapter_name="again")
    said = [str(warning.message) for warning in caught if "missing" in str(warning.message).lower()]
    assert not said, said
    missing = [key for key in result.missing_keys if "again" in key]
    assert not missing and not result.unexpected_keys, result
    return model


def merged(base, adapter, merged):
    feeds = batch(base)
    onnx.checker.check_model(str(Path(merged) / "model.onnx"), full_check=True)
    expected = onnx_run(Path(merged) / "model.onnx", feeds, ["logits"])[0]
    before = onnx_run(Path(base) / "model.onnx", feeds, ["logits"])[0]
    assert np.abs(expected - before).max() > 1e-2, "the adapter should change something"
    ways = {
        "transformers on the merged folder": torch_logits(classifier(merged), feeds),
        "PEFT on base and adapter": torch_logits(peft_model(base, adapter), feeds),
    }
    for way, logits in ways.items():
        difference = np.abs(logits - expected).max()
        print(f"{way}: logits differ from ONNX Runtime on the merged export by {difference:.1e}")
        assert difference < TOLERANCE, way
    for name in ["config.json", "tokenizer.json"]:
        assert (Path(merged) / name).read_bytes() == (Path(base) / name).read_bytes(), name


def planned(base, folder, ranks):
    expected = json.loads(ranks)
    model = get_peft_model(classifier(base), LoraConfig.from_pretrained(folder))
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            rank, scaling = module.r["default"], module.scaling["default"]
            assert module.lora_A["default"].weight.requires_grad, "an untrained adapter must be trainable"
            found[name.removeprefix("base_model.model.")] = [rank, scaling]
    assert found == {name: list(value) for name, value in expected.items()}, (found, expected)
    print(f"PEFT makes {len(found)} adapters of the planned ranks")


def headless(base, merged):
    feeds = batch(base)
    tensors = load_file(Path(merged) / "gelora_head.safetensors")
    last, mask = AutoModel.from_pretrained(merged).eval(), feeds["attention_mask"]
    with torch.no_grad():
        states = last(**{name: torch.from_numpy(value) for name, value in feeds.items()}).last_hidden_state.numpy()
    pooled = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    expected = pooled @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    onnx.checker.check_model(str(Path(merged) / "model.onnx"), full_check=True)
    logits = onnx_run(Path(merged) / "model.onnx", feeds, ["logits"])[0]
    difference = np.abs(logits - expected).max()
    print(f"a new head: ONNX Runtime and the checkpoint differ by {difference:.1e}")
    assert difference < TOLERANCE
    assert AutoConfig.from_pretrained(merged).num_labels == expected.shape[1]


def variants(base, out):
    """bare: the bias of the classifier is zero, and the exporter left it out. external: weights beside the export."""
    for name in ["bare", "external"]:
        shutil.copytree(base, Path(out) / name)
    bare = Path(out) / "bare"
    tensors = load_file(bare / "model.safetensors")
    tensors["classifier.bias"][:] = 0
    save_file(tensors, bare / "model.safetensors", metadata={"format": "pt"})
    model = onnx.load(bare / "model.onnx")
    classifier = next(node for node in model.graph.node if "logits" in node.output)
    assert classifier.op_type == "Gemm"
    del classifier.input[2]
    kept = [tensor for tensor in model.graph.initializer if not tensor.name.endswith("classifier.bias")]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, bare / "model.onnx")
    model = onnx.load(Path(base) / "model.onnx")
    path = Path(out) / "external" / "model.onnx"
    path.unlink()
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)


if __name__ == "__main__":
    {"merged": merged, "planned": planned, "headless": headless, "variants": variants}[sys.argv[1]](*sys.argv[2:])

"""Merged folders of fixtures in transformers and in ONNX Runtime: family_merges.py FIXTURES MERGED FAMILY.

For every MERGED/FAMILY/FORM: how far the merged export's logits (or last hidden state) are from those of the merged folder in
transformers, and both from PEFT's on base and adapter, relative to the largest value. One line each: NAME DIFFERENCE DIFFERENCE
"""

import pathlib
import sys
import warnings

import numpy
import onnxruntime
import torch
import transformers
from safetensors.torch import load_file


def run_export(path, inputs, model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {}
    for value in session.get_inputs():
        if value.name in inputs:
            feeds[value.name] = inputs[value.name].numpy()
        elif value.name.startswith("past"):
            kind = numpy.float16 if "float16" in value.type else numpy.float32
            shape = [len(inputs["input_ids"]) if i == 0 else size if isinstance(size, int) else 0 for i, size in enumerate(value.shape)]
            feeds[value.name] = numpy.zeros(shape, kind)
    name = next(value.name for value in session.get_outputs() if value.name in ("logits", "last_hidden_state"))
    return torch.from_numpy(session.run([name], feeds)[0]).float()


def far(one, other):
    return ((one - other).abs().max() / other.abs().max()).item()


def main(fixtures, merged, family):
    warnings.simplefilter("ignore")
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for folder in sorted(pathlib.Path(merged).glob(f"{family}/*")):
        name = f"{folder.parent.name}/{folder.name}"
        reference = load_file(pathlib.Path(fixtures) / name / "reference.safetensors")
        inputs = {key.removeprefix("0.in."): value for key, value in reference.items() if key.startswith("0.in.")}
        architecture = transformers.AutoConfig.from_pretrained(folder).architectures[0]
        model, loading = getattr(transformers, architecture).from_pretrained(
            folder, attn_implementation="eager", dtype="auto", output_loading_info=True)
        if loading["missing_keys"] or loading["unexpected_keys"]:
            sys.exit(f"{name}: transformers misses {loading['missing_keys']}, does not know {loading['unexpected_keys']}")
        with torch.no_grad():
            result = model.eval()(**inputs)
        ours = (result.logits if "logits" in result else result.last_hidden_state).float()
        try:
            exported = run_export(folder / "model.onnx", inputs, model)
        except Exception as error:
            print(name, "cannot run")
            continue
        # What stands at padding is nobody's, and in half precision it may overflow.
        real = inputs["attention_mask"].bool()
        at_tokens = lambda output: output[real] if output.dim() == 3 else output
        exported, ours, peft = map(at_tokens, (exported, ours, reference["peft.logits"].float()))
        print(name, far(exported, ours), far(ours, peft))


main(*sys.argv[1:])

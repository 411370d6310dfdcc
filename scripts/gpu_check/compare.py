"""The last step of scripts/gpu_check.sh: compares what was written on the device and on the CPU, and prints the table.

Exit code 1 if something does not agree.
"""

import argparse
import json
import pathlib
import sys

import numpy

# float32 with another order of additions; a GPU that rounds factors to 10 bits (TF32) is further off.
ACTIVATIONS, LOSSES, WEIGHTS = 2e-2, 1e-2, 5e-2


def rows_of(store):
    """Every hidden state of a store, in the order of the rows."""
    manifest = json.loads((store / "manifest.json").read_text())
    shards = sorted(store.glob("shard-*"))
    order = numpy.argsort(numpy.concatenate([numpy.load(shard / "rows.npy") for shard in shards]))
    for state in range(len(manifest["hidden_states"])):
        yield numpy.concatenate([numpy.load(shard / f"hidden_state.{state}.npy", mmap_mode="r") for shard in shards])[order]


def activations(out):
    """The largest difference between device and CPU on the rows that both have, relative to the spread of its hidden state."""
    largest = 0.0
    for device, cpu in zip(rows_of(out / "store-device"), rows_of(out / "store-cpu")):
        device = device[: len(cpu)]
        largest = max(largest, float(numpy.abs(device - cpu).max() / cpu.std()))
    return largest


def journal(run, key):
    lines = map(json.loads, next(run.rglob("metrics.jsonl")).read_text().splitlines())
    return [line[key] for line in lines if key in line]


def losses(out):
    device, cpu = (numpy.array(journal(out / name, "loss")) for name in ("run-device", "run-cpu"))
    if len(device) != len(cpu) or not len(cpu):
        raise SystemExit(f"gpu_check: {len(device)} steps on the device, {len(cpu)} on the CPU: both should have the same number")
    return float(numpy.abs(device - cpu).max()), len(cpu)


def weights(out):
    """How far apart the trained adapters are, relative to the largest weight of each tensor."""
    from safetensors.numpy import load_file

    device, cpu = (load_file(next((out / name).rglob("adapter_model.safetensors"))) for name in ("run-device", "run-cpu"))
    return max(float(numpy.abs(device[name] - cpu[name]).max() / max(1e-3, numpy.abs(cpu[name]).max())) for name in cpu)


def providers(out):
    manifest = json.loads((out / "store-device/manifest.json").read_text())
    return sorted({shard["matrix_products"] for shard in manifest["shards"]}), manifest["shards"][0]["onnxruntime"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--few-seconds", type=float, required=True)
    parser.add_argument("--many-seconds", type=float, required=True)
    arguments = parser.parse_args()
    out = arguments.out
    reference = json.loads((out / "pytorch.json").read_text())
    rounded = json.loads((out / "pytorch-tf32.json").read_text())
    count = lambda name: len((out / f"{name}.tsv").read_text().splitlines()) - 1
    placed, runtime = providers(out)
    wanted = "CUDAExecutionProvider" if arguments.device.startswith("cuda") else "CPUExecutionProvider"
    loss, steps = losses(out)
    extraction = (count("rows") - count("few")) / max(1e-9, arguments.many_seconds - arguments.few_seconds)
    training = float(numpy.median(journal(out / "run-rate", "examples_per_second")[1:]))
    rate = lambda ours, theirs: f"{ours:,.0f} rows/s; PyTorch {theirs:,.0f}; {ours / theirs:.2f} times"
    table = [
        ("device", f"{reference['device']}; ONNX Runtime {runtime}, PyTorch {reference['torch']}", None),
        ("matrix products ran on", "; ".join(placed), all(wanted in text for text in placed)),
        ("activations, device − CPU", f"{activations(out):.1e} of the spread", activations(out) < ACTIVATIONS),
        (f"loss of {steps} training steps, device − CPU", f"{loss:.1e}", loss < LOSSES),
        ("adapter after them, device − CPU", f"{weights(out):.1e} of the largest weight", weights(out) < WEIGHTS),
        ("extraction, float32", rate(extraction, reference["extraction"]), None),
        ("extraction, PyTorch with TF32", rate(extraction, rounded["extraction"]), None),
        ("training, float32, batch 32", rate(training, reference["training"]), None),
    ]
    width = max(len(name) for name, _, _ in table)
    print()
    for name, value, good in table:
        print(f"{name:<{width}}  {value}{'' if good is None else '  ok' if good else '  WRONG'}")
    if any(good is False for _, _, good in table):
        sys.exit("gpu_check: the lines marked WRONG are not as they should be")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Merging an adapter into a large sharded checkpoint: time against `cp -r` of the same folder, memory, and a merge that is killed.

    cargo build --release
    .venv/bin/python scripts/bench/merging.py --work /somewhere/with/40GB

The base has the names and shapes of Llama 2 7B in bfloat16 (13.5 GB, three files) with random values, the adapter has rank 16 on
every linear layer. `cp -r` and the merge take turns, each from a cold page cache where this may be asked for (root), and followed
by `sync`, which counts for `cp` too in the second of its figures. Memory is the largest anonymous resident set (`RssAnon`) seen
every 50 ms; mapped files are shown apart. One more merge is killed half way and run again.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import time

import numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]


def shapes(layers: int, hidden: int, inner: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    found = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        found |= {f"{name}.self_attn.{part}_proj.weight": (hidden, hidden) for part in "qkvo"}
        found |= {f"{name}.mlp.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
        found[f"{name}.mlp.down_proj.weight"] = (hidden, inner)
        found |= {f"{name}.{part}.weight": (hidden,) for part in ("input_layernorm", "post_attention_layernorm")}
    return found | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


def write(path: pathlib.Path, tensors: dict[str, tuple[int, ...]], kind: str, values) -> None:
    """A safetensors file whose values come from an endless iterator of byte blocks."""
    size = {"BF16": 2, "F32": 4}[kind]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        end = offset + size * int(numpy.prod(shape))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while offset:
            block = next(values)[:offset]
            file.write(block)
            offset -= len(block)


def endless(kind: str, scale: float):
    """Normal values; a block repeats, begun at another place every time."""
    values = numpy.random.default_rng(0).normal(0, scale, 1 << 24).astype("<f4")
    if kind == "BF16":
        values = (values.view("<u4") >> 16).astype("<u2")
    start = 0
    while True:
        yield numpy.roll(values, start).tobytes()
        start += 99_991


def make(options) -> tuple[pathlib.Path, pathlib.Path]:
    base, adapter = options.work / "base", options.work / "adapter"
    sizes = dict(layers=options.layers, hidden=options.hidden, inner=options.hidden * 43 // 16, vocabulary=32_000)
    tensors = shapes(**sizes)
    if not (base / "config.json").exists():
        base.mkdir(parents=True, exist_ok=True)
        items, groups, filled = list(tensors.items()), [[]], 0
        for name, shape in items:
            length = 2 * int(numpy.prod(shape))
            if filled and filled + length > options.shard_size * 1e9:
                groups.append([])
                filled = 0
            groups[-1].append((name, shape))
            filled += length
        names, values = {}, endless("BF16", 0.02)
        for number, group in enumerate(groups, 1):
            file = f"model-{number:05}-of-{len(groups):05}.safetensors"
            write(base / file, dict(group), "BF16", values)
            names |= {name: file for name, _ in group}
        total = sum(2 * int(numpy.prod(shape)) for shape in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": names}
        (base / "model.safetensors.index.json").write_text(json.dumps(index))
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "hidden_size":
                  sizes["hidden"], "intermediate_size": sizes["inner"], "num_hidden_layers": options.layers,
                  "num_attention_heads": 32, "vocab_size": 32_000, "tie_word_embeddings": False}
        (base / "config.json").write_text(json.dumps(config))
    if not (adapter / "adapter_config.json").exists():
        adapter.mkdir(parents=True, exist_ok=True)
        linear = {name.removesuffix(".weight"): shape for name, shape in tensors.items() if "_proj" in name}
        factors = {}
        for module, (outputs, inputs) in linear.items():
            factors[f"base_model.model.{module}.lora_A.weight"] = (options.rank, inputs)
            factors[f"base_model.model.{module}.lora_B.weight"] = (outputs, options.rank)
        write(adapter / "adapter_model.safetensors", factors, "F32", endless("F32", 0.01))
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": options.rank, "lora_alpha": 2 * options.rank,
                  "target_modules": sorted({module.rsplit(".", 1)[1] for module in linear}), "bias": "none"}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
    return base, adapter


def cold() -> bool:
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
        return True
    except OSError:
        return False


def watched(command: list, kill_at=None) -> dict:
    """Runs a command; its seconds, with and without waiting for the disk, and its largest memory in bytes."""
    start = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    largest = {"RssAnon": 0, "RssFile": 0}
    while process.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        for line in status.splitlines():
            name, _, value = line.partition(":")
            if name in largest:
                largest[name] = max(largest[name], int(value.split()[0]) * 1024)
        if kill_at and kill_at():
            process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    process.wait()
    seconds = time.monotonic() - start
    os.sync()
    return {"seconds": seconds, "synced": time.monotonic() - start, "code": process.returncode, **largest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build" / "bench" / "merging")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--shard-size", type=float, default=5.0, help="GB per file of the base")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--gelora", type=pathlib.Path, default=ROOT / "target" / "release" / "gelora")
    options = parser.parse_args()
    base, adapter = make(options)
    copy, merged = options.work / "copy", options.work / "merged"
    merge = [options.gelora, "merge", base, adapter, "-o", merged, "--quiet"]
    size = sum(path.stat().st_size for path in base.iterdir())
    print(f"base {size / 1e9:.2f} GB, adapter of rank {options.rank}; the page cache is {'cold' if cold() else 'warm'}")
    times = {"cp": [], "cp synced": [], "merge": []}
    for repetition in range(options.repetitions):
        for who in ("cp", "merge") if repetition % 2 == 0 else ("merge", "cp"):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.rmtree(merged, ignore_errors=True)
            cold()
            run = watched(["cp", "-r", base, copy] if who == "cp" else merge)
            assert run["code"] == 0, run
            times[who].append(run["seconds"])
            if who == "cp":
                times["cp synced"].append(run["synced"])
            print(f"{who:5} {run['seconds']:6.1f} s ({run['synced']:.1f} s with sync), anonymous memory "
                  f"{run['RssAnon'] / 1e6:.0f} MB, mapped {run['RssFile'] / 1e9:.2f} GB", flush=True)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.rmtree(merged, ignore_errors=True)
    median = {who: statistics.median(seconds) for who, seconds in times.items()}
    print(f"merge / cp: {median['merge'] / median['cp']:.2f}; merge / (cp and sync): {median['merge'] / median['cp synced']:.2f}")

    written = lambda: list(options.work.glob(f".{merged.name}.merging.*/*.safetensors"))
    cold()
    killed = watched(merge, kill_at=lambda: len(written()) >= 2)
    done = len(written())
    again = watched(merge)
    print(f"killed after {killed['seconds']:.1f} s with {done} files; again: {again['seconds']:.1f} s, code {again['code']}")
    assert killed["code"] == -signal.SIGKILL and again["code"] == 0
    assert not list(options.work.glob(".merged.*"))


if __name__ == "__main__":
    main()

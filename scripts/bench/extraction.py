#!/usr/bin/env python3
"""Extraction side by side: gelora, onnxruntime from Python, PyTorch; all sorted by length, all with the same threads.

    scripts/bench/extraction.py MODEL_FOLDER TEXTS [--rows 4000] [--column sentence] [--repeat 3] [--threads N]

TEXTS is a TSV with a header, or a file with one text per line. The programs take turns, so that a busy machine is busy for
all of them; what counts is the ratio of the medians. Each is timed from the texts to pooled vectors in .npy files,
models loaded before. The Python loops use batches of 32 and pool in numpy or torch.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCH = 32


def read_texts(path, column, rows):
    lines = path.read_text(encoding="utf-8").splitlines()
    header = lines[0].split("\t")
    if column in header:
        place = header.index(column)
        lines = [line.split("\t")[place] for line in lines[1:]]
    texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    random.Random(0).shuffle(texts)
    return texts[:rows]


def load_tokenizer(folder):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    return tokenizer


def sorted_batches(tokenizer, texts):
    import numpy as np

    encoded = tokenizer.encode_batch(texts)
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        length = max(len(encoded[i].ids) for i in rows)
        ids, mask, types = (np.zeros((len(rows), length), np.int64) for _ in range(3))
        for place, i in enumerate(rows):
            n = len(encoded[i].ids)
            ids[place, :n], mask[place, :n], types[place, :n] = encoded[i].ids, 1, encoded[i].type_ids
        yield rows, ids, mask, types


class OnnxRuntime:
    name = "onnxruntime (Python, sorted)"

    def __init__(self, folder, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.tokenizer = load_tokenizer(folder)
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in self.session.get_outputs()]
        self.outputs = [name for name in names if name.startswith("hidden_state")]
        self.inputs = [value.name for value in self.session.get_inputs()]

    def run(self, texts, out):
        import numpy as np

        start = time.perf_counter()
        tables = None
        for rows, ids, mask, types in sorted_batches(self.tokenizer, texts):
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
            states = self.session.run(self.outputs, {name: feed[name] for name in self.inputs})
            if tables is None:
                tables = [np.empty((len(texts), state.shape[2]), np.float32) for state in states]
            weights = mask[:, :, None].astype(np.float32)
            count = weights.sum(1)
            for table, state in zip(tables, states):
                table[rows] = (state * weights).sum(1) / count
        for i, table in enumerate(tables):
            np.save(out / f"{i}.npy", table)
        return len(texts) / (time.perf_counter() - start)


class PyTorch:
    name = "PyTorch (sorted)"

    def __init__(self, folder, threads):
        import torch
        from transformers import AutoModel

        torch.set_num_threads(threads)
        self.tokenizer = load_tokenizer(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def run(self, texts, out):
        import numpy as np
        import torch

        start = time.perf_counter()
        tables = None
        with torch.inference_mode():
            for rows, ids, mask, types in sorted_batches(self.tokenizer, texts):
                ids, mask, types = map(torch.from_numpy, (ids, mask, types))
                states = self.model(
                    input_ids=ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True
                ).hidden_states
                if tables is None:
                    tables = [np.empty((len(texts), state.shape[2]), np.float32) for state in states]
                weights = mask[:, :, None].float()
                count = weights.sum(1)
                for table, state in zip(tables, states):
                    table[rows] = ((state * weights).sum(1) / count).numpy()
        for i, table in enumerate(tables):
            np.save(out / f"{i}.npy", table)
        return len(texts) / (time.perf_counter() - start)


class Gelora:
    name = "gelora"

    def __init__(self, folder, threads):
        self.folder, self.threads = folder, threads
        build = ["cargo", "build", "--release", "--no-default-features", "--example", "extraction_speed"]
        subprocess.run(build, cwd=ROOT, check=True)
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        self.program = target / "release" / "examples" / "extraction_speed"

    def run(self, texts, out):
        (out / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
        command = [self.program, self.folder, out / "texts.txt", out / "store", f"threads={self.threads}"]
        result = subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True, text=True)
        found = json.loads(result.stdout)
        if found["rows"] != len(texts):
            sys.exit(f"gelora gave {found['rows']} rows for {len(texts)} texts")
        return found["rows_per_second"]


def compare(out, names):
    """Largest difference between the vectors of gelora and those of the others."""
    import numpy as np

    for name in names:
        worst = 0.0
        for path in sorted((out / name).glob("[0-9]*.npy")):
            shards = sorted((out / "gelora" / "store").glob("shard-*"))
            ours = np.concatenate([np.load(shard / f"hidden_state.{path.stem}.npy") for shard in shards])
            worst = max(worst, float(np.abs(ours - np.load(path)).max()))
        print(f"largest difference from {name}: {worst:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("texts", type=pathlib.Path)
    parser.add_argument("--column", default="sentence")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    texts = read_texts(arguments.texts, arguments.column, arguments.rows)
    folder = arguments.model.resolve()
    programs = [kind(folder, arguments.threads) for kind in (Gelora, OnnxRuntime, PyTorch)]
    speeds = {program.name: [] for program in programs}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(arguments.repeat):
            for program in programs:
                out = pathlib.Path(scratch) / program.name.split()[0]
                out.mkdir(exist_ok=True)
                speeds[program.name].append(program.run(texts, out))
                print(f"turn {turn + 1}: {program.name}: {speeds[program.name][-1]:.0f} rows/s", flush=True)
        compare(pathlib.Path(scratch), ["onnxruntime", "PyTorch"])
    ours = statistics.median(speeds["gelora"])
    print(f"\n{len(texts)} texts, {arguments.threads} threads, medians of {arguments.repeat}; load {os.getloadavg()[0]:.1f}")
    for name, values in speeds.items():
        median = statistics.median(values)
        print(f"{name:30} {median:8.0f} rows/s   gelora is {ours / median:.2f} x")


if __name__ == "__main__":
    main()

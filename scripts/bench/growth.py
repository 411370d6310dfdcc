#!/usr/bin/env python3
"""How the exact search grows with points, columns and neighbours, beside FAISS's flat index, in one run.

    cargo build --release --no-default-features --example time_two_nn
    build/bench/bin/python scripts/bench/growth.py activations.npy --plot docs/measurements/neighbours.svg

The file is a float32 array [points, columns] of real activations; its first rows and columns are taken. (The first columns of
a hidden state are as good as any: no column is special.) The median of --repetitions after one to warm up.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
POINTS = [2_500, 5_000, 10_000, 20_000, 40_000, 60_000]
COLUMNS = [48, 96, 192, 384, 768]
NEIGHBOURS = [2, 5, 10, 20, 40, 65]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/examples/time_two_nn")
    parser.add_argument("--plot", type=pathlib.Path, help="picture to write")
    parser.add_argument("--json", type=pathlib.Path, help="write the measurements there too")
    return parser.parse_args()


ARGUMENTS = arguments()
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = str(ARGUMENTS.threads)

import faiss  # noqa: E402  (after the number of threads is set)
import numpy as np  # noqa: E402


def ours(points, k, folder):
    file = pathlib.Path(folder) / "points.npy"
    np.save(file, points)
    commands = f"search {k} exact\n" * (ARGUMENTS.repetitions + 1)
    answers = subprocess.run([ARGUMENTS.binary, file], input=commands, capture_output=True, text=True, check=True).stdout
    return statistics.median([json.loads(line)["seconds"] for line in answers.splitlines()][1:])


def theirs(points, k):
    def once():
        start = time.perf_counter()
        index = faiss.IndexFlatL2(points.shape[1])
        index.add(points)
        index.search(points, k + 1)  # the point itself is among them
        return time.perf_counter() - start

    once()
    return statistics.median([once() for _ in range(ARGUMENTS.repetitions)])


def main():
    whole = np.load(ARGUMENTS.file, mmap_mode="r")
    middle = (10_000, 384, 2)
    series = {
        "points": [(n, 384, 2) for n in POINTS if n <= len(whole)],
        "columns": [(10_000, d, 2) for d in COLUMNS if d <= whole.shape[1]],
        "neighbours": [(10_000, 384, k) for k in NEIGHBOURS],
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for what, cases in series.items():
            print(f"\n| {what} | gelora, s | FAISS flat, s | ratio |\n|---|---|---|---|")
            found[what] = []
            for n, d, k in cases:
                points = np.ascontiguousarray(whole[:n, :d])
                mine, other = ours(points, k, folder), theirs(points, k)
                size = {"points": n, "columns": d, "neighbours": k}[what]
                found[what].append({"size": size, "gelora": mine, "faiss": other})
                print(f"| {size:,} | {mine:.3f} | {other:.3f} | {other / mine:.1f} |", flush=True)
    if ARGUMENTS.json:
        ARGUMENTS.json.write_text(json.dumps(found, indent=1) + "\n")
    if ARGUMENTS.plot:
        plot(found, middle)


def plot(found, middle):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "gelora"
    import matplotlib.pyplot as plt

    fixed = dict(zip(("points", "columns", "neighbours"), middle))
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for axis, (what, values) in zip(axes, found.items()):
        sizes = [value["size"] for value in values]
        axis.loglog(sizes, [value["faiss"] for value in values], "o-", color="#b45309", label="FAISS IndexFlatL2")
        axis.loglog(sizes, [value["gelora"] for value in values], "o-", color="#1d4ed8", label="gelora, exact")
        others = ", ".join(f"{value:,} {name}" for name, value in fixed.items() if name != what)
        axis.set(xlabel=what, ylabel="seconds", title=others)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(ARGUMENTS.plot, metadata={"Date": None})


if __name__ == "__main__":
    main()

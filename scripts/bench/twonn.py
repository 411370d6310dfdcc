#!/usr/bin/env python3
"""TwoNN side by side with its peers, in one run, repetitions taking turns.

    cargo build --release --no-default-features --example time_two_nn
    python -m venv build/bench && build/bench/bin/pip install -r scripts/requirements-bench.txt
    build/bench/bin/python scripts/bench/twonn.py [activations.npy ...]

Every file is a float32 array [points, columns]; beside the files (or where none is given) a Gaussian sample of
--points × --columns is used. Everybody starts from the array in memory and uses --threads threads. FAISS and
scikit-learn only search the neighbours; scikit-dimension, DADApy and gelora give the dimension too. Ratios above 1 mean
that gelora is faster. On a busy machine only the ratios mean something, and CPU seconds more than wall seconds.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=pathlib.Path, help=".npy files of float32 [points, columns]")
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=768)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--skip", default="", help="peers to leave out, comma-separated")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/examples/time_two_nn")
    parser.add_argument("--json", type=pathlib.Path, help="write the measurements there too")
    return parser.parse_args()


ARGUMENTS = arguments()
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = str(ARGUMENTS.threads)

import numpy as np  # noqa: E402  (after the number of threads is set)


def cpu_seconds(pid="self"):
    """User and system time of a process, all its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Gelora:
    """The program that answers commands, with the points in memory."""

    def __init__(self, binary, file):
        self.process = subprocess.Popen([binary, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, command):
        before = cpu_seconds(self.process.pid)
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["seconds"], cpu_seconds(self.process.pid) - before, answer["answer"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def timed(function):
    def run(points):
        before, start = cpu_seconds(), time.perf_counter()
        answer = function(points)
        return time.perf_counter() - start, cpu_seconds() - before, answer
    return run


@timed
def faiss_flat(points):
    import faiss
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    index.search(points, 3)


@timed
def scikit_learn_brute(points):
    from sklearn.neighbors import NearestNeighbors
    NearestNeighbors(n_neighbors=3, algorithm="brute", n_jobs=-1).fit(points).kneighbors(points)


@timed
def scikit_dimension(points):
    import skdim
    return skdim.id.TwoNN().fit(points).dimension_


@timed
def dadapy(points):
    from dadapy import Data
    data = Data(points, maxk=3, n_jobs=ARGUMENTS.threads, verbose=False)
    return data.compute_id_2NN()[0]


PEERS = {
    "faiss flat (search only)": (faiss_flat, "search 2 exact"),
    "scikit-learn brute (search only)": (scikit_learn_brute, "search 2 exact"),
    "DADApy": (dadapy, "two_nn"),
    "scikit-dimension": (scikit_dimension, "two_nn"),
}


def compare(name, file):
    points = np.ascontiguousarray(np.load(file), dtype=np.float32)
    peers = {peer: pair for peer, pair in PEERS.items() if not any(s and s in peer for s in ARGUMENTS.skip.split(","))}
    gelora = Gelora(ARGUMENTS.binary, file)
    ours = {"search 2 exact": [], "two_nn": []}
    theirs = {peer: [] for peer in peers}
    for repetition in range(ARGUMENTS.repetitions + 1):
        for command, times in ours.items():
            times.append(gelora.run(command))
        for peer, (run, _) in peers.items():
            theirs[peer].append(run(points))
    gelora.close()
    print(f"\n{name}: {points.shape[0]} x {points.shape[1]}, {ARGUMENTS.threads} threads, "
          f"{ARGUMENTS.repetitions} repetitions after one to warm up")
    print(f"{'':34} {'best s':>8} {'median s':>9} {'CPU s':>7} {'dimension':>10} | gelora is faster by: best, median, CPU")
    rows = {("gelora " + command, None): times for command, times in ours.items()}
    rows |= {(peer, peers[peer][1]): times for peer, times in theirs.items()}
    results = []
    for (label, rival), times in rows.items():
        times = times[1:]
        figures = summary(times)
        answer = times[-1][2] if label == "gelora two_nn" or rival == "two_nn" else None
        # The CPU clock ticks in hundredths of a second.
        mine = [max(figure, 0.005) for figure in summary(ours[rival][1:])] if rival else []
        ratios = [theirs / own for theirs, own in zip(figures, mine)]
        print(f"{label:34} {figures[0]:8.3f} {figures[1]:9.3f} {figures[2]:7.2f} "
              f"{'' if answer is None else f'{answer:.4f}':>10} | {'  '.join(f'{ratio:.2f}' for ratio in ratios)}")
        results.append({"data": name, "shape": points.shape, "what": label, "best": figures[0], "median": figures[1],
                        "cpu": figures[2], "dimension": answer, "ratios": ratios})
    return results


def summary(times):
    wall, cpu = [t[0] for t in times], [t[1] for t in times]
    return min(wall), statistics.median(wall), statistics.median(cpu)


def main():
    if not ARGUMENTS.binary.exists():
        sys.exit(f"{ARGUMENTS.binary} is not there; build it: "
                 "cargo build --release --no-default-features --example time_two_nn")
    results = []
    for file in ARGUMENTS.files:
        results += compare(file.stem, file)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "gaussian.npy"
        generator = np.random.default_rng(0)
        np.save(file, generator.standard_normal((ARGUMENTS.points, ARGUMENTS.columns), dtype=np.float32))
        results += compare("gaussian", file)
    if ARGUMENTS.json:
        ARGUMENTS.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

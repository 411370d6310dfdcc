#!/usr/bin/env python3
"""How far a head alone comes on the sample data: the encoder frozen, a linear classifier trained to the end on what it reads.

    .venv/bin/python scripts/bench/frozen_head.py build/quickstart/model

The classifier is fitted by L-BFGS on the pooler's output (what the head of the export reads) and on the mean of the last
hidden state, for several strengths of the penalty; the best on the development rows is shown, which flatters it.
"""

import argparse
import csv
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]


def features(model, tokenizer, path: Path) -> tuple[dict, torch.Tensor]:
    """What a linear classifier could read of every row, and the labels."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    names = sorted({row["label"] for row in rows})
    pooled, means = [], []
    with torch.no_grad():
        for start in range(0, len(rows), 64):
            batch = tokenizer([row["sentence"] for row in rows[start:start + 64]], padding=True, truncation=True,
                              max_length=64, return_tensors="pt")
            out = model.base_model(**batch)
            mask = batch["attention_mask"][:, :, None]
            pooled.append(out.pooler_output)
            means.append((out.last_hidden_state * mask).sum(1) / mask.sum(1))
    labels = torch.tensor([names.index(row["label"]) for row in rows])
    return {"pooler output": torch.cat(pooled), "mean of the last hidden state": torch.cat(means)}, labels


def fit(x: torch.Tensor, y: torch.Tensor, penalty: float) -> torch.nn.Linear:
    """Penalised logistic regression."""
    layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(layer(x), y) + penalty * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder that scripts/export_onnx.py made")
    folder = parser.parse_args().model
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train, labels = features(model, tokenizer, ROOT / "examples/data/agreement_train.tsv")
    dev, truth = features(model, tokenizer, ROOT / "examples/data/agreement_dev.tsv")
    for name, x in train.items():
        mean, spread = x.mean(0), x.std(0)
        scaled = [(values - mean) / spread for values in (x, dev[name])]
        found = {}
        for penalty in (0.0, 1e-5, 1e-4, 1e-3, 1e-2):
            layer = fit(scaled[0], labels, penalty)
            right = [(layer(values).argmax(1) == wanted).float().mean().item()
                     for values, wanted in ((scaled[0], labels), (scaled[1], truth))]
            found[penalty] = right
        penalty = max(found, key=lambda penalty: found[penalty][1])
        print(f"{name}: accuracy {found[penalty][1]:.3f} on {len(truth)} development rows "
              f"({found[penalty][0]:.3f} on the training rows, penalty {penalty})")


if __name__ == "__main__":
    main()

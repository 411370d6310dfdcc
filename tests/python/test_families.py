"""Plan, a few steps of training and merge on exports of several families that show no hidden states."""

import json
import subprocess
import sys

import numpy
import onnxruntime
import pytest
import torch
import transformers
from conftest import ROOT, Run, read_table, run
from safetensors.torch import load_file

TOLERANCE = 1e-4
# Shared weights, weights that constants pass through too, weights stored [in, out], heads of two layers, a new head.
CASES = [("albert", "classic"), ("albert", "dynamo"), ("deberta-v3", "classic"), ("deberta-v3", "dynamo"),
         ("roberta", "classic"), ("distilbert", "optimized-99"), ("modernbert", "dynamo"), ("gpt2", "base"),
         ("llama", "base"), ("t5-encoder", "base"), ("bert", "external"), ("nomic-bert", "classic"), ("nomic-bert", "base"),
         ("lfm2", "base"), ("bert", "optimum-O1")]


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fixtures")
    for family, form in CASES:
        command = [sys.executable, str(ROOT / "scripts/make_fixtures.py"), str(folder), "--families", family, "--forms", form]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def tokenized(model, sentences):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"), pad_token="[PAD]")
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    batch = tokenizer(sentences, padding=True, truncation=True, max_length=32, return_tensors="np")
    return {name: values.astype(numpy.int64) for name, values in batch.items()}


def exported_logits(path, batch):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = [value.name for value in session.get_inputs()]
    return session.run(["logits"], {name: batch[name] for name in wanted})[0]


def folder_logits(folder, batch):
    """Logits of a merged folder through transformers; a head that was added is computed beside the model."""
    architecture = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    model = getattr(transformers, architecture).from_pretrained(folder, attn_implementation="eager").eval()
    accepted = {"input_ids", "attention_mask"} | ({"token_type_ids"} if getattr(model.config, "type_vocab_size", 0) > 1 else set())
    with torch.no_grad():
        result = model(**{name: torch.from_numpy(values) for name, values in batch.items() if name in accepted})
    if "logits" in result:
        return result.logits.numpy()
    # No class of transformers has a head that reads the mean.
    weights = load_file(folder / "gelora_head.safetensors")
    mask = torch.from_numpy(batch["attention_mask"]).float()[:, :, None]
    pooled = (result.last_hidden_state * mask).sum(1) / mask.sum(1)
    return (pooled @ weights["classifier.weight"].T + weights["classifier.bias"]).numpy()


@pytest.mark.parametrize("family,form", CASES)
def test_a_trained_family_merges_to_the_same_model(family, form, fixtures, tables, tmp_path):
    model = fixtures / family / form
    head = ["--head", "mean"] if form == "base" else []
    done = Run(tmp_path, model, *tables, ["--epochs", "1", "--batch-size", "50", "--learning-rate", "5e-3", *head])
    sentences, labels = read_table(done.dev)
    batch = tokenized(model, sentences)
    before = None if head else exported_logits(model / "model.onnx", batch)
    merged = exported_logits(done.merged / "model.onnx", batch)
    assert before is None or numpy.abs(merged - before).max() > 10 * TOLERANCE, "training changed nothing"
    assert numpy.abs(merged - folder_logits(done.merged, batch)).max() < TOLERANCE
    result = run("evaluate", done.merged, "--data", done.dev, "--text", "sentence", "--label", "label", "--json")
    metrics = {metric["name"]: metric["value"] for metric in json.loads(result.stdout)["metrics"]}
    assert metrics["accuracy"] == pytest.approx((merged.argmax(1) == labels).mean())

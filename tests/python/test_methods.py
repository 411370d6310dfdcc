"""BitFit and full fine-tuning against the same loop in PyTorch, on the same batches; and what is left untouched."""

import json
import shutil

import pytest
import torch
import transformers
from adapters import config, difference, export, onnx_logits, opened, randomize, torch_output
from conftest import read_table, run, write_table
from safetensors.torch import load_file

TOLERANCE = 1e-5
ROWS, BATCH, EPOCHS, RATE = 24, 8, 3, 2e-3
BATCHES = [[list(range(start, start + BATCH)) for start in range(0, ROWS, BATCH)]] * EPOCHS
STEPS = [batch for epoch in BATCHES for batch in epoch]


def loop(model, table, tokenizer, trained):
    """AdamW without decay at one rate, the mean loss of every batch; the model as it is exported, without dropout."""
    model.eval()
    texts, labels = read_table(table)
    parameters = [value.requires_grad_(name in trained) for name, value in model.named_parameters()]
    optimizer = torch.optim.AdamW([value for value in parameters if value.requires_grad], lr=RATE, weight_decay=0.0)
    for batch in STEPS:
        tokens = tokenizer([texts[row] for row in batch], padding=True, truncation=True, max_length=32, return_tensors="pt")
        found = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
        loss = torch.nn.functional.cross_entropy(found, torch.tensor([labels[row] for row in batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trained(model, method, table, out):
    batches = out / "batches.json"
    batches.write_text(json.dumps(BATCHES))
    columns = ["--data", table, "--text", "sentence", "--label", "label", "--max-length", "32"]
    run("train", model, "--method", method, *columns, "--batches", batches, "--learning-rate", str(RATE), "--schedule", "constant",
        "--warmup-steps", "0", "--clip-norm", "0", "-o", out / "trained")
    run("merge", model, out / "trained", "-o", out / "merged")
    return out / "merged"


@pytest.mark.parametrize("method", ["bitfit", "full"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_what_is_trained_is_what_pytorch_trains(kind, method, tmp_path):
    torch.manual_seed(0)
    whole = randomize(transformers.AutoModelForSequenceClassification.from_config(config(kind)))
    model = tmp_path / "model"
    whole.save_pretrained(model)
    export(whole, model)
    table = write_table(tmp_path / "train.tsv", ROWS, 1)
    merged = trained(model, method, table, tmp_path)

    before, after = (load_file(folder / "model.safetensors") for folder in (model, merged))
    head = {name for name in before if "classifier" in name or name.startswith("head.")}
    wanted = {name for name in before if method == "full" or name.endswith(".bias") or name in head}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"), pad_token="[PAD]")
    loop(whole, table, tokenizer, wanted)
    expected = whole.state_dict()
    assert set(after) == set(before)
    for name in before:
        assert torch.equal(before[name], after[name]) or name in wanted, name
        # What is added to every key shifts all scores of a query alike: its gradient is rounding noise, which AdamW scales up.
        tolerance = len(STEPS) * RATE if name.endswith(("key.bias", "k_lin.bias")) else TOLERANCE
        assert (after[name] - expected[name]).abs().max() < tolerance, name
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # Rows of the table of positions that no text reaches change nothing; every tensor that is used does.
    assert changed == wanted - {name for name in wanted if torch.equal(before[name], expected[name])}
    again, loading = opened(merged)
    assert loading == {} and difference(torch_output(again), onnx_logits(merged)) < TOLERANCE
    assert difference(torch_output(whole), onnx_logits(merged)) < 1e-4
    assert difference(onnx_logits(model), onnx_logits(merged)) > 1e-3


def test_an_added_head_and_a_plan_that_nobody_needs(tmp_path):
    whole = randomize(transformers.AutoModel.from_config(config("bert")))
    model = tmp_path / "model"
    whole.save_pretrained(model)
    export(whole, model, ("last_hidden_state",))
    table = write_table(tmp_path / "train.tsv", ROWS, 1)
    columns = ["--data", table, "--text", "sentence", "--label", "label", "--max-length", "32"]
    run("train", model, "--method", "bitfit", *columns, "--head", "mean", "--epochs", "1", "-o", tmp_path / "trained")
    written = json.loads((tmp_path / "trained/gelora.json").read_text())
    assert (written["method"], written["added_head"]) == ("bitfit", "mean") and "plan_sha256" not in written
    assert not (tmp_path / "trained/adapter_config.json").exists()
    run("merge", model, tmp_path / "trained", "-o", tmp_path / "merged")
    assert set(load_file(tmp_path / "merged/gelora_head.safetensors")) == {"classifier.weight", "classifier.bias"}
    run("evaluate", tmp_path / "merged", *columns)
    # Ranks are for LoRA, and LoRA needs them.
    run("plan", model, "--data", write_table(tmp_path / "more.tsv", 100, 2), "--text", "sentence", "-o", tmp_path / "plan")
    done = run("train", model, "--method", "full", "--plan", tmp_path / "plan", *columns, "-o", tmp_path / "other", expect=1)
    assert "--plan has no use for full, which has no ranks; leave it out" in done.stderr
    done = run("train", model, *columns, "-o", tmp_path / "other", expect=1)
    assert "LoRA trains at the ranks of a plan, and none was given" in done.stderr
    # The state of a training is that of its method.
    shutil.copytree(tmp_path / "trained", tmp_path / "again")
    done = run("train", model, "--method", "full", *columns, "--head", "mean", "--epochs", "1", "-o", tmp_path / "again", expect=1)
    assert "method" in done.stderr and "--restart" in done.stderr


def test_a_run_without_ranks_makes_no_plan(tmp_path):
    whole = randomize(transformers.AutoModelForSequenceClassification.from_config(config("bert")))
    model, out = tmp_path / "model", tmp_path / "out"
    whole.save_pretrained(model)
    export(whole, model)
    train, dev = write_table(tmp_path / "train.tsv", ROWS, 1), write_table(tmp_path / "dev.tsv", 16, 2)
    (tmp_path / "run.toml").write_text(
        f'[model]\npath = "{model}"\n[data]\ntrain = "{train}"\ndev = "{dev}"\ntext = "sentence"\nlabel = "label"\nmax_length = 32\n'
        f'[train]\nmethod = "bitfit"\nepochs = 3\nbatch_size = 8\n[output]\nfolder = "{out}"\n')
    done = json.loads(run("run", tmp_path / "run.toml", "--json").stdout)
    assert done["plan"] is None and done["training"]["method"] == "bitfit"
    assert not (out / "plan.json").exists() and (out / "adapter/gelora_tensors.safetensors").exists()
    changed = {name for name, values in load_file(out / "merged/model.safetensors").items()
               if not torch.equal(values, load_file(model / "model.safetensors")[name])}
    assert changed and all(name.endswith(".bias") or "classifier" in name for name in changed)
    # Once more nothing is done; LoRA in the same folder leaves no tensors of this training.
    assert json.loads(run("run", tmp_path / "run.toml", "--json").stdout) == done
    (tmp_path / "run.toml").write_text((tmp_path / "run.toml").read_text().replace("bitfit", "lora"))
    write_table(train, 120, 3)
    done = json.loads(run("run", tmp_path / "run.toml", "--json").stdout)
    assert done["training"]["method"] == "lora" and (out / "plan.json").exists()
    assert (out / "adapter/adapter_config.json").exists() and not (out / "adapter/gelora_tensors.safetensors").exists()


def test_what_would_stay_untrained_is_refused(tmp_path):
    """An export alone, whose weights have no names, and settings that are about ranks."""
    whole = randomize(transformers.AutoModelForSequenceClassification.from_config(config("bert")))
    model = tmp_path / "model"
    whole.save_pretrained(model)
    export(whole, model)
    columns = ["--data", write_table(tmp_path / "train.tsv", ROWS, 1), "--text", "sentence", "--label", "label", "--max-length", "32"]
    alone = tmp_path / "alone"
    shutil.copytree(model, alone)
    (alone / "model.safetensors").unlink()
    done = run("train", alone, "--method", "full", *columns, "-o", tmp_path / "no", expect=1)
    assert "would not be trained" in done.stderr and "model.safetensors" in done.stderr
    for more in (["--dropout", "0.1"], ["--flavour", "uniform"]):
        done = run("train", model, "--method", "full", *columns, *more, "-o", tmp_path / "no", expect=1)
        assert "has no use for full, which has no ranks" in done.stderr
    for more in (["--threshold-rows", "0.1"], ["--class-weights", "1,2,3"]):
        done = run("train", model, "--method", "bitfit", *columns, *more, "-o", tmp_path / "no", expect=1)
        assert more[0].lstrip("-").split("-")[0] in done.stderr
    # A training with weights is none without.
    weighted = ["--method", "bitfit", *columns, "--epochs", "1", "-o", tmp_path / "trained"]
    run("train", model, *weighted, "--class-weights", "1,2")
    done = run("train", model, *weighted, expect=1)
    assert "class weights" in done.stderr and "--restart" in done.stderr
    # What was killed between its files is no folder that merging takes.
    (tmp_path / "trained/gelora.json").unlink()
    done = run("merge", model, tmp_path / "trained", "-o", tmp_path / "merged", expect=1)
    assert "gelora.json" in done.stderr

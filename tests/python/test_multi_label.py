"""Several labels per text: how rows are written, figures as scikit-learn has them, training as PyTorch does it."""

import json
import random

import numpy
import pytest
import torch
import transformers
from adapters import config, difference, export, onnx_logits, opened, randomize, torch_output
from conftest import WORDS, run
from safetensors.torch import load_file
from sklearn import metrics

TOLERANCE = 1e-5
ROWS, BATCH, EPOCHS, RATE = 24, 8, 3, 2e-3
BATCHES = [[list(range(start, start + BATCH)) for start in range(0, ROWS, BATCH)]] * EPOCHS
NAMES = ["film", "animal", "joy, or so", "walk", "never"]
FIGURES = ["f1_micro", "f1_macro", "f1_samples", "average_precision", "average_precision_micro", "subset_accuracy"]


def rows_of(count, seed=1):
    """Distinct sentences and the names of their labels, by the words in them; the last label has no row, some rows no label."""
    source, rows = random.Random(seed), {}
    while len(rows) < count:
        words = [source.choice(WORDS) for _ in range(source.randint(2, 9))]
        has = {"film": {"film", "book"}, "animal": {"dog", "dogs", "cat", "cats"}, "joy, or so": {"good", "like", "likes"},
               "walk": {"walk", "walks", "run", "runs"}}
        rows[" ".join(words)] = [name for name, signs in has.items() if signs & set(words)]
    return list(rows.items())


def write_lists(path, rows):
    path.write_text("".join(json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in rows))
    return path


def classifier(folder, labels=len(NAMES), seed=1):
    torch.manual_seed(0)
    whole = randomize(transformers.AutoModelForSequenceClassification.from_config(config("bert", num_labels=labels)), seed)
    whole.save_pretrained(folder)
    export(whole, folder)
    return whole


def options(data, names=None):
    return ["--task", "multi-label", "--data", data, "--max-length", "32", *(["--labels", ",".join(names)] if names else [])]


def evaluated(model, data, *more):
    found = json.loads(run("evaluate", model, *options(data), "--json", *more).stdout)
    return {figure["name"]: figure["value"] for figure in found["metrics"]}


def plain(names):
    """Names without commas: those go on a command line."""
    return [name.split(",")[0] for name in names]


def of_plain(rows):
    return [(text, plain(labels)) for text, labels in rows]


def sets(rows, names):
    return numpy.array([[name in labels for name in names] for _, labels in rows], dtype=int)


def test_figures_are_those_of_scikit_learn(tmp_path):
    model = tmp_path / "model"
    classifier(model)
    rows = of_plain(rows_of(200))
    names = plain(NAMES)
    data, out = write_lists(tmp_path / "dev.jsonl", rows), tmp_path / "predictions.jsonl"
    listed = ["--labels", ",".join(names)]
    found = evaluated(model, data, *listed, "--predictions", out)
    assert list(found) == ["f1_micro", "f1_macro", "f1_samples", "average_precision"]
    found = evaluated(model, data, *listed, "--metrics", ",".join(FIGURES), "--predictions", out)
    assert list(found) == FIGURES
    written = [json.loads(line) for line in out.read_text().splitlines()]
    logits = numpy.array([row["logits"] for row in written])
    predicted = sets([(0, row["prediction"]) for row in written], names)
    truth = sets(rows, names)
    assert [row["label"] for row in written] == [[name for name in names if name in labels] for _, labels in rows]
    assert numpy.array_equal(predicted, 1 / (1 + numpy.exp(-logits)) >= 0.5) and 0 < predicted.mean() < 1
    assert truth[:, -1].sum() == 0 and (truth.sum(1) == 0).any()
    with pytest.warns(UserWarning):
        expected = {f"f1_{average}": metrics.f1_score(truth, predicted, average=average, zero_division=0)
                    for average in ("micro", "macro", "samples")}
        expected["average_precision"] = metrics.average_precision_score(truth, logits)
        expected["average_precision_micro"] = metrics.average_precision_score(truth, logits, average="micro")
        expected["subset_accuracy"] = metrics.accuracy_score(truth, predicted)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    # In a table the names stand between commas.
    run("evaluate", model, *options(data), *listed, "--predictions", tmp_path / "predictions.tsv")
    lines = (tmp_path / "predictions.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["line", "prediction", "label", *(f"logit:{name}" for name in names)]
    assert [line.split("\t")[1].split(",") for line in lines[1:]] == [row["prediction"] or [""] for row in written]


def test_rows_are_the_same_however_they_are_written(tmp_path):
    model = tmp_path / "model"
    classifier(model)
    names, rows = plain(NAMES), of_plain(rows_of(60))
    texts, truth = [text for text, _ in rows], sets(rows, names)
    numbers = [[names.index(label) for label in labels] for _, labels in rows]

    def table(name, separator, header, lines):
        path = tmp_path / name
        path.write_text("\n".join(separator.join(map(str, line)) for line in [header, *lines]) + "\n")
        return path

    files = [
        write_lists(tmp_path / "names.jsonl", rows),
        write_lists(tmp_path / "numbers.jsonl", zip(texts, numbers)),
        table("names.tsv", "\t", ("text", "labels"), [(text, ",".join(labels)) for text, labels in rows]),
        table("numbers.tsv", "\t", ("text", "labels"), [(text, ",".join(map(str, row))) for text, row in zip(texts, numbers)]),
        table("lists.tsv", "\t", ("text", "labels"), [(text, json.dumps(labels)) for text, labels in rows]),
        table("columns.csv", ",", ("text", *names), [(text, *row) for text, row in zip(texts, truth)]),
    ]
    objects = tmp_path / "columns.jsonl"
    objects.write_text("".join(json.dumps({"text": text} | dict(zip(names, map(bool, row)))) + "\n" for text, row in zip(texts, truth)))
    found = [evaluated(model, path, "--labels", ",".join(names)) for path in [*files, objects]]
    assert all(figures == found[0] for figures in found) and None not in found[0].values()
    # Rows without labels are predicted.
    bare = table("bare.tsv", "\t", ("text",), [(text,) for text in texts])
    run("evaluate", model, *options(bare, names), "--predictions", tmp_path / "bare.jsonl")
    assert "label" not in json.loads((tmp_path / "bare.jsonl").read_text().splitlines()[0])


def test_what_is_wrong_with_a_row_is_said_in_one_line(tmp_path):
    model = tmp_path / "model"
    classifier(model, 3)

    def refused(name, content, *more):
        path = tmp_path / name
        path.write_text(content)
        said = run("evaluate", model, *options(path), "--labels", "a,b,c", *more, expect=1).stderr
        assert said.count("\n") == 1 and str(path) in said, said
        return said

    header = "text\tlabels\n"
    assert "line 3: label `d` is not one of `a`, `b`, `c`; mend" in refused("a.tsv", f"{header}x\ta,b\ny\tb,d\n")
    assert "line 2: label `3` is not one of" in refused("a.tsv", f"{header}x\t0,3\n")
    assert "line 2: column `labels` has an empty label in `a,,b`" in refused("a.tsv", f"{header}x\ta,,b\n")
    assert "has `['a', 'b']`, which is no JSON list" in refused("a.tsv", f"{header}x\t['a', 'b']\n")
    assert "line 1: `labels` is null; the labels of a text are a list" in refused("a.jsonl", '{"text": "x", "labels": null}\n')
    assert "line 1: a list in `labels` has a JSON array" in refused("a.jsonl", '{"text": "x", "labels": [["a"]]}\n')
    assert "line 2: column `b` has `2`; write 1" in refused("a.csv", "text,a,b,c\nx,1,2,0\n")
    assert "no column `labels`" in refused("a.csv", "text,a,b\nx,1,0\n")
    assert "f1_micro" in refused_metric(model, tmp_path)


def refused_metric(model, folder):
    data = write_lists(folder / "b.jsonl", [("x", ["a"])])
    return run("evaluate", model, *options(data), "--labels", "a,b,c", "--metrics", "accuracy", expect=1).stderr


def loop(model, rows, names, tokenizer, trained, weights=None):
    """AdamW without decay at one rate, with the loss that transformers takes for this problem; without dropout."""
    model.eval()
    model.config.problem_type = "multi_label_classification"
    truth = torch.tensor(sets(rows, names), dtype=torch.float32)
    parameters = [value.requires_grad_(name in trained) for name, value in model.named_parameters()]
    optimizer = torch.optim.AdamW([value for value in parameters if value.requires_grad], lr=RATE, weight_decay=0.0)
    for batch in [batch for epoch in BATCHES for batch in epoch]:
        tokens = tokenizer([rows[row][0] for row in batch], padding=True, truncation=True, max_length=32, return_tensors="pt")
        found = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], labels=truth[batch])
        loss = found.loss
        if weights is not None:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(found.logits, truth[batch], pos_weight=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trained(model, method, data, out, *more):
    batches = out / "batches.json"
    batches.write_text(json.dumps(BATCHES))
    run("train", model, "--method", method, *options(data), "--batches", batches, "--learning-rate", str(RATE),
        "--schedule", "constant", "--warmup-steps", "0", "--clip-norm", "0", *more, "-o", out / "trained")
    run("merge", model, out / "trained", "-o", out / "merged")
    return out / "merged"


@pytest.mark.parametrize("method, weighted", [("bitfit", None), ("full", None), ("full", "balanced"), ("full", "1,2,0.5,3")])
def test_what_is_trained_is_what_pytorch_trains(method, weighted, tmp_path):
    model = tmp_path / "model"
    # Names come from the rows, sorted: four of the five have rows.
    rows, names = rows_of(ROWS), sorted(NAMES[:4])
    whole = classifier(model, len(names))
    data = write_lists(tmp_path / "train.jsonl", rows)
    assert {name for _, labels in rows for name in labels} == set(names)
    merged = trained(model, method, data, tmp_path, *(["--class-weights", weighted] if weighted else []))
    with_label = torch.tensor(sets(rows, names).sum(0), dtype=torch.float32)
    weights = {None: None, "balanced": (ROWS - with_label) / with_label}.get(weighted, torch.tensor([1, 2, 0.5, 3]))

    before, after = (load_file(folder / "model.safetensors") for folder in (model, merged))
    head = {name for name in before if "classifier" in name}
    wanted = {name for name in before if method == "full" or name.endswith(".bias") or name in head}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"), pad_token="[PAD]")
    loop(whole, rows, names, tokenizer, wanted, weights)
    expected = whole.state_dict()
    for name in before:
        # What is added to every key shifts all scores of a query alike: its gradient is rounding noise, which AdamW scales up.
        tolerance = EPOCHS * len(BATCHES[0]) * RATE if name.endswith("key.bias") else TOLERANCE
        assert (after[name] - expected[name]).abs().max() < tolerance, name
    assert difference(torch_output(whole), onnx_logits(merged)) < 1e-4
    assert difference(onnx_logits(model), onnx_logits(merged)) > 1e-3

    again, loading = opened(merged)
    assert loading == {} and difference(torch_output(again), onnx_logits(merged)) < TOLERANCE
    assert again.config.problem_type == "multi_label_classification"
    assert again.config.id2label == dict(enumerate(names)) and again.config.label2id == {name: at for at, name in enumerate(names)}
    assert json.loads((tmp_path / "trained/gelora.json").read_text())["problem_type"] == "multi_label_classification"
    # The merged folder names its labels.
    assert evaluated(merged, data)["f1_micro"] > 0


@pytest.mark.parametrize("head", [None, "mean"])
def test_lora_with_the_head_of_the_model_or_a_new_one(head, tmp_path):
    model, data = tmp_path / "model", write_lists(tmp_path / "train.jsonl", of_plain(rows_of(100)))
    names = sorted(plain(NAMES[:4]))
    if head is None:
        classifier(model, len(names))
    else:
        whole = randomize(transformers.AutoModel.from_config(config("bert")))
        whole.save_pretrained(model)
        export(whole, model, ("last_hidden_state",))
    run("plan", model, *options(data), "--sample", "60", "--stratified", "-o", tmp_path / "plan")
    run("train", model, "--plan", tmp_path / "plan", *options(data), "--validation", data, *(["--head", head] if head else []),
        "--epochs", "20", "--learning-rate", "1e-2", "-o", tmp_path / "adapter")
    adapter = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert head or adapter["task_type"] == "SEQ_CLS"
    run("merge", model, tmp_path / "adapter", "-o", tmp_path / "merged")
    written = json.loads((tmp_path / "merged/config.json").read_text())
    assert written["problem_type"] == "multi_label_classification" and list(written["id2label"].values()) == names
    found = evaluated(tmp_path / "merged", data, "--predictions", tmp_path / "predictions.jsonl")
    assert found["f1_micro"] > 0.5, found
    # Labels of another order are refused.
    said = run("evaluate", tmp_path / "merged", *options(data, names[::-1]), expect=1).stderr
    assert "in another order" in said
    # One class per text is another question, which is said.
    lines = [f"{text}\t{labels[0]}" for text, labels in of_plain(rows_of(100)) if labels]
    (tmp_path / "classes.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    said = run("evaluate", tmp_path / "merged", "--data", tmp_path / "classes.tsv", "--text", "text", "--label", "label").stderr
    assert "gives a text several labels (`problem_type`)" in said and "(--task multi-label)" in said
    if head is None:
        again, loading = opened(tmp_path / "merged")
        assert loading == {} and again.config.problem_type == "multi_label_classification"
        assert difference(torch_output(again), onnx_logits(tmp_path / "merged")) < TOLERANCE


def test_thresholds_are_chosen_on_rows_that_were_held_out(tmp_path):
    model, data = tmp_path / "model", write_lists(tmp_path / "train.jsonl", of_plain(rows_of(200)))
    names = sorted(plain(NAMES[:4]))
    classifier(model, len(names))
    run("train", model, "--method", "full", *options(data), "--threshold-rows", "0.25", "--epochs", "2", "--learning-rate", "1e-3",
        "-o", tmp_path / "trained")
    thresholds = json.loads((tmp_path / "trained/gelora.json").read_text())["thresholds"]
    assert len(thresholds) == 4 and all(0 < threshold < 1 for threshold in thresholds) and set(thresholds) != {0.5}
    run("merge", model, tmp_path / "trained", "-o", tmp_path / "merged")
    assert json.loads((tmp_path / "merged/config.json").read_text())["gelora_thresholds"] == thresholds
    rows = of_plain(rows_of(100, seed=7))
    dev, out = write_lists(tmp_path / "dev.jsonl", rows), tmp_path / "predictions.jsonl"
    found = evaluated(tmp_path / "merged", dev, "--predictions", out)
    written = [json.loads(line) for line in out.read_text().splitlines()]
    logits = numpy.array([row["logits"] for row in written])
    predicted = 1 / (1 + numpy.exp(-logits)) >= numpy.array(thresholds)
    assert numpy.array_equal(predicted, sets([(0, row["prediction"]) for row in written], names))
    assert found["f1_micro"] == pytest.approx(metrics.f1_score(sets(rows, names), predicted, average="micro"), abs=1e-9)
    # A run evaluates with them too.
    (tmp_path / "run.toml").write_text(
        f'[model]\npath = "{model}"\n[data]\ntask = "multi-label"\ntrain = "{data}"\ndev = "{dev}"\nmax_length = 32\n'
        f'[train]\nmethod = "full"\nepochs = 2\nlearning_rate = 1e-3\nthreshold_rows = 0.25\nclass_weights = "balanced"\n'
        f'[output]\nfolder = "{tmp_path / "out"}"\n')
    after = json.loads(run("run", tmp_path / "run.toml", "--json").stdout)["evaluation"]["dev"]["after"]["metrics"]
    assert {figure["name"]: figure["value"] for figure in after} == evaluated(tmp_path / "out/merged", dev)
    # They are for several labels.
    table = tmp_path / "one.tsv"
    table.write_text("text\tlabel\n" + "".join(f"{text}\t{at % 4}\n" for at, (text, _) in enumerate(rows)))
    said = run("train", model, "--method", "full", "--data", table, "--threshold-rows", "0.25", "-o", tmp_path / "other", expect=1).stderr
    assert "--threshold-rows has no use for 4 classes; leave it out" in said
    said = run("train", model, "--method", "full", "--data", table, "--class-weights", "1,2", "-o", tmp_path / "other", expect=1).stderr
    assert "--class-weights has 2 weights for 4 classes; give 4, in their order" in said


@pytest.mark.parametrize("weighted", ["balanced", "1,3"])
def test_classes_are_weighted_as_pytorch_and_scikit_learn_weight_them(weighted, tmp_path):
    from sklearn.utils.class_weight import compute_class_weight

    model, data = tmp_path / "model", tmp_path / "train.tsv"
    whole = classifier(model, 2)
    rows = [(text, int("film" in labels)) for text, labels in rows_of(ROWS)]
    data.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    (tmp_path / "batches.json").write_text(json.dumps(BATCHES))
    run("train", model, "--method", "full", "--data", data, "--max-length", "32", "--batches", tmp_path / "batches.json",
        "--learning-rate", str(RATE), "--schedule", "constant", "--warmup-steps", "0", "--clip-norm", "0", "--class-weights", weighted,
        "-o", tmp_path / "trained")
    run("merge", model, tmp_path / "trained", "-o", tmp_path / "merged")
    labels = torch.tensor([label for _, label in rows])
    balanced = compute_class_weight("balanced", classes=numpy.array([0, 1]), y=labels.numpy())
    weights = torch.tensor(balanced if weighted == "balanced" else [1.0, 3.0], dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"), pad_token="[PAD]")
    whole.eval()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=RATE, weight_decay=0.0)
    for batch in [batch for epoch in BATCHES for batch in epoch]:
        tokens = tokenizer([rows[row][0] for row in batch], padding=True, truncation=True, max_length=32, return_tensors="pt")
        logits = whole(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
        loss = torch.nn.functional.cross_entropy(logits, labels[batch], weight=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert difference(torch_output(whole), onnx_logits(tmp_path / "merged")) < 1e-4
    assert difference(onnx_logits(model), onnx_logits(tmp_path / "merged")) > 1e-3

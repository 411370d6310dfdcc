"""Entities: training as PyTorch and PEFT do it on the same batches, scores as seqeval gives them, and folders that transformers and
PEFT open."""

import json
import random

import numpy
import onnxruntime
import peft
import pytest
import torch
import transformers
from adapters import config, difference, export, onnx_logits, opened, randomize, torch_output
from conftest import WORDS, run
from safetensors.torch import load_file
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2

ROWS, BATCH, EPOCHS, RATE = 24, 8, 3, 2e-3
BATCHES = [[list(range(start, start + BATCH)) for start in range(0, ROWS, BATCH)]] * EPOCHS
STEPS = [batch for epoch in BATCHES for batch in epoch]
LABELS = ["O", "B-animal", "I-animal", "B-thing", "I-thing"]
TOKEN_CLASSIFICATION = transformers.AutoModelForTokenClassification


def sentences(rows, seed):
    """Words of the tiny vocabulary, some of several sub-tokens, with random entities in IOB2."""
    source, made = random.Random(seed), []
    for _ in range(rows):
        words, tags = [], []
        while len(words) < source.randint(3, 20):
            kind = source.choice(["", "", "animal", "thing"])
            for number in range(source.randint(1, 3)):
                word = source.choice(WORDS)
                words.append(word + source.choice(["", "", "s", "ing"]))
                tags.append("O" if not kind else f"{'I' if number else 'B'}-{kind}")
        made.append((words, tags))
    return made


def write_conll(path, rows):
    path.write_text("\n\n".join("\n".join(f"{word}\t{tag}" for word, tag in zip(*row)) for row in rows) + "\n")
    return path


def read_conll(path):
    """A list of rows of columns for every sentence."""
    return [[line.split("\t") for line in block.splitlines()] for block in path.read_text().strip().split("\n\n")]


def encoded(model, rows, length=None):
    """As `is_split_into_words` makes them, with the first sub-token of every word labelled."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"), pad_token="[PAD]")
    batch = tokenizer([words for words, _ in rows], is_split_into_words=True, padding=True, return_tensors="pt")
    labels = torch.full(batch["input_ids"].shape, -100)
    for row, (_, tags) in enumerate(rows):
        before = None
        for token, word in enumerate(batch.word_ids(row)):
            if word is not None and word != before:
                labels[row, token] = LABELS.index(tags[word])
            before = word
    return batch["input_ids"], batch["attention_mask"], labels


def loop(model, folder, rows, trained):
    model.eval()
    parameters = [value.requires_grad_(name in trained) for name, value in model.named_parameters()]
    optimizer = torch.optim.AdamW([value for value in parameters if value.requires_grad], lr=RATE, weight_decay=0.0)
    losses = []
    for batch in STEPS:
        ids, mask, labels = encoded(folder, [rows[row] for row in batch])
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def tiny(kind, folder, labels=LABELS):
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    model = randomize(TOKEN_CLASSIFICATION.from_config(config(kind, **names)))
    model.save_pretrained(folder)
    export_tokens(model, folder)
    return model


def export_tokens(model, folder):
    export(model, folder, tokens=True)


def train(model, data, out, *more):
    batches = out.parent / f"{out.name}.json"
    batches.write_text(json.dumps(BATCHES))
    run("train", model, "--task", "ner", "--data", data, "--batches", batches, "--learning-rate", str(RATE), "--schedule", "constant",
        "--warmup-steps", "0", "--clip-norm", "0", "--log-every", "1", *more, "-o", out)


def losses_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "gradient_norm" in line]


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_all_parameters_are_trained_as_pytorch_trains_them(kind, tmp_path):
    model, rows = tmp_path / "model", sentences(ROWS, 1)
    whole = tiny(kind, model)
    data = write_conll(tmp_path / "train.conll", rows)
    train(model, data, tmp_path / "trained", "--method", "full")
    losses = loop(whole, model, rows, {name for name, _ in whole.named_parameters()})
    assert numpy.abs(numpy.array(losses_of(tmp_path / "trained")) - losses).max() < 1e-5
    run("merge", model, tmp_path / "trained", "-o", tmp_path / "merged")
    again, loading = opened(tmp_path / "merged", TOKEN_CLASSIFICATION)
    assert loading == {} and again.config.id2label == dict(enumerate(LABELS))
    assert difference(torch_output(again), onnx_logits(tmp_path / "merged")) < 1e-5
    assert difference(torch_output(whole), onnx_logits(tmp_path / "merged")) < 1e-4


def test_lora_is_trained_as_peft_trains_it(tmp_path):
    model, rows = tmp_path / "model", sentences(120, 1)
    tiny("bert", model)
    data, dev = write_conll(tmp_path / "train.conll", rows), write_conll(tmp_path / "dev.conll", sentences(30, 2))
    run("plan", model, "--task", "ner", "--data", data, "--pooling", "tokens", "-o", tmp_path / "plan")
    train(model, data, tmp_path / "first", "--plan", tmp_path / "plan")
    train(model, data, tmp_path / "trained", "--plan", tmp_path / "plan", "--start", tmp_path / "first")
    base, _ = opened(model, TOKEN_CLASSIFICATION)
    tuned = peft.PeftModel.from_pretrained(base, tmp_path / "first", is_trainable=True)
    assert tuned.peft_config["default"].task_type == "TOKEN_CLS" and type(tuned).__name__ == "PeftModelForTokenClassification"
    trainable = {name for name, value in tuned.named_parameters() if value.requires_grad}
    assert any("classifier" in name for name in trainable)
    assert numpy.abs(numpy.array(losses_of(tmp_path / "trained")) - loop(tuned, model, rows, trainable)).max() < 1e-5
    run("merge", model, tmp_path / "trained", "-o", tmp_path / "merged")
    assert difference(torch_output(tuned), onnx_logits(tmp_path / "merged")) < 1e-4
    # The metric is that of seqeval on what PEFT's model says of the same words.
    predicted, truth = tags_of(tuned, model, sentences(30, 2))
    run("evaluate", tmp_path / "merged", "--task", "ner", "--data", dev, "--predictions", tmp_path / "said.conll")
    assert [[line[2] for line in sentence] for sentence in read_conll(tmp_path / "said.conll")] == predicted
    assert [[line[1] for line in sentence] for sentence in read_conll(tmp_path / "said.conll")] == truth


    # The best epoch is chosen by the same figures that evaluation gives.
    train(model, data, tmp_path / "chosen", "--plan", tmp_path / "plan", "--validation", dev)
    run("merge", model, tmp_path / "chosen", "-o", tmp_path / "best")
    done = json.loads(run("evaluate", tmp_path / "best", "--task", "ner", "--data", dev, "--json").stdout)
    lines = [json.loads(line) for line in (tmp_path / "chosen/metrics.jsonl").read_text().splitlines()]
    kept = [line["metrics"] for line in lines if line.get("best")][-1]
    assert kept == {figure["name"]: figure["value"] for figure in done["metrics"]}


def tags_of(model, folder, rows):
    predicted = []
    for row in rows:
        ids, mask, labels = encoded(folder, [row])
        with torch.no_grad():
            best = model.eval()(input_ids=ids, attention_mask=mask).logits.argmax(-1)
        predicted.append([LABELS[tag] for tag in best[labels != -100].tolist()])
    return predicted, [tags for _, tags in rows]


@pytest.mark.parametrize("strict", [False, True])
def test_scores_are_those_of_seqeval(strict, tmp_path):
    model, dev = tmp_path / "model", write_conll(tmp_path / "dev.conll", sentences(60, 3))
    whole = tiny("bert", model)
    more = ["--strict"] if strict else []
    done = json.loads(run("evaluate", model, "--task", "ner", "--data", dev, "--predictions", tmp_path / "said.conll", *more, "--json").stdout)
    columns = [list(zip(*sentence)) for sentence in read_conll(tmp_path / "said.conll")]
    truth, predicted = [list(tags[1]) for tags in columns], [list(tags[2]) for tags in columns]
    assert predicted == tags_of(whole, model, sentences(60, 3))[0]
    mode = {"mode": "strict", "scheme": IOB2} if strict else {}
    report = classification_report(truth, predicted, output_dict=True, zero_division=0, **mode)
    found = {figure["name"]: figure["value"] for figure in done["metrics"]}
    average = report["micro avg"]
    expected = {"f1": average["f1-score"], "precision": average["precision"], "recall": average["recall"]}
    expected |= {f"f1 {kind}": values["f1-score"] for kind, values in report.items() if not kind.endswith("avg")}
    assert found.keys() == expected.keys() and all(abs(found[name] - expected[name]) < 1e-12 for name in expected), (found, expected)
    assert 0 < found["f1"] < 1 and abs(found["f1"] - f1_score(truth, predicted, **mode)) < 1e-12


def test_long_texts_lose_no_word(tmp_path):
    model, rows = tmp_path / "model", sentences(20, 4)
    tiny("bert", model)
    dev = write_conll(tmp_path / "dev.conll", rows)
    run("evaluate", model, "--task", "ner", "--data", dev, "--max-length", "8", "--predictions", tmp_path / "said.conll")
    said = read_conll(tmp_path / "said.conll")
    assert [[line[0] for line in sentence] for sentence in said] == [words for words, _ in rows]
    # The same as JSON lines, and without tags: predictions alone.
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps({"tokens": words}) + "\n" for words, _ in rows))
    run("evaluate", model, "--task", "ner", "--data", tmp_path / "dev.jsonl", "--max-length", "8", "--predictions", tmp_path / "said.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [line["predicted"] for line in lines] == [[line[2] for line in sentence] for sentence in said]


def test_an_export_without_a_head_gets_one(tmp_path):
    torch.manual_seed(0)
    model, rows = tmp_path / "model", sentences(ROWS, 5)
    bare = randomize(transformers.AutoModel.from_config(config("bert")))
    bare.save_pretrained(model)
    export(bare, model, ("last_hidden_state",))
    data = write_conll(tmp_path / "train.conll", rows)
    done = run("train", model, "--task", "ner", "--data", data, "--method", "bitfit", "--head", "mean", "-o", tmp_path / "no", expect=1)
    assert "reads mean" in done.stderr and "tokens (--head)" in done.stderr
    train(model, data, tmp_path / "trained", "--method", "bitfit", "--head", "tokens")
    run("merge", model, tmp_path / "trained", "-o", tmp_path / "merged")
    head = load_file(tmp_path / "merged/gelora_head.safetensors")
    assert set(head) == {"classifier.weight", "classifier.bias"} and head["classifier.weight"].shape[0] == len(LABELS)
    ids, mask, _ = encoded(model, rows[:4])
    session = onnxruntime.InferenceSession(str(tmp_path / "merged/model.onnx"), providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    trained, _ = opened(tmp_path / "merged", transformers.AutoModel)
    with torch.no_grad():
        hidden = trained.eval()(input_ids=ids, attention_mask=mask).last_hidden_state
    expected = hidden @ head["classifier.weight"].T + head["classifier.bias"]
    kept = mask.bool().numpy()
    assert numpy.abs(logits - expected.numpy())[kept].max() < 1e-5
    # What was made is evaluated, and a classifier of texts is refused.
    run("evaluate", tmp_path / "merged", "--task", "ner", "--data", data)
    other = tmp_path / "classifier"
    classifier = randomize(transformers.AutoModelForSequenceClassification.from_config(config("bert")))
    classifier.save_pretrained(other)
    export(classifier, other)
    done = run("train", other, "--task", "ner", "--data", data, "--method", "bitfit", "-o", tmp_path / "no", expect=1)
    assert "does not give a line of numbers for every token" in done.stderr and "--head tokens" in done.stderr
    done = run("evaluate", model, "--task", "ner", "--data", data, expect=1)
    assert "logits" in done.stderr


def test_the_order_of_the_tags_is_never_guessed(tmp_path):
    model, rows = tmp_path / "model", sentences(20, 6)
    torch.manual_seed(0)
    whole = randomize(TOKEN_CLASSIFICATION.from_config(config("bert", num_labels=len(LABELS))))
    whole.save_pretrained(model)
    export_tokens(whole, model)
    data = write_conll(tmp_path / "dev.conll", rows)
    done = run("evaluate", model, "--task", "ner", "--data", data, expect=1)
    assert "nothing says in which order the model counts the tags" in done.stderr and "--labels" in done.stderr
    named = ["--task", "ner", "--labels", ",".join(LABELS)]
    truth = json.loads(run("evaluate", model, *named, "--data", data, "--json").stdout)["metrics"]
    # Numbers stand for the names that are given, and for nothing else.
    numbered = tmp_path / "numbers.jsonl"
    numbered.write_text("".join(json.dumps({"tokens": words, "ner_tags": [LABELS.index(tag) for tag in tags]}) + "\n" for words, tags in rows))
    assert json.loads(run("evaluate", model, *named, "--data", numbered, "--json").stdout)["metrics"] == truth
    tiny("bert", tmp_path / "named")
    for more in ([], ["--scheme", "iob2"]):
        for folder in (model, tmp_path / "named"):
            done = run("train", folder, "--task", "ner", "--method", "bitfit", "--data", numbered, *more, "-o", tmp_path / "no", expect=1)
            assert "numbers" in done.stderr and "--labels" in done.stderr
    done = run("evaluate", model, "--task", "ner", "--labels", "O,B-animal,I-animal,X,Y", "--data", data, "--strict", expect=1)
    assert "X" in done.stderr

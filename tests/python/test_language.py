"""Language models: perplexity counted independently, what merging leaves alone, and the same tokens from both merged forms."""

import json
import math
import random

import numpy
import onnxruntime
import pytest
import tokenizers
import torch
import transformers
from conftest import ROOT, export, missing, run
from safetensors.numpy import load_file

import language_cases

SHARED = ROOT.parent / "shared"
WORDS = "one day a little girl named lily found the red ball in her room she was happy and sad but then mom said yes no we can play big dog cat".split()
LENGTH = 24


def write_tokenizer(folder):
    """Words, with a token before and one after every text."""
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *WORDS, "Question", "Answer", ":"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}')


def sentences(count, seed):
    source = random.Random(seed)
    return [" ".join(source.choice(WORDS[: 8 + source.randint(0, 20)]) for _ in range(source.randint(4, 30))) for _ in range(count)]


def write_texts(path, count, seed):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(count, seed)))
    return path


def token_ids(folder, path, packing=False, length=LENGTH):
    """Rows as the documentation says: the tokenizer's tokens and the end, cut or joined and cut."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = json.loads((folder / "config.json").read_text())["eos_token_id"]
    texts = [tokenizer.encode(json.loads(line)["text"]).ids + [end] for line in path.read_text().splitlines()]
    if not packing:
        return [ids[:length] for ids in texts]
    joined = sum(texts, [])
    return [joined[at:at + length] for at in range(0, len(joined), length)]


def perplexity(model, rows):
    """By transformers, one row at a time."""
    total, tokens = 0.0, 0
    for row in rows:
        if len(row) > 1:
            ids = torch.tensor([row])
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            tokens += len(row) - 1
    return math.exp(total / tokens), tokens


def evaluated(folder, data, *more, length=LENGTH):
    facts = json.loads(run("evaluate", folder, "--data", data, "--task", "causal-lm", "--max-length", length, *more, "--json").stdout)
    return next(metric["value"] for metric in facts["metrics"] if metric["name"] == "perplexity"), facts["tokens"]


def open_model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def greedy(session, ids, count):
    """The likeliest next tokens of an export, one after the other; earlier keys and values, where it takes them, stay empty."""
    ids = list(ids)
    for _ in range(count):
        feeds = {"input_ids": [ids], "attention_mask": [[1] * len(ids)], "position_ids": [list(range(len(ids)))]}
        values = {}
        for value in session.get_inputs():
            if value.name in feeds:
                values[value.name] = numpy.array(feeds[value.name], dtype=numpy.int64)
            else:
                values[value.name] = numpy.zeros((1, value.shape[1], 0, value.shape[3]), dtype=numpy.float32)
        ids.append(int(session.run(["logits"], values)[0][0, -1].argmax()))
    return ids


def same_tokens(folder, prompts, count):
    model = open_model(folder)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for prompt in prompts:
        ids = torch.tensor([prompt])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=count, max_new_tokens=count,
                                  eos_token_id=None, pad_token_id=0)[0].tolist()
        assert greedy(session, prompt, count) == expected


class Trained:
    def __init__(self, folder, name):
        self.base, self.out = folder / "model", folder / "out"
        language_cases.make(name, self.base)
        write_tokenizer(self.base)
        self.train, self.dev = write_texts(folder / "train.jsonl", 120, 1), write_texts(folder / "dev.jsonl", 30, 2)
        self.merged = self.out / "merged"
        config = folder / "run.toml"
        config.write_text(f"""
            [model]
            path = "{self.base}"
            [data]
            task = "causal-lm"
            train = "{self.train}"
            dev = "{self.dev}"
            max_length = {LENGTH}
            [plan]
            pooling = "last"
            projections = ["all"]
            [train]
            epochs = 2
            batch_size = 8
            accumulation = 2
            learning_rate = 1e-2
            [output]
            folder = "{self.out}"
        """)
        run("run", config)


@pytest.fixture(scope="module", params=["llama_tied", "llama_past", "gpt2"])
def trained(request, tmp_path_factory):
    return Trained(tmp_path_factory.mktemp(request.param), request.param)


def test_perplexity_is_that_of_transformers_and_falls_by_training(trained):
    for packing in (False, True):
        before, after = [], []
        for folder, found in ((trained.base, before), (trained.merged, after)):
            found.append(evaluated(folder, trained.dev, *(["--packing"] if packing else [])))
            expected = perplexity(open_model(folder), token_ids(folder, trained.dev, packing))
            assert found[0][1] == expected[1]
            assert found[0][0] == pytest.approx(expected[0], rel=1e-4)
        assert after[0][0] < before[0][0]
    recorded = json.loads((trained.out / "evaluation.json").read_text())["dev"]
    assert recorded["after"]["metrics"][0]["value"] < recorded["before"]["metrics"][0]["value"]


def test_merged_folder_and_merged_export_generate_the_same_tokens(trained):
    same_tokens(trained.merged, [[1, 4, 7], [1, 9, 12, 5, 20]], 20)


def test_embeddings_and_head_stay_and_the_adapter_is_a_language_models(trained):
    before, after = load_file(trained.base / "model.safetensors"), load_file(trained.merged / "model.safetensors")
    assert list(before) == list(after)
    changed = {name for name in before if not numpy.array_equal(before[name], after[name])}
    plan = json.loads((trained.out / "plan.json").read_text())
    planned = {module["checkpoint_tensor"] for block in plan["blocks"] for module in block["modules"]}
    assert changed == planned
    assert not [name for name in changed if "embed" in name or "wte" in name or "lm_head" in name]
    config = json.loads((trained.out / "adapter/adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("CAUSAL_LM", None)
    assert plan["model"]["last_state_after_final_norm"] is True


def test_instructions_are_learnt_by_their_output_alone(trained, tmp_path):
    template = tmp_path / "template.txt"
    template.write_text("Question : {instruction} {input}\nAnswer : {output}\n")
    source, lines, rows = random.Random(5), [], []
    tokenizer = tokenizers.Tokenizer.from_file(str(trained.base / "tokenizer.json"))
    for number in range(12):
        words = [" ".join(source.choices(WORDS, k=4)) for _ in range(3)]
        row = {"instruction": words[0], "output": words[2]}
        if number % 2:
            row["input"] = words[1]
        lines.append(json.dumps(row))
        prompt = tokenizer.encode(f"Question : {words[0]} {row.get('input', '')}\nAnswer :").ids
        rows.append((prompt, tokenizer.encode(words[2], add_special_tokens=False).ids + [2]))
    data = tmp_path / "instruct.jsonl"
    data.write_text("\n".join(lines) + "\n")
    facts = json.loads(run("evaluate", trained.merged, "--data", data, "--task", "instruct", "--template", template, "--json").stdout)
    model, total = open_model(trained.merged), 0.0
    for prompt, output in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + output])).logits[0].double()
        predicted = logits[len(prompt) - 1:-1]
        total += torch.nn.functional.cross_entropy(predicted, torch.tensor(output), reduction="sum").item()
    tokens = sum(len(output) for _, output in rows)
    assert facts["tokens"] == tokens
    loss = next(metric["value"] for metric in facts["metrics"] if metric["name"] == "loss")
    assert loss == pytest.approx(total / tokens, rel=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "last", "tokens"])
def test_decoders_are_planned_with_every_pooling(trained, tmp_path, pooling):
    run("plan", trained.base, "--data", trained.train, "--task", "causal-lm", "--max-length", LENGTH, "--pooling", pooling, "-o", tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert len(plan["blocks"]) == 2 and all(block["modules"] for block in plan["blocks"])


def test_a_classifier_is_no_language_model(tmp_path):
    data = write_texts(tmp_path / "train.jsonl", 120, 1)
    error = run("evaluate", ROOT / "onnx/tiny_encoder", "--data", data, "--task", "causal-lm", expect=1).stderr
    assert "does not give a logit for every token" in error and "--head lm" in error and error.count("\n") == 1


def test_a_language_model_needs_a_token_that_ends_a_text(tmp_path):
    model, data = tmp_path / "model", write_texts(tmp_path / "dev.jsonl", 4, 1)
    language_cases.make("llama", model)
    write_tokenizer(model)
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != "eos_token_id"}))
    error = run("evaluate", model, "--data", data, "--task", "causal-lm", expect=1).stderr
    assert "tokenizer_config.json" in error and '"eos_token"' in error and error.count("\n") == 1


def test_the_real_model_learns_stories(tmp_path):
    source, data = SHARED / "models/stories260K", SHARED / "data/TinyStories/sample_1000.jsonl"
    if not source.is_dir() or not data.is_file():
        missing("../shared is not here")
    lines = data.read_text().splitlines()
    train, dev = tmp_path / "train.jsonl", tmp_path / "dev.jsonl"
    train.write_text("\n".join(lines[:100]) + "\n")
    dev.write_text("\n".join(lines[800:820]) + "\n")
    model, out = tmp_path / "model", tmp_path / "out"
    export(source, "--head", "lm", "-o", model)
    common = ["--data", train, "--task", "causal-lm", "--max-length", 256]
    run("plan", model, *common, "--projections", "all", "-o", out)
    run("train", model, "--plan", out / "plan.json", *common, "--epochs", 1, "--batch-size", 8, "--learning-rate", "2e-4", "-o", out / "adapter")
    run("merge", model, out / "adapter", "-o", out / "merged")
    before, after = (evaluated(folder, dev, length=256)[0] for folder in (model, out / "merged"))
    assert after < before
    expected, _ = perplexity(open_model(out / "merged"), token_ids(out / "merged", dev, length=256))
    assert after == pytest.approx(expected, rel=1e-4)
    prompts = [tokenizers.Tokenizer.from_file(str(model / "tokenizer.json")).encode(text).ids for text in ("Once upon a time", "Tom had a")]
    same_tokens(out / "merged", prompts, 40)

"""Adapters of every kind that PEFT makes, merged as PEFT merges them or refused; and the folders that gelora writes, which PEFT
and transformers load whole."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
import warnings

import numpy
import onnx
import peft
import pytest
import torch
import transformers
from adapters import IDS, MASK, config, difference, export, onnx_logits, opened, randomize, torch_output
from conftest import GELORA, ROOT, run, write_table
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file

warnings.simplefilter("ignore")
TOLERANCE = 2e-5


def bert(task=transformers.AutoModelForSequenceClassification):
    torch.manual_seed(0)
    return randomize(task.from_config(config("bert")))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    model = bert()
    model.save_pretrained(folder)
    export(model, folder)
    return folder


def adapter(base, folder, task="SEQ_CLS", auto=transformers.AutoModelForSequenceClassification, change=None, **settings):
    """An adapter that PEFT made, with random values where it is trained."""
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["query"], **settings}
    model = get_peft_model(opened(base, auto)[0], LoraConfig(task_type=task, **settings)).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
            if change:
                change(name, parameter.data)
    model.save_pretrained(folder)
    return folder


def merged_by_peft(base, folder, auto=transformers.AutoModelForSequenceClassification):
    return torch_output(PeftModel.from_pretrained(opened(base, auto)[0], folder).merge_and_unload())


def check_merge(base, folder, out, auto=transformers.AutoModelForSequenceClassification):
    """What gelora merges has PEFT's logits, in both forms, and differs from the base's."""
    run("merge", base, folder, "-o", out)
    expected = merged_by_peft(base, folder, auto)
    assert difference(expected, torch_output(opened(base, auto)[0])) > 1e-3, "the adapter changes nothing"
    assert difference(onnx_logits(out), expected) < TOLERANCE
    model, loading = opened(out, auto)
    assert loading == {}
    assert difference(torch_output(model), expected) < TOLERANCE


MERGED = {
    "plain": {},
    "gaussian": {"init_lora_weights": "gaussian"},
    "random": {"init_lora_weights": False},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "eva": {"init_lora_weights": "eva"},
    "lora_ga": {"init_lora_weights": "lora_ga"},
    "pissa": {"init_lora_weights": "pissa", "target_modules": ["query", "intermediate.dense", "output.dense"]},
    "olora": {"init_lora_weights": "olora", "target_modules": ["query", "intermediate.dense", "output.dense"]},
    "rank-stabilised": {"use_rslora": True},
    "dora": {"use_dora": True, "target_modules": ["query", "intermediate.dense", "output.dense"]},
    "all biases": {"bias": "all"},
    "biases of adapted layers": {"bias": "lora_only"},
    "dropout": {"lora_dropout": 0.3},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "velora": {"velora_config": VeloraConfig(num_groups=4)},
    "monteclora": {"monteclora_config": MontecloraConfig()},
    "tying": {"ensure_weight_tying": True},
    "layers": {"layers_to_transform": [1], "layers_pattern": "layer"},
    "excluded": {"exclude_modules": ["layer.0.attention.self.query"]},
    "excluded by a pattern": {"exclude_modules": r".*layer\.0\..*"},
    "pattern": {"target_modules": r".*\.(query|value)"},
    "look-ahead": {"target_modules": r".*layer\.(?!0\.).*query"},
    "all-linear": {"target_modules": "all-linear"},
    "ranks": {"rank_pattern": {"layer.1.attention.self.query": 2}, "alpha_pattern": {r"layer\.(?!1).*": 3}},
    "first fit": {"alpha_pattern": {"query": 1, "0.attention.self.query": 64}},
    "pooler saved": {"modules_to_save": ["classifier", "pooler"]},
    "norms saved": {"modules_to_save": ["classifier", "LayerNorm"]},
    "embeddings saved": {"modules_to_save": ["classifier", "word_embeddings"]},
    "layer saved": {"modules_to_save": ["classifier", "layer.1.output.dense"]},
}


@pytest.mark.parametrize("kind", MERGED)
def test_a_kind_that_peft_merges_is_merged_alike(kind, base, tmp_path):
    check_merge(base, adapter(base, tmp_path / "adapter", **MERGED[kind]), tmp_path / "merged")


REFUSED = {
    "kasa_config": {"kasa_config": KasaConfig()},
    "use_bdlora": {"use_bdlora": BdLoraConfig(target_modules_bd_b=["query"], nblocks=2)},
    "alora_invocation_tokens": {"alora_invocation_tokens": [5]},
    "use_qalora": {"use_qalora": True},
    "lora_bias": {"lora_bias": True},
    "layer_replication": {"layer_replication": [[0, 1], [0, 2]]},
    "trainable_token_indices": {"trainable_token_indices": [5, 6]},
    "target_parameters": {"target_parameters": ["encoder.layer.0.intermediate.dense.weight"]},
    "an adapter of an embedding table": {"target_modules": ["query", "word_embeddings"]},
    "pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_kind_that_gelora_cannot_merge_is_refused_by_name(reason, base, tmp_path):
    folder = adapter(base, tmp_path / "adapter", **REFUSED[reason])
    done = run("merge", base, folder, "-o", tmp_path / "merged", expect=1)
    assert reason in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"], "a refused merge leaves nothing"


WRITTEN = {
    "corda": {"init_lora_weights": "corda"},
    "loftq": {"init_lora_weights": "loftq"},
    "gelora does not know `init_lora_weights`": {"init_lora_weights": "newer"},
    "megatron_config": {"megatron_config": {"a": 1}},
    "arrow_config": {"arrow_config": {"top_k": 3}},
    "gelora does not know its field `newer_kind`": {"newer_kind": {"scale": 2}},
    "modules_to_save": {"modules_to_save": ["classifier", "score", "pooler"]},
    "have rank 4, and adapter_config.json says 5": {"r": 5},
    "which adapter_config.json does not adapt": {"target_modules": ["value"]},
    "its configuration adapts": {"target_modules": ["query", "value"]},
    "IA3, not LORA": {"peft_type": "IA3"},
    "gelora cannot read its pattern": {"rank_pattern": {"(": 4}},
}


@pytest.mark.parametrize("reason", WRITTEN)
def test_a_configuration_that_does_not_go_with_the_tensors_is_refused(reason, base, tmp_path):
    folder = adapter(base, tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | WRITTEN[reason]))
    done = run("merge", base, folder, "-o", tmp_path / "merged", expect=1)
    assert reason in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_unknown_fields_that_say_nothing_are_passed_over(base, tmp_path):
    folder = adapter(base, tmp_path / "adapter")
    path = folder / "adapter_config.json"
    nothing = {"a": None, "b": False, "c": [], "d": {}, "e": "", "f": 0}
    path.write_text(json.dumps(json.loads(path.read_text()) | nothing))
    check_merge(base, folder, tmp_path / "merged")


def test_every_field_of_this_peft_is_in_the_table():
    source = (ROOT / "src/adapter/fields.rs").read_text()
    known = set(re.findall(r'^ +(?:\()?"(\w+)",', source, flags=re.MULTILINE))
    assert {field.name for field in dataclasses.fields(LoraConfig)} - known == set()


def test_the_table_of_names_is_that_of_this_transformers():
    import importlib.util

    spec = importlib.util.spec_from_file_location("transformers_names", ROOT / "scripts/transformers_names.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    stored = json.loads(script.TARGET.read_text())
    for kind in ("bert", "roberta", "distilbert", "mpnet", "gpt2", "llama", "modernbert", "deberta-v2"):
        assert stored[kind] == script.names(kind), kind


@pytest.mark.parametrize("broken", ["factor", "head", "missing", "half"])
def test_tensors_that_are_damaged_or_missing_are_named(broken, base, tmp_path):
    folder = adapter(base, tmp_path / "adapter")
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.bert.encoder.layer.1.attention.self.query.lora_B.weight"
    if broken == "factor":
        tensors[name][3, 1] = float("nan")
    elif broken == "head":
        name = "base_model.model.classifier.bias"
        tensors[name][1] = float("-inf")
    else:
        del tensors[name]
        if broken == "missing":
            del tensors[name.replace("lora_B", "lora_A")]
    save_file(tensors, path, metadata={"format": "pt"})
    done = run("merge", base, folder, "-o", tmp_path / "merged", expect=1)
    assert (name if broken in ("factor", "head") else "encoder.layer.1.attention.self.query") in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.parametrize("where", ["checkpoint", "export", "overflow"])
def test_a_base_that_cannot_hold_the_sum_is_refused_with_its_tensor(where, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    name = "bert.encoder.layer.1.attention.self.query.weight"
    change = (lambda n, values: values.mul_(1e6) if "lora_B" in n else None) if where == "overflow" else None
    made = adapter(base, tmp_path / "adapter", change=change)
    tensors = load_file(folder / "model.safetensors")
    if where == "checkpoint":
        tensors[name][2, 5] = float("inf")
    elif where == "export":
        model = onnx.load(folder / "model.onnx")
        for initializer in model.graph.initializer:
            values = onnx.numpy_helper.to_array(initializer)
            if values.shape == tuple(tensors[name].shape) and numpy.array_equal(values, tensors[name].numpy().T):
                changed = values.copy()
                changed[1, 1] = numpy.nan
                initializer.CopyFrom(onnx.numpy_helper.from_array(changed, initializer.name))
        onnx.save(model, folder / "model.onnx")
    else:
        tensors = {key: value.half() for key, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    done = run("merge", folder, made, "-o", tmp_path / "merged", expect=1)
    assert "query" in done.stderr or "onnx::MatMul" in done.stderr, done.stderr
    assert {"checkpoint": "holds inf", "export": "holds NaN", "overflow": "float16"}[where] in done.stderr, done.stderr
    assert not (tmp_path / "merged").exists() and not list(tmp_path.glob(".merged*"))


def test_inspect_says_that_hidden_states_are_not_finite(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    model = onnx.load(folder / "model.onnx")
    norm = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("layer.0.output.LayerNorm.weight"))
    norm.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(norm) * numpy.float32("nan"), norm.name))
    onnx.save(model, folder / "model.onnx")
    done = run("inspect", folder, expect=1)
    assert "hidden state 1 holds values that are infinite or not a number" in done.stdout, done.stdout
    assert "yes, to the bit" not in done.stdout


def test_older_and_odd_files_are_told_by_what_they_are(base, tmp_path):
    folder = adapter(base, tmp_path / "adapter")
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    done = run("merge", base, folder, "-o", tmp_path / "merged", expect=1)
    command = re.search(r'python -c "(.*)" in that folder', done.stderr).group(1)
    subprocess.run([os.environ.get("PYTHON", ROOT / ".venv/bin/python"), "-c", command], cwd=folder, check=True)
    # What macOS leaves beside files on other file systems is nobody's model.
    model = shutil.copytree(base, tmp_path / "base")
    for name in ("._model.onnx", "._config.json", "._model.safetensors"):
        (model / name).write_bytes(b"\x00\x05\x16\x07")
    (model / "model.onnx").rename(model / "other.onnx")
    run("merge", model, folder, "-o", tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("._*"))


def language_model(folder, tied):
    torch.manual_seed(0)
    settings = config("llama", num_key_value_heads=2, bos_token_id=2, eos_token_id=3, tie_word_embeddings=tied)
    model = randomize(transformers.AutoModelForCausalLM.from_config(settings))
    folder.mkdir()
    model.save_pretrained(folder)
    export(model, folder)
    return folder


@pytest.mark.parametrize("saved", ["lm_head", "embed_tokens"])
def test_output_layer_and_embeddings_of_a_language_model(saved, tmp_path):
    settings = dict(task="CAUSAL_LM", auto=transformers.AutoModelForCausalLM, target_modules=["q_proj"], modules_to_save=[saved])
    untied = language_model(tmp_path / "untied", False)
    folder = adapter(untied, tmp_path / "adapter", **settings)
    check_merge(untied, folder, tmp_path / "merged", auto=transformers.AutoModelForCausalLM)
    tied = language_model(tmp_path / "tied", True)
    folder = adapter(tied, tmp_path / "tied-adapter", **settings)
    done = run("merge", tied, folder, "-o", tmp_path / "tied-merged", expect=1)
    assert "tied" in done.stderr and "tie_word_embeddings" in done.stderr, done.stderr
    assert not (tmp_path / "tied-merged").exists()


def test_an_adapter_of_an_output_layer_that_peft_saved_with_its_base_weight(tmp_path):
    auto = transformers.AutoModelForCausalLM
    untied = language_model(tmp_path / "untied", False)
    folder = adapter(untied, tmp_path / "adapter", task="CAUSAL_LM", auto=auto, target_modules=["q_proj", "lm_head"])
    path = folder / "adapter_model.safetensors"
    name, tensors = "base_model.model.lm_head.base_layer.weight", load_file(path)
    assert name in tensors, "this PEFT no longer saves it"
    check_merge(untied, folder, tmp_path / "merged", auto=auto)
    alone = shutil.copytree(untied, tmp_path / "alone")
    (alone / "model.safetensors").unlink()
    run("merge", alone, folder, "-o", tmp_path / "alone-merged")
    assert difference(onnx_logits(tmp_path / "alone-merged"), merged_by_peft(untied, folder, auto)) < TOLERANCE
    larger = torch.cat([tensors[name], tensors[name][:8]])
    for changed, base in ((tensors[name] + 0.5, untied), (tensors[name] + 0.5, alone), (larger, untied)):
        save_file(tensors | {name: changed}, path, metadata={"format": "pt"})
        done = run("merge", base, folder, "-o", tmp_path / "refused", expect=1)
        assert name in done.stderr and "a resized vocabulary?" in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "refused").exists()


# Names: what gelora trains over exports whose checkpoint has other names than the class that PEFT opens.

HEAD = {"bert": "classifier", "roberta": "classifier.out_proj", "distilbert": "classifier", "mpnet": "classifier.out_proj",
        "gpt2": "score", "modernbert": "classifier"}


def trained(model, out, tables, *more):
    train, dev = tables
    run("plan", model, "--data", train, "--text", "sentence", "-o", out / "plan")
    run("train", model, "--plan", out / "plan", "--data", train, "--validation", dev, "--text", "sentence", "--label", "label",
        "--epochs", "1", "--learning-rate", "2e-2", *more, "-o", out / "adapter")
    run("merge", model, out / "adapter", "-o", out / "merged")
    return out / "adapter", out / "merged"


def loaded_whole(auto, folder):
    """The adapter as PEFT opens it by its own configuration, from another folder; every tensor has its place."""
    here = os.getcwd()
    os.chdir("/")
    try:
        model = auto.from_pretrained(folder)
        result = model.load_adapter(folder, adapter_name="again")
    finally:
        os.chdir(here)
    assert [key for key in result.missing_keys if "again" in key] == [] and list(result.unexpected_keys) == []
    stored = load_file(folder / "adapter_model.safetensors")
    state = peft.get_peft_model_state_dict(model, adapter_name="default")
    assert set(state) == set(stored)
    assert all(torch.equal(state[name], stored[name]) for name in stored)
    return model.eval()


@pytest.mark.parametrize("kind", HEAD)
def test_a_classifier_beside_a_checkpoint_without_its_prefix(kind, tmp_path, tables):
    torch.manual_seed(0)
    whole = randomize(transformers.AutoModelForSequenceClassification.from_config(config(kind)))
    model = tmp_path / "model"
    inside = getattr(whole, whole.base_model_prefix)
    inside.save_pretrained(model)
    assert not any(name.startswith(f"{whole.base_model_prefix}.") for name in load_file(model / "model.safetensors"))
    export(whole, model)
    folder, merged = trained(model, tmp_path, tables)
    assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    by_peft = torch_output(loaded_whole(peft.AutoPeftModelForSequenceClassification, folder))
    expected = onnx_logits(merged)
    assert difference(expected, onnx_logits(model)) > 1e-3, "training changed nothing"
    assert difference(by_peft, expected) < TOLERANCE
    opened_again, loading = opened(merged)
    assert loading.get("missing_keys", []) == [] and loading.get("mismatched_keys", []) == [], loading
    assert difference(torch_output(opened_again), expected) < TOLERANCE
    assert json.loads((merged / "config.json").read_text())["architectures"] == [type(whole).__name__]


@pytest.mark.parametrize("saved_as", ["the base model", "a model with a head"])
def test_a_bias_that_the_exporter_filled_in_is_none_of_the_head(saved_as, tmp_path, tables):
    torch.manual_seed(0)
    whole = randomize(transformers.AutoModelForSequenceClassification.from_config(config("modernbert")))
    model = tmp_path / "model"
    (whole.model if saved_as == "the base model" else whole).save_pretrained(model)
    export(whole, model, wrapped=False)
    shown = json.loads(run("inspect", model, "--json", "--no-self-check").stdout)
    assert sorted(shown["head"]["tensors"]) == ["classifier.bias", "classifier.weight", "head.dense.weight", "head.norm.weight"]
    folder, merged = trained(model, tmp_path, tables)
    assert not (folder / "gelora_head.safetensors").exists()
    by_peft = torch_output(loaded_whole(peft.AutoPeftModelForSequenceClassification, folder))
    expected = onnx_logits(merged)
    assert difference(expected, onnx_logits(model)) > 1e-3, "training changed nothing"
    assert difference(by_peft, expected) < TOLERANCE
    again, loading = opened(merged)
    assert loading == {}
    assert difference(torch_output(again), expected) < TOLERANCE


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2"])
@pytest.mark.parametrize("saved_as", ["the base model", "a model with a head"])
def test_a_head_that_training_adds_makes_an_adapter_of_the_base_model(kind, saved_as, tmp_path, tables):
    torch.manual_seed(0)
    auto = transformers.AutoModelForCausalLM if kind == "gpt2" else transformers.AutoModelForMaskedLM
    whole = randomize(auto.from_config(config(kind)))
    inside = getattr(whole, whole.base_model_prefix)
    model = tmp_path / "model"
    (inside if saved_as == "the base model" else whole).save_pretrained(model)
    export(inside, model, ("last_hidden_state",))
    folder, merged = trained(model, tmp_path, tables, "--head", "mean")
    written = json.loads((folder / "adapter_config.json").read_text())
    assert written["task_type"] == "FEATURE_EXTRACTION" and written["modules_to_save"] is None
    expected = onnx_logits(merged)
    by_peft = loaded_whole(peft.AutoPeftModelForFeatureExtraction, folder)
    alone = opened(merged, transformers.AutoModel)[0]
    for encoder, place in ((by_peft, folder), (alone, merged)):
        head = {name: values.numpy() for name, values in load_file(place / "gelora_head.safetensors").items()}
        states, mask = torch_output(encoder, "last_hidden_state"), MASK.numpy()[:, :, None]
        logits = (states * mask).sum(1) / mask.sum(1) @ head["classifier.weight"].T + head["classifier.bias"]
        assert difference(logits, expected) < TOLERANCE
    assert not any("classifier" in name for name in load_file(merged / "model.safetensors"))


def typed_tables(folder, labels):
    """A training and a validation table whose labels are made of the number of words."""
    paths = []
    for name, rows, seed in (("train", 200, 1), ("dev", 60, 2)):
        paths.append(write_table(folder / f"{name}.tsv", rows, seed))
        lines = [line.rsplit("\t", 1)[0] for line in paths[-1].read_text().splitlines()[1:]]
        text = "".join(f"{line}\t{labels(len(line.split()))}\n" for line in lines)
        paths[-1].write_text("sentence\tlabel\n" + text)
    return paths


HEADS = {
    "three classes": (3, lambda words: words % 3, "single_label_classification"),
    "numbers": (1, lambda words: words / 10 + 0.05, "regression"),
}


@pytest.mark.parametrize("kind", HEADS)
def test_transformers_opens_a_raw_checkpoint_with_the_head_that_it_got(kind, tmp_path):
    count, labels, problem = HEADS[kind]
    torch.manual_seed(0)
    model = tmp_path / "model"
    raw = randomize(transformers.AutoModelForPreTraining.from_config(config("bert")))
    raw.save_pretrained(model)
    raw.config.to_json_file(model / "config.json")
    assert not {"id2label", "problem_type"} & set(json.loads((model / "config.json").read_text()))
    whole = randomize(transformers.BertForSequenceClassification(config("bert", num_labels=count)), seed=2)
    whole.bert.load_state_dict(raw.bert.state_dict())
    export(whole, model)
    tables = typed_tables(tmp_path, labels)
    folder, merged = trained(model, tmp_path, tables, *([] if count > 1 else ["--objective", "regression"]))
    again, loading = opened(merged)
    assert loading.get("missing_keys", []) == [] and loading.get("mismatched_keys", []) == [], loading
    assert difference(torch_output(again), onnx_logits(merged)) < TOLERANCE
    assert (again.config.num_labels, again.config.problem_type) == (count, problem)
    assert again.config.architectures == ["BertForSequenceClassification"]


def test_a_pooler_that_the_checkpoint_lacks_is_told(tmp_path, tables):
    model = tmp_path / "model"
    torch.manual_seed(0)
    raw = randomize(transformers.AutoModelForMaskedLM.from_config(config("bert")))
    raw.save_pretrained(model)
    whole = bert()
    whole.bert.load_state_dict(raw.bert.state_dict(), strict=False)
    export(whole, model)
    folder, _ = trained(model, tmp_path, tables)
    done = run("merge", model, folder, "-o", tmp_path / "again")
    assert "bert.pooler.dense" in done.stderr and "which the checkpoint lacks" in done.stderr, done.stderr


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_that_training_adds_is_not_the_one_that_the_checkpoint_has(kind, base, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(base, model)
    export(opened(base)[0].bert, model, ("last_hidden_state",))
    count, labels, _ = HEADS[kind]
    folder, merged = trained(model, tmp_path, typed_tables(tmp_path, labels), "--head", "mean",
                             *([] if count > 1 else ["--objective", "regression"]))
    done = run("merge", model, folder, "-o", tmp_path / "again")
    assert "keeps a head of its own (`classifier." in done.stderr, done.stderr
    before, after = (load_file(place / "model.safetensors") for place in (model, merged))
    assert torch.equal(before["classifier.weight"], after["classifier.weight"])
    head = {name: values.numpy() for name, values in load_file(merged / "gelora_head.safetensors").items()}
    assert head["classifier.weight"].shape == (count, 16)
    states, mask = torch_output(opened(merged, transformers.AutoModel)[0], "last_hidden_state"), MASK.numpy()[:, :, None]
    logits = (states * mask).sum(1) / mask.sum(1) @ head["classifier.weight"].T + head["classifier.bias"]
    assert difference(logits, onnx_logits(merged)) < TOLERANCE


def deberta(folder, labels=2):
    """A checkpoint as microsoft/deberta-v3's: no prefix is missing, and the heads of pre-training are there, unused."""
    torch.manual_seed(0)
    settings = config("deberta-v2", relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], share_att_key=True,
                      norm_rel_ebd="layer_norm", type_vocab_size=0, pooler_hidden_size=16, max_relative_positions=-1, num_labels=labels)
    whole = randomize(transformers.DebertaV2ForSequenceClassification(settings))
    folder.mkdir()
    whole.deberta.save_pretrained(folder)
    source = torch.Generator().manual_seed(5)
    made = {"dense.weight": (16, 16), "dense.bias": (16,), "LayerNorm.weight": (16,), "LayerNorm.bias": (16,),
            "classifier.weight": (1, 16), "classifier.bias": (1,)}
    unused = {f"mask_predictions.{name}": torch.randn(shape, generator=source) for name, shape in made.items()}
    unused["mask_predictions.classifier.bias"].zero_()
    inside = {f"deberta.{name}": values for name, values in load_file(folder / "model.safetensors").items()}
    save_file(inside | unused, folder / "model.safetensors", metadata={"format": "pt"})
    return whole


@pytest.mark.parametrize("kind", ["its own head", "its own head without a wrapper", "numbers", "an added head"])
def test_heads_of_pre_training_that_nobody_uses_are_not_the_one_that_is_trained(kind, tmp_path, tables):
    model = tmp_path / "model"
    whole = deberta(model, 1 if kind == "numbers" else 2)
    if kind == "an added head":
        export(whole.deberta, model, ("last_hidden_state",))
    else:
        export(whole, model, wrapped=kind == "its own head")
    if kind == "numbers":
        tables = typed_tables(tmp_path, HEADS[kind][1])
    more = {"an added head": ["--head", "mean"], "numbers": ["--objective", "regression"]}.get(kind, [])
    folder, merged = trained(model, tmp_path, tables, *more)
    before, after = (load_file(place / "model.safetensors") for place in (model, merged))
    unused = [name for name in before if name.startswith("mask_predictions.")]
    assert len(unused) == 6 and all(torch.equal(before[name], after[name]) for name in unused)
    expected = onnx_logits(merged)
    assert difference(expected, onnx_logits(model)) > 1e-3 if more[:1] != ["--head"] else expected.shape == (4, 2)
    if kind == "an added head":
        assert set(load_file(merged / "gelora_head.safetensors")) == {"classifier.weight", "classifier.bias"}
        assert set(before) == set(after)
        return
    by_peft = torch_output(loaded_whole(peft.AutoPeftModelForSequenceClassification, folder))
    assert difference(by_peft, expected) < TOLERANCE
    again, loading = opened(merged)
    assert loading.get("missing_keys", []) == [] and loading.get("mismatched_keys", []) == [], loading
    assert difference(torch_output(again), expected) < TOLERANCE


def test_what_an_adapter_of_peft_saves_beside_an_unused_head(tmp_path):
    model = tmp_path / "model"
    whole = deberta(model)
    export(whole, model)
    # PEFT makes the head that the checkpoint lacks; here it begins as that of the export.
    state = {name: values for name, values in whole.state_dict().items() if name.startswith(("classifier", "pooler"))}

    def change(name, values):
        for known, begin in state.items():
            if known.replace("classifier", "classifier.modules_to_save.default") in name:
                values.copy_(begin * 1.5)

    folder = adapter(model, tmp_path / "adapter", target_modules=["query_proj"], change=change)
    assert set(json.loads((folder / "adapter_config.json").read_text())["modules_to_save"]) == {"classifier", "score"}
    run("merge", model, folder, "-o", tmp_path / "merged")
    after = load_file(tmp_path / "merged/model.safetensors")
    assert torch.equal(after["classifier.weight"], state["classifier.weight"] * 1.5)
    # A norm that the export has is missed, that of the unused head is not.
    folder = adapter(model, tmp_path / "norms", target_modules=["query_proj"], change=change, modules_to_save=["classifier", "LayerNorm"])
    run("merge", model, folder, "-o", tmp_path / "merged-norms")
    tensors = load_file(folder / "adapter_model.safetensors")
    name = "deberta.encoder.layer.1.output.LayerNorm"
    kept = {key: values for key, values in tensors.items() if name not in key}
    assert len(kept) == len(tensors) - 2
    save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    done = run("merge", model, folder, "-o", tmp_path / "again", expect=1)
    assert f"its `modules_to_save` names the module of `{name}" in done.stderr, done.stderr


class MeanClassifier(torch.nn.Module):
    """A head that transformers' BertForSequenceClassification has not."""

    def __init__(self, bert):
        super().__init__()
        self.bert, self.config = bert, bert.config
        self.dense, self.classifier = torch.nn.Linear(16, 8), torch.nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask):
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return {"logits": self.classifier(torch.tanh(self.dense(states[:, 0])))}


def test_a_head_that_transformers_cannot_represent_is_told_and_not_claimed(tmp_path, tables):
    torch.manual_seed(0)
    inside = bert(transformers.AutoModel)
    model = tmp_path / "model"
    inside.save_pretrained(model)
    export(MeanClassifier(inside).eval(), model)
    train, dev = tables
    run("plan", model, "--data", train, "--text", "sentence", "-o", tmp_path / "plan")
    done = run("train", model, "--plan", tmp_path / "plan", "--data", train, "--text", "sentence", "--label", "label", "--epochs",
               "1", "--learning-rate", "2e-2", "-o", tmp_path / "adapter")
    assert "BertForSequenceClassification has the head classifier.bias, classifier.weight" in done.stderr, done.stderr
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["task_type"] == "FEATURE_EXTRACTION"
    loaded_whole(peft.AutoPeftModelForFeatureExtraction, tmp_path / "adapter")
    run("merge", model, tmp_path / "adapter", "-o", tmp_path / "merged")
    head = load_file(tmp_path / "merged/gelora_head.safetensors")
    states = torch.from_numpy(torch_output(opened(tmp_path / "merged", transformers.AutoModel)[0], "last_hidden_state"))[:, 0]
    named = {name.split(".", 1)[1] if name.startswith("model.") else name: values for name, values in head.items()}
    again = tmp_path / "again"
    run("train", model, "--plan", tmp_path / "plan", "--data", train, "--text", "sentence", "--label", "label", "--epochs", "1",
        "--start", tmp_path / "adapter", "-o", again)
    assert set(load_file(again / "gelora_head.safetensors")) == set(load_file(tmp_path / "adapter/gelora_head.safetensors"))
    hidden = torch.tanh(states @ named["dense.weight"].T + named["dense.bias"])
    logits = hidden @ named["classifier.weight"].T + named["classifier.bias"]
    assert difference(logits.numpy(), onnx_logits(tmp_path / "merged")) < TOLERANCE


class OtherPooling(torch.nn.Module):
    """Heads with the names of a class of transformers that read something else."""

    def __init__(self, whole, reads):
        super().__init__()
        self.inside, self.classifier, self.config = getattr(whole, whole.base_model_prefix), whole.classifier, whole.config
        self.reads = reads

    def forward(self, input_ids, attention_mask):
        states = self.inside(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.reads == "first":
            return {"logits": self.classifier(states[:, 0])}
        if self.reads == "masked mean":
            mask = attention_mask[:, :, None].to(states.dtype)
            states = (states * mask).sum(1) / mask.sum(1)
        elif self.reads == "mean":
            states = states.mean(1)
        else:
            states = states.max(1).values
        # RoBERTa's head takes the first of its tokens itself.
        return {"logits": self.classifier(states[:, None] if self.config.model_type == "roberta" else states)}


@pytest.mark.parametrize("saved_as", ["the base model", "a model with a head"])
@pytest.mark.parametrize("kind, reads", [("bert", "masked mean"), ("bert", "mean"), ("bert", "first"), ("roberta", "masked mean"),
                                         ("roberta", "max"), ("distilbert", "first")])
def test_a_head_with_the_names_of_a_class_that_reads_something_else_is_not_claimed(kind, reads, saved_as, tmp_path, tables):
    torch.manual_seed(0)
    whole = randomize(transformers.AutoModelForSequenceClassification.from_config(config(kind)))
    model = tmp_path / "model"
    (getattr(whole, whole.base_model_prefix) if saved_as == "the base model" else whole).save_pretrained(model)
    export(OtherPooling(whole, reads).eval(), model)
    before = load_file(model / "model.safetensors")
    folder, merged = trained(model, tmp_path, tables)
    done = run("train", model, "--plan", tmp_path / "plan", "--data", tables[0], "--text", "sentence", "--label", "label", "--epochs",
               "1", "-o", tmp_path / "again")
    assert f"{type(whole).__name__} " in done.stderr and "gelora_head.safetensors" in done.stderr, done.stderr
    written = json.loads((folder / "adapter_config.json").read_text())
    assert (written["task_type"], written["modules_to_save"]) == ("FEATURE_EXTRACTION", None)
    planned = json.loads((tmp_path / "plan/adapter_config.json").read_text())
    assert planned["task_type"] == "FEATURE_EXTRACTION"
    loaded_whole(peft.AutoPeftModelForFeatureExtraction, folder)
    # The merged folder holds the trained head apart, and says nothing that the base did not say.
    assert json.loads((merged / "config.json").read_text())["architectures"] == json.loads((model / "config.json").read_text())["architectures"]
    after = load_file(merged / "model.safetensors")
    assert set(after) == set(before) and all(torch.equal(before[name], after[name]) for name in before if "classifier" in name)
    head = {name.removeprefix("model."): values for name, values in load_file(merged / "gelora_head.safetensors").items()}
    again = OtherPooling(whole, reads)
    again.inside = opened(merged, transformers.AutoModel)[0]
    own = {name.removeprefix("classifier."): values for name, values in head.items()}
    assert set(own) == set(again.classifier.state_dict())
    again.classifier.load_state_dict(own)
    assert difference(torch_output(again), onnx_logits(merged)) < TOLERANCE


@pytest.mark.parametrize("head", ["mean", "first"])
@pytest.mark.parametrize("saved_as", ["the base model", "a model with a head"])
def test_a_head_that_training_added_stays_apart_when_it_is_trained_again(saved_as, head, tmp_path, tables):
    whole = bert()
    model = tmp_path / "model"
    (whole.bert if saved_as == "the base model" else whole).save_pretrained(model)
    export(whole.bert, model, ("last_hidden_state",))
    _, once = trained(model, tmp_path / "once", tables, "--head", head)
    folder, twice = trained(once, tmp_path / "twice", tables)
    assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "FEATURE_EXTRACTION"
    loaded_whole(peft.AutoPeftModelForFeatureExtraction, folder)
    written = json.loads((twice / "config.json").read_text())
    assert written["gelora_head"] == {"pooling": head}
    assert written["architectures"] == json.loads((model / "config.json").read_text())["architectures"]
    before, after = (load_file(place / "model.safetensors") for place in (model, twice))
    assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before if "classifier" in name)
    own = load_file(twice / "gelora_head.safetensors")
    assert not torch.equal(own["classifier.weight"], load_file(once / "gelora_head.safetensors")["classifier.weight"])
    states, mask = torch.from_numpy(torch_output(opened(twice, transformers.AutoModel)[0], "last_hidden_state")), MASK[:, :, None]
    pooled = (states * mask).sum(1) / mask.sum(1) if head == "mean" else states[:, 0]
    logits = pooled @ own["classifier.weight"].T + own["classifier.bias"]
    assert difference(logits.numpy(), onnx_logits(twice)) < TOLERANCE
    assert difference(onnx_logits(once), onnx_logits(twice)) > 1e-3, "training changed nothing"
    # An adapter that claims a class's head is none for this export.
    claims = shutil.copytree(folder, tmp_path / "claims")
    (claims / "gelora_head.safetensors").unlink()
    claimed = {f"base_model.model.{name}": values for name, values in own.items()}
    save_file(load_file(claims / "adapter_model.safetensors") | claimed, claims / "adapter_model.safetensors", {"format": "pt"})
    settings = json.loads((claims / "adapter_config.json").read_text()) | {"task_type": "SEQ_CLS", "modules_to_save": ["classifier"]}
    (claims / "adapter_config.json").write_text(json.dumps(settings))
    done = run("merge", once, claims, "-o", tmp_path / "refused", expect=1)
    assert "the export has a head that gelora added, and the adapter claims another as its own" in done.stderr
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_class_that_pools_as_its_configuration_says_is_claimed(pooling, tmp_path, tables):
    torch.manual_seed(0)
    settings = config("modernbert", classifier_pooling=pooling)
    whole = randomize(transformers.AutoModelForSequenceClassification.from_config(settings))
    model = tmp_path / "model"
    whole.model.save_pretrained(model)
    export(whole, model)
    folder, merged = trained(model, tmp_path, tables)
    assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    again, loading = opened(merged)
    assert loading == {} and difference(torch_output(again), onnx_logits(merged)) < TOLERANCE
    # The graph pools, and the configuration says that the class does not, or the other way round.
    settings = json.loads((model / "config.json").read_text()) | {"classifier_pooling": "cls" if pooling == "mean" else "mean"}
    (model / "config.json").write_text(json.dumps(settings))
    folder, merged = trained(model, tmp_path / "other", tables)
    assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "FEATURE_EXTRACTION"
    assert (merged / "gelora_head.safetensors").exists()


# The folder of a merged model.


@pytest.fixture(scope="module")
def two(base, tmp_path_factory):
    """Two adapters for the base, made by PEFT."""
    place = tmp_path_factory.mktemp("two")
    double = lambda name, values: values.mul_(2)
    return adapter(base, place / "one"), adapter(base, place / "other", change=double, r=8)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_is_not_a_merged_model_stays(base, two, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    done = run("merge", base, two[0], "-o", other, expect=1)
    assert "thesis.txt" in done.stderr and contents(other) == {"thesis.txt": b"years of work"}
    for out in (base, two[0], two[0].parent):
        before = contents(out)
        run("merge", base, two[0], "-o", out, expect=1)
        assert contents(out) == before
    out = tmp_path / "merged"
    out.mkdir()
    run("merge", base, two[0], "-o", out)
    (out / "notes").mkdir()
    (out / "notes/mine.md").write_text("mine")
    run("merge", base, two[1], "-o", out)
    assert (out / "notes/mine.md").read_text() == "mine"
    assert difference(onnx_logits(out), merged_by_peft(base, two[1])) < TOLERANCE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "other"]


def test_a_folder_whose_parent_cannot_be_written_is_told_so(base, two, tmp_path):
    parent = tmp_path / "closed"
    out = parent / "out"
    out.mkdir(parents=True)
    parent.chmod(0o555)
    # Root may write everywhere unless it gives that up.
    command = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    if command and (not shutil.which("setpriv") or subprocess.run([*command, "true"], capture_output=True).returncode != 0):
        pytest.skip("setpriv is not here, or may not give up a capability")
    try:
        merge = lambda place: subprocess.run([*command, GELORA, "-q", "merge", base, two[0], "-o", place], capture_output=True, text=True)
        done = merge(out)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "the folder above cannot be written" in done.stderr and "name a folder inside it" in done.stderr, done.stderr
        assert list(out.iterdir()) == []
        assert merge(out / "merged").returncode == 0
        assert [path.name for path in out.iterdir()] == ["merged"]
    finally:
        parent.chmod(0o755)


@pytest.mark.parametrize("reason", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_written_to_with_a_warning(reason, base, two, tables, tmp_path):
    source, library = tmp_path / "flock.c", tmp_path / "flock.so"
    source.write_text(f"#include <errno.h>\nint flock(int file, int operation) {{ errno = {reason}; return -1; }}\n")
    compiled = subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", library, source], capture_output=True)
    if compiled.returncode != 0:
        pytest.skip("there is no C compiler here")
    done = run("merge", base, two[0], "-o", tmp_path / "merged", environment={"LD_PRELOAD": str(library)})
    assert done.stderr.count("\n") == 1 and "has no locks" in done.stderr, done.stderr
    assert difference(onnx_logits(tmp_path / "merged"), merged_by_peft(base, two[0])) < TOLERANCE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flock.c", "flock.so", "merged"]
    if reason == "ENOLCK":
        done = run("plan", base, "--data", tables[0], "--text", "sentence", "-o", tmp_path / "plan", environment={"LD_PRELOAD": str(library)})
        assert done.stderr.count("has no locks") == 1, "once, of two outputs"


def test_a_killed_merge_leaves_the_earlier_model_or_the_new_one(base, two, tmp_path):
    out, whole = tmp_path / "merged", []
    for made in two:
        run("merge", base, made, "-o", out)
        whole.append(contents(out))
    source, seen = random.Random(0), set()
    for turn in range(24):
        process = subprocess.Popen([str(GELORA), "-q", "merge", str(base), str(two[turn % 2]), "-o", str(out)],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(source.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert contents(out) in whole, f"turn {turn}"
        seen.add(whole.index(contents(out)))
    run("merge", base, two[0], "-o", out)
    assert contents(out) == whole[0]
    assert [path.name for path in tmp_path.iterdir()] == ["merged"], "what killed merges left is gone"


@pytest.mark.parametrize("changed", ["norm of the export", "embedding of the checkpoint"])
def test_another_base_is_named_and_merged_only_on_request(changed, tmp_path, tables, base):
    model = shutil.copytree(base, tmp_path / "model")
    folder, _ = trained(model, tmp_path, tables)
    if changed == "norm of the export":
        graph = onnx.load(model / "model.onnx")
        (norm,) = (tensor for tensor in graph.graph.initializer if tensor.name.endswith("layer.0.output.LayerNorm.weight"))
        norm.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(norm) * 5, norm.name))
        onnx.save(graph, model / "model.onnx")
        file = "model.onnx"
    else:
        file = "model.safetensors"
        tensors = load_file(model / file)
        tensors["bert.embeddings.word_embeddings.weight"] *= 1e6
        save_file(tensors, model / file, metadata={"format": "pt"})
    done = run("merge", model, folder, "-o", tmp_path / "again", expect=1)
    assert str(model / file) in done.stderr and "--base-changed" in done.stderr, done.stderr
    assert not (tmp_path / "again").exists()
    done = run("merge", model, folder, "-o", tmp_path / "again", "--base-changed")
    assert str(model / file) in done.stderr, "it is still said"
    report = json.loads((tmp_path / "again/gelora_merge.json").read_text())
    assert any(file in warning for warning in report["warnings"])

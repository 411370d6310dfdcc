"""Exports whose blocks, weights or tokens are not what they seem: refused before anything is computed, or understood."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy
import onnxruntime
import pytest
import torch
import transformers
from conftest import ROOT, TINY, run, write_table
from onnxruntime.quantization import quantize_dynamic
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(ROOT / "onnx"))
from make_tiny_encoder import make_tokenizer  # noqa: E402

SIZES = dict(vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
             max_position_embeddings=64, initializer_range=0.2, pad_token_id=0)
REFUSED = {
    ("bart", "classic"): ["two stacks", "3 layers of `model.decoder.layers`", "3 layers of `model.encoder.layers`"],
    ("t5", "dynamo"): ["two stacks", "`transformer.decoder.block`", "num_decoder_layers 3"],
    ("roberta", "optimum-O2"): ["3 attentions hold the weights of query, key and value", "disable_attention_fusion=True",
                                "roberta.encoder.layer.0.attention.self.key.weight"],
    ("llama", "genai"): ["3 of 15 weights", "model.layers.0.self_attn.k_proj.weight", "disable_qkv_fusion=true"],
}


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("structures")
    for family, form in REFUSED:
        command = [sys.executable, str(ROOT / "scripts/make_fixtures.py"), str(folder), "--families", family, "--forms", form]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("family,form", REFUSED)
def test_what_a_plan_would_be_wrong_for_is_refused_before_anything_is_computed(family, form, fixtures, tables, tmp_path):
    model, out = fixtures / family / form, tmp_path / "out"
    shown = run("inspect", model, "--json", "--no-self-check", expect=1)
    (obstacle,) = json.loads(shown.stdout)["obstacles"]
    for command in ("plan", "extract"):
        done = run(command, model, "--data", tables[0], "--text", "sentence", "-o", out, expect=1)
        assert obstacle in done.stderr and not out.exists()
    for words in REFUSED[family, form]:
        assert words in obstacle


class Logits(torch.nn.Module):
    """Nothing but ids and mask go in, nothing but logits come out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


class Scaled(Logits):
    """A head that begins with a division, as MiniCPM's."""

    def forward(self, input_ids, attention_mask):
        return self.model.lm_head(self.model.model(input_ids=input_ids, attention_mask=attention_mask)[0] / 4.0)


class Cut(torch.nn.Module):
    """A block that ends with a cut of the sequence."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, hidden, *arguments, **named):
        hidden = self.block(hidden, *arguments, **named)
        return torch.cat([hidden, hidden[:, :1]], 1)[:, :-1]


def batch():
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, 100, (2, 9), generator=generator)
    return ids, torch.ones_like(ids)


def export(wrapped, folder):
    folder.mkdir()
    axes = {0: "batch", 1: "sequence"}
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(wrapped.eval(), batch(), str(folder / "model.onnx"), input_names=names, output_names=["logits"], dynamo=False,
                      opset_version=17, dynamic_axes={name: axes for name in [*names, "logits"]})
    make_tokenizer().save(str(folder / "tokenizer.json"))
    wrapped.model.save_pretrained(folder)


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, bos_token_id=2, eos_token_id=3, use_cache=False)
    config._attn_implementation = "eager"
    return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("kind", ["scaled", "cut"])
def test_the_last_state_is_the_end_of_the_last_block(kind, tmp_path):
    model = llama()
    if kind == "cut":
        model.model.layers = torch.nn.ModuleList(Cut(block) for block in model.model.layers)
    export(Scaled(model) if kind == "scaled" else Logits(model), tmp_path / "model")
    # The weights of the cut blocks have other names than transformers', which is not what this is about.
    (tmp_path / "model/model.safetensors").unlink()
    run("expose", tmp_path / "model", "-o", tmp_path / "exposed")
    ids, mask = batch()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    session = onnxruntime.InferenceSession(str(tmp_path / "exposed/model.onnx"), providers=["CPUExecutionProvider"])
    names = [f"hidden_states.{index}" for index in range(4)]
    found = session.run(names, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    assert len(expected) == 4
    for state, value in zip(expected, found):
        assert numpy.abs(state.numpy() - value).max() < 1e-5


def test_a_model_that_sees_the_future_is_no_language_model(tables, tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES)
    config._attn_implementation = "eager"
    model = tmp_path / "model"
    export(Logits(transformers.BertForMaskedLM(config).eval()), model)
    shown = json.loads(run("inspect", model, "--json").stdout)
    assert shown["is_causal"] is False and any("see those after them" in note for note in shown["notes"])
    out = tmp_path / "out"
    data = ["--data", tables[0], "--text", "sentence", "--task", "causal-lm"]
    done = run("plan", model, *data, "-o", out, expect=1)
    assert "its tokens see the future" in done.stderr and not out.exists()
    # A plan for other reasons does not make it one.
    run("plan", model, "--data", tables[0], "--text", "sentence", "-o", out)
    done = run("train", model, "--plan", out, *data, "-o", tmp_path / "adapter", expect=1)
    assert "its tokens see the future" in done.stderr and not (tmp_path / "adapter").exists()
    # A language model's texts have an end.
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "[SEP]"}))
    done = run("evaluate", model, *data, expect=1)
    assert "its tokens see the future" in done.stderr

    export(Logits(llama()), tmp_path / "llama")
    shown = json.loads(run("inspect", tmp_path / "llama", "--json").stdout)
    assert shown["is_causal"] is True and shown["notes"] == []


def tiny(tmp_path, name):
    return pathlib.Path(shutil.copytree(TINY, tmp_path / name))


def test_a_checkpoint_of_another_state_is_told(tmp_path):
    data = write_table(tmp_path / "train.tsv", 100, 1)
    base, other = tiny(tmp_path, "base"), tiny(tmp_path, "other")
    tensors = load_file(other / "model.safetensors")
    norm = "bert.encoder.layer.0.output.LayerNorm.weight"
    tensors[norm] = tensors[norm] * 1.1
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    columns = ("--data", data, "--text", "sentence", "--max-length", 32)
    run("plan", base, *columns, "--subsamples", 0, "-o", tmp_path / "plan")
    told = run("plan", other, *columns, "--subsamples", 0, "-o", tmp_path / "plan-2").stderr
    assert f"1 of the checkpoint's tensors differ from the export's, `{norm}`" in told
    assert norm in run("inspect", other, "--no-self-check").stdout
    assert "differ from the export's" not in run("inspect", base, "--no-self-check").stdout
    told = run("train", other, "--plan", tmp_path / "plan", *columns, "--maximum-steps", 1, "-o", tmp_path / "adapter").stderr
    assert "model.safetensors is not the file that was there when the plan was made" in told
    # What it was trained on is what lies there, whatever the plan was made of.
    run("merge", other, tmp_path / "adapter", "-o", tmp_path / "merged")
    assert "trained on another base" in run("merge", base, tmp_path / "adapter", "-o", tmp_path / "merged-2", expect=1).stderr


def test_names_of_classes_outlive_a_base_without_configuration(tmp_path):
    rows = write_table(tmp_path / "rows.tsv", 100, 1).read_text().splitlines()
    data = tmp_path / "train.tsv"
    data.write_text("\n".join([rows[0]] + [row[:-1] + ("yes" if row[-1] == "1" else "no") for row in rows[1:]]) + "\n")
    base = tiny(tmp_path, "base")
    (base / "config.json").unlink()
    columns = ("--data", data, "--text", "sentence", "--max-length", 32)
    run("plan", base, *columns, "--subsamples", 0, "-o", tmp_path / "plan")
    run("train", base, "--plan", tmp_path / "plan", *columns, "--labels", "yes,no", "--maximum-steps", 1, "-o", tmp_path / "adapter")
    run("merge", base, tmp_path / "adapter", "-o", tmp_path / "merged")
    assert json.loads((tmp_path / "merged/config.json").read_text())["id2label"] == {"0": "yes", "1": "no"}
    found, told = (json.loads(run("evaluate", tmp_path / "merged", *columns, *labels, "--json").stdout)
                   for labels in ([], ["--labels", "yes,no"]))
    assert found["metrics"] == told["metrics"] and found["objective"] == told["objective"]


def test_an_adapter_to_start_from_belongs_to_the_export(tmp_path):
    data = write_table(tmp_path / "train.tsv", 100, 1)
    base, other = tiny(tmp_path, "base"), TINY.with_name("tiny_encoder_dynamo")
    columns = ("--data", data, "--text", "sentence", "--max-length", 32)
    for name, model in [("base", base), ("other", other)]:
        run("plan", model, *columns, "--subsamples", 0, "-o", tmp_path / f"plan-{name}")
        run("train", model, "--plan", tmp_path / f"plan-{name}", *columns, "--maximum-steps", 1, "-o", tmp_path / f"adapter-{name}")
    start = lambda name: ("--start", tmp_path / f"adapter-{name}", "--maximum-steps", 1, "-o", tmp_path / "again")
    error = run("train", base, "--plan", tmp_path / "plan-base", *columns, *start("other"), expect=1).stderr
    assert "was trained on another export" in error and error.count("\n") == 1
    run("train", base, "--plan", tmp_path / "plan-base", *columns, *start("base"))


def test_dynamic_quantization_is_not_taken_for_an_ignored_mask(tmp_path):
    model = tiny(tmp_path, "quantized")
    quantize_dynamic(TINY / "model.onnx", model / "model.onnx", extra_options={"MatMulConstBOnly": True}, reduce_range=True)
    shown = json.loads(run("inspect", model, "--json").stdout)
    assert shown["self_check"]["padding_invariant"] is False
    dynamic = "quantizes activations by the range of the whole batch ("
    assert any(dynamic in note and "DynamicQuantizeLinear" in note for note in shown["notes"])
    assert not any("mask" in note for note in shown["notes"])
    data = write_table(tmp_path / "train.tsv", 100, 1)
    columns = ("--data", data, "--text", "sentence", "--max-length", 32)
    told = run("plan", model, *columns, "--subsamples", 0, "-o", tmp_path / "plan").stderr
    assert dynamic in told and "the floating-point export has no such noise" in told and "mask" not in told

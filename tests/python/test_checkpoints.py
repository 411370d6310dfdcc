"""Adapters that PEFT saved, merged into checkpoints without an export: as PEFT's `merge_and_unload` merges them, to the rounding of
the type."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
import warnings

import peft
import pytest
import torch
import transformers
from adapters import randomize
from conftest import GELORA, TINY, run
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

warnings.simplefilter("ignore")
SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=64)
CAUSAL = transformers.AutoModelForCausalLM
CLASSES = transformers.AutoModelForSequenceClassification
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=False),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "bigcode": lambda: transformers.GPTBigCodeConfig(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "bert": lambda: transformers.BertConfig(**SIZES),
    "roberta": lambda: transformers.RobertaConfig(**SIZES),
}


def base(folder, kind, auto=CAUSAL, dtype=torch.float32, shard="40KB"):
    torch.manual_seed(0)
    model = randomize(auto.from_config(CONFIGS[kind]())).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


def adapter(base, folder, task="CAUSAL_LM", auto=CAUSAL, seed=1, **settings):
    """An adapter that PEFT made, with random values where it is trained."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings}
    model = get_peft_model(auto.from_pretrained(base), LoraConfig(task_type=task, **settings)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    model.save_pretrained(folder)
    return folder


def by_peft(base, folder, auto=CAUSAL, **opening):
    return PeftModel.from_pretrained(auto.from_pretrained(base, **opening), folder).merge_and_unload()


def tensors(folder):
    """All tensors of a checkpoint folder."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    found = {}
    names = json.loads(index.read_text())["weight_map"]
    for shard in sorted(set(names.values())):
        found |= load_file(folder / shard)
    assert set(found) == set(names)
    return found


def check(base, merged, expected, auto=CAUSAL, ulps=2):
    """The merged folder opens without a missing tensor and has the weights of a model, to the rounding of their type."""
    model, loading = auto.from_pretrained(merged, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["mismatched_keys"], loading
    found, expected = model.state_dict(), expected.state_dict()
    assert set(found) == set(expected)
    before = auto.from_pretrained(base).state_dict()
    changed = 0
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        if not value.is_floating_point():
            continue
        eps = torch.finfo(value.dtype).eps
        # PEFT rounds the change and the sum; gelora rounds once.
        largest = torch.maximum(value.abs(), (value - before[name].to(value)).abs()).float()
        bound = ulps * eps * largest.max() if value.dtype == torch.float32 else ulps * eps * largest + eps * largest.max() / 64
        assert ((found[name].float() - value.float()).abs() <= bound).all(), name
        changed += not torch.equal(value, before[name])
    assert changed
    return model


CASES = {
    "all linear layers": ("llama", {}),
    "bfloat16": ("llama", {"dtype": torch.bfloat16}),
    "float16": ("llama", {"dtype": torch.float16}),
    "rank-stabilised": ("llama", {"use_rslora": True}),
    "ranks and alphas by pattern": ("llama", {
        "rank_pattern": {r"layers\.0\.self_attn\.[qv]_proj": 7, "up_proj": 2}, "alpha_pattern": {"^model.layers.1.mlp.*": 32}}),
    "a regular expression": ("llama", {"target_modules": r".*layers\.(0|1)\.(self_attn\.(q|o)_proj|mlp\.down_proj)"}),
    "an output layer saved whole": ("llama", {"modules_to_save": ["lm_head"]}),
    "embeddings saved whole": ("llama", {"modules_to_save": ["embed_tokens"]}),
    "an adapted output layer": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "tied embeddings that stay": ("qwen2", {}),
    "all biases": ("gpt2", {"target_modules": ["c_attn"], "bias": "all"}),
    "biases of adapted layers": ("qwen2", {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"}),
    "PiSSA": ("llama", {"init_lora_weights": "pissa", "target_modules": ["q_proj", "down_proj"]}),
    "DoRA": ("llama", {"use_dora": True, "use_rslora": True}),
    "DoRA of layers that store [in, out]": ("gpt2", {"use_dora": True, "target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "layers that store [in, out]": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "one square layer that stores [in, out]": ("gpt2", {"target_modules": r".*attn\.c_proj"}),
    "layers of the same names that store [out, in]": ("bigcode", {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_peft_saved_is_merged_as_peft_merges_it(case, tmp_path):
    kind, settings = CASES[case]
    dtype = settings.pop("dtype", torch.float32) if "dtype" in settings else torch.float32
    model = base(tmp_path / "base", kind, dtype=dtype)
    folder = adapter(model, tmp_path / "adapter", **settings)
    said = run("merge", model, folder, "-o", tmp_path / "merged", "--json")
    # PEFT decomposes in float32, gelora in float64.
    check(model, tmp_path / "merged", by_peft(model, folder), ulps=32 if case == "PiSSA" else 4 if "DoRA" in case else 2)
    report = json.loads(said.stdout)
    for name, sha256 in report["sha256"].items():
        assert hashlib.sha256((tmp_path / "merged" / name).read_bytes()).hexdigest() == sha256
    # The layout of the base is kept: the same files, tensors and types.
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, "pt") as old, safe_open(tmp_path / "merged" / path.name, "pt") as new:
            assert list(old.keys()) == list(new.keys()) and old.metadata() == new.metadata()
    index = "model.safetensors.index.json"
    assert (tmp_path / "merged" / index).read_bytes() == (model / index).read_bytes()


@pytest.mark.parametrize("kind, target, auto", [
    ("bert", ["query", "value"], transformers.AutoModel), ("roberta", ["query", "dense"], transformers.AutoModel),
    ("llama", ["q_proj"], CAUSAL), ("bert", ["query"], transformers.AutoModelForMaskedLM)])
def test_a_head_that_the_checkpoint_lacks_is_appended(kind, target, auto, tmp_path):
    model = base(tmp_path / "base", kind, auto=auto)
    folder = adapter(model, tmp_path / "adapter", task="SEQ_CLS", auto=CLASSES, target_modules=target)
    if kind == "bert" and auto is transformers.AutoModelForMaskedLM:
        # This checkpoint has no pooler, through which the head reads.
        assert "random values" in run("merge", model, folder, "-o", tmp_path / "merged").stderr
        return
    run("merge", model, folder, "-o", tmp_path / "merged")
    merged = check_head(model, folder, tmp_path / "merged")
    assert type(merged).__name__.endswith("ForSequenceClassification")


def check_head(model, folder, merged):
    expected = by_peft(model, folder, auto=CLASSES)
    found, loading = CLASSES.from_pretrained(merged, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["mismatched_keys"], loading
    for name, value in expected.state_dict().items():
        assert torch.allclose(found.state_dict()[name], value, atol=1e-6), name
    return found


def test_several_adapters_are_added_by_their_weights(tmp_path):
    model = base(tmp_path / "base", "llama")
    one = adapter(model, tmp_path / "one", target_modules=["q_proj", "v_proj"], r=3)
    other = adapter(model, tmp_path / "other", seed=2, target_modules=["v_proj", "up_proj"], r=5, lora_alpha=7)
    run("merge", model, one, other, "-o", tmp_path / "merged", "--weights", "0.7,-0.25")
    opened = PeftModel.from_pretrained(CAUSAL.from_pretrained(model), one, adapter_name="one")
    opened.load_adapter(other, adapter_name="other")
    expected = tmp_path / "expected"
    expected.mkdir()
    # PEFT adds adapters of the same modules only: the sum is made by hand.
    state = CAUSAL.from_pretrained(model).state_dict()
    for weight, name in [(0.7, "one"), (-0.25, "other")]:
        for path, module in opened.base_model.model.named_modules():
            if hasattr(module, "lora_A") and name in module.lora_A:
                state[f"{path}.weight"] += weight * module.get_delta_weight(name).detach()
    wanted = CAUSAL.from_pretrained(model)
    wanted.load_state_dict(state)
    check(model, tmp_path / "merged", wanted, ulps=4)
    report = json.loads((tmp_path / "merged/gelora_merge.json").read_text())
    assert [known["weight"] for known in report["adapters"]] == [0.7, -0.25]
    said = run("merge", model, one, other, "-o", tmp_path / "again", "--weights", "0.7", expect=1).stderr
    assert "1 numbers for 2 adapters" in said or "has 1 numbers for 2 adapters" in said
    # Two heads cannot both be in the model.
    heads = [adapter(model, tmp_path / f"head{seed}", seed=seed, target_modules=["q_proj"], modules_to_save=["lm_head"])
             for seed in (1, 2)]
    assert "only one of them" in run("merge", model, *heads, "-o", tmp_path / "again", expect=1).stderr
    assert "has no weight" in run("merge", model, heads[0], "-o", tmp_path / "again", "--weights=0.5", expect=1).stderr
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_types_and_sizes_of_the_files_are_chosen(dtype, stored, tmp_path):
    model = base(tmp_path / "base", "llama", dtype=stored)
    folder = adapter(model, tmp_path / "adapter", modules_to_save=["lm_head"])
    out = tmp_path / "merged"
    run("merge", model, folder, "-o", out, "--dtype", dtype, "--shard-size", "30kB")
    wanted = getattr(torch, dtype)
    expected = by_peft(model, folder, dtype=torch.float32).to(wanted)
    check(model, out, expected, ulps=1)
    found = tensors(out)
    assert {value.dtype for value in found.values()} == {wanted}
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) >= 2 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    sizes = [sum(value.nbytes for value in load_file(out / name).values()) for name in files]
    assert all(size <= 30_000 or len(load_file(out / name)) == 1 for size, name in zip(sizes, files))
    assert json.loads((out / "model.safetensors.index.json").read_text())["metadata"]["total_size"] == sum(sizes)
    assert json.loads((out / "config.json").read_text())["dtype"] == dtype
    # Everything in one file.
    run("merge", model, folder, "-o", out, "--dtype", dtype, "--shard-size", "1GB")
    assert [path.name for path in out.glob("*safetensors*")] == ["model.safetensors"]
    check(model, out, expected, ulps=1)


def test_what_a_type_cannot_hold_is_refused_with_the_tensor(tmp_path):
    model = base(tmp_path / "base", "llama", shard="1GB")
    found = load_file(model / "model.safetensors")
    found["model.norm.weight"][3] = 1e6
    save_file(found, model / "model.safetensors", {"format": "pt"})
    folder = adapter(model, tmp_path / "adapter")
    said = run("merge", model, folder, "-o", tmp_path / "merged", "--dtype", "float16", expect=1).stderr
    assert "`model.norm.weight`" in said and "float16" in said
    assert not (tmp_path / "merged").exists() and not list(tmp_path.glob(".merged*"))


def without(folder, part, out):
    """A copy of an adapter that lacks the tensors whose name has `part`."""
    shutil.copytree(folder, out)
    found = load_file(folder / "adapter_model.safetensors")
    save_file({name: value for name, value in found.items() if part not in name}, out / "adapter_model.safetensors")
    return out


def test_what_names_alone_cannot_decide_is_refused(tmp_path):
    llama, qwen = base(tmp_path / "llama", "llama"), base(tmp_path / "qwen", "qwen2")
    folder = adapter(llama, tmp_path / "adapter", modules_to_save=["lm_head"], target_modules=["q_proj", "v_proj"])
    refused = lambda model, folder: run("merge", model, folder, "-o", tmp_path / "merged", expect=1).stderr
    # Incomplete adapters.
    lacking = without(folder, "layers.1.self_attn.q_proj", tmp_path / "lacking")
    assert "`model.layers.1.self_attn.q_proj`, and its tensors are not in the file" in refused(llama, lacking)
    lacking = without(folder, "v_proj", tmp_path / "lacking_kind")
    assert "v_proj`, and its tensors are not in the file" in refused(llama, lacking)
    assert "`modules_to_save` names the module of `lm_head.weight`" in refused(llama, without(folder, "lm_head", tmp_path / "head"))
    # Tied weights: PEFT changes one of two uses.
    tied = adapter(qwen, tmp_path / "tied", target_modules=["q_proj"], modules_to_save=["lm_head"])
    assert "shares its weight with the embeddings" in refused(qwen, tied)
    tied = adapter(qwen, tmp_path / "tied_too", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    assert "shares its weight with the embeddings" in refused(qwen, tied)
    # Another model.
    other = base(tmp_path / "bigcode", "bigcode")
    assert "the checkpoint has no tensor `model.layers.0.self_attn.q_proj.weight`" in refused(other, folder)
    # A folder with neither export nor checkpoint.
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no .onnx file" in refused(empty, folder)
    assert "holds no checkpoint" in run("merge", empty, folder, "-o", tmp_path / "merged", "--no-export", expect=1).stderr
    assert not (tmp_path / "merged").exists() and not list(tmp_path.glob(".merged*"))


def test_a_killed_merge_goes_on_where_it_was(tmp_path):
    model = base(tmp_path / "base", "llama", shard="15KB")
    shards = sorted(model.glob("*.safetensors"))
    folder = adapter(model, tmp_path / "adapter")
    whole, out = tmp_path / "whole", tmp_path / "merged"
    run("merge", model, folder, "-o", whole)
    written = lambda: [path for left in tmp_path.glob(".merged.merging.*") for path in left.glob("*.safetensors")]
    for attempt in range(40):
        process = subprocess.Popen([GELORA, "merge", model, folder, "-o", out, "--quiet"], stderr=subprocess.PIPE, text=True)
        while process.poll() is None and len(written()) < 2 + attempt % 5:
            time.sleep(0.0005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        if not out.exists() and len(written()) >= 2:
            break
        shutil.rmtree(out, ignore_errors=True)
    else:
        pytest.fail("every merge was over before it could be killed")
    before = {path.name: path.stat().st_ino for path in written()}
    again = subprocess.run([GELORA, "merge", model, folder, "-o", out], capture_output=True, text=True, check=True)
    assert "that an earlier merge had finished are taken over" in again.stderr
    kept = [name for name, inode in before.items() if (out / name).stat().st_ino == inode]
    assert len(kept) >= 1
    for path in shards:
        assert (out / path.name).read_bytes() == (whole / path.name).read_bytes()
    assert not list(tmp_path.glob(".merged*")) and not list(out.glob(".*"))
    # The reports differ in the paths alone.
    reports = [json.loads((folder / "gelora_merge.json").read_text()) for folder in (whole, out)]
    assert reports[0] == reports[1]


def test_a_file_that_was_damaged_meanwhile_is_written_again(tmp_path):
    model = base(tmp_path / "base", "llama", shard="15KB")
    folder = adapter(model, tmp_path / "adapter")
    out = tmp_path / "merged"
    environment = {**os.environ}
    process = None
    for _ in range(40):
        process = subprocess.Popen([GELORA, "merge", model, folder, "-o", out, "--quiet"], env=environment)
        left = lambda: [path for left in tmp_path.glob(".merged.merging.*") for path in left.glob("*.safetensors")]
        while process.poll() is None and len(left()) < 3:
            time.sleep(0.0005)
        process.kill()
        process.wait()
        if not out.exists() and len(left()) >= 2:
            break
        shutil.rmtree(out, ignore_errors=True)
    first = sorted(left())[0]
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    run("merge", model, folder, "-o", out)
    check(model, out, by_peft(model, folder))


def test_biases_that_peft_did_not_save_are_missed(tmp_path):
    model = base(tmp_path / "base", "gpt2")
    folder = adapter(model, tmp_path / "adapter", target_modules=["c_attn"], bias="lora_only")
    whole = run("merge", model, folder, "-o", tmp_path / "merged").stderr
    lacking = without(folder, ".bias", tmp_path / "lacking")
    said = run("merge", model, lacking, "-o", tmp_path / "merged").stderr
    assert "c_attn.bias`" in said and "trained biases" in said and "trained biases" not in whole


def test_files_of_a_checkpoint_that_is_not_there_are_refused(tmp_path):
    (tmp_path / "base").mkdir()
    shutil.copy(TINY / "model.onnx", tmp_path / "base")
    for option in (["--dtype", "float16"], ["--shard-size", "5GB"]):
        said = run("merge", tmp_path / "base", tmp_path, "-o", tmp_path / "merged", *option, expect=1).stderr
        assert "is for a checkpoint" in said and said.count("\n") == 1, said


def test_a_head_counts_whichever_adapter_brings_it(tmp_path):
    model = base(tmp_path / "base", "bert", auto=transformers.AutoModel)
    plain = adapter(model, tmp_path / "plain", task="FEATURE_EXTRACTION", auto=transformers.AutoModel,
                    target_modules=["value"])
    head = adapter(model, tmp_path / "head", task="SEQ_CLS", auto=CLASSES, target_modules=["query"], seed=2)
    run("merge", model, plain, head, "-o", tmp_path / "one")
    run("merge", model, head, plain, "-o", tmp_path / "other")
    one, other = (CLASSES.from_pretrained(tmp_path / name, output_loading_info=True) for name in ("one", "other"))
    assert not one[1]["missing_keys"] and not other[1]["missing_keys"]
    for name, value in one[0].state_dict().items():
        assert torch.allclose(value, other[0].state_dict()[name], atol=1e-6), name

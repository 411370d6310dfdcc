"""What gelora writes is what transformers, PEFT, ONNX Runtime and numpy read."""

import json
import shutil

import numpy
import onnx
import onnxruntime
import peft
import pytest
import torch
import transformers
from conftest import TINY, Run, read_table, run
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

TOLERANCE = 1e-4


def tokenized(model, sentences):
    """One padded batch, as numpy arrays by input name."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"), pad_token="[PAD]")
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    batch = tokenizer(sentences, padding=True, truncation=True, max_length=128, return_tensors="np")
    return {name: values.astype(numpy.int64) for name, values in batch.items()}


def torch_logits(model, batch):
    with torch.no_grad():
        return model(**{name: torch.from_numpy(values) for name, values in batch.items()}).logits.numpy()


def onnx_outputs(path, batch, names):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(names, batch)


def base_model(folder):
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()


def test_transformers_opens_the_merged_folder(done):
    model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(done.merged, output_loading_info=True)
    assert {name: list(keys) for name, keys in loading.items() if keys} == {}
    assert model.dtype == torch.float32


def test_peft_opens_the_adapter_with_no_missing_or_unexpected_key(done):
    config = peft.PeftConfig.from_pretrained(done.adapter)
    model = peft.get_peft_model(base_model(done.model), config)
    result = peft.set_peft_model_state_dict(model, peft.load_peft_weights(str(done.adapter), device="cpu"))
    assert result.unexpected_keys == []
    assert [key for key in result.missing_keys if "lora_" in key or "modules_to_save" in key] == []


def test_all_four_give_the_same_logits(done):
    batch = tokenized(done.model, read_table(done.dev)[0])
    before = torch_logits(base_model(done.model), batch)
    adapted = torch_logits(peft.PeftModel.from_pretrained(base_model(done.model), done.adapter).eval(), batch)
    merged = torch_logits(base_model(done.merged), batch)
    (exported,) = onnx_outputs(done.merged / "model.onnx", batch, ["logits"])
    assert numpy.abs(adapted - before).max() > 100 * TOLERANCE, "training changed nothing"
    assert numpy.abs(merged - adapted).max() < TOLERANCE
    assert numpy.abs(exported - adapted).max() < TOLERANCE


def test_evaluate_counts_as_transformers_does(done):
    sentences, labels = read_table(done.dev)
    logits = torch_logits(base_model(done.merged), tokenized(done.model, sentences))
    result = run("evaluate", done.merged, "--data", done.dev, "--text", "sentence", "--label", "label", "--json")
    metrics = {metric["name"]: metric["value"] for metric in json.loads(result.stdout)["metrics"]}
    assert metrics["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())


def test_adapter_holds_the_planned_ranks_and_nothing_else(done):
    planned, found = done.modules(), {}
    with safe_open(done.adapter / "adapter_model.safetensors", "np") as file:
        for name in file.keys():
            if ".lora_A." in name:
                found[name.removeprefix("base_model.model.").split(".lora_A.")[0]] = file.get_slice(name).get_shape()[0]
    assert found == planned


def test_peft_takes_the_configuration_of_a_plan_as_it_is(done):
    config = peft.PeftConfig.from_pretrained(done.plan)
    model = peft.get_peft_model(base_model(done.model), config)
    layers = {name.removeprefix("base_model.model."): module for name, module in model.named_modules()
              if isinstance(module, peft.tuners.lora.LoraLayer)}
    assert {name: layer.r["default"] for name, layer in layers.items()} == done.modules()
    scalings = {layer.scaling["default"] for layer in layers.values()}
    assert len(scalings) == 1, "alpha / rank is the same everywhere"


def test_uniform_flavour_gives_the_same_logits_with_one_rank(done, tmp_path):
    done.train_adapter(tmp_path / "uniform", "--flavour", "uniform")
    config = json.loads((tmp_path / "uniform/adapter_config.json").read_text())
    assert not config.get("rank_pattern") and not config.get("alpha_pattern")
    assert config["r"] == max(done.modules().values())
    batch = tokenized(done.model, read_table(done.dev)[0])
    logits = [torch_logits(peft.PeftModel.from_pretrained(base_model(done.model), folder).eval(), batch)
              for folder in (done.adapter, tmp_path / "uniform")]
    assert numpy.abs(logits[0] - logits[1]).max() < TOLERANCE


def test_merging_changes_the_planned_weights_and_the_head_only(done):
    before, after = load_file(done.model / "model.safetensors"), load_file(done.merged / "model.safetensors")
    assert list(before) == list(after)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in before.items()} == \
           {name: (tensor.dtype, tensor.shape) for name, tensor in after.items()}
    changed = {name for name in before if not numpy.array_equal(before[name], after[name])}
    planned = {f"{module}.weight" for module in done.modules()}
    assert planned <= changed
    assert changed - planned <= {"classifier.weight", "classifier.bias"}


def test_merged_export_differs_in_the_bytes_of_weights_only(done):
    before, after = (done.model / "model.onnx").read_bytes(), (done.merged / "model.onnx").read_bytes()
    assert len(before) == len(after)
    graphs = [onnx.load_model_from_string(data) for data in (before, after)]
    changed = [left.name for left, right in zip(graphs[0].graph.initializer, graphs[1].graph.initializer) if left != right]
    assert changed
    count = len(done.modules())
    assert count <= len(changed) <= count + 2, "the planned weights, and weight and bias of the head"
    for graph in graphs:
        for initializer in graph.graph.initializer:
            if initializer.name in changed:
                initializer.ClearField("raw_data")
                initializer.ClearField("float_data")
    assert graphs[0] == graphs[1]


def test_numpy_maps_the_store_and_finds_the_hidden_states_of_transformers(done, tmp_path):
    run("extract", done.model, "--data", done.train, "--text", "sentence", "-o", tmp_path / "store")
    manifest = json.loads((tmp_path / "store/manifest.json").read_text())
    sentences = read_table(done.train)[0][:200]
    batch = tokenized(done.model, sentences)
    with torch.no_grad():
        states = base_model(done.model)(**{name: torch.from_numpy(values) for name, values in batch.items()},
                                        output_hidden_states=True).hidden_states
    mask = batch["attention_mask"][:, :, None]
    assert len(manifest["hidden_states"]) == len(states)
    for number, state in enumerate(states):
        expected = (state.numpy() * mask).sum(1) / mask.sum(1)
        shards = sorted((tmp_path / "store").glob(f"shard-*/hidden_state.{number}.npy"))
        found = numpy.concatenate([numpy.load(shard, mmap_mode="r") for shard in shards])
        assert found.dtype == numpy.float32
        assert numpy.abs(found[: len(sentences)] - expected).max() < TOLERANCE


def test_a_bias_of_zeros_that_the_exporter_left_out_is_trained(tmp_path, tables):
    model = shutil.copytree(TINY, tmp_path / "model")
    graph = onnx.load(model / "model.onnx")
    (node,) = (node for node in graph.graph.node if "logits" in node.output)
    bias = node.input.pop()
    kept = [tensor for tensor in graph.graph.initializer if tensor.name != bias]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    onnx.save(graph, model / "model.onnx")
    weights = load_file(model / "model.safetensors")
    weights["classifier.bias"][:] = 0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    done = Run(tmp_path, model, *tables, ["--epochs", "1", "--learning-rate", "5e-3"])
    trained = load_file(done.adapter / "adapter_model.safetensors")["base_model.model.classifier.bias"]
    assert numpy.abs(trained).max() > 1e-3
    test_all_four_give_the_same_logits(done)
    test_merging_changes_the_planned_weights_and_the_head_only(done)

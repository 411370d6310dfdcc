"""Exports in forms that people find on the hub and make with other tools: each gives what the plain export gives, or the cause.

The references are onnxruntime on the same file, transformers on the merged folder, and gelora's own results for the plain form.
"""

import json
import os
import shutil
import subprocess
import sys

import numpy
import onnx
import onnxruntime
import pytest
import torch
import transformers
from conftest import GELORA, ROOT, TINY, Run, read_table, run
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file

COLUMNS = ["--text", "sentence", "--label", "label"]
TRAINING = ["--epochs", "1", "--learning-rate", "5e-3", "--batch-size", "50"]
HALF = 2e-2


def copied(folder, change):
    """A copy of the tiny encoder whose graph `change` has changed."""
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("reference*"))
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")
    return folder


def tokenized(model, sentences, length=None, maximum=64):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"), pad_token="[PAD]")
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    padding = "max_length" if length else True
    batch = tokenizer(sentences, padding=padding, truncation=True, max_length=length or maximum, return_tensors="np")
    return {name: values.astype(numpy.int64) for name, values in batch.items()}


def exported(path, batch, output="logits"):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {value.name: batch[value.name] for value in session.get_inputs()}
    return session.run([output], feeds)[0].astype(numpy.float32)


def metrics(model, data, *more):
    done = run("evaluate", model, "--data", data, *COLUMNS, *more, "--json")
    return {metric["name"]: metric["value"] for metric in json.loads(done.stdout)["metrics"]}


def refusal(*arguments):
    """The one line that a command ends with."""
    done = run(*arguments, expect=1)
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: "), done.stderr
    return lines[-1]


def inspected(model, expect=0):
    done = run("inspect", model, "--json", expect=expect)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tables):
    """What the plain export gives."""
    return Run(tmp_path_factory.mktemp("plain"), TINY, *tables, TRAINING)


def same_run(one, other, tolerance=1e-5):
    """Same dimensions, same ranks, same adapter."""
    values = [[layer["dimension"] for layer in done.plan_file()["hidden_states"]] if "hidden_states" in done.plan_file() else [] for done in (one, other)]
    assert values[0] == pytest.approx(values[1], rel=1e-3)
    assert sorted(one.modules().values()) == sorted(other.modules().values())
    ours, theirs = (load_file(done.adapter / "adapter_model.safetensors") for done in (one, other))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=tolerance), name


# Half precision: the head is trained, in float32, beside a base of float16.


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    made = [("bert", "float16"), ("roberta", "float16-inside"), ("bert", "float16-base")]
    for family, form in made:
        command = [sys.executable, str(ROOT / "scripts/make_fixtures.py"), str(folder), "--families", family, "--forms", form]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def half_logits(folder, batch):
    """Logits of a merged folder in transformers, with its weights as they are and in float32."""
    architecture = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    model = getattr(transformers, architecture).from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    types = getattr(model.config, "type_vocab_size", 0) > 1
    accepted = {"input_ids", "attention_mask"} | ({"token_type_ids"} if types else set())
    with torch.no_grad():
        result = model(**{name: torch.from_numpy(values) for name, values in batch.items() if name in accepted})
    if "logits" in result:
        return result.logits.numpy()
    # No class of transformers has a head that reads the mean.
    weights = load_file(folder / "gelora_head.safetensors")
    mask = torch.from_numpy(batch["attention_mask"]).float()[:, :, None]
    pooled = (result.last_hidden_state * mask).sum(1) / mask.sum(1)
    return (pooled @ weights["classifier.weight"].float().T + weights["classifier.bias"].float()).numpy()


@pytest.mark.parametrize("family,form", [("bert", "float16"), ("roberta", "float16-inside"), ("bert", "float16-base")])
def test_a_head_is_trained_beside_half_precision(family, form, halves, tables, tmp_path):
    model = halves / family / form
    head = ["--head", "mean"] if form == "float16-base" else []
    done = Run(tmp_path, model, *tables, [*TRAINING, *head])
    trained = load_file(done.adapter / ("gelora_head.safetensors" if head else "adapter_model.safetensors"))
    heads = {name: tensor for name, tensor in trained.items() if "lora" not in name}
    assert heads and all(tensor.dtype == torch.float32 for tensor in heads.values()), list(trained)
    sentences, labels = read_table(done.dev)
    batch = tokenized(model, sentences, maximum=32)
    merged = exported(done.merged / "model.onnx", batch)
    theirs = half_logits(done.merged, batch)
    scale = numpy.abs(theirs).max()
    assert numpy.abs(merged - theirs).max() < HALF * scale
    if not head:
        before = exported(model / "model.onnx", batch)
        assert numpy.abs(merged - before).max() > 2 * HALF * scale, "training changed nothing"
        base = load_file(model / "model.safetensors")
        for name, tensor in heads.items():
            short = name.removeprefix("base_model.model.").replace(".modules_to_save", "").replace(".default", "")
            assert not torch.equal(base[short].float(), tensor), f"{name} was not trained"
    assert metrics(done.merged, done.dev)["accuracy"] == pytest.approx((merged.argmax(1) == labels).mean())


@pytest.mark.parametrize("blocked", [[], ["LayerNormalization", "Softmax", "Gemm"]])
def test_float32_copies_of_float16_states_are_the_states(blocked, plain, tables, tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from safetensors.torch import save_file

    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    weights = load_file(folder / "model.safetensors")
    model = onnx.load(folder / "model.onnx")
    lifted = 0
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant).copy()
        for name, tensor in weights.items():
            if "encoder.layer" in name and tensor.dim() == 2 and values.shape == tensor.T.shape and (values == tensor.T.numpy()).all():
                # What would vanish in float16 is lifted by the converter.
                values[0, 0], values[1, 0] = 1e-9, -1e-9
                tensor.copy_(torch.from_numpy(values.T.copy()))
                constant.CopyFrom(numpy_helper.from_array(values, constant.name))
                lifted += 1
    assert lifted == 12
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    onnx.save(convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked, force_fp16_initializers=True), folder / "model.onnx")
    facts = inspected(folder)
    assert facts["obstacles"] == [] and facts["head"]["outputs"] == ["logits"], facts
    assert facts["self_check"]["padding_invariant"] and len(facts["hidden_states"]) == len(inspected(TINY)["hidden_states"])
    counts = facts["checkpoint"]
    assert counts["matched_by_content"] == inspected(TINY)["checkpoint"]["matched_by_content"], counts
    done = Run(tmp_path, folder, *tables, TRAINING)
    batch = tokenized(TINY, read_table(done.dev)[0])
    merged, theirs = exported(done.merged / "model.onnx", batch), half_logits(done.merged, batch)
    assert numpy.abs(merged - theirs).max() < HALF * numpy.abs(theirs).max()
    assert numpy.abs(merged - exported(folder / "model.onnx", batch)).max() > 2 * HALF * numpy.abs(theirs).max()


# Weights as nodes.


def test_weights_in_constant_nodes_are_planned_trained_and_merged(plain, tables, tmp_path):
    def to_nodes(model):
        nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
        nodes += list(model.graph.node)
        del model.graph.initializer[:], model.graph.node[:]
        model.graph.node.extend(nodes)

    folder = copied(tmp_path / "model", to_nodes)
    assert inspected(folder)["obstacles"] == []
    done = Run(tmp_path, folder, *tables, TRAINING)
    same_run(done, plain)
    batch = tokenized(TINY, read_table(done.dev)[0])
    ours, theirs = (exported(merged / "model.onnx", batch) for merged in (done.merged, plain.merged))
    assert numpy.abs(ours - theirs).max() < 1e-5
    weights = [node for node in onnx.load(done.merged / "model.onnx").graph.node if node.op_type == "Constant"]
    assert len(weights) > 20 and not onnx.load(done.merged / "model.onnx").graph.initializer


# Inputs.


def rename(model, names):
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    for value in model.graph.input:
        value.name = names.get(value.name, value.name)


@pytest.mark.parametrize("names", [
    {"attention_mask": "input_mask", "token_type_ids": "segment_ids"},
    {"input_ids": "input_ids:0", "attention_mask": "attention_mask:0", "token_type_ids": "token_type_ids:0"},
])
def test_inputs_of_other_exporters_are_the_same_inputs(names, plain, tables, tmp_path):
    folder = copied(tmp_path / "model", lambda model: rename(model, names))
    same_run(Run(tmp_path, folder, *tables, TRAINING), plain)


def test_inputs_without_a_shape_take_any(plain, tables, tmp_path):
    def forget(model):
        for value in [*model.graph.input, *model.graph.output]:
            value.type.tensor_type.ClearField("shape")

    folder = copied(tmp_path / "model", forget)
    same_run(Run(tmp_path, folder, *tables, TRAINING), plain, tolerance=1e-4)
    assert metrics(folder, plain.dev) == metrics(TINY, plain.dev)


# Batches of one size.


def fixed(rows, length):
    """The tiny encoder traced at one size: the classic exporter then bakes both numbers in."""
    def fix(model):
        sizes = {"batch": rows, "sequence": length}
        for value in [*model.graph.input, *model.graph.output]:
            for dimension in value.type.tensor_type.shape.dim:
                size = sizes.get(dimension.dim_param)
                if size:
                    dimension.Clear()
                    dimension.dim_value = size
    return fix


@pytest.mark.parametrize("rows,length", [(3, None), (None, 32), (3, 32), (1, 32)])
def test_fixed_sizes_are_used_as_they_are(rows, length, plain, tables, tmp_path):
    folder = copied(tmp_path / "model", fixed(rows, length))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    assert (not rows or shape[0] == rows) and (not length or shape[1] == length), shape
    facts = inspected(folder)
    assert any("one size" in note for note in facts["notes"]), facts["notes"]
    assert facts["self_check"]["padding_invariant"]
    done = Run(tmp_path, folder, *tables, TRAINING)
    same_run(done, plain, tolerance=2e-4)
    assert metrics(folder, plain.dev) == metrics(TINY, plain.dev)


def test_texts_longer_than_a_fixed_length_are_cut_there(tables, tmp_path):
    folder = copied(tmp_path / "model", fixed(None, 8))
    assert metrics(folder, tables[1]) == metrics(TINY, tables[1], "--max-length", "8")


# Folders.


def test_folders_of_the_hub(tables, tmp_path):
    hub = tmp_path / "hub"
    shutil.copytree(TINY, hub)
    (hub / "onnx").mkdir()
    (hub / "model.onnx").rename(hub / "onnx/model.onnx")
    plain = inspected(TINY)
    for extra in ([], ["config.json"], ["config.json", "tokenizer.json"]):
        for name in extra:
            shutil.copy(hub / name, hub / "onnx" / name)
        for named in (hub, hub / "onnx", hub / "onnx/model.onnx"):
            found = inspected(named)
            assert found["checkpoint"]["matched_by_content"] == plain["checkpoint"]["matched_by_content"], (extra, named)
            assert found["tokenizer"] and found["obstacles"] == []
    (hub / "onnx/model.onnx").rename(hub / "onnx/model_quantized.onnx")
    assert inspected(hub)["onnx"].endswith("onnx/model_quantized.onnx"), "the only one is taken"
    shutil.copy(hub / "onnx/model_quantized.onnx", hub / "onnx/model_fp16.onnx")
    said = refusal("inspect", hub)
    assert "onnx/model_fp16.onnx" in said and "onnx/model_quantized.onnx" in said and "name the one" in said
    (hub / "elsewhere").mkdir()
    for name in ("model_fp16", "model_quantized"):
        (hub / f"onnx/{name}.onnx").rename(hub / f"elsewhere/{name}.onnx")
    assert "elsewhere/model_fp16.onnx" in refusal("inspect", hub)


def test_external_data_behind_the_links_of_the_hugging_face_cache(plain, tables, tmp_path):
    repository = tmp_path / "models--tiny"
    snapshot = repository / "snapshots/0123"
    blobs = repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    made = tmp_path / "made"
    shutil.copytree(TINY, made)
    model = onnx.load(made / "model.onnx")
    (made / "model.onnx").unlink()
    onnx.save_model(model, made / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=64)
    for number, path in enumerate(sorted(path for path in made.iterdir() if path.is_file())):
        blob = blobs / f"{number:040x}"
        shutil.move(path, blob)
        os.symlink(os.path.relpath(blob, snapshot), snapshot / path.name)
    same_run(Run(tmp_path, snapshot, *tables, TRAINING), plain)
    batch = tokenized(TINY, read_table(plain.dev)[0])
    assert numpy.abs(exported(tmp_path / "merged/model.onnx", batch) - exported(plain.merged / "model.onnx", batch)).max() < 1e-5


@pytest.mark.parametrize("file", ["model.onnx", "model.onnx.data", "model.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_is_told_from_the_file(file, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    if file == "model.onnx.data":
        model = onnx.load(folder / "model.onnx")
        onnx.save_model(model, folder / "model.onnx", save_as_external_data=True, location=file, size_threshold=64)
    (folder / file).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 42\n")
    done = run("inspect", folder, expect=1)
    assert "Git LFS pointer" in done.stderr and "git lfs pull" in done.stderr and file in done.stderr


def test_a_table_that_is_a_git_lfs_pointer(tmp_path):
    for name in ("train.tsv", "train.parquet"):
        (tmp_path / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 42\n")
        assert "git lfs pull" in refusal("plan", TINY, "--data", tmp_path / name, "--text", "sentence", "-o", tmp_path / "out")


# What is not taken is named with its cure.


def test_probabilities_in_the_place_of_logits_are_warned_of(tables, tmp_path):
    def softmax(operator):
        def change(model):
            for node in model.graph.node:
                for place, name in enumerate(node.output):
                    if name == "logits":
                        node.output[place] = "raw"
            model.graph.node.append(helper.make_node(operator, ["raw"], ["logits"], **({} if operator == "Sigmoid" else {"axis": -1})))
        return change

    for operator in ("Softmax", "Sigmoid", "LogSoftmax"):
        folder = copied(tmp_path / operator, softmax(operator))
        assert any(operator in note and "no logits" in note for note in inspected(folder)["notes"])
    folder = tmp_path / "Softmax"
    run("plan", folder, "--data", tables[0], "--text", "sentence", "-o", tmp_path / "plan")
    plan = json.loads((tmp_path / "plan/plan.json").read_text())
    assert any("Softmax" in warning and "probabilities" in warning for warning in plan["warnings"])
    command = [str(GELORA), "train", str(folder), "--plan", str(tmp_path / "plan"), "--data", str(tables[0]), *COLUMNS,
               "-o", str(tmp_path / "adapter"), "--maximum-steps", "2", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "cross entropy of probabilities" in done.stderr, done.stderr


def test_weights_of_four_bits_are_planned_for_and_named(plain, tables, tmp_path):
    matmul_nbits = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    quantizer = matmul_nbits.MatMulNBitsQuantizer(onnx.load(folder / "model.onnx"), bits=4, block_size=16)
    quantizer.process()
    quantizer.model.save_model_to_file(str(folder / "model.onnx"))
    facts = inspected(folder)
    assert any("MatMulNBits" in note for note in facts["notes"]), facts["notes"]
    run("plan", folder, "--data", tables[0], "--text", "sentence", "-o", tmp_path / "plan")
    plan = json.loads((tmp_path / "plan/plan.json").read_text())
    assert "quantized" in plan["warnings"][0]
    named = {module["module"] for block in plan["blocks"] for module in block["modules"]}
    assert named == {module["module"] for block in plain.plan_file()["blocks"] for module in block["modules"]}
    said = refusal("train", folder, "--plan", tmp_path / "plan", "--data", tables[0], *COLUMNS, "-o", tmp_path / "adapter")
    assert "quantized" in said and "floating-point" in said


def small(nodes, inputs, outputs=("logits",), initializers=()):
    info = lambda name, kind, shape: helper.make_tensor_value_info(name, kind, shape)
    graph = helper.make_graph(nodes, "g", [info(*value) for value in inputs],
                              [info(name, TensorProto.FLOAT, None) for name in outputs], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def table_of(name, *shape):
    return numpy_helper.from_array(numpy.random.default_rng(0).normal(size=shape).astype(numpy.float32), name)


def test_what_is_no_text_model_is_named(tmp_path):
    product = [helper.make_node("MatMul", ["x", "w"], ["logits"])]
    cases = {
        "pixel_values": "images",
        "input_values": "sound",
        "input_features": "sound",
        "inputs_embeds": "export the model with input_ids",
        "features": "holds token ids",
    }
    for name, words in cases.items():
        product[0].input[0] = name
        path = tmp_path / f"{name}.onnx"
        onnx.save(small(product, [(name, TensorProto.FLOAT, ["batch", 4, 8])], initializers=[table_of("w", 8, 8)]), path)
        said = run("inspect", path, expect=1).stderr + run("inspect", path, expect=1).stdout
        assert "no text model" in said and name in said and words in said, said


def test_a_merged_decoder_names_its_node_and_the_file_to_take(tmp_path):
    def branch(name):
        nodes = [helper.make_node("Gather", ["table", "input_ids"], [f"{name}.embedded"]),
                 helper.make_node("MatMul", [f"{name}.embedded", "w"], [f"{name}.logits"])]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}.logits", TensorProto.FLOAT, None)])

    node = helper.make_node("If", ["use_cache_branch"], ["logits"], name="optimum::if", then_branch=branch("a"), else_branch=branch("b"))
    inputs = [("input_ids", TensorProto.INT64, ["batch", "sequence"]), ("use_cache_branch", TensorProto.BOOL, [1])]
    model = small([node], inputs, initializers=[table_of("table", 20, 8), table_of("w", 8, 20)])
    path = tmp_path / "decoder_model_merged.onnx"
    onnx.save(model, path)
    said = run("inspect", path, expect=1).stderr
    said += run("inspect", path, expect=1).stdout
    assert "optimum::if" in said and "use_cache_branch" in said and "decoder_model.onnx" in said, said
    shutil.copy(TINY / "model.onnx", tmp_path / "decoder_model.onnx")
    assert str(tmp_path / "decoder_model.onnx") in run("inspect", path, expect=1).stdout


def test_lookups_of_turned_ids_are_named(tmp_path):
    nodes = [helper.make_node("Transpose", ["input_ids"], ["turned"], perm=[1, 0]),
             helper.make_node("Gather", ["table", "turned"], ["embedded"], name="lookup"),
             helper.make_node("MatMul", ["embedded", "w"], ["logits"])]
    path = tmp_path / "model.onnx"
    inputs = [("input_ids", TensorProto.INT64, ["batch", "sequence"])]
    onnx.save(small(nodes, inputs, initializers=[table_of("table", 20, 8), table_of("w", 8, 20)]), path)
    said = run("inspect", path, expect=1).stdout
    assert "`lookup`" in said and "batch first" in said, said


def test_blocks_without_linear_layers_are_named(tables, tmp_path):
    def computed(model):
        """Every weight passes through an operation that only a computation makes."""
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        nodes = []
        for node in model.graph.node:
            if node.op_type in ("MatMul", "Gemm") and node.input[1] in constants:
                nodes.append(helper.make_node("Neg", [node.input[1]], [f"{node.input[1]}.neg.{len(nodes)}"]))
                nodes.append(helper.make_node("Neg", [nodes[-1].output[0]], [f"{node.input[1]}.pos.{len(nodes)}"]))
                node.input[1] = nodes[-1].output[0]
            nodes.append(node)
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    folder = copied(tmp_path / "model", computed)
    said = refusal("plan", folder, "--data", tables[0], "--text", "sentence", "-o", tmp_path / "plan")
    assert "no linear layer" in said and "MatMul" in said, said
    assert any("no linear layer" in obstacle for obstacle in inspected(folder, expect=1)["obstacles"])

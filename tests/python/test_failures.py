"""Everything that a user can get wrong ends with exit code 1 and one line that names the cure, and touches no earlier result."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess

import numpy
import onnx
import pytest
from conftest import GELORA, ROOT, TINY, WORDS, Run

COLUMNS = ["--text", "sentence", "--label", "label"]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, tables):
    """A finished run whose results every failing command must leave as they are."""
    return Run(tmp_path_factory.mktemp("earlier"), TINY, *tables, ["--epochs", "1"])


def snapshot(folder):
    """Hashes of all files but those of a store that is still growing."""
    files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file() and "store.new" not in path.parts]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(earlier, words, *arguments, environment=None, command=None):
    """Runs a command that must fail with one line which holds every one of `words`."""
    before = snapshot(earlier.plan.parent)
    command = command or [str(GELORA), *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, env={**os.environ, **(environment or {})})
    assert done.returncode == 1, f"exit code {done.returncode}: {done.stderr}"
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word.lower() in lines[0].lower(), f'"{word}" is not in: {lines[0]}'
    assert done.stdout == ""
    after = snapshot(earlier.plan.parent)
    assert {path: after.get(path) for path in before} == before, "an earlier result was touched"
    return lines[0]


def plan(earlier, model=TINY, data=None, device="cpu"):
    """A plan into the folder of the earlier one. With its own pooling, so that no activations are there already."""
    return ["plan", model, "--data", data or earlier.train, *COLUMNS[:2], "-o", earlier.plan, "--device", device, "--pooling", "first"]


def copy_of_tiny(tmp_path, name="copy"):
    return pathlib.Path(shutil.copytree(TINY, tmp_path / name))


def table(tmp_path, *rows):
    path = tmp_path / "table.tsv"
    path.write_text("sentence\tlabel\n" + "".join(row + "\n" for row in rows))
    return path


# --- data -------------------------------------------------------------------------------------------------------


def test_missing_file(earlier, tmp_path):
    refused(earlier, ["nowhere.tsv"], *plan(earlier, TINY, tmp_path / "nowhere.tsv"))
    refused(earlier, ["nothing-here"], *plan(earlier, tmp_path / "nothing-here"))


def test_unreadable_file(earlier, tmp_path):
    (tmp_path / "folder.tsv").mkdir()
    refused(earlier, ["folder.tsv"], *plan(earlier, TINY, tmp_path / "folder.tsv"))
    (tmp_path / "latin.tsv").write_bytes(b"sentence\tlabel\n" + "the caf\xe9 is old\t1\n".encode("latin-1") * 60)
    refused(earlier, ["latin.tsv", "UTF-8"], *plan(earlier, TINY, tmp_path / "latin.tsv"))


def test_wrong_column(earlier):
    arguments = ["plan", TINY, "--data", earlier.train, "--text", "sentense", "-o", earlier.plan]
    refused(earlier, ["sentense", "sentence"], *arguments)


def test_unknown_label(earlier, tmp_path):
    rows = [f"{' '.join(WORDS[i % 7:i % 7 + 3 + i // 7])}\t{'perhaps' if i == 30 else i % 2}" for i in range(60)]
    refused(earlier, ["perhaps"], "evaluate", earlier.merged, "--data", table(tmp_path, *rows), *COLUMNS)


def test_empty_text(earlier, tmp_path):
    lines = earlier.train.read_text().splitlines()[1:]
    lines[41] = "\t1"
    refused(earlier, ["43", "empty"], *plan(earlier, TINY, table(tmp_path, *lines)))


def test_no_rows(earlier, tmp_path):
    refused(earlier, ["no rows"], *plan(earlier, TINY, table(tmp_path)))


def test_fewer_than_fifty_distinct_rows(earlier, tmp_path):
    lines = earlier.train.read_text().splitlines()[1:31] * 10
    refused(earlier, ["30", "50"], *plan(earlier, TINY, table(tmp_path, *lines)))


# --- models -----------------------------------------------------------------------------------------------------


def test_tokenizer_of_another_model(earlier, tmp_path):
    model = copy_of_tiny(tmp_path)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zebra"] = 100
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    lines = [line.replace("dog", "zebra") for line in earlier.train.read_text().splitlines()[1:]]
    refused(earlier, ["100", "tokenizer"], *plan(earlier, model, table(tmp_path, *lines)))


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_truncated_export(earlier, tmp_path, share):
    model = copy_of_tiny(tmp_path)
    data = (model / "model.onnx").read_bytes()
    (model / "model.onnx").write_bytes(data[: int(len(data) * share)])
    refused(earlier, ["model.onnx"], *plan(earlier, model))


@pytest.mark.parametrize("length", [4, 300, -8])
def test_truncated_safetensors(earlier, tmp_path, length):
    model = copy_of_tiny(tmp_path)
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:length])
    refused(earlier, ["model.safetensors"], *plan(earlier, model))


def test_export_without_hidden_states_that_can_be_found(earlier, tmp_path):
    model = copy_of_tiny(tmp_path)
    graph = onnx.load(model / "model.onnx")
    kept = [output for output in graph.graph.output if output.name == "logits"]
    del graph.graph.output[:]
    graph.graph.output.extend(kept)
    # The embeddings are looked up by something that is no table of constants.
    tables = {node.input[0] for node in graph.graph.node if node.op_type == "Gather"}
    constants = [tensor for tensor in graph.graph.initializer if tensor.name in tables]
    for tensor in constants:
        graph.graph.initializer.remove(tensor)
        graph.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    onnx.save(graph, model / "model.onnx")
    refused(earlier, ["hidden-state outputs", "hidden_states.0", "--tap"], *plan(earlier, model))


def test_export_with_active_dropout(earlier):
    refused(earlier, ["dropout", "gelora expose", "--eval"], *plan(earlier, ROOT / "onnx/tiny_encoder_dropout"))


def test_values_that_are_not_a_number(earlier, tmp_path):
    model = copy_of_tiny(tmp_path)
    graph = onnx.load(model / "model.onnx")
    for tensor in graph.graph.initializer:
        if "layer.0" in tensor.name and tensor.name.endswith("LayerNorm.bias"):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[3] = numpy.nan
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(graph, model / "model.onnx")
    (model / "model.safetensors").unlink()
    refused(earlier, ["NaN"], *plan(earlier, model))


# --- results of other runs --------------------------------------------------------------------------------------


def other_weights(tmp_path):
    """The tiny export with one weight changed, in the graph and in the checkpoint."""
    model = copy_of_tiny(tmp_path, "other")
    graph = onnx.load(TINY / "model.onnx").graph
    embeddings = next(tensor.raw_data for tensor in graph.initializer if tensor.name.endswith("word_embeddings.weight"))
    for name in ("model.onnx", "model.safetensors"):
        data = bytearray((model / name).read_bytes())
        place = data.index(embeddings) + 400
        data[place : place + 4] = numpy.float32(0.5).tobytes()
        (model / name).write_bytes(data)
    return model


def test_plan_made_for_another_model(earlier, tmp_path):
    refused(earlier, ["another model"], "train", other_weights(tmp_path), "--plan", earlier.plan / "plan.json",
            "--data", earlier.train, *COLUMNS, "-o", tmp_path / "adapter", "--device", "cpu")


def test_adapter_of_another_base(earlier, tmp_path):
    refused(earlier, ["base"], "merge", other_weights(tmp_path), earlier.adapter, "-o", tmp_path / "merged")


# --- the machine ------------------------------------------------------------------------------------------------


def test_runtime_missing(earlier, tmp_path):
    refused(earlier, ["libonnxruntime-nowhere.so"], *plan(earlier), "--ort-lib", tmp_path / "libonnxruntime-nowhere.so")
    refused(earlier, ["libonnxruntime-nowhere.so"], *plan(earlier), environment={"ORT_DYLIB_PATH": "/libonnxruntime-nowhere.so"})


def test_runtime_is_not_a_library(earlier, tmp_path):
    (tmp_path / "libonnxruntime.so").write_text("not a library")
    refused(earlier, ["libonnxruntime.so"], *plan(earlier), "--ort-lib", tmp_path / "libonnxruntime.so")


def compiled(tmp_path, source):
    (tmp_path / "fake.c").write_text(source)
    library = tmp_path / "libfake.so"
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", library, tmp_path / "fake.c"], check=True)
    return library


def test_runtime_is_another_library(earlier, tmp_path):
    refused(earlier, ["libfake.so"], *plan(earlier), "--ort-lib", compiled(tmp_path, "int answer(void) { return 42; }"))


def test_runtime_too_old(earlier, tmp_path):
    library = compiled(tmp_path, """
        #include <stdint.h>
        static const void *api(uint32_t version) { return 0; }
        static const char *version(void) { return "1.10.0"; }
        static const struct { const void *(*api)(uint32_t); const char *(*version)(void); } base = { api, version };
        const void *OrtGetApiBase(void) { return &base; }
    """)
    refused(earlier, ["1.10.0"], *plan(earlier), "--ort-lib", library)


def test_no_such_device(earlier):
    refused(earlier, ["CUDA"], *plan(earlier, device="cuda:63"))
    refused(earlier, ["quantum"], *plan(earlier, device="quantum"))


def test_no_space_left(earlier, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    mount = f"mount -t tmpfs -o size=16k tmpfs {full}"
    unshare = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--user", "--map-root-user"])
    if subprocess.run([*unshare, "sh", "-c", mount], capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    for arguments in (
        ["extract", TINY, "--data", earlier.train, "--text", "sentence", "-o", full / "store"],
        ["merge", TINY, earlier.adapter, "-o", full / "merged"],
    ):
        script = f"{mount} && exec {GELORA} {' '.join(map(str, arguments))} --device cpu --quiet"
        refused(earlier, ["space"], command=[*unshare, "sh", "-c", script])


# --- the configuration ------------------------------------------------------------------------------------------


def test_unknown_key_in_the_configuration(earlier, tmp_path):
    text = (ROOT / "examples/quickstart.toml").read_text()
    (tmp_path / "config.toml").write_text(f"learning_rat = 1\n{text}")
    refused(earlier, ["learning_rat"], "run", tmp_path / "config.toml", "-o", earlier.plan.parent)


def test_configuration_that_is_no_toml(earlier, tmp_path):
    (tmp_path / "config.toml").write_text("model = \n")
    refused(earlier, ["config.toml"], "run", tmp_path / "config.toml", "-o", earlier.plan.parent)

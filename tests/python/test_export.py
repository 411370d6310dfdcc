"""scripts/export_onnx.py: other architectures, and what it says when something is wrong."""

import pytest
import torch
import transformers
from conftest import ROOT, export, run

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 100,
         "max_position_embeddings": 64}
CONFIGS = {
    "roberta": (transformers.RobertaConfig, {**SIZES, "pad_token_id": 1}),
    "distilbert": (transformers.DistilBertConfig, {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 100}),
    "gpt2": (transformers.GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 64,
                                      "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}),
    "llama": (transformers.LlamaConfig, {**SIZES, "num_key_value_heads": 2, "pad_token_id": 0}),
}


@pytest.fixture(params=CONFIGS)
def checkpoint(request, tmp_path):
    """A random model as a Hugging Face folder, with the tokenizer of the tiny export."""
    kind, settings = CONFIGS[request.param]
    folder = tmp_path / request.param
    torch.manual_seed(0)
    transformers.AutoModel.from_config(kind(**settings)).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((ROOT / "onnx/tiny_encoder/tokenizer.json").read_bytes())
    return folder


@pytest.mark.parametrize("exporter", ["classic", "dynamo"])
def test_other_architectures_become_folders_that_gelora_inspects(checkpoint, tmp_path, exporter):
    export(checkpoint, "--labels", "3", "--exporter", exporter, "-o", tmp_path / "export")
    run("inspect", tmp_path / "export")


def test_errors_are_one_line_and_leave_the_output_alone(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/kept").write_text("kept")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")
    tiny = ROOT / "onnx/tiny_encoder"
    for arguments, words in (
        ([tmp_path / "nowhere", "--no-head", "-o", tmp_path / "out"], "is not a folder"),
        ([tmp_path, "--no-head", "-o", tmp_path / "out"], "no config.json"),
        ([tmp_path / "broken", "--no-head", "-o", tmp_path / "out"], "config.json"),
        (["--package", "no-such-package", "--no-head", "-o", tmp_path / "out"], "is not installed"),
        ([tiny, "--labels", "0", "-o", tmp_path / "out"], "number of classes"),
        ([tiny, "--labels", "2", "-o", tmp_path / "there"], "--overwrite"),
    ):
        finished = export(*arguments, expect=1)
        assert words in finished.stderr and finished.stderr.count("\n") == 1, finished.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "there"]
    assert (tmp_path / "there/kept").read_text() == "kept"

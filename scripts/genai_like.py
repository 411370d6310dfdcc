"""A Llama export as the builder of onnxruntime-genai writes it in float32: query, key and value in one product, rotary positions
and cache inside GroupQueryAttention, every norm fused with the addition before it."""

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

CONTRIB = "com.microsoft"


def write(model, path) -> None:
    """`model` is a LlamaForCausalLM; nothing else is known here."""
    config, weights = model.config, {name: value.numpy() for name, value in model.state_dict().items()}
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    width = config.hidden_size // heads
    nodes, constants = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(numpy.ascontiguousarray(value), name))
        return name

    def node(kind, name, inputs, outputs, domain="", **attributes):
        nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def product(name, value, weight):
        return node("MatMul", f"/model/{name}/MatMul", [value, constant(f"model.{name}.MatMul.weight", weight.T)], [f"/model/{name}/MatMul/output_0"])

    def norm(name, stream, added, weight, last=False):
        """The normed sum, and the sum."""
        scale = constant(f"model.{name}.weight", weight)
        outputs = [f"/model/{name}/output_0"] if last or added is None else [f"/model/{name}/output_0", "", "", f"/model/{name}/output_3"]
        if added is None:
            node("SimplifiedLayerNormalization", f"/model/{name}/LayerNorm", [stream, scale], outputs, axis=-1, epsilon=config.rms_norm_eps, stash_type=1)
            return outputs[0], stream
        node("SkipSimplifiedLayerNormalization", f"/model/{name}/SkipLayerNorm", [stream, added, scale], outputs, CONTRIB, epsilon=config.rms_norm_eps)
        return outputs[0], outputs[-1]

    one, axis = constant("/model/constants/INT64/[1]", numpy.array([1])), constant("/model/constants/INT64/1", numpy.array(1))
    summed = node("ReduceSum", "/model/mask/ReduceSum", ["attention_mask", one], ["/model/mask/sum"], keepdims=0)
    less = node("Sub", "/model/mask/Sub", [summed, one], ["/model/mask/less"])
    lengths = node("Cast", "/model/mask/Cast", [less], ["/model/mask/lengths"], to=TensorProto.INT32)
    shape = node("Shape", "/model/mask/Shape", ["attention_mask"], ["/model/mask/shape"])
    total = node("Gather", "/model/mask/Gather", [shape, axis], ["/model/mask/total_64"], axis=0)
    total = node("Cast", "/model/mask/Cast_1", [total], ["/model/mask/total"], to=TensorProto.INT32)
    positions = numpy.arange(config.max_position_embeddings)[:, None] / 10000 ** (numpy.arange(0, width, 2) / width)[None, :]
    cosines = constant("cos_cache", numpy.cos(positions).astype(numpy.float32))
    sines = constant("sin_cache", numpy.sin(positions).astype(numpy.float32))

    table = constant("model.embed_tokens.weight", weights["model.embed_tokens.weight"])
    stream, added = node("Gather", "/model/embed_tokens/Gather", [table, "input_ids"], ["/model/embed_tokens/Gather/output_0"]), None
    for layer in range(config.num_hidden_layers):
        name, own = f"layers.{layer}", lambda part: weights[f"model.layers.{layer}.{part}.weight"]
        normed, stream = norm(f"{name}.input_layernorm", stream, added, own("input_layernorm"))
        packed = product(f"{name}.attn.qkv_proj", normed, numpy.concatenate([own(f"self_attn.{part}_proj") for part in "qkv"]))
        context = node("GroupQueryAttention", f"/model/{name}/attn/GroupQueryAttention",
                       [packed, "", "", f"past_key_values.{layer}.key", f"past_key_values.{layer}.value", lengths, total, cosines, sines],
                       [f"/model/{name}/attn/output_0", f"present.{layer}.key", f"present.{layer}.value"], CONTRIB,
                       num_heads=heads, kv_num_heads=key_heads, local_window_size=-1, do_rotary=1, rotary_interleaved=0)
        added = product(f"{name}.attn.o_proj", context, own("self_attn.o_proj"))
        normed, stream = norm(f"{name}.post_attention_layernorm", stream, added, own("post_attention_layernorm"))
        gate, up = (product(f"{name}.mlp.{part}_proj", normed, own(f"mlp.{part}_proj")) for part in ("gate", "up"))
        sigmoid = node("Sigmoid", f"/model/{name}/mlp/act_fn/Sigmoid", [gate], [f"/model/{name}/mlp/act_fn/Sigmoid/output_0"])
        active = node("Mul", f"/model/{name}/mlp/act_fn/Mul", [gate, sigmoid], [f"/model/{name}/mlp/act_fn/Mul/output_0"])
        both = node("Mul", f"/model/{name}/mlp/Mul", [active, up], [f"/model/{name}/mlp/Mul/output_0"])
        added = product(f"{name}.mlp.down_proj", both, own("mlp.down_proj"))
    normed, _ = norm(f"layers.{config.num_hidden_layers}.final_norm_layernorm", stream, added, weights["model.norm.weight"], last=True)
    node("MatMul", "/lm_head/MatMul", [normed, constant("lm_head.MatMul.weight", weights["lm_head.weight"].T)], ["logits"])

    declare = helper.make_tensor_value_info
    rows, length = "batch_size", "sequence_length"
    past = [(layer, kind) for layer in range(config.num_hidden_layers) for kind in ("key", "value")]
    inputs = [declare("input_ids", TensorProto.INT64, [rows, length]), declare("attention_mask", TensorProto.INT64, [rows, "total_sequence_length"])]
    inputs += [declare(f"past_key_values.{i}.{kind}", TensorProto.FLOAT, [rows, key_heads, "past_sequence_length", width]) for i, kind in past]
    outputs = [declare("logits", TensorProto.FLOAT, [rows, length, config.vocab_size])]
    outputs += [declare(f"present.{i}.{kind}", TensorProto.FLOAT, [rows, key_heads, "total_sequence_length", width]) for i, kind in past]
    graph = helper.make_graph(nodes, "main_graph", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(CONTRIB, 1)]
    onnx.save(helper.make_model(graph, producer_name="onnxruntime-genai", opset_imports=opsets, ir_version=10), path)

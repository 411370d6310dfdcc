"""Checks edited exports with the onnx checker and ONNX Runtime: graph_checks.py CHECK ORIGINAL EDITED [RIGHT]."""

import sys

import numpy as np
import onnx
import onnxruntime as ort

FIRST_ID = 5


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def batch(path):
    """Rows of 7, 5 and 3 real tokens, padded on the right."""
    names = {value.name for value in session(path).get_inputs()}
    generator = np.random.default_rng(0)
    ids = generator.integers(FIRST_ID, 50, (3, 7))
    mask = (np.arange(7)[None, :] < np.array([7, 5, 3])[:, None]).astype(np.int64)
    feeds = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: value for name, value in feeds.items() if name in names}


def run(path, outputs, **more):
    return session(path).run(outputs, {**batch(path), **more})


def states_of(path):
    return [value.name for value in session(path).get_outputs() if value.name.startswith("hidden_states")]


def pooling(original, edited):
    mask = batch(original)["attention_mask"].astype(np.float32)
    weights = (mask / mask.sum(1, keepdims=True))[:, None, :]
    names = states_of(original)
    states = run(original, names)
    outputs = [f"gelora.pooled.{index}" for index in range(len(names))]
    pooled = run(edited, outputs, **{"gelora.pool_weights": weights})
    for state, value in zip(states, pooled):
        assert value.shape == (3, 1, state.shape[2]), value.shape
        np.testing.assert_allclose(value[:, 0], (state * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True), atol=1e-5)


def head(kind):
    def check(original, edited):
        last = run(original, [states_of(original)[-1]])[0]
        mask = batch(original)["attention_mask"]
        model = onnx.load(edited)
        tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        pooled = {
            "first": lambda: last[:, 0],
            "mean": lambda: (last * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True),
            "last": lambda: last[np.arange(3), mask.sum(1) - 1],
        }[kind]()
        expected = pooled @ tensors["classifier.weight"].T + tensors["classifier.bias"]
        logits = run(edited, ["logits"])[0]
        assert logits.shape == (3, 2)
        np.testing.assert_allclose(logits, expected, atol=1e-5)

    return check


def dropout(original, edited, right):
    first, second = (run(original, ["logits"])[0] for _ in range(2))
    assert np.abs(first - second).max() > 1e-3, "the original should be random"
    first, second = (run(edited, ["logits"])[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    # The same weights, exported rightly.
    same(right, edited)


def same(original, edited):
    names = [value.name for value in session(original).get_outputs()]
    for name, a, b in zip(names, run(original, names), run(edited, names)):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=name)


CHECKS = {
    "pooling": pooling,
    "head-first": head("first"),
    "head-mean": head("mean"),
    "head-last": head("last"),
    "dropout": dropout,
    "same": same,
}

if __name__ == "__main__":
    check, original, edited, *more = sys.argv[1:]
    # The copy that extraction runs leaves the shapes of its outputs to the runtime.
    if check != "pooling":
        onnx.checker.check_model(edited, full_check=True)
    CHECKS[check](original, edited, *more)
    print(f"{check}: {edited} is what it should be")

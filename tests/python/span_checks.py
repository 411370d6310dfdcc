"""Checks span answers against transformers, PEFT and the published definitions.

span_checks.py metric CASES.json                       exact match and F1 of single answers, and means over files
span_checks.py tokenizer DATA.json OUT.json            makes a byte-level tokenizer from the texts of a file
span_checks.py windows DUMP.json                       ids, offsets and labels of windows
span_checks.py make OUT                                makes a tiny model with a head for span answers, and data
span_checks.py trained MODEL START TRAINED DATA LENGTH STRIDE BATCHES.json RATE
                                                       losses, gradient norms and tensors of a training
span_checks.py answered MODEL DATA LENGTH STRIDE VERSION ANSWERS.json EVALUATION.json [ADAPTER]
                                                       answers and scores of an evaluation
"""

import collections
import json
import pathlib
import random
import re
import string
import sys

TOLERANCE = 1e-4


# Written after the evaluation scripts of SQuAD v1.1 and v2.0.
def normalize_answer(text):
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1_score(prediction, truth, version):
    found, wanted = normalize_answer(prediction).split(), normalize_answer(truth).split()
    if version == 2 and (not found or not wanted):
        return float(found == wanted)
    same = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(found), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def scores(prediction, golds, version):
    if version == 2:
        golds = [gold for gold in golds if normalize_answer(gold)] or [""]
    exact = max((float(normalize_answer(prediction) == normalize_answer(gold)) for gold in golds), default=0.0)
    return exact, max((f1_score(prediction, gold, version) for gold in golds), default=0.0)


def figures(questions, predictions, version):
    """The same names and order as gelora's."""
    def mean(chosen):
        pairs = [scores(predictions[question["id"]], golds(question), version) for question in chosen]
        exact, f1 = (100.0 * sum(column) / len(pairs) for column in zip(*pairs))
        return f1, exact
    golds = lambda question: [answer["text"] for answer in question["answers"]]
    made = dict(zip(("f1", "exact_match"), mean(questions)))
    parts = {name: [q for q in questions if bool(golds(q)) == has] for name, has in (("has_answer", True), ("no_answer", False))}
    if version == 2 and all(parts.values()):
        for name, chosen in parts.items():
            made |= dict(zip((f"{name}_f1", f"{name}_exact_match"), mean(chosen)))
    return made


def check_metric(path):
    cases = json.load(open(path))
    for case in cases:
        exact, f1 = scores(case["prediction"], case["golds"], case["version"])
        assert (case["exact"], round(case["f1"], 12)) == (exact, round(f1, 12)), (case, exact, f1)
        assert case["normalized"] == normalize_answer(case["prediction"]), case
    print(f"{len(cases)} answers scored as published")


def read(path, limit=None):
    """(question, context) in the order of the file."""
    data = json.load(open(path, encoding="utf-8"))["data"]
    rows = [(qa, paragraph["context"]) for article in data for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
    return rows[:limit]


def make_tokenizer(data, out):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<s>", "<pad>", "</s>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([context for _, context in read(data)], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    tokenizer.save(out)


def encode(tokenizer, rows, length, stride):
    """Windows as transformers makes them: a list of (question, ids, type ids, first context token, offsets)."""
    made = tokenizer([question["question"].lstrip() for question, _ in rows], [context for _, context in rows],
                     truncation="only_second", max_length=length, stride=stride, return_overflowing_tokens=True,
                     return_offsets_mapping=True, return_token_type_ids=True)
    windows = []
    for index, question in enumerate(made["overflow_to_sample_mapping"]):
        sequences = made.sequence_ids(index)
        inside = [place for place, sequence in enumerate(sequences) if sequence == 1]
        offsets = [made["offset_mapping"][index][place] for place in inside]
        windows.append((question, made["input_ids"][index], made["token_type_ids"][index], inside[0], offsets))
    return windows


def label(question, context, first, offsets):
    """As run_qa.py labels features, inside the context; None where the answer is not where the file says."""
    if not question["answers"]:
        return [0, 0]
    start = question["answers"][0]["answer_start"]
    end = start + len(question["answers"][0]["text"])
    if context[start:end] != question["answers"][0]["text"]:
        return None
    if offsets[0][0] > start or offsets[-1][1] < end:
        return [0, 0]
    left, right = 0, len(offsets) - 1
    while left < len(offsets) and offsets[left][0] <= start:
        left += 1
    while right >= 0 and offsets[right][1] >= end:
        right -= 1
    return [first + left - 1, first + right + 1]


def load_tokenizer(folder):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if str(folder).endswith(".json"):
        return PreTrainedTokenizerFast(tokenizer_file=str(folder))
    if (pathlib.Path(folder) / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(folder)
    return PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


def check_windows(path):
    dump = json.load(open(path))
    for case in dump:
        rows = read(case["data"], case["limit"])
        expected = encode(load_tokenizer(case["tokenizer"]), rows, case["length"], case["stride"])
        assert len(expected) == len(case["windows"]), (case["data"], len(expected), len(case["windows"]))
        answers = 0
        for (question, ids, types, first, offsets), found in zip(expected, case["windows"]):
            assert found["question"] == question and found["ids"] == ids, (found, question, ids)
            if case["types"]:
                assert found["type_ids"] == types, (found, types)
            assert found["first"] == first and found["offsets"] == [list(pair) for pair in offsets], (found, offsets)
            entry, context = rows[question]
            wanted = label(entry, context, first, offsets)
            assert found["label"] == wanted, (entry, found["label"], wanted)
            answers += wanted not in (None, [0, 0])
        several = len(expected) - len(rows)
        print(f"{pathlib.Path(case['data']).name}, {case['length']}/{case['stride']}: {len(rows)} questions, {several} further windows, {answers} with the answer")
        assert answers and (several or not case["cut"])


def make(out):
    import torch
    from transformers import BertConfig, BertForQuestionAnswering

    root = pathlib.Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / "scripts"), str(root / "onnx")]
    import export_onnx
    import make_tiny_encoder

    out = pathlib.Path(out)
    export_onnx.be_quiet()
    torch.manual_seed(1)
    config = BertConfig(vocab_size=100, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                        initializer_range=0.3, num_labels=2)
    source = out / "source"
    # Without its head: the exporter draws one.
    BertForQuestionAnswering(config).bert.save_pretrained(source)
    make_tiny_encoder.make_tokenizer().save(str(source / "tokenizer.json"))
    model = out / "model"
    model.mkdir()
    _, new, _ = export_onnx.write_model_folder(source, model, "qa", "classic", 3)
    assert new == ["qa_outputs.bias", "qa_outputs.weight"], new

    words = [word for word in make_tiny_encoder.WORDS if word.isalpha() and len(word) > 1]
    answers = [["dogs"], ["cats"], ["old", "books"], ["new", "film"]]
    others = [word for word in words if word not in {"dogs", "cats", "old", "new", "film"}]
    draw = random.Random(5)

    def file(name, count, impossible):
        paragraphs = []
        for number in range(count):
            answer = " ".join(draw.choice(answers))
            parts = [" ".join(draw.choices(others, k=draw.randrange(2, 40))) for _ in range(2)]
            none = draw.random() < impossible
            context = " ".join(parts) if none else f"{parts[0]} {answer} {parts[1]}"
            golds = [] if none else [{"text": answer, "answer_start": len(parts[0]) + 1}]
            if golds and number % 3 == 0:
                golds.append({"text": f"the {answer}", "answer_start": 0})
            question = {"id": f"{name}-{number}", "question": f"what did {draw.choice(others)} see ?", "answers": golds}
            if impossible:
                question["is_impossible"] = none
            if name == "train" and number == 7:
                golds[0]["answer_start"] += 1
            paragraphs.append({"context": context, "qas": [question]})
        (out / f"{name}.json").write_text(json.dumps({"version": "", "data": [{"paragraphs": paragraphs}]}))

    file("train", 160, 0.0)
    file("dev", 40, 0.0)
    file("train2", 160, 0.4)
    file("dev2", 40, 0.4)


def batch(windows, labels, rows, length=None):
    import torch

    length = length or max(len(windows[row][1]) for row in rows)
    fill = lambda values: values + [0] * (length - len(values))
    inputs = {"input_ids": [fill(windows[row][1]) for row in rows],
              "attention_mask": [fill([1] * len(windows[row][1])) for row in rows],
              "token_type_ids": [fill(windows[row][2]) for row in rows]}
    inputs = {name: torch.tensor(values) for name, values in inputs.items()}
    if labels:
        inputs["start_positions"] = torch.tensor([labels[row][0] for row in rows])
        inputs["end_positions"] = torch.tensor([labels[row][1] for row in rows])
    return inputs


def check_trained(model, start, trained, data, length, stride, batches, rate):
    """One epoch of PEFT on PyTorch over the same batches, from the same adapter."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForQuestionAnswering, get_linear_schedule_with_warmup

    torch.set_num_threads(1)
    rows = read(data)
    pairs = [(window, label(*rows[window[0]], window[3], window[4])) for window in encode(load_tokenizer(model), rows, int(length), int(stride))]
    pairs = [(window, place) for window, place in pairs if place is not None]
    windows, labels = [window for window, _ in pairs], [place for _, place in pairs]
    base = AutoModelForQuestionAnswering.from_pretrained(model, attn_implementation="eager")
    tuned = PeftModel.from_pretrained(base, start, is_trainable=True)
    assert type(tuned).__name__ == "PeftModelForQuestionAnswering", type(tuned)
    parameters = {name: value for name, value in tuned.named_parameters() if value.requires_grad}
    assert any("qa_outputs" in name for name in parameters)
    tuned.train()
    optimizer = torch.optim.AdamW(parameters.values(), lr=float(rate), weight_decay=0.0)
    [epoch] = json.load(open(batches))
    schedule = get_linear_schedule_with_warmup(optimizer, 0, len(epoch))
    lines = [json.loads(line) for line in open(pathlib.Path(trained) / "metrics.jsonl")]
    steps = [line for line in lines if "gradient_norm" in line]
    assert len(steps) == len(epoch), (len(steps), len(epoch))
    padded = 0
    for chosen, step in zip(epoch, steps):
        inputs = batch(windows, labels, chosen)
        padded += int((inputs["attention_mask"] == 0).sum())
        # The wrapper for this task drops token_type_ids on the way (peft 0.21); the model below does not.
        loss = tuned.base_model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        assert abs(loss.item() - step["loss"]) < TOLERANCE * max(1.0, loss.item()), (loss.item(), step)
        assert abs(norm.item() - step["gradient_norm"]) < 1e-3 * norm.item(), (norm.item(), step)
        optimizer.step()
        schedule.step()
    assert padded
    found = load_file(pathlib.Path(trained) / "adapter_model.safetensors")
    worst, moved = 0.0, 0.0
    begun = load_file(pathlib.Path(start) / "adapter_model.safetensors")
    for name, value in parameters.items():
        # A softmax does not see what is added to all its inputs: the gradient is rounding errors, which Adam makes large.
        if name.endswith("qa_outputs.modules_to_save.default.bias"):
            continue
        short = name.replace(".modules_to_save.default", "").replace(".default", "")
        worst = max(worst, (found[short] - value.detach()).abs().max().item())
        moved = max(moved, (found[short] - begun[short]).abs().max().item())
    assert worst < 5e-4 and moved > 20 * worst, (worst, moved)
    print(f"{len(epoch)} steps as PEFT's, {padded} places of padding, tensors differ by at most {worst:.1e} and moved by {moved:.1e}")


def choose(questions, windows, logits, version, n_best=20, longest=30, threshold=0.0):
    """After `postprocess_qa_predictions`; candidates are tokens of the context."""
    predictions = {}
    by_question = collections.defaultdict(list)
    for index, window in enumerate(windows):
        by_question[window[0]].append(index)
    for number, (question, context) in enumerate(questions):
        prelim, null = [], None
        for index in by_question[number]:
            _, ids, _, first, offsets = windows[index]
            start, end = logits[index]
            score = start[0] + end[0]
            null = score if null is None or score < null else null
            inside = range(first, first + len(offsets))
            starts = sorted(inside, key=lambda place: -start[place])[:n_best]
            ends = sorted(inside, key=lambda place: -end[place])[:n_best]
            for left in starts:
                for right in ends:
                    if right < left or right - left + 1 > longest:
                        continue
                    text = context[offsets[left - first][0]:offsets[right - first][1]]
                    if text:
                        prelim.append((start[left] + end[right], text))
        best = max(prelim, key=lambda pair: pair[0], default=None)
        none = best is None or (version == 2 and null - best[0] > threshold)
        predictions[question["id"]] = "" if none else best[1]
    return predictions


def check_answered(model, data, length, stride, version, answers, evaluation, adapter=None):
    import torch
    from transformers import AutoModelForQuestionAnswering

    version = int(version)
    found, evaluation = json.load(open(answers, encoding="utf-8")), json.load(open(evaluation))
    questions = read(data)[: evaluation["rows"]]
    windows = encode(load_tokenizer(model), questions, int(length), int(stride))
    tuned, info = AutoModelForQuestionAnswering.from_pretrained(model, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    if adapter:
        from peft import PeftModel
        tuned = PeftModel.from_pretrained(tuned, adapter)
    tuned.eval()
    logits = [None] * len(windows)
    order = sorted(range(len(windows)), key=lambda index: len(windows[index][1]))
    for begin in range(0, len(order), 16):
        rows = order[begin:begin + 16]
        with torch.no_grad():
            result = tuned(**batch(windows, None, rows))
        for place, row in enumerate(rows):
            logits[row] = result.start_logits[place].numpy(), result.end_logits[place].numpy()
    expected = choose(questions, windows, logits, version)
    assert list(found) == [question["id"] for question, _ in questions]
    others = {name: (found[name], expected[name]) for name in found if found[name] != expected[name]}
    metrics = {metric["name"]: metric["value"] for metric in evaluation["metrics"]}
    # The scores of the answers that were written, and those of answers found independently.
    for predictions in (found, expected):
        wanted = figures([question for question, _ in questions], predictions, version)
        assert metrics.keys() == wanted.keys(), (metrics, wanted)
        assert all(abs(metrics[name] - wanted[name]) < 1e-9 for name in wanted), (metrics, wanted, others)
    assert not others, others
    assert evaluation["windows"] == len(windows)
    print(f"{len(found)} questions, {len(windows)} windows: same answers;", {name: round(value, 2) for name, value in metrics.items()})


if __name__ == "__main__":
    checks = {"metric": check_metric, "tokenizer": make_tokenizer, "windows": check_windows, "make": make,
              "trained": check_trained, "answered": check_answered}
    checks[sys.argv[1]](*sys.argv[2:])

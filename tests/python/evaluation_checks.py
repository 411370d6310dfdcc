"""Checks metrics and evaluations: evaluation_checks.py metrics CASES.json | model FOLDER ROWS.jsonl PREDICTIONS.jsonl."""

import json
import math
import sys
import warnings

import numpy as np
from scipy import stats
from sklearn import metrics

warnings.simplefilter("ignore")

REFERENCE = {
    "accuracy": lambda truth, predictions: metrics.accuracy_score(truth, predictions),
    "f1": lambda truth, predictions: metrics.f1_score(truth, predictions, pos_label=1, labels=[1], average=None)[0],
    "matthews": lambda truth, predictions: metrics.matthews_corrcoef(truth, predictions),
    "pearson": lambda truth, predictions: stats.pearsonr(truth, predictions).statistic,
    "spearman": lambda truth, predictions: stats.spearmanr(truth, predictions).statistic,
}


def check_metrics(path):
    counts = {}
    for case in json.load(open(path)):
        wanted = float(REFERENCE[case["metric"]](np.array(case["labels"]), np.array(case["predictions"])))
        found = math.nan if case["value"] is None else case["value"]
        same = math.isnan(found) if math.isnan(wanted) else abs(found - wanted) < 1e-9
        assert same, f"{case}: {wanted}"
        counts[case["metric"]] = counts.get(case["metric"], 0) + 1
    assert set(counts) == set(REFERENCE), counts
    print("same as scikit-learn and SciPy:", counts)


def check_model(folder, rows, predictions):
    """Every row alone, unpadded, through transformers."""
    import torch
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    worst = 0.0
    rows, predictions = ([json.loads(line) for line in open(path)] for path in (rows, predictions))
    assert len(rows) == len(predictions)
    for row, found in zip(rows, predictions):
        inputs = tokenizer(row["one"], row["two"], truncation=True, max_length=24, return_token_type_ids=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        worst = max(worst, (logits - torch.tensor(found["logits"])).abs().max().item())
        assert found["prediction"] == ["no", "yes"][int(logits.argmax())], (row, found)
        assert found["label"] == row["label"]
    assert worst < 1e-4, worst
    print(f"{len(rows)} rows, logits differ by at most {worst:.1e}")


{"metrics": check_metrics, "model": check_model}[sys.argv[1]](*sys.argv[2:])

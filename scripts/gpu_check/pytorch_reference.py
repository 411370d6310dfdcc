"""The same work in PyTorch, for scripts/gpu_check.sh: pooled hidden states of a table, and LoRA training steps.

Prints one JSON object: rows per second of either. Needs torch, transformers and tokenizers only.
"""

import argparse
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import export_onnx


def encodings(model_folder, table):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    return [tokenizer.encode(row[0]).ids for row in rows], [int(row[1]) for row in rows]


def padded(encodings, rows, device):
    import torch

    length = max(len(encodings[row]) for row in rows)
    ids = torch.tensor([encodings[row] + [0] * (length - len(encodings[row])) for row in rows])
    mask = (torch.arange(length)[None, :] < torch.tensor([len(encodings[row]) for row in rows])[:, None]).long()
    return ids.to(device), mask.to(device)


def token_budget_batches(encodings, budget):
    """Rows sorted by length, as many per batch as the budget of tokens (padding included) allows."""
    order, batches, batch = sorted(range(len(encodings)), key=lambda row: len(encodings[row])), [], []
    for row in order:
        if batch and len(encodings[row]) * (len(batch) + 1) > budget:
            batches.append(batch)
            batch = []
        batch.append(row)
    return batches + [batch]


def wait(device):
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def extraction_rate(model, encodings, device, budget):
    """Rows per second for the mean of every hidden state over the tokens, copied to the host."""
    import torch

    batches = token_budget_batches(encodings, budget)

    def one(rows):
        ids, mask = padded(encodings, rows, device)
        with torch.no_grad():
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            weights = mask[:, :, None] / mask.sum(1)[:, None, None]
            return torch.stack([(state * weights).sum(1) for state in states]).cpu()

    # The longest batch first: memory is allocated once, before the clock runs.
    one(batches[-1])
    one(batches[0])
    wait(device)
    start = time.perf_counter()
    for rows in batches:
        one(rows)
    return len(encodings) / (time.perf_counter() - start)


def insert_lora(model, rank, scaling):
    """LoRA on query, key, value and output projection of every layer."""
    import torch

    class Lora(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.a = torch.nn.Parameter(torch.randn(rank, base.in_features, device=base.weight.device) / base.in_features**0.5)
            self.b = torch.nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

        def forward(self, values):
            return self.base(values) + scaling * (values @ self.a.T @ self.b.T)

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for layer in model.bert.encoder.layer:
        attention = layer.attention.self
        attention.query, attention.key, attention.value = Lora(attention.query), Lora(attention.key), Lora(attention.value)
        layer.attention.output.dense = Lora(layer.attention.output.dense)
    model.classifier.requires_grad_(True)


def training_rate(model, encodings, labels, device, steps, batch_size):
    """Training rows per second, after two steps of warm-up."""
    import torch

    insert_lora(model, 2, 32.0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.0)
    order = torch.randperm(len(encodings), generator=torch.Generator().manual_seed(0)).tolist()
    start = 0.0
    for step in range(steps + 2):
        if step == 2:
            wait(device)
            start = time.perf_counter()
        rows = [order[(step * batch_size + i) % len(order)] for i in range(batch_size)]
        ids, mask = padded(encodings, rows, device)
        loss = model(input_ids=ids, attention_mask=mask, labels=torch.tensor([labels[row] for row in rows], device=device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    wait(device)
    return steps * batch_size / (time.perf_counter() - start)


def main():
    import torch
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="what make_model.py made")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tf32", action="store_true", help="let the GPU round factors to 10 bits, as ONNX Runtime does by default")
    arguments = parser.parse_args()
    export_onnx.be_quiet()
    torch.set_float32_matmul_precision("high" if arguments.tf32 else "highest")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(arguments.folder / "model")
    model = model.eval().to(arguments.device)
    texts, _ = encodings(arguments.folder / "model", arguments.folder / "rows.tsv")
    result = {"extraction": extraction_rate(model, texts, arguments.device, arguments.batch_tokens)}
    texts, labels = encodings(arguments.folder / "model", arguments.folder / "train.tsv")
    result["training"] = training_rate(model, texts, labels, arguments.device, arguments.steps, arguments.batch_size)
    result["torch"] = torch.__version__
    result["device"] = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "cpu"
    print(json.dumps(result))


if __name__ == "__main__":
    main()

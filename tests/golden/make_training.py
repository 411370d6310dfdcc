#!/usr/bin/env python3
"""Trains a PEFT adapter on onnx/tiny_encoder with PyTorch and writes what gelora has to reproduce: training.json.

    .venv/bin/python tests/golden/make_training.py

Ranks 2 and 1, alpha = 4 x rank, AdamW with weight decay, gradient clipping, linear schedule with warm-up, no dropout.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

HERE = Path(__file__).resolve().parent
STEPS, BATCH, RATE, WARM_UP, DECAY, CLIP = 12, 8, 5e-3, 3, 0.01, 1.0


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    folder = HERE.parent.parent / "onnx" / "tiny_encoder"
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    names = [
        f"bert.encoder.layer.{layer}.attention.{part}"
        for layer in range(2) for part in ("self.query", "self.key", "self.value", "output.dense")
    ]
    config = LoraConfig(
        task_type="SEQ_CLS", r=2, lora_alpha=8, target_modules=names, lora_dropout=0.0,
        rank_pattern={name: 1 for name in names if "layer.1" in name},
        alpha_pattern={name: 4 for name in names if "layer.1" in name},
    )
    model = get_peft_model(model, config)
    model.train()

    rows = [[2, *torch.randint(5, 100, (int(torch.randint(3, 12, ())),)).tolist(), 3] for _ in range(40)]
    labels = [int(sum(row) % 2) for row in rows]
    batches = [torch.randperm(len(rows))[:BATCH].tolist() for _ in range(STEPS)]

    def adapter() -> dict:
        wanted = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        short = lambda name: (
            name.removeprefix("base_model.model.").replace(".modules_to_save.default", "").replace(".default", "")
        )
        return {short(name): parameter.detach().tolist() for name, parameter in wanted.items()}

    initial = adapter()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
    schedule = get_linear_schedule_with_warmup(optimizer, WARM_UP, STEPS)
    losses = []
    for batch in batches:
        length = max(len(rows[row]) for row in batch)
        ids = torch.tensor([rows[row] + [0] * (length - len(rows[row])) for row in batch])
        mask = torch.tensor([[1] * len(rows[row]) + [0] * (length - len(rows[row])) for row in batch])
        target = torch.tensor([labels[row] for row in batch])
        loss = model(input_ids=ids, attention_mask=mask, labels=target).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        schedule.step()
    reference = {
        "learning_rate": RATE, "warm_up": WARM_UP, "weight_decay": DECAY, "clip_norm": CLIP, "rows": rows,
        "labels": labels, "batches": batches, "losses": losses, "initial": initial, "trained": adapter(),
    }
    (HERE / "training.json").write_text(json.dumps(reference) + "\n")
    print(f"losses {losses[0]:.4f} … {losses[-1]:.4f}")


if __name__ == "__main__":
    main()

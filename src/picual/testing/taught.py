"""A tiny model that has learnt a few texts by heart, so that a test knows what it must answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from picual.models import HfModel
from picual.testing.tiny import Layout, tiny_model


def taught_model(
    folder: Path, texts: Sequence[str], *, layout: Layout = "llama", steps: int = 200, seed: int = 0
) -> HfModel:
    """Write a tiny checkpoint trained on ``texts`` until it continues each as written (a few seconds)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny = tiny_model(folder, layout=layout, seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    with torch.no_grad():  # the wide weights that make a tiny model lively also make it slow to learn
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval().save_pretrained(folder)
    return tiny

"""Training speed and memory of LoRA, beside plain peft, beside a peer, and beside what matrix products allow.

    python benchmarks/finetuning.py MODEL ROWS.jsonl [--peer PROGRAM VENV] [--steps 6] [--rounds 2]

MODEL is a float32 checkpoint, ROWS hold ``phrase`` and ``tone``. Rank 16 on every linear layer, dropout 0.05,
batch 1 x 4, sequences of 256 tokens: once with all rows joined and cut, once a row a sequence. Each is a whole
process; memory is the anonymous resident memory of its process tree. PROGRAM is a script that is called as
``PROGRAM run VENV MODEL ROWS OUT --steps N --strategy join|line-by-line`` and leaves the progress bar of its
training, seconds a step, in OUT/log.txt. Ends with 1 where a limit is missed. Nothing else should run meanwhile.

The limit of a token is the time of its matrix products in float32, run alone step by step, before and after:

    4 P + 6 L + 4 V H operations   P: weights of linear layers, L: of the adapter, V H: of the head

``--loss`` compares what is learnt instead: the same rows in the same order through `picual run` and through plain
peft in float32, then the loss on the same held-out rows.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from watched import Taken, watched

from picual.hardware import machine

JOIN, EACH = "join", "line-by-line"
LENGTH, RANK, BATCH, ACCUMULATED = 256, 16, 1, 4
ROWS, RATE, HELD_OUT = 8, 2e-4, 0.3  # of the comparison of losses
TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
PEER, LIMIT, USEFUL, PLAIN, MEMORY = 1.15, 0.85, 4.0, 1.5, 0.65


def main() -> None:
    """Run each in turn and compare."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("model", type=Path)
    asked.add_argument("rows", type=Path)
    asked.add_argument("--peer", nargs=2, metavar=("PROGRAM", "VENV"))
    asked.add_argument("--steps", type=int, default=6)
    asked.add_argument("--rounds", type=int, default=2)
    asked.add_argument("--plain", choices=(JOIN, EACH), help="Run the plain loop alone, print tokens/s and loss.")
    asked.add_argument("--loss", action="store_true", help="Compare the loss on held-out rows with plain peft's.")
    asked.add_argument("--limit", action="store_true", help="Time the matrix products alone, print tokens/s.")
    given = asked.parse_args()
    if given.plain:
        print(json.dumps(plain(given.model, given.rows, given.plain, given.steps)))
        return
    if given.loss:
        mine, theirs = our_loss(given), plain_loss(given)
        print(f"loss on held-out rows after {given.steps} steps of {ROWS}: {mine:.4f}, of plain peft {theirs:.4f}")
        sys.exit(0 if held("one to the other", min(mine / theirs, theirs / mine), 0.99) else 1)
    if given.limit:
        print(json.dumps({"tokens_per_s": limit(given.model, given.steps)}))
        return
    found = [one_round(given) for _ in range(given.rounds)]
    names = sorted({name for one in found for name in one})
    middle = {name: statistics.median(one[name] for one in found) for name in names}
    print(json.dumps({name: round(value, 3) for name, value in middle.items()}, indent=1))
    missed = [row for row in ratios(middle) if not held(*row)]
    sys.exit(1 if missed else 0)


def one_round(given: Any) -> dict[str, float]:
    """Return every figure once."""
    found: dict[str, float] = {}
    before = alone(given, "--limit")["tokens_per_s"]
    for strategy in (JOIN, EACH):
        speed, taken = ours(given, strategy, merged=strategy == JOIN)
        found[f"ours {strategy}"], found[f"our MB {strategy}"] = speed, taken.memory / 1e6
        if strategy == JOIN:  # a machine's speed changes from minute to minute: before and after what it judges
            found["limit"] = (before + alone(given, "--limit")["tokens_per_s"]) / 2
        found[f"plain {strategy}"] = alone(given, "--plain", strategy)["tokens_per_s"]
        if given.peer:
            speed, taken = peer(given, strategy)
            found[f"peer {strategy}"], found[f"peer MB {strategy}"] = speed, taken.memory / 1e6
        print({name: round(value, 1) for name, value in found.items()}, flush=True)
    return found


def ratios(found: dict[str, float]) -> list[tuple[str, float, float]]:
    """Return name, ratio and the least it may be."""
    joined, each = found[f"ours {JOIN}"], found[f"ours {EACH}"]
    rows = [("joined: of the limit", joined / found["limit"], LIMIT)]
    rows.append(("row by row: of plain peft", each / found[f"plain {EACH}"], PLAIN))
    if f"peer {JOIN}" in found:
        rows.append(("joined: of the peer", joined / found[f"peer {JOIN}"], PEER))
        rows.append(("row by row: of the peer's useful tokens", each / found[f"peer {EACH}"], USEFUL))
        rows.append(("memory: the peer's to ours", found[f"peer MB {JOIN}"] / found[f"our MB {JOIN}"], 1 / MEMORY))
    return rows


def held(name: str, ratio: float, least: float) -> bool:
    """Print one ratio and say whether it is large enough."""
    print(f"{name}: x{ratio:.2f}, at least {least:.2f}: {'held' if ratio >= least else 'missed'}")
    return ratio >= least


def ours(given: Any, strategy: str, *, merged: bool) -> tuple[float, Taken]:
    """Train with `picual run`, merge and export where the peer does."""
    passes: dict[str, Any] = {"lora": {"data": "rows", "rank": RANK, "alpha": 16, "dropout": 0.05, "training": {
        "per_device_train_batch_size": BATCH, "gradient_accumulation_steps": ACCUMULATED, "seed": 0,
        "max_steps": given.steps, "logging_steps": 1}}}  # fmt: skip
    if merged:
        passes |= {"merge-adapter": {}, "build-genai": {"precision": "int4"}}
    rows = {"files": [str(given.rows.resolve())], "template": TEMPLATE, "strategy": strategy, "max_length": LENGTH}
    recipe = {"version": 1, "model": str(given.model.resolve()), "data": {"rows": rows}, "passes": passes}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.json"
        file.write_text(json.dumps(recipe))
        command = [sys.executable, "-m", "picual.cli.main", "run", str(file), "-o", f"{folder}/out"]
        taken = watched([*command, "--store", f"{folder}/store"])
        events = [json.loads(line) for line in Path(folder, "out/run/events.jsonl").read_text().splitlines()]
    speeds = [event["tokens_per_s"] for event in events if event["event"] == "loss"]
    return statistics.median(speeds[1:]), taken


def peer(given: Any, strategy: str) -> tuple[float, Taken]:
    """Train with the peer; of its tokens, count those that are no padding."""
    program, venv = given.peer
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, program, "run", venv, str(given.model), str(given.rows), out]
        command += ["--steps", str(given.steps), "--seq", str(LENGTH), "--strategy", strategy]
        taken = watched(command)
        log = Path(out, "log.txt").read_text()
    bars = re.findall(rf"{given.steps}/{given.steps} \[[^\]]*?([\d.]+)(s/it|it/s)", log)
    pace, unit = bars[0]
    speed = BATCH * ACCUMULATED * LENGTH * (float(pace) if unit == "it/s" else 1 / float(pace))
    useful = 1.0 if strategy == JOIN else statistics.mean(len(ids) for ids in sequences(given, EACH)) / LENGTH
    return speed * useful, taken


def our_loss(given: Any) -> float:
    """Train with `picual run` on rows in their order and return the loss on the others."""
    training = {
        "per_device_train_batch_size": ROWS, "max_steps": given.steps, "learning_rate": RATE, "seed": 0,
        "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential", "logging_steps": given.steps,
    }  # fmt: skip
    rows = {"files": [str(given.rows.resolve())], "template": TEMPLATE, "max_length": LENGTH, "holdout": HELD_OUT}
    passes = {"lora": {"data": "rows", "rank": RANK, "alpha": 16, "dropout": 0.0, "training": training}}
    recipe = {"version": 1, "model": str(given.model.resolve()), "data": {"rows": rows}, "passes": passes}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.json"
        file.write_text(json.dumps(recipe))
        command = [sys.executable, "-m", "picual.cli.main", "run", str(file), "-o", f"{folder}/out"]
        watched([*command, "--store", f"{folder}/store"])
        events = [json.loads(line) for line in Path(folder, "out/run/events.jsonl").read_text().splitlines()]
    return float([event["eval_loss"] for event in events if event["event"] == "eval_loss"][-1])


def plain_loss(given: Any) -> float:
    """Train by hand on the same rows in the same order and return the loss on the others."""
    import torch

    from picual.data.base import DataConfig
    from picual.data.files import rows
    from picual.data.split import holdout_rows, train_rows

    torch.set_num_threads(machine().cores)
    torch.manual_seed(0)
    config = DataConfig(files=(str(given.rows.resolve()),), template=TEMPLATE, max_length=LENGTH, holdout=HELD_OUT)
    found = rows(config)
    train, held_out = (
        tokens_of(given, part, config) for part in (train_rows(found, config), holdout_rows(found, config))
    )
    network = adapted(given.model, dropout=0.0)
    optimizer = torch.optim.AdamW([w for w in network.parameters() if w.requires_grad], lr=RATE, weight_decay=0.0)
    for step in range(given.steps):
        loss, count = summed_loss(network, [train[(step * ROWS + at) % len(train)] for at in range(ROWS)])
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_([w for w in network.parameters() if w.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    network.eval()
    with torch.no_grad():
        parts = [summed_loss(network, held_out[at : at + ROWS]) for at in range(0, len(held_out), ROWS)]
    return float(sum(loss for loss, _ in parts)) / sum(count for _, count in parts)


def tokens_of(given: Any, found: Any, config: Any) -> list[list[int]]:
    """Return the token ids of rows, as the pass makes them."""
    from transformers import AutoTokenizer

    from picual.data.sequences import sequences as made

    return [one.input_ids for one in made(found, config, AutoTokenizer.from_pretrained(given.model)).sequences]


def summed_loss(network: Any, batch: list[list[int]]) -> tuple[Any, int]:
    """Return the summed loss of rows padded to the longest, and how many labels it has."""
    import torch

    longest = max(map(len, batch))
    ids = torch.tensor([one + [0] * (longest - len(one)) for one in batch])
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in batch])
    count = int(mask[:, 1:].sum())
    loss = network(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
    return loss * count, count


def alone(given: Any, *more: str) -> dict[str, Any]:
    """Run one of this program's own measurements in a process of its own."""
    command = [sys.executable, __file__, str(given.model), str(given.rows), "--steps", str(given.steps), *more]
    found: dict[str, Any] = json.loads(watched(command).printed.strip().splitlines()[-1])
    return found


def sequences(given: Any, strategy: str) -> list[list[int]]:
    """Return the token ids of all rows by a strategy, as the pass makes them."""
    from picual.data.base import DataConfig
    from picual.data.files import rows

    config = DataConfig(
        files=(str(given.rows.resolve()),), template=TEMPLATE, strategy=strategy, max_length=LENGTH
    )
    return tokens_of(given, rows(config), config)


def plain(model: Path, rows: Path, strategy: str, steps: int) -> dict[str, float]:
    """Train as one would by hand: the network's own loss, rows of like length in a batch, padded."""
    import torch

    torch.set_num_threads(machine().cores)
    torch.manual_seed(0)
    network = adapted(model)
    given = argparse.Namespace(model=model, rows=rows)
    found = sorted(sequences(given, strategy), key=len)
    # Steps from all over the lengths, as an epoch has them.
    width = BATCH * ACCUMULATED
    starts = [round(at * (len(found) - width) / max(steps, 1)) for at in range(steps + 1)]
    batches = [found[start : start + width] for start in starts]
    optimizer = torch.optim.AdamW([w for w in network.parameters() if w.requires_grad], lr=5e-5)
    network.train()
    speeds = []
    for batch in batches:
        start = time.monotonic()
        for at in range(0, len(batch), width if strategy == EACH else BATCH):
            part = batch[at : at + (width if strategy == EACH else BATCH)]
            longest = max(map(len, part))
            ids = torch.tensor([one + [0] * (longest - len(one)) for one in part])
            mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in part])
            loss = network(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
            (loss * len(part) / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_([w for w in network.parameters() if w.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        speeds.append((sum(map(len, batch)), time.monotonic() - start))
    tokens, seconds = (sum(column) for column in zip(*speeds[1:], strict=True))
    return {"tokens_per_s": tokens / seconds}


def adapted(model: Path, dropout: float = 0.05) -> Any:
    """Return the network with a fresh adapter on every linear layer, float32."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    network.config.use_cache = False
    form = LoraConfig(
        r=RANK, lora_alpha=16, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(network, form)


def limit(model: Path, steps: int) -> float:
    """Return tokens/s if a step were its matrix products alone: all of them, one after the other, step by step."""
    import torch

    torch.set_num_threads(machine().cores)
    network = adapted(model)
    rows = BATCH * ACCUMULATED * LENGTH
    shapes: dict[tuple[int, int], int] = {}
    low = 0
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            low += weight.numel()
        elif weight.dim() == 2 and "embed" not in name and "lm_head" not in name:
            shapes[tuple(weight.shape)] = shapes.get(tuple(weight.shape), 0) + 1
    head = tuple(network.get_output_embeddings().weight.shape)
    del network
    # Logits are made a few positions at a time.
    work = [*((rows, *shape, count) for shape, count in shapes.items()), (256, *head, rows // 256)]
    operations = sum(4 * n * out * into * count for n, out, into, count in work)
    tensors = [(torch.randn(n, into), torch.randn(out, into), torch.randn(n, out)) for n, out, into, _ in work]
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        for (x, w, g), (*_, count) in zip(tensors, work, strict=True):
            for _ in range(count):
                torch.nn.functional.linear(x, w)
                torch.mm(g, w)
        seconds.append(time.perf_counter() - start)
    speed = operations / statistics.median(seconds[1:])
    a_token = operations / rows + 6 * low
    print(f"{speed / 1e9:.0f} GFLOP/s, {a_token / 1e9:.3f} GFLOP a token (4 P + 6 L + 4 V H)")
    return speed / a_token


if __name__ == "__main__":
    main()

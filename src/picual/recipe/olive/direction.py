"""Which way a number is better: by what it measures, or as the config says."""

from __future__ import annotations

import re

from picual.recipe.olive.reader import Reader

_LOWER = {
    "perplexity", "wer", "cer", "mse", "mae", "loss", "error", "latency", "time", "ms", "kl", "size", "bytes",
}  # fmt: skip
_HIGHER = {
    "acc", "accuracy", "f1", "precision", "recall", "auc", "auroc", "top", "map", "iou", "score", "bleu", "rouge",
    "match", "throughput", "psnr", "ssim", "similarity", "correlation", "rtfx",
}  # fmt: skip
_BY_KIND = {"latency": False, "throughput": True, "size_on_disk": False}


def by_name(*names: str) -> bool | None:
    """Say whether more of a number is better, as the first of its names that tells anything has it."""
    for name in names:
        words = set(re.findall(r"f1|[a-z]+", name.lower()))
        if words & _LOWER:
            return False
        if words & _HIGHER:
            return True
    return None


def is_higher_better(reader: Reader, kind: str, name: str, metric: str) -> bool:
    """Return the direction of a sub type, and say where it comes from.

    A latency whose `higher_is_better` is true is in Olive's own examples, with a goal to improve it: what a number
    measures wins over the flag, as the goal then means what it says.
    """
    found = reader.find("higher_is_better")
    given = reader.flag("higher_is_better", to="the direction of its goal and priority")
    known = _BY_KIND.get(kind)
    if kind == "accuracy":
        known = by_name(name) is not False
    if known is not None:
        if given is not None and given is not known and found is not None:
            way = "higher" if known else "lower"
            text = f"a {kind.replace('_', ' ')} is better when it is {way}, whatever this says"
            reader.ledger.note(found.path, "replaced", text)
        return known
    if given is not None:
        return given
    guessed = by_name(name, metric)
    path = (*reader.layers[0].path, "higher_is_better")
    way = "higher" if guessed else "lower"
    text = f"left out: {way} is better" + (", by its name" if guessed is not None else ", as Olive takes it")
    reader.ledger.note(path, "defaulted", text)
    return bool(guessed)

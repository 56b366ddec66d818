"""Is a network that was trained as a whole still the base's: the same tensors, finite, some of them moved.

Whether it moved to the better is for quality metrics. But a matrix that lies further from its old self than zero
does was not trained from it: it is another one, or the training came apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from picual.engine.verification import tensors as stored
from picual.engine.verification.checks import Bench, Check, some
from picual.models import HfModel, Model
from picual.models.safetensors_file import TensorInfo
from picual.passes.base import NetworkTrained

HEAD = "lm_head.weight"
FLOATS = {"F64", "F32", "F16", "BF16"}
# What a config may say differently without being another network's.
NOT_THE_NETWORK = ("transformers_version", "_name_or_path", "use_cache", "torch_dtype", "dtype")


def check(promise: NetworkTrained, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Go through every tensor once, a few rows at a time."""
    import torch

    assert isinstance(given, HfModel)
    assert isinstance(made, HfModel)
    torch.set_num_threads(bench.threads)
    before, after = given.tensors(), made.tensors()
    lost, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    parts = [f"missing {some(lost)}"] * bool(lost) + [f"not in the base: {some(new)}"] * bool(new)
    yield Check("trained-tensors", not parts, len(lost) + len(new), 0, "; ".join(parts))
    both = sorted(set(before) & set(after))
    wrong = [name for name in both if _form(before[name]) != _form(after[name])]
    detail = "; ".join(f"{name} {_form(before[name])} -> {_form(after[name])}" for name in wrong[:3])
    yield Check("trained-shapes", not wrong, len(wrong), 0, detail)
    yield _same_config(given.config(), made.config())
    yield from _still_tied(before, after)
    yield from _values(before, after, [name for name in both if name not in wrong], bench)


def _form(tensor: TensorInfo) -> tuple[str, tuple[int, ...]]:
    return tensor.dtype, tensor.shape


def _same_config(before: Mapping[str, Any], after: Mapping[str, Any]) -> Check:
    odd = sorted(key for key in {*before, *after} - set(NOT_THE_NETWORK) if before.get(key) != after.get(key))
    return Check("trained-config", not odd, len(odd), 0, f"changed: {some(odd)}" if odd else "")


def _still_tied(before: Mapping[str, TensorInfo], after: Mapping[str, TensorInfo]) -> Iterator[Check]:
    """Compare a stored copy of a tied head with its embedding; a head that is not stored cannot differ."""
    embedding = next((name for name in before if name.endswith(("embed_tokens.weight", "wte.weight"))), None)
    if embedding is None or HEAD not in before or HEAD not in after or embedding not in after:
        return
    if before[HEAD].shape == before[embedding].shape and stored.same_bytes(before[HEAD], before[embedding]):
        tied = stored.same_bytes(after[HEAD], after[embedding])
        yield Check("trained-tied", tied, detail="" if tied else "the head no longer is the embedding")


def _values(
    before: Mapping[str, TensorInfo], after: Mapping[str, TensorInfo], names: list[str], bench: Bench
) -> Iterator[Check]:
    not_finite, moved, far = [], [], []
    furthest = 0.0
    change = size = 0.0
    for number, name in enumerate(names):
        bench.progress(number, len(names), name)
        if before[name].dtype not in FLOATS or not before[name].shape:
            continue
        own_change = own_size = 0.0
        pieces = zip(_rows(before[name]), _rows(after[name]), strict=True)
        has_moved = False
        for old, new in pieces:
            if not bool(new.isfinite().all()):
                not_finite.append(name)
                break
            has_moved |= bool((new != old).any())
            own_change += float((new.double() - old.double()).square().sum())
            own_size += float(old.double().square().sum())
        moved += [name] * has_moved
        change, size = change + own_change, size + own_size
        if len(before[name].shape) == 2 and own_size:
            furthest = max(furthest, math.sqrt(own_change / own_size))
            far += [name] * (own_change > own_size)
    yield Check("trained-finite", not not_finite, len(not_finite), 0, some(not_finite))
    detail = f"not the base's any more: {some(far)}" if far else "of its length, the matrix that moved most"
    yield Check("trained-near", not far, furthest, 1.0, detail)
    share = math.sqrt(change / size) if size else 0.0
    detail = f"{len(moved)} of {len(names)} tensors; all weights together by {share:.3g} of their length"
    yield Check("trained-moved", bool(moved), len(moved), None, detail if moved else "no weight has moved")


def _rows(tensor: TensorInfo) -> Iterator[Any]:
    return stored.rows(tensor.file, tensor.name, stored.ranges(tensor.shape))

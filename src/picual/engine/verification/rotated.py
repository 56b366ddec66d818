"""Does a rotated network compute what the given one does, and is all that was not to turn as it was.

How it was rotated is not asked: with another rotation on one side than on the other, logits are whole units apart.
Both networks run in torch in float32, each layer's weights read as it runs, on the built-in text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from picual.engine.verification import tensors as stored
from picual.engine.verification.checks import Bench, Check, some
from picual.engine.verification.readback import Reference, Stored
from picual.engine.verification.windows import TOKENS, windows_of
from picual.models import HfModel, Model
from picual.models.safetensors_file import TensorInfo
from picual.passes.base import NetworkRotated

# Of a logit. Honest rotations of a 135M model differ by the order of float32 sums: by 0.0002, the stream or not.
LARGEST = 2e-3

VALUES = re.compile(r".*\.(v_proj|qkv_proj)\.(weight|bias)|.*\.o_proj\.weight")
STREAM = re.compile(
    r".*\.(embed_tokens|[qkv]_proj|qkv_proj|o_proj|gate_proj|up_proj|gate_up_proj|down_proj)\.weight|lm_head\.weight"
    r"|.*\.(o_proj|down_proj)\.bias|.*\.(input_layernorm|post_attention_layernorm)\.weight|model\.norm\.weight"
)
TYPE = ("dtype", "torch_dtype")  # of a config: the one thing there that may change


def check(promise: NetworkRotated, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Compare tensors by their names and bytes, then the two networks' logits."""
    import torch

    assert isinstance(given, HfModel)
    assert isinstance(made, HfModel)
    torch.set_num_threads(bench.threads)
    source, found = given.tensors(), made.tensors()
    lost = sorted(
        name for name in {*source, *found} if name not in source or name not in found
        or source[name].shape != found[name].shape
    )  # fmt: skip
    yield Check("rotated-tensors", not lost, len(lost), 0, some(lost) if lost else f"{len(found)} tensors")
    changed = sorted(key for key in {*given.config(), *made.config()} if _differs(given, made, key))
    yield Check("rotated-config", not changed, len(changed), 0, some(changed) if changed else "unchanged")
    if lost or changed:
        return
    yield from _tensors(promise, source, found)
    yield from _logits(given, made, bench)


def _differs(given: HfModel, made: HfModel, key: str) -> bool:
    return key not in TYPE and given.config().get(key) != made.config().get(key)


def _tensors(
    promise: NetworkRotated, source: Mapping[str, TensorInfo], found: Mapping[str, TensorInfo]
) -> Iterator[Check]:
    patterns = [VALUES] * promise.values + [STREAM] * promise.residual
    turning = [name for name in source if any(pattern.fullmatch(name) for pattern in patterns)]
    others = sorted(set(source) - set(turning))
    moved = [name for name in others if not stored.same_bytes(source[name], found[name])]
    yield Check("rotated-others", not moved, len(moved), 0, f"changed: {some(moved)}" if moved else "unchanged")
    # Norms may hold nothing but ones, and biases nothing but zeros: a matrix tells.
    matrices = [name for name in turning if len(source[name].shape) == 2]
    still = [name for name in matrices if _is_same(source[name], found[name])]
    detail = f"not rotated: {some(still)}" if still else f"{len(matrices)} weights"
    yield Check("rotated-turned", bool(matrices) and not still, len(still), 0, detail)


def _is_same(source: TensorInfo, found: TensorInfo) -> bool:
    """Say whether two tensors hold the same numbers, in whatever type, and not zeros alone."""
    pieces = zip(
        stored.rows(source.file, source.name, stored.ranges(source.shape)),
        stored.rows(found.file, found.name, stored.ranges(found.shape)),
        strict=True,
    )
    any_number = False
    for old, new in pieces:
        if not bool((old.double() == new.double()).all()):
            return False
        any_number |= bool(old.any())
    return any_number


def _logits(given: HfModel, made: HfModel, bench: Bench) -> Iterator[Check]:
    from picual.numerics.divergence import Divergence

    windows = windows_of(given, int(given.config().get("max_position_embeddings") or TOKENS))
    networks = [Reference(Stored(model), model) for model in (given, made)]
    states = []
    for number, network in enumerate(networks):
        bench.progress(number, 3, "torch on the rotated weights" if number else "torch on the given weights")
        states.append(network.hidden(windows))
    bench.progress(2, 3, "logits of both")
    found = Divergence()
    with networks[0].head(hold=False) as expected, networks[1].head(hold=False) as rotated:
        for left, right in zip(*states, strict=True):
            found.add(expected(left), rotated(right))
    yield Check("rotated-tokens", found.positions >= TOKENS, found.positions, TOKENS, "of built-in text")
    detail = f"largest difference of a logit; mean KL {found.mean_kl:.2g}"
    yield Check("rotated-logits", found.largest <= LARGEST, found.largest, LARGEST, detail)

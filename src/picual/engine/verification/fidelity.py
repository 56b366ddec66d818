"""Does the runtime compute what the exported weights mean: its logits against torch's on the same weights.

A weight in the wrong place, a wrong epsilon, a wrong rotation or a broken kernel shows here; the rounding of
the weights does not, since both sides have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any

from picual.engine.verification.checks import Bench, Check
from picual.engine.verification.exported import Exported
from picual.engine.verification.prompt import load_tokenizer
from picual.engine.verification.readback import ReadBack, Reference
from picual.engine.verification.source import Source
from picual.models import GenaiModel, HfModel, Model
from picual.models.genai_session import GenaiSession
from picual.passes.base import RuntimeAgrees

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from picual.numerics.divergence import Divergence

TOKENS = 2048
WINDOW = 256


def check(promise: RuntimeAgrees, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Run both over at least 2048 tokens of built-in text, in windows."""
    import torch

    from picual.numerics.divergence import Divergence

    assert isinstance(given, HfModel)
    assert isinstance(made, GenaiModel)
    torch.set_num_threads(bench.threads)
    exported = Exported(made.decoder())
    if exported.incomplete:
        yield Check("runtime-loads", passed=False, detail="; ".join(exported.incomplete))
        return
    source = Source(given)
    windows = _windows(given, int(source.config.get("max_position_embeddings") or WINDOW))
    reference = Reference(ReadBack(exported, source), source)
    bench.progress(0, len(windows) + 1, "torch on the exported weights")
    states = reference.hidden(windows)
    session = GenaiSession(made, threads=bench.threads)
    found = Divergence()
    try:
        with reference.head() as logits:
            for number, (ids, state) in enumerate(zip(windows, states, strict=True)):
                bench.progress(number + 1, len(windows) + 1, "the runtime")
                found.add(logits(state), session.logits(ids))
    finally:
        session.close()
    yield Check("runtime-tokens", found.positions >= TOKENS, found.positions, TOKENS, "of built-in text")
    yield from _bounds(promise.precision, _rounds_activations(exported), found)


def _bounds(precision: str, rounded: bool, found: Divergence) -> Iterator[Check]:
    """Say whether the difference is what the arithmetic explains.

    Float activations differ in the order of sums only. Where the kernels round activations to int8 (accuracy
    level 4), logits move by far more, while what they predict does not.
    """
    if precision in {"int8", "int4"} and rounded:
        yield Check("runtime-kl", found.mean_kl <= 0.02, found.mean_kl, 0.02, "mean, in nats a token")
        yield Check("runtime-top1", found.top1 >= 0.95, found.top1, 0.95, "share of equal first choices")
        return
    bound = 2e-2 if precision == "fp16" else 1e-3
    yield Check("runtime-logits", found.largest <= bound, found.largest, bound, "largest difference of a logit")
    if precision == "fp16":
        yield Check("runtime-top1", found.top1 >= 0.99, found.top1, 0.99, "share of equal first choices")


def _rounds_activations(exported: Exported) -> bool:
    return any(holder.accuracy_level == 4 for holder in exported.linears)


def _windows(model: HfModel, context: int) -> npt.NDArray[np.int64]:
    """Return token ids (windows, T) of the built-in text, at least 2048 in all, repeated if it is too short."""
    import numpy as np

    text = resources.files("picual").joinpath("assets/verification/text.txt").read_text(encoding="utf-8")
    tokenizer: Any = load_tokenizer(model.path, model.trust_remote_code)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    length = min(WINDOW, context)
    count = -(-TOKENS // length)
    return np.resize(np.asarray(ids, dtype=np.int64), (count, length))

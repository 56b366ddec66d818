"""Does the runtime compute what the exported weights mean: its logits against torch's on the same weights.

A weight in the wrong place, a wrong epsilon, a wrong rotation or a broken kernel shows here; the rounding of
the weights does not, since both sides have it. Kernels that round activations too (accuracy level 4) are also
run without that rounding: only then is the bound tight enough to tell a fault from noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from picual.engine.verification.checks import Bench, Check
from picual.engine.verification.exported import Exported, Floats
from picual.engine.verification.pieces import Pieces
from picual.engine.verification.readback import ReadBack, Reference
from picual.engine.verification.shipped import Shipped, Updated, root_of, shipped
from picual.engine.verification.source import Source
from picual.engine.verification.weights import KEPT
from picual.engine.verification.windows import TOKENS, WINDOW, windows_of
from picual.errors import UnreadableModel
from picual.models import GenaiModel, HfAdapter, HfCheckpoint, Model
from picual.passes.base import RuntimeAgrees

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from picual.numerics.divergence import Divergence

# Tokens of a second look, without rounded activations. A fault of a node or of a layer's weight shows at nearly
# every one, and rows of an embedding are compared as weights. 2048 took a sixth of a build.
SECOND_LOOK = 512
LAST = 2e-2  # of a logit: one row takes another kernel than many, and sums in another order


def check(promise: RuntimeAgrees, given: Model, made: Model, bench: Bench) -> Iterator[Check]:
    """Run both over at least 2048 tokens of built-in text, in windows."""
    import torch

    assert isinstance(made, GenaiModel)
    torch.set_num_threads(bench.threads)
    exported = Exported(made.decoder())
    if exported.incomplete:
        yield Check("runtime-loads", passed=False, detail="; ".join(exported.incomplete))
        return
    base: list[Shipped | None] = [] if isinstance(given, HfAdapter) else [None]
    for adapter in [*base, *shipped(promise.adapters, given, made)]:
        yield from _agreement(promise, root_of(given), _Runtime(made, exported, bench, adapter))


def _agreement(promise: RuntimeAgrees, given: HfCheckpoint, runtime: _Runtime) -> Iterator[Check]:
    """Compare both on one choice of adapter."""
    from picual.numerics.divergence import Divergence

    bench, exported, source = runtime.bench, runtime.exported, Source(given)
    windows = windows_of(given, int(source.config.get("max_position_embeddings") or WINDOW))
    weights: Mapping[str, torch.Tensor] = ReadBack(exported, source)
    if runtime.adapter is not None:
        weights = Updated(weights, runtime.adapter)
    reference = Reference(weights, given)
    bench.progress(0, len(windows) + 1, "torch on the exported weights")
    states = reference.hidden(windows)
    rounded = _rounding_block(exported)
    alone, deployed = runtime.as_deployed(windows)
    second = -(-SECOND_LOOK // windows.shape[1])
    exact = runtime.in_floats(windows[:second]) if rounded else iter(())
    floats, as_deployed = Divergence(), Divergence()
    with reference.head() as logits:
        for number, state in enumerate(states):
            bench.progress(number + 1, len(windows) + 1, "the runtime")
            expected, found = logits(state), next(deployed)
            (as_deployed if rounded else floats).add(expected, found)
            if alone is not None and number == 0:
                yield _last_as_in_all(alone, found[-1])
            del found  # before the next are made: together they may be large
            if rounded and number < second:
                floats.add(expected, next(exact))
            del expected
    text = "of built-in text" + ("" if runtime.adapter is None else f", with adapter `{runtime.adapter.name}`")
    tokens = (as_deployed if rounded else floats).positions
    yield Check("runtime-tokens", tokens >= TOKENS, tokens, TOKENS, text)
    yield from _in_floats(floats, halves=_in_halves(promise, exported), rounded=bool(rounded))
    if rounded:
        yield from _with_rounded_activations(as_deployed)


@dataclass(frozen=True)
class _Runtime:
    """ONNX Runtime on an exported file, a piece of its graph at a time."""

    made: GenaiModel
    exported: Exported
    bench: Bench
    adapter: Shipped | None = None  # whose values the graph is given

    def as_deployed(
        self, windows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32] | None, Iterator[npt.NDArray[np.float32]]]:
        """Return the logits (vocabulary) after the first window, and those of all positions window by window.

        A file that gives the last ones alone is run as it is up to its last nodes, and these with the node that
        drops the others by-passed; the first is None for other files.
        """
        file = self._pieces(None)
        held = file.body(windows)
        if not self.exported.gives_last_alone:
            return None, self._whole(file.ends(windows, held), windows)
        everywhere = self._pieces(self.exported.at_all_positions(rounded=True))
        if not everywhere.equal_before_the_last(file):
            raise UnreadableModel("a node before the head drops positions", where=str(self.made.path))
        (last,) = file.ends(windows[:1], held[:1])
        return last[-1], self._whole(everywhere.ends(windows, held), windows)

    def in_floats(self, windows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float32]]:
        """Give the logits at all positions without rounding activations."""
        pieces = self._pieces(self.exported.at_all_positions(rounded=False))
        return self._whole(pieces.each(windows), windows)

    def _pieces(self, graph: bytes | None) -> Pieces:
        values = None if self.adapter is None else self.adapter.arrays
        return Pieces(self.made.decoder(), threads=self.bench.threads, graph=graph, adapter=values)

    def _whole(
        self, logits: Iterator[npt.NDArray[np.float32]], windows: npt.NDArray[np.int64]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Give logits (T, vocabulary) on if there are as many rows as tokens.

        Raises:
            UnreadableModel: There are not.
        """
        for found in logits:
            if len(found) != windows.shape[1]:
                name = self.made.decoder().name
                what = f"`{name}` gives logits at {len(found)} of {windows.shape[1]} positions"
                raise UnreadableModel(what, where=str(self.made.path))
            yield found


def _last_as_in_all(alone: npt.NDArray[np.float32], last: npt.NDArray[np.float32]) -> Check:
    """Hold a file that gives the last logits alone to the graph that everything else is checked on."""
    largest = float(abs(alone - last).max())
    return Check(
        "runtime-last", largest <= LAST, largest, LAST, "largest difference from the last of all positions"
    )


def _in_halves(promise: RuntimeAgrees, exported: Exported) -> bool:
    """Say whether the runtime computes in half precision: as asked, or as the file has it where nothing was."""
    if promise.precision != KEPT:
        return promise.precision == "fp16"
    return any(
        isinstance(holder.matrix, Floats) and holder.matrix.dtype == "float16" for holder in exported.linears
    )


def _in_floats(found: Divergence, *, halves: bool, rounded: bool) -> Iterator[Check]:
    """Hold float arithmetic to what the order of its sums explains.

    Honest 135M models gave 0.0001 to 0.0002 in fp32, and on dequantized weights 0.0001 to 0.0011: a single
    position far out can be that sensitive. A layer in the wrong place gives whole units.
    """
    # 5e-3 is for the second look at a level 4 file, which comes on top of the bounds on what is deployed.
    bound = 2e-2 if halves else 5e-3 if rounded else 1e-3
    detail = f"largest difference of a logit on {found.positions} tokens" + (
        ", at accuracy level 0" if rounded else ""
    )
    yield Check("runtime-logits", found.largest <= bound, found.largest, bound, detail)
    if halves:
        yield Check("runtime-top1", found.top1 >= 0.99, found.top1, 0.99, "share of equal first choices")


def _with_rounded_activations(found: Divergence) -> Iterator[Check]:
    """Hold kernels that round their activations to int8 to the same predictions.

    The noise grows with the block that shares one scale: honest 135M models gave a mean KL of 0.004 to 0.005,
    0.008 and 0.015, and first choices equal or nearly tied for 0.974 to 0.987, 0.971 to 0.977 and 0.947 to 0.959
    of the tokens, for blocks of 32, 64 and 128. From 128 on such a model may not pass.
    """
    yield Check("runtime-kl", found.mean_kl <= 0.02, found.mean_kl, 0.02, "mean, in nats a token")
    share = found.top1_or_tied
    yield Check("runtime-top1", share >= 0.95, share, 0.95, "share of first choices that are equal or nearly tied")


def _rounding_block(exported: Exported) -> int:
    """Return the most activations that a kernel rounds to int8 with one scale; 0 when none does."""
    return max((holder.activation_block for holder in exported.linears), default=0)

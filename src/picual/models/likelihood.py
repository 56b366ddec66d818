"""How likely given texts are after given prompts: what every session does alike, whatever runs its network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Row = tuple[Sequence[int], Sequence[int]]  # ids of a prompt, at least one, and of what may follow it


class Likelihood(NamedTuple):
    """Of one continuation of one prompt."""

    log_probability: float  # nats, the sum over its tokens
    greedy: bool  # each of its tokens was the most likely one


def by_prompt(rows: Sequence[Row]) -> dict[tuple[int, ...], list[int]]:
    """Return the indices of the rows of each prompt: what several rows ask is read once."""
    found: dict[tuple[int, ...], list[int]] = {}
    for index, (prompt, _) in enumerate(rows):
        found.setdefault(tuple(prompt), []).append(index)
    return found


def likelihood(logits: npt.NDArray[np.float32], tokens: Sequence[int]) -> Likelihood:
    """Return how likely ``tokens`` (K) are.

    Args:
        logits: (K, vocabulary); row k predicts token k.
        tokens: Of one continuation.
    """
    import numpy as np

    wide = np.asarray(logits, dtype=np.float64)  # (K, V)
    highest = wide.max(axis=1)  # (K); not a number where any logit is none
    with np.errstate(invalid="ignore"):  # infinite logits: the caller names the prompt
        total = highest + np.log(np.exp(wide - highest[:, None]).sum(axis=1))
        chosen = wide[np.arange(len(tokens)), list(tokens)]
        return Likelihood(float((chosen - total).sum()), bool((chosen == highest).all()))

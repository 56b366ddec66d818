"""What every session does alike with prompts and answers: group, cut, and hand out text piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from picual.errors import StepFailed

SHOWN = 60  # characters of a prompt in an error
HALF_A_CHARACTER = "\ufffd"  # what decoding gives for the first bytes of a character whose rest is not here yet


def cut(text: str, stops: Sequence[str]) -> str:
    """Return ``text`` up to the first stop text in it."""
    ends = [text.index(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


def not_finite(prompt: str, where: str) -> StepFailed:
    """Return the error of a model whose logits after ``prompt`` are not numbers."""
    shown = prompt if len(prompt) <= SHOWN else "..." + prompt[-SHOWN:]
    return StepFailed(
        f"the model's logits after the prompt {shown!r} are not finite", where=where, hint="export it again"
    )


def has_stop(text: str, stops: Sequence[str]) -> bool:
    """Say whether a stop text stands in ``text``."""
    return any(stop in text for stop in stops)


def common_prefix(rows: Sequence[list[int]]) -> int:
    """Return how many ids all rows begin with alike."""
    if not rows:
        return 0
    first, last = min(rows), max(rows)  # what these two share, all share
    for position, (left, right) in enumerate(zip(first, last, strict=False)):
        if left != right:
            return position
    return min(len(first), len(last))


def batches(lengths: Sequence[int], *, most: int, tokens: int) -> Iterator[list[int]]:
    """Yield the indices of rows in groups of like length, so that padding is little.

    Args:
        lengths: Tokens of each row.
        most: Rows in a group at most.
        tokens: Rows times longest row of a group at most; a longer row goes alone.
    """
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        # Sorted, so the row at hand is the longest of its group, and the group's first the shortest.
        full = len(group) == most or (len(group) + 1) * lengths[index] > tokens
        if group and (full or lengths[index] > 2 * lengths[group[0]] + 8):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def equal_lengths(lengths: Sequence[int], *, most: int, tokens: int) -> Iterator[list[int]]:
    """Yield the indices of rows in groups of one and the same length, within the bounds of ``batches``."""
    same: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        same.setdefault(length, []).append(index)
    for length, indices in sorted(same.items()):
        step = max(1, min(most, tokens // max(length, 1)))
        for start in range(0, len(indices), step):
            yield indices[start : start + step]


class Pieces:
    """Turns a growing list of token ids into pieces of text that never end in half a character.

    The whole list is decoded each time: what a token reads as depends on those before it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._given = 0

    def add(self, token: int) -> str:
        """Return what one more token lets be said, maybe nothing."""
        self._ids.append(token)
        text = self._decode(self._ids)
        return "" if text.endswith(HALF_A_CHARACTER) else self._take(text)

    def rest(self) -> str:
        """Return what was held back, when no more tokens come."""
        return self._take(self._decode(self._ids)) if self._ids else ""

    def _take(self, text: str) -> str:
        piece = text[self._given :]
        self._given = max(self._given, len(text))
        return piece

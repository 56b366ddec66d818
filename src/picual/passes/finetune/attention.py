"""Attention inside each document of a pack, as an attention function of ``transformers``.

T: tokens of a pack · D: documents · H: heads · E: size of a head

Documents of like length are put side by side, filled up on the right, and attend causally: what fills them up
comes after every token of theirs, so no mask is needed and no score between two documents is ever computed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from picual.errors import Refused

if TYPE_CHECKING:
    import torch

NAME = "picual-documents"


class DocumentAttention:
    """What the network calls in every layer; ``lengths`` says where documents end in the pack at work."""

    def __init__(self) -> None:
        self._groups: list[_Group] = []
        self._back: Any = None  # where each token of the pack lies among those of the groups
        self._equal = 0

    def begin(self, lengths: Sequence[int] | None) -> None:
        """Say how long the documents of the next pack are; None: every row of the batch is one."""
        import torch

        self._equal = len(lengths) if lengths and len(set(lengths)) == 1 else 0
        self._groups = [] if lengths is None or self._equal else list(_groups(lengths))
        if self._groups:
            self._back = torch.cat([group.places[group.real] for group in self._groups]).argsort()

    def __call__(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        attention_mask: torch.Tensor | None, *, scaling: float | None = None, dropout: float = 0.0,
        sliding_window: int | None = None, **more: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        """Return the output (B, T, H, E) for queries (B, H, T, E), keys and values (B, fewer heads, T, E).

        Raises:
            Refused: The network asks for more than a scale and a window.
        """
        import torch

        del attention_mask  # rows are filled up on the right, or not at all
        if any(more.get(name) is not None for name in ("softcap", "s_aux")):
            raise Refused("this network's attention does more than scaled products")
        attend = functools.partial(_attend, scale=scaling, dropout_p=dropout, window=sliding_window)
        if not self._groups:
            count = self._equal or 1
            out = attend(*(_split(tensor, count) for tensor in (query, key, value)))
            return out.transpose(1, 2).reshape(query.shape[0], query.shape[2], query.shape[1], -1), None
        rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # (T, H, E)
        found = [group.theirs(attend(*(group.side_by_side(row) for row in rows))) for group in self._groups]
        return torch.cat(found).index_select(0, self._back)[None], None


@dataclass(frozen=True)
class _Group:
    """Documents of like length.

    Attributes:
        shape: (D, longest of them).
        places: Of their tokens in the pack, one after the other; the first token stands in for none (D * longest).
        real: Which of these are tokens of theirs, as places in the row of all.
    """

    shape: tuple[int, int]
    places: torch.Tensor
    real: torch.Tensor

    def side_by_side(self, row: torch.Tensor) -> torch.Tensor:
        """Return the documents of (T, H, E) as (D, H, longest, E)."""
        return row.index_select(0, self.places).view(*self.shape, *row.shape[1:]).transpose(1, 2)

    def theirs(self, found: torch.Tensor) -> torch.Tensor:
        """Return the rows of (D, H, longest, E) that are tokens, (tokens, H, E)."""
        return found.transpose(1, 2).flatten(0, 1).index_select(0, self.real)


def _split(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """Return (B, H, T, E) with each row in ``count`` documents of one length, (B * count, H, T / count, E)."""
    if count == 1:
        return tensor
    batch, heads, tokens, size = tensor.shape
    parts = tensor.view(batch, heads, count, tokens // count, size)
    return parts.transpose(1, 2).reshape(batch * count, heads, tokens // count, size)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None, dropout_p: float,
    window: int | None,
) -> torch.Tensor:  # fmt: skip
    import torch
    from torch.nn import functional

    from picual.numerics.causal_attention import causal_attention

    length, mask, dtype = query.shape[2], None, query.dtype
    if window is not None and window < length:
        ones = torch.ones((length, length), dtype=torch.bool, device=query.device)
        mask = ones.tril() & ones.triu(1 - window)
    # In float32 the runtime's own attention is as fast; in bfloat16 its backward pass takes three times as long.
    if dtype == torch.bfloat16 and query.device.type == "cpu":
        if mask is None and not dropout_p:
            return causal_attention(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)
        query, key, value = query.float(), key.float(), value.float()
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    found: torch.Tensor = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, dropout_p=dropout_p
    )
    return found.to(dtype)


def _groups(lengths: Sequence[int]) -> Iterator[_Group]:
    """Yield documents of like length together: none is filled up to twice its length or more."""
    import torch

    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    numbers: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        numbers.setdefault((length - 1).bit_length(), []).append(number)
    for group in numbers.values():
        longest = max(lengths[number] for number in group)
        steps = torch.arange(longest)
        first = torch.tensor([starts[number] for number in group])[:, None]
        real = steps < torch.tensor([lengths[number] for number in group])[:, None]
        places = torch.where(real, first + steps, first)
        yield _Group((len(group), longest), places.flatten(), real.flatten().nonzero()[:, 0])


def use(network: Any) -> tuple[DocumentAttention, str]:
    """Make a network attend this way; return the function and the name of what it used before."""
    from transformers import AttentionInterface

    attention = DocumentAttention()
    AttentionInterface.register(NAME, attention)
    before = str(network.config._attn_implementation)
    network.config._attn_implementation = NAME
    return attention, before


def give_back(network: Any, before: str) -> None:
    """Make a network attend as it did."""
    network.config._attn_implementation = before

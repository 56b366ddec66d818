"""Causal attention by batched products, forward and backward, with fewer key heads than query heads.

D: documents · H: query heads · G: key heads · R = H / G · T: tokens · E: size of a head · s: scale

    S = s q k' (-inf where a key comes later)      P = softmax(S)                  y = P v
    dv = P' g      dP = g v'      dS = P (dP - rowsum(P dP))      dq = s dS k      dk = s dS' q

Query heads that share a key head are rows of one product, so keys and values are not repeated. Queries go in
blocks of ``BLOCK``, each against the keys up to its end: what lies wholly in the future is not computed. Kept for
the backward pass are q, k and v as they came; P is made again.

Source: Vaswani et al., arXiv 1706.03762; shared key heads: Ainslie et al., arXiv 2305.13245; P made again: Dao et
al., arXiv 2205.14135.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

BLOCK = 64  # queries: smaller ones skip more of the future, and their products become slow


class CausalAttention(torch.autograd.Function):
    """y of queries, keys and values."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """Return y (D, H, T, E) for q (D, H, T, E), k and v (D, G, T, E)."""
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        keys, values = k.flatten(0, 1), v.flatten(0, 1)  # (D G, T, E)
        y = torch.empty_like(q, memory_format=torch.contiguous_format)
        for first, last in _blocks(q.shape[2]):
            rows = _rows(q, k.shape[1], first, last)
            found = torch.bmm(_chances(rows, keys[:, :last], first, scale), values[:, :last])
            y[:, :, first:last] = found.view(*q.shape[:2], last - first, -1)
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of q, k and v."""
        q, k, v = ctx.saved_tensors
        keys, values = k.flatten(0, 1), v.flatten(0, 1)
        of_q = torch.empty_like(q, memory_format=torch.contiguous_format)
        of_k, of_v = torch.zeros_like(keys), torch.zeros_like(values)
        for first, last in _blocks(q.shape[2]):
            rows, given = (_rows(part, k.shape[1], first, last) for part in (q, g))
            chances = _chances(rows, keys[:, :last], first, ctx.scale)
            of_v[:, :last] += torch.bmm(chances.transpose(1, 2), given)
            of_chances = torch.bmm(given, values[:, :last].transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_chances, chances, -1, chances.dtype)
            found = torch.bmm(of_scores, keys[:, :last]).mul_(ctx.scale)
            of_q[:, :, first:last] = found.view(*q.shape[:2], last - first, -1)
            of_k[:, :last] += torch.bmm(of_scores.transpose(1, 2), rows)
        return of_q, of_k.mul_(ctx.scale).view(k.shape), of_v.view(v.shape), None


def _blocks(tokens: int) -> Iterator[tuple[int, int]]:
    for first in range(0, tokens, BLOCK):
        yield first, min(first + BLOCK, tokens)


def _rows(heads: torch.Tensor, groups: int, first: int, last: int) -> torch.Tensor:
    """Return a block of (D, H, T, E) as (D G, R * rows, E)."""
    return heads[:, :, first:last].reshape(heads.shape[0] * groups, -1, heads.shape[-1])


def _chances(rows: torch.Tensor, keys: torch.Tensor, first: int, scale: float) -> torch.Tensor:
    """Return P (D G, R * rows, keys) of one block."""
    count = keys.shape[1] - first
    later = _later(first, count, rows.shape[1] // count, rows.dtype)
    return torch.softmax(torch.baddbmm(later, rows, keys.transpose(1, 2), alpha=scale), dim=-1)


@functools.lru_cache(maxsize=64)
def _later(first: int, count: int, repeats: int, dtype: torch.dtype) -> torch.Tensor:
    """Return -inf where a key comes after its query, for queries first, ..., first + count - 1, over and over."""
    later = torch.full((count, first + count), -torch.inf, dtype=dtype).triu_(first + 1)
    return later.repeat(repeats, 1)


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Return y (D, H, T, E) of q (D, H, T, E), k and v (D, G, T, E); H is a multiple of G."""
    found: torch.Tensor = CausalAttention.apply(q, k, v, scale)  # type: ignore[no-untyped-call]  # torch leaves it so
    return found

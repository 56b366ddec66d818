"""Which weights of a checkpoint are rounded, and which of them must be stored alike.

A kernel multiplies by query, key and value at once, and by gate and up: those are one site, of one format.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from picual.errors import Refused
from picual.models import HfModel
from picual.models.layout import HEAD, embedding_of, is_tied, linears
from picual.models.quantized import Stored
from picual.numerics import block_sizes
from picual.numerics.block_sizes import Format
from picual.space import Settings

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_LAYER = re.compile(r"\.(\d+)\.")
FIELDS = ("bits", "block", "symmetric")


@dataclass(frozen=True)
class Site:
    """Weights that share their inputs and their format, in the order in which they are stacked."""

    names: tuple[str, ...]
    heights: tuple[int, ...]
    width: int
    layer: int | None  # of the decoder; None: embedding or head
    is_head: bool = False  # the head, or the embedding that is its table too
    is_table: bool = False  # looked up: an embedding of its own, or a tied one

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(self.heights) * self.width

    def __str__(self) -> str:
        """Name it by its first weight, as reports do."""
        return self.names[0].removesuffix(".weight") + (f" (+{len(self.names) - 1})" if self.names[1:] else "")


def stored(site: Site, form: Format) -> dict[str, Stored]:
    """Return how each weight of a site is stored."""
    return {
        name: Stored(bits=form.bits, block=form.block, symmetric=form.symmetric, shape=(height, site.width))
        for name, height in zip(site.names, site.heights, strict=True)
    }


def bytes_of(site: Site, form: Format) -> int:
    """Return the bytes of a site."""
    return form.nbytes(sum(site.heights), site.width)


def bytes_read(site: Site, form: Format) -> int:
    """Return the bytes that kernels read of a site for each token; of a table alone, next to none."""
    if site.is_table and not site.is_head:
        return 0
    return block_sizes.bytes_read(sum(site.heights), site.width, bits=form.bits, block=form.block)


def sites_of(model: HfModel) -> tuple[Site, ...]:
    """Return every site of a checkpoint, embedding and head last."""
    tensors, config = model.tensors(), model.config()
    body = [name for name in linears(tensors) if name != HEAD and _layer_of(name) is not None]
    found: dict[str, list[str]] = {}
    for name in body:
        found.setdefault(_stem(name), []).append(name)
    sites = []
    for names in found.values():
        stacked = sorted(names, key=_place)
        sites.append(
            Site(
                tuple(stacked), tuple(tensors[n].shape[0] for n in stacked), tensors[stacked[0]].shape[1],
                _layer_of(stacked[0]),
            )
        )  # fmt: skip
    sites.sort(key=lambda site: site.layer or 0)
    embedding, tied = embedding_of(tensors), is_tied(tensors, config)
    if embedding is not None:
        height, width = tensors[embedding].shape
        sites.append(Site((embedding,), (height,), width, None, is_head=tied, is_table=True))
    if HEAD in tensors and not tied:
        height, width = tensors[HEAD].shape
        sites.append(Site((HEAD,), (height,), width, None, is_head=True))
    return tuple(sites)


def _layer_of(name: str) -> int | None:
    match = _LAYER.search(name)
    return None if match is None else int(match.group(1))


def _stem(name: str) -> str:
    """Return the same text for weights that are stored alike."""
    for together in TOGETHER:
        for part in together:
            if f".{part}." in name:
                return name.replace(f".{part}.", f".{together[0]}.")
    return name


def _place(name: str) -> int:
    parts = [part for together in TOGETHER for part in together]
    return next((number for number, part in enumerate(parts) if f".{part}." in name), 0)


def overridden(site: Site, form: Format, overrides: Mapping[str, Any]) -> Format:
    """Return the format of a site once the patterns that name one of its weights are applied, in their order."""
    for pattern, fields in overrides.items():
        if any(_matches(name, pattern) for name in site.names):
            form = replace(form, **{key: value for key, value in fields.items() if key in FIELDS})
    return form


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.removesuffix(".weight"), pattern)


def check_overrides(overrides: Settings, sites: tuple[Site, ...], where: str) -> None:
    """Refuse patterns that name no weight, and settings that no format has.

    Raises:
        Refused: With the pattern.
    """
    for pattern, fields in overrides.items():
        if not isinstance(fields, Mapping) or set(fields) - set(FIELDS) or not _known(fields):
            raise Refused(
                f"`overrides` says `{fields}` of `{pattern}`; it may say bits (2, 4, 8), block (16 to 256) and "
                "symmetric",
                where=where,
                hint=f'write `overrides: {{"{pattern}": {{bits: 8, block: 32}}}}`',
            )
        if not any(_matches(name, pattern) for site in sites for name in site.names):
            some = sites[0].names[0].removesuffix(".weight")
            raise Refused(
                f"`overrides` names `{pattern}`, and no quantized weight matches it",
                where=where,
                hint=f"write a pattern such as `*.down_proj`, or a whole name such as `{some}`",
            )


def _known(fields: Mapping[str, Any]) -> bool:
    return (
        fields.get("bits", 4) in {2, 4, 8}
        and fields.get("block", 32) in {16, 32, 64, 128, 256}
        and isinstance(fields.get("symmetric", False), bool)
    )

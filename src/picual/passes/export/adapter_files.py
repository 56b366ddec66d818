"""Adapters beside their base: each a file of the values that the graph's inputs take, none merged.

The graph gets inputs for A and B of every linear layer that an adapter changes; see ``graph.lora_inputs``.
Source: ONNX Runtime, ``onnxruntime.AdapterFormat``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual import _atomic, _lazy
from picual.errors import BadValue, Refused
from picual.graph.lora_inputs import FinishedLinear, add_update, finished_linears
from picual.models import HfAdapter, HfCheckpoint
from picual.models.adapter_files import DESCRIPTION, FOLDER, NONE, SUFFIX
from picual.models.layout import HEAD, TensorSlice, slices_of
from picual.passes.adapters.edits import Edit, LowRank, edits_of, tie_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

FORMAT_VERSION = 1


def named_adapters(
    model: HfCheckpoint | HfAdapter, own_name: str, folders: Mapping[str, Any]
) -> dict[str, HfAdapter]:
    """Return the adapters to deploy by name, a model's own first.

    Args:
        model: The base, or an adapter on it.
        own_name: Of the adapter that ``model`` is.
        folders: Of others on the same base, by name.

    Raises:
        Refused: One cannot be handed to a graph, or is not of this base.
    """
    root = model.root() if isinstance(model, HfAdapter) else model
    found = {own_name: model} if isinstance(model, HfAdapter) else {}
    found |= {name: HfAdapter(Path(str(folder)), root) for name, folder in folders.items()}
    for adapter in found.values():
        updates_of(adapter)
    return found


def check_names(own_name: str, others: Iterable[str]) -> None:
    """Refuse names of adapters that are no file names, or taken.

    Raises:
        BadValue: Says which.
    """
    for name in (own_name, *others):
        if name == NONE or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            what = f"`adapters`: `{name}` is no name for one: letters, digits, `-`, `_` and `.`, and not `{NONE}`"
            raise BadValue(what, hint="adapters: {french: FOLDER}")
    if own_name in others:
        raise BadValue(
            f"`adapters`: `{own_name}` is what the adapter is called that the model brings",
            hint="set `adapter_name` to another",
        )


def updates_of(adapter: HfAdapter) -> dict[str, LowRank]:
    """Return the one update of each weight that an adapter changes, by the weight's name in the checkpoint.

    Raises:
        Refused: It does more than that.
    """
    where = str(adapter.path)
    if len(adapter.chain()) > 1:
        raise Refused(
            f"a chain of {len(adapter.chain())} adapters cannot be handed to a graph: one can",
            where=where,
            hint="put `merge-adapter` before `build-genai`",
        )
    if not (adapter.path / "adapter_model.safetensors").is_file():
        raise Refused("there is no LoRA adapter here: `adapter_model.safetensors` is missing", where=where,
                      hint="give a folder that peft's `save_pretrained` made")  # fmt: skip
    root = adapter.root()
    tensors = root.tensors()
    edits = edits_of([adapter], tensors, tie_of(root.config(), tensors))
    return {name: _plain(name, own, where) for name, own in edits.items()}


def _plain(name: str, edits: Sequence[Edit], where: str) -> LowRank:
    (first, *_) = edits
    if len(edits) > 1 or not isinstance(first, LowRank) or first.transposed:
        raise Refused(
            f"the adapter changes `{name}` by more than a low-rank update, and no input of a graph takes that",
            where=where,
            hint="put `merge-adapter` before `build-genai`, or train without `modules_to_save`",
        )
    return first


@dataclass(frozen=True)
class Site:
    """One linear layer of the graph and where its rows lie in the checkpoint."""

    linear: FinishedLinear
    rows: tuple[tuple[str, TensorSlice], ...]  # the name that an adapter says, and the rows
    width: int

    @property
    def height(self) -> int:
        """N."""
        return sum(part.stop - part.start for _, part in self.rows)


def deploy(
    model: ir.Model, root: HfCheckpoint, adapters: Mapping[str, HfAdapter], floats: ir.DataType, folder: Path
) -> list[str]:
    """Give the graph inputs for all adapters, write each one's file, and return the layers that they change.

    Args:
        model: A finished graph; its weights stay as they are.
        root: The checkpoint it was made from.
        adapters: By name; the first answers where none is asked for.
        floats: Type of the graph's activations.
        folder: Of the model.

    Raises:
        Refused: The graph has no layer for what an adapter changes.
    """
    updates = {name: updates_of(adapter) for name, adapter in adapters.items()}
    sites = list(_sites(model, root))
    for name, own in updates.items():
        _refuse_homeless(sites, own, adapters[name])
    wanted = {name for own in updates.values() for name in own}
    changed = [site for site in sites if wanted & {name for name, _ in site.rows}]
    for site in changed:
        add_update(model, site.linear, site.width, site.height, floats)
    for name, own in updates.items():
        write_adapter(folder / FOLDER / f"{name}{SUFFIX}", _arrays(changed, own, floats))
    _atomic.write_json(folder / DESCRIPTION, {"version": FORMAT_VERSION, "active": next(iter(adapters))})
    return [site.linear.stem for site in changed]


def arrays_for(model: ir.Model, adapter: HfAdapter, floats: ir.DataType) -> dict[str, npt.NDArray[Any]]:
    """Return what an adapter hands to the graph of its base, by the names of the inputs.

    Raises:
        Refused: The graph has no layer for what the adapter changes.
    """
    sites, updates = list(_sites(model, adapter.root())), updates_of(adapter)
    _refuse_homeless(sites, updates, adapter)
    return _arrays(sites, updates, floats)


def _refuse_homeless(sites: Sequence[Site], updates: Mapping[str, LowRank], adapter: HfAdapter) -> None:
    known = {name for site in sites for name, _ in site.rows}
    if lost := sorted(set(updates) - known):
        raise Refused(
            f"the graph has no linear layer `{lost[0]}`, which the adapter changes",
            where=str(adapter.path),
            hint="put `merge-adapter` before `build-genai`",
        )


def _sites(model: ir.Model, root: HfCheckpoint) -> Iterator[Site]:
    tensors, config = root.tensors(), root.config()
    for linear in finished_linears(model):
        rows = [
            (HEAD if name == HEAD else part.name, part)
            for name in linear.names
            for part in slices_of(name, tensors, config)
        ]
        if rows:
            yield Site(linear, tuple(rows), tensors[rows[0][1].name].shape[1])


def _arrays(
    sites: Sequence[Site], updates: Mapping[str, LowRank], floats: ir.DataType
) -> dict[str, npt.NDArray[Any]]:
    """Return A^T and B^T of every layer that an adapter changes, by the names of the graph's inputs."""
    import numpy as np

    from picual.numerics.low_rank import Update, stacked

    found: dict[str, npt.NDArray[Any]] = {}
    for site in sites:
        groups, start = dict[str, list[Update]](), 0
        for name, part in site.rows:
            if name in updates:
                a, b = _factors(updates[name])
                one = Update(a, b[part.start : part.stop], updates[name].scale, start)
                groups.setdefault(name, []).append(one)
            start += part.stop - part.start
        if groups:
            factors = stacked(list(groups.values()), site.height)
            for key, values in zip(site.linear.inputs, factors, strict=True):
                found[key] = _finite(values.astype(floats.numpy()), key)
    return {key: np.ascontiguousarray(values) for key, values in found.items()}


def _factors(update: LowRank) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return A (r, K) and B (N, r) in float32."""
    from safetensors import safe_open

    with safe_open(update.file, framework="pt") as tensors:
        a, b = (tensors.get_tensor(name).float().numpy() for name in (update.a, update.b))
    return a, b


def _finite(values: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    import numpy as np

    if not np.isfinite(values).all():
        raise Refused(
            f"`{name}` holds a number that is not finite, or is too large for the asked type",
            hint="train the adapter again with a lower learning rate",
        )
    return values


def write_adapter(file: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an adapter file; the same arrays give the same bytes."""
    onnxruntime = _lazy.need("onnxruntime", extra="cpu", by="build-genai")
    file.parent.mkdir(parents=True, exist_ok=True)
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(FORMAT_VERSION)
    adapter.set_model_version(FORMAT_VERSION)
    # By name: the bytes depend on the order in which they are given.
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(arrays[name]) for name in sorted(arrays)}
    adapter.set_parameters(values)
    adapter.export_adapter(str(file))

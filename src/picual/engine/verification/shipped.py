"""Adapters beside an exported base: does each file add to every weight what the adapter's own files say.

An update is read back from where the runtime takes it: the graph's two products beside the one with W, and the
values that the adapter's file has for their inputs. Against it stands scale * B A, computed in float64 from what
was trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual.engine.verification import merge
from picual.engine.verification.checks import Check, some
from picual.engine.verification.exported import Exported, Holder
from picual.engine.verification.source import Placed, Source
from picual.engine.verification.tensors import ranges
from picual.errors import UnreadableModel
from picual.models import GenaiModel, HfAdapter, HfCheckpoint, Model
from picual.models.adapter_files import adapters_of, arrays_of
from picual.models.layout import HEAD

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir
    import torch

# Relative error of a factor as stored: half a unit, and that of the product scale * B.
ROUNDING = {"float32": 2.0**-23, "float16": 2.0**-10}


@dataclass(frozen=True)
class Shipped:
    """One adapter: as it was trained, and as the exported folder has it."""

    name: str
    trained: HfAdapter
    file: Path

    @cached_property
    def updates(self) -> dict[str, list[Any]]:
        """What was trained, by the weight's name in the checkpoint; ``merge.delta_of`` makes numbers of it."""
        return merge.added_by(self.trained)[0]

    @cached_property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What the runtime is given, by the names of the graph's inputs.

        Raises:
            UnreadableModel: The file is missing or no adapter file.
        """
        if not self.file.is_file():
            raise UnreadableModel(f"`{self.file.name}` is missing", where=str(self.file))
        return arrays_of(self.file)


def root_of(given: Model) -> HfCheckpoint:
    """Return the checkpoint that was exported: an adapter's base."""
    root = given.root() if isinstance(given, HfAdapter) else given
    assert isinstance(root, HfCheckpoint)
    return root


def shipped(adapters: Mapping[str, str], given: Model, made: Model) -> list[Shipped]:
    """Return the adapters that should lie beside a base.

    Args:
        adapters: Of the promise: folders by name; an empty one stands for ``given``, if that is an adapter.
        given: What was exported.
        made: The folder.
    """
    root, home = root_of(given), adapters_of(made.path)
    found = []
    for name, folder in adapters.items():
        trained = HfAdapter(Path(folder), root) if folder else given
        if isinstance(trained, HfAdapter):
            found.append(Shipped(name, trained, home.get(name, made.path / name)))
    return found


def checks(adapters: list[Shipped], exported: Exported, source: Source, made: Model) -> Iterator[Check]:
    """Compare every adapter with what it was made from, and the files with what they should be."""
    assert isinstance(made, GenaiModel)
    wanted, there = {one.name for one in adapters}, set(adapters_of(made.path))
    odd = sorted(wanted ^ there)
    detail = f"missing or not asked for: {some(odd)}" if odd else f"{len(there)} adapters"
    yield Check("adapter-files", not odd, len(odd), 0, detail)
    inputs = _inputs(exported)
    yield _defaults(inputs, exported)
    for one in adapters if not odd else ():
        yield from _as_trained(one, inputs, exported, source)


def _inputs(exported: Exported) -> dict[str, tuple[str, str]]:
    """Return the two inputs that add to what each node gives, by the node's name."""
    found = {}
    for node in exported.graph:
        products = [value for use in node.outputs[0].uses() for value in _beside(use.node, node)]
        if len(products) == 1:
            found[str(node.name)] = products[0]
    return found


def _beside(add: ir.Node, node: ir.Node) -> Iterator[tuple[str, str]]:
    """Yield A and B where an addition is y + (x A) B of ``node``, y = f(x)."""
    other = [value for value in add.inputs if value is not None and value is not node.outputs[0]]
    up = other[0].producer() if add.op_type == "Add" and len(other) == 1 else None
    down = up.inputs[0].producer() if up is not None and up.inputs[0] is not None else None
    if up is None or down is None or {up.op_type, down.op_type} != {"MatMul"}:
        return
    first, second = down.inputs[1], up.inputs[1]
    given = first is not None and second is not None and first.is_graph_input() and second.is_graph_input()
    if given and down.inputs[0] is node.inputs[0]:
        assert first is not None
        assert second is not None
        yield str(first.name), str(second.name)


def _defaults(inputs: Mapping[str, tuple[str, str]], exported: Exported) -> Check:
    """Say whether the base answers where no adapter is given: each input may be left out, adding nothing then."""
    values = [exported.graph.initializers.get(name) for pair in inputs.values() for name in pair]
    odd = [value for value in values if value is None or value.const_value is None or value.const_value.size]
    return Check("adapter-default", not odd, len(odd), 0, f"{len(values)} inputs, each may be left out")


def _as_trained(
    one: Shipped, inputs: Mapping[str, tuple[str, str]], exported: Exported, source: Source
) -> Iterator[Check]:
    unknown = merge.added_by(one.trained)[1]
    used: set[str] = set()
    seen: set[str] = set()
    wrong, worst = [], 0.0
    for holder in exported.linears:
        pair = inputs.get(holder.node, ("", ""))
        factors = [one.arrays[name] for name in pair if name in one.arrays]
        used |= set(pair) & set(one.arrays)
        for item in source.placed(holder):
            name = HEAD if item.name == HEAD else item.source.name
            seen.add(name)
            share = _deviation(item, holder, one.updates.get(name, []), factors)
            worst = max(worst, share)
            if not share <= 1.0:
                wrong.append(item.name)
    lost, foreign = sorted(set(one.updates) - seen), sorted(set(one.arrays) - used)
    parts = [f"no place for {some([*lost, *unknown])}"] * bool(lost or unknown)
    parts += [f"no layer takes {some(foreign)}"] * bool(foreign)
    count = len(lost) + len(unknown) + len(foreign)
    yield Check(
        "adapter-inputs", not parts, count, 0, f"`{one.name}`: {'; '.join(parts) or f'{len(used)} inputs'}"
    )
    detail = f"`{one.name}`: " + (f"not as trained: {some(wrong)}" if wrong else f"{len(one.updates)} weights")
    yield Check("adapter-delta", not wrong, worst, 1.0, detail)


def _deviation(item: Placed, holder: Holder, updates: list[Any], factors: list[npt.NDArray[Any]]) -> float:
    """Return how far what the file adds to some rows is from what was trained, as a share of what is allowed."""
    import torch

    if not updates and not factors:
        return 0.0
    fits = len(factors) == 2 and factors[0].shape[0] == holder.matrix.width
    if not fits or factors[1].shape[1] != holder.matrix.height or factors[0].shape[1] != factors[1].shape[0]:
        return float("inf")
    first, second = (torch.from_numpy(factor).double() for factor in factors)  # (K, R), (R, N)
    rounding = ROUNDING.get(str(factors[0].dtype), 0.0)
    worst = 0.0
    for start, stop in item.pieces():
        rows = slice(item.source.start + start, item.source.start + stop)
        expected, size = merge.delta_of(updates, rows, holder.matrix.width) if updates else (0.0, 0.0)
        found = second[:, item.start + start : item.start + stop].T @ first.T  # (rows, K)
        share = (found - expected).abs() / (rounding * torch.as_tensor(size) + 1e-30)
        worst = max(worst, float("inf") if bool(share.isnan().any()) else float(share.max()))
    return worst


class Updated(Mapping[str, "torch.Tensor"]):
    """Weights with an adapter's updates added: W + scale * B A, as it was trained.

    Args:
        weights: By the checkpoint's names, float32, made anew each time they are asked for.
        adapter: Of them.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], adapter: Shipped) -> None:
        self._weights, self._adapter = weights, adapter

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return one weight in float32."""
        weight = self._weights[name]
        pairs = self._adapter.updates.get(name, [])
        for rows in ranges(tuple(weight.shape)) if pairs else ():  # a few at a time: float64 is wide
            weight[rows] += merge.delta_of(pairs, rows, weight.shape[1])[0].float()
        return weight

    def __iter__(self) -> Iterator[str]:
        """Yield the checkpoint's names."""
        yield from self._weights

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._weights)

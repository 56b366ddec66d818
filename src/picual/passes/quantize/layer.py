"""One decoder layer that calibration text runs through, again and again as its weights are rounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BATCH = 8  # windows through a layer at once


class _Enough(Exception):  # no error: it ends a run whose rest nobody needs
    pass


class Layer:
    """One decoder layer with its weights.

    Attention and feed-forward parts end with a linear layer. Once the inputs of that one have been watched,
    further runs multiply those by it instead of running the whole part again.
    """

    def __init__(self, module: Any, prefix: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._module, self._prefix, self._arguments, self._named = module, prefix, arguments, named
        self._ends: dict[str, _End] = {}  # by the weight of the linear layer that ends a part
        self._reached: dict[str, dict[int, torch.Tensor]] = {}  # its inputs, by a batch's first window

    def groups(self, states: torch.Tensor) -> list[tuple[str, ...]]:
        """Return the weights of linear layers that share one input, in the order in which they are used."""
        import torch

        seen: list[tuple[int, str, Any]] = []
        outputs: dict[str, Any] = {}
        linears = {name: part for name, part in self._module.named_modules() if isinstance(part, torch.nn.Linear)}
        hooks = [
            part.register_forward_pre_hook(
                lambda _module, inputs, name=name: seen.append((id(inputs[0]), name, inputs[0]))
            )
            for name, part in linears.items()
        ]
        hooks += [
            part.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.update({name: output}))
            for name, part in (*linears.items(), *self._module.named_children())
        ]
        self._run(states[:1, :8])
        for hook in hooks:
            hook.remove()
        found: dict[int, list[str]] = {}
        for key, name, _held in seen:  # holding the inputs keeps their ids apart
            found.setdefault(key, []).append(self._weight(name))
        last = {name.partition(".")[0]: name for _, name, _ in seen}
        ends = {self._weight(name): _end(part, outputs[part], outputs[name]) for part, name in last.items()}
        self._ends = {name: end for name, end in ends.items() if end is not None}
        return [tuple(names) for names in found.values()]

    def watch(self, states: torch.Tensor, names: Sequence[str], take: Callable[[torch.Tensor], None]) -> None:
        """Run until the first of the linear layers ``names`` has got its input, and hand that over.

        Args:
            states: (W, T, hidden) before this layer.
            names: Weights that share one input.
            take: Gets it batch by batch, (..., K).
        """
        part = self._module.get_submodule(self._inner(names[0]))
        reached: dict[int, torch.Tensor] = {}

        def stop(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            take(inputs[0])
            reached[start] = inputs[0]
            raise _Enough

        hook = part.register_forward_pre_hook(stop)
        try:
            for start in range(0, len(states), BATCH):
                try:
                    self._run_batch(states, start)
                except _Enough:
                    continue
        finally:
            hook.remove()
        if names[0] in self._ends:
            self._reached[names[0]] = reached

    def weight(self, name: str) -> torch.Tensor:
        """Return a weight (N, K) as it is now."""
        found: torch.Tensor = self._module.get_submodule(self._inner(name)).weight.data
        return found

    def replace(self, name: str, values: torch.Tensor) -> None:
        """Go on with other values of a weight."""
        import torch

        part = self._module.get_submodule(self._inner(name))
        part.weight.data = values
        if name in self._ends:
            return
        root = self._inner(name).partition(".")[0]
        for last, end in self._ends.items():  # what came before the end of a part is no longer what it was
            if end.part == root or not isinstance(part, torch.nn.Linear):
                self._reached.pop(last, None)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Replace states (W, T, hidden) by those after this layer, in place, and return them."""
        for start in range(0, len(states), BATCH):
            states[start : start + BATCH] = self._run_batch(states, start)
        return states

    def output(self, states: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the states (W, T, hidden) after this layer with other weights, through which slopes flow back."""
        import torch

        parameters = {f"{self._inner(name)}.weight": values for name, values in weights.items()}
        arguments, named = self._called(states.shape[1])
        found = torch.func.functional_call(self._module, parameters, (states, *arguments), named)
        output: torch.Tensor = found[0] if isinstance(found, tuple) else found
        return output

    def back(
        self, states: torch.Tensor, slope: torch.Tensor, names: Sequence[str],
        see: Callable[[str, torch.Tensor, torch.Tensor], None],
    ) -> torch.Tensor:  # fmt: skip
        """Return the slope at the input of this layer, given that at its output.

        Args:
            states: (W, T, hidden) before this layer.
            slope: Of the same shape, at its output.
            names: Weights of linear layers to look at.
            see: Called with name, input and output of each.
        """
        hooks = [
            self._module.get_submodule(self._inner(name)).register_forward_hook(
                lambda _module, inputs, output, name=name: see(name, inputs[0], output)
            )
            for name in names
        ]
        leaf = states.clone().requires_grad_()
        self._run(leaf).backward(slope)
        for hook in hooks:
            hook.remove()
        assert leaf.grad is not None
        return leaf.grad

    def _run_batch(self, states: torch.Tensor, start: int) -> torch.Tensor:
        """Run some windows; parts whose ends were reached before give their last multiplication alone."""
        parts = [self._module.get_submodule(self._ends[name].part) for name in self._reached]
        for part, (name, reached) in zip(parts, self._reached.items(), strict=True):
            linear = self._module.get_submodule(self._inner(name))
            part.forward = partial(self._ends[name].forward, linear, reached[start])
        try:
            return self._run(states[start : start + BATCH])
        finally:
            for part in parts:
                del part.forward  # the class's own shows again

    def _run(self, states: torch.Tensor) -> torch.Tensor:
        arguments, named = self._called(states.shape[1])
        found = self._module(states, *arguments, **named)
        output: torch.Tensor = found[0] if isinstance(found, tuple) else found
        return output

    def _called(self, length: int) -> tuple[list[Any], dict[str, Any]]:
        """Return what the layer is called with beside states of so many tokens."""
        named = {key: _cut(value, length) for key, value in self._named.items()}
        return [_cut(one, length) for one in self._arguments], named

    def _weight(self, linear: str) -> str:
        return f"{self._prefix}.{linear}.weight"

    def _inner(self, name: str) -> str:
        return name.removeprefix(f"{self._prefix}.").removesuffix(".weight")


@dataclass(frozen=True)
class _End:
    """A part of a layer whose output is that of its last linear layer, alone or first of a tuple of Nones."""

    part: str
    nones: int | None  # after it in a tuple; None: no tuple

    def forward(self, linear: Any, inputs: torch.Tensor, *_: Any, **__: Any) -> Any:
        output = linear(inputs)
        return output if self.nones is None else (output, *(None for _ in range(self.nones)))


def _end(part: str, output: Any, of_linear: Any) -> _End | None:
    """Say that a part ends with a linear layer, from what both gave; None when it does more."""
    if output is of_linear:
        return _End(part, None)
    if isinstance(output, tuple) and output[0] is of_linear and all(one is None for one in output[1:]):
        return _End(part, len(output) - 1)
    return None


def _cut(value: Any, length: int) -> Any:
    """Cut what goes with a whole window to its first tokens: positions (1, T, ...), masks (1, 1, T, T)."""
    import torch

    if isinstance(value, tuple):
        return tuple(_cut(one, length) for one in value)
    if not isinstance(value, torch.Tensor) or value.ndim < 2:
        return value
    return value[..., :length, :length] if value.ndim == 4 else value[:, :length]

"""The decoder layers of a checkpoint, one in memory at a time, run over calibration text.

The network is built without weights. Its base model runs once with every layer replaced by a recorder, which
gives the states before the first layer and what else each layer is called with (masks, positions); after that
layers run alone, in turn, over the states that the ones before left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from picual.errors import Refused
from picual.models import HfModel
from picual.passes.quantize.shards import weight_of

if TYPE_CHECKING:
    import torch

BATCH = 8  # windows through a layer at once


class _Enough(Exception):  # no error: it ends a run whose rest nobody needs
    pass


class LayeredNetwork:
    """A causal language model, a layer at a time.

    Args:
        model: The checkpoint.
        windows: Token ids (W, T).
    """

    def __init__(self, model: HfModel, windows: torch.Tensor) -> None:
        import torch
        import transformers
        from accelerate import init_empty_weights

        self._model = model
        config = transformers.AutoConfig.from_pretrained(
            model.path, trust_remote_code=model.trust_remote_code, local_files_only=True
        )
        with init_empty_weights(include_buffers=False):
            self._network: Any = transformers.AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=model.trust_remote_code
            )
        self._network.eval()
        self._prefix, self._layers = _decoder_layers(self._network, config, str(model.path))
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        with torch.no_grad():
            self.states = self._first_states(windows)

    def __len__(self) -> int:
        """Return the number of decoder layers."""
        return len(self._layers)

    @contextmanager
    def layer(self, number: int) -> Iterator[Layer]:
        """Give one layer with its weights, which go when it is done."""
        module = self._layers[number]
        prefix = f"{self._prefix}.{number}"
        self._load(module, prefix)
        try:
            yield Layer(module, prefix, *self._calls[number])
        finally:
            module.to(device="meta")

    def final(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states that the head is given, from those after the last layer."""
        norm = next((part for part in self._outside() if _is_norm(part)), None)
        return states if norm is None else norm(states)

    def _outside(self) -> list[Any]:
        base = self._network.base_model
        return [child for child in base.children() if child is not self._layers]

    def _first_states(self, windows: torch.Tensor) -> torch.Tensor:
        """Run the base model without its layers: embedding before them, nothing that counts after."""
        import torch

        base = self._network.base_model
        for name, child in base.named_children():
            if child is not self._layers:
                self._load(child, f"{self._network.base_model_prefix}.{name}")
        layers = list(self._layers)
        recorders = [_recorder(layer) for layer in layers]
        for number, recorder in enumerate(recorders):
            self._layers[number] = recorder
        try:
            found = []
            for start in range(0, len(windows), 1):
                base(input_ids=windows[start : start + 1], use_cache=False)
                found.append(recorders[0].states)
            self._calls = [(recorder.arguments, recorder.named) for recorder in recorders]
        finally:
            for number, layer in enumerate(layers):
                self._layers[number] = layer
        return torch.cat(found)

    def _load(self, module: Any, prefix: str) -> None:
        import torch

        tensors = self._model.tensors()
        state = {}
        for name, _ in module.named_parameters():
            whole = f"{prefix}.{name}"
            if whole not in tensors:
                raise Refused(
                    f"the network wants `{whole}`, which the checkpoint does not have",
                    where=str(self._model.path),
                    hint="use `rtn`, which needs no run of the network",
                )
            state[name] = torch.from_numpy(weight_of(self._model, whole))
        module.load_state_dict(state, assign=True, strict=False)
        module.requires_grad_(requires_grad=False)


class Layer:
    """One decoder layer with its weights."""

    def __init__(self, module: Any, prefix: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._module, self._prefix, self._arguments, self._named = module, prefix, arguments, named

    def groups(self, states: torch.Tensor) -> list[tuple[str, ...]]:
        """Return the weights of linear layers that share one input, in the order in which they are used."""
        import torch

        seen: list[tuple[int, str, Any]] = []
        hooks = [
            part.register_forward_pre_hook(
                lambda _module, inputs, name=name: seen.append((id(inputs[0]), name, inputs[0]))
            )
            for name, part in self._module.named_modules()
            if isinstance(part, torch.nn.Linear)
        ]
        self._run(states[:1, :8])
        for hook in hooks:
            hook.remove()
        found: dict[int, list[str]] = {}
        for key, name, _held in seen:  # holding the inputs keeps their ids apart
            found.setdefault(key, []).append(f"{self._prefix}.{name}.weight")
        return [tuple(names) for names in found.values()]

    def watch(self, states: torch.Tensor, names: Sequence[str], take: Callable[[torch.Tensor], None]) -> None:
        """Run until the first of the linear layers ``names`` has got its input, and hand that over.

        Args:
            states: (W, T, hidden) before this layer.
            names: Weights that share one input.
            take: Gets it batch by batch, (..., K).
        """
        part = self._module.get_submodule(self._inner(names[0]))

        def stop(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            take(inputs[0])
            raise _Enough

        hook = part.register_forward_pre_hook(stop)
        try:
            for start in range(0, len(states), BATCH):
                try:
                    self._run(states[start : start + BATCH])
                except _Enough:
                    continue
        finally:
            hook.remove()

    def weight(self, name: str) -> torch.Tensor:
        """Return a weight (N, K) as it is now."""
        found: torch.Tensor = self._module.get_submodule(self._inner(name)).weight.data
        return found

    def replace(self, name: str, values: torch.Tensor) -> None:
        """Go on with other values of a weight."""
        self._module.get_submodule(self._inner(name)).weight.data = values

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Replace states (W, T, hidden) by those after this layer, in place, and return them."""
        for start in range(0, len(states), BATCH):
            states[start : start + BATCH] = self._run(states[start : start + BATCH])
        return states

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

    def _run(self, states: torch.Tensor) -> torch.Tensor:
        length = states.shape[1]
        named = {key: _cut(value, length) for key, value in self._named.items()}
        found = self._module(states, *(_cut(one, length) for one in self._arguments), **named)
        output: torch.Tensor = found[0] if isinstance(found, tuple) else found
        return output

    def _inner(self, name: str) -> str:
        return name.removeprefix(f"{self._prefix}.").removesuffix(".weight")


def _cut(value: Any, length: int) -> Any:
    """Cut what goes with a whole window to its first tokens: positions (1, T, ...), masks (1, 1, T, T)."""
    import torch

    if isinstance(value, tuple):
        return tuple(_cut(one, length) for one in value)
    if not isinstance(value, torch.Tensor) or value.ndim < 2:
        return value
    return value[..., :length, :length] if value.ndim == 4 else value[:, :length]


def _decoder_layers(network: Any, config: Any, where: str) -> tuple[str, Any]:
    import torch

    count = getattr(config.get_text_config(), "num_hidden_layers", 0)
    for name, part in network.named_modules():
        if isinstance(part, torch.nn.ModuleList) and len(part) == count:
            return name, part
    raise Refused(
        f"a `{config.model_type}` network has no list of {count} decoder layers to go through",
        where=where,
        hint="use `rtn`, which needs no run of the network",
    )


def _is_norm(part: Any) -> bool:
    return "norm" in type(part).__name__.lower()


def _recorder(layer: Any) -> Any:
    """Return a module that stands in for a layer, does nothing and remembers how it was called."""
    import torch

    class Recorder(torch.nn.Module):
        states: torch.Tensor
        arguments: tuple[Any, ...] = ()
        named: dict[str, Any]

        def forward(self, states: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
            self.states, self.arguments, self.named = states, arguments, named
            return states

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(layer, name)  # the loop over layers may ask which kind each is

    return Recorder()

"""The decoder layers of a checkpoint, one in memory at a time, run over calibration text.

The network is built without weights. Its base model runs once with every layer replaced by a recorder, which
gives the states before the first layer and what else each layer is called with (masks, positions); after that
layers run alone, in turn, over the states that the ones before left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from picual.errors import Refused
from picual.models import HfModel
from picual.passes.quantize.layer import Layer
from picual.passes.quantize.shards import weight_of

if TYPE_CHECKING:
    import torch


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

    def logits(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Return the logits of scores W x (..., V), scaled and capped as the config says, and their slope."""
        config = self._network.config.get_text_config()
        gain = 1 / float(getattr(config, "logits_scaling", None) or 1)
        cap = getattr(config, "final_logit_softcapping", None)
        if not cap:
            return (scores if gain == 1 else scores * gain), gain
        bent = (scores * gain / cap).tanh()
        return cap * bent, gain * (1 - bent.square())

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
                found.append(recorders[0].states.clone())
            self._calls = [(recorder.arguments, recorder.named) for recorder in recorders]
        except (TypeError, AttributeError) as error:
            raise Refused(
                f"the network calls its layers in a way that is not known ({error})",
                where=str(self._model.path),
                hint="use `rtn`, which needs no run of the network",
            ) from error
        finally:
            for number, layer in enumerate(layers):
                self._layers[number] = layer
        for child in self._outside():
            if isinstance(child, torch.nn.Embedding):
                child.to(device="meta")  # it was looked up for good
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

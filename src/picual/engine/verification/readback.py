"""The network in torch, each weight read back from the exported file at the moment its layer runs.

Nothing is held but the layer at work: the network is built without weights, and a map from the checkpoint's
names gives each one on demand, dequantized, put together in the checkpoint's own layout.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from picual.engine.verification import tensors
from picual.engine.verification.exported import Exported
from picual.engine.verification.source import Placed, Source
from picual.errors import UnreadableModel
from picual.models import HfCheckpoint, HfModel
from picual.models.layout import HEAD, embedding_of, is_tied

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch


class ReadBack(Mapping[str, "torch.Tensor"]):
    """Weights by the checkpoint's names, made from the exported file when asked for."""

    def __init__(self, exported: Exported, source: Source) -> None:
        self._exported, self._source = exported, source
        self._rows: dict[str, list[Placed]] = {}
        for holder in exported.tables:
            for item in source.placed(holder):
                self._rows.setdefault(item.source.name, []).append(item)
        for holder in exported.linears:
            for item in source.placed(holder):
                # A tied head has a matrix of its own in the file, maybe with another rounding.
                home = HEAD if item.name == HEAD else item.source.name
                self._rows.setdefault(home, []).append(item)

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return one weight in float32.

        Raises:
            UnreadableModel: The exported file does not have it whole.
        """
        import torch

        array = self._matrix(name) if name in self._rows else self._vector(name)
        if array is None:
            raise UnreadableModel(f"`{name}` is not in the exported file, or not whole")
        return torch.from_numpy(array)

    def _matrix(self, name: str) -> npt.NDArray[np.float32] | None:
        import numpy as np

        items = sorted(self._rows[name], key=lambda item: item.source.start)
        shape = (items[-1].source.stop, items[0].matrix.width)
        # Pages of their own go back to the system with the array, at once.
        pages = mmap.mmap(-1, 4 * math.prod(shape))
        whole = np.frombuffer(pages, dtype=np.float32).reshape(shape)
        end = 0
        for item in items:
            if item.source.start != end:
                return None
            for start, stop in item.pieces():
                whole[end + start : end + stop] = item.matrix.rows(item.start + start, item.start + stop)
            end = item.source.stop
        return whole

    def _vector(self, name: str) -> npt.NDArray[np.float32] | None:
        import numpy as np

        parts = self._source.vector_parts(name, self._exported)
        found = [self._exported.vector(part) for part, _ in parts]
        if any(array is None for array in found) or not found:
            return None
        return np.concatenate([array.astype(np.float32).reshape(-1) for array in found if array is not None])

    def __iter__(self) -> Iterator[str]:
        """Yield the checkpoint's names."""
        yield from self._source.tensors

    def __len__(self) -> int:
        """Return how many tensors the checkpoint has."""
        return len(self._source.tensors)


class Stored(Mapping[str, "torch.Tensor"]):
    """The weights of a checkpoint in float32, each read when it is asked for; a tied head is the embedding."""

    def __init__(self, model: HfModel) -> None:
        self._tensors = model.tensors()
        embedding = embedding_of(self._tensors)
        if embedding is not None and is_tied(self._tensors, model.config()):
            self._tensors[HEAD] = self._tensors[embedding]

    def __getitem__(self, name: str) -> torch.Tensor:
        info = self._tensors[name]
        return tensors.read(info.file, info.name).float()

    def __iter__(self) -> Iterator[str]:
        yield from self._tensors

    def __len__(self) -> int:
        return len(self._tensors)


class Reference:
    """The network over weights given by name: hidden states of many windows first, logits window by window.

    Args:
        weights: By the checkpoint's names, float32; a tied head is there too.
        model: Whose config says which network.
        change: Called with the network before its weights are looked for.
    """

    def __init__(
        self, weights: Mapping[str, torch.Tensor], model: HfCheckpoint, change: Callable[[Any], None] | None = None
    ) -> None:
        import torch
        import transformers
        from accelerate import init_empty_weights

        self._weights = weights
        config = transformers.AutoConfig.from_pretrained(
            model.path, trust_remote_code=model.trust_remote_code, local_files_only=True
        )
        config.tie_word_embeddings = False  # each side is read from its own place in the file
        with init_empty_weights(include_buffers=False):
            self._network: Any = transformers.AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=model.trust_remote_code
            )
        if change is not None:
            change(self._network)
        self._network.eval()
        for layers in self._network.modules():
            for layer in layers if isinstance(layers, torch.nn.ModuleList) else ():
                layer.register_forward_hook(give_back)
        self._read_when_run()

    def _read_when_run(self) -> None:
        """Have each module without weights read its own when it runs; what has some already is left alone."""
        from accelerate.hooks import AlignDevicesHook, add_hook_to_module
        from accelerate.utils import PrefixedDataset

        for name, module in self._network.named_modules():
            if any(weight.device.type == "meta" for weight in module.parameters(recurse=False)):
                own = PrefixedDataset(self._weights, f"{name}." if name else "")
                hook = AlignDevicesHook("cpu", offload=True, weights_map=own, place_submodules=False)
                add_hook_to_module(module, hook, append=True)

    def hidden(self, windows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return the last hidden states (windows, T, hidden) of token ids (windows, T)."""
        import torch

        with torch.inference_mode():
            states: torch.Tensor = self._network.base_model(
                input_ids=torch.from_numpy(windows), use_cache=False
            ).last_hidden_state
        return states

    @contextlib.contextmanager
    def head(self, *, hold: bool = True) -> Iterator[Any]:
        """Give a function from the hidden states (T, hidden) of one window to logits (T, vocabulary).

        ``hold`` keeps the head's weight for all windows; otherwise it is read for each.

        It is the network's own forward with a body that hands out the given states, so that whatever it does
        to logits (caps, scales) is done.
        """
        import torch
        from transformers.modeling_outputs import BaseModelOutputWithPast

        class Body(torch.nn.Module):
            states: torch.Tensor

            def forward(self, *_: Any, **__: Any) -> Any:
                return BaseModelOutputWithPast(last_hidden_state=self.states)

        body, prefix = Body(), self._network.base_model_prefix
        kept = getattr(self._network, prefix)
        if hold:
            self._hold_the_head()
        setattr(self._network, prefix, body)

        def logits(states: torch.Tensor) -> npt.NDArray[np.float32]:
            body.states = states[None]
            with torch.inference_mode():
                found = self._network(input_ids=torch.zeros((1, len(states)), dtype=torch.long), use_cache=False)
            scores: npt.NDArray[np.float32] = found.logits[0].float().numpy()
            return scores

        try:
            yield logits
        finally:
            setattr(self._network, prefix, kept)

    def _hold_the_head(self) -> None:
        """Read the head's weight once for all windows, and not for each."""
        import torch
        from accelerate.hooks import remove_hook_from_module

        head = self._network.get_output_embeddings()
        if not isinstance(head, torch.nn.Linear) or any(name == "bias" for name, _ in head.named_parameters()):
            return
        if head.weight.device.type != "meta":
            return
        remove_hook_from_module(head)
        head.weight = torch.nn.Parameter(self._weights[HEAD], requires_grad=False)


def give_back(*_: Any) -> None:
    """Return what a layer freed to the system: glibc keeps it, twice the model's size of it by the last layer."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

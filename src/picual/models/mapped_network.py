"""Networks whose weights stay in files: mapped, not read, so that they take no memory of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picual.models.hf import HfModel
from picual.models.safetensors_file import TensorInfo

if TYPE_CHECKING:
    import torch

# Type of a tensor in its file -> its name in torch and the numpy type of the same width.
TYPES = {"F32": ("float32", "float32"), "F16": ("float16", "float16"), "BF16": ("bfloat16", "int16")}


def load_mapped(model: HfModel, dtype: str, scratch: Path) -> Any | None:
    """Return the network of a checkpoint with its weights mapped from files.

    A weight that is changed gets pages of its own, and the file stays as it is.

    Args:
        model: The checkpoint.
        dtype: Of the weights, as torch calls it. Those stored as another one are first written as it.
        scratch: Folder for what is written.

    Returns:
        None where that cannot be: weights have other names than the network's or are packed, or the network brings
        code of its own.
    """
    import transformers
    from accelerate import init_empty_weights

    stored = model.tensors()
    if model.trust_remote_code or model.config().get("quantization_config"):
        return None
    if any(info.dtype not in TYPES or not info.nbytes for info in stored.values()):
        return None
    try:
        settings = transformers.AutoConfig.from_pretrained(model.path, local_files_only=True)
        with init_empty_weights(include_buffers=False):
            network = transformers.AutoModelForCausalLM.from_config(settings, dtype=_torch_type(dtype))
    except (ValueError, KeyError, OSError):
        return None
    tied = set(getattr(network, "_tied_weights_keys", None) or ()) if settings.tie_word_embeddings else set()
    wanted = {name: tuple(weight.shape) for name, weight in network.state_dict().items() if name not in tied}
    if {name: info.shape for name, info in stored.items() if name not in tied} != wanted:
        return None
    chosen = {name: stored[name] for name in wanted}
    network.load_state_dict(_state(chosen, dtype, scratch / f"weights.{dtype}"), strict=False, assign=True)
    network.tie_weights()
    return network.eval()


def _state(chosen: Mapping[str, TensorInfo], dtype: str, file: Path) -> dict[str, torch.Tensor]:
    """Map each tensor from where it is stored, or from ``file``, where those of another type are written."""
    (stored_as,) = [name for name, (known, _) in TYPES.items() if known == dtype]
    width = 4 if stored_as == "F32" else 2
    ready = {name for name, info in chosen.items() if info.dtype == stored_as and info.offset % width == 0}
    written: dict[str, int] = {}
    if len(ready) < len(chosen):
        with file.open("wb") as out:
            for name in sorted(set(chosen) - ready):
                written[name] = out.tell()
                _bits(_mapped(chosen[name]).to(_torch_type(dtype))).tofile(out)
    places = dict(chosen)
    for name, offset in written.items():
        shape = chosen[name].shape
        places[name] = TensorInfo(name, stored_as, shape, file, offset, width * math.prod(shape))
    return {name: _mapped(info) for name, info in places.items()}


def _mapped(info: TensorInfo) -> torch.Tensor:
    """Return a tensor over its file's pages; written to, a page becomes this process's own."""
    import numpy as np
    import torch

    name, plain = TYPES[info.dtype]
    array = np.memmap(info.file, plain, "c", info.offset, info.shape)
    if info.offset % array.itemsize:
        array = array.copy()  # torch takes no address between two numbers
    found = torch.from_numpy(array)
    return found.view(torch.bfloat16) if name == "bfloat16" else found


def _bits(tensor: torch.Tensor) -> Any:
    """Return a tensor's numbers as numpy writes them."""
    import torch

    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def _torch_type(dtype: str) -> Any:
    import torch

    return getattr(torch, dtype)

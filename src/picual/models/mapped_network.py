"""Networks whose weights stay in their file: mapped, not read, so that they take no memory of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from picual.models.hf import HfModel
from picual.models.safetensors_file import TensorInfo

if TYPE_CHECKING:
    import torch

DTYPES = {"F32": "float32", "F16": "float16"}  # of numpy too
STORED_AS = {"float32": "F32", "float16": "F16"}


def load_mapped(model: HfModel, dtype: str) -> Any | None:
    """Return the network of a checkpoint with its weights mapped from their files.

    A weight that is changed gets pages of its own and the file stays as it is.

    Returns:
        None where that cannot be: weights are stored as another type than ``dtype``, under other names than the
        network's, or packed; or the network brings code of its own.
    """
    import transformers
    from accelerate import init_empty_weights

    stored, config = model.tensors(), model.config()
    if model.trust_remote_code or config.get("quantization_config") or dtype not in STORED_AS:
        return None
    if any(not _can_be_mapped(info, STORED_AS[dtype]) for info in stored.values()):
        return None
    try:
        settings = transformers.AutoConfig.from_pretrained(model.path, local_files_only=True)
        with init_empty_weights(include_buffers=False):
            network = transformers.AutoModelForCausalLM.from_config(settings, dtype=_torch_type(dtype))
    except (ValueError, KeyError, OSError):
        return None
    tied = set(getattr(network, "_tied_weights_keys", None) or ()) if settings.tie_word_embeddings else set()
    wanted = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    if {name: info.shape for name, info in stored.items() if name not in tied} != {
        name: shape for name, shape in wanted.items() if name not in tied
    }:
        return None
    state = {name: _mapped(info) for name, info in stored.items() if name not in tied}
    network.load_state_dict(state, strict=False, assign=True)
    network.tie_weights()
    return network.eval()


def _can_be_mapped(info: TensorInfo, stored_as: str) -> bool:
    width = 4 if stored_as == "F32" else 2
    return info.dtype == stored_as and info.offset % width == 0 and info.nbytes > 0


def _mapped(info: TensorInfo) -> torch.Tensor:
    import numpy as np
    import torch

    # "c": written to, a page becomes this process's own
    return torch.from_numpy(np.memmap(info.file, DTYPES[info.dtype], "c", info.offset, info.shape))


def _torch_type(dtype: str) -> Any:
    import torch

    return getattr(torch, dtype)

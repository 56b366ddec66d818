"""The text that networks are compared on: built in, as token ids in windows."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from picual.engine.verification.prompt import load_tokenizer
from picual.models import HfCheckpoint

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TOKENS = 2048
WINDOW = 256


def windows_of(model: HfCheckpoint, context: int) -> npt.NDArray[np.int64]:
    """Return token ids (windows, T) of the built-in text, at least 2048 in all, repeated if it is too short."""
    import numpy as np

    text = resources.files("picual").joinpath("assets/verification/text.txt").read_text(encoding="utf-8")
    tokenizer: Any = load_tokenizer(model.path, model.trust_remote_code)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    length = min(WINDOW, context)
    count = -(-TOKENS // length)
    return np.resize(np.asarray(ids, dtype=np.int64), (count, length))

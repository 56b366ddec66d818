"""The text that a quantizer looks at, as windows of token ids."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from picual.data.base import DataConfig
from picual.data.documents import documents, encode
from picual.data.files import rows
from picual.data.split import train_rows
from picual.errors import Refused
from picual.models import HfModel
from picual.models.hf_loading import load_tokenizer
from picual.passes.base import PassContext

if TYPE_CHECKING:
    import torch

WINDOW = 512  # tokens
FEWEST = 1024  # tokens: with less, the second moments of most inputs say nothing
TEXT = "assets/calibration/text.txt"


def windows_of(model: HfModel, config: DataConfig | None, tokens: int, context: PassContext) -> torch.Tensor:
    """Return token ids (W, T), spread evenly over the data, held-out rows left out.

    Args:
        model: Whose tokenizer reads it.
        config: The data set; None: the built-in text, a few pages of ours.
        tokens: How many are wanted.
        context: Told where the text is shorter.

    Raises:
        Refused: The data hold too few tokens.
    """
    import torch

    ids = _ids(load_tokenizer(model), config)
    length = min(WINDOW, int(model.config().get("max_position_embeddings") or WINDOW))
    available = len(ids) // length
    if available * length < min(FEWEST, 2 * length):
        raise Refused(
            f"the calibration data hold {len(ids)} tokens, and {min(FEWEST, 2 * length)} are the least that help",
            where="the built-in text" if config is None else ", ".join(config.files) or str(config.name),
            hint="give more data, or leave out `data` to use the built-in text",
        )
    wanted = max(1, tokens // length)
    if config is None:
        context.noted("calibrated on built-in text: give `data` that looks like what the model will read")
    elif available < wanted:
        context.noted(f"the calibration data give {available} windows of {length} tokens, {wanted} were wanted")
    count = min(available, wanted)
    starts = [number * available // count * length for number in range(count)]
    return torch.tensor([ids[start : start + length] for start in starts])


def _ids(tokenizer: Any, config: DataConfig | None) -> list[int]:
    if config is None:
        return encode(resources.files("picual").joinpath(TEXT).read_text(encoding="utf-8"), tokenizer)
    return [
        token
        for document in documents(train_rows(rows(config), config), config, tokenizer)
        for token in document.input_ids
    ]

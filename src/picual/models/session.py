"""A model that answers: the same few calls for every kind of model that can generate text.

Floors above ask for logits and text here and never learn which runtime gave them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from picual.errors import Refused
from picual.models.base import Model
from picual.models.hf import HfAdapter, HfCheckpoint
from picual.models.likelihood import Likelihood, Row
from picual.models.onnx import GenaiModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Session(Protocol):
    """One loaded model. Close it to give its memory back."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, special tokens in the text recognised, none added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out."""
        ...

    def first_id(self) -> int:
        """Return the id that a text with nothing before it follows: of BOS, or of EOS where there is none."""
        ...

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> str:
        """Return the messages in the model's own chat template, ready to be continued by the assistant.

        Raises:
            Refused: The model carries no chat template.
        """
        ...

    def logits(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the next-token logits (T, vocabulary) at every position of ``ids`` (T)."""
        ...

    def likelihoods(self, rows: Sequence[Row]) -> list[Likelihood]:
        """Return how likely the ids of each continuation are after the ids of its prompt.

        What prompts share is read once, as far as the network's cache allows.
        """
        ...

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Continue each prompt greedily until EOS, ``max_new_tokens`` or a stop text (left out of the answer)."""
        ...

    def stream(self, prompt: str, *, max_new_tokens: int, sampling: dict[str, Any] | None = None) -> Iterator[str]:
        """Continue one prompt, piece by piece; ``sampling`` holds temperature, top_p, top_k, seed."""
        ...

    def step_times(self, ids: Sequence[int], new_tokens: int) -> list[float]:
        """Return the seconds until the first new token, then of each further one; EOS does not end it."""
        ...

    def forward(self, ids: npt.NDArray[np.int64]) -> None:
        """Run the network once over rows of one length (R, T) and leave its logits where they are."""
        ...

    def warm(self) -> None:
        """Load now what answering needs; without it, the first answer does."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


def open_session(model: Model, *, threads: int, adapter: str | None = None) -> Session:
    """Load ``model`` in its own runtime.

    Args:
        model: Of any kind that generates.
        threads: Of the runtime.
        adapter: Which of the adapters of a GenAI folder answers, or ``none``; None: the one that the folder says.

    Raises:
        Refused: This kind of model does not generate, or has no adapters to choose from.
    """
    if adapter is not None and not isinstance(model, GenaiModel):
        raise Refused(
            f"{model.title} has no adapters to choose from",
            where=str(model.path),
            hint="export it for ONNX Runtime GenAI with its adapters, or leave the choice out",
        )
    if isinstance(model, HfCheckpoint | HfAdapter):
        from picual.models.hf_session import HfSession

        return HfSession(model, threads=threads)
    if isinstance(model, GenaiModel):
        from picual.models.genai_session import GenaiSession

        return GenaiSession(model, threads=threads, adapter=adapter)
    raise Refused(f"{model.title} does not generate text", where=str(model.path))

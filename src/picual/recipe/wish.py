"""What a user asks ``picual optimize`` for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from picual.recipe import sizes

Aim = Literal["quality", "size", "speed"]
TRIALS = 8
_NUMBER = re.compile(r"\s*[0-9]+(?:\.[0-9]+)?\s*")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a user asks for.

    Attributes:
        model: As in a recipe.
        device: What it is made for.
        precision: Of the weights: int8; int4, single weights wider where the limits leave room or ask for it;
            fp16, fp32; None: int4 or int8, whichever keeps the limits best.
        data: A data set as in a recipe, for the accuracy; empty without one.
        max_size: Such as ``110MB``.
        min_accuracy: Such as ``0.85``, or ``0.99x`` of the unquantized model's.
        max_kl: Nats from the unquantized model.
        max_latency: Such as ``8ms`` a token.
        aim: What is best among those that keep the limits; None: by the limits.
        trials: At most.
    """

    model: str | Mapping[str, Any]
    device: str = "cpu"
    precision: str | None = "int4"
    data: Mapping[str, Any] = field(default_factory=dict)
    max_size: str | None = None
    min_accuracy: str | None = None
    max_kl: float | None = None
    max_latency: str | None = None
    aim: Aim | None = None
    trials: int = TRIALS

    @property
    def is_near(self) -> bool:
        """Whether a limit keeps it near to the unquantized model."""
        return self.max_kl is not None or self.min_accuracy is not None

    @property
    def goal(self) -> Aim:
        """What is best: as asked, else the smallest that is good enough, else the best that fits."""
        return self.aim or ("size" if self.is_near and self.max_size is None else "quality")

    @property
    def bytes(self) -> int | None:
        """The largest size; None without one, and where it is a share of another model's."""
        if self.max_size is None:
            return None
        plain = _NUMBER.fullmatch(self.max_size) is not None
        return sizes.bytes_of(f"{self.max_size}MB" if plain else self.max_size)  # as a bound reads it

"""Checkpoints that are known to be whole: a seal is written last, with the digest of every file.

A kill while a checkpoint is written leaves one without a seal, or with one that does not fit; the one before it is
taken then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from picual import _atomic, fingerprint

SEAL = "seal.json"
STATE = "trainer_state.json"


@dataclass
class Tally:
    """What a training has done so far, in this process and in those before it.

    Attributes:
        loss: Sum over the steps, nats a label.
        steps: Optimizer steps.
        tokens: Tokens read, padding left out.
        seconds: Spent in steps, checkpoints and evaluations left out.
    """

    loss: float = 0.0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


def seal(checkpoint: Path, tally: Tally) -> None:
    """Declare a checkpoint whole."""
    digests = {file.name: fingerprint.file_digest(file) for file in _files(checkpoint)}
    _atomic.write_json(checkpoint / SEAL, {"files": digests, "tally": asdict(tally)})


def newest(scratch: Path) -> Path | None:
    """Return the newest whole checkpoint, if there is one; those that are not whole are removed."""
    found = None
    for checkpoint in sorted(scratch.glob("checkpoint-*"), key=step_of, reverse=True):
        if not is_whole(checkpoint):
            _atomic.remove(checkpoint)
        elif found is None:
            found = checkpoint
    return found


def is_whole(checkpoint: Path) -> bool:
    """Say whether every file is as it was when the checkpoint was sealed."""
    sealed = _read(checkpoint / SEAL).get("files")
    if not isinstance(sealed, Mapping) or STATE not in sealed:
        return False
    return sealed == {file.name: fingerprint.file_digest(file) for file in _files(checkpoint)}


def tally_of(checkpoint: Path) -> Tally:
    """Return what the training had done when the checkpoint was sealed."""
    return Tally(**_read(checkpoint / SEAL)["tally"])


def state_of(checkpoint: Path) -> dict[str, Any]:
    """Return the trainer's own state: step, steps in all, what was logged, the best checkpoint."""
    return _read(checkpoint / STATE)


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step that a checkpoint was made after."""
    digits = checkpoint.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1


def _files(checkpoint: Path) -> list[Path]:
    return [file for file in fingerprint.files_under(checkpoint) if file.name != SEAL]


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no seal, or half of one: the checkpoint is not whole
        return {}
    return value if isinstance(value, dict) else {}

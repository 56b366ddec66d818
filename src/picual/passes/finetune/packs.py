"""The rows of one optimizer step as packs: rows end to end, so that no token is padding.

A pack is one row to the network. Positions start anew with each document, and attention stays inside it (see
``attention``). How the rows of a step fall into packs changes no gradient: the loss is divided by the labels of
the whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from picual.data.documents import IGNORED
from picual.data.sequences import Sequence as TokenSequence
from picual.passes.finetune.batches import NOWHERE, collate

# Tokens of a pack, unless a single row is longer. On two cores matrix products reach their speed at 256 rows, and
# what is kept for the backward pass grows with every token: 2 MB each for 135 million weights.
PACK = 256


@dataclass(frozen=True)
class Packing:
    """How the rows of a step become what the network is given, a part at a time.

    Attributes:
        batch: Rows of a part where rows are padded and not packed.
        pad_id: Token that fills a padded row.
        pad_to: Length of padded rows at least; None: of the longest.
        attention_mask: Hand a mask over with padded rows.
        packed: Whether rows are packed; the network must keep them apart.
    """

    batch: int
    pad_id: int
    pad_to: int | None
    attention_mask: bool
    packed: bool

    def __call__(self, rows: Sequence[TokenSequence]) -> dict[str, list[dict[str, Any]]]:
        """Return the parts of a step under ``parts``."""
        if self.packed:
            return {"parts": [pack(chosen) for chosen in together([*rows])]}
        pieces = [rows[at : at + self.batch] for at in range(0, len(rows), self.batch)]
        return {
            "parts": [
                collate(piece, pad_id=self.pad_id, pad_to=self.pad_to, attention_mask=self.attention_mask)
                for piece in pieces
            ]
        }


def together(rows: list[TokenSequence], most: int = PACK) -> list[list[TokenSequence]]:
    """Return the rows in packs of at most ``most`` tokens, or of one row: longest first, each where it fits."""
    packs: list[list[TokenSequence]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row.input_ids)):
        length = len(row.input_ids)
        place = next((number for number, left in enumerate(room) if left >= length), None)
        if place is None:
            packs.append([row])
            room.append(most - length)
        else:
            packs[place].append(row)
            room[place] -= length
    return packs


def pack(rows: Sequence[TokenSequence]) -> dict[str, Any]:
    """Return rows as one: ``input_ids``, ``labels``, ``position_ids`` (1, T); ``lengths``, ``rows`` (D)."""
    import torch

    ids = [token for row in rows for token in row.input_ids]
    # The end of a document does not predict the start of the next one.
    labels = [label for row in rows for label in (IGNORED, *row.labels[1:])]
    positions = [position for row in rows for position in range(len(row.input_ids))]
    return {
        "input_ids": torch.tensor([ids], dtype=torch.long),
        "labels": torch.tensor([labels], dtype=torch.long),
        "position_ids": torch.tensor([positions], dtype=torch.long),
        "lengths": torch.tensor([len(row.input_ids) for row in rows], dtype=torch.long),
        "tokens": torch.tensor(len(ids)),
        "rows": torch.tensor([NOWHERE if row.row is None else row.row for row in rows]),
    }

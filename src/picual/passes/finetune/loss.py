"""The loss of a batch: at the labelled positions alone where the network allows it, its own loss elsewhere.

Documents in packs, layers that are quicker: what a network allows is found out on a few tokens, never assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from picual.data.documents import IGNORED
from picual.data.sequences import Sequence as TokenSequence
from picual.errors import Refused
from picual.passes.finetune import attention
from picual.passes.finetune.packs import pack

if TYPE_CHECKING:
    import torch

PROBE = 16  # tokens on which the two ways must agree
TOLERANCE, HALF_TOLERANCE = 1e-3, 1e-2  # relative; the second for packs where numbers have 8 or 11 bits
SAME = 1e-6  # relative: the same sums of the same numbers
INPUTS = ("input_ids", "attention_mask", "position_ids")  # of the network


class Loss:
    """Computes the loss of batches of one network.

    The last hidden states at the labelled positions go through the head by themselves. A network that does more
    to its logits (a scale, a soft cap) or adds to its loss (balance of experts) gives another number that way: it
    is asked once, on a few tokens, and then keeps its own loss.

    Args:
        model: The network with its adapter, from ``peft``; or the network alone.
        smoothing: Share of the target spread over the vocabulary.
        compiled: The network runs compiled, which only its own way of being called does.
    """

    def __init__(self, model: Any, *, smoothing: float = 0.0, compiled: bool = False) -> None:
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._model, self._network = model, causal
        self._decoder = causal.base_model
        self._head = causal.get_output_embeddings()
        self._smoothing = smoothing
        has_parts = self._decoder is not causal and self._head is not None and not compiled
        self._has_parts = has_parts
        self.at_labels = has_parts
        self._attention: attention.DocumentAttention | None = None

    @property
    def packed(self) -> bool:
        """Whether the network keeps the documents of a pack apart, so that it may be given packs."""
        return self._attention is not None

    def choose(self, ids: Sequence[int]) -> bool:
        """Find out whether the positions with labels are enough, on the beginning of a sequence; say so."""
        import torch

        if not self._has_parts:
            return False
        row = torch.tensor([list(ids[:PROBE])], device=self._model.device)
        was_training = self._model.training
        self._model.eval()
        with torch.no_grad():
            try:
                ours = float(self._from_states({"input_ids": row}, row, row.shape[1] - 1, smoothing=0.0))
            except (AttributeError, TypeError):  # its parts are not called like others'
                self.at_labels = False
            else:
                own = float(self._model(input_ids=row, labels=row, use_cache=False).loss)
                self.at_labels = _near(ours, own, TOLERANCE)
        self._model.train(was_training)
        return self.at_labels

    def allow_packs(self, ids: Sequence[int]) -> bool:
        """Find out whether a network keeps the documents of a pack apart; say so.

        Their loss must be what they have alone, as nearly as its numbers allow, and must not depend on what lies
        before them: that is far more exact, since all shapes are the same.
        """
        first, second = list(ids[:PROBE]), list(ids[PROBE // 2 : PROBE + PROBE // 2])[::-1]
        if not self._has_parts or min(len(first), len(second)) < 2:  # one token has no loss
            return False
        was_training = self._model.training
        self._model.eval()
        apart = self._summed([first]) + self._summed([second])
        self._attention, before = attention.use(self._network)
        tolerance = TOLERANCE if self._model.dtype.itemsize == 4 else HALF_TOLERANCE
        try:
            near = _near(self._summed([first, second]), apart, tolerance)
            one, other = (self._summed([head, second], learnt=1) for head in (first, first[::-1]))
            is_kept = near and _near(one, other, SAME)
        except (Refused, AttributeError, TypeError, ValueError, RuntimeError):  # its attention is of another kind
            is_kept = False
        if not is_kept:
            attention.give_back(self._network, before)
            self._attention = None
        self._model.train(was_training)
        return self.packed

    def _summed(self, documents: Sequence[list[int]], learnt: int | None = None) -> float:
        """Return the summed loss of documents in one pack, or of one of them by its number."""
        import torch

        numbers = range(len(documents)) if learnt is None else [learnt]
        rows = [
            TokenSequence(ids, ids if number in numbers else [IGNORED] * len(ids))
            for number, ids in enumerate(documents)
        ]
        device = self._model.device
        with torch.no_grad():
            return float(self({name: tensor.to(device) for name, tensor in pack(rows).items()}, 1.0))

    def __call__(self, batch: Mapping[str, torch.Tensor], count: float | None = None) -> torch.Tensor:
        """Return the summed loss of a batch divided by ``count``, or by its own labels.

        Args:
            batch: ``input_ids`` and ``labels`` (B, T), maybe ``attention_mask`` (B, T).
            count: Labels of the whole optimizer step, which may have several batches.
        """
        from picual.numerics.label_loss import count_labels

        labels = batch["labels"]
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        if self._attention is not None:
            self._attention.begin(batch["lengths"].tolist() if "lengths" in batch else None)
        own = count_labels(labels)
        divisor = float(own if count is None else count)
        if self.at_labels:
            return self._from_states(inputs, labels, divisor, smoothing=self._smoothing)
        found: torch.Tensor = self._model(**inputs, labels=labels, use_cache=False).loss
        return found * (own / divisor)

    def _from_states(
        self, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor, divisor: float, *, smoothing: float
    ) -> torch.Tensor:
        from picual.numerics.label_loss import label_loss

        hidden = self._decoder(**inputs, use_cache=False).last_hidden_state
        frozen = not any(weight.requires_grad for weight in self._head.parameters())
        return label_loss(hidden, labels, self._head, count=divisor, smoothing=smoothing, head_is_frozen=frozen)


def _near(found: float, expected: float, tolerance: float) -> bool:
    """Say whether two losses are equal up to a relative tolerance; NaN is near nothing."""
    return abs(found - expected) <= tolerance * max(abs(expected), 1e-6)

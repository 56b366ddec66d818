"""What an adapter's files say should happen to each weight of the base, read from headers and config alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual.errors import Refused
from picual.models import HfAdapter
from picual.models.safetensors_file import TensorInfo
from picual.numerics import lora
from picual.passes.adapters.lycoris_edits import Hadamard, Kronecker, hadamard_of, kronecker_of
from picual.passes.adapters.reading import Reading

PREFIX = "base_model.model."
# The parts of an update, after the module's name, and those that there is one of in every update.
FACTOR = re.compile(
    r"\.(?P<part>lora_(embedding_)?[AB]|lora_magnitude_vector|hada_w[12]_[ab]|lokr_w[12](_[ab])?)(\.weight)?$"
)
LEADING = ("lora_A", "lora_embedding_A", "hada_w1_a", "lokr_w2", "lokr_w2_a")
METHODS = ("LORA", "LOHA", "LOKR")  # as peft's configs say it; DoRA is an option of LoRA
# Options of peft's configs under which W' is more than W and the method's update, and what they are called.
NOT_MERGED = {
    "lora_bias": "biases inside the adapter (`lora_bias`)",
    "use_qalora": "QA-LoRA, which pools the inputs",
    "layer_replication": "replicated layers",
    "target_parameters": "adapters on bare parameters (`target_parameters`)",
    "trainable_token_indices": "single trained tokens (`trainable_token_indices`)",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "alora_invocation_tokens": "activated LoRA, which switches itself on at a token",
}


@dataclass(frozen=True)
class LowRank:
    """W += scale * B A, with the factors under two names of one file."""

    file: Path
    a: str
    b: str
    rank: int
    scale: float
    transposed: bool

    def __str__(self) -> str:
        """Say it as the journal does."""
        return f"rank {self.rank}, scale {self.scale:g}"


@dataclass(frozen=True)
class Replacement:
    """W = the tensor the adapter carries in full."""

    file: Path
    tensor: str

    def __str__(self) -> str:
        """Say it as the journal does."""
        return "replaced by the adapter's own"


@dataclass(frozen=True)
class Decomposed:
    """W = the magnitude of each row, times W + scale * B A at length 1."""

    low_rank: LowRank
    magnitude: str

    def __str__(self) -> str:
        """Say it as the journal does."""
        return f"DoRA, {self.low_rank}"


Edit = LowRank | Decomposed | Hadamard | Kronecker | Replacement


@dataclass(frozen=True)
class Tie:
    """A head that shares the embedding's weight."""

    head: str
    embedding: str


def tie_of(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Tie | None:
    """Return the tied pair of a checkpoint, or None when the head has its own weight."""
    head = "lm_head.weight"
    if head in tensors and not config.get("tie_word_embeddings", False):
        return None
    for ending in ("embed_tokens.weight", "wte.weight", "embed_in.weight"):
        for name in tensors:
            if name.endswith(ending):
                return Tie(head, name)
    return None


def edits_of(
    adapters: Sequence[HfAdapter],
    tensors: Mapping[str, TensorInfo],
    tie: Tie | None,
    weights: Sequence[float] = (),
) -> dict[str, list[Edit]]:
    """Return the edits of each weight, in the order in which they apply.

    Args:
        adapters: First trained first.
        tensors: Of the base, by name.
        tie: A tied head can be edited although the base does not store it.
        weights: How often the update of each adapter counts; none: once.

    Raises:
        Refused: An adapter is of a kind that is not merged here, or does not belong to this base.
    """
    known = dict(tensors)
    if tie is not None:
        known[tie.head] = tensors[tie.embedding]
    edits: dict[str, list[Edit]] = {}
    for number, adapter in enumerate(adapters):
        config = adapter.adapter_config()
        _refuse_other_kinds(adapter, config)
        found = _edits(Reading(adapter, config, adapter.tensors(), known, weights[number] if weights else 1.0))
        for name, own in found.items():
            edits.setdefault(name, []).extend(own)
        if tie is not None and config.get("ensure_weight_tying") and {tie.head, tie.embedding} & set(found):
            raise Refused(
                "the adapter changes a tied embedding and head together (`ensure_weight_tying`), "
                "which is not merged here",
                where=str(adapter.path),
                hint="train again without `ensure_weight_tying`",
            )
    return edits


def _refuse_other_kinds(adapter: HfAdapter, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type", "LORA")
    reasons = [text for option, text in NOT_MERGED.items() if config.get(option)]
    start = config.get("init_lora_weights", True)
    if kind not in METHODS:
        reasons.insert(0, f"the method {kind}")
    if isinstance(start, str) and start.lower().split("_")[0] in {"pissa", "olora", "corda", "loftq", "lora"}:
        reasons.append(f"a start that changed the base's weights (`init_lora_weights: {start}`)")
    if reasons:
        raise Refused(
            f"this adapter uses {' and '.join(reasons)}; only LoRA, DoRA, LoHa and LoKr are merged",
            where=str(adapter.path),
            hint="save it as LoRA first, with peft's own conversion",
        )


def _edits(reading: Reading) -> dict[str, list[Edit]]:
    tensors, known = reading.tensors, reading.known
    edits: dict[str, list[Edit]] = {}
    strangers: list[str] = []
    for name in sorted(tensors, key=lambda name: bool(FACTOR.search(name))):  # what replaces before what adds
        matched = FACTOR.search(name)
        plain = name.removeprefix(PREFIX).replace(".base_layer.", ".")
        module = plain.removesuffix(name[matched.start() :]) if matched else ""
        target = f"{module}.weight" if matched else plain
        if target not in known:
            strangers.append(name)
        elif matched is None:
            reading.check_shapes(target, known[target].shape == tensors[name].shape, [name])
            if reading.weight != 1.0:
                raise _counts_once(reading, f"`{target}` in full")
            edits.setdefault(target, []).append(Replacement(reading.file, name))
        elif matched["part"] in LEADING and not _is_doubled(name, tensors):
            prefix = name[: matched.start() + 1]
            edits.setdefault(target, []).append(_update(reading, prefix, module, name, matched["part"]))
        elif _is_doubled(name, tensors) or not _is_used(reading, name[: matched.start() + 1], matched["part"]):
            strangers.append(name)
    if strangers:
        raise Refused(
            f"{len(strangers)} tensors of the adapter match no weight of the base: {_some(strangers)}",
            where=str(reading.adapter.path),
            hint="give the model this adapter was trained on",
        )
    if not edits:
        raise Refused("the adapter holds no tensor", where=str(reading.adapter.path), hint="train it again")
    return edits


def _is_doubled(name: str, tensors: Mapping[str, TensorInfo]) -> bool:
    """Say whether a matrix in factors is there whole as well."""
    return name.endswith("lokr_w2_a") and name.removesuffix("_a") in tensors


def _is_used(reading: Reading, prefix: str, part: str) -> bool:
    """Say whether a later part of an update goes with a first one, so that it is read with it."""
    if part == "lora_magnitude_vector" and not reading.config.get("use_dora"):
        return False
    family = [first for first in LEADING if first[:4] == part[:4]]
    return any(f"{prefix}{first}{ending}" in reading.tensors for first in family for ending in ("", ".weight"))


def _update(reading: Reading, prefix: str, module: str, name: str, part: str) -> Edit:
    """Return the edit that a module's update is, from its first part on."""
    if part.startswith("hada"):
        return hadamard_of(reading, prefix, module)
    if part.startswith("lokr"):
        return kronecker_of(reading, prefix, module)
    low_rank = _low_rank(reading, name, module, "embedding" in part)
    if not reading.config.get("use_dora"):
        return low_rank
    magnitude = f"{prefix}lora_magnitude_vector"
    magnitude = magnitude if magnitude in reading.tensors else f"{magnitude}.weight"
    if magnitude not in reading.tensors:
        raise reading.lacks(magnitude, name)
    if reading.weight != 1.0:
        raise _counts_once(reading, "DoRA, which gives every row its length")
    height = reading.known[f"{module}.weight"].shape[1 if low_rank.transposed else 0]
    reading.check_shapes(f"{module}.weight", reading.shape(magnitude) == (height,), [magnitude])
    return Decomposed(low_rank, magnitude)


def _counts_once(reading: Reading, what: str) -> Refused:
    return Refused(
        f"an adapter of weight {reading.weight:g} carries {what}: that cannot be weighted",
        where=str(reading.adapter.path),
        hint="give this adapter the weight 1",
    )


def _low_rank(reading: Reading, a: str, module: str, embedding: bool) -> LowRank:
    tensors, target, b = reading.tensors, f"{module}.weight", _partner(a)
    if b not in tensors:
        raise reading.lacks(b, a)
    rank = reading.rank(module)
    transposed = embedding or bool(reading.config.get("fan_in_fan_out", False))
    shape = reading.known[target].shape[::-1] if transposed else reading.known[target].shape
    fits = tensors[a].shape == (rank, *shape[1:]) and tensors[b].shape == (*shape[:1], rank) and len(shape) == 2
    reading.check_shapes(target, fits, [a, b])
    scale = lora.scaling(rank, reading.alpha(module), rank_stabilized=bool(reading.config.get("use_rslora")))
    return LowRank(reading.file, a, b, rank, reading.weight * scale, transposed)


def _partner(a: str) -> str:
    """Return the name of B for that of A."""
    return re.sub(r"\.lora_(embedding_)?A", lambda m: f".lora_{m[1] or ''}B", a)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")

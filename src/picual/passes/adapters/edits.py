"""What an adapter's files say should happen to each weight of the base, read from headers and config alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picual.errors import Refused
from picual.models import HfAdapter
from picual.models.quantized import DTYPE
from picual.models.safetensors_file import TensorInfo
from picual.numerics import lora

PREFIX = "base_model.model."
FLOATS = ("F64", "F32", "F16", "BF16")
ADAPTER_FILE = "adapter_model.safetensors"

# Options of peft's LoraConfig under which W' is more than W + scale * B A, and what they are called.
NOT_PLAIN = {
    "use_dora": "DoRA, which also rescales every row",
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


Edit = LowRank | Replacement


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
    adapters: Sequence[HfAdapter], tensors: Mapping[str, TensorInfo], tie: Tie | None
) -> dict[str, list[Edit]]:
    """Return the edits of each weight, in the order in which they apply.

    Args:
        adapters: First trained first.
        tensors: Of the base, by name.
        tie: A tied head can be edited although the base does not store it.

    Raises:
        Refused: An adapter is of a kind that is not merged here, or does not belong to this base.
    """
    known = dict(tensors)
    if tie is not None:
        known[tie.head] = tensors[tie.embedding]
    edits: dict[str, list[Edit]] = {}
    for adapter in adapters:
        config = adapter.adapter_config()
        _refuse_other_kinds(adapter, config)
        found = _edits(adapter, config, known)
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
    reasons = [text for option, text in NOT_PLAIN.items() if config.get(option)]
    start = config.get("init_lora_weights", True)
    if kind != "LORA":
        reasons.insert(0, f"the method {kind}, not LoRA")
    if isinstance(start, str) and start.lower().split("_")[0] in {"pissa", "olora", "corda", "loftq", "lora"}:
        reasons.append(f"a start that changed the base's weights (`init_lora_weights: {start}`)")
    if reasons:
        raise Refused(
            f"this adapter uses {' and '.join(reasons)}; only plain LoRA is merged",
            where=str(adapter.path),
            hint="save it as plain LoRA first, with peft's own conversion",
        )


def _edits(
    adapter: HfAdapter, config: Mapping[str, Any], known: Mapping[str, TensorInfo]
) -> dict[str, list[Edit]]:
    tensors = adapter.tensors()
    edits: dict[str, list[Edit]] = {}
    strangers: list[str] = []
    for name in sorted(tensors, key=lambda name: ".lora_" in name):  # what replaces comes before what adds
        plain = name.removeprefix(PREFIX).replace(".base_layer.", ".")
        matched = re.fullmatch(r"(.+)\.lora_(embedding_)?([AB])(\.weight)?", plain)
        target = f"{matched[1]}.weight" if matched else plain
        if target not in known:
            strangers.append(name)
        elif matched is None:
            _check_shapes(adapter, target, known[target].shape == tensors[name].shape, known, tensors, [name])
            edits.setdefault(target, []).append(Replacement(adapter.path / ADAPTER_FILE, name))
        elif matched[3] == "A":
            edits.setdefault(target, []).append(
                _low_rank(adapter, config, name, matched[1], bool(matched[2]), known)
            )
        elif _partner(name) not in tensors:
            strangers.append(name)
    if strangers:
        raise Refused(
            f"{len(strangers)} tensors of the adapter match no weight of the base: {_some(strangers)}",
            where=str(adapter.path),
            hint="give the model this adapter was trained on",
        )
    if not edits:
        raise Refused("the adapter holds no tensor", where=str(adapter.path), hint="train it again")
    return edits


def _low_rank(
    adapter: HfAdapter, config: Mapping[str, Any], a: str, module: str, embedding: bool,
    known: Mapping[str, TensorInfo],
) -> LowRank:  # fmt: skip
    tensors, target, b = adapter.tensors(), f"{module}.weight", _partner(a)
    if b not in tensors:
        raise Refused(
            f"the adapter has `{a}` and no `{b}`", where=str(adapter.path), hint="save the adapter again"
        )
    rank = int(_of_module(config.get("rank_pattern"), module, config["r"]))
    alpha = float(_of_module(config.get("alpha_pattern"), module, config["lora_alpha"]))
    transposed = embedding or bool(config.get("fan_in_fan_out", False))
    shape = known[target].shape[::-1] if transposed else known[target].shape
    fits = tensors[a].shape == (rank, *shape[1:]) and tensors[b].shape == (*shape[:1], rank) and len(shape) == 2
    _check_shapes(adapter, target, fits, known, tensors, [a, b])
    scale = lora.scaling(rank, alpha, rank_stabilized=bool(config.get("use_rslora")))
    return LowRank(adapter.path / ADAPTER_FILE, a, b, rank, scale, transposed)


def _partner(name: str) -> str:
    """Return the name of B for that of A, and the other way round."""
    return re.sub(r"\.lora_(embedding_)?([AB])", lambda m: f".lora_{m[1] or ''}{'BA'['AB'.index(m[2])]}", name)


def _of_module(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """Return the value of the first pattern that matches the end of a module's name, at a dot."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def _check_shapes(
    adapter: HfAdapter, target: str, fits: bool, known: Mapping[str, TensorInfo],
    tensors: Mapping[str, TensorInfo], names: Sequence[str],
) -> None:  # fmt: skip
    info = known[target]
    if not fits:
        shapes = " and ".join(str(tensors[name].shape) for name in names)
        raise Refused(
            f"the adapter does not fit `{target}` {info.shape}: it brings {shapes}",
            where=str(adapter.path),
            hint="give the model this adapter was trained on",
        )
    if info.dtype not in (*FLOATS, DTYPE):
        raise Refused(
            f"`{target}` holds {info.dtype}, not floating point: an adapter cannot be added to it",
            where=str(info.file.parent),
            hint="merge into the model's float checkpoint, then quantize",
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")

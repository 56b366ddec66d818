"""How big a language model is: the few numbers from which memory, disk and time are forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picual.models.safetensors_file import TensorInfo


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes of a decoder-only language model. Counts are elements, ``bytes`` is what lies on disk."""

    architecture: str
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_size: int
    context: int
    tied: bool
    linear: int  # weights in linear layers, head not counted
    embedding: int  # one vocabulary x hidden table
    other: int  # norms, biases
    bytes: int

    @property
    def parameters(self) -> int:
        """Elements stored: a tied head counts once."""
        return self.linear + self.other + self.embedding * (1 if self.tied else 2)

    @property
    def per_layer(self) -> int:
        """Linear weights of one decoder layer."""
        return self.linear // max(self.layers, 1)

    @classmethod
    def from_checkpoint(cls, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Profile:
        """Read the sizes off ``config.json`` and the safetensors headers."""
        config = config.get("text_config", config)
        hidden = int(config.get("hidden_size", 0))
        heads = int(config.get("num_attention_heads", 1))
        vocabulary = int(config.get("vocab_size", 0))
        tables = [t for t in tensors.values() if len(t.shape) == 2 and t.shape == (vocabulary, hidden)]
        linear = sum(t.count for t in tensors.values() if len(t.shape) == 2 and t.shape != (vocabulary, hidden))
        other = sum(t.count for t in tensors.values() if len(t.shape) != 2)
        names = {t.name for t in tables}
        return cls(
            architecture=str((config.get("architectures") or [config.get("model_type", "unknown")])[0]),
            layers=int(config.get("num_hidden_layers", 0)),
            hidden=hidden,
            intermediate=int(config.get("intermediate_size", 0)),
            vocabulary=vocabulary,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or (hidden // max(heads, 1))),
            context=int(config.get("max_position_embeddings", 0)),
            tied=not any("lm_head" in name for name in names),
            linear=linear,
            embedding=vocabulary * hidden,
            other=other,
            bytes=sum(t.nbytes for t in tensors.values()),
        )

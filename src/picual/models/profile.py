"""How big a language model is: the few numbers from which memory, disk and time are forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from picual.errors import UnreadableModel
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
    quantized: int = 0  # of ``bytes``, those of weights stored as integers with their scales

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
        hidden = _size(config, "hidden_size", "n_embd", "d_model")
        heads = _size(config, "num_attention_heads", "n_head", default=1)
        vocabulary = _size(config, "vocab_size")
        tables = [t for t in tensors.values() if len(t.shape) == 2 and t.shape == (vocabulary, hidden)]
        linear = sum(t.count for t in tensors.values() if len(t.shape) == 2 and t.shape != (vocabulary, hidden))
        other = sum(t.count for t in tensors.values() if len(t.shape) != 2)
        names = {t.name for t in tables}
        return cls(
            architecture=str((config.get("architectures") or [config.get("model_type", "unknown")])[0]),
            layers=_size(config, "num_hidden_layers", "n_layer"),
            hidden=hidden,
            intermediate=_size(config, "intermediate_size", "n_inner", default=4 * hidden),
            vocabulary=vocabulary,
            heads=heads,
            kv_heads=_size(config, "num_key_value_heads", default=heads),
            head_size=_size(config, "head_dim", default=hidden // heads),
            context=_size(config, "max_position_embeddings", "n_positions", default=2048),
            tied=not any("lm_head" in name for name in names),
            linear=linear,
            embedding=vocabulary * hidden,
            other=other,
            bytes=sum(t.nbytes for t in tensors.values()),
        )


def _size(config: Mapping[str, Any], *names: str, default: int = 0) -> int:
    """Return the first of the sizes that the config gives.

    Raises:
        UnreadableModel: It is no whole number above 0, or none is there and no default.
    """
    name = next((name for name in names if config.get(name) is not None), None)
    value = default if name is None else config[name]
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    what = f"does not say `{names[0]}`" if name is None else f"says `{name}: {value!r}`, which is no size"
    raise UnreadableModel(f"`config.json` {what}", hint="give a language model's checkpoint, whole")

"""Phi-3-mini-4k-instruct as files of its true sizes that take no room: the data of its tensors are holes."""

from __future__ import annotations

import json
from pathlib import Path

LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY = 32, 3072, 8192, 32064
CONFIG = {
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
    "hidden_act": "silu", "hidden_size": HIDDEN, "initializer_range": 0.02, "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "num_attention_heads": 32,
    "num_hidden_layers": LAYERS, "num_key_value_heads": 32, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_cache": True, "vocab_size": VOCABULARY,
}  # fmt: skip


def shapes() -> dict[str, tuple[int, ...]]:
    """Return every tensor of the checkpoint."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    for layer in range(LAYERS):
        found |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (HIDDEN,),
                "post_attention_layernorm": (HIDDEN,),
                "self_attn.qkv_proj": (3 * HIDDEN, HIDDEN),
                "self_attn.o_proj": (HIDDEN, HIDDEN),
                "mlp.gate_up_proj": (2 * INTERMEDIATE, HIDDEN),
                "mlp.down_proj": (HIDDEN, INTERMEDIATE),
            }.items()
        }
    return found


def parameters() -> int:
    """Return how many numbers the checkpoint holds."""
    total = 0
    for shape in shapes().values():
        count = 1
        for size in shape:
            count *= size
        total += count
    return total


def write(folder: Path) -> Path:
    """Write config, index and two shards in bfloat16."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    found = list(shapes().items())
    halves = [dict(found[: len(found) // 2]), dict(found[len(found) // 2 :])]
    places: dict[str, str] = {}
    for number, part in enumerate(halves, 1):
        name = f"model-{number:05}-of-00002.safetensors"
        _write_shard(folder / name, part)
        places |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 2 * parameters()}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _write_shard(file: Path, part: dict[str, tuple[int, ...]]) -> None:
    header, end = {}, 0
    for name, shape in part.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)

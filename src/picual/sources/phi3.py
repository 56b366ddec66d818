"""A Llama network in Phi-3's layout: q, k, v in one matrix, gate and up in another; the same logits."""

from __future__ import annotations

from typing import Any


def phi3_from_llama(llama: Any) -> Any:
    """Return a ``Phi3ForCausalLM`` that computes what ``llama`` (a ``LlamaForCausalLM``) computes.

    The rows of ``qkv_proj`` are those of q, then k, then v; of ``gate_up_proj``, gate then up. The result is to
    be saved: what is not saved (the rotary tables) is not filled.
    """
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    old = llama.config
    shared = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings",
        "bos_token_id", "eos_token_id", "pad_token_id", "hidden_act", "initializer_range",
    )  # fmt: skip
    config = Phi3Config(
        **{name: getattr(old, name) for name in shared},
        original_max_position_embeddings=old.max_position_embeddings,
        rope_parameters=dict(old.rope_parameters),
    )
    with torch.device("meta"):  # the weights come from the Llama: do not make random ones first
        phi3: Any = Phi3ForCausalLM(config)
    phi3.load_state_dict(_fused(llama.state_dict()), assign=True)
    phi3.tie_weights()
    phi3.generation_config = llama.generation_config
    return phi3.to(dtype=llama.dtype)


def _fused(weights: dict[str, Any]) -> dict[str, Any]:
    import torch

    fused: dict[str, Any] = {}
    for name, weight in weights.items():
        stem, _, part = name.rpartition(".self_attn.")
        if part == "q_proj.weight":
            rows = [weights[f"{stem}.self_attn.{letter}_proj.weight"] for letter in "qkv"]
            fused[f"{stem}.self_attn.qkv_proj.weight"] = torch.cat(rows)
        elif name.endswith(".mlp.gate_proj.weight"):
            stem = name.removesuffix("gate_proj.weight")
            fused[f"{stem}gate_up_proj.weight"] = torch.cat([weight, weights[f"{stem}up_proj.weight"]])
        elif not name.endswith(("k_proj.weight", "v_proj.weight", ".up_proj.weight")):
            fused[name] = weight
    return fused

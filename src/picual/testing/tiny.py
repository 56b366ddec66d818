"""Tiny real models made by code, in a second: the networks of the big ones with sizes that fit a unit test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from picual.models import HfModel

Layout = Literal["llama", "phi3", "qwen2", "qwen3", "mistral", "gemma"]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")


def tiny_model(
    folder: Path,
    *,
    layout: Layout = "llama",
    tied: bool = True,
    seed: int = 0,
    layers: int = 2,
    kv_heads: int = 2,
) -> HfModel:
    """Write a checkpoint of a few hundred thousand random weights, with a byte-level tokenizer.

    Hidden size 64, 4 heads of 16, 2 of keys and values if not asked otherwise, 96 intermediate, 320 tokens,
    context 512.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": kv_heads, "head_dim": 16, "max_position_embeddings": 512,
        "tie_word_embeddings": tied, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 256,
    }  # fmt: skip
    if layout == "phi3":
        sizes["original_max_position_embeddings"] = 512
        del sizes["head_dim"]
    config = AutoConfig.for_model(layout, **sizes)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # the default init is so small that every logit is almost zero
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 0.5 if "embed" in name else 0.15)
            elif "norm" in name:
                weight.uniform_(0.7, 1.3)
    model.generation_config.eos_token_id = 257
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return HfModel(folder)


def _tokenizer() -> Any:
    """Return a tokenizer with one token a byte: no training, every text reversible."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[1], pad_token=SPECIAL[0],
        chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False,
    )  # fmt: skip

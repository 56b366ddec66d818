from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from picual.errors import UnreadableModel
from picual.models import HfModel
from picual.sources.digests import DigestMemory
from picual.sources.folder import examine
from picual.sources.gguf import GgufSource
from picual.sources.resolve import resolve

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q and k in the order of GGUF: the two halves of a head's rotary pairs side by side."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def write_gguf(model: HfModel, file: Path) -> Path:
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    config = model.config()
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    tokens = [tokenizer.convert_ids_to_tokens(index) or f"<|unused{index}|>" for index in range(320)]
    special = set(range(256, 320))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    tokens[319] = tokens[0] + tokens[1]  # the format wants a merge; no text here holds these two together
    special.remove(319)
    writer.add_token_types([3 if index in special else 1 for index in range(320)])
    writer.add_token_merges([f"{tokens[0]} {tokens[1]}"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_chat_template(tokenizer.chat_template)
    for name, weight in load_file(model.path / "model.safetensors").items():
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        renamed = name
        for old, new in NAMES.items():
            renamed = renamed.replace(old, new)
        writer.add_tensor(renamed.replace("model.layers", "blk"), interleaved(weight, heads) if heads else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def file(tiny: HfModel, tmp_path: Path) -> Path:
    return write_gguf(tiny, tmp_path / "tiny.gguf")


def logits(model: HfModel) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    with torch.no_grad():
        return network.eval()(torch.arange(40, 80)[None]).logits


def test_a_gguf_file_becomes_a_checkpoint_with_the_same_logits_and_prompt(
    file: Path, tiny: HfModel, fetch: Callable[..., Any]
) -> None:
    model, told = fetch(file.name)

    examine(model)
    assert told["model"] == {"kind": "hf", "path": "."}
    assert "float32" in told["notes"][0]
    assert {tensor.dtype for tensor in model.tensors().values()} == {"F32"}
    assert torch.equal(logits(model), logits(tiny))
    from transformers import AutoTokenizer

    before, after = AutoTokenizer.from_pretrained(tiny.path), AutoTokenizer.from_pretrained(model.path)
    chat = [{"role": "user", "content": "Is it 5 o'clock, or later?"}]
    assert after.apply_chat_template(chat, tokenize=False) == before.apply_chat_template(chat, tokenize=False)
    text = before.apply_chat_template(chat, tokenize=False)
    assert after.encode(text) == before.encode(text)
    assert after.eos_token == before.eos_token


def test_twice_fetched_the_bytes_are_the_same_and_name_no_folder(
    file: Path, fetch: Callable[..., Any], tmp_path: Path
) -> None:
    from picual import fingerprint

    first, _ = fetch(file.name)
    moved = tmp_path / "elsewhere" / "renamed.gguf"
    moved.parent.mkdir()
    file.rename(moved)
    second, _ = fetch(str(moved))
    names = [path.name for path in fingerprint.files_under(first.path)]
    assert names == [path.name for path in fingerprint.files_under(second.path)]
    for name in names:
        content = (first.path / name).read_bytes()
        assert content == (second.path / name).read_bytes(), name
        assert str(tmp_path).encode() not in content, name
        assert b"transformers_version" not in content, name


def test_the_key_is_of_the_files_content(file: Path, tmp_path: Path) -> None:
    memory = DigestMemory(None)
    key = GgufSource(file=file, digests=memory).key_parts()
    moved = file.rename(tmp_path / "moved.gguf")
    assert GgufSource(file=moved, digests=memory).key_parts() == key
    content = bytearray(moved.read_bytes())
    content[-1] ^= 1
    moved.write_bytes(content)
    assert GgufSource(file=moved, digests=DigestMemory(None)).key_parts() != key


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not a GGUF file"),
        (b"PK\x03\x04 a zip file", "not a GGUF file"),
        (b"GGUF\x09\x00\x00\x00", "version 9"),
        (b"GGUF\x03\x00\x00\x00", "cannot read"),
    ],
)
def test_what_is_no_gguf_file_is_named(
    content: bytes, what: str, tmp_path: Path, fetch: Callable[..., Any]
) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(UnreadableModel, match=what) as caught:
        fetch("bad.gguf")
    assert "bad.gguf" in caught.value.where


def test_a_file_cut_short_is_named(file: Path, fetch: Callable[..., Any]) -> None:
    file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(UnreadableModel, match="cannot read"):
        fetch(file.name)


def test_a_folder_with_one_gguf_file_will_do_when_the_format_says_so(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file.rename(folder / "only.gguf")
    source = resolve("folder", format="gguf", folder=tmp_path)
    assert isinstance(source, GgufSource)
    assert source.file == folder / "only.gguf"
    assert source.fetches
    assert source.locate() is None

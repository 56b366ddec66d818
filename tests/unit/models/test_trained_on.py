from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from picual.errors import UnreadableModel
from picual.models import HfAdapter, HfModel
from picual.models.trained_on import FILE, TAKEN_OFF, FourBit, TrainedOn, base_digest, held_in_four_bits, read
from picual.testing import tiny_model

HELD = FourBit(format="fp4", double_quant=True, names=("a.weight", "b.weight"))


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize("weights", [None, HELD])
def test_what_is_written_is_read_again(weights: FourBit | None, tmp_path: Path) -> None:
    TrainedOn("abc", weights).write(tmp_path)
    assert read(tmp_path) == TrainedOn("abc", weights)


def test_what_was_taken_off_is_found_beside_the_file_and_missed_where_it_is_not(tmp_path: Path) -> None:
    file = tmp_path / TAKEN_OFF
    held = replace(HELD, taken_off=file)
    TrainedOn("abc", held).write(tmp_path)
    with pytest.raises(UnreadableModel, match=f"`{TAKEN_OFF}` is missing"):
        read(tmp_path)
    file.write_bytes(b"")
    assert read(tmp_path) == TrainedOn("abc", held)
    assert str(tmp_path) not in (tmp_path / FILE).read_text()


def test_an_adapter_from_elsewhere_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) is None


NOT_KNOWN: list[dict[str, object]] = [
    {"version": 2, "digest": "a", "weights": None}, {"version": 1, "weights": None},
    {"version": 1, "digest": "a", "weights": {"format": "nf3", "block": 64, "double_quant": True, "names": []}},
    {"version": 1, "digest": "a", "weights": {"format": "nf4", "block": 32, "double_quant": True, "names": []}},
]  # fmt: skip


@pytest.mark.parametrize("said", NOT_KNOWN)
def test_what_this_version_does_not_know_is_refused(said: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(said))
    with pytest.raises(UnreadableModel, match=FILE):
        read(tmp_path)


def test_adapters_of_a_chain_that_say_nothing_leave_it_to_the_others(tmp_path: Path) -> None:
    base = HfModel(tmp_path / "base")
    silent = HfAdapter(folder(tmp_path / "a"), base)
    saying = HfAdapter(folder(tmp_path / "b"), silent)
    TrainedOn("abc", HELD).write(saying.path)
    assert held_in_four_bits(silent.chain()) is None
    assert held_in_four_bits(saying.chain()) == HELD


def test_adapters_of_a_chain_that_disagree_are_refused(tmp_path: Path) -> None:
    first = HfAdapter(folder(tmp_path / "a"), HfModel(tmp_path / "base"))
    second = HfAdapter(folder(tmp_path / "b"), first)
    TrainedOn("abc", HELD).write(first.path)
    TrainedOn("abc", None).write(second.path)
    with pytest.raises(UnreadableModel, match="held in different ways"):
        held_in_four_bits(second.chain())


def test_the_digest_is_of_the_network_and_not_of_its_files(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    other = tmp_path / "elsewhere"
    AutoModelForCausalLM.from_pretrained(base.path).save_pretrained(other, max_shard_size="100KB")
    config = {**base.config(), "transformers_version": "0.0", "_name_or_path": "x"}
    (other / "config.json").write_text(json.dumps(config))
    assert len(HfModel(other).weight_files()) > 1
    assert base_digest(HfModel(other)) == base_digest(base)


@pytest.mark.parametrize("change", ["weight", "config", "name"])
def test_another_weight_or_another_config_is_another_digest(change: str, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    before = base_digest(base)
    if change == "config":
        (base.path / "config.json").write_text(json.dumps(base.config() | {"rms_norm_eps": 1e-3}))
    else:
        tensors = load_file(base.path / "model.safetensors")
        norm = tensors.pop("model.norm.weight")
        norm = torch.nextafter(norm, torch.zeros(())) if change == "weight" else norm
        tensors["model.norm.weight" if change == "weight" else "model.morn.weight"] = norm
        save_file(tensors, base.path / "model.safetensors", {"format": "pt"})
    assert base_digest(base) != before

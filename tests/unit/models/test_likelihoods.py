"""How likely texts are after prompts, against torch's own log-softmax over the whole row."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from picual.errors import StepFailed
from picual.models import GenaiModel, HfModel, Model
from picual.models.genai_decoder import Decoder
from picual.models.likelihood import Row
from picual.models.session import open_session
from picual.testing.tiny import tiny_model

KINDS = ["taught", "taught_genai"]


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


def expected(checkpoint: HfModel, rows: Sequence[Row]) -> list[tuple[float, bool]]:
    network = AutoModelForCausalLM.from_pretrained(checkpoint.path)
    found = []
    for prompt, text in rows:
        ids = torch.tensor([[*prompt, *text]])
        with torch.inference_mode():
            logs = network(ids).logits[0].double().log_softmax(-1)[len(prompt) - 1 : -1]
        chosen = logs[torch.arange(len(text)), torch.tensor(list(text))]
        found.append((float(chosen.sum()), bool((logs.argmax(-1) == torch.tensor(list(text))).all())))
    return found


def some_rows(count: int, *, shared: int) -> list[Row]:
    """Prompts with a common beginning, each with texts of one and of several tokens."""
    chance = random.Random(count + shared)

    def ids(length: int) -> list[int]:
        return chance.choices(range(255), k=length)

    start, rows = ids(shared), list[Row]()
    for _ in range(count):
        prompt = [*start, *ids(chance.randint(1, 9))]
        rows += [(prompt, ids(length)) for length in (1, 1, 2, 5)]
    chance.shuffle(rows)
    return rows


@pytest.mark.parametrize("model", KINDS, indirect=True)
@pytest.mark.parametrize(("count", "shared"), [(5, 0), (5, 30), (1, 12)])
def test_they_are_those_of_the_whole_row(model: Model, taught: HfModel, count: int, shared: int) -> None:
    rows = some_rows(count, shared=shared)
    if shared:  # what the model has learnt, so that some texts are the most likely ones
        text = [ord(letter) for letter in "joy"]
        rows.append((rows[0][0], text))

    with contextlib.closing(open_session(model, threads=1)) as session:
        found = session.likelihoods(rows)
        again = session.likelihoods(rows[:1])

    for one, (total, greedy) in zip(found, expected(taught, rows), strict=True):
        assert one.log_probability == pytest.approx(total, rel=1e-4, abs=1e-4)
        assert one.greedy is greedy
    assert again[0].log_probability == pytest.approx(found[0].log_probability, rel=1e-5)


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_what_a_model_writes_is_greedy(model: Model, tones: dict[str, str]) -> None:
    phrase, tone = next(iter(tones.items()))
    with contextlib.closing(open_session(model, threads=1)) as session:
        prompt = session.encode(f"<|user|>\n{phrase}<|end|>\n<|assistant|>\n")
        right, wrong = session.likelihoods([(prompt, session.encode(tone)), (prompt, session.encode("fear"))])

    assert (right.greedy, wrong.greedy) == (True, False)
    assert right.log_probability > wrong.log_probability
    assert math.exp(right.log_probability) > 0.5


def test_a_cache_that_cannot_branch_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sliding layers keep no whole list of keys; each row is read in full then."""
    checkpoint = tiny_model(tmp_path / "m")
    monkeypatch.setattr("picual.models.hf_session._is_plain", lambda _cache: False)
    rows = some_rows(3, shared=20)

    with contextlib.closing(open_session(checkpoint, threads=1)) as session:
        found = session.likelihoods(rows)

    for one, (total, _) in zip(found, expected(checkpoint, rows), strict=True):
        assert one.log_probability == pytest.approx(total, rel=1e-5, abs=1e-5)


def test_positions_and_mask_go_on_from_what_was_read_before(taught_genai: GenaiModel) -> None:
    """The builder's graphs count positions themselves; others are told."""
    from types import SimpleNamespace

    import numpy as np

    decoder = Decoder(taught_genai.decoder(), taught_genai.config()["model"], threads=1)
    ids = np.zeros((2, 3), dtype=np.int64)

    def fed(name: str) -> list[Any]:
        return decoder._input(SimpleNamespace(name=name, type="tensor(int64)", shape=[2, 3]), ids, 5).tolist()

    assert fed("position_ids") == [[5, 6, 7]] * 2
    assert fed("attention_mask") == [[1] * 8] * 2


def broken(checkpoint: HfModel, folder: Path, name: str = "model.norm.weight") -> HfModel:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint.path, folder)
    tensors: dict[str, Any] = load_file(folder / "model.safetensors")
    tensors[name][:] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return HfModel(folder)


def test_a_model_whose_logits_are_no_numbers_answers_nothing(taught: HfModel, tmp_path: Path) -> None:
    with (
        contextlib.closing(open_session(broken(taught, tmp_path / "m"), threads=1)) as session,
        pytest.raises(StepFailed, match="logits after the prompt 'Say it' are not finite"),
    ):
        session.generate(["Say it"], max_new_tokens=3)


def test_an_exported_one_does_not_either(taught_genai: GenaiModel, tmp_path: Path) -> None:
    import shutil

    import numpy as np
    import onnx
    from onnx import numpy_helper

    shutil.copytree(taught_genai.path, tmp_path / "g")
    file = tmp_path / "g" / "model.onnx"
    graph = onnx.load(file)
    (norm,) = [one for one in graph.graph.initializer if "final_norm" in one.name]
    norm.CopyFrom(numpy_helper.from_array(np.full(norm.dims, np.nan, np.float32), norm.name))
    onnx.save(graph, file, save_as_external_data=True, location="model.onnx.data")

    with (
        contextlib.closing(open_session(GenaiModel(tmp_path / "g"), threads=1)) as session,
        pytest.raises(StepFailed, match="logits after the prompt 'Say it' are not finite"),
    ):
        session.generate(["Say it"], max_new_tokens=3)

from __future__ import annotations

import json
from pathlib import Path

import pytest

from picual.errors import BadValue, Refused
from picual.metrics.base import MetricContext
from picual.metrics.latency import Latency, figures, percentile, random_ids
from picual.metrics.size import Size
from picual.models import GenaiModel, HfAdapter, HfModel, Model, OnnxModel


def files_of(folder: Path, sizes: dict[str, int]) -> Path:
    folder.mkdir()
    for name, size in sizes.items():
        (folder / name).write_bytes(b"0" * size)
    return folder


def test_size_counts_graph_and_weights_and_nothing_else(tmp_path: Path) -> None:
    exported = files_of(tmp_path / "g", {"model.onnx": 1000, "model.onnx.data": 2_000_000, "tokenizer.json": 500})
    checkpoint = HfModel(files_of(tmp_path / "h", {"model.safetensors": 3000, "config.json": 10}))
    adapter = HfAdapter(files_of(tmp_path / "a", {"adapter_model.safetensors": 400, "x.json": 9}), checkpoint)
    second = HfAdapter(files_of(tmp_path / "b", {"adapter_model.safetensors": 50}), adapter)

    def size(model: Model) -> object:
        return Size().measure(model, MetricContext())["size_mb"]

    assert size(GenaiModel(exported)) == 2.001
    assert size(OnnxModel(exported / "model.onnx")) == 2.001
    assert size(checkpoint) == 0.003
    assert size(adapter) == 0.0034
    assert size(second) == 0.00345
    with pytest.raises(Refused, match="does not know the files"):
        size(Model(tmp_path))


def test_size_of_a_sharded_checkpoint_is_that_of_its_shards(tmp_path: Path) -> None:
    folder = files_of(tmp_path / "h", {"a.safetensors": 1000, "b.safetensors": 500, "left-over.safetensors": 9})
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert Size().measure(HfModel(folder), MetricContext()) == {"size_mb": 0.0015, "files": 2}


@pytest.mark.parametrize("kind", ["taught", "taught_genai"])
def test_latency_gives_consistent_numbers_for_both_runtimes(kind: str, request: pytest.FixtureRequest) -> None:
    model: Model = request.getfixturevalue(kind)
    notes: list[tuple[float, float]] = []
    context = MetricContext(threads=1, on_progress=lambda done, total, _: notes.append((done, total)))

    values = Latency(prompt_tokens=16, new_tokens=8, warm_up=1, repeats=3).measure(model, context)

    assert values["tokens_per_s"] == pytest.approx(1000 / values["ms_per_token"])
    assert values["prefill_tokens_per_s"] == pytest.approx(16 * 1000 / values["ttft_ms"])
    assert 0 < values["ms_per_token_p10"] <= values["ms_per_token"] <= values["ms_per_token_p90"]
    assert {name: values[name] for name in ("threads", "prompt", "new", "repeats")} == {
        "threads": 1, "prompt": 16, "new": 8, "repeats": 3,
    }  # fmt: skip
    assert notes == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_prompt_is_told_apart_from_the_tokens_and_runs_are_ranked() -> None:
    runs = [[0.4, 0.01, 0.03], [0.2, 0.04, 0.06], [0.3, 0.03, 0.03]]  # seconds a token: 0.02, 0.05, 0.03

    values = figures(runs, prompt_tokens=30)

    assert values["ms_per_token"] == pytest.approx(30.0)
    assert values["ms_per_token_p10"] == pytest.approx(22.0)
    assert values["ms_per_token_p90"] == pytest.approx(46.0)
    assert values["tokens_per_s"] == pytest.approx(1 / 0.03)
    assert values["ttft_ms"] == pytest.approx(300.0)
    assert values["prefill_tokens_per_s"] == pytest.approx(100.0)


def test_latency_refuses_what_cannot_be_timed(taught: HfModel) -> None:
    with pytest.raises(BadValue, match="at least 2 new tokens"):
        Latency(new_tokens=1).measure(taught, MetricContext())


def test_random_prompts_repeat_with_their_seed_and_stay_in_the_vocabulary() -> None:
    assert random_ids(49152, 500, 1) == random_ids(49152, 500, 1) != random_ids(49152, 500, 2)
    assert 1000 <= min(random_ids(49152, 500, 1)) < max(random_ids(49152, 500, 1)) < 49152
    assert max(random_ids(320, 500, 1)) < 320


def test_percentiles_lie_between_neighbours() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0], 90) == 10.0
    assert percentile([7.0], 10) == 7.0

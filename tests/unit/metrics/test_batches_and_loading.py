"""Batch latency of every kind of model, and what loading takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picual.data.base import DataConfig
from picual.errors import BadValue, Refused, StepFailed, UnreadableModel
from picual.metrics import loading
from picual.metrics.base import MetricContext
from picual.metrics.batch_latency import BatchLatency, figures
from picual.metrics.load import Load
from picual.metrics.loading import load_apart
from picual.metrics.memory import Memory
from picual.models import GenaiModel, HfModel, Model, OnnxModel
from picual.models.onnx_batch import OnnxBatch


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Model:
    if request.param == "onnx":
        exported: GenaiModel = request.getfixturevalue("taught_genai")
        return OnnxModel(exported.decoder())
    found: Model = request.getfixturevalue(request.param)
    return found


KINDS = ["taught", "taught_genai", "onnx"]


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_a_batch_is_timed_on_every_kind_of_model(model: Model) -> None:
    metric = BatchLatency(batch_size=3, length=16, warm_up=1, repeats=5)

    values = metric.measure(model, MetricContext(threads=1))

    ranked = [values[name] for name in ("min", "p50", "p75", "p90", "p95", "p99", "p999", "max")]
    assert ranked == sorted(ranked)
    assert values["min"] <= values["avg"] <= values["max"]
    assert values["throughput_avg"] == pytest.approx(3 * 1000 / values["avg"])
    assert (values["batch_size"], values["repeats"], values["threads"]) == (3, 5, 1)
    low, high = values["intervals"]["avg"]
    assert low <= values["avg"] <= high


def test_percentiles_are_numpys_and_the_most_a_second_is_of_the_shortest_time() -> None:
    import numpy as np

    times = [3.0, 9.0, 4.0, 4.5, 7.0, 5.0]

    values = figures(times, batch_size=4)

    for name, share in (("p75", 75), ("p99", 99), ("p999", 99.9)):
        assert values[name] == pytest.approx(float(np.percentile(times, share)))
    assert values["throughput_max"] == pytest.approx(4000 / 3.0)
    assert values["throughput_min"] == pytest.approx(4000 / 9.0)
    assert values["throughput_p75"] == pytest.approx(4000 / values["p75"])


@pytest.mark.parametrize("model", ["taught", "taught_genai"], indirect=True)
def test_a_batch_of_data_holds_its_text(
    model: Model, written: Callable[[list[dict[str, Any]]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from picual.models.genai_session import GenaiSession
    from picual.models.hf_session import HfSession

    seen: list[Any] = []
    for kind in (HfSession, GenaiSession):
        monkeypatch.setattr(kind, "forward", lambda _self, ids: seen.append(ids))
    data = {"d": DataConfig(files=(written([{"t": "abcdefgh"}, {"t": "ijklmnop"}]),), text="t")}

    BatchLatency(data="d", batch_size=3, length=8, warm_up=0, repeats=1).measure(model, MetricContext(data=data))

    (ids,) = seen
    assert ids.shape == (3, 8)
    assert (ids[2] == ids[0]).all()  # a short text is repeated
    assert not (ids[1] == ids[0]).all()


def test_the_pause_is_before_each_pass_and_not_in_its_time(taught: HfModel) -> None:
    metric = BatchLatency(length=4, warm_up=0, repeats=2, sleep=0.3)

    values = metric.measure(taught, MetricContext(threads=1))

    assert values["max"] < 300


@pytest.mark.parametrize("fields", [{"repeats": 0}, {"batch_size": 0}, {"warm_up": -1}, {"sleep": -0.5}])
def test_counts_that_leave_nothing_to_time_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadValue, match="must be at least"):
        BatchLatency(**fields)


def one_input(folder: Path, shape: list[Any], kind: int) -> OnnxModel:
    import onnx
    from onnx import helper

    given = helper.make_tensor_value_info("x", kind, shape)
    made = helper.make_tensor_value_info("y", kind, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [given], [made])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "x.onnx")
    return OnnxModel(folder / "x.onnx")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (["batch_size", "sequence_length", 3], (2, 7, 3)),
        (["N", 3, None, None], (2, 3, 7, 7)),
        (["batch", 4, "past_sequence_length", 8], (2, 4, 0, 8)),
        (["batch", "past_sequence_length + sequence_length"], (2, 7)),
        (["total_sequence_length"], (7,)),
        ([5], (5,)),
    ],
)
def test_a_graphs_free_sizes_are_the_batch_and_the_length(
    tmp_path: Path, shape: list[Any], expected: tuple[int, ...]
) -> None:
    import onnx

    batch = OnnxBatch(
        one_input(tmp_path, shape, onnx.TensorProto.FLOAT), batch_size=2, length=7, seed=0, threads=1
    )

    assert batch._feed["x"].shape == expected
    batch.run()


def test_an_input_of_text_is_refused(tmp_path: Path) -> None:
    import onnx

    with pytest.raises(Refused, match=r"`x` is a tensor\(string\)"):
        OnnxBatch(one_input(tmp_path, [1], onnx.TensorProto.STRING), batch_size=1, length=1, seed=0, threads=1)


# -- memory and loading -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["taught_genai", "onnx"], indirect=True)
def test_memory_is_of_a_process_that_loads_and_answers(model: Model) -> None:
    values = Memory(prompt_tokens=16, new_tokens=2).measure(model, MetricContext(threads=1))

    assert 10 < values["library_mb"] < values["peak_mb"] < 2000
    assert 1 < values["anonymous_mb"] < values["peak_mb"]


def test_memory_sees_what_a_process_holds_for_a_moment(monkeypatch: pytest.MonkeyPatch, taught: HfModel) -> None:
    """A process that takes 200 MB, writes to them and lets go, before it says what it holds at the end."""
    program = (
        "import json, sys, time\n"
        "json.load(sys.stdin)\n"
        "block = bytearray(200_000_000)\n"
        "block[::4096] = b'1' * len(block[::4096])\n"
        "time.sleep(0.2)\n"
        "del block\n"
        "print(json.dumps({'anonymous': 1, 'peak': 2, 'library': 3, 'load_s': 4, 'import_s': 5}))\n"
    )
    folder = Path(loading.__file__).parent
    assert folder.is_dir()
    monkeypatch.setattr(loading, "COMMAND", ("-c", program))

    found = load_apart(taught, threads=1, by="memory")

    assert 200_000_000 <= found["anonymous"] < 260_000_000
    assert found["peak"] == 2


def test_loading_is_timed_in_fresh_processes_from_a_warm_cache(
    taught_genai: GenaiModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([9.0, 0.5, 0.1, 0.3])
    fixed = {"import_s": 1.0, "library": 1, "peak": 2, "anonymous": 1}
    monkeypatch.setattr("picual.metrics.load.load_apart", lambda *_, **__: {**fixed, "load_s": next(times)})

    values = Load(repeats=3).measure(taught_genai, MetricContext(threads=1))

    assert values["load_s"] == 0.3  # the first, which filled the cache, does not count
    assert values["intervals"]["load_s"] == [0.1, 0.5]
    assert (values["file_cache"], values["repeats"], values["import_s"]) == ("warm", 3, 1.0)


def test_a_real_load_takes_a_time_that_lies_within_the_processs(taught_genai: GenaiModel) -> None:
    started = time.monotonic()

    found = load_apart(taught_genai, threads=1, by="load")

    assert 0 < found["load_s"] < time.monotonic() - started
    assert found["import_s"] > 0


def test_what_the_process_stops_at_is_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "genai_config.json").write_text('{"model": {"decoder": {"filename": "model.onnx"}}}')
    with pytest.raises(UnreadableModel, match=r"`model.onnx` is missing"):
        load_apart(GenaiModel(tmp_path), threads=1, by="memory")
    monkeypatch.setattr(loading, "COMMAND", ("-c", "import os; os._exit(9)"))
    with pytest.raises(StepFailed, match="ended"):
        load_apart(GenaiModel(tmp_path), threads=1, by="memory")

from __future__ import annotations

import math
import os
import random
import statistics
import subprocess
import sys
import time
from typing import Any

import pytest

from picual.errors import BadValue
from picual.metrics import conditions as conditions_module
from picual.metrics import latency as module
from picual.metrics.base import MetricContext
from picual.metrics.conditions import Conditions
from picual.metrics.latency import Latency, compared, figures, random_ids
from picual.metrics.resampling import interval, median, percentile, ratio_of_medians
from picual.models import GenaiModel, HfModel, Model


@pytest.mark.parametrize("kind", ["taught", "taught_genai"])
def test_latency_gives_consistent_numbers_for_both_runtimes(kind: str, request: pytest.FixtureRequest) -> None:
    model: Model = request.getfixturevalue(kind)
    notes: list[tuple[float, float]] = []
    context = MetricContext(threads=1, on_progress=lambda done, total, _: notes.append((done, total)))

    values = Latency(prompt_tokens=16, new_tokens=8, warm_up=1, repeats=3).measure(model, context)

    assert values["tokens_per_s"] == pytest.approx(1000 / values["ms_per_token"])
    assert values["prefill_tokens_per_s"] == pytest.approx(16 * 1000 / values["ttft_ms"])
    for name in ("ms_per_token", "ttft_ms"):
        ranked = [values[f"{name}_p{share}"] for share in (50, 90, 95, 99)]
        assert ranked[0] > 0
        assert ranked == sorted(ranked)
    for name, (low, high) in values["intervals"].items():
        assert low <= values[name] <= high
    assert {name: values[name] for name in ("threads", "prompt", "new", "repeats")} == {
        "threads": 1, "prompt": 16, "new": 8, "repeats": 3,
    }  # fmt: skip
    assert values["cores"] == sorted(os.sched_getaffinity(0))
    assert values["load_average"] >= 0
    assert "against" not in values
    assert notes == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_runs_are_ranked_by_what_a_reader_waits_for_and_tokens_each_for_itself() -> None:
    runs = [[0.4, 0.01, 0.03], [0.2, 0.04, 0.06], [0.3, 0.03, 0.03]]  # seconds a token: 0.02, 0.05, 0.03

    values = figures(runs, prompt_tokens=30)

    assert values["ms_per_token"] == pytest.approx(30.0)
    assert values["ms_per_token_p50"] == pytest.approx(30.0)
    assert values["ms_per_token_p90"] == pytest.approx(50.0)  # of 10, 30, 30, 30, 40, 60
    assert values["tokens_per_s"] == pytest.approx(1 / 0.03)
    assert values["ttft_ms"] == pytest.approx(300.0)
    assert values["ttft_ms_p90"] == pytest.approx(380.0)
    assert values["prefill_tokens_per_s"] == pytest.approx(100.0)
    assert values["intervals"]["ms_per_token"] == pytest.approx([20.0, 50.0])
    assert values["intervals"]["tokens_per_s"] == pytest.approx([20.0, 50.0])


class Clockwork:
    """A session whose steps take what the machine says, which slows down in the middle of the runs."""

    taken: list[str]

    def __init__(self, name: str, step: float) -> None:
        self.name, self.step = name, step

    def warm(self) -> None: ...

    def close(self) -> None: ...

    def step_times(self, ids: Any, new_tokens: int) -> list[float]:
        self.taken.append(self.name)
        slow = 3.0 if len(self.taken) > 6 else 50.0 if len(self.taken) == 1 else 1.0
        return [slow * self.step] * new_tokens


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch, taught: HfModel) -> list[str]:
    Clockwork.taken = []
    monkeypatch.setattr(
        module, "open_session",
        lambda model, threads: Clockwork("one", 0.01) if model == taught else Clockwork("other", 0.02),
    )  # fmt: skip
    return Clockwork.taken


def test_two_models_take_turns_so_that_a_slow_machine_slows_both(
    clockwork: list[str], taught: HfModel, taught_genai: GenaiModel
) -> None:
    metric = Latency(prompt_tokens=4, new_tokens=3, warm_up=1, repeats=4)

    values = metric.measure(taught, MetricContext(against=taught_genai))

    assert clockwork == ["one", "other", "other", "one", "one", "other", "other", "one", "one", "other"]
    assert values["speedup"] == pytest.approx(2.0)
    assert values["ttft_speedup"] == pytest.approx(2.0)
    assert values["against"]["ms_per_token"] == pytest.approx(2 * values["ms_per_token"])
    low, high = values["intervals"]["speedup"]
    assert low == pytest.approx(2.0)  # each pair ran while the machine was as fast
    assert high == pytest.approx(2.0)


def test_a_model_is_not_timed_against_itself(clockwork: list[str], taught: HfModel) -> None:
    values = Latency(prompt_tokens=4, new_tokens=2, warm_up=0, repeats=2).measure(
        taught, MetricContext(against=HfModel(taught.path))
    )

    assert clockwork == ["one", "one"]
    assert "speedup" not in values


def test_the_first_run_warms_up_and_does_not_count(clockwork: list[str], taught: HfModel) -> None:
    values = Latency(prompt_tokens=4, new_tokens=2, warm_up=1, repeats=2).measure(taught, MetricContext())

    assert len(clockwork) == 3
    assert values["ms_per_token_p99"] == pytest.approx(10.0)


def test_the_interval_of_a_speedup_is_of_pairs() -> None:
    chance = random.Random(0)
    machine = [chance.uniform(1.0, 3.0) for _ in range(12)]  # what the machine does to both runs of a pair
    runs = [[0.1, 0.010 * pace, 0.010 * pace] for pace in machine]
    others = [[0.2, 0.015 * pace, 0.015 * pace] for pace in machine]

    values = compared(figures(runs, 8), runs, others, 8, seed=0)

    assert values["speedup"] == pytest.approx(1.5)
    assert values["intervals"]["speedup"] == pytest.approx([1.5, 1.5])
    assert values["intervals"]["ms_per_token"][1] > 1.2 * values["intervals"]["ms_per_token"][0]


def test_the_interval_of_a_median_covers_it_about_as_often_as_it_says() -> None:
    truth = math.exp(0)  # the median of exp(normal)
    inside = 0
    for seed in range(150):
        chance = random.Random(seed)
        low, high = interval([chance.lognormvariate(0, 0.5) for _ in range(15)], median, seed)
        inside += low <= truth <= high

    assert 0.88 <= inside / 150 <= 1.0
    values = [1.0, 5.0, 2.0, 8.0]
    assert interval(values, median, 1) == interval(values, median, 1)


@pytest.mark.parametrize("fields", [{"new_tokens": 1}, {"repeats": 0}, {"prompt_tokens": 0}, {"warm_up": -1}])
def test_latency_refuses_what_cannot_be_timed(fields: dict[str, int]) -> None:
    with pytest.raises(BadValue, match="at least 2 new tokens"):
        Latency(**fields)


def test_random_prompts_repeat_with_their_seed_and_stay_in_the_vocabulary() -> None:
    assert random_ids(49152, 500, 1) == random_ids(49152, 500, 1) != random_ids(49152, 500, 2)
    assert 1000 <= min(random_ids(49152, 500, 1)) < max(random_ids(49152, 500, 1)) < 49152
    assert max(random_ids(320, 500, 1)) < 320


def test_percentiles_lie_between_neighbours() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0], 90) == 10.0
    assert percentile([7.0], 10) == 7.0
    assert median([3.0, 1.0, 9.0]) == statistics.median([3.0, 1.0, 9.0])
    assert ratio_of_medians([(2.0, 6.0), (1.0, 3.0), (4.0, 8.0)]) == 3.0


BURN = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"  # ends by itself
# A process that is no child of ours: its parent ends at once, and it lets go of the pipes that a reader waits for.
ORPHAN = f"import os\npid = os.fork()\nif pid: print(pid, flush=True); os._exit(0)\nos.closerange(0, 3)\n{BURN}"


def test_another_process_at_work_is_said_and_one_of_our_own_is_not() -> None:
    def busiest(start: Any) -> tuple[str, float]:
        conditions = Conditions(threads=2)
        start()
        time.sleep(0.6)
        return conditions._busiest()

    with subprocess.Popen([sys.executable, "-c", BURN]) as own:
        among = {pid for pid, _ in conditions_module._others()}
        assert own.pid not in among  # the timing's own helpers are children of it

    name, used = busiest(lambda: subprocess.run([sys.executable, "-c", ORPHAN], check=True, capture_output=True))

    assert used > 0.2
    assert name


def test_a_quiet_machine_has_no_busy_process(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {(1, 0.0): conditions_module._Process("init", 5.0)}
    monkeypatch.setattr(conditions_module, "_others", lambda: known)
    conditions = Conditions(threads=3)

    quiet = conditions.values()
    known = {(1, 0.0): conditions_module._Process("init", 5.1), (2, 1.0): conditions_module._Process("cc1", 0.19)}
    busy = conditions.values()

    assert quiet["threads"] == 3
    assert "busy" not in quiet
    # 0.19 seconds of a new process in at most a little more than the shortest time that counts
    assert busy["busy_process"] == "cc1"
    assert 0.2 < busy["busy"] <= 0.95

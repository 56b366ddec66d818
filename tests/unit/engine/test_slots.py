"""Jobs beside each other, and timings alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from picual.engine.slots import Slots
from picual.errors import Interrupted
from picual.executors.inline import InlineExecutor


def slots(count: int) -> Slots:
    return Slots([InlineExecutor() for _ in range(count)])


def test_no_more_jobs_run_at_a_time_than_there_are_executors_each_with_its_own() -> None:
    two, most, now, lock = slots(2), list[int](), list[int](), threading.Lock()

    def job(_number: int) -> None:
        with two.shared() as executor:
            with lock:
                now.append(id(executor))
                assert len(set(now)) == len(now)
                most.append(len(now))
            time.sleep(0.02)
            with lock:
                now.remove(id(executor))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(job, range(12)))

    assert max(most) == 2


def test_a_timing_runs_alone_and_nothing_begins_before_it() -> None:
    two, order = slots(2), list[str]()
    running, waits = threading.Event(), threading.Event()

    def first() -> None:
        with two.shared():
            running.set()
            waits.wait(5)
            time.sleep(0.05)
            order.append("first ends")

    def timing() -> None:
        running.wait(5)
        waits.set()
        with two.alone():
            order.append("timing")
            time.sleep(0.05)
            order.append("timing ends")

    def late() -> None:
        waits.wait(5)
        time.sleep(0.02)
        with two.shared():
            order.append("late")

    threads = [threading.Thread(target=one) for one in (first, timing, late)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert order == ["first ends", "timing", "timing ends", "late"]


@pytest.mark.parametrize("take", [Slots.shared, Slots.alone])
def test_nothing_begins_after_the_end(take: Callable[[Slots], object]) -> None:
    closed = slots(1)
    closed.close()

    with pytest.raises(Interrupted), take(closed):  # type: ignore[attr-defined]
        pass

"""One thread at a time is at the desk, and whoever waits leaves it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from picual.engine.desk import LARGE, Desk

PATIENCE = 20.0  # seconds after which a thread that should go on is taken to be stuck


def test_one_works_at_a_time() -> None:
    desk, here, most = Desk(), [0], [0]

    def work(_number: int) -> None:
        for _ in range(200):
            with desk.taken():
                here[0] += 1
                most[0] = max(most[0], here[0])
                time.sleep(0)
                here[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    assert most == [1]
    assert here == [0]


def test_whoever_waits_lets_others_work() -> None:
    desk, worked = Desk(), threading.Event()

    def other() -> None:
        with desk.taken():
            worked.set()

    with ThreadPoolExecutor(1) as pool, desk.taken(), desk.taken():  # who is there may come again
        waiting = pool.submit(other)
        assert not worked.wait(0.05)
        with desk.left():
            assert worked.wait(PATIENCE)
        waiting.result(PATIENCE)


def test_an_error_while_away_comes_back_to_the_desk() -> None:
    desk = Desk()
    with desk.taken():
        try:
            with desk.left():
                raise ValueError
        except ValueError:
            pass
        with ThreadPoolExecutor(1) as pool:
            taken = pool.submit(lambda: desk._lock.acquire(blocking=False))
            assert taken.result(PATIENCE) is False


@pytest.mark.parametrize(("size", "others_work"), [(0, False), (LARGE + 1, True)])
def test_long_disk_work_is_done_elsewhere_and_short_work_is_not(size: int, others_work: bool) -> None:
    desk, worked = Desk(), threading.Event()

    def other() -> None:
        with desk.taken():
            worked.set()

    with ThreadPoolExecutor(1) as pool, desk.taken():
        pool.submit(other)
        with desk.left(size=size):
            assert worked.wait(PATIENCE if others_work else 0.05) is others_work


def test_leaving_without_being_there_changes_nothing() -> None:
    desk = Desk()
    with desk.left(), desk.taken():
        pass
    with desk.taken():
        pass

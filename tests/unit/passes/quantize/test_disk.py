"""A file that the system stops in the middle: a clear error, nothing half-written, and the next run finishes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from picual import fingerprint
from picual.executors.job import Job, Result
from picual.executors.worker import run_job
from picual.models import HfModel

FIELDS = {"block": 16, "overrides": {"*.layers.1.*": {"bits": 8}}}  # the second layer's file is larger


@contextlib.contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """Let the system refuse what goes beyond ``size`` bytes of any file, as a full disk does."""
    resource = pytest.importorskip("resource", reason="there are no such limits on this system")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def quantized(folder: Path, model: HfModel) -> Result:
    payload = {"pass": "rtn", "fields": FIELDS, "model": model.to_wire()}
    Job(kind="pass", label="rtn", payload=payload).write(folder)
    return run_job(folder)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: fingerprint.file_digest(file) for file in (folder / "out").glob("*.safetensors")}


def test_a_disk_that_ends_in_the_middle_of_a_file_costs_that_file_alone(tmp_path: Path, tiny: HfModel) -> None:
    assert quantized(tmp_path / "whole", tiny).error is None
    first, second = ((tmp_path / "whole" / "out" / f"layer-0000{n}.safetensors").stat().st_size for n in (0, 1))
    assert first < second - 200
    place = tmp_path / "broken"

    with no_file_over(second - 100):
        error = quantized(place, tiny).error

    assert error is not None
    assert error["what"] == "`rtn` may not write a file as large as it needs"
    assert (error["where"], error["hint"]) == (str(place), "ulimit -f unlimited")
    assert not digests(place)
    kept = (place / "scratch" / "layer-00000.safetensors").stat().st_mtime_ns
    assert quantized(place, tiny).error is None
    assert (place / "out" / "layer-00000.safetensors").stat().st_mtime_ns == kept
    assert digests(place) == digests(tmp_path / "whole")

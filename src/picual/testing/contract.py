"""The seven promises of a pass as tests. Subclass, name a pass and a model, and pytest does the rest.

    from picual.testing import PassContract, tiny_model

    class TestContract(PassContract):
        a_pass = MagnitudePrune(sparsity=0.5)
        a_model = staticmethod(tiny_model)

The promises are those of ``picual.passes.base``; the test names carry their numbers.
"""

# ruff: noqa: D102  # a test's name is its sentence

from __future__ import annotations

import copy
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from picual import fingerprint, hardware
from picual.data.base import DataConfig
from picual.errors import Refused
from picual.hardware import Target
from picual.models import HfAdapter, HfCheckpoint, Model, Profile, model_from_wire
from picual.passes import registry
from picual.passes.base import Forecast, Pass, PassContext, Promise
from picual.space import fields_of, values_of

# Run in another process with another hash seed: an order that comes from a set shows there.
_ELSEWHERE = """
import json, sys
from pathlib import Path
from picual.data.base import DataConfig
from picual.hardware import Target
from picual.models import model_from_wire
from picual.passes import registry
from picual.passes.base import PassContext
given = json.loads(sys.argv[1])
context = PassContext(
    folder=Path(given["folder"]), scratch=Path(given["scratch"]), target=Target(**given["target"]),
    data={name: DataConfig.from_wire(wire) for name, wire in given["data"].items()},
    seed=given["seed"], threads=given["threads"],
)
registry.build(given["pass"], given["fields"]).run(model_from_wire(given["model"], Path("/")), context)
"""


class _Killed(BaseException):
    """Stops a pass in the middle; not an ``Exception``, so that no pass catches it by accident."""


@dataclass
class Bench:
    """One pass, one input model, and everywhere that the pass must keep its hands off."""

    a_pass: Pass[Any, Any]
    model: Model
    data: Mapping[str, DataConfig]
    target: Target
    seed: int
    threads: int
    root: Path  # folders of runs are made here
    watched: tuple[Path, ...]  # home, temporary and working folder, and the one the input lies in

    def context(self, name: str) -> PassContext:
        """Return a context with an empty folder and scratch, both named after ``name``."""
        folder, scratch = self.root / name / "out", self.root / name / "scratch"
        folder.mkdir(parents=True)
        scratch.mkdir()
        return self.context_in(folder, scratch)

    def context_in(self, folder: Path, scratch: Path) -> PassContext:
        """Return a context that writes there."""
        return PassContext(
            folder=folder,
            scratch=scratch,
            target=self.target,
            data=self.data,
            seed=self.seed,
            threads=self.threads,
        )

    def run(self, name: str) -> tuple[Model, PassContext]:
        """Check and run the pass in fresh folders."""
        context = self.context(name)
        self.a_pass.check(self.model, self.target)
        return self.a_pass.run(self.model, context), context

    def outside(self) -> dict[str, tuple[str, int]]:
        """Return content digest and time of every file that is none of the pass's business."""
        files = [file for folder in self.watched for file in fingerprint.files_under(folder)]
        return {str(file): (fingerprint.file_digest(file), file.stat().st_mtime_ns) for file in files}


class PassContract:
    """What every pass keeps. A subclass is named ``Test...`` and sets ``a_pass`` and ``a_model``.

    Attributes:
        a_pass: The pass, with the fields to be tried.
        a_model: Writes the input model into an empty folder and returns it: a static method.
        a_data: Writes the data sets that the fields name and returns them by name.
        a_refusal: Writes a model that ``check`` has to refuse; left out, that is not tried.
        target: What the model is made for.
        seed: For every random choice.
        threads: For every thread pool.
    """

    a_pass: ClassVar[Pass[Any, Any]]
    a_model: ClassVar[Callable[[Path], Model]]
    a_data: ClassVar[Callable[[Path], Mapping[str, DataConfig]] | None] = None
    a_refusal: ClassVar[Callable[[Path], Model] | None] = None
    target: ClassVar[Target] = Target()
    seed: ClassVar[int] = 7
    threads: ClassVar[int] = 1

    @pytest.fixture
    def bench(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
        """Make the input model, then move home, temporary and working folder to where they are watched."""
        given = tmp_path / "given"
        model = type(self).a_model(_made(given / "model"))
        write_data = type(self).a_data
        data = {} if write_data is None else write_data(_made(given / "data"))
        places = {name: _made(tmp_path / name) for name in ("home", "temporary", "working")}
        monkeypatch.setenv("HOME", str(places["home"]))
        monkeypatch.setenv("USERPROFILE", str(places["home"]))
        monkeypatch.setenv("XDG_CACHE_HOME", str(places["home"]))
        for variable in ("TMPDIR", "TEMP", "TMP"):
            monkeypatch.setenv(variable, str(places["temporary"]))
        monkeypatch.setattr(tempfile, "tempdir", str(places["temporary"]))
        monkeypatch.chdir(places["working"])
        return Bench(
            a_pass=self.a_pass, model=model, data=data, target=self.target, seed=self.seed, threads=self.threads,
            root=_made(tmp_path / "runs"), watched=(given, *places.values()),
        )  # fmt: skip

    # -- the value ------------------------------------------------------------------------------------

    def test_0_the_pass_is_a_frozen_value_that_survives_its_wire_form(self) -> None:
        a_pass: Any = self.a_pass
        assert hasattr(a_pass, "__dataclass_fields__"), f"{type(a_pass).__name__} is not a dataclass"
        assert copy.deepcopy(a_pass) == a_pass, "a copy is not equal: state lives outside the fields"
        assert hash(copy.deepcopy(a_pass)) == hash(a_pass), "equal values have unequal hashes"
        for item in fields_of(a_pass)[:1]:
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(a_pass, item.name, getattr(a_pass, item.name))
        wire = json.loads(json.dumps(values_of(a_pass)))
        again = registry.from_values(type(a_pass), wire)
        assert again == a_pass, f"{again} came back from the wire, {a_pass} went in"
        assert fingerprint.digest(values_of(again)) == fingerprint.digest(values_of(a_pass)), "the key has changed"

    def test_0_the_class_says_what_it_is(self) -> None:
        kind = type(self.a_pass)
        assert isinstance(kind.name, str), "`name` is not text"
        assert kind.name == kind.name.lower().strip() != "", f"`name` is {kind.name!r}: lower case, not empty"
        assert isinstance(kind.version, int), "`version` is not a number"
        assert kind.version >= 1, "`version` starts at 1"
        accepted = typing.get_args(kind.accepts) or (kind.accepts,)
        assert all(issubclass(one, Model) for one in accepted), "declare it as `Pass[InputModel, OutputModel]`"
        assert issubclass(kind.produces, Model), "declare it as `Pass[InputModel, OutputModel]`"
        assert (kind.__doc__ or "").strip(), f"{kind.__name__} has no docstring: it is shown to users"

    def test_0_every_field_says_what_it_means(self) -> None:
        for item in fields_of(self.a_pass):
            meaning = item.metadata.get("help")
            assert isinstance(meaning, str), f"`{item.name}` has no help: declare it with `picual.space.param`"
            assert meaning.strip(), f"the help of `{item.name}` is empty"
            assert item.default is not dataclasses.MISSING, f"`{item.name}` has no default"

    def test_0_the_forecast_is_positive(self, bench: Bench) -> None:
        profile = profile_of(bench.model)
        rows = dict.fromkeys(bench.data, 100)
        forecast = bench.a_pass.forecast(profile, bench.target, hardware.machine(), rows)
        assert isinstance(forecast, Forecast), "`forecast` returns no Forecast"
        assert forecast.memory > 0, "it forecasts no memory"
        assert forecast.disk > 0, "it forecasts no disk"
        assert forecast.seconds > 0, "it forecasts no time"
        assert isinstance(bench.a_pass.profile_after(profile), Profile), "`profile_after` returns no Profile"

    # -- the seven promises ---------------------------------------------------------------------------

    def test_1_and_2_the_input_is_untouched_and_nothing_is_written_elsewhere(self, bench: Bench) -> None:
        before = bench.outside()
        _, context = bench.run("run")
        after = bench.outside()
        assert sorted(after) == sorted(before), f"files came or went: {sorted(set(after) ^ set(before))}"
        changed = [name for name in before if after[name] != before[name]]
        assert not changed, f"files of the input were written to: {changed}"
        places = (context.folder, context.scratch)
        strays = [f for f in fingerprint.files_under(bench.root) if not any(f.is_relative_to(p) for p in places)]
        assert not strays, f"files outside the pass's folders: {strays}"

    def test_3_the_same_bytes_come_out_twice_with_no_trace_of_where_and_when(self, bench: Bench) -> None:
        _, first = bench.run("run")
        time.sleep(1.1)  # a time in seconds would differ
        second = bench.context("quite-another-place")
        if bench.a_pass.name in registry.names():
            _run_elsewhere(bench, second)
        else:
            bench.a_pass.run(bench.model, second)
        left, right = _contents(first.folder), _contents(second.folder)
        assert sorted(left) == sorted(right), f"other files the second time: {sorted(set(left) ^ set(right))}"
        differing = [name for name in left if left[name] != right[name]]
        assert not differing, f"other bytes the second time: {differing}"
        for name, trace in _traces(bench, first.folder):
            pytest.fail(f"`{name}` holds `{trace}`, which is of this machine")

    def test_4_check_writes_nothing(self, bench: Bench) -> None:
        before = bench.outside()
        bench.a_pass.check(bench.model, bench.target)
        assert bench.outside() == before, "`check` wrote"
        assert not any(bench.root.iterdir()), "`check` wrote"

    def test_4_check_refuses_with_a_reason_and_a_hint(self, bench: Bench) -> None:
        make = type(self).a_refusal
        if make is None:
            pytest.skip("`a_refusal` is not set")
        refused = make(_made(bench.watched[0] / "refused"))
        before = bench.outside()
        with pytest.raises(Refused) as caught:
            bench.a_pass.check(refused, bench.target)
        assert caught.value.what, "it refuses without a reason"
        assert caught.value.hint, "it refuses without a hint"
        assert bench.outside() == before, "`check` wrote"

    def test_5_it_says_what_it_did(self, bench: Bench) -> None:
        _, context = bench.run("run")
        told = [entry for entry in context.journal if "changed" in entry or "skipped" in entry]
        assert told, "the journal is empty: call `context.changed` and `context.skipped`"
        mute = [entry["skipped"] for entry in told if "skipped" in entry and not entry["why"]]
        assert not mute, f"skipped without a reason: {mute}"
        json.dumps([context.journal, context.metrics])

    def test_6_its_promises_are_values(self) -> None:
        promises = self.a_pass.promises()
        assert isinstance(promises, tuple), "`promises` returns no tuple"
        assert all(isinstance(promise, Promise) for promise in promises), "`promises` holds something else"
        assert promises == self.a_pass.promises(), "asked twice, it promises different things"
        json.dumps([promise.to_wire() for promise in promises])

    def test_6_it_returns_what_it_says_it_produces(self, bench: Bench) -> None:
        made, context = bench.run("run")
        assert isinstance(made, type(bench.a_pass).produces), f"it returned {made.title}"
        assert made == bench.model or made.path.is_relative_to(context.folder), f"{made.path} is elsewhere"
        assert made.path.exists(), f"{made.path} is not there"
        wire = json.loads(json.dumps(made.to_wire(context.folder, bench.model)))
        assert model_from_wire(wire, context.folder, bench.model) == made, (
            "the result does not survive its wire form"
        )

    def test_7_what_was_cut_off_goes_on_and_gives_the_same_bytes(self, bench: Bench) -> None:
        whole = bench.context("whole")
        calls: list[float] = []
        whole.on_progress = lambda done, _total, _note: calls.append(done)
        bench.a_pass.run(bench.model, whole)
        expected = _contents(whole.folder)
        cuts = sorted({1, (len(calls) + 1) // 2, len(calls)}) if calls else []
        # Cut off where it reports progress; and after all of the work, before anybody took note of the result.
        for cut, scratch in [*((cut, _cut_off(bench, cut)) for cut in cuts), ("end", whole.scratch)]:
            resumed = bench.context_in(_made(bench.root / f"resumed-{cut}"), scratch)
            bench.a_pass.run(bench.model, resumed)
            found = _contents(resumed.folder)
            wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            assert not wrong, f"cut off at progress {cut} of {len(calls)} and run again, these differ: {wrong}"


def profile_of(model: Model) -> Profile:
    """Return the sizes of a model; for a kind that has none, those of a small network."""
    if isinstance(model, HfAdapter):
        model = model.root()
    if isinstance(model, HfCheckpoint):
        return model.profile()
    return Profile(
        architecture="unknown", layers=2, hidden=64, intermediate=96, vocabulary=320, heads=4, kv_heads=2,
        head_size=16, context=512, tied=True, linear=60_000, embedding=20_480, other=320, bytes=330_000,
    )  # fmt: skip


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): fingerprint.file_digest(path)
        for path in fingerprint.files_under(folder)
    }


def _cut_off(bench: Bench, cut: int) -> Path:
    """Run the pass until it reports progress for the ``cut``-th time, and return the scratch folder it leaves."""
    broken = bench.context(f"broken-{cut}")
    broken.on_progress = _killer(cut)
    with pytest.raises(_Killed):
        bench.a_pass.run(bench.model, broken)
    return broken.scratch


def _killer(count: int) -> Callable[[float, float, str], None]:
    seen: list[float] = []

    def on_progress(done: float, _total: float, _note: str) -> None:
        seen.append(done)
        if len(seen) == count:
            raise _Killed

    return on_progress


def _run_elsewhere(bench: Bench, context: PassContext) -> None:
    given = {
        "pass": bench.a_pass.name, "fields": values_of(bench.a_pass), "model": bench.model.to_wire(),
        "target": bench.target.to_wire(), "data": {name: data.to_wire() for name, data in bench.data.items()},
        "seed": bench.seed, "threads": bench.threads,
        "folder": str(context.folder), "scratch": str(context.scratch),
    }  # fmt: skip
    environment = {**os.environ, "PYTHONHASHSEED": "2", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, json.dumps(given)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"the pass failed in a process of its own:\n{done.stderr}"


def _traces(bench: Bench, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield files of the result that name a folder of this run, or this machine, and the input does not."""
    input_digests = set(_contents(bench.watched[0]).values())
    names = [str(bench.root), str(bench.watched[0]), *([platform.node()] if len(platform.node()) > 5 else [])]
    for name, digest in _contents(folder).items():
        if digest in input_digests:
            continue
        content = (folder / name).read_bytes()
        for trace in names:
            if trace.encode() in content:
                yield name, trace

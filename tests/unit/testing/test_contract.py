"""The kit is pointed at good passes and at bad ones; each bad one breaks one promise, and only its test fails."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from picual.errors import Refused
from picual.hardware import Machine, Target
from picual.models import HfModel, Profile
from picual.passes.base import Forecast, Pass, PassContext
from picual.space import param
from picual.testing import PassContract, tiny_model


@dataclass(frozen=True, kw_only=True)
class Copy(Pass[HfModel, HfModel]):
    """Copy the model."""

    name: ClassVar[str] = "copy"
    version: ClassVar[int] = 1

    suffixes: tuple[str, ...] = param((".json", ".safetensors", ".jinja"), help="Which files.")

    def check(self, model: HfModel, target: Target) -> None:
        if not (model.path / "config.json").exists():
            raise Refused("there is no `config.json`", hint="give a model")

    def run(self, model: HfModel, context: PassContext) -> HfModel:
        files = sorted(file for file in model.path.iterdir() if file.suffix in self.suffixes)
        for number, file in enumerate(files):
            context.progress(number, len(files), file.name)
            shutil.copyfile(file, context.folder / file.name)
            context.changed(file.name, "copied")
        self.after(model, context)
        return HfModel(context.folder)

    def after(self, model: HfModel, context: PassContext) -> None:
        """Where a bad pass misbehaves."""


def without_config(folder: Path) -> HfModel:
    (folder / "model.safetensors").write_bytes(b"")
    return HfModel(folder)


class TestOfAGoodPass(PassContract):
    a_pass = Copy()
    a_model = staticmethod(tiny_model)
    a_refusal = staticmethod(without_config)


class TouchesInput(Copy):
    def after(self, model: HfModel, context: PassContext) -> None:
        file = model.path / "config.json"
        file.write_text(file.read_text() + "\n")


class TouchesInputAndHidesIt(Copy):
    def after(self, model: HfModel, context: PassContext) -> None:
        file = model.path / "config.json"
        file.write_text(file.read_text())


class RandomBytes(Copy):
    def after(self, model: HfModel, context: PassContext) -> None:
        (context.folder / "noise").write_bytes(random.SystemRandom().randbytes(8))


class WritesTheTime(Copy):
    def after(self, model: HfModel, context: PassContext) -> None:
        (context.folder / "made.json").write_text(json.dumps({"at": int(time.time())}))


class WritesItsFolder(Copy):
    def after(self, model: HfModel, context: PassContext) -> None:
        # The name of the input is the same in both runs: only a search for it finds it.
        (context.folder / "made.json").write_text(json.dumps({"from": str(model.path)}))


class LeavesAStrayInTheWorkingFolder(Copy):
    def after(self, model: HfModel, context: PassContext) -> None:
        Path("stray.txt").write_text("lost")


class LeavesAStrayBesideItsFolder(Copy):
    def after(self, model: HfModel, context: PassContext) -> None:
        (context.folder.parent / "stray.txt").write_text("lost")


class LeavesAStrayAtHome(Copy):
    def after(self, model: HfModel, context: PassContext) -> None:
        (Path.home() / ".stray").write_text("lost")


class LeavesATemporaryFile(Copy):
    def after(self, model: HfModel, context: PassContext) -> None:
        handle, _ = tempfile.mkstemp()
        os.close(handle)


class SaysNothing(Copy):
    def after(self, model: HfModel, context: PassContext) -> None:
        context.journal.clear()


class WritesInCheck(Copy):
    def check(self, model: HfModel, target: Target) -> None:
        super().check(model, target)
        (model.path / "checked").write_text("yes")


class AcceptsEverything(Copy):
    def check(self, model: HfModel, target: Target) -> None:
        pass


class RefusesWithoutAHint(Copy):
    def check(self, model: HfModel, target: Target) -> None:
        if not (model.path / "config.json").exists():
            raise Refused("no")


class ReturnsItsScratch(Copy):
    def run(self, model: HfModel, context: PassContext) -> HfModel:
        super().run(model, context)
        return HfModel(context.scratch)


class ReturnsSomethingElse(Copy):
    def run(self, model: HfModel, context: PassContext) -> Any:
        from picual.models import OnnxModel

        super().run(model, context)
        return OnnxModel(context.folder / "config.json")


class ForecastsNothing(Copy):
    def forecast(self, profile: Profile, target: Target, machine: Machine, rows: Mapping[str, int]) -> Forecast:
        return Forecast(memory=0, disk=profile.bytes, seconds=1.0)


class TrustsHalfACheckpoint(Copy):
    """Keeps what it finds in the scratch folder, finished or not."""

    def run(self, model: HfModel, context: PassContext) -> HfModel:
        for file in sorted(model.path.iterdir()):
            kept = context.scratch / file.name
            if not kept.exists():
                content = file.read_bytes()
                kept.write_bytes(content[:1])
                context.progress(0, 1)
                kept.write_bytes(content)
            shutil.copyfile(kept, context.folder / file.name)
            context.changed(file.name)
        return HfModel(context.folder)


@dataclass(frozen=True, kw_only=True)
class HasAFieldWithoutHelp(Copy):
    """Copy the model."""

    depth: int = 3


@dataclass(kw_only=True, eq=True, unsafe_hash=True)
class Thawed(Pass[HfModel, HfModel]):
    """Do nothing."""

    name: ClassVar[str] = "thawed"
    version: ClassVar[int] = 1
    depth: int = param(3, help="How deep.")

    def run(self, model: HfModel, context: PassContext) -> HfModel:
        return model


@dataclass(frozen=True, kw_only=True)
class LosesAFieldOnTheWire(Copy):
    """Copy the model."""

    secret: list[int] = field(default_factory=list, hash=False, metadata={"help": "Comes back as a tuple."})


PROMISES = {
    "1_and_2": "test_1_and_2_the_input_is_untouched_and_nothing_is_written_elsewhere",
    "3": "test_3_the_same_bytes_come_out_twice_with_no_trace_of_where_and_when",
    "4": "test_4_check_writes_nothing",
    "4b": "test_4_check_refuses_with_a_reason_and_a_hint",
    "5": "test_5_it_says_what_it_did",
    "6": "test_6_it_returns_what_it_says_it_produces",
    "7": "test_7_what_was_cut_off_goes_on_and_gives_the_same_bytes",
    "forecast": "test_0_the_forecast_is_positive",
    "help": "test_0_every_field_says_what_it_means",
    "frozen": "test_0_the_pass_is_a_frozen_value_that_survives_its_wire_form",
}
BAD: list[tuple[Callable[[], Pass[Any, Any]], str, str]] = [
    (TouchesInput, "1_and_2", "files of the input were written to"),
    (TouchesInputAndHidesIt, "1_and_2", "files of the input were written to"),
    (LeavesAStrayInTheWorkingFolder, "1_and_2", "stray.txt"),
    (LeavesAStrayBesideItsFolder, "1_and_2", "stray.txt"),
    (LeavesAStrayAtHome, "1_and_2", "stray"),
    (LeavesATemporaryFile, "1_and_2", "files came or went"),
    (RandomBytes, "3", "noise"),
    (WritesTheTime, "3", "made.json"),
    (WritesItsFolder, "3", "which is of this machine"),
    (WritesInCheck, "4", "`check` wrote"),
    (AcceptsEverything, "4b", "DID NOT RAISE"),
    (RefusesWithoutAHint, "4b", "without a hint"),
    (SaysNothing, "5", "the journal is empty"),
    (ReturnsItsScratch, "6", "is elsewhere"),
    (ReturnsSomethingElse, "6", "it returned an ONNX model"),
    (TrustsHalfACheckpoint, "7", "cut off at progress"),
    (ForecastsNothing, "forecast", "no memory"),
    (HasAFieldWithoutHelp, "help", "`depth` has no help"),
    (Thawed, "frozen", "DID NOT RAISE"),
    (LosesAFieldOnTheWire, "frozen", "came back from the wire"),
]


@pytest.mark.parametrize(("bad", "promise", "says"), BAD, ids=lambda value: getattr(value, "__name__", None))
def test_a_bad_pass_fails_the_test_of_the_promise_it_breaks(
    bad: Callable[[], Pass[Any, Any]], promise: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kit(PassContract):
        a_pass = bad()
        a_model = staticmethod(tiny_model)
        a_refusal = staticmethod(without_config)

    with pytest.raises((AssertionError, pytest.fail.Exception), match=says):
        _call(Kit(), PROMISES[promise], tmp_path, monkeypatch)


@pytest.mark.parametrize("bad", [TouchesInput, RandomBytes, LeavesAStrayInTheWorkingFolder])
def test_a_bad_pass_keeps_the_promises_it_does_not_break(
    bad: Callable[[], Pass[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kit(PassContract):
        a_pass = bad()
        a_model = staticmethod(tiny_model)

    for number, promise in enumerate(("4", "5", "6", "forecast", "frozen")):
        with monkeypatch.context() as patch:
            _call(Kit(), PROMISES[promise], tmp_path / str(number), patch)


def _call(kit: PassContract, test: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call one test of the kit as pytest would, its fixture made."""
    make_bench = PassContract.bench.__wrapped__  # type: ignore[attr-defined]  # what pytest's decorator wraps
    method = getattr(kit, test)
    arguments = method.__code__.co_varnames[: method.__code__.co_argcount]
    if "bench" in arguments:
        method(make_bench(kit, folder, monkeypatch))
    else:
        method()


def test_the_order_of_a_set_in_the_result_is_found(tmp_path: Path) -> None:
    """The second run has another hash seed, in a process of its own: needs a registered pass, so a plug-in."""
    (tmp_path / "plug").mkdir()
    (tmp_path / "plug" / "unsteady.py").write_text(UNSTEADY)
    info = tmp_path / "plug" / "unsteady-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unsteady\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[picual.passes]\nunsteady = unsteady:Unsteady\n")
    (tmp_path / "test_unsteady.py").write_text(
        "from unsteady import Unsteady\nfrom picual.testing import PassContract, tiny_model\n"
        "class TestContract(PassContract):\n    a_pass = Unsteady()\n    a_model = staticmethod(tiny_model)\n"
    )
    path = os.pathsep.join([str(tmp_path / "plug"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", tmp_path],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "1"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "other bytes the second time: ['words']" in done.stdout, done.stdout + done.stderr
    assert "1 failed, 10 passed, 1 skipped" in done.stdout, done.stdout


UNSTEADY = '''
from dataclasses import dataclass
from typing import ClassVar
from picual.models import HfModel
from picual.passes.base import Pass

@dataclass(frozen=True, kw_only=True)
class Unsteady(Pass[HfModel, HfModel]):
    """Write words in the order of a set."""

    name: ClassVar[str] = "unsteady"
    version: ClassVar[int] = 1

    def run(self, model, context):
        (context.folder / "words").write_text(" ".join({f"word{number}" for number in range(40)}))
        context.changed("words")
        return HfModel(context.folder)
'''


@pytest.fixture
def bare_python() -> Callable[[str], str]:
    def run(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return run


def test_importing_the_kit_loads_neither_torch_nor_pytest(bare_python: Callable[[str], str]) -> None:
    heavy = ("torch", "transformers", "numpy", "pytest")
    code = f"import sys, picual.testing; print([m for m in {heavy} if m in sys.modules])"
    assert bare_python(code) == "[]"
    code = (
        f"import sys; from picual.testing import PassContract; print([m for m in {heavy[:3]} if m in sys.modules])"
    )
    assert bare_python(code) == "[]"


def test_every_public_name_of_the_kit_can_be_had() -> None:
    import picual.testing

    for name in picual.testing.__all__:
        assert getattr(picual.testing, name).__name__ == name
    with pytest.raises(AttributeError, match="`tiny_modle`"):
        picual.testing.tiny_modle  # noqa: B018  # asking is the test

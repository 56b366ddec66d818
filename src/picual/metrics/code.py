"""A function of the user's own: it gets the loaded model and says how good it is.

What it measures: whatever the function returns, a number or a mapping of names to numbers. It is called with three
arguments: the model, as ``picual.open_model`` gives it (a plain ONNX file as its path); the rows of ``data`` as a
list of mappings, or None without ``data``; and ``options``. It runs in the worker, with the rights of whoever runs
the recipe, and only with ``--trust``. The file's content is part of what a measurement is remembered by; what it
imports is not.
Cost: whatever the function does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from picual.errors import BadValue, PicualError, StepFailed, nearest
from picual.metrics.base import Metric, MetricContext
from picual.models import Model, OnnxModel
from picual.models.session import open_session
from picual.space import Settings, param


@dataclass(frozen=True, kw_only=True)
class Code(Metric):
    """What a function of the user's returns."""

    name: ClassVar[str] = "code"
    version: ClassVar[int] = 1
    key: ClassVar[str] = "value"
    higher_is_better: ClassVar[bool] = True
    extra: ClassVar[str] = "hf"
    needs_data: ClassVar[bool] = False
    cost: ClassVar[int] = 3

    code: str | None = param(None, help="Python file with the function.", role="code")
    function: str = param("measure", help="Name of the function in it.")
    options: Mapping[str, Any] = param(Settings(), help="Handed to the function.")
    data: str | None = param(None, help="Data set whose rows are handed to the function.", role="data")
    number: str | None = param(None, help="Which of several numbers stands for the metric; left out: the first.")
    better: Literal["higher", "lower"] = param("higher", help="Which way is better.")

    def __post_init__(self) -> None:
        """Refuse a file that is not there."""
        if self.code is not None and not Path(self.code).is_file():
            near = [file.name for file in sorted(Path(self.code).parent.glob("*.py"))]
            raise BadValue(f"`code`: there is no file `{self.code}`", hint=nearest(Path(self.code).name, near))

    def rises(self) -> bool:
        """Say whether a higher number is a better one."""
        return self.better == "higher"

    def user_code(self) -> str | None:
        """Return the file."""
        return self.code

    def measure(self, model: Model, context: MetricContext) -> dict[str, Any]:
        """Return the function's numbers, and as ``value`` the one that stands for them.

        Raises:
            BadValue: Nobody said that the code may run, or there is no such function.
            StepFailed: The function raised, or returned something else than numbers.
        """
        if self.code is None:
            raise BadValue("`code` needs `code`", hint="code: my_metric.py")
        if not context.trust:
            raise BadValue(f"`{self.code}` is code, and it runs only when it is trusted", hint="add `--trust`")
        rows = self._rows(context)
        with _loaded(Path(self.code)) as names, _opened(model, context) as session:
            function = self._function(names)
            try:
                found = function(session, rows, dict(self.options))
            except PicualError:
                raise
            except Exception as error:  # anybody's code may raise anything: it ends this metric only
                raise _failed(self.function, Path(self.code), error) from error
        return self._values(found)

    def _rows(self, context: MetricContext) -> list[dict[str, Any]] | None:
        from picual.data.files import rows

        if self.data is None:
            return None
        return [dict(row) for row in rows(context.dataset(self.data, by=self.name))]

    def _function(self, names: Mapping[str, Any]) -> Callable[..., Any]:
        function: Callable[..., Any] | None = names.get(self.function)
        if not callable(function):
            known = [name for name, value in names.items() if callable(value) and not name.startswith("_")]
            raise BadValue(f"`{self.code}` has no function `{self.function}`", hint=nearest(self.function, known))
        return function

    def _values(self, found: Any) -> dict[str, Any]:
        values = {str(name): value for name, value in found.items()} if isinstance(found, Mapping) else {}
        if _is_number(found):
            return {"value": found}
        numbers = [name for name, value in values.items() if _is_number(value)]
        if not numbers:
            raise StepFailed(
                f"`{self.function}` returned {type(found).__name__}, no number and no mapping of numbers",
                where=str(self.code),
                hint="return a number",
            )
        chosen = self.number or ("value" if "value" in numbers else numbers[0])
        if chosen not in numbers:
            raise BadValue(f"`{self.function}` returned no number `{chosen}`", hint=nearest(chosen, numbers))
        return {**values, "value": values[chosen]}


def _is_number(value: Any) -> bool:
    """Say whether a value is one number, of Python's or of an array library's."""
    if isinstance(value, bool | int | float):
        return True
    return getattr(value, "ndim", None) == 0 and hasattr(value, "__float__")


@contextlib.contextmanager
def _loaded(file: Path) -> Iterator[Mapping[str, Any]]:
    """Give the names that a Python file defines; it may import what lies beside it."""
    before = set(sys.modules)
    sys.path.insert(0, str(file.parent))
    try:
        spec = importlib.util.spec_from_file_location(f"_picual_code_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # the file is the user's: whatever it raises while it is read
            raise _failed("the file", file, error) from error
        yield vars(module)
    finally:
        sys.path.remove(str(file.parent))
        for name in set(sys.modules) - before:  # the worker lives on, and the file may be another one next time
            if _lies_beside(sys.modules[name], file):
                del sys.modules[name]


def _lies_beside(module: Any, file: Path) -> bool:
    origin = getattr(module, "__file__", None)
    return origin is not None and Path(origin).is_relative_to(file.parent) and "site-packages" not in origin


@contextlib.contextmanager
def _opened(model: Model, context: MetricContext) -> Iterator[Any]:
    if isinstance(model, OnnxModel):
        yield model.path
        return
    with contextlib.closing(open_session(model, threads=context.threads)) as session:
        yield session


def _failed(what: str, file: Path, error: Exception) -> StepFailed:
    """Return the error of code that raised, with the line of the user's own file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    own = error.lineno if isinstance(error, SyntaxError) else None
    line = own or (lines[-1] if lines else None)
    first: Sequence[str] = str(error).strip().splitlines() or ["no message"]
    return StepFailed(
        f"`{what}` of `{file.name}` failed: {type(error).__name__}: {first[0]}",
        where=f"{file}:{line}" if line else str(file),
        hint="correct it there",
    )

"""One verification as a job: a promise, the model it was made from, the model it was made about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from picual.engine.verification.checks import CHECKERS, Bench, Check, checker_of
from picual.errors import BrokenPromise, PicualError, nearest
from picual.models import Model, model_from_wire
from picual.passes import base
from picual.passes.base import Promise


def run(
    payload: Mapping[str, Any],
    *,
    folder: Path,
    seed: int,
    threads: int,
    on_event: Callable[[str, Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Check one promise and return ``{"checks": [...]}``; the same files give the same findings.

    Args:
        payload: ``promise``, ``given`` and ``made``: wire forms with absolute paths.
        folder: Of the job; nothing is written there.
        seed: Not used: nothing here is random.
        threads: For every thread pool.
        on_event: Where progress goes.
    """
    given = model_from_wire(payload["given"], Path("/"))
    made = model_from_wire(payload["made"], Path("/"), given)
    promise = promise_from_wire(payload["promise"])
    return {"checks": [check.to_wire() for check in verify(promise, given, made, Bench(threads, on_event))]}


def verify(promise: Promise, given: Model, made: Model, bench: Bench) -> list[Check]:
    """Return the findings on one promise. A file that cannot be read ends the check as a failed one."""
    found: list[Check] = []
    try:
        found.extend(checker_of(promise)(promise, given, made, bench))
    except PicualError as error:
        where = f" ({error.where})" if error.where else ""
        found.append(Check("readable", passed=False, detail=f"{error.what}{where}"))
    return found


def promise_from_wire(wire: Mapping[str, Any]) -> Promise:
    """Rebuild a promise from its JSON form.

    Raises:
        BrokenPromise: No check is known for this class of promise.
    """
    name = str(wire["promise"])
    if name not in CHECKERS:
        raise BrokenPromise(f"the gate has no check for the promise `{name}`", hint=nearest(name, list(CHECKERS)))
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in wire.items()}
    del values["promise"]
    promise: Promise = getattr(base, name)(**values)
    return promise

"""Another Python of this machine that is not as it should be: told before anything is made or run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from picual import api
from picual.errors import EnvironmentFault
from picual.plan import make_plan
from picual.store.local import Store
from picual.testing.tiny import tiny_model


def recipe(folder: Path, host: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": 1, "model": str(tiny_model(folder / "model").path), "threads": 1, "host": "other",
        "hosts": {"other": {"type": "environment", **host}}, "target": {"host": "local"},
        "passes": {"rtn": {}}, "output": str(folder / "out"), "store": str(folder / "store"),
    }  # fmt: skip


def test_a_file_of_requirements_that_is_not_there_is_named(tmp_path: Path) -> None:
    written = recipe(tmp_path, {"requirements": str(tmp_path / "nope.txt")})

    (told,) = api.obstacles(api.plan(written))
    with pytest.raises(EnvironmentFault) as stopped:
        api.run(written)
    with pytest.raises(EnvironmentFault) as keyed:  # where the model is hashed already, keys are asked for first
        make_plan(api.load(written), Store(tmp_path / "store"), hash_source=True)

    for error in (told, stopped.value, keyed.value):
        assert isinstance(error, EnvironmentFault)
        assert error.what == "there is no such file of requirements"
        assert error.where == str(tmp_path / "nope.txt")
        assert "--host local" in error.hint

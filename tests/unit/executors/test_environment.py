"""Another Python of this machine that is not as it should be: told before anything is made or run."""

from __future__ import annotations

import json
import shlex
import venv
from pathlib import Path
from typing import Any

import pytest

from picual import api
from picual.errors import EnvironmentFault, MissingDependency
from picual.executors.environment import Environment
from picual.executors.host import Surroundings
from picual.executors.wheel import requirements_of
from picual.plan import make_plan
from picual.store.local import Store
from picual.testing.tiny import tiny_model

LEAST = {"filelock": "3.16", "psutil": "6.0", "platformdirs": "4.3", "pyyaml": "6.0.2", "jinja2": "3.1"}


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


@pytest.mark.parametrize(("script", "said"), [
    ("exit 3", "it said nothing and ended with code 3"),
    ("echo hello; echo there", "it said `there`"),
    ("echo '{}'", "it said `{}`"),
    ("echo 'no such command' >&2; exit 127", "it said `no such command` and ended with code 127"),
    ('[ "$1" = --version ] && echo Python 3.13.1+ && exit; kill -9 $$', "code -9; it calls itself Python 3.13.1+"),
    ('[ "$1" = --version ] && echo Python 2.7.18 >&2 && exit; echo Unknown option: -I >&2; exit 2',
     "Python 2.7.18 is too old for Picual's worker, which needs 3.11"),
])  # fmt: skip
def test_a_python_that_does_not_answer_is_told_in_its_own_words(tmp_path: Path, script: str, said: str) -> None:
    python = tmp_path / "my python"
    python.write_text(f"#!/bin/bash\n{script}\n")
    python.chmod(0o755)

    (found,) = Environment(path=str(python)).obstacles(tmp_path)

    assert said in found.what
    assert len(found.what) < 200
    assert found.where == str(python)
    assert found.exit_code == 3


def test_a_file_that_is_no_program_is_no_python(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("")

    (found,) = Environment(path=str(tmp_path / "python")).obstacles(tmp_path)

    assert found.what == "the Python of this environment does not answer: Permission denied"


def fake_python(file: Path, *, version: str, pip: str = "") -> Path:
    """Write a program that answers as a Python of some version; a venv it makes is of the running one."""
    answer = json.dumps({"version": [int(one) for one in version.split(".")], "versions": {}, "missing": []})
    venv = f'[ "$2" = venv ] && mkdir -p "$3/bin" && ln -s "{file}" "$3/bin/python" && exit'
    file.write_text(f"#!/bin/bash\n{venv}\n[ \"$2\" = pip ] && {{ {pip or ':'}; exit 1; }}\necho '{answer}'\n")
    file.chmod(0o755)
    return file


def test_a_python_too_old_to_make_an_environment_is_told_before_it_makes_one(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("click\n")
    old = fake_python(tmp_path / "old", version="3.8.18")
    written = recipe(tmp_path, {"requirements": str(tmp_path / "lock.txt"), "path": str(old)})

    (found,) = api.obstacles(api.plan(written))
    with pytest.raises(EnvironmentFault, match=r"Python 3.8.18 is too old .* needs 3.11"):
        api.run(written)

    assert "Python 3.8.18 is too old" in found.what
    assert not (tmp_path / "store" / "hosts" / "environments").exists()


def test_of_what_pip_says_the_last_error_is_told_and_not_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "my lock.txt").write_text("onnxruntime==0.0.0\n")
    said = (
        f"echo 'ERROR: versions: {'1.2.3, ' * 900}' >&2; echo 'ERROR: none for onnxruntime==0.0.0 {'x' * 900}' >&2"
    )
    python = fake_python(tmp_path / "python", version="3.12.1", pip=said)
    host = Environment(requirements=str(tmp_path / "my lock.txt"), path=str(python))

    with pytest.raises(EnvironmentFault) as caught:
        host.prepare(Surroundings(state=tmp_path / "state"))

    assert caught.value.what.startswith("the environment could not be made: none for onnxruntime==0.0.0 xxx")
    assert len(caught.value.what) < 350
    assert shlex.quote(str(tmp_path / "my lock.txt")) in caught.value.hint


def test_an_environment_is_asked_for_what_its_steps_import_alone(tmp_path: Path) -> None:
    venv.create(tmp_path / "my bare", with_pip=False)
    python = tmp_path / "my bare" / "bin" / "python"
    written = recipe(tmp_path, {"path": str(tmp_path / "my bare")})
    (tmp_path / "my recipe.json").write_text(json.dumps(written))

    worker, step = api.obstacles(api.plan(written))
    with pytest.raises(MissingDependency) as caught:
        api.run(tmp_path / "my recipe.json")

    pip = [str(python), "-m", "pip", "install"]
    needed = [f"{name}>={least}" for name, least in LEAST.items()]
    assert shlex.split(worker.hint) == [*pip, *needed]
    assert shlex.split(step.hint) == [*pip, "torch>=2.8", "safetensors>=0.5"]
    assert [line for line in str(caught.value).splitlines() if line.startswith("hint: ")] == [
        f"hint: {worker.hint}", f"hint: `picual plan '{tmp_path / 'my recipe.json'}'` lists 1 more"
    ]  # fmt: skip


def test_a_module_is_brought_by_a_distribution_of_another_name() -> None:
    assert requirements_of(["sklearn.metrics", "yaml", "sklearn"], "evaluate") == [
        "scikit-learn>=1.6",
        "pyyaml>=6.0.2",
    ]
    assert requirements_of(["some_plugin"]) == ["some-plugin"]

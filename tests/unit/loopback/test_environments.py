from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from loopback.environments import JobEnvironment, shared_python


@pytest.mark.parametrize("named_by", ["conda", "docker"])
def test_a_job_sees_the_named_wheel_and_nothing_installed_for_editing(named_by: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "word-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("word.py", "SAID = 'hello'\n")
        wheel.writestr("word-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: word\nVersion: 1.0\n")
        wheel.writestr(
            "word-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("word-1.0.dist-info/RECORD", "")
    conda = {"dependencies": ["python=3.11", {"pip": ["./word-1.0-py3-none-any.whl", "pyyaml"]}]}
    lines = "FROM image\nCOPY . .\nRUN pip install word-1.0-py3-none-any.whl\n"
    environment = JobEnvironment(
        conda=conda if named_by == "conda" else None, dockerfile=lines if named_by == "docker" else "",
        files=tmp_path, cache=tmp_path / "cache",
    )  # fmt: skip

    variables = shared_python(environment)

    asked = "import importlib.util as u, word, yaml; print(word.SAID, u.find_spec('picual'))"
    done = subprocess.run(["python", "-c", asked], env=variables, capture_output=True, text=True, check=False)
    assert done.stdout == "hello None\n", done.stderr

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from picual.errors import UnknownName
from picual.passes import registry
from picual.passes.base import PassContext
from picual.testing import tiny_model

PLUGIN = Path(__file__).parents[3] / "examples" / "plugin"


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """What pip would put on the path: the package, and a dist-info made from its pyproject.toml."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return [str(tmp_path / "site"), str(PLUGIN / "src")]


@pytest.fixture
def plugged_in(places: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for place in places:
        monkeypatch.syspath_prepend(place)


def test_without_the_package_its_pass_is_unknown() -> None:
    with pytest.raises(UnknownName, match="magnitude-prune"):
        registry.load("magnitude-prune")


@pytest.mark.usefixtures("plugged_in")
def test_an_installed_package_adds_its_pass_to_the_list_without_being_imported() -> None:
    sys.modules.pop("picual_example_prune", None)
    assert "magnitude-prune" in registry.names()
    assert registry.names()[: len(registry.BUILT_IN)] == list(registry.BUILT_IN)
    assert "picual_example_prune" not in sys.modules


@pytest.mark.usefixtures("plugged_in")
def test_the_added_pass_runs_from_its_wire_form(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    a_pass = registry.build("magnitude-prune", {"sparsity": 0.5, "keep": ["down_proj"]})
    context = PassContext(folder=tmp_path / "out", scratch=tmp_path / "scratch")
    context.folder.mkdir()
    context.scratch.mkdir()

    after = a_pass.run(model, context)

    from picual.models import HfModel
    from picual.models.safetensors_file import read_pieces

    assert isinstance(after, HfModel)
    for name, tensor in after.tensors().items():
        zeros = b"".join(read_pieces(tensor)).count(b"\0\0\0\0")
        is_pruned = "_proj" in name and "down_proj" not in name
        assert (zeros >= tensor.count // 2) == is_pruned, name
    assert {entry["skipped"] for entry in context.journal if "skipped" in entry} == {
        f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)
    }


def test_the_example_passes_its_own_tests(places: list[str], tmp_path: Path) -> None:
    path = os.pathsep.join([*places, *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-c", PLUGIN / "pyproject.toml",
         f"--rootdir={PLUGIN}", PLUGIN / "tests"],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout

"""`register:` is checked with the rest of the recipe; nobody is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from picual import api
from picual.recipe import load
from picual.recipe.registering import registry_of
from picual.registries import kinds
from picual.registries.azureml import AzureMlModels
from picual.registries.base import FinishedModel, Registered, Registry
from picual.space import param
from picual.testing.tiny import tiny_model

WORKSPACE = {"subscription_id": "one", "resource_group": "two", "workspace_name": "three"}
CLOUD = {"type": "azureml", "compute": "big", "image": "an/image", "aml_config_path": "config.json",
         "max_operation_retries": 9, "folder": "ours"}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    model = tiny_model(tmp_path / "model")
    return {"version": 1, "model": str(model.path), "passes": {"rtn": {}, "build-genai": {}}}


def problems(recipe: dict[str, Any], register: Any, **hosts: Any) -> list[tuple[str, str]]:
    found = api.check({**recipe, "hosts": hosts, "register": register})
    return [(f"{one.where}: {one.what}", one.hint) for one in found]


def test_the_only_host_that_fits_need_not_be_named(recipe: dict[str, Any], tmp_path: Path) -> None:
    written = {**recipe, "hosts": {"aml": CLOUD, "box": {"type": "docker", "image": "x"}}}
    for register in ({"name": "tone"}, {"name": "tone", "host": "aml"}):
        loaded = load.load({**written, "register": register}, folder=tmp_path)

        found = registry_of(loaded)

        assert isinstance(found, AzureMlModels)
        assert (found.name, found.max_operation_retries, found.folder) == ("tone", 9, "ours")
        assert found.aml_config_path == str(tmp_path / "config.json")

    found = registry_of(load.load({**written, "register": {"name": "tone", "folder": "mine"}}))
    assert isinstance(found, AzureMlModels)
    assert (found.max_operation_retries, found.folder) == (9, "mine")


def test_the_workspace_may_stand_in_it_and_its_own_fields_win(recipe: dict[str, Any]) -> None:
    register = {"name": "tone", **WORKSPACE, "folder": "mine", "version": 3}

    found = registry_of(load.load({**recipe, "hosts": {"aml": CLOUD}, "register": register}))

    assert isinstance(found, AzureMlModels)
    assert (found.workspace_name, found.folder, found.aml_config_path, found.version) == ("three", "mine", None, 3)
    assert problems(recipe, register) == []
    assert registry_of(load.load(recipe)) is None


@pytest.mark.parametrize(("register", "hosts", "said", "hint"), [
    ({"host": "amll", "name": "tone"}, {"aml": CLOUD}, "unknown host `amll`", "`aml`"),
    ({"host": "local", "name": "tone"}, {"aml": CLOUD}, "host `local` is of type `local`", "`aml`"),
    ({"name": "tone"}, {}, "it needs `host`: the recipe has 0 of type `azureml`", "under `hosts:`"),
    ({"name": "tone"}, {"a": CLOUD, "b": CLOUD}, "it needs `host`: the recipe has 2", "`a`, `b`"),
    ({"host": "aml"}, {"aml": CLOUD}, "register.name: `register`: `name` is missing", "`name`:"),
    ({"host": "aml", "nmae": "tone"}, {"aml": CLOUD}, "`nmae`", "`name`"),
    ({"host": "aml", "name": 3}, {"aml": CLOUD}, "`name` is 3; it must be text", ""),
    ({"host": "aml", "name": "to ne"}, {"aml": CLOUD}, "register.name: `register`: `name` is `to ne`", "to-ne"),
    ({"host": "aml", "name": "<name>"}, {"aml": CLOUD}, "placeholder `<name>`", "fill it in"),
    ({"host": "aml", "name": "tone", **WORKSPACE}, {"aml": CLOUD}, "`host` and `subscription_id`", "leave out"),
    ({"host": "aml", "name": "tone", "type": "azurml"}, {"aml": CLOUD}, "unknown type of registry", "`azureml`"),
    ({"host": "aml", "name": "tone"}, {"aml": {"type": "azureml"}}, "host `aml`: it needs `compute`", "a compute"),
    ({"name": "tone", "workspace_name": "three"}, {}, "it needs `host`, `aml_config_path`", "`host:`"),
    ("tone", {"aml": CLOUD}, "`register` is \"tone\"; it must be a mapping", ""),
])  # fmt: skip
def test_each_mistake_is_told_once_with_what_would_do(
    recipe: dict[str, Any], register: Any, hosts: dict[str, Any], said: str, hint: str
) -> None:
    found = problems(recipe, register, **hosts)

    assert [what for what, _ in found if said in what], found
    assert hint in "\n".join(hint for _, hint in found)
    assert len(found) == len(set(found)) <= 2


def test_a_recipe_that_makes_nothing_registers_nothing(recipe: dict[str, Any]) -> None:
    measured = {**recipe, "passes": {}, "metrics": {"size": {}}}

    (found,) = problems(measured, {"name": "tone", **WORKSPACE})

    assert "no `passes`" in found[0]


def test_it_survives_a_change_from_the_command_line_and_is_told_as_native(recipe: dict[str, Any]) -> None:
    written = {**recipe, "hosts": {"aml": CLOUD}, "register": {"host": "aml", "name": "tone"}}

    changed = load.load(written, settings=["register.version=4", "register.name=other"])

    assert changed.register == {"host": "aml", "name": "other", "version": 4}
    assert "register:\n  host: aml\n  name: tone\n" in api.convert(written)


def test_a_secret_in_a_tag_is_refused(recipe: dict[str, Any]) -> None:
    register = {"name": "tone", **WORKSPACE, "tags": {"token": "hf_" + "A" * 30}}

    assert [what for what, _ in problems(recipe, register) if "a token of the Hugging Face hub" in what]


def test_a_missing_extra_is_an_obstacle_before_anything_runs(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("picual._lazy.is_installed", lambda name: not name.startswith("azure"))
    a_plan = api.plan({**recipe, "register": {"name": "tone", **WORKSPACE}}, store=tmp_path / "store")

    found = api.obstacles(a_plan, store=tmp_path / "store", output=tmp_path / "out")

    assert [one.hint for one in found if "`register` needs the package `azure.ai.ml`" in one.what] == [
        'pip install "picual[azureml]"'
    ]


@dataclass(frozen=True, kw_only=True)
class Shelf(Registry):
    """A registry of another package, which needs no host."""

    kind: ClassVar[str] = "shelf"
    at: str = param("here", help="Where it stands.")

    @property
    def title(self) -> str:
        return self.at

    def register(self, model: FinishedModel, told: Callable[[int, int], None]) -> Registered:
        raise NotImplementedError


def test_another_packages_registry_needs_no_host(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.BUILT_IN, "shelf", f"{__name__}:Shelf")
    monkeypatch.setattr(kinds, "load", lambda kind: Shelf if kind == "shelf" else AzureMlModels)

    found = registry_of(load.load({**recipe, "register": {"type": "shelf", "at": "there"}}))

    assert found == Shelf(at="there")
    assert problems(recipe, {"type": "shelf"}) == []
    ((said, hint),) = problems(recipe, {"type": "shelf", "host": "aml"})
    assert "no host says where a `shelf` is" in said
    assert hint == "leave out `host`"
